"""DiPart: heads for one cell of a grid, whose cells see one another in the first part of the network."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator

from torch import Tensor, nn

from ..errors import Unsupported
from . import families, levels
from .adapter import VisionModel
from .heads import Ask, Head, HeadRest, Size
from .mosaic import Mosaic, cells_of, window
from .rest import Rest, grid_of, proven, some_images
from .taps import Tap, joined, recorded, replaced, tapped
from .tokens import Layout, layout


class PartOfGrid(Head):
    """DiPart of a network whose last features are a grid: the trunk sees all cells, and what comes after `cut` the cell's part."""

    def __init__(self, model: VisionModel, n: int, cell: int) -> None:
        super().__init__(model, n, cell, "DiPart", rows=n**2)

    @property
    def layers(self) -> dict[str, tuple[int, int, int]]:
        """As of any head, up to the last one that sees all cells."""
        found = {seen.name: seen.grid for seen in families.survey(self)}
        names = list(found)
        return {name: found[name] for name in names[: names.index(self.cut) + 1 if self.cut in found else len(names)]}

    def answer(self, images: Tensor) -> Tensor:
        """The logits of the cell's part of each grid's features."""
        with self._cropping(self.module, self._cell_size(images.shape)):
            return super().answer(images)

    def lend(self, layers: tuple[str, ...]) -> None:
        """Show what all cells have a part in, as it is."""
        for layer in layers:
            if layer not in self.layers and layer in self.model.layers:
                raise self._behind(layer)

    def _tapped(self, images: Tensor, layer: str, *, grad: bool = False) -> tuple[Tensor, Tensor]:
        if levels.is_input(self, layer):
            return super()._tapped(images, layer, grad=grad)
        name, module, call = self._find(layer)
        with (
            tapped(name, module, call=call, grad=grad) as tap,
            self._cropping(self.module, self._cell_size(images.shape), tap),
        ):
            answer = super().answer(images)
            return tap.tensor(), answer

    @contextlib.contextmanager
    def _cropping(self, network: nn.Module, size: Size, tap: Tap | None = None) -> Iterator[None]:
        """While it lasts what `network` returns at the cut, for cells of `size`, is the cell's part; of a `tap` the whole."""
        name, _, call = self.cut.partition(":")
        grid = self.model.at(self.cut, size).grid

        def part(whole: Tensor) -> Tensor:
            if tap is not None and tap.leaf is None:
                raise self._behind(tap.layer)
            return self._part(whole, grid)

        with replaced(name, network.get_submodule(name), part, call=int(call) if call else None):
            yield

    def _part(self, whole: Tensor, cell: Layout) -> Tensor:
        """The cell's part of a grid's features, given how a cell's own would lie; of one cell alone all there is."""
        down, across = (1, 2) if cell.kind == "channels_last" else (2, 3)
        top = window(whole.shape[down], cell.height, self.n, self.cell // self.n)
        left = window(whole.shape[across], cell.width, self.n, self.cell % self.n)
        if top is None or left is None:
            raise Unsupported(
                f"{self.name}: layer {self.cut!r} returns {whole.shape[down]} x {whole.shape[across]} for a grid and {cell.height} x "
                f"{cell.width} for a cell, which are not {self.n} x {self.n} of them; allowed: a size that the network's stride divides, "
                "or part=0"
            )
        return whole if self.n == 1 else whole.narrow(down, top, cell.height).narrow(across, left, cell.width).clone()

    def _rest(self, layer: str, size: Size) -> Rest:
        inner, cell = self._inner(self.cut, size), self._cell_size(size)
        if layer != self.cut:

            def among(ask: Ask, activations: Tensor, network: nn.Module) -> Tensor:
                with self._cropping(network, cell):
                    return ask(activations)

            return proven(self, layer, size, functools.partial(HeadRest, heard=among))

        def heard(ask: Ask, activations: Tensor, _network: nn.Module) -> Tensor:
            return ask(self._part(activations, dataclasses.replace(inner.grid, kind="channels_first")))

        grid = grid_of(self, layer, some_images(self, 1, size))
        return HeadRest(self, inner.first.around(self.module), layer=layer, channels=inner.channels, heard=heard, grid=grid)

    def _behind(self, layer: str) -> Unsupported:
        return Unsupported(f"{self.name}: layer {layer!r} comes after {self.cut!r}, where the cells part; allowed: one up to there")


class LastBlocks(Head):
    """DiPart(k) of a transformer: the cells, each with its own first tokens, attend to one another in all blocks but the last k."""

    def __init__(self, model: VisionModel, n: int, cell: int, shared: tuple[str, ...], part: int) -> None:
        """The head with the names of the blocks that are `shared` by all cells, and how many are not."""
        super().__init__(model, n, cell, f"DiPart({part})", rows=n**2)
        self.shared = shared

    def answer(self, images: Tensor) -> Tensor:
        """The logits of the cell of each grid, all of which run."""
        self._cell_size(images.shape)
        return self._among(super().answer, cells_of(images, self.n), self.module)

    def _among(self, ask: Ask, cells: Tensor, network: nn.Module) -> Tensor:
        """The answer to the cell among all."""
        count = self.n**2
        with joined([network.get_submodule(name) for name in self.shared], count):
            return ask(cells)[self.cell :: count]

    def _layout(self, layer: str, found: Tensor, images: Tensor) -> Layout:
        if levels.is_input(self, layer):
            return super()._layout(layer, found, images)
        if found.ndim == 3 and len(found) == len(images):  # inside a shared block
            found = found.reshape(len(images) * self.n**2, -1, found.shape[2])
        return Mosaic.of(self._cell_layout(layer, found, images), self.n)

    def _rest(self, layer: str, size: Size) -> Rest:
        inner = self._inner(layer, size)
        grid = Mosaic.of(inner.grid, self.n)

        def heard(ask: Ask, activations: Tensor, network: nn.Module) -> Tensor:
            return self._among(ask, grid.cells(activations), network)

        return HeadRest(self, inner.first.around(self.module), layer=layer, channels=inner.channels, heard=heard, grid=grid)


def blocks_of(model: VisionModel) -> tuple[str, ...]:
    """The names of a transformer's blocks: modules of one type, side by side, that each return all tokens once; or none.

    Of several such rows of modules, as the projections inside each block may be, it is the one that holds most of the weights.
    """
    size = families.patch(model.module)

    def look(images: Tensor) -> dict[str, tuple[int, ...]]:
        with recorded(model.module) as seen:
            model.answer(images)
            often = Counter(name for name, _ in seen)
            return {name: tuple(tensor.shape) for name, tensor in seen if often[name] == 1 and len(tensor) == len(images)}

    shapes = model.probed(look)
    found: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    for path, module in model.module.named_modules():
        names = tuple(f"{path}.{name}".lstrip(".") for name, _ in module.named_children())
        alike = {(type(child), shapes.get(name, ())) for name, child in zip(names, module.children(), strict=True)}
        _, shape = next(iter(alike), (module, ()))
        if len(names) > 1 and len(alike) == 1 and len(shape) == 3 and layout(shape, model.size, size) is not None:
            found.append((sum(weight.numel() for weight in module.parameters()), names))
    return max(found, key=lambda each: each[0])[1]
