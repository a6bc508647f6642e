"""`randomised`: a model's layers made anew from random numbers, one more at each step or one at a time."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import BadInput, UnknownName, Unsupported
from .adapter import VisionModel
from .replica import _copied
from .taps import _hooked

Order = Literal["cascading", "independent"]


def randomised(
    model: VisionModel,
    *,
    seed: int = 0,
    layers: int | Sequence[str] | None = None,
    order: Order = "cascading",
    keep_statistics: bool = False,
) -> Iterator[tuple[str, VisionModel]]:
    """(layer, the model with that layer random), from the output down: in "cascading" order with all layers after it, else it alone.

    `layers` are names of `weighted_layers`, or how many of them to choose, None for all; they are chosen evenly, the one nearest the
    input among them, and norms, which have no random numbers, are not, but in cascading order go with those around them.
    Each step is another copy, made when it is asked for; weights that stay are the model's own tensors, and the model is untouched. A
    layer's numbers depend on `seed` and its name alone: matrices and convolutions are uniform within 1 / sqrt(inputs), their biases too,
    as PyTorch makes them; norms have scale 1 and shift 0, and statistics of mean 0 and variance 1 unless `keep_statistics`; all else,
    such as class tokens, is normal with standard deviation 0.02.
    """
    if order not in ("cascading", "independent"):
        raise UnknownName("order", order, ("cascading", "independent"))
    names = weighted_layers(model)
    drawing = [place for place, name in enumerate(names) if not _is_norm(model.module.get_submodule(name))]
    chosen = _chosen(names, drawing or list(range(len(names))), layers)
    with contextlib.suppress(Unsupported):  # where there is one, it is looked for in the model itself
        _ = model.layer
    module, done = model.module, 0
    for place in chosen:
        start = model.module if order == "independent" else module
        module = _copied(start, own_weights=False)
        for name in names[done : place + 1] if order == "cascading" else names[place : place + 1]:
            _make_anew(module.get_submodule(name), name, seed, keep_statistics)
        done = place + 1
        yield names[place], _with(model, module, f"{order} random layers to {names[place] or 'its own weights'}, seed {seed}")


def weighted_layers(model: VisionModel) -> tuple[str, ...]:
    """The names of all modules that hold weights of their own, from the output to the input; "" is the model itself.

    They are in the order in which the forward enters them. Modules that it never calls, such as heads for training alone, are left out.
    """
    modules = dict(model.module.named_modules())
    if any(isinstance(each, torch.jit.ScriptModule) for each in modules.values()):
        raise Unsupported(f"{model.name}: the inside of a TorchScript module cannot be changed; allowed: the module it was made from")

    returned: list[str] = []
    image = torch.randn(1, model.channels, *model.size, generator=torch.Generator().manual_seed(0))
    with _hooked(modules, lambda name, _output: returned.append(name)):
        model.logits(image)
    entered = _entered(returned)
    # Attention hands the weights of this part of it to a function, and never calls it.
    unseen = [f"{name}.out_proj".lstrip(".") for name in entered if isinstance(modules[name], nn.MultiheadAttention)]
    names = [part for name in entered for part in (name, *(each for each in unseen if each.rpartition(".")[0] == name))]
    found = tuple(name for name in reversed(names) if _own(modules[name]))
    if not found:
        raise Unsupported(f"{model.name} has no weights; allowed: a model that has some")
    return found


def _entered(returned: list[str]) -> list[str]:
    """Names of modules in the order they were first entered, from the order they returned in: a module is entered before its parts."""
    first: dict[str, int] = {}
    for place, name in enumerate(returned):
        parts = name.split(".") if name else []
        for depth in range(len(parts) + 1):
            first.setdefault(".".join(parts[:depth]), place)
    called = set(returned)
    return [name for name in sorted(first, key=lambda name: (first[name], name.count(".") + bool(name))) if name in called]


def _chosen(names: tuple[str, ...], drawing: list[int], layers: int | Sequence[str] | None) -> list[int]:
    """The places of the layers that are asked for, from the output down; if it is said how many, of those that are `drawing` numbers."""
    if layers is None:
        return list(range(len(names)))
    if isinstance(layers, int):
        if layers < 1:
            raise BadInput(f"randomised(layers=...): got {layers}, allowed: at least 1")
        count = min(layers, len(drawing))
        return [drawing[(step + 1) * len(drawing) // count - 1] for step in range(count)]
    wanted = [layers] if isinstance(layers, str) else layers
    for name in wanted:
        if name not in names:
            raise UnknownName("layer", name, names)
    return sorted({names.index(name) for name in wanted})


def _with(model: VisionModel, module: nn.Module, what: str) -> VisionModel:
    """The model around another module of the same kind."""
    twin = copy.copy(model)
    twin.module = module
    twin.weights = f"{model.weights}; {what}"
    twin._rests = {}
    twin._inside = False
    return twin


def _own(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of numbers that a module holds itself: parameters, and of a norm its statistics, too."""
    found: dict[str, Tensor | None] = {**module._parameters, **(module._buffers if _is_norm(module) else {})}
    return {name: values for name, values in found.items() if values is not None and values.is_floating_point()}


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _make_anew(module: nn.Module, name: str, seed: int, keep_statistics: bool) -> None:
    """Other numbers for the tensors that a module holds itself: new tensors, since the old ones are somebody's."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    own = _own(module)
    matrices = [values for each, values in own.items() if _is_matrix(each, values)]
    reach = 1 / math.sqrt(matrices[0][0].numel()) if matrices and matrices[0].numel() else None
    for each, values in own.items():
        if keep_statistics and each.startswith("running_"):
            continue
        # On the CPU and then moved: every device gets the same numbers.
        numbers = _numbers(each, values, module, reach, generator).to(values.device, values.dtype)
        is_parameter = each in module._parameters
        setattr(module, each, nn.Parameter(numbers, requires_grad=False) if is_parameter else numbers)


def _numbers(name: str, old: Tensor, module: nn.Module, reach: float | None, generator: torch.Generator) -> Tensor:
    if _is_norm(module) and old.ndim <= 1:
        return torch.zeros(old.shape) if "bias" in name or name == "running_mean" else torch.ones(old.shape)
    if _is_matrix(name, old) and old.numel():
        reach = 1 / math.sqrt(old[0].numel())
    elif reach is None or "bias" not in name:
        return 0.02 * torch.randn(old.shape, generator=generator)
    return reach * (2 * torch.rand(old.shape, generator=generator) - 1)


def _is_matrix(name: str, values: Tensor) -> bool:
    """Whether these are the weights of a linear map or a convolution, and not a token or an embedding of positions."""
    return "weight" in name and values.ndim >= 2
