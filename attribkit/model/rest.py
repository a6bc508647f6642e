"""The rest of a model from a layer on, as a model of its own whose images are activations."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import BadInput, Unsupported
from .adapter import VisionModel
from .taps import replaced, tapped

if TYPE_CHECKING:
    from .tokens import Layout

# What a forward raises when it meets activations of another number of rows than its images, or an answer of another number.
_MISFITS = (RuntimeError, AssertionError, TypeError, IndexError, ValueError, Unsupported)


class FromLayer(nn.Module):
    """`module`'s forward with given activations (B, C, rows, w) in the place of what its layer returns: the layer's whole grid.

    What comes before the layer runs on blank images of the shape `image` (C, H, W), for nothing; `alone` if one of them will do for all.
    """

    def __init__(self, module: nn.Module, layer: str, *, grid: Layout, image: tuple[int, int, int], alone: bool) -> None:
        super().__init__()
        self.module = module
        self.layer, _, call = layer.partition(":")
        self.call = int(call) if call else None
        self.grid, self.image, self.alone = grid, image, alone

    def forward(self, activations: Tensor) -> object:
        """What `module` returns from these activations on."""
        rows = 1 if self.alone else len(activations)
        blank = activations.new_zeros(rows, *self.image)
        output = self.grid.from_grid(activations)

        def instead(own: Tensor) -> Tensor:
            if own.shape[1:] != output.shape[1:]:
                wanted = tuple(self.grid.to_grid(own, whole=True).shape[1:])
                raise BadInput(
                    f"activations at {self.layer!r}: got {tuple(activations.shape)}, allowed: (B, {', '.join(map(str, wanted))})"
                )
            return output.to(own.dtype)  # as autocast would have it there

        with replaced(self.layer, self.module.get_submodule(self.layer), instead, call=self.call):
            return self.module(blank)


class Rest(VisionModel):
    """The rest of a model from a layer on: a `VisionModel` whose images are that layer's activations.

    They lie in a grid; a class token and others that stand before the patches come in rows below it, since the rest needs them.
    """

    def __init__(self, model: VisionModel, first: FromLayer, *, layer: str, channels: int) -> None:
        """The rest of `model`, as `first` runs it; mean and standard deviation, which activations do not have, are 0 and 1."""
        grid = first.grid
        super().__init__(
            first,
            mean=0,
            std=1,
            size=(grid.rows, grid.width),
            classes=model.classes or None,
            max_rows=model.max_rows,
            precision=model.precision,
            name=f"{model.name} from {layer} on",
        )
        self.weights = model.weights
        self.channels = channels
        self.grid = grid

    def bounded(self, rows: int) -> Rest:
        """Itself, from now on with at most `rows` rows at once."""
        self._max_rows = min(self.max_rows, rows)
        return self

    def over_image(self, maps: Tensor) -> Tensor:
        """Maps of activations (B, rows, w) without the rows below the grid: (B, h, w)."""
        if self.grid.rows == self.grid.height:
            return maps
        if tuple(maps.shape[1:]) != (self.grid.rows, self.grid.width):
            raise Unsupported(
                f"{self.name}: got maps of {maps.shape[1]} x {maps.shape[2]}, allowed: {self.grid.rows} x {self.grid.width}, "
                "of which the last rows are no part of the image"
            )
        return maps[:, : self.grid.height]


def rest_of(model: VisionModel, layer: str, size: tuple[int, int], known: dict[tuple[str, tuple[int, int]], Rest]) -> Rest:
    """The rest of `model` from `layer` on for images of `size`, once it is shown that nothing bypasses the layer; kept in `known`."""
    size = (int(size[0]), int(size[1]))
    if (layer, size) not in known:
        with model.studied():
            known[layer, size] = _proven(model, layer, size)
    return known[layer, size].bounded(model.max_rows)


def _proven(model: VisionModel, layer: str, size: tuple[int, int]) -> Rest:
    """The rest of `model`, which gives two images' answers from their activations alone; else `Unsupported`."""
    exact = copy.copy(model)
    exact.precision = "float32"  # in bfloat16 a bypass of little influence would pass for rounding
    images = torch.randn(3, model.channels, *size, generator=torch.Generator().manual_seed(0)).to(model.device)
    images[2] = 0  # as the blank image, whose answer is what a bypass would draw towards
    grid = _grid(exact, layer, images[:1])
    activations = exact.activations(images[:2], layer, whole=True)
    answers = exact.logits(images)
    for alone in (True, False) if exact.max_rows > 1 else (False,):
        first = FromLayer(model.module, layer, grid=grid, image=(model.channels, *size), alone=alone)
        try:
            found = Rest(exact, first, layer=layer, channels=activations.shape[1]).logits(activations)
        except _MISFITS:
            if not alone:
                raise
            continue
        if _is_same(found, answers, torch.finfo(model._dtype(images)).eps):
            return Rest(model, first, layer=layer, channels=activations.shape[1])
    raise Unsupported(
        f"{model.name}: the answer depends on more than layer {layer!r}, as where a layer is inside a residual branch; "
        "allowed: a layer that nothing bypasses, such as the output of a whole block"
    )


def _grid(model: VisionModel, layer: str, images: Tensor) -> Layout:
    """How the layer's output lies over the images."""
    name, module, call = model._find(layer)
    with tapped(name, module, call=call) as tap:
        model.answer(images)
        return model._layout(name, tap.tensor(), images)


def _is_same(found: Tensor, answers: Tensor, eps: float) -> bool:
    """Whether the first of `answers`, with the last for scale, are `found` again but for rounding."""
    if found.shape != answers[:-1].shape:
        return False
    influence = (answers[:-1] - answers[-1]).abs().amax()  # of all that the images are, by the layer or past it
    return bool((found - answers[:-1]).abs().amax() <= 1e-3 * influence + 8 * eps * answers.abs().amax())


def last_cut(model: VisionModel) -> str:
    """The name of `model.layer`, or of the last spatial layer before it that nothing bypasses; else `Unsupported`."""
    names = list(model.layers)
    before = names[: names.index(model.layer)] if model.layer in names else names
    for name in (model.layer, *reversed(before)):
        with contextlib.suppress(Unsupported):
            model.at(name)
            return name
    raise Unsupported(f"{model.name} has no spatial layer that nothing bypasses: the answer depends on more than any one of them")
