"""FIDO against autograd through its whole chain, against steps done by hand, and what must hold of it whatever the model."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from models import GapCNN, Hungry, Recorded, ResidualCNN, adapted, shaken
from torch import Tensor, nn

import attribkit as ak
from attribkit import BadInput, Batch, Targets
from attribkit.maps import resize, resize_transposed
from attribkit.methods import CounterfactualInfill
from attribkit.methods.counterfactual_infill import blended, relaxed
from attribkit.noise import keys, uniform
from attribkit.progress import reporting
from attribkit.removals import Blur, Constant, ImageMean, InFill

SIZE = (22, 37)  # neither side is a multiple of a cell's


class Smooth(nn.Module):
    """A small network without kinks, so that two ways to the same gradient agree to the last digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5, stride=2), nn.Conv2d(6, 6, 3, stride=2)
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv2(self.conv1(images).tanh()).tanh().mean((2, 3)))


class Weighted(nn.Module):
    """One logit: the sum over places of the first channel times a weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, images: Tensor) -> Tensor:
        return (images[:, 0] * self.weight).sum((1, 2), keepdim=False).unsqueeze(1)


@dataclasses.dataclass(frozen=True)
class Surroundings(InFill):
    """The mean of what is kept around a place: an in-fill that depends on the mask."""

    def _filling(self, model: ak.VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        kept = keep.unsqueeze(1).to(images.dtype)
        return F.avg_pool2d(images * kept, 7, 1, 3) / (F.avg_pool2d(kept, 7, 1, 3) + 0.1)


def batch_of(images: Tensor, *index: int, kind: str = "logit") -> Batch:
    return Batch(images, Targets(torch.tensor(index), kind), tuple(f"image-{i}" for i in range(len(images))))


def by_autograd(settings: CounterfactualInfill, module: nn.Module, image: Tensor, target: int, removal) -> Tensor:
    """The map of one image (3, H, W), with the paper's drop logits, torch's own Adam, and autograd through everything."""
    height, width = image.shape[1:]
    cells = math.ceil(height / settings.cell), math.ceil(width / settings.cell)
    phi = image.new_zeros(1, 1, *cells, requires_grad=True)
    adam = torch.optim.Adam([phi], lr=settings.learning_rate)
    falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / settings.steps)
    copies = image.expand(settings.samples, -1, -1, -1)
    sign = 1 if settings.objective == "ssr" else -1
    for step in range(settings.steps):
        first = keys(image.unsqueeze(0), settings.seed) + step * settings.samples
        noise = uniform(first + torch.arange(settings.samples), height * width).to(image.dtype).view(-1, 1, height, width)
        drop = F.interpolate(phi.sigmoid(), size=(height, width), mode="bilinear", align_corners=False)
        soft = 1 - ((drop.logit() + (1 - noise).logit()) / settings.temperature).sigmoid()
        with torch.no_grad():
            filling = removal(copies, soft.round().bool().squeeze(1))
        logits = module(soft * copies + (1 - soft) * filling)
        others = torch.cat((logits[:, :target], logits[:, target + 1 :]), 1)
        score = (logits[:, target] - others.logsumexp(1)).mean()
        keep = 1 - drop
        area = keep.sum() if sign == 1 else (1 - keep).sum()
        rough = (keep[..., 1:, :] - keep[..., :-1, :]).square().sum() + (keep[..., 1:] - keep[..., :-1]).square().sum()
        ramp = min(step / settings.ramp, 1)
        loss = -sign * score + ramp * settings.area_weight * area + settings.smoothness_weight * rough
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()
    keep = 1 - F.interpolate(phi.detach().sigmoid(), size=(height, width), mode="bilinear", align_corners=False)
    return sign * (keep[0, 0] - 0.5)


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
@pytest.mark.parametrize("smoothness", [0.0, 0.02])
@pytest.mark.parametrize("in_fill", ["constant", "of the mask"])
def test_maps_are_those_of_autograd_through_the_whole_chain(objective, smoothness, in_fill):
    module = Smooth().double()
    images = torch.randn(3, 3, *SIZE, dtype=torch.float64)
    removal = Constant("zero") if in_fill == "constant" else Surroundings()
    settings = CounterfactualInfill(objective, removal, 7, 3, 0.3, area_weight=2e-3, smoothness_weight=smoothness, ramp=4, temperature=0.4)
    model = adapted(module, size=SIZE)
    batch = batch_of(images, 2, 0, 3)
    got = settings.explained(model, images, batch.targets).maps
    plain = (lambda images, keep: removal._filling(model, images, keep)) if in_fill == "of the mask" else (lambda images, _: 0 * images)
    expected = torch.stack([by_autograd(settings, module, image, target, plain) for image, target in zip(images, (2, 0, 3), strict=True)])
    assert expected.abs().amax() > 0.1
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_the_first_steps_by_hand():
    # A cell is a pixel, and the score a weighted sum of those of the first row; the second row has no say.
    weight = torch.tensor([[2.0, -1.0, 3.0], [0.0, 0.0, 0.0]])
    model = adapted(Weighted(weight), size=(2, 3))
    batch = batch_of(torch.ones(1, 3, 2, 3), 0)
    plain = CounterfactualInfill(removal=Constant(), cell=1, samples=4, area_weight=100.0)
    # The first step of Adam is the learning rate against the gradient's sign, and without the area, whose ramp begins at 0.
    moved = 1 / (1 + math.exp(-0.05)) - 0.5  # 0.0124974
    expected = torch.tensor([[[moved, -moved, moved], [0.0, 0.0, 0.0]]])
    torch.testing.assert_close(dataclasses.replace(plain, steps=1)(model, batch).maps, expected, rtol=0, atol=1e-6)
    sdr = dataclasses.replace(plain, steps=1, objective="sdr")(model, batch)
    torch.testing.assert_close(sdr.maps, expected, rtol=0, atol=1e-6)  # what to keep for the score is what to drop against it
    # The second step, at half the rate: where the score has no say, the area g alone has moments 0.1 g / 0.19 and 0.001 g^2 / 0.001999.
    second = 0.025 * (0.1 / 0.19) / math.sqrt(0.001 / 0.001999)  # 0.018604
    maps = dataclasses.replace(plain, steps=2)(model, batch).maps
    torch.testing.assert_close(maps[0, 1], torch.full((3,), 1 / (1 + math.exp(second)) - 0.5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7])
def test_a_pixel_is_kept_with_its_probability_at_any_temperature(temperature, keep):
    count = 200_000
    noise = uniform(keys(torch.zeros(1, 1), 7), count)
    soft = relaxed(torch.tensor(keep, dtype=torch.float64).logit().expand(1, count), noise.double(), temperature)
    error = 4 * math.sqrt(keep * (1 - keep) / count)  # four standard errors of a share of `count` draws
    assert abs((soft > 0.5).double().mean().item() - keep) < error
    assert torch.isfinite(relaxed(torch.tensor([-15.0, 15.0]), torch.tensor([0.0, 1 - 2.0**-24]), 0.001)).all()


def test_where_all_is_kept_the_model_sees_the_image_bit_by_bit():
    images, filling = torch.randn(2, 3, *SIZE), torch.randn(2, 3, *SIZE) * 1e6
    torch.testing.assert_close(blended(images, torch.ones(2, *SIZE), filling), images, rtol=0, atol=0)
    torch.testing.assert_close(blended(images, torch.zeros(2, *SIZE), filling), filling, rtol=0, atol=0)
    half = blended(images, torch.full((2, *SIZE), 0.25), torch.zeros_like(images))
    torch.testing.assert_close(half, images / 4, rtol=0, atol=0)


@pytest.mark.parametrize("before", [(6, 10), (1, 1), (22, 37), (22, 5)])
def test_the_transpose_of_resizing(before):
    cells, maps = torch.randn(2, *before, dtype=torch.float64), torch.randn(2, *SIZE, dtype=torch.float64)
    back = resize_transposed(maps, before)
    assert back.shape == cells.shape
    torch.testing.assert_close((resize(cells, SIZE) * maps).sum((1, 2)), (cells * back).sum((1, 2)))


def trained(area_weight: float, objective: str) -> Tensor:
    """A map of the one-logit model whose every pixel speaks for its target."""
    model = adapted(Weighted(torch.full(SIZE, 0.01)), size=SIZE)
    settings = CounterfactualInfill(
        objective, Constant(), 12, 4, learning_rate=1.0, area_weight=area_weight, smoothness_weight=0.0, ramp=2, tolerance=0
    )
    return settings(model, batch_of(torch.ones(1, 3, *SIZE), 0)).maps


def test_without_a_price_all_that_helps_is_kept_and_with_a_high_one_nothing_moves_the_score():
    assert trained(0.0, "ssr").amin() > 0.4
    assert trained(1.0, "ssr").amax() < -0.4  # all dropped
    assert trained(0.0, "sdr").amin() > 0.4  # all dropped, which is what destroys
    assert trained(1.0, "sdr").amax() < -0.4  # all kept


def test_a_rough_mask_costs():
    model, batch = adapted(Smooth(), size=SIZE), batch_of(torch.randn(1, 3, *SIZE), 1)
    rough, smooth = (
        CounterfactualInfill(steps=15, samples=4, learning_rate=0.5, smoothness_weight=weight)(model, batch).maps for weight in (0.0, 0.1)
    )
    assert smooth.diff(dim=1).square().sum() < 0.2 * rough.diff(dim=1).square().sum()


EARLY = CounterfactualInfill(steps=70, samples=2, learning_rate=0.2, ramp=5, tolerance=0.05, removal=Constant(), cell=6)


def early_batch() -> Batch:
    torch.manual_seed(1)
    return batch_of(torch.randn(4, 3, 24, 40) * torch.tensor([0.2, 1.0, 3.0, 8.0]).view(4, 1, 1, 1), 0, 1, 2, 3)


def test_images_together_are_as_one_by_one_also_when_they_end_early():
    module = Recorded(GapCNN())
    model, batch = adapted(module), early_batch()
    together = EARLY(model, batch)
    steps = together.extras["steps"].tolist()
    assert len(set(steps)) > 1 and all(each in (40, 60) for each in steps), steps
    assert max(module.rows) == 8
    # Who has ended costs nothing more: T x S passes each, and one for what the counterfactual scores.
    assert sum(module.rows) == sum(steps) * EARLY.samples + len(batch)
    for i in range(len(batch)):
        alone = EARLY(model, batch[i : i + 1])
        assert alone.extras["steps"].tolist() == steps[i : i + 1]
        torch.testing.assert_close(alone.maps, together.maps[i : i + 1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.extras["counterfactual"], together.extras["counterfactual"][i : i + 1], rtol=0, atol=0)


def test_who_ends_early_changes_nothing_for_who_goes_on():
    model, batch = adapted(GapCNN()), early_batch()
    ended = dataclasses.replace(EARLY, tolerance=0.01)(model, batch)
    every = dataclasses.replace(EARLY, tolerance=0)(model, batch)
    assert (every.extras["steps"] == EARLY.steps).all()
    late = ended.extras["steps"] == EARLY.steps
    assert late.any() and not late.all()
    torch.testing.assert_close(ended.maps[late], every.maps[late], rtol=1e-4, atol=1e-5)
    assert (ended.maps[~late] - every.maps[~late]).abs().amax() > 1e-3


def test_no_mask_ends_while_its_price_still_grows():
    settings = dataclasses.replace(EARLY, tolerance=10.0, ramp=25)  # everything has settled, always
    assert settings(adapted(GapCNN()), early_batch()).extras["steps"].tolist() == [60] * 4  # the first look 20 steps after the ramp


def test_both_objectives_at_once_are_each_by_itself():
    model, batch = adapted(Smooth(), size=SIZE), batch_of(torch.randn(3, 3, *SIZE), 0, 1, 2)
    settings = CounterfactualInfill("both", steps=6, samples=3)
    both = settings(model, batch)
    alone = {each: dataclasses.replace(settings, objective=each)(model, batch) for each in ("ssr", "sdr")}
    assert set(both.extras) == {f"{name}_{each}" for name in ("map", *alone["ssr"].extras) for each in alone}
    for each, one in alone.items():
        torch.testing.assert_close(both.extras[f"map_{each}"], one.maps)
        for name, extra in one.extras.items():
            torch.testing.assert_close(both.extras[f"{name}_{each}"], extra, msg=f"{name}_{each}")
    torch.testing.assert_close(both.maps, (alone["ssr"].maps + alone["sdr"].maps) / 2)
    assert (alone["ssr"].maps - alone["sdr"].maps).abs().amax() > 1e-3


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_the_counterfactual_is_what_the_map_says_and_scores_what_is_reported(objective):
    model, batch = adapted(Smooth(), size=SIZE), batch_of(torch.randn(2, 3, *SIZE), 0, 3)
    result = CounterfactualInfill(objective, ImageMean(), steps=8, samples=4)(model, batch)
    kept = result.maps > 0 if objective == "ssr" else result.maps < 0
    mean = batch.images.mean((2, 3), keepdim=True).expand_as(batch.images)
    expected = torch.where(kept.unsqueeze(1), batch.images, mean)
    torch.testing.assert_close(result.extras["counterfactual"], expected, rtol=0, atol=0)
    torch.testing.assert_close(result.extras["kept_area"], kept.float().mean((1, 2)))
    score = model.score(expected, Targets(batch.targets.index, "log_odds"))
    torch.testing.assert_close(result.extras["counterfactual_score"], score)
    assert 0.1 < result.extras["kept_area"].amin() and result.extras["kept_area"].amax() < 0.9
    pixels = model.preprocessing.pixels(result.extras["counterfactual"])
    assert pixels.shape == (2, 3, *SIZE) and 0 <= pixels.amin() and pixels.amax() <= 1


def test_a_logit_is_explained_by_its_log_odds_and_another_scalar_as_it_is():
    model, images = adapted(Smooth(), size=SIZE), torch.randn(2, 3, *SIZE)
    maps = {
        kind: CounterfactualInfill(steps=5, samples=3, learning_rate=0.5, area_weight=0.0)(model, batch_of(images, 1, 2, kind=kind)).maps
        for kind in ("logit", "log_odds", "probability", "evidence")
    }
    torch.testing.assert_close(maps["logit"], maps["log_odds"], rtol=0, atol=0)
    assert (maps["probability"] - maps["log_odds"]).abs().amax() > 1e-3
    assert (maps["evidence"] - maps["log_odds"]).abs().amax() > 1e-3


def test_the_noise_belongs_to_the_seed_the_image_the_step_and_the_sample():
    model, batch = adapted(Smooth(), size=SIZE), batch_of(torch.randn(1, 3, *SIZE), 0)
    settings = CounterfactualInfill(steps=4, samples=2)
    first = settings(model, batch).maps
    assert (dataclasses.replace(settings, seed=1)(model, batch).maps - first).abs().amax() > 1e-3
    seen: list[Tensor] = []

    class Seeing(Smooth):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach().clone())
            return super().forward(images)

    settings(adapted(Seeing(), size=SIZE), batch)
    blends = torch.cat(seen[: settings.steps])
    assert len(blends) == settings.steps * settings.samples
    assert torch.pdist(blends.flatten(1)).amin() > 1  # no two of them alike


def test_an_image_that_is_its_own_filling_has_a_map_of_zeros_and_disturbs_no_other():
    model, batch = adapted(ResidualCNN()), batch_of(torch.cat((torch.zeros(1, 3, 24, 40), torch.randn(1, 3, 24, 40))), 0, 1)
    settings = CounterfactualInfill(removal=Constant("zero"), steps=6, samples=2, ramp=2)
    maps = settings(model, batch).maps
    torch.testing.assert_close(maps[0], torch.zeros(24, 40), rtol=0, atol=0)
    torch.testing.assert_close(maps[1:], settings(model, batch[1:]).maps, rtol=1e-4, atol=1e-5)
    assert maps[1].abs().amax() > 0.01


def test_passes_are_full_and_memory_that_runs_out_changes_nothing():
    inner = GapCNN()
    batch = batch_of(torch.randn(3, 3, 24, 40), 0, 1, 2)
    settings = CounterfactualInfill(steps=3, samples=5)
    module = Recorded(inner)
    expected = settings(adapted(module, max_rows=4), batch).maps
    assert module.rows == [4, 4, 4, 3] * 3 + [3]
    hungry = adapted(Hungry(inner, 2), max_rows=8)
    torch.testing.assert_close(settings(hungry, batch).maps, expected, rtol=1e-4, atol=1e-6)
    assert hungry.max_rows == 2


def test_every_step_is_reported():
    heard = []
    with reporting(lambda *told: heard.append(told)):
        CounterfactualInfill(steps=3, samples=1)(adapted(GapCNN()), batch_of(torch.randn(2, 3, 24, 40), 0, 1))
    assert heard == [(step, 3, "counterfactual_infill") for step in (1, 2, 3)]


def test_it_finds_the_object_of_a_planted_scene():
    model = ak.load_model("planted/shortcut-50")
    _, batch = next(iter(ak.problems.Planted(model, count=2, strength=50)))
    result = CounterfactualInfill("both", Blur(0.1), steps=15, samples=2, learning_rate=0.5, ramp=3)(model, batch)
    inside, outside = (batch.region(name) for name in ("object", "background"))
    for name in ("map_ssr", "map_sdr"):
        means = [(result.extras[name] * region).sum((1, 2)) / region.sum((1, 2)) for region in (inside, outside)]
        assert (means[0] > means[1] + 0.2).all(), (name, means)
    # What is kept keeps the class; what goes takes it along.
    assert (result.extras["counterfactual_score_ssr"] > 0).all()
    assert (result.extras["counterfactual_score_sdr"] < 0).all()


def test_settings_say_what_is_allowed():
    with pytest.raises(BadInput, match=r"CounterfactualInfill\(objective=...\): got 'sdf', allowed: 'ssr' or 'sdr' or 'both'"):
        CounterfactualInfill(objective="sdf")
    for field, low in (("steps", "1"), ("samples", "1"), ("cell", "1"), ("temperature", "0.001"), ("tolerance", "0"), ("ramp", "0")):
        with pytest.raises(BadInput, match=rf"CounterfactualInfill\({field}=...\): got -1, allowed: .* of at least {low}"):
            CounterfactualInfill(**{field: -1})
    for field in ("learning_rate", "area_weight", "smoothness_weight", "temperature", "tolerance"):
        with pytest.raises(BadInput, match=rf"CounterfactualInfill\({field}=...\): got inf, allowed: a finite number"):
            CounterfactualInfill(**{field: math.inf})
    assert CounterfactualInfill(removal="blur") == CounterfactualInfill()


def test_a_removal_that_fills_nothing_in_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Answering(ak.removals.Removal):
        def prepared(self, model, images):
            return lambda which, keep: model.logits(images[which])

    with pytest.raises(BadInput, match=r"CounterfactualInfill\(removal=...\): got .*Answering\(\), allowed: a removal that fills gaps"):
        CounterfactualInfill(removal=Answering())


def test_chances_next_to_0_and_1_stay_finite():
    model, batch = adapted(Smooth(), size=SIZE), batch_of(torch.randn(1, 3, *SIZE), 0)
    maps = CounterfactualInfill(steps=6, samples=2, learning_rate=100.0)(model, batch).maps
    assert torch.isfinite(maps).all() and 0.49 < maps.abs().amax() < 0.5


def test_a_large_cell_is_one_chance_for_the_whole_image():
    maps = CounterfactualInfill(steps=3, samples=2, cell=100)(adapted(shaken(GapCNN())), batch_of(torch.randn(1, 3, 24, 40), 0)).maps
    torch.testing.assert_close(maps, maps.mean().expand(1, 24, 40))
    assert maps.abs().amin() > 1e-4
