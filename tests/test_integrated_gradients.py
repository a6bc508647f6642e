"""Integrated Gradients against closed forms (METHODS 2.3), its own axioms, and captum."""

from __future__ import annotations

import math

import pytest
import torch
from models import GapCNN, LinearModel, TinyViT, adapted
from torch import nn

from attribkit import BadInput, Targets
from attribkit.methods import IntegratedGradients
from attribkit.methods.integrated_gradients import convergence_delta, path_gradient, quadrature, relative_delta

SIZE = (24, 40)
RULES = ["gauss_legendre", "midpoint", "trapezoid"]


class Score(nn.Module):
    """A function of the pixels as the only logit, written out."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.unit = function, nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, images):
        return (self.unit * self.function(images)).unsqueeze(1)


def explained(module, images, method, index=0, **about):
    model = adapted(module, size=tuple(images.shape[-2:]), **about)
    return method.explained(model, images, Targets(torch.full((len(images),), index)))


def pixels(*values) -> torch.Tensor:
    """One image of one row: the values in the first channel, zeros in the others."""
    images = torch.zeros(1, 3, 1, len(values), dtype=torch.float64)
    images[0, 0, 0] = torch.tensor(values, dtype=torch.float64)
    return images


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 5, 50])
def test_weights_sum_to_one_and_points_are_on_the_path(rule, steps):
    at, weights = zip(*quadrature(rule, steps), strict=True)
    assert math.isclose(sum(weights), 1, rel_tol=1e-12)
    assert all(0 <= point <= 1 for point in at) and list(at) == sorted(at) and len(at) == steps


def test_points_by_hand():
    # Gauss-Legendre with two points: 1/2 -+ 1/sqrt(12), weights 1/2. Trapezoid with three: 0, 1/2, 1 with 1/4, 1/2, 1/4.
    (first, one), (second, other) = quadrature("gauss_legendre", 2)
    assert first == pytest.approx(0.5 - 1 / math.sqrt(12)) and second == pytest.approx(0.5 + 1 / math.sqrt(12))
    assert (one, other) == pytest.approx((0.5, 0.5))
    assert quadrature("trapezoid", 3) == [(0.0, 0.25), (0.5, 0.5), (1.0, 0.25)]
    assert quadrature("midpoint", 2) == [(0.25, 0.5), (0.75, 0.5)]


@pytest.mark.parametrize(("rule", "order"), [("gauss_legendre", None), ("midpoint", 2), ("trapezoid", 2)])
def test_order_of_convergence(rule, order):
    # F = x^4 from 0 to 1: IG is 1 exactly; its gradient along the path is a cubic, on which Gauss-Legendre with two points is exact and
    # the other two rules lose a factor of 4 when the interval halves.
    errors = []
    for steps in (9, 17) if rule == "trapezoid" else (8, 16) if rule == "midpoint" else (2, 3):
        maps = explained(Score(lambda x: (x**4).sum((1, 2, 3))), pixels(1.0), IntegratedGradients(steps=steps, rule=rule)).maps
        errors.append(abs(maps.item() - 1))
    if order is None:
        assert max(errors) < 1e-12
    else:
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize("steps", [1, 4])
def test_sum_of_squares_gives_squares_and_a_product_is_shared_evenly(steps):
    method = IntegratedGradients(steps=steps)
    squares = explained(Score(lambda x: (x**2).sum((1, 2, 3))), pixels(3.0, -2.0, 0.0), method).maps
    torch.testing.assert_close(squares, torch.tensor([[[9.0, 4.0, 0.0]]], dtype=torch.float64))
    product = explained(Score(lambda x: x[:, 0, 0, 0] * x[:, 0, 0, 1]), pixels(3.0, -2.0), method).maps
    torch.testing.assert_close(product, torch.tensor([[[-3.0, -3.0]]], dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "baseline", ["zero", "black", "white", "min", "max", "blur", "noise", ("black", "white"), ("blur", "noise", "zero")]
)
def test_a_linear_model_is_complete_for_every_rule_and_baseline(rule, baseline):
    module = LinearModel().double()
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    result = explained(
        module, images, IntegratedGradients(steps=2, rule=rule, baseline=baseline), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
    )
    assert result.extras["convergence_delta"].abs().amax() < 1e-10
    assert result.extras["relative_delta"].amax() < 1e-10


@pytest.mark.parametrize(("baseline", "pixel"), [("black", 0.0), ("white", 1.0)])
def test_black_and_white_are_pixels_of_0_and_1(baseline, pixel):
    # For a linear model the map is weight * (x - b), summed over channels.
    module, mean, std = LinearModel().double(), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    images = torch.randn(1, 3, *SIZE, dtype=torch.float64)
    start = ((pixel - torch.tensor(mean, dtype=torch.float64)) / torch.tensor(std, dtype=torch.float64)).view(1, 3, 1, 1)
    expected = (module.head.weight[0].view(1, 3, *SIZE) * (images - start)).sum(1)
    maps = explained(module, images, IntegratedGradients(steps=1, baseline=baseline), mean=mean, std=std).maps
    torch.testing.assert_close(maps, expected.detach(), rtol=1e-7, atol=1e-8)  # mean and std are float32 numbers


def test_several_baselines_give_the_mean_of_their_maps():
    module = GapCNN().double()
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    each = [explained(module, images, IntegratedGradients(steps=3, baseline=kind)).maps for kind in ("black", "blur")]
    both = explained(module, images, IntegratedGradients(steps=3, baseline=("black", "blur"))).maps
    torch.testing.assert_close(both, (each[0] + each[1]) / 2, rtol=1e-12, atol=1e-14)


def test_the_largest_channel_is_taken_of_the_mean_over_baselines_and_the_delta_is_that_of_all():
    # For a linear model the values are weight * (x - b), and their mean over baselines that at the mean baseline. The largest of a sum is
    # not the sum of the largest, so the order of the two shows.
    module = LinearModel().double()
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    weight = module.head.weight[0].detach().view(1, 3, *SIZE)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    method = IntegratedGradients(steps=1, baseline=("min", "max"), channels="max")
    result = explained(module, images, method)
    torch.testing.assert_close(result.maps, (weight * (images - (low + high) / 2)).amax(1), rtol=1e-10, atol=1e-14)
    assert (result.maps < 0).any()
    each = [(weight * (images - end)).amax(1) for end in (low, high)]
    assert (result.maps - (each[0] + each[1]) / 2).abs().amax() > 1e-3
    assert result.extras["convergence_delta"].abs().amax() < 1e-12
    # And on a network, where the delta is not zero, it is the same whatever the channels.
    vit = TinyViT().double()
    deltas = [explained(vit, images, IntegratedGradients(steps=1, channels=kind)).extras["convergence_delta"] for kind in ("sum", "max")]
    assert deltas[0].abs().amin() > 1e-6
    torch.testing.assert_close(deltas[0], deltas[1], rtol=0, atol=0)


def test_completeness_tightens_with_steps_on_a_network():
    module = TinyViT().double()
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    deltas = [explained(module, images, IntegratedGradients(steps=steps)).extras["relative_delta"].amax().item() for steps in (2, 8, 32)]
    assert deltas[0] > deltas[1] > deltas[2] and deltas[2] < 1e-6


def test_an_image_that_is_its_baseline_has_a_zero_map_and_no_delta():
    result = explained(GapCNN().double(), torch.zeros(1, 3, *SIZE, dtype=torch.float64), IntegratedGradients(steps=3))
    assert result.maps.abs().amax() == 0 and result.extras["convergence_delta"].item() == 0 and result.extras["relative_delta"].item() == 0


def test_swapping_ends_changes_the_sign_and_unmoved_pixels_get_nothing():
    model = adapted(TinyViT().double())
    one, other = torch.randn(2, 1, 3, *SIZE, dtype=torch.float64)
    other[:, :, :5] = one[:, :, :5]
    targets = Targets(torch.tensor([2]))
    for rule in RULES:
        points = quadrature(rule, 6)
        there = path_gradient(model, one, other, targets, rule=points) * (one - other)
        back = path_gradient(model, other, one, targets, rule=points) * (other - one)
        torch.testing.assert_close(there, -back, rtol=1e-10, atol=1e-14)
        assert there[:, :, :5].abs().amax() == 0


def test_attributions_are_linear_in_the_target():
    module = GapCNN().double()
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    one, other = (explained(module, images, IntegratedGradients(steps=4), index).maps for index in (0, 3))
    with torch.no_grad():
        module.head.weight[1] = 2 * module.head.weight[0] - 3 * module.head.weight[3]
    torch.testing.assert_close(explained(module, images, IntegratedGradients(steps=4), 1).maps, 2 * one - 3 * other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [5, 20])
def test_agrees_with_captum(steps):
    # The same Gauss-Legendre rule in float64, but captum rounds its weights to float32: 6e-8 relative on each term, so 1e-6 of the
    # largest value holds for any signs. Its trapezoid is left out: those weights sum to (m - 1) / m.
    attr = pytest.importorskip("captum.attr")
    module = TinyViT().double().eval()
    images, index = torch.randn(3, 3, *SIZE, dtype=torch.float64), torch.tensor([0, 2, 4])
    result = IntegratedGradients(steps=steps).explained(adapted(module), images, Targets(index))
    captum = attr.IntegratedGradients(module)
    theirs, delta = captum.attribute(images, target=index, n_steps=steps, return_convergence_delta=True)
    scale = theirs.abs().amax().item()
    torch.testing.assert_close(result.maps, theirs.sum(1), rtol=0, atol=1e-6 * scale)
    torch.testing.assert_close(result.extras["convergence_delta"], delta, rtol=0, atol=1e-6 * theirs.abs().sum((1, 2, 3)).amax().item())


def test_deltas_by_hand():
    maps = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]], [[1.0, 0.0]]])
    start, end = torch.tensor([1.0, 5.0, 0.0]), torch.tensor([3.0, 5.0, 4.0])
    delta = convergence_delta(maps, start, end)
    torch.testing.assert_close(delta, torch.tensor([1.0, 0.0, -3.0]))
    torch.testing.assert_close(relative_delta(delta, start, end), torch.tensor([0.5, 0.0, 0.75]))


def test_no_more_rows_run_at_once_than_allowed_and_as_many_points_as_fit():
    from models import Recorded

    module = Recorded(GapCNN())
    model = adapted(module, max_rows=8)
    path_gradient(
        model, torch.randn(3, 3, *SIZE), torch.zeros(3, 3, *SIZE), Targets(torch.tensor([0, 1, 2])), rule=quadrature("midpoint", 5)
    )
    assert module.rows == [8, 7]  # fifteen pairs of a point and an image, in full rows


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 16])
def test_pairs_of_points_and_images_find_their_place_however_they_are_cut(rows):
    module = TinyViT().double()
    images, targets = torch.randn(3, 3, *SIZE, dtype=torch.float64), Targets(torch.tensor([0, 3, 1]))
    rule = quadrature("gauss_legendre", 5)
    cut = path_gradient(adapted(module, max_rows=rows), images, torch.zeros_like(images), targets, rule=rule)
    model = adapted(module)
    expected = sum(weight * model.gradient(at * images, targets) for at, weight in rule)
    torch.testing.assert_close(cut, expected, rtol=1e-10, atol=1e-14)


def test_memory_that_runs_out_on_the_way_costs_no_part_of_the_path():
    from models import Hungry

    inner = TinyViT().double()
    images, targets = torch.randn(3, 3, *SIZE, dtype=torch.float64), Targets(torch.tensor([0, 3, 1]))
    expected = IntegratedGradients(steps=7).explained(adapted(inner), images, targets).maps
    starved = IntegratedGradients(steps=7).explained(adapted(Hungry(inner, 3), max_rows=8), images, targets).maps
    torch.testing.assert_close(starved, expected, rtol=1e-10, atol=1e-14)


def test_several_noises_are_several_draws():
    module = TinyViT().double()
    images = torch.randn(1, 3, *SIZE, dtype=torch.float64)
    one, other, both = (
        explained(module, images, IntegratedGradients(steps=2, baseline=kind, seed=seed)).maps
        for kind, seed in (("noise", 4), ("noise", 5), (("noise", "noise"), 4))
    )
    assert (one != other).any()
    torch.testing.assert_close(both, (one + other) / 2)


def test_a_blurred_constant_stays_and_an_edge_becomes_half():
    from attribkit.removals.fill import blurred

    torch.testing.assert_close(blurred(torch.full((1, 3, 20, 30), 0.7), 2.0), torch.full((1, 3, 20, 30), 0.7))
    step = (torch.arange(40) >= 20).double().expand(1, 3, 20, 40)
    middle = blurred(step, 2.0)[0, 0, 10]
    assert middle[19] + middle[20] == pytest.approx(1) and middle[0] == pytest.approx(0) and middle[39] == pytest.approx(1)
    # One pixel past the edge of a Gaussian of 2 pixels, summed at whole pixels: half of the centre's weight more than 1/2.
    weights = torch.exp(-(torch.arange(-6, 7).double() ** 2) / 8)
    assert middle[20].item() == pytest.approx(0.5 + (weights[6] / weights.sum()).item() / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "got 0, allowed: an int of at least 1"),
        ({"steps": 2.5}, "got 2.5, allowed: an int"),
        ({"baseline": "puce"}, "got 'puce', allowed: .*'black'"),
        ({"baseline": ()}, "at least one baseline"),
        ({"channels": "mean"}, "allowed: 'sum' or 'max'"),
        ({"rule": "simpson"}, "allowed: 'gauss_legendre' or 'midpoint' or 'trapezoid'"),
        ({"rule": "trapezoid", "steps": 1}, "at least 2 for the trapezoid"),
    ],
)
def test_wrong_settings_are_one_clear_line(settings, message):
    with pytest.raises(BadInput, match=message):
        IntegratedGradients(**settings)
