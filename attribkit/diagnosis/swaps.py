"""Swaps: whether answers follow a part of the image, when it is exchanged for the same part of an image of another group.

Each image keeps everything else, and gets the part from donors: how much more often the answer changes by donors of another group than
by those of its own is what the group's label in that part does. What cutting and pasting does by itself, both have; what one donor does
to every image, and what all donors do to images of one group, is taken out.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from ..scoring.summaries import Listing
from .answers import NONE, Answers, Donors, Swap, labels_of, percent
from .findings import SHOWN, Finding, Limit
from .proportions import PERMUTATIONS, Z, gap, wilson

FEWEST = 4  # donors of a label, and of others, that a claim is made of
HELD = 1_000_000  # numbers held at a time
MOST = 20  # labels of a group
ANSWER = "answer"  # the group of donors where images have none: what the model says of them
IMAGE = "image"  # the group of which each has a label of its own

Values = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class SwapRow:
    """A part exchanged, and a group: the share of answers that change by donors of another label of it, and of the same.

    `follows` is how often the answer becomes that to the donor's own image, of the swaps where the two answers differed. `by` is "image"
    where there are too many answers to compare those of one with others: then all donors are others.
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
    """Images and donors that were paired, (M,) each; whether the answer changed, and whether it became the donor's; the answer."""

    images: Codes
    donors: Codes
    changed: Values
    follows: NDArray[np.bool_]
    found: Codes


def swapped(answers: Answers) -> Swapped:
    """What answers do when parts are exchanged, for each part and group; the claims are of parts other than the one that should decide."""
    if answers.donors is None or not answers.swaps:
        return Swapped(Listing(), [], [])
    groups = {name: (answers.groups[name], donated) for name, donated in answers.donors.groups.items() if name in answers.groups}
    if ANSWER not in groups and (not groups or len(np.unique(answers.full)) > MOST):
        own, theirs = (np.array([answers.named(int(each)) for each in kind], np.object_) for kind in (answers.full, answers.donors.answers))
        groups[ANSWER] = own, theirs
    rows, claims, limits = [], [], []
    for swap in answers.swaps:
        pairs = _paired(answers, answers.donors, swap)
        for by, (own, theirs) in groups.items():
            if by == ANSWER and len({*own, *theirs}) > MOST:
                judged = _gone_over(answers, answers.donors, swap.cue, pairs)
            else:
                judged = _judged(answers, swap.cue, by, pairs, (own, theirs))
            if isinstance(judged, Limit):
                limits.append(judged)
            else:
                row, claim = judged
                rows.append(row)
                claims += [claim] if swap.cue != answers.region else []
    return Swapped(Listing(rows), claims, list(dict.fromkeys(limits)))


def _paired(answers: Answers, donors: Donors, swap: Swap) -> _Pairs:
    """The pairs that have answers; an image that was its own donor tells nothing, and would count among those of its own group."""
    own = np.array(answers.ids, np.object_)[swap.images] == np.array(donors.ids, np.object_)[swap.donors]
    good = (swap.answers != NONE) & (answers.full[swap.images] != NONE) & ~own
    images, taken, found = swap.images[good], swap.donors[good], swap.answers[good]
    before, theirs = answers.full[images], donors.answers[taken]
    return _Pairs(images, taken, (found != before).astype(np.float64), (found == theirs) & (before != theirs), found)


def _judged(
    answers: Answers, cue: str, by: str, pairs: _Pairs, labels: tuple[NDArray[np.object_], NDArray[np.object_]]
) -> tuple[SwapRow, Finding] | Limit:
    """One part and group."""
    names = labels_of(np.concatenate(labels))
    if len(names) > MOST:
        return Limit("swap", f"{by} has {len(names)} labels, too many to exchange parts between: at most {MOST} are")
    codes = {name: code for code, name in enumerate(names)}
    mine, given = (np.array([NONE if each is None else codes[each] for each in column], np.int64) for column in labels)
    kept = (mine[pairs.images] != NONE) & (given[pairs.donors] != NONE)
    pairs = _Pairs(*(column[kept] for column in pairs))
    used = len(np.unique(pairs.donors))
    if (np.bincount(given[np.unique(pairs.donors)], minlength=len(names)) >= FEWEST).sum() < 2:
        return Limit("swap", f"{by}: fewer than two labels have {FEWEST} donors of {cue} or more, too few to exchange between")
    differs = mine[pairs.images] != given[pairs.donors]
    crossed = _Crossed.of(pairs, mine, given)
    if differs.all() or not differs.any() or not crossed.told:
        return Limit("swap", f"{by}: no donors of {cue} were given both to images of their own label and to others, to compare")
    effect, low, high = _effect(pairs, crossed, differs)
    row = SwapRow(cue, by, *_share(pairs.changed[differs]), *_share(pairs.changed[~differs]), _followed(answers, pairs))
    claim = (
        f"The model goes by the {cue}: exchanged for that of an image with another {by}, it changes {percent(row.other)} of answers; "
        f"with the same {by}, {percent(row.same)}."
    )
    telling = pairs.images[(pairs.changed > 0) & differs]
    shown = answers.called(list(dict.fromkeys(telling.tolist()))[:SHOWN])
    how = (
        f"images with the {cue} of donors of another {by} beside those with that of donors of the same, without what each donor, or each "
        f"{by} of images, does anyway; the labels of {used} donors exchanged 10,000 times"
    )
    return row, Finding(claim, "swap", cue, effect, low, high, len(np.unique(pairs.images)), crossed.chance(), shown, how)


