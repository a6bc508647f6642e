"""In-fills of OpenCV and scikit-image: on the host, one image at a time. Both libraries mark what is missing, not what is kept."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, final

import numpy as np
import torch
from torch import Tensor

from ..errors import Unavailable, Unsupported
from ..registry import AtLeast
from .base import InFill

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

Picture = np.ndarray[Any, np.dtype[np.float64]]


class _OnHost(InFill, ABC):
    """An in-fill of one picture at a time; its hook is `_painted`."""

    batched = False
    runs_on = "the host"

    @final
    def _filling(self, model: VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        if not model.pictures:
            raise Unsupported(f"{self!r} paints pictures, and {model.name} works on {images.shape[1]} channels; allowed: 3")
        mean, std = (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (model.mean, model.std))
        pictures = images.double().cpu() * std + mean
        filled = [self._one(picture, kept, mean) for picture, kept in zip(pictures, keep.cpu(), strict=True)]
        return ((torch.stack(filled) - mean) / std).to(images)

    def _one(self, picture: Tensor, keep: Tensor, mean: Tensor) -> Tensor:
        """The picture painted, (3, H, W); the mean colour where there is nothing to paint, or nothing to paint it from."""
        if keep.all() or not keep.any():
            return mean.expand_as(picture)
        shown = torch.where(keep, picture, 0).permute(1, 2, 0).contiguous()
        return torch.from_numpy(self._painted(shown.numpy(), ~keep.numpy())).permute(2, 0, 1)

    @abstractmethod
    def _painted(self, picture: Picture, missing: np.ndarray[Any, np.dtype[np.bool_]]) -> Picture:
        """A picture (H, W, 3), colours in [0, 1], with what is missing (H, W) painted; both are float64."""


@dataclasses.dataclass(frozen=True)
class Telea(_OnHost):
    """OpenCV's fast marching from the gap's border inwards, from what is known within `radius` pixels, in 8 bits; zeros without any."""

    name = "telea"
    paper = "Telea: An Image Inpainting Technique Based on the Fast Marching Method, Journal of Graphics Tools 2004"

    radius: Annotated[float, AtLeast(1)] = 3.0

    def _painted(self, picture: Picture, missing: np.ndarray[Any, np.dtype[np.bool_]]) -> Picture:
        return _by_opencv(picture, missing, self.radius, "INPAINT_TELEA")


@dataclasses.dataclass(frozen=True)
class NavierStokes(_OnHost):
    """OpenCV's flow that carries edges into the gap, from what is known within `radius` pixels, in 8 bits; zeros without any."""

    name = "navier_stokes"
    paper = "Bertalmio, Bertozzi, Sapiro: Navier-Stokes, Fluid Dynamics, and Image and Video Inpainting, CVPR 2001"

    radius: Annotated[float, AtLeast(1)] = 3.0

    def _painted(self, picture: Picture, missing: np.ndarray[Any, np.dtype[np.bool_]]) -> Picture:
        return _by_opencv(picture, missing, self.radius, "INPAINT_NS")


@dataclasses.dataclass(frozen=True)
class Biharmonic(_OnHost):
    """scikit-image's surface of least bending over a gap: continuous in slope too, and slow for large ones; zeros without any."""

    name = "biharmonic"
    paper = "Damelin, Hoang: On Surface Completion and Image Inpainting by Biharmonic Functions, IJMMS 2018"

    def _painted(self, picture: Picture, missing: np.ndarray[Any, np.dtype[np.bool_]]) -> Picture:
        from skimage.restoration import inpaint_biharmonic

        painted: Picture = inpaint_biharmonic(picture, missing, channel_axis=-1)
        return painted


def _by_opencv(picture: Picture, missing: np.ndarray[Any, np.dtype[np.bool_]], radius: float, how: str) -> Picture:
    try:
        import cv2
    except ImportError as error:
        raise Unavailable(
            f"Telea and NavierStokes need OpenCV, and `import cv2` says: {error}; allowed: one of its wheels, as by "
            "pip install --force-reinstall opencv-python-headless"
        ) from error
    bits = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
    painted: Picture = cv2.inpaint(bits, missing.astype(np.uint8), radius, getattr(cv2, how)).astype(np.float64) / 255
    return painted
