"""Reading weights from a file without running anything in it, and putting them into a network."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import AttribkitError, BadInput, BrokenWeights

T = TypeVar("T")

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")
_RECIPE = "re-save it where you trust it: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor from a safetensors file, or a PyTorch file read with `weights_only=True`; any failure is a `BrokenWeights`."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise BrokenWeights(path, f"got a {path.suffix or 'file without suffix'}, allowed: {', '.join(SUFFIXES)}")
    if not os.path.isfile(path):  # unlike Path's own, never raises, whatever the name
        raise BrokenWeights(path, "a folder, allowed: a file" if os.path.isdir(path) else "no such file")
    found = _safetensors(path) if path.suffix.lower() == ".safetensors" else _torch(path)
    for _ in _WRAPPERS:
        inner = [found[name] for name in _WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(name), Mapping)]
        found = inner[0] if inner else found
    wrong = _not_weights(found, path.stat().st_size)
    if wrong:
        raise BrokenWeights(path, f"{wrong}; allowed: a state dict of names and tensors; {_RECIPE}")
    return {str(name): tensor.detach() for name, tensor in found.items()}


def _not_weights(found: Any, size: int) -> str:
    """Why what a file of `size` bytes holds is no state dict, or the empty string."""
    if not isinstance(found, Mapping) or not found:
        return f"holds {'an empty' if isinstance(found, Mapping) else 'a'} {type(found).__name__}"
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor):
            return f"{_word(name)} is a {type(tensor).__name__}"
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            return f"{_word(name)} is not a plain tensor"
        if tensor.numel() * tensor.element_size() > size:  # a view that repeats its data, or a header that was made up
            return f"{_word(name)} claims {tuple(tensor.shape)}, more than the whole file"
    return ""


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return attempt(lambda: load_file(str(path)), lambda error: BrokenWeights(path, f"not a readable safetensors file: {error}"))


def _torch(path: Path) -> Any:
    strange = _strange(path)
    if strange:
        raise BrokenWeights(path, f"{strange}; allowed: a file as torch.save writes it; {_RECIPE}")

    def refused(error: Exception) -> BrokenWeights:
        wanted = ", ".join(_unsafe(path))
        reason = f"it would run code when loaded ({wanted})" if wanted else f"cannot be read as weights alone ({type(error).__name__})"
        return BrokenWeights(path, f"{reason}; allowed: a state dict; {_RECIPE}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the file's form; what counts is whether it can be read safely
        return attempt(lambda: torch.load(path, map_location="cpu", weights_only=True), refused)


def attempt(load: Callable[[], T], told: Callable[[Exception], AttribkitError]) -> T:
    """What `load` gives; whatever it raises as the error that `told` makes of it.

    For foreign readers alone: damaged files make them raise a dozen types, bare KeyErrors among them, which are all one answer here.
    """
    try:
        return load()
    except AttribkitError:
        raise
    except Exception as error:
        raise told(error) from error


def _strange(path: Path) -> str:
    """Why a zip file is not to be read at all, or the empty string."""
    try:
        with zipfile.ZipFile(path) as file:
            parts = file.infolist()
    except Exception:  # not a zip file, or a damaged one: for torch to refuse
        return ""
    if any(part.filename.endswith("/constants.pkl") for part in parts):
        return "is TorchScript, a program"
    # torch never compresses; what is compressed may fill the memory
    return "has compressed parts" if any(part.compress_type != zipfile.ZIP_STORED for part in parts) else ""


def _unsafe(path: Path) -> list[str]:
    """What a refused pickle wanted to import, as far as the file can be read without running it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [_word(name) for name in sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))[:4]]
    except Exception:  # the file is too damaged even for that: the caller reports the damage
        return []


def load_weights(build: Callable[[int], nn.Module], state: Mapping[str, Tensor], path: str | Path, classes: int) -> nn.Module:
    """The network that `build(number of classes)` makes, with `state` in it.

    A file whose head has another number of rows than `classes` gets a network of that many classes; anything else missing, unexpected
    or of another shape raises `BrokenWeights` naming it.
    """
    module = build(classes)
    state = _renamed(state, module)
    rows = {len(state[name]) for name, own in module.state_dict().items() if _only_rows_differ(own, state.get(name), classes)}
    if len(rows) == 1:
        other = build(rows.pop())
        module = min(module, other, key=lambda each: len(_misshaped(each.state_dict(), state)))
    own = module.state_dict()
    # A network trained before BatchNorm counted its batches has no counters; they play no part in evaluation.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shared = [name for name in own if name in state]
    misshaped = _misshaped(own, state)
    mistyped = [f"{name} {state[name].dtype} for {own[name].dtype}" for name in shared if not _holds(own[name], state[name])]
    if missing or unexpected or misshaped or mistyped:
        lists = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped, "of another type": mistyped}
        raise BrokenWeights(
            path, f"weights are not of this network: {'; '.join(_listed(what, names) for what, names in lists.items() if names)}"
        )
    # Some networks take weights of no stated version for old ones: these have the names and shapes of the present one.
    present = OrderedDict(state)
    present._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
    try:
        module.load_state_dict(present, strict=False)
    except (RuntimeError, ValueError) as error:
        raise BrokenWeights(path, str(error)) from error
    return module


def _misshaped(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    shapes = {name: (tuple(state[name].shape), tuple(tensor.shape)) for name, tensor in own.items() if name in state}
    return [f"{name} {got} for {allowed}" for name, (got, allowed) in shapes.items() if got != allowed]


def _only_rows_differ(own: Tensor, tensor: Tensor | None, classes: int) -> bool:
    """Whether `own` has a row for each class and `tensor` differs from it in the number of rows alone."""
    if tensor is None or own.shape[:1] != (classes,) or tensor.shape[1:] != own.shape[1:]:
        return False
    return tensor.ndim == own.ndim and len(tensor) not in (0, classes)


def _holds(own: Tensor, tensor: Tensor) -> bool:
    """Whether a parameter can take `tensor` as it is: whole numbers are no weights, but codes of some."""
    return tensor.is_floating_point() or not own.is_floating_point()


def _renamed(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """`state` without the prefixes that all its names share and the network's names lack, such as "module." or "model."."""
    own, state = set(module.state_dict()), dict(state)
    while not own & set(state):
        prefix = next(iter(state)).partition(".")[0] + "."
        if not all(name.startswith(prefix) and name != prefix for name in state):
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _listed(what: str, names: list[str]) -> str:
    return f"{len(names)} {what} ({', '.join(map(_word, names[:3]))}{', ...' if len(names) > 3 else ''})"


def _word(name: object) -> str:
    """A name out of a file, fit for one line of a terminal."""
    text = "".join(character if character.isprintable() else "?" for character in str(name))
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_file_name(weights: str | Path) -> bool:
    """Whether `weights` is meant as a file rather than as the name of published weights."""
    text = str(weights)
    if isinstance(weights, Path) or text.lower().endswith(SUFFIXES) or "/" in text or "\\" in text:
        return True
    if text != "default" and os.path.exists(text):  # unlike Path's own, never raises
        raise BadInput(f"weights: got {text!r}, allowed: a file ending in {', '.join(SUFFIXES)}")
    return False
