"""The grid pointing game: one network over a whole grid of images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch

from ..batch import Batch, Targets
from ..errors import BadInput, UnknownName, Unsupported
from ..model.sized import sized
from .base import PROBLEMS
from .cells import Cell, Cells, Chosen, Pool, cell_regions
from .planted import resized
from .shards import Shard, picked, starts

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

Fit = Literal["enlarge", "shrink"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Grid(Cells):
    """Grid pointing game (GridPG): n x n images of distinct classes in one; evidence for a class should lie in its cell.

    arXiv:2104.00032, as in arXiv:2205.10435. The class of every cell is a target in turn: a grid is `n` x `n` rows, with the region and
    the group "cell". `fit` says what becomes of the model's size: "enlarge" runs the model on the whole grid, (nH, nW), as far as it
    can be made to take that; "shrink" resizes the grid to the model's size. A network that pools to a fixed size before its head, as VGG
    does, is taken as it is, and not turned into convolutions. Intervals count the cells of a grid as if they were independent.
    """

    name: ClassVar[str] = "grid"

    fit: Fit = dataclasses.field(default="enlarge", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fit not in get_args(Fit):
            raise UnknownName("fit", self.fit, get_args(Fit))
        if 0 < len(self.model.classes) < self.n**2:
            raise BadInput(
                f"Grid(n={self.n}): got a model of {len(self.model.classes)} classes, allowed: one for each cell, {self.n**2}; "
                "or Disconnected, whose other cells may repeat a class since they are not seen"
            )

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"GridPG {self.n}x{self.n}{' shrunk' * (self.fit == 'shrink')}{self._seeded}"

    def __len__(self) -> int:
        return self.count * self.n**2

    def __iter__(self) -> Iterator[tuple[VisionModel, Batch]]:
        for number in range(self.shards):
            yield self._seeing, self._batch(self._in(number))

    @property
    def shards(self) -> int:
        """How many batches there are."""
        return starts(self.count, self._each)

    def names(self, number: int) -> tuple[str, ...]:
        """The ids of the rows of a batch."""
        return self._named(self._in(number))

    def shard(self, number: int, names: Collection[str] | None = None) -> Shard:
        """A batch, or some of its rows."""
        if names is None:
            return Shard(self._seeing, self._batch(self._in(number)))
        grids = [index for index in self._in(number) if set(self._named([index])) & set(names)]
        return Shard(self._seeing, picked(self._batch(grids), names) if grids else None)

    def digest(self, number: int) -> str:
        """Of the cells of a batch's grids."""
        return self._digest(self._in(number), self.fit)

    @property
    def _each(self) -> int:
        return max(1, self.batch_size // self.n**2)

    def _in(self, number: int) -> range:
        return range(number * self._each, min((number + 1) * self._each, self.count))

    def _named(self, grids: Sequence[int]) -> tuple[str, ...]:
        return tuple(f"grid-{index:04d}-cell-{cell}" for index in grids for cell in range(self.n**2))

    @functools.cached_property
    def _seeing(self) -> VisionModel:
        """The model that takes a whole grid."""
        if self.n == 1 or self.fit == "shrink":
            return self.model
        height, width = self.model.size
        try:
            return sized(self.model, (self.n * height, self.n * width))
        except Unsupported as error:
            raise Unsupported(f"{self.label}: {error}; or Grid(..., fit='shrink'), which resizes the grid to {height} x {width}") from error

    def _batch(self, grids: Sequence[int]) -> Batch:
        images, targets = self._stitched(grids)
        cells = torch.arange(self.n**2, device=images.device)
        regions = cell_regions(cells, self.n, self.model.size)
        if self.fit == "shrink":
            images, regions = (
                resized(images, self.model.size, "bilinear"),
                resized(regions.unsqueeze(1), self.model.size, "area").squeeze(1),
            )
        return Batch(
            images.repeat_interleave(self.n**2, 0),
            Targets(targets.flatten()),
            self._named(grids),
            {"cell": regions.repeat(len(grids), 1, 1)},
            {"cell": cells.repeat(len(grids))},
        )

    def _drawn(self, fit: list[Cell]) -> Chosen:
        pool, size = Pool(fit, self.seed), self.n**2
        enough = pool.enough_for(size)
        if enough < self.count:
            raise BadInput(f"enough for count={enough} with {size} distinct classes in each")
        left = range(self.count, 0, -1)
        return tuple(tuple(pool.take(each) for each in pool.distinct(size, count)) for count in left)


PROBLEMS.add(Grid.name, Grid)
