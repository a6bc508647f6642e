"""`diagnose`, as scripts call it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..batch import Batch
from ..diagnosis.findings import Limit
from ..diagnosis.result import Diagnosis
from ..errors import BadInput, Unsupported
from ..evaluating import evaluate
from ..evaluating.units import read
from ..methods.base import Method, method
from ..metrics.attention_iou import AttentionIoU
from ..metrics.base import Metric
from ..metrics.localization import EnergyInside
from ..model.adapter import VisionModel
from ..problems.base import Problem
from ..problems.labelled import Labelled
from ..problems.shards import Sharded
from ..progress import Pace
from ..registry import one_of
from ..removals.base import Removal
from ..removals.infill import NoisyLinear
from ..removals.layer_masking import LayerMask
from ..scores import Scores
from .answered import BORDER, CENTRE, MIRRORED, Answered
from .asking import Asking, Questions
from .concluding import Gathered, concluded
from .exchanging import Pool, cues_of, spread
from .held import Held
from .told import Told
from .trained import training_of

MASKING = LayerMask(residual="union", tokens="any")  # keeps most of what is left of an image, on CNNs and on transformers
DONORS, LENDERS = 2, 64  # donors of a part for each image; images that parts are taken from
CUES = 4  # regions that are exchanged, the first ones
MOST_LABELS = 40  # of which all pairs are compared

Listener = Callable[[Pace], object]


def diagnose(  # noqa: PLR0913 - what is asked, and by name where it is kept and who listens
    model: VisionModel,
    problem: Problem | str | Path | Sequence[Batch],
    method: str | Method = "grad_cam",
    *,
    removal: str | Removal | None = None,
    protected: str | int | None = None,
    training: Problem | str | Path | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Listener | None = None,
) -> Diagnosis:
    """Find what a model leans on and should not, as far as images tell.

    `problem` yields the images, or is a manifest, a folder of class folders, or a list of `Batch`. With masks, of which the first is where
    evidence should lie, it is asked what answers stay without it, by any `removal` (layer masking where it runs), and what exchanging
    parts between images does; with labels and groups, who it fails; maps are made once, of what it answers, by `method`. `protected`
    names a class whose maps those of all others are compared with, `training` a problem or a manifest with the labels and groups that
    the model was trained on. What is lacking is said in `limits`. `store` is a folder that keeps maps and scores, as for `evaluate`.
    """
    examination = Examination(model, _problem(model, problem), _method(method), seed, progress)
    with _folder(store) as folder:
        scores = examination.explained(folder)
        asking = examination.asked(removal, protected)
        trained = None if training is None else training_of(model, training)
        return concluded(Gathered(examination.answered, scores, asking, tuple(examination.limits), trained, folder))


def _method(like: str | Method) -> Method:
    return method(like)


def _problem(model: VisionModel, given: Any) -> Sharded:
    """The images as a problem of this model."""
    if not isinstance(model, VisionModel):
        raise BadInput(f"diagnose(model=...): got {type(model).__name__}, allowed: a VisionModel, such as ak.load_model(...) gives")
    problem = Labelled(model, given) if isinstance(given, str | Path | list | tuple) else given
    if not isinstance(problem, Sharded):
        allowed = "a problem such as Labelled(model, 'list.csv') or Planted(model), a manifest, a folder, or a list of Batch"
        raise BadInput(f"diagnose(problem=...): got {type(problem).__name__}, allowed: {allowed}")
    if problem.model is not model:
        raise BadInput(f"diagnose(problem=...): got a problem of {problem.model.name}, allowed: one that was made with the model itself")
    return problem


@contextlib.contextmanager
def _folder(store: str | Path | None) -> Iterator[Path]:
    """Where maps and scores are kept, at least until everything is concluded."""
    if store is not None:
        yield Path(store)
    else:
        with tempfile.TemporaryDirectory(prefix="attribkit-") as made:
            yield Path(made)


class Examination:
    """One model and problem: what is asked of them, in turn, and why something could not be."""

    def __init__(self, model: VisionModel, problem: Sharded, by: Method, seed: int, progress: Listener | None) -> None:
        self.model, self.problem, self.by, self.seed = model, Held(problem), by, seed
        self.answered, self.pace, self.limits = Answered(self.problem), Told(progress), list[Limit]()
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise BadInput(f"diagnose(seed=...): got {seed!r}, allowed: an int of at least 0")
        self.looks_like = self.answered.first()
        self.answered.check()
        if self.looks_like.targets.kind == "evidence":
            self.limits.append(
                Limit("groups", "several labels at once: the largest logit is taken for the answer, one label for the right one")
            )

    def explained(self, folder: Path) -> Scores:
        """Maps of every answer, and how they overlap each region; every answer that was not asked for on the way."""
        regions = [*self.answered.regions, *(MIRRORED.format(name) for name in self.answered.regions)]
        metrics: list[Metric] = [AttentionIoU(region=name, empty="skip") for name in regions]
        metrics += [EnergyInside(region=name) for name in (BORDER, CENTRE)]
        scores = evaluate(self.answered, self.by, metrics, store=folder, controls=False, progress=self.pace.heard)
        for number in range(self.answered.shards):  # those of an earlier call, whose maps are kept, but whose answers are not
            if not any(name in self.answered.known for name in self.answered.names(number)):
                read(self.answered, number, None)
        self.answered.order()
        return scores

    def asked(self, removal: str | Removal | None, protected: str | int | None) -> Asking:
        """Every image, in versions, and with parts exchanged."""
        region = next(iter(self.answered.regions), None)
        labels = self._labels(protected)
        at = None if protected is None or not labels else self.model.target(protected)
        questions = Questions(region, self._removal(removal), self._pool(), DONORS, self.by, labels, at)
        asking = Asking(self.model, questions)
        for done in asking.all(self.problem, self.answered.known):
            self.pace.at(done, len(self.problem), "asking about parts")
        self.limits += [Limit("masking", text) for text in asking.said]
        return asking

    def _labels(self, protected: str | int | None) -> tuple[int, ...]:
        """The classes whose maps are compared with one another."""
        if protected is None:
            return ()
        self.model.target(protected)  # raises on what is no class
        if self.answered.outputs > MOST_LABELS:
            self.limits.append(
                Limit(
                    "labels", f"the model has {self.answered.outputs} classes, and maps of at most {MOST_LABELS} are compared pair by pair"
                )
            )
            return ()
        return tuple(range(self.answered.outputs))

    def _removal(self, given: str | Removal | None) -> Removal:
        """What takes pixels away: what was asked for, or layer masking, or what runs on any model."""
        if given is not None:
            chosen: Removal = one_of(given, Removal, "blur", "Blur()")
            return chosen
        keep = self.looks_like.images[:1, 0] > self.looks_like.images[:1, 0].mean()
        try:
            MASKING(self.model, self.looks_like.images[:1], keep)
        except Unsupported as error:
            self.limits.append(
                Limit("masking", f"layer masking does not run on this model, and NoisyLinear() fills what is removed ({error})")
            )
            return NoisyLinear()
        return MASKING

    def _pool(self) -> Pool | None:
        """Who lends parts, if there are parts."""
        if not self.answered.regions:
            self.limits.append(Limit("swap", "what exchanging object and background does, for want of masks (mask:NAME)"))
            return None
        if len(self.answered.regions) > CUES:
            rest = len(self.answered.regions) - CUES
            self.limits.append(Limit("swap", f"what exchanging {rest} more regions does: the first {CUES} are exchanged"))
        chosen = spread(self.answered.known, LENDERS, self.seed)
        lenders = self.problem.together(chosen)
        if lenders is None or lenders.images.shape[1:] != self.looks_like.images.shape[1:]:
            self.limits.append(Limit("swap", "parts can be exchanged only between images of one size"))
            return None
        known = [self.answered.known[name] for name in lenders.ids]
        return Pool.of(self.model, lenders, known, cues_of(lenders, self.answered.regions, CUES), self.seed)
