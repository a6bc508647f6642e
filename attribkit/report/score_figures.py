"""Pictures of scores: a leaderboard, box plots, curves, and the mean maps of grids from the best explained to the worst.

Colours are Okabe and Ito's, which people with any colour vision tell apart; methods that only say what a score means (random, centre,
edge, oracle) are grey everywhere, and a broken line marks the score of a map that says nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BadInput
from .aggregated import PERCENTS, Aggregated
from .drawing import EDGE, FONT, GAP, Axes, Box, Figure, Sheet, Span, painted, scale_of, ticks

if TYPE_CHECKING:
    from ..scores import Summary

Numbers = NDArray[np.float64]
Place = tuple[str, str, str]  # problem, model, metric

CONTROLS = ("RandomMap(", "CentreMap(", "EdgeMap(", "Oracle(")
GREY, FAINT, INK = "#8a8a8a", "#666666", "#222222"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES: tuple[str | tuple[int, tuple[float, float]], ...] = ("-", (0, (4.0, 1.5)), (0, (1.0, 1.0)))
ROW, POINTS, SMALL = 0.2, 7.5, 7.0  # inches from one line of a table to the next; sizes of letters
SIDE = 1.25  # inches: the longer side of a mean map


def is_control(method: str) -> bool:
    """Whether a method is one of those that only say what a score means."""
    return f"{method}(".startswith(CONTROLS)


# AggAtt


def agg_att_figure(panels: Mapping[str, Aggregated], *, title: str = "") -> Figure:
    """A row for each name (a method, a layer): the mean map of each bin of grids, the best explained first, the target cell outlined.

    Each row has one scale, which ends at the 99.5th percentile of its pixels.
    """
    if not panels:
        raise BadInput("agg_att_figure: got no rows, allowed: at least one")
    height, width = next(iter(panels.values())).means.shape[-2:]
    aspect = min(max(width / height, 0.4), 2.5)
    width, height = SIDE * min(aspect, 1), SIDE / max(aspect, 1)
    head, step, bins = 0.3 + 0.3 * bool(title), height + 0.55, len(PERCENTS) - 1
    sheet = Sheet(2 * EDGE + bins * (width + GAP) + 0.65, head + len(panels) * step + EDGE)
    _title(sheet, title)
    for place, (low, high) in enumerate(itertools.pairwise(PERCENTS)):
        sheet.text(EDGE + place * (width + GAP) + width / 2, head - 0.1, f"{low}–{high} %", ha="center", weight="bold")
    for row, (name, panel) in enumerate(panels.items()):
        _aggregated(sheet, name, panel, (EDGE, head + row * step, width, height))
    return sheet.figure


def _aggregated(sheet: Sheet, name: str, panel: Aggregated, box: Box) -> None:
    """A row of an AggAtt figure, from its name down; `box` is the place of its first column."""
    left, top, width, height = box
    about = f" ({panel.left_out} of {sum(panel.counts) + panel.left_out} grids are not finite)" if panel.left_out else ""
    sheet.text(left, top + 0.12, f"{name}{about}", room=sheet.width - 2 * EDGE)
    maps = panel.means.cpu().numpy()
    scale = scale_of([maps[place] for place, count in enumerate(panel.counts) if count], panel.limit or None)
    for place, count in enumerate(panel.counts):
        at = (left + place * (width + GAP), top + 0.25, width, height)
        if count:
            axes = sheet.picture(at, painted(maps[place], scale))
            _outline(axes, panel.cell, panel.n, maps.shape[-2:])
        else:
            sheet.picture(at, np.full((1, 1, 3), 238, np.uint8))
        grids = f"{count} grid{'s' * (count != 1)}" if count else "no grids"
        sheet.text(at[0] + width / 2, at[1] + height + 0.1, grids, fontsize=6.5, color=FAINT, ha="center")
    sheet.bar((left + len(panel.counts) * (width + GAP), top + 0.25, 0.1, height), scale)


def _outline(axes: Axes, cell: int, n: int, size: Sequence[int]) -> None:
    """A white line with dark sides, seen on every colour, around a cell of a picture of `size` (H, W)."""
    down, across = size[0] / n, size[1] / n
    top, left = cell // n * down - 0.5, cell % n * across - 0.5
    x, y = (left, left + across, left + across, left, left), (top, top, top + down, top + down, top)
    for colour, thick in (("#000000", 2.6), ("#ffffff", 1.2)):
        axes.plot(x, y, color=colour, linewidth=thick, linestyle="-", marker="", scalex=False, scaley=False)


# Leaderboards


class _Board(NamedTuple):
    """A panel of a leaderboard: what it is of, its rows from the best, and the groups of methods that are not told apart."""

    place: Place
    rows: list[Summary]
    falling: bool
    ties: list[tuple[int, int]]

    @property
    def height(self) -> float:
        return 0.5 + ROW * len(self.rows) + 0.32


def leaderboard_figure(
    rows: Iterable[Summary],
    *,
    title: str = "",
    lower_is_better: Collection[str] = (),
    ties: Mapping[Place, Iterable[Collection[str]]] | None = None,
) -> Figure:
    """A panel for each metric (problem and model): methods from the best, each a dot (mean) with its 95 % interval; chance as broken line.

    `rows` are those of `Scores.table()`, one for each method, metric, model and problem. `ties` names, for (problem, model, metric),
    sets of methods that are not told apart; a bar joins each. Metrics in `lower_is_better` are sorted upwards.
    """
    boards = [_board(place, mine, place[2] in lower_is_better, (ties or {}).get(place, ())) for place, mine in _placed(rows).items()]
    if not boards:
        raise BadInput("leaderboard_figure: got no rows, allowed: at least one")
    label = _label_width(row.method for board in boards for row in board.rows)
    width = label + 1.9 + 0.35 + (2.15 if any(row.undefined for board in boards for row in board.rows) else 1.4)
    columns = min(2, len(boards))
    lines = [boards[first : first + columns] for first in range(0, len(boards), columns)]
    heights = [max(board.height for board in line) for line in lines]
    head, foot = EDGE + 0.3 * bool(title), 0.3
    sheet = Sheet(2 * EDGE + columns * width + (columns - 1) * 0.3, head + sum(heights) + foot)
    _title(sheet, title)
    for line, below in zip(lines, itertools.accumulate(heights, initial=head), strict=False):
        for column, board in enumerate(line):
            _drawn_board(sheet, board, (EDGE + column * (width + 0.3), below, width, label))
    about = "dot: mean; line: 95 % interval; broken line: a map that says nothing; grey: controls"
    joined = "; bar on the right: not told apart" if any(board.ties for board in boards) else ""
    sheet.text(EDGE, sheet.height - 0.15, about + joined, room=sheet.width - 2 * EDGE, fontsize=6.5, color=FAINT)
    return sheet.figure


def _placed(rows: Iterable[Summary]) -> dict[Place, dict[str, Summary]]:
    """The rows by what they are of, then by method."""
    placed: dict[Place, dict[str, Summary]] = {}
    for row in rows:
        mine = placed.setdefault((row.problem, row.model, row.metric), {})
        if row.method in mine:
            raise BadInput(f"leaderboard_figure: got two rows of {row.method} for {row.metric}, allowed: those of one group")
        mine[row.method] = row
    return placed


def _board(place: Place, rows: Mapping[str, Summary], falling: bool, ties: Iterable[Collection[str]]) -> _Board:
    def key(row: Summary) -> tuple[bool, float]:
        mean = _number(row.mean)
        return math.isnan(mean), 0.0 if math.isnan(mean) else mean if falling else -mean

    ordered = sorted(rows.values(), key=key)
    at = {row.method: row_ for row_, row in enumerate(ordered)}
    spans = []
    for group in ties:
        unknown = [method for method in group if method not in at]
        if unknown:
            raise BadInput(f"leaderboard_figure(ties=...): got {unknown[0]!r}, allowed: methods of the rows of {place[2]}")
        if len(group) > 1:
            spans.append((min(at[method] for method in group), max(at[method] for method in group)))
    return _Board(place, ordered, falling, sorted(spans))


def _drawn_board(sheet: Sheet, board: _Board, box: Box) -> None:
    """A panel; `box` is left, top, width and the width of the names."""
    left, top, width, label = box
    problem, model, metric = board.place
    sheet.text(left, top + 0.12, metric, room=width - 1.3, fontsize=8.5, weight="bold")
    sheet.text(left + width, top + 0.12, "lower is better" if board.falling else "higher is better", fontsize=6.5, color=FAINT, ha="right")
    sheet.text(left, top + 0.3, f"{problem} · {model}" if model else problem, room=width, fontsize=SMALL, color=FAINT)
    ends = [_number(value) for row in board.rows for value in (row.mean, row.low, row.high, row.chance)]
    span = _span(ends)
    plot = (left + label, top + 0.5, 1.9, ROW * len(board.rows))
    axes = sheet.plot(plot, span, (-0.5, len(board.rows) - 0.5), ticks(*span))
    chances = [value for value in (_number(row.chance) for row in board.rows) if not math.isnan(value)]
    if chances:
        _chance(axes, float(np.median(chances)), len(board.rows))
    for place, row in enumerate(board.rows):
        middle = plot[1] + (place + 0.5) * ROW
        colour = GREY if is_control(row.method) else COLOURS[0]
        _name(sheet, row.method, (left, middle, label))
        axes.plot((row.low, row.high), (place, place), color=colour, linewidth=1.6, linestyle="-", marker="", solid_capstyle="butt")
        axes.plot((row.mean,), (place,), color=colour, linestyle="", marker="o", markersize=4.5, clip_on=False)
        sheet.text(plot[0] + plot[2] + 0.38, middle, _said(row), room=2.2, fontsize=SMALL, color=FAINT)
    _brackets(sheet, board.ties, (plot[0] + plot[2] + 0.05, plot[1], 0.28, plot[3]), len(board.rows))


def _said(row: Summary) -> str:
    """A row's numbers as text."""
    mean, low, high = (_number(value) for value in (row.mean, row.low, row.high))
    said = "no score" if math.isnan(mean) else f"{mean:.3g}"
    if not math.isnan(low + high):
        said += f" [{low:.3g}, {high:.3g}]"
    return (said + (f", {row.undefined} undefined" if row.undefined else "")).replace("-", "−")


