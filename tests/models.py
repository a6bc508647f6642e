"""Networks that tests share: those that the public contract is checked with, and more of a kind that has broken some tool."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attribkit.testing.networks import HALF as HALF
from attribkit.testing.networks import SIZE as SIZE
from attribkit.testing.networks import WRAPS as WRAPS
from attribkit.testing.networks import Block as Block
from attribkit.testing.networks import ChannelsLastCNN as ChannelsLastCNN
from attribkit.testing.networks import Dead as Dead
from attribkit.testing.networks import FlattenedCNN as FlattenedCNN
from attribkit.testing.networks import GapCNN as GapCNN
from attribkit.testing.networks import Hungry as Hungry
from attribkit.testing.networks import InplaceCNN as InplaceCNN
from attribkit.testing.networks import InplaceInput as InplaceInput
from attribkit.testing.networks import LinearModel as LinearModel
from attribkit.testing.networks import Pair as Pair
from attribkit.testing.networks import Raising as Raising
from attribkit.testing.networks import Recorded as Recorded
from attribkit.testing.networks import ReluCNN as ReluCNN
from attribkit.testing.networks import ResidualCNN as ResidualCNN
from attribkit.testing.networks import SingleLogit as SingleLogit
from attribkit.testing.networks import TinyViT as TinyViT
from attribkit.testing.networks import ToLast as ToLast
from attribkit.testing.networks import Wrapped as Wrapped
from attribkit.testing.networks import adapted as adapted
from attribkit.testing.networks import shaken as shaken


class DeadLogit(GapCNN):
    """As `GapCNN`, but nothing influences logit 0, which is always 1."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return torch.cat([torch.ones_like(logits[:, :1]), logits[:, 1:]], 1)


class Reused(nn.Module):
    """Calls `conv` twice: "conv" alone is ambiguous, "conv:0" and "conv:1" are not."""

    def __init__(self, classes: int = 5, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.unused = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(self.conv(self.stem(images)).tanh()).mean((2, 3)))
