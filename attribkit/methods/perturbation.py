"""What the score loses when parts of the image are removed: windows one after the other (Occlusion), or random cells (RISE)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from torch import Tensor

from ..batch import Targets
from ..errors import BadInput
from ..maps import resize
from ..model.memory import full_precision
from ..noise import keys, uniform
from ..progress import report
from ..registry import AtLeast
from ..removals.base import Ask, Fill, Removal
from ..removals.fill import Constant
from .base import Method

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


class Gaps(NamedTuple):
    """Parts to remove, of some of the images: `which` (N,) says of which, and `keep` what of it stays, slice -> (R, H, W) bool."""

    which: Tensor
    keep: Callable[[slice], Tensor]


def score_drops(model: VisionModel, images: Tensor, targets: Targets, removal: Removal, gaps: Gaps) -> Tensor:
    """By how much the score of the whole image exceeds that without each gap, (N,); the gaps of all images run in full rows."""
    ask = removal.prepared(model, images)
    whole = model.score(images, targets)

    def work(rows: slice) -> tuple[Tensor]:
        which = gaps.which[rows]
        return (whole[which] - targets[which].of(ask(which, gaps.keep(rows))),)

    return model.in_rows(work, len(gaps.which))[0] if len(gaps.which) else whole[:0]


@dataclasses.dataclass(frozen=True)
class Occlusion(Method):
    """The mean, over all windows that cover a pixel, of what the score loses without the window.

    Windows of `window` x `window` pixels begin every `stride` pixels, at the upper left corner; those that reach beyond the right or
    lower border are cut there. `removal` takes them away.
    """

    name = "occlusion"
    paper = "Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, ECCV 2014 (arXiv:1311.2901)"
    cost = "a forward per window, and one of the image"
    needs = frozenset({"logits"})

    removal: Removal = Constant()
    window: Annotated[int, AtLeast(1)] = 16
    stride: Annotated[int, AtLeast(1)] = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride > self.window:
            raise BadInput(
                f"Occlusion(stride=...): got {self.stride}, allowed: at most the window's {self.window}, or pixels are never covered"
            )

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        height, width = images.shape[-2:]
        if self.window >= max(height, width):
            raise BadInput(
                f"Occlusion(window=...): got {self.window} for {height} x {width}, allowed: less than all of it, which would show no place"
            )
        down, across = (_covered(side, self.window, self.stride, images.device) for side in (height, width))
        windows = len(down) * len(across)

        def keep(rows: slice) -> Tensor:
            at = torch.arange(rows.start, rows.stop, device=images.device) % windows
            return ~(down[at // len(across)].unsqueeze(2) & across[at % len(across)].unsqueeze(1))

        which = torch.arange(len(images) * windows, device=images.device) // windows
        drops = score_drops(model, images, targets, self.removal, Gaps(which, keep)).view(len(images), len(down), len(across))
        rows, columns = down.to(drops), across.to(drops)
        return rows.T @ drops @ columns / (rows.sum(0).unsqueeze(1) * columns.sum(0))


def _covered(side: int, window: int, stride: int, device: torch.device) -> Tensor:
    """Which of `side` pixels each window covers along one direction, (N, side) bool: as many windows as reach the last pixel."""
    starts = torch.arange(math.ceil(max(side - window, 0) / stride) + 1, device=device).unsqueeze(1) * stride
    at = torch.arange(side, device=device)
    return (at >= starts) & (at < starts + window)


@dataclasses.dataclass(frozen=True)
class RISE(Method):
    """By how much the score is expected to change when a pixel is known to be kept, while random cells of the image are removed.

    Each of `samples` masks has `cells` x `cells` cells, kept with probability `keep`, enlarged to smooth ones and shifted at random;
    they belong to `seed` and are the same for every image. The map is `sum(score * mask) / sum(mask) - mean(score)`, which is the
    paper's `sum(score * mask) / (samples * keep)` without the share of a pixel's luck in how often it was kept, centred at 0. A smooth
    mask blends the image with what a fill puts in its place; other removals are given the mask cut at 0.5.
    """

    name = "rise"
    paper = "Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018 (arXiv:1806.07421)"
    cost = "a forward per sample, and one of the image"
    needs = frozenset({"logits"})

    removal: Removal = Constant()
    samples: Annotated[int, AtLeast(2)] = 4000
    cells: Annotated[int, AtLeast(2)] = 7
    keep: float = 0.5
    seed: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep < 1:
            raise BadInput(f"RISE(keep=...): got {self.keep}, allowed: a probability above 0 and below 1")

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        count, size = len(images), (images.shape[-2], images.shape[-1])
        soft = isinstance(self.removal, Fill)  # other fillings are only there where something was cut out
        ask = _blended(self.removal, model, images) if isinstance(self.removal, Fill) else self.removal.prepared(model, images)
        whole = model.score(images, targets)
        sums = _Sums(images)

        def work(rows: slice) -> tuple[Tensor, Tensor]:
            which, sample = sums.pairs(rows)
            number = torch.arange(rows.start // count, (rows.stop - 1) // count + 1, device=images.device)
            masks = random_masks(number, size, cells=self.cells, keep=self.keep, seed=self.seed)
            masks = masks.to(images.dtype) if soft else masks > 0.5
            return targets[which].of(ask(which, masks[sample])) - whole[which], masks

        def take(rows: slice, part: tuple[Tensor, Tensor]) -> None:
            sums.add(rows, part)
            report(rows.stop, count * self.samples, self.name)

        model.each_rows(work, count * self.samples, take)
        return sums.change(self.samples).to(images.dtype)


class _Sums:
    """What RISE must know of all pairs of an image and a mask, every image with one mask before any with the next, and no more.

    For each image the sum of change * mask and the sum of changes; for each pixel how often it was kept, over all pairs. In double
    precision, since the map is a small difference of the two means, and must not depend on where rows were cut.
    """

    def __init__(self, images: Tensor) -> None:
        self.count, self.shape = len(images), (len(images), images.shape[-2], images.shape[-1])
        self.moment = images.new_zeros(self.shape, dtype=torch.float64).flatten(1)
        self.kept = self.moment.new_zeros(self.moment.shape[1])
        self.total = self.moment.new_zeros(self.count)

    def pairs(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The image of each pair, and its mask, counted from the first one of these pairs; (R,) int64 each."""
        pairs = torch.arange(rows.start, rows.stop, device=self.total.device)
        return pairs % self.count, pairs // self.count - rows.start // self.count

    def add(self, rows: slice, part: tuple[Tensor, Tensor]) -> None:
        """Take in how the scores changed, (R,), under masks (S, H, W)."""
        which, sample = self.pairs(rows)
        masks = part[1].flatten(1).to(self.moment.dtype)
        weights = masks.new_zeros(self.count, len(masks))
        weights[which, sample] = part[0].to(masks.dtype)
        times = masks.new_zeros(len(masks)).index_add_(0, sample, masks.new_ones(len(sample)))
        self.moment.addmm_(weights, masks)
        self.kept.addmv_(masks.T, times)
        self.total.add_(weights.sum(1))

    def change(self, samples: int) -> Tensor:
        """The mean change where a pixel is kept, without the mean change: 0 where it never was, since nothing is known of it; (B, H, W)."""
        change = self.moment * self.count / self.kept - self.total.unsqueeze(1) / samples
        return change.masked_fill(self.kept == 0, 0).view(self.shape)


