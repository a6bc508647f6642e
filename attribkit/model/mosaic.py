"""Grids of n x n images and what lies over them: cut into cells, put together again."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .tokens import Layout


def cells_of(grids: Tensor, n: int) -> Tensor:
    """The cells of n x n grids (B, C, nH, nW), those of one grid together and row by row: (B n^2, C, H, W)."""
    rows, channels, height, width = grids.shape
    apart = grids.reshape(rows, channels, n, height // n, n, width // n)
    return apart.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def stitched(cells: Tensor, n: int) -> Tensor:
    """The grids that cells belong to, as `cells_of` cuts them: (B n^2, C, H, W) -> (B, C, nH, nW)."""
    channels, height, width = cells.shape[1:]
    return cells.reshape(-1, n, n, channels, height, width).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def cell_of(grids: Tensor, n: int, cell: int) -> Tensor:
    """One cell of each grid, a view: (B, C, nH, nW) -> (B, C, H, W)."""
    height, width = grids.shape[2] // n, grids.shape[3] // n
    top, left = cell // n * height, cell % n * width
    return grids[:, :, top : top + height, left : left + width]


def window(length: int, part: int, n: int, place: int) -> int | None:
    """Where the `place`-th of `n` parts begins on an axis of `length`; None where they do not fit.

    Convolutions without padding have up to one row more between cells, which sees both and belongs to neither.
    """
    if not 0 <= length - n * part < n:
        return None
    return place * (length - part) // max(n - 1, 1)


@dataclasses.dataclass(frozen=True)
class Mosaic(Layout):
    """How the outputs for the n^2 cells of a grid lie over it: side by side, and below them what stands before each cell's patches."""

    n: int = 1

    @classmethod
    def of(cls, cell: Layout, n: int) -> Mosaic:
        """The layouts of n^2 cells together."""
        return cls(cell.kind, n * cell.height, n * cell.width, cell.prefix, n)

    @property
    def cell(self) -> Layout:
        """The layout of one cell."""
        return Layout(self.kind, self.height // self.n, self.width // self.n, self.prefix)

    @property
    def rows(self) -> int:
        """The rows of the whole grid: those of all cells."""
        return self.n * self.cell.rows

    def to_grid(self, output: Tensor, *, whole: bool = False) -> Tensor:
        """The output, with a row for each cell or with the tokens of a grid's cells end to end, as (B, C, h, w) or (B, C, rows, w)."""
        cell = self.cell
        if self.kind == "tokens":
            output = output.reshape(-1, cell.prefix + cell.height * cell.width, output.shape[2])
        cells = cell.to_grid(output, whole=whole)
        parts = (cells[:, :, : cell.height], cells[:, :, cell.height :])
        return torch.cat([stitched(part, self.n) for part in parts if part.shape[2]], 2)

    def cells(self, grid: Tensor) -> Tensor:
        """The whole grid of each cell: (B, C, rows, w) -> (B n^2, C, rows of a cell, w of a cell)."""
        parts = (grid[:, :, : self.height], grid[:, :, self.height :])
        return torch.cat([cells_of(part, self.n) for part in parts if part.shape[2]], 2)

    def one(self, grid: Tensor, cell: int) -> Tensor:
        """The whole grid of one cell: (B, C, rows, w) -> (B, C, rows of a cell, w of a cell)."""
        parts = (grid[:, :, : self.height], grid[:, :, self.height :])
        return torch.cat([cell_of(part, self.n, cell) for part in parts if part.shape[2]], 2)

    def from_grid(self, grid: Tensor) -> Tensor:
        """The outputs, a row for each cell, whose whole grid this is."""
        return self.cell.from_grid(self.cells(grid))
