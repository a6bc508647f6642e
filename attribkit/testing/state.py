"""What a call must leave as it was: the model, and what belongs to the whole process."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextlib.contextmanager
def apart(seed: int) -> Iterator[None]:
    """The global generators begin anew from a seed, and afterwards are where they were."""
    others = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(()):
        try:
            disturb(seed)
            yield
        finally:
            random.setstate(others[0])
            np.random.set_state(others[1])


def disturb(seed: int) -> None:
    """Move all three global generators to another place."""
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` also keeps a list of calls for devices that nobody may ever use
    random.seed(seed)
    np.random.seed(seed)


def of_process() -> dict[str, Any]:
    """The global generators, the modes and the hooks that every module shares."""
    kind, numbers, *place = np.random.get_state()
    return {
        "the global generator of torch": torch.get_rng_state().clone(),
        "the global generator of NumPy": (kind, np.asarray(numbers).tobytes(), *place),
        "the global generator of Python": random.getstate(),
        "whether gradients are on": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "the default dtype": torch.get_default_dtype(),
        "the number of threads": torch.get_num_threads(),
        "whether algorithms are deterministic": torch.are_deterministic_algorithms_enabled(),
        "whether anomalies are looked for": torch.is_anomaly_enabled(),
        "the hooks of all modules": _hooks(vars(torch.nn.modules.module)),
    }


def of_module(module: nn.Module) -> dict[str, Any]:
    """Everything about a module and those inside it that somebody who lent it can see."""
    modules = dict(module.named_modules())
    weights = dict(module.named_parameters())
    tensors = {**weights, **dict(module.named_buffers())}
    return {
        "the training flags": {name: each.training for name, each in modules.items()},
        "requires_grad": {name: weight.requires_grad for name, weight in weights.items()},
        ".grad": {name: None if weight.grad is None else weight.grad.clone() for name, weight in weights.items()},
        "the hooks": {f"{name}.{kind}": count for name, each in modules.items() for kind, count in _hooks(vars(each)).items()},
        "the attributes": {name: sorted(vars(each)) for name, each in modules.items()},
        "which modules there are": {name: (type(each).__name__, id(each)) for name, each in modules.items()},
        "which weights there are": {name: (id(tensor), tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()},
        "the values of weights and buffers": {name: tensor.detach().clone() for name, tensor in tensors.items()},
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What is not as it was: the names of its aspects, and where."""
    found = []
    for aspect, was in before.items():
        now = after[aspect]
        if isinstance(was, dict):
            names = [name for name in {**was, **now} if name not in was or name not in now or not _equal(was[name], now[name])]
            found += [f"{aspect} ({', '.join(names[:3])}{' ...' * (len(names) > 3)})"] if names else []
        elif not _equal(was, now):
            found.append(aspect)
    return found


def _hooks(names: Mapping[str, Any]) -> dict[str, int]:
    """How many hooks there are of each kind, among the attributes of a module."""
    return {name: len(hooks) for name, hooks in names.items() if name.endswith("hooks") and isinstance(hooks, Mapping)}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and bool(one.allclose(other, rtol=0, atol=0, equal_nan=True))
    return type(one) is type(other) and bool(one == other)
