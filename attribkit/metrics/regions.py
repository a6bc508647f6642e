"""Maps and regions side by side: checked, and a region as a coarser grid sees it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import BadInput


def floating(maps: Tensor, what: str) -> Tensor:
    """Maps (B, h, w) in single or double precision; `what` asks, for the message if they are something else."""
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise BadInput(f"{what}: got maps of shape {tuple(maps.shape)}, allowed: (B, h, w)")
    return maps if maps.dtype in (torch.float32, torch.float64) else maps.float()


def paired(maps: Tensor, region: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Maps (B, h, w) and the regions (B, H, W) of the same images, in the maps' precision and on their device."""
    maps = floating(maps, what)
    if region.ndim != 3 or len(region) != len(maps) or 0 in region.shape[1:]:
        raise BadInput(f"{what}: got a region of shape {tuple(region.shape)}, allowed: ({len(maps)}, H, W), as there are {len(maps)} maps")
    return maps, region.to(maps)


def size_of(maps: Tensor) -> tuple[int, int]:
    """The (H, W) of maps (B, H, W)."""
    return maps.shape[-2], maps.shape[-1]


def overlaps(parts: int, pixels: int, device: torch.device) -> Tensor:
    """How much of each of `pixels` in a row lies in each of `parts` equal parts of it, (parts, pixels) in [0, 1], double precision."""
    borders = torch.arange(parts + 1, device=device, dtype=torch.float64) * pixels / parts
    at = torch.arange(pixels, device=device, dtype=torch.float64)
    inside: Tensor = torch.minimum(borders[1:, None], at + 1) - torch.maximum(borders[:-1, None], at)
    return inside.clamp_min(0)


def shrunk(region: Tensor, size: tuple[int, int]) -> Tensor:
    """The share of each cell of a grid of `size` (h, w) that a region (B, H, W) fills; also where the sides do not divide."""
    if size_of(region) == size:
        return region
    down, across = (overlaps(cells, pixels, region.device) * cells / pixels for cells, pixels in zip(size, region.shape[-2:], strict=True))
    return (down @ region.double() @ across.T).to(region.dtype)


def fraction(region: Tensor) -> Tensor:
    """The share of the image that a region (B, H, W) fills, (B,)."""
    return region.float().mean((-2, -1))
