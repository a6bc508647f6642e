"""Taps: an activation is what the layer returned, its gradient costs one forward and a backward that stops there, nothing is kept."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F
from models import SIZE, ChannelsLastCNN, GapCNN, InplaceCNN, LinearModel, Pair, Recorded, ReluCNN, ResidualCNN, Reused, TinyViT, adapted
from torch import nn

from attribkit.batch import Targets
from attribkit.errors import Unsupported
from attribkit.model.taps import recorded, tapped


@pytest.fixture
def images():
    return torch.randn(4, 3, *SIZE)


@pytest.fixture
def targets():
    return Targets(torch.tensor([0, 3, 1, 4]))


def test_an_in_place_operation_after_the_layer_does_not_reach_what_is_tapped(images, targets):
    module, plain = InplaceCNN().double(), ReluCNN().double()
    plain.load_state_dict(module.state_dict())
    images = images.double()
    activations, gradients = adapted(module).activation_gradient(images, targets, "features")
    expected = plain.eval().features(images).detach()
    assert (expected < 0).any()
    torch.testing.assert_close(activations, expected)
    torch.testing.assert_close(adapted(module).activations(images, "features"), expected)
    weight = module.head.weight[targets.index].detach()[:, :, None, None] / 60
    torch.testing.assert_close(gradients, weight * (expected > 0), rtol=1e-15, atol=0)
    # bn1 is followed by an in-place ReLU module
    inner = adapted(module).activation_gradient(images, targets, "features.bn1")
    for one, other in zip(inner, adapted(plain).activation_gradient(images, targets, "features.bn1"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class Counting(torch.autograd.Function):
    """The identity, which counts its backwards."""

    backwards = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Counting.backwards += 1
        return grad


class CountingStem(nn.Module):
    """Convolutions before and after a `Counting` identity, with weights of its own that require grad."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Linear(4, 5)
        self.graph = None

    def forward(self, images):
        x = Counting.apply(self.stem(images))
        self.graph = x.grad_fn
        return self.head(self.block(x).tanh().mean((2, 3)))


def test_one_forward_and_a_backward_that_stops_at_the_layer(images, targets):
    inner = CountingStem()
    module = Recorded(inner)
    model = adapted(module)
    Counting.backwards = 0
    model.activation_gradient(images, targets, "inner.block")
    assert module.rows == [4]
    assert Counting.backwards == 0
    assert inner.graph is None  # not even recorded: no memory for what is before the layer
    model.activation_gradient(images.clone().requires_grad_(), targets, "inner.block")
    assert inner.graph is None
    model.gradient(images, targets)
    assert Counting.backwards == 1  # the count does count
    assert module.rows == [4, 4, 4]


def test_a_layer_that_is_called_twice_is_named_with_its_call(images, targets):
    module = Reused().double()
    model, images = adapted(module), images.double()
    for call in (lambda: model.activations(images, "conv"), lambda: model.activation_gradient(images, targets, "conv")):
        with pytest.raises(Unsupported, match="layer 'conv' is called more than once in a forward; say which call: 'conv:0', 'conv:1'"):
            call()
    first = module.conv(module.stem(images)).tanh()
    torch.testing.assert_close(model.activations(images, "conv:0").tanh(), first.detach())
    activations, gradients = model.activation_gradient(images, targets, "conv:1")
    torch.testing.assert_close(activations, module.conv(first).detach())
    weight = module.head.weight[targets.index].detach()[:, :, None, None]
    torch.testing.assert_close(gradients, weight.expand(4, 6, 12, 20) / 240, rtol=1e-15, atol=0)
    assert list(model.layers) == ["stem", "conv:0", "conv:1"]
    assert model.layer == "conv:1"


def test_a_layer_that_is_not_called_says_so(images, targets):
    model = adapted(Reused())
    with pytest.raises(Unsupported, match="the model's forward never calls layer 'unused'"):
        model.activations(images, "unused")
    with pytest.raises(Unsupported, match=r"never calls layer 'conv' for the 3. time \(calls: 2\)"):
        model.activation_gradient(images, targets, "conv:2")


def test_a_module_under_two_names_answers_to_both(images):
    model = adapted(ResidualCNN())
    torch.testing.assert_close(model.activations(images, "layer1.2:1"), model.activations(images, "relu:1"), rtol=0, atol=0)


@pytest.mark.parametrize("module", [GapCNN, InplaceCNN, ResidualCNN, TinyViT, ChannelsLastCNN, Reused])
def test_every_layer_that_is_listed_can_be_tapped_as_listed(images, targets, module):
    model = adapted(module())
    assert model.layers
    assert model.layer in model.layers
    for name, grid in model.layers.items():
        activations, gradients = model.activation_gradient(images, targets, name)
        assert activations.shape == gradients.shape == (4, *grid)


