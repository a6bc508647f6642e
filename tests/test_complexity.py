"""Complexity: closed forms of maps that are uniform, a point, or in between."""

from __future__ import annotations

import math

import pytest
import torch
from models import GapCNN, adapted
from torch import Tensor
from torch.testing import assert_close

from attribkit import Attribution, BadInput, Batch, Targets
from attribkit.metrics import Entropy, HalfMass, Sparseness, entropy, gini, half_mass_share

EVERY = {"gini": gini, "entropy": entropy, "half_mass_share": half_mass_share}
SIZE = (5, 8)
UNIFORM = torch.full((1, *SIZE), -0.3, dtype=torch.float64)
POINT = torch.zeros(1, *SIZE, dtype=torch.float64).index_fill(1, torch.tensor([3]), 0)
POINT[0, 3, 2] = -7


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_uniform_map_is_not_sparse_and_a_point_is():
    assert_close(gini(UNIFORM), numbers(0), rtol=0, atol=1e-12)
    assert_close(gini(POINT), numbers(1 - 1 / 40))
    assert_close(entropy(UNIFORM), numbers(1))
    assert_close(entropy(POINT), numbers(0))
    assert_close(half_mass_share(UNIFORM), numbers(0.5))
    assert_close(half_mass_share(POINT), numbers(0.5 / 40))


def test_gini_is_half_the_mean_difference_over_the_mean():
    maps = drawn(0, 6, 4, 7)
    size = maps.abs().flatten(1)
    difference = (size.unsqueeze(1) - size.unsqueeze(2)).abs().mean((1, 2))
    assert_close(gini(maps), difference / (2 * size.mean(1)))


def test_gini_of_a_map_that_one_part_holds_evenly_is_the_other_part():
    maps = torch.zeros(1, 10, 10, dtype=torch.float64)
    maps[:, :3] = 2
    assert_close(gini(maps), numbers(0.7))
    assert_close(entropy(maps), numbers(math.log(30) / math.log(100)))
    assert_close(half_mass_share(maps), numbers(0.15))


def test_entropy_is_that_of_the_shares():
    assert_close(entropy(torch.tensor([[[1.0, -1.0], [2.0, 0.0]]], dtype=torch.float64)), numbers(1.5 * math.log(2) / math.log(4)))


def test_of_the_last_pixel_as_much_is_counted_as_is_needed():
    maps = torch.tensor([[[4.0, 3.0, -2.0, 1.0]]], dtype=torch.float64)
    expected = {0.1: 0.25, 0.4: 1, 0.5: 1 + 1 / 3, 0.7: 2, 0.8: 2.5, 0.95: 3.5, 1.0: 4}
    for share, pixels in expected.items():
        assert_close(half_mass_share(maps, share), numbers(pixels / 4))
    assert_close(half_mass_share(torch.tensor([[[4.0, 0.0, 0.0, 0.0]]]), 1.0), torch.tensor([0.25]))


@pytest.mark.parametrize("score", EVERY.values(), ids=EVERY)
def test_neither_signs_nor_places_nor_scale_count(score):
    maps = drawn(1, 4, *SIZE)
    found = score(maps)
    order = torch.randperm(40)
    assert ((found > 0) & (found < 1)).all()
    for same in (-maps, maps.abs(), maps.flip(1), maps.flatten(1)[:, order].view(4, *SIZE), 1e30 * maps, 1e-30 * maps):
        assert_close(score(same), found)
    for factor in (1e-30, 1e30):
        assert_close(score(factor * maps.float()), found.float())


@pytest.mark.parametrize("score", EVERY.values(), ids=EVERY)
def test_the_same_map_at_twice_the_resolution_is_as_sparse(score):
    maps = drawn(2, 4, *SIZE)
    larger = score(maps.repeat_interleave(2, 1).repeat_interleave(2, 2))
    if score is entropy:  # log 4 more, of a largest that is log 4 more
        assert_close(larger, (score(maps) * math.log(40) + math.log(4)) / math.log(160))
    else:
        assert_close(larger, score(maps))


@pytest.mark.parametrize("score", EVERY.values(), ids=EVERY)
def test_a_map_of_zeros_has_nan_and_so_has_one_that_is_no_number(score):
    maps = drawn(3, 3, *SIZE)
    maps[0] = 0
    maps[2, 1, 1] = math.nan
    assert torch.equal(score(maps).isnan(), torch.tensor([True, False, True]))


def test_the_entropy_of_a_single_pixel_is_not_defined():
    assert entropy(torch.ones(1, 1, 1)).isnan() and gini(torch.ones(1, 1, 1)) == 0 and half_mass_share(torch.ones(1, 1, 1)) == 0.5


@pytest.mark.parametrize("score", EVERY.values(), ids=EVERY)
def test_the_more_even_of_two_maps_is_less_sparse(score):
    maps = drawn(4, 8, *SIZE).abs()
    even = score(maps + maps.mean((1, 2), keepdim=True))
    assert ((even < score(maps)) if score is gini else (even > score(maps))).all()


@pytest.mark.parametrize(
    ("metric", "score"),
    [(Sparseness(), gini), (Entropy(), entropy), (HalfMass(), half_mass_share), (HalfMass(0.9), None)],
    ids=["sparseness", "entropy", "half_mass", "half_mass_0.9"],
)
def test_the_classes_look_at_the_maps_own_resolution(metric, score):
    batch = Batch(torch.zeros(3, 3, 24, 40), Targets(torch.zeros(3, dtype=torch.int64)), ("a", "b", "c"))
    maps = drawn(5, 3, *SIZE).float()
    found = metric(adapted(GapCNN()), batch, Attribution(maps, batch.targets, batch.ids, "", size=(24, 40)))
    assert torch.equal(found, half_mass_share(maps, 0.9) if score is None else score(maps))
    uniform = metric(adapted(GapCNN()), batch, Attribution(UNIFORM.float().repeat(3, 1, 1), batch.targets, batch.ids, "", size=(24, 40)))
    assert_close(metric.chances(batch), uniform)
    assert metric.higher_is_better == (score is gini)


def test_a_share_beyond_the_whole_is_named():
    for share in (0, 1.5, -0.1):
        with pytest.raises(BadInput, match=rf"half_mass_share\(share=...\): got {share}, allowed: more than 0, and at most 1"):
            half_mass_share(torch.ones(1, 2, 2), share)
    with pytest.raises(BadInput, match=r"HalfMass\(share=...\): got 1.5, allowed: more than 0, and at most 1"):
        HalfMass(1.5)
    with pytest.raises(BadInput, match=r"HalfMass\(share=...\): got -1, allowed: a number of at least 0"):
        HalfMass(-1)


@pytest.mark.parametrize("score", EVERY.values(), ids=EVERY)
def test_wrong_shapes_are_named(score):
    with pytest.raises(BadInput, match=rf"{score.__name__}: got maps of shape \(4, 4\), allowed: \(B, h, w\)"):
        score(torch.zeros(4, 4))
