"""One gradient: how the score reacts to each pixel, alone or times the pixel."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from ..batch import Targets
from .base import Method

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


@dataclasses.dataclass(frozen=True)
class Gradient(Method):
    """The gradient of the score; a pixel's three channels give their sum (signed), largest absolute value, or Euclidean norm."""

    name = "gradient"
    paper = "Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks, 2013 (arXiv:1312.6034)"
    cost = "one forward and backward"
    needs = frozenset({"gradients"})

    channels: Literal["sum", "max_abs", "norm"] = "sum"

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        gradient = model.gradient(images, targets)
        if self.channels == "sum":
            return gradient.sum(1)
        return gradient.abs().amax(1) if self.channels == "max_abs" else gradient.norm(dim=1)


@dataclasses.dataclass(frozen=True)
class InputXGradient(Method):
    """The gradient times the normalised input, summed over channels: exact for a linear model."""

    name = "input_x_gradient"
    paper = "Shrikumar, Greenside, Shcherbina, Kundaje: Not Just a Black Box, 2016 (arXiv:1605.01713)"
    cost = "one forward and backward"
    needs = frozenset({"gradients"})

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        return (model.gradient(images, targets) * images).sum(1)
