"""What a metric's random numbers begin with."""

from __future__ import annotations

import zlib

from torch import Tensor

from ..noise import keys


def keys_of(use: str, images: Tensor, seed: int, *, pictures: bool = True) -> Tensor:
    """As `keys`, for one `use` alone, int64 (B,): under one seed no metric draws what a method, or another use, draws of the same image.

    A control such as `RandomMap` would otherwise be scored by parts of the image that its own values chose.
    """
    return keys(images, seed, zlib.crc32(use.encode()), pictures=pictures)
