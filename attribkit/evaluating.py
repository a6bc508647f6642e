"""`evaluate`: problems x methods x metrics -> `Scores`, in one loop."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .attribution import Attribution
from .batch import Batch
from .errors import AttribkitError, BadInput, UnknownName, Unsupported
from .methods.base import Method, method
from .methods.controls import CentreMap, EdgeMap, Oracle, RandomMap
from .metrics.base import Anew, Metric, metric
from .model.adapter import VisionModel
from .problems.base import Problem
from .progress import Pace
from .scores import Failure, Key, Scores
from .scoring.files import FIXED

CONTROLS: tuple[Method, ...] = (RandomMap(), CentreMap(), EdgeMap())
CONTROL_KINDS = (RandomMap, CentreMap, EdgeMap, Oracle)

PATIENCE = 32  # images that a method may fail on before it is given up, if there was none that it did not fail on

# Of each batch and method: the problem's label, the method, the batch, its maps, and their scores by metric.
Watch = Callable[[str, Method, Batch, Attribution, dict[Metric, Tensor]], None]


def evaluate(  # noqa: PLR0913 - what is asked, and by name who listens
    problem: Problem | Iterable[Problem],
    methods: str | Method | Sequence[str | Method],
    metrics: str | Metric | Sequence[str | Metric],
    *,
    controls: bool = True,
    progress: Callable[[Pace], object] | None = None,
    watch: Watch | None = None,
) -> Scores:
    """Score attribution methods: every method's maps of every image of the problems, by every metric.

    `methods` and `metrics` are objects, names, or calls as they print themselves. Beside the methods, and unless `controls` is False,
    maps that know nothing of the model are scored, as the floor, and where there are masks the mask itself, as the ceiling. Maps are made
    once, batch by batch, and not kept: `watch` sees them as they come. `progress` is told how far it has come, `print` for one. What a
    model, a method or a metric cannot do is in `failures` of the scores, and the rest goes on; `Unsupported` where nothing is left.
    """
    run = Run(
        [method(each) for each in _several(methods, (str, Method))],
        [metric(each) for each in _several(metrics, (str, Metric))],
        controls=CONTROLS if controls else (),
        watch=watch,
    )
    problems = _problems(problem)
    pace = _Paced(progress, sum(len(each) for each in problems) * len(run.lined_up))
    for each in run.begun(problems):
        run.on(each, pace)
    run.check()
    return run.scores


def scores_of(
    model: VisionModel, batch: Batch, maps: Attribution, by: Method, metrics: Iterable[Metric]
) -> Iterator[tuple[Metric, Tensor | Exception]]:
    """Each metric's scores of the maps, (B,), or what it raised instead."""
    for each in metrics:
        try:
            yield each, each(model, batch, maps, by)
        except Exception as error:  # a model's own code may raise anything, and what others make of these maps must not be lost
            yield each, error.with_traceback(None)


class _Begun(NamedTuple):
    """A problem whose first batch has been seen: what tables call it and its model, and why some metrics cannot be asked there."""

    problem: Problem
    on: Key
    lacking: dict[Metric, str]


class _Asked(NamedTuple):
    """A method and a batch: what maps are made of, and what their scores are of; `chances`, once known, are of all methods."""

    key: Key
    by: Method
    model: VisionModel
    batch: Batch
    metrics: list[Metric]
    chances: dict[Metric, Tensor | None]

    @property
    def on(self) -> Key:
        """The problem and the model alone."""
        return self.key._replace(method="", metric="")


