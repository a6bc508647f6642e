"""`VisionModel`: its numbers have closed forms, no mode or state around it changes them, and the module comes back as it was."""

from __future__ import annotations

import contextlib
import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from models import (
    SIZE,
    WRAPS,
    DeadLogit,
    GapCNN,
    Hungry,
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
)
from torch import nn

from attribkit.batch import Batch, Targets
from attribkit.errors import BadInput, OutOfMemory, UnknownName, Unsupported
from attribkit.images import Preprocessing
from attribkit.model.adapter import VisionModel

CLASSES = ("cat", "dog", "Cat", "bird", "bird")


@pytest.fixture
def images():
    return torch.randn(5, 3, *SIZE)


@pytest.fixture
def targets():
    return Targets(torch.tensor([0, 3, 1, 4, 4]))


def same(got, expected, tolerance=1e-6):
    """Equal but for the order in which a convolution adds up."""
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


# Closed forms ---------------------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_linear_model_is_its_weight(images, targets):
    module = LinearModel().double()
    got = adapted(module).gradient(images.double(), targets)
    torch.testing.assert_close(got, module.head.weight[targets.index].view(5, 3, *SIZE).detach(), rtol=0, atol=0)


def test_the_gradient_of_log_odds_and_probability_of_a_linear_model(images, targets):
    module = LinearModel().double()
    weight, p = module.head.weight.detach(), module(images.double()).softmax(1).detach()
    own, others = F.one_hot(targets.index, 5).double(), 1 - F.one_hot(targets.index, 5).double()
    rest = (p * others) / (p * others).sum(1, keepdim=True)
    odds = adapted(module).gradient(images.double(), Targets(targets.index, "log_odds"))
    torch.testing.assert_close(odds.flatten(1), (own - rest) @ weight)
    probability = adapted(module).gradient(images.double(), Targets(targets.index, "probability"))
    torch.testing.assert_close(probability.flatten(1), (p * own).sum(1, keepdim=True) * ((own - p) @ weight))


def test_activation_gradient_before_global_average_pooling_is_the_heads_weight(images, targets):
    module = GapCNN().double()
    activations, gradients = adapted(module).activation_gradient(images.double(), targets, "features")
    torch.testing.assert_close(activations, module.eval().features(images.double()).detach())
    expected = module.head.weight[targets.index].detach()[:, :, None, None].expand(5, 8, 6, 10) / 60
    torch.testing.assert_close(gradients, expected, rtol=1e-15, atol=0)


def test_logits_and_score_are_the_modules_own(images, targets):
    module = GapCNN()
    model = adapted(module)
    expected = module.eval()(images).detach()
    same(model.logits(images), expected)
    same(model.score(images, targets), expected[range(5), targets.index])


def test_gradient_agrees_with_autograd_on_the_module_itself(images, targets):
    for module in (GapCNN().double(), ResidualCNN().double(), TinyViT().double()):
        leaf = images.double().requires_grad_()
        expected = torch.autograd.grad(module.eval()(leaf)[range(5), targets.index].sum(), leaf)[0]
        same(adapted(module).gradient(images.double(), targets), expected, 1e-12)


def test_a_logit_that_nothing_influences_has_a_gradient_of_zero(images):
    zeros = Targets(torch.zeros(5, dtype=torch.int64))
    model = adapted(DeadLogit())
    assert not model.gradient(images, zeros).any()
    activations, gradients = model.activation_gradient(images, zeros)
    assert activations.any()
    assert not gradients.any()
    assert model.gradient(images, Targets(torch.ones(5, dtype=torch.int64))).any()


# Whatever is around a call --------------------------------------------------------------------------------------------------


def _inference_copy(images):
    with torch.inference_mode():
        return images.clone()


SURROUNDINGS = {
    "no_grad": lambda: torch.no_grad(),
    "inference_mode": lambda: torch.inference_mode(),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "gradients on": lambda: torch.enable_grad(),
}


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_nothing_around_a_call_changes_its_numbers(images, targets, around):
    model, other = adapted(ReluCNN()), adapted(ReluCNN())
    expected = model.logits(images), model.gradient(images, targets), *model.activation_gradient(images, targets)
    with SURROUNDINGS[around]():
        got = model.logits(images), model.gradient(images, targets), *model.activation_gradient(images, targets)
        assert other.layer == "features"
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert not one.requires_grad


