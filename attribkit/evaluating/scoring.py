"""The one loop: problems x methods x metrics -> scores and troubles, an image that fails at the cost of itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BadInput, Unsupported
from ..methods.base import Method
from ..methods.controls import Oracle
from ..metrics.base import Metric, Traced
from ..model.adapter import VisionModel
from ..problems.base import Problem
from ..progress import Pace
from ..scores import Failure, Key, Scores
from ..store.ledger import plain
from ..store.results import Trouble
from ..store.shards import Precision, as_kept
from .asking import is_control, lacking, oracles, said, suits

PATIENCE = 32  # images that a method may fail on before it is given up, if there was none that it did not fail on

# Of each batch and method: the problem's label, the method, the batch, its maps, and their scores by metric.
Watch = Callable[[str, Method, Batch, Attribution, dict[Metric, Tensor]], None]


class Begun(NamedTuple):
    """A problem whose first batch has been seen: what tables call it and its model, and why some metrics cannot be asked there."""

    problem: Problem
    on: Key
    lacking: dict[Metric, str]
    regions: tuple[str, ...]
    oracles: list[Oracle]


class Asked(NamedTuple):
    """A method and a batch: what maps are made of, and what their scores are of; `chances`, once known, are of all methods."""

    key: Key
    by: Method
    model: VisionModel
    batch: Batch
    metrics: Sequence[Metric]
    chances: dict[Metric, Tensor | None]

    @property
    def on(self) -> Key:
        """The problem and the model alone."""
        return self.key._replace(method="", metric="")

    def part(self, rows: slice) -> Asked:
        """The same of some of the images."""
        return self._replace(batch=self.batch[rows], chances={})


class Run:
    """One evaluation: what is asked, and what came of it so far.

    `maps` is the precision in which maps are going to be kept: then they are scored as that. `curves`, if it is a list, gets the curves
    that scores were read off, each with its metric and the names of its images.
    """

    def __init__(self, methods: Sequence[Method], metrics: Sequence[Metric], *, controls: Sequence[Method] = ()) -> None:
        for what, given in (("methods", methods), ("metrics", metrics)):
            if not given:
                raise BadInput(f"evaluate({what}=...): got none, allowed: at least one")
        self.methods = list(dict.fromkeys(methods))
        self.metrics = list(dict.fromkeys(metrics))
        self.controls = [each for each in controls if each not in self.methods]
        self.maps: Precision = "none"
        self.curves: list[tuple[Metric, tuple[str, ...], Tensor]] | None = None
        self.watch: Watch | None = None
        self.gives_up = True  # what never works; that depends on what was tried before, so a run that may be interrupted does not
        self.error: Exception | None = None
        self.clear()
        self._gone: set[tuple[Key, Method, Metric | None]] = set()
        self._vain: dict[tuple[Key, Method, Metric | None], int] = {}  # images in a row of which nothing came; below 0 before the first
        for each in (self.methods, self.metrics):
            names = [some.brief() for some in each]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise BadInput(f"evaluate: got two that print as {twice}, allowed: ones that tables can tell apart, as by a label")

    def clear(self) -> None:
        """Begin with no scores and no troubles; what is not for a model stays known."""
        self.scores = Scores()
        self.troubles: list[Trouble] = []
        if self.curves is not None:
            self.curves = []

    @property
    def lined_up(self) -> list[Method]:
        """The methods and the controls, without oracles, which are known once there is a batch."""
        return [*self.methods, *self.controls]

    def begun(self, problems: Sequence[Problem]) -> list[Begun]:
        """The problems, each with a look at its first batch: `BadInput`, before any work, where a metric could be asked nowhere."""
        found: list[Begun] = []
        for problem, on in zip(problems, named(problems), strict=True):
            try:
                first = next(iter(problem), None)
                if first is not None:
                    found.append(self._begun(problem, on, first[1]))
            except Exception as error:  # a source may raise anything, and the other problems have their turn
                self._ended(on.problem, error)
        nowhere = next((each for each in self.metrics if found and all(each in begun.lacking for begun in found)), None)
        if nowhere is not None and self.error is None:
            raise BadInput(found[0].lacking[nowhere])
        for begun in found:
            self.scores.failures += [Failure(begun.on.problem, each.brief(), why) for each, why in begun.lacking.items()]
        return found

    def _begun(self, problem: Problem, on: Key, batch: Batch) -> Begun:
        ceilings = [each for each in oracles(batch, self.metrics) if self.controls and each not in self.methods]
        return Begun(problem, on, lacking(self.metrics, on.problem, batch), tuple(batch.regions), ceilings)

    def on(self, begun: Begun, pace: Paced) -> None:
        """Score everything on one problem."""
        batches = iter(begun.problem)
        while (found := self._next(begun.on.problem, batches)) is not None:
            self._scored_by_all(begun, *found, pace)
            del found
        self.scores.name_groups(begun.on, getattr(begun.problem, "group_names", {}))
        known = set(self.scores.failures)  # problems may share a source, and what cannot be read there
        self.scores.failures += [each for each in getattr(begun.problem, "failures", ()) if each not in known]

    def _scored_by_all(self, begun: Begun, model: VisionModel, batch: Batch, pace: Paced) -> None:
        chances: dict[Metric, Tensor | None] = {}
        for each, metrics in self.pairs(begun).items() if len(batch) else []:
            self.one(Asked(begun.on._replace(method=each.brief()), each, model, batch, metrics, chances))
            pace.on(len(batch) if not isinstance(each, Oracle) else 0, f"{begun.on.problem}, {each.brief()}")

    def pairs(self, begun: Begun) -> dict[Method, list[Metric]]:
        """Who is asked on a problem, and by which metrics."""
        metrics = [each for each in self.metrics if each not in begun.lacking]
        return {each: [asked for asked in metrics if suits(asked, each, begun.regions)] for each in [*self.lined_up, *begun.oracles]}

    def check(self) -> None:
        """Raise if none of the methods that were asked for has a score: what ended a problem, or `Unsupported`."""
        check_any(self.scores, self.methods, self.error)

    def _next(self, label: str, batches: Iterator[tuple[VisionModel, Batch]]) -> tuple[VisionModel, Batch] | None:
        """What a problem yields next; None where it cannot go on: then that is noted, and others have their turn."""
        try:
            return next(batches, None)
        except Exception as error:  # the images' own source may raise anything; what is scored already must not be lost
            self._ended(label, error)
            return None

    def _ended(self, label: str, error: Exception) -> None:
        self.error = error.with_traceback(None)  # which would keep the batch that it came from
        self.scores.failures.append(Failure(label, "problem", said(error)))

    # One method on one batch -----------------------------------------------------------------------------------------------------------

    def one(self, it: Asked, maps: Attribution | None = None) -> bool:
        """Score a method on a batch, by its `maps` if they are there already; whether anything came of it."""
        if (it.on, it.by, None) in self._gone or not it.metrics:
            return False
        done = self._scored(it) if maps is None else self._score(it, maps)
        self._luck((it.on, it.by, None), len(it.batch), done=done)
        return done

    def _luck(self, what: tuple[Key, Method, Metric | None], count: int, *, done: bool) -> None:
        """Give up what nothing has come of, for so many images in a row that nothing will."""
        before = self._vain.get(what, 0)
        self._vain[what] = -9 * PATIENCE if done else before + count
        if self.gives_up and not done and before and self._vain[what] >= PATIENCE:
            self._gone.add(what)
            on, by, metric = what
            self._note(on, by, (), "explain" if metric is None else metric.brief(), "given up, after failing again and again")

    def _scored(self, it: Asked) -> bool:
        """Score a method on a batch, or, where it fails, on its parts, so that one image does not cost the others; whether any was done."""
        maps = self._maps(it)
        if isinstance(maps, Attribution):
            return self._score(it, maps)
        if isinstance(maps, Unsupported) or len(it.batch) == 1:
            self._failed(it, None, maps)
            return False
        middle = len(it.batch) // 2
        return any([self._scored(it.part(rows)) for rows in (slice(0, middle), slice(middle, None))])

    def _maps(self, it: Asked) -> Attribution | Exception:
        try:
            maps = it.by(it.model, it.batch)
            return maps if is_control(it.by) else as_kept(maps, self.maps)
        except Exception as error:  # a method's or a model's own code may raise anything; the others' scores must not be lost
            return error.with_traceback(None)

    def _score(self, it: Asked, maps: Attribution) -> bool:
        found: dict[Metric, Tensor] = {}
        for each in it.metrics:
            if (it.on, it.by, each) not in self._gone:
                values = self._by(each, it, maps)
                if values is not None:
                    found[each] = values
                self._luck((it.on, it.by, each), len(it.batch), done=values is not None)
        if self.watch is not None:
            self.watch(it.key.problem, it.by, it.batch, maps, found)
        return True

    def _by(self, metric: Metric, it: Asked, maps: Attribution) -> Tensor | None:
        """The scores by one metric, NaN where it fails on an image; None where nothing came of it."""
        try:
            traced = metric.traced(it.model, it.batch, maps, it.by)
            self._add(it, metric, traced)
        except Exception as error:  # a model's own code may raise anything, and what others make of these maps must not be lost
            if isinstance(error, Unsupported | BadInput) or len(it.batch) == 1:
                self._failed(it, metric, error.with_traceback(None))
                return None
        else:
            return traced.scores
        middle = len(it.batch) // 2
        halves = [slice(0, middle), slice(middle, len(it.batch))]
        values = [self._by(metric, it.part(rows), maps[rows]) for rows in halves]
        if all(each is None for each in values):
            return None
        empty = [torch.full((rows.stop - rows.start,), torch.nan, device=maps.maps.device) for rows in halves]
        return torch.cat([blank if each is None else each for each, blank in zip(values, empty, strict=True)])

    def _add(self, it: Asked, metric: Metric, traced: Traced) -> None:
        """Keep the scores; raises where they cannot be kept, as where an image comes a second time."""
        if metric not in it.chances:  # which all methods share
            it.chances[metric] = metric.chances(it.batch)
        key, chances = it.key._replace(metric=metric.brief()), it.chances[metric]
        self.scores.add(key, it.batch, traced.scores, chances=chances, higher_is_better=metric.higher_is_better, control=is_control(it.by))
        if self.curves is not None and traced.curves is not None:
            self.curves.append((metric, it.batch.ids, traced.curves))

    def _failed(self, it: Asked, metric: Metric | None, error: Exception) -> None:
        """Note what could not be done; what this model or method cannot do at all is not tried again."""
        never = isinstance(error, Unsupported)
        if never and self.gives_up:
            self._gone.add((it.on, it.by, metric))
        self._note(it.on, it.by, () if never else it.batch.ids, "explain" if metric is None else metric.brief(), said(error))

    def _note(self, on: Key, by: Method, images: tuple[str, ...], stage: str, reason: str) -> None:
        self.troubles.append(Trouble(images, repr(by), stage, reason))
        what = f"{by.brief()} on {on.problem}" + (f": {', '.join(images[:2])}{', ...' * (len(images) > 2)}" if images else "")
        self.scores.failures.append(Failure(what, stage, reason))


def named(problems: Sequence[Problem]) -> list[Key]:
    """What tables call problems and their models; a number tells problems of one name apart."""
    found: list[Key] = []
    for problem in problems:
        label, model = plain(problem.label), plain(getattr(getattr(problem, "model", None), "name", ""))
        names = (label if number == 1 else f"{label} ({number})" for number in itertools.count(1))
        found.append(next(key for name in names if (key := Key(name, model, "", "")) not in found))
    return found


class Paced:
    """Counts what is done and tells a listener; what was done before does not count as quick."""

    def __init__(self, listener: Callable[[Pace], object] | None, total: int, *, before: int = 0) -> None:
        self.listener, self.total = listener, total
        self.done, self.before, self.began = before, before, time.perf_counter()

    def on(self, count: int, what: str) -> None:
        """So many more are done."""
        self.at(self.done + count, what)

    def at(self, done: int, what: str) -> None:
        """So many are done."""
        changed, self.done = done != self.done, done
        if self.listener is not None and changed:
            self.listener(Pace(self.done, self.total, time.perf_counter() - self.began, what, self.before))


def check_any(scores: Scores, methods: Sequence[Method], error: Exception | None = None) -> None:
    """Raise if none of the methods that were asked for has a score: what ended a problem, or `Unsupported` with the first reasons."""
    asked = {each.brief() for each in methods}
    if not any(key.method in asked for key in scores.keys()):  # noqa: SIM118 - no mapping
        if error is not None and len(scores.failures) == 1:
            raise error
        reasons = [f"{failure.id}: {failure.reason}" for failure in scores.failures]
        raise Unsupported("; ".join(reasons[:3]) or "the problems have no images")
