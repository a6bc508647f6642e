"""How a layer's output lies over the image: channels first, channels last, or a sequence of patch tokens; and as a grid."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

PREFIXES = range(9)  # class, distillation and register tokens that may stand before the patch tokens


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the rows, columns and channels of a layer's output are; `prefix` tokens stand before the patches."""

    kind: Literal["channels_first", "channels_last", "tokens"]
    height: int
    width: int
    prefix: int = 0

    def channels(self, output: Tensor) -> int:
        """How many channels the output has."""
        return output.shape[{"channels_first": 1, "channels_last": 3, "tokens": 2}[self.kind]]

    @property
    def rows(self) -> int:
        """The rows of the whole grid: those of the image, and below them as many as the tokens that stand before the patches fill."""
        return self.height - (-self.prefix // self.width)

    def to_grid(self, output: Tensor, *, whole: bool = False) -> Tensor:
        """The output as (B, C, h, w), a view where possible; `whole` with what stands before the patches: (B, C, rows, w)."""
        if self.kind == "channels_first":
            return output
        if self.kind == "channels_last":
            return output.permute(0, 3, 1, 2)
        patches = output[:, self.prefix :].transpose(1, 2)
        if not whole or not self.prefix:
            return patches.reshape(len(output), -1, self.height, self.width)
        before = output[:, : self.prefix].transpose(1, 2)
        empty = before.new_zeros(*before.shape[:2], (self.rows - self.height) * self.width - self.prefix)
        return torch.cat((patches, before, empty), 2).reshape(len(output), -1, self.rows, self.width)

    def from_grid(self, grid: Tensor) -> Tensor:
        """The output whose whole grid (B, C, rows, w) this is."""
        if self.kind == "channels_first":
            return grid
        if self.kind == "channels_last":
            return grid.permute(0, 2, 3, 1).contiguous()
        cells, patches = grid.flatten(2).transpose(1, 2), self.height * self.width
        return torch.cat((cells[:, patches : patches + self.prefix], cells[:, :patches]), 1).contiguous()


def layout(shape: tuple[int, ...], image: tuple[int, int], patch: tuple[int, int] | None = None) -> Layout | None:
    """How an output of `shape` (with batch) lies over images of size `image` (H, W); None where it is not spatial.

    The grid has the aspect of the image: its steps down and across are alike, so a non-square image tells rows from columns and
    channels. `patch` (h, w) is the size of a patch where the model declares it.
    """
    if len(shape) == 4:
        first, last = Layout("channels_first", *shape[2:]), Layout("channels_last", *shape[1:3])
        fitting = [each for each in (first, last) if _spans(each, image)]
        return min(fitting, key=lambda each: _skew(each, image), default=None)
    if len(shape) == 3:
        return _token_layout(shape[1], image, patch)
    return None


def _spans(grid: Layout, image: tuple[int, int]) -> bool:
    """A grid has more than one cell, no more than the image has pixels, and steps that differ by rounding at most."""
    height, width = grid.height, grid.width
    if height * width < 2 or height > image[0] or width > image[1]:
        return False
    if image[0] == image[1]:
        return height == width
    # Paddings and roundings of strided layers move a side by a cell or so; small grids move most.
    return abs(height - width * image[0] / image[1]) <= 1 + 0.1 * height


def _skew(grid: Layout, image: tuple[int, int]) -> float:
    return abs(math.log(image[0] / grid.height) - math.log(image[1] / grid.width))


def _token_layout(count: int, image: tuple[int, int], patch: tuple[int, int] | None) -> Layout | None:
    if patch is not None:
        height, width = image[0] // patch[0], image[1] // patch[1]
        if height * width >= 2 and count - height * width in PREFIXES:
            return Layout("tokens", height, width, count - height * width)
    for prefix in PREFIXES:
        height = round(math.sqrt(max(count - prefix, 0) * image[0] / image[1]))
        if height and (count - prefix) % height == 0 and count - prefix >= 4:
            grid = Layout("tokens", height, (count - prefix) // height, prefix)
            # Exactly the image's aspect: a sequence gives no other sign of being a grid.
            if height * image[1] == grid.width * image[0]:
                return grid
    return None
