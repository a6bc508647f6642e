"""Occlusion and RISE: closed forms, captum's numbers, and how much they ask and keep."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import weakref

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from models import SIZE, GapCNN, Hungry, LinearModel, Recorded, ReluCNN, adapted
from torch.utils._python_dispatch import TorchDispatchMode

from attribkit import BadInput, Batch, Targets
from attribkit.methods import RISE, Occlusion
from attribkit.methods.perturbation import random_masks
from attribkit.noise import keys, uniform
from attribkit.progress import reporting
from attribkit.removals import Blur, Constant, Removal, fill

FILLS = {"grey": Constant("grey"), "blur": Blur()}


@dataclasses.dataclass(frozen=True)
class Negated(Removal):
    """A removal that is no in-fill: the model is shown the negative of what is not kept, and answers by half."""

    def prepared(self, model, images):
        def ask(which, keep):
            assert keep.dtype == torch.bool and len(keep) <= model.max_rows
            share = keep.flatten(1).double().mean(1, keepdim=True).to(images)
            return model.answer(torch.where(keep.unsqueeze(1), images[which], -images[which])) * (1 + share) / 2

        return ask


def drawn(rows: int = 3, size=SIZE, channels: int = 3) -> torch.Tensor:
    return torch.randn(rows, channels, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def batch_of(images, targets) -> Batch:
    return Batch(images, targets, tuple(str(i) for i in range(len(images))))


def linear(size=SIZE, **settings):
    model = adapted(LinearModel(size=size).double(), size=size, **settings)
    return model, model.module.head.weight.detach().view(5, 3, *size)


def shown(model, images, removal, keep, name):
    """The scores of an image under one mask, straight from what the removal is said to do."""
    if isinstance(removal, Negated):
        return model.logits((2 * keep - 1) * images) * (1 + keep.mean()) / 2
    filling = fill("grey" if name == "grey" else "blur", model, images)
    return model.logits(keep * images + (1 - keep) * filling)


REMOVALS = {**FILLS, "negated": Negated()}


# Occlusion -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "stride"), [(9, 5), (16, 8), (4, 4), (7, 3), (24, 10)])
def test_occlusion_is_a_third_of_captums_sum_over_channels(window, stride):
    # Captum gives the drop of a window to each of the three channels, so that their sum is three times the drop; it answers in float32.
    module = GapCNN().double().eval()
    images, index = drawn(), torch.tensor([2, 0, 4])
    expected = captum.attr.Occlusion(module).attribute(images, (3, window, window), (3, stride, stride), target=index)
    model = adapted(module, max_rows=7)
    maps = Occlusion(window=window, stride=stride).explained(model, images, Targets(index)).maps
    torch.testing.assert_close(maps.float(), expected.sum(1) / 3, rtol=1e-6, atol=1e-7 * maps.abs().max().item())


@pytest.mark.parametrize("name", REMOVALS)
@pytest.mark.parametrize(("window", "stride"), [(5, 5), (11, 4)])
def test_a_pixels_occlusion_is_the_mean_drop_of_the_windows_over_it(name, window, stride):
    model, _ = linear(max_rows=6)
    images, targets = drawn(2), Targets(torch.tensor([1, 3]))
    whole = targets.of(model.logits(images))
    total, times = torch.zeros(2, *SIZE, dtype=torch.float64), torch.zeros(SIZE)
    for top, left in itertools.product(*(range(0, side - window + stride, stride) for side in SIZE)):
        keep = torch.ones(SIZE, dtype=torch.float64)
        keep[top : top + window, left : left + window] = 0
        total += (whole - targets.of(shown(model, images, REMOVALS[name], keep, name))).view(-1, 1, 1) * (1 - keep)
        times += 1 - keep
    assert times.min() >= 1
    maps = Occlusion(REMOVALS[name], window, stride).explained(model, images, targets).maps
    torch.testing.assert_close(maps, total / times, rtol=1e-10, atol=1e-12)


def test_windows_side_by_side_sum_to_what_a_linear_model_says():
    model, weight = linear()
    images = drawn(2)
    maps = Occlusion(window=8, stride=8).explained(model, images, Targets(torch.tensor([1, 3]))).maps
    blocks = F.avg_pool2d((weight[[1, 3]] * images).sum(1, keepdim=True), 8) * 64
    torch.testing.assert_close(maps, F.interpolate(blocks, scale_factor=8, mode="nearest").squeeze(1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("chosen", "pairs"), [(Occlusion(window=11, stride=10), 3 * 3 * 4), (RISE(samples=12), 3 * 12)])
def test_the_cost_is_a_forward_per_part_in_full_rows(chosen, pairs):
    module = Recorded(LinearModel())
    images = drawn().float()
    chosen(adapted(module, max_rows=5), batch_of(images, Targets(torch.arange(3))))
    assert module.rows == [3, *[5] * (pairs // 5), pairs % 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 8, "stride": 9}, r"Occlusion\(stride=\.\.\.\): got 9, allowed: at most the window's 8"),
        ({"window": 0}, r"Occlusion\(window=\.\.\.\): got 0, allowed: an int of at least 1"),
        ({"stride": 0}, r"Occlusion\(stride=\.\.\.\): got 0, allowed: an int of at least 1"),
        ({"removal": 3}, r"Occlusion\(removal=\.\.\.\): got 3, allowed: a Removal"),
    ],
)
def test_windows_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        Occlusion(**settings)


def test_a_window_over_the_whole_image_is_refused():
    model, _ = linear()
    images, targets = drawn(1), Targets(torch.tensor([0]))
    with pytest.raises(BadInput, match="got 40 for 24 x 40, allowed: less than all of it"):
        Occlusion(window=40).explained(model, images, targets)
    maps = Occlusion(window=39, stride=1).explained(model, images, targets).maps  # two windows, each over all rows
    torch.testing.assert_close(maps, maps[:, :1].expand_as(maps), rtol=0, atol=0)
    assert maps[0, 0, 0] != maps[0, 0, 1] != maps[0, 0, -1]


# RISE ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "cells", "keep"), [((24, 40), 7, 0.5), ((24, 40), 3, 0.1), ((12, 5), 8, 0.5), ((48, 80), 7, 0.5)])
def test_masks_are_enlarged_bits_cut_out_at_a_random_place(size, cells, keep):
    masks = random_masks(torch.arange(20), size, cells=cells, keep=keep, seed=5)
    assert masks.shape == (20, *size) and masks.dtype == torch.float32
    draws = uniform(keys(torch.zeros(20, 1), 5, torch.arange(20)), cells**2 + 2)  # from the seed and the number alone, for any size
    cell = [math.ceil(side / cells) for side in size]
    for mask, draw in zip(masks, draws, strict=True):
        bits = (draw[:-2] < keep).float().view(1, 1, cells, cells)
        large = F.interpolate(bits, size=[(cells + 1) * side for side in cell], mode="bilinear", align_corners=False)[0, 0]
        top, left = (int(draw[place] * side) for place, side in zip((-2, -1), cell, strict=True))
        torch.testing.assert_close(mask, large[top : top + size[0], left : left + size[1]])


def test_masks_keep_the_share_that_was_asked_for_in_every_pixel_and_are_each_their_own():
    masks = random_masks(torch.arange(4000), (12, 20), cells=3, keep=0.3, seed=0)
    assert 0 <= masks.min() < 1e-3 and 1 - 1e-3 < masks.max() <= 1 + 1e-6
    # A pixel's variance is at most 0.3 * 0.7, so that of the mean of 4,000 is at most 0.0073 squared; five of those.
    assert (masks.mean(0) - 0.3).abs().max() < 5 * 0.0073
    assert len(masks.flatten(1).unique(dim=0)) > 2000  # of 512 grids at 4 x 7 places
    torch.testing.assert_close(random_masks(torch.tensor([7]), (12, 20), cells=3, keep=0.3, seed=0), masks[7:8], rtol=0, atol=0)
    assert (random_masks(torch.tensor([7]), (12, 20), cells=3, keep=0.3, seed=1) != masks[7:8]).any()


@pytest.mark.parametrize("name", REMOVALS)
@pytest.mark.parametrize("rows", [2, 7])
def test_rise_is_the_papers_formula_without_the_luck_of_a_pixel(name, rows):
    samples, keep = 25, 0.4
    model, _ = linear(max_rows=rows)
    images, targets = drawn(3), Targets(torch.tensor([1, 3, 0]))
    maps = RISE(REMOVALS[name], samples=samples, cells=5, keep=keep, seed=3).explained(model, images, targets).maps
    masks = random_masks(torch.arange(samples), SIZE, cells=5, keep=keep, seed=3).double()
    masks = masks if name in FILLS else (masks > 0.5).double()  # other removals know no half-kept pixel
    scores = torch.stack([targets.of(shown(model, images, REMOVALS[name], mask, name)) for mask in masks], 1)
    paper = torch.einsum("bn,nhw->bhw", scores, masks) / (samples * keep)
    luck = masks.sum(0) / (samples * keep)
    torch.testing.assert_close((maps + scores.mean(1).view(-1, 1, 1)) * luck, paper, rtol=1e-9, atol=1e-11)


def test_rise_of_a_linear_model_is_what_it_is_expected_to_be():
    # The score changes by sum_y g(y) (m(y) - 1), g = weight * (image - filling), so RISE is expected at sum_y g(y) cov(m(y), m(x)) / p.
    # Bits are independent: the covariance is p (1 - p) times the mean, over all shifts, of the products of their weights in x and y.
    size, cells, keep, samples, seeds = (6, 8), 2, 0.6, 1500, 12
    model, weight = linear(size, max_rows=500)
    images = drawn(1, size)
    change = (weight[2] * (images[0] - fill("grey", model, images)[0])).sum(0).flatten()
    covariance = torch.zeros(48, 48, dtype=torch.float64)
    every = torch.eye(4, dtype=torch.float64).view(4, 1, 2, 2)
    large = F.interpolate(every, size=(9, 12), mode="bilinear", align_corners=False)
    for top, left in itertools.product(range(3), range(4)):
        influence = large[:, 0, top : top + 6, left : left + 8].flatten(1)
        covariance += keep * (1 - keep) * influence.T @ influence / 12
    expected = (covariance @ change / keep).view(size)
    maps = torch.cat(
        [
            RISE(Constant("grey"), samples, cells, keep, seed).explained(model, images, Targets(torch.tensor([2]))).maps
            for seed in range(seeds)
        ]
    )
    error = (maps.mean(0) - expected) / (maps.std(0) / seeds**0.5)
    assert error.abs().max() < 5 and maps.std(0).max() < 0.1 * expected.abs().max()


def test_of_a_pixel_that_was_never_kept_rise_says_nothing():
    model, _ = linear()
    chosen = RISE(samples=2, cells=4, keep=0.15)
    maps = chosen.explained(model, drawn(2), Targets(torch.tensor([1, 3]))).maps
    never = random_masks(torch.arange(2), SIZE, cells=4, keep=0.15, seed=0).sum(0) == 0
    assert 0 < never.sum() < never.numel()
    assert (maps[:, never] == 0).all() and torch.isfinite(maps).all() and (maps[:, ~never] != 0).all()


def test_more_samples_take_no_more_memory():
    model, _ = linear(max_rows=8)
    images, targets = drawn(3), Targets(torch.tensor([1, 3, 0]))
    few, many = (peak(lambda n=n: RISE(samples=n).explained(model, images, targets)) for n in (16, 160))
    assert few == many > 8 * 3 * 24 * 40 * 8
    few, many = (peak(lambda n=n: Occlusion(window=10, stride=n).explained(model, images, targets)) for n in (6, 2))
    windows = 8 * 16 - 4 * 6
    assert many - few < windows * 3 * 64  # a few numbers for each, and none of its pixels


def peak(call) -> int:
    """The most bytes that tensors made in `call` hold at once."""

    class Counted(TorchDispatchMode):
        now = most = 0

        def gone(self, size: int) -> None:
            self.now -= size

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            for each in made if isinstance(made, tuple | list) else (made,):
                if isinstance(each, torch.Tensor) and not func.is_view and func._schema.name[-1] != "_":
                    size = each.untyped_storage().nbytes()
                    self.now += size
                    self.most = max(self.most, self.now)
                    weakref.finalize(each, self.gone, size)
            return made

    with Counted() as counted:
        call()
    return counted.most


def test_running_out_of_memory_counts_no_sample_twice():
    inner = LinearModel().double()
    images, targets = drawn(3), Targets(torch.tensor([1, 3, 0]))
    chosen = RISE(samples=9)
    expected = chosen.explained(adapted(inner), images, targets).maps
    hungry = Hungry(inner, 3)
    maps = chosen.explained(adapted(hungry, max_rows=8), images, targets).maps
    assert 8 in hungry.rows and sum(rows for rows in hungry.rows if rows <= 3) == 3 + 27
    torch.testing.assert_close(maps, expected, rtol=1e-10, atol=1e-12)


def test_a_seed_is_a_draw_of_its_own_and_the_same_for_every_image():
    model, _ = linear()
    images = drawn(1).expand(2, -1, -1, -1)
    targets = Targets(torch.tensor([1, 1]))
    maps = RISE(samples=6).explained(model, images, targets).maps
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-10, atol=1e-12)
    assert (RISE(samples=6, seed=1).explained(model, images, targets).maps != maps).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, r"RISE\(keep=\.\.\.\): got 0.0, allowed: a probability above 0 and below 1"),
        ({"keep": 1.0}, r"RISE\(keep=\.\.\.\): got 1.0, allowed: a probability above 0 and below 1"),
        ({"cells": 1}, r"RISE\(cells=\.\.\.\): got 1, allowed: an int of at least 2"),
        ({"samples": 1}, r"RISE\(samples=\.\.\.\): got 1, allowed: an int of at least 2"),
        ({"seed": -1}, r"RISE\(seed=\.\.\.\): got -1, allowed: an int of at least 0"),
    ],
)
def test_masks_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        RISE(**settings)


def test_many_samples_do_not_wear_out_single_precision():
    """The map is a small difference of two means, of which each is a sum over all samples."""
    torch.manual_seed(0)
    images = torch.randn(3, 3, 24, 40)
    batch = Batch(images, Targets(torch.tensor([0, 1, 2])), ("a", "b", "c"))
    model, method = adapted(ReluCNN()), RISE(samples=1000)
    maps = method(model, batch).maps
    alone = torch.cat([method(model, batch[i : i + 1]).maps for i in range(3)])
    torch.testing.assert_close(maps, alone, rtol=0, atol=1e-5 * maps.abs().max().item())
    exact = method.explained(adapted(copy.deepcopy(model.module).double()), images.double(), batch.targets).maps
    torch.testing.assert_close(maps.double(), exact, rtol=0, atol=2e-5 * maps.abs().max().item())


def test_progress_is_told():
    told = []
    with reporting(lambda done, total, what: told.append((done, total, what))):
        RISE(samples=10)(adapted(ReluCNN(), max_rows=8), Batch(torch.zeros(2, 3, 24, 40), Targets(torch.tensor([0, 1])), ("a", "b")))
    assert told == [(8, 20, "rise"), (16, 20, "rise"), (20, 20, "rise")]
