"""The rest of a model from a layer on, as a model of its own whose images are activations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import BadInput, Unsupported
from .adapter import VisionModel
from .taps import replaced

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
        self.seen: Tensor | None = None

    def forward(self, activations: Tensor) -> object:
        """What `module` returns from these activations on."""
        rows = 1 if self.alone else len(activations)
        blank = activations.new_zeros(rows, *self.image)
        if self.seen is not None:
            blank += self.seen
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

    def around(self, module: nn.Module) -> FromLayer:
        """The same of another module, which has the same layers."""
        layer = self.layer if self.call is None else f"{self.layer}:{self.call}"
        return FromLayer(module, layer, grid=self.grid, image=self.image, alone=self.alone)

    @contextlib.contextmanager
    def beside(self, image: Tensor) -> Iterator[None]:
        """While it lasts this image (C, H, W) is in the place of the blank ones, which must make no difference."""
        self.seen = image
        try:
            yield
        finally:
            self.seen = None


class Rest(VisionModel):
    """The rest of a model from a layer on: a `VisionModel` whose images are that layer's activations.

    They lie in a grid; a class token and others that stand before the patches come in rows below it, since the rest needs them.
    """

    pictures = False

    def __init__(self, model: VisionModel, first: FromLayer, *, layer: str, channels: int, grid: Layout | None = None) -> None:
        """The rest of `model`, as `first` runs it; mean and standard deviation, which activations do not have, are 0 and 1.

        `grid` is how its images lie, where not as those that `first` takes.
        """
        grid = grid or first.grid
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
        self.first = first
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


def rest_of(
    model: VisionModel,
    layer: str,
    size: tuple[int, int],
    known: dict[tuple[str, tuple[int, int]], Rest],
    make: Callable[[VisionModel, str, tuple[int, int]], Rest] | None = None,
) -> Rest:
    """The rest of `model` from `layer` on for images of `size`, as `make` (`proven` by default) makes it; kept in `known`."""
    size = (int(size[0]), int(size[1]))
    if (layer, size) not in known:
        with model.studied():
            known[layer, size] = (make or proven)(model, layer, size)
    return known[layer, size].bounded(model.max_rows)


def proven(model: VisionModel, layer: str, size: tuple[int, int], kind: Callable[..., Rest] = Rest) -> Rest:
    """The rest of `model`, which gives two images' answers from their activations alone, inside `studied`; else `Unsupported`."""
    *_, other = images = some_images(model, 3, size)
    grid = grid_of(model, layer, images[:2])
    activations, answers = model.activations(images[:2], layer, whole=True), model.logits(images[:2])
    rounding = rounding_of(model)
    for alone in (True, False) if model.max_rows > 1 else (False,):
        first = FromLayer(model.module, layer, grid=grid, image=(model.channels, *size), alone=alone)
        rest = kind(model, first, layer=layer, channels=activations.shape[1])
        try:
            found = rest.logits(activations)
            with first.beside(other):
                past = rest.logits(activations)
        except _MISFITS:
            if not alone:
                raise
            continue
        # From the same activations the same operations give the same bits, in any precision, unless they see more than those.
        if near(past, found, 1e-6) and near(found, answers, rounding):
            return rest
    raise Unsupported(
        f"{model.name}: the answer depends on more than layer {layer!r}, as where a layer is inside a residual branch; "
        "allowed: a layer that nothing bypasses, such as the output of a whole block"
    )


def some_images(model: VisionModel, count: int, size: tuple[int, int]) -> Tensor:
    """Random images, always the same, that something is tried on."""
    return torch.randn(count, model.channels, *size, generator=torch.Generator().manual_seed(0)).to(model.device)


def rounding_of(model: VisionModel) -> float:
    """The share of the largest logit by which two ways to the same answer may differ."""
    lowest = torch.bfloat16 if model.precision == "bfloat16" else model._dtype(torch.empty(0))
    return max(1e-4, 8 * torch.finfo(lowest).eps)


def grid_of(model: VisionModel, layer: str, images: Tensor) -> Layout:
    """How the layer's output lies over the images, inside `studied`."""
    model._find(layer)  # which refuses what is no layer
    grids: list[Layout] = []

    def work(rows: slice) -> tuple[Tensor]:
        found, logits = model._tapped(images[rows], layer)
        grids.append(model._layout(layer, found, images[rows]))
        return (logits,)

    model.in_rows(work, len(images))
    return grids[0]


def near(found: Tensor, answers: Tensor, share: float) -> bool:
    """Whether no logit is off by more than a share of the largest."""
    return found.shape == answers.shape and bool((found - answers).abs().amax() <= share * answers.abs().amax())


def _backwards(model: VisionModel) -> Iterator[str]:
    """`model.layer`, and the spatial layers that return before it, the last of them first."""
    yield model.layer
    names = list(model.layers)
    yield from reversed(names[: names.index(model.layer)] if model.layer in names else names)


def last_cut(model: VisionModel) -> str:
    """The name of `model.layer`, or of the last spatial layer before it that nothing bypasses; else `Unsupported`."""
    for name in _backwards(model):
        with contextlib.suppress(Unsupported):
            model.at(name)
            return name
    raise Unsupported(f"{model.name} has no spatial layer that nothing bypasses: the answer depends on more than any one of them")
