"""Rules of attention: a removed token is no key, and what it would have answered is zero."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .carrying import Call, Result, rule
from .masks import Mask


@rule("matmul", "bmm")
def _matmul(call: Call) -> Result:
    left, right = call.args[0], call.get(1, "other", call.kwargs.get("mat2"))
    ours, theirs = call.mask(left), call.mask(right)
    if min(left.ndim, right.ndim) < 2:
        raise call.refused("with a vector")
    output = call.plain()
    # A sum over places is one over those that are kept, the others being zero: what is left is which rows and columns there are.
    rows = None if ours is None else _beside(ours.on.any(-1, keepdim=True), output.ndim)
    columns = None if theirs is None else _beside(theirs.on.any(-2, keepdim=True), output.ndim)
    on = [each for each in (rows, columns) if each is not None and each[:1].numel() > 1]
    if not on:
        return output, None
    mask = Mask(on[0] if len(on) == 1 else on[0] & on[1], depth=max(each.depth for each in (ours, theirs) if each is not None))
    return call.zeroed(output, mask), mask


def _beside(on: Tensor, dimensions: int) -> Tensor:
    return on.view(*(1,) * (dimensions - on.ndim), *on.shape)


@rule("einsum")
def _einsum(call: Call) -> Result:
    equation = call.args[0]
    inputs, arrow, result = equation.replace(" ", "").partition("->") if isinstance(equation, str) else ("", "", "")
    operands = list(call.args[1] if len(call.args) == 2 and not isinstance(call.args[1], Tensor) else call.args[1:])
    if not arrow or "." in inputs:
        raise call.refused("without all letters of the result")
    output, on, depth = call.plain(), torch.ones((1,) * len(result), dtype=torch.bool, device=operands[0].device), 0
    for letters, mask in zip(inputs.split(","), map(call.mask, operands), strict=True):
        if mask is not None:
            on, depth = on & _in_order(mask.on, letters, result), max(depth, mask.depth)
    return (call.zeroed(output, Mask(on)), Mask(on, depth=depth)) if on[:1].numel() > 1 else (output, None)


def _in_order(on: Tensor, letters: str, result: str) -> Tensor:
    """A mask with dimensions `letters` as one with those of `result`: what is summed over counts as kept if any of it is."""
    summed = [place for place, letter in enumerate(letters) if letter not in result]
    left = [letter for letter in letters if letter in result]
    on = on.amax(summed) if summed else on
    on = on.permute([left.index(letter) for letter in result if letter in left])
    for place, letter in enumerate(result):
        on = on if letter in left else on.unsqueeze(place)
    return on


@rule("softmax")
def _softmax(call: Call) -> Result:
    mask, at = call.mask_of_x(), call.get(1, "dim")
    if at is None:
        raise call.refused("without dim=")
    if mask.on.shape[at] == 1 < call.x.shape[at]:
        return call.zeroed(call.plain(), mask), mask
    output = call.given(call.x.masked_fill(~mask.on, -torch.inf))
    return call.zeroed(output, mask, wild=True), mask  # a row without any key has no softmax


@rule("scaled_dot_product_attention")
def _attention(call: Call) -> Result:
    query, key, value, bias = (call.get(*each) for each in ((0, "query"), (1, "key"), (2, "value"), (3, "attn_mask")))
    keys = [each.on for each in (call.mask(key), call.mask(value)) if each is not None]
    if call.mask(bias) is not None or any(on.shape[-1] > 1 for on in keys):
        raise call.refused("with a mask of its own that has holes")
    rest = {name: call.get(place, name) for place, name in ((4, "dropout_p"), (6, "scale"), (7, "enable_gqa"))}
    rest = {name: given for name, given in rest.items() if given is not None}
    if call.get(5, "is_causal", False):
        bias = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=key.device).tril()
    if keys:
        bias = _without(bias, functools.reduce(torch.logical_and, keys).transpose(-2, -1), query.dtype)
    output: Tensor = call.func(query, key, value, attn_mask=bias, **rest)
    rows = call.mask(query)
    if keys:
        output = output.nan_to_num()
    return (output, None) if rows is None else (call.zeroed(output, rows, wild=True), rows)


def _without(bias: Tensor | None, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores, or is True where one counts, with the removed `keys` out of the question."""
    if bias is None or bias.dtype == torch.bool:
        return keys if bias is None else bias & keys
    return bias.to(dtype).masked_fill(~keys, -torch.inf)


@rule("multi_head_attention_forward")
def _multi_head(call: Call) -> Result:
    query, key, value = call.args[:3]
    masks = [each for each in (call.mask(key), call.mask(value)) if each is not None]
    arguments: dict[str, Any] = dict(call.kwargs)
    rows = call.mask(query)
    if masks:
        if "key_padding_mask" in arguments and arguments["key_padding_mask"] is not None:
            raise call.refused("with key_padding_mask=")
        removed = ~functools.reduce(torch.logical_and, [each.on for each in masks])  # (tokens, samples, 1)
        arguments["key_padding_mask"] = removed.squeeze(-1).transpose(0, 1) if key.ndim == 3 else removed.squeeze(-1)
    output, weights = call.func(*call.args, **arguments)
    if rows is None:
        return (output.nan_to_num(), weights), [None] * (1 + (weights is not None))
    return (call.zeroed(output, rows, wild=True), weights), [rows, None][: 1 + (weights is not None)]
