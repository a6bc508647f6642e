"""Charts of a page, as places in percent of their axes; the templates draw them, so that a page needs no drawing library."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..scoring.summaries import Summary
from .boards import Board, Subject
from .evidence import Curves
from .scales import Numbers, Span, number, share_of, span_of, ticks, written
from .spreads import Band, band_of, box_of, curves_of
from .verdict import Standing

FINE = 150  # steps of an axis on which dots that fall together are drawn once
LOOKS, DASHES = 7, 4  # colours of lines, ways to break them
POINTS = 1000  # units of a chart's width and height
Place = Callable[[float], str]


def board_chart(standing: Standing, board: Board) -> dict[str, Any]:
    """A leaderboard: a row for each method, from the best, with dot and interval on one axis."""
    problem, model, metric = board.subject
    values = [number(value) for row in board.rows for value in (row.mean, row.low, row.high, row.chance)]
    span = span_of(values)
    place = _placed(span)
    chances = [row.chance for row in board.rows if math.isfinite(row.chance)]
    chance = float(np.median(chances)) if chances else None
    counts = sorted({row.count for row in board.rows})
    lanes = _lanes(board.runs)
    return {
        "problem": problem,
        "model": model,
        "metric": metric,
        "higher": board.rows[0].higher_is_better,
        "images": f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}",
        "one": counts[-1] == 1,
        "counted": len(counts) > 1 or any(row.undefined for row in board.rows),
        "chance": None if chance is None else place(chance),
        "chance_text": written(chance),
        "ticks": _ticks(span, place),
        "lanes": len(set(lanes.values())),
        "rows": [
            {
                "method": row.method,
                "rank": standing.ranks.get((board.subject, row.method)),
                "control": row.method in standing.scores.controls,
                "mean": row.mean if row.count else None,
                "text": written(row.mean) if row.count else "no score",
                "interval": f"[{written(row.low)}, {written(row.high)}]" if math.isfinite(row.low) else "",
                "at": place(row.mean) if row.count else None,
                "ends": (place(row.low), place(row.high)) if math.isfinite(row.low) else None,
                "count": row.count,
                "undefined": row.undefined,
                "bars": _bars(board, lanes, at),
                "letters": "" if row.method in standing.scores.controls else _letters(board, at),
            }
            for at, row in enumerate(board.rows)
        ],
    }


def _lanes(runs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """In which lane each run's bar is drawn, so that none covers another."""
    taken: list[int] = []  # the last row in each lane
    lanes = {}
    for first, last in runs:
        lane = next((lane for lane, end in enumerate(taken) if end < first), len(taken))
        taken[lane : lane + 1] = [last]
        lanes[first, last] = lane
    return lanes


def _bars(board: Board, lanes: Mapping[tuple[int, int], int], at: int) -> list[tuple[int, str, str]]:
    """The parts of bars that pass a row: lane, and from where to where in it."""
    inside = [(first, last, lane) for (first, last), lane in lanes.items() if first <= at <= last]
    return [(lane, "25%" if at == first else "0", "75%" if at == last else "100%") for first, last, lane in inside]


def _letters(board: Board, at: int) -> str:
    """The runs that a row is of, as letters: methods that share one are not told apart."""
    return " ".join(chr(ord("a") + place % 26) for place, (first, last) in enumerate(board.runs) if first <= at <= last)


def overview(standing: Standing, boards: Sequence[Board]) -> dict[str, Any]:
    """The boards of one problem and model in one table: methods by metrics, in the order of the first."""
    controls = standing.scores.controls
    every = [(board.subject, row) for board in boards for row in board.rows]
    cells = {(subject[2], row.method): (row, standing.ranks.get((subject, row.method))) for subject, row in every}
    methods = sorted(dict.fromkeys(row.method for _, row in every), key=lambda name: name in controls)
    return {
        "problem": boards[0].subject[0],
        "model": boards[0].subject[1],
        "metrics": [(board.subject[2], board.rows[0].higher_is_better) for board in boards],
        "rows": [
            {
                "method": name,
                "control": name in controls,
                "cells": [_cell(*cells.get((board.subject[2], name), (None, None))) for board in boards],
            }
            for name in methods
        ],
    }


