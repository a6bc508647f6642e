"""One method at several layers (ML-Att): what comparing methods fairly takes, since some are free to choose theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..model.levels import WORDS
from .base import Method, method
from .wrappers import AtLayer
from .xrai import XRAI


def at_layers(like: str | Method, layers: Sequence[str] = WORDS) -> tuple[Method, ...]:
    """The method at each layer: "input", "middle" and "final" are words that every model understands, others are names of its layers.

    A CAM method looks at the layer itself; XRAI, which divides the picture, is told another method's map of the layer; any other is applied
    to the layer's activations as if they were the image, the input being where it is at home (Rao, Böhle, Schiele, CVPR 2022,
    arXiv:2205.10435). The paper's gradient is that of absolute values: "Gradient(channels='max_abs')".
    """
    made = method(like)
    return tuple(_at(made, layer) for layer in layers)


def _at(made: Method, layer: str) -> Method:
    inner = getattr(made, "method", None)
    if _looks(made):
        return dataclasses.replace(made, layer=layer)  # type: ignore[type-var]  # every method is a dataclass
    if isinstance(inner, Method) and (isinstance(made, XRAI) or _looks(inner) or isinstance(inner, XRAI)):
        return dataclasses.replace(made, method=_at(inner, layer))  # type: ignore[type-var]
    return made if layer == "input" else AtLayer(made, layer=layer)


def _looks(made: Method) -> bool:
    """Whether a method is told itself which layer to look at."""
    return "spatial_layer" in made.needs and "layer" in {field.name for field in dataclasses.fields(made)}  # type: ignore[arg-type]
