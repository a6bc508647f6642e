"""Heads that answer for one cell of a grid of images: DiFull and DiPart (arXiv:2205.10435)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..batch import Targets
from ..errors import BadInput, Unsupported
from . import levels
from .adapter import VisionModel
from .answer import checked
from .heads import Ask, Head, HeadRest, Size
from .lent import Rows
from .memory import full_precision
from .mosaic import Mosaic, cell_of, cells_of, stitched
from .parts import LastBlocks, PartOfGrid, blocks_of
from .rest import Rest, grid_of, near, rounding_of, some_images
from .taps import tapped
from .tokens import Layout


class OneCell(Head):
    """DiFull: the answer to the cell alone. A layer's activations are those of all cells, each run by itself, side by side."""

    def answer(self, images: Tensor) -> Tensor:
        """The logits of the cell of each grid."""
        return self._answered(images, self.cell)

    def activations(self, images: Tensor, layer: str | None = None, *, whole: bool = False) -> Tensor:
        """As of any model; tokens that stand before each cell's patches come below all of them."""
        name = levels.place(self, layer)
        if levels.is_input(self, name):
            return super().activations(images, name, whole=whole)
        images, _ = checked(images)

        def work(rows: slice) -> tuple[Tensor]:
            found = [self._seen(images[rows], name, cell)[0] for cell in range(self.n**2)]
            grid = Mosaic.of(self._cell_layout(name, found[0], images[rows]), self.n)
            return (full_precision(grid.to_grid(torch.stack(found, 1).flatten(0, 1), whole=whole)),)

        return self.in_rows(work, len(images))[0]

    def _at_layer(
        self, images: Tensor, targets: Targets, layer: str | None, combine: Callable[[Tensor, Tensor], Rows], *, local: bool = False
    ) -> Rows:
        name = levels.place(self, layer)
        if levels.is_input(self, name):
            return super()._at_layer(images, targets, name, combine, local=local)
        images, targets = checked(images, targets)

        def work(rows: slice) -> Rows:
            leaf, answer = self._seen(images[rows], name, self.cell, grad=True)
            gradient = self._derivative(targets[rows].of(full_precision(answer)), leaf, f"layer {name!r} of {self.name}")
            own, nothing = leaf.detach(), torch.zeros_like(gradient)
            grid = Mosaic.of(self._cell_layout(name, own, images[rows]), self.n)
            others = range(self.n**2)
            found = [own if cell == self.cell else nothing if local else self._without_graph(images[rows], name, cell) for cell in others]
            slopes = [gradient if cell == self.cell else nothing for cell in others]
            return combine(*(full_precision(grid.to_grid(torch.stack(each, 1).flatten(0, 1))) for each in (found, slopes)))

        return self.in_rows(work, len(images), grad=True)

    def _rest(self, layer: str, size: Size) -> Rest:
        inner = self._inner(layer, size)
        grid = Mosaic.of(inner.grid, self.n)

        def heard(ask: Ask, activations: Tensor, _network: nn.Module) -> Tensor:
            return ask(grid.one(activations, self.cell))

        return HeadRest(self, inner.first.around(self.module), layer=layer, channels=inner.channels, heard=heard, grid=grid)

    def _answered(self, images: Tensor, cell: int) -> Tensor:
        self._cell_size(images.shape)
        return super().answer(cell_of(images, self.n, cell))

    def _tapped(self, images: Tensor, layer: str, *, grad: bool = False) -> tuple[Tensor, Tensor]:
        if levels.is_input(self, layer):
            return super()._tapped(images, layer, grad=grad)
        return self._seen(images, layer, self.cell, grad=grad)

    def _seen(self, images: Tensor, layer: str, cell: int, *, grad: bool = False) -> tuple[Tensor, Tensor]:
        """What a layer returns for a cell, and the answer to it."""
        name, module, call = self._find(layer)
        with tapped(name, module, call=call, grad=grad) as tap:
            answer = self._answered(images, cell)
            return tap.tensor(), answer

    def _without_graph(self, images: Tensor, layer: str, cell: int) -> Tensor:
        return self.in_rows(lambda rows: (self._seen(images[rows], layer, cell)[0],), len(images))[0]

    def _layout(self, layer: str, found: Tensor, images: Tensor) -> Layout:
        return super()._layout(layer, found, images) if levels.is_input(self, layer) else self._cell_layout(layer, found, images)


