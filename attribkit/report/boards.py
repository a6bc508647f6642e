"""Boards: the methods that one metric was asked about on one problem and model, from the best, and which are not told apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import BadInput
from ..scoring.summaries import Comparison, Summary
from .scales import number

Subject = tuple[str, str, str]  # problem, model, metric


class Board(NamedTuple):
    """What it is of, its rows from the best, and the first and last row of each run of methods that are not told apart."""

    subject: Subject
    rows: list[Summary]
    runs: list[tuple[int, int]]


def boards_of(rows: Iterable[Summary], comparisons: Iterable[Comparison]) -> list[Board]:
    """A board for each metric, problem and model; a method has one row in each, so that `rows` are of no groups, or of one of them."""
    placed: dict[Subject, dict[str, Summary]] = {}
    for row in rows:
        mine = placed.setdefault((row.problem, row.model, row.metric), {})
        if row.method in mine:
            raise BadInput(f"leaderboard: got two rows of {row.method} for {row.metric}, allowed: those of one group")
        mine[row.method] = row
    level: dict[Subject, set[frozenset[str]]] = {}
    for each in comparisons:
        if each.better is None and each.count:
            level.setdefault((each.problem, each.model, each.metric), set()).add(frozenset((each.a, each.b)))
    boards = []
    for subject, mine in placed.items():
        ordered = sorted(mine.values(), key=_from_best)
        boards.append(Board(subject, ordered, _runs([row.method for row in ordered], level.get(subject, set()))))
    return boards


def _from_best(row: Summary) -> tuple[bool, float]:
    """What rows are sorted by; those without a score come last."""
    mean = number(row.mean)
    return math.isnan(mean), 0.0 if math.isnan(mean) else -mean if row.higher_is_better else mean


def _runs(methods: Sequence[str], level: set[frozenset[str]]) -> list[tuple[int, int]]:
    """The longest runs of methods, whatever stands between them that was not compared, each pair of which is not told apart."""
    compared = [place for place, method in enumerate(methods) if any(method in pair for pair in level)]
    runs: list[tuple[int, int]] = []
    for first, start in enumerate(compared):
        run = [start]
        for place in compared[first + 1 :]:
            if any(frozenset((methods[place], methods[other])) not in level for other in run):
                break
            run.append(place)
        if len(run) > 1 and not (runs and run[-1] <= runs[-1][1]):
            runs.append((start, run[-1]))
    return runs
