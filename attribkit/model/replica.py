"""A copy of a module that other people's code may hook and change, so that nothing it leaves behind reaches the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..batch import Kind, Targets
from ..errors import Unsupported
from .heads import Head
from .memory import full_precision
from .taps import _with_first, tensors_in
from .tokens import Layout

if TYPE_CHECKING:
    from .adapter import VisionModel


class Replica(nn.Module):
    """The model's module once more, for libraries that hook, patch or swap modules: made inside `studied`, used, and thrown away.

    It maps images to (B, K) logits, and images with a class for each (B,) to the explained scalars (B,), in the model's precision. The
    weights are the model's own tensors (`own_weights` copies them, for what writes into them), all else is a copy. For each
    of `layers`, what the layer returns goes through one of `grids` as (B, C, h, w), float32 or wider, whatever its own layout is: a module
    there may be hooked or replaced, and sees one kind of tensor for convolutions and transformers.
    """

    def __init__(
        self, model: VisionModel, layers: tuple[str, ...] = (), *, kind: Kind = "logit", size: tuple[int, int], own_weights: bool = False
    ) -> None:
        super().__init__()
        _lend(model, layers)
        self.training = False  # as what it copies
        self.inner = _copied(model.module, own_weights)
        self.kind, self.size = kind, size
        self.twin = copy.copy(model)
        self.twin.module = self.inner
        self.twin._convolution_weights = 0  # channels-first images, which every module and library takes
        # A factor of 1 that requires a gradient: the gradient of a linear head has a graph as it has where weights are not frozen.
        self.one = torch.ones((), requires_grad=True)
        self.calls = dict.fromkeys(layers, 0)
        self.now = torch.empty(0)
        if layers:  # an empty list would be taken for a layer
            self.grids = nn.ModuleList(nn.Identity() for _ in layers)
        for place, layer in enumerate(layers):
            self._lead_through(layer, place)

    def forward(self, images: Tensor, index: Tensor | None = None) -> Tensor:
        """Logits (B, K); with a class for each image its explained scalar, (B,)."""
        self.calls = dict.fromkeys(self.calls, 0)
        self.now = images
        try:
            logits = full_precision(self.twin.answer(images))
        except (RuntimeError, AssertionError, IndexError) as error:
            if tuple(images.shape[-2:]) == self.size:
                raise
            height, width = images.shape[-2:]
            raise Unsupported(f"{self.twin.name} takes no images of {height} x {width}, which the method asks about") from error
        finally:
            self.now = torch.empty(0)
        missed = next((layer for layer, calls in self.calls.items() if not calls), None)
        if missed is not None:
            raise Unsupported(f"the model's forward never calls layer {missed!r}")
        if index is None:
            return logits * self.one.to(logits) if torch.is_grad_enabled() else logits
        return Targets(index, self.kind).of(logits)

    def layer(self, layer: str) -> nn.Module:
        """The copy of a layer of the model."""
        _lend(self.twin, (layer,))
        return self.twin._find(layer)[1]

    def as_grid(self, layer: str, found: Tensor, images: Tensor) -> Tensor:
        """A tensor laid out as a layer's input or output, as (B, C, h, w)."""
        return self.twin._layout(layer, found, images).to_grid(found)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: the gradients kept with the weights are their owner's."""

    def _lead_through(self, layer: str, place: int) -> None:
        name, module, call = self.twin._find(layer)
        if isinstance(module, torch.jit.ScriptModule):
            raise Unsupported(f"layer {name!r}: the inside of a TorchScript module cannot be looked into; allowed: what it was made from")
        plain: Callable[..., Any] = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = plain(*args, **kwargs)
            self.calls[layer] += 1
            if call is None and self.calls[layer] > 1:
                raise Unsupported(f"layer {name!r} is called more than once in a forward; say which call: '{name}:0', '{name}:1', ...")
            return output if call is not None and self.calls[layer] != call + 1 else self._shown(name, output, place)

        module.forward = forward

    def _shown(self, name: str, output: Any, place: int) -> Any:
        found = tensors_in(output)
        if not found:
            raise Unsupported(f"layer {name!r} returns {type(output).__name__}; allowed: a layer that returns a tensor")
        layout = self.twin._layout(name, found[0], self.now)
        # A copy comes and another goes on: what is seen is nobody's view, and an operation in place after the layer must not reach it.
        grid = full_precision(layout.to_grid(found[0])).clone(memory_format=torch.contiguous_format)
        if torch.is_grad_enabled() and not grid.requires_grad:
            grid.requires_grad_()  # where the images have no gradient the graph begins here
        seen = self.grids[place](grid)  # and times 1, so that its gradient is a tensor of its own, too
        return _with_first(output, _returned(layout, found[0], (seen * 1).to(found[0].dtype)))


def leaf(images: Tensor, model: VisionModel) -> Tensor:
    """A copy of images on the model's device, which gradients are kept at."""
    return images.to(model.device, copy=True).requires_grad_()


def _lend(model: VisionModel, layers: tuple[str, ...]) -> None:
    """Refuse layers that are not whole in one forward."""
    if isinstance(model, Head):
        model.lend(layers)


def _returned(layout: Layout, output: Tensor, grid: Tensor) -> Tensor:
    """A grid (B, C, h, w) in the layout of the output that it was made of, with the tokens that stood before it."""
    if layout.kind == "channels_first":
        return grid
    if layout.kind == "channels_last":
        return grid.permute(0, 2, 3, 1)
    return torch.cat((output[:, : layout.prefix], grid.flatten(2).transpose(1, 2)), 1)


def _copied(module: nn.Module, own_weights: bool) -> nn.Module:
    """Copies of all modules and of their hooks, around the same tensors."""
    tensors = [*module.parameters(), *module.buffers()]
    plain = [value for each in module.modules() for value in vars(each).values() if isinstance(value, Tensor)]
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (plain if own_weights else [*tensors, *plain])}
    try:
        return copy.deepcopy(module, shared)
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise Unsupported(f"{type(module).__name__} cannot be copied ({reason}), and other libraries are given a copy alone") from error