def _gone_over(answers: Answers, donors: Donors, cue: str, pairs: _Pairs) -> tuple[SwapRow, Finding] | Limit:
    """One part, and whether answers become the donors' own, more often than they become those of other donors.

    What becomes of answers anyway, where anything is exchanged, is taken out, answer by answer: an answer that few donors have, who are
    lent out the more often, would otherwise be met more often than by donors who exchange their answers.
    """
    before, theirs, found = answers.full[pairs.images], donors.answers, pairs.found
    apart = before != theirs[pairs.donors]
    used, places = np.unique(pairs.donors, return_inverse=True)
    if len(used) < 2 * FEWEST or not apart.any():
        return Limit("swap", f"fewer than {2 * FEWEST} donors of {cue} could be used")
    kinds, own = np.unique(theirs[used], return_inverse=True)
    free = before[:, None] != kinds
    met, could = (
        np.stack([np.bincount(places, column, len(used)) for column in each.T], 1) for each in (free & (found[:, None] == kinds), free)
    )
    rates = met / np.maximum(could, 1)  # of each donor, how often answers become each answer
    base, draw, rows = rates.mean(0), default_rng(0), np.arange(len(used))
    lent = draw.permuted(np.broadcast_to(own, (PERMUTATIONS, len(used))), axis=1)
    gains, gain = (rates - base)[rows, lent].mean(1), float((rates - base)[rows, own].mean())
    p = float(1 + (gains >= gain - 1e-12).sum()) / (1 + PERMUTATIONS)
    follows, chance = float(pairs.follows[apart].mean()), float(base[own[places]][apart].mean())
    images = len(np.unique(pairs.images[apart]))
    low, high = wilson(round(follows * images), images)  # pairs of one image go together, so that images are what counts
    row = SwapRow(cue, IMAGE, *_share(pairs.changed), math.nan, 0, follows)
    claim = (
        f"Some answers go over with the {cue}: exchanged for that of another image, {percent(follows)} become what that image is answered; "
        f"by chance {percent(chance)} would. {percent(row.other)} change at all."
    )
    shown = answers.called(list(dict.fromkeys(pairs.images[pairs.follows].tolist()))[:SHOWN])
    how = f"answers with the {cue} of another image beside its own answer; the answers of {len(used)} donors exchanged 10,000 times"
    return row, Finding(claim, "swap", cue, follows - chance, low - chance, high - chance, images, p, shown, how)


def _share(changed: Values) -> tuple[float, int]:
    return float(changed.mean()), len(changed)


def _followed(answers: Answers, pairs: _Pairs) -> float:
    """How often the answer becomes the donor's, where that was another one."""
    theirs = answers.donors.answers[pairs.donors] if answers.donors is not None else pairs.donors
    apart = answers.full[pairs.images] != theirs
    return float(pairs.follows[apart].mean()) if apart.any() else float("nan")


