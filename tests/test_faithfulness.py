"""Infidelity, sensitivity-n and the completeness gap: closed forms on linear models, sums by hand, and Captum's infidelity."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from models import SIZE, Dead, GapCNN, LinearModel, Recorded, adapted
from torch import Tensor, nn

from attribkit import Attribution, BadInput, Batch, Targets
from attribkit.methods import AtLayer, GradCAM, Gradient, InputXGradient, IntegratedGradients, RandomMap
from attribkit.metrics import CompletenessGap, Infidelity, SensitivityN, completeness_gap, infidelity, sensitivity_n
from attribkit.metrics.draws import keys_of
from attribkit.metrics.parts import Grid, Parts, correlation, lost_in_rounding, over_image, without_parts
from attribkit.noise import keys, normal, uniform
from attribkit.removals import Constant, Generator, ImageMean

REMOVING = ("square", "cells")


def some(rows: int = 3, size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float32) -> Batch:
    images = torch.randn(rows, 3, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return Batch(images, Targets(torch.arange(rows) % 5), tuple(f"image-{row}" for row in range(rows)))


def mapped(maps: Tensor, batch: Batch) -> Attribution:
    return Attribution(maps.float(), batch.targets, batch.ids, "by hand", size=tuple(batch.images.shape[-2:]))


class Recording:
    """Fills with zeros, and keeps every `keep` it is given."""

    def __init__(self) -> None:
        self.keep: list[Tensor] = []

    def __call__(self, images: Tensor, keep: Tensor) -> Tensor:
        self.keep.append(keep[:, 0] > 0.5)
        return torch.zeros_like(images)

    def removed(self) -> Tensor:
        return ~torch.cat(self.keep)


# The sums ----------------------------------------------------------------------------------------------------------------------------


def test_infidelity_by_hand():
    predicted, drops = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]]), torch.tensor([[1.0, 4.0]] * 3)
    expected = {
        (False, False): [(0 + 4) / 2, (4 + 36) / 2, 17 / 2],
        (False, True): [4 / 17, 40 / 17, 1],
        # The best factor of the first is (1 + 8) / (1 + 4); that of its opposite would be below zero, and is zero.
        (True, False): [(0.8**2 + 0.4**2) / 2, 17 / 2, 17 / 2],
        (True, True): [(0.8**2 + 0.4**2) / 17, 1, 1],
    }
    for (scaled, normalised), values in expected.items():
        found = infidelity(predicted, drops, scaled=scaled, normalised=normalised)
        torch.testing.assert_close(found, torch.tensor(values, dtype=torch.float64), rtol=1e-12, atol=0)


def test_infidelity_is_undefined_where_the_score_never_changes():
    predicted, drops = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2)
    for scaled in (True, False):
        assert infidelity(predicted, drops, scaled=scaled).isnan().all()
    assert infidelity(predicted, drops, scaled=False, normalised=False).tolist() == [2.5, 0]
    with pytest.raises(BadInput, match=r"got \(2, 2\) and \(2, 3\), allowed: \(B, samples\) twice"):
        infidelity(predicted, torch.zeros(2, 3))


def test_scaled_infidelity_knows_no_unit_and_survives_extreme_ones():
    predicted, drops = torch.randn(4, 9).abs(), torch.randn(4, 9).abs()
    expected = infidelity(predicted, drops)
    for factor in (7.0, 1e30, 1e-30):
        torch.testing.assert_close(infidelity(factor * predicted, drops), expected, rtol=1e-6, atol=0)


def test_the_correlation_is_pearsons():
    one, other = torch.randn(2, 5, 30, dtype=torch.float64)
    expected = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(one, other, strict=True)])
    torch.testing.assert_close(correlation(one, other), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(correlation(1e-30 * one, 3 - 1e30 * other), -expected, rtol=1e-10, atol=1e-12)


def test_what_is_constant_up_to_rounding_has_no_correlation():
    values, flat = torch.arange(6.0), torch.full((6,), 100.0)
    flat[::2] += torch.finfo(torch.float32).eps * 100
    for one, other in ((values, flat), (flat, values), (values, torch.zeros(6)), (flat, flat)):
        assert correlation(one, other).isnan()
    torch.testing.assert_close(correlation(values, values + 100).item(), 1.0)


def test_sensitivity_n_is_the_mean_over_sizes_that_tell_something():
    generator = torch.Generator().manual_seed(0)
    sums, drops = torch.randn(3, 4, 20, generator=generator), torch.randn(3, 4, 20, generator=generator)
    each = correlation(sums, drops)
    torch.testing.assert_close(sensitivity_n(sums, drops), each.mean(1))
    sums[0, 1], drops[0, 2], drops[1] = 5, 0, -1
    found = sensitivity_n(sums, drops)
    torch.testing.assert_close(found[0], each[0, [0, 3]].mean())
    assert found[1].isnan() and found[2] == each[2].mean()
    with pytest.raises(BadInput, match=r"sensitivity_n: got \(4, 20\)"):
        sensitivity_n(sums[0], drops[0])


def test_completeness_by_hand():
    maps = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]]).expand(5, 2, 2)  # which sum to 5
    found = completeness_gap(maps, torch.tensor([5.0, 4.0, -5.0, 10.0, 0.0]))
    torch.testing.assert_close(found[:4], torch.tensor([0, 0.25, 2, 0.5], dtype=torch.float64))
    assert found[4].isnan()
    with pytest.raises(BadInput, match=r"got \(5, 2, 2\) and \(2,\), allowed: \(B, h, w\) and \(B,\)"):
        completeness_gap(maps, torch.zeros(2))


# The parts ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [SIZE, (14, 28), (5, 33)])
def test_cells_divide_the_image_and_their_sums_are_the_maps(size):
    grid = Grid.over(torch.zeros(1, 3, *size), 14)
    assert (grid.rows, grid.columns) == (min(14, size[0]), min(14, size[1]))
    masks = grid.pixels(torch.eye(grid.rows * grid.columns))
    assert (masks.sum(0) == 1).all()
    areas = masks.sum((1, 2))
    smallest = (size[0] // grid.rows) * (size[1] // grid.columns)
    assert areas.min() == smallest and areas.max() <= math.ceil(size[0] / grid.rows) * math.ceil(size[1] / grid.columns)
    maps = torch.randn(2, *size)
    torch.testing.assert_close(grid.sums(maps), torch.einsum("bhw,chw->bc", maps.double(), masks.double()))


def test_parts_are_summed_and_removed_by_the_same_mask():
    model, batch = adapted(GapCNN()), some()
    maps, grid = torch.randn(3, *SIZE), Grid.over(batch.images, 6)
    seen = []

    def drawn(key: Tensor, place: Tensor) -> Tensor:
        seen.append((key, place))
        return uniform(key, 36) < 0.3

    with model.studied():
        key = keys(batch.images, 7)
        sums, scores = without_parts(model, batch, maps, ImageMean(), Parts(grid, 4, drawn, key))
    torch.testing.assert_close(torch.cat([each for each, _ in seen]), (key.unsqueeze(1) + torch.arange(4)).flatten(), rtol=0, atol=0)
    assert torch.cat([place for _, place in seen]).tolist() == [0, 1, 2, 3] * 3
    for place in range(4):
        gone = grid.pixels(uniform(key + place, 36) < 0.3)
        torch.testing.assert_close(sums[:, place], (maps.double() * gone).sum((1, 2)))
        expected = batch.targets.of(ImageMean()(model, batch.images, ~gone))
        torch.testing.assert_close(scores[:, place], expected, rtol=1e-5, atol=1e-6)


def drawn_by(metric, rows: int = 3, cells: int = 6) -> Tensor:
    """The masks of what a metric removes, as cells (images * parts, rows, columns)."""
    model, batch, recording = adapted(GapCNN()), some(rows), Recording()
    dataclasses.replace(metric, removal=Generator(recording), cells=cells)(model, batch, mapped(torch.randn(rows, *SIZE), batch))
    removed = recording.removed()
    first_row, first_column = (-(-torch.arange(cells) * side // cells) for side in SIZE)
    sampled = removed[:, first_row][:, :, first_column]
    down, across = (torch.arange(side) * cells // side for side in SIZE)
    assert torch.equal(sampled[:, down][:, :, across], removed), "what is removed is a union of cells"
    return sampled


def test_squares_are_blocks_of_every_size_anywhere():
    blocks = drawn_by(Infidelity(kind="square", samples=200))
    down, across = blocks.any(2), blocks.any(1)
    assert torch.equal(blocks, down.unsqueeze(2) & across.unsqueeze(1)), "a block is where its rows and its columns meet"
    for side in (down, across):
        assert (side.int().diff(dim=1).abs().sum(1) + side[:, 0].int() + side[:, -1].int() == 2).all(), "without gaps"
        counts = torch.bincount(side.sum(1), minlength=7)
        assert counts[0] == 0 and (counts[1:] > 60).all()  # each of 6 sides is a sixth of 600, give or take 9
    single = blocks[blocks.sum((1, 2)) == 1]
    assert len(single) > 60 and single.any(0).sum() > 25  # of 36 places
    assert (down.sum(1) == across.sum(1)).all()


def test_cells_are_taken_with_probability_one_half():
    share = drawn_by(Infidelity(kind="cells", samples=200)).float().mean(0)
    assert (share - 0.5).abs().max() < 0.08  # four standard deviations of 600 draws
    assert (share - 0.5).abs().mean() < 0.03


def test_sensitivity_n_takes_parts_of_the_sizes_asked_for():
    shares = (0.001, 0.25, 0.5, 0.999)
    taken = drawn_by(SensitivityN(shares=shares, samples=50))
    sizes = taken.sum((1, 2)).view(3, 4, 50)
    for size, expected in enumerate((1, 9, 18, 35)):
        assert (sizes[:, size] == expected).all()
    often = taken.view(3, 4, 50, 6, 6)[:, 2].float().mean((0, 1))
    assert (often - 0.5).abs().max() < 0.17  # four standard deviations of 150 draws
    assert len({tuple(each.flatten().tolist()) for each in taken.view(3, 4, 50, 6, 6)[:, 2].flatten(0, 1)}) == 150


@pytest.mark.parametrize(
    "metric",
    [
        Infidelity(samples=10),
        Infidelity(kind="cells", samples=10),
        Infidelity(kind="noise", samples=10, scaled=False),  # scaled, a map that says the opposite has 1 under any draw
        SensitivityN(samples=10),
    ],
)
def test_another_seed_makes_other_draws(metric):
    model, batch = adapted(GapCNN()), some()
    maps = InputXGradient()(model, batch)
    assert (metric(model, batch, maps) != dataclasses.replace(metric, seed=1)(model, batch, maps)).all()


@pytest.mark.parametrize("metric", [Infidelity(kind="cells", samples=1, cells=40), SensitivityN(shares=(0.5,), samples=2, cells=40)])
def test_parts_have_nothing_of_a_random_map_of_the_same_seed(metric):
    # Cells of one pixel each, drawn in the order of the map's own pixels.
    model, batch, recording = adapted(GapCNN()), some(16), Recording()
    control = RandomMap()(model, batch)
    dataclasses.replace(metric, removal=Generator(recording))(model, batch, control)
    first = recording.removed().view(16, -1, SIZE[0] * SIZE[1])[:, 0]
    assert 0.4 < first.float().mean() < 0.6
    assert correlation(first.float(), control.maps.flatten(1)).mean().abs() < 4 / math.sqrt(16 * SIZE[0] * SIZE[1])


def test_noise_has_nothing_of_a_random_map_of_the_same_seed():
    module, batch, seen = GapCNN(), some(16), []
    model = adapted(module, max_rows=16)
    control = RandomMap()(model, batch)
    module.register_forward_pre_hook(lambda _module, given: seen.append(given[0].clone()))
    Infidelity(kind="noise", samples=1)(model, batch, control)
    noise = (batch.images - seen[-1])[:, 0].flatten(1)
    assert noise.std() > 0.1
    for drawn in (noise, noise.abs()):  # the size of a normal draw comes from a uniform one
        assert correlation(drawn, control.maps.flatten(1)).mean().abs() < 4 / math.sqrt(16 * SIZE[0] * SIZE[1])


def test_a_resized_map_holds_what_it_held():
    maps = torch.randn(2, 6, 10)
    torch.testing.assert_close(over_image(maps, SIZE).sum((1, 2)), maps.sum((1, 2)))
    torch.testing.assert_close(over_image(maps, (6, 10)), maps, rtol=0, atol=0)
    # Every pixel contributes alike, so that a coarse map can say so: what it predicts for a part of the image is exact.
    module = LinearModel()
    nn.init.constant_(module.head.weight, 0.5)
    batch = dataclasses.replace(some(), images=torch.ones(3, 3, *SIZE))
    coarse = mapped(torch.full((3, 6, 10), 3 * 0.5 * 16), batch)
    for kind in REMOVING:
        metric = Infidelity(kind=kind, samples=8, scaled=False)
        assert metric(adapted(module), batch, coarse).max() < 1e-9
        assert metric(adapted(module), batch, mapped(coarse.maps / 16, batch)).min() > 0.5


# On models -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("kind", REMOVING)
def test_contributions_of_a_linear_model_are_perfectly_faithful(kind, scaled):
    model, batch = adapted(LinearModel()), some()
    for colour in ("zero", "black"):
        metric = Infidelity(kind=kind, removal=Constant(colour), samples=12, scaled=scaled)
        by = IntegratedGradients(steps=2, baseline=colour)
        assert metric(model, batch, by(model, batch)).max() < 1e-9
        assert metric(model, batch, Gradient()(model, batch)).min() > 0.01
    metric = Infidelity(kind=kind, samples=12, scaled=scaled)
    truth = InputXGradient()(model, batch)
    assert metric(model, batch, truth).max() < 1e-9
    assert (metric(model, batch, mapped(2 * truth.maps, batch)).min() > 0.99) == (not scaled)
    torch.testing.assert_close(metric(model, batch, mapped(0 * truth.maps, batch)), torch.ones(3))


@pytest.mark.parametrize("scaled", [True, False])
def test_the_gradient_of_a_linear_model_is_perfectly_faithful_under_noise(scaled):
    model, batch = adapted(LinearModel()), some()
    metric = Infidelity(kind="noise", samples=12, scaled=scaled)
    assert metric(model, batch, Gradient()(model, batch)).max() < 1e-9
    assert metric(model, batch, InputXGradient()(model, batch)).min() > 0.01


def test_noise_is_a_share_of_the_images_range_and_grey():
    module, batch = Recorded(GapCNN()), some()
    seen = []
    module.inner.register_forward_pre_hook(lambda _module, given: seen.append(given[0].clone()))
    batch = dataclasses.replace(batch, images=batch.images * torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1, 1))
    Infidelity(kind="noise", noise=0.3, samples=5)(adapted(module), batch, mapped(torch.randn(3, *SIZE), batch))
    noise = batch.images.repeat_interleave(5, 0) - torch.cat(seen)[3:]
    torch.testing.assert_close(noise[:, 0], noise[:, 2], rtol=1e-4, atol=1e-5)
    spread = batch.images.amax((1, 2, 3)) - batch.images.amin((1, 2, 3))
    torch.testing.assert_close(noise.view(3, -1).std(1), 0.3 * spread, rtol=0.05, atol=0)  # of 4,800 draws: 1 %


def test_infidelity_is_captums():
    library = pytest.importorskip("captum.metrics")
    module, batch, samples = GapCNN().double().eval(), some(dtype=torch.float64), 7
    model = adapted(module)
    gradient = model.gradient(batch.images, batch.targets)
    draws = [
        normal(keys_of("infidelity", batch.images, 0) + sample, SIZE[0] * SIZE[1]).view(3, 1, *SIZE).double() for sample in range(samples)
    ]
    spread = (batch.images.amax((1, 2, 3)) - batch.images.amin((1, 2, 3))).view(3, 1, 1, 1)
    noise = (0.01 * spread * torch.stack(draws, 1).flatten(0, 1).view(3, samples, 1, *SIZE).flatten(1, 2)).view(3 * samples, 1, *SIZE)
    noise = noise.expand(-1, 3, -1, -1)

    def perturbed(images: Tensor) -> tuple[Tensor, Tensor]:
        return noise, images - noise

    asked = {"target": batch.targets.index, "n_perturb_samples": samples}
    maps = mapped(gradient.sum(1), batch)
    for scaled in (False, True):
        expected = library.infidelity(module, perturbed, batch.images, gradient, normalize=scaled, **asked)
        found = Infidelity(kind="noise", noise=0.01, samples=samples, scaled=scaled, normalised=False)(model, batch, maps)
        torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=0)  # maps and scores are float32
        predicted = (noise * gradient.repeat_interleave(samples, 0)).sum((1, 2, 3)).view(3, -1)
        rows = batch.targets.index.repeat_interleave(samples)
        changed = module(batch.images.repeat_interleave(samples, 0) - noise).gather(1, rows.unsqueeze(1)).view(3, -1)
        drops = model.score(batch.images, batch.targets).unsqueeze(1) - changed.detach()
        torch.testing.assert_close(infidelity(predicted, drops, scaled=scaled, normalised=False), expected.detach(), rtol=1e-10, atol=0)


def test_sensitivity_n_of_a_linear_model_is_1_and_its_opposite_minus_1():
    model, batch = adapted(LinearModel()), some()
    truth, metric = InputXGradient()(model, batch), SensitivityN(samples=10)
    torch.testing.assert_close(metric(model, batch, truth), torch.ones(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(metric(model, batch, mapped(-3 * truth.maps, batch)), -torch.ones(3), rtol=0, atol=1e-5)
    assert (metric(model, batch, Gradient()(model, batch)).abs() < 0.7).all()


def test_sensitivity_n_of_a_map_of_noise_is_0():
    model, batch = adapted(GapCNN()), some(24)
    scores = SensitivityN(samples=20)(model, batch, RandomMap()(model, batch))
    assert scores.std() > 0.01 and scores.mean().abs() < 4 * scores.std() / math.sqrt(24) and SensitivityN.chance == 0


def test_what_is_constant_has_no_score():
    batch = some()
    truth = mapped(torch.randn(3, *SIZE), batch)
    for maps in (torch.zeros(3, *SIZE), torch.full((3, *SIZE), 0.3), torch.full((3, 1, 1), 0.3)):
        assert SensitivityN(samples=5)(adapted(GapCNN()), batch, mapped(maps, batch)).isnan().all()
    for metric in (SensitivityN(samples=5), CompletenessGap(), *(Infidelity(kind=kind, samples=5) for kind in (*REMOVING, "noise"))):
        assert metric(adapted(Dead()), batch, truth).isnan().all()
    unscaled = Infidelity(samples=5, scaled=False, normalised=False)(adapted(Dead()), batch, truth)
    assert (unscaled > 0).all()


def test_changes_of_the_size_of_rounding_errors_count_as_none():
    class Almost(GapCNN):
        """An answer that depends on the image in its last digits alone."""

        def forward(self, images: Tensor) -> Tensor:
            return 100 + 5e-5 * (20 * super().forward(images)).sin()

    model, batch = adapted(Almost()), some()
    maps = InputXGradient()(model, batch)
    answers = model.logits(torch.cat([batch.images * share for share in (1, 0.5, 0.2)]))
    assert 0 < (answers - 100).abs().max() < 1e-4
    for metric in (SensitivityN(samples=5), CompletenessGap(), Infidelity(samples=5)):
        assert metric(model, batch, maps).isnan().all()
    assert lost_in_rounding(torch.tensor([[1e-6, 0], [1e-6, -1e-4]]), torch.tensor([10.0, -10.0])).tolist() == [True, False]


def test_completeness_of_integrated_gradients_is_that_of_its_baseline():
    model, batch = adapted(GapCNN()), some()
    for baseline in ("zero", "black"):
        maps = IntegratedGradients(steps=200, baseline=baseline)(model, batch)
        assert CompletenessGap(baseline)(model, batch, maps).max() < 0.02
    other = CompletenessGap("zero")(model, batch, maps)
    assert other.min() > 0.02
    scores = [model.score(images, batch.targets) for images in (batch.images, torch.zeros_like(batch.images))]
    torch.testing.assert_close(
        other, (maps.maps.sum((1, 2)) - (scores[0] - scores[1])).abs() / (scores[0] - scores[1]).abs(), rtol=1e-4, atol=1e-5
    )
    halved = mapped(torch.nn.functional.avg_pool2d(maps.maps, 2) * 4, batch)
    torch.testing.assert_close(
        CompletenessGap("black")(model, batch, halved), CompletenessGap("black")(model, batch, maps), rtol=1e-3, atol=1e-5
    )


def test_maps_of_a_layer_add_up_to_another_difference():
    module, batch = Recorded(GapCNN()), some()
    model, inner = adapted(module), IntegratedGradients(steps=200)
    for by in (AtLayer(inner), AtLayer(inner, layer="middle"), GradCAM()):
        maps = by(model, batch)
        module.rows.clear()
        assert CompletenessGap()(model, batch, maps).isnan().all() and not module.rows  # nothing is asked for nothing
    for by in (inner, AtLayer(inner, layer="input")):
        assert CompletenessGap()(model, batch, by(model, batch)).max() < 0.02


def test_an_image_that_is_its_own_baseline_has_no_gap():
    model, batch = adapted(GapCNN()), some()
    batch.images[1] = 0
    found = CompletenessGap()(model, batch, InputXGradient()(model, batch))
    assert found.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("metric", "forwards"),
    [
        (Infidelity(samples=9), 3 * 10),
        (Infidelity(kind="noise", samples=9), 3 * 10),
        (SensitivityN(shares=(0.2, 0.6), samples=5), 3 * 10),
        (CompletenessGap(), 3 * 2),
    ],
)
def test_the_cost_is_the_forwards_it_says_in_full_rows(metric, forwards):
    module, batch = Recorded(GapCNN()), some()
    metric(adapted(module, max_rows=4), batch, mapped(torch.randn(3, *SIZE), batch))
    assert sum(module.rows) == forwards and max(module.rows) <= 4
    assert len(module.rows) <= forwards / 4 + 3


def test_settings_that_make_no_sense_are_refused():
    for shares in ((), (0.0,), (0.5, 1.0), (-0.1,)):
        with pytest.raises(BadInput, match=r"SensitivityN\(shares=...\)"):
            SensitivityN(shares=shares)
    with pytest.raises(BadInput, match=r"Infidelity\(kind=...\): got 'circle', allowed: 'square' or 'cells' or 'noise'"):
        Infidelity(kind="circle")
    with pytest.raises(BadInput, match=r"CompletenessGap\(baseline=...\)"):
        CompletenessGap("nothing")
