"""Images with nothing of the original in them: what an uninformed pixel looks like, whatever is kept around it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnknownName, Unsupported
from ..noise import keys, normal, uniform
from ..registry import AtLeast
from .base import Fill, InFill

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

FillKind = Literal["zero", "black", "white", "grey", "min", "max", "blur", "noise"]
FILLS: tuple[FillKind, ...] = get_args(FillKind)

# The strongest blur that is still a picture: 1/20 of the longer side leaves colours and loses every part of an object.
_BLUR_SHARE = 0.05
_LEVELS = {"black": 0.0, "grey": 0.5, "white": 1.0}


def fill(kind: FillKind, model: VisionModel, images: Tensor, *, seed: int = 0) -> Tensor:
    """What stands for "no information" in normalised images; (B, 3, H, W) -> (B, 3, H, W).

    "zero": the mean colour the model was trained with; "black", "grey", "white"; "min", "max": the smallest and largest value of the
    image, in every channel; "blur": the image under a Gaussian of 1/20 of its longer side, its border repeated; "noise": one draw of
    uniform pixels from `seed`, the same for every image.
    """
    if kind not in FILLS:
        raise UnknownName("fill", kind, FILLS)
    if kind == "zero":
        return torch.zeros_like(images)
    if kind == "blur":
        return blurred(images, _BLUR_SHARE * max(images.shape[-2:]))
    if kind in ("min", "max"):
        end = images.amin((1, 2, 3), keepdim=True) if kind == "min" else images.amax((1, 2, 3), keepdim=True)
        return end.expand_as(images)
    if kind == "noise":
        # Drawn on the host, so that every device gets the same numbers.
        pixels = torch.rand(1, *images.shape[1:], generator=torch.Generator().manual_seed(seed % 2**63)).to(images)
    else:
        pixels = images.new_full((1, 3, 1, 1), _LEVELS[kind])
    return normalised(model, images, pixels, f"the fill {kind!r}").expand_as(images)


def normalised(model: VisionModel, images: Tensor, pixels: Tensor, what: str) -> Tensor:
    """Pixels in [0, 1] as the model is shown them; `Unsupported` where its inputs are activations, which have no colours."""
    if not model.pictures:
        raise Unsupported(
            f"{what} is a colour, and {model.name} works on {images.shape[1]} channels; allowed: 'zero', 'min', 'max', 'blur'"
        )
    mean, std = (images.new_tensor(each).view(1, 3, 1, 1) for each in (model.mean, model.std))
    return (pixels - mean) / std


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images under a Gaussian of `sigma` pixels, cut at 3 sigma, with their border repeated; two passes of one dimension each."""
    reach = math.ceil(3 * sigma)
    at = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    down = F.pad(images, (0, 0, reach, reach), mode="replicate")
    down = F.conv2d(down, kernel.unsqueeze(3), groups=images.shape[1])
    across = F.pad(down, (reach, reach, 0, 0), mode="replicate")
    return F.conv2d(across, kernel.unsqueeze(2), groups=images.shape[1])


@dataclasses.dataclass(frozen=True)
class Constant(Fill):
    """One colour: "zero" is the mean colour the model was trained with, and "grey" half of white."""

    name = "constant"
    paper = "Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, ECCV 2014 (arXiv:1311.2901)"

    colour: Literal["zero", "black", "grey", "white"] = "zero"

    def _whole(self, model: VisionModel, images: Tensor) -> Tensor:
        return fill(self.colour, model, images)


@dataclasses.dataclass(frozen=True)
class ImageMean(Fill):
    """The mean colour of the image itself, of all its pixels."""

    name = "image_mean"
    paper = "Ribeiro, Singh, Guestrin: Why Should I Trust You?, KDD 2016 (arXiv:1602.04938)"
    sees_removed = True

    def _whole(self, model: VisionModel, images: Tensor) -> Tensor:
        return images.mean((2, 3), keepdim=True).expand_as(images)


@dataclasses.dataclass(frozen=True)
class Blur(Fill):
    """The image under a Gaussian whose `sigma` is a share of its longer side (11 pixels of 224), its border repeated."""

    name = "blur"
    paper = "Fong, Vedaldi: Interpretable Explanations of Black Boxes by Meaningful Perturbation, ICCV 2017 (arXiv:1704.03296)"
    sees_removed = True

    sigma: Annotated[float, AtLeast(0.001)] = _BLUR_SHARE

    def _whole(self, model: VisionModel, images: Tensor) -> Tensor:
        return blurred(images, self.sigma * max(images.shape[-2:]))


@dataclasses.dataclass(frozen=True)
class Noise(Fill):
    """Uniform noise in the range of colours: one draw from `seed`, the same for every image."""

    name = "noise"
    paper = "Fong, Vedaldi: Interpretable Explanations of Black Boxes by Meaningful Perturbation, ICCV 2017 (arXiv:1704.03296)"

    seed: Annotated[int, AtLeast(0)] = 0

    def _whole(self, model: VisionModel, images: Tensor) -> Tensor:
        return fill("noise", model, images, seed=self.seed)


@dataclasses.dataclass(frozen=True)
class RandomColour(InFill):
    """A random colour with Gaussian noise in every pixel, drawn anew for each `keep`, from what it keeps and from `seed`.

    `noise` is the standard deviation, where colours are in [0, 1].
    """

    name = "random_colour"
    paper = "Chang, Creager, Goldenberg, Duvenaud: Explaining Image Classifiers by Counterfactual Generation, ICLR 2019 (arXiv:1807.08024)"

    noise: Annotated[float, AtLeast(0)] = 0.2
    seed: Annotated[int, AtLeast(0)] = 0

    def _filling(self, model: VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        # Of the place in the batch, and of what is removed, the draw must know nothing.
        key = keys(keep, self.seed)
        colour = uniform(key, 3).view(-1, 3, 1, 1).to(images)
        grain = normal(key + 1, 3 * keep[0].numel()).view(-1, 3, *keep.shape[1:]).to(images)
        return normalised(model, images, (colour + self.noise * grain).clamp(0, 1), "a random colour")
