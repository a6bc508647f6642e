"""Layer masking on every architecture that is promised: kept whole it is the plain forward, and what is removed has no influence."""

from __future__ import annotations

import warnings

import pytest
import torch
from models import adapted
from torch import nn

from attribkit.errors import Unsupported
from attribkit.removals import LayerMask
from attribkit.removals.carrying import Carrying, tensors

WIDE = (64, 96)


def lively(module: nn.Module, size) -> nn.Module:
    """With statistics of its own activations, so that signals reach the end, and norms, scales and heads that do something."""
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.momentum = None
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.uniform_(each.bias, -0.3, 0.3)
        elif isinstance(each, nn.LayerNorm | nn.GroupNorm) and each.weight is not None:
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.uniform_(each.bias, -0.3, 0.3)
        elif isinstance(each, nn.Linear):
            nn.init.normal_(each.weight, std=each.in_features**-0.5)
    for name, weight in module.named_parameters():
        if name.split(".")[-1] in ("layer_scale", "gamma", "gamma_1", "gamma_2", "lambda1", "class_token", "cls_token", "pos_embed"):
            nn.init.uniform_(weight, 0.5, 1.5)
    with torch.no_grad():
        module.train()(torch.randn(4, 3, *size))
    return module.eval()


def blocks(count: int, size) -> torch.Tensor:
    """Whole; random blocks of 16 x 16, twice; nothing."""
    down, across = -(-size[0] // 16), -(-size[1] // 16)
    keep = (torch.rand(count, down, across) < 0.5).repeat_interleave(16, 1).repeat_interleave(16, 2)[:, : size[0], : size[1]]
    keep[0], keep[-1] = True, False
    keep[1:-1, :16, :16], keep[1:-1, 16:32, 16:32] = True, False
    return keep


class Checking(Carrying):
    """As `Carrying`, and after each single operation what is in the holes is zero, and the mask fits."""

    def _marked(self, output, mask):
        result = super()._marked(output, mask)
        for each in tensors(result):
            own = self.masks[each]
            if own is not None:
                assert own.on.ndim == each.ndim
                assert not each.detach().masked_fill(own.on, 0).any()
        return result


@pytest.fixture(autouse=True)
def _every_operation_is_checked(monkeypatch):
    monkeypatch.setattr("attribkit.removals.layer_masking.Carrying", Checking)


def quietly(removal, model, images, keep):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of masks that vanish, which on such small images they may
        return removal(model, images, keep)


def checked(module: nn.Module, size=WIDE, *, bitwise: bool = True, policy=None) -> None:
    removal = policy or LayerMask()
    model = adapted(lively(module, size), size=size)
    images, keep = torch.randn(4, 3, *size), blocks(4, size)
    plain, masked = model.logits(images), quietly(removal, model, images, keep)
    torch.testing.assert_close(masked[0], plain[0], **({"rtol": 0, "atol": 0} if bitwise else {}))
    changed = quietly(removal, model, images.masked_fill(~keep.unsqueeze(1), torch.nan), keep)
    torch.testing.assert_close(changed, masked, rtol=0, atol=0)
    assert torch.isfinite(masked).all()
    spread = plain.std()
    assert ((masked[1:] - plain[1:]).abs().amax(1) > 1e-3 * spread).all()
    alone = quietly(removal, model, images[1:2], keep[1:2])
    torch.testing.assert_close(alone, masked[1:2], rtol=1e-3, atol=1e-4 * spread.item())


# torchvision ----------------------------------------------------------------------------------------------------------------------


def _tv(name, **settings):
    from torchvision.models import get_model

    return get_model(name, weights=None, num_classes=6, **settings)


def _resnext():
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=6, groups=4, width_per_group=8)


def _alexnet():
    return _small_head(lambda: _tv("alexnet"), 256 * 36)


def _vgg():
    from torchvision.models.vgg import VGG, make_layers

    return _small_head(lambda: VGG(make_layers([16, "M", 24, "M", 32, 32, "M", 48, "M"], batch_norm=True), init_weights=False), 48 * 49)


def _small_head(build, features):
    with torch.device("meta"):  # fifty million weights of a head that is of no interest here
        module = build()
    module = module.to_empty(device="cpu")
    module.classifier = nn.Sequential(nn.Linear(features, 8), nn.ReLU(True), nn.Linear(8, 6))
    for each in module.modules():
        if isinstance(each, nn.Conv2d | nn.BatchNorm2d):
            each.reset_parameters()
    return module


def _densenet():
    from torchvision.models.densenet import DenseNet

    return DenseNet(8, (2, 2, 2, 2), 16, num_classes=6)


def _convnext():
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt(
        [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 48, 1), CNBlockConfig(48, 64, 1), CNBlockConfig(64, None, 1)], num_classes=6
    )


def _vit(**settings):
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(64, 16, 2, 2, 24, 48, num_classes=6, **settings)


def _swin(**settings):
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([4, 4], 24, [1, 1, 2], [1, 2, 2], [2, 2], num_classes=6, **settings)


def _swin_2():
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

    return _swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)


def _maxvit():
    from torchvision.models.maxvit import MaxVit

    return MaxVit((64, 64), 16, 2, [16, 32], [1, 1], 16, 0.0, num_classes=6)


