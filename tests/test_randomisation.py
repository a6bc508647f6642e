"""Models with random layers, and the metrics that compare explanations with theirs."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from models import SIZE, GapCNN, LinearModel, Raising, ReluCNN, ResidualCNN, Reused, SingleLogit, TinyViT, adapted
from scipy.stats import rankdata, spearmanr
from torch import nn
from torchvision import models as tv

import attribkit as ak
from attribkit import BadInput, Batch, Targets, UnknownName, Unsupported
from attribkit.methods import AtLayer, CentreMap, EdgeMap, GradCAM, Gradient, RandomMap
from attribkit.metrics import MPRT, RandomLogit, randomisation, rank_correlation
from attribkit.metrics.ordering import mean_ranks
from attribkit.model.randomised import randomised, weighted_layers
from attribkit.model.sized import sized
from attribkit.problems import Planted


def batch_for(size=SIZE, rows: int = 3, classes: int = 5) -> Batch:
    images = torch.randn(rows, 3, *size, generator=torch.Generator().manual_seed(3))
    return Batch(images, Targets(torch.arange(rows) % classes), tuple(f"image-{i}" for i in range(rows)))


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: values.detach().clone() for name, values in module.state_dict().items()}


def changed(one: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    """The names of the modules whose tensors are others."""
    now = module.state_dict()
    return {name.rpartition(".")[0] for name in one if not torch.equal(one[name], now[name])}


# Rank correlation ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [0, 2, 5, 60])
@pytest.mark.parametrize("absolute", [False, True])
def test_rank_correlation_is_scipys(levels, absolute):
    one, other = torch.randn(4, 7, 9), torch.randn(4, 7, 9)
    other = other + one * torch.tensor([2.0, 0.3, -0.5, -4.0]).view(-1, 1, 1)
    if levels:  # many equal values
        one, other = (torch.round(each * levels / 4) / 3 for each in (one, other))
    found = rank_correlation(one, other, absolute)
    for row in range(4):
        values = [each[row].abs() if absolute else each[row] for each in (one, other)]
        expected = spearmanr(*(value.flatten().double().numpy() for value in values)).statistic
        assert found[row].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [0.1, 1, 3, 1000])
def test_equal_values_have_the_mean_of_their_ranks_exactly(levels):
    maps = torch.round(torch.randn(5, 7, 9) * levels) / levels
    expected = rankdata(maps.flatten(1).numpy(), axis=1) - 1
    assert torch.equal(mean_ranks(maps), torch.from_numpy(expected))
    assert torch.equal(mean_ranks(torch.ones(1, 1, 1)), torch.zeros(1, 1, dtype=torch.float64))
    assert torch.equal(mean_ranks(torch.tensor([[[2.0, 1, 2], [0, 2, 1]]])), torch.tensor([[4, 1.5, 4, 0, 4, 1.5]], dtype=torch.float64))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("absolute", [False, True])
def test_what_is_not_finite_has_no_ranks(value, absolute):
    maps, others = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    maps[1, 2, 3] = value
    for one, other in ((maps, others), (others, maps)):
        assert rank_correlation(one, other, absolute).isnan().tolist() == [False, True]


def test_what_rank_correlation_is_by_definition():
    maps = torch.randn(3, 5, 6)
    assert (rank_correlation(maps, maps).float() == 1).all() and (rank_correlation(maps, -maps).float() == -1).all()
    assert (rank_correlation(maps, maps.exp()).float() == 1).all()  # it sees ranks alone
    assert (rank_correlation(maps, -maps, absolute=True).float() == 1).all()
    torch.testing.assert_close(rank_correlation(maps, maps.roll(1, 2)), rank_correlation(maps.roll(1, 2), maps))
    assert torch.equal(rank_correlation(maps * 1e-30, maps), rank_correlation(maps, maps))


def test_a_constant_map_has_no_rank_correlation():
    maps = torch.stack((torch.zeros(4, 5), torch.full((4, 5), -3.0), torch.arange(20.0).view(4, 5)))
    others = torch.rand(3, 4, 5)
    for one, other in ((maps, others), (others, maps)):
        assert rank_correlation(one, other).isnan().tolist() == [True, True, False]
    assert torch.isnan(rank_correlation(torch.tensor([[[1.0, -1.0]]]), torch.tensor([[[1.0, 2.0]]]), absolute=True)).all()
    with pytest.raises(BadInput, match=r"got \(3, 4, 5\) and \(2, 4, 5\)"):
        rank_correlation(maps, others[:2])


# Random models ---------------------------------------------------------------------------------------------------------------------


def test_layers_come_from_the_output_to_the_input_as_they_are_entered():
    assert weighted_layers(adapted(GapCNN())) == ("head", "features.bn2", "features.conv2", "features.bn1", "features.conv1")
    assert weighted_layers(adapted(Reused())) == ("head", "conv", "stem")  # and not the one that is never called
    vit = weighted_layers(adapted(TinyViT()))
    assert vit[:2] == ("head", "norm") and vit[-2:] == ("patch", "")  # the class token and positions are the model's own
    order = [f"blocks.{block}.{part}" for block in (1, 0) for part in ("mlp.2", "mlp.0", "norm2", "proj", "qkv", "norm1")]
    assert list(vit[2:-2]) == order


class Backwards(nn.Module):
    """Parts that are registered in another order than they run in."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.second, self.first = nn.Linear(4, 5), nn.Conv2d(4, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.head(self.second(self.first(images)).mean((2, 3)))