def _cell(row: Summary | None, rank: int | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {"text": written(row.mean) if row.count else "–", "value": row.mean if row.count else None, "rank": rank}


def box_chart(board: Board, scores: Mapping[str, Numbers], span: Span, controls: set[str]) -> dict[str, Any]:
    """Box plots: a row for each method in the order of the board, whose axis is `span`."""
    rows = {row.method: scores.get(row.method) for row in board.rows}
    return boxes(board.subject, rows, [row.chance for row in board.rows], span, controls=controls)


def boxes(
    subject: Subject, rows: Mapping[str, Numbers | None], chances: Sequence[float], span: Span, *, controls: Collection[str] = ()
) -> dict[str, Any]:
    """A box plot for each of these scores by name, and a broken line at the middle of the chances."""
    place = _placed(span)
    known = [chance for chance in chances if math.isfinite(chance)]
    return {
        "problem": subject[0],
        "model": subject[1],
        "metric": subject[2],
        "ticks": _ticks(span, place),
        "chance": place(float(np.median(known))) if known else None,
        "rows": [{"method": name, "control": name in controls, "box": _box(values, span, place)} for name, values in rows.items()],
    }


def _box(values: Numbers | None, span: Span, place: Place) -> dict[str, Any] | None:
    if values is None or not len(values):
        return None
    box = box_of(values)
    beyond = sorted({round(share_of(value, span) / 100 * FINE) for value in box.beyond.tolist()})
    return {
        "low": place(box.low),
        "median": place(box.median),
        "width": f"{share_of(box.high, span) - share_of(box.low, span):.2f}%",
        "high": place(box.high),
        "ends": (place(box.ends[0]), place(box.ends[1])),
        "beyond": "".join(f"M{at} .5h0" for at in beyond),
        "text": f"{written(box.median)} [{written(box.low)}, {written(box.high)}]",
    }


def looks(methods: Iterable[str], controls: set[str]) -> dict[str, str]:
    """The class of each method's line, no two the same among 28; controls are grey, told apart by their dashes."""
    greys, others = itertools.count(), itertools.count()
    found = {}
    for name in dict.fromkeys(methods):
        place = next(greys) if name in controls else next(others)
        found[name] = f"control dash{place % DASHES}" if name in controls else f"line{place % LOOKS} dash{place // LOOKS % DASHES}"
    return found


def curve_chart(curves: Curves, styles: Mapping[str, str]) -> dict[str, Any]:
    """The mean curve of each method with its band, and its values for the script that reads them off."""
    known = {name: curves_of(values, f"Curves({name})") for name, values in curves.curves.items()}
    bands = {name: band_of(values) for name, values in known.items() if len(values)}
    span = span_of(float(end) for band in bands.values() for part in band for end in part)
    return {
        "problem": curves.problem,
        "model": curves.model,
        "metric": curves.metric,
        "across": _ticks((0.0, 1.0), _placed((0.0, 1.0))),
        "up": [{"at": f"{100 - share_of(tick, span):.2f}%", "text": _plain(tick)} for tick in ticks(*span, most=6)],
        "lines": [
            {
                "method": name,
                "style": styles.get(name, "control dash0"),
                "count": len(values),
                "left_out": len(curves.curves[name]) - len(values),  # type: ignore[arg-type]
                **(_drawn(bands[name], span) if name in bands else {"line": "", "band": "", "values": [], "ends": ("–", "–", "–")}),
            }
            for name, values in known.items()
        ],
    }


def _drawn(band: Band, span: Span) -> dict[str, Any]:
    mean, low, high = (_points(part, span) for part in band)
    middle = float(np.interp(0.5, np.linspace(0, 1, len(band.mean)), band.mean))
    return {
        "line": f"M{'L'.join(mean)}",
        "band": f"M{'L'.join(high)}L{'L'.join(reversed(low))}Z",
        "values": [float(f"{value:.4g}") for value in band.mean.tolist()],
        "ends": tuple(f"{value:.3f}".replace("-", "−") for value in (float(band.mean[0]), middle, float(band.mean[-1]))),
    }


def _points(values: Numbers, span: Span) -> list[str]:
    """Corners of a path, the origin at the upper left."""
    last = len(values) - 1
    return [f"{at * POINTS / last:.1f} {POINTS - POINTS / 100 * share_of(value, span):.1f}" for at, value in enumerate(values.tolist())]


def _placed(span: Span) -> Place:
    return lambda value: f"{share_of(value, span):.2f}%"


def _ticks(span: Span, place: Place) -> list[dict[str, str]]:
    return [{"at": place(tick), "text": _plain(tick)} for tick in ticks(*span, most=4)]


def _plain(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")
