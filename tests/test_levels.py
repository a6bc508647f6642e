"""The words "input", "middle" and "final": which layers they mean, and that every way to name a layer understands them."""

from __future__ import annotations

import pytest
import torch
from models import SIZE, GapCNN, LinearModel, ResidualCNN, TinyViT, adapted
from torch import nn
from torchvision import models as tv

import attribkit as ak
from attribkit import BadInput, Batch, Targets, Unsupported
from attribkit.methods import XRAI, AtLayer, Captum, GradCAM, Gradient, HiResCAM, InputXGradient, IntegratedGradients, LayerCAM, Smooth
from attribkit.methods.cam import GradCAMPlusPlus, OnePass, XGradCAM
from attribkit.methods.levels import at_layers
from attribkit.model.levels import place
from attribkit.segments import Squares


def batch_for(size=SIZE, rows: int = 2, classes: int = 5) -> Batch:
    images = torch.randn(rows, 3, *size, generator=torch.Generator().manual_seed(3))
    return Batch(images, Targets(torch.arange(rows) % classes), tuple(f"image-{i}" for i in range(rows)))


def tiny_vit(depth: int) -> nn.Module:
    torch.manual_seed(1)
    made = tv.VisionTransformer(image_size=64, patch_size=16, num_layers=depth, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=5)
    nn.init.normal_(made.heads.head.weight)  # it starts at zero
    return made


@pytest.mark.parametrize(
    ("made", "size", "middle", "grid", "final"),
    [
        (tv.resnet18, 224, "layer2", (128, 28, 28), "layer4"),
        (tv.mobilenet_v2, 224, "features.7.conv.0", (192, 28, 28), "features"),
        (tv.squeezenet1_1, 224, "features.7", (256, 27, 27), "features"),  # stride 8, less what unpadded convolutions lose
    ],
)
def test_the_middle_of_a_cnn_is_the_last_layer_at_stride_8(made, size, middle, grid, final):
    model = adapted(made(), size=size)
    assert (model.middle, model.cut) == (middle, final)
    assert model.layers[middle] == grid


def test_the_middle_of_a_planted_network_is_finer_than_its_last_layer_which_has_stride_8():
    model = ak.load_model("planted/shortcut-95")
    assert model.cut == "layer3" and model.layers["layer3"][1:] == model.layers["layer2"][1:] == (12, 12)
    assert model.middle == "layer1" and model.layers["layer1"][1:] == (24, 24)


def test_the_middle_of_a_transformer_is_half_way():
    model = adapted(tiny_vit(7), size=64)
    assert model.cut == "encoder.layers.encoder_layer_5"  # what the last block is given: after the patches, and six blocks
    assert model.middle == "encoder.layers.encoder_layer_2"  # after three of them
    planted = ak.load_model("planted/vit-95")  # three blocks, read off the class token
    assert (planted.middle, planted.cut) == ("blocks.0", "blocks.1")


def test_what_something_bypasses_is_no_middle():
    model = adapted(ResidualCNN(), size=(32, 32))
    fine = [name for name, (_, height, _) in model.layers.items() if height == 16]
    assert model.middle in fine and "layer1" in fine  # inside a residual branch, at the resolution that is wanted
    model.at(model.middle)
    with pytest.raises(Unsupported, match="depends on more than layer 'layer2'"):
        model.at("layer2")


def test_it_is_looked_for_once():
    model = adapted(GapCNN())
    first = model.middle
    model.module.forward = None
    assert model.middle == first and place(model, "middle") == first


def test_where_a_model_has_one_layer_alone_that_is_the_middle():
    model = adapted(OneLayer())
    assert model.middle == model.cut == "conv"


