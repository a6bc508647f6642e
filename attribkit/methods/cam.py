"""Class activation maps: a layer's channels, weighted by how the score reacts to them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor

from ..batch import Targets
from .base import Method

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


@dataclasses.dataclass(frozen=True)
class OnePass(Method, ABC):
    """A map made of a layer's activations and their gradient; at the layer's resolution, before any ReLU; one hook, `_combined`.

    `layer` is a name of `model.layers`, "input", "middle" or "final" (by default the model's own choice, `model.layer`); tokens of a
    transformer come as their grid. `local` says that a place without gradient has no share in the map, whatever its activations.
    """

    cost = "one forward, and a backward to the layer"
    needs = frozenset({"gradients", "spatial_layer"})
    local: ClassVar[bool] = False

    layer: str | None = None

    @final
    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        return model.activation_map(images, targets, self._combined, self.layer, local=self.local)

    @staticmethod
    @abstractmethod
    def _combined(activations: Tensor, gradients: Tensor) -> Tensor:
        """Maps (b, h, w) of some rows of both, (b, C, h, w)."""


@dataclasses.dataclass(frozen=True)
class GradCAM(OnePass):
    """A layer's channels, each weighted by the mean of its gradient."""

    name = "grad_cam"
    paper = "Selvaraju et al.: Grad-CAM, ICCV 2017 (arXiv:1610.02391)"

    @staticmethod
    def _combined(activations: Tensor, gradients: Tensor) -> Tensor:
        return _weighed(activations, gradients.mean((2, 3)))


@dataclasses.dataclass(frozen=True)
class HiResCAM(OnePass):
    """A layer's activations times their gradient, place by place, summed over channels.

    It sums to the logit where nothing but piecewise linear layers without bias come after the layer.
    """

    name = "hires_cam"
    paper = "Draelos, Carin: Use HiResCAM instead of Grad-CAM for Faithful Explanations, 2020 (arXiv:2011.08891)"
    local = True

    @staticmethod
    def _combined(activations: Tensor, gradients: Tensor) -> Tensor:
        return (gradients * activations).sum(1)


@dataclasses.dataclass(frozen=True)
class GradCAMPlusPlus(OnePass):
    """A layer's channels, each weighted by the positive part of its gradient, places with a large gradient counting less.

    With G the gradient and S a channel's sum, a place counts G^2 / (2 G^2 + S G^3), which is 1 / (2 + S G); where S is negative that has
    a pole, and the denominator keeps its sign and a size of 1e-6. The published factor exp(score), which scales a map as a whole, is left
    out.
    """

    name = "grad_cam_plus_plus"
    paper = "Chattopadhyay, Sarkar, Howlader, Balasubramanian: Grad-CAM++, WACV 2018 (arXiv:1710.11063)"

    @staticmethod
    def _combined(activations: Tensor, gradients: Tensor) -> Tensor:
        # The powers of G cancel: as they stand they underflow for gradients below 1e-15 in float32, and overflow above 1e12. Where G is 0
        # so is its positive part, and the weight with it.
        share = 1 / _off_zero(2 + activations.sum((2, 3), keepdim=True) * gradients, 1e-6)
        return _weighed(activations, (share * gradients.clamp_min(0)).sum((2, 3)))


@dataclasses.dataclass(frozen=True)
class XGradCAM(OnePass):
    """A layer's channels, each weighted by the mean of its gradient, places weighted by their activation.

    The weight of a channel is sum(G A) / sum(A); a sum of activations keeps its sign and a size of at least 1e-7.
    """

    name = "xgrad_cam"
    paper = "Fu et al.: Axiom-based Grad-CAM, BMVC 2020 (arXiv:2008.02312)"

    @staticmethod
    def _combined(activations: Tensor, gradients: Tensor) -> Tensor:
        return _weighed(activations, (gradients * activations).sum((2, 3)) / _off_zero(activations.sum((2, 3)), 1e-7))


@dataclasses.dataclass(frozen=True)
class LayerCAM(OnePass):
    """A layer's activations times the positive part of their gradient, place by place, summed over channels."""

    name = "layer_cam"
    paper = "Jiang, Zhang, Hou, Cheng, Wei: LayerCAM: Exploring Hierarchical Class Activation Maps, TIP 2021 (doi:10.1109/TIP.2021.3089943)"
    local = True

    @staticmethod
    def _combined(activations: Tensor, gradients: Tensor) -> Tensor:
        return (gradients.clamp_min(0) * activations).sum(1)


def _weighed(activations: Tensor, weights: Tensor) -> Tensor:
    """The channels' sum (b, h, w), each channel times its weight (b, C)."""
    return torch.einsum("bc,bchw->bhw", weights, activations)


def _off_zero(values: Tensor, size: float) -> Tensor:
    """The values with a size of at least `size`, and their sign; zero as positive."""
    return torch.where(values < 0, values.clamp_max(-size), values.clamp_min(size))
