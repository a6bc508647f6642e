"""Running some rows at once, and what to do when that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class ChannelsLastRefused(Exception):
    """The module cannot take channels-last images; the same rows are to run again."""


# What allocators that have no exception of their own say; cuDNN's and cuBLAS's workspaces among them.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "_STATUS_ALLOC_FAILED",
)


def unless_out_of_memory(work: Callable[[slice], T], rows: slice) -> T | None:
    """What `work` gives, or None if memory ran out; returning lets go of the failed attempt's tensors before the next one."""
    try:
        try:
            return work(rows)
        except ChannelsLastRefused:
            return work(rows)
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _NO_MEMORY):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None
