"""An object of each registered class that is quick enough for every network: as made without settings, with few samples and squares."""

from __future__ import annotations

import dataclasses
from typing import Any

from attribkit.registry import Settings
from attribkit.segments import Segmenter, Squares

# The number of samples, steps and the like need not be large to test what is common to all; pixels are few in small images.
FEW = {"steps": 6, "samples": 8, "tolerance": 2}


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
    return dataclasses.replace(made, **changed)
