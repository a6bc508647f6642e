"""Attention-IoU: how much a map overlaps a region, or the same method's map for another class."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch, Targets
from ..errors import BadInput
from ..maps import positive, resize, unit_max, unit_range
from .base import Anew, Explain, Metric, region_of
from .regions import floating, paired, size_of

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

_PAPER = "Serianni, Zhu, Russakovsky, Ramaswamy: Attention IoU, CVPR 2025 (arXiv:2503.19846)"


def attention_iou(a: Tensor, b: Tensor) -> Tensor:
    """The overlap of two maps as shares of their sums, `<a, b> / |(a + b) / 2|^2`; (B, H, W) twice -> (B,) in [0, 1].

    1 where one is a multiple of the other, 0 where they share no pixel. Values below zero count as zero; a map with none above has NaN.
    """
    if a.shape != b.shape:
        raise BadInput(f"attention_iou: got {tuple(a.shape)} and {tuple(b.shape)}, allowed: (B, H, W) twice")
    one, other = (unit_max(positive(floating(maps, "attention_iou"))).flatten(1) for maps in (a, b))
    return _overlap((one * other).sum(1), one.square().sum(1), other.square().sum(1), one.sum(1) / other.sum(1))


def attention_iou_pairs(maps: Tensor) -> Tensor:
    """`attention_iou` of every two of an image's maps, by one Gram matrix an image; (B, L, h, w) -> (B, L, L).

    It is the bare formula, on maps as they are given: values below zero count as zero, and nothing is shifted or resized. For the heatmap
    scores of all pairs, as `HeatmapIoU` has them, give it `unit_range(resize(unit_range(positive(maps)), size))` of maps (B, h, w) for each
    of the L classes, by the functions of `attribkit.maps`, at the `size` (H, W) of the image.
    """
    if maps.ndim != 4:
        raise BadInput(f"attention_iou_pairs: got {tuple(maps.shape)}, allowed: (B, L, h, w)")
    each = unit_max(positive(floating(maps.flatten(0, 1), "attention_iou_pairs"))).view(*maps.shape[:2], -1)
    gram, sums = each @ each.mT, each.sum(2)
    size = gram.diagonal(dim1=1, dim2=2)
    return _overlap(gram, size.unsqueeze(2), size.unsqueeze(1), sums.unsqueeze(2) / sums.unsqueeze(1))


def _overlap(product: Tensor, one: Tensor, other: Tensor, ratio: Tensor) -> Tensor:
    """The score from `<a, b>`, `|a|^2`, `|b|^2` and `sum a / sum b`; a map of zeros makes it 0 / 0 or 0 times infinity, which is NaN."""
    return (4 * product / (one / ratio + other * ratio + 2 * product)).clamp_max(1)


@dataclasses.dataclass(frozen=True)
class AttentionIoU(Metric):
    """The mask score: the overlap of the map's positive part and `region`, each as shares of its sum.

    What is positive is shifted and scaled to [0, 1], then compared at the size of the region ("mask", as published), or the region is
    sampled at the map's own grid ("map"). An image whose region is `empty` scores 0, as published, or is skipped by NaN; a map that is
    constant where it is not negative has NaN. Chance is the score of a uniform map, 4 / (3 + 1 / f) for the share f of the image; at the
    map's own grid f depends on that, and there is no such number.
    """

    name = "attention_iou"
    paper = _PAPER
    family = "localisation"

    region: str | None = None
    resolution: Literal["mask", "map"] = "mask"
    empty: Literal["zero", "skip"] = "zero"

    def chances(self, batch: Batch) -> Tensor | None:
        """The score of a uniform map, (B,); None at resolution "map", which depends on the map's grid, and that the batch does not know."""
        region = region_of(batch, self.region).float()
        if self.resolution == "map":
            return None
        return self._or_empty(attention_iou(torch.ones_like(region), region), region)

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        maps, region = paired(attribution.maps, region_of(batch, self.region), "AttentionIoU")
        if self.resolution == "map":
            region = resize(region, size_of(maps))
        return self._or_empty(attention_iou(_prepared(maps, size_of(region)), region), region)

    def _or_empty(self, scores: Tensor, region: Tensor) -> Tensor:
        return torch.where(region.amax((-2, -1)) > 0, scores, 0 if self.empty == "zero" else torch.nan)


@dataclasses.dataclass(frozen=True)
class HeatmapIoU(Anew):
    """The heatmap score: the overlap of the map and the same method's map for the class `other`, an index or a name.

    Both are prepared as for the mask score, and compared at the size of the image ("image", as published) or at their own grid ("map").
    High overlap with a class such as a protected attribute says that the model looks at the same place for both; an image whose target
    is `other` has 1. NaN where either map is constant where it is not negative, or not finite.
    """

    name = "heatmap_iou"
    paper = _PAPER
    family = "localisation"
    higher_is_better = False
    cost = "the method's"

    other: int | str = 0
    resolution: Literal["image", "map"] = "image"

    def _compared(self, model: VisionModel, batch: Batch, attribution: Attribution, explain: Explain) -> Tensor:
        index = torch.full_like(batch.targets.index, model.target(self.other))
        others = explain(model, dataclasses.replace(batch, targets=Targets(index, batch.targets.kind))).maps
        size = size_of(attribution.maps if self.resolution == "map" else batch.images)
        scores = attention_iou(_prepared(attribution.maps, size), _prepared(others, size))
        return torch.where(others.flatten(1).isfinite().all(1), scores, torch.nan)


def _prepared(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The positive part in [0, 1] at `size`; once more in [0, 1], since between pixels a map need not come down to its minimum."""
    found = unit_range(positive(maps))
    return found if size_of(found) == size else unit_range(resize(found, size))
