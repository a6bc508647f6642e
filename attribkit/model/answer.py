"""What goes into a model, checked, and where the logits are in what it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..batch import Targets
from ..errors import BadInput, UnknownName, Unsupported
from .memory import ordinary_tensors

_NAMES = ("logits", "out", "output", "outputs", "prediction", "predictions", "scores")


def logits_in(output: Any, rows: int, classes: int, model: str) -> Tensor:
    """The (B, K) logits in a tensor, tuple, mapping or dataclass; `Unsupported` says what was returned instead.

    `classes` is their number where it is known, else 0; it tells logits from features beside them.
    """
    found = _search(output, rows, classes)
    if found is None:
        raise Unsupported(
            f"{model} returns {_words(output)}; allowed: (B, K) logits, alone, as 'logits' among others, or told by classes=..."
        )
    if found.ndim == 1 and len(found) == rows:
        return found.unsqueeze(1)
    if found.ndim > 2 and found.shape[2:].numel() == 1:
        found = found.flatten(1)
    if found.ndim != 2 or len(found) != rows:
        raise Unsupported(f"{model} returns {tuple(found.shape)} for {rows} images; allowed: (B, K) logits")
    return found


def _search(output: Any, rows: int, classes: int) -> Tensor | None:
    """The tensor itself, the one with a known name, the only one, or (of a tuple or list) the one that can be (B, K) logits."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    fields = _fields(output)
    tensors = {name: item for name, item in fields.items() if isinstance(item, Tensor) and item.is_floating_point()}
    named = [tensors[name] for name in _NAMES if name in tensors]
    if named or len(tensors) == 1:
        return (named or list(tensors.values()))[0]
    flat = [item for item in tensors.values() if item.ndim == 2 and len(item) == rows]
    fitting = [item for item in flat if item.shape[1] == classes]
    if fitting:
        return fitting[0]
    if isinstance(output, tuple | list) and not hasattr(output, "_fields"):
        # Logits of several heads are alike, and the first head is the main one; tensors of other widths may be features.
        return flat[0] if len({item.shape for item in flat}) == 1 else None
    return None


def _fields(output: Any) -> dict[Any, Any]:
    if isinstance(output, Mapping):
        return dict(output)
    if hasattr(output, "_fields"):
        return {name: getattr(output, name) for name in output._fields}
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return dict(enumerate(output)) if isinstance(output, tuple | list) else {}


def _words(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of {output.dtype}"
    shapes = {name: str(tuple(item.shape)) if isinstance(item, Tensor) else type(item).__name__ for name, item in _fields(output).items()}
    fields = ", ".join(shape if isinstance(name, int) else f"{name} {shape}" for name, shape in shapes.items())
    return f"{type(output).__name__} of {fields}" if fields else f"a {type(output).__name__}"


def class_index(like: int | str, classes: Sequence[str]) -> int:
    """The index of a class given by its name (in any case, where that is clear) or its index."""
    text = str(like).strip()
    names = tuple(classes) if isinstance(like, str) else ()
    for own, asked in ((names, text), (tuple(each.lower() for each in names), text.lower())):
        same = [i for i, each in enumerate(own) if each == asked]
        if len(same) > 1:
            raise BadInput(f"class {text!r} is the name of {', '.join(map(str, same))}; allowed: the index of one of them")
        if same:
            return same[0]
    if not text.isdecimal() or (classes and int(text) >= len(classes)):
        hint = f"or an index from 0 to {len(classes) - 1}" if classes else "an index"
        raise UnknownName("class", like, classes, hint=hint)
    return int(text)


def checked(images: Tensor, targets: Targets | None = None, *, channels: int = 0) -> tuple[Tensor, Targets]:
    """The images without their graph and the targets, fit for autograd, or `BadInput` that says what is wrong with them."""
    fits = isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point() and images.numel() > 0
    if not fits or (channels and images.shape[1] != channels):
        got = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise BadInput(f"images: got {got}, allowed: floating-point (B, {channels or 3}, H, W), at least one")
    if targets is None:
        return images.detach(), Targets(torch.zeros(len(images), dtype=torch.int64))
    if len(targets) != len(images):
        raise BadInput(f"targets: got {len(targets)}, allowed: one for each of {len(images)} images")
    with ordinary_tensors():  # what was made in inference mode cannot be kept for a backward; a copy can
        return images.detach(), Targets(targets.index.clone(), targets.kind)
