"""Shares and means over images: intervals, and the chance of what was counted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from ..scoring.resampling import intervals, sign_flips

Values = NDArray[np.float64]
Codes = NDArray[np.int64]

Z = 1.959963984540054  # of the 95 % interval
PERMUTATIONS = 10_000
HELD = 4_000_000  # places of permutations held at a time
TABLES = 20  # images for each cell of a table of answers: of more, tables are drawn faster than orders of images
MANY = 300  # values whose mean is as good as normal, so that drawing it anew would tell nothing more
ALONE = 0.05  # of the sum of squares: a value with more is an outlier, with which a mean is not normal


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
    kinds, codes = np.unique(np.concatenate([one, other]), return_inverse=True)
    first, second = codes[: len(one)].astype(np.int64), codes[len(one) :].astype(np.int64)
    same = int((first == second).sum())
    counts = [np.bincount(each, minlength=len(kinds)) for each in (first, second)]
    chance = float(counts[0] @ counts[1]) / len(one) ** 2
    found = exchanged(first, second, np.eye(len(kinds)), default_rng(seed))
    return same / len(one), chance, float(1 + (found >= same - 0.5).sum()) / (1 + PERMUTATIONS)


def exchanged(one: Codes, other: Codes, weights: Values, draw: np.random.Generator, size: int = PERMUTATIONS) -> Values:
    """The sum over images of `weights[one, other]`, where what the images have of the one is exchanged among them, `size` times.

    Of many images with few codes, random tables of how many have what are drawn, else orders of images: the sums are as likely.
    """
    if TABLES * weights.size < len(one):
        return _tables(
            [np.bincount(each, minlength=many) for each, many in zip((one, other), weights.shape, strict=True)], weights, draw, size
        )
    found, step = np.empty(size), max(1, HELD // max(1, len(one)))
    for start in range(0, size, step):
        orders = draw.permuted(np.broadcast_to(one, (min(step, size - start), len(one))), axis=1)
        found[start : start + step] = weights[orders, other].sum(1)
    return found


def _tables(margins: list[Codes], weights: Values, draw: np.random.Generator, size: int) -> Values:
    """The weighted sums of random tables with these margins, a row at a time, and in it a cell at a time, of what is left."""
    left, found = np.tile(margins[1], (size, 1)), np.zeros(size)
    for row, count in enumerate(margins[0].tolist()):
        need, rest = np.full(size, count), left.sum(1)
        for column in range(left.shape[1]):
            rest -= left[:, column]
            taken = draw.hypergeometric(left[:, column], rest, need)
            left[:, column] -= taken
            need -= taken
            found += weights[row, column] * taken
    return found


def beyond_chance(one: Codes, other: Codes) -> tuple[float, float]:
    """The 95 % interval of how much more often two answers to the same images agree than by chance; NaN of fewer than two images.

    What chance would do is estimated from the same images: each image's part in both is resampled. It is at least as wide as Wilson's
    interval of the agreement alone, which does not vanish where all agree.
    """
    if len(one) < 2:
        return math.nan, math.nan
    kinds, codes = np.unique(np.concatenate([one, other]), return_inverse=True)
    first, second = codes[: len(one)], codes[len(one) :]
    (p, q), same = (np.bincount(each, minlength=len(kinds)) / len(one) for each in (first, second)), first == second
    chance = float(p @ q)
    low, high = means([same - q[first] - p[second] + chance])[0].tolist()  # the first-order part of each image; its mean is the excess
    ends = wilson(int(same.sum()), len(one))
    return min(low, ends[0] - chance), max(high, ends[1] - chance)


def means(columns: Sequence[Values]) -> Values:
    """The 95 % interval of each column's mean, (columns, 2): the bootstrap's, of many bounded values the normal one, which is the same."""
    ends = np.full((len(columns), 2), np.nan)
    few = [place for place, column in enumerate(columns) if len(column) < MANY]
    ends[few] = intervals([columns[place] for place in few]).reshape(-1, 2)
    for place, column in enumerate(columns):
        if len(column) >= MANY:
            ends[place] = column.mean() + np.array([-Z, Z]) * column.std(ddof=1) / math.sqrt(len(column))
    return ends


def above(values: Values) -> float:
    """The chance of a mean at least so far above 0, one-sided, if each value is as likely to be x as -x; 1 where it is not above.

    Half of the two-sided chance is that: random signs make sums that are as likely above 0 as below. Of many values without outliers it
    is that of the normal sum that random signs come to, not below what 10,000 draws could show.
    """
    moving = values[values != 0]  # a sign does nothing to a zero
    total, square = float(moving.sum()), float(np.square(moving).sum())
    if not total > 0:
        return 1.0
    if len(moving) > MANY and float(np.square(moving).max()) < ALONE * square:
        return max(math.erfc(total / math.sqrt(2 * square)) / 2, 0.5 / (1 + PERMUTATIONS))
    return float(sign_flips([moving])[0]) / 2


def auc(scores: Values, positive: NDArray[np.bool_]) -> float:
    """The area under the ROC curve, ties counted half; NaN where there are images of one kind only, or a score is not finite."""
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros or not np.isfinite(scores).all():
        return math.nan
    _, at, times = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(times) - (times - 1) / 2)[at]
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))
