"""A region as what a map should rank first: IoU at equal area, and how well the map's order tells inside from outside."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..maps import resize, unit_range
from .base import Metric, region_of
from .ordering import Ordered
from .regions import paired, size_of

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


def mask_iou(maps: Tensor, region: Tensor) -> Tensor:
    """IoU of `region` (B, H, W) and as many of the highest pixels of signed maps (B, h, w), brought to its size; (B,) in [0, 1].

    The region is where its value is above 1/2; NaN where that is nowhere or everywhere. Of equal pixels that are not all among the highest,
    each counts by the share of them that is.
    """
    maps, inside = _flat(maps, region, "mask_iou")
    count = inside.sum(1, keepdim=True)
    level = maps.sort(1, descending=True).values.gather(1, (count - 1).clamp_min(0))
    above, level_with = maps > level, maps == level
    taken = (count.squeeze(1) - above.sum(1)).double() / level_with.sum(1)  # of those at the level of the last one, which share
    shared = (above & inside).sum(1) + taken * (level_with & inside).sum(1)
    return _where_told((shared / (2 * count.squeeze(1) - shared)).to(maps.dtype), maps, inside)


def pixel_auc(maps: Tensor, region: Tensor) -> Tensor:
    """The chance that a pixel inside `region` (B, H, W) is above one outside, ties half (area under the ROC curve); (B,) in [0, 1].

    The signed maps (B, h, w) are brought to its size. The region is where its value is above 1/2; NaN where that is nowhere or everywhere.
    """
    maps, inside = _flat(maps, region, "pixel_auc")
    order = _Order.of(maps, inside)
    pairs = inside.sum(1).double() * (~inside).sum(1)
    more = torch.where(order.inside, order.below - order.inside_below, 0).sum(1)  # pairs in which what is inside is above
    less = torch.where(order.inside, 0, order.inside_below).sum(1)
    return _where_told(((1 + (more - less) / pairs) / 2).to(maps.dtype), maps, inside)


def average_precision(maps: Tensor, region: Tensor) -> Tensor:
    """The mean, over the pixels inside `region` (B, H, W), of the share inside among all that are at least as high; (B,) in [0, 1].

    The signed maps (B, h, w) are brought to its size. The region is where its value is above 1/2; NaN where that is nowhere or everywhere.
    """
    maps, inside = _flat(maps, region, "average_precision")
    order = _Order.of(maps, inside)
    count = inside.sum(1, keepdim=True)
    precision = (count - order.inside_below).double() / (maps.shape[1] - order.below)
    return _where_told((torch.where(order.inside, precision, 0).sum(1) / count.squeeze(1)).to(maps.dtype), maps, inside)


def _flat(maps: Tensor, region: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Maps at the region's size, in [0, 1] so that a constant one stays constant when it is resized, and what is inside; (B, H W) each."""
    maps, region = paired(maps, region, what)
    return resize(unit_range(maps), size_of(region)).flatten(1), region.flatten(1) > 0.5


def _where_told(scores: Tensor, maps: Tensor, inside: Tensor) -> Tensor:
    """The scores where a region has an inside and an outside and the map is numbers, else NaN."""
    return torch.where(inside.any(1) & ~inside.all(1) & ~maps.isnan().any(1), scores, torch.nan)


class _Order(NamedTuple):
    """Pixels from the lowest to the highest: which are inside, and how many of all, and of those inside, are below each; (B, P) each."""

    inside: Tensor
    below: Tensor
    inside_below: Tensor

    @classmethod
    def of(cls, maps: Tensor, inside: Tensor) -> _Order:
        ordered = Ordered.of(maps)
        inside, below = inside.gather(1, ordered.order), ordered.first()
        return cls(inside, below, (inside.cumsum(1) - inside.long()).gather(1, below))


@dataclasses.dataclass(frozen=True)
class MaskIoU(Metric):
    """IoU of `region` and as many of the highest pixels of the signed map at the image's size.

    NaN where the region is empty or everything. Chance is the IoU where the overlap is what pixels at random have on average, f / (2 - f)
    for a region of the share f of the image.
    """

    name = "mask_iou"
    paper = "Serianni, Zhu, Russakovsky, Ramaswamy: Attention IoU, CVPR 2025 (arXiv:2503.19846), as one of its other scores"
    family = "localisation"

    region: str | None = None

    def chances(self, batch: Batch) -> Tensor:
        """What pixels at random overlap on average, f / (2 - f) for a region of the share f, (B,)."""
        share = _inside(batch, self.region)
        return share / (2 - share)

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        return mask_iou(attribution.maps, region_of(batch, self.region))


@dataclasses.dataclass(frozen=True)
class PixelAUC(Metric):
    """Area under the ROC curve of the signed map, at the image's size, as a way to tell the pixels of `region` from all others.

    The chance that a pixel inside is above one outside, ties half. NaN where the region is empty or everything.
    """

    name = "pixel_auc"
    paper = "Mann, Whitney: On a Test of Whether One of Two Random Variables Is Stochastically Larger, Ann. Math. Stat. 18, 1947"
    family = "localisation"
    chance = 0.5

    region: str | None = None

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        return pixel_auc(attribution.maps, region_of(batch, self.region))


@dataclasses.dataclass(frozen=True)
class AveragePrecision(Metric):
    """The mean share inside `region` among all pixels at least as high, over its pixels, by the signed map at the image's size.

    NaN where the region is empty or everything. Chance is the region's share of the image, which a constant map has.
    """

    name = "average_precision"
    paper = "the area under the precision-recall curve as steps, without interpolation (scikit-learn's definition)"
    family = "localisation"

    region: str | None = None

    def chances(self, batch: Batch) -> Tensor:
        """The region's share of the image, (B,)."""
        return _inside(batch, self.region)

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        return average_precision(attribution.maps, region_of(batch, self.region))


def _inside(batch: Batch, name: str | None) -> Tensor:
    """The share of each image where its region is above 1/2, (B,)."""
    return (region_of(batch, name) > 0.5).float().mean((-2, -1))
