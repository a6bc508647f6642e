"""`load_model`: a name, or a name and a file of weights, becomes a `VisionModel`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from ..errors import AttribkitError, BadInput, UnknownName
from ..images import Preprocessing
from .adapter import Precision, Three, VisionModel
from .memory import ordinary_tensors
from .sources import Loaded, from_hf, from_planted, from_timm, from_torchvision
from .weights import is_file_name

DEFAULT = "default"

_SOURCES: dict[str, Callable[[str, str | Path | None], Loaded]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
    "hf": from_hf,
    "planted": from_planted,
}


def load_model(  # noqa: PLR0913 - what may be overridden, all by name
    name: str,
    *,
    weights: str | Path | None = DEFAULT,
    mean: Three | None = None,
    std: Three | None = None,
    size: int | tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
    layer: str | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
) -> VisionModel:
    """A model by name: "torchvision/resnet50", "timm/vit_tiny_patch16_224", "hf/google/vit-base-patch16-224", "planted/shortcut-95".

    `weights` is the name of published weights ("default": those that the source recommends), a file (.safetensors, or a PyTorch file,
    which is read with `weights_only=True` and never otherwise), or None for random ones. How images are prepared comes from the
    weights, the timm configuration or the Hugging Face processor; `mean`, `std`, `size`, `classes` and `layer` override it; `precision` is
    `VisionModel`'s. Raises `UnknownName`, `BrokenWeights`, or `Unavailable` where a package or a download is missing.
    """
    source, _, rest = name.partition("/")
    if source not in _SOURCES or not rest:
        raise UnknownName("model", name, [f"{each}/NAME" for each in _SOURCES])
    # Random weights are the same ones each time, and take nothing from the caller's sequence of random numbers.
    with ordinary_tensors(), torch.random.fork_rng([]):
        torch.manual_seed(0)
        loaded = _SOURCES[source](rest, weights)
        module = _on(loaded.module.eval(), device)
    preprocessing = _prepared(name, loaded.preprocessing, mean=mean, std=std, size=size)
    names = loaded.classes if classes is None else tuple(classes)
    model = VisionModel(module, preprocessing=preprocessing, classes=names, layer=layer, name=name, precision=precision)
    model.weights = _origin(weights, loaded.origin, assumed=source == "torchvision" and None in (mean, std, size))
    return model


def _origin(weights: str | Path | None, published: str, *, assumed: bool) -> str:
    """Where the weights are from, in words."""
    if weights is None:
        return "random, from seed 0"
    if not is_file_name(str(weights)):
        return published
    with Path(weights).open("rb") as file:
        words = f"{Path(weights).name}, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return f"{words}; its preprocessing is assumed to be that of torchvision's own weights" if assumed else words


def _prepared(
    name: str,
    known: Preprocessing | AttribkitError,
    *,
    mean: Three | None,
    std: Three | None,
    size: int | tuple[int, int] | None,
) -> Preprocessing:
    if isinstance(known, Preprocessing):
        return known.replaced(mean=mean, std=std, size=size)
    if mean is None or std is None or size is None:
        raise BadInput(f"{name}: {known}; allowed: mean=, std= and size= to say how it wants its images") from known
    return Preprocessing(mean, std, size)


def _on(module: nn.Module, device: str | torch.device | None) -> nn.Module:
    if device is None:
        return module
    try:
        torch.autocast(torch.device(device).type, enabled=False)  # which knows the devices that can compute, of those that have a name
        return module.to(device)
    except (RuntimeError, AssertionError) as error:  # torch has both for a device that is not there
        raise BadInput(
            f"device: got {str(device)!r}, allowed: a device of this machine, such as 'cpu' ({' '.join(str(error).split())[:120]})"
        ) from error


def model_names() -> dict[str, tuple[str, ...]]:
    """Source -> the names it can load; those of a package that is not installed, and Hugging Face's, which are on its hub, are absent."""
    from . import sources

    return sources.known()
