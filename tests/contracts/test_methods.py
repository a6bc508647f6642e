"""What every attribution method must do, for each that is registered; no method is named here."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from examples import small
from models import (
    ChannelsLastCNN,
    Dead,
    FlattenedCNN,
    GapCNN,
    InplaceCNN,
    InplaceInput,
    LinearModel,
    Raising,
    Recorded,
    ReluCNN,
    ResidualCNN,
    SingleLogit,
    TinyViT,
    Wrapped,
    adapted,
    shaken,
)
from torch import nn

from attribkit import METHODS, Batch, Targets, Unsupported
from attribkit.methods import Method, method
from attribkit.registry import needed, read

SIZE = (24, 40)
ALL = [pytest.param(small(cls()), id=name) for name, cls in METHODS.items() if not needed(cls)]
MODELS = [GapCNN, ResidualCNN, FlattenedCNN, TinyViT, ChannelsLastCNN]


def batch_for(model, rows: int = 3, *, kind: str = "logit", size=SIZE, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, *size, generator=generator)
    index = torch.arange(rows) % model.logits(images[:1]).shape[1]
    return Batch(images, Targets(index, kind), tuple(f"image-{i}" for i in range(rows)))


def state(module: nn.Module) -> dict:
    """Everything that a call must leave as it was."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "training": [each.training for each in module.modules()],
        "requires_grad": [weight.requires_grad for weight in module.parameters()],
        "grad": [None if weight.grad is None else weight.grad.clone() for weight in module.parameters()],
        "values": [value.clone() for value in module.state_dict().values()],
        "hooks": [len(getattr(each, kind)) for each in module.modules() for kind in hooks],
        "random": torch.get_rng_state(),
        "grad_mode": torch.tensor(torch.is_grad_enabled()),
    }


def assert_same(before: dict, after: dict) -> None:
    for name in before:
        if name in ("training", "requires_grad", "hooks"):
            assert before[name] == after[name], name
            continue
        pairs = zip(before[name], after[name], strict=True) if isinstance(before[name], list) else [(before[name], after[name])]
        for one, other in pairs:
            assert (one is None) == (other is None), name
            if one is not None:
                torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("chosen", ALL)
@pytest.mark.parametrize("network", MODELS)
def test_maps_are_signed_floats_over_the_image_one_per_image(chosen, network):
    model = adapted(network())
    batch = batch_for(model)
    result = chosen(model, batch)
    assert result.maps.dtype == torch.float32 and len(result.maps) == 3 and result.maps.ndim == 3
    assert torch.isfinite(result.maps).all() and not result.maps.requires_grad
    assert result.maps.amax() > result.maps.amin()
    assert result.at().shape == (3, *SIZE)
    height, width = result.maps.shape[-2:]
    assert abs(height / width - SIZE[0] / SIZE[1]) < 0.15  # rows are rows: a transposed grid of 24 x 40 would give 1.67
    assert (result.ids, result.method, result.size) == (batch.ids, repr(chosen), SIZE)


@pytest.mark.parametrize("chosen", ALL)
@pytest.mark.parametrize("network", MODELS)
def test_an_images_map_does_not_depend_on_its_batch(chosen, network):
    model = adapted(network())
    batch = batch_for(model, 4)
    together = chosen(model, batch).maps
    alone = torch.cat([chosen(model, batch[i : i + 1]).maps for i in range(4)])
    scale = together.abs().amax().item()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * scale)
    order = torch.tensor([2, 0, 3, 1])
    mixed = Batch(batch.images[order], batch.targets[order], tuple(batch.ids[i] for i in order))
    torch.testing.assert_close(chosen(model, mixed).maps, together[order], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("chosen", ALL)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_how_many_rows_run_at_once_changes_nothing(chosen, rows):
    module = Recorded(ResidualCNN())
    batch = batch_for(adapted(module), 5)
    whole = chosen(adapted(module), batch).maps
    module.rows.clear()
    chunked = chosen(adapted(module, max_rows=rows), batch).maps
    assert max(module.rows, default=0) <= rows
    torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-5 * whole.abs().amax().item())


@pytest.mark.parametrize("chosen", ALL)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_comes_back_as_it_was(chosen, training, frozen):
    module = ResidualCNN().train(training)
    module.layer1.eval()  # flags are each submodule's own
    module.requires_grad_(not frozen)
    module.head.weight.requires_grad_(True)
    module.head.weight.grad = torch.ones_like(module.head.weight)
    model = adapted(module)
    batch = batch_for(model)
    images = batch.images.clone()
    before = state(module)
    chosen(model, batch)
    assert_same(before, state(module))
    torch.testing.assert_close(batch.images, images, rtol=0, atol=0)