def test_what_counts_is_not_the_order_of_registration():
    assert weighted_layers(adapted(Backwards())) == ("head", "second", "first")


def test_a_transformer_of_torchvision_has_all_its_weights_in_order():
    made = tv.VisionTransformer(image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=5)
    names = weighted_layers(adapted(made, size=16))
    owners = {name for name, part in made.named_modules() if any(True for _ in part.parameters(recurse=False))}
    assert set(names) == owners and len(names) == len(owners)  # the attention's out_proj, which is never called, among them
    assert names[:2] == ("heads.head", "encoder.ln") and names[-3:] == ("encoder", "conv_proj", "")
    *_, (_, last) = randomised(adapted(made, size=16))
    assert changed(state(made), last.module) >= owners - {name for name in owners if "ln" in name}


@pytest.mark.parametrize("network", [ResidualCNN, TinyViT])
def test_the_model_is_untouched_and_each_step_is_another_copy(network):
    module = network().train()
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.normal_(part.weight)
    model = adapted(module, classes=list("abcde"), name="mine")
    before, flags = state(module), [weight.requires_grad for weight in module.parameters()]
    numbers = torch.get_rng_state()
    steps = list(randomised(model, seed=4))
    assert len({id(other.module) for _, other in steps}) == len(steps) == len(weighted_layers(model))
    images = batch_for().images
    for name, other in steps:
        assert (
            other.logits(images).shape == (3, 5) and other.module is not module and (other.name, other.classes) == ("mine", tuple("abcde"))
        )
        assert other.weights == f"its own; cascading random layers to {name or 'its own weights'}, seed 4"
    assert torch.equal(torch.get_rng_state(), numbers) and changed(before, module) == set()
    assert flags == [weight.requires_grad for weight in module.parameters()] and all(part.training for part in module.modules())
    assert not any(part._forward_hooks for part in module.modules())
    assert len({tuple(other.logits(images)[0].tolist()) for _, other in steps}) == len(
        steps
    )  # earlier copies did not change with later ones


def test_cascading_is_cumulative_and_independent_changes_one_layer():
    module = GapCNN()
    model, before = adapted(module), state(module)
    names = weighted_layers(model)
    last: dict[str, torch.Tensor] = {}
    for place, (name, other) in enumerate(randomised(model)):
        assert name == names[place] and changed(before, other.module) == set(names[: place + 1])
        now = state(other.module)
        assert all(torch.equal(now[key], values) for key, values in last.items())
        last = {key: values for key, values in now.items() if key.rpartition(".")[0] in names[: place + 1]}
    for name, other in randomised(model, order="independent"):
        assert changed(before, other.module) == {name}
        kept = {key: id(weight) for key, weight in module.named_parameters() if key.rpartition(".")[0] != name}
        assert all(id(dict(other.module.named_parameters())[key]) == own for key, own in kept.items())  # nothing is copied needlessly


