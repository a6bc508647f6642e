"""The masking test: which answers stay when the region that should decide them is taken away, or nothing else is left.

After Sourget et al.: Mask of truth: model sensitivity to unexpected regions of medical images, 2024, on one trained
model, with any removal. That a box and not the region itself is taken away keeps its outline from telling what was there.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from ..scoring.summaries import Listing
from .answers import NONE, Answers, Version, percent
from .findings import SHOWN, Finding, Limit
from .proportions import agreement, auc, beyond_chance, fisher, gap, wilson

FEWEST = 10  # answers of a class that a claim about it is made of
DECIDES = "box removed"  # the version that claims rest on
VERSIONS = {
    "full": "the whole image",
    "region removed": "without the region",
    "region only": "nothing but the region",
    "box removed": "without the box around it",
    "box only": "nothing but the box",
    "shifted removed": "without as much of the same shape elsewhere (a control)",
    "shifted only": "nothing but as much of the same shape elsewhere (a control)",
}


@dataclasses.dataclass(frozen=True)
class VersionRow:
    """One version of the images: how many answers are right, with Wilson's interval, and how many are as those to whole images.

    `auc` is the mean over classes of the area under the ROC curve, one class against the rest; NaN where that is not defined.
    """

    version: str
    words: str
    accuracy: float
    low: float
    high: float
    auc: float
    kept: float
    kept_low: float
    kept_high: float
    count: int
    labelled: int


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """One version and class: the AUC of telling it from others, and how many of `count` answers of the class stay that."""

    version: str
    target: str
    auc: float
    kept: float
    low: float
    high: float
    count: int


@dataclasses.dataclass(frozen=True)
class Masked:
    """Versions, versions by class, what is claimed of them, and what could not be told."""

    rows: Listing[VersionRow]
    classes: Listing[ClassRow]
    claims: list[Finding]
    limits: list[Limit]


def masked(answers: Answers) -> Masked:
    """The table of versions, and the claims that answers stay without the region: of all images, and of each class."""
    if answers.region is None or answers.seen is None or not answers.seen.any():
        lacking = (
            "for want of masks (mask:NAME)"
            if answers.region is None
            else f"since the masks of {answers.region} cover no pixel by more than half"
        )
        return Masked(Listing(), Listing(), [], [Limit("masking", f"what stays without the object, {lacking}")])
    limits = []
    without = int((~answers.seen).sum())
    if without:
        limits.append(Limit("masking", f"{without} of {len(answers)} images have no region {answers.region}, and are not asked about"))
    rows = Listing(_row(answers, name, version) for name, version in answers.versions.items())
    classes = Listing(row for name, version in answers.versions.items() for row in _by_class(answers, name, version))
    if not any(math.isfinite(row.auc) for row in rows) and answers.versions["full"].probabilities is None:
        limits.append(Limit("masking", "areas under ROC curves, which are given for labelled images and at most 50 classes"))
    claims = []
    if DECIDES in answers.versions:
        full = answers.full[_asked(answers, answers.versions[DECIDES])]
        if len(full) < FEWEST:
            limits.append(
                Limit(
                    "masking",
                    f"{len(full)} image{'s' * (len(full) != 1)} can be asked about without the {answers.region}: a claim takes {FEWEST}",
                )
            )
        elif (full == full[0]).all():
            limits.append(Limit("masking", f"all are answered {answers.named(int(full[0]))}, and would stay that by chance alone"))
        else:
            claims = [_stays(answers), *_classes_that_stay(answers)]
    return Masked(rows, classes, claims, limits)


def _row(answers: Answers, name: str, version: Version) -> VersionRow:
    asked = _asked(answers, version)
    labelled = asked & (answers.truth != NONE)
    right, kept = version.answers == answers.truth, version.answers == answers.full
    hits, of, same, count = (int(each) for each in (right[labelled].sum(), labelled.sum(), kept[asked].sum(), asked.sum()))
    areas = [auc_ for _, auc_ in _areas(answers, version, labelled) if math.isfinite(auc_)]
    return VersionRow(
        name,
        VERSIONS[name],
        hits / of if of else math.nan,
        *wilson(hits, of),
        float(np.mean(areas)) if areas else math.nan,
        same / count if count else math.nan,
        *wilson(same, count),
        count,
        of,
    )


def _asked(answers: Answers, version: Version) -> NDArray[np.bool_]:
    """Images that have the region, and an answer to this version."""
    found: NDArray[np.bool_] = (version.answers != NONE) & (answers.full != NONE) & answers.seen
    return found


def _areas(answers: Answers, version: Version, labelled: NDArray[np.bool_]) -> list[tuple[int, float]]:
    """The AUC of each class that images are of, and the model has."""
    if version.probabilities is None or not labelled.any():
        return []
    truth, shares = answers.truth[labelled], version.probabilities[labelled].astype(np.float64)
    return [(target, auc(shares[:, target], truth == target)) for target in np.unique(truth).tolist() if target < shares.shape[1]]


def _by_class(answers: Answers, name: str, version: Version) -> list[ClassRow]:
    """A row for each class that has answers enough."""
    asked = _asked(answers, version)
    areas = dict(_areas(answers, version, asked & (answers.truth != NONE)))
    rows = []
    for target, count in zip(*np.unique(answers.full[asked], return_counts=True), strict=True):
        if count >= FEWEST:
            same = int((version.answers[asked & (answers.full == target)] == target).sum())
            share = same / int(count), *wilson(same, int(count))
            rows.append(ClassRow(name, answers.named(int(target)), areas.get(int(target), math.nan), *share, int(count)))
    return rows


def _stays(answers: Answers) -> Finding:
    """That answers without the region's box have to do with those to whole images."""
    version = answers.versions[DECIDES]
    rows = np.flatnonzero(_asked(answers, version))
    full, found = answers.full[rows], version.answers[rows]
    same, chance, p = agreement(full, found)
    low, high = beyond_chance(full, found)
    claim = (
        f"{percent(same)} of answers stay when the whole box around the {answers.region} is removed; "
        f"by chance {percent(chance)} would. They hang on something else than what is in it."
    )
    how = "answers without the box beside those to whole images, and beside how often they agree when exchanged among images"
    shown = answers.called(rows[full == found][:SHOWN])
    return Finding(claim, "masking", f"outside the {answers.region}", same - chance, low, high, len(rows), p, shown, how)


def _classes_that_stay(answers: Answers) -> list[Finding]:
    """That answers of one class stay more often than other images get them: which classes lean on what is around."""
    version = answers.versions[DECIDES]
    asked = _asked(answers, version)
    if len(np.unique(answers.full[asked])) < 3:  # of two classes each says what the other does, and both what all images do
        return []
    claims = []
    for target, count in zip(*np.unique(answers.full[asked], return_counts=True), strict=True):
        mine, others = asked & (answers.full == target), asked & (answers.full != target)
        if count < FEWEST or not others.any():
            continue
        stay = version.answers == target
        same, other, of = int(stay[mine].sum()), int(stay[others].sum()), int(others.sum())
        name = answers.named(int(target))
        claim = (
            f"{same} of {count} images answered {name} are still that without the box around the {answers.region}; "
            f"of all other images {percent(other / of)} become it."
        )
        effect, low, high = gap(other, of, same, int(count))
        how = f"how often the answer without the box is {name}, where that is the answer with it and where it is not; Fisher's exact test"
        p = fisher(int(count) - same, int(count), of - other, of)
        shown = answers.called(np.flatnonzero(mine & stay)[:SHOWN])
        claims.append(Finding(claim, "masking", f"outside the {answers.region}", effect, low, high, int(count), p, shown, how))
    return claims