@pytest.mark.parametrize("chosen", ALL)
def test_the_model_comes_back_as_it_was_when_its_body_raises(chosen):
    module = Raising().train()
    model = adapted(module, layer="features")
    batch = batch_for(model)
    before = state(module)
    module.error = RuntimeError("broken on purpose")
    if not chosen.needs:
        chosen(model, batch)  # a control asks the model nothing, so nothing raises
    else:
        with pytest.raises(RuntimeError, match="broken on purpose"):
            chosen(model, batch)
    assert_same(before, state(module))


@pytest.mark.parametrize("chosen", ALL)
def test_training_mode_and_frozen_weights_change_no_map(chosen):
    module = GapCNN().eval()
    batch = batch_for(adapted(module))
    expected = chosen(adapted(module), batch).maps
    torch.testing.assert_close(chosen(adapted(module.train()), batch).maps, expected, rtol=0, atol=0)
    torch.testing.assert_close(chosen(adapted(module.requires_grad_(False)), batch).maps, expected, rtol=0, atol=0)


@pytest.mark.parametrize("chosen", ALL)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_callers_modes_change_no_map(chosen, mode):
    model = adapted(ResidualCNN(), precision="float32")
    batch = batch_for(model)
    expected = chosen(model, batch).maps
    with mode():
        inside = chosen(model, Batch(batch.images.clone(), Targets(batch.targets.index.clone()), batch.ids)).maps
    torch.testing.assert_close(inside.clone(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("chosen", ALL)
def test_a_dead_target_has_a_map_of_zeros(chosen):
    # No logit is influenced, so neither is any scalar that a method makes of them.
    model = adapted(Dead(), layer="features")
    batch = batch_for(model)
    maps = chosen(model, batch).maps
    if chosen.needs:
        torch.testing.assert_close(maps, torch.zeros_like(maps), rtol=0, atol=0)
    else:
        torch.testing.assert_close(maps, chosen(model, batch).maps, rtol=0, atol=0)


@pytest.mark.parametrize("chosen", ALL)
def test_operations_in_place_change_no_map(chosen):
    plain, inplace = ReluCNN(), InplaceCNN()
    inplace.load_state_dict(plain.state_dict())
    batch = batch_for(adapted(plain))
    expected = chosen(adapted(plain, layer="features"), batch).maps
    torch.testing.assert_close(chosen(adapted(inplace, layer="features"), batch).maps, expected, rtol=1e-5, atol=1e-6)
    doubling = InplaceInput()
    doubling.load_state_dict(plain.state_dict())
    kept = batch.images.clone()
    chosen(adapted(doubling), batch)
    torch.testing.assert_close(batch.images, kept, rtol=0, atol=0)


@pytest.mark.parametrize("chosen", ALL)
@pytest.mark.parametrize("kind", ["dict", "tuple", "list", "dataclass", "namedtuple"])
def test_logits_may_come_in_a_container(chosen, kind):
    plain, wrapped = GapCNN(), Wrapped(kind)
    wrapped.load_state_dict(plain.state_dict())
    batch = batch_for(adapted(plain))
    expected = chosen(adapted(plain), batch).maps
    torch.testing.assert_close(chosen(adapted(wrapped), batch).maps, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("chosen", ALL)
@pytest.mark.parametrize("kind", ["logit", "log_odds", "probability", "evidence"])
@pytest.mark.parametrize("network", [GapCNN, SingleLogit])
def test_every_kind_of_target_has_a_finite_map(chosen, kind, network):
    model = adapted(network())
    maps = chosen(model, batch_for(model, kind=kind)).maps
    assert torch.isfinite(maps).all() and maps.abs().amax() > 0


@pytest.mark.parametrize("chosen", ALL)
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_a_constant_image_has_a_finite_map(chosen, value):
    model = adapted(GapCNN())
    batch = Batch(torch.full((2, 3, *SIZE), value), Targets(torch.tensor([0, 1])), ("a", "b"))
    assert torch.isfinite(chosen(model, batch).maps).all()


@pytest.mark.parametrize("chosen", ALL)
def test_a_call_made_twice_gives_the_same_map(chosen):
    model = adapted(TinyViT())
    batch = batch_for(model)
    first = chosen(model, batch).maps
    torch.manual_seed(99)
    torch.testing.assert_close(chosen(model, batch).maps, first, rtol=0, atol=0)
    if "seed" in chosen.__dataclass_fields__ and not chosen.needs:
        assert (dataclasses.replace(chosen, seed=1)(model, batch).maps != first).any()


@pytest.mark.parametrize("chosen", ALL)
def test_double_precision_stays_double_inside(chosen):
    module = GapCNN().double()
    model = adapted(module)
    batch = batch_for(model)
    maps = chosen.explained(model, batch.images.double(), batch.targets).maps
    assert maps.dtype == torch.float64 or not chosen.needs
    torch.testing.assert_close(chosen(model, batch).maps, maps.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chosen", ALL)
def test_half_precision_models_have_float_maps(chosen):
    module = GapCNN()
    batch = batch_for(adapted(module))
    expected = chosen(adapted(module), batch).maps
    half = chosen(adapted(shaken(GapCNN()).to(torch.bfloat16)), batch).maps
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    auto = chosen(adapted(module, precision="bfloat16"), batch).maps
    assert auto.dtype == torch.float32
    # bfloat16 keeps 8 bits: what it gives is the same map to a few percent of its strength.
    assert torch.nn.functional.cosine_similarity(auto.flatten(), expected.flatten(), dim=0) > 0.97


@pytest.mark.parametrize("chosen", ALL)
def test_only_the_model_runs_in_low_precision(chosen):
    # A method that asks the model nothing is exact; one that asks works in float32 on what it was told.
    module = GapCNN()
    batch = batch_for(adapted(module))
    if not chosen.needs:
        expected = chosen(adapted(module), batch).maps
        torch.testing.assert_close(chosen(adapted(module, precision="bfloat16"), batch).maps, expected, rtol=0, atol=0)
    seen = []

    class Noting(GapCNN):
        def forward(self, images):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(images)

    model = adapted(Noting(), precision="bfloat16")
    with model.studied():
        assert not torch.is_autocast_enabled("cpu")
    chosen(model, batch)
    assert all(seen)


@pytest.mark.parametrize("chosen", ALL)
def test_what_decided_the_maps_travels_with_them(chosen, tmp_path):
    model = adapted(GapCNN())
    result = chosen(model, batch_for(model))
    assert result.facts["precision"] == "float32" and "crop 24x40" in result.facts["preprocessing"]
    assert result.facts.get("layer") == (model.layer if "spatial_layer" in chosen.needs else None)
    assert dict(type(result).load(result.save(tmp_path / "maps.safetensors")).facts) == dict(result.facts)


@pytest.mark.parametrize("chosen", ALL)
def test_a_model_without_what_is_needed_is_refused_by_name_before_any_work(chosen):
    module = Recorded(LinearModel())
    model = adapted(module)
    batch = batch_for(model)
    if "spatial_layer" in chosen.needs:
        with pytest.raises(Unsupported, match="needs a spatial layer"):
            chosen(model, batch)
    else:
        assert chosen(model, batch).maps.shape == (3, *SIZE)


@pytest.mark.parametrize("chosen", ALL)
def test_settings_are_plain_values_that_print_as_they_are_read(chosen):
    assert read(repr(chosen), METHODS) == chosen == pickle.loads(pickle.dumps(chosen))
    assert read(chosen.brief(), METHODS) == chosen
    assert hash(chosen) == hash(read(repr(chosen), METHODS))
    assert method(chosen.name) == type(chosen)()
    assert chosen.paper and chosen.cost and type(chosen).__doc__ and dataclasses.is_dataclass(chosen)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        chosen.name = "another"
    fields = {field.name for field in dataclasses.fields(chosen)}
    own = {name for name in vars(type(chosen)) if not name.startswith("_")} - {"name", "paper", "cost", "needs", "signed", "local"} - fields
    assert not own, "a method is its settings and one hook"
    with pytest.raises(TypeError, match="is final"):
        type("Extended", (type(chosen),), {})


@pytest.mark.parametrize("chosen", ALL)
def test_gradient_of_the_images_is_nobodys_business(chosen):
    model = adapted(GapCNN())
    batch = batch_for(model)
    asking = dataclasses.replace(batch, images=batch.images.clone().requires_grad_())
    torch.testing.assert_close(chosen(model, asking).maps, chosen(model, batch).maps, rtol=0, atol=0)
    assert asking.images.grad is None


def test_the_table_is_not_empty():
    assert len(ALL) >= 7 and all(issubclass(cls, Method) for cls in METHODS.values())
