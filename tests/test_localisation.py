"""Where a map lies: shares of grids and regions, the pointing game, and how well a map's order tells inside from outside."""

from __future__ import annotations

import math

import pytest
import torch
from models import GapCNN, adapted
from torch import Tensor
from torch.testing import assert_close

from attribkit import Attribution, BadInput, Batch, Targets
from attribkit.maps import positive, resize, smooth
from attribkit.metrics import (
    AttentionIoU,
    AveragePrecision,
    EnergyInside,
    LocalizationScore,
    MaskIoU,
    Metric,
    PixelAUC,
    PointingGame,
    average_precision,
    energy_inside,
    localization_score,
    mask_iou,
    pixel_auc,
    pointing_game,
)

SIZE = (24, 40)
IN_A_REGION = {"energy_inside": energy_inside, "pointing_game": pointing_game, "mask_iou": mask_iou, "pixel_auc": pixel_auc}
IN_A_REGION["average_precision"] = average_precision
EVERY = [
    AttentionIoU(),
    AttentionIoU(resolution="map"),
    LocalizationScore(),
    LocalizationScore(interpolate=False),
    EnergyInside(),
    PointingGame(tolerance=1),
    MaskIoU(),
    PixelAUC(),
    AveragePrecision(),
]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def corner(side: int, n: int = 2, place: int = 0) -> Tensor:
    """An attribution that is 1 in one cell of n x n, each of `side` x `side`, and 0 elsewhere."""
    grid = torch.zeros(1, n * side, n * side, dtype=torch.float64)
    row, column = place // n * side, place % n * side
    grid[:, row : row + side, column : column + side] = 1
    return grid


def images_with(region: Tensor) -> Batch:
    rows = len(region)
    return Batch(
        torch.zeros(rows, 3, *region.shape[1:]), Targets(torch.zeros(rows, dtype=torch.int64)), tuple("abcdefghijkl"[:rows]), {"it": region}
    )


def scored(metric: Metric, maps: Tensor, region: Tensor) -> Tensor:
    batch = images_with(region)
    return metric(adapted(GapCNN()), batch, Attribution(maps.float(), batch.targets, batch.ids, "", size=tuple(region.shape[1:])))


def blocks(rows: int) -> Tensor:
    """Squares at different places of images of 24 x 40."""
    region = torch.zeros(rows, *SIZE)
    for row in range(rows):
        region[row, row : row + 12, 2 * row : 2 * row + 16] = 1
    return region


# The share of a cell --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "expected"), [(7, 0.9646), (14, 0.9822), (28, 0.9911), (56, 0.9955)])
def test_a_perfect_map_at_a_deep_layer_leaks_over_the_cells_border_when_it_is_interpolated(side, expected):
    found = localization_score(corner(side), 0, 2)
    assert_close(found, torch.tensor([(1 - 1 / (8 * side)) ** 2], dtype=torch.float64), rtol=1e-9, atol=0)
    assert round(float(found), 4) == expected
    for cell in range(4):
        assert_close(localization_score(corner(side, place=cell), cell, 2), found, rtol=1e-9, atol=0)


