"""Runs of several contenders in one process, interleaved, and their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

Run = Callable[[], object]


class Cost(NamedTuple):
    """Seconds of one run: on the clock, and on this process's processors."""

    wall: float
    cpu: float


def measured(contenders: dict[str, Run], rounds: int) -> dict[str, list[Cost]]:
    """Each contender's costs, round by round, after one run of each that does not count."""
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    order = list(contenders)
    for turn in range(-1, rounds):
        for name in order:
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name]()
            if torch.cuda.is_available():  # which else would still be at work
                torch.cuda.synchronize()
            cost = Cost(time.perf_counter() - wall, time.process_time() - cpu)
            if turn >= 0:
                costs[name].append(cost)
        order = [*order[1:], order[0]]
    return costs


def compared(title: str, contenders: dict[str, Run], rounds: int, *, base: str) -> list[dict[str, Any]]:
    """A row per contender: its best time, and its ratio to `base` within each round, by the median."""
    costs = measured(contenders, rounds)
    rows = []
    for name, each in costs.items():
        ratios = {
            clock: statistics.median(getattr(mine, clock) / getattr(theirs, clock) for mine, theirs in zip(each, costs[base], strict=True))
            for clock in ("wall", "cpu")
        }
        fastest = {
            clock: min(getattr(cost, clock) for cost in each) / min(getattr(cost, clock) for cost in costs[base]) for clock in ratios
        }
        best = min(cost.wall for cost in each)
        rows.append({"case": title, "run": name, "seconds": best, **ratios, "fastest_cpu": fastest["cpu"], "fastest_wall": fastest["wall"]})
    return rows


def printed(rows: Sequence[dict[str, Any]]) -> None:
    """The rows as a Markdown table."""
    print("\n| case | run | best, ms | wall ratio | CPU ratio | CPU ratio of the fastest runs |\n|---|---|---|---|---|---|")
    for row in rows:
        ratios = " | ".join(f"{row[name]:.2f}" for name in ("wall", "cpu", "fastest_cpu"))
        print(f"| {row['case']} | {row['run']} | {1000 * row['seconds']:.0f} | {ratios} |", flush=True)
