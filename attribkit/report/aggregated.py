"""AggAtt: the mean maps of one cell's grids, from the best explained to the worst."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from ..maps import positive, resize
from ..metrics.localization import CELL
from ..metrics.regions import overlaps

PERCENTS = (0, 2, 5, 50, 95, 98, 100)  # of the grids, the best first: where one bin ends and the next begins
PERCENTILE = 99.5
ROWS = 16  # maps at full size at any time


class Aggregated(NamedTuple):
    """The bins of an AggAtt: mean maps (6, H, W), NaN where a bin is empty, and how many grids each of them is the mean of.

    `limit` is the end of the scale they share, the 99.5th percentile of all their pixels. `left_out` grids have a score or a map that
    is not finite.
    """

    means: Tensor
    counts: tuple[int, ...]
    limit: float
    cell: int
    n: int
    left_out: int = 0


def borders(count: int) -> tuple[int, ...]:
    """The rank at which each bin of `count` grids begins, and the last one ends; halves are rounded up."""
    return tuple((percent * count + 50) // 100 for percent in PERCENTS)


class AggAtt:
    """Maps of `n` x `n` grids of one target `cell`, counted row by row from 0, added batch by batch and binned at the end.

    Maps wait at their own resolution; only a few at a time are brought to the grid's `size` (H, W), by default 224 pixels a cell where a
    map has fewer. Grids are ordered by their score, the highest first, and where it is the same by how much positive evidence lies in the
    cell (arXiv:2205.10435, arXiv:2303.11884).
    """

    def __init__(self, cell: int, n: int, *, size: tuple[int, int] | None = None) -> None:
        if n < 1 or not 0 <= cell < n * n:
            raise BadInput(f"AggAtt: got cell {cell} of {n} x {n}, allowed: from 0 to {max(n, 1) ** 2 - 1}, n at least 1")
        self.cell, self.n, self.size = cell, n, size
        self._maps: list[Tensor] = []
        self._scores: list[Tensor] = []

    def add(self, maps: Tensor, scores: Tensor) -> AggAtt:
        """Take signed maps (B, h, w) of whole grids and their localisation scores (B,)."""
        if maps.ndim != 3 or 0 in maps.shape[1:]:
            raise BadInput(f"AggAtt: got maps of shape {tuple(maps.shape)}, allowed: (B, h, w)")
        if tuple(scores.shape) != (len(maps),):
            raise BadInput(f"AggAtt: got scores of shape {tuple(scores.shape)}, allowed: ({len(maps)},), as there are {len(maps)} maps")
        height, width = maps.shape[-2:]
        self.size = self.size or (max(height, self.n * CELL), max(width, self.n * CELL))
        self._maps.append(maps.detach())
        self._scores.append(scores.detach().to(maps.device))
        return self

    def result(self) -> Aggregated:
        """The bins of everything that was added."""
        if self.size is None or not sum(map(len, self._maps)):
            raise BadInput("AggAtt: got no maps, allowed: at least one grid")
        scores = torch.cat(self._scores).double()
        usable = scores.isfinite() & torch.cat([few.flatten(1).isfinite().all(1) for maps in self._maps for few in _few(maps)])
        order = _order(torch.where(usable, scores, -torch.inf), self._inside(self.size))
        bins = torch.full_like(order, -1)  # of each grid; -1: of none
        edges = borders(int(usable.sum()))
        for place, (first, end) in enumerate(pairwise(edges)):
            bins[order[first:end]] = place
        counts = tuple(end - first for first, end in pairwise(edges))
        means = (self._sums(bins, len(counts), self.size) / torch.tensor(counts, device=bins.device).view(-1, 1, 1)).float()
        filled = means[[place for place, count in enumerate(counts) if count]].cpu().numpy()
        limit = float(np.percentile(filled, PERCENTILE)) if filled.size else 0.0
        return Aggregated(means, counts, limit, self.cell, self.n, len(bins) - sum(counts))

    def _inside(self, size: tuple[int, int]) -> Tensor:
        """How much positive evidence each map has in the cell, (N,), at `size`."""
        down, across = (overlaps(self.n, side, self._maps[0].device) for side in size)
        cell = (down[self.cell // self.n], across[self.cell % self.n])
        return torch.cat([torch.einsum("bhw,h,w->b", large, *cell) for maps in self._maps for large in _enlarged(maps, size)])

    def _sums(self, bins: Tensor, count: int, size: tuple[int, int]) -> Tensor:
        """The sum of the positive maps of each bin, (bins, H, W)."""
        sums = torch.zeros(count, *size, dtype=torch.float64, device=bins.device)
        at = 0
        for maps in self._maps:
            for large in _enlarged(maps, size):
                mine = bins[at : at + len(large), None] == torch.arange(count, device=bins.device)
                sums += torch.where(mine.any(1).view(-1, 1, 1), large, 0).flatten(1).T.matmul(mine.double()).T.view_as(sums)
                at += len(large)
        return sums


def aggregate(maps: Tensor, scores: Tensor, *, cell: int, n: int, size: tuple[int, int] | None = None) -> Aggregated:
    """The AggAtt bins of maps (B, h, w) of `n` x `n` grids whose target is `cell`, by their localisation scores (B,)."""
    return AggAtt(cell, n, size=size).add(maps, scores).result()


def _few(maps: Tensor) -> Iterator[Tensor]:
    for first in range(0, len(maps), ROWS):
        yield maps[first : first + ROWS]


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """The positive part of maps at `size`, a few at a time, in double precision, as sums of many need."""
    for few in _few(maps):
        yield positive(resize(few.float() if few.dtype in (torch.float16, torch.bfloat16) else few, size)).double()


def _order(scores: Tensor, inside: Tensor) -> Tensor:
    """Places sorted by score, then by what lies inside, both descending; then as they came."""
    second = torch.argsort(inside, descending=True, stable=True)
    return second[torch.argsort(scores[second], descending=True, stable=True)]
