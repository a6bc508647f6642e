"""Functions on maps alone, (B, h, w) -> (B, h, w): the only place where a map is resized, clipped or normalised."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import BadInput


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps at `size` (H, W), bilinear, without antialiasing; unchanged where they have that size."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if len(size) != 2 or min(size) < 1:
        raise BadInput(f"resize(size=...): got {tuple(size)}, allowed: (H, W), each at least 1")
    return F.interpolate(maps.unsqueeze(1), size=tuple(size), mode="bilinear", align_corners=False).squeeze(1)


def resize_transposed(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The transpose of `resize`: a sum's gradient in maps of `size` (h, w), given that in their resized form; (B, H, W) -> (B, h, w)."""
    down, across = (_resizing(before, after, maps) for before, after in zip(size, maps.shape[-2:], strict=True))
    return down.T @ (maps @ across)


def _resizing(before: int, after: int, like: Tensor) -> Tensor:
    """What `resize` does along one side, as a matrix (after, before)."""
    return resize(torch.eye(before, dtype=like.dtype, device=like.device).unsqueeze(0), (after, before))[0]


def positive(maps: Tensor) -> Tensor:
    """Evidence for the target only: negative values become 0."""
    return maps.clamp_min(0)


def unit_sum(maps: Tensor) -> Tensor:
    """Each map divided by its sum of absolute values; an all-zero map stays zero."""
    total = maps.abs().sum((-2, -1), keepdim=True)
    return maps / torch.where(total > 0, total, torch.ones_like(total))


def unit_max(maps: Tensor) -> Tensor:
    """Each map divided by its largest absolute value, so signs and zero stay; an all-zero map stays zero."""
    top = maps.abs().amax((-2, -1), keepdim=True)
    return maps / torch.where(top > 0, top, torch.ones_like(top))


def unit_range(maps: Tensor) -> Tensor:
    """Each map shifted and scaled to [0, 1]; a constant map becomes zero."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    return (maps - low) / torch.where(span > 0, span, torch.ones_like(span))


def halved(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps in half precision, (B, h, w) float16, each in units (B,) of its own, a power of 2, so that the largest value is 1 to 2.

    A map that is not finite keeps its units: 1.
    """
    top = maps.abs().amax((-2, -1)).float()
    known = (top > 0) & top.isfinite()
    top = torch.where(known, top, torch.ones_like(top))
    units = top / (2 * torch.frexp(top).mantissa)  # exact, also of subnormal numbers, as a logarithm would not be
    return (maps / units.view(-1, 1, 1)).half(), units


def doubled(maps: Tensor, units: Tensor) -> Tensor:
    """What `halved` made, in single precision; the largest numbers of which, rounded up, would be none."""
    made, largest = maps.float() * units.view(-1, 1, 1), torch.finfo(torch.float32).max
    return torch.where(maps.isfinite(), made.clamp(-largest, largest), made)


def ranks(maps: Tensor) -> Tensor:
    """The rank of each pixel in its map, 0 for the smallest, as int64; ties in row-major order."""
    flat = maps.flatten(1)
    order = flat.argsort(dim=1, stable=True)
    places = torch.arange(flat.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(maps.shape)


def smooth(maps: Tensor, kernel: int) -> Tensor:
    """Maps under a Gaussian window of `kernel` x `kernel` pixels (odd), sigma = kernel / 4, zero beyond the border (arXiv:2303.11884)."""
    if kernel < 1 or kernel % 2 == 0:
        raise BadInput(f"smooth(kernel=...): got {kernel}, allowed: an odd number of pixels")
    at = torch.arange(kernel, device=maps.device, dtype=maps.dtype) - kernel // 2
    window = torch.exp(-8 * (at / kernel) ** 2)
    window = window / window.sum()
    blurred = F.conv2d(maps.unsqueeze(1), window.view(1, 1, -1, 1), padding=(kernel // 2, 0))
    return F.conv2d(blurred, window.view(1, 1, 1, -1), padding=(0, kernel // 2)).squeeze(1)