def test_a_border_on_both_sides_costs_twice():
    assert_close(localization_score(corner(7, 3, 4), 4, 3), torch.tensor([(1 - 2 / 56) ** 2], dtype=torch.float64), rtol=1e-9, atol=0)
    assert_close(
        localization_score(corner(7, 3, 1), 1, 3), torch.tensor([(1 - 2 / 56) * (1 - 1 / 56)], dtype=torch.float64), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("place", range(9))
def test_a_perfect_map_has_1_at_the_input_and_without_interpolation(place):
    assert localization_score(corner(224, 3, place), place, 3) == 1
    assert localization_score(corner(7, 3, place), place, 3, interpolate=False) == 1
    others = [localization_score(corner(7, 3, place), cell, 3, interpolate=False) for cell in range(9) if cell != place]
    assert others == [0] * 8


@pytest.mark.parametrize(("kernel", "expected"), [(1, 1), (9, 0.9929), (17, 0.9863), (33, 0.9732), (65, 0.9469), (129, 0.8932)])
def test_a_smoothed_perfect_map_leaks(kernel, expected):
    assert round(float(localization_score(smooth(corner(224), kernel), 0, 2)), 4) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("interpolate", [True, False])
def test_a_uniform_map_has_the_share_of_the_cell_exactly(n, interpolate):
    for side in (n, 7 * n):
        for cell in (0, n * n - 1):
            assert localization_score(torch.full((1, side, side), 0.25), cell, n, interpolate) == torch.tensor(1 / n**2)


def test_of_a_pixel_that_lies_in_several_cells_each_has_its_part():
    maps = torch.zeros(2, 3, 3)
    maps[0, 1, 1] = maps[1, 0, 1] = 3
    found = torch.stack([localization_score(maps, cell, 2, interpolate=False) for cell in range(4)])
    assert torch.equal(found, torch.tensor([[0.25, 0.5], [0.25, 0.5], [0.25, 0], [0.25, 0]]))


def test_maps_are_resized_while_they_have_their_signs():
    # From 2 to 4 pixels the first counts u = 1, 3/4, 1/4, 0; the map there is 2 u u' - 1, which is positive inside the cell alone.
    maps = torch.tensor([[[1.0, -1.0], [-1.0, -1.0]]])
    assert localization_score(maps, 0, 2, size=(4, 4)) == 1
    assert localization_score(positive(maps), 0, 2, size=(4, 4)) == 1.75**2 / 4
    assert energy_inside(maps, corner(2)) == 1
    assert energy_inside(positive(maps), corner(2)) == 1.75**2 / 4


def test_a_map_is_brought_to_224_pixels_a_cell_unless_it_has_as_many():
    maps = drawn(2, 12, 20)
    assert torch.equal(localization_score(maps, 2, 2), localization_score(resize(maps, (448, 448)), 2, 2, interpolate=False))
    large = drawn(2, 500, 450)
    assert torch.equal(localization_score(large, 2, 2), localization_score(large, 2, 2, interpolate=False))
    assert torch.equal(localization_score(maps, 1, 2, size=(30, 44)), localization_score(resize(maps, (30, 44)), 1, 2, interpolate=False))


def test_the_cells_of_a_grid_share_everything():
    maps = drawn(3, 10, 14)
    for n, interpolate in ((2, True), (3, False), (4, False)):
        total = sum(localization_score(maps, cell, n, interpolate) for cell in range(n * n))
        assert_close(total, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("interpolate", [True, False])
def test_the_class_scores_a_cell_as_the_function_does(interpolate):
    maps = drawn(4, 5, 7)
    for cell in range(9):
        row, column = divmod(cell, 3)
        region = torch.zeros(4, 24, 42)
        region[:, 8 * row : 8 * row + 8, 14 * column : 14 * column + 14] = 1
        expected = localization_score(maps, cell, 3, interpolate, size=(24, 42)).float()
        assert_close(scored(LocalizationScore(interpolate=interpolate), maps, region), expected)
    assert_close(LocalizationScore().chances(images_with(region)), torch.full((4,), 1 / 9))


def test_energy_inside_is_the_share_of_the_positive_part():
    maps = torch.tensor([[[3.0, -5.0], [1.0, 0.0]]])
    assert energy_inside(maps, torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])) == 0.75
    assert energy_inside(maps, torch.tensor([[[0.5, 0.0], [0.0, 1.0]]])) == 0.375  # a soft region counts by its value
    assert energy_inside(maps, torch.tensor([[[False, True], [True, True]]])) == 0.25
    halved = energy_inside(maps.half(), torch.tensor([[[True, True], [False, False]]]))
    assert halved == 0.75 and halved.dtype == torch.float32


