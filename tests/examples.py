"""An object of each registered class that is quick enough for every network: as made without settings, with few samples and squares."""

from __future__ import annotations

import dataclasses
import unittest
from collections.abc import Container
from typing import Any

import pytest

from attribkit.registry import Settings
from attribkit.segments import Segmenter, Squares
from attribkit.testing import Check

# The number of samples, steps and the like need not be large to test what is common to all; pixels are few in small images.
FEW = {"steps": 4, "samples": 8, "tolerance": 2}


def small(made: Any) -> Any:
    """The same with few steps and samples, also in the settings that it holds."""
    changed = {}
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if isinstance(value, Segmenter):
            changed[field.name] = Squares(8)
        elif isinstance(value, Settings):
            changed[field.name] = small(value)
        elif field.name in FEW and isinstance(value, int):
            changed[field.name] = min(value, FEW[field.name])
        elif field.name == "shares":
            changed[field.name] = value[::4]
    return dataclasses.replace(made, **changed)


def put(check: Check, refused: Container[str] = ()) -> None:
    """Put a check that applies to one of our own objects: none may call off what anybody else's may, but those that are `refused`."""
    try:
        check()
    except unittest.SkipTest as reason:
        if check.name not in refused:
            pytest.fail(f"{check.subject} calls off {check.name}: {reason}")