def test_a_layers_numbers_depend_on_seed_and_name_alone():
    model = adapted(ResidualCNN())
    alone = {name: state(other.module) for name, other in randomised(model, seed=1, order="independent")}
    *_, (_, whole) = randomised(model, seed=1)
    last = state(whole.module)
    for name, values in alone.items():
        assert all(torch.equal(last[key], value) for key, value in values.items() if key.rpartition(".")[0] == name)
    same, other = last["layer1.0.weight"], last["layer1.3.weight"]
    assert same.shape == other.shape == last["layer2.0.weight"].shape
    assert abs(torch.corrcoef(torch.stack((same.flatten(), other.flatten())))[0, 1]) < 0.2  # equal shapes, other draws
    *_, (_, again) = randomised(model, seed=1)
    *_, (_, another) = randomised(model, seed=2)
    assert changed(last, again.module) == set()
    assert "layer1.0" in changed(last, another.module) and not torch.equal(last["head.bias"], another.module.head.bias)


def test_numbers_are_as_torch_makes_them():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 64, 5, stride=4, groups=1), nn.Linear(64, 200)
            self.token, self.scale = nn.Parameter(torch.ones(1, 7, 64)), nn.Parameter(torch.ones(64, 1, 1))

        def forward(self, images):
            return self.head(((self.conv(images) + self.token.mean(1).view(64, 1, 1)) * self.scale).mean((2, 3)))

    *_, (_, other) = randomised(adapted(Tokens()))
    made = other.module
    for layer, inputs in ((made.conv, 75), (made.head, 64)):
        reach = 1 / math.sqrt(inputs)  # kaiming_uniform_ with a = sqrt(5)
        for values in (layer.weight, layer.bias):
            assert values.abs().max() <= reach and values.std() == pytest.approx(reach / math.sqrt(3), rel=0.25)
        assert abs(layer.weight.mean()) < 0.1 * reach and layer.weight.abs().max() > 0.98 * reach
    assert made.token.std() == pytest.approx(0.02, rel=0.2) and made.scale.std() == pytest.approx(0.02, rel=0.3)
    assert made.token.dtype == torch.float32
    *_, (_, half) = randomised(adapted(Tokens().bfloat16()))
    assert torch.equal(half.module.conv.weight, made.conv.weight.bfloat16())  # the same numbers, whatever they are kept in


def test_norms_are_reset_and_their_statistics_kept_where_that_is_said():
    module = GapCNN()
    for keep in (False, True):
        *_, (_, other) = randomised(adapted(module), keep_statistics=keep)
        norm, own = other.module.features.bn1, module.features.bn1
        assert (norm.weight == 1).all() and (norm.bias == 0).all()
        assert torch.equal(norm.running_mean, own.running_mean if keep else torch.zeros(8))
        assert torch.equal(norm.running_var, own.running_var if keep else torch.ones(8))
    vit = TinyViT()
    nn.init.normal_(vit.norm.weight)
    *_, (_, other) = randomised(adapted(vit))
    assert (other.module.norm.weight == 1).all() and (other.module.norm.bias == 0).all()