class OneLayer(nn.Module):
    """A convolution, the mean over places, and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 5)

    def forward(self, images):
        return self.head(self.conv(images).square().mean((2, 3)))


@pytest.mark.parametrize("network", [GapCNN, TinyViT])
@pytest.mark.parametrize("word", ["middle", "final"])
def test_a_word_and_the_name_it_means_give_identical_maps(network, word):
    model = adapted(network())
    batch, name = batch_for(), {"middle": model.middle, "final": model.cut}[word]
    assert model.middle != model.cut
    for by in (lambda at: GradCAM(layer=at), lambda at: LayerCAM(layer=at), lambda at: AtLayer(Gradient(), layer=at)):
        said, named = by(word)(model, batch), by(name)(model, batch)
        assert torch.equal(said.maps, named.maps) and said.maps.abs().sum() > 0
        assert said.facts["layer"] == f"{word} = {name}" and named.facts["layer"] == name
    assert torch.equal(model.activations(batch.images, word), model.activations(batch.images, name))
    assert model.at(word) is model.at(name)
    images, targets = batch.images, batch.targets
    for said, named in zip(model.activation_gradient(images, targets, word), model.activation_gradient(images, targets, name), strict=True):
        assert torch.equal(said, named)


def test_captum_understands_them():
    model = adapted(GapCNN())
    batch = batch_for()
    said, named = (Captum("LayerGradCam", layer=layer)(model, batch).maps for layer in ("middle", model.middle))
    assert torch.equal(said, named)
    with pytest.raises(BadInput, match="'input' is the image itself, which no part of GapCNN returns"):
        Captum("LayerGradCam", layer="input")(model, batch)


def test_at_the_input_a_cam_is_of_the_image_and_its_gradient():
    module = LinearModel()
    model = adapted(module)
    batch = batch_for()
    weight = module.head.weight.detach()[batch.targets.index].view(-1, 3, *SIZE)  # the gradient of a linear model
    assert torch.equal(model.activations(batch.images, "input"), batch.images)
    images, gradient = model.activation_gradient(batch.images, batch.targets, "input")
    assert torch.equal(images, batch.images) and torch.equal(gradient, weight)
    cam = GradCAM(layer="input")(model, batch)
    torch.testing.assert_close(cam.maps, (weight.mean((2, 3), keepdim=True) * batch.images).sum(1))
    assert cam.facts["layer"] == "input"
    product = HiResCAM(layer="input")(model, batch)
    torch.testing.assert_close(product.maps, InputXGradient()(model, batch).maps)
    assert all(weight.grad is None and weight.requires_grad for weight in module.parameters())


def test_at_the_input_a_method_is_itself():
    model = adapted(LinearModel())  # and has no spatial layer to ask at
    batch = batch_for()
    inner = IntegratedGradients(steps=4)
    wrapped, plain = AtLayer(inner, layer="input")(model, batch), inner(model, batch)
    assert torch.equal(wrapped.maps, plain.maps) and wrapped.extras.keys() == plain.extras.keys() != set()
    with pytest.raises(Unsupported, match="needs a spatial layer"):
        AtLayer(inner, layer="middle")(model, batch)


@pytest.mark.parametrize("layer", ["middle", "final"])
def test_what_is_integrated_at_a_level_adds_up(layer):
    model = adapted(GapCNN().double())
    images, targets = batch_for().images.double(), batch_for().targets
    with model.studied():
        maps = AtLayer(IntegratedGradients(steps=200), layer=layer).explained(model, images, targets).maps
    rest = model.at(layer)
    zero = torch.zeros_like(model.activations(images, layer, whole=True))
    torch.testing.assert_close(maps.sum((1, 2)), model.score(images, targets) - rest.score(zero, targets), rtol=1e-3, atol=1e-4)


def test_every_level_has_a_map_at_its_own_resolution():
    model = adapted(GapCNN())
    batch = batch_for()
    for like in (GradCAM(), Gradient()):
        assert [tuple(each(model, batch).maps.shape[1:]) for each in at_layers(like)] == [SIZE, (12, 20), (6, 10)]


def test_a_method_that_divides_the_picture_is_told_the_map_of_the_layer():
    first, middle, last = at_layers(XRAI(method=Gradient(), segmenter=Squares(8)))
    assert first == XRAI(method=Gradient(), segmenter=Squares(8))
    assert [made.method for made in (middle, last)] == [AtLayer(Gradient(), layer=layer) for layer in ("middle", "final")]
    model = adapted(GapCNN())
    assert middle(model, batch_for()).maps.shape[1:] == SIZE
    assert [made.method.layer for made in at_layers(XRAI(method=GradCAM(), segmenter=Squares(8)))] == ["input", "middle", "final"]
    assert [made.method.layer for made in at_layers(Smooth(GradCAM(), samples=2))] == ["input", "middle", "final"]


class Named(GapCNN):
    """A model whose own parts have the names of the words."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.middle, self.final = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 2, stride=2), nn.Identity()

    def forward(self, images):
        return self.final(super().forward(self.middle(self.input(images))))


def test_a_submodule_of_that_name_comes_first():
    model = adapted(Named())
    batch = batch_for()
    assert model.activations(batch.images, "middle").shape[1:] == (3, 12, 20) and place(model, "middle") == "middle" != model.middle
    assert not torch.equal(model.activations(batch.images, "input"), batch.images)
    assert GradCAM(layer="input")(model, batch).facts["layer"] == "input"
    inner = AtLayer(Gradient(), layer="input")(model, batch).maps
    torch.testing.assert_close(inner, model.at("input").gradient(model.activations(batch.images, "input"), batch.targets).sum(1))
    assert not torch.allclose(inner, Gradient()(model, batch).maps)


def test_a_model_is_not_told_a_word_where_it_wants_a_name():
    with pytest.raises(BadInput, match="got 'middle', which is for methods to say"):
        adapted(GapCNN(), layer="middle")
    assert adapted(Named(), layer="middle").layer == "middle"


def test_who_multiplies_with_the_gradient_says_that_nothing_else_matters():
    seen = {}

    class Watched(type(adapted(GapCNN()))):
        def activation_map(self, images, targets, combine, layer=None, *, local=False):
            seen["local"] = local
            return super().activation_map(images, targets, combine, layer, local=local)

    model = Watched(GapCNN(), mean=0.5, std=0.5, size=SIZE)
    for kind in (GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM):
        assert issubclass(kind, OnePass)
        kind()(model, batch_for())
        assert seen["local"] is (kind in (HiResCAM, LayerCAM))
        activations, gradients = torch.randn(1, 4, 3, 5), torch.randn(1, 4, 3, 5)
        gradients[..., 2:] = 0
        other = activations.clone()
        other[..., 2:] += 1
        assert torch.equal(kind._combined(activations, gradients), kind._combined(other, gradients)) is seen["local"]
