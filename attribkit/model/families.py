"""What is known about families of models: where a CAM method looks, how large a patch is; and a search where nothing is known."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import Unsupported
from .taps import recorded
from .tokens import Layout, layout

if TYPE_CHECKING:
    from .adapter import VisionModel


def _last(root: str, *path: str, kind: type[nn.Module] | None = None) -> Callable[[nn.Module], str]:
    """The name of the last child of `root` (of a kind), and `path` below it."""

    def find(module: nn.Module) -> str:
        names = [name for name, child in module.get_submodule(root).named_children() if kind is None or isinstance(child, kind)]
        return ".".join((root, names[-1], *path))

    return find


def _named(name: str) -> Callable[[nn.Module], str]:
    return lambda _module: name


# Class (by module and name, so that no family's library is imported) -> the layer to look at. A class head that reads one token
# leaves the patch tokens of the last block without gradient, so for such transformers it is the norm that opens that block.
_FAMILIES: dict[str, Callable[[nn.Module], str]] = {
    "torchvision.models.alexnet.AlexNet": _last("features", kind=nn.ReLU),
    "torchvision.models.convnext.ConvNeXt": _named("features"),
    "torchvision.models.densenet.DenseNet": _named("features"),
    "torchvision.models.efficientnet.EfficientNet": _named("features"),
    "torchvision.models.googlenet.GoogLeNet": _named("inception5b"),
    "torchvision.models.inception.Inception3": _named("Mixed_7c"),
    "torchvision.models.mnasnet.MNASNet": _named("layers"),
    "torchvision.models.mobilenetv2.MobileNetV2": _named("features"),
    "torchvision.models.mobilenetv3.MobileNetV3": _named("features"),
    "torchvision.models.regnet.RegNet": _named("trunk_output"),
    "torchvision.models.resnet.ResNet": _named("layer4"),
    "torchvision.models.shufflenetv2.ShuffleNetV2": _named("conv5"),
    "torchvision.models.squeezenet.SqueezeNet": _named("features"),
    "torchvision.models.swin_transformer.SwinTransformer": _named("norm"),
    "torchvision.models.vgg.VGG": _last("features", kind=nn.ReLU),
    "torchvision.models.vision_transformer.VisionTransformer": _last("encoder.layers", "ln_1"),
    "timm.models.resnet.ResNet": _named("layer4"),
    "timm.models.vgg.VGG": _last("features", kind=nn.ReLU),
    "timm.models.vision_transformer.VisionTransformer": _last("blocks", "norm1"),
}


@dataclasses.dataclass(frozen=True)
class Seen:
    """A layer whose output lies over the image: its name and its (channels, height, width)."""

    name: str
    grid: tuple[int, int, int]


def survey(model: VisionModel) -> tuple[Seen, ...]:
    """All spatial layers, in the order they return, from one forward."""
    size = patch(model.module)

    def look(images: Tensor) -> dict[str, Seen]:
        layers: dict[str, Seen] = {}
        with recorded(model.module) as seen:
            model.answer(images)
            for call, _, tensor in _calls(seen):
                grid = layout(tuple(tensor.shape), model.size, size) if len(tensor) == len(images) else None
                if grid is not None:
                    layers[call] = Seen(call, (grid.channels(tensor), grid.height, grid.width))
        return layers

    return tuple(model.probed(look).values())


def cam_layer(model: VisionModel) -> str:
    """The name of the layer that CAM methods look at by default: the family's, or the last live spatial one; else `Unsupported`."""
    for kind in type(model.module).__mro__:
        family = _FAMILIES.get(f"{kind.__module__}.{kind.__qualname__}")
        if family is not None:
            try:
                name = family(model.module)
            except (AttributeError, IndexError):  # a network of that class whose parts were changed: look for ourselves
                break
            if name in model.layers:  # not so where images are so small that the family's layer has one place
                return name
            break
    return _last_live(model)


