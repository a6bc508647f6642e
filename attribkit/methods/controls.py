"""Maps that know nothing of the model: the floor that every method has to beat."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Targets
from ..registry import AtLeast
from .base import Method

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

_PRIME = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class RandomMap(Method):
    """Independent uniform values in [0, 1), one per pixel: a draw that depends on `seed` and on the image's content alone."""

    name = "random_map"
    paper = "a control: uniform noise"
    signed = False

    seed: Annotated[int, AtLeast(0)] = 0

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        height, width = images.shape[-2:]
        places = torch.arange(height * width, device=images.device)
        # A counter-based generator, since one with a state would tie an image's map to its place in the batch.
        state = _mixed(_mixed(_content(images) + self.seed % _PRIME).unsqueeze(1) + places)
        return (_mixed(state).to(torch.float64) / 2**32).float().clamp_max(1 - 2**-24).view(-1, height, width)


@dataclasses.dataclass(frozen=True)
class CentreMap(Method):
    """A Gaussian in the middle of the image, its standard deviation a quarter of each side: photographers centre their subjects."""

    name = "centre_map"
    paper = "a control: the centre of the image"
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
    signed = False

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        sobel = grey.new_tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 8
        slopes = F.conv2d(grey, torch.stack((sobel, sobel.T)).unsqueeze(1))
        slope: Tensor = torch.linalg.vector_norm(slopes, dim=1)
        return slope


def _content(images: Tensor) -> Tensor:
    """A number below 2^31 for each image, from the bits of its values; int64 (B,)."""
    bits = images.float().contiguous().view(torch.int32).flatten(1).to(torch.int64) & _PRIME
    factors = _mixed(torch.arange(1, bits.shape[1] + 1, device=images.device)) & _PRIME
    return (bits * factors % _PRIME).sum(1) % _PRIME


def _mixed(numbers: Tensor) -> Tensor:
    """int64 -> int64 in [0, 2^32), each bit of the input stirred into all bits of the output (two rounds of xor, shift, multiply)."""
    numbers = numbers & 0xFFFFFFFF
    for factor in (0x7FEB352D, 0x846CA68B & 0x7FFFFFFF):
        numbers = ((numbers ^ (numbers >> 16)) * factor) & 0xFFFFFFFF
    return numbers ^ (numbers >> 15)