@pytest.mark.parametrize("maps", [torch.zeros(1, 4, 4), -torch.rand(1, 4, 4)])
def test_a_map_without_anything_positive_has_0(maps):
    assert localization_score(maps, 0, 2) == localization_score(maps, 0, 2, interpolate=False) == energy_inside(maps, corner(5)) == 0


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_a_share_has_no_scale(factor):
    maps = drawn(3, 6, 6).float()
    for interpolate in (True, False):
        assert_close(localization_score(factor * maps, 1, 2, interpolate), localization_score(maps, 1, 2, interpolate))


# The pointing game ----------------------------------------------------------------------------------------------------------------


def peak(row: int, column: int, size: tuple[int, int] = (60, 70)) -> Tensor:
    maps = torch.zeros(1, *size)
    maps[:, row, column] = 1
    return maps


@pytest.mark.parametrize(
    ("down", "across", "hit"),
    [(0, 14, 1), (0, 15, 0), (-14, 0, 1), (15, 0, 0), (9, 12, 0), (12, -9, 0), (5, 14, 1), (-10, -11, 1), (11, 11, 0)],
)
def test_a_point_less_than_the_tolerance_away_is_a_hit(down, across, hit):
    # 9^2 + 12^2 = 15^2 is not less, 10^2 + 11^2 = 221 is, 11^2 + 11^2 = 242 is not.
    assert pointing_game(peak(30 + down, 35 + across), peak(30, 35)) == hit


@pytest.mark.parametrize("tolerance", [1, 2, 5, 9, 100])
def test_near_is_what_a_disk_around_the_region_covers(tolerance):
    size = (11, 17)
    region = (torch.rand(6, *size) < 0.03).float()
    region[0] = 0
    region[0, 0, 16] = 1
    at = torch.cartesian_prod(torch.arange(11.0), torch.arange(17.0))
    pairs = ((at.unsqueeze(0) - at.unsqueeze(1)).square().sum(2) < tolerance**2).float()
    near = (region.flatten(1) @ pairs > 0).float()
    every = torch.eye(11 * 17).view(-1, *size)
    for row in range(6):
        if region[row].any():
            assert torch.equal(pointing_game(every, region[row].expand(len(every), -1, -1), tolerance), near[row])
    expected = torch.where(region.flatten(1).any(1), near.mean(1), torch.nan)
    assert_close(PointingGame(tolerance=tolerance).chances(images_with(region)), expected, equal_nan=True)


def test_the_point_is_that_of_the_signed_map_at_the_size_of_the_region():
    maps = torch.tensor([[[-9.0, 2.0], [1.0, 0.0]]])
    region = torch.zeros(1, 8, 8)
    region[:, 0, 7] = 1
    assert pointing_game(maps, region, tolerance=3) == 1
    assert pointing_game(-maps, region, tolerance=3) == 0


def test_of_several_highest_points_the_first_counts():
    maps, region = torch.zeros(1, 6, 6), torch.zeros(1, 6, 6)
    maps[0, 1, 4] = maps[0, 4, 1] = 1
    region[0, 1, 4] = 1
    assert pointing_game(maps, region, tolerance=2) == 1
    assert pointing_game(maps, region.flip(1, 2), tolerance=2) == 0


def test_a_constant_map_points_nowhere_and_an_empty_region_cannot_be_hit():
    region = torch.zeros(2, 10, 10)
    region[0, 0, 0] = 1  # a disk of radius 2 around the corner has 1 + 2 + 1 pixels in the image
    found = pointing_game(torch.full((2, 3, 3), 0.3), region, tolerance=2)
    assert_close(found, torch.tensor([0.04, math.nan]), equal_nan=True)
    assert pointing_game(torch.full((1, 3, 3), -1.0), torch.ones(1, 10, 10)) == 1


# Ranking --------------------------------------------------------------------------------------------------------------------------


