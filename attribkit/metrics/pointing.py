"""The pointing game: whether the highest point of a map lies on the object."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BadInput
from ..maps import resize
from ..registry import AtLeast
from .base import Metric, region_of
from .regions import paired, size_of

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


def pointing_game(maps: Tensor, region: Tensor, tolerance: int = 15) -> Tensor:
    """1 where the highest point of signed maps (B, h, w) is less than `tolerance` pixels from `region` (B, H, W), else 0; (B,).

    Maps are brought to the region's size. The region is where its value is above 1/2; an empty one has NaN. Of several highest points the
    first counts, row by row; a constant map points nowhere, and has what a point at random would get on average: the share of the image
    from which the region is that near.
    """
    maps, region = paired(maps, region, "pointing_game")
    near = _within(region > 0.5, tolerance).flatten(1)
    hit = near.gather(1, resize(maps, size_of(region)).flatten(1).argmax(1, keepdim=True)).squeeze(1).to(maps.dtype)
    low, high = maps.amin((-2, -1)), maps.amax((-2, -1))
    scores = torch.where(low == high, near.to(maps.dtype).mean(1), hit)
    return torch.where(near.any(1) & ~high.isnan(), scores, torch.nan)


def _within(region: Tensor, tolerance: int) -> Tensor:
    """Whether each pixel is less than `tolerance` from one of the region (B, H, W) bool: its dilation by a disk, exactly."""
    if tolerance < 1:
        raise BadInput(f"pointing_game(tolerance=...): got {tolerance}, allowed: at least 1 pixel, which is the point alone")
    height, width = size_of(region)
    straight = torch.minimum(_since_last(region), _since_last(region.flip(2)).flip(2))  # to the region's nearest pixel in the same row
    near = torch.zeros_like(region)
    for step in range(min(tolerance, height)):  # rows up and down
        reach = straight <= min(math.isqrt(tolerance**2 - step**2 - 1), width)
        near[:, : height - step] |= reach[:, step:]
        near[:, step:] |= reach[:, : height - step]
    return near


def _since_last(region: Tensor) -> Tensor:
    """How far to the left, in the same row, the last pixel of a region (B, H, W) is; more than W where none is."""
    width = region.shape[2]
    place = torch.arange(width, device=region.device, dtype=torch.int32)
    return place - torch.where(region, place, -width - 1).cummax(2).values


@dataclasses.dataclass(frozen=True)
class PointingGame(Metric):
    """Whether the highest point of the signed map, at the image's size, is less than `tolerance` pixels from `region`: 1 or 0.

    Of several highest points the first counts, row by row. An image without the region has NaN, and a constant map the value of
    chance: the share of the image that is so near to the region.
    """

    name = "pointing_game"
    paper = "Zhang, Lin, Brandt, Shen, Sclaroff: Top-down Neural Attention by Excitation Backprop, ECCV 2016 (arXiv:1608.00507)"
    family = "localisation"

    region: str | None = None
    tolerance: Annotated[int, AtLeast(1)] = 15

    def chances(self, batch: Batch) -> Tensor:
        """The share of the image's pixels that are near enough to the region, (B,); NaN where that is empty."""
        region = region_of(batch, self.region)
        return pointing_game(region.new_zeros(len(region), 1, 1), region, self.tolerance).float()

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        return pointing_game(attribution.maps, region_of(batch, self.region), self.tolerance)
