"""Class activation maps: a layer's channels, weighted by how the score reacts to them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..batch import Targets
from .base import Method

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


@dataclasses.dataclass(frozen=True)
class GradCAM(Method):
    """A layer's channels, each weighted by the mean of its gradient; at the layer's resolution, before any ReLU.

    `layer` is a name of `model.layers` (by default the model's own choice, `model.layer`); tokens of a transformer come as their grid.
    """

    name = "grad_cam"
    paper = "Selvaraju et al.: Grad-CAM, ICCV 2017 (arXiv:1610.02391)"
    cost = "one forward, and a backward to the layer"
    needs = frozenset({"gradients", "spatial_layer"})

    layer: str | None = None

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        return model.activation_map(images, targets, _weighed, self.layer)


def _weighed(activations: Tensor, gradients: Tensor) -> Tensor:
    return torch.einsum("bc,bchw->bhw", gradients.mean((2, 3)), activations)
