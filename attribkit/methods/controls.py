"""Maps that know nothing of the model: the floor that every method has to beat, and one that knows the answer, the ceiling."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Explained
from ..batch import Batch, Targets
from ..errors import Unsupported
from ..noise import keys, uniform
from ..registry import AtLeast
from .base import Method

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


@dataclasses.dataclass(frozen=True)
class RandomMap(Method):
    """Independent uniform values in [0, 1), one per pixel: a draw that depends on `seed` and on the image's content alone."""

    name = "random_map"
    paper = "a control: uniform noise"
    cost = "nothing"
    signed = False

    seed: Annotated[int, AtLeast(0)] = 0

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        height, width = images.shape[-2:]
        return uniform(keys(images, self.seed, pictures=model.pictures), height * width).view(-1, height, width)


@dataclasses.dataclass(frozen=True)
class CentreMap(Method):
    """A Gaussian in the middle of the image, its standard deviation a quarter of each side: photographers centre their subjects."""

    name = "centre_map"
    paper = "a control: the centre of the image"
    cost = "nothing"
    signed = False

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        down, across = (torch.linspace(-2, 2, 2 * side + 1, device=images.device)[1::2] for side in images.shape[-2:])
        centre: Tensor = torch.exp(-(down.square().unsqueeze(1) + across.square()) / 2)
        return centre.repeat(len(images), 1, 1)


@dataclasses.dataclass(frozen=True)
class EdgeMap(Method):
    """How much the brightness changes at each pixel (Sobel): an edge detector, which many a saliency map resembles."""

    name = "edge_map"
    paper = "a control: Adebayo et al.: Sanity Checks for Saliency Maps, NeurIPS 2018 (arXiv:1810.03292)"
    cost = "nothing"
    signed = False

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        sobel = grey.new_tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 8
        slopes = F.conv2d(grey, torch.stack((sobel, sobel.T)).unsqueeze(1))
        slope: Tensor = torch.linalg.vector_norm(slopes, dim=1)
        return slope


@dataclasses.dataclass(frozen=True)
class Oracle(Method):
    """The batch's own `region`, as if it were a map: what a method would score that knew where the evidence is said to be."""

    name = "oracle"
    paper = "a control: the mask itself"
    cost = "nothing"
    signed = False

    region: str

    def _explain(self, model: VisionModel, batch: Batch) -> Explained:
        return Explained(batch.region(self.region).float(), {})

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        raise Unsupported(
            f"{self!r} knows the masks of images, not of what is made from them; allowed: by itself, not inside another method"
        )
