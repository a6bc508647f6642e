"""Versions of images: which pixels are kept when a region, or the box around it, or as much of the same shape elsewhere, is removed."""

from __future__ import annotations

import torch
from torch import Tensor

SHIFTS = ((0, 1), (1, 0), (1, 1), (-1, 1))  # by how many thirds of the image, and by halves, a region is moved
OVERLAP = 0.5  # of a region that may lie where it was for the moved one to be a control


def box_of(region: Tensor) -> Tensor:
    """The smallest upright box around each region; (B, H, W) bool -> (B, H, W) bool, last rows and columns included."""
    down, across = region.any(2), region.any(1)
    return _between(down).unsqueeze(2) & _between(across).unsqueeze(1)


def _between(line: Tensor) -> Tensor:
    """From the first to the last place that is set; (B, L) bool."""
    seen = line.int()
    return (seen.cummax(1).values > 0) & (seen.flip(1).cummax(1).values.flip(1) > 0)


def shifted(region: Tensor) -> tuple[Tensor, Tensor]:
    """Each region moved round the image to where it overlaps its own place least, (B, H, W) bool, and whether that is little, (B,)."""
    height, width = region.shape[-2:]
    moves = [(down * height // part, across * width // part) for part in (2, 3) for down, across in SHIFTS]
    moved = torch.stack([region.roll(move, (1, 2)) for move in moves])
    over = (moved & region).flatten(2).sum(2)
    best = over.argmin(0)
    rows = torch.arange(len(region), device=region.device)
    return moved[best, rows], over[best, rows] <= OVERLAP * region.flatten(1).sum(1)


def kept(region: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What each version keeps, (B, H, W) bool, and of which images there is such a version, (B,): those that have the region."""
    box = box_of(region)
    there = region.flatten(1).any(1)
    moved, apart = shifted(region)
    return {
        "region removed": (~region, there),
        "region only": (region, there),
        "box removed": (~box, there & ~box.flatten(1).all(1)),
        "box only": (box, there),
        "shifted removed": (~moved, there & apart),
        "shifted only": (moved, there & apart),
    }
