"""From everything that was gathered to a `Diagnosis`: the tests are run, judged together, and given what they can be checked against."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..diagnosis.amplification import Training, amplified
from ..diagnosis.answers import NONE, Answers, told_apart
from ..diagnosis.findings import Limit, judged, ranked
from ..diagnosis.groups import grouped
from ..diagnosis.labels import compared
from ..diagnosis.masking import masked
from ..diagnosis.regions import Overlap, looked
from ..diagnosis.result import Diagnosis
from ..diagnosis.swaps import swapped
from ..evaluating.preparing import VERSION
from ..methods.base import Method
from ..metrics.attention_iou import AttentionIoU
from ..metrics.base import Metric
from ..metrics.localization import EnergyInside
from ..scores import Key, Scores
from ..scoring.parts import Column
from ..store.keys import fingerprint
from .answered import BORDER, CENTRE, MIRRORED, Answered
from .asking import Asking, answers_of
from .showing import Shown

FINDINGS = 24  # that get pictures, the first ones
RIGHT, STAYS = "answered right", "answer stays, {}"


class Gathered(NamedTuple):
    """What a model was asked and what it answered; `folder` has the maps."""

    answered: Answered
    scores: Scores
    asking: Asking
    limits: tuple[Limit, ...]
    training: Training | None
    folder: Path

    @property
    def by(self) -> Method:
        """What made the maps."""
        return self.asking.questions.method


def concluded(gathered: Gathered) -> Diagnosis:
    """Run every test, judge the claims as one family, and show those that stand."""
    answered, asking, model = gathered.answered, gathered.asking, gathered.answered.model
    answers = answers_of(answered, asking, told_apart(model.classes))
    swaps, versions, groups = swapped(answers), masked(answers), grouped(answers)
    bias = amplified(answers, gathered.training)
    maps = looked(answers, *_overlaps(gathered, answers.ids))
    pairs = compared(answers, *_pairs(asking, answers))
    tests = (swaps, versions, groups, bias, maps, pairs)
    claims = judged(claim for test in tests for claim in test.claims)
    findings = ranked(claims)
    shown = Shown(gathered.folder, answered, asking, answers)
    limits = [*gathered.limits, *(limit for test in tests for limit in test.limits), *_broken(gathered)]
    return Diagnosis(
        model=model.name,
        problem=answered.label,
        method=gathered.by.brief(),
        removal=asking.questions.removal.brief() if answers.region is not None else "",
        findings=findings,
        claims=tuple(claims),
        limits=tuple(dict.fromkeys(limits)),
        groups=groups.rows,
        versions=versions.rows,
        classes=versions.classes,
        swaps=swaps.rows,
        amplification=bias.rows,
        regions=maps.rows,
        labels=pairs.rows,
        scores=_scored(gathered, answers),
        pictures=shown.pictures(findings[:FINDINGS]),
        means=shown.means(),
        about=_about(gathered),
    )


def _broken(gathered: Gathered) -> Iterable[Limit]:
    failures = [*gathered.scores.failures, *gathered.asking.failures]
    images = {each.id for each in failures}
    if failures:
        yield Limit("groups", f"{len(images)} image{'s' * (len(images) > 1)} could not be read, explained or asked about: see the failures")


def _about(gathered: Gathered) -> dict[str, str]:
    model, questions = gathered.answered.model, gathered.asking.questions
    return {
        "model": f"{model.name}, weights: {model.weights}; {model.preprocessing}; {model.device}, {model.precision}",
        "fingerprint": fingerprint(model),
        "images": f"{len(gathered.answered.known)} of {len(gathered.answered)}, {gathered.answered.label}",
        "method": repr(questions.method),
        "removal": repr(questions.removal) if questions.region is not None else "none",
        "parts exchanged": f"with {questions.donors} of {len(questions.pool.known)} donors each" if questions.pool else "none",
        "version": VERSION,
    }


# Scores as the tests take them ---------------------------------------------------------------------------------------------------------


def _overlaps(gathered: Gathered, ids: tuple[str, ...]) -> tuple[list[Overlap], list[Overlap]]:
    """How maps overlap each region, and what they have in the frame."""
    columns = {key.metric: (names, column) for key, names, column, _ in gathered.scores.columns()}

    def values(metric: Metric) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        names, column = columns.get(metric.brief(), ([], None))
        found = np.full((2, len(ids)), np.nan)
        places = {name: place for place, name in enumerate(ids)}
        at = [places[name] for name in names if name in places]
        if column is not None:
            found[0, at], found[1, at] = column.scores, column.chances
        return found[0], found[1]

    regions = []
    for name in gathered.answered.regions:
        elsewhere, _ = values(AttentionIoU(region=MIRRORED.format(name), empty="skip"))
        regions.append(Overlap(name, *values(AttentionIoU(region=name, empty="skip")), elsewhere))
    nowhere = np.full(len(ids), np.nan)
    return regions, [Overlap(name, *values(EnergyInside(region=name)), nowhere) for name in (BORDER, CENTRE)]


def _pairs(asking: Asking, answers: Answers) -> tuple[tuple[str, ...], NDArray[np.float64] | None, str | None]:
    labels, protected = asking.questions.labels, asking.questions.protected
    if not labels or protected is None:
        return (), None, None
    blank = np.full((len(labels), len(labels)), np.nan)
    rows = [asking.rows.get(name) for name in answers.ids]
    pairs = np.stack([blank if row is None or row.pairs is None else row.pairs for row in rows]).astype(np.float64)
    return tuple(map(answers.named, labels)), pairs, answers.named(protected)


def _scored(gathered: Gathered, answers: Answers) -> Scores:
    """The scores of maps, and of every image whether it is answered right and whether its answer stays."""
    scores, mirrored = Scores(), {AttentionIoU(region=MIRRORED.format(name), empty="skip").brief() for name in gathered.answered.regions}
    for key, names, column, higher in gathered.scores.columns():
        if key.metric not in mirrored:
            scores.enter(key, names, column, higher)
    scores.failures = [*gathered.scores.failures, *gathered.asking.failures]
    problem, model = gathered.answered.label, gathered.answered.model.name

    def enter(method: str, metric: str, values: NDArray[np.bool_], where: NDArray[np.bool_]) -> None:
        at = np.flatnonzero(where)
        if len(at):
            groups = {name: labels[at] for name, labels in answers.groups.items()}
            blank = np.full(len(at), np.nan, np.float32)
            column = Column(np.zeros(len(at), np.int64), answers.full[at], groups, values[at].astype(np.float32), blank)
            scores.enter(Key(problem, model, method, metric), answers.called(at), column, True)

    enter("the model", RIGHT, answers.truth == answers.full, answers.truth != NONE)
    for name, version in answers.versions.items():
        if name != "full":
            removal = gathered.asking.questions.removal.brief()
            enter(removal, STAYS.format(name), version.answers == answers.full, version.answers != NONE)
    return scores
