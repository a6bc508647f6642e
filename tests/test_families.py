"""Families: for every architecture that is promised, a CAM layer whose gradient is alive, on the right grid, with nothing said."""

from __future__ import annotations

import pytest
import torch
from models import SIZE, GapCNN, LinearModel, TinyViT, adapted
from torch import nn

from attribkit.batch import Targets
from attribkit.errors import Unsupported
from attribkit.model import families


def checked(module, size, layer, grid, *, least=0.99):
    """`layer` is chosen, tapped on `grid`, and at least that share of its places has a gradient."""
    model = adapted(module, size=size, max_rows=8)
    assert model.layer == layer
    assert model.layers[layer][1:] == grid
    for head in module.modules():  # some are made with a head of zeros
        if isinstance(head, nn.Linear) and not head.weight.any():
            nn.init.normal_(head.weight, std=0.02)
    activations, gradients = model.activation_gradient(torch.randn(2, 3, *size), Targets(torch.tensor([0, 1])), layer)
    assert activations.shape == gradients.shape == (2, model.layers[layer][0], *grid)
    assert float((gradients.abs().sum(1) > 0).float().mean()) >= least
    return model


# torchvision ----------------------------------------------------------------------------------------------------------------

WIDE = (64, 96)


def _tv(name, **settings):
    import torchvision.models as tv

    return tv.get_model(name, weights=None, num_classes=6, **settings)


def _vgg():
    from torchvision.models.vgg import VGG, cfgs, make_layers

    with torch.device("meta"):  # a hundred million weights of no interest here
        module = VGG(nn.Identity(), init_weights=False)
    module.features = make_layers(cfgs["A"], batch_norm=True)
    module.classifier = nn.Linear(512 * 49, 6)
    return module


def _convnext():
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt(
        [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 48, 1), CNBlockConfig(48, 64, 1), CNBlockConfig(64, None, 1)], num_classes=6
    )


def _densenet():
    from torchvision.models.densenet import DenseNet

    return DenseNet(8, (2, 2, 2, 2), 16, num_classes=6)


def _swin():
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([4, 4], 24, [1, 1, 2], [1, 2, 2], [2, 2], num_classes=6)


def _vit(**settings):
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(64, 16, 3, 2, 24, 48, num_classes=6, **settings)


