"""`evaluate`, as scripts call it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..methods.base import Method, method
from ..metrics.base import Metric, metric
from ..problems.base import Problem
from ..progress import Pace
from ..scores import Scores
from .asking import CONTROLS, problems_of, several
from .scoring import Paced, Run, Watch


def evaluate(  # noqa: PLR0913 - what is asked, and by name where it is kept and who listens
    problem: Problem | Iterable[Problem],
    methods: str | Method | Sequence[str | Method],
    metrics: str | Metric | Sequence[str | Metric],
    *,
    store: str | Path | None = None,
    controls: bool = True,
    progress: Callable[[Pace], object] | None = None,
    watch: Watch | None = None,
) -> Scores:
    """Score attribution methods: every method's maps of every image of the problems, by every metric.

    `methods` and `metrics` are objects, names, or calls as they print themselves. Beside the methods, and unless `controls` is False,
    maps that know nothing of the model are scored, as the floor, and where there are masks the mask itself, as the ceiling. Maps are made
    once, batch by batch: `watch` sees them as they come. `progress` is told how far it has come, `print` for one. What a model, a method
    or a metric cannot do is in `failures` of the scores, and the rest goes on; `Unsupported` where nothing is left.

    `store` is a folder that keeps maps and scores, in which a call that was interrupted goes on where it stopped, and a call with other
    methods, metrics or images does what is new: see `Store`. Maps are kept, and so scored, in half precision there.
    """
    run = Run(
        [method(each) for each in several(methods, (str, Method))],
        [metric(each) for each in several(metrics, (str, Metric))],
        controls=CONTROLS if controls else (),
    )
    run.watch = watch
    problems = problems_of(problem)
    if store is not None:
        from .alone import evaluated

        return evaluated(store, run, problems, progress)
    pace = Paced(progress, sum(len(each) for each in problems) * len(run.lined_up))
    for each in run.begun(problems):
        run.on(each, pace)
    run.check()
    return run.scores
