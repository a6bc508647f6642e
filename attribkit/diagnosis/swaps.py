"""Swaps: whether answers follow a part of the image, when it is exchanged for the same part of an image of another group.

Each image keeps everything else, and gets the part from donors of another group and of its own: how much more often the answer changes
by the former is what the group's label in that part does; what cutting and pasting does by itself, both have.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from ..scoring.summaries import Listing
from .answers import NONE, Answers, Donors, Swap, labels_of, percent
from .findings import SHOWN, Finding, Limit

PERMUTATIONS = 10_000
RESAMPLES = 2_000
FEWEST = 4  # donors of a label, and of others, that a claim is made of
HELD = 4_000_000  # numbers held at a time
MOST = 20  # labels of a group
ANSWER = "answer"  # the group of donors where images have none: what the model says of them


@dataclasses.dataclass(frozen=True)
class SwapRow:
    """A part exchanged, and a group: the share of answers that change by donors of another label of it, and of the same.

    `follows` is how often the answer becomes that to the donor's own image, of the swaps where the two answers differed.
    """

    cue: str
    by: str
    other: float
    others: int
    same: float
    sames: int
    follows: float


@dataclasses.dataclass(frozen=True)
class Swapped:
    """The table of swaps, the claims that answers follow a part, and what could not be told."""

    rows: Listing[SwapRow]
    claims: list[Finding]
    limits: list[Limit]


class _Pairs(NamedTuple):
    """Images and donors that were paired, (M,) each; whether the answer changed, and whether it became the donor's."""

    images: NDArray[np.int64]
    donors: NDArray[np.int64]
    changed: NDArray[np.float64]
    follows: NDArray[np.bool_]


def swapped(answers: Answers) -> Swapped:
    """What answers do when parts are exchanged, for each part and group; the claims are of parts other than the one that should decide."""
    if answers.donors is None or not answers.swaps:
        return Swapped(Listing(), [], [])
    groups = {name: (answers.groups[name], donated) for name, donated in answers.donors.groups.items() if name in answers.groups}
    if not groups:
        own, theirs = (np.array([answers.named(int(each)) for each in kind], np.object_) for kind in (answers.full, answers.donors.answers))
        groups = {ANSWER: (own, theirs)}
    rows, claims, limits = [], [], []
    for swap in answers.swaps:
        pairs = _paired(answers, answers.donors, swap)
        for by, (own, theirs) in groups.items():
            judged = _judged(answers, swap.cue, by, pairs, (own, theirs))
            if isinstance(judged, Limit):
                limits.append(judged)
            else:
                row, claim = judged
                rows.append(row)
                claims += [claim] if swap.cue != answers.region else []
    return Swapped(Listing(rows), claims, list(dict.fromkeys(limits)))


def _paired(answers: Answers, donors: Donors, swap: Swap) -> _Pairs:
    good = (swap.answers != NONE) & (answers.full[swap.images] != NONE)
    images, taken, found = swap.images[good], swap.donors[good], swap.answers[good]
    before, theirs = answers.full[images], donors.answers[taken]
    return _Pairs(images, taken, (found != before).astype(np.float64), (found == theirs) & (before != theirs))


def _judged(
    answers: Answers, cue: str, by: str, pairs: _Pairs, labels: tuple[NDArray[np.object_], NDArray[np.object_]]
) -> tuple[SwapRow, Finding] | Limit:
    """One part and group."""
    own, theirs = labels
    names = labels_of(np.concatenate(labels))
    if len(names) > MOST:
        return Limit("swap", f"{by} has {len(names)} labels, too many to exchange parts between: at most {MOST} are")
    codes = {name: code for code, name in enumerate(names)}
    mine, given = (np.array([NONE if each is None else codes[each] for each in column], np.int64) for column in (own, theirs))
    kept = (mine[pairs.images] != NONE) & (given[pairs.donors] != NONE)
    pairs = _Pairs(*(column[kept] for column in pairs))
    used = np.unique(pairs.donors)
    counts = np.bincount(given[used], minlength=len(names))
    if (counts >= FEWEST).sum() < 2:
        return Limit("swap", f"{by}: fewer than two labels have {FEWEST} donors of {cue} or more, too few to exchange between")
    differs = mine[pairs.images] != given[pairs.donors]
    effect = _effect(pairs.changed, differs)
    low, high = _interval(pairs, differs)
    row = SwapRow(cue, by, *_share(pairs.changed[differs]), *_share(pairs.changed[~differs]), _followed(answers, pairs))
    claim = (
        f"The model goes by the {cue}: exchanged for that of an image with another {by}, it changes {percent(row.other)} of answers; "
        f"with the same {by}, {percent(row.same)}."
    )
    telling = pairs.images[(pairs.changed > 0) & differs]
    shown = answers.called(list(dict.fromkeys(telling.tolist()))[:SHOWN])
    how = (
        f"the same images with the {cue} of donors of another {by} and of the same; the labels of {len(used)} donors exchanged 10,000 times"
    )
    p = _chance(pairs, mine, given, effect)
    return row, Finding(claim, "swap", cue, effect, low, high, len(np.unique(pairs.images)), p, shown, how)