def _effect(pairs: _Pairs, crossed: _Crossed, differs: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The effect, with its 95 % interval: images and donors are both drawn from many, so both make errors that go together.

    The variance is that of Cameron, Gelbach and Miller for two crossings, as sure as the donors of the rarest label let it be; the
    interval is at least as wide as Newcombe's of as many independent pairs, which does not vanish where all answers change, or none.
    """
    apart = crossed.apart(crossed.labels[None])[0]
    effect = float((apart * crossed.rest).sum() / (crossed.times * apart**2).sum())
    place, label = crossed.places, crossed.own
    left = pairs.changed - crossed.mean[place, label] + crossed.rest[place, label] / crossed.times[place, label]
    errors = apart[place, label] * (left - effect * apart[place, label]) / (crossed.times * apart**2).sum()
    images, donors = (np.square(np.bincount(np.unique(each, return_inverse=True)[1], errors)).sum() for each in (pairs.images, place))
    spread = math.sqrt(max(images, donors, images + donors - np.square(errors).sum())) * _student(crossed.fewest - 1)
    raw, below, over = gap(int(pairs.changed[~differs].sum()), int((~differs).sum()), int(pairs.changed[differs].sum()), int(differs.sum()))
    return effect, max(-1.0, effect - max(spread, raw - below)), min(1.0, effect + max(spread, over - raw))


def _student(free: int) -> float:
    """The 97.5 % point of Student's distribution, by Cornish and Fisher's expansion; right to 0.03 from 3 degrees of freedom."""
    z = Z
    steps = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum((step / free ** (power + 1) for power, step in enumerate(steps)), 0.0)


class _Crossed(NamedTuple):
    """The pairs by donor and label of the image, (D, K): how many `times`, and the mean share of answers that changed.

    `labels` (D,) are the donors' own; `rest` is how many changed in a cell beyond what its donor and its label explain;
    `inverse` (D + K, D + K) solves for these two. Pair by pair, `places` are donors and `own` the image's label.

    The test: donors' labels exchanged among donors, as they could have been if they did nothing. That the plain difference of shares be
    compared so would not do. Donors of rare labels are given to more images, and images of one label may be shaken by any donor: exchanged
    labels then make differences that the real ones, or the other way round, do not. So what donors and images' labels do by themselves is
    taken out, and the rest is divided by its standard error among donors, whose distribution hardly depends on who has how many images.
    """

    places: Codes
    own: Codes
    labels: Codes
    times: Values
    mean: Values
    rest: Values
    inverse: Values

    @classmethod
    def of(cls, pairs: _Pairs, mine: Codes, given: Codes) -> _Crossed:
        """Count."""
        used, places = np.unique(pairs.donors, return_inverse=True)
        own, kinds = mine[pairs.images], int(max(mine.max(), given.max())) + 1
        size, at = (len(used), kinds), places * kinds + own
        count = np.bincount(at, minlength=len(used) * kinds).reshape(size).astype(np.float64)
        changed = np.bincount(at, pairs.changed, len(used) * kinds).reshape(size)
        whole = np.block([[np.diag(count.sum(1)), count], [count.T, np.diag(count.sum(0))]])
        inverse: Values = np.linalg.pinv(whole, rcond=1e-10, hermitian=True)
        both = inverse @ np.concatenate([changed.sum(1), changed.sum(0)])
        rest = changed - count * (both[: len(used), None] + both[len(used) :])
        rest[np.abs(rest) < 1e-9] = 0  # where donors and labels explain everything, rounding must not look like an effect
        return cls(places.astype(np.int64), own, given[used], count, changed / np.maximum(count, 1), rest, inverse)

    @property
    def told(self) -> bool:
        """Whether donors and labels of images leave anything of who differs from whom."""
        return float((self.times * self.apart(self.labels[None])[0] ** 2).sum()) > 1e-6

    @property
    def fewest(self) -> int:
        """Donors of the label that has fewest, of those that have enough."""
        counts = np.bincount(self.labels)
        return int(counts[counts >= FEWEST].min())

    def apart(self, labels: Codes) -> Values:
        """Where donors would have another label than the images, (P, D, K), beyond what donors and images' labels explain."""
        kinds = np.arange(self.times.shape[1])
        differs = (labels[:, :, None] != kinds).astype(np.float64)
        weighted = differs * self.times
        both: Values = np.concatenate([weighted.sum(2), weighted.sum(1)], 1) @ self.inverse
        donors = len(self.labels)
        apart: Values = differs - both[:, :donors, None] - both[:, None, donors:]
        return apart

    def chance(self) -> float:
        """How often a ratio of effect and standard error at least as large comes of donors whose labels are exchanged among themselves."""
        bar = float(self._ratios(self.labels[None])[0])
        draw, beyond, step = default_rng(0), 0, max(1, HELD // self.times.size)
        for start in range(0, PERMUTATIONS, step):
            labels = draw.permuted(np.broadcast_to(self.labels, (min(step, PERMUTATIONS - start), len(self.labels))), axis=1)
            beyond += int((self._ratios(labels) >= bar - 1e-9 * abs(bar)).sum())
        return (1 + beyond) / (1 + PERMUTATIONS)

    def _ratios(self, labels: Codes) -> Values:
        """The effect over its standard error among donors, for each assignment of labels to them, (P,).

        It is of `apart` what `(apart * rest).sum(2)` and `(times * apart**2).sum(2)` are, with no array of (P, D, K): `apart` is what a
        donor and a label leave of 1, less 1 in the one cell where the labels are the same.
        """
        rows, donors = np.arange(len(self.labels)), len(self.labels)
        alike, size, moved = self.times[rows, labels], self.times.sum(1), self.rest[rows, labels]
        kinds = range(self.times.shape[1])
        columns = np.stack([(labels != kind) @ self.times[:, kind] for kind in kinds], 1)
        both = np.concatenate([size - alike, columns], 1) @ self.inverse
        own, label = 1 - both[:, :donors], both[:, donors:]
        products = -moved - label @ self.rest.T
        squares = own**2 * size - 2 * own * (label @ self.times.T) + label**2 @ self.times.T
        squares += alike * (1 - 2 * (own - np.take_along_axis(label, labels, 1)))
        whole = np.maximum(squares.sum(1), 1e-9)
        effects = products.sum(1) / whole
        errors = np.square(products - effects[:, None] * squares).sum(1) / whole**2
        ratios: Values = effects / np.sqrt(errors + 1e-12)  # where nothing is left, an effect is as large as it can be
        return ratios
