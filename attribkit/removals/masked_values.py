"""Rules of what is done value by value: activation functions, sums and products, joining of channels."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .carrying import Call, Result, rule
from .masks import Mask, aligned, common, joint, majority, mapped

# They make zeros of zeros.
_KEEP_ZERO = (
    "relu relu6 leaky_relu prelu rrelu elu celu selu silu mish gelu hardswish tanh softsign hardshrink softshrink tanhshrink tan sin sinh"
    " asin atan asinh erf expm1 log1p abs neg negative positive sqrt square sign floor ceil round trunc nan_to_num dropout dropout2d"
    " dropout1d alpha_dropout feature_dropout feature_alpha_dropout stochastic_depth clone contiguous detach to type type_as float half"
    " bfloat16 double cuda cpu requires_grad alias data real conj local_response_norm normalize"
).split()
# They make something else of zeros: what is in the holes is taken out again.
_LOSE_ZERO = "sigmoid hardsigmoid hardtanh clamp clip clamp_min clamp_max softplus threshold exp exp2 cos cosh".split()
_WILD = "log log2 log10 logsigmoid logit reciprocal rsqrt".split()
_SUMS = "add sub subtract rsub maximum minimum".split()
_PRODUCTS = "mul multiply".split()
_QUOTIENTS = "div divide true_divide pow rpow rdiv rtruediv truediv".split()


@rule(*_KEEP_ZERO)
def _keeps_zero(call: Call) -> Result:
    mask = call.mask_of_x(alone=not call.name.endswith("_as"))
    return call.plain(), mask


@rule(*_LOSE_ZERO, *_WILD)
def _loses_zero(call: Call) -> Result:
    mask = call.mask_of_x()
    return call.zeroed(call.plain(), mask, wild=call.name in _WILD), mask


@rule(*_PRODUCTS, *_QUOTIENTS)
def _product(call: Call) -> Result:
    return _together(call, sums=False)


@rule(*_SUMS)
def _sum(call: Call) -> Result:
    return _together(call, sums=True)


def _together(call: Call, *, sums: bool) -> Result:
    """Two operands; where both have holes, and are added, by the policy for residuals."""
    ours, theirs = (call.mask(each) for each in (call.args[0], call.get(1, "other")))
    output: Tensor = call.plain()
    if ours is None or theirs is None:
        mask = aligned(ours or theirs, output.ndim)  # type: ignore[arg-type]  # a rule is asked where one has holes
        clean = call.name in _PRODUCTS or (call.name in _QUOTIENTS and theirs is None and call.name != "pow" and call.name[0] != "r")
        return (output if clean else call.zeroed(output, mask, wild=not sums)), mask
    ours, theirs = aligned(ours, output.ndim), aligned(theirs, output.ndim)
    mask = _residual(call.policy.residual, ours, theirs) if sums else common(ours, theirs)
    clean = call.name not in _QUOTIENTS and (ours is theirs or (sums and call.policy.residual == "union"))
    return (output if clean else call.zeroed(output, mask, wild=call.name in _QUOTIENTS)), mask


def _residual(policy: str, ours: Mask, theirs: Mask) -> Mask:
    if policy == "union":
        return joint([ours, theirs])
    if policy == "shortcut":
        return theirs if theirs.depth < ours.depth else ours
    return common(ours, theirs)


# Joining -----------------------------------------------------------------------------------------------------------------------


@rule("cat", "concat", "concatenate")
def _cat(call: Call) -> Result:
    parts = list(call.args[0])
    at = call.get(1, "dim", 0) % parts[0].ndim
    masks = [call.mask(part) for part in parts]
    if _are_channels(parts, masks, at):
        return _by_vote(call, masks)
    return call.plain(), _side_by_side(parts, masks, at)


@rule("stack")
def _stack(call: Call) -> Result:
    parts = list(call.args[0])
    at = call.get(1, "dim", 0) % (parts[0].ndim + 1)
    masks = [call.mask(part) for part in parts]
    return _by_vote(call, [mask and mapped(mask, lambda on: on.unsqueeze(at)) for mask in masks])


def _are_channels(parts: list[Tensor], masks: list[Mask | None], at: int) -> bool:
    """Whether the same places are joined, and not places beside places, as a class token and those of patches, or samples."""
    if at == 0 or any(mask is not None and mask.on.shape[at] > 1 for mask in masks):
        return False
    if parts[0].ndim == 3 and None in masks:  # one token of a patch has the mask of a channel
        return any(mask is not None and part.shape[at] > 1 for part, mask in zip(parts, masks, strict=True))
    return True


def _by_vote(call: Call, masks: list[Mask | None]) -> Result:
    """One mask for all channels, by the policy; what is without holes has no say."""
    known = [mask for mask in masks if mask is not None]
    policy = call.policy.concat
    mask = joint(known) if policy == "union" else majority(known) if policy == "majority" else functools.reduce(common, known)
    clean = len(known) == len(masks) and (policy == "union" or len(set(known)) == 1)
    output = call.plain()
    return (output if clean else call.zeroed(output, mask)), mask


def _side_by_side(parts: list[Tensor], masks: list[Mask | None], at: int) -> Mask:
    known = [mask for mask in masks if mask is not None]
    sizes = [max(each) for each in zip(*(mask.on.shape for mask in known), strict=True)]
    device = parts[0].device
    pieces = []
    for part, mask in zip(parts, masks, strict=True):
        sizes[at] = part.shape[at]
        pieces.append(torch.ones(sizes, dtype=torch.bool, device=device) if mask is None else mask.on.expand(sizes))
    return Mask(torch.cat(pieces, at), depth=max(mask.depth for mask in known))
