"""Tables of numbers with a small chart in each cell, as the template `cells.html` shows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..diagnosis.answers import percent
from .scales import Span, number, share_of, span_of, ticks

SHARES: Span = (0.0, 1.0)
ROWS = 10  # of a table that is shown without being asked for
Cells = dict[str, Any]


def share(value: float) -> str:
    """A share in per cent; a dash where there is none."""
    return percent(value) if math.isfinite(value) else "–"


def between(low: float, high: float) -> str:
    """The interval of a share in per cent, without the sign; nothing where there is none."""
    # What is 1 but for rounding is all of them.
    return bracketed(low, high, lambda end: percent(round(end, 5)).removesuffix(" %"))


def points(value: float) -> str:
    """A difference of shares, or of scores, in hundredths: whole ones, or with a decimal where that would say nothing."""
    if not math.isfinite(value):
        return "–"
    text = f"{100 * value:.0f}" if abs(value) >= 0.01 else f"{100 * value:.1f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def level(value: float) -> str:
    """A score from 0 to 1; a dash where there is none."""
    return f"{value:.2f}" if math.isfinite(value) else "–"


def bracketed(low: float, high: float, words: Callable[[float], str]) -> str:
    """An interval in words of its ends; nothing where there is none."""
    return f"[{words(low)}, {words(high)}]" if math.isfinite(low) and math.isfinite(high) else ""


def even_span(values: Sequence[float]) -> Span:
    """The ends of an axis on which zero has a place."""
    return span_of([0.0, *map(number, values)])


def chart(value: float, ends: tuple[float, float], span: Span, *, chance: float = math.nan) -> Cells | None:
    """A dot with its interval on an axis, and a broken line; None where there is no value."""
    if not math.isfinite(value):
        return None

    def place(at: float) -> str:
        return f"{min(max(share_of(at, span), 0.0), 100.0):.2f}%"

    return {
        "at": place(value),
        "ends": tuple(map(place, ends)) if all(map(math.isfinite, ends)) else None,
        "chance": place(chance) if math.isfinite(chance) else None,
        "grid": [{"at": place(tick)} for tick in ticks(*span, most=4)],
    }


def cell(text: object, more: str = "", *, value: object = None, title: str = "", chart: Cells | None = None) -> Cells:
    """One cell: what it says, more of it in small print, what it is sorted by, and its chart."""
    known = None if isinstance(value, float) and not math.isfinite(value) else value
    return {"text": str(text), "more": more, "value": known, "title": title, "chart": chart, "mark": ""}


def row(head: object, cells: Sequence[Cells | None], *, control: bool = False) -> Cells:
    """A row of a table."""
    return {"head": str(head), "cells": list(cells), "control": control}


def table(label: str, heads: Sequence[str], rows: Sequence[Mapping[str, Any]], *, heading: str = "", folded: str = "") -> Cells:
    """A table called `label`; `folded` is what to click on to see it, where it is not open from the start."""
    return {"label": label, "heads": list(heads), "rows": list(rows), "heading": heading, "folded": folded}
