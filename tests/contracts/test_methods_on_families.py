"""Every method on every family of models: it runs, or it says in one line why it cannot."""

from __future__ import annotations

import pytest
import torch
from examples import small
from models import adapted, shaken

from attribkit import METHODS, Batch, Targets, Unsupported
from attribkit.registry import needed

SIDE = 64
COARSE = {"occlusion": {"window": 32, "stride": 16}}  # a forward of a large network for each place
TORCHVISION = (
    "alexnet",
    "vgg11_bn",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "densenet121",
    "squeezenet1_1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "regnet_y_400mf",
    "convnext_tiny",
    "googlenet",
    "inception_v3",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "swin_t",
)


def network(name: str) -> tuple[torch.nn.Module, int]:
    """A network with random weights by its name, and the side of its images."""
    source, _, rest = name.partition("/")
    if source == "torchvision" and rest == "vit":
        models = pytest.importorskip("torchvision.models")
        return models.VisionTransformer(SIDE, 16, 2, 2, 32, 64, num_classes=7), SIDE
    if source == "torchvision":
        models = pytest.importorskip("torchvision.models")
        settings = {"aux_logits": False, "init_weights": False} if rest in ("googlenet", "inception_v3") else {}
        side = 96 if rest == "inception_v3" else SIDE
        return models.get_model(rest, weights=None, num_classes=7, **settings), side
    if source == "timm":
        timm = pytest.importorskip("timm")
        settings = {"img_size": SIDE, "patch_size": 16, "depth": 2, "embed_dim": 32, "num_heads": 2} if "vit" in rest else {}
        return timm.create_model(rest, num_classes=7, **settings), SIDE
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=SIDE, patch_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=7
    )
    return transformers.ViTForImageClassification(config), SIDE


FAMILIES = [
    *(f"torchvision/{name}" for name in (*TORCHVISION, "vit")),
    "timm/resnet18",
    "timm/convnext_atto",
    "timm/vit_tiny_patch16_224",
    "hf/vit",
]
_MADE: dict[str, object] = {}


def adapted_network(name: str):
    """The network as a `VisionModel`, made once for all methods."""
    if name not in _MADE:
        torch.manual_seed(0)
        module, side = network(name)
        for layer in module.modules():  # some heads begin at zero, and pass nothing on
            if isinstance(layer, torch.nn.Linear) and not layer.weight.any():
                torch.nn.init.normal_(layer.weight, std=0.1)
        _MADE.clear()
        _MADE[name] = adapted(shaken(module), size=(side, side))
    return _MADE[name]


@pytest.mark.parametrize(
    "method", [name for name, cls in METHODS.items() if not needed(cls)]
)  # varies fastest, so that each network is made once
@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_runs_on_every_family_or_says_why_not(name, method):
    model = adapted_network(name)
    images = torch.randn(2, 3, *model.size, generator=torch.Generator().manual_seed(1))
    try:
        result = small(METHODS[method](**COARSE.get(method, {})), SIDE // 4)(
            model, Batch(images, Targets(torch.tensor([1, 3])), ("a", "b"))
        )
    except Unsupported as error:
        assert len(str(error)) > 20 and "\n" not in str(error)
        assert method in UNSUPPORTED.get(name, ()), f"{method} on {name}: {error}"
        return
    assert method not in UNSUPPORTED.get(name, ())
    assert result.maps.shape[0] == 2 and torch.isfinite(result.maps).all()
    assert result.maps.amax() > result.maps.amin()


# What cannot run, and so must say so: nothing silently joins this list.
UNSUPPORTED: dict[str, tuple[str, ...]] = {}
