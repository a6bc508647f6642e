"""`sized`: models for images of another size, and the position embeddings of transformers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from models import SIZE, FlattenedCNN, GapCNN, LinearModel, ResidualCNN, TinyViT, adapted
from torch import nn
from torchvision import models as tv

import attribkit as ak
from attribkit import BadInput, Batch, Targets, Unsupported
from attribkit.methods import AtLayer, Captum, GradCAM, Gradient
from attribkit.model.replica import Replica
from attribkit.model.sized import sized


def torchvision_vit() -> nn.Module:
    made = tv.VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=5)
    nn.init.normal_(made.encoder.pos_embedding)
    nn.init.normal_(made.heads.head.weight)
    return made


def timm_vit(**settings) -> nn.Module:
    timm = pytest.importorskip("timm")
    numbers = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    made = timm.models.vision_transformer.VisionTransformer(**numbers, **settings)
    nn.init.normal_(made.pos_embed)
    return made


def hf_vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    numbers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=5, **numbers)
    made = transformers.ViTForImageClassification(config)
    nn.init.normal_(made.vit.embeddings.position_embeddings)
    return made


def position(module: nn.Module) -> tuple[str, nn.Parameter]:
    return next((name, weight) for name, weight in module.named_parameters() if "pos" in name)


VITS = [torchvision_vit, timm_vit, hf_vit]


def images_of(*size: int, rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 3, *size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("made", [*VITS, GapCNN, ResidualCNN])
def test_at_the_models_own_size_nothing_changes(made):
    model = adapted(made(), size=32)
    images = images_of(32, 32)
    same = sized(model, model.size)
    assert torch.equal(same.logits(images), model.logits(images))
    assert same.weights == model.weights and same.module is model.module and same.size == (32, 32)


@pytest.mark.parametrize("network", [GapCNN, ResidualCNN])
def test_a_network_for_any_size_is_taken_as_it_is(network):
    module = network()
    model = adapted(module, classes=[f"class {i}" for i in range(5)], name="mine", max_rows=3)
    large = sized(model, (48, 80))
    assert large.module is module and large.size == (48, 80) and "crop 48x80" in str(large.preprocessing)
    images = images_of(48, 80)
    with model.studied():
        torch.testing.assert_close(large.logits(images), module(images))
    assert (large.classes, large.name, large.max_rows, large.weights) == (model.classes, "mine", 3, "its own")
    assert (large.layer, large.middle, large.cut) == (model.layer, model.middle, model.cut)
    assert {name: (high, wide) for name, (_, high, wide) in large.layers.items()} == {
        name: (2 * high, 2 * wide) for name, (_, high, wide) in model.layers.items()
    }


def test_precision_and_the_layer_that_was_named_stay():
    model = adapted(GapCNN(), layer="features.conv1", precision="bfloat16")
    large = sized(model, (48, 80))
    assert large.layer == "features.conv1" and large.precision == "bfloat16"


def test_a_network_that_pools_to_a_grid_is_taken_as_it_is():
    model = adapted(tv.alexnet(num_classes=5).eval(), size=64)
    large, images = sized(model, 128), images_of(128, 128, rows=1)
    torch.testing.assert_close(large.logits(images), model.module(images).detach())


@pytest.mark.parametrize("network", [FlattenedCNN, LinearModel, TinyViT])
def test_a_network_for_one_size_is_refused_by_name(network):
    model = adapted(network())
    with pytest.raises(Unsupported, match=rf"{network.__name__} takes no images of 48 x 80 \(.*\); allowed: images of 24 x 40"):
        sized(model, (48, 80))


class Everywhere(nn.Module):
    """A class at each place, side by side: of a larger image more logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 8, stride=8)

    def forward(self, images):
        return self.conv(images).flatten(1)


def test_a_network_with_other_logits_at_another_size_is_refused():
    with pytest.raises(Unsupported, match="answers images of 48 x 80 with 60 logits instead of 15"):
        sized(adapted(Everywhere()), (48, 80))


