"""Charts of scores image by image: box plots and curves."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadInput
from .charts import (
    COLOURS,
    FAINT,
    GREY,
    NOTES,
    ROW,
    SMALL,
    chance_line,
    colour_of,
    foot,
    foot_height,
    headline,
    is_control,
    label_width,
    wrapped,
    write_name,
)
from .drawing import EDGE, Axes, Figure, Sheet
from .scales import Numbers, number, span_of, ticks
from .spreads import band_of, box_of, curves_of, scores_of

DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (4.0, 1.5)), (0, (1.0, 1.0)), (0, (4.0, 1.5, 1.0, 1.5)))
WIDTH, BETWEEN = 2.0, 0.25  # inches: of a panel of boxes, between two
BOXES = (
    "box: median and quartiles",
    "whiskers: up to 1.5 times the box",
    "dots: images beyond",
    "broken line: a map that says nothing",
    "grey: controls",
)


# Box plots


def box_figure(
    scores: Mapping[str, Mapping[str, ArrayLike]], *, title: str = "", label: str = "", chance: float | Mapping[str, float] | None = None
) -> Figure:
    """A panel for each layer or problem, a box for each method: median, quartiles, whiskers of 1.5 times the box, and what lies beyond.

    `scores` has for each panel each method's scores (N,), one per image; those that are NaN are left out. Panels share one axis, `label`
    says of what; `chance` is the score of a map that says nothing, in all panels or by their names.
    """
    methods = list(dict.fromkeys(method for panel in scores.values() for method in panel))
    if not methods:
        raise BadInput("box_figure: got no scores, allowed: at least one method in one panel")
    known = {name: {each: scores_of(found, f"box_figure({each})") for each, found in panel.items()} for name, panel in scores.items()}
    chances = {name: number(chance.get(name) if isinstance(chance, Mapping) else chance) for name in scores}
    span = span_of([end for panel in known.values() for values in panel.values() for end in values] + list(chances.values()))
    columns, names = min(3, len(scores)), label_width(methods)
    height, head = ROW * len(methods), EDGE + 0.3 * bool(title)
    below = -(-len(scores) // columns) * (height + 0.6) + 0.2 * bool(label)
    across = 2 * EDGE + names + columns * (WIDTH + BETWEEN)
    notes = wrapped(BOXES, across)
    sheet = Sheet(across, head + below + foot_height(notes))
    headline(sheet, title)
    for place, (name, panel) in enumerate(known.items()):
        left, top = EDGE + names + place % columns * (WIDTH + BETWEEN), head + place // columns * (height + 0.6) + 0.3
        sheet.text(left + WIDTH / 2, top - 0.13, name, room=WIDTH, ha="center", weight="bold")
        axes = sheet.plot((left, top, WIDTH, height), span, (-0.5, len(methods) - 0.5), ticks(*span, most=4))
        chance_line(axes, chances[name], len(methods))
        for row, method in enumerate(methods):
            middle = top + (row + 0.5) * ROW
            if place % columns == 0:
                write_name(sheet, method, (EDGE, middle, names - 0.1))
            if len(panel.get(method, ())):
                _box(axes, row, panel[method], colour_of(method))
            else:
                sheet.text(left + WIDTH / 2, middle, "no scores", fontsize=NOTES, color=FAINT, ha="center")
    if label:
        sheet.text(EDGE + names + columns * (WIDTH + BETWEEN) / 2, head + below - 0.22, label, room=columns * WIDTH, ha="center")
    foot(sheet, notes)
    return sheet.figure


def _box(axes: Axes, row: int, values: Numbers, colour: str) -> None:
    low, middle, high, ends, far = box_of(values)
    line: dict[str, Any] = {"color": colour, "linestyle": "-", "marker": "", "solid_capstyle": "butt"}
    for start, end in ((ends[0], low), (high, ends[1])):
        axes.plot((start, end), (row, row), linewidth=1.0, **line)
    x, y = (low, high, high, low), (row - 0.32, row - 0.32, row + 0.32, row + 0.32)
    axes.fill(x, y, facecolor=f"{colour}40", edgecolor=colour, linewidth=1.0)
    axes.plot((middle, middle), (row - 0.32, row + 0.32), linewidth=2.0, **line)
    axes.plot(far, np.full(len(far), row), color=colour, linestyle="", marker="o", markersize=2, markeredgewidth=0, alpha=0.5)


# Curves


def curve_figure(
    curves: Mapping[str, ArrayLike], *, title: str = "", across: str = "share of the image removed", up: str = "score of the target"
) -> Figure:
    """A line for each method: the mean of its curves (N, K), one per image at K even steps from 0 to 1, in a band of its 95 % interval.

    The interval is that of a normal distribution, mean +- 1.96 standard errors; curves with a value that is not finite are left out.
    """
    if not curves:
        raise BadInput("curve_figure: got no curves, allowed: at least one method")
    known = {method: curves_of(values, f"curve_figure({method})") for method, values in curves.items()}
    bands = {method: band_of(values) for method, values in known.items() if len(values)}
    span = span_of([end for band in bands.values() for part in band for end in part])
    names = label_width(curves)
    width, height, head = 4.2, max(2.8, ROW * len(curves)), EDGE + 0.3 * bool(title)
    left, top = EDGE + 0.65, head + 0.1
    sheet = Sheet(left + width + 0.2 + 0.4 + names + EDGE, top + height + 0.5)
    headline(sheet, title)
    axes = sheet.plot((left, top, width, height), (0, 1), (span[1], span[0]), ticks(0, 1))
    for tick in ticks(*span, most=7):
        axes.plot((0, 1), (tick, tick), color="#e3e3e3", linewidth=0.7, linestyle="-", marker="", zorder=0)
        y = top + height * (span[1] - tick) / (span[1] - span[0])
        sheet.text(left - 0.06, y, f"{tick:.6g}".replace("-", "−"), fontsize=SMALL, color=FAINT, ha="right")
    sheet.text(left + width / 2, top + height + 0.3, across, room=width, ha="center")
    sheet.text(EDGE + 0.07, top + height / 2, up, room=height, ha="center", rotation=90)
    keys = sheet.plot((left + width + 0.2, top, 0.32, ROW * len(curves)), (0, 1), (-0.5, len(curves) - 0.5))
    for row, ((method, values), look) in enumerate(zip(known.items(), _looks(curves), strict=True)):
        at = (left + width + 0.6, top + (row + 0.5) * ROW, names)
        write_name(sheet, method if len(values) else f"{method}: no curve", at)
        if len(values):
            mean, low, high = bands[method]
            x = np.linspace(0, 1, len(mean))
            axes.fill_between(x, low, high, facecolor=look["color"], alpha=0.15, linewidth=0)
            axes.plot(x, mean, **look)
            keys.plot((0, 1), (row, row), **look)
    return sheet.figure


def _looks(methods: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Colour and dashes of each method's line, no two the same among 28; controls are grey, told apart by their dashes."""
    greys, others = itertools.count(), itertools.count()
    for method in methods:
        place = next(greys) if is_control(method) else next(others)
        colour = GREY if is_control(method) else COLOURS[place % len(COLOURS)]
        dash = DASHES[(place if is_control(method) else place // len(COLOURS)) % len(DASHES)]
        yield {"color": colour, "linestyle": dash, "linewidth": 1.5, "marker": ""}
