"""The words for a layer that every model understands, so that all methods can be compared at the same one (ML-Att, arXiv:2205.10435)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from ..errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .adapter import VisionModel

# The image itself, a layer in the middle, and the last one before the model reads its answer off; a submodule of that name comes first.
WORDS: Final = ("input", "middle", "final")


def is_word(model: VisionModel, layer: str | None) -> bool:
    """Whether `layer` is one of `WORDS` and not the name of a submodule."""
    return layer in WORDS and layer not in model.module._modules


def is_input(model: VisionModel, layer: str | None) -> bool:
    """Whether `layer` is the word for the image itself."""
    return layer == "input" and is_word(model, layer)


def place(model: VisionModel, layer: str | None, *, cut: bool = False) -> str:
    """The name of the layer that a word means ("input" stays), or the name itself; None is `model.layer`, or with `cut` `model.cut`."""
    if layer is None:
        return model.cut if cut else model.layer
    if not is_word(model, layer) or layer == "input":
        return layer
    return model.middle if layer == "middle" else model.cut


def described(model: VisionModel, layer: str | None, *, cut: bool = False) -> str:
    """As `place`, with the word where one was said: "middle = layer2"."""
    name = place(model, layer, cut=cut)
    return name if layer is None or layer == name else f"{layer} = {name}"


def middle(model: VisionModel) -> str:
    """The last layer that nothing bypasses whose grid is at stride 8, or finer, and finer than that of `model.cut`.

    Where there is none, as in a transformer, whose layers share one grid: of the layers that nothing bypasses the one nearest, in the
    order they return, to half of the way from the first layer to `model.cut`.
    """
    for name in _in_the_middle(model):
        with contextlib.suppress(Unsupported):
            model.at(name)
            return name
    return model.cut


def _in_the_middle(model: VisionModel) -> Iterator[str]:
    """The layers before `model.cut`, the one that is wanted most first."""
    cut, layers = model.cut, model.layers
    before = list(layers)[: list(layers).index(cut)] if cut in layers else []
    places = {name: layers[name][1] * layers[name][2] for name in before}
    # Convolutions without padding lose a few places at the border: a stride is 8 as long as that is the nearest power of two.
    most = model.size[0] * model.size[1] / 2**7
    yield from (name for name in reversed(before) if places[name] >= most and places[name] > layers[cut][1] * layers[cut][2])
    yield from sorted(before, key=lambda name: abs(before.index(name) - len(before) / 2))
