"""Where the maps lie: on the region that should decide, on others, at the border; by class and group, beside a uniform map's level."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..scoring.summaries import Label, Listing
from .answers import Answers, labels_of, listed
from .findings import SHOWN, Finding, Limit, Test
from .proportions import above, means

Values = NDArray[np.float64]
MOST = 12  # classes and labels of a group in a table, those with the most images
FEWEST = 10  # images that a claim is made of
HALF = 0.8  # what a uniform map scores on half of the image


class Overlap(NamedTuple):
    """How each map overlaps a region, (N,), and how a uniform map does; NaN where either is not defined.

    `elsewhere` (N,) is how the map overlaps the same shape where the region is not: what it gets without looking where the region is.
    NaN of a region that all images have at one place.
    """

    region: str
    scores: Values
    uniform: Values
    elsewhere: Values


class Part(NamedTuple):
    """Images of one class, and with one label of a group, or of all where these are None; which ones, (N,)."""

    target: str | None
    by: str | None
    label: Label | None
    inside: NDArray[np.bool_]


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
    rows = Listing(_rows([*overlaps, *frames], parts))
    claims = [claim for each in overlaps for claim in _claim(answers, each)]
    claims += [_above(answers, each, "frame", f"Maps lie at the {each.region}") for each in frames if each.region.endswith("border")]
    undefined: dict[int, list[str]] = {}
    for each in overlaps:
        undefined.setdefault(int(np.isnan(each.scores).sum()), []).append(each.region)
    for count, names in undefined.items():
        if count:
            limits.append(
                Limit("regions", f"{count} of {len(answers)} images have no {listed(names)}, or a map that is flat or not finite")
            )
    return Looked(rows, [each for each in claims if each.count >= FEWEST], limits)


def _parts(answers: Answers) -> list[Part]:
    """All images; those of each class; of each label; of each class with each label: the largest of each."""
    whole = np.ones(len(answers), bool)
    found, counts = np.unique(answers.full, return_counts=True)
    classes = [int(found[at]) for at in np.argsort(-counts, kind="stable")[:MOST]]
    parts: list[Part] = [Part(None, None, None, whole)]
    parts += [Part(answers.named(each), None, None, answers.full == each) for each in classes]
    for by, group in answers.groups.items():
        labels = labels_of(group)
        for label in labels if len(labels) <= MOST else []:
            inside = group == label
            parts.append(Part(None, by, label, inside))
            parts += [Part(answers.named(each), by, label, inside & (answers.full == each)) for each in classes]
    return [part for part in parts if part.inside.any()]


def _rows(overlaps: list[Overlap], parts: list[Part]) -> list[RegionRow]:
    """A row for each region and part that has scores."""
    kept = [(each, part, part.inside & np.isfinite(each.scores) & np.isfinite(each.uniform)) for each in overlaps for part in parts]
    kept = [(each, part, inside) for each, part, inside in kept if inside.any()]
    ends = means([each.scores[inside] for each, _, inside in kept])
    rows = []
    for (each, part, inside), (low, high) in zip(kept, ends.tolist(), strict=True):
        score, uniform = float(each.scores[inside].mean()), float(each.uniform[inside].mean())
        rows.append(RegionRow(each.region, part.target, part.by, part.label, score, low, high, uniform, int(inside.sum())))
    return rows


def _claim(answers: Answers, overlap: Overlap) -> list[Finding]:
    """Of the region that should decide, that maps miss it; of another, that they lie on it."""
    if overlap.region != answers.region:
        return [_above(answers, overlap, "regions", f"Maps lie on the {overlap.region}")]
    return [_past(answers, overlap)]


def _past(answers: Answers, overlap: Overlap) -> Finding:
    """That maps overlap a region less than a uniform map does, and less than the same shape elsewhere.

    Not the former alone: by Attention-IoU a map that is small, but lies wholly on the region, is below a uniform one too. And a map that
    is put down anywhere is as likely above the same shape elsewhere as below, so that random signs are what chance would do.
    """
    rows = np.flatnonzero(np.isfinite(overlap.scores) & np.isfinite(overlap.uniform) & np.isfinite(overlap.elsewhere))
    scores, uniform, elsewhere = (each[rows] for each in (overlap.scores, overlap.uniform, overlap.elsewhere))
    claim = ""
    if len(rows):
        claim = (
            f"Maps look past the {overlap.region}: they overlap it by {scores.mean():.2f}, the same shape elsewhere by "
            f"{elsewhere.mean():.2f}, and a map that knows nothing overlaps it by {uniform.mean():.2f}."
        )
    how = "mask scores (Attention-IoU) beside those of a uniform map, and of the same shape elsewhere; random signs of the differences"
    return _finding(answers, ("regions", overlap.region), claim, [uniform - scores, elsewhere - scores], rows, how)


def _above(answers: Answers, overlap: Overlap, test: Test, words: str) -> Finding:
    """That maps lie on a region more than on the same shape elsewhere, and more than a uniform map does.

    Both, since any map leaves a trace on what catches the eye of early layers: a hundredth of it on a tag is more than there is elsewhere,
    and no reliance. But by Attention-IoU a uniform map is nearly 1 of a region that is most of the image, which no map with a shape of
    its own comes up to: there it is no bar.
    """
    defined = np.isfinite(overlap.scores) & np.isfinite(overlap.uniform)
    apart = defined & np.isfinite(overlap.elsewhere)
    rows = np.flatnonzero(apart if apart.any() else defined)
    scores, uniform, elsewhere = (each[rows] for each in (overlap.scores, overlap.uniform, overlap.elsewhere))
    claim = ""
    if len(rows):
        measure = "overlap it by" if test == "regions" else "have there"
        known = f", the same shape elsewhere by {elsewhere.mean():.2f}" if apart.any() else ""
        claim = f"{words}: they {measure} {scores.mean():.2f}{known}; a map that knows nothing has {uniform.mean():.2f}."
    gains = {"of the same shape elsewhere": scores - elsewhere} if apart.any() else {}
    if not gains or (len(rows) and uniform.mean() < HALF):
        gains["of a uniform map on the same images"] = scores - uniform
    how = f"scores of maps beside those {' and '.join(gains)}; random signs of the differences"
    return _finding(answers, (test, overlap.region), claim, list(gains.values()), rows, how)


def _finding(  # noqa: PLR0913 - what a claim is made of
    answers: Answers, about: tuple[Test, str], claim: str, gains: list[Values], rows: NDArray[np.int64], how: str
) -> Finding:
    """A claim that has to hold of every one of `gains`: as uncertain as the least certain of them, and as large as the smallest."""
    if not len(rows):
        return Finding(claim, *about, 0.0, float("nan"), float("nan"), 0, 1.0, (), how)
    least = min(gains, key=lambda each: float(each.mean()))
    low, high = means([least])[0].tolist()
    shown = answers.called(rows[np.argsort(-least, kind="stable")[:SHOWN]])
    return Finding(claim, *about, float(least.mean()), low, high, len(rows), max(above(each) for each in gains), shown, how)
