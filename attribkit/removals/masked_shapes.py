"""Rules of what moves values and leaves them as they are: views, permutations, slices, padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .carrying import Call, Result, rule
from .masks import Mask, mapped, zeroed


@rule("view", "reshape", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "view_as", "reshape_as", "unsafe_view")
def _reshaped(call: Call) -> Result:
    mask, output = call.mask_of_x(alone=False), call.plain()
    after = mapped(mask, lambda on: reshaped(on, call.x.shape, output.shape, _VOTES[call.policy.concat]))
    if call.policy.concat != "union" and after.on.numel() < mask.on.numel():
        output = zeroed(output, after)  # a copy: what was reshaped keeps what it has
    return _settled(call, output, after)


def _settled(call: Call, output: Tensor, mask: Mask) -> Result:
    """What a mask becomes where a grid becomes a sequence of tokens, or one list of features."""
    if output.ndim == 3 < call.x.ndim and mask.whole is not None:
        if call.policy.tokens == "all":
            mask = mask.whole
            output = zeroed(output, mask)  # a copy: the grid itself keeps what it has
        call.run.tokens = True
        call.run.used_up(mask)
        return output, Mask(mask.on, depth=mask.depth)
    if output.ndim <= 2 and not mask.varies():
        call.run.used_up(mask)
        return output, None
    return output, mask


def reshaped(on: Tensor, old: tuple[int, ...], new: tuple[int, ...], vote: Callable[[Tensor], Tensor]) -> Tensor:
    """`on`, whose sizes are those of `old` or 1, as the mask of the same values in the shape `new`.

    Places that become channels of other places, as where patches are merged, are joined like channels: the mask is the `vote` of them.
    """
    wide: list[int] = []
    sizes: list[int] = []
    for before, after in _groups(old, new):
        varying = [each for each in before if on.shape[each] > 1]
        if len(after) == 1 and 0 < len(varying) < sum(old[each] > 1 for each in before) and _are_more(on, before):
            on = vote(on.movedim(varying, list(range(-len(varying), 0))).flatten(-len(varying)))
            for each in varying:
                on = on.unsqueeze(each)
            varying = []
        wide += [old[each] if varying else 1 for each in before]
        sizes += [new[each] if varying else 1 for each in after]
    return on.expand(wide).reshape(sizes)


def _are_more(on: Tensor, group: list[int]) -> bool:
    """Whether the mask tells places apart in other dimensions than these, which are none of the batch's."""
    return 0 not in group and any(size > 1 for each, size in enumerate(on.shape) if each and each not in group)


# By the policy for joining, from the last dimension of a mask.
_VOTES: dict[str, Callable[[Tensor], Tensor]] = {
    "union": lambda on: on.any(-1),
    "majority": lambda on: 2 * on.sum(-1) > on.shape[-1],
    "intersection": lambda on: on.all(-1),
}


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The dimensions of `old` and `new`, in the smallest groups that hold the same values."""
    groups = []
    i = j = 0
    while i < len(old) or j < len(new):
        before, after = list(range(i, min(i + 1, len(old)))), list(range(j, min(j + 1, len(new))))
        i, j = i + 1, j + 1
        while (a := math.prod(old[each] for each in before)) != (b := math.prod(new[each] for each in after)):
            if a < b:
                before.append(i)
                i += 1
            else:
                after.append(j)
                j += 1
        groups.append((before, after))
    return groups


@rule("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT", "adjoint", "H", "mH", "flip")
def _permuted(call: Call) -> Result:
    return call.plain(), mapped(call.mask_of_x(), call.given)


@rule("roll")
def _rolled(call: Call) -> Result:
    if call.get(2, "dims") is None:
        raise call.refused("over all dimensions at once")
    return call.plain(), mapped(call.mask_of_x(), call.given)


@rule("getitem", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "index_select")
def _sliced(call: Call) -> Result:
    mask, at = call.mask_of_x(), call.get(1, "index")
    if call.name == "getitem" and any(isinstance(each, Tensor | list) for each in (at if isinstance(at, tuple) else (at,))):
        raise call.refused("by a list of places")
    output = call.plain()
    if isinstance(output, Tensor):
        return _settled(call, output, mapped(mask, lambda on: _constant(call.given(on.expand_as(call.x)))))
    parts = [mapped(mask, lambda on, place=place: _constant(call.given(on.expand_as(call.x))[place])) for place in range(len(output))]
    return output, [_settled(call, part, own)[1] for part, own in zip(output, parts, strict=True)]  # type: ignore[misc]


def _constant(on: Tensor) -> Tensor:
    """A slice of an expanded mask, with the dimensions that it was expanded in at size 1 again."""
    for each in range(on.ndim):
        if on.stride(each) == 0 and on.shape[each] > 1:
            on = on.narrow(each, 0, 1)
    return on


@rule("expand", "expand_as", "broadcast_to")
def _expanded(call: Call) -> Result:
    mask, output = call.mask_of_x(alone=False), call.plain()
    missing = output.ndim - mask.on.ndim
    return output, mask if not missing else mapped(mask, lambda on: on.view(*(1,) * missing, *on.shape))


@rule("repeat", "tile")
def _repeated(call: Call) -> Result:
    mask, output = call.mask_of_x(), call.plain()
    missing = output.ndim - call.x.ndim

    def change(on: Tensor) -> Tensor:
        on = on.view(*(1,) * missing, *on.shape)
        return on.repeat([1 if on.shape[each] == 1 else output.shape[each] // on.shape[each] for each in range(on.ndim)])

    return output, mapped(mask, change)


@rule("channel_shuffle", "native_channel_shuffle")
def _shuffled(call: Call) -> Result:
    mask = call.mask_of_x()
    if mask.on.shape[1] > 1:
        raise call.refused("with a mask that is not the same for all channels")
    return call.plain(), mask


@rule("pad", "constant_pad_nd")
def _padded(call: Call) -> Result:
    mask, sides = call.mask_of_x(), list(call.get(1, "pad"))
    mode = call.get(2, "mode", "constant") if call.name == "pad" else "constant"
    output: Tensor = call.plain()
    if mode != "constant":
        return output, mapped(mask, lambda on: F.pad(on.float(), sides, mode=mode) > 0)
    # Dimensions that the mask does not tell apart stay so; what is padded where it does is no hole: it is as it always is.
    own = [side if mask.on.shape[-1 - place // 2] > 1 or call.x.shape[-1 - place // 2] == 1 else 0 for place, side in enumerate(sides)]
    after = mapped(mask, lambda on: F.pad(on, own, value=True))
    if len(own) > 4 and any(own[4:]):
        return output, after
    frame: Any = tuple([*own, 0, 0][:4])
    if output.ndim == 4 and min(frame) >= 0 and mask.border is None and len(sides) <= 4:
        return output, Mask(after.on, depth=mask.depth, border=(mask, frame))
    return call.zeroed(output, after), after