def _last_live(model: VisionModel) -> str:
    """The last spatial layer whose gradient reaches at least 90 % of its positions; for tokens, the last such norm layer."""
    modules = dict(model.module.named_modules())
    size = patch(model.module)

    def look(images: Tensor) -> list[str]:
        with recorded(model.module) as seen:
            logits = model.answer(images.requires_grad_())
            fit = [each for each in _calls(seen) if len(each[2]) == len(images) and each[2].requires_grad]
            spatial = [(call, modules[name], tensor, layout(tuple(tensor.shape), model.size, size)) for call, name, tensor in fit]
            counts = {tensor.shape[1] for _, _, tensor in fit if tensor.ndim == 3}
            candidates = [
                (call, tensor, grid)
                for call, module, tensor, grid in spatial
                if grid and _may_be_looked_at(module, grid) and not _is_attention(tensor, counts)
            ]
            # A head that starts at zero (ViTs before training) passes no gradient on: then look from the features before it.
            features = [tensor for _, _, tensor in reversed(fit) if tensor.ndim == 2 and tensor.shape != logits.shape]
            live: list[str] = []
            for end in [logits] * logits.requires_grad + features[:1]:
                live = live or _alive(end, candidates)
        # A container returns after, and the same as, its last part: the last live name is the outermost one.
        return live[-1:]

    live = model.probed(look, grad=True)
    if not live:
        inside = (
            " (the inside of TorchScript cannot be looked into)"
            if any(isinstance(m, torch.jit.ScriptModule) for m in modules.values())
            else ""
        )
        raise Unsupported(f"{model.name} shows no spatial layer whose gradient is alive{inside}; name one with layer=..., see model.layers")
    return live[0]


def _calls(seen: list[tuple[str, Tensor]]) -> list[tuple[str, str, Tensor]]:
    """Each call of each layer, as (the name that means that call alone, the layer's name, what it returned)."""
    often = Counter(name for name, _ in seen)
    count: Counter[str] = Counter()
    calls = []
    for name, tensor in seen:
        calls.append((f"{name}:{count[name]}" if often[name] > 1 else name, name, tensor))
        count[name] += 1
    return calls


def _alive(end: Tensor, candidates: list[tuple[str, Tensor, Layout]]) -> list[str]:
    """The names of the candidates that a gradient from `end` reaches almost everywhere."""
    if not candidates:
        return []
    direction = torch.rand(end.shape, generator=torch.Generator().manual_seed(0)).to(end)
    gradients = torch.autograd.grad((end * direction).sum(), [tensor for _, tensor, _ in candidates], allow_unused=True, retain_graph=True)
    return [
        name
        for (name, _, grid), gradient in zip(candidates, gradients, strict=True)
        if gradient is not None and _reach(grid, gradient) >= 0.9
    ]


def _is_attention(tensor: Tensor, counts: set[int]) -> bool:
    """Whether a 4-D output is no grid but an attention matrix, (B, heads, tokens, tokens), `counts` being lengths of sequences."""
    return tensor.ndim == 4 and tensor.shape[2] == tensor.shape[3] and tensor.shape[2] in counts


def _may_be_looked_at(module: nn.Module, grid: Layout) -> bool:
    return grid.kind != "tokens" or "norm" in type(module).__name__.lower()


def _reach(grid: Layout, gradient: Tensor) -> float:
    return float((grid.to_grid(gradient).abs().sum(1) > 0).float().mean())


def patch(module: nn.Module) -> tuple[int, int] | None:
    """The (height, width) in pixels of a patch, where the model declares it: as torchvision, timm or transformers do."""
    config = getattr(module, "config", None)
    for owner in (module, getattr(module, "patch_embed", None), config):
        size: Any = getattr(owner, "patch_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(side, int) for side in size):
            return size[0], size[1]
    return None


def convolution_weights(module: nn.Module) -> int:
    """How many weights the 2-D convolutions of a mostly convolutional model have; 0 for other models."""
    layers = [each for each in module.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    dense = [each for each in layers if isinstance(each, nn.Conv2d)]
    return sum(each.weight.numel() for each in dense) if 2 * len(dense) > len(layers) else 0


@dataclasses.dataclass(frozen=True)
class Positions:
    """Where a transformer keeps its position embedding, and what it compares the size of an image with: names below the module."""

    embedding: str
    checked: tuple[str, ...] = ()


_VIT = "transformers.models.vit.modeling_vit"
_POSITIONS: dict[str, Positions] = {
    "torchvision.models.vision_transformer.VisionTransformer": Positions("encoder.pos_embedding", ("image_size",)),
    "timm.models.vision_transformer.VisionTransformer": Positions("pos_embed", ("patch_embed.img_size",)),
    f"{_VIT}.ViTModel": Positions("embeddings.position_embeddings", ("embeddings.image_size", "embeddings.patch_embeddings.image_size")),
    f"{_VIT}.ViTForImageClassification": Positions(
        "vit.embeddings.position_embeddings", ("vit.embeddings.image_size", "vit.embeddings.patch_embeddings.image_size")
    ),
    "attribkit.model.planted.PlantedViT": Positions("pos_embed"),
}


def positions(module: nn.Module) -> Positions | None:
    """Where the module's family keeps its position embedding; None for other families, and where the module resizes it by itself."""
    if getattr(module, "dynamic_img_size", False):
        return None
    known = (_POSITIONS.get(f"{kind.__module__}.{kind.__qualname__}") for kind in type(module).__mro__)
    return next((each for each in known if each is not None), None)
