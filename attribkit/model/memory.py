"""How rows are run: in what kind of tensors, and what to do when memory runs out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
# Whoever studies a model changes flags and hooks of its modules, and saves random states that are the process's: other threads wait.
ONE_AT_A_TIME = threading.RLock()
_LOW = (torch.bfloat16, torch.float16)


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


def ordinary_tensors() -> contextlib.AbstractContextManager[None]:
    """While it lasts tensors are made as anywhere else, also inside `torch.inference_mode`: those made in that have no gradients."""
    return torch.inference_mode(False)


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor as float32 where it is of half precision, else itself."""
    return tensor.float() if tensor.dtype in _LOW else tensor
