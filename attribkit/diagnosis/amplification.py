"""Bias amplification: whether answers follow what went together in training further than the images themselves do.

Directional, after Wang and Russakovsky: Directional bias amplification, ICML 2021 (arXiv:2102.12594), and for several attributes at once,
after Zhao, Andrews and Xiang: Men also do laundry, ICML 2023 (arXiv:2210.11924), whose combinations cannot cancel one another.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from ..scoring.summaries import Listing
from .answers import NONE, Answers, labels_of
from .findings import SHOWN, Finding, Limit
from .proportions import PERMUTATIONS, above, exchanged, means

Flags = NDArray[np.bool_]
Signs = NDArray[np.float64]

LEAST = 0.01  # by how much of all images a pair must be more or less frequent than by chance to count as going together
FEWEST = 10  # training images of a combination of labels
MOST = 40  # labels of a group
DRAWN = 40_000_000  # places of images in all permutations, of which there are fewer where images are many, but not below:
LEAST_PERMUTATIONS = 1_000


class Training(NamedTuple):
    """What a model was trained on: the class of each image, -1 where unknown, and the labels of its groups by name."""

    truth: NDArray[np.int64]
    groups: Mapping[str, NDArray[np.object_]]


@dataclasses.dataclass(frozen=True)
class AmplificationRow:
    """How much further answers follow the pairs of group and class than the images do, with its 95 % interval, over `count` images.

    `by` is a group, or several joined by " + ", whose labels are combined; `amplification` is the mean over pairs of the signed
    difference, `size` and `variance` are the mean and the variance of its absolute value.
    """

    by: str
    amplification: float
    low: float
    high: float
    size: float
    variance: float
    count: int


@dataclasses.dataclass(frozen=True)
class Amplified:
    """The table, a claim for each group and combination of groups, and what could not be told."""

    rows: Listing[AmplificationRow]
    claims: list[Finding]
    limits: list[Limit]


def pair_signs(attributes: Flags, tasks: Flags) -> Signs:
    """Whether each pair goes together, 1, or apart, -1, in the images (N, A), (N, T) that have any of either; 0 where neither: (A, T)."""
    some = attributes.any(1) | tasks.any(1)
    a, t = attributes[some].astype(np.float64), tasks[some].astype(np.float64)
    beyond = a.T @ t / len(a) - np.outer(a.mean(0), t.mean(0))
    return np.sign(np.where(np.abs(beyond) >= LEAST, beyond, 0))


def bias_amplification(given: Flags, truth: Flags, found: Flags, signs: Signs) -> Signs:
    """Directional bias amplification of each pair, `sign * (P(found | given) - P(truth | given))`, (A, T); NaN where nothing is given.

    `given` (N, A) are attributes and `truth`, `found` (N, T) the tasks' labels and predictions (from attribute to task), or tasks and
    the attributes' (from task to attribute); `signs` (A, T) as `pair_signs` has them.
    """
    counts = given.sum(0).astype(np.float64)
    difference = given.astype(np.float64).T @ (found.astype(np.float64) - truth)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Signs = signs * difference / np.where(counts > 0, counts, np.nan)[:, None]
    return shares


def amplified(answers: Answers, training: Training | None) -> Amplified:
    """How much each group, and each combination of groups, is followed beyond what the images say."""
    known = (answers.truth != NONE) & (answers.full != NONE)
    groups = [name for name, labels in answers.groups.items() if 1 < len(labels_of(labels)) <= MOST]
    if not known.any() or not groups:
        return Amplified(Listing(), [], [Limit("amplification", "bias amplification, for want of labels or groups")])
    source = training or Training(answers.truth, answers.groups)
    where = "training" if training else "these images, which stand for those of training"
    rows, claims, limits, level = [], [], [], []
    same = [name for name in groups if _is_class(answers, known, (name,))]
    if same:
        limits.append(
            Limit(
                "amplification", f"{', '.join(same)} says what class an image is of, so that no answer can follow the one beyond the other"
            )
        )
    groups = [name for name in groups if name not in same]
    missing = [name for name in groups if name not in source.groups]
    if missing:
        limits.append(Limit("amplification", f"the training images have no group {', '.join(missing)}"))
    groups = [name for name in groups if name not in missing]
    strange = [name for name in groups if not {*labels_of(answers.groups[name])} & {*labels_of(source.groups[name])}]
    if strange:
        limits.append(Limit("amplification", f"the training images have none of the labels of {', '.join(strange)} that these images have"))
    for names in _combinations([name for name in groups if name not in strange]):
        found = _row(answers, known, source, names, where)
        if found is None:
            level.append(" + ".join(names))
        else:
            rows.append(found[0])
            claims.append(found[1])
    if level:
        limits.append(Limit("amplification", f"no class goes together with {', '.join(level)} in {where} so that it can be amplified"))
    return Amplified(Listing(rows), claims, limits)


def _combinations(names: list[str]) -> Iterator[tuple[str, ...]]:
    """Single groups, then pairs, of a handful of groups."""
    yield from ((name,) for name in names)
    if 1 < len(names) <= 6:
        yield from itertools.combinations(names, 2)


def _row(answers: Answers, known: Flags, source: Training, names: tuple[str, ...], where: str) -> tuple[AmplificationRow, Finding] | None:
    """One group, or several combined; None where nothing goes together with anything."""
    by = " + ".join(names)
    cells, labelled = _cells(source, names), source.truth != NONE
    classes = np.unique(source.truth[labelled])
    signs = pair_signs(_having(source.groups, names, cells)[labelled], source.truth[labelled][:, None] == classes)
    given = _having(answers.groups, names, cells)[known]
    truth, found = (each[known][:, None] == classes for each in (answers.truth, answers.full))
    pairs = bias_amplification(given, truth, found, signs)
    alive = ~np.isnan(pairs) & (signs != 0)
    if not alive.any():
        return None
    weights = np.where(alive, signs, 0) / np.maximum(given.sum(0), 1)[:, None] / alive.sum()
    pull = weights @ found.T.astype(np.float64)  # of each cell and image: what its answer adds if the image is of that cell
    own = ((given.T * pull).sum(0) - ((given @ weights) * truth).sum(1)) * len(given)  # whose mean is the mean over pairs
    low, high = means([own])[0].tolist()
    value, sizes = float(pairs[alive].mean()), np.abs(pairs[alive])
    row = AmplificationRow(by, value, low, high, float(sizes.mean()), float(sizes.var()), len(given))
    claim = (
        f"Answers follow {by} further than the images do: what goes together in {where}, is answered {100 * value:.1f} points more often "
        f"than it is so."
    )
    telling = answers.called(np.flatnonzero(known)[np.argsort(-own, kind="stable")[:SHOWN]])
    how = (
        "directional bias amplification from group to class, mean over pairs; random signs of each image's part, "
        "and groups exchanged among images of a class"
    )
    p = max(above(own), _by_chance(given, pull, answers.truth[known], answers.full[known]))
    return row, Finding(claim, "amplification", by, value, low, high, len(given), p, telling, how)


def _by_chance(given: Flags, pull: Signs, truth: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    """How often answers follow groups as far, if the images of each class have their groups exchanged among themselves.

    A model that gives one class too often in all groups alike also answers some pairs more often than they are: that is no matter of
    groups. Exchanged within classes, what goes together, and how often, stays as it is, also where the images at hand say what does.
    """
    cells = np.where(given.any(1), given.argmax(1), given.shape[1])  # one more, that adds nothing, for images of no cell
    pull = np.concatenate([pull, np.zeros((1, pull.shape[1]))])
    size, draw = int(max(LEAST_PERMUTATIONS, min(PERMUTATIONS, DRAWN / max(1, len(truth))))), default_rng(0)
    sums, bar = np.zeros(size), 0.0
    for target in np.unique(truth):
        rows = np.flatnonzero(truth == target)
        own, mine = np.unique(cells[rows], return_inverse=True)
        _, first, answer = np.unique(found[rows], return_index=True, return_inverse=True)
        weights = pull[np.ix_(own, rows[first])]
        if len(own) > 1 and not (weights == weights[:, :1]).all():  # else no exchange changes anything
            bar += float(weights[mine, answer].sum())
            sums += exchanged(mine, answer, weights, draw, size)
    return float(1 + (sums >= bar - 1e-9 * max(1.0, abs(bar))).sum()) / (1 + size)


def _cells(source: Training, names: tuple[str, ...]) -> list[tuple[object, ...]]:
    """The combinations of labels that enough training images have, at most 40 of them, the most frequent."""
    counts = Counter(cell for cell in zip(*(source.groups[name] for name in names), strict=True) if None not in cell)
    return [cell for cell, count in counts.most_common(MOST) if count >= FEWEST]


def _having(groups: Mapping[str, NDArray[np.object_]], names: tuple[str, ...], cells: list[tuple[object, ...]]) -> Flags:
    """Which images have which combination, (N, cells)."""
    found = [np.logical_and.reduce([groups[name] == label for name, label in zip(names, cell, strict=True)]) for cell in cells]
    flags: Flags = np.stack(found, 1).astype(bool) if found else np.zeros((len(groups[names[0]]), 0), bool)
    return flags


def _is_class(answers: Answers, known: Flags, names: tuple[str, ...]) -> bool:
    """Whether a group says what class an image is of."""
    return any(
        len(set(zip(answers.groups[name][known].tolist(), answers.truth[known].tolist(), strict=True)))
        == len(set(answers.groups[name][known].tolist()))
        for name in names
    )