TORCHVISION = {
    "resnet18": (lambda: _tv("resnet18"), WIDE, "layer4", (2, 3)),
    "vgg11_bn": (_vgg, WIDE, "features.27", (4, 6)),
    "densenet121": (_densenet, WIDE, "features", (2, 3)),
    "mobilenet_v2": (lambda: _tv("mobilenet_v2"), WIDE, "features", (2, 3)),
    "mobilenet_v3_small": (lambda: _tv("mobilenet_v3_small"), WIDE, "features", (2, 3)),
    "efficientnet_b0": (lambda: _tv("efficientnet_b0"), WIDE, "features", (2, 3)),
    "convnext": (_convnext, WIDE, "features", (2, 3)),
    "squeezenet1_1": (lambda: _tv("squeezenet1_1"), WIDE, "features", (3, 5)),
    "inception_v3": (lambda: _tv("inception_v3", init_weights=False), (75, 107), "Mixed_7c", (1, 2)),
    "regnet_y_400mf": (lambda: _tv("regnet_y_400mf"), WIDE, "trunk_output", (2, 3)),
    "googlenet": (lambda: _tv("googlenet", init_weights=False, aux_logits=False), WIDE, "inception5b", (2, 3)),
    "shufflenet_v2": (lambda: _tv("shufflenet_v2_x0_5"), WIDE, "conv5", (2, 3)),
    "mnasnet0_5": (lambda: _tv("mnasnet0_5"), WIDE, "layers", (2, 3)),
    "vit": (_vit, (64, 64), "encoder.layers.encoder_layer_2.ln_1", (4, 4)),
    "swin": (_swin, WIDE, "norm", (4, 6)),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    build, size, layer, grid = TORCHVISION[name]
    # SqueezeNet classifies by a convolution and a ReLU: a place whose logit is below zero has no gradient.
    checked(build(), size, layer, grid, least=0.05 if name.startswith("squeezenet") else 0.99)


# timm -----------------------------------------------------------------------------------------------------------------------


def _timm(name, **settings):
    return pytest.importorskip("timm").create_model(name, pretrained=False, num_classes=6, **settings)


SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 2}
TIMM = {
    "resnet18": (lambda: _timm("resnet18"), WIDE, "layer4", (2, 3)),
    "vgg11": (lambda: _timm("vgg11", mlp_ratio=0.01), WIDE, "features.19", (4, 6)),
    "convnext_atto": (lambda: _timm("convnext_atto", depths=(1, 1, 1, 1)), WIDE, "norm_pre", (2, 3)),
    "efficientnet_b0": (lambda: _timm("efficientnet_b0"), WIDE, "bn2", (2, 3)),
    "mobilenetv3": (lambda: _timm("mobilenetv3_small_050"), WIDE, "blocks", (2, 3)),
    "regnet": (lambda: _timm("regnety_002"), WIDE, "final_conv", (2, 3)),
    "swin": (
        lambda: _timm("swin_tiny_patch4_window7_224", img_size=WIDE, window_size=2, embed_dim=24, depths=(1, 1, 1)),
        WIDE,
        "norm",
        (4, 6),
    ),
    "vit": (lambda: _timm("vit_tiny_patch16_224", img_size=WIDE, **SMALL), WIDE, "blocks.1.norm1", (4, 6)),
    "deit distilled": (lambda: _timm("deit_tiny_distilled_patch16_224", img_size=WIDE, **SMALL), WIDE, "blocks.1.norm1", (4, 6)),
    "dinov2 registers": (lambda: _timm("vit_small_patch14_reg4_dinov2", img_size=(56, 84), **SMALL), (56, 84), "blocks.1.norm1", (4, 6)),
    "mixer": (lambda: _timm("mixer_s32_224", img_size=128), (128, 128), "norm", (4, 4)),
    "eva02": (lambda: _timm("eva02_tiny_patch14_224", img_size=(56, 84), **SMALL), (56, 84), "blocks.1.norm2", (4, 6)),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    build, size, layer, grid = TIMM[name]
    model = checked(build(), size, layer, grid)
    prefix = {"deit distilled": 2, "dinov2 registers": 5, "vit": 1}.get(name)
    if prefix is not None:
        assert model.module.num_prefix_tokens == prefix


def test_timm_mixer_makes_a_head_of_zeros():
    assert not _timm("mixer_s32_224", img_size=64).head.weight.any()


# Hugging Face ---------------------------------------------------------------------------------------------------------------


def _hf(name, **settings):
    hf = pytest.importorskip("transformers")
    return getattr(hf, f"{name}ForImageClassification")(getattr(hf, f"{name}Config")(num_labels=6, **settings))


VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 1]}
HF = {
    "ViT": (lambda: _hf("ViT", image_size=WIDE, patch_size=16, **VIT), WIDE, (4, 6)),
    "DeiT": (lambda: _hf("DeiT", image_size=WIDE, patch_size=16, **VIT), WIDE, (4, 6)),
    "Swin": (lambda: _hf("Swin", image_size=WIDE, embed_dim=16, depths=[1, 1, 1], num_heads=[1, 2, 4], window_size=2), WIDE, (4, 6)),
    "ResNet": (lambda: _hf("ResNet", layer_type="basic", **STAGES), WIDE, (4, 6)),
    "ConvNext": (lambda: _hf("ConvNext", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]), WIDE, (2, 3)),
    "RegNet": (lambda: _hf("RegNet", groups_width=8, **STAGES), WIDE, (4, 6)),
    "Dinov2": (lambda: _hf("Dinov2", image_size=56, patch_size=14, **VIT), (56, 56), (4, 4)),
    "Dinov2WithRegisters": (lambda: _hf("Dinov2WithRegisters", image_size=56, patch_size=14, **VIT), (56, 56), (4, 4)),
}


@pytest.mark.parametrize("name", HF)
def test_hugging_face(name):
    build, size, grid = HF[name]
    module = build()
    layer = adapted(module, size=size).layer  # its name is that release's own affair
    checked(module, size, layer, grid)


def test_a_container_whose_second_tensor_the_head_reads_is_not_looked_at():
    """Hugging Face's ResNet returns features and their mean; the head reads the mean, so the score ignores a tap of the features."""
    model = adapted(HF["ResNet"][0](), size=WIDE)
    assert "resnet" not in model.layers
    assert model.layer == "resnet.encoder"


# What no family says --------------------------------------------------------------------------------------------------------


def test_a_family_whose_parts_were_changed_is_searched():
    module = _tv("resnet18")
    module.layer4 = nn.Conv2d(256, 512, 1)
    assert adapted(module, size=WIDE).layer == "layer4"
    gelu = _vgg()
    gelu.features = nn.Sequential(nn.Conv2d(3, 512, 8, stride=8), nn.GELU())
    assert adapted(gelu, size=WIDE).layer == "features"


def test_a_family_on_images_so_small_that_its_layer_has_one_place_is_searched():
    model = adapted(_tv("resnet18"), size=32)
    assert model.layer == "layer3"
    assert model.layers["layer3"] == (256, 2, 2)


