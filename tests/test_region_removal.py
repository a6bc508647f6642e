"""Region removal: closed forms, regions of any number and name, and how much it asks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from models import SIZE, GapCNN, LinearModel, Recorded, adapted
from test_perturbation import REMOVALS, batch_of, drawn, linear, shown
from torch import nn

from attribkit import Targets
from attribkit.methods import LayerMasking, RegionRemoval
from attribkit.removals import Constant
from attribkit.removals.layer_masking import LayerMask
from attribkit.segments import Segmenter, Squares


@dataclasses.dataclass(frozen=True)
class Odd(Segmenter):
    """Two divisions: by two colours, whose labels leave gaps, and stripes, of a number that depends on the picture."""

    def _begun(self, pixels):
        colours = 1000 * (pixels[:, 0] > 0.5) + 7 * (pixels[:, 1] > 0.7)
        width = 3 + (1000 * pixels.mean((1, 2, 3))).long() % 5
        stripes = (torch.arange(pixels.shape[3]) // width.view(-1, 1, 1)).expand_as(colours)
        return lambda: torch.stack([colours, stripes], 1)


@dataclasses.dataclass(frozen=True)
class Sparse(Segmenter):
    """Two divisions that leave places in no region: the upper left and the left half; the second picture is in none at all."""

    def _begun(self, pixels):
        labels = torch.full((len(pixels), 2, *SIZE), -1)
        labels[0, 0, :12, :20] = 3
        labels[0, 1, :, :20] = 0
        return lambda: labels


def test_regions_of_a_linear_model_sum_to_its_whole_answer():
    model, weight = linear()
    images, targets = drawn(2), Targets(torch.tensor([1, 3]))
    maps = RegionRemoval(Constant("grey"), Squares(7)).explained(model, images, targets).maps
    grey = torch.zeros_like(images)  # with mean 0.5, grey is what the model calls 0
    value = (weight[targets.index] * (images - grey)).sum(1)
    labels = Squares(7)(model.preprocessing.pixels(images))
    assert labels.amax() == 4 * 6 - 1
    total = torch.zeros(2, dtype=torch.float64)
    for label in range(24):
        region = labels[0, 0] == label
        expected = value[:, region].sum(1)
        torch.testing.assert_close(maps[:, region], expected.unsqueeze(1).expand(-1, int(region.sum())), rtol=1e-10, atol=1e-12)
        total += maps[:, region][:, 0]
    torch.testing.assert_close(total, model.score(images, targets) - model.score(grey, targets), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", REMOVALS)
@pytest.mark.parametrize("rows", [1, 7])
def test_a_pixel_has_the_mean_drop_of_its_regions_of_every_division(name, rows):
    model, _ = linear(max_rows=rows)
    images, targets = drawn(3), Targets(torch.tensor([1, 3, 0]))
    labels = Odd()(model.preprocessing.pixels(images))
    assert len({len(each.unique()) for each in labels[:, 1]}) > 1  # images differ in how many regions they have
    whole = model.score(images, targets)
    expected = torch.zeros(3, *SIZE, dtype=torch.float64)
    for image, division in ((image, division) for image in range(3) for division in range(2)):
        one = targets[image : image + 1]
        for label in labels[image, division].unique():
            gone = (labels[image, division] == label).double()
            without = one.of(shown(model, images[image : image + 1], REMOVALS[name], 1 - gone, name))
            expected[image] += (whole[image] - without) / 2 * gone
    maps = RegionRemoval(REMOVALS[name], Odd()).explained(model, images, targets).maps
    torch.testing.assert_close(maps, expected, rtol=1e-10, atol=1e-12)


def test_the_cost_is_a_forward_per_region_that_there_is_in_full_rows():
    module = Recorded(LinearModel())
    model = adapted(module, max_rows=5)
    images = drawn().float()
    labels = Odd()(model.preprocessing.pixels(images))
    regions = sum(len(division.unique()) for image in labels for division in image)
    RegionRemoval(segmenter=Odd())(model, batch_of(images, Targets(torch.arange(3))))
    assert module.rows == [3, *[5] * (regions // 5), *([regions % 5] if regions % 5 else [])]


@pytest.mark.parametrize("rows", [2, 1])
def test_a_pixel_in_no_region_has_no_value_and_does_not_count(rows):
    model, weight = linear()
    images = drawn(2)[2 - rows :]  # the last picture has no region, nor has a batch of it alone
    targets = Targets(torch.tensor([1, 1])[:rows])
    chosen = RegionRemoval(Constant("grey"), Sparse() if rows == 2 else Nowhere())
    maps = chosen.explained(model, images, targets).maps
    expected = torch.zeros_like(maps)
    if rows == 2:
        value = (weight[1] * images[0]).sum(0)
        expected[0, :, :20] = value[:, :20].sum()
        expected[0, :12, :20] = (value[:, :20].sum() + value[:12, :20].sum()) / 2
    torch.testing.assert_close(maps, expected, rtol=1e-10, atol=1e-12)


@dataclasses.dataclass(frozen=True)
class Nowhere(Segmenter):
    """No region at all."""

    def _begun(self, pixels):
        return lambda: torch.full((len(pixels), 1, *SIZE), -1)


class Channels(nn.Module):
    """The mean of each of five channels: what a network is from one of its layers on."""

    def forward(self, images):
        return images.mean((2, 3))


@dataclasses.dataclass(frozen=True)
class Seeing(Segmenter):
    """Two regions, the lighter and the darker red; what it is given is kept."""

    def _begun(self, pixels):
        SEEN[:] = [pixels]
        return lambda: (pixels[:, :1] > 0.5).long()


SEEN: list[torch.Tensor] = []


def test_activations_are_divided_by_the_mean_of_their_channels():
    images, targets = drawn(2, channels=5), Targets(torch.tensor([1, 3]))
    images[1] = 4.0  # nothing to tell apart, and no division by zero
    model = adapted(Channels())
    model.pictures = False
    maps = RegionRemoval(Constant(), Seeing()).explained(model, images, targets).maps
    mean = images[0].mean(0)
    picture = (mean - mean.min()) / (mean.max() - mean.min())
    torch.testing.assert_close(SEEN[0], torch.stack([picture, torch.zeros_like(picture)]).unsqueeze(1).expand(-1, 3, -1, -1))
    for region in (picture > 0.5, picture <= 0.5):
        expected = images[0, 1][region].sum() / mean.numel()
        torch.testing.assert_close(maps[0][region], expected.expand(int(region.sum())))
    torch.testing.assert_close(maps[1], torch.full_like(maps[1], 4.0))


def test_a_pictures_segments_are_those_of_its_pixels():
    images = drawn(2).float()
    RegionRemoval(Constant(), Seeing()).explained(adapted(GapCNN()), images, Targets(torch.tensor([1, 3])))
    torch.testing.assert_close(SEEN[0], (images * 0.5 + 0.5).clamp(0, 1))


def test_layer_masking_is_region_removal_by_layer_masking():
    model = adapted(GapCNN().double())
    images, targets = drawn(2), Targets(torch.tensor([1, 3]))
    masking = LayerMask(residual="union")
    maps = LayerMasking(Squares(12), masking).explained(model, images, targets).maps
    same = RegionRemoval(masking, Squares(12)).explained(model, images, targets).maps
    torch.testing.assert_close(maps, same, rtol=0, atol=0)
    keep = torch.ones(2, *SIZE)
    keep[:, 12:, 24:36] = 0
    expected = model.score(images, targets) - targets.of(masking(model, images, keep))
    torch.testing.assert_close(maps[:, 15, 30], expected, rtol=1e-10, atol=1e-12)
    assert (maps.flatten(1).unique(dim=1).shape[1]) == 2 * 4  # the last squares across are cut
