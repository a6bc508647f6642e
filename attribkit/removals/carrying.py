"""A forward with masks: every operation on a tensor that carries one is done by its rule, which says what the result carries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import Unsupported
from .masks import Mask, Window, grown, shares, zeroed

if TYPE_CHECKING:
    from .layer_masking import LayerMask

# What an operation gives, and the mask that it carries: None where nothing is missing; for several tensors, a list of masks.
Result = tuple[Any, "Mask | list[Mask | None] | None"]
Rule = Callable[["Call"], Result]
RULES: dict[str, Rule] = {}

# Asked of a tensor, these tell nothing of its values.
_QUESTIONS = frozenset(
    "size dim ndimension numel nelement element_size stride storage_offset is_contiguous is_floating_point is_complex get_device type"
    " is_same_size is_set_to data_ptr untyped_storage len hash repr format str requires_grad _assert assert is_signed is_inference"
    " is_pinned is_shared is_neg is_conj".split()
)
# They take a tensor for its shape alone.
_MODELS = frozenset(
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full new_tensor".split()
)
_VIEWS_BY_NAME = frozenset(("T", "mT", "H", "mH", "data", "real"))


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule for the operations of these names, whether functions, methods or operators, in place or not."""

    def enter(each: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, each))
        return each

    return enter


def named(func: Any) -> str:
    """One name for all spellings of an operation: "add" for torch.add, Tensor.add_, + and +=; ".shape" for what is asked by a dot."""
    name = str(getattr(func, "__name__", func))
    if name in ("__get__", "__set__"):
        owner = str(getattr(func.__self__, "__name__", func.__self__))
        return owner if owner in _VIEWS_BY_NAME and name == "__get__" else f".{owner}" if name == "__get__" else f"{owner}="
    bare = name.strip("_")
    if name.startswith("__") and bare not in RULES and bare[:1] in "ir" and bare[1:] in RULES and bare != "rmatmul":
        return bare[1:]
    return bare


@dataclasses.dataclass(frozen=True)
class Call:
    """One operation on at least one tensor that has holes."""

    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    run: Carrying

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument, given by place or by name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def x(self) -> Tensor:
        """The first argument."""
        return self.args[0]  # type: ignore[no-any-return]

    @property
    def policy(self) -> LayerMask:
        """The settings."""
        return self.run.policy

    def mask(self, value: Any) -> Mask | None:
        """The mask that an argument carries; None where nothing of it is missing."""
        return self.run.masks.get(value) if isinstance(value, Tensor) else None

    def mask_of_x(self, *, alone: bool = True) -> Mask:
        """The mask of the first argument, which must have one, and be the only one that has if it is `alone`."""
        mask = self.mask(self.x)
        if mask is None or (alone and any(self.mask(each) is not None for each in tensors((self.args[1:], self.kwargs)))):
            raise self.refused("with holes in other arguments than the first")
        return mask

    def plain(self) -> Any:
        """What the operation gives as it was asked."""
        return self.func(*self.args, **self.kwargs)

    def given(self, x: Any) -> Any:
        """What the operation gives for another first argument."""
        return self.func(x, *self.args[1:], **self.kwargs)

    def zeroed(self, output: Tensor, mask: Mask, *, wild: bool = False) -> Tensor:
        """As `masks.zeroed`, into the result itself where it is new, or where the network works in place."""
        return zeroed(output, mask, wild=wild, inplace=not output.requires_grad or output is self.args[0])

    def refused(self, why: str = "") -> Unsupported:
        """That there is no rule for this, in words."""
        other = "" if self.policy.unknown == "remask" else "LayerMask(unknown='remask') where it works place by place, or "
        what = f"{self.name!r} {why}".rstrip()
        return Unsupported(
            f"layer masking has no rule for {what}, which {self.run.model} does to activations with holes; allowed: {other}another removal"
        )


class Carrying(TorchFunctionMode):
    """While it lasts, tensors that come from `begin`'s carry masks, and each operation on them is done by its rule."""

    def __init__(self, policy: LayerMask, model: str) -> None:
        super().__init__()
        self.policy, self.model = policy, model
        # A tensor that comes from the images is a key, with None if nothing of it is missing.
        self.masks: Any = WeakTensorKeyDictionary()
        self.last: Mask | None = None
        self.tokens = False
        self._made: dict[Any, Any] = {}

    def begin(self, images: Tensor, mask: Mask) -> None:
        """Let `images` carry `mask`."""
        self.masks[images] = mask

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for each key: layers of one resolution share their masks."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def grown(self, mask: Mask, window: Window) -> Mask:
        """As `masks.grown`."""
        made: Mask = self.once((mask, window), lambda: grown(mask, window))
        return made

    def shares(self, mask: Mask, rounds: int, dtype: torch.dtype) -> list[Tensor]:
        """As `masks.shares`."""
        made: list[Tensor] = self.once((mask, rounds, dtype), lambda: shares(mask, rounds, dtype))
        return made

    def used_up(self, mask: Mask) -> None:
        """Remember the last mask that the network looks at as a whole: what is empty there has vanished."""
        if mask.varies() or not self.tokens:  # a class token, which is never removed, hides nothing
            self.last = mask

    def __exit__(self, *error: object) -> None:
        """Leave the mode, and let go of all masks but the last."""
        self._made.clear()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Do one operation."""
        kwargs = kwargs or {}
        carried = [self.masks[each] for each in tensors((args, kwargs)) if each in self.masks]
        if not carried:
            return func(*args, **kwargs)
        name = named(func)
        if name.startswith(".") or name in _QUESTIONS or name in _MODELS:
            return func(*args, **kwargs)
        if all(mask is None for mask in carried):
            return self._marked(func(*args, **kwargs), None)
        if not args and "input" in kwargs:
            args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
        call = Call(func, name, args, kwargs, self)
        if name.endswith("_as") and call.mask(call.x) is None:
            return self._marked(call.plain(), None)  # of the other tensor it takes the shape or the type
        known = RULES.get(name)
        return self._marked(*(known(call) if known is not None and kwargs.get("out") is None else self._unknown(call)))

    def _unknown(self, call: Call) -> Result:
        if self.policy.unknown == "raise":
            raise call.refused()
        output, first = call.plain(), next(each for each in tensors((call.args, call.kwargs)) if call.mask(each) is not None)
        mask = call.mask(first)
        if mask is None or not isinstance(output, Tensor) or output.shape != first.shape:
            raise call.refused("whose result has another shape")
        return call.zeroed(output, mask, wild=True), mask

    def _marked(self, output: Any, mask: Mask | list[Mask | None] | None) -> Any:
        if isinstance(output, Tensor):
            self.masks[output] = mask
            return output
        found = list(tensors(output))
        for each, own in zip(found, mask if isinstance(mask, list) else [mask] * len(found), strict=True):
            self.masks[each] = own
        return output


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in arguments or results, inside tuples, lists and mappings too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors(each)
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))


def pair(value: Any) -> tuple[int, int]:
    """A number for both dimensions, or one for each."""
    items: Iterable[int] = (value, value) if isinstance(value, int) else tuple(value) * (2 if len(value) == 1 else 1)
    down, across = items
    return int(down), int(across)
