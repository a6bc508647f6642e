"""The embedded models: small networks trained on the planted scenes, each with a shortcut of known strength in its training images.

`shortcut-S` and `tag-S` are one residual CNN, trained where the background or the tag agreed with the object in S % of the images;
`vit-95` is a tiny ViT for the background at 95 %. The weights lie in `planted_weights/`, float16 for the CNN's and the ViT's
matrices alike (that is how they were trained to the end: loading gives float32), and are made by `benchmarks/train_planted.py`.
"""

from __future__ import annotations

import importlib.resources
from typing import Final

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UnknownName

SIZE: Final = 96
MEAN: Final = (0.5, 0.5, 0.5)
STD: Final = (0.25, 0.25, 0.25)
CLASSES: Final = ("fish", "bird")
STRENGTHS: Final = (50, 60, 70, 80, 90, 95, 100)
PLANTED: Final[tuple[str, ...]] = (*(f"{kind}-{strength}" for kind in ("shortcut", "tag") for strength in STRENGTHS), "vit-95")


class Residual(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm around a shortcut; the first may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + self.down(x))  # type: ignore[no-any-return]


class PlantedCNN(nn.Module):
    """A residual CNN of 113 thousand weights whose last stage keeps 12 x 12 places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layer1 = Residual(16, 24, 2)
        self.layer2 = Residual(24, 48, 2)
        self.layer3 = Residual(48, 64)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 2) logits."""
        features = self.layer3(self.layer2(self.layer1(self.stem(images))))
        return self.head(self.pool(features).flatten(1))  # type: ignore[no-any-return]
