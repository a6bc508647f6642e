"""Rules of layers: convolutions, linear maps, norms, pools and resizing of activations with holes."""

from __future__ import annotations

import torch
from torch import Tensor

from .carrying import Call, Result, pair, rule
from .masks import Mask, Window, filled, filled_inside, mapped

# How far an interpolation looks beyond the nearest place.
_LOOKS = {"nearest": 0, "nearest-exact": 0, "area": 0, "bilinear": 1, "bicubic": 2}


def _with_neighbours(call: Call, mask: Mask, rounds: int) -> Tensor:
    """The first argument with its holes filled as far as `rounds` from what is valid."""
    x = call.x
    inner, sides = mask.border or (mask, None)
    weights = call.run.shares(inner, rounds, x.dtype)
    return filled(x, weights) if sides is None else filled_inside(x, weights, sides)


def _on_a_grid(call: Call, dimensions: int = 4) -> Mask:
    """The mask of the first argument, (N, C, h, w) or (N, C, length), if it is one for all channels."""
    mask = call.mask_of_x()
    if call.x.ndim != dimensions or mask.on.shape[1] != 1:
        raise call.refused("with a mask that is not the same for all channels of a grid")
    return mask


@rule("conv2d")
def _conv2d(call: Call) -> Result:
    mask, weight, padding = _on_a_grid(call), call.get(1, "weight"), call.get(4, "padding", 0)
    window = Window(
        kernel=(weight.shape[2], weight.shape[3]),
        stride=pair(call.get(3, "stride", 1)),
        padding=padding if isinstance(padding, str) else pair(padding),
        dilation=pair(call.get(5, "dilation", 1)),
    )
    output = call.given(_with_neighbours(call, mask, max(window.reach)))
    after = call.run.grown(mask, window)
    return call.zeroed(output, after), after


@rule("conv1d")
def _conv1d(call: Call) -> Result:
    mask, weight, padding = _on_a_grid(call, 3), call.get(1, "weight"), call.get(4, "padding", 0)
    window = Window(
        kernel=(1, weight.shape[2]),
        stride=(1, pair(call.get(3, "stride", 1))[1]),
        padding=padding if isinstance(padding, str) else (0, pair(padding)[1]),
        dilation=(1, pair(call.get(5, "dilation", 1))[1]),
    )
    row = mapped(mask, lambda on: on.unsqueeze(2))
    weights = call.run.shares(row, window.reach[1], call.x.dtype)
    output = call.given(filled(call.x.unsqueeze(2), weights).squeeze(2))
    after = mapped(call.run.grown(row, window), lambda on: on.squeeze(2))
    return call.zeroed(output, after), after


@rule("linear")
def _linear(call: Call) -> Result:
    mask = call.mask_of_x()
    if mask.on.shape[-1] == 1:
        return call.zeroed(call.plain(), mask), mask
    if mask.on[:1, ..., :1].numel() > 1:
        raise call.refused("with a mask that is not the same for all features of a place")
    # Places are among the features: it sees zeros in the holes, and after it there are no places any more.
    call.run.used_up(mask)
    return call.plain(), None


# Norms -------------------------------------------------------------------------------------------------------------------------


@rule("batch_norm")
def _batch_norm(call: Call) -> Result:
    mask = call.mask_of_x()
    if call.get(5, "training", False):
        raise call.refused("with the statistics of the batch")
    return call.zeroed(call.plain(), mask), mask


@rule("layer_norm")
def _layer_norm(call: Call) -> Result:
    mask, over = call.mask_of_x(), len(call.get(1, "normalized_shape"))
    if mask.on.shape[-over:].numel() == 1:
        return call.zeroed(call.plain(), mask), mask
    dimensions = tuple(range(call.x.ndim - over, call.x.ndim))
    values = _standard(call.x, mask.on, dimensions, call.get(4, "eps", 1e-5))
    return _normed(call, mask, _scaled(values, call.get(2, "weight"), call.get(3, "bias"))), mask


@rule("group_norm")
def _group_norm(call: Call) -> Result:
    mask, x = _on_a_grid(call), call.x
    grouped = x.reshape(len(x), call.get(1, "num_groups"), -1, *x.shape[2:])
    values = _standard(grouped, mask.on.unsqueeze(1), (2, 3, 4), call.get(4, "eps", 1e-5)).flatten(1, 2)
    return _normed(call, mask, _scaled(values, *(_by_channel(call.get(*each)) for each in ((2, "weight"), (3, "bias"))))), mask


