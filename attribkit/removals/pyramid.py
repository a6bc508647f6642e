"""Grids halved and doubled: the push-pull pyramid, and the steps between the grids of the linear solver."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def push_pull(images: Tensor, keep: Tensor) -> Tensor:
    """The images with their gaps filled from coarser and coarser means of what is kept; zeros where nothing is.

    (R, C, H, W) and (R, 1, H, W) bool -> (R, C, H, W); a gap's value is a weighted mean of kept ones.
    """
    height, width = images.shape[-2:]
    known = torch.where(keep, images, 0)
    if height == width == 1:
        return known
    count = halved(keep.to(images))
    coarse = push_pull(halved(known) / count.clamp_min(1), count > 0)
    return torch.where(keep, images, smoothly_doubled(coarse)[..., :height, :width])


def halved(grid: Tensor) -> Tensor:
    """Sums over cells of two by two, zeros beyond the lower and right border; (R, C, H, W) -> (R, C, ceil(H / 2), ceil(W / 2))."""
    grid = F.pad(grid, (0, grid.shape[-1] % 2, 0, grid.shape[-2] % 2))
    rows = grid[..., ::2, :] + grid[..., 1::2, :]
    return rows[..., ::2] + rows[..., 1::2]


def doubled(grid: Tensor, size: torch.Size) -> Tensor:
    """Each value four times, what `halved` is the transpose of; (R, C, h, w) -> (R, C, *size)."""
    return grid.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., : size[0], : size[1]]


def smoothly_doubled(grid: Tensor) -> Tensor:
    """Bilinear, with the border repeated; (R, C, h, w) -> (R, C, 2 h, 2 w)."""
    for axis in (-1, -2):
        before = torch.cat((grid.narrow(axis, 0, 1), grid.narrow(axis, 0, grid.shape[axis] - 1)), axis)
        after = torch.cat((grid.narrow(axis, 1, grid.shape[axis] - 1), grid.narrow(axis, -1, 1)), axis)
        pairs = torch.stack((torch.lerp(grid, before, 0.25), torch.lerp(grid, after, 0.25)), axis)
        grid = pairs.flatten(axis - 1, axis)
    return grid
