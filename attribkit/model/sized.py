"""`sized`: a model for images of another size than its own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadInput, Unsupported
from . import families, levels
from .adapter import VisionModel
from .rest import FromLayer, Rest, proven, rest_of
from .tokens import PREFIXES

_NOTHING = object()


class Sized(VisionModel):
    """A model for images of `size` instead of its own: the same module, which stays as it is, and the same layers by default.

    Networks that take images of any size are taken as they are; so are those that pool to a fixed grid first, such as VGG and AlexNet.
    For transformers of a known family the position embedding is interpolated (bicubic) during each forward. That changes the model,
    which was trained with another one: `weights`, and the facts of a map with it, say so. At the model's own size nothing is changed.
    """

    def __init__(self, original: VisionModel, size: tuple[int, int]) -> None:
        super().__init__(
            original.module,
            preprocessing=original.preprocessing.replaced(size=size),
            classes=original.classes or None,
            max_rows=original._max_rows,
            precision=original.precision,
            name=original.name,
        )
        self.original = original
        self.weights = original.weights
        self.positions = None if self.size == original.size else families.positions(self.module)
        if self.positions is not None:
            before, after = (f"{height} x {width}" for height, width in self._grids())
            self.weights += f"; position embeddings interpolated from {before} to {after}, which changes the model"
        elif self.size != original.size and getattr(self.module, "dynamic_img_size", False):
            self.weights += "; position embeddings interpolated by the model, which changes it"

    @property
    def layer(self) -> str:
        """The original's."""
        return self.original.layer

    @functools.cached_property
    def cut(self) -> str:
        """The original's."""
        return self.original.cut

    @functools.cached_property
    def middle(self) -> str:
        """The original's."""
        return self.original.middle

    def answer(self, images: Tensor) -> Tensor:
        """As the original's, for images of this size; of a transformer's, for no others."""
        if self.positions is None:
            return super().answer(images)
        if tuple(images.shape[-2:]) != self.size:
            got, allowed = (f"{height} x {width}" for height, width in (images.shape[-2:], self.size))
            raise BadInput(f"{self.name}: got images of {got}, allowed: {allowed}, which its position embeddings were interpolated for")
        with self.positioned(self.module):
            return super().answer(images)

    def at(self, layer: str, size: tuple[int, int] | None = None) -> Rest:
        """As of any model."""
        if self.positions is None:
            return super().at(layer, size)
        make = functools.partial(proven, kind=_SizedRest)
        return rest_of(self, levels.place(self, layer), self.size if size is None else size, self._rests, make)

    @contextlib.contextmanager
    def positioned(self, network: nn.Module) -> Iterator[None]:
        """While it lasts `network`, the module or a copy of it, takes images of this size, whose position embeddings are interpolated."""
        with contextlib.ExitStack() as changed:
            if self.positions is not None:
                changed.enter_context(_instead(network, self.positions.embedding, self._embedding(network, self.positions.embedding)))
                for name in self.positions.checked:
                    changed.enter_context(_instead(network, name, _Sides(self.size)))
            yield

    def _embedding(self, network: nn.Module, name: str) -> Tensor:
        """The position embedding for this size, (1, tokens, C)."""
        own = _tensor(network, name, self.name)
        (height, width), grid = self._grids()
        first = own.shape[1] - height * width if own.ndim == 3 else -1
        if first not in PREFIXES:
            raise Unsupported(
                f"{self.name}: a position embedding {tuple(own.shape)} does not belong to {height} x {width} patches; "
                "allowed: the size of images that the module was made for"
            )
        if grid == (height, width):
            return own
        patches = own[:, first:].transpose(1, 2).reshape(1, -1, height, width)
        resized = F.interpolate(patches.float(), size=grid, mode="bicubic", align_corners=False, antialias=False)
        return torch.cat((own[:, :first], resized.flatten(2).transpose(1, 2).to(own.dtype)), 1)

    def _grids(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """How many patches, down and across, an image has at the original's size and at this one."""
        patch = families.patch(self.module)
        if patch is None:
            raise Unsupported(f"{self.name} does not say how large its patches are; allowed: patch_size, as its family has it")
        if self.size[0] % patch[0] or self.size[1] % patch[1]:
            raise Unsupported(
                f"{self.name}: got images of {self.size[0]} x {self.size[1]}, allowed: whole patches of {patch[0]} x {patch[1]}"
            )
        before, after = ((size[0] // patch[0], size[1] // patch[1]) for size in (self.original.size, self.size))
        return before, after


class _SizedRest(Rest):
    """The rest of a transformer for images of another size, all of which it runs from blank images on."""

    def __init__(self, model: Sized, first: FromLayer, *, layer: str, channels: int) -> None:
        super().__init__(model, first, layer=layer, channels=channels)
        self.sized = model

    def answer(self, images: Tensor) -> Tensor:
        """The logits of activations that fit into memory at once."""
        network: nn.Module = self.module.module  # type: ignore[assignment]  # what `FromLayer` runs
        with self.sized.positioned(network):
            return super().answer(images)


class _Sides(tuple[int, ...]):
    """(H, W), and equal to either, for a module that has one number for both of what it compares them with."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other in tuple(self) if isinstance(other, int) else tuple(self) == other

    __hash__ = tuple.__hash__


def sized(model: VisionModel, size: int | tuple[int, int]) -> VisionModel:
    """The model for images of `size` (H, W), or a number for a square; `Unsupported` if it takes none of that size."""
    if type(model) not in (VisionModel, Sized):
        raise BadInput(f"sized: got a {type(model).__name__}, allowed: a VisionModel of images")
    original = model.original if isinstance(model, Sized) else model
    found = Sized(original, (size, size) if isinstance(size, int) else size)
    if found.size != original.size:
        _prove(found, original)
    return found


def _prove(model: Sized, original: VisionModel) -> None:
    """Raise `Unsupported` unless the model answers images of its size with as many logits as of the original's."""
    (height, width), (own_height, own_width) = model.size, original.size
    allowed = f"allowed: images of {own_height} x {own_width}, the model's own size"
    try:
        classes = model.probed(lambda images: model.answer(images).shape[1])
    except (Unsupported, ValueError) as error:
        reason = str(error.__cause__ or error)
        raise Unsupported(f"{model.name} takes no images of {height} x {width} ({' '.join(reason.split())}); {allowed}") from error
    wanted = original.probed(lambda images: original.answer(images).shape[1])
    if classes != wanted:
        raise Unsupported(f"{model.name} answers images of {height} x {width} with {classes} logits instead of {wanted}; {allowed}")


def _tensor(module: nn.Module, name: str, model: str) -> Tensor:
    try:
        found = attrgetter(name)(module)
    except AttributeError:
        found = None
    if not isinstance(found, Tensor):
        raise Unsupported(f"{model} has no position embedding {name!r}, which its family has; allowed: its own size")
    return found


@contextlib.contextmanager
def _instead(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """While it lasts the attribute has another value; a parameter stays registered, and the value hides it. What is not there stays so."""
    path, _, last = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
        getattr(owner, last)
    except AttributeError:
        yield
        return
    before = vars(owner).get(last, _NOTHING)
    vars(owner)[last] = value
    try:
        yield
    finally:
        if before is _NOTHING:
            del vars(owner)[last]
        else:
            vars(owner)[last] = before
