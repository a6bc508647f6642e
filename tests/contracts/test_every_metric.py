"""What every metric must do, for each that is registered; no metric is named here."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from typing import get_args

import pytest
import torch
from examples import small
from models import GapCNN, LinearModel, Raising, Recorded, ResidualCNN, TinyViT, adapted

from attribkit import METRICS, Attribution, BadInput, Batch, Targets, Unsupported
from attribkit.methods import GradCAM, Gradient, InputXGradient, Method, RandomMap
from attribkit.methods.controls import Oracle
from attribkit.metrics import Metric, draws, metric
from attribkit.metrics.base import Anew, Family
from attribkit.noise import keys
from attribkit.registry import read

SIZE = (24, 40)
ALL = [pytest.param(small(cls()), id=name) for name, cls in METRICS.items()]
LOCALISING = [each for each in ALL if each.values[0].family == "localisation" and not isinstance(each.values[0], Anew)]
FAITHFUL = [each for each in ALL if each.values[0].family == "faithfulness"]


def batch_for(model, rows: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(rows, 3, *SIZE, generator=generator)
    regions = torch.zeros(rows, *SIZE)
    for row in range(rows):
        regions[row, 4 + row : 16 + row, 10 + 2 * row : 26 + 2 * row] = 1
    index = model.logits(images).argmax(1)
    return Batch(images, Targets(index), tuple(f"image-{i}" for i in range(rows)), {"object": regions, "other": 1 - regions})


def by_default(chosen: Metric) -> Method:
    """A method whose maps the metric has something to say of: faithfulness is also asked of what claims to add up."""
    return InputXGradient() if chosen.family == "faithfulness" else GradCAM()


def scored(chosen, model, batch, by=None) -> torch.Tensor:
    by = by or by_default(chosen)
    return chosen(model, batch, by(model, batch), by)


def better(chosen: Metric, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Where the first score is better than the second."""
    return (one > other) if chosen.higher_is_better else (one < other)


def with_maps(maps: torch.Tensor, like: Attribution) -> Attribution:
    return dataclasses.replace(like, maps=maps)


@pytest.mark.parametrize("chosen", ALL)
@pytest.mark.parametrize("network", [GapCNN, ResidualCNN, TinyViT])
def test_one_score_per_image(chosen, network):
    model = adapted(network())
    batch = batch_for(model)
    scores = scored(chosen, model, batch)
    assert scores.shape == (3,) and scores.dtype == torch.float32 and not scores.requires_grad
    assert not torch.isinf(scores).any()


