"""Where the maps lie: on the region that should decide, on others, at the border; by class and group, beside a uniform map's level."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..scoring.resampling import intervals, sign_flips
from ..scoring.summaries import Label, Listing
from .answers import Answers, labels_of
from .findings import SHOWN, Finding, Limit, Test

Values = NDArray[np.float64]
MOST = 12  # classes and labels of a group in a table, those with the most images
FEWEST = 10  # images that a claim is made of


class Overlap(NamedTuple):
    """How each map overlaps a region, (N,), and how a uniform map does; NaN where either is not defined.

    `elsewhere` (N,) is how the map overlaps the same region of another image: what it gets without looking where the region is.
    """

    region: str
    scores: Values
    uniform: Values
    elsewhere: Values


@dataclasses.dataclass(frozen=True)
class RegionRow:
    """The mean overlap of maps and a region with its 95 % interval, beside that of a uniform map; of a class and group, or all, if None."""

    region: str
    target: str | None
    by: str | None
    label: Label | None
    score: float
    low: float
    high: float
    uniform: float
    count: int


@dataclasses.dataclass(frozen=True)
class Looked:
    """The table of regions, what is claimed of them, and what could not be told."""

    rows: Listing[RegionRow]
    claims: list[Finding]
    limits: list[Limit]


def looked(answers: Answers, overlaps: list[Overlap], frames: list[Overlap]) -> Looked:
    """Mask scores by class and group, and the claims that maps miss the region that should decide, or lie on another; `frames` alike."""
    limits = [] if overlaps else [Limit("regions", "whether maps lie on the object, for want of masks (mask:NAME)")]
    parts = _parts(answers)
    rows = Listing(row for each in [*overlaps, *frames] for row in _rows(each, parts))
    claims = [claim for each in overlaps for claim in _claim(answers, each)]
    claims += [_above(answers, each, "frame", f"Maps lie at the {each.region}") for each in frames if each.region.endswith("border")]
    for each in overlaps:
        undefined = int(np.isnan(each.scores).sum())
        if undefined:
            limits.append(
                Limit("regions", f"{undefined} of {len(answers)} images have no {each.region}, or a map that is flat or not finite")
            )
    return Looked(rows, [each for each in claims if each.count >= FEWEST], limits)


def _parts(answers: Answers) -> list[tuple[str | None, str | None, Label | None, NDArray[np.bool_]]]:
    """All images; those of each class; of each label; of each class with each label: the largest of each."""
    whole = np.ones(len(answers), bool)
    found, counts = np.unique(answers.full, return_counts=True)
    classes = [int(found[at]) for at in np.argsort(-counts, kind="stable")[:MOST]]
    parts: list[tuple[str | None, str | None, Label | None, NDArray[np.bool_]]] = [(None, None, None, whole)]
    parts += [(answers.named(each), None, None, answers.full == each) for each in classes]
    for by, group in answers.groups.items():
        labels = labels_of(group)
        for label in labels if len(labels) <= MOST else []:
            inside = group == label
            parts.append((None, by, label, inside))
            parts += [(answers.named(each), by, label, inside & (answers.full == each)) for each in classes]
    return [part for part in parts if part[3].any()]


def _rows(overlap: Overlap, parts: list[tuple[str | None, str | None, Label | None, NDArray[np.bool_]]]) -> list[RegionRow]:
    defined = ~np.isnan(overlap.scores)
    kept = [(target, by, label, inside & defined) for target, by, label, inside in parts]
    kept = [part for part in kept if part[3].any()]
    ends = intervals([overlap.scores[inside] for *_, inside in kept])
    return [
        RegionRow(
            overlap.region,
            target,
            by,
            label,
            float(overlap.scores[inside].mean()),
            float(low),
            float(high),
            float(overlap.uniform[inside].mean()),
            int(inside.sum()),
        )
        for (target, by, label, inside), (low, high) in zip(kept, ends, strict=True)
    ]


def _claim(answers: Answers, overlap: Overlap) -> list[Finding]:
    """Of the region that should decide, that maps miss it; of another, that they lie on it."""
    if overlap.region != answers.region:
        return [_above(answers, overlap, "regions", f"Maps lie on the {overlap.region}")]
    defined = np.isfinite(overlap.scores) & np.isfinite(overlap.uniform)
    gains = (overlap.uniform - overlap.scores)[defined]
    words = ""
    if defined.any():
        mean, uniform = overlap.scores[defined].mean(), overlap.uniform[defined].mean()
        words = f"Maps look past the {overlap.region}: they overlap it by {mean:.2f}, and a map that knows nothing by {uniform:.2f}."
    how = "mask scores (Attention-IoU) beside those of a uniform map on the same images; random signs of the differences"
    rows = np.flatnonzero(defined)
    return [_finding(answers, "regions", overlap.region, words, gains, rows, _one_sided(gains), how)]


def _above(answers: Answers, overlap: Overlap, test: Test, words: str) -> Finding:
    """That maps lie on a region more than a uniform map does, and more than on where it is in other images."""
    defined = np.isfinite(overlap.scores) & np.isfinite(overlap.uniform)
    over = (overlap.scores - overlap.uniform)[defined]
    claim, p, gains = "", _one_sided(over), over
    elsewhere = overlap.elsewhere[defined]
    if np.isfinite(elsewhere).all() and len(elsewhere):  # a border is at the same place in all images
        apart = (overlap.scores[defined] - elsewhere) if len(elsewhere) else over
        p = max(p, _one_sided(apart))
        gains = over if over.mean() < apart.mean() else apart
    if defined.any():
        mean, uniform = overlap.scores[defined].mean(), overlap.uniform[defined].mean()
        measure = "overlap it by" if test == "regions" else "have there"
        known = f", and where it is in other images by {elsewhere.mean():.2f}" if np.isfinite(elsewhere).all() else ""
        claim = f"{words}: they {measure} {mean:.2f}, where a map that knows nothing has {uniform:.2f}{known}."
    how = "scores beside those of a uniform map, and of the same maps with another image's region; random signs of the differences"
    return _finding(answers, test, overlap.region, claim, gains, np.flatnonzero(defined), p, how)


def _one_sided(gains: Values) -> float:
    """The chance of a mean at least so far above zero."""
    if not len(gains):
        return 1.0
    p = float(sign_flips([gains])[0])
    return p / 2 if gains.mean() > 0 else 1 - p / 2


def _finding(  # noqa: PLR0913 - what a claim is made of
    answers: Answers, test: Test, cue: str, claim: str, gains: Values, rows: NDArray[np.int64], p: float, how: str
) -> Finding:
    low, high = intervals([gains])[0].tolist()
    shown = answers.called(rows[np.argsort(-gains, kind="stable")[:SHOWN]])
    return Finding(claim, test, cue, float(gains.mean()) if len(gains) else 0.0, low, high, len(gains), p, shown, how)