def random_masks(sample: Tensor, size: tuple[int, int], *, cells: int, keep: float, seed: int) -> Tensor:
    """The smooth random masks of some samples, given by number (S,), in [0, 1] with mean `keep` in every pixel; float32 (S, H, W).

    A grid of `cells` x `cells` bits is enlarged to `cells + 1` times a cell's size, which is the image's divided by `cells`, rounded up,
    and the image's size is cut out at a random place that leaves out less than a cell.
    """
    draws = uniform(keys(sample.new_zeros(len(sample), 1), seed, sample), cells * cells + 2)
    bits = (draws[:, :-2] < keep).to(draws.dtype).view(-1, cells, cells)
    down, across = (_enlarging(draws[:, place], side, cells) for place, side in zip((-2, -1), size, strict=True))
    return down @ bits @ across.transpose(1, 2)


def _enlarging(draw: Tensor, side: int, cells: int) -> Tensor:
    """The weight of each cell in each pixel along one direction, from a random shift for each mask; (S, side, cells)."""
    cell = math.ceil(side / cells)
    weights = resize(torch.eye(cells, device=draw.device).unsqueeze(0), ((cells + 1) * cell, cells))[0]
    return weights[(draw * cell).long().unsqueeze(1) + torch.arange(side, device=draw.device)]


def _blended(removal: Fill, model: VisionModel, images: Tensor) -> Ask:
    """The model's answer to images that fade into what fills them, by masks in [0, 1]."""
    filling = removal.filler(model, images)

    def ask(which: Tensor, masks: Tensor) -> Tensor:
        blend = torch.lerp(filling(which, masks > 0.5), images[which], masks.unsqueeze(1))
        return full_precision(model.answer(blend))

    return ask