def test_some_layers_are_chosen_evenly_or_by_name():
    model = adapted(GapCNN())
    head, bn2, conv2, bn1, conv1 = weighted_layers(model)

    def asked(layers, **more):
        return [name for name, _ in randomised(model, layers=layers, **more)]

    assert asked(1) == [conv1] and asked(2) == [head, conv1] and asked(3) == asked(9) == [head, conv2, conv1]
    assert asked(None) == [head, bn2, conv2, bn1, conv1] and asked([bn1]) == [bn1]
    assert asked([conv1, head]) == [head, conv1]
    before = state(model.module)
    (_, one), (_, two) = randomised(model, layers=["features.conv2", "head"])
    assert changed(before, one.module) == {head} and changed(before, two.module) == {head, bn2, conv2}  # all down to it
    with pytest.raises(UnknownName, match="no layer is called 'nowhere'"):
        asked(["nowhere"])
    with pytest.raises(BadInput, match=r"layers=...\): got 0"):
        asked(0)
    with pytest.raises(UnknownName, match="no order is called 'sideways'"):
        asked(1, order="sideways")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_models_that_cannot_be_made_random_are_refused():
    class Fixed(nn.Module):
        def forward(self, images):
            return images.mean((2, 3))

    with pytest.raises(Unsupported, match="Fixed has no weights"):
        weighted_layers(adapted(Fixed()))
    with pytest.raises(Unsupported, match="the inside of a TorchScript module cannot be changed"):
        next(randomised(adapted(torch.jit.trace(GapCNN().eval(), torch.zeros(1, 3, *SIZE)))))


def test_the_layer_that_is_looked_at_is_the_models_own():
    model = adapted(GapCNN())
    _ = model.at("features")
    for _, other in randomised(model):
        assert other.layer == model.layer
        activations = other.activations(batch_for().images, "features")
        rest = other.at("features")  # from its own weights, not from those of the model
        torch.testing.assert_close(rest.logits(activations), other.logits(batch_for().images))
    large = sized(ak.load_model("planted/vit-95"), 192)
    *_, (_, other) = randomised(large, layers=2)
    assert other.logits(torch.randn(1, 3, 192, 192)).shape == (1, 2) and "interpolated" in other.weights


# The metrics -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blind", [EdgeMap(), RandomMap(), CentreMap()])
@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_a_map_that_does_not_look_at_the_weights_has_exactly_1(blind, order):
    model, batch = adapted(ResidualCNN()), batch_for()
    maps = blind(model, batch)
    for chosen in (MPRT(order=order, layers=3), MPRT(order=order, layers=3, similarity="spearman_abs"), RandomLogit()):
        assert (chosen(model, batch, maps, blind) == 1).all() and chosen.chance == 1 and not chosen.higher_is_better


@pytest.mark.parametrize("name", ["planted/shortcut-95", "planted/vit-95"])
def test_what_a_trained_model_is_explained_by_goes_with_its_weights(name):
    model, batch = next(iter(Planted(ak.load_model(name), count=8)))
    for by in (GradCAM(), Gradient()):
        maps = by(model, batch)
        for order in ("cascading", "independent"):
            scores = MPRT(order=order, layers=4)(model, batch, maps, by)
            assert scores.shape == (8,) and (scores < 1).all()
            assert scores.mean() < 0.9 or order == "independent"  # one layer of a transformer hardly matters
        assert torch.equal(MPRT(layers=4)(model, batch, maps, by), MPRT(layers=4)(model, batch, maps, by))
        assert not torch.equal(MPRT(layers=4)(model, batch, maps, by), MPRT(layers=4, seed=1)(model, batch, maps, by))


def test_the_score_is_the_mean_of_the_steps():
    model, batch = adapted(ReluCNN()), batch_for()
    by = GradCAM()
    maps = by(model, batch)
    for order, keep in (("cascading", True), ("independent", False)):
        steps = [other for _, other in randomised(model, seed=3, layers=3, order=order, keep_statistics=keep)]
        expected = torch.stack([rank_correlation(maps.maps, by(other, batch).maps) for other in steps]).mean(0)
        found = MPRT(order=order, layers=3, seed=3, keep_statistics=keep)(model, batch, maps, by)
        torch.testing.assert_close(found, expected.float())
    with_levels = AtLayer(Gradient(), layer="middle")
    assert MPRT(layers=2)(model, batch, with_levels(model, batch), with_levels).isfinite().all()


def test_one_explanation_for_each_layer_and_one_more_model_at_a_time():
    model, batch = adapted(GapCNN()), batch_for()
    asked = []

    def explain(other, some):
        asked.append((other.weights, some.logits))
        return GradCAM()(other, some)

    known = dataclasses.replace(batch, logits=model.logits(batch.images))
    MPRT(layers=3)(model, known, GradCAM()(model, known), explain)
    assert len(asked) == len(set(asked)) == 3 and all(logits is None for _, logits in asked)  # the answers of another model are not theirs


