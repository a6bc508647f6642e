"""What is asked in an evaluation: problems, methods, metrics and controls, and which of them fit together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from ..batch import Batch
from ..errors import AttribkitError, BadInput, UnknownName
from ..methods.base import Method
from ..methods.controls import CentreMap, EdgeMap, Oracle, RandomMap
from ..metrics.base import Anew, Metric
from ..problems.base import Problem
from ..scoring.files import FIXED

CONTROLS: tuple[Method, ...] = (RandomMap(), CentreMap(), EdgeMap())
CONTROL_KINDS = (RandomMap, CentreMap, EdgeMap, Oracle)


def is_control(by: Method) -> bool:
    """Whether a method is a floor or a ceiling, whose maps say nothing of the model."""
    return isinstance(by, CONTROL_KINDS)


def said(error: Exception) -> str:
    """An error in one line; one of somebody else's with its type."""
    words = " ".join(str(error).split())
    return words if isinstance(error, AttribkitError) else f"{type(error).__name__}: {words}"


def problems_of(given: Any) -> list[Problem]:
    """One or several problems; a problem is itself iterable, and known by its label."""
    several_ = isinstance(given, Iterable) and not isinstance(given, str | Batch)
    found = [given] if hasattr(given, "label") else list(given) if several_ else []
    wrong = [each for each in found or [given] if isinstance(each, type) or not hasattr(each, "label") or not hasattr(each, "__len__")]
    if wrong:
        got = repr(wrong[0]) if isinstance(wrong[0], str) else type(wrong[0]).__name__
        hint = "; Labelled(model, [batch]) makes one of a Batch" if isinstance(wrong[0], Batch) else ""
        raise BadInput(f"evaluate(problem=...): got {got}, allowed: a problem, such as Labelled(model, 'list.csv'), or several{hint}")
    return found


def several(given: Any, one: tuple[type, ...]) -> list[Any]:
    """One or several things of some types, as a list."""
    if isinstance(given, one):
        return [given]
    if not isinstance(given, Iterable):
        raise BadInput(f"evaluate: got {type(given).__name__}, allowed: one or several of {' or '.join(each.__name__ for each in one)}")
    return list(given)


def lacking(metrics: Sequence[Metric], label: str, batch: Batch) -> dict[Metric, str]:
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


def oracles(batch: Batch, metrics: Sequence[Metric]) -> list[Oracle]:
    """The ceiling of each region that is asked about."""
    if not batch.regions:
        return []
    first = next(iter(batch.regions))
    names = dict.fromkeys(_region(each) or first for each in metrics)
    return [Oracle(name) for name in names if name in batch.regions]


def suits(asked: Metric, by: Method, regions: Sequence[str]) -> bool:
    """Whether a score says something: an oracle knows one region, and has no other maps to compare its own with."""
    if not isinstance(by, Oracle):
        return True
    if isinstance(asked, Anew):
        return False
    return "region" not in _settings(asked) or (_region(asked) or regions[0]) == by.region


def _settings(of: Metric) -> set[str]:
    return {field.name for field in dataclasses.fields(of)}  # type: ignore[arg-type]


def _region(of: Metric) -> str | None:
    region: str | None = getattr(of, "region", None)
    return region
