"""`evaluate`: problems x methods x metrics -> `Scores`, in one loop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from torch import Tensor

from .attribution import Attribution
from .batch import Batch
from .errors import AttribkitError, BadInput, Unsupported
from .methods.base import Method, method
from .methods.controls import CentreMap, EdgeMap, Oracle, RandomMap
from .metrics.base import Anew, Metric, metric
from .model.adapter import VisionModel
from .problems.base import Problem
from .progress import Pace
from .scores import Failure, Key, Scores

CONTROLS: tuple[Method, ...] = (RandomMap(), CentreMap(), EdgeMap())
CONTROL_KINDS = (RandomMap, CentreMap, EdgeMap, Oracle)

# Of each batch and method: the problem's label, the method, the batch, its maps, and their scores by metric.
Watch = Callable[[str, Method, Batch, Attribution, dict[Metric, Tensor]], None]


def evaluate(  # noqa: PLR0913 - what is asked, and by name who listens
    problem: Problem | Sequence[Problem],
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
    problems: list[Problem] = list(problem) if isinstance(problem, list | tuple) else [cast(Problem, problem)]
    pace = _Paced(progress, sum(len(each) for each in problems) * len(run.lined_up))
    for each in problems:
        run.on(each, pace)
    run.check()
    return run.scores


def scores_of(
    model: VisionModel, batch: Batch, maps: Attribution, by: Method, metrics: Iterable[Metric]
) -> Iterator[tuple[Metric, Tensor | AttribkitError]]:
    """Each metric's scores of the maps, (B,), or why there are none."""
    for each in metrics:
        try:
            yield each, each(model, batch, maps, by)
        except AttribkitError as error:
            yield each, error


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
        self._error: AttribkitError | None = None
        self._gone: set[tuple[Key, Method, Metric | None]] = set()

    @property
    def lined_up(self) -> list[Method]:
        """The methods and the controls, without oracles, which are known once there is a batch."""
        return [*self.methods, *self.controls]

    def on(self, problem: Problem, pace: _Paced) -> None:
        """Score everything on one problem."""
        for number, (model, batch) in enumerate(self._batches(problem)):
            if not number:
                self._check_regions(problem, batch)
            chances = {each: each.chances(batch) for each in self.metrics}
            key = Key(problem.label, getattr(problem, "model", model).name, "", "")
            for each in [*self.lined_up, *self._oracles(batch)]:
                if (key, each, None) not in self._gone:
                    self._scored(key, each, model, batch, chances)
                pace.on(len(batch) if not isinstance(each, Oracle) else 0, f"{problem.label}, {each.brief()}")
        self.scores.failures.extend(getattr(problem, "failures", ()))

    def check(self) -> None:
        """Raise if none of the methods that were asked for has a score: what ended a problem, or `Unsupported`."""
        asked = {each.brief() for each in self.methods}
        if not any(key.method in asked for key in self.scores.keys()):  # noqa: SIM118 - no mapping
            if self._error is not None:
                raise self._error
            reasons = [f"{failure.id}: {failure.reason}" for failure in self.scores.failures]
            raise Unsupported("; ".join(reasons[:3]) or "the problems have no images")

    def _batches(self, problem: Problem) -> Iterator[tuple[VisionModel, Batch]]:
        """What a problem yields, until it cannot go on: then that is noted, and others have their turn."""
        try:
            yield from problem
        except AttribkitError as error:
            self._error = error
            self.scores.failures.append(Failure(problem.label, "problem", str(error)))

    def _scored(self, key: Key, by: Method, model: VisionModel, batch: Batch, chances: dict[Metric, Tensor | None]) -> None:
        try:
            maps = by(model, batch)
        except AttribkitError as error:
            self._gone.add((key, by, None))
            self.scores.failures.append(Failure(f"{by.brief()} on {key.problem}", "explain", str(error)))
            return
        asked = [each for each in self.metrics if (key, by, each) not in self._gone and _suits(each, by, batch)]
        found: dict[Metric, Tensor] = {}
        for each, values in scores_of(model, batch, maps, by, asked):
            if isinstance(values, AttribkitError):
                self._gone.add((key, by, each))
                self.scores.failures.append(Failure(f"{by.brief()} on {key.problem}", each.brief(), str(values)))
                continue
            found[each] = values
            whole = key._replace(method=by.brief(), metric=each.brief())
            self.scores.add(
                whole, batch, values, chances=chances[each], higher_is_better=each.higher_is_better, control=isinstance(by, CONTROL_KINDS)
            )
        if self.watch is not None:
            self.watch(key.problem, by, batch, maps, found)

    def _oracles(self, batch: Batch) -> list[Oracle]:
        """The ceiling of each region that is asked about."""
        if not (self.controls and batch.regions):
            return []
        first = next(iter(batch.regions))
        return [Oracle(name) for name in dict.fromkeys(_region(each) or first for each in self.metrics)]

    def _check_regions(self, problem: Problem, batch: Batch) -> None:
        for each in self.metrics:
            if "region" in _settings(each):
                if not batch.regions:
                    raise BadInput(
                        f"{each.brief()} compares maps with a region, and {problem.label} has none; allowed: masks, boxes or a grid"
                    )
                batch.region(_region(each) or next(iter(batch.regions)))


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


def _several(given: Any, one: tuple[type, ...]) -> list[Any]:
    if isinstance(given, one):
        return [given]
    if not isinstance(given, Iterable):
        raise BadInput(f"evaluate: got {type(given).__name__}, allowed: one or several of {' or '.join(each.__name__ for each in one)}")
    return list(given)


def _settings(of: Metric) -> set[str]:
    return {field.name for field in dataclasses.fields(of)}  # type: ignore[arg-type]


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
