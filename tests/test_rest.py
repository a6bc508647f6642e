"""The rest of a model from a layer on: it answers from activations as the model does from images, or says why it cannot."""

from __future__ import annotations

import pytest
import torch
from models import SIZE, ChannelsLastCNN, FlattenedCNN, GapCNN, InplaceCNN, Recorded, ResidualCNN, Reused, TinyViT, adapted
from torch import nn

from attribkit import BadInput, Targets, UnknownName, Unsupported
from attribkit.methods import GradCAM, Gradient, InputXGradient, IntegratedGradients, Occlusion
from attribkit.model.tokens import Layout

WHERE = [
    (GapCNN, "features.relu1", (8, 12, 20)),
    (GapCNN, "features", (8, 6, 10)),
    (InplaceCNN, "features.bn1", (8, 12, 20)),  # followed by a ReLU in place
    (InplaceCNN, "features", (8, 6, 10)),
    (ResidualCNN, "stem", (8, 12, 20)),
    (ResidualCNN, "relu:2", (8, 12, 20)),
    (Reused, "conv:0", (6, 12, 20)),
    (Reused, "conv:1", (6, 12, 20)),
    (FlattenedCNN, "conv", (4, 6, 10)),  # whose `.view` knows how many images there are
    (ChannelsLastCNN, "features", (8, 6, 10)),
    (TinyViT, "blocks.0", (12, 4, 5)),  # the class token in a fourth row
    (lambda: TinyViT(prefix=7), "blocks.0", (12, 5, 5)),
    (lambda: TinyViT(prefix=0), "blocks.0", (12, 3, 5)),
    (TinyViT, "patch", (12, 3, 5)),
]


def exactly(network) -> nn.Module:
    return network().double().eval()


def some(rows: int = 3, size=SIZE) -> torch.Tensor:
    return torch.randn(rows, 3, *size, dtype=torch.float64)


@pytest.mark.parametrize(("network", "layer", "shape"), WHERE)
def test_it_answers_from_activations_as_the_model_does_from_images(network, layer, shape):
    model, images = adapted(exactly(network)), some()
    rest, activations = model.at(layer), model.activations(images, layer, whole=True)
    assert activations.shape == (3, *shape) and rest.size == shape[1:]
    torch.testing.assert_close(rest.logits(activations), model.logits(images), rtol=1e-12, atol=1e-14)
    # And from nothing else: activations of zero are the same model's answer, whatever image they might be of.
    assert (rest.logits(activations * 0.5) != model.logits(images)).any()


@pytest.mark.parametrize(("network", "layer", "shape"), WHERE)
def test_its_gradient_is_that_of_the_layer(network, layer, shape):
    model, images, targets = adapted(exactly(network)), some(), Targets(torch.tensor([0, 3, 1]), "log_odds")
    rest, activations = model.at(layer), model.activations(images, layer, whole=True)
    _, expected = model.activation_gradient(images, targets, layer)
    found = rest.over_image(rest.gradient(activations, targets).flatten(0, 1)).view_as(expected)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("rows", [1, 2, 8])