@pytest.mark.parametrize("kind", ["require grad", "inference mode", "float64", "channels last", "part of a graph"])
def test_nothing_about_the_images_changes_the_numbers(images, targets, kind):
    model = adapted(ReluCNN())
    given = {
        "require grad": lambda: images.clone().requires_grad_(),
        "inference mode": lambda: _inference_copy(images),
        "float64": lambda: images.double(),
        "channels last": lambda: images.contiguous(memory_format=torch.channels_last),
        "part of a graph": lambda: images.clone().requires_grad_() * 1,
    }[kind]()
    asked = Targets(_inference_copy(targets.index)) if kind == "inference mode" else targets
    same(model.gradient(given, asked), model.gradient(images, targets))
    for one, other in zip(model.activation_gradient(given, asked), model.activation_gradient(images, targets), strict=True):
        same(one, other)
    assert given.grad_fn is not None or given.grad is None


def test_no_graph_is_kept_for_images_that_require_grad(images, targets):
    model = adapted(GapCNN())
    leaf = images.requires_grad_()
    got = [model.logits(leaf), model.activations(leaf), model.gradient(leaf, targets), *model.activation_gradient(leaf, targets)]
    assert not any(each.requires_grad for each in got)
    assert leaf.grad is None


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_images_stay_as_they_are_though_the_model_begins_in_place(images, targets, memory):
    images = images.contiguous(memory_format=memory)
    model, before = adapted(InplaceInput()), images.clone()
    twice = adapted(GapCNN())
    twice.module.load_state_dict(model.module.state_dict())
    same(model.gradient(images, targets), 2 * twice.gradient(2 * images, targets))
    model.activation_gradient(images, targets)
    model.activations(images)
    model.logits(images)
    torch.testing.assert_close(images, before, rtol=0, atol=0)


def test_a_model_in_bfloat16_answers_in_float32_near_the_float32_ones(images, targets):
    module = TinyViT()
    expected = adapted(module).activation_gradient(images, targets)
    half = copy.deepcopy(module).bfloat16()
    got = adapted(half).activation_gradient(images, targets)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == torch.float32
        assert F.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.999
    assert adapted(half).logits(images).dtype == adapted(half).gradient(images, targets).dtype == torch.float32
    assert next(half.parameters()).dtype == torch.bfloat16


def test_precision_bfloat16_runs_under_autocast_and_float32_does_not(images, targets):
    module = Recorded(GapCNN())
    seen = []
    module.inner.features.conv2.register_forward_hook(lambda _module, _args, output: seen.append(output.dtype))
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = adapted(module, precision=precision)
        answers = [model.logits(images), model.gradient(images, targets), *model.activation_gradient(images, targets, "inner.features")]
        assert {each.dtype for each in answers} == {torch.float32}
        assert set(seen) == {dtype}
        seen.clear()
    assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(UnknownName, match="no precision is called 'float16'; allowed: bf16, bfloat16, float32"):
        adapted(module, precision="float16")


# Memory ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_max_rows_bounds_every_forward_and_changes_no_number(images, targets, rows):
    module = Recorded(ReluCNN())
    whole, parts = adapted(module), adapted(module, max_rows=rows)
    layer = "inner.features"
    expected = [whole.logits(images), whole.gradient(images, targets), *whole.activation_gradient(images, targets, layer)]
    module.rows.clear()
    got = [parts.logits(images), parts.gradient(images, targets), *parts.activation_gradient(images, targets, layer)]
    assert module.rows == [min(rows, 5 - start) for start in range(0, 5, rows)] * 3
    for one, other in zip(got, expected, strict=True):
        same(one, other)
    module.rows.clear()
    same(parts.activations(images, layer), whole.activations(images, layer))
    assert (parts.layer, parts.layers) == (whole.layer, whole.layers)


def test_one_row_at_a_time_is_enough_to_find_the_layers():
    module = Recorded(GapCNN())
    model = adapted(module, max_rows=1)
    assert model.layer == "inner.features"
    assert model.layers["inner.features.conv1"] == (8, 12, 20)
    assert set(module.rows) == {1}