def test_the_order_of_pixels_is_scored_as_scikit_learn_does():
    ranking = pytest.importorskip("sklearn.metrics")
    maps = torch.cat([drawn(4, 6, 9), drawn(4, 6, 9).mul(2).round()])  # without and with ties
    region = (drawn(8, 6, 9, seed=1) > 0.7).double()
    pairs = [(value.flatten().numpy(), label.flatten().numpy()) for value, label in zip(maps, region, strict=True)]
    assert_close(
        pixel_auc(maps, region), torch.tensor([ranking.roc_auc_score(label, value) for value, label in pairs], dtype=torch.float64)
    )
    expected = torch.tensor([ranking.average_precision_score(label, value) for value, label in pairs], dtype=torch.float64)
    assert_close(average_precision(maps, region), expected)


def test_mask_iou_is_that_of_as_many_of_the_highest_pixels():
    maps, region = drawn(5, 6, 9), drawn(5, 6, 9, seed=1) > 0.5
    expected = []
    for value, inside in zip(maps.flatten(1), region.flatten(1), strict=True):
        top = torch.zeros_like(inside).index_fill(0, value.topk(int(inside.sum())).indices, True)
        expected.append(int((top & inside).sum()) / int((top | inside).sum()))
    assert_close(mask_iou(maps, region), torch.tensor(expected, dtype=torch.float64))


def test_equal_pixels_count_in_mask_iou_by_the_share_of_them_that_is_chosen():
    # Three are inside; one pixel is above, and of the four after it two are chosen: of the two of these that are inside, 2/4 each.
    maps = torch.tensor([[[5.0, 3.0, 3.0, 3.0, 3.0, 1.0]]])
    region = torch.tensor([[[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]])
    assert mask_iou(maps, region) == 2 / (6 - 2)
    assert mask_iou(maps, region.flip(2)) == 1 / (6 - 1)


@pytest.mark.parametrize("score", [mask_iou, pixel_auc, average_precision])
def test_a_perfect_order_has_1_and_only_the_order_counts(score):
    maps, region = drawn(3, *SIZE), blocks(3)
    assert torch.equal(score(resize(region, SIZE), region), torch.ones(3))
    assert torch.equal(score(maps + 100 * region, region), torch.ones(3, dtype=torch.float64))
    assert_close(score(maps.exp() - 7, region), score(maps, region))


def test_the_opposite_order_has_an_auc_of_0_and_no_overlap():
    maps, region = drawn(3, *SIZE), blocks(3)
    assert_close(pixel_auc(-maps, region), 1 - pixel_auc(maps, region))
    assert torch.equal(pixel_auc(-region, region), torch.zeros(3)) and torch.equal(mask_iou(-region, region), torch.zeros(3))


@pytest.mark.parametrize("score", [mask_iou, pixel_auc, average_precision])
def test_there_is_nothing_to_tell_where_a_region_is_empty_or_everything(score):
    region = torch.stack([torch.zeros(SIZE), torch.full(SIZE, 0.5), torch.ones(SIZE)])
    assert score(drawn(3, 4, 5), region).isnan().all()


def test_a_region_of_exactly_one_half_is_outside():
    maps, sure = drawn(3, *SIZE), blocks(3)
    unsure = torch.where(sure > 0, sure, 0.5)  # the frame of the block is a maybe
    for score in IN_A_REGION.values():
        if score is not energy_inside:  # to which a soft region counts by its value
            assert_close(score(maps, unsure), score(maps, sure), rtol=0, atol=0)
    batch, other = images_with(sure), images_with(unsure)
    for metric in (PointingGame(tolerance=3), MaskIoU(), AveragePrecision()):
        assert_close(metric.chances(other), metric.chances(batch), rtol=0, atol=0)
    assert_close(pointing_game(peak(3, 4), 0.5 * peak(3, 4)), torch.tensor([math.nan]), equal_nan=True)


# What holds for all ---------------------------------------------------------------------------------------------------------------


def check_order(metric: Metric, best: Tensor, middle: Tensor, worst: Tensor) -> None:
    assert metric.higher_is_better
    ordered = best.mean() > middle.mean() > worst.mean()
    assert ordered, f"{metric.brief()} is out of order: {best.mean():.3f}, {middle.mean():.3f}, {worst.mean():.3f}"


def three(metric: Metric) -> list[Tensor]:
    """The scores of maps that know the region, of random ones, and of those that know it and say the opposite."""
    region = blocks(12)
    noise = torch.rand(12, *SIZE, generator=torch.Generator().manual_seed(0))
    return [scored(metric, maps, region) for maps in (region + 0.1 * noise, noise, 1 - region + 0.1 * noise)]


@pytest.mark.parametrize("metric", EVERY, ids=Metric.brief)
def test_a_map_that_knows_the_region_beats_a_random_one_beats_the_opposite(metric):
    check_order(metric, *three(metric))


@pytest.mark.parametrize("metric", EVERY, ids=Metric.brief)
@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (2, 1, 0)])
def test_with_two_of_them_swapped_that_would_be_seen(metric, order):
    scores = three(metric)
    with pytest.raises(AssertionError, match="out of order"):
        check_order(metric, *(scores[place] for place in order))


