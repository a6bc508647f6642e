"""Dividing an image into regions: `Segmenter`, label maps of pictures, made beside whatever else runs."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from .registry import AtLeast, Settings, Table

SEGMENTERS: Table[Segmenter] = Table("segmenter")


class Segmenter(Settings, ABC):
    """A way to divide pictures into regions: a frozen dataclass of plain settings, and one hook, `_labels`.

    It gives label maps (B, L, H, W), int64: L divisions of every picture, in each of which a label (a whole number from 0) is a region.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    table: ClassVar[Table[Any]] = SEGMENTERS

    @final
    def __call__(self, pixels: Tensor) -> Tensor:
        """Label maps (B, L, H, W) of pictures (B, 3, H, W) in [0, 1], on their device."""
        return self.begun(pixels)()

    @final
    def begun(self, pixels: Tensor) -> Callable[[], Tensor]:
        """Begin to divide the pictures; what is returned waits for the label maps and gives them."""
        pictures = [np.ascontiguousarray(picture) for picture in pixels.permute(0, 2, 3, 1).float().cpu().numpy()]
        return lambda: torch.from_numpy(np.stack([self._labels(picture) for picture in pictures])).to(pixels.device, torch.int64)

    @abstractmethod
    def _labels(self, picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Label maps (L, H, W) of one picture, (H, W, 3) float32 in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Squares(Segmenter):
    """Squares of `side` pixels, row by row from the upper left; those at the right and lower border may be cut."""

    name = "squares"
    paper = "Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, ECCV 2014 (arXiv:1311.2901)"

    side: Annotated[int, AtLeast(1)] = 16

    def _labels(self, picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        height, width = picture.shape[:2]
        down, across = np.arange(height) // self.side, np.arange(width) // self.side
        labels: np.ndarray[Any, Any] = down[:, None] * (across[-1] + 1) + across
        return labels[None]
