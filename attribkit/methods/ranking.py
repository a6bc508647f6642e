"""Regions of an image in the order of what they hold: XRAI's selection (METHODS 3.1), for all images of a batch at once.

Masks overlap, so pixels are gathered into atoms: those that lie in the same masks. A few thousand atoms stand for all pixels, and only
the pairs of an atom and a mask that holds it are summed at each step of the selection.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..noise import mixed

_BITS = 64  # masks in a word of int64
_OFTEN = 8  # steps between looks at what is left, each of which waits for the device


@dataclasses.dataclass(frozen=True)
class Cover:
    """Which pixels of B images of P pixels lie in which masks.

    `atom` (B, P) is each pixel's atom, of N in all; `words` (N, W) the masks that hold an atom, a bit each, in the order of the masks;
    `image` (N,) whose atom it is; `held` (N, 2) float64 how many pixels it has and the sum of their values.
    """

    atom: Tensor
    words: Tensor
    image: Tensor
    held: Tensor

    def within(self, mask: Tensor) -> Tensor:
        """Whether each atom lies in its image's mask of `mask` (B,); (N,)."""
        own = mask[self.image]
        return (self.words.gather(1, (own // _BITS).unsqueeze(1)).squeeze(1) >> own % _BITS & 1).bool()

    def sums(self) -> Sums:
        """What masks hold of something that atoms have."""
        return Sums.of(self.words, self.image, len(self.atom))


@dataclasses.dataclass
class Sums:
    """Sums over the atoms of each mask; `atom` and `place` (pairs,), where a place is a mask and an image, masks first."""

    atom: Tensor
    place: Tensor
    lengths: Tensor
    images: int

    @classmethod
    def of(cls, words: Tensor, image: Tensor, images: int) -> Sums:
        """The pairs of atoms and masks, sorted by place, so that each sum is taken in one order whatever the batch."""
        octets = words.T.contiguous().view(torch.uint8).view(words.shape[1], len(words), 8).transpose(1, 2)  # from the lowest
        bit = 2 ** torch.arange(8, dtype=torch.uint8, device=words.device)
        pairs = [(word.unsqueeze(1) & bit.view(1, 8, 1)).flatten(0, 1).nonzero() for word in octets]  # a word at a time, to save memory
        mask = torch.cat([pair[:, 0] + _BITS * place for place, pair in enumerate(pairs)])
        atom = torch.cat([pair[:, 1] for pair in pairs])
        place = mask * images + image[atom]
        return cls(atom, place, torch.bincount(place, minlength=_BITS * len(octets) * images), images)

    def __call__(self, held: Tensor) -> tuple[Tensor, Tensor]:
        """Of each mask its pixels and the sum of their values, each (S, B), from those of the atoms, (N, 2)."""
        summed = _summed(held.index_select(0, self.atom), self.lengths)
        return summed.view(-1, self.images, 2).unbind(2)  # type: ignore[return-value]

    def without(self, gone: Tensor, deleted: Tensor) -> Sums:
        """Without the atoms that are gone, (N,), and the masks that are deleted, (S, B): what is left is summed faster."""
        stays = ~(gone[self.atom] | deleted.flatten()[self.place])
        atom, place = self.atom[stays], self.place[stays]
        return Sums(atom, place, torch.bincount(place, minlength=len(self.lengths)), self.images)


def cover(values: Tensor, labels: Tensor, *, dilation: int) -> Cover:
    """The masks of label maps (B, L, H, W), each grown by a disk of `dilation` pixels, over values (B, H, W).

    Labels are whole numbers from 0, without wide gaps; masks come in their order, map by map, and none is empty; what is negative lies in
    no mask.
    """
    words = _dilated(_words(labels), dilation).flatten(2)
    signature, order = _signatures(words).sort(dim=1, stable=True)
    first = torch.ones_like(signature, dtype=torch.bool)
    first[:, 1:] = signature[:, 1:] != signature[:, :-1]
    starts = first.flatten().nonzero().squeeze(1)
    atom = torch.empty_like(order).scatter_(1, order, first.flatten().cumsum(0).view(order.shape) - 1)
    image = starts // order.shape[1]
    pixels = starts.diff(append=starts.new_tensor([first.numel()]))
    held = _summed(values.flatten(1).double().gather(1, order).flatten(), pixels)
    return Cover(atom, words[image, :, order.flatten()[starts]], image, torch.stack((pixels.double(), held), 1))


def selected(masks: Cover, *, area_threshold: float, min_pixels: int) -> Tensor:
    """Which step took each pixel, (B, P), and -1 where none did: XRAI's full algorithm.

    Each step takes the mask whose uncovered pixels have the largest mean, the first of equals, until more than `area_threshold` of the
    image is covered; a mask with fewer than `min_pixels` uncovered ones is out for good.
    """
    sums, left = masks.sums(), masks.held.clone()
    taken = masks.image.new_full(masks.image.shape, -1)
    covered = left.new_zeros(len(masks.atom))
    for step in range(len(sums.lengths) // sums.images):
        pixels, total = sums(left)
        mean, best = torch.where(pixels >= min_pixels, total / pixels, -math.inf).max(0)
        going = (mean > -math.inf) & (covered / masks.atom.shape[1] <= area_threshold)
        covered = covered + torch.where(going, pixels.gather(0, best.unsqueeze(0)).squeeze(0), 0)
        _take(step, going[masks.image] & masks.within(best), taken, left)
        if step % _OFTEN == _OFTEN - 1:
            if not going.any():
                break
            sums = sums.without(left[:, 0] == 0, pixels < min_pixels)
    return taken[masks.atom]


def swept(masks: Cover, *, min_pixels: int) -> Tensor:
    """As `selected`, by the fast algorithm: every mask once, by the mean over all of its pixels, whatever is covered by then."""
    sums, left = masks.sums(), masks.held.clone()
    pixels, total = sums(left)
    order = torch.where(pixels > 0, total / pixels, -math.inf).argsort(dim=0, descending=True, stable=True)
    own = torch.bincount(masks.image, minlength=sums.images)
    taken = masks.image.new_full(masks.image.shape, -1)
    for step, mask in enumerate(order):
        within = masks.within(mask)
        going = _summed(left[:, 0] * within, own) >= min_pixels
        _take(step, going[masks.image] & within, taken, left)
        if step % _OFTEN == _OFTEN - 1 and not (_summed(left[:, 0], own) >= min_pixels).any():
            break
    return taken[masks.atom]


def ranked(values: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """Heat (B, H, W) float64, each region's mean of `values` (B, H, W), and ranks, int64, from 1 for the region with the largest.

    A region is what one step took, and equals are ranked in the order of their steps; what no step took is the last.
    """
    images, column = len(taken), taken + 1
    columns = int(column.amax()) + 1
    place = column + columns * torch.arange(images, device=taken.device).unsqueeze(1)
    lengths = torch.bincount(place.flatten(), minlength=images * columns)
    order = column.argsort(dim=1, stable=True)
    sums = _summed(values.flatten(1).double().gather(1, order).flatten(), lengths)
    mean, lengths = (sums / lengths).view(images, columns), lengths.view(images, columns)
    by_mean = torch.where(lengths > 0, mean, -math.inf)[:, 1:].argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(lengths)
    rank[:, 0] = (lengths[:, 1:] > 0).sum(1) + 1
    rank[:, 1:].scatter_(1, by_mean, torch.arange(1, columns, device=taken.device).expand_as(by_mean))
    return mean.gather(1, column).view_as(values), rank.gather(1, column).view(values.shape)


def _take(step: int, new: Tensor, taken: Tensor, left: Tensor) -> None:
    """Give the atoms of `new` (N,) that nobody has yet to `step`."""
    taken.masked_fill_(new & (left[:, 0] > 0), step)
    left.masked_fill_(new.unsqueeze(1), 0)


def _summed(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums of runs of values, one run after another; in the order they lie in, so that nothing else decides the last digit."""
    return torch.segment_reduce(values, "sum", lengths=lengths, initial=0, unsafe=True)  # safe waits for the device to check them


def _words(labels: Tensor) -> Tensor:
    """For each pixel a bit for each mask that it lies in, 64 to a word; (B, L, H, W) -> int64 (B, W, H, W)."""
    flat, maps = labels.flatten(2), labels.shape[1]
    span = int(flat.amax().clamp_min(0)) + 1
    region = flat + span * torch.arange(maps, device=labels.device).unsqueeze(1)
    region = torch.where(flat >= 0, region, maps * span).flatten(1)  # all that is in none has a place of its own, after all regions
    there = flat.new_zeros(len(labels), maps * span + 1).scatter_(1, region, 1)
    mask = (there.cumsum(1) - 1).gather(1, region).view(flat.shape)
    words = flat.new_zeros(len(labels), int(mask.amax()) // _BITS + 1, flat.shape[2])
    words.scatter_add_(1, mask // _BITS, (flat >= 0).to(torch.int64) << mask % _BITS)  # of different bits a sum is what any has
    return words.view(len(labels), -1, *labels.shape[2:])


def _dilated(words: Tensor, radius: int) -> Tensor:
    """Every bit of words (B, W, H, W) spread over a disk; a pixel's row is spread to both sides, and then up and down as far as it may."""
    spread, out, height = words.clone(), words.clone(), words.shape[-2]
    widths = [math.isqrt(radius**2 - down**2) for down in range(min(radius + 1, height))]
    for across in range(radius + 1):
        if across:
            spread[..., across:] |= words[..., :-across]
            spread[..., :-across] |= words[..., across:]
        for down in (down for down, width in enumerate(widths) if width == across):
            out[..., down:, :] |= spread[..., : height - down, :]
            out[..., : height - down, :] |= spread[..., down:, :]
    return out


def _signatures(words: Tensor) -> Tensor:
    """A number for each pixel, the same for the same words and different for different ones (but for a chance of 2^-64 a pair); (B, P)."""
    places = torch.arange(1, words.shape[1] + 1, device=words.device).unsqueeze(1)
    return mixed(words + mixed(places)).sum(1)