OUT_OF_MEMORY = {
    "torch's own": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "the CPU's": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    "cuDNN's": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "Python's": MemoryError(),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_rows_are_halved_when_memory_runs_out_and_stay_so(images, targets, error):
    module = Hungry(GapCNN(), 2, OUT_OF_MEMORY[error])
    model, plain = adapted(module), adapted(module.inner)
    same(model.gradient(images, targets), plain.gradient(images, targets))
    assert module.rows == [5, 2, 2, 1]
    assert model.max_rows == 2
    module.rows.clear()
    same(model.logits(images), plain.logits(images))
    assert module.rows == [2, 2, 1]


def test_memory_that_really_runs_out(images):
    class Greedy(GapCNN):
        def forward(self, images):
            if len(images) > 1:
                torch.empty(1 << 50)
            return super().forward(images)

    model = adapted(Greedy())
    assert model.logits(images).shape == (5, 5)
    assert model.max_rows == 1


def test_one_row_that_does_not_fit_is_one_clear_error(images, targets):
    model = adapted(Hungry(GapCNN(), 0))
    for call in (lambda: model.logits(images), lambda: model.gradient(images, targets), lambda: model.layer, lambda: model.layers):
        with pytest.raises(OutOfMemory, match="Hungry: one image does not fit into the memory of cpu; allowed: smaller images"):
            call()


def test_an_error_of_the_model_is_not_taken_for_want_of_memory(images):
    module = Hungry(GapCNN(), 2, RuntimeError("shape '[2]' is invalid"))
    model = adapted(module)
    with pytest.raises(RuntimeError, match="is invalid"):
        model.logits(images)
    assert module.rows == [5]
    assert model.max_rows == 8


# The module comes back ------------------------------------------------------------------------------------------------------

HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks") or "_hooks_" in name]


def snapshot(module):
    """All of a module's state that a call might touch: facts to compare by ==, and tensors."""
    facts = {
        "training": [each.training for each in module.modules()],
        "requires_grad": [weight.requires_grad for weight in module.parameters()],
        "hooks": [{name: list(getattr(each, name)) for name in HOOKS} for each in module.modules()],
        "attributes": [sorted(vars(each)) for each in module.modules()],
        "no grad": [name for name, weight in module.named_parameters() if weight.grad is None],
    }
    grads = {f"grad of {name}": weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return facts, state | grads | {"rng": torch.get_rng_state()}


def unchanged(module, before):
    facts, tensors = snapshot(module)
    assert facts == before[0]
    torch.testing.assert_close(tensors, before[1], rtol=0, atol=0)


def mixed(module):
    """Train and eval, frozen and learning, with and without `.grad`, in one module."""
    module.features.train()
    module.features.bn1.eval()
    module.head.weight.requires_grad_(False)
    module.features.conv1.weight.grad = torch.ones_like(module.features.conv1.weight)
    module.features.register_forward_hook(lambda _module, _args, _output: None)
    return module


CALLS = {
    "logits": lambda model, images, targets: model.logits(images),
    "score": lambda model, images, targets: model.score(images, targets),
    "gradient": lambda model, images, targets: model.gradient(images, targets),
    "activations": lambda model, images, targets: model.activations(images, "features"),
    "activation_gradient": lambda model, images, targets: model.activation_gradient(images, targets, "features"),
    "layer": lambda model, images, targets: model.layer,
    "layers": lambda model, images, targets: model.layers,
}


@pytest.mark.parametrize("error", [None, ValueError("halt"), KeyboardInterrupt("halt")], ids=["", "error", "interrupt"])
@pytest.mark.parametrize("call", CALLS)
def test_the_module_comes_back_as_it_was(images, targets, call, error):
    assert len(HOOKS) >= 8
    module = mixed(Raising())
    module.error = error
    before = snapshot(module)
    model = adapted(module)
    with contextlib.nullcontext() if error is None else pytest.raises(type(error), match="halt"):
        CALLS[call](model, images, targets)
    unchanged(module, before)
    assert model.module is module


def test_a_mode_that_is_its_own_in_training_is_not_used(images):
    module = mixed(GapCNN())
    same(adapted(module).logits(images), copy.deepcopy(module).eval()(images).detach())


def test_a_model_that_draws_random_numbers_takes_none_from_the_caller(images, targets):
    class Noisy(GapCNN):
        def forward(self, images):
            return super().forward(F.dropout(images, 0.5, training=True))

    model = adapted(Noisy())
    before = torch.get_rng_state()
    model.gradient(images, targets)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


def test_studied_holds_evaluation_and_frozen_weights_for_as_long_as_it_lasts(images):
    module = mixed(GapCNN())
    model = adapted(module)
    before = snapshot(module)

    def body():
        with model.studied():
            model.logits(images)
            with model.studied():
                pass
            assert not any(each.training for each in module.modules())
            assert not any(weight.requires_grad for weight in module.parameters())
            assert not torch.is_grad_enabled()
            raise ZeroDivisionError("after all")

    with pytest.raises(ZeroDivisionError, match="after all"):
        body()
    unchanged(module, before)


def test_a_module_made_in_inference_mode_answers_and_says_why_it_has_no_gradient(images, targets):
    with torch.inference_mode():
        model = adapted(GapCNN())
    assert model.logits(images).shape == (5, 5)
    for call in (lambda: model.gradient(images, targets), lambda: model.layer):
        with pytest.raises(Unsupported, match=r"GapCNN was made under torch.inference_mode, which allows no gradients"):
            call()
    assert all(weight.requires_grad for weight in model.module.parameters())


# What a model returns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRAPS)
def test_logits_are_found_in_what_a_model_returns(images, targets, kind):
    module, plain = Wrapped(kind), GapCNN()
    plain.load_state_dict(module.state_dict())
    same(adapted(module).logits(images), adapted(plain).logits(images))
    same(adapted(module).gradient(images, targets), adapted(plain).gradient(images, targets))


def test_one_logit_an_image_may_come_without_its_dimension(images):
    model = adapted(SingleLogit())
    assert model.logits(images).shape == (5, 1)
    only = Targets(torch.zeros(5, dtype=torch.int64), "probability")
    same(model.score(images, only), model.module.eval()(images).sigmoid().detach())


class Returning(nn.Module):
    """Whatever `make` makes of the images."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, images):
        return self.make(images)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda x: x, r"returns \(5, 3, 24, 40\) for 5 images; allowed: \(B, K\) logits"),
        (lambda x: x.mean(), r"returns \(\) for 5 images"),
        (lambda x: x[:2].flatten(1), r"returns \(2, 2880\) for 5 images"),
        (lambda x: x.flatten(1).long(), "returns a tensor of torch.int64; allowed"),
        (lambda x: None, "returns a NoneType; allowed"),
        (
            lambda x: {"a": x, "b": x},
            r"returns dict of a \(5, 3, 24, 40\), b \(5, 3, 24, 40\); allowed: \(B, K\) logits, alone, as 'logits' among others",
        ),
        (lambda x: (x.mean(), 3), r"returns \(\) for 5 images"),
        (lambda x: (x.mean(), x.mean()), r"returns tuple of \(\), \(\)"),
        (lambda x: "yes", "returns a str"),
        (lambda x: (x.flatten(1)[:, :7], x.flatten(1)[:, :5]), r"returns tuple of \(5, 7\), \(5, 5\)"),
    ],
)
def test_what_holds_no_logits_is_one_clear_line(images, make, match):
    with pytest.raises(Unsupported, match=match) as caught:
        adapted(Returning(make)).logits(images)
    assert "\n" not in str(caught.value)


def test_class_names_tell_logits_from_features_beside_them(images):
    module = Returning(lambda x: (x.flatten(1)[:, :7], x.flatten(1)[:, :5]))
    same(adapted(module, classes=list("abcde")).logits(images), images.flatten(1)[:, :5])
    same(adapted(module, classes=list("abcdefg")).logits(images), images.flatten(1)[:, :7])


def test_lazy_weights_are_refused():
    with pytest.raises(BadInput, match="lazy weights"):
        adapted(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3)))


def test_a_need_that_nobody_knows_is_refused():
    with pytest.raises(Unsupported, match="needs telepathy; GapCNN offers logits, gradients, spatial_layer and cut"):
        adapted(GapCNN()).require(frozenset({"telepathy"}), by="Medium()")


def test_logits_after_a_loss_in_a_tuple(images):
    same(adapted(Returning(lambda x: (x.mean(), x.mean((2, 3))))).logits(images), images.mean((2, 3)))


def test_a_model_without_a_way_for_gradients_says_so(images, targets):
    for make in (lambda x: x.detach().mean((2, 3)).repeat(1, 2), torch.no_grad()(lambda x: x.mean((2, 3)).repeat(1, 2))):
        with pytest.raises(Unsupported, match="no gradient flows from the answer to the images of Returning"):
            adapted(Returning(make)).gradient(images, targets)


# What is known about it -----------------------------------------------------------------------------------------------------


def test_facts():
    model = adapted(GapCNN(), mean=(0.1, 0.2, 0.3), std=0.5, size=(24, 40), classes=["a", "b", "c", "d", "e"], layer="features.conv1")
    assert (model.mean, model.std, model.size) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5), (24, 40))
    assert (model.classes, model.layer, model.max_rows, model.name) == (("a", "b", "c", "d", "e"), "features.conv1", 8, "GapCNN")
    assert model.device == torch.device("cpu")
    assert repr(model).startswith("<VisionModel GapCNN: ")
    assert model.layers == {
        "features.conv1": (8, 12, 20),
        "features.bn1": (8, 12, 20),
        "features.relu1": (8, 12, 20),
        "features.conv2": (8, 6, 10),
        "features.bn2": (8, 6, 10),
        "features": (8, 6, 10),
    }


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"std": 0.5}, "got no mean and std, allowed: mean="),
        ({"max_rows": 0}, "max_rows=...\\): got 0, allowed: a whole number of at least 1"),
        ({"max_rows": 2.5}, "got 2.5, allowed: a whole number"),
        ({"layer": "feature"}, "no layer is called 'feature'; allowed: .*features.conv1.*; model.layers lists the spatial ones"),
        ({"layer": ""}, "no layer is called ''"),
        ({"layer": "features:last"}, "layer 'features:last': allowed: a name, or name:0"),
        ({"classes": "cat"}, "got 'cat', allowed: one name for each class"),
    ],
)
def test_wrong_facts_are_one_clear_line(settings, match):
    settings = ({} if "std" in settings else {"preprocessing": Preprocessing(0.5, 0.5, 24)}) | settings
    with pytest.raises(BadInput, match=match):
        VisionModel(GapCNN(), **settings)
    with pytest.raises(BadInput, match=r"got function, allowed: a torch.nn.Module"):
        VisionModel(lambda images: images, mean=0.5, std=0.5)


def test_class_names_must_be_as_many_as_logits(images):
    with pytest.raises(BadInput, match="GapCNN: got 2 class names, allowed: 5, as many as it has logits"):
        adapted(GapCNN(), classes=["a", "b"]).logits(images)


def test_a_class_is_named_by_name_in_any_case_or_by_index():
    model = adapted(GapCNN(), classes=CLASSES)
    assert [model.target(like) for like in ("cat", "Cat", "DOG", " dog ", "3", 3, 0)] == [0, 2, 1, 1, 3, 3, 0]
    assert adapted(GapCNN(), classes=["7", "0", "1"]).target("0") == 1
    assert adapted(GapCNN(), classes=["7", "0", "1"]).target(0) == 0
    assert adapted(GapCNN()).target("12") == 12


@pytest.mark.parametrize(
    ("like", "match"),
    [
        ("bird", "class 'bird' is the name of 3, 4; allowed: the index of one of them"),
        ("CAT", "class 'CAT' is the name of 0, 2; allowed"),
        ("cta", "no class is called 'cta'; allowed: .*; or an index from 0 to 4"),
        (5, "no class is called '5'"),
        (-1, "no class is called '-1'"),
        ("", "no class is called ''"),
    ],
)
def test_a_class_that_is_not_there_or_not_one(like, match):
    with pytest.raises(BadInput, match=match):
        adapted(GapCNN(), classes=CLASSES).target(like)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (torch.randn(3, 24, 40), r"images: got \(3, 24, 40\) torch.float32, allowed: floating-point \(B, 3, H, W\)"),
        (torch.zeros(2, 3, 24, 40, dtype=torch.uint8), "images: got .*torch.uint8"),
        (torch.zeros(0, 3, 24, 40), r"images: got \(0, 3, 24, 40\).*at least one"),
        ("cat.jpg", "images: got str"),
    ],
)
def test_wrong_images_are_one_clear_line(wrong, match):
    model = adapted(GapCNN())
    two = Targets(torch.tensor([0, 1]))
    for call in (model.logits, lambda x: model.gradient(x, two), model.activations, lambda x: model.activation_gradient(x, two)):
        with pytest.raises(BadInput, match=match):
            call(wrong)


def test_wrong_targets_are_one_clear_line(images):
    model = adapted(GapCNN())
    for call in (model.gradient, model.activation_gradient):
        with pytest.raises(BadInput, match="targets: got 2, allowed: one for each of 5 images"):
            call(images, Targets(torch.tensor([0, 1])))
        with pytest.raises(BadInput, match="target 5: allowed: a class index from 0 to 4"):
            call(images, Targets(torch.tensor([0, 1, 5, 2, 3])))


def test_fit_brings_a_batch_to_the_model(images, targets):
    batch = Batch(images.bfloat16().requires_grad_(), targets, tuple("abcde"))
    fitted = adapted(GapCNN()).fit(batch)
    assert fitted.images.dtype == torch.float32
    assert not fitted.images.requires_grad
    assert (fitted.ids, fitted.targets) == (batch.ids, targets)
    with pytest.raises(BadInput, match="batch: got no images, allowed: at least one"):
        adapted(GapCNN()).fit(batch[:0])


def test_what_a_method_needs_is_refused_before_any_work():
    module = Recorded(LinearModel())
    with pytest.raises(Unsupported, match="'GradCAM' needs a spatial layer: Recorded shows no spatial layer whose gradient is alive"):
        adapted(module).require(frozenset({"spatial_layer"}), by="GradCAM")
    assert adapted(GapCNN()).require(frozenset({"spatial_layer", "gradients"}), by="GradCAM") is None


def test_threads_take_turns():
    """Hooks and flags are the module's, and so everybody's: what one thread sets up, another must not run into."""
    model, images = adapted(ResidualCNN(), layer="down"), torch.randn(8, 2, 3, 24, 40)
    targets = Targets(torch.tensor([0, 1]))
    calls = [model.activation_gradient, model.gradient]
    expected = [[call(each, targets) for call in calls] for each in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: [call(each, targets) for call in calls], images))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_one_row_that_is_many_inside_is_tried_with_fewer():
    model = adapted(GapCNN(), max_rows=16)
    tried = []

    def work(rows):
        tried.append(model.max_rows)
        if model.max_rows > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (torch.zeros(rows.stop - rows.start),)

    assert model.in_rows(work, 1)[0].shape == (1,)
    assert tried == [16, 8, 4, 2]


def test_rows_made_of_rows_that_ran_out_of_memory_are_tried_with_fewer():
    """The inner rows have become one each; the outer ones, of which there are still eight, must not be taken for a single one."""
    model, seen = adapted(GapCNN(), max_rows=8), []

    def inner(rows):
        if rows.stop - rows.start > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (torch.zeros(1),)

    def outer(rows):
        seen.append(rows.stop - rows.start)
        model.in_rows(inner, rows.stop - rows.start)
        if rows.stop - rows.start > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (torch.ones(rows.stop - rows.start),)

    assert model.in_rows(outer, 8)[0].tolist() == [1] * 8
    assert seen == [8, *[1] * 8] and model.max_rows == 1


def test_an_image_that_is_too_large_alone_costs_the_next_ones_nothing():
    model = adapted(GapCNN(), max_rows=8)

    def work(_rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemory, match="one image does not fit"):
        model.in_rows(work, 1)
    assert model.max_rows == 8


def test_images_that_are_not_finite_are_refused_by_name():
    images = torch.zeros(3, 3, 24, 40)
    images[1, 0, 3, 4], images[2, 2, 0, 0] = float("nan"), float("inf")
    batch = Batch(images, Targets(torch.tensor([0, 1, 2])), ("a", "b", "c"))
    with pytest.raises(BadInput, match="images: got NaN or infinity in b, c, allowed: finite values"):
        adapted(GapCNN()).fit(batch)