class Run:
    """One evaluation: what is asked, and what came of it so far."""

    def __init__(
        self, methods: list[Method], metrics: list[Metric], *, controls: Sequence[Method] = (), watch: Watch | None = None
    ) -> None:
        for what, given in (("methods", methods), ("metrics", metrics)):
            if not given:
                raise BadInput(f"evaluate({what}=...): got none, allowed: at least one")
        self.methods = list(dict.fromkeys(methods))
        self.metrics = list(dict.fromkeys(metrics))
        self.controls = [each for each in controls if each not in self.methods]
        self.watch = watch
        self.scores = Scores()
        self._error: Exception | None = None
        self._gone: set[tuple[Key, Method, Metric | None]] = set()
        self._vain: dict[tuple[Key, Method, Metric | None], int] = {}  # images in a row of which nothing came; below 0 before the first
        for each in (self.methods, self.metrics):
            names = [some.brief() for some in each]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise BadInput(f"evaluate: got two that print as {twice}, allowed: ones that tables can tell apart, as by a label")

    @property
    def lined_up(self) -> list[Method]:
        """The methods and the controls, without oracles, which are known once there is a batch."""
        return [*self.methods, *self.controls]

    def begun(self, problems: Sequence[Problem]) -> list[_Begun]:
        """The problems, each with a look at its first batch: `BadInput`, before any work, where a metric could be asked nowhere."""
        found: list[_Begun] = []
        for problem in problems:
            on = self._named(problem, {each.on for each in found})
            try:
                first = next(iter(problem), None)
                if first is not None:
                    found.append(_Begun(problem, on, _lacking(self.metrics, on.problem, first[1])))
            except Exception as error:  # a source may raise anything, and the other problems have their turn
                self._ended(on.problem, error)
        nowhere = next((each for each in self.metrics if found and all(each in begun.lacking for begun in found)), None)
        if nowhere is not None and self._error is None:
            raise BadInput(found[0].lacking[nowhere])
        for begun in found:
            self.scores.failures += [Failure(begun.on.problem, each.brief(), why) for each, why in begun.lacking.items()]
        return found

    def on(self, begun: _Begun, pace: _Paced) -> None:
        """Score everything on one problem."""
        batches = iter(begun.problem)
        while (found := self._next(begun.on.problem, batches)) is not None:
            self._scored_by_all(begun, *found, pace)
            del found
        self.scores.name_groups(begun.on, getattr(begun.problem, "group_names", {}))
        known = set(self.scores.failures)  # problems may share a source, and what cannot be read there
        self.scores.failures += [each for each in getattr(begun.problem, "failures", ()) if each not in known]

    def _scored_by_all(self, begun: _Begun, model: VisionModel, batch: Batch, pace: _Paced) -> None:
        chances: dict[Metric, Tensor | None] = {}
        for each in [*self.lined_up, *self._oracles(batch)] if len(batch) else []:
            if (begun.on, each, None) not in self._gone:
                asked = [some for some in self.metrics if some not in begun.lacking]
                done = self._scored(_Asked(begun.on._replace(method=each.brief()), each, model, batch, asked, chances))
                self._luck((begun.on, each, None), len(batch), done=done)
            pace.on(len(batch) if not isinstance(each, Oracle) else 0, f"{begun.on.problem}, {each.brief()}")

    @staticmethod
    def _named(problem: Problem, taken: set[Key]) -> Key:
        """What tables call a problem and its model; a number tells problems of one name apart."""
        model = getattr(getattr(problem, "model", None), "name", "")
        names = (problem.label if number == 1 else f"{problem.label} ({number})" for number in itertools.count(1))
        return next(key for name in names if (key := Key(name, model, "", "")) not in taken)

    def check(self) -> None:
        """Raise if none of the methods that were asked for has a score: what ended a problem, or `Unsupported`."""
        asked = {each.brief() for each in self.methods}
        if not any(key.method in asked for key in self.scores.keys()):  # noqa: SIM118 - no mapping
            if self._error is not None and len(self.scores.failures) == 1:
                raise self._error
            reasons = [f"{failure.id}: {failure.reason}" for failure in self.scores.failures]
            raise Unsupported("; ".join(reasons[:3]) or "the problems have no images")

    def _next(self, label: str, batches: Iterator[tuple[VisionModel, Batch]]) -> tuple[VisionModel, Batch] | None:
        """What a problem yields next; None where it cannot go on: then that is noted, and others have their turn."""
        try:
            return next(batches, None)
        except Exception as error:  # the images' own source may raise anything; what is scored already must not be lost
            self._ended(label, error)
            return None

    def _luck(self, what: tuple[Key, Method, Metric | None], count: int, *, done: bool) -> None:
        """Give up what nothing has come of, for so many images in a row that nothing will."""
        before = self._vain.get(what, 0)
        self._vain[what] = -9 * PATIENCE if done else before + count
        if not done and before and self._vain[what] >= PATIENCE:
            self._gone.add(what)
            on, by, metric = what
            stage = "explain" if metric is None else metric.brief()
            self.scores.failures.append(Failure(f"{by.brief()} on {on.problem}", stage, "given up, after failing again and again"))

    def _ended(self, label: str, error: Exception) -> None:
        self._error = error.with_traceback(None)  # which would keep the batch that it came from
        self.scores.failures.append(Failure(label, "problem", _said(error)))

    def _scored(self, it: _Asked) -> bool:
        """Score a method on a batch, or, where it fails, on its parts, so that one image does not cost the others; whether any was done."""
        maps = self._maps(it)
        if isinstance(maps, Attribution):
            self._score(it, maps)
            return True
        if isinstance(maps, Unsupported) or len(it.batch) == 1:
            self._failed(it, None, maps)
            return False
        middle = len(it.batch) // 2
        parts = [it._replace(batch=it.batch[rows], chances={}) for rows in (slice(0, middle), slice(middle, None))]
        return any([self._scored(part) for part in parts])

    @staticmethod
    def _maps(it: _Asked) -> Attribution | Exception:
        try:
            return it.by(it.model, it.batch)
        except Exception as error:  # a method's or a model's own code may raise anything; the others' scores must not be lost
            return error.with_traceback(None)

    def _score(self, it: _Asked, maps: Attribution) -> None:
        asked = [each for each in it.metrics if (it.on, it.by, each) not in self._gone and _suits(each, it.by, it.batch)]
        found: dict[Metric, Tensor] = {}
        for each, values in scores_of(it.model, it.batch, maps, it.by, asked):
            error = values if isinstance(values, Exception) else self._add(it, each, values)
            if error is not None:
                self._failed(it, each, error)
            elif isinstance(values, Tensor):
                found[each] = values
            self._luck((it.on, it.by, each), len(it.batch), done=each in found)
        if self.watch is not None:
            self.watch(it.key.problem, it.by, it.batch, maps, found)

    def _add(self, it: _Asked, metric: Metric, values: Tensor) -> AttribkitError | None:
        """Keep the scores, or say why they cannot be kept, as where an image comes a second time."""
        key, control = it.key._replace(metric=metric.brief()), isinstance(it.by, CONTROL_KINDS)
        try:
            if metric not in it.chances:  # which all methods share
                it.chances[metric] = metric.chances(it.batch)
            chances, higher = it.chances[metric], metric.higher_is_better
            self.scores.add(key, it.batch, values, chances=chances, higher_is_better=higher, control=control)
        except AttribkitError as error:
            return error.with_traceback(None)
        return None

    def _failed(self, it: _Asked, metric: Metric | None, error: Exception) -> None:
        """Note what could not be done; what this model or method cannot do at all is not tried again."""
        what, stage = f"{it.by.brief()} on {it.key.problem}", "explain" if metric is None else metric.brief()
        if isinstance(error, Unsupported):
            self._gone.add((it.on, it.by, metric))
        else:
            what = f"{what}: {', '.join(it.batch.ids[:2])}{', ...' * (len(it.batch) > 2)}"
        self.scores.failures.append(Failure(what, stage, _said(error)))

    def _oracles(self, batch: Batch) -> list[Oracle]:
        """The ceiling of each region that is asked about."""
        if not (self.controls and batch.regions):
            return []
        first = next(iter(batch.regions))
        names = dict.fromkeys(_region(each) or first for each in self.metrics)
        return [made for name in names if name in batch.regions and (made := Oracle(name)) not in self.methods]