@pytest.mark.parametrize("metric", EVERY[2:], ids=Metric.brief)
@pytest.mark.parametrize("grid", [(1, 1), (5, 7), SIZE])
def test_a_constant_map_has_the_value_of_chance(metric, grid):
    region = blocks(3)
    assert_close(scored(metric, torch.full((3, *grid), 0.3), region), metric.chances(images_with(region)))


@pytest.mark.parametrize("metric", [each for each in EVERY[2:] if not isinstance(each, PointingGame)], ids=Metric.brief)
def test_chance_is_what_random_maps_have_on_average(metric):
    # What a random order of 960 pixels has above the region's share in average precision is below 1 %.
    region = blocks(12)
    maps = torch.rand(12, *SIZE, generator=torch.Generator().manual_seed(1))
    found, chance = scored(metric, maps, region).mean(), metric.chances(images_with(region)).mean()
    assert_close(found, chance, rtol=0, atol=0.015)


@pytest.mark.parametrize("score", IN_A_REGION.values(), ids=IN_A_REGION)
def test_a_map_that_is_no_number_has_none(score):
    maps = drawn(3, *SIZE)
    maps[1, 3, 3] = math.nan
    found = score(maps, blocks(3))
    assert torch.equal(found.isnan(), torch.tensor([False, True, False]))


@pytest.mark.parametrize("score", IN_A_REGION.values(), ids=IN_A_REGION)
def test_wrong_shapes_are_named(score):
    name = score.__name__
    with pytest.raises(BadInput, match=rf"{name}: got maps of shape \(3, 1, 4, 4\), allowed: \(B, h, w\)"):
        score(torch.zeros(3, 1, 4, 4), torch.ones(3, 4, 4))
    with pytest.raises(BadInput, match=rf"{name}: got a region of shape \(2, 4, 4\), allowed: \(3, H, W\)"):
        score(torch.zeros(3, 4, 4), torch.ones(2, 4, 4))


def test_a_cell_that_is_not_there_and_a_tolerance_of_nothing_are_named():
    for cell, n in ((4, 2), (-1, 2), (0, 0)):
        with pytest.raises(BadInput, match=rf"localization_score: got cell {cell} of {n} x {n}, allowed: from 0 to {max(n, 1) ** 2 - 1}"):
            localization_score(torch.ones(1, 4, 4), cell, n)
    with pytest.raises(BadInput, match="pointing_game.*got 0, allowed: at least 1 pixel"):
        pointing_game(torch.ones(1, 4, 4), torch.ones(1, 4, 4), tolerance=0)
    with pytest.raises(BadInput, match="PointingGame.*got 0, allowed: an int of at least 1"):
        PointingGame(tolerance=0)


@pytest.mark.parametrize("metric", EVERY, ids=Metric.brief)
def test_double_precision_stays(metric):
    region = blocks(2)
    for score in IN_A_REGION.values():
        assert score(drawn(2, 5, 7), region).dtype == torch.float64
    assert scored(metric, drawn(2, 5, 7), region).dtype == torch.float32
