"""Pages: one HTML file that needs nothing else, neither a network nor the files beside it, and that a later version can add sections to.

A page is a list of `Section`s in one shell (`templates/page.html`), which carries the style and the scripts inside and a content
security policy that lets nothing else run or load: `default-src 'none'`, each script and style by its hash. Every string that reaches a
page is escaped by the template engine, and characters that control, hide or reorder others become visible marks.

In a gallery each photograph is stored once, as JPEG, and each map once, as an 8-bit PNG at its native grid; the browser paints them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from ..errors import BadInput
from ..files import write_whole
from . import drawing

IMAGE_SIDE = 320  # pixels; larger photographs are stored reduced, and no map is stored larger than its photograph
MAP_BYTES = 8_000_000  # of all maps of a gallery; beyond, the finest ones are averaged down until they fit

# Control characters other than white space, the marks that reorder text, and halves of surrogate pairs (from undecodable file names).
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})|https?://[^\s<>&]*[^\s<>&.,;)]")  # in escaped text


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


@dataclass(frozen=True)
class About:
    """What was run: facts (model, preprocessing, versions) by name, methods as (name, repr, paper), failures as (id, reason)."""

    facts: Mapping[str, str] = field(default_factory=dict)
    methods: Sequence[tuple[str, str, str]] = ()
    failures: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a page: the template that shows it, what the template is filled with, and a script with the data that it reads.

    `name` is its id in the page, and each is used once; several sections may share a template and a script.
    """

    name: str
    template: str
    content: Mapping[str, Any]
    script: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    heading: str = ""


def write_page(path: str | Path, sections: Sequence[Section], *, title: str, summary: str = "") -> Path:
    """Write sections as one HTML file; it appears under its name only once it is complete."""
    names = [section.name for section in sections]
    if len(set(names)) < len(names):
        raise BadInput(f"sections: got {names}, allowed: each name once")
    style = _source("page.css")
    scripts = {section.script: _source(section.script) for section in sections if section.script}
    runs = " ".join(map(_hashed, scripts.values())) or "'none'"
    policy = f"default-src 'none'; img-src data:; style-src {_hashed(style)}; script-src {runs}; base-uri 'none'; form-action 'none'"
    # What is marked as safe is made of digests, or stands in files of this package.
    parts = {"policy": Markup(policy), "style": Markup(style), "scripts": [Markup(script) for script in scripts.values()]}
    html = _templates().get_template("page.html").render(title=title, summary=summary, sections=sections, **parts)
    return write_whole(path, html.encode("utf-8", "replace"))


def gallery(items: Iterable[Item], *, name: str = "gallery", heading: str = "") -> Section:
    """The section that shows maps over their images; `items` may be a generator, each is encoded as it comes."""
    cards: list[dict[str, Any]] = []
    maps: list[dict[str, _Coded]] = []
    masks: list[dict[str, str]] = []
    for item in items:
        pixels = _reduced(drawing.pixels(item.image))
        height, width = pixels.shape[:2]
        cards.append({"id": item.id, "caption": item.caption, "image": _jpeg(pixels), "height": height, "width": width})
        maps.append({method: _code(map_, max(height, width)) for method, map_ in item.maps.items()})
        masks.append({region: _mask(mask, (width, height)) for region, mask in item.regions.items()})
    methods = {method: [row[method] for row in maps if method in row] for method in dict.fromkeys(name for row in maps for name in row)}
    regions = list(dict.fromkeys(name for row in masks for name in row))
    side = _affordable([coded for row in maps for coded in row.values()])
    data = {
        "tables": {table: base64.b64encode(drawing.colour_table(table).tobytes()).decode() for table in drawing.TABLES},
        "look": {"rise": drawing.RISE, "faded": drawing.FADED, "opacity": drawing.OPACITY},
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


def visible(text: object) -> str:
    """The text with a mark in place of each character that controls, hides or reorders others."""
    return _UNSEEN.sub("\ufffd", str(text))


# From tensors to what a browser reads


class _Coded(NamedTuple):
    """A map as 8-bit codes: 128 + 127 v / limit where it is signed, else 255 v / limit; beyond the limit the outermost code."""

    codes: NDArray[np.uint8]
    scale: drawing.Scale
    low: float
    high: float
    note: str

    def json(self) -> dict[str, Any]:
        uri = _uri(Image.fromarray(self.codes), "PNG", optimize=True)
        numbers = {"limit": self.scale.limit, "min": self.low, "max": self.high}
        rounded = {name: float(f"{number:.6g}") for name, number in numbers.items()}
        return {"src": uri, "signed": self.scale.signed, "note": self.note, **rounded}


def _code(map_: object, side: int) -> _Coded:
    values, note = drawing.finite(map_)
    low, high = float(values.min()), float(values.max())
    return _recode(_averaged(values, side), low, high, note)


def _recode(values: drawing.Values, low: float, high: float, note: str) -> _Coded:
    scale = drawing.scale_of([values])
    share = np.clip(values, -scale.limit if scale.signed else 0, scale.limit).astype(np.float64) / scale.limit
    codes = np.rint(128 + 127 * share if scale.signed else 255 * share).astype(np.uint8)
    return _Coded(codes, scale, low, high, note)


def _smaller(coded: _Coded, side: int) -> _Coded:
    """The same map averaged down to `side`, with its codes spread anew."""
    if max(coded.codes.shape) <= side:
        return coded
    codes = coded.codes.astype(np.float32)
    share: drawing.Values = (codes - 128) / np.float32(127) if coded.scale.signed else codes / np.float32(255)
    return _recode(_averaged(share * np.float32(coded.scale.limit), side), coded.low, coded.high, coded.note)


def _averaged(values: drawing.Values, side: int) -> drawing.Values:
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


def _reduced(pixels: drawing.Pixels) -> drawing.Pixels:
    height, width = pixels.shape[:2]
    if max(height, width) <= IMAGE_SIDE:
        return pixels
    share = IMAGE_SIDE / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _mask(mask: object, size: tuple[int, int]) -> str:
    inside = Image.fromarray(drawing.finite(mask)[0] > 0.5)
    return _uri(inside.resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)


def _jpeg(pixels: drawing.Pixels) -> str:
    return _uri(Image.fromarray(pixels), "JPEG", quality=80)


def _uri(image: Image.Image, kind: str, **how: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# Templates


@lru_cache
def _templates() -> jinja2.Environment:
    """The templates, with escaping on, and every string that is written made visible."""

    def written(value: object) -> object:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    loader = jinja2.PackageLoader(__package__ or "attribkit.report")
    strict = jinja2.StrictUndefined
    env = jinja2.Environment(loader=loader, autoescape=True, undefined=strict, finalize=written, trim_blocks=True, lstrip_blocks=True)
    env.filters["linked"] = linked
    env.policies["json.dumps_function"] = json.dumps
    env.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return env


def linked(text: str) -> Markup:
    """A citation in which arXiv numbers and addresses are links."""

    def link(found: re.Match[str]) -> str:
        address = f"https://arxiv.org/abs/{found[1]}" if found[1] else found[0]
        return f'<a href="{address}" rel="noreferrer">{found[0]}</a>'

    return Markup(_PAPER.sub(link, str(escape(visible(text)))))


@lru_cache
def _source(name: str) -> str:
    """A file of the templates as it stands, with the line ends that a browser hashes."""
    file = resources.files(__package__ or "attribkit.report") / "templates" / name
    return file.read_text("utf-8").replace("\r\n", "\n")


def _hashed(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