def head_of(model: VisionModel, n: int, cell: int, part: int = 0) -> VisionModel:
    """A model of n x n grids (B, 3, nH, nW) of the model's images, whose answer is that to one cell, row by row from 0.

    With `part` 0 the model sees the cell alone (DiFull). With more the cells see one another until late (DiPart): of a network whose last
    features are a grid 1, and the cell's part of what `model.cut` returns goes through the rest; of a transformer as many of its last
    blocks as there are, in which each cell is alone. `module` stays the model's own. `Unsupported` where a network has no such part.
    """
    if type(model) is not VisionModel:
        raise BadInput(f"head_of: got a {type(model).__name__}, allowed: a VisionModel of images")
    for name, value, allowed in (("n", n, range(1, 1000)), ("cell", cell, range(n * n)), ("part", part, range(1000))):
        if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
            raise BadInput(f"head_of({name}=...): got {value!r}, allowed: a whole number from {allowed.start} to {allowed.stop - 1}")
    if not part:
        return OneCell(model, n, cell, "DiFull")
    with model.studied():
        lies = grid_of(model, model.layer, some_images(model, 1, model.size)).kind
        return _among_tokens(model, n, cell, part) if lies == "tokens" else _part_of_grid(model, n, cell, part)


def _part_of_grid(model: VisionModel, n: int, cell: int, part: int) -> VisionModel:
    if part > 1:
        raise BadInput(f"head_of(part=...): got {part}, allowed: 1, since the last features of {model.name} are a grid, or 0")
    head = PartOfGrid(model, n, cell)
    images = some_images(model, 1, head.size)
    with _refusing(head, f"it takes no images of {head.size[0]} x {head.size[1]}"):
        answer = head.logits(images)
    if not near(head.at(head.cut).logits(head.activations(images, head.cut, whole=True)), answer, rounding_of(model)):
        raise Unsupported(f"{head.name}: what comes after {head.cut!r} depends on the size of the images; allowed: part=0")
    return head


def _among_tokens(model: VisionModel, n: int, cell: int, part: int) -> VisionModel:
    blocks = blocks_of(model)
    if not blocks:
        raise Unsupported(f"{model.name} shows no blocks of one type, side by side, that each return all of its tokens; allowed: part=0")
    if part > len(blocks):
        raise BadInput(f"head_of(part=...): got {part}, allowed: from 1 to {len(blocks)}, the blocks of {model.name}, or 0")
    if part == len(blocks):
        return OneCell(model, n, cell, f"DiPart({part})")
    shared = blocks[: len(blocks) - part]
    _ = model.at(shared[-1])  # which something may bypass: then they are no blocks
    head, other = (LastBlocks(model, n, place, shared, part) for place in (cell, (cell + 1) % n**2))
    images = some_images(model, 1, head.size)
    # Attention that knows places, as by relative positions, knows no others than those of one image.
    moved = stitched(cells_of(images, n).roll(1, 0), n)
    with _refusing(head, f"block {shared[0]!r} takes no tokens of {n**2} images at once"):
        alike = near(other.logits(moved), head.logits(images), rounding_of(model))
    if not alike:
        raise Unsupported(f"{head.name}: to block {shared[0]!r} the order of tokens matters beyond their embedding; allowed: part=0")
    return head


@contextlib.contextmanager
def _refusing(head: VisionModel, why: str) -> Iterator[None]:
    """What a network raises on shapes that it was not made for, as `Unsupported` that says why."""
    try:
        yield
    except (RuntimeError, AssertionError, TypeError, IndexError, ValueError) as error:
        raise Unsupported(f"{head.name}: {why} ({' '.join(str(error).split())}); allowed: part=0") from error