@pytest.mark.parametrize("made", VITS)
@pytest.mark.parametrize("size", [(64, 64), (32, 64), (48, 16)])
def test_the_patches_part_of_a_position_embedding_is_interpolated(made, size):
    """Against a transformer that was made for the other size, and given the interpolated embedding as its own."""
    module = made().eval()
    model = adapted(module, size=32)
    name, own = position(module)
    before = own.detach().clone()
    grid = (size[0] // 8, size[1] // 8)
    patches = own[:, 1:].detach().unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    resized = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    other = copy.deepcopy(module)
    path, _, last = name.rpartition(".")
    setattr(other.get_submodule(path), last, nn.Parameter(torch.cat((own[:, :1].detach(), resized), 1)))
    for part in other.modules():
        for attribute in ("image_size", "img_size"):
            if attribute in vars(part):  # torchvision's is one number: its check is stepped around where sides differ
                setattr(part, attribute, size if not isinstance(vars(part)[attribute], int) else size[0])
    images = images_of(*size)
    large = sized(model, size)
    if not (made is torchvision_vit and size[0] != size[1]):
        expected = other(images)
        torch.testing.assert_close(large.logits(images), (expected if isinstance(expected, torch.Tensor) else expected.logits).detach())
    assert large.logits(images).shape == (2, 5) and not torch.equal(large.logits(images)[0], large.logits(images)[1])
    assert large.weights == f"its own; position embeddings interpolated from 4 x 4 to {grid[0]} x {grid[1]}, which changes the model"
    assert torch.equal(position(module)[1], before) and position(module)[1] is own and model.weights == "its own"


def test_sides_that_differ_are_not_taken_for_one_another():
    model = adapted(torchvision_vit(), size=32)
    wide = sized(model, (32, 64))
    assert wide.activations(images_of(32, 64), "middle").shape[2:] == (4, 8)
    with pytest.raises(BadInput, match="got images of 64 x 32, allowed: 32 x 64"):
        wide.logits(images_of(64, 32))


@pytest.mark.parametrize("made", VITS)
def test_the_module_is_as_it_was_also_when_the_forward_raises(made):
    module = made()
    model = adapted(module, size=32)
    large = sized(model, 64)
    before = [dict(vars(part)) for part in module.modules()]

    def broken(*_args):
        raise RuntimeError("broken on purpose")

    handle = [each for each in module.modules() if isinstance(each, nn.LayerNorm)][-1].register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        large.logits(images_of(64, 64))
    handle.remove()
    after = [dict(vars(part)) for part in module.modules()]
    assert [set(each) for each in before] == [set(each) for each in after]
    assert all(one[key] is other[key] for one, other in zip(before, after, strict=True) for key in one)
    assert position(module)[1].requires_grad
    images = images_of(32, 32)
    with model.studied():
        answer = module(images)
    torch.testing.assert_close(model.logits(images), answer if isinstance(answer, torch.Tensor) else answer.logits)


@pytest.mark.parametrize("made", VITS)
def test_methods_run_at_the_other_size_with_the_same_layers(made):
    model = adapted(made(), size=32)
    large = sized(model, 64)
    assert large.layer == model.layer and large.cut == model.cut
    batch = Batch(images_of(64, 64), Targets(torch.tensor([1, 2])), ("a", "b"))
    cam = GradCAM()(large, batch)
    assert cam.maps.shape == (2, 8, 8) and cam.maps.abs().sum() > 0
    assert "interpolated from 4 x 4 to 8 x 8" in cam.facts["weights"] and cam.facts["layer"] == model.layer
    assert AtLayer(Gradient())(large, batch).maps.shape == (2, 8, 8)
    mine = Gradient()(large, batch).maps
    theirs = Captum("Saliency", options={"abs": False})(large, batch).maps
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("made", VITS)
def test_a_copy_for_other_libraries_answers_alike(made):
    large = sized(adapted(made(), size=32), 64)
    images = images_of(64, 64)
    expected = large.logits(images)
    with large.studied():
        torch.testing.assert_close(Replica(large, size=(64, 64))(images), expected)


def test_first_tokens_keep_their_own_embedding():
    module = timm_vit(reg_tokens=3)
    large = sized(adapted(module, size=32), 64)
    name = large.positions.embedding
    assert torch.equal(large._embedding(module, name)[:, :4], module.pos_embed[:, :4]) and large._embedding(module, name).shape == (
        1,
        68,
        16,
    )
    assert large.logits(images_of(64, 64)).shape == (2, 5)


def test_a_transformer_that_resizes_by_itself_is_left_to_it():
    module = timm_vit(dynamic_img_size=True).eval()
    large, images = sized(adapted(module, size=32), 64), images_of(64, 64)
    torch.testing.assert_close(large.logits(images), module(images).detach())
    assert large.weights == "its own; position embeddings interpolated by the model, which changes it"


def test_the_planted_transformer_has_a_larger_size_and_half_precision_stays_half():
    model = ak.load_model("planted/vit-95")
    large = sized(model, (192, 192))
    assert large.logits(images_of(192, 192)).shape == (2, 2) and large.layer == model.layer
    half = adapted(torchvision_vit().bfloat16(), size=32)
    assert sized(half, 64).logits(images_of(64, 64)).dtype == torch.float32
    double = sized(adapted(torchvision_vit().double(), size=32), 64)
    assert double.logits(images_of(64, 64).double()).dtype == torch.float64


def test_patches_are_not_cut():
    with pytest.raises(Unsupported, match="got images of 60 x 64, allowed: whole patches of 8 x 8"):
        sized(adapted(torchvision_vit(), size=32), (60, 64))


def test_sized_once_more_begins_with_the_original():
    model = adapted(torchvision_vit(), size=32)
    again = sized(sized(model, 64), 128)
    assert again.original is model and "from 4 x 4 to 16 x 16" in again.weights
    back, images = sized(sized(model, 64), 32), images_of(32, 32)
    assert torch.equal(back.logits(images), model.logits(images))


def test_the_rest_of_a_model_has_no_other_size():
    with pytest.raises(BadInput, match="sized: got a Rest, allowed: a VisionModel of images"):
        sized(adapted(GapCNN()).at("features"), SIZE)


def test_a_transformer_whose_embedding_is_gone_is_refused():
    module = torchvision_vit()
    module.encoder.pos_embedding = nn.Parameter(torch.zeros(1, 3, 16))
    with pytest.raises(Unsupported, match=r"a position embedding \(1, 3, 16\) does not belong to 4 x 4 patches"):
        sized(adapted(module, size=32), 64)
