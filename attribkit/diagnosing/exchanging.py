"""Images with a part of another one in the place of their own."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Batch
from ..model.adapter import VisionModel
from ..removals.base import composite
from ..removals.infill import PushPull
from .answered import Known

GROUND = 0.5  # of the image: a region that is larger on average is what things stand on, another is a thing
BACKGROUND = "background"


class Cue(NamedTuple):
    """A part that is exchanged: its name, its region, whether it is all but that region, and whether it is what things stand on."""

    name: str
    region: str
    rest: bool
    ground: bool

    def inside(self, batch: Batch) -> Tensor:
        """Where the part is, (B, H, W) bool."""
        region = batch.region(self.region) > 0.5
        return ~region if self.rest else region


def cues_of(batch: Batch, regions: Sequence[str], most: int) -> list[Cue]:
    """The parts that can be exchanged: each region, and where none of them is a ground, all but the first one."""
    cues = [Cue(name, name, False, bool(batch.region(name).mean() > GROUND)) for name in regions[:most]]
    if cues and not any(cue.ground for cue in cues):
        cues.insert(1, Cue(BACKGROUND if BACKGROUND not in regions else f"surroundings of the {regions[0]}", regions[0], True, True))
    return cues


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """The images that parts are taken from: `batch`, what is known of each, and, for each cue that is a ground, that ground alone.

    `cells` (P,) numbers combinations of labels: a donor is drawn from any of them alike, and so rare ones are drawn as often.
    """

    batch: Batch
    known: tuple[Known, ...]
    cues: tuple[Cue, ...]
    grounds: Mapping[str, Tensor]
    usable: Mapping[str, NDArray[np.bool_]]
    cells: NDArray[np.int64]
    seed: int

    @classmethod
    def of(cls, model: VisionModel, batch: Batch, known: Sequence[Known], cues: Sequence[Cue], seed: int) -> Pool:
        """Get ready to lend parts of `batch`."""
        grounds, usable = {}, {}
        for cue in cues:
            inside = cue.inside(batch)
            usable[cue.name] = inside.flatten(1).any(1).cpu().numpy()
            if cue.ground:
                grounds[cue.name] = PushPull().filled(model, batch.images, inside)
        labels = [_cell(each) for each in known]
        numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        return cls(batch, tuple(known), tuple(cues), grounds, usable, np.array([numbers[label] for label in labels]), seed)

    def donors(self, name: str, cue: Cue, count: int) -> list[int]:
        """Who lends an image its part, at most `count`: drawn from its name alone, so that nothing depends on the batch it came in."""
        allowed = self.usable[cue.name] & np.array([each != name for each in self.batch.ids])
        if not allowed.any():
            return []
        sizes = np.bincount(self.cells[allowed], minlength=int(self.cells.max()) + 1)
        weights = np.where(allowed, 1 / np.maximum(sizes[self.cells], 1), 0)
        digest = hashlib.sha256(f"{self.seed} {cue.name} {name}".encode("utf-8", "surrogateescape")).digest()
        draw = default_rng(int.from_bytes(digest[:8], "big"))
        return [int(at) for at in draw.choice(len(weights), min(count, int(allowed.sum())), replace=False, p=weights / weights.sum())]

    def exchanging(self, model: VisionModel, batch: Batch, cue: Cue) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Get ready to give images parts of donors (B,), as often as wanted: what stands where a thing was is filled once."""
        inside, part = cue.inside(batch), cue.inside(self.batch)
        without = batch.images if cue.ground else PushPull().filled(model, batch.images, ~inside)

        def exchanged(donors: Tensor) -> tuple[Tensor, Tensor]:
            """The images (B, 3, H, W), and which of them can be had, (B,): something must be left of the image."""
            if cue.ground:
                return composite(without, ~inside, self.grounds[cue.name][donors]), ~inside.flatten(1).all(1)
            lent = part[donors]
            return composite(without, ~lent, self.batch.images[donors]), ~(inside | lent).flatten(1).all(1)

        return exchanged


def spread(known: Mapping[str, Known], count: int, seed: int) -> list[str]:
    """At most `count` images, as many of each combination of labels as there are, or as of others."""
    cells: dict[tuple[object, ...], list[str]] = {}
    for name, each in known.items():
        cells.setdefault(_cell(each), []).append(name)
    draw = default_rng(seed)
    shuffled = [[names[at] for at in draw.permutation(len(names))] for names in cells.values()]
    turns = [
        name for turn in range(max(map(len, shuffled), default=0)) for names in _order(draw, shuffled) for name in names[turn : turn + 1]
    ]
    return turns[:count]


def _cell(known: Known) -> tuple[int | float | None, ...]:
    """The combination of labels that an image has: without groups, its answer."""
    return known.truth if known.groups else known.answer, *known.groups


def _order(draw: np.random.Generator, cells: list[list[str]]) -> list[list[str]]:
    """The cells in another order each turn, so that where not all of a turn are taken, it is chance which."""
    return [cells[at] for at in draw.permutation(len(cells))]
