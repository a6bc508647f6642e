"""Tables of scores, in Markdown or plain text: leaderboards, comparisons, groups."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from ..errors import UnknownName
from ..scores import Scores
from ..scoring.summaries import Comparison, Place, Summary, aligned

Style = Literal["markdown", "text"]

ARROWS = {True: "↑", False: "↓"}
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$#&!])")


def leaderboard(scores: Scores, *, problem: str | None = None, metric: str | None = None, style: Style = "markdown") -> str:
    """A row for each method, a column for each metric: mean and 95 % interval, in the order of the first metric.

    Those of rank 1 are bold, the controls in italics below the others; the last row is the score of a map that says nothing. A table for
    each problem and model, under a line that names them where there are several.
    """
    written = _Written(style)
    every = scores.table(problem=problem, metric=metric)
    ranks = {(place.problem, place.model, place.metric, place.method): place for place in scores.ranking(metric, problem)}
    subjects = list(dict.fromkeys((row.problem, row.model) for row in every))
    tables = []
    for subject in subjects:
        rows = [row for row in every if (row.problem, row.model) == subject]
        heading = [written.strong(written.plain(", ".join(subject)))] if len(subjects) > 1 else []
        tables.append("\n\n".join([*heading, _leaders(written, rows, ranks, scores.controls), _footnote(rows)]))
    return "\n\n".join(tables)


def comparisons(found: Sequence[Comparison], *, style: Style = "markdown") -> str:
    """A row for each pair: difference with its 95 % interval, effect size, p-value after correction; who is better in bold."""
    written = _Written(style)
    constant = [name for name in ("problem", "model", "metric") if len({getattr(each, name) for each in found}) <= 1]
    shown = [name for name in ("problem", "model", "metric") if name not in constant]
    head = [*shown, "a", "b", "a - b [95 %]", "d_z", "p", "images"]
    rows = []
    for each in found:
        pair = (written.strong(written.plain(name)) if each.better == name else written.plain(name) for name in (each.a, each.b))
        numbers = (_interval(each.difference, each.low, each.high), f"{each.effect:.2f}", f"{each.corrected:.3g}", str(each.count))
        rows.append([*(written.plain(getattr(each, name)) for name in shown), *pair, *numbers])
    return written.table([written.plain(name) for name in head], rows)


def groups(scores: Scores, by: str, *, problem: str | None = None, metric: str | None = None, style: Style = "markdown") -> str:
    """A row for each method and metric, a column for each label of the group `by`: mean and 95 % interval."""
    written = _Written(style)
    rows = scores.table(problem=problem, metric=metric, by=by)
    labels = list(dict.fromkeys(row.group for row in rows))
    found = {(row.problem, row.model, row.method, row.metric, row.group): row for row in rows}
    keys = list(dict.fromkeys(key[:4] for key in found))
    constant = [place for place in range(2) if len({key[place] for key in keys}) == 1]
    shown = [place for place in range(4) if place not in constant]
    head = [*(("problem", "model", "method", "metric")[place] for place in shown), *(f"{by} = {label}" for label in labels)]
    body = []
    for key in keys:
        cells = (found.get((*key, label)) for label in labels)
        body.append([*(written.plain(key[place]) for place in shown), *("" if row is None else _cell(row) for row in cells)])
    return written.table([written.plain(name) for name in head], body)


class _Written:
    """How text becomes a table's: escaped and marked for Markdown, as it is for a terminal."""

    def __init__(self, style: Style) -> None:
        if style not in get_args(Style):
            raise UnknownName("style of table", style, get_args(Style))
        self.markdown = style == "markdown"

    def plain(self, text: str) -> str:
        """Text on one line, nothing in it read as a mark."""
        line = " ".join(text.split())
        return SPECIAL.sub(r"\\\1", line) if self.markdown else line

    def strong(self, text: str) -> str:
        return f"**{text}**" if self.markdown else text

    def slanted(self, text: str) -> str:
        return f"*{text}*" if self.markdown else text

    def table(self, head: list[str], rows: list[list[str]]) -> str:
        """Rows below a head."""
        if not self.markdown:
            return aligned([list(column) for column in zip(head, *rows, strict=True)])
        return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _leaders(written: _Written, rows: list[Summary], ranks: dict[tuple[str, str, str, str], Place], controls: set[str]) -> str:
    """The table of one problem and model."""
    found = {(row.method, row.metric): row for row in rows}
    metrics = list({row.metric: row for row in rows}.values())
    most = {column.metric: max(row.count for row in rows if row.metric == column.metric) for column in metrics}
    order = list(dict.fromkeys(row.method for row in sorted(rows, key=_order(metrics[0], controls))))
    head = ["method", *(f"{written.plain(row.metric)} {ARROWS[row.higher_is_better]}" for row in metrics)]
    body = []
    for method in order:
        mark: Callable[[str], str] = written.slanted if method in controls else str
        cells = [mark(written.plain(method))]
        for column in metrics:
            row = found.get((method, column.metric))
            best = row is not None and ranks[row.problem, row.model, row.metric, row.method].rank == 1
            cell = "" if row is None else _cell(row) + (f" (n = {row.count})" if 0 < row.count < most[column.metric] else "")
            cells.append(written.strong(cell) if best else mark(cell) if cell else "")
        body.append(cells)
    known = [[row for row in rows if row.metric == column.metric and row.chance == row.chance] for column in metrics]
    chances = [max(each, key=lambda row: row.count).chance if each else None for each in known]  # over the most images
    if any(chance is not None for chance in chances):
        body.append(["a map that says nothing", *("" if chance is None else _number(chance) for chance in chances)])
    return written.table(head, body)


def _order(first: Summary, controls: set[str]) -> Callable[[Summary], tuple[bool, bool, float]]:
    """Methods before controls, then those with a mean by the first metric, best first."""
    sign = -1 if first.higher_is_better else 1

    def order(row: Summary) -> tuple[bool, bool, float]:
        known = row.metric == first.metric and row.mean == row.mean
        return row.method in controls, not known, sign * row.mean if known else 0.0

    return order


def _footnote(rows: list[Summary]) -> str:
    counts = sorted({row.count for row in rows})
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Mean and 95 % interval over {images} images; ↑ higher is better, ↓ lower; bold: none is significantly better."


def _cell(row: Summary) -> str:
    return _interval(row.mean, row.low, row.high) if row.count else "undefined"


def _interval(mean: float, low: float, high: float) -> str:
    return f"{_number(mean)} [{_number(low)}, {_number(high)}]" if low == low else _number(mean)


def _number(value: float) -> str:
    """Three decimals, or as many significant digits where that would say nothing."""
    return f"{value:.3f}" if value == 0 or 1e-2 <= abs(value) < 1e4 else f"{value:.3g}"
