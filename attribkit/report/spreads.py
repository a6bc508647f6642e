"""How scores are spread over images: boxes of them, and bands around the mean of curves."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadInput
from .scales import Numbers, numbers


class Box(NamedTuple):
    """The quartiles of scores, the ends of whiskers of at most 1.5 times the box, and the scores beyond, in order."""

    low: float
    median: float
    high: float
    ends: tuple[float, float]
    beyond: Numbers


class Band(NamedTuple):
    """The mean of curves and the ends of its 95 % interval, (K,) each."""

    mean: Numbers
    low: Numbers
    high: Numbers


def box_of(values: Numbers) -> Box:
    """The box of at least one finite score, (N,)."""
    low, median, high = (float(end) for end in np.percentile(values, (25, 50, 75)))
    inside = (values >= low - 1.5 * (high - low)) & (values <= high + 1.5 * (high - low))
    near = values[inside]
    return Box(low, median, high, (min(low, float(near.min())), max(high, float(near.max()))), np.sort(values[~inside]))


def scores_of(values: ArrayLike, what: str) -> Numbers:
    """The scores (N,) that are finite."""
    array = numbers(values)
    if array.ndim != 1:
        raise BadInput(f"{what}: got {array.shape}, allowed: (N,), one score per image")
    return array[np.isfinite(array)]


def curves_of(values: ArrayLike, what: str) -> Numbers:
    """The curves (N, K) of which every value is finite."""
    array = numbers(values)
    if array.ndim != 2 or array.shape[1] < 2:
        raise BadInput(f"{what}: got {array.shape}, allowed: (N, K), K at least 2")
    return array[np.isfinite(array).all(1)]


def band_of(curves: Numbers) -> Band:
    """The mean of at least one curve (N, K), in the interval of a normal distribution, mean +- 1.96 standard errors."""
    mean = curves.mean(0)
    error = 1.96 * curves.std(0, ddof=1) / math.sqrt(len(curves)) if len(curves) > 1 else np.zeros_like(mean)
    return Band(mean, mean - error, mean + error)
