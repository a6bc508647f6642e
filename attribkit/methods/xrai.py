"""XRAI: a map of pixels, gathered over regions of the image, the strongest first."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from ..attribution import Explained
from ..batch import Targets
from ..errors import BadInput, Unsupported
from ..maps import resize
from ..registry import AtLeast
from ..segments import Felzenszwalb, Segmenter
from .base import Method, Wrapper
from .integrated_gradients import IntegratedGradients
from .ranking import cover, ranked, selected, swept

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


@dataclasses.dataclass(frozen=True)
class XRAI(Wrapper):
    """Regions of the image, each with the mean of another method's map, taken one by one for the largest mean of what is not yet covered.

    `method` gives the map and `segmenter` the regions, which overlap and are grown by a disk of `dilation` pixels. The "full" algorithm
    looks at all regions anew after each, until more than `area_threshold` of the image is covered; the "fast" one sorts them once. A region
    with fewer than `min_pixels` uncovered pixels is left out, and what is left over at the end is one region. The map sums to what the
    inner one, at the image's size, sums to. Reports `ranks` (B, H, W), int64: 1 where the region with the largest mean is, and so on, the
    left-over last.
    """

    name = "xrai"
    paper = "Kapishnikov, Bolukbasi, Viégas, Terry: XRAI: Better Attributions Through Regions, ICCV 2019 (arXiv:1906.02825)"
    cost = "the inner method's, and the regions, divided in worker processes meanwhile"

    method: Method = IntegratedGradients(steps=100, baseline=("min", "max"), channels="max")
    segmenter: Segmenter = Felzenszwalb()
    algorithm: Literal["full", "fast"] = "full"
    area_threshold: Annotated[float, AtLeast(0)] = 1.0
    min_pixels: Annotated[int, AtLeast(1)] = 50
    dilation: Annotated[int, AtLeast(0)] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.area_threshold > 1:
            raise BadInput(f"XRAI(area_threshold=...): got {self.area_threshold}, allowed: a share of the image, from 0 to 1")

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Explained:
        if not model.pictures:
            raise Unsupported(
                f"XRAI needs a picture to divide, and {model.name} works on {images.shape[1]} channels of a layer; "
                "allowed: XRAI around a method at a layer, not at a layer itself"
            )
        labels = self.segmenter.begun(model.preprocessing.pixels(images))  # which goes on while the model is asked
        values = resize(self.method.explained(model, images, targets).maps, (images.shape[-2], images.shape[-1]))
        if not torch.isfinite(values).all():
            raise BadInput(
                f"XRAI: got a map of {self.method!r} that is not finite, allowed: finite numbers, which regions can be ranked by"
            )
        masks = cover(values, labels(), dilation=self.dilation)
        if self.algorithm == "full":
            taken = selected(masks, area_threshold=self.area_threshold, min_pixels=self.min_pixels)
        else:
            taken = swept(masks, min_pixels=self.min_pixels)
        heat, ranks = ranked(values, taken)
        return Explained(heat.to(values.dtype), {"ranks": ranks})
