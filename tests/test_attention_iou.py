"""Attention-IoU: the formula, what is done to a map before it, and maps for two classes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Dead, GapCNN, adapted
from torch import Tensor
from torch.testing import assert_close

from attribkit import Attribution, BadInput, Batch, Targets
from attribkit.errors import UnknownName
from attribkit.maps import positive, resize, unit_range
from attribkit.methods import GradCAM, Gradient
from attribkit.metrics import AttentionIoU, HeatmapIoU, attention_iou, attention_iou_pairs

SIZE = (24, 40)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def region_of(share: float) -> Tensor:
    """A part of an image of 20 x 10."""
    region = torch.zeros(1, 200, dtype=torch.float64)
    region[:, : round(200 * share)] = 1
    return region.view(1, 20, 10)


def published(maps: Tensor, other: Tensor) -> Tensor:
    """The formula as it is printed."""
    one, other = (each / each.sum((1, 2), keepdim=True) for each in (maps, other))
    return (one * other).sum((1, 2)) / ((one + other) / 2).square().sum((1, 2))


def batch_of(images: Tensor, regions: Tensor | None = None, kind: str = "logit") -> Batch:
    targets = Targets(torch.arange(len(images)) % 5, kind)
    return Batch(images, targets, tuple(f"i{row}" for row in range(len(images))), {} if regions is None else {"it": regions})


def scored(metric: AttentionIoU, maps: Tensor, regions: Tensor) -> Tensor:
    batch = batch_of(torch.zeros(len(maps), 3, *regions.shape[1:]), regions)
    return metric(adapted(GapCNN()), batch, Attribution(maps.float(), batch.targets, batch.ids, "", size=tuple(regions.shape[1:])))


# The formula ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "expected"), [(0.1, 0.3077), (0.25, 0.5714), (0.5, 0.8), (1, 1)])
def test_a_uniform_map_says_how_large_the_region_is(share, expected):
    found = attention_iou(torch.ones(1, 20, 10, dtype=torch.float64), region_of(share))
    assert_close(found, numbers(4 / (3 + 1 / share)), rtol=1e-12, atol=0)
    assert round(float(found), 4) == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.integers(1, 6), st.integers(1, 6))
def test_it_is_symmetric_has_no_scale_and_lies_between_0_and_1(seed, factor, height, width):
    one, other = drawn(seed, 3, height, width), drawn(seed + 1, 3, height, width)
    found = attention_iou(one, other)
    assert_close(found, published(one, other))
    assert_close(attention_iou(other, one), found)
    assert_close(attention_iou(factor * one, other), found)
    assert ((found >= 0) & (found <= 1)).all()
    assert torch.equal(attention_iou(one, one), torch.ones(3, dtype=torch.float64))
    assert_close(attention_iou(factor * one, one), torch.ones(3, dtype=torch.float64))


def test_rounding_does_not_take_it_above_1():
    maps = torch.rand(500, 7, 9)
    assert attention_iou(maps, 3 * maps).max() == 1


def test_it_is_1_only_where_maps_are_equal_and_0_only_where_they_are_disjoint():
    maps = drawn(0, 1, 4, 5)
    other = maps.clone()
    other[0, 0, 0] += 1e-3
    assert 1 - 1e-6 < attention_iou(maps, other) < 1
    assert attention_iou(region_of(0.5), 1 - region_of(0.5)) == 0
    touching = region_of(0.5).flatten(1).roll(-1, 1).view(1, 20, 10)  # the last pixel alone is in neither's opposite
    assert 0 < attention_iou(region_of(0.5), 1 - touching) < 0.05


def test_it_is_2d_over_1_plus_d_of_the_soft_dice_of_shares():
    one, other = drawn(1, 8, 5, 6), drawn(2, 8, 5, 6)
    a, b = (each / each.sum((1, 2), keepdim=True) for each in (one, other))
    dice = 2 * (a * b).sum((1, 2)) / (a.square() + b.square()).sum((1, 2))
    assert_close(attention_iou(one, other), 2 * dice / (1 + dice))
    assert torch.equal(attention_iou(one, other).argsort(), dice.argsort())


def test_of_sets_it_is_4o_over_p_plus_q_plus_2o_and_no_jaccard_index():
    one, other = region_of(0.3), region_of(0.5)  # 60 pixels inside 100
    assert_close(attention_iou(one, other), numbers(4 * 60 / (60 + 100 + 2 * 60)))
    assert float(attention_iou(one, other)) != 60 / 100


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_nearest_upsampling_by_a_whole_factor_leaves_it(factor):
    maps, regions = drawn(3, 4, 5, 7), drawn(4, 4, 5, 7)
    larger = [each.repeat_interleave(factor, 1).repeat_interleave(factor, 2) for each in (maps, regions)]
    assert_close(attention_iou(*larger), attention_iou(maps, regions))


def test_values_below_zero_count_as_zero_and_a_map_without_any_above_has_nan():
    maps = torch.tensor([[[1.0, -5.0]], [[0.0, 0.0]], [[-1.0, -2.0]], [[math.nan, 1.0]]])
    whole = torch.ones(4, 1, 2)
    expected = torch.tensor([0.8, math.nan, math.nan, math.nan])
    assert_close(attention_iou(maps, whole), expected, equal_nan=True)
    assert_close(attention_iou(whole, maps), expected, equal_nan=True)
    assert attention_iou(maps[1:2], maps[1:2]).isnan().all()


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_neither_large_nor_small_values_overflow(factor):
    maps, other = drawn(5, 2, 6, 6).float(), drawn(6, 2, 6, 6).float()
    assert_close(attention_iou(factor * maps, other / factor), attention_iou(maps, other))
    assert attention_iou(maps.half(), other.bool()).dtype == torch.float32
    assert attention_iou(maps.double(), other.double()).dtype == torch.float64


def test_all_pairs_are_those_of_the_function():
    maps = drawn(7, 3, 6, 5, 4) - 0.3
    maps[1, 2] = -1
    found = attention_iou_pairs(maps)
    assert found.shape == (3, 6, 6)
    for one in range(6):
        for other in range(6):
            assert_close(found[:, one, other], attention_iou(maps[:, one], maps[:, other]), equal_nan=True)
    known = torch.ones(3, 6, 6, dtype=torch.bool)
    known[1, 2] = known[1, :, 2] = False
    assert torch.equal(found.isnan(), ~known)
    own = found.diagonal(dim1=1, dim2=2)
    assert torch.equal(own[~own.isnan()], torch.ones(17, dtype=torch.float64))
    assert_close(found, found.mT, equal_nan=True)


def test_wrong_shapes_are_named():
    with pytest.raises(BadInput, match=r"attention_iou: got \(1, 4, 4\) and \(1, 4, 5\), allowed: \(B, H, W\) twice"):
        attention_iou(torch.ones(1, 4, 4), torch.ones(1, 4, 5))
    with pytest.raises(BadInput, match=r"attention_iou: got maps of shape \(4, 4\), allowed: \(B, h, w\)"):
        attention_iou(torch.ones(4, 4), torch.ones(4, 4))
    with pytest.raises(BadInput, match=r"attention_iou_pairs: got \(1, 4, 4\), allowed: \(B, L, h, w\)"):
        attention_iou_pairs(torch.ones(1, 4, 4))


# The mask score -------------------------------------------------------------------------------------------------------------------


def squares() -> Tensor:
    regions = torch.zeros(3, *SIZE, dtype=torch.float64)
    for row in range(3):
        regions[row, 2 + row : 14, 4 * row : 20] = 1
    regions[2] *= 0.4  # a soft mask that is nowhere sure
    return regions


def test_a_map_is_clipped_scaled_resized_and_scaled_again():
    maps, regions = drawn(8, 3, 5, 7) - 0.3, squares()
    maps[1] += 0.5  # nothing below zero: its smallest value is taken off, twice
    prepared = maps.clamp(min=0)
    prepared = prepared - prepared.amin((1, 2), keepdim=True)
    prepared = F.interpolate(prepared.unsqueeze(1), SIZE, mode="bilinear").squeeze(1)
    once = published(prepared, regions).float()
    twice = published(prepared - prepared.amin((1, 2), keepdim=True), regions).float()
    found = scored(AttentionIoU(), maps, regions)
    assert_close(found, twice)
    assert (found - once).abs().max() > 1e-4  # between pixels none is as low as the lowest
    late = F.interpolate(maps.unsqueeze(1), SIZE, mode="bilinear").squeeze(1).clamp(min=0)
    assert (found - published(late, regions).float()).abs().max() > 1e-3  # the size comes after the clipping here


def test_at_the_maps_own_grid_the_region_is_sampled():
    maps, regions = drawn(9, 3, 5, 7) - 0.3, squares()
    maps = maps - maps.amin((1, 2), keepdim=True) * (maps.amin((1, 2), keepdim=True) > 0)
    small = F.interpolate(regions.unsqueeze(1), (5, 7), mode="bilinear").squeeze(1)
    found = scored(AttentionIoU(resolution="map"), maps, regions)
    assert_close(found, published(maps.clamp(min=0), small).float())
    assert (found - scored(AttentionIoU(), maps, regions)).abs().min() > 1e-3


def test_an_empty_region_has_0_or_is_skipped_and_a_constant_map_has_nan():
    regions, maps = squares(), drawn(10, 3, 5, 7)
    regions[1] = 0
    maps[2] = 0.5
    whole = scored(AttentionIoU(), maps, regions)
    assert whole[1] == 0 and whole[0] > 0 and whole[2].isnan()
    skipping = scored(AttentionIoU(empty="skip"), maps, regions)
    assert torch.equal(skipping.isnan(), torch.tensor([False, True, True])) and skipping[0] == whole[0]
    batch = batch_of(torch.zeros(3, 3, *SIZE), regions)
    assert AttentionIoU().chances(batch)[1] == 0 and AttentionIoU(empty="skip").chances(batch)[1].isnan()


def test_chance_is_the_score_of_a_uniform_map():
    regions = squares()
    found = AttentionIoU().chances(batch_of(torch.zeros(3, 3, *SIZE), regions))
    share = regions[:2].mean((1, 2))
    assert_close(found[:2], (4 / (3 + 1 / share)).float())
    # A mask that is as unsure everywhere in its square is the same as one that is sure: both are shares of their sums.
    assert_close(found[2], (4 / (3 + 1 / regions[2].bool().double().mean())).float())


def test_at_the_maps_own_grid_there_is_no_chance_without_the_map():
    # The region's share of a coarse grid is another: a constant number would belong to a score that is not given.
    batch = batch_of(torch.zeros(3, 3, *SIZE), squares())
    assert AttentionIoU(resolution="map").chances(batch) is None and AttentionIoU(resolution="map", empty="skip").chances(batch) is None
    assert AttentionIoU().chances(batch) is not None


# The heatmap score ----------------------------------------------------------------------------------------------------------------


def test_a_label_with_itself_has_1():
    model = adapted(GapCNN(classes=5), classes=["a", "b", "c", "d", "e"])
    batch = dataclasses.replace(batch_of(torch.randn(4, 3, *SIZE)), targets=Targets(torch.full((4,), 3)))
    method = GradCAM()
    for resolution in ("image", "map"):
        for other in (3, "d", "D"):
            found = HeatmapIoU(other, resolution)(model, batch, method(model, batch), method)
            assert found.isfinite().any() and (found[found.isfinite()] == 1).all()
    with pytest.raises(UnknownName, match="no class is called 'f'"):
        HeatmapIoU("f")(model, batch, method(model, batch), method)


@pytest.mark.parametrize("resolution", ["image", "map"])
def test_two_labels_have_the_overlap_of_their_maps(resolution):
    model = adapted(GapCNN())
    batch = batch_of(torch.randn(5, 3, *SIZE))
    method = GradCAM()
    maps = method(model, batch)
    others = method(model, dataclasses.replace(batch, targets=Targets(torch.full((5,), 2))))
    both = []
    for each in (maps.maps, others.maps):
        each = each.clamp(min=0).double()
        each = each - each.amin((1, 2), keepdim=True)
        if resolution == "image":
            each = F.interpolate(each.unsqueeze(1), SIZE, mode="bilinear").squeeze(1)
        both.append(each - each.amin((1, 2), keepdim=True))
    found = HeatmapIoU(2, resolution)(model, batch, maps, method)
    assert_close(found, published(*both).float(), rtol=1e-4, atol=1e-5, equal_nan=True)
    assert found[2] == 1 and (found[[1, 3, 4]] < 1).all()  # of the first image Grad-CAM has nothing above zero


def test_pairs_of_maps_that_are_prepared_as_it_says_have_the_heatmap_scores():
    every = drawn(11, 3, 5, 5, 7).float() - torch.tensor([0.4, 0.2, 0, -0.2, -0.4]).view(1, 5, 1, 1)  # some with nothing below zero

    def method(model, batch):
        maps = every[batch.targets.index, torch.arange(5)]
        return Attribution(maps, batch.targets, batch.ids, "by hand", size=SIZE)

    model, batch = adapted(GapCNN()), batch_of(torch.randn(5, 3, *SIZE))
    of_all = [method(model, dataclasses.replace(batch, targets=Targets(torch.full((5,), label)))) for label in range(3)]
    prepared = torch.stack([unit_range(resize(unit_range(positive(each.maps)), SIZE)) for each in of_all], 1)
    found, bare = attention_iou_pairs(prepared), attention_iou_pairs(torch.stack([each.at() for each in of_all], 1))
    for label, maps in enumerate(of_all):
        own = dataclasses.replace(batch, targets=maps.targets)
        for other in range(3):
            assert_close(found[:, label, other], HeatmapIoU(other)(model, own, maps, method))
    others = ~torch.eye(3, dtype=torch.bool).expand(5, 3, 3)
    assert found.isfinite().all() and ((found - bare).abs()[others] > 1e-3).all()  # which are other scores


@pytest.mark.parametrize("kind", ["evidence", "probability"])
def test_what_is_explained_of_the_other_class_is_the_same_of_it(kind):
    asked = []

    def explain(model, batch):
        asked.append(batch)
        return Gradient()(model, batch)

    model = adapted(GapCNN())
    batch = batch_of(torch.randn(2, 3, *SIZE), kind=kind)
    HeatmapIoU(4)(model, batch, Gradient()(model, batch), explain)
    (other,) = asked
    assert other.targets.kind == kind and other.targets.index.tolist() == [4, 4]
    assert torch.equal(other.images, batch.images) and other.ids == batch.ids


def test_a_label_that_nothing_influences_has_nan():
    model = adapted(Dead())
    batch = batch_of(torch.randn(2, 3, *SIZE))
    assert HeatmapIoU(1)(model, batch, Gradient()(model, batch), Gradient()).isnan().all()
