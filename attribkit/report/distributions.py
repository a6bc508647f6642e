"""How scores of single images are spread, by the groups of the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..scores import Key, Scores
from .choosing import ByImage
from .plots import boxes
from .scales import numbers, span_of
from .spreads import scores_of

LABELS = 12  # of a group that a chart has rows for
ALL = "all images"


def charts(scores: Scores) -> list[dict[str, Any]]:
    """A box chart for each metric with a row for all images and one for each label of a group, all of which have one axis.

    What is 0 or 1 of every image has none: tables say how often it is which.
    """
    rows: dict[Key, dict[str, list[float]]] = {}
    chances: dict[Key, list[float]] = {}
    groups = [by for by, labels in ByImage.of(scores).labels.items() if len(labels) <= LABELS]
    for each in scores.rows():
        key = Key(each["problem"], each["model"], each["method"], each["metric"])
        chances.setdefault(key, []).append(each["chance"])
        found = rows.setdefault(key, {ALL: []})
        for name in (ALL, *(f"{by}: {each[by]}" for by in groups if each[by] is not None)):
            found.setdefault(name, []).append(each["score"])
    drawn = {key: {name: scores_of(numbers(values), name) for name, values in found.items()} for key, found in rows.items()}
    known = {key: found for key, found in drawn.items() if not np.isin(found[ALL], (0, 1)).all()}
    span = span_of(
        float(end) for found in known.values() for values in found.values() if len(values) for end in (values.min(), values.max())
    )
    return [boxes((key.method, "", key.metric), _ordered(found), chances[key], span) for key, found in known.items()]


def _ordered(found: Mapping[str, Any]) -> dict[str, Any]:
    """All images first, then labels in the order of the alphabet."""
    names: Iterable[str] = sorted(found, key=lambda name: (name != ALL, name))
    return {name: found[name] for name in names}