class _Paced:
    """Counts what is done and tells a listener."""

    def __init__(self, listener: Callable[[Pace], object] | None, total: int) -> None:
        self.listener, self.total = listener, total
        self.done, self.began = 0, time.perf_counter()

    def on(self, count: int, what: str) -> None:
        """So many more are done."""
        self.done += count
        if self.listener is not None and count:
            self.listener(Pace(self.done, self.total, time.perf_counter() - self.began, what))


def _said(error: Exception) -> str:
    """An error in one line; one of somebody else's with its type."""
    words = " ".join(str(error).split())
    return words if isinstance(error, AttribkitError) else f"{type(error).__name__}: {words}"


def _problems(given: Any) -> list[Problem]:
    """One or several problems; a problem is itself iterable, and known by its label."""
    several = isinstance(given, Iterable) and not isinstance(given, str | Batch)
    found = [given] if hasattr(given, "label") else list(given) if several else []
    wrong = [each for each in found or [given] if isinstance(each, type) or not hasattr(each, "label") or not hasattr(each, "__len__")]
    if wrong:
        got = repr(wrong[0]) if isinstance(wrong[0], str) else type(wrong[0]).__name__
        hint = "; Labelled(model, [batch]) makes one of a Batch" if isinstance(wrong[0], Batch) else ""
        raise BadInput(f"evaluate(problem=...): got {got}, allowed: a problem, such as Labelled(model, 'list.csv'), or several{hint}")
    return found


def _several(given: Any, one: tuple[type, ...]) -> list[Any]:
    if isinstance(given, one):
        return [given]
    if not isinstance(given, Iterable):
        raise BadInput(f"evaluate: got {type(given).__name__}, allowed: one or several of {' or '.join(each.__name__ for each in one)}")
    return list(given)


def _settings(of: Metric) -> set[str]:
    return {field.name for field in dataclasses.fields(of)}  # type: ignore[arg-type]


def _lacking(metrics: Sequence[Metric], label: str, batch: Batch) -> dict[Metric, str]:
    """The metrics that cannot be asked of such images, and why; `BadInput` where nothing can be kept of them."""
    taken = next((name for name in batch.groups if name in FIXED), None)
    if taken is not None:
        raise BadInput(f"{label}: a group is called {taken!r}, allowed: any name but {', '.join(FIXED)}")
    return {each: why for each in metrics if (why := _lacks(each, label, batch))}


def _lacks(metric: Metric, label: str, batch: Batch) -> str:
    """Why a metric cannot compare with a region of these images, in words; empty if it can, or compares with none."""
    if "region" not in _settings(metric):
        return ""
    if not batch.regions:
        return f"{metric.brief()} compares maps with a region, and {label} has none; allowed: masks, boxes or a grid"
    name = _region(metric)
    return "" if name is None or name in batch.regions else f"{metric.brief()}: {UnknownName('region', name, batch.regions)}"


def _region(of: Metric) -> str | None:
    region: str | None = getattr(of, "region", None)
    return region


def _suits(asked: Metric, by: Method, batch: Batch) -> bool:
    """Whether a score says something: an oracle knows one region, and has no other maps to compare its own with."""
    if not isinstance(by, Oracle):
        return True
    if isinstance(asked, Anew):
        return False
    return "region" not in _settings(asked) or (_region(asked) or next(iter(batch.regions))) == by.region
