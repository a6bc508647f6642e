"""With-blocks that read what a layer returns or cut the graph there: the only hooks in the package."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Unsupported


def tensors_in(output: Any) -> list[Tensor]:
    """What a layer returned: a tensor, or those in a tuple, list or mapping."""
    items = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else (output,)
    return [item for item in items if isinstance(item, Tensor)]


def _with_first(output: Any, tensor: Tensor) -> Any:
    """`output` with its first tensor replaced, in the same kind of container."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, Mapping):
        key = next(key for key, item in output.items() if isinstance(item, Tensor))
        changed = dict(output) | {key: tensor}
        return changed if type(output) is dict else type(output)(**changed)
    at = next(i for i, item in enumerate(output) if isinstance(item, Tensor))
    items = [*output[:at], tensor, *output[at + 1 :]]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)


def as_written() -> contextlib.AbstractContextManager[Any]:
    """While it lasts, compiled modules run as they were written: compiled code does not notice hooks, or keeps those it once saw."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


@contextlib.contextmanager
def _hooked(modules: Mapping[str, nn.Module], hook: Callable[[str, Any], Any]) -> Iterator[None]:
    """Call `hook(name, output)` after each forward of each module; what it returns, unless None, replaces the output."""
    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(lambda _module, _args, output, name=name: hook(name, output)))
        with as_written():
            yield
    finally:
        for handle in handles:
            handle.remove()


@dataclasses.dataclass
class Tap:
    """What was tapped at one layer: `leaf`, what the layer returned, detached from what made it."""

    layer: str
    call: int | None
    scripted: bool = False
    leaf: Tensor | None = None
    calls: int = 0

    def meant(self, output: Any) -> Tensor | None:
        """What the layer returned, if this is the call that is meant."""
        self.calls += 1
        if self.call is not None and self.call != self.calls - 1:
            return None
        tensor = next(iter(tensors_in(output)), None)
        if tensor is None:
            raise Unsupported(f"layer {self.layer!r} returns {type(output).__name__}; allowed: a layer that returns a tensor")
        if self.leaf is not None:
            raise Unsupported(
                f"layer {self.layer!r} is called more than once in a forward; say which call: '{self.layer}:0', '{self.layer}:1', ..."
            )
        return tensor

    def take(self, output: Any, grad: bool) -> Any:
        """Keep a copy of what the layer returned; with `grad`, send another one on whose graph begins at the kept one."""
        tensor = self.meant(output)
        if tensor is None:
            return None
        # A copy each way: an in-place operation after the layer, or on a tensor that the layer passed through, must not reach the leaf.
        self.leaf = tensor.detach().clone()
        if not grad:
            return None
        if not torch.is_grad_enabled():
            raise Unsupported(f"the model turns gradients off around layer {self.layer!r}")
        return _with_first(output, self.leaf.requires_grad_().clone())

    def tensor(self) -> Tensor:
        """The tapped tensor; `Unsupported` where the forward did not come by."""
        if self.leaf is None:
            which = "" if self.call is None else f" for the {self.call + 1}. time (calls: {self.calls})"
            why = (
                ": the inside of a TorchScript module cannot be looked into; allowed: the module it was made from" if self.scripted else ""
            )
            raise Unsupported(f"the model's forward never calls layer {self.layer!r}{which}{why}")
        return self.leaf


@contextlib.contextmanager
def tapped(layer: str, module: nn.Module, *, call: int | None = None, grad: bool = False) -> Iterator[Tap]:
    """Keep what `module` returns; with `grad` the graph begins there, and nothing before the layer is differentiated."""
    tap = Tap(layer, call, isinstance(module, torch.jit.ScriptModule))
    try:
        with _hooked({layer: module}, lambda _name, output: tap.take(output, grad)):
            yield tap
    finally:
        tap.leaf = None


@contextlib.contextmanager
def replaced(layer: str, module: nn.Module, by: Callable[[Tensor], Tensor], *, call: int | None = None) -> Iterator[None]:
    """Send `by(tensor)`, with its graph, on in place of the tensor that `module` returns; the forward must come by."""
    tap = Tap(layer, call, isinstance(module, torch.jit.ScriptModule))

    def put(_name: str, output: Any) -> Any:
        tensor = tap.meant(output)
        if tensor is None:
            return None
        tap.leaf = tensor.detach()
        return _with_first(output, by(tensor))

    try:
        with _hooked({layer: module}, put):
            yield
        tap.tensor()
    finally:
        tap.leaf = None


@contextlib.contextmanager
def joined(modules: Iterable[nn.Module], count: int) -> Iterator[None]:
    """Each of `modules` sees every `count` rows of tokens (B count, T, D) end to end as one, (B, count T, D), and returns them apart.

    Rows that are no multiple of `count`, as one blank image is, are left alone.
    """
    together: list[bool] = []

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        given = args if tensors_in(args) else kwargs
        tokens = tensors_in(given)[0]
        together.append(tokens.ndim == 3 and len(tokens) % count == 0)
        if not together[-1]:
            return None
        changed = _with_first(given, tokens.reshape(len(tokens) // count, -1, tokens.shape[2]))
        return (changed, kwargs) if given is args else (args, changed)

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if not together.pop():
            return None
        tokens = tensors_in(output)[0]
        return _with_first(output, tokens.reshape(len(tokens) * count, -1, tokens.shape[2]))

    with contextlib.ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(after).remove)
        hooks.enter_context(as_written())
        yield


@contextlib.contextmanager
def recorded(root: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Every tensor that a module inside `root` returns alone, with the module's name, in the order they were returned."""
    seen: list[tuple[str, Tensor]] = []

    def keep(name: str, output: Any) -> None:
        # Of several, a later part of the model may use another one than that which a tap replaces.
        found = tensors_in(output)
        if len(found) == 1 and found[0].ndim:
            seen.append((name, found[0]))

    try:
        with _hooked({name: module for name, module in root.named_modules() if name}, keep):
            yield seen
    finally:
        seen.clear()
