"""The unit of work: one shard of a problem, by the methods and metrics that it still lacks. Every engine calls it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BrokenRun
from ..methods.base import Method, method
from ..metrics.base import Metric
from ..model.adapter import VisionModel
from ..problems.shards import Shard, Sharded
from ..scores import Failure, Key
from ..store import shards as files
from ..store.keys import text_of
from ..store.leases import Todo
from ..store.results import Done, Known, Scored
from .asking import is_control, said
from .scoring import Asked, Run

Keep = Callable[[str, bytes], None]  # what becomes of the content of a file of maps, by its name


class Unit(NamedTuple):
    """A shard that has been read: where it stands in tables, its content's digest, its model and images, and the labels' names."""

    on: Key
    content: str
    model: VisionModel
    batch: Batch
    group_names: Mapping[str, Sequence[str]]


class Work:
    """What does units: methods and metrics by their texts, and the run that scores; `folder` is that of the maps that are kept."""

    def __init__(self, run: Run, methods: Sequence[Method], folder: Path) -> None:
        self.run, self.folder = run, folder
        self.run.curves, self.run.gives_up = [], False
        self.methods = {text_of(each): each for each in methods}
        self.metrics = {text_of(each): each for each in run.metrics}

    def done(
        self, unit: Unit, todo: Sequence[Todo], keep: Keep, *, apart: bool = False, begins: Callable[[str], object] = str
    ) -> Iterator[Done]:
        """Do what is left to be done of a unit, method by method, each of which `begins`; images one by one, if `apart`."""
        chances: dict[Metric, Tensor | None] = {}
        known = self._known(unit)
        for each in todo:
            begins(each.method)
            began, by = time.perf_counter(), self._method(each.method)
            metrics = [self.metrics[text] for text in each.metrics]
            it = Asked(unit.on._replace(method=by.brief()), by, unit.model, unit.batch, metrics, chances)
            self.run.clear()
            made = self._explained(it, each, apart)
            scores = {text: self._scored(self.metrics[text], it.batch) for text in each.metrics}
            file = digest = None
            if self.run.maps != "none" and made and not is_control(by):
                content = files.encoded(made, self.run.maps)
                digest = files.digest(content)
                file = files.name_of(unit.content, each.method, digest)
                keep(file, content)
            troubles = tuple(trouble._replace(method=each.method) for trouble in self.run.troubles)
            yield Done(each.method, known, scores, troubles, time.perf_counter() - began, file, digest)

    def _method(self, text: str) -> Method:
        """A method from its text; of those that have no text that can be read, the object itself is known."""
        if text not in self.methods:
            self.methods[text] = method(text)
        return self.methods[text]

    def _explained(self, it: Asked, todo: Todo, apart: bool) -> list[Attribution]:
        """Score a method on a batch; its maps, but for those that are kept already."""
        kept = self._kept(todo, it.batch)
        if kept is not None:
            self.run.one(it, kept)
            return []
        made: list[Attribution] = []
        before = self.run.watch

        def seen(problem: str, by: Method, batch: Batch, maps: Attribution, found: dict[Metric, Tensor]) -> None:
            made.append(maps)
            if before is not None:
                before(problem, by, batch, maps, found)

        self.run.watch = seen
        try:
            for part in [it.part(slice(row, row + 1)) for row in range(len(it.batch))] if apart else [it]:
                self.run.one(part)
        finally:
            self.run.watch = before
        return made

    def _kept(self, todo: Todo, batch: Batch) -> Attribution | None:
        """The maps of all images that an earlier session has kept; None where they are to be made."""
        if todo.file is None:
            return None
        try:
            maps = files.read(self.folder / todo.file, todo.digest)
        except BrokenRun:  # they are made again
            return None
        return maps.to(batch.images.device) if maps.ids == batch.ids else None

    def _scored(self, metric: Metric, batch: Batch) -> Scored:
        """What came of one metric."""
        own = [(names, _half(rows)) for of, names, rows in self.run.curves or () if of == metric]
        curves = {name: row for names, rows in own for name, row in zip(names, rows, strict=True)}
        for key, names, column, _ in self.run.scores.columns():
            if key.metric == metric.brief():
                shaped = np.stack([curves[name] for name in names]) if curves else None
                return Scored(tuple(names), column.scores, column.chances, shaped)
        return Scored((), np.empty(0, np.float32), np.empty(0, np.float32))

    def _known(self, unit: Unit) -> Known:
        """What is known of the images."""
        self.run.clear()
        batch = unit.batch
        self.run.scores.add(unit.on, batch, torch.zeros(len(batch), device=batch.images.device))
        self.run.scores.name_groups(unit.on, unit.group_names)
        ((_, names, column, _),) = self.run.scores.columns()
        groups = {name: list(labels) for name, labels in column.groups.items()}
        return Known(tuple(names), tuple(column.targets.tolist()), groups)


def _half(curves: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    found: np.ndarray[tuple[int, ...], np.dtype[np.float16]] = curves.half().cpu().numpy()
    return found


def read(problem: Sharded, number: int, names: Sequence[str] | None) -> Shard:
    """A shard, or some of its images; where it cannot be read as a whole, those of them that can be, each at the cost of itself."""
    try:
        return problem.shard(number, names)
    except Exception as error:  # the images' own source may raise anything, and the rest goes on
        several = list(names if names is not None else problem.names(number))
        if len(several) == 1:
            return Shard(problem.model, None, (_unread(several[0], error),))
    good: list[str] = []
    failures: list[Failure] = []
    for name in several:
        alone = read(problem, number, [name])
        failures += alone.failures
        good += [name] if alone.batch is not None else []
    part = problem.shard(number, good) if good else Shard(problem.model, None)
    return Shard(part.model, part.batch, (*failures, *part.failures))


def _unread(name: str, error: Exception) -> Failure:
    return Failure(name, "read", said(error.with_traceback(None)))
