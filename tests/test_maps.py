"""Functions on maps: closed forms, invariants, and the maps that have nothing in them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from attribkit.errors import BadInput
from attribkit.maps import positive, ranks, resize, smooth, unit_max, unit_range, unit_sum

SIGNED = torch.tensor([[[1.0, -3.0], [0.0, 4.0]], [[-2.0, -2.0], [-2.0, -2.0]], [[0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
EVERY = {"positive": positive, "unit_sum": unit_sum, "unit_max": unit_max, "unit_range": unit_range, "ranks": ranks}


def exactly(found: Tensor, expected: object) -> None:
    assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=0, atol=0)


def drawn(seed: int, rows: int = 3, height: int = 4, width: int = 5) -> Tensor:
    return torch.randn(rows, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cell(height: int, width: int) -> Tensor:
    """An attribution that is 1 in the first of 2 x 2 cells and 0 elsewhere, at height x width per cell."""
    grid = torch.zeros(1, 2 * height, 2 * width, dtype=torch.float64)
    grid[:, :height, :width] = 1
    return grid


def share_in_first_cell(maps: Tensor) -> float:
    height, width = maps.shape[-2] // 2, maps.shape[-1] // 2
    return float(maps[:, :height, :width].sum() / maps.sum())


# Sizes ----------------------------------------------------------------------------------------------------------------------------


def test_resize_places_samples_at_the_middle_of_pixels() -> None:
    """From 2 to 4 cells the middles lie at -1/4, 1/4, 3/4, 5/4 of the way from the first to the second; outside, the border holds."""
    exactly(resize(torch.tensor([[[0.0, 8.0]]]), (1, 4)), [[[0.0, 2.0, 6.0, 8.0]]])
    exactly(resize(torch.tensor([[[0.0], [8.0]]]), (4, 1)), [[[0.0], [2.0], [6.0], [8.0]]])


def test_resize_to_fewer_pixels_takes_the_nearest_two_and_does_not_average() -> None:
    """The middles of 2 over 6 lie at 1 and 4 exactly: those values, whatever lies between."""
    exactly(resize(torch.tensor([[[9.0, 1.0, 9.0, 9.0, 4.0, 9.0]]]), (1, 2)), [[[1.0, 4.0]]])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 30))
def test_resize_keeps_constants_bounds_and_sums_of_maps(seed: int, height: int, width: int, high: int, wide: int) -> None:
    one, two = drawn(seed, 2, height, width), drawn(seed + 1, 2, height, width)
    assert_close(resize(torch.full_like(one, 0.7), (high, wide)), torch.full((2, high, wide), 0.7, dtype=torch.float64))
    assert_close(resize(one + 2 * two, (high, wide)), resize(one, (high, wide)) + 2 * resize(two, (high, wide)), rtol=1e-9, atol=1e-12)
    assert resize(one, (high, wide)).max() <= one.max() + 1e-12
    assert resize(one, (high, wide)).min() >= one.min() - 1e-12


def test_resize_to_the_same_size_is_the_same_tensor() -> None:
    assert resize(SIGNED, (2, 2)) is SIGNED


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 2)])
def test_resize_refuses_no_size(size: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match=r"^resize\(size=\.\.\.\): got \(-?\d, \d\), allowed: \(H, W\), each at least 1$"):
        resize(SIGNED, size)


@pytest.mark.parametrize(("columns", "expected"), [(7, 0.9646), (14, 0.9822), (28, 0.9911), (56, 0.9955), (224, 1.0)])
def test_bilinear_resizing_leaks_out_of_a_cell(columns: int, expected: float) -> None:
    """Half a source pixel at each of the two inner borders holds a quarter of its mass outside: (1 - 1 / (8 s))^2 for s columns per cell.

    The closed form is the limit of fine sampling; with p pixels per source pixel the middles give (1 - 1 / (8 s))^2 for even p.
    """
    found = share_in_first_cell(resize(cell(columns, columns), (448, 448)))
    if columns < 224:
        assert found == pytest.approx((1 - 1 / (8 * columns)) ** 2, rel=1e-12)
    assert found == pytest.approx(expected, abs=5e-5)


# Signs and scales -------------------------------------------------------------------------------------------------------------------


def test_positive_keeps_what_is_above_zero() -> None:
    exactly(positive(SIGNED), [[[1, 0], [0, 4]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])


def test_unit_sum_divides_by_the_sum_of_sizes() -> None:
    exactly(unit_sum(SIGNED), [[[0.125, -0.375], [0, 0.5]], [[-0.25, -0.25], [-0.25, -0.25]], [[0, 0], [0, 0]]])


def test_unit_max_divides_by_the_largest_size() -> None:
    exactly(unit_max(SIGNED), [[[0.25, -0.75], [0, 1]], [[-1, -1], [-1, -1]], [[0, 0], [0, 0]]])


def test_unit_range_shifts_the_smallest_to_zero() -> None:
    exactly(unit_range(SIGNED), [[[4 / 7, 0], [3 / 7, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])


def test_ranks_count_the_smaller_ones() -> None:
    exactly(ranks(SIGNED), [[[2, 0], [1, 3]], [[0, 1], [2, 3]], [[0, 1], [2, 3]]])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9999), st.floats(1e-3, 1e3))
def test_scale_falls_out_of_what_is_normalised(seed: int, scale: float) -> None:
    maps = drawn(seed)
    for name in ("unit_sum", "unit_max", "unit_range", "ranks"):
        assert_close(EVERY[name](scale * maps), EVERY[name](maps), rtol=1e-9, atol=1e-12)
    assert_close(unit_sum(maps).abs().sum((1, 2)), torch.ones(3, dtype=torch.float64))
    assert_close(unit_max(maps).abs().amax((1, 2)), torch.ones(3, dtype=torch.float64))
    assert_close(unit_range(maps + 5), unit_range(maps), rtol=1e-9, atol=1e-12)
    assert_close(ranks(maps.exp()), ranks(maps), rtol=0, atol=0)
    assert ranks(maps).flatten(1).sort().values.tolist() == [list(range(20))] * 3


@pytest.mark.parametrize("name", EVERY)
def test_each_map_is_treated_by_itself(name: str) -> None:
    maps = torch.cat([drawn(0) * 100, SIGNED.repeat(1, 2, 3)[:, :, :5]])
    alone = torch.cat([EVERY[name](one.unsqueeze(0)) for one in maps])
    assert_close(EVERY[name](maps), alone, rtol=0, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_the_caller_keeps_his_map(name: str) -> None:
    maps = SIGNED.clone()
    EVERY[name](maps)
    assert_close(maps, SIGNED, rtol=0, atol=0)


@pytest.mark.parametrize("value", [1e-30, 1e-42, 3e37])
def test_small_and_large_numbers_are_scaled_like_others(value: float) -> None:
    """Down to the smallest float32 there is, and up to where the sum of four would still fit."""
    maps = torch.tensor([[[1.0, -1.0], [0.0, 1.0]]]) * value
    assert_close(unit_max(maps), torch.tensor([[[1.0, -1.0], [0.0, 1.0]]]), rtol=0, atol=0)
    assert_close(unit_sum(maps), torch.tensor([[[1.0, -1.0], [0.0, 1.0]]]) / 3, rtol=1e-6, atol=0)


# Smoothing --------------------------------------------------------------------------------------------------------------------------


def test_a_window_of_one_pixel_changes_nothing() -> None:
    assert_close(smooth(SIGNED, 1), SIGNED, rtol=0, atol=0)


def test_a_single_pixel_becomes_the_window() -> None:
    """Weights exp(-x^2 / (2 sigma^2)) with sigma = K / 4, normalised over the window: for K = 5, exp(-8 x^2 / 25)."""
    maps = torch.zeros(1, 7, 9, dtype=torch.float64)
    maps[0, 3, 4] = 2
    weights = torch.tensor([math.exp(-8 * x**2 / 25) for x in (-2, -1, 0, 1, 2)], dtype=torch.float64)
    weights = weights / weights.sum()
    expected = torch.zeros(1, 7, 9, dtype=torch.float64)
    expected[0, 1:6, 2:7] = 2 * weights.unsqueeze(1) * weights
    assert_close(smooth(maps, 5), expected, rtol=1e-12, atol=1e-15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.sampled_from([3, 5, 9, 21]))
def test_what_lies_inside_keeps_its_total_and_sums_commute(seed: int, kernel: int) -> None:
    inner = drawn(seed, 2, 3, 4)
    reach = kernel // 2
    maps = torch.nn.functional.pad(inner, (reach, reach, reach, reach))
    assert_close(smooth(maps, kernel).sum((1, 2)), inner.sum((1, 2)), rtol=1e-9, atol=1e-12)
    other = drawn(seed + 1, 2, *maps.shape[1:])
    assert_close(smooth(maps + other, kernel), smooth(maps, kernel) + smooth(other, kernel), rtol=1e-9, atol=1e-12)
    turned = smooth(maps.transpose(1, 2), kernel).transpose(1, 2)
    assert_close(smooth(maps, kernel), turned, rtol=1e-9, atol=1e-12)


def test_mass_is_lost_over_the_border_and_nowhere_else() -> None:
    """Of a constant map the middle keeps its value, and a corner the square of half the window and its middle."""
    smoothed = smooth(torch.ones(1, 11, 11, dtype=torch.float64), 5)
    assert float(smoothed[0, 5, 5]) == pytest.approx(1, abs=1e-12)
    middle = 1 / sum(math.exp(-8 * x**2 / 25) for x in (-2, -1, 0, 1, 2))
    assert float(smoothed[0, 0, 0]) == pytest.approx(((1 + middle) / 2) ** 2, rel=1e-12)


@pytest.mark.parametrize(("kernel", "expected"), [(9, 0.9929), (17, 0.9863), (33, 0.9732), (65, 0.9469), (129, 0.8932)])
def test_smoothing_leaks_out_of_a_cell(kernel: int, expected: float) -> None:
    """The best a smoothed map can score on a disconnected 2 x 2 grid of 224-pixel cells."""
    assert share_in_first_cell(smooth(cell(224, 224), kernel)) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("kernel", [0, -3, 2, 128])
def test_a_window_has_a_middle(kernel: int) -> None:
    with pytest.raises(BadInput, match=rf"^smooth\(kernel=\.\.\.\): got {kernel}, allowed: an odd number of pixels$"):
        smooth(SIGNED, kernel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_window_may_be_wider_than_the_map(dtype: torch.dtype) -> None:
    maps = torch.ones(2, 3, 4, dtype=dtype)
    assert smooth(maps, 9).shape == maps.shape
    assert smooth(maps, 9).dtype == dtype
