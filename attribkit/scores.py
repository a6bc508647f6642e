"""Scores: a row for each problem, model, method, metric and image."""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """What a score is of, in words: the problem's label, the model's name, the method and the metric as they print themselves."""

    problem: str
    model: str
    method: str
    metric: str


class Failure(NamedTuple):
    """What could not be done: which image or method it was, at which stage ("read", "explain", "write", or a metric's name), and why."""

    id: str
    stage: str
    reason: str
