"""The planted scenes: a fish or a bird, on water or on grass, with a small tag in a corner.

In the manner of Waterbirds (arXiv:1911.08731), but drawn, so that everything about an image is known. The class is the creature's
outline alone: colour, markings, place, size and turn say nothing about it. One of two shortcuts agrees with the class (fish, water,
orange; bird, grass, violet) in `strength` per cent of the images, and the other one in half of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray
from torch import Tensor

from ..errors import BadInput, UnknownName
from ..model.planted import CLASSES, SIZE
from . import paint

Shortcut = Literal["background", "tag"]
SHORTCUTS: tuple[Shortcut, ...] = ("background", "tag")
PLACES = ("water", "grass")
TAGS = ("orange", "violet")
HUES = (0.07, 0.76)
BLOCK = 40  # images over which classes and agreement are balanced exactly, where the strength allows it


class Plan(NamedTuple):
    """What an image shows: indices into `CLASSES`, `PLACES`, `TAGS`."""

    kind: int
    place: int
    tag: int


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Pictures and all there is to know about them.

    `images` (N, 3, S, S) in [0, 1], each a multiple of 1/255; `kinds`, `places`, `tags` (N,) int64; `objects` and `stickers`
    (N, S, S), the share of each pixel that the creature and the tag cover. The tag lies on top: object, tag and background
    are disjoint and sum to 1 everywhere.
    """

    images: Tensor
    kinds: Tensor
    places: Tensor
    tags: Tensor
    objects: Tensor
    stickers: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def regions(self) -> dict[str, Tensor]:
        """Masks by name, (N, S, S)."""
        return {"object": self.objects, "background": 1 - self.objects - self.stickers, "tag": self.stickers}

    @property
    def groups(self) -> dict[str, Tensor]:
        """Labels by name, (N,)."""
        return {"object": self.kinds, "background": self.places, "tag": self.tags}


def draw(indices: Sequence[int], *, strength: int = 50, seed: int = 0, shortcut: Shortcut = "background") -> Scenes:
    """The scenes with these indices; scene i depends on its index, the strength, the seed and the shortcut, and on nothing else."""
    check(strength, seed, shortcut)
    plans = [plan(index, strength, seed, shortcut) for index in indices]
    drawn = [picture(index, seed, each) for index, each in zip(indices, plans, strict=True)]
    images = np.stack([image for image, _, _ in drawn]) if drawn else np.zeros((0, SIZE, SIZE, 3), np.uint8)
    masks = np.array([(thing, sticker) for _, thing, sticker in drawn], np.float32).reshape(-1, 2, SIZE, SIZE)
    labels = torch.tensor(plans, dtype=torch.int64).reshape(-1, 3)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
    return Scenes(pixels, *labels.unbind(1), *torch.from_numpy(masks).unbind(1))


def check(strength: int, seed: int, shortcut: str) -> None:
    """Raise `BadInput` on what no scene can be drawn from."""
    if isinstance(strength, bool) or not isinstance(strength, int) or not 0 <= strength <= 100:
        raise BadInput(f"strength: got {strength!r}, allowed: an int from 0 to 100, in per cent")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BadInput(f"seed: got {seed!r}, allowed: an int of at least 0")
    if shortcut not in SHORTCUTS:
        raise UnknownName("shortcut", shortcut, SHORTCUTS)


def plan(index: int, strength: int, seed: int, shortcut: Shortcut) -> Plan:
    """What image `index` shows: in each block of `BLOCK`, half of each kind, of which `strength` % agree (exactly for multiples of 5)."""
    block, at = divmod(index, BLOCK)
    rng = _stream(seed, block, 0)
    order, dither = rng.random(BLOCK).argsort(), rng.random((2, BLOCK))
    ranks = order // 2, rng.random((2, BLOCK // 2)).argsort(1)[order % 2, order // 2]
    kind = int(order[at] % 2)
    strengths = (strength, 50) if shortcut == "background" else (50, strength)
    agrees = [int(100 * (rank[at] + more[at])) < BLOCK // 2 * each for rank, more, each in zip(ranks, dither, strengths, strict=True)]
    place, tag = (kind if agree else 1 - kind for agree in agrees)
    return Plan(kind, place, tag)


def picture(index: int, seed: int, what: Plan) -> tuple[NDArray[np.uint8], paint.Array, paint.Array]:
    """Image `index` showing `what`: pixels (S, S, 3), and the cover of creature and tag, (S, S).

    Each part has a stream of its own, so changing one part of `what` changes that part of the picture only.
    """
    ground, scraps, body, sticker, light = (_stream(seed, index, part) for part in range(1, 6))
    thing, label = paint.creature(body, CLASSES[what.kind]), paint.tag(sticker, HUES[what.tag])
    colours = paint.GROUNDS[PLACES[what.place]](ground)
    for layer in (*paint.clutter(scraps), thing, label):
        colours = layer.over(colours)
    pixels = np.round(255 * paint.lit(light, colours).clip(0, 1)).astype(np.uint8)
    return pixels, thing.mask() * (1 - label.mask()), label.mask()


def _stream(seed: int, index: int, part: int) -> Generator:
    return Generator(PCG64(SeedSequence((seed, index, part))))
