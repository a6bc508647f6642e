"""How a value becomes a colour, the same in every figure and on every page.

Maps with negative values are painted with a diverging table, red for and blue against the target, 0 white; maps without are painted from 0
upwards with a sequential one. The end of the scale is the 99.5th percentile of the absolute values, so that one pixel of a heavy-tailed
gradient does not blank all the others; what lies beyond takes the end's colour, and the colour bar then says "≥". Laid over a photograph,
which turns grey, a value is the more opaque the larger it is and 0 is transparent; under a signed map the photograph is faded as well, so
that red and blue stand out where it is dark.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import BadInput, UnknownName
from ..maps import resize

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]

PERCENTILE = 99.5
# Matplotlib's inferno and cividis, and its RdBu_r without the outermost tenth of each arm, which is nearly black.
TABLES = ("diverging", "inferno", "cividis", "grey")
OPACITY, RISE = 0.9, 0.7  # of a value at the end of the scale; smaller ones have OPACITY * (value / end) ** RISE
FADED = 0.6  # the contrast that a photograph keeps under a signed map


class Scale(NamedTuple):
    """From value to colour: the end of the scale, whether it runs below zero too, and whether values lie beyond it."""

    limit: float
    signed: bool
    clipped: bool = False


@lru_cache
def colour_table(name: str) -> Pixels:
    """The 256 colours (256, 3) of a table: diverging (entries 1 ... 255 around 128, which is zero), inferno, cividis, grey."""
    if name not in TABLES:
        raise UnknownName("colour table", name, TABLES)
    if name == "grey":
        colours = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
    else:
        stored = json.loads((resources.files(__package__ or "attribkit.report") / "templates" / "colours.json").read_text("utf-8"))
        colours = np.frombuffer(base64.b64decode(stored[name]), np.uint8).reshape(256, 3)
    colours.flags.writeable = False  # it is shared
    return colours


def pixels(image: object) -> Pixels:
    """An image (3, H, W) or (H, W, 3), tensor or array in [0, 1] or uint8, as (H, W, 3) uint8; grey ones may have one channel."""
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim == 3 and array.shape[-1] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise BadInput(f"image: got {tuple(array.shape)}, allowed: (3, H, W) or (H, W, 3)")
    if array.dtype != np.uint8:
        array = np.rint(np.nan_to_num(array.astype(np.float32)).clip(0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def stretched(image: Tensor) -> Tensor:
    """A normalised image (3, H, W) for display, where mean and std are not known: its 0.5th percentile becomes 0, its 99.5th 1."""
    image = image.detach().to("cpu", torch.float32).nan_to_num(0.0, 0.0, 0.0)
    low, high = (float(end) for end in np.percentile(image.numpy(), (100 - PERCENTILE, PERCENTILE)))
    return (image.double() - low).div(max(high - low, 1e-12)).clamp(0, 1).float()


def finite(map_: object) -> tuple[Values, str]:
    """A map as a (h, w) float32 array in which what is not finite became 0, and what a reader must be told about it, if anything."""
    values = np.asarray(map_.detach().to("cpu", torch.float32).numpy() if isinstance(map_, Tensor) else map_)
    if values.ndim != 2 or 0 in values.shape:
        raise BadInput(f"map: got {tuple(values.shape)}, allowed: (h, w)")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    bad = ~np.isfinite(values)
    count = int(bad.sum())
    notes = [f"{count} value{'s are' if count > 1 else ' is'} not finite"] if count else []
    good = values[~bad]
    if good.size and not good.any():
        notes.append("map is zero everywhere")
    elif good.size and good.min() == good.max():
        notes.append("map is constant")
    return np.where(bad, np.float32(0), values), "; ".join(notes)


def scale_of(maps: Sequence[Values], limit: float | None = None) -> Scale:
    """The scale that these finite maps share: up to `limit`, or to their 99.5th percentile."""
    if limit is not None and not (np.isfinite(limit) and limit > 0):
        raise BadInput(f"limit: got {limit}, allowed: a positive number")
    flat = np.concatenate([values.ravel() for values in maps]) if maps else np.zeros(1, np.float32)
    sizes = np.abs(flat)
    top = float(sizes.max())
    # "higher" takes a value that is there: on a 7x7 grid the largest itself, not something between the two largest.
    end = limit or float(np.percentile(sizes, PERCENTILE, method="higher")) or top
    # Rounding leaves values like -1e-9 in maps that have no negative evidence.
    return Scale(end or 1.0, bool(flat.min() < -1e-6 * top), top > end > 0)


def painted(values: Values, scale: Scale, under: Pixels | None = None) -> Pixels:
    """The colours of a map, alone or, resized bilinearly, over an image."""
    if under is not None:
        values = resize(torch.from_numpy(values)[None], (under.shape[0], under.shape[1]))[0].numpy()
    share = np.clip(values, -scale.limit if scale.signed else 0, scale.limit).astype(np.float64) / scale.limit
    if under is None:
        return _coloured(share, signed=scale.signed)
    grey = under.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    alpha = OPACITY * np.abs(share) ** RISE
    if scale.signed:  # from half way up each arm of the table: the tints below it are nearly white, which transparency already says
        grey, share = 255 - FADED * (255 - grey), np.sign(share) * (0.5 + 0.5 * np.abs(share))
    colours = _coloured(share, signed=scale.signed)
    laid: Pixels = np.rint(grey[..., None] + alpha[..., None] * (colours - grey[..., None])).astype(np.uint8)
    return laid


def _coloured(share: NDArray[np.float64], *, signed: bool) -> Pixels:
    """The table's colours for shares of the scale, -1 to 1 or 0 to 1."""
    codes = np.rint(128 + 127 * share if signed else 255 * share).astype(np.uint8)
    colours: Pixels = colour_table("diverging" if signed else "inferno")[codes]
    return colours