def _share(changed: NDArray[np.float64]) -> tuple[float, int]:
    return (float(changed.mean()) if len(changed) else float("nan")), len(changed)


def _followed(answers: Answers, pairs: _Pairs) -> float:
    """How often the answer becomes the donor's, where that was another one."""
    theirs = answers.donors.answers[pairs.donors] if answers.donors is not None else pairs.donors
    apart = answers.full[pairs.images] != theirs
    return float(pairs.follows[apart].mean()) if apart.any() else float("nan")


def _effect(changed: NDArray[np.float64], differs: NDArray[np.bool_]) -> float:
    return float(changed[differs].mean() - changed[~differs].mean()) if differs.any() and not differs.all() else float("nan")


def _chance(pairs: _Pairs, mine: NDArray[np.int64], given: NDArray[np.int64], effect: float) -> float:
    """How often an effect at least as large comes of donors whose labels are exchanged among themselves; 1 where there is no effect."""
    if not np.isfinite(effect):
        return 1.0
    used, place = np.unique(pairs.donors, return_inverse=True)
    kinds = int(max(mine.max(), given.max())) + 1
    at = place * kinds + mine[pairs.images]
    # Of each donor and label of the images it was given to: how many answers changed, and how many there were.
    changed, count = (
        np.bincount(at, weights=weights, minlength=len(used) * kinds).reshape(-1, kinds) for weights in (pairs.changed, np.ones(len(at)))
    )
    draw, beyond, step = default_rng(0), 0, max(1, HELD // len(used))
    rows = np.arange(len(used))
    for start in range(0, PERMUTATIONS, step):
        labels = draw.permuted(np.tile(given[used], (min(step, PERMUTATIONS - start), 1)), axis=1)
        same, sames = changed[rows, labels].sum(1), count[rows, labels].sum(1)
        other, others = changed.sum() - same, count.sum() - sames
        with np.errstate(invalid="ignore"):  # a pattern in which nothing is the same, or nothing differs, has no effect
            found = other / others - same / sames
        beyond += int((np.nan_to_num(found, nan=-1.0) >= effect - 1e-12).sum())
    return (1 + beyond) / (1 + PERMUTATIONS)


def _interval(pairs: _Pairs, differs: NDArray[np.bool_]) -> tuple[float, float]:
    """The 95 % percentile interval of the effect, images and donors both drawn anew."""
    draw, found = default_rng(0), []
    images, donors = (np.unique(each, return_inverse=True)[1] for each in (pairs.images, pairs.donors))
    step = max(1, HELD // max(1, len(images)))
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        weights = _times(draw, size, images) * _times(draw, size, donors)
        with np.errstate(invalid="ignore"):
            shares = [(weights @ (pairs.changed * kind)) / (weights @ kind.astype(np.float64)) for kind in (differs, ~differs)]
        found.append(shares[0] - shares[1])
    whole = np.concatenate(found)
    whole = whole[np.isfinite(whole)]
    if not len(whole):
        return float("nan"), float("nan")
    low, high = np.percentile(whole, (2.5, 97.5))
    return float(low), float(high)


def _times(draw: np.random.Generator, size: int, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """How often each pair's image (or donor) is drawn, (size, M), if all are drawn anew."""
    count = int(places.max(initial=-1)) + 1
    picked = draw.integers(0, count, (size, count)) + np.arange(size)[:, None] * count
    return np.bincount(picked.ravel(), minlength=size * count).reshape(size, count)[:, places].astype(np.float64)
