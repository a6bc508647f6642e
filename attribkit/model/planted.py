"""The embedded models: small networks trained on the planted scenes, each with a shortcut of known strength in its training images.

`shortcut-S` and `tag-S` are one residual CNN, trained where the background or the tag agreed with the object in S % of the images;
`vit-95` is a tiny ViT for the background at 95 %. `benchmarks/train_planted.py` makes their weights. The files keep matrices in
float16 and vectors (biases, BatchNorm, LayerNorm) in float32; a loaded model is float32 throughout.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
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
    """Two 3 x 3 convolutions with BatchNorm beside a 1 x 1 one; the first may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        inner: Tensor = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(inner + self.down(x))
        return out


class PlantedCNN(nn.Module):
    """A residual CNN of 110 thousand weights whose last stage keeps 12 x 12 places."""

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
        logits: Tensor = self.head(self.pool(features).flatten(1))
        return logits


class Attention(nn.Module):
    """Self-attention of all tokens, in several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, C) -> (B, 1 + N, C)."""
        rows, count, width = tokens.shape
        query, key, value = self.qkv(tokens).view(rows, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(rows, count, width))
        return mixed


class Block(nn.Module):
    """Attention, then two layers for each token by itself; the norms come first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, C) -> (B, 1 + N, C)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class PlantedViT(nn.Module):
    """A ViT of 122 thousand weights: 12 x 12 patches and a class token, three blocks, read off the class token."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.patch_size = 8
        self.patch_embed = nn.Conv2d(3, width, self.patch_size, self.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + (SIZE // self.patch_size) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 96, 96) -> (B, 2) logits."""
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.norm(tokens)[:, 0])
        return logits


def blank_module(name: str) -> nn.Module:
    """The network of that name, untrained."""
    if name not in PLANTED:
        raise UnknownName("planted model", name, PLANTED)
    return PlantedViT() if name.startswith("vit") else PlantedCNN()


def planted_module(name: str) -> nn.Module:
    """The network of that name with its weights, in float32 and eval mode."""
    module = blank_module(name)
    stored = importlib.resources.files(__package__).joinpath("planted_weights", f"{name}.safetensors").read_bytes()
    module.load_state_dict(safetensors.torch.load(stored))
    return module.eval()


def stored_weights(module: nn.Module) -> Mapping[str, Tensor]:
    """A module's state as the files keep it: matrices in float16, everything else as it is."""
    halved = {name: tensor.half() if tensor.ndim >= 2 else tensor for name, tensor in module.state_dict().items()}
    return {name: tensor.contiguous() for name, tensor in halved.items()}
