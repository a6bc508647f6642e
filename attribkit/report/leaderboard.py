"""The leaderboard: each method's mean score with its interval, from the best, one panel for each metric."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import BadInput
from ..scores import Scores
from ..scoring.summaries import Comparison, Summary
from .boards import Board, boards_of
from .charts import (
    FAINT,
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
from .drawing import EDGE, Axes, Box, Figure, Sheet
from .scales import number, span_of, ticks

WIDTH, LANES, BETWEEN = 1.9, 0.38, 0.3  # inches: of the axis, of the bars beside it, between two panels


def leaderboard_figure(rows: Scores | Iterable[Summary], *, comparisons: Iterable[Comparison] = (), title: str = "") -> Figure:
    """A panel for each metric, problem and model: methods from the best, each a dot (mean) with its 95 % interval.

    `rows` are scores, or rows of `Scores.table()`, without groups or of one of them; `comparisons` those of `Scores.compare_all()`: a bar
    beside the panel joins methods of which none is better than another at the 5 % level. A broken line is the mean score of a map that
    says nothing.
    """
    given = (rows.table(), comparisons or rows.compare_all()) if isinstance(rows, Scores) else (rows, comparisons)
    boards = boards_of(*given)
    if not boards:
        raise BadInput("leaderboard_figure: got no rows, allowed: at least one")
    every = [row for board in boards for row in board.rows]
    label = label_width(row.method for row in every)
    width = label + WIDTH + LANES + max(len(_said(row)) for row in every) * 0.57 * SMALL / 72 + 0.05
    columns = min(2, len(boards))
    lines = [boards[first : first + columns] for first in range(0, len(boards), columns)]
    heights = [max(_height(board) for board in line) for line in lines]
    across, head = 2 * EDGE + columns * width + (columns - 1) * BETWEEN, EDGE + 0.3 * bool(title)
    notes = wrapped(_notes(boards), across)
    sheet = Sheet(across, head + sum(heights) + foot_height(notes))
    headline(sheet, title)
    for line, below in zip(lines, itertools.accumulate(heights, initial=head), strict=False):
        for column, board in enumerate(line):
            _drawn(sheet, board, (EDGE + column * (width + BETWEEN), below, width, label))
    foot(sheet, notes)
    return sheet.figure


def _height(board: Board) -> float:
    """Inches that a panel takes."""
    return 0.5 + ROW * len(board.rows) + 0.32


def _notes(boards: Sequence[Board]) -> list[str]:
    """What a reader must know, of what there is to see."""
    rows = [row for board in boards for row in board.rows]
    notes = {
        "dot: mean": True,
        "line: 95 % interval": True,
        "broken line: a map that says nothing": any(not math.isnan(number(row.chance)) for row in rows),
        "grey: controls": any(is_control(row.method) for row in rows),
        "bar on the right: methods that are not told apart": any(board.runs for board in boards),
        "*n: undefined for n images": any(row.undefined for row in rows),
    }
    return [note for note, there in notes.items() if there]


def _drawn(sheet: Sheet, board: Board, box: Box) -> None:
    """A panel; `box` is left, top, width and the width of the names."""
    left, top, width, label = box
    problem, model, metric = board.subject
    direction = "higher is better" if board.rows[0].higher_is_better else "lower is better"
    sheet.text(left, top + 0.12, metric, room=width - 1.2, fontsize=8.5, weight="bold")
    sheet.text(left + width, top + 0.12, direction, fontsize=NOTES, color=FAINT, ha="right")
    sheet.text(left, top + 0.3, f"{problem} · {model}" if model else problem, room=width, fontsize=SMALL, color=FAINT)
    span = span_of(number(value) for row in board.rows for value in (row.mean, row.low, row.high, row.chance))
    below, height = top + 0.5, ROW * len(board.rows)
    axes = sheet.plot((left + label, below, WIDTH, height), span, (-0.5, len(board.rows) - 0.5), ticks(*span, most=4))
    chances = [chance for chance in (number(row.chance) for row in board.rows) if not math.isnan(chance)]
    if chances:
        chance_line(axes, float(np.median(chances)), len(board.rows))
    for place, row in enumerate(board.rows):
        middle = below + (place + 0.5) * ROW
        write_name(sheet, row.method, (left, middle, label - 0.1))
        _dot(axes, place, row)
        sheet.text(left + label + WIDTH + LANES, middle, _said(row), fontsize=SMALL, color=FAINT)
    if board.runs:
        _bars(sheet.plot((left + label + WIDTH + 0.05, below, LANES - 0.1, height), (-0.5, 2.5), (-0.5, len(board.rows) - 0.5)), board.runs)


def _dot(axes: Axes, place: int, row: Summary) -> None:
    colour = colour_of(row.method)
    ends = (number(row.low), number(row.high))
    axes.plot(ends, (place, place), color=colour, linewidth=1.6, linestyle="-", marker="", solid_capstyle="butt")
    axes.plot((number(row.mean),), (place,), color=colour, linestyle="", marker="o", markersize=4.5, clip_on=False)


def _said(row: Summary) -> str:
    """A row's numbers as text."""
    mean, low, high = (number(value) for value in (row.mean, row.low, row.high))
    said = "no score" if math.isnan(mean) else f"{mean:.3g}"
    if not math.isnan(low + high):
        said += f" [{low:.3g}, {high:.3g}]"
    return (said + (f" *{row.undefined}" if row.undefined else "")).replace("-", "−")


def _bars(axes: Axes, runs: Iterable[tuple[int, int]]) -> None:
    """A bar from the first to the last row of each run, those that overlap beside one another."""
    lanes: list[int] = []  # the last row taken in each
    for first, last in runs:
        lane = next((lane for lane, taken in enumerate(lanes) if taken < first), len(lanes))
        lanes[lane : lane + 1] = [last]
        axes.plot((lane, lane), (first - 0.3, last + 0.3), color="#555555", linewidth=2, linestyle="-", marker="", solid_capstyle="butt")
    axes.set_xlim(-0.5, max(3, len(lanes)) - 0.5)
