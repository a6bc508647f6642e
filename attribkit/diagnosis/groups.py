"""How often a model is right in each group of images, and in which it is right less often than in the rest of the class."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..scoring.summaries import Label, Listing
from .answers import NONE, Answers, labels_of, listed, percent
from .findings import SHOWN, Finding, Limit
from .proportions import fisher, gap, wilson

FEWEST = 5  # images of a group, and of the rest of its class, that a claim is made of
MOST = 40  # labels of a group: with more it is a number of its own for nearly every image


@dataclasses.dataclass(frozen=True)
class GroupRow:
    """The images of a class, all if None, that have a label of the group `by`: how many are answered right, with Wilson's interval."""

    by: str
    label: Label
    target: str | None
    right: int
    count: int
    accuracy: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Grouped:
    """The table of all groups, the claims that single ones are worse off, and what could not be told."""

    rows: Listing[GroupRow]
    claims: list[Finding]
    limits: list[Limit]

    @property
    def worst(self) -> GroupRow | None:
        """The class within a group that is answered right least often, of those that have enough images."""
        cells = [row for row in self.rows if row.target is not None and row.count >= FEWEST]
        return min(cells, key=lambda row: row.accuracy, default=None)


def grouped(answers: Answers) -> Grouped:
    """Accuracies by class and group, and for each cell the claim that it is answered right less often than others of its class."""
    known = (answers.truth != NONE) & (answers.full != NONE)
    limits = _limits(answers, known)
    if not known.any():
        return Grouped(Listing(), [], limits)
    right = answers.truth == answers.full
    rows: list[GroupRow] = []
    claims: list[Finding] = []
    for by, group in answers.groups.items():
        labels = labels_of(group)
        if len(labels) > MOST:
            limits.append(Limit("groups", f"{by} has {len(labels)} labels, too many to compare: at most {MOST} are"))
            continue
        if len(labels) == 1:
            limits.append(Limit("groups", f"{by} has one label, {labels[0]}, and nothing to compare it with"))
        labelled = known & _labelled(group)
        for label in labels:
            inside = known & (group == label)
            rows.append(_row(by, label, None, right, inside))
            for target in np.unique(answers.truth[inside]).tolist():
                mine = answers.truth == target
                rows.append(_row(by, label, answers.named(target), right, inside & mine))
                claims += _claims(answers, (by, label, target), inside & mine, mine & ~inside & labelled)
        small = [label for label in labels if (known & (group == label)).sum() < FEWEST]
        if small:
            limits.append(Limit("groups", f"{by}: {listed(small)} {_have(small)} fewer than {FEWEST} labelled images, too few to judge"))
    return Grouped(Listing(rows), claims, limits)


def _have(labels: list[Label]) -> str:
    return "has" if len(labels) == 1 else "have"


def _labelled(group: NDArray[np.object_]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.array([each is not None for each in group], bool)
    return found


def _limits(answers: Answers, known: NDArray[np.bool_]) -> list[Limit]:
    limits = []
    if not known.any():
        limits.append(Limit("groups", "accuracy, and who it is lower for, for want of labels: the answers alone are known"))
    elif not known.all():
        limits.append(Limit("groups", f"accuracy is that of the {known.sum()} images with a label and an answer, of {len(answers)}"))
    if not answers.groups:
        limits.append(Limit("groups", "who the model fails, for want of groups: a column group:NAME in the manifest"))
    present = np.unique(answers.truth[known])
    if len(present) == 1:
        limits.append(Limit("groups", f"all labelled images are of one class, {answers.named(int(present[0]))}: nothing is told apart"))
    missing = [name for index, name in enumerate(answers.classes) if index not in present]
    if known.any() and missing and len(answers.classes) <= MOST:
        limits.append(Limit("groups", f"there is no image of the class{'es' * (len(missing) > 1)} {listed(missing)}"))
    return limits


def _row(by: str, label: Label, target: str | None, right: NDArray[np.bool_], inside: NDArray[np.bool_]) -> GroupRow:
    hits, count = int(right[inside].sum()), int(inside.sum())
    return GroupRow(by, label, target, hits, count, hits / count if count else float("nan"), *wilson(hits, count))


def _claims(answers: Answers, cell: tuple[str, Label, int], inside: NDArray[np.bool_], rest: NDArray[np.bool_]) -> Iterator[Finding]:
    """That a cell is worse off than the rest of its class, if both have images enough."""
    by, label, target = cell
    right = answers.truth == answers.full
    hits, count, other, others = (int(each) for each in (right[inside].sum(), inside.sum(), right[rest].sum(), rest.sum()))
    if min(count, others) < FEWEST:
        return
    name = answers.named(target)
    claim = (
        f"Images of {name} with {by} {label} are answered right in {percent(hits / count)} ({hits} of {count}), "
        f"other images of {name} in {percent(other / others)}."
    )
    wrong = np.flatnonzero(inside & ~right)[:SHOWN]
    how = f"accuracy on {name} with {by} {label} beside that on all others of the class; Fisher's exact test, Newcombe's interval"
    yield Finding(
        claim,
        "groups",
        by,
        *gap(hits, count, other, others),
        count + others,
        fisher(hits, count, other, others),
        answers.called(wrong),
        how,
    )
