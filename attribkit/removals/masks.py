"""Masks of activations: where they are kept, how they grow through a layer's windows, and what stands in their holes meanwhile."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# What the reference adds to a count of neighbours, so that none is no division by zero.
_FEW = 1e-5

Sides = tuple[int, int, int, int]  # left, right, top, bottom


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """Which values of an activation are kept: `on`, boolean, with as many dimensions as the activation, each its size or 1.

    `depth` counts the windows (convolutions, pools) it came through; `covers` are masks that keep nothing that this one does not;
    `border` is the mask within and the width of zeros that were padded around it; `whole` keeps only what saw nothing but kept pixels.
    """

    on: Tensor
    depth: int = 0
    covers: frozenset[Mask] = frozenset()
    border: tuple[Mask, Sides] | None = None
    whole: Mask | None = None
    _numbers: dict[torch.dtype, Tensor] = dataclasses.field(default_factory=dict)

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """Ones where kept and zeros elsewhere."""
        if dtype not in self._numbers:
            self._numbers[dtype] = self.on.to(dtype)
        return self._numbers[dtype]

    def within(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """As numbers: what is kept, and what is image; a padded border is neither."""
        inner, sides = self.border or (self, (0, 0, 0, 0))
        kept = inner.numbers(dtype)
        return F.pad(kept, sides), F.pad(torch.ones_like(kept[:1]), sides)

    def varies(self) -> bool:
        """Whether it tells places of one sample apart, and not only samples."""
        return self.on.ndim > 0 and self.on[:1].numel() > 1


def zeroed(values: Tensor, mask: Mask, *, wild: bool = False, inplace: bool = False) -> Tensor:
    """`values` with zeros in the holes; `wild` ones may be infinite there, which a product with zero would not mend."""
    if wild or not values.is_floating_point():
        return values.masked_fill_(~mask.on, 0) if inplace else values.masked_fill(~mask.on, 0)
    numbers = mask.numbers(values.dtype)
    return values.mul_(numbers) if inplace else values * numbers


def cleared(values: Tensor, mask: Mask) -> Tensor:
    """A copy of `values` with zeros in the holes, whatever stood there, NaN included."""
    return torch.where(mask.on, values, torch.zeros((), dtype=values.dtype, device=values.device))


# Neighbours into holes ---------------------------------------------------------------------------------------------------------


def _box(values: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """The sum of each place and its eight neighbours, made in `across` by way of `down`; beyond the edge are zeros."""
    return _triples(_triples(values, down, -2), across, -1)


def _triples(values: Tensor, sums: Tensor, dimension: int) -> Tensor:
    """The sum of each place, the one before and the one after, made in `sums`."""
    rest = values.shape[dimension] - 1
    early, late = values.narrow(dimension, 0, rest), values.narrow(dimension, 1, rest)
    torch.add(early, late, out=sums.narrow(dimension, 0, rest))
    sums.narrow(dimension, rest, 1).copy_(values.narrow(dimension, rest, 1))
    sums.narrow(dimension, 1, rest).add_(early)
    return sums


def shares(mask: Mask, rounds: int, dtype: torch.dtype) -> list[Tensor]:
    """What the sum of neighbours is multiplied with, in each round: zero but in holes, and there one over how many are valid by then."""
    valid = mask.numbers(torch.float64 if dtype == torch.float64 else torch.float32)
    weights = []
    for _ in range(rounds):
        near = _box(valid, torch.empty_like(valid), torch.empty_like(valid))
        # Where no neighbour is valid their sum is zero, and so is its weight: 1 / 1e-5 is more than half precision holds.
        weights.append(((1 - valid) / (near + _FEW)).masked_fill(near == 0, 0).to(dtype))
        valid = (valid + near).clamp(max=1)
    return weights


def filled(values: Tensor, weights: list[Tensor]) -> Tensor:
    """`values` with the holes next to valid places filled by the mean of these, as many times over as there are weights."""
    made = known = values.detach()
    # Room is taken once, and the rounds take turns in it: to ask for it takes longer than to fill it.
    down, *turns = (torch.empty_like(known) for _ in range(min(len(weights), 2) + 1))
    for place, weight in enumerate(weights):
        made = _box(made, down, turns[place % 2]).mul_(weight).add_(made)
    # As in the reference, no gradient runs through what was made up.
    return values + (made - known) if values.requires_grad else made


def filled_inside(values: Tensor, weights: list[Tensor], sides: Sides) -> Tensor:
    """As `filled`, without what was padded around `values`, which stays as it is."""
    left, right, top, bottom = sides
    inside = (..., slice(top, values.shape[-2] - bottom), slice(left, values.shape[-1] - right))
    values = values.clone()
    values[inside] = filled(values[inside], weights)
    return values


# Windows -----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Window:
    """How a convolution looks at a grid, per dimension as (rows, columns)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def reach(self) -> tuple[int, int]:
        """How far apart the first and the last place lie that one window sees."""
        down, across = (step * (size - 1) for step, size in zip(self.dilation, self.kernel, strict=True))
        return down, across

    @property
    def first(self) -> tuple[int, int]:
        """How far before its own place a window begins."""
        if isinstance(self.padding, str):
            return (0, 0) if self.padding == "valid" else (self.reach[0] // 2, self.reach[1] // 2)
        return self.padding

    def sees_its_place(self) -> bool:
        """Whether each window sees the place whose value it makes."""
        inside = (0 <= first <= reach for first, reach in zip(self.first, self.reach, strict=True))
        return self.stride == (1, 1) and all(inside) and not any(a % b for a, b in zip(self.first, self.dilation, strict=True))

    def is_a_patch(self) -> bool:
        """Whether the windows tile the grid."""
        return self.kernel == self.stride and max(self.kernel) > 1 and self.padding in ((0, 0), "valid") and self.dilation == (1, 1)

    def count(self, grid: Tensor) -> Tensor:
        """How many ones each window sees, by the very geometry of the convolution."""
        ones = torch.ones(1, 1, *self.kernel, dtype=grid.dtype, device=grid.device)
        return F.conv2d(grid, ones, stride=self.stride, padding=self.padding, dilation=self.dilation)


def grown(mask: Mask, window: Window) -> Mask:
    """The mask after a convolution: kept is what sees something kept."""
    if window == Window((1, 1)) and mask.border is None:
        return mask
    kept, image = mask.within()
    on = window.count(kept) > 0
    sides = mask.border[1] if mask.border else (0, 0, 0, 0)
    if max(window.first[0] + max(sides[2:]) - window.reach[0], window.first[1] + max(sides[:2]) - window.reach[1]) > 0:
        # A window on padding alone is a constant, and belongs to every image that is not empty.
        on = on | ((window.count(image) == 0) & mask.on.flatten(1).any(1).view(-1, 1, 1, 1))
    covers = {mask} | mask.covers if window.sees_its_place() and mask.border is None and on.shape == mask.on.shape else ()
    patches = mask.depth == 0 and window.is_a_patch()
    whole = Mask(window.count(1 - kept) == 0, depth=1) if patches else None
    return Mask(on, depth=mask.depth + 1, covers=frozenset(covers), whole=whole)


# Several masks -----------------------------------------------------------------------------------------------------------------


def aligned(mask: Mask, dimensions: int) -> Mask:
    """The mask with as many dimensions as it is broadcast to."""
    missing = dimensions - mask.on.ndim
    return mask if missing <= 0 else mapped(mask, lambda on: on.view(*(1,) * missing, *on.shape))


def mapped(mask: Mask, change: Any) -> Mask:
    """The mask with `change` done to its tensor; what it knew of other masks is lost."""
    whole = None if mask.whole is None else mapped(mask.whole, change)
    return Mask(change(mask.on), depth=mask.depth, whole=whole)


def common(a: Mask, b: Mask) -> Mask:
    """What both keep."""
    if a is b or a in b.covers:
        return a
    if b in a.covers:
        return b
    return Mask(a.on & b.on, depth=max(a.depth, b.depth), covers=frozenset())


def joint(masks: list[Mask]) -> Mask:
    """What any of them keeps."""
    distinct = list(dict.fromkeys(masks))
    largest = [each for each in distinct if not any(each in other.covers for other in distinct)]
    if len(largest) == 1:
        return largest[0]
    on = functools.reduce(torch.logical_or, [each.on for each in largest])
    return Mask(on, depth=max(each.depth for each in largest), covers=frozenset(distinct).union(*(each.covers for each in largest)))


def majority(masks: list[Mask]) -> Mask:
    """What more than half of them keep."""
    if len(set(masks)) == 1:
        return masks[0]
    votes = functools.reduce(torch.add, [each.numbers(torch.float32) for each in masks])
    return Mask(2 * votes > len(masks), depth=max(each.depth for each in masks))
