"""Gradient methods on a linear model, where the map is known; and what the controls promise."""

from __future__ import annotations

import math

import pytest
import torch
from models import GapCNN, LinearModel, adapted

from attribkit import Targets
from attribkit.methods import CentreMap, EdgeMap, Gradient, InputXGradient, RandomMap

SIZE = (24, 40)
TARGETS = Targets(torch.tensor([1, 4]))


def test_gradient_of_a_linear_model_is_its_weight():
    module = LinearModel().double()
    model, images = adapted(module), torch.randn(2, 3, *SIZE, dtype=torch.float64)
    weight = module.head.weight[TARGETS.index].view(2, 3, *SIZE).detach()
    for channels, expected in {"sum": weight.sum(1), "max_abs": weight.abs().amax(1), "norm": weight.square().sum(1).sqrt()}.items():
        torch.testing.assert_close(Gradient(channels=channels).explained(model, images, TARGETS).maps, expected)


def test_input_x_gradient_of_a_linear_model_sums_to_its_logit_without_the_bias():
    module = LinearModel().double()
    model, images = adapted(module), torch.randn(2, 3, *SIZE, dtype=torch.float64)
    maps = InputXGradient().explained(model, images, TARGETS).maps
    torch.testing.assert_close(maps, (module.head.weight[TARGETS.index].view(2, 3, *SIZE) * images).sum(1).detach())
    torch.testing.assert_close(maps.sum((1, 2)), model.score(images, TARGETS) - module.head.bias[TARGETS.index].detach())


def test_agree_with_captum():
    attr = pytest.importorskip("captum.attr")
    module = GapCNN().double().eval()
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    asking = images.clone().requires_grad_()  # captum warns of images that do not ask for a gradient
    saliency = attr.Saliency(module).attribute(asking, target=TARGETS.index, abs=False)
    product = attr.InputXGradient(module).attribute(asking, target=TARGETS.index)
    torch.testing.assert_close(Gradient().explained(adapted(module), images, TARGETS).maps, saliency.sum(1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        InputXGradient().explained(adapted(module), images, TARGETS).maps, product.sum(1).detach(), rtol=1e-10, atol=1e-12
    )


def maps_of(method, images) -> torch.Tensor:
    return method.explained(adapted(GapCNN()), images, Targets(torch.zeros(len(images), dtype=torch.int64))).maps


def test_random_maps_are_uniform_independent_and_each_images_own():
    images = torch.randn(40, 3, 64, 64)
    maps = maps_of(RandomMap(), images)
    count = maps.numel()
    assert 0 <= maps.amin() and maps.amax() < 1
    # 5 standard errors each: of the mean (variance 1/12), of the second moment (variance 4/45), of correlations (variance 1 / n).
    assert abs(maps.double().mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / count)
    assert abs(maps.double().square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / count)
    flat = (maps.flatten(1).double() - 0.5) * math.sqrt(12)
    across = (flat @ flat.T / flat.shape[1]).fill_diagonal_(0)
    assert across.abs().amax() < 5.5 / math.sqrt(flat.shape[1])  # the largest of 780 pairs
    for shift in (1, 64):
        assert abs((flat[:, :-shift] * flat[:, shift:]).mean()) < 5 / math.sqrt(count)
    counts = torch.histc(maps, 16, 0, 1).double()
    assert ((counts - count / 16).square() / (count / 16)).sum() < 45  # chi-square with 15 degrees of freedom, p = 1e-4
    assert (maps_of(RandomMap(seed=1), images) != maps).double().mean() > 0.99
    nudged = images.clone()
    nudged[:, 0, 0, 0] += 1e-3
    assert (maps_of(RandomMap(), nudged) != maps).double().mean() > 0.99


def test_the_centre_map_is_symmetric_and_peaks_in_the_middle():
    maps = maps_of(CentreMap(), torch.randn(2, 3, *SIZE))
    torch.testing.assert_close(maps, maps.flip(1).flip(2))
    assert maps.argmax(2).unique().tolist() in ([19], [20], [19, 20]) and (maps[0] == maps[1]).all()
    # A quarter of a side is one standard deviation: from the middle to the middle of an edge are two, but for half a pixel.
    torch.testing.assert_close(maps[0, 0, 0], torch.tensor(math.exp(-((2 - 2 / 24) ** 2 + (2 - 2 / 40) ** 2) / 2)))


def test_the_edge_map_is_the_slope_of_a_ramp_and_nothing_on_a_constant():
    across = torch.arange(40.0).expand(1, 3, 24, 40) * 0.5
    maps = maps_of(EdgeMap(), across)
    torch.testing.assert_close(maps[0, :, 1:-1], torch.full((24, 38), 0.5))
    torch.testing.assert_close(maps_of(EdgeMap(), across.transpose(2, 3)), maps.transpose(1, 2))
    assert maps_of(EdgeMap(), torch.full((1, 3, *SIZE), 3.0)).abs().amax() == 0
