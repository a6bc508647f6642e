"""Galleries: maps over their images, each stored once and painted by the browser, with what they scored."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import colours
from .coding import Coded, affordable, coded_map, coded_mask, fitting, photograph, reduced, shared_scale, smaller
from .page import Section, visible

IMAGE_SIDE = 320  # pixels; larger photographs are stored reduced, and no map is stored larger than its photograph
MAP_BYTES = 8_000_000  # of all maps of a gallery; beyond, the finest ones are averaged down until they fit
PHOTOGRAPHS = 0.6  # of the bytes of a gallery that must not be larger
EACH_MAP = 260  # bytes of a map beside its pixels


@dataclass(frozen=True, eq=False)
class Item:
    """One image of a gallery: pixels (3, H, W) in [0, 1], what to call it, and its maps (h, w) by the name of their method.

    `regions` names masks (H, W) in [0, 1] that can be shown as outlines; `scores` has for each metric the score of each method.
    """

    image: object
    id: str
    caption: str
    maps: Mapping[str, object]
    regions: Mapping[str, object] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How a gallery is laid out: which metrics are better when `higher`, which methods are `controls`, and how many bytes it may take."""

    higher: Mapping[str, bool] = field(default_factory=dict)
    controls: frozenset[str] = frozenset()
    budget: int | None = None


@dataclass(frozen=True, eq=False)
class _Read:
    """What was read of the images, one entry each in every list."""

    cards: list[dict[str, Any]] = field(default_factory=list)
    maps: list[dict[str, Coded]] = field(default_factory=list)
    masks: list[dict[str, str]] = field(default_factory=list)
    scores: list[Mapping[str, Mapping[str, float]]] = field(default_factory=list)

    def add(self, item: Item) -> None:
        """Encode one."""
        pixels = reduced(colours.pixels(item.image), IMAGE_SIDE)
        height, width = pixels.shape[:2]
        self.cards.append({"id": item.id, "caption": item.caption, "image": photograph(pixels), "height": height, "width": width})
        self.maps.append({method: coded_map(map_, max(height, width)) for method, map_ in item.maps.items()})
        self.masks.append({region: coded_mask(mask, (width, height)) for region, mask in item.regions.items()})
        self.scores.append(item.scores)

    def room(self, budget: int | None) -> int:
        """Bytes that the pixels of maps may take; within a budget, photographs are made smaller where they take most of it."""
        if budget is None:
            return MAP_BYTES
        images, sizes = fitting([card["image"] for card in self.cards], int(budget * PHOTOGRAPHS))
        for card, image, (width, height) in zip(self.cards, images, sizes, strict=True):
            card.update(image=image, width=width, height=height)
        taken = sum(map(len, images)) + sum(len(mask) for row in self.masks for mask in row.values())
        return (budget - taken - EACH_MAP * sum(map(len, self.maps))) * 3 // 4  # of base64

    def names(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """What the rows have entries for, in the order in which it came."""
        return list(dict.fromkeys(name for row in rows for name in row))

    def numbers(self, metrics: Sequence[str], methods: Sequence[str]) -> list[list[list[float | None]]]:
        """For each image and metric the score of each method, None where there is none."""
        return [[[_rounded(own.get(metric, {}).get(method)) for method in methods] for metric in metrics] for own in self.scores]


def gallery(items: Iterable[Item], *, name: str = "gallery", heading: str = "", plan: Plan | None = None) -> Section:
    """The section that shows maps over their images; `items` may be a generator, each is encoded as it comes."""
    plan, read = plan or Plan(), _Read()
    for item in items:
        read.add(item)
    methods, regions, metrics = read.names(read.maps), read.names(read.masks), read.names(read.scores)
    scored = read.names(of for own in read.scores for of in own.values())
    side = affordable([coded for row in read.maps for coded in row.values()], read.room(plan.budget))
    data = {
        "tables": {table: base64.b64encode(colours.colour_table(table).tobytes()).decode() for table in colours.TABLES},
        "look": {"rise": colours.RISE, "faded": colours.FADED, "opacity": colours.OPACITY},
        "methods": [shared_scale(method, [row[method] for row in read.maps if method in row]) for method in methods],
        "regions": [visible(region) for region in regions],
        "metrics": [{"name": visible(metric), "higher": plan.higher.get(metric, True)} for metric in metrics],
        "scored": [{"name": visible(each), "control": each in plan.controls} for each in scored],
        "items": [
            {
                "maps": [smaller(row[method], side).json() if method in row else None for method in methods],
                "regions": [outlines.get(region) for region in regions],
                "scores": own,
            }
            for row, outlines, own in zip(read.maps, read.masks, read.numbers(metrics, scored), strict=True)
        ],
    }
    content = {
        "cards": read.cards,
        "methods": methods,
        "regions": regions,
        "side": side,
        "metrics": metrics,
        "scored": scored,
        "note": "",
        "back": "",
        "compared": len(set(scored) - plan.controls),
    }
    return Section(name, "gallery.html", content, "gallery.js", data, heading)


def _rounded(score: float | None) -> float | None:
    return None if score is None or not math.isfinite(score) else float(f"{score:.4g}")