def _brackets(sheet: Sheet, spans: Sequence[tuple[int, int]], box: Box, rows: int) -> None:
    """A bar from the first to the last row of each span, those that overlap beside one another."""
    lanes: list[int] = []  # the last row taken in each
    placed = []
    for first, last in spans:
        lane = next((lane for lane, taken in enumerate(lanes) if taken < first), len(lanes))
        lanes[lane : lane + 1] = [last]
        placed.append((lane, first, last))
    axes = sheet.plot(box, (-0.5, max(3, len(lanes)) - 0.5), (-0.5, rows - 0.5)) if placed else None
    for lane, first, last in placed:
        if axes is not None:
            axes.plot((lane, lane), (first - 0.3, last + 0.3), color="#555555", linewidth=2, linestyle="-", marker="", solid_capstyle="butt")


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
    known = {name: {method: _finite(values, method) for method, values in panel.items()} for name, panel in scores.items()}
    chances = {name: _number(chance.get(name) if isinstance(chance, Mapping) else chance) for name in scores}
    span = _span([end for panel in known.values() for values in panel.values() for end in values] + list(chances.values()))
    columns, names = min(3, len(scores)), _label_width(methods)
    width, height, head = 2.0, ROW * len(methods), EDGE + 0.3 * bool(title)
    below = -(-len(scores) // columns) * (height + 0.6)
    sheet = Sheet(2 * EDGE + names + columns * (width + 0.25), head + below + 0.3 * bool(label))
    _title(sheet, title)
    for place, (name, panel) in enumerate(known.items()):
        left, top = EDGE + names + place % columns * (width + 0.25), head + place // columns * (height + 0.6) + 0.3
        sheet.text(left + width / 2, top - 0.13, name, room=width, ha="center", weight="bold")
        axes = sheet.plot((left, top, width, height), span, (-0.5, len(methods) - 0.5), ticks(*span))
        _chance(axes, chances[name], len(methods))
        for row, method in enumerate(methods):
            middle = top + (row + 0.5) * ROW
            if place % columns == 0:
                _name(sheet, method, (EDGE, middle, names))
            if not len(panel.get(method, ())):
                sheet.text(left + width / 2, middle, "no scores", fontsize=6.5, color=FAINT, ha="center")
            else:
                _box(axes, row, panel[method], GREY if is_control(method) else COLOURS[0])
    if label:
        sheet.text(EDGE + names + columns * (width + 0.25) / 2, sheet.height - 0.18, label, room=columns * width, ha="center")
    return sheet.figure


def _box(axes: Axes, row: int, values: Numbers, colour: str) -> None:
    low, middle, high = np.percentile(values, (25, 50, 75))
    near = values[(values >= low - 1.5 * (high - low)) & (values <= high + 1.5 * (high - low))]
    far = np.sort(np.setdiff1d(values, near))
    line = {"color": colour, "linestyle": "-", "marker": "", "solid_capstyle": "butt"}
    for start, end in ((near.min(), low), (high, near.max())):
        axes.plot((start, end), (row, row), linewidth=1.0, **line)
    x, y = (low, high, high, low), (row - 0.32, row - 0.32, row + 0.32, row + 0.32)
    axes.fill(x, y, facecolor=f"{colour}40", edgecolor=colour, linewidth=1.0)
    axes.plot((middle, middle), (row - 0.32, row + 0.32), linewidth=2.0, **line)
    axes.plot(far, np.full(len(far), row), color=colour, linestyle="", marker="o", markersize=2, markeredgewidth=0, alpha=0.5)
