"""What comes before any work on a run: its problems looked at, and all that is asked entered in the ledger."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import torch

from ..methods.base import Method
from ..metrics.base import Metric
from ..problems.base import Problem
from ..problems.shards import Planned, Sharded, digested
from ..store import planning
from ..store.folder import Workshop
from ..store.keys import fingerprint, text_of
from ..store.planning import Asked, Asker
from .asking import is_control
from .scoring import Begun, Run

PACKAGES = ("attribkit", "torch", "torchvision", "numpy", "pillow", "captum", "grad-cam")
VERSION = version("attribkit")


def prepared(shop: Workshop, run: Run, problems: Sequence[Problem]) -> list[Begun]:
    """Look at the problems and enter what is asked of them; what was done before, of the same content, is not asked again."""
    adopt(problems, plans(shop, problems))
    begun = run.begun(problems)
    for each in problems:
        if isinstance(each, Planned) and any(each is one.problem for one in begun):
            plan = each.plan()
            shop.ledger.put(_plan_name(each), {"plan": plan, "digest": digested(plan)})
    asks = [
        planning.Plan(
            one.on.problem,
            one.on.model,
            [(asker(by), asked(metric)) for by, metrics in run.pairs(one).items() for metric in metrics],
            list(_shards(one.problem, run.maps)) if isinstance(one.problem, Sharded) else (),
        )
        for one in begun
    ]
    planning.ask(shop.ledger, asks, run.scores.failures)
    shop.spoilt()
    return begun


def asker(by: Method) -> Asker:
    """A method as the ledger knows it."""
    return Asker(text_of(by), by.brief(), is_control(by))


def asked(metric: Metric) -> Asked:
    """A metric as the ledger knows it."""
    return Asked(text_of(metric), metric.brief(), metric.higher_is_better)


def content(maps: str, model: str, *words: Any) -> str:
    """What a shard's key is made of: everything that decides its maps and scores but method and metric."""
    return digested(VERSION, maps, model, *words)


def _shards(problem: Sharded, maps: str) -> Iterator[tuple[int, str, int]]:
    model = fingerprint(problem.model)
    for number in range(problem.shards):
        yield number, content(maps, model, problem.name, problem.digest(number)), len(problem.names(number))


def plans(shop: Workshop, problems: Iterable[Problem]) -> dict[str, Any]:
    """What problems found out when they were last begun, by their labels, where that is known."""
    found = {}
    for each in problems:
        kept = shop.ledger.get(_plan_name(each)) if isinstance(each, Planned) else None
        if isinstance(kept, dict) and kept.get("digest") == digested(kept.get("plan")):
            found[each.label] = kept["plan"]
    return found


def adopt(problems: Iterable[Problem], known: dict[str, Any]) -> None:
    """Tell problems what is known of them."""
    for each in problems:
        if isinstance(each, Planned) and each.label in known:
            each.adopt(known[each.label])


def _plan_name(problem: Any) -> str:
    """Under which name a problem's plan is kept: of everything that decides it."""
    return f"plan {content('', fingerprint(problem.model), problem.label, problem.plan_key())}"


def facts(**further: Any) -> dict[str, Any]:
    """What a session is known by: its process, the machine and the versions."""
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        **further,
    }
