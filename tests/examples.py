"""An object of each registered class that is quick enough for every network: as made without settings, with few samples and squares."""

from __future__ import annotations

import dataclasses
import itertools
import unittest
from collections.abc import Container, Mapping
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from attribkit.registry import Settings
from attribkit.segments import Segmenter, Squares
from attribkit.testing import Check

# The number of samples, steps and the like need not be large to test what is common to all; pixels are few in small images.
FEW = {"steps": 4, "samples": 8, "tolerance": 2}


def small(made: Any, squares: int = 8) -> Any:
    """The same with few steps and samples, and segments of `squares` x `squares` pixels, also in the settings that it holds."""
    changed = {}
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if isinstance(value, Segmenter):
            changed[field.name] = Squares(squares)
        elif isinstance(value, Settings):
            changed[field.name] = small(value, squares)
        elif field.name in FEW and isinstance(value, int):
            changed[field.name] = min(value, FEW[field.name])
        elif field.name == "shares":
            changed[field.name] = value[::4]
    return dataclasses.replace(made, **changed)


def by_promise(everyone: Mapping[str, list[Check]]) -> list[ParameterSet]:
    """A test for each object and promise: all checks of the promise that apply, since the ways of pytest cost more than most checks."""
    return [
        pytest.param(list(checks), id=f"{name}-{promise}")
        for name, every in everyone.items()
        for promise, checks in itertools.groupby((each for each in every if not each.why_not), lambda each: each.name.partition("[")[0])
    ]


def put(checks: list[Check], refused: Container[str] = ()) -> None:
    """Put checks that apply to one of our own objects: none may call off what anybody else's may, but those that are `refused`."""
    for check in checks:
        try:
            check()
        except unittest.SkipTest as reason:
            if check.name not in refused:
                pytest.fail(f"{check.subject} calls off {check.name}: {reason}")


def never_put(everyone: Mapping[str, list[Check]]) -> set[str]:
    """The names of checks that apply to none of the objects."""
    every = [check for checks in everyone.values() for check in checks]
    return {check.name for check in every} - {check.name for check in every if not check.why_not}
