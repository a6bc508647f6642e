"""Between labels: how much the maps for a class overlap those for a protected one (heatmap scores of Attention-IoU, arXiv:2503.19846).

Labels differ among themselves with no bias at all, since each looks somewhere; with images enough every difference is beyond chance. What
is claimed is that one label stands out from the others, by more than they differ from one another.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from ..scoring.summaries import Listing
from .answers import Answers
from .findings import SHOWN, Finding, Limit
from .proportions import above, means

FEWEST = 10  # images that a claim is made of
LABELS = 5  # beside the protected one: of fewer it cannot be told how much labels differ


@dataclasses.dataclass(frozen=True)
class PairRow:
    """The mean heatmap score of two labels over `count` images, with its 95 % interval."""

    one: str
    other: str
    score: float
    low: float
    high: float
    count: int


@dataclasses.dataclass(frozen=True)
class Compared:
    """The table of all pairs, the claims about those with the protected label, and what could not be told."""

    rows: Listing[PairRow]
    claims: list[Finding]
    limits: list[Limit]


def compared(answers: Answers, names: tuple[str, ...], pairs: NDArray[np.float64] | None, protected: str | None) -> Compared:
    """Pairs (N, L, L) of labels called `names`; a claim for each but the protected one, whose maps overlap its more than the others' do."""
    if pairs is None or protected is None:
        return Compared(Listing(), [], [Limit("labels", "overlap between labels, which needs a protected label to be named")])
    rows = []
    for one in range(len(names)):
        for other in range(one):
            values = pairs[:, one, other][np.isfinite(pairs[:, one, other])]
            mean = float(values.mean()) if len(values) else float("nan")
            low, high = means([values])[0].tolist()
            rows.append(PairRow(names[one], names[other], mean, low, high, len(values)))
    at = names.index(protected)
    others = [place for place in range(len(names)) if place != at]
    limits = []
    if len(others) < LABELS:
        limits.append(Limit("labels", f"whether one of {len(others)} labels overlaps {protected} more than labels do: that takes {LABELS}"))
        return Compared(Listing(rows), [], limits)
    claims = [_claim(answers, names, pairs[:, :, at], place, others) for place in others]
    return Compared(Listing(rows), [each for each in claims if each.count >= FEWEST], limits)


def _claim(answers: Answers, names: tuple[str, ...], scores: NDArray[np.float64], place: int, others: list[int]) -> Finding:
    """That one label's maps overlap the protected one's more than the mean of the other labels' does."""
    rest = [other for other in others if other != place]
    there = np.isfinite(scores[:, rest])
    rows = np.flatnonzero(np.isfinite(scores[:, place]) & there.any(1))
    mean = np.where(there, scores[:, rest], 0).sum(1)[rows] / there.sum(1)[rows]  # an image may have no map of some label
    gains = scores[rows, place] - mean
    low, high = means([gains])[0].tolist()
    protected = next(name for other, name in enumerate(names) if other not in others)
    claim = (
        f"The model finds {names[place]} where it finds {protected}: their maps overlap by {scores[rows, place].mean():.2f}, "
        f"those of other labels with {protected} by {mean.mean():.2f}."
        if len(rows)
        else ""
    )
    how = (
        f"heatmap scores of {names[place]} and {protected} beside the mean of the other labels: random signs, image by image, "
        f"and Student's t beside how much the other labels differ"
    )
    shown = answers.called(rows[np.argsort(-gains, kind="stable")[:SHOWN]])
    p = max(above(gains), _outlying(scores[rows], place, rest)) if len(rows) else 1.0
    return Finding(claim, "labels", names[place], float(gains.mean()) if len(rows) else 0.0, low, high, len(rows), p, shown, how)


def _outlying(scores: NDArray[np.float64], place: int, rest: list[int]) -> float:
    """The chance that one more label like the rest has a mean at least so far above theirs: Student's t of a new value, one-sided."""
    values = [float(column[np.isfinite(column)].mean()) for column in scores[:, rest].T if np.isfinite(column).any()]
    if len(values) < 2:
        return 1.0
    far, spread = float(scores[:, place].mean()) - float(np.mean(values)), float(np.std(values, ddof=1))
    if far <= 0:
        return 1.0
    return _beyond(far / (spread * math.sqrt(1 + 1 / len(values))) if spread > 0 else math.inf, len(values) - 1)


def _beyond(t: float, free: int) -> float:
    """The chance that Student's t with `free` degrees of freedom is above a positive t: in closed form for whole ones."""
    angle = math.atan(t / math.sqrt(free))
    cosine, odd = math.cos(angle), free % 2
    term, total = cosine if odd else 1.0, 0.0
    for step in range(free // 2):
        total += term
        term *= cosine * cosine * ((2 * step + 2) / (2 * step + 3) if odd else (2 * step + 1) / (2 * step + 2))
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return max(0.0, (1 - inside) / 2)
