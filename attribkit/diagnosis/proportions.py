"""Shares of images: intervals, and the chance of what was counted."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

Values = NDArray[np.float64]
Codes = NDArray[np.int64]

Z = 1.959963984540054  # of the 95 % interval
PERMUTATIONS = 10_000
HELD = 4_000_000  # places of permutations held at a time


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score; NaN of no images."""
    if not count:
        return math.nan, math.nan
    share, square = hits / count, Z * Z / count
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def gap(hits: int, count: int, other: int, others: int) -> tuple[float, float, float]:
    """How much larger the second share is than the first, with its 95 % interval by Newcombe's hybrid of two Wilson intervals."""
    if not count or not others:
        return math.nan, math.nan, math.nan
    one, two = hits / count, other / others
    (low1, high1), (low2, high2) = wilson(hits, count), wilson(other, others)
    difference = two - one
    return difference, difference - math.hypot(two - low2, high1 - one), difference + math.hypot(high2 - two, one - low1)


def fisher(hits: int, count: int, other: int, others: int) -> float:
    """Fisher's exact test, one-sided: the chance of at most so many hits in `count`, if both groups have one rate; 1 of no images."""
    if not count or not others:
        return 1.0
    every, total = hits + other, count + others
    whole = _choices(total, count)
    low = max(0, count - (total - every))
    return min(1.0, sum(math.exp(_choices(every, k) + _choices(total - every, count - k) - whole) for k in range(low, hits + 1)))


def _choices(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def agreement(one: Codes, other: Codes, seed: int = 0) -> tuple[float, float, float]:
    """How often two answers to the same images agree, how often they would by chance, and the chance of at least that.

    By chance: with the answers of the one among themselves exchanged, 10,000 times.
    """
    if not len(one):
        return math.nan, math.nan, 1.0
    same = float((one == other).mean())
    kinds = np.union1d(one, other)
    chance = sum(float((one == kind).mean() * (other == kind).mean()) for kind in kinds)
    beyond, draw, step = 0, default_rng(seed), max(1, HELD // len(one))
    for start in range(0, PERMUTATIONS, step):
        order = draw.permuted(np.tile(one, (min(step, PERMUTATIONS - start), 1)), axis=1)
        beyond += int(((order == other).mean(1) >= same - 1e-12).sum())
    return same, chance, (1 + beyond) / (1 + PERMUTATIONS)


def auc(scores: Values, positive: NDArray[np.bool_]) -> float:
    """The area under the ROC curve, ties counted half; NaN where there are images of one kind only, or a score is not finite."""
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros or not np.isfinite(scores).all():
        return math.nan
    _, at, times = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(times) - (times - 1) / 2)[at]
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))