class Boxed(nn.Module):
    """Features inside a container, as transformers return them."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, images):
        features = self.conv(images)
        return {
            "tuple": lambda: (features, None),
            "list": lambda: [None, features],
            "dict": lambda: {"mask": None, "features": features},
            "namedtuple": lambda: Pair(features, features.mean((2, 3))),
        }[self.kind]()


class Unboxing(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.box, self.head = Boxed(kind), nn.Linear(4, 5)

    def forward(self, images):
        found = self.box(images)
        items = found.values() if isinstance(found, dict) else found
        return self.head(next(item for item in items if item is not None).mean((2, 3)))


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "namedtuple"])
def test_a_layer_may_return_its_tensor_in_a_container(images, targets, kind):
    module = Unboxing(kind).double()
    activations, gradients = adapted(module).activation_gradient(images.double(), targets, "box")
    torch.testing.assert_close(activations, module.box.conv(images.double()).detach())
    weight = module.head.weight[targets.index].detach()[:, :, None, None]
    torch.testing.assert_close(gradients, weight.expand_as(gradients) / 240, rtol=1e-15, atol=0)


def test_a_layer_that_returns_no_tensor_or_no_grid_says_so(images, targets):
    class Empty(nn.Module):
        def forward(self, images):
            return None

    class Holding(GapCNN):
        def __init__(self):
            super().__init__()
            self.empty = Empty()

        def forward(self, images):
            self.empty(images)
            return super().forward(images)

    with pytest.raises(Unsupported, match="layer 'empty' returns NoneType; allowed: a layer that returns a tensor"):
        adapted(Holding()).activations(images, "empty")
    with pytest.raises(Unsupported, match=r"layer 'head' of LinearModel returns \(4, 5\), which is no grid over \(24, 40\) images"):
        adapted(LinearModel()).activation_gradient(images, targets, "head")


def test_a_layer_inside_no_grad_says_so(images, targets):
    class Off(GapCNN):
        def forward(self, images):
            with torch.no_grad():
                features = self.features(images)
            return self.head(features.mean((2, 3)))

    with pytest.raises(Unsupported, match="the model turns gradients off around layer 'features'"):
        adapted(Off()).activation_gradient(images, targets, "features")


def test_a_layer_whose_output_is_dropped_says_so(images, targets):
    class Dropping(Reused):
        def forward(self, images):
            self.unused(self.stem(images))
            return super().forward(images)

    with pytest.raises(Unsupported, match="no gradient flows from the answer to layer 'unused' of Dropping"):
        adapted(Dropping()).activation_gradient(images, targets, "unused")


def test_tokens_come_as_a_grid_that_lies_as_the_patches_do(images, targets):
    module = TinyViT().double()
    model, images = adapted(module), images.double()
    tokens = []
    handle = module.blocks[1].norm1.register_forward_hook(lambda _module, _args, output: tokens.append(output.detach()))
    activations, gradients = model.activation_gradient(images, targets, "blocks.1.norm1")
    handle.remove()
    assert activations.shape == gradients.shape == (4, 12, 3, 5)
    for row in range(3):
        for column in range(5):
            torch.testing.assert_close(activations[:, :, row, column], tokens[0][:, 1 + 5 * row + column], rtol=0, atol=0)
    # A patch that the first layer sees differently is the one that differs in the grid.
    changed = images.clone()
    changed[:, :, 8:16, 24:32] += 1
    patches = [each.detach() for each in (module.patch(images), module.patch(changed))]
    differs = (patches[0] - patches[1]).abs().sum((0, 1)) > 0
    assert differs.nonzero().tolist() == [[1, 3]]
    moved = (model.activations(changed, "blocks.0.norm1") - model.activations(images, "blocks.0.norm1")).abs().sum((0, 1)) > 0
    assert moved.nonzero().tolist() == [[1, 3]]


def test_channels_last_features_come_as_a_grid(images, targets):
    module = ChannelsLastCNN().double()
    activations, gradients = adapted(module).activation_gradient(images.double(), targets)
    expected = module.norm(module.features(images.double())).permute(0, 3, 1, 2).detach()
    torch.testing.assert_close(activations, expected)
    weight = module.head.weight[targets.index].detach()[:, :, None, None]
    torch.testing.assert_close(gradients, weight.expand(4, 8, 6, 10) / 60, rtol=1e-15, atol=0)


# Nothing is kept ------------------------------------------------------------------------------------------------------------


class Watching(GapCNN):
    """Remembers, weakly, what its forward computed."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        features = self.features(images)
        self.seen += [weakref.ref(images), weakref.ref(features)]
        return self.head(features.mean((2, 3)))