def test_maps_are_ranked_once_and_those_of_each_step_once(monkeypatch):
    model, batch, ranked = adapted(GapCNN()), batch_for(), []
    monkeypatch.setattr(randomisation, "mean_ranks", lambda maps: (ranked.append(maps), mean_ranks(maps))[1])
    maps = GradCAM()(model, batch)
    MPRT(layers=3)(model, batch, maps, GradCAM())
    assert len(ranked) == 1 + 3 and ranked[0].equal(maps.maps)
    RandomLogit()(model, batch, maps, GradCAM())
    assert len(ranked) == 4 + 2


def test_constant_maps_are_nan_and_constant_copies_count_nothing():
    model, batch = adapted(GapCNN()), batch_for()
    maps = GradCAM()(model, batch)
    flat = dataclasses.replace(maps, maps=torch.stack((torch.zeros(6, 10), *maps.maps[1:])))
    for chosen in (MPRT(layers=2), RandomLogit()):
        assert chosen(model, batch, flat, GradCAM()).isnan().tolist() == [True, False, False]
        assert (chosen(model, batch, maps, lambda *_: dataclasses.replace(maps, maps=torch.ones_like(maps.maps))) == 0).all()


def test_another_class_is_never_the_target_and_every_other_one_may_be():
    model = adapted(LinearModel())
    images = torch.randn(60, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    batch = Batch(images, Targets(torch.arange(60) % 5, "log_odds"), tuple(map(str, range(60))))
    drawn = []

    def explain(other, some):
        assert some.targets.kind == "log_odds" and other is model
        drawn.append(some.targets.index)
        return Gradient()(other, some)

    scores = RandomLogit(seed=2)(model, batch, Gradient()(model, batch), explain)
    step = (drawn[0] - batch.targets.index) % 5
    assert sorted(set(step.tolist())) == [1, 2, 3, 4] and (torch.bincount(step)[1:] >= 6).all()
    theirs = Gradient()(model, dataclasses.replace(batch, targets=Targets(drawn[0], "log_odds")))
    torch.testing.assert_close(scores, rank_correlation(Gradient()(model, batch).maps, theirs.maps).float())
    alone = RandomLogit(seed=2)(model, batch[7:8], Gradient()(model, batch[7:8]), explain)
    assert drawn[1] == drawn[0][7] and alone == pytest.approx(scores[7].item(), abs=1e-6)
    RandomLogit(seed=3)(model, batch, Gradient()(model, batch), explain)
    assert not torch.equal(drawn[2], drawn[0])


def test_two_classes_are_each_others_and_one_has_no_other():
    class Mirrored(GapCNN):
        def forward(self, images):
            first = super().forward(images)[:, :1]
            return torch.cat((first, -first), 1)

    model, batch = adapted(Mirrored()), batch_for(classes=2)
    maps = Gradient()(model, batch)
    assert (RandomLogit()(model, batch, maps, Gradient()) == -1).all()
    assert (RandomLogit(similarity="spearman_abs")(model, batch, maps, Gradient()) == 1).all()
    single = adapted(SingleLogit())
    with pytest.raises(Unsupported, match="SingleLogit has one logit, allowed: a model of two classes or more"):
        RandomLogit()(single, batch_for(classes=1), Gradient()(single, batch_for(classes=1)), Gradient())


def test_the_module_is_as_it_was_also_when_a_copy_raises():
    module = Raising().train()
    model, batch = adapted(module, layer="features"), batch_for()
    maps, before = GradCAM()(model, batch), copy.deepcopy(module.state_dict())

    def explain(other, some):
        other.module.error = RuntimeError("broken on purpose")
        return GradCAM()(other, some)

    with pytest.raises(RuntimeError, match="broken on purpose"):
        MPRT()(model, batch, maps, explain)
    assert module.error is None and changed(before, module) == set() and all(part.training for part in module.modules())