@pytest.mark.parametrize("chosen", ALL)
def test_an_images_score_depends_neither_on_its_batch_nor_on_its_place(chosen):
    model = adapted(ResidualCNN())
    batch = batch_for(model, 4)
    together = scored(chosen, model, batch)
    alone = torch.cat([scored(chosen, model, batch[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4, equal_nan=True)
    order = torch.tensor([2, 0, 3, 1])
    regions = {name: region[order] for name, region in batch.regions.items()}
    mixed = Batch(batch.images[order], batch.targets[order], tuple(batch.ids[i] for i in order), regions)
    torch.testing.assert_close(scored(chosen, model, mixed), together[order], rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("chosen", ALL)
def test_how_many_rows_run_at_once_changes_nothing(chosen):
    module = Recorded(ResidualCNN())
    batch = batch_for(adapted(module))
    by = by_default(chosen)
    maps = by(adapted(module), batch)
    whole = chosen(adapted(module), batch, maps, by)
    module.rows.clear()
    narrow = adapted(module, max_rows=2)
    torch.testing.assert_close(chosen(narrow, batch, maps, by), whole, rtol=1e-3, atol=1e-4, equal_nan=True)
    assert max(module.rows, default=0) <= 2


@pytest.mark.parametrize("chosen", ALL)
def test_a_call_made_twice_gives_the_same_score(chosen):
    model = adapted(TinyViT())
    batch = batch_for(model)
    first = scored(chosen, model, batch)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    torch.testing.assert_close(scored(chosen, model, batch), first, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("chosen", ALL)
def test_model_batch_and_maps_come_back_as_they_were(chosen):
    module = ResidualCNN().train()
    module.layer1.eval()
    module.head.weight.requires_grad_(False)
    model = adapted(module)
    batch = batch_for(model)
    maps = GradCAM()(model, batch)
    kept = batch.images.clone(), maps.maps.clone(), batch.region("object").clone()
    flags = [each.training for each in module.modules()], [weight.requires_grad for weight in module.parameters()]
    values = [value.clone() for value in module.state_dict().values()]
    chosen(model, batch, maps, GradCAM())
    assert flags == ([each.training for each in module.modules()], [weight.requires_grad for weight in module.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(values, module.state_dict().values(), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(kept, (batch.images, maps.maps, batch.region("object")), strict=True))
    assert all(weight.grad is None for weight in module.parameters())
    assert not any(each._forward_hooks or each._forward_pre_hooks or each._backward_hooks for each in module.modules())


@pytest.mark.parametrize("chosen", ALL)
def test_flags_come_back_when_the_model_raises(chosen):
    module = Raising().train()
    model = adapted(module, layer="features")
    batch = batch_for(model)
    by = RandomMap() if not isinstance(chosen, Anew) else GradCAM()
    maps = by(model, batch)
    module.error = RuntimeError("broken on purpose")
    if chosen.cost == "nothing":
        chosen(model, batch, maps, by)
    else:
        with pytest.raises(RuntimeError, match="broken on purpose"):
            chosen(model, batch, maps, by)
    assert all(each.training for each in module.modules())
    assert not any(each._forward_hooks for each in module.modules())


@pytest.mark.parametrize("chosen", ALL)
@pytest.mark.parametrize("maps", ["zero", "constant", "one pixel", "tiny", "huge"])
def test_odd_maps_have_a_score_or_nan(chosen, maps):
    model = adapted(GapCNN())
    batch = batch_for(model)
    made = GradCAM()(model, batch)
    odd = {
        "zero": torch.zeros(3, *SIZE),
        "constant": torch.full((3, *SIZE), -0.25),
        "one pixel": torch.zeros(3, *SIZE).index_fill(2, torch.tensor([7]), 1.0),
        "tiny": made.maps * 1e-30,
        "huge": made.maps * 1e30,
    }[maps]
    scores = chosen(model, batch, with_maps(odd, made), GradCAM())
    assert scores.shape == (3,) and not torch.isinf(scores).any()


@pytest.mark.parametrize("chosen", ALL)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_map_that_is_not_finite_has_nan_and_the_others_their_scores(chosen, value):
    model, by = adapted(GapCNN()), by_default(chosen)
    batch = batch_for(model, 4)
    made = by(model, batch)
    broken = made.maps.clone()
    broken[1, 2, 3] = value
    broken[3] = value
    expected = chosen(model, batch, made, by)
    expected[[1, 3]] = torch.nan
    torch.testing.assert_close(chosen(model, batch, with_maps(broken, made), by), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("chosen", [each for each in ALL if isinstance(each.values[0], Anew)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_map_that_is_compared_with_one_that_is_not_finite_has_nan(chosen, value):
    model = adapted(GapCNN())
    batch = batch_for(model)

    def explain(other, some):
        made = Gradient()(other, some)
        broken = made.maps.clone()
        rows = [row for row, name in enumerate(made.ids) if name.endswith("image-1")]
        broken[rows, 2, 3] = value
        return with_maps(broken, made)

    assert chosen(model, batch, Gradient()(model, batch), Gradient()).isfinite().all()
    assert chosen(model, batch, Gradient()(model, batch), explain).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("chosen", ALL)
def test_no_metric_draws_what_a_method_draws(chosen, monkeypatch):
    # RandomMap(seed=0) has the numbers that begin with keys(images, 0); parts of the image by the same ones would be chosen by it.
    model = adapted(GapCNN())
    batch = batch_for(model)
    drawn = []

    def recorded(*asked, **more):
        drawn.append(keys(*asked, **more))
        return drawn[-1]

    monkeypatch.setattr(draws, "keys", recorded)
    scored(chosen, model, batch)
    known = torch.cat([keys(batch.images, *seeds) for seeds in ((), (0,), (1,), (0, 0), (0, 1))])
    assert not any(torch.isin(key, known).any() for key in drawn)
    modules = [each for name, each in sys.modules.items() if name.startswith("attribkit.metrics.") and each is not draws]
    assert len(modules) > 10 and not [each.__name__ for each in modules if hasattr(each, "keys")]


@pytest.mark.parametrize("chosen", ALL)
def test_a_blank_image_and_an_empty_region_end_nothing(chosen):
    model = adapted(GapCNN())
    batch = Batch(torch.zeros(2, 3, *SIZE), Targets(torch.tensor([0, 1])), ("a", "b"), {"object": torch.zeros(2, *SIZE)})
    scores = chosen(model, batch, RandomMap()(model, batch), RandomMap())
    assert scores.shape == (2,) and not torch.isinf(scores).any()
    full = dataclasses.replace(batch, regions={"object": torch.ones(2, *SIZE)})
    assert not torch.isinf(chosen(model, full, RandomMap()(model, full), RandomMap())).any()


@pytest.mark.parametrize("chosen", ALL)
def test_chance_is_a_number_for_each_image(chosen):
    model = adapted(GapCNN())
    batch = batch_for(model)
    chances = chosen.chances(batch)
    if chances is not None:
        assert chances.shape == (3,) and torch.isfinite(chances).all()
        assert chosen.chance is None or (chances == chosen.chance).all()


@pytest.mark.parametrize("chosen", ALL)
def test_maps_of_other_images_are_refused(chosen):
    model = adapted(GapCNN())
    batch = batch_for(model)
    other = dataclasses.replace(batch, ids=("x", "y", "z"))
    with pytest.raises(BadInput, match="maps of other images"):
        chosen(model, other, GradCAM()(model, batch), GradCAM())


@pytest.mark.parametrize("chosen", ALL)
def test_a_metric_with_a_region_compares_with_the_one_it_is_told(chosen):
    if "region" not in {field.name for field in dataclasses.fields(chosen)}:
        return
    model = adapted(GapCNN())
    batch = batch_for(model)
    first = scored(chosen, model, batch)
    torch.testing.assert_close(scored(dataclasses.replace(chosen, region="object"), model, batch), first, rtol=0, atol=0)
    assert (scored(dataclasses.replace(chosen, region="other"), model, batch) != first).any()
    with pytest.raises(BadInput, match="no region is called"):
        scored(dataclasses.replace(chosen, region="elsewhere"), model, batch)
    with pytest.raises(BadInput, match="without regions"):
        scored(chosen, model, dataclasses.replace(batch, regions={}))


@pytest.mark.parametrize("chosen", [each for each in ALL if isinstance(each.values[0], Anew)])
def test_a_metric_that_explains_again_needs_the_method(chosen):
    model = adapted(GapCNN())
    batch = batch_for(model)
    with pytest.raises(Unsupported, match="explains again"):
        chosen(model, batch, GradCAM()(model, batch))


@pytest.mark.parametrize("chosen", LOCALISING)
def test_the_truth_beats_chance_beats_its_opposite(chosen):
    # With two outputs swapped, or the direction declared the wrong way round, one of the two comparisons fails.
    model = adapted(GapCNN())
    batch = batch_for(model)
    truth = Oracle("object")(model, batch)
    noise = 0.3 + 0.1 * RandomMap()(model, batch).maps
    right, wrong = truth.maps + 0.1 * noise, 1 - truth.maps + 0.1 * noise
    best, middle, worst = (chosen(model, batch, with_maps(maps, truth)) for maps in (right, noise, wrong))
    assert better(chosen, best.mean(), worst.mean()) and better(chosen, best, middle).all()
    assert not better(chosen, worst.mean(), middle.mean())


@pytest.mark.parametrize("chosen", FAITHFUL)
def test_the_contributions_of_a_linear_model_beat_their_opposites(chosen):
    # What each pixel adds to a linear score is its value times its weight: no map is more faithful, and the opposite misleads.
    model = adapted(LinearModel(), classes=None)
    batch = batch_for(model)
    truth = InputXGradient()(model, batch)
    best, worst = (chosen(model, batch, with_maps(maps, truth), InputXGradient()) for maps in (truth.maps, -truth.maps))
    known = ~(best.isnan() | worst.isnan())
    assert better(chosen, best, worst)[known].all()


@pytest.mark.parametrize("chosen", ALL)
def test_settings_are_plain_values_that_print_as_they_are_read(chosen):
    assert read(repr(chosen), METRICS) == chosen == pickle.loads(pickle.dumps(chosen))
    assert read(chosen.brief(), METRICS) == chosen
    assert metric(chosen.name) == type(chosen)()
    assert chosen.paper and chosen.cost and type(chosen).__doc__ and chosen.family in get_args(Family)
    assert isinstance(chosen.higher_is_better, bool)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        chosen.name = "another"
    with pytest.raises(TypeError, match="is final"):
        type("Extended", (type(chosen),), {})


def test_the_table_is_not_empty():
    assert len(ALL) >= 15 and {cls.family for cls in METRICS.values()} == set(get_args(Family))
    assert len(LOCALISING) >= 5 and len(FAITHFUL) >= 5
