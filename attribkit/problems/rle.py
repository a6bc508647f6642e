"""Masks in COCO's run-length encoding: {"size": [height, width], "counts": runs}, column by column, outside first."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..images import MAX_PIXELS
from ..registry import short

_ALLOWED = 'allowed: {"size": [height, width], "counts": [runs] or "runs as COCO compresses them"}'
_FIRST, _BITS, _MORE, _SIGN, _LONGEST = 48, 5, 32, 16, 7  # of a character: where they begin, its bits, what follows, and how many a run has


class RunLengths(NamedTuple):
    """A mask as it is written: its size in pixels, and its runs, from which `mask` makes it."""

    height: int
    width: int
    counts: str | tuple[int, ...]

    def mask(self) -> NDArray[np.bool_]:
        """True inside, (height, width)."""
        runs = _runs(self.counts)
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(self.width, self.height).T


def read_run_lengths(text: str) -> RunLengths:
    """The mask that the JSON `text` describes; `BadInput` where it is damaged, or does not fill its size exactly."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or set(found) != {"size", "counts"}:
        raise BadInput(_ALLOWED)
    size, counts = found["size"], found["counts"]
    if not isinstance(size, list) or len(size) != 2 or not all(_whole(each) and each > 0 for each in size):
        raise BadInput(f"a size of {short(repr(size))}, {_ALLOWED}")
    height, width = size
    if height * width > MAX_PIXELS:
        raise BadInput(f"{width} x {height} is {short(str(height * width))} pixels, allowed: at most {MAX_PIXELS:,}")
    if isinstance(counts, list) and all(_whole(each) and 0 <= each <= height * width for each in counts):
        counts = tuple(counts)
    elif not isinstance(counts, str):
        raise BadInput(f"counts of {short(repr(counts))}, allowed: lengths of runs from 0 to {height * width}, the pixels of its size")
    runs = _runs(counts)
    if (runs < 0).any() or runs.sum() != height * width:
        wrong = "a run below 0" if (runs < 0).any() else f"runs of {runs.sum()} pixels in all"
        raise BadInput(f"{wrong}, allowed: runs that fill {width} x {height} = {height * width} pixels exactly")
    return RunLengths(height, width, counts)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _runs(counts: str | tuple[int, ...]) -> NDArray[np.int64]:
    """The lengths of the runs; compressed, each comes in pieces of 5 bits, from the fourth on as its difference to the last but one."""
    if isinstance(counts, tuple):
        return np.array(counts, np.int64)
    codes = np.frombuffer(counts.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64) - _FIRST
    ends = np.flatnonzero((codes & _MORE) == 0)
    if ((codes < 0) | (codes >= 2 * _MORE)).any() or len(codes) != (ends[-1] + 1 if len(ends) else 0):
        raise BadInput("compressed counts with a character that COCO does not use, or without their end; allowed: COCO's own")
    lengths = np.diff(ends, prepend=-1)
    if len(lengths) and lengths.max() > _LONGEST:
        raise BadInput("compressed counts with a run beyond all images; allowed: COCO's own")
    shifts = _BITS * (np.arange(len(codes)) - np.repeat(ends - lengths + 1, lengths))
    runs = np.add.reduceat((codes & (_MORE - 1)) << shifts, ends - lengths + 1) if len(ends) else np.zeros(0, np.int64)
    runs -= np.where(codes[ends] & _SIGN, 1 << (_BITS * lengths), 0)
    for first in (1, 2):  # differences among the odd runs, and among the even ones but the first
        runs[first::2] = runs[first::2].cumsum()
    return runs
