"""Each region of an image, scored by removing it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..batch import Targets
from ..removals.base import Removal
from ..removals.fill import Blur
from ..removals.layer_masking import LayerMask
from ..segments import Segmenter, Squares
from .base import Method
from .perturbation import Gaps, score_drops

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


@dataclasses.dataclass(frozen=True)
class RegionRemoval(Method):
    """What the score loses without the region that a pixel lies in; the mean over divisions, and 0 for a pixel that is in no region.

    Every pixel of a region has the value of the whole region, however large it is. `segmenter` divides the image, and `removal` takes the
    regions away.
    """

    name = "region_removal"
    paper = "Robnik-Sikonja, Kononenko: Explaining Classifications for Individual Instances, IEEE TKDE 20(5), 2008"
    cost = "a forward per region, and one of the image"
    needs = frozenset({"logits"})

    removal: Removal = Blur()
    segmenter: Segmenter = Squares()

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        return region_drops(model, images, targets, self.removal, self.segmenter)


@dataclasses.dataclass(frozen=True)
class LayerMasking(Method):
    """As `RegionRemoval`, by layer masking: the network never sees the region, nor a colour or an edge in its place.

    `masking` says how a network's layers leave a region out, and `segmenter` divides the image.
    """

    name = "layer_masking"
    paper = "Balasubramanian, Feizi: Towards Improved Input Masking for Convolutional Neural Networks, ICCV 2023 (arXiv:2211.14646)"
    cost = "a masked forward per region, and one of the image"
    needs = frozenset({"logits"})

    segmenter: Segmenter = Squares()
    masking: LayerMask = LayerMask()

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        return region_drops(model, images, targets, self.masking, self.segmenter)


def region_drops(model: VisionModel, images: Tensor, targets: Targets, removal: Removal, segmenter: Segmenter) -> Tensor:
    """What the score loses without each pixel's region, the mean over the divisions in which it lies in one, else 0; (B, H, W)."""
    labels = segmenter(_pictures(model, images))
    count, divisions = labels.shape[:2]
    inside = labels >= 0
    # The regions that there are, of all images, in one row: an image with few of them leaves no gap. How many is for the host to know.
    division = torch.arange(count * divisions, device=labels.device).view(count, divisions, 1, 1)
    found, number = torch.unique((division * 2**32 + labels)[inside], return_inverse=True)
    region = torch.full_like(labels, -1).masked_scatter(inside, number).flatten(0, 1)
    division, own = found >> 32, torch.arange(len(found), device=labels.device).view(-1, 1, 1)
    gaps = Gaps(division // divisions, lambda rows: region[division[rows]] != own[rows])
    drops = score_drops(model, images, targets, removal, gaps)
    total = drops.new_zeros(labels.shape).masked_scatter(inside, drops[number]).sum(1)
    return total / inside.sum(1).clamp_min(1)


def _pictures(model: VisionModel, images: Tensor) -> Tensor:
    """What a segmenter looks at, in [0, 1]; of activations, which have no colours, the mean over channels, each image's range in full."""
    if model.pictures:
        return model.preprocessing.pixels(images)
    mean = images.mean(1, keepdim=True)
    low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    return ((mean - low) / (high - low).clamp_min(torch.finfo(mean.dtype).tiny)).expand(-1, 3, -1, -1)
