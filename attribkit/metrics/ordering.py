"""The pixels of maps in order, and what equal ones share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Ordered(NamedTuple):
    """Values (B, P) from the smallest to the largest: where each is from, and whether it is above the one before it, (B, P - 1)."""

    order: Tensor
    rises: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Ordered:
        """By one sort of each row; equal values may be in any order."""
        ascending, order = values.sort(1)
        return cls(order, ascending[:, 1:] > ascending[:, :-1])

    def first(self) -> Tensor:
        """The place of the first of all that are equal to each, which is how many are below it; (B, P) int64."""
        return torch.where(torch.cat((self._edge(), self.rises), 1), self._places(), 0).cummax(1).values

    def last(self) -> Tensor:
        """The place of the last of all that are equal to each, (B, P) int64."""
        ends = torch.where(torch.cat((self.rises, self._edge()), 1), self._places(), self.order.shape[1])
        return ends.flip(1).cummin(1).values.flip(1)

    def _places(self) -> Tensor:
        return torch.arange(self.order.shape[1], device=self.order.device)

    def _edge(self) -> Tensor:
        return self.rises.new_ones(len(self.rises), 1)


def mean_ranks(maps: Tensor) -> Tensor:
    """Each pixel's rank in its map, from 0; equal values have the mean of theirs; (B, h, w) -> (B, h * w) in double precision."""
    ordered = Ordered.of(maps.flatten(1))
    shared = (ordered.first() + ordered.last()).double() / 2
    return torch.empty_like(shared).scatter_(1, ordered.order, shared)
