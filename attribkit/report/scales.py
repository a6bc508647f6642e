"""Numbers on an axis: its ends, its ticks, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Numbers = NDArray[np.float64]
Span = tuple[float, float]


def span_of(ends: Iterable[float]) -> Span:
    """The ends of an axis that shows all of these numbers, with a margin of a twenty-fifth."""
    values = [end for end in ends if math.isfinite(end)] or [0.0, 1.0]
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.1
    return low - margin, high + margin


def number(value: float | None) -> float:
    """A finite number, or NaN."""
    return math.nan if value is None or not math.isfinite(value) else float(value)


def numbers(values: ArrayLike) -> Numbers:
    """Numbers on the host, in double precision."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, np.float64)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two, both ends included: multiples of 1, 2 or 5 times a power of ten, about `most` steps apart."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * times for times in (1, 2, 5, 10) if (high - low) / (power * times) <= most * (1 + 1e-9))
    slack = 1e-9 * (high - low)
    places = range(math.ceil((low - slack) / step), math.floor((high + slack) / step) + 1)
    return [float(f"{place * step:.12g}") for place in places]


def written(value: float | None) -> str:
    """A number for people: three decimals, or as many significant digits where that would say nothing; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return (f"{value:.3f}" if value == 0 or 1e-2 <= abs(value) < 1e4 else f"{value:.3g}").replace("-", "−")


def share_of(value: float, span: Span) -> float:
    """Where a value lies on an axis, in percent of its length."""
    return 100 * (value - span[0]) / (span[1] - span[0])
