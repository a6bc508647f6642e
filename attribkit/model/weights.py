"""Reading weights from a file without running anything in it, and putting them into a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput, BrokenWeights

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")
_RECIPE = "re-save it where you trust it: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor from a safetensors file, or a PyTorch file read with `weights_only=True`; any failure is a `BrokenWeights`."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise BrokenWeights(path, f"got a {path.suffix or 'file without suffix'}, allowed: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise BrokenWeights(path, "no such file")
    found = _safetensors(path) if path.suffix.lower() == ".safetensors" else _torch(path)
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not found or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise BrokenWeights(path, f"holds a {type(found).__name__}, allowed: a state dict of names and tensors; {_RECIPE}")
    return {str(name): tensor for name, tensor in found.items()}


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except Exception as error:  # a damaged file raises one type, an unreadable one others: all are one answer here
        raise BrokenWeights(path, f"not a readable safetensors file: {error}") from error


def _torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of the file's form; what counts is whether it can be read safely
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise a dozen types here, bare KeyErrors among them; all are one answer
        wanted = _unsafe(path)
        reason = (
            f"it would run code when loaded ({', '.join(wanted)})"
            if wanted
            else f"cannot be read as weights alone ({type(error).__name__})"
        )
        raise BrokenWeights(path, f"{reason}; allowed: a state dict; {_RECIPE}") from error


def _unsafe(path: Path) -> list[str]:
    """What a refused pickle wanted to import, as far as the file can be read without running it."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))[:4]
    except Exception:  # the file is too damaged even for that: the caller reports the damage
        return []


def load_weights(build: Callable[[int], nn.Module], state: Mapping[str, Tensor], path: str | Path, classes: int) -> nn.Module:
    """The network that `build(number of classes)` makes, with `state` in it.

    A file whose head has another number of rows than `classes` gets a network of that many classes; anything else missing, unexpected
    or of another shape raises `BrokenWeights` naming it.
    """
    module = build(classes)
    state = _renamed(state, module)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    rows = {state[name].shape[0] for name, shape in shapes.items() if _only_rows_differ(shape, state.get(name), classes)}
    if len(rows) == 1:
        module = build(rows.pop())
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    # A network trained before BatchNorm counted its batches has no counters; they play no part in evaluation.
    missing = [name for name in shapes if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in shapes]
    misshaped = [
        f"{name} {tuple(state[name].shape)} for {shape}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if missing or unexpected or misshaped:
        parts = [_listed("missing", missing), _listed("unexpected", unexpected), _listed("of another shape", misshaped)]
        raise BrokenWeights(path, f"weights are not of this network: {'; '.join(part for part in parts if part)}")
    try:
        module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise BrokenWeights(path, str(error)) from error
    return module


def _only_rows_differ(shape: tuple[int, ...], tensor: Tensor | None, classes: int) -> bool:
    return (
        tensor is not None
        and shape[:1] == (classes,)
        and tensor.ndim == len(shape)
        and tuple(tensor.shape[1:]) == shape[1:]
        and len(tensor) != classes
    )


def _renamed(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """`state` without a prefix that all its names share and the network's names lack, such as "module." or "model."."""
    own = set(module.state_dict())
    first = next(iter(state))
    prefix = first.partition(".")[0] + "."
    if not own & set(state) and all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)


def _listed(what: str, names: list[str]) -> str:
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def is_file_name(weights: str) -> bool:
    """Whether `weights` is meant as a file rather than as the name of published weights."""
    if weights.lower().endswith(SUFFIXES) or "/" in weights or "\\" in weights:
        return True
    if Path(weights).exists():
        raise BadInput(f"weights: got {weights!r}, allowed: a file ending in {', '.join(SUFFIXES)}")
    return False
