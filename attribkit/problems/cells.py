"""Grids of images: which images become cells of which grid, and how they are laid side by side."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from numpy.random import PCG64, Generator, SeedSequence
from torch import Tensor

from ..batch import Batch
from ..errors import BadInput
from ..model.mosaic import stitched
from ..scores import Failure
from .base import whole_number
from .labelled import Labelled
from .shards import digested

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


class Source(Protocol):
    """A problem whose images can be had again, in any order."""

    def __len__(self) -> int: ...

    @property
    def model(self) -> VisionModel:
        """Whose classes the images show."""
        ...

    def numbered(self) -> Iterator[tuple[Sequence[int], Batch]]:
        """The batches, each with the rows that are in it."""
        ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """The images of these rows."""
        ...

    def digest_of(self, rows: Sequence[int]) -> str:
        """What changes with these rows' images."""
        ...


class Cell(NamedTuple):
    """An image that may become a cell: its row in the source, its name there, its class."""

    row: int
    id: str
    target: int


Chosen = tuple[tuple[Cell, ...], ...]  # of each grid its cells, row by row


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cells(ABC):
    """What the problems on grids have in common: `count` grids of `n` x `n` images, each image in one of them at most.

    `source` is what `Labelled` takes, a `Labelled`, or a `Planted`, of the same model. Only images that the model classifies correctly
    with softmax probability `confidence` or more become cells; they are looked for once, when first needed, and read anew for each grid.
    The same source, model and seed give the same grids. Batches have about `batch_size` images.
    """

    model: VisionModel
    source: Any
    n: int = 2
    count: int = 100
    seed: int = 0
    confidence: float = dataclasses.field(default=0.99, kw_only=True)
    batch_size: int = dataclasses.field(default=32, kw_only=True)

    def __post_init__(self) -> None:
        for setting, low in (("n", 1), ("count", 1), ("seed", 0), ("batch_size", 1)):
            whole_number(self, setting, low)
        sure = self.confidence
        if isinstance(sure, bool) or not isinstance(sure, int | float) or not 0 <= sure <= 1:
            raise BadInput(f"{type(self).__name__}(confidence=...): got {sure!r}, allowed: a probability from 0 to 1")
        _ = self._images

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.count} grids of {self.n} x {self.n} for {self.model.name}>"

    @property
    def failures(self) -> list[Failure]:
        """The images of the source that could not be read."""
        found: list[Failure] = getattr(self._images, "failures", [])
        return found

    @property
    def _seeded(self) -> str:
        """What tells these grids from those of another seed, in the label."""
        return f", seed {self.seed}" if self.seed else ""

    def cells(self, index: int) -> tuple[str, ...]:
        """The ids of the images that grid `index` is made of, row by row."""
        return tuple(cell.id for cell in self.grids[index])

    @functools.cached_property
    def grids(self) -> Chosen:
        """Which images are the cells of which grid; `BadInput` where there are too few."""
        fit = sure_cells(self._images, self.model, self.confidence)
        try:
            return self._drawn(fit)
        except BadInput as error:
            right = f"{len(fit)} images of {len({cell.target for cell in fit})} classes are classified correctly"
            raise BadInput(
                f"{type(self).__name__}(count={self.count}): {right} with probability {self.confidence:g} or more, {error}; "
                "allowed: fewer grids, smaller ones, a lower confidence, or more images"
            ) from None

    def plan(self) -> list[list[list[Any]]]:
        """The cells of every grid."""
        return [[list(cell) for cell in grid] for grid in self.grids]

    def plan_key(self) -> str:
        """Of what decides the grids beside the model: the source and the settings."""
        own = (type(self).__name__, self.n, self.count, self.seed, self.confidence)
        return digested(*own, self._images.digest_of(range(len(self._images))))

    def adopt(self, plan: list[list[list[Any]]]) -> None:
        """Take grids that were found for the same model, source and settings."""
        self.__dict__["grids"] = tuple(tuple(Cell(*cell) for cell in grid) for grid in plan)

    def _digest(self, grids: Sequence[int], *further: Any) -> str:
        """Of the cells of grids, and of what else decides what is asked of them."""
        cells = [cell for index in grids for cell in self.grids[index]]
        return digested(self.n, *further, cells, self._images.digest_of([cell.row for cell in cells]))

    @abstractmethod
    def _drawn(self, fit: list[Cell]) -> Chosen:
        """The grids that are made of images which fit; `BadInput` says for how many they are enough, if not for `count`."""

    @functools.cached_property
    def _images(self) -> Source:
        if not (hasattr(self.source, "numbered") and hasattr(self.source, "batch")):
            return Labelled(self.model, self.source)
        if self.source.model is not self.model:
            raise BadInput(f"{type(self).__name__}: got a source made for {self.source.model.name}, allowed: one made for the same model")
        images: Source = self.source
        return images

    def _stitched(self, grids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The images of these grids, (G, 3, nH, nW), and the classes of their cells, (G, n n)."""
        cells = [cell for index in grids for cell in self.grids[index]]
        batch = self._images.batch([cell.row for cell in cells])
        targets = torch.tensor([cell.target for cell in cells], device=batch.images.device)
        return stitched(batch.images, self.n), targets.view(len(grids), -1)


def sure_cells(source: Source, model: VisionModel, confidence: float) -> list[Cell]:
    """The images that the model classifies correctly and with that softmax probability or more; one pass over the source."""
    found = []
    for rows, batch in source.numbered():
        if tuple(batch.images.shape[-2:]) != tuple(model.size):
            raise BadInput(
                f"a grid's cells: got images of {tuple(batch.images.shape[-2:])}, allowed: the model's size, {tuple(model.size)}"
            )
        logits = model.logits(batch.images) if batch.logits is None else batch.logits
        sure, said = logits.softmax(1).max(1)
        fits = (said == batch.targets.index) & (sure >= confidence)
        told = zip(rows, batch.ids, batch.targets.index.tolist(), fits.tolist(), strict=True)
        found += [Cell(row, name, target) for row, name, target, fit in told if fit]
    return found


class Pool:
    """Images by class, in a random order, from which each is taken once."""

    def __init__(self, fit: list[Cell], seed: int) -> None:
        self._rng = Generator(PCG64(SeedSequence((seed, 0x9121D))))
        self._left: dict[int, list[Cell]] = {}
        for cell in self.shuffled(sorted(fit)):
            self._left.setdefault(cell.target, []).append(cell)
        self._left = dict(sorted(self._left.items()))

    def __len__(self) -> int:
        return sum(map(len, self._left.values()))

    def shuffled(self, items: Sequence[Any]) -> list[Any]:
        """The same in a random order."""
        return [items[place] for place in self._rng.random(len(items)).argsort(kind="stable")]

    def classes(self, at_least: int = 1) -> list[int]:
        """The classes of which so many images are left."""
        return [each for each, left in self._left.items() if len(left) >= at_least]

    def take(self, target: int) -> Cell:
        """An image of that class that nobody has taken."""
        return self._left[target].pop()

    def enough_for(self, size: int) -> int:
        """How many times `size` images of distinct classes can be taken."""
        low, high = 0, len(self) // size
        while low < high:  # what is enough for so many is enough for fewer
            count = (low + high + 1) // 2
            low, high = (count, high) if self._spare(count, size) >= 0 else (low, count - 1)
        return low

    def distinct(self, size: int, count: int, *, but: Collection[int] = ()) -> list[int]:
        """`size` classes (or all, where fewer are left) at random, so that this can be done `count` times, if it can be at all.

        None of `but`. To leave out a class that has images for all `count` times costs one of the images to spare.
        """
        order = [each for each in self.shuffled(self.classes()) if each not in but]
        full = set(self.classes(count))
        needed = min(size, len(full) - max(0, self._spare(count, size)))
        first = [each for each in order if each in full][: max(0, needed)]
        taken = set(first)
        return self.shuffled((first + [each for each in order if each not in taken])[:size])

    def spares(self, target: int, count: int, size: int) -> bool:
        """Whether without one image of that class there are as many images to spare as before, or enough of them."""
        return len(self._left[target]) > count or self._spare(count, size) > 0

    def _spare(self, count: int, size: int) -> int:
        """Images beyond what `count` times `size` distinct classes take, of which a class gives `count` at most."""
        return sum(min(len(left), count) for left in self._left.values()) - count * size


def cell_regions(cells: Tensor, n: int, size: tuple[int, int]) -> Tensor:
    """1 in one cell of each grid and 0 elsewhere; (B,) row-major indices -> (B, nH, nW) for cells of `size` (H, W)."""
    chosen = (cells.unsqueeze(1) == torch.arange(n * n, device=cells.device)).float().view(-1, n, n)
    return chosen.repeat_interleave(size[0], 1).repeat_interleave(size[1], 2)
