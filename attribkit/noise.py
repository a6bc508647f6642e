"""Random numbers that belong to an image: drawn from its content and a seed, so that neither batch nor chunk changes them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The increment and the two factors of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014),
# as the signed numbers that int64 holds; products wrap around.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def keys(images: Tensor, *seeds: int | Tensor, pictures: bool = True) -> Tensor:
    """A number for each image, from its values and `seeds` (numbers, or one for each image): what its draws begin with; int64 (B,).

    Activations, which are no `pictures`, are not told apart: their last bits change with the batch that they were computed in.
    """
    if not pictures:
        images = images.new_zeros(len(images), 1)
    bits = (images.float() + 0.0).contiguous().view(torch.int32).flatten(1).to(torch.int64)
    places = torch.arange(1, bits.shape[1] + 1, device=images.device)
    key = mixed((bits * (mixed(places * _STEP) | 1)).sum(1))  # a sum that wraps around is the same in any order
    for seed in seeds:
        # One more than the seed, since what has no bits set stays so when it is mixed: a black image under seed 0.
        key = mixed(key + _STEP * ((seed if isinstance(seed, Tensor) else key.new_tensor(seed % 2**63)) + 1))
    return key


def uniform(key: Tensor, count: int) -> Tensor:
    """`count` independent draws from [0, 1) for each key; float32 (B, count)."""
    return (_bits(key, count) >> 40 & 0xFFFFFF).float() / 2**24


def normal(key: Tensor, count: int) -> Tensor:
    """`count` independent draws from the standard normal distribution for each key (Box-Muller); float32 (B, count)."""
    bits = _bits(key, (count + 1) // 2)
    # (0, 1], whose logarithm is finite; two draws from the two halves of one number.
    radius = ((_shifted(bits, 32).float() + 1) / 2**32).log_().mul_(-2).sqrt_()
    angle = (bits & 0xFFFFFFFF).float() * (2 * math.pi / 2**32)
    return torch.cat((radius * angle.cos(), radius * angle.sin()), 1)[:, :count]


def _bits(key: Tensor, count: int) -> Tensor:
    """64 random bits for each key and place: a counter-based generator, since one with a state would tie a draw to those before it."""
    return mixed(key.unsqueeze(1) + torch.arange(1, count + 1, device=key.device) * _STEP)


def mixed(numbers: Tensor) -> Tensor:
    """int64 -> int64, each bit of the input stirred into all bits of the output."""
    for shift, factor in _FACTORS:
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, places: int) -> Tensor:
    """Bits moved right with zeros behind them, which int64's own shift fills with the sign."""
    return (numbers >> places) & ((1 << (64 - places)) - 1)