@pytest.mark.parametrize("call", ["logits", "gradient", "activations", "activation_gradient", "layer", "layers"])
def test_nothing_that_was_computed_outlives_the_call(images, targets, call):
    module = Watching()
    model = adapted(module)
    given = {"logits": (images,), "gradient": (images, targets), "activations": (images, "features")}
    given["activation_gradient"] = (images, targets, "features")
    result = getattr(model, call)(*given[call]) if call in given else getattr(model, call)
    assert result is not None
    assert len(module.seen) == 2
    assert [each() for each in module.seen] == [None, None]


def test_blocks_let_go_when_they_end(images):
    module = GapCNN()
    with tapped("features", module.features) as tap:
        module(images)
        kept = weakref.ref(tap.tensor())
    assert kept() is None
    with pytest.raises(Unsupported, match="never calls layer 'features'"):
        tap.tensor()
    with recorded(module) as seen:
        module(images)
        assert [name for name, _ in seen][-2:] == ["features", "head"]
    assert seen == []


# Modules that are not plain -------------------------------------------------------------------------------------------------


def agree(model, module, images, targets, layer, plain_layer="features"):
    plain = adapted(module)
    expected = plain.logits(images), plain.gradient(images, targets), *plain.activation_gradient(images, targets, plain_layer)
    got = model.logits(images), model.gradient(images, targets), *model.activation_gradient(images, targets, layer)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_compiled_modules_run_as_they_were_written_while_they_are_looked_into(images, targets):
    for way in ("part", "whole", "in place"):
        torch.manual_seed(0)
        module, plain = ReluCNN(), ReluCNN()
        plain.load_state_dict(module.state_dict())
        if way == "part":
            module.features = torch.compile(module.features, backend="eager")
        elif way == "in place":
            module.compile(backend="eager")
        model = adapted(torch.compile(module, backend="eager") if way == "whole" else module)
        model.logits(images)  # compiled before any hook is there
        assert model.layer == ("_orig_mod.features" if way == "whole" else "features")
        agree(model, plain, images, targets, model.layer)
        agree(model, plain, images, targets, model.layer)
        inner = {"part": "features._orig_mod.bn1", "whole": "_orig_mod.features.bn1"}.get(way, "features.bn1")
        agree(model, plain, images, targets, inner, "features.bn1")
    torch._dynamo.reset()


def test_wrapped_modules(images, targets):
    plain = ReluCNN().eval()
    agree(adapted(nn.DataParallel(plain)), plain, images, targets, "module.features")
    assert adapted(nn.DataParallel(plain)).layer == "module.features"
    traced = adapted(torch.fx.symbolic_trace(plain))
    agree(traced, plain, images, targets, "features.bn2")
    assert traced.layer == "features.bn2"


def test_a_sequence_as_root(images, targets):
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    model = adapted(module)
    assert model.layer == "1"
    activations, _ = model.activation_gradient(images, targets, "0")
    torch.testing.assert_close(activations, module[0](images).detach(), rtol=1e-5, atol=1e-6)


def test_weights_that_are_computed_stay_as_they_are(images, targets):
    module = GapCNN()
    nn.utils.parametrizations.weight_norm(module.head)
    nn.utils.parametrizations.spectral_norm(module.features.conv2)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    _, gradients = adapted(module).activation_gradient(images, targets, "features")
    torch.testing.assert_close(gradients, module.head.weight[targets.index].detach()[:, :, None, None].expand_as(gradients) / 60)
    torch.testing.assert_close(dict(module.state_dict()), state, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_answers_and_says_what_it_cannot(images, targets):
    plain = ReluCNN().eval()
    model = adapted(torch.jit.trace(plain, images))
    torch.testing.assert_close(model.gradient(images, targets), adapted(plain).gradient(images, targets), rtol=1e-5, atol=1e-7)
    with pytest.raises(Unsupported, match="never calls layer 'features': the inside of a TorchScript module cannot be looked into"):
        model.activation_gradient(images, targets, "features")
    with pytest.raises(Unsupported, match=r"no spatial layer whose gradient is alive \(the inside of TorchScript cannot be looked into\)"):
        _ = model.layer


@pytest.mark.filterwarnings("ignore")
def test_quantised_modules_answer_and_say_that_they_have_no_gradient(images, targets):
    model = adapted(torch.ao.quantization.quantize_dynamic(GapCNN().eval(), {nn.Linear}, dtype=torch.qint8))
    assert model.logits(images).shape == (4, 5)
    assert F.relu(model.activations(images, "features")).any()
    with pytest.raises(Unsupported, match="no gradient flows from the answer to the images of GapCNN: quantised layers have none"):
        model.gradient(images, targets)