PLAIN = {"init_weights": False, "transform_input": True, "aux_logits": False}
TORCHVISION = {
    "alexnet": (_alexnet, WIDE),
    "vgg": (_vgg, WIDE),
    "resnet18": (lambda: _tv("resnet18"), WIDE),
    "resnet50": (lambda: _tv("resnet50"), WIDE),
    "resnext": (_resnext, WIDE),
    "densenet": (_densenet, WIDE),
    "squeezenet1_0": (lambda: _tv("squeezenet1_0"), WIDE),
    "squeezenet1_1": (lambda: _tv("squeezenet1_1"), WIDE),
    "mobilenet_v2": (lambda: _tv("mobilenet_v2", width_mult=0.5), WIDE),
    "mobilenet_v3_small": (lambda: _tv("mobilenet_v3_small"), WIDE),
    "efficientnet_b0": (lambda: _tv("efficientnet_b0"), WIDE),
    "regnet_x_400mf": (lambda: _tv("regnet_x_400mf"), WIDE),
    "regnet_y_400mf": (lambda: _tv("regnet_y_400mf"), WIDE),
    "convnext": (_convnext, WIDE),
    "googlenet": (lambda: _tv("googlenet", **PLAIN), WIDE),
    "inception_v3": (lambda: _tv("inception_v3", **PLAIN), (80, 107)),
    "shufflenet_v2": (lambda: _tv("shufflenet_v2_x0_5"), WIDE),
    "mnasnet": (lambda: _tv("mnasnet0_5"), WIDE),
    "swin": (_swin, WIDE),
    "swin_v2": (_swin_2, (72, 88)),
    "maxvit": (_maxvit, (64, 64)),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    build, size = TORCHVISION[name]
    checked(build(), size)


@pytest.mark.parametrize("policy", [{"residual": "union"}, {"residual": "shortcut"}, {"pool": "plain"}, {"tokens": "any"}], ids=str)
@pytest.mark.parametrize("build", [lambda: _tv("resnet18"), _convnext, _vit], ids=["resnet18", "convnext", "vit"])
def test_every_policy_keeps_the_promises(build, policy):
    checked(build(), (64, 64), bitwise=build is not _vit, policy=LayerMask(**policy))


@pytest.mark.parametrize("concat", ["majority", "intersection"])
@pytest.mark.parametrize("build", [_densenet, _swin], ids=["densenet", "swin"])
def test_every_policy_for_channels_keeps_the_promises(build, concat):
    checked(build(), policy=LayerMask(concat=concat))


def test_a_vit_of_torchvision():
    checked(_vit(), (64, 64), bitwise=False)


# timm -----------------------------------------------------------------------------------------------------------------------------


def _timm(name, **settings):
    return pytest.importorskip("timm").create_model(name, pretrained=False, num_classes=6, **settings)


TINY = {"img_size": WIDE, "embed_dim": 48, "depth": 2, "num_heads": 2}
TIMM = {
    "resnet18": lambda: _timm("resnet18"),
    "resnet26d": lambda: _timm("resnet26d"),
    "convnext_atto": lambda: _timm("convnext_atto", depths=(1, 1, 1, 1)),
    "padded as in TensorFlow": lambda: _timm("tf_mobilenetv3_small_minimal_100"),
    "mean of patches": lambda: _timm("vit_tiny_patch16_224", class_token=False, global_pool="avg", **TINY),
    "class token": lambda: _timm("vit_tiny_patch16_224", **TINY),
    "distilled": lambda: _timm("deit_tiny_distilled_patch16_224", **TINY),
    "registers": lambda: _timm("vit_small_patch14_reg4_dinov2", **TINY | {"img_size": (56, 84)}),
    "rotary": lambda: _timm("eva02_tiny_patch14_224", **TINY | {"img_size": (56, 84)}),
    "swin": lambda: _timm("swin_tiny_patch4_window7_224", img_size=WIDE, window_size=2, embed_dim=24, depths=(2, 1, 1)),
}
CNNS = ("resnet18", "resnet26d", "convnext_atto", "padded as in TensorFlow")


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    checked(TIMM[name](), (56, 84) if name in ("registers", "rotary") else WIDE, bitwise=name in CNNS)


# transformers ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["ViT", "DeiT"])
def test_transformers(name, how):
    tr = pytest.importorskip("transformers")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 64}
    config = getattr(tr, f"{name}Config")(num_labels=6, patch_size=16, attn_implementation=how, **small)
    checked(getattr(tr, f"{name}ForImageClassification")(config), (64, 64), bitwise=False)


# What cannot be followed ----------------------------------------------------------------------------------------------------------


def test_what_is_moved_between_places_and_samples_at_once_is_refused():
    """MobileViT lays channels and rows of places into one dimension with the samples: no mask says what is kept there."""
    module = lively(_timm("mobilevit_xxs"), (64, 64))
    with pytest.raises(Unsupported, match="layer masking has no rule for 'linear' with a mask that is not the same for all features"):
        quietly(LayerMask(), adapted(module, size=(64, 64)), torch.randn(4, 3, 64, 64), blocks(4, (64, 64)))
