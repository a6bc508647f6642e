"""DiFull and DiPart: grids where the explained logit cannot see outside its cell."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..batch import Batch, Targets
from ..errors import BadInput
from ..model.cells import head_of
from .base import PROBLEMS, whole_number
from .cells import Cell, Cells, Chosen, Pool, cell_regions
from .shards import Shard, of_range, starts

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Disconnected(Cells):
    """DiFull and DiPart: grids of n x n images, where the explained logit cannot see outside its cell, or only early on.

    arXiv:2205.10435. The logits of the first cell are explained, and those of the last, each by a model of its own whose answer comes
    from that cell alone (DiFull, `part` 0), or from the cell's part of late features of the whole grid (DiPart: `part` 1, or of a
    transformer as many of its last blocks). The last cell shows the first one's class in another image, if the source has one. Where it has
    fewer classes than cells, classes repeat: the logit cannot see the other cells, or not as such.
    """

    name: ClassVar[str] = "disconnected"

    part: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number(self, "part", 0)

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{f'DiPart({self.part})' if self.part else 'DiFull'} {self.n}x{self.n}{self._seeded}"

    def __len__(self) -> int:
        return self.count * len(self._ends)

    def __iter__(self) -> Iterator[tuple[VisionModel, Batch]]:
        for number in range(0, self.shards, len(self._ends)):
            grids, _ = self._in(number)
            stitched = self._stitched(grids)
            for cell in self._ends:
                yield self._batch(stitched, grids, cell)

    @property
    def shards(self) -> int:
        """How many batches there are: for each of the cells that are explained, of all grids."""
        return starts(self.count, self.batch_size) * len(self._ends)

    def names(self, number: int) -> tuple[str, ...]:
        """The ids of the grids of a batch."""
        return self._named(*self._in(number))

    def shard(self, number: int, names: Collection[str] | None = None) -> Shard:
        """A batch, or some of its grids."""
        grids, cell = self._in(number)
        wanted = [grids[place] for place in of_range(self._named(grids, cell), names)]
        return Shard(*self._batch(self._stitched(wanted), wanted, cell)) if wanted else Shard(self._heads[cell], None)

    def digest(self, number: int) -> str:
        """Of the cells of a batch's grids, and which of them is explained."""
        grids, cell = self._in(number)
        return self._digest(grids, self.part, cell)

    def _in(self, number: int) -> tuple[range, int]:
        """The grids of a batch, and the cell that is explained."""
        start = number // len(self._ends) * self.batch_size
        return range(start, min(start + self.batch_size, self.count)), self._ends[number % len(self._ends)]

    @staticmethod
    def _named(grids: Sequence[int], cell: int) -> tuple[str, ...]:
        return tuple(f"grid-{index:04d}-cell-{cell}" for index in grids)

    def _batch(self, stitched: tuple[Tensor, Tensor], grids: Sequence[int], cell: int) -> tuple[VisionModel, Batch]:
        images, targets = stitched
        cells = torch.full((len(grids),), cell, device=images.device)
        regions = {"cell": cell_regions(cells, self.n, self.model.size)}
        return self._heads[cell], Batch(images, Targets(targets[:, cell]), self._named(grids, cell), regions, {"cell": cells})

    @property
    def _ends(self) -> tuple[int, ...]:
        """The cells that are explained: the first and the last."""
        return tuple(dict.fromkeys((0, self.n**2 - 1)))

    @functools.cached_property
    def _heads(self) -> dict[int, VisionModel]:
        return {cell: head_of(self.model, self.n, cell, self.part) for cell in self._ends}

    def _drawn(self, fit: list[Cell]) -> Chosen:
        pool, size = Pool(fit, self.seed), self.n**2
        if len(pool) < self.count * size:
            raise BadInput(f"enough for count={len(pool) // size} with {size} images in each")
        return tuple(self._one(pool, count) for count in range(self.count, 0, -1))

    def _one(self, pool: Pool, count: int) -> tuple[Cell, ...]:
        """The cells of one grid of the `count` that are still to be made."""
        size = self.n**2
        classes = pool.distinct(max(1, size - 1), count)
        twice = pool.shuffled(pool.classes(2)) if size > 1 else []
        if twice and not set(twice) & set(classes):
            classes[0] = twice[0]
        taken = [pool.take(each) for each in classes]
        pairs = [cell for cell in taken if cell.target in twice]
        first = next((cell for cell in pairs if pool.spares(cell.target, count - 1, size - 1)), pairs[0] if pairs else taken[0])
        last = [pool.take(first.target)] if pairs else []
        cells = [first, *(cell for cell in taken if cell != first)]
        while len(cells) + len(last) < size:  # more than once only where there are fewer classes than cells
            others = pool.distinct(size - len(cells) - len(last), count, but={cell.target for cell in cells})
            cells += [pool.take(each) for each in others or pool.shuffled(pool.classes())[:1]]
        return (*cells, *last)


PROBLEMS.add(Disconnected.name, Disconnected)
