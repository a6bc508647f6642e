"""Galleries: maps over their images, each stored once and painted by the browser.

A photograph is stored as JPEG, and a map as an 8-bit PNG at its native grid.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import colours
from .page import Section, visible

IMAGE_SIDE = 320  # pixels; larger photographs are stored reduced, and no map is stored larger than its photograph
MAP_BYTES = 8_000_000  # of all maps of a gallery; beyond, the finest ones are averaged down until they fit


@dataclass(frozen=True, eq=False)
class Item:
    """One image of a gallery: pixels (3, H, W) in [0, 1], what to call it, and its maps (h, w) by the name of their method.

    `regions` names masks (H, W) in [0, 1] that can be shown as outlines.
    """

    image: object
    id: str
    caption: str
    maps: Mapping[str, object]
    regions: Mapping[str, object] = field(default_factory=dict)


def gallery(items: Iterable[Item], *, name: str = "gallery", heading: str = "") -> Section:
    """The section that shows maps over their images; `items` may be a generator, each is encoded as it comes."""
    cards: list[dict[str, Any]] = []
    maps: list[dict[str, _Coded]] = []
    masks: list[dict[str, str]] = []
    for item in items:
        pixels = _reduced(colours.pixels(item.image))
        height, width = pixels.shape[:2]
        cards.append({"id": item.id, "caption": item.caption, "image": _jpeg(pixels), "height": height, "width": width})
        maps.append({method: _code(map_, max(height, width)) for method, map_ in item.maps.items()})
        masks.append({region: _mask(mask, (width, height)) for region, mask in item.regions.items()})
    methods = {method: [row[method] for row in maps if method in row] for method in dict.fromkeys(name for row in maps for name in row)}
    regions = list(dict.fromkeys(name for row in masks for name in row))
    side = _affordable([coded for row in maps for coded in row.values()])
    data = {
        "tables": {table: base64.b64encode(colours.colour_table(table).tobytes()).decode() for table in colours.TABLES},
        "look": {"rise": colours.RISE, "faded": colours.FADED, "opacity": colours.OPACITY},
        "methods": [_shared(method, column) for method, column in methods.items()],
        "regions": [visible(region) for region in regions],
        "items": [
            {
                "maps": [_smaller(row[method], side).json() if method in row else None for method in methods],
                "regions": [outlines.get(region) for region in regions],
            }
            for row, outlines in zip(maps, masks, strict=True)
        ],
    }
    content = {"cards": cards, "methods": list(methods), "regions": regions, "side": side}
    return Section(name, "gallery.html", content, "gallery.js", data, heading)


# From tensors to what a browser reads


class _Coded(NamedTuple):
    """A map as 8-bit codes: 128 + 127 v / limit where it is signed, else 255 v / limit; beyond the limit the outermost code."""

    codes: NDArray[np.uint8]
    scale: colours.Scale
    low: float
    high: float
    note: str

    def json(self) -> dict[str, Any]:
        uri = _uri(Image.fromarray(self.codes), "PNG", optimize=True)
        numbers = {"limit": self.scale.limit, "min": self.low, "max": self.high}
        rounded = {name: float(f"{number:.6g}") for name, number in numbers.items()}
        return {"src": uri, "signed": self.scale.signed, "note": self.note, **rounded}


def _code(map_: object, side: int) -> _Coded:
    values, note = colours.finite(map_)
    low, high = float(values.min()), float(values.max())
    return _recode(_averaged(values, side), low, high, note)


def _recode(values: colours.Values, low: float, high: float, note: str) -> _Coded:
    scale = colours.scale_of([values])
    share = np.clip(values, -scale.limit if scale.signed else 0, scale.limit).astype(np.float64) / scale.limit
    codes = np.rint(128 + 127 * share if scale.signed else 255 * share).astype(np.uint8)
    return _Coded(codes, scale, low, high, note)


def _smaller(coded: _Coded, side: int) -> _Coded:
    """The same map averaged down to `side`, with its codes spread anew."""
    if max(coded.codes.shape) <= side:
        return coded
    codes = coded.codes.astype(np.float32)
    share: colours.Values = (codes - 128) / np.float32(127) if coded.scale.signed else codes / np.float32(255)
    return _recode(_averaged(share * np.float32(coded.scale.limit), side), coded.low, coded.high, coded.note)


def _averaged(values: colours.Values, side: int) -> colours.Values:
    height, width = values.shape
    if max(height, width) <= side:
        return values
    size = (max(1, width * side // max(height, width)), max(1, height * side // max(height, width)))
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))


def _affordable(maps: Sequence[_Coded]) -> int:
    """The longest side at which all maps fit into `MAP_BYTES`, counting a byte a pixel: maps of gradients hardly compress."""
    side = max((max(coded.codes.shape) for coded in maps), default=1)
    while side > 28 and sum(min(side, max(c.codes.shape)) ** 2 * c.codes.size / max(c.codes.shape) ** 2 for c in maps) > MAP_BYTES:
        side = side * 7 // 8
    return side


def _shared(name: str, maps: Sequence[_Coded]) -> dict[str, Any]:
    """What the maps of one method share: a sign, and a scale on which 19 of 20 maps stay within the colours."""
    drawn = [coded.scale.limit for coded in maps if not coded.note.endswith("zero everywhere")]
    limit = float(np.percentile(drawn, 95, method="higher")) if drawn else 1.0
    return {"name": visible(name), "signed": any(coded.scale.signed for coded in maps), "limit": float(f"{limit:.6g}")}


def _reduced(pixels: colours.Pixels) -> colours.Pixels:
    height, width = pixels.shape[:2]
    if max(height, width) <= IMAGE_SIDE:
        return pixels
    share = IMAGE_SIDE / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _mask(mask: object, size: tuple[int, int]) -> str:
    inside = Image.fromarray(colours.finite(mask)[0] > 0.5)
    return _uri(inside.resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)


def _jpeg(pixels: colours.Pixels) -> str:
    return _uri(Image.fromarray(pixels), "JPEG", quality=80)


def _uri(image: Image.Image, kind: str, **how: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
