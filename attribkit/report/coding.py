"""From tensors to what a browser reads: photographs as JPEG, maps as 8-bit PNG at their native grid, masks as PNG of one bit a pixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import colours
from .page import visible

SMALLEST = 96  # pixels of a photograph's longer side, below which it shows nothing


class Coded(NamedTuple):
    """A map as 8-bit codes: 128 + 127 v / limit where it is signed, else 255 v / limit; beyond the limit the outermost code."""

    codes: NDArray[np.uint8]
    scale: colours.Scale
    low: float
    high: float
    note: str

    def json(self) -> dict[str, Any]:
        """What the script of a gallery reads."""
        uri = uri_of(Image.fromarray(self.codes), "PNG", optimize=True)
        numbers = {"limit": self.scale.limit, "min": self.low, "max": self.high}
        rounded = {name: float(f"{number:.6g}") for name, number in numbers.items()}
        return {"src": uri, "signed": self.scale.signed, "note": self.note, **rounded}


def coded_map(map_: object, side: int) -> Coded:
    """A map (h, w), averaged down where it is larger than `side`."""
    values, note = colours.finite(map_)
    low, high = float(values.min()), float(values.max())
    return _recode(averaged(values, side), low, high, note)


def _recode(values: colours.Values, low: float, high: float, note: str) -> Coded:
    scale = colours.scale_of([values])
    share = np.clip(values, -scale.limit if scale.signed else 0, scale.limit).astype(np.float64) / scale.limit
    codes = np.rint(128 + 127 * share if scale.signed else 255 * share).astype(np.uint8)
    return Coded(codes, scale, low, high, note)


def smaller(coded: Coded, side: int) -> Coded:
    """The same map averaged down to `side`, with its codes spread anew."""
    if max(coded.codes.shape) <= side:
        return coded
    codes = coded.codes.astype(np.float32)
    share: colours.Values = (codes - 128) / np.float32(127) if coded.scale.signed else codes / np.float32(255)
    return _recode(averaged(share * np.float32(coded.scale.limit), side), coded.low, coded.high, coded.note)


def averaged(values: colours.Values, side: int) -> colours.Values:
    """A map (h, w) whose longer side is at most `side`."""
    height, width = values.shape
    if max(height, width) <= side:
        return values
    size = (max(1, width * side // max(height, width)), max(1, height * side // max(height, width)))
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))


def affordable(maps: Sequence[Coded], room: int) -> int:
    """The longest side at which all maps fit into `room` bytes, counting a byte a pixel: maps of gradients hardly compress."""
    side = max((max(coded.codes.shape) for coded in maps), default=1)
    while side > 28 and sum(min(side, max(c.codes.shape)) ** 2 * c.codes.size / max(c.codes.shape) ** 2 for c in maps) > room:
        side = side * 7 // 8
    return side


def shared_scale(name: str, maps: Sequence[Coded]) -> dict[str, Any]:
    """What the maps of one method share: a sign, and a scale on which 19 of 20 maps stay within the colours."""
    drawn = [coded.scale.limit for coded in maps if not coded.note.endswith("zero everywhere")]
    limit = float(np.percentile(drawn, 95, method="higher")) if drawn else 1.0
    return {"name": visible(name), "signed": any(coded.scale.signed for coded in maps), "limit": float(f"{limit:.6g}")}


def reduced(pixels: colours.Pixels, most: int) -> colours.Pixels:
    """A photograph whose longer side is at most `most`."""
    height, width = pixels.shape[:2]
    if max(height, width) <= most:
        return pixels
    share = most / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def coded_mask(mask: object, size: tuple[int, int]) -> str:
    """A mask (H, W), brought to `size` (width, height), as a picture of one bit a pixel."""
    inside = Image.fromarray(colours.finite(mask)[0] > 0.5)
    return uri_of(inside.resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)


def photograph(pixels: colours.Pixels) -> str:
    """A photograph as JPEG."""
    return uri_of(Image.fromarray(pixels), "JPEG", quality=80)


def uri_of(image: Image.Image, kind: str, **how: Any) -> str:
    """A picture as an address that holds all of it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def fitting(addresses: Sequence[str], room: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Photographs, made smaller until all of them fit into `room` bytes or are as small as `SMALLEST`; with their (width, height)."""
    kept = list(addresses)
    images = [opened(each) for each in kept]
    side = max((max(image.size) for image in images), default=0)
    while side > SMALLEST and sum(map(len, kept)) > room:
        side = max(SMALLEST, side * 7 // 8)
        kept = [photograph(reduced(np.asarray(opened(each)), side)) for each in addresses]
    return kept, [opened(each).size for each in kept]


def opened(address: str) -> Image.Image:
    """The picture that an address holds."""
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
