"""Where the logits are in what a model returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import Unsupported

_NAMES = ("logits", "out", "output", "outputs", "prediction", "predictions", "scores")


def logits_in(output: Any, rows: int, model: str) -> Tensor:
    """The (B, K) logits in a tensor, tuple, mapping or dataclass; `Unsupported` says what was returned instead."""
    found = _search(output)
    if found is None:
        raise Unsupported(
            f"{model} returns {_words(output)}; allowed: (B, K) logits, alone or as 'logits' in a mapping, tuple or dataclass"
        )
    if found.ndim == 1 and len(found) == rows:
        return found.unsqueeze(1)
    if found.ndim > 2 and found.shape[2:].numel() == 1:
        found = found.flatten(1)
    if found.ndim != 2 or len(found) != rows:
        raise Unsupported(f"{model} returns {tuple(found.shape)} for {rows} images; allowed: (B, K) logits")
    return found


def _search(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        named = [output[name] for name in _NAMES if isinstance(output.get(name), Tensor)]
        tensors = [item for item in output.values() if isinstance(item, Tensor)]
        return named[0] if named else tensors[0] if len(tensors) == 1 else None
    if dataclasses.is_dataclass(output) or hasattr(output, "_fields"):
        return next((getattr(output, name) for name in _NAMES if isinstance(getattr(output, name, None), Tensor)), None)
    if isinstance(output, tuple | list):
        return next((item for item in output if isinstance(item, Tensor)), None)
    return None


def _words(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of {output.dtype}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(str, output))}"
    return f"a {type(output).__name__}"