@rule("instance_norm")
def _instance_norm(call: Call) -> Result:
    mask = _on_a_grid(call)
    if not call.get(5, "use_input_stats", True):
        return call.zeroed(call.plain(), mask), mask
    values = _standard(call.x, mask.on, (2, 3), call.get(7, "eps", 1e-5))
    return _normed(call, mask, _scaled(values, *(_by_channel(call.get(*each)) for each in ((3, "weight"), (4, "bias"))))), mask


def _by_channel(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.view(-1, 1, 1)


def _scaled(values: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    values = values if weight is None else values * weight
    return values if bias is None else values + bias


def _standard(x: Tensor, on: Tensor, dimensions: tuple[int, ...], eps: float) -> Tensor:
    """`x` less its mean, over its deviation, both of the kept values alone."""
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    kept = on.to(x.dtype).expand_as(x)
    count = kept.sum(dimensions, keepdim=True).clamp(min=1)
    centred = (x - x.sum(dimensions, keepdim=True) / count) * kept
    return centred / (centred.square().sum(dimensions, keepdim=True) / count + eps).sqrt()


def _normed(call: Call, mask: Mask, values: Tensor) -> Tensor:
    """The norm by kept statistics; a sample that is kept whole gets what the layer itself gives, to the bit."""
    plain = call.plain()
    entire = mask.on.flatten(1).all(1).view(-1, *(1,) * (plain.ndim - 1))
    return call.zeroed(torch.where(entire, plain, values.to(plain.dtype)), mask)


# Pools -------------------------------------------------------------------------------------------------------------------------


@rule("max_pool2d", "adaptive_max_pool2d", "max_pool1d", "adaptive_max_pool1d")
def _max_pool(call: Call) -> Result:
    mask = _on_a_grid(call, 3 if call.name.endswith("1d") else 4)
    after = Mask(call.given(mask.within()[0]) > 0, depth=mask.depth + 1)
    output = call.plain()
    return (output, None) if _is_all(call, mask) else (call.zeroed(output, after, wild=mask.border is not None), after)


@rule("avg_pool2d", "adaptive_avg_pool2d", "avg_pool1d", "adaptive_avg_pool1d")
def _avg_pool(call: Call) -> Result:
    mask = _on_a_grid(call, 3 if call.name.endswith("1d") else 4)
    after, output = _averaged(call, mask)
    return (output, None) if _is_all(call, mask) else (output, after)


def _is_all(call: Call, mask: Mask) -> bool:
    """Whether an adaptive pool makes one place of all: then no places are left that could be missing."""
    if not call.name.startswith("adaptive") or pair(call.get(1, "output_size") or 0) != (1, 1):
        return False
    call.run.used_up(mask)
    return True


def _averaged(call: Call, mask: Mask) -> tuple[Mask, Tensor]:
    """The means of kept values, and where there are any."""
    kept, image = mask.within(torch.promote_types(call.x.dtype, torch.float32))
    share = call.given(kept) / call.given(image)  # exactly one where all is kept
    on = share > 0
    output = call.plain()
    if call.policy.pool == "renormalise":
        output = (output / share.masked_fill(~on, 1)).to(output.dtype)
    return Mask(on, depth=mask.depth + 1), output


@rule("mean", "sum")
def _mean(call: Call) -> Result:
    mask, over = call.mask_of_x(), call.get(1, "dim")
    dimensions = [] if over is None else [each % call.x.ndim for each in ([over] if isinstance(over, int) else over)]
    if not dimensions or 0 in dimensions:
        raise call.refused("over the samples of a batch")
    if all(mask.on.shape[each] == 1 for each in dimensions):
        output = call.plain()
        return output, mask if output.ndim == call.x.ndim else mapped(mask, lambda on: on.amax(dimensions))
    after, output = _averaged(call, mask)
    if after.varies():
        return call.zeroed(output, after), after
    call.run.used_up(mask)
    return output, None


@rule("amax")
def _amax(call: Call) -> Result:
    mask = call.mask_of_x()
    after = Mask(call.given(mask.numbers(torch.float32)) > 0, depth=mask.depth)
    output = call.plain()
    if after.varies():
        return call.zeroed(output, after), after
    call.run.used_up(mask)
    return output, None


@rule("interpolate")
def _interpolate(call: Call) -> Result:
    mask, mode = _on_a_grid(call), call.get(3, "mode", "nearest")
    if mode not in _LOOKS or mask.border is not None:
        raise call.refused(f"with mode={mode!r}")
    output = call.given(_with_neighbours(call, mask, _LOOKS[mode]))
    # The nearest place of the mask.
    down, across = (
        torch.arange(new, device=output.device) * old // new for old, new in zip(call.x.shape[2:], output.shape[2:], strict=True)
    )
    after = Mask(mask.on.index_select(2, down).index_select(3, across), depth=mask.depth)
    return call.zeroed(output, after), after
