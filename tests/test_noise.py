"""Random numbers: the published generator's own numbers, the right distributions, and nothing but content and seed in them."""

from __future__ import annotations

import math

import pytest
import torch

from attribkit import noise

# The first outputs of SplitMix64 from seed 1234567, as published with its reference implementation.
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def test_bits_are_those_of_splitmix64():
    bits = noise._bits(torch.tensor([1234567, 0]), 5)
    assert [number % 2**64 for number in bits[0].tolist()] == PUBLISHED
    assert bits[1, 0].item() % 2**64 == 0xE220A8397B1DCDAF


def test_uniform_draws_are_spread_evenly_below_one():
    draws = noise.uniform(torch.arange(4), 250_000)
    assert draws.dtype == torch.float32 and draws.min() >= 0 and draws.max() < 1
    counts = torch.histc(draws, 100, 0, 1)
    # Chi-squared of 99 degrees of freedom: above 160 once in 10,000 sequences, and the sequence is fixed.
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 160
    assert abs(torch.corrcoef(draws)[0, 1]) < 4 / math.sqrt(250_000)
    assert abs(torch.corrcoef(torch.stack((draws[0, 1:], draws[0, :-1])))[0, 1]) < 4 / math.sqrt(250_000)


@pytest.mark.parametrize("count", [500_001, 500_000])
def test_normal_draws_have_the_moments_of_a_normal_distribution(count):
    draws = noise.normal(torch.tensor([3]), count).double()
    assert draws.shape == (1, count)
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):  # the variance of x^p is E[x^2p] - E[x^p]^2
        assert abs(draws.pow(power).mean() - moment) < 4 * math.sqrt(spread / count), power
    half = count // 2
    pairs = torch.stack((draws[0, :half], draws[0, half : 2 * half]))
    assert abs(torch.corrcoef(pairs)[0, 1]) < 4 / math.sqrt(half)


def test_one_draw_is_finite():
    assert torch.isfinite(noise.normal(torch.arange(100_000), 1)).all()


def test_a_key_is_the_images_own_whatever_batch_it_is_in():
    images = torch.randn(5, 3, 6, 7)
    keys = noise.keys(images, 1)
    assert len(set(keys.tolist())) == 5
    order = torch.tensor([3, 1, 4, 0, 2])
    assert noise.keys(images[order], 1).equal(keys[order])
    assert noise.keys(images[:, :, :, :].to(memory_format=torch.channels_last), 1).equal(keys)
    assert noise.keys(images[2:3], 1).equal(keys[2:3])


def test_seeds_and_single_values_change_a_key():
    image = torch.zeros(1, 3, 6, 7)
    seen = {noise.keys(image, *seeds).item() for seeds in ((), (0,), (1,), (2**63 + 5,), (0, 0), (0, 1), (1, 0))}
    assert len(seen) == 7
    changed = image.clone()
    changed[0, 2, 5, 6] = 1e-30
    assert noise.keys(changed).item() != noise.keys(image).item()
    swapped = torch.zeros(2, 3, 6, 7)
    swapped[0, 0, 0, 0] = swapped[1, 0, 0, 1] = 1
    assert noise.keys(swapped)[0] != noise.keys(swapped)[1]


def test_a_seed_for_each_image_is_the_same_as_one_by_one():
    images = torch.randn(3, 3, 6, 7)
    together = noise.keys(images, 4, torch.tensor([0, 7, 9]))
    assert together.tolist() == [noise.keys(images[i : i + 1], 4, seed).item() for i, seed in enumerate((0, 7, 9))]
