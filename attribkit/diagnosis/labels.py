"""Between labels: how much the maps for a class overlap those for a protected one (heatmap scores of Attention-IoU, arXiv:2503.19846)."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ..scoring.resampling import intervals, sign_flips
from ..scoring.summaries import Listing
from .answers import Answers
from .findings import SHOWN, Finding, Limit

FEWEST = 10  # images that a claim is made of


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
            low, high = intervals([values])[0].tolist()
            rows.append(PairRow(names[one], names[other], mean, low, high, len(values)))
    at = names.index(protected)
    others = [place for place in range(len(names)) if place != at]
    claims = [_claim(answers, names, pairs[:, :, at], place, others) for place in others] if len(others) > 2 else []
    return Compared(Listing(rows), [each for each in claims if each.count >= FEWEST], [])


def _claim(answers: Answers, names: tuple[str, ...], scores: NDArray[np.float64], place: int, others: list[int]) -> Finding:
    """That one label's maps overlap the protected one's more than the mean of the other labels' does."""
    rest = [other for other in others if other != place]
    gains = scores[:, place] - scores[:, rest].mean(1)
    rows = np.flatnonzero(np.isfinite(gains))
    gains = gains[rows]
    low, high = intervals([gains])[0].tolist()
    mean = float(gains.mean()) if len(gains) else 0.0
    p = float(sign_flips([gains])[0]) if len(gains) else 1.0
    protected = next(name for other, name in enumerate(names) if other not in others)
    claim = (
        f"The model finds {names[place]} where it finds {protected}: their maps overlap by {scores[rows, place].mean():.2f}, "
        f"those of other labels with {protected} by {scores[rows][:, rest].mean():.2f}."
        if len(rows)
        else ""
    )
    how = f"heatmap scores of {names[place]} and {protected} beside the mean of the other labels, image by image; random signs"
    shown = answers.called(rows[np.argsort(-gains, kind="stable")[:SHOWN]])
    return Finding(claim, "labels", names[place], mean, low, high, len(rows), p / 2 if mean > 0 else 1 - p / 2, shown, how)
