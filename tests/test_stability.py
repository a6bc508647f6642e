"""Sensitivity-max and noise stability: explainers whose answer is known, what is asked of a method, and Captum's sensitivity_max."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from models import SIZE, GapCNN, Recorded, adapted
from torch import Tensor

from attribkit import Attribution, BadInput, Batch, Targets
from attribkit.methods import CentreMap, EdgeMap, GradCAM, Gradient, RandomMap
from attribkit.metrics import NoiseStability, SensitivityMax, map_correlation, relative_change
from attribkit.metrics.draws import keys_of
from attribkit.noise import uniform

BOTH = [SensitivityMax(samples=4), NoiseStability(samples=4)]


def some(rows: int = 3, dtype: torch.dtype = torch.float32) -> Batch:
    images = torch.randn(rows, 3, *SIZE, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return Batch(images, Targets(torch.arange(rows) % 5), tuple(f"image-{row}.jpg" for row in range(rows)))


class Explaining:
    """A function of the images as a method, which keeps the batches it was asked about."""

    def __init__(self, function) -> None:
        self.function, self.asked = function, []

    def __call__(self, model, batch: Batch) -> Attribution:
        self.asked.append(batch)
        return Attribution(self.function(batch.images).float(), batch.targets, batch.ids, "by hand", size=tuple(batch.images.shape[-2:]))


def scored(metric, function, batch: Batch, model=None) -> tuple[Tensor, Explaining]:
    model, explaining = model or adapted(GapCNN()), Explaining(function)
    return metric(model, batch, explaining(model, batch), explaining), explaining


def brightness(images: Tensor) -> Tensor:
    return images.sum(1)


def test_relative_change_by_hand():
    maps = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[3e30, 4e30]]])
    others = torch.tensor([[[3.0, 5.0]], [[0.0, 2.0]], [[0.0, 0.0]]])
    torch.testing.assert_close(relative_change(maps, others), torch.tensor([0.2, 2, 1], dtype=torch.float64))
    for value in (math.nan, math.inf, -math.inf):
        broken = maps.index_put((torch.tensor(0), torch.tensor(0), torch.tensor(1)), torch.tensor(value))
        for one, other in ((broken, others), (others, broken), (broken, broken)):
            assert relative_change(one, other).isnan().tolist() == [True, False, False]
    with pytest.raises(BadInput, match=r"relative_change: got \(3, 1, 2\) and \(2, 1, 2\)"):
        relative_change(maps, others[:2])


def test_map_correlation_by_hand():
    maps, others = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
    expected = torch.corrcoef(torch.stack([maps[0].flatten(), others[0].flatten()]))[0, 1]
    maps[1], others[2] = 0.25, 0
    found = map_correlation(maps, others)
    torch.testing.assert_close(found[0].float(), expected)
    assert found[1].isnan() and found[2] == 0
    torch.testing.assert_close(map_correlation(maps, 1 - 2 * maps)[[0, 2]], -torch.ones(2, dtype=torch.float64))
    for value in (math.nan, math.inf, -math.inf):
        broken = maps.index_put((torch.tensor(0), torch.tensor(0), torch.tensor(1)), torch.tensor(value))
        assert map_correlation(broken, others).isnan().tolist() == [True, True, False]
        assert map_correlation(others, broken).isnan().tolist() == [True, False, True]  # now the last is the constant one
    with pytest.raises(BadInput, match=r"map_correlation: got \(2, 5\)"):
        map_correlation(maps[0], others[0])


def test_what_looks_at_nothing_never_changes():
    batch, model = some(), adapted(GapCNN())
    maps = CentreMap()(model, batch)
    assert SensitivityMax(samples=3)(model, batch, maps, CentreMap()).tolist() == [0, 0, 0]
    torch.testing.assert_close(NoiseStability(samples=3)(model, batch, maps, CentreMap()), torch.ones(3))
    for metric in (SensitivityMax(radius=0, samples=2), NoiseStability(noise=0, samples=2)):
        expected = torch.full((3,), float(metric.higher_is_better))
        torch.testing.assert_close(metric(model, batch, GradCAM()(model, batch), GradCAM()), expected, rtol=1e-6, atol=1e-5)


def test_a_map_of_noise_has_no_stability():
    batch, model = some(16), adapted(GapCNN())
    scores = NoiseStability(samples=5)(model, batch, RandomMap()(model, batch), RandomMap())
    assert scores.mean().abs() < 4 / math.sqrt(16 * 5 * SIZE[0] * SIZE[1])


def test_stability_has_no_value_of_chance():
    # Of maps that know nothing of the model one has 0, one 1, and one nearly 1: none of them is the score of chance.
    batch, model = some(), adapted(GapCNN())
    means = [NoiseStability(samples=3)(model, batch, by(model, batch), by).mean() for by in (RandomMap(), EdgeMap(), CentreMap())]
    assert means[0].abs() < 0.1 and means[1] > 0.8 and means[2] > 0.999
    assert NoiseStability.chance is None and NoiseStability().chances(batch) is None


def test_the_change_is_that_of_the_worst_copy():
    batch = some()
    scores, explaining = scored(SensitivityMax(radius=0.1, samples=6), brightness, batch)
    asked = torch.cat([each.images for each in explaining.asked[1:]]).view(6, 3, 3, *SIZE)
    noise = asked - batch.images
    changes = noise.sum(2).flatten(2).norm(dim=2) / batch.images.sum(1).flatten(1).norm(dim=1)
    torch.testing.assert_close(scores, changes.amax(0), rtol=1e-4, atol=0)
    assert (changes.amax(0) > changes.mean(0)).all()
    assert 0.099 < noise.amax() <= 0.1 + 1e-6 and -0.1 - 1e-6 <= noise.amin() < -0.099 and noise.mean().abs() < 1e-3
    torch.testing.assert_close(noise.std(), torch.tensor(0.1 / math.sqrt(3)), rtol=0.01, atol=0)


def test_stability_is_the_mean_over_copies_whose_noise_is_a_share_of_the_range():
    batch = some()
    batch = dataclasses.replace(batch, images=batch.images * torch.tensor([1.0, 3.0, 10.0]).view(3, 1, 1, 1))
    scores, explaining = scored(NoiseStability(noise=0.2, samples=6), brightness, batch)
    asked = torch.cat([each.images for each in explaining.asked[1:]]).view(6, 3, 3, *SIZE)
    spread = batch.images.amax((1, 2, 3)) - batch.images.amin((1, 2, 3))
    torch.testing.assert_close((asked - batch.images).transpose(0, 1).flatten(1).std(1), 0.2 * spread, rtol=0.02, atol=0)
    each = [map_correlation(brightness(batch.images), brightness(copies)) for copies in asked]
    torch.testing.assert_close(scores, torch.stack(each).mean(0).float(), rtol=1e-5, atol=0)
    # Of brightness with variance s^2 and noise with variance n^2 on top, independent of it: s / sqrt(s^2 + n^2).
    expected = 1 / (1 + (0.2 * spread / batch.images.std((1, 2, 3))).square()).sqrt()
    torch.testing.assert_close(scores, expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("metric", BOTH)
def test_noise_has_nothing_of_a_random_map_of_the_same_seed(metric):
    batch = some(16)
    _, explaining = scored(metric, brightness, batch)
    noise = torch.cat([each.images for each in explaining.asked[1:]]).view(4, 16, 3, *SIZE)[0, :, 0] - batch.images[:, 0]
    control = RandomMap()(adapted(GapCNN()), batch).maps
    for drawn in (noise, noise.abs()):  # the size of a normal draw comes from a uniform one
        assert map_correlation(drawn, control).mean().abs() < 4 / math.sqrt(16 * SIZE[0] * SIZE[1])


@pytest.mark.parametrize("metric", BOTH)
def test_copies_are_explained_for_the_same_targets_under_names_of_their_own_in_full_rows(metric):
    batch = some(5)
    model = adapted(Recorded(GapCNN()), max_rows=4)
    _, explaining = scored(metric, brightness, batch, model)
    asked = explaining.asked[1:]
    assert [len(each) for each in asked] == [4] * 5 and not model.module.rows
    names = [name for each in asked for name in each.ids]
    assert len(set(names)) == 20 and not set(names) & set(batch.ids)
    targets = torch.cat([each.targets.index for each in asked])
    torch.testing.assert_close(targets, batch.targets.index.repeat(4), rtol=0, atol=0)
    images = torch.cat([each.images for each in asked])
    assert len({tuple(image.flatten()[:4].tolist()) for image in images}) == 20
    assert all(each.targets.kind == "logit" for each in asked)


@pytest.mark.parametrize("metric", BOTH)
def test_another_seed_makes_other_copies(metric):
    first, second = (scored(dataclasses.replace(metric, seed=seed), brightness, some())[0] for seed in (0, 1))
    assert (first != second).all()


def test_a_constant_map_is_neither_stable_nor_unstable():
    batch = some(2)

    def half_flat(images: Tensor) -> Tensor:
        return images.sum(1) * torch.tensor([0.0, 1.0]).view(2, 1, 1) if len(images) == 2 else images.sum(1)

    scores, _ = scored(NoiseStability(samples=3), half_flat, batch, adapted(GapCNN(), max_rows=2))
    assert scores.isnan().tolist() == [True, False]
    original = batch.images.clone()
    gone, _ = scored(NoiseStability(samples=3), lambda images: images.sum(1) * torch.equal(images, original), batch)
    assert gone.tolist() == [0, 0]
    changed, _ = scored(SensitivityMax(samples=3), lambda images: images.sum(1) * (not torch.equal(images, original)), batch)
    assert (changed > 10).all()  # the norm itself, where there is nothing to be relative to


def test_a_map_that_was_resized_is_compared_with_maps_resized_alike():
    batch, model = some(), adapted(GapCNN())
    maps = GradCAM()(model, batch)
    large = dataclasses.replace(maps, maps=maps.at())
    assert SensitivityMax(radius=0, samples=1)(model, batch, large, GradCAM()).max() < 1e-4
    assert NoiseStability(noise=0, samples=1)(model, batch, large, GradCAM()).min() > 0.9999


def test_sensitivity_max_is_captums():
    library = pytest.importorskip("captum.metrics")
    batch, model, samples = some(dtype=torch.float64), adapted(GapCNN().double()), 5
    batch = dataclasses.replace(batch, targets=Targets(torch.full((3,), 2)))
    key = keys_of("sensitivity_max", batch.images, 0)
    noise = torch.stack([2 * uniform(key + sample, 3 * SIZE[0] * SIZE[1]).view(3, 3, *SIZE).double() - 1 for sample in range(samples)], 1)

    def explained(images: Tensor | tuple[Tensor]) -> tuple[Tensor]:
        (images,) = images if isinstance(images, tuple) else (images,)
        with model.studied():
            return (Gradient().explained(model, images, Targets(torch.full((len(images),), 2))).maps,)

    expected = library.sensitivity_max(
        explained, batch.images, lambda images: images + 0.5 * noise.flatten(0, 1), n_perturb_samples=samples
    )
    found = SensitivityMax(radius=0.5, samples=samples)(model, batch, Gradient()(model, batch), Gradient())
    assert expected.min() > 0.01
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)  # maps are float32


def test_double_precision_images_stay_double():
    batch = some(dtype=torch.float64)
    _, explaining = scored(SensitivityMax(samples=1), brightness, batch)
    assert explaining.asked[1].images.dtype == torch.float64