def test_a_subclass_belongs_to_its_family():
    from torchvision.models.vision_transformer import VisionTransformer

    class Mine(VisionTransformer):
        pass

    # Its head of zeros would hide the layer from a search.
    assert adapted(Mine(64, 16, 3, 2, 24, 48, num_classes=6), size=64).layer == "encoder.layers.encoder_layer_2.ln_1"


def test_no_spatial_layer_is_one_clear_line():
    with pytest.raises(Unsupported, match=r"LinearModel shows no spatial layer whose gradient is alive; name one with layer=..., see"):
        _ = adapted(LinearModel()).layer


def test_tokens_that_the_head_does_not_read_are_not_chosen():
    # The head reads the class token alone: after the last block's norm1 no patch has a gradient.
    for prefix, layer in ((1, "blocks.1.norm1"), (3, "blocks.1.norm1"), (0, "norm")):
        model = adapted(TinyViT(prefix=prefix))
        assert model.layer == layer
        assert model.layers[layer] == (12, 3, 5)


def test_a_head_of_zeros_does_not_hide_the_layer():
    module = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    nn.init.zeros_(module[-1].weight)
    assert adapted(module).layer == "1"


def test_the_choice_is_the_same_whatever_the_seed():
    module = TinyViT(prefix=4, size=SIZE)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    chosen = {adapted(module).layer for _ in range(3)}
    assert len(chosen) == 1
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"patch_size": 16}, (16, 16)),
        ({"patch_size": (8, 4)}, (8, 4)),
        ({"patch_size": [8, 4]}, (8, 4)),
        ({"patch_size": "large"}, None),
        ({"patch_size": (2, 8, 8)}, None),
        ({}, None),
    ],
)
def test_a_declared_patch_is_read(declared, expected):
    for owner in ("", "patch_embed", "config"):
        module = nn.Module()
        place = module if not owner else nn.Module()
        for name, value in declared.items():
            setattr(place, name, value)
        if owner:
            setattr(module, owner, place)
        assert families.patch(module) == expected


class HalfRead(GapCNN):
    """Reads the left half of its last map only: a layer before that is live everywhere, the last one is not."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(8, 8, 9, padding=4)
        self.last = nn.Identity()

    def forward(self, images):
        features = self.last(self.wide(self.features(images)))
        return self.head(features[..., : features.shape[-1] // 2].mean((2, 3)))


def test_a_layer_that_is_read_in_part_is_not_chosen():
    assert adapted(HalfRead(), size=32).layer == "features"  # 9 x 9 windows: all of its 8 x 8 places are within reach of the left half


class Attending(nn.Module):
    """Tokens averaged, behind an attention matrix that a module returns: a square that is no grid."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, stride=8)
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        tokens = self.norm(self.patch(images).flatten(2).transpose(1, 2))
        attention = self.drop((tokens @ tokens.transpose(1, 2)).softmax(-1).unsqueeze(1))
        return self.head((attention.squeeze(1) @ tokens).mean(1))


def test_an_attention_matrix_is_no_grid():
    assert adapted(Attending(), size=32).layer == "norm"


def test_a_size_that_the_model_does_not_take_is_named():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 32 * 32, 3))
    with pytest.raises(Unsupported, match=r"fails on images of 224 x 224 .*; allowed: size=... as it wants them"):
        _ = adapted(module, size=224).layer
    assert adapted(module, size=32).layer == "0"


def test_convolution_weights_are_those_of_mostly_convolutional_models():
    assert families.convolution_weights(GapCNN()) == 3 * 8 * 9 + 8 * 8 * 9
    assert families.convolution_weights(TinyViT()) == 0
    assert families.convolution_weights(LinearModel()) == 0


@pytest.mark.parametrize(("weights", "rows", "last"), [(1, 1, True), (15, 1, False), (15, 2, True), (35, 3, False), (35, 4, True)])
def test_channels_last_once_there_are_images_enough_for_the_weights(weights, rows, last):
    formats = []

    class Watching(GapCNN):
        def forward(self, images):
            formats.append(images.is_contiguous(memory_format=torch.channels_last))
            return super().forward(images)

    model = adapted(Watching())
    model._convolution_weights = weights * 1_000_000  # as if it were so large a model
    model.logits(torch.randn(rows, 3, 24, 40))
    assert formats == [last]


def test_the_real_cifar_vit(shared_data):
    """A convolutional stem, then 8 x 8 patch tokens behind a class token."""
    from safetensors.torch import load_file
    from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

    stem = [ConvStemConfig(48, 3, 2), ConvStemConfig(96, 3, 2)]
    module = VisionTransformer(32, 4, 4, 4, 96, 192, num_classes=10, conv_stem_configs=stem)
    module.load_state_dict(load_file(str(shared_data / "models" / "cifar10-vit.safetensors")))
    checked(module, (32, 32), "encoder.layers.encoder_layer_3.ln_1", (8, 8))
