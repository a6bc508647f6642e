"""How much information a picture holds: the length of its lossless WebP file, or what a coder of its kind would need at least."""

from __future__ import annotations

import io
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput, Unavailable

# Where the surroundings of a pixel change from one kind to the next: how much they differ among themselves, in 1/255.
_UNEVEN = (1, 3, 7, 13, 25, 45, 80)


def webp_size(pixels: Tensor) -> Tensor:
    """The bytes of each picture (R, 3, H, W) uint8 as a lossless WebP, (R,) float32; written on the host, by a thread a processor."""
    pictures = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        sizes = list(threads.map(_webp_bytes, pictures))
    return torch.tensor(sizes, dtype=torch.float32, device=pixels.device)


def _webp_bytes(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    from PIL import Image, features

    if not features.check("webp"):
        raise Unavailable("estimator='webp': this Pillow cannot write WebP; allowed: one that can, or estimator='entropy'")
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="webp", lossless=True, quality=100)
    return file.tell()


def entropy_size(pixels: Tensor) -> Tensor:
    """About the bytes that a lossless coder needs for each picture (R, 3, H, W) uint8, (R,) float32; on the pictures' device.

    The entropy of what is left of each value once its left and upper neighbours have predicted it (the median rule of JPEG-LS), red and
    blue as their differences to green; counted apart for eight kinds of surroundings, from even to uneven.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != torch.uint8:
        raise BadInput(f"pictures: got {tuple(pixels.shape)} {pixels.dtype}, allowed: (R, 3, H, W) uint8")
    red, green, blue = pixels.to(torch.int64).unbind(1)
    values = torch.stack((red - green, green, blue - green), 1)
    own, left = values[..., 1:, 1:], values[..., 1:, :-1]
    above, corner = values[..., :-1, 1:], values[..., :-1, :-1]
    low, high = torch.minimum(left, above), torch.maximum(left, above)
    rest = (own - (left + above - corner).clamp(low, high)) % 256
    kind = torch.bucketize((left - corner).abs() + (above - corner).abs(), torch.tensor(_UNEVEN, device=pixels.device))
    place, kinds = (256 * kind + rest).flatten(2), len(_UNEVEN) + 1
    counts = torch.zeros(*place.shape[:2], 256 * kinds, device=pixels.device, dtype=torch.float64)
    counts = counts.scatter_add_(2, place, counts.new_ones(()).expand(place.shape)).view(-1, 3, kinds, 256)
    nats: Tensor = torch.special.xlogy(counts, counts.sum(-1, keepdim=True) / counts.clamp_min(1)).sum((1, 2, 3))
    return (nats / (8 * math.log(2))).float()
