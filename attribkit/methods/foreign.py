"""What the adapters of other libraries share: options, their seeds, their warnings, and their errors in our words."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import AttribkitError, BadInput, UnknownName, Unsupported
from ..noise import keys
from ..registry import short

Value = str | int | float | bool | None | tuple[object, ...]
Options = tuple[tuple[Value, ...], ...]

# What libraries raise for a model that does not suit them; the base of all errors would hide those that mean something else.
_FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    AssertionError,
    LookupError,
    AttributeError,
    ArithmeticError,
    StopIteration,
)

# What both say at every call, of their own workings.
_CHATTER = (
    r"Setting forward, backward hooks and attributes",
    r"Setting backward hooks on ReLU activations",
    r"Input Tensor \d+ did not already require gradients",
)


def as_options(given: Any, what: str) -> Any:
    """Options as sorted (name, value) pairs, from a mapping or from pairs; two of one name raise."""
    if not isinstance(given, Mapping | tuple | list):
        return given
    pairs = [_tuples(pair) for pair in (given.items() if isinstance(given, Mapping) else given)]
    wrong = [pair for pair in pairs if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str)]
    if wrong:
        raise BadInput(f"{what}(options=...): got {wrong[0]!r}, allowed: pairs of a name and a value, or a dict")
    names = [pair[0] for pair in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"{what}(options=...): got {twice!r} twice, allowed: once")
    return tuple(sorted(pairs, key=lambda pair: pair[0]))


def named(options: Options) -> dict[str, Any]:
    """Options by name."""
    return {str(name): value for name, value in options}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def parameters(function: Callable[..., Any], without: Iterable[str]) -> dict[str, inspect.Parameter]:
    """The settings of a function by name, those aside that are given by other means."""
    found = inspect.signature(function).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: each for name, each in found.items() if each.kind in named and name not in {"self", *without}}


def sorted_out(options: dict[str, Any], what: str, *places: Iterable[str]) -> list[dict[str, Any]]:
    """Each of the options at the first of `places` that knows its name; `UnknownName` lists what there is."""
    known = [set(place) for place in places]
    found: list[dict[str, Any]] = [{} for _ in known]
    for name, value in options.items():
        at = next((i for i, place in enumerate(known) if name in place), None)
        if at is None:
            raise UnknownName(f"option of {what}", name, set().union(*known))
        found[at][name] = value
    return found


@contextlib.contextmanager
def seeded(image: Tensor, seed: int, *, pictures: bool) -> Iterator[None]:
    """The global generators, which libraries draw from, begin with the image (1, 3, H, W) and `seed`.

    NumPy's is given back as it was; torch's `studied` gives back.
    """
    number = int(keys(image, seed, pictures=pictures)) % 2**32
    before = np.random.get_state()
    try:
        np.random.seed(number)
        torch.default_generator.manual_seed(number)
        if image.is_cuda:
            with torch.cuda.device(image.device):
                torch.cuda.manual_seed(number)
        yield
    finally:
        np.random.set_state(before)


@contextlib.contextmanager
def understood(library: str, method: str, model: str) -> Iterator[None]:
    """What the library says at every call is not heard; what it raises of its own becomes `Unsupported`, what the model raises stays."""
    with warnings.catch_warnings():
        for message in _CHATTER:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        except _FAILURES as error:
            if isinstance(error, AttribkitError) or not _is_of(library, error):
                raise
            reason = short(" ".join(str(error).split()), 300) or "no reason given"  # of some a tensor is part
            raise Unsupported(f"{library}'s {method} fails on {model}: {type(error).__name__}: {reason}") from error


def _is_of(library: str, error: BaseException) -> bool:
    """Whether the library's code, rather than the model that it had called, raised the error."""
    last, trace = "", error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "").split(".")
        if module[0] == library or module[-2:] == ["model", "replica"]:
            last = module[0]
        trace = trace.tb_next
    return last == library
