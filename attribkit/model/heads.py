"""What every head for one cell of a grid of images is, and the rest of one from a layer on."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from ..errors import BadInput, Unsupported
from . import levels
from .adapter import VisionModel
from .mosaic import cell_of
from .rest import FromLayer, Rest, rest_of
from .tokens import Layout

Size = tuple[int, int]
# What a head makes of (its way to answer, activations, the network): the cell's logits.
Ask = Callable[[Tensor], Tensor]
Heard = Callable[[Ask, Tensor, nn.Module], Tensor]


class Head(VisionModel, ABC):
    """A model whose images are n x n grids (B, 3, nH, nW) of another model's, and whose answer is that to one cell, row by row from 0."""

    def __init__(self, model: VisionModel, n: int, cell: int, setting: str, *, rows: int = 1) -> None:
        """The head of `model` for a cell, in a setting with a name, where a grid takes as much memory as so many `rows`."""
        height, width = model.size
        super().__init__(
            model.module,
            preprocessing=model.preprocessing.replaced(size=(n * height, n * width)),
            classes=model.classes or None,
            max_rows=None if model._max_rows is None else max(1, model._max_rows // rows),
            precision=model.precision,
            name=f"{model.name}, cell {cell} of {n}x{n} ({setting})",
        )
        self.model, self.n, self.cell = model, n, cell
        self.weights = model.weights
        self._rows = rows

    @property
    def max_rows(self) -> int:
        """How many grids run at once."""
        return self._max_rows or max(1, super().max_rows // self._rows)

    @property
    def layer(self) -> str:
        """That of the model it is a head of."""
        return self.model.layer

    def own(self, images: Tensor) -> Tensor:
        """The cell's part of images or masks of grids."""
        self._cell_size(images.shape)
        return cell_of(images, self.n, self.cell)

    @functools.cached_property
    def cut(self) -> str:
        """That of the model it is a head of."""
        return self.model.cut

    @functools.cached_property
    def middle(self) -> str:
        """That of the model it is a head of."""
        return self.model.middle

    @property
    def layers(self) -> dict[str, tuple[int, int, int]]:
        """The spatial layers by name, in the order they run, with the (channels, height, width) of the whole grid."""
        return {name: (channels, self.n * high, self.n * wide) for name, (channels, high, wide) in self.model.layers.items()}

    def at(self, layer: str, size: Size | None = None) -> Rest:
        """As of any model; its images are the activations of whole grids of `size` (H, W)."""
        return rest_of(self, levels.place(self, layer), size or self.size, self._rests, lambda _, name, at: self._rest(name, at))

    def lend(self, layers: tuple[str, ...]) -> None:
        """Refuse to show these layers to another library, which would see something else there than the whole grid's."""
        if layers:
            raise Unsupported(
                f"{self.name}: another library would see layer {layers[0]!r} of single cells; allowed: methods of attribkit, and those "
                "of the library that look at no layer"
            )

    @abstractmethod
    def _rest(self, layer: str, size: Size) -> Rest:
        """The rest from a layer on for grids of `size`, inside `studied`."""

    def _cell_size(self, size: tuple[int, ...]) -> Size:
        """The size of a cell of grids whose last two sides are these."""
        height, width = size[-2:]
        if height % self.n or width % self.n:
            raise BadInput(f"{self.name}: got images of {height} x {width}, allowed: sides that {self.n} divides")
        return height // self.n, width // self.n

    def _inner(self, layer: str, size: Size) -> Rest:
        """The rest of the model itself, for cells of grids of `size`."""
        return self.model.at(layer, self._cell_size(size))

    def _cell_layout(self, layer: str, found: Tensor, images: Tensor) -> Layout:
        """How what a layer returns for cells lies over them, given the grids."""
        height, width = self._cell_size(images.shape)
        return super()._layout(layer, found, images[:, :, :height, :width])


class HeadRest(Rest):
    """The rest of a head: `heard` leads activations of whole grids through the rest of the model for single cells, or around it."""

    def __init__(  # noqa: PLR0913 - as of a rest, and two more, all by name
        self, head: Head, first: FromLayer, *, layer: str, channels: int, heard: Heard, grid: Layout | None = None
    ) -> None:
        super().__init__(head, first, layer=layer, channels=channels, grid=grid)
        self.heard = heard

    def answer(self, images: Tensor) -> Tensor:
        """The cell's logits of activations that fit into memory at once."""
        network: nn.Module = self.module.module  # type: ignore[assignment]  # what `FromLayer` runs
        return self.heard(super().answer, images, network)
