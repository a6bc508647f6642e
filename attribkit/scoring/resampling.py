"""What chance alone would do to means: bootstrap intervals, sign-flip tests of paired differences, and a correction for many tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 10_000
TAILS = (2.5, 97.5)  # percent: what lies between is the 95 % interval
LONGEST = 4096  # values drawn for one resample, at most; of more the mean is as good as normal, and time would be all that grows
DRAWN = 500_000  # draws held at a time
TOGETHER = 256  # columns that share their draws
EXACT = 13  # values with at most so many differences have fewer sign patterns than there are resamples


def intervals(columns: Sequence[Values]) -> Values:
    """The 95 % percentile bootstrap interval of each column's mean, (columns, 2); NaN where a column has fewer than two values.

    10,000 resamples from a fixed seed. Columns of one length share their draws. Of a column longer than 4,096 a resample is 4,096 values,
    and its distance from the mean shrinks by sqrt(4,096 / length), which gives the interval of a whole resample.
    """
    ends = np.full((len(columns), 2), np.nan)
    for length, places in _alike(columns):
        if length > 1:
            ends[places] = _ends(np.stack([columns[place] for place in places]))
    return ends


def _ends(columns: Values) -> Values:
    count, length = columns.shape
    centres, drawn = columns.mean(1, keepdims=True), min(length, LONGEST)
    offsets, means = columns - centres, np.empty((count, RESAMPLES))
    draw = default_rng(0)
    for rows in _chunks(drawn):
        picked = draw.integers(0, length, (rows.stop - rows.start, drawn), dtype=np.int32)
        if length > 4 * LONGEST:  # most values are not drawn at all
            for each, found in zip(offsets, means, strict=True):
                found[rows] = each.take(picked).mean(1)
        else:  # how often each value was drawn, which all columns share
            flat = picked + np.arange(len(picked))[:, None] * length
            times = np.bincount(flat.ravel(), minlength=len(picked) * length).reshape(len(picked), length)
            means[:, rows] = offsets @ times.T.astype(np.float64) / drawn
    ends: Values = centres + np.percentile(means, TAILS, axis=1).T * np.sqrt(drawn / length)
    return ends


def sign_flips(columns: Sequence[Values]) -> Values:
    """How often a mean at least as far from 0 comes of each column's values with random signs, (columns,): a two-sided p-value.

    Exact, over all patterns of signs, for at most 13 values; else of 10,000 random patterns, with the column itself counted among them,
    so that it is at least 1 / 10,001. Valid where, if nothing differs, a difference is as likely to be x as -x. NaN without values.
    """
    chances = np.full(len(columns), np.nan)
    for length, places in _alike(columns):
        if length:
            chances[places] = _flipped(np.stack([columns[place] for place in places], 1))
    return chances


def _flipped(columns: Values) -> Values:
    """Of columns (length, columns)."""
    length = len(columns)
    total = columns.sum(0)
    bar = np.abs(total) - 1e-9 * np.abs(columns).sum(0)  # sums of the same numbers in another order are equal
    if length <= EXACT:
        patterns = (np.arange(2**length)[:, None] >> np.arange(length)) & 1
        exact: Values = (np.abs(2 * (patterns @ columns) - total) >= bar).mean(0)
        return exact
    beyond, draw = np.zeros(columns.shape[1]), default_rng(0)
    for rows in _chunks(length):
        packed = draw.integers(0, 256, (rows.stop - rows.start, -(-length // 8)), dtype=np.uint8)
        kept = np.unpackbits(packed, axis=1, count=length).astype(np.float64)
        beyond += (np.abs(2 * (kept @ columns) - total) >= bar).sum(0)
    chances: Values = (1 + beyond) / (1 + RESAMPLES)
    return chances


def effect(differences: Values) -> float:
    """Cohen's d_z of paired differences: their mean over their standard deviation (n - 1); infinite where all are one value but 0."""
    if len(differences) < 2:
        return float("nan")
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread <= 1e-12 * abs(mean):
        return float(np.copysign(np.inf, mean)) if mean else 0.0
    return mean / spread


def holm(chances: Values) -> Values:
    """The p-values of one family of tests, corrected by Holm's step-down so that any false finding at all has the stated chance."""
    corrected = np.full(len(chances), np.nan)
    known = np.flatnonzero(~np.isnan(chances))
    order = known[np.argsort(chances[known], kind="stable")]
    corrected[order] = np.minimum(1, np.maximum.accumulate((len(order) - np.arange(len(order))) * chances[order]))
    return corrected


def _alike(columns: Sequence[Values]) -> Iterator[tuple[int, list[int]]]:
    """The places of columns of one length, some at a time."""
    places: dict[int, list[int]] = {}
    for place, column in enumerate(columns):
        places.setdefault(len(column), []).append(place)
    for length, same in places.items():
        for start in range(0, len(same), TOGETHER):
            yield length, same[start : start + TOGETHER]


def _chunks(drawn: int) -> Iterator[slice]:
    """The resamples, as many at a time as may be held."""
    step = 8 * max(1, DRAWN // (8 * drawn))
    for start in range(0, RESAMPLES, step):
        yield slice(start, min(start + step, RESAMPLES))
