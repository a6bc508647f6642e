"""Gaps whose every pixel is a weighted mean of its neighbours: a sparse linear system for each image, solved for all of them at once.

Conjugate gradients, preconditioned by one multigrid V-cycle. The grids are halved by adding up cells of two by two, both the residual and
each cell's links to kept pixels, and every grid has the neighbours of the first: those of a plain sum of fine equations would couple
coarse cells twice as strongly as they are (Braess: Towards Algebraic Multigrid for Elliptic Problems of Second Order, Computing 1995).
Weights are whole numbers, by which products are exact: rounded ones, in float32, cost a large gap three digits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .pyramid import doubled, halved, push_pull

# About a dozen are enough for any gap that was tried; without a bound, a tolerance below rounding errors would never be met.
_ITERATIONS = 40


class Stencil(NamedTuple):
    """The weights of a pixel's straight and diagonal neighbours, in whole numbers, and how much of a Jacobi step smooths best."""

    straight: int
    diagonal: int
    damping: float

    def neighbours(self, grid: Tensor) -> Tensor:
        """The weighted sum of each cell's neighbours, of those that there are; in two passes, over columns and over rows."""
        column = torch.zeros_like(grid)
        column[..., 1:, :] += grid[..., :-1, :]
        column[..., :-1, :] += grid[..., 1:, :]
        # In place wherever it can be, here and below: on a CPU a new tensor of this size costs as much as what is written into it.
        row = (self.straight * grid).add_(column, alpha=self.diagonal)
        total = column.mul_(self.straight)
        total[..., 1:] += row[..., :-1]
        total[..., :-1] += row[..., 1:]
        return total


FOUR = Stencil(1, 0, 0.8)
EIGHT = Stencil(2, 1, 1.0)


class _Grid(NamedTuple):
    """One level of the equations `diagonal * x - neighbours(x) = b` in the gaps, all (R, 1, h, w); `jacobi` is damping / diagonal there."""

    gap: Tensor
    diagonal: Tensor
    jacobi: Tensor


def solved(images: Tensor, keep: Tensor, stencil: Stencil, *, tolerance: float) -> Tensor:
    """The images with each pixel of their gaps the weighted mean of its neighbours, zeros where nothing is kept.

    (R, C, H, W) and (R, 1, H, W) bool -> (R, C, H, W). Weights are shared out again at the border, where neighbours are missing. An image
    is left as it is once a further cycle would move no pixel of it by more than `tolerance` of the range of what is kept, and whatever
    the others need.
    """
    low = images.masked_fill(~keep, torch.inf).amin((2, 3), keepdim=True)
    high = images.masked_fill(~keep, -torch.inf).amax((2, 3), keepdim=True)
    known, gap = torch.where(keep, images, 0), (~keep).to(images)
    degree = stencil.neighbours(torch.ones_like(gap))
    levels = _levels(gap, degree, stencil.neighbours(1 - gap) * gap, stencil)
    start = push_pull(images, keep) * gap
    residual = ((stencil.neighbours((known + start).double()) - degree * start.double()) * gap).to(known)  # a rounded one costs most digits
    enough = torch.where(high > low, tolerance * (high - low), torch.inf)  # what is of one colour is done
    x = start + _conjugate_gradients(levels, stencil, residual, enough)
    return torch.where(high < low, 0, torch.where(keep, images, x.clamp(low, high)))  # no mean is beyond what it is taken of


def _conjugate_gradients(levels: list[_Grid], stencil: Stencil, residual: Tensor, tolerance: Tensor) -> Tensor:
    """What solves the finest level for `residual` (R, C, H, W), which it uses up, each image and channel as if it were alone."""
    x, along = torch.zeros_like(residual), torch.zeros_like(residual)
    before = torch.full_like(tolerance, torch.inf)
    for step in range(_ITERATIONS):
        towards = _cycle(levels, stencil, residual)
        moving = _largest(towards) > tolerance  # what has stopped has the same residual ever after, and stays where it is
        # What has stopped stays as it is, so when to look decides nothing; to wait for a GPU costs more than a step too many.
        if (step % 4 == 0 or residual.device.type == "cpu") and not moving.any():
            break
        now = _inner(residual, towards)
        along = towards.addcmul_(along, torch.where(moving, now / before, 0))
        before = now
        pushed = _applied(levels[0], stencil, along)
        length = torch.where(moving, now / _inner(along, pushed), 0)
        x.addcmul_(length, along)
        residual.addcmul_(length, pushed, value=-1)
    return x


def _levels(gap: Tensor, degree: Tensor, links: Tensor, stencil: Stencil) -> list[_Grid]:
    """The grids from the finest to the one of a single cell; `links` are the weights of each cell's neighbours that are kept."""
    levels, diagonal = [], degree
    while True:
        levels.append(_Grid(gap, diagonal, stencil.damping * gap / diagonal.clamp_min(1e-6)))
        if gap.shape[-2:].numel() == 1:
            return levels
        gap, links = (halved(gap) > 0).to(gap), halved(links)
        diagonal = stencil.neighbours(torch.ones_like(gap)) + links


def _cycle(levels: list[_Grid], stencil: Stencil, b: Tensor) -> Tensor:
    """About what solves the first of `levels` for `b`: a symmetric V-cycle, smoothed once on the way down and once on the way up."""
    grid = levels[0]
    x = grid.jacobi * b
    if len(levels) == 1:
        return x
    coarse = _cycle(levels[1:], stencil, halved(_applied(grid, stencil, x).neg_().add_(b)))
    x.addcmul_(grid.gap, doubled(coarse, b.shape[-2:]))
    return x.addcmul_(grid.jacobi, _applied(grid, stencil, x).neg_().add_(b))


def _applied(grid: _Grid, stencil: Stencil, x: Tensor) -> Tensor:
    return (grid.diagonal * x).sub_(stencil.neighbours(x)).mul_(grid.gap)


def _inner(one: Tensor, other: Tensor) -> Tensor:
    product: Tensor = torch.linalg.vecdot(one.flatten(2), other.flatten(2))
    return product[..., None, None]


def _largest(grid: Tensor) -> Tensor:
    return grid.abs().amax((2, 3), keepdim=True)
