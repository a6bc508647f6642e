"""`Lent`: a module that is run row by row, and comes back from it as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from ..errors import OutOfMemory, Unsupported
from .memory import ONE_AT_A_TIME, ordinary_tensors, unless_out_of_memory
from .taps import as_written

Rows = TypeVar("Rows", bound=tuple[Tensor, ...])
T = TypeVar("T")


class Lent:
    """Somebody's module, in their hands again after every call: as many rows at once as memory takes, and all its flags as they were."""

    module: nn.Module
    name: str

    def __init__(self, module: nn.Module, name: str, max_rows: int | None) -> None:
        self.module = module
        self.name = name
        self._max_rows = max_rows
        self._inside = False

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        tensor = next(self._tensors(), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def max_rows(self) -> int:
        """How many images run at once; halved for good when memory runs out."""
        return self._max_rows or (8 if self.device.type == "cpu" else 128)

    @contextlib.contextmanager
    def studied(self) -> Iterator[Self]:
        """The module in evaluation mode with frozen weights, and afterwards as it was, also when the body raises."""
        with ONE_AT_A_TIME, contextlib.nullcontext() if self._inside else self._studied():
            yield self

    @contextlib.contextmanager
    def _studied(self) -> Iterator[None]:
        # Flags are set one by one, not through `train()`: a module may override that, and each submodule has a flag of its own.
        training = [module for module in self.module.modules() if module.training]
        # The flag of a weight that was made in inference mode cannot be set outside it.
        learning = [weight for weight in self.module.parameters() if weight.requires_grad and not weight.is_inference()]
        devices = sorted({tensor.device.index or 0 for tensor in self._tensors()}) if self.device.type == "cuda" else []
        exact = torch.autocast(self.device.type, enabled=False)  # what a method computes itself; `answer` has a precision of its own
        self._inside = True
        try:
            for module in training:
                module.training = False
            for weight in learning:
                weight.requires_grad_(False)
            # A model that draws random numbers, such as dropout that is never off, takes none from the caller's sequence.
            with torch.random.fork_rng(devices, device_type="cuda"), ordinary_tensors(), torch.no_grad(), exact:
                yield
        finally:
            self._inside = False
            for module in training:
                module.training = True
            for weight in learning:
                weight.requires_grad_(True)

    @contextlib.contextmanager
    def _running(self, grad: bool) -> Iterator[None]:
        """Inside `studied`, with gradients on or off; to differentiate compiled code gains nothing and may warn."""
        first = next(self._tensors(), None)
        if grad and first is not None and first.is_inference():
            raise Unsupported(
                f"{self.name} was made under torch.inference_mode, which allows no gradients; allowed: make or copy it outside"
            )
        with self.studied(), torch.set_grad_enabled(grad), as_written() if grad else contextlib.nullcontext():
            yield

    def in_rows(self, work: Callable[[slice], Rows], count: int, *, grad: bool = False) -> Rows:
        """What `work` makes of slices of at most `max_rows` rows, laid end to end; half as many from the moment that memory runs out."""
        parts: list[Rows] = []
        self.each_rows(work, count, lambda _rows, part: parts.append(part), grad=grad)
        return parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]

    def each_rows(self, work: Callable[[slice], T], count: int, take: Callable[[slice, T], None], *, grad: bool = False) -> None:
        """As `in_rows`, but each slice's result is given to `take` once it is there, so that what need not be kept is not."""
        start, before = 0, self._max_rows
        with self._running(grad):
            while start < count:
                rows = slice(start, min(start + self.max_rows, count))
                part = unless_out_of_memory(work, rows)
                if part is not None:
                    take(rows, part)
                    start = rows.stop
                elif rows.stop - start == self.max_rows == 1:
                    self._max_rows = before  # the next images may be smaller
                    raise self._out_of_memory()
                else:  # of one row another library may make many, up to `max_rows`: then half as many of those
                    self._max_rows = max(1, min(self.max_rows, (rows.stop - start) // 2 or self.max_rows // 2))

    def _derivative(self, score: Tensor, leaf: Tensor, what: str) -> Tensor:
        if not score.requires_grad:
            raise Unsupported(f"no gradient flows from the answer to {what}: the model detaches it, or the answer does not depend on it")
        with torch.autocast(leaf.device.type, enabled=False):  # each step back in the precision of its step forward
            gradient: Tensor | None = torch.autograd.grad(score.sum(), leaf, allow_unused=True)[0]
        if gradient is None and any(".quantized" in type(module).__module__ for module in self.module.modules()):
            raise Unsupported(f"no gradient flows from the answer to {what}: quantised layers have none")
        return torch.zeros_like(leaf) if gradient is None else gradient

    def _out_of_memory(self) -> OutOfMemory:
        return OutOfMemory(
            f"{self.name}: one image does not fit into the memory of {self.device}; allowed: smaller images or another device"
        )

    def _dtype(self, images: Tensor) -> torch.dtype:
        weights = (tensor.dtype for tensor in self._tensors() if tensor.is_floating_point())
        return next(weights, images.dtype)

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.module.parameters()
        yield from self.module.buffers()
