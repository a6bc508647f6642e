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

    A CAM method looks at the layer itself; one that divides the picture by another method's map, as XRAI does, is told that of the layer;
    any other is applied to the layer's activations as if they were the image, the input being where it is at home (Rao, Böhle, Schiele, CVPR 2022, arXiv:2205.10435). The paper's gradient is that of absolute values:
    "Gradient(channels='max_abs')".
    """
    made = method(like)
    looks = {field.name for field in dataclasses.fields(made)} >= {"layer"}  # type: ignore[arg-type]  # every method is a dataclass
    if "spatial_layer" in made.needs and looks:
        return tuple(dataclasses.replace(made, layer=layer) for layer in layers)  # type: ignore[type-var]
    return tuple(made if layer == "input" else _at(made, layer) for layer in layers)


def _at(made: Method, layer: str) -> Method:
    if isinstance(made, XRAI):
        return dataclasses.replace(made, method=AtLayer(made.method, layer=layer))
    return AtLayer(made, layer=layer)
