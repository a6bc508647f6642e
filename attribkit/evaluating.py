"""`evaluate`: problems x methods x metrics -> `Scores`, in one loop."""

from __future__ import annotations

import dataclasses
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
            yield each, error


class _Begun:
    """A problem that has yielded its first batch, by which it is seen whether what is asked can be answered at all."""

    def __init__(self, problem: Problem, label: str) -> None:
        self.problem, self.label = problem, label
        self._rest = iter(problem)
        self.first = next(self._rest, None)

    def batches(self) -> Iterator[tuple[VisionModel, Batch]]:
        """All batches, of which none is kept here."""
        first, self.first = self.first, None
        if first is not None:
            yield first
        del first
        yield from self._rest


class _Asked(NamedTuple):
    """A method and a batch: what maps are made of, and what their scores are of; `chances`, once known, are of all methods."""

    key: Key
    by: Method
    model: VisionModel
    batch: Batch
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
        self._unasked: set[tuple[str, Metric]] = set()
        self._vain: dict[tuple[Key, Method], int] = {}  # images without a map, until there is one
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
        """The problems with their first batches: before any work, `BadInput` where a metric compares with regions that there are not."""
        found, names = [], list[tuple[str, str]]()
        for problem in problems:
            names.append((problem.label, getattr(getattr(problem, "model", None), "name", "")))
            number = names.count(names[-1])
            label = problem.label if number == 1 else f"{problem.label} ({number})"
            try:
                found.append(_Begun(problem, label))
            except AttribkitError as error:
                self._ended(label, error)
        self._check_regions([each for each in found if each.first is not None])
        return found

    def on(self, begun: _Begun, pace: _Paced) -> None:
        """Score everything on one problem."""
        batches = begun.batches()
        while (found := self._next(begun.label, batches)) is not None:
            model, batch = found
            key = Key(begun.label, getattr(begun.problem, "model", model).name, "", "")
            chances: dict[Metric, Tensor | None] = {}
            for each in [*self.lined_up, *self._oracles(batch)]:
                asked = _Asked(key._replace(method=each.brief()), each, model, batch, chances)
                if (key, each, None) not in self._gone:
                    self._luck(key, each, len(batch), done=self._scored(asked))
                pace.on(len(batch) if not isinstance(each, Oracle) else 0, f"{begun.label}, {each.brief()}")
            del found, batch
        self.scores.name_groups(begun.label, getattr(begun.problem, "group_names", {}))
        self.scores.failures.extend(getattr(begun.problem, "failures", ()))

    def check(self) -> None:
        """Raise if none of the methods that were asked for has a score: what ended a problem, or `Unsupported`."""
        asked = {each.brief() for each in self.methods}
        if not any(key.method in asked for key in self.scores.keys()):  # noqa: SIM118 - no mapping
            if self._error is not None:
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

    def _luck(self, key: Key, by: Method, count: int, *, done: bool) -> None:
        """Give up a method of which nothing has come so far and, of so many images, nothing will."""
        before = self._vain.get((key, by), 0)
        self._vain[key, by] = -1 if done or before < 0 else before + count
        if self._vain[key, by] >= PATIENCE:
            self._gone.add((key, by, None))

    def _ended(self, label: str, error: Exception) -> None:
        self._error = error
        self.scores.failures.append(Failure(label, "problem", _said(error)))

    def _scored(self, it: _Asked) -> bool:
        """Score a method on a batch, or, where it fails, on its parts, so that one image does not cost the others; whether any was done."""
        try:
            maps = it.by(it.model, it.batch)
        except Exception as error:  # as above; the other methods' scores of this batch, and this one's of others
            if isinstance(error, Unsupported) or len(it.batch) == 1:
                self._failed(it, None, error)
                return False
            middle = len(it.batch) // 2
            parts = [it._replace(batch=it.batch[rows], chances={}) for rows in (slice(0, middle), slice(middle, None))]
            return any([self._scored(part) for part in parts])
        asked = [each for each in self.metrics if self._asks(it, each)]
        found: dict[Metric, Tensor] = {}
        for each, values in scores_of(it.model, it.batch, maps, it.by, asked):
            try:
                if isinstance(values, Exception):
                    raise values
                self._add(it, each, values)
                found[each] = values
            except Exception as error:  # as above
                self._failed(it, each, error)
        if self.watch is not None:
            self.watch(it.key.problem, it.by, it.batch, maps, found)
        return True

    def _asks(self, it: _Asked, metric: Metric) -> bool:
        gone = (it.on, it.by, metric) in self._gone or (it.key.problem, metric) in self._unasked
        return not gone and _suits(metric, it.by, it.batch)

    def _add(self, it: _Asked, metric: Metric, values: Tensor) -> None:
        if metric not in it.chances:  # which all methods share
            it.chances[metric] = metric.chances(it.batch)
        key, control = it.key._replace(metric=metric.brief()), isinstance(it.by, CONTROL_KINDS)
        chances, higher = it.chances[metric], metric.higher_is_better
        self.scores.add(key, it.batch, values, chances=chances, higher_is_better=higher, control=control)

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
        return [Oracle(name) for name in dict.fromkeys(_region(each) or first for each in self.metrics)]

    def _check_regions(self, begun: Sequence[_Begun]) -> None:
        """Leave out a metric where the region that it compares with is not known; `BadInput` if it is known nowhere."""
        for asked in self.metrics:
            lacking = {each.label: why for each in begun if each.first is not None and (why := _lacks(asked, each.label, each.first[1]))}
            if lacking and len(lacking) == len(begun):
                raise BadInput(next(iter(lacking.values())))
            for label, why in lacking.items():
                self._unasked.add((label, asked))
                self.scores.failures.append(Failure(label, asked.brief(), why))


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
    wrong = [each for each in found or [given] if not hasattr(each, "label") or not hasattr(each, "__len__")]
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