@pytest.mark.parametrize("layer", ["features.conv1", "features"])
def test_what_comes_before_the_layer_runs_on_one_blank_image_and_the_rest_on_full_rows(rows, layer):
    module = Recorded(GapCNN())
    model = adapted(module, max_rows=rows)
    images = torch.randn(8, 3, *SIZE)
    activations, expected = model.activations(images, f"inner.{layer}", whole=True), model.logits(images)
    rest, seen = model.at(f"inner.{layer}"), []
    module.rows.clear()
    with torch.no_grad():
        handle = module.inner.head.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
        torch.testing.assert_close(rest.logits(activations), expected, rtol=1e-5, atol=1e-6)
        handle.remove()
    assert seen == [rows] * (8 // rows) and module.rows == [1] * (8 // rows)


def test_a_model_that_counts_its_images_gets_as_many_blank_ones():
    module = Recorded(FlattenedCNN())
    model = adapted(module)
    rest = model.at("inner.conv")
    module.rows.clear()
    rest.logits(torch.randn(5, 4, 6, 10))
    assert set(module.rows) == {5}


def test_a_model_whose_answer_depends_on_how_many_images_there_are_gets_as_many_blank_ones():
    class Shared(GapCNN):
        def forward(self, images):
            return super().forward(images) / len(images)

    model, images = adapted(Shared()), torch.randn(3, 3, *SIZE)
    found = model.at("features").logits(model.activations(images, "features"))
    torch.testing.assert_close(found, model.logits(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "layer"), [(ResidualCNN, "layer2.1"), (ResidualCNN, "layer1"), (TinyViT, "blocks.1.norm1"), (TinyViT, "blocks.0.mlp")]
)
def test_a_layer_that_something_bypasses_is_refused(network, layer):
    for precision in ("float32", "bfloat16"):
        with pytest.raises(
            Unsupported, match=rf"the answer depends on more than layer '{layer}', as where a layer is inside a residual branch"
        ):
            adapted(network(), precision=precision).at(layer)


class Hardly(nn.Module):
    """A CNN with a faint view of the image beside its features."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.past, self.share = GapCNN(), nn.Linear(3, 5), 0.01

    def forward(self, images):
        return self.cnn(images) + self.share * self.past(images.mean((2, 3)))


def test_a_faint_bypass_is_one_too():
    module = Hardly()
    for precision in ("float32", "bf16"):  # in which it is less than the logits are rounded by
        with pytest.raises(Unsupported, match="more than layer 'cnn.features'"):
            adapted(module, precision=precision).at("cnn.features")
    module.share = 0
    adapted(module).at("cnn.features")


def test_the_proof_is_made_once_for_each_layer_and_size():
    module = Recorded(GapCNN())
    model = adapted(module)
    rest, runs = model.at("inner.features"), len(module.rows)
    assert model.at("inner.features") is rest and len(module.rows) == runs
    other = model.at("inner.features", (48, 40))
    assert other is not rest and other.size == (12, 10) and len(module.rows) > runs
    images = torch.randn(2, 3, 48, 40)
    torch.testing.assert_close(
        other.logits(model.activations(images, "inner.features", whole=True)), model.logits(images), rtol=1e-5, atol=1e-6
    )


def test_it_knows_what_the_model_is():
    model = adapted(GapCNN(), classes=list("abcde"), max_rows=3, precision="bf16", name="gap")
    model.weights = "made up"
    rest = model.at("features.bn1")
    assert (rest.name, rest.weights, rest.precision, rest.max_rows, rest.classes) == (
        "gap from features.bn1 on",
        "made up",
        "bfloat16",
        3,
        tuple("abcde"),
    )
    model._max_rows = 2  # memory ran out meanwhile
    assert model.at("features.bn1").max_rows == 2


def test_under_autocast_it_computes_in_the_layers_own_precision():
    class Rounding(nn.Module):  # steps that each round what a convolution returns in bfloat16
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

        def forward(self, images):
            return self.head((self.conv(images) * 1.37 - 0.31).exp().mean((2, 3)))

    model = adapted(Rounding(), precision="bf16")
    images = torch.randn(2, 3, *SIZE)
    found = model.at("conv").logits(model.activations(images, "conv", whole=True))
    torch.testing.assert_close(found, model.logits(images), rtol=0, atol=0)
    half = adapted(GapCNN().bfloat16())
    found = half.at("features.conv2").logits(half.activations(images, "features.conv2", whole=True))
    torch.testing.assert_close(found, half.logits(images), rtol=0, atol=0)


def test_the_model_comes_back_as_it_was():
    module = ResidualCNN().train()
    module.layer1.eval()
    module.stem.weight.requires_grad_(False)
    flags = [each.training for each in module.modules()], [weight.requires_grad for weight in module.parameters()]
    rest = adapted(module).at("stem")
    activations = torch.randn(2, 8, 12, 20)
    kept = activations.clone()
    rest.gradient(activations, Targets(torch.tensor([0, 1])))
    with pytest.raises(BadInput, match="activations at 'stem'"):
        rest.logits(torch.randn(2, 3, *SIZE))
    assert flags == ([each.training for each in module.modules()], [weight.requires_grad for weight in module.parameters()])
    assert not any(each._forward_hooks for each in module.modules()) and all(weight.grad is None for weight in module.parameters())
    torch.testing.assert_close(activations, kept, rtol=0, atol=0)


def test_memory_that_runs_out_halves_the_rows():
    class HungryHead(GapCNN):
        def forward(self, images):
            features = self.features(images)
            if len(features) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.head(features.mean((2, 3)))

    model = adapted(HungryHead())
    rest = model.at("features")
    images = torch.randn(5, 3, *SIZE)
    torch.testing.assert_close(rest.logits(model.activations(images, "features")), model.logits(images), rtol=1e-5, atol=1e-6)
    assert rest.max_rows == 2


@pytest.mark.parametrize(
    "method", [Gradient(), InputXGradient(), IntegratedGradients(steps=3), Occlusion(window=2, stride=2)], ids=lambda method: method.name
)
def test_input_methods_take_it_for_a_model(method):
    model = adapted(GapCNN())
    activations = model.activations(torch.randn(2, 3, *SIZE), "features.relu1")
    maps = method.explained(model.at("features.relu1"), activations, Targets(torch.tensor([0, 1]))).maps
    assert maps.shape == (2, 12, 20) and torch.isfinite(maps).all() and maps.abs().amax() > 0


def test_a_layer_of_the_rest_may_be_looked_at_too():
    module = exactly(GapCNN)
    model, images, targets = adapted(module), some(2), Targets(torch.tensor([0, 1]))
    rest = model.at("features.relu1")
    assert rest.layer == "module.features"
    found = GradCAM().explained(rest, model.activations(images, "features.relu1"), targets).maps
    torch.testing.assert_close(found, GradCAM(layer="features").explained(model, images, targets).maps, rtol=1e-12, atol=1e-14)


def test_what_is_not_there_or_no_grid_is_said():
    model = adapted(GapCNN())
    with pytest.raises(UnknownName, match="no layer is called 'featurs'"):
        model.at("featurs")
    with pytest.raises(Unsupported, match="layer 'head' of GapCNN returns"):
        model.at("head")
    with pytest.raises(BadInput, match=r"activations at 'features': got \(2, 8, 6, 9\), allowed: \(B, 8, 6, 10\)"):
        model.at("features").logits(torch.randn(2, 8, 6, 9))
    with pytest.raises(Unsupported, match=r"TinyViT from blocks.0 on: got maps of 3 x 5, allowed: 4 x 5"):
        adapted(TinyViT()).at("blocks.0").over_image(torch.zeros(2, 3, 5))


@pytest.mark.parametrize(
    ("network", "layer"), [(GapCNN, "features"), (TinyViT, "blocks.0"), (lambda: TinyViT(prefix=0), "norm"), (ResidualCNN, "down")]
)
def test_where_it_is_cut_by_itself_nothing_bypasses_the_layer(network, layer):
    # A transformer's CAM layer is the norm that opens the last block, past which the tokens go on: the block before it is the last cut.
    found = adapted(network()).cut
    assert found.startswith(layer) or found == "relu:5"


def test_a_model_without_a_cut_says_so():
    class Past(GapCNN):
        def forward(self, images):
            return super().forward(images) + images.mean() + images[:, :1].mean((2, 3))

    with pytest.raises(Unsupported, match="Past has no spatial layer that nothing bypasses"):
        _ = adapted(Past()).cut


@pytest.mark.parametrize("prefix", range(9))
def test_a_whole_grid_becomes_the_output_again(prefix):
    grid, tokens = Layout("tokens", 3, 4, prefix), torch.randn(2, prefix + 12, 5)
    whole = grid.to_grid(tokens, whole=True)
    assert whole.shape == (2, 5, grid.rows, 4) and grid.rows == 3 + (prefix > 0) + (prefix > 4) + (prefix > 8)
    torch.testing.assert_close(whole[:, :, :3], grid.to_grid(tokens), rtol=0, atol=0)
    torch.testing.assert_close(whole[:, :, 3:].flatten(2)[:, :, :prefix], tokens[:, :prefix].transpose(1, 2), rtol=0, atol=0)
    assert not whole[:, :, 3:].flatten(2)[:, :, prefix:].any()
    torch.testing.assert_close(grid.from_grid(whole), tokens, rtol=0, atol=0)
    for kind in ("channels_first", "channels_last"):
        spatial = Layout(kind, 3, 4)
        output = torch.randn(2, 3, 4, 5)
        torch.testing.assert_close(spatial.from_grid(spatial.to_grid(output, whole=True)), output, rtol=0, atol=0)
