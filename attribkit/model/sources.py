"""Where models come from: torchvision, timm, the Hugging Face hub, and the planted ones in the box; each library loaded when asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import importlib
import importlib.util
import os
import re
import socket
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import AttribkitError, BadInput, BrokenWeights, Unavailable, UnknownName
from ..images import Preprocessing
from .weights import is_file_name, load_weights, read_weights

Weights = str | Path | None
_INSTEAD = "allowed: weights=PATH of a file, or weights=None (--weights none) for random ones"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A module, how it wants its images (or the error that says why nobody knows), its classes' names (empty where nobody named them)."""

    module: nn.Module
    preprocessing: Preprocessing | AttribkitError
    classes: tuple[str, ...]


def known() -> dict[str, tuple[str, ...]]:
    """Source -> names, of the sources that can list theirs."""
    from .planted import PLANTED

    names = {"planted": PLANTED, "torchvision": tuple(_torchvision().list_models(module=_torchvision()))}
    if importlib.util.find_spec("timm") is not None:
        names["timm"] = tuple(_extra("timm").list_models())
    return names


def from_planted(name: str, weights: Weights) -> Loaded:
    """A model in the box; `weights` may be a file of other weights for the same network, or None for random ones."""
    from . import planted

    if weights is not None and is_file_name(weights):
        planted.blank_module(name)  # an unknown name is told before a broken file
        module = load_weights(lambda _classes: planted.blank_module(name), read_weights(weights), weights, len(planted.CLASSES))
    elif weights in ("default", None):
        module = planted.planted_module(name) if weights else planted.blank_module(name)
    else:
        raise UnknownName("weights of a planted model", weights, ("default",), hint="or a file, or None for random ones")
    return Loaded(module, Preprocessing(planted.MEAN, planted.STD, planted.SIZE), planted.CLASSES)


# torchvision ------------------------------------------------------------------------------------------------------------------------


def _torchvision() -> types.ModuleType:
    return importlib.import_module("torchvision.models")


# Published weights of these were trained on inputs scaled otherwise, which the network undoes itself; their auxiliary heads play no
# part in evaluation.
_TORCHVISION_BUILD = {name: {"transform_input": True, "aux_logits": False, "init_weights": False} for name in ("inception_v3", "googlenet")}
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
# Published DenseNets have names that modules may no longer have.
_OLD_NAME = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.(\d\.)")


def from_torchvision(name: str, weights: Weights) -> Loaded:
    """A classifier of torchvision; preprocessing and class names are those of its published weights."""
    models = _torchvision()
    allowed = models.list_models(module=models)
    if name not in allowed:
        raise UnknownName("torchvision model", name, allowed)
    published = models.get_model_weights(name)
    extra = _TORCHVISION_BUILD.get(name, {})

    def build(classes: int) -> nn.Module:
        module: nn.Module = models.get_model(name, weights=None, num_classes=classes, **extra)
        return module

    chosen = published.DEFAULT
    if weights is None:
        module = build(len(chosen.meta["categories"]))
    else:
        if is_file_name(weights):
            state, origin = read_weights(weights), str(weights)
        else:
            chosen = _published(published, str(weights), name)
            state, origin = _downloaded(chosen), str(chosen)
        state = {_OLD_NAME.sub(r"\1\2", key): tensor for key, tensor in state.items() if not (extra and key.startswith(_AUXILIARY))}
        module = load_weights(build, state, origin, len(chosen.meta["categories"]))
    preset = chosen.transforms()
    preprocessing = Preprocessing(
        tuple(preset.mean),
        tuple(preset.std),
        _one(preset.crop_size),
        resize=_one(preset.resize_size),
        interpolation=preset.interpolation.value,
    )
    categories = tuple(chosen.meta["categories"])
    return Loaded(module, preprocessing, categories if _rows(module) in (None, len(categories)) else ())


def _published(published: Any, weights: str, name: str) -> Any:
    if weights == "default":
        return published.DEFAULT
    names = list(published.__members__)
    prefix, _, own = weights.rpartition(".")
    if own not in names or prefix not in ("", published.__name__):
        raise UnknownName(f"weights of torchvision/{name}", weights, names, hint="or a file, or none")
    return published[own]


def _downloaded(chosen: Any) -> Any:
    """The published weights, from the cache or the network."""
    try:
        return chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{chosen} could not be downloaded from {chosen.url} ({error}); {_INSTEAD}") from error
    except Exception as error:  # what was downloaded, or lies in the cache, is damaged: any of a dozen types
        where = f"{torch.hub.get_dir()}/checkpoints"
        raise BrokenWeights(str(chosen), f"{error or type(error).__name__}; allowed: delete it from {where}, to fetch it anew") from error


def _one(size: Any) -> Any:
    return size[0] if len(size) == 1 else tuple(size)


def _rows(module: nn.Module) -> int | None:
    """How many classes the last layer with weights answers for."""
    heads = [each for each in module.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    return heads[-1].weight.shape[0] if heads else None


# timm -------------------------------------------------------------------------------------------------------------------------------


def from_timm(name: str, weights: Weights) -> Loaded:
    """A model of timm; preprocessing is resolved from its configuration."""
    timm = _extra("timm")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UnknownName("timm model", name, timm.list_models())
    from_file = weights is not None and is_file_name(weights)
    if not from_file and weights not in ("default", None):
        tag = str(weights)
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UnknownName(f"weights of timm/{architecture}", tag, tags, hint="or a file, or none")
    full = f"{architecture}.{tag}" if tag else architecture

    def build(classes: int) -> nn.Module:
        module: nn.Module = timm.create_model(full, pretrained=False, num_classes=classes)
        return module

    if weights is None:
        module = timm.create_model(full, pretrained=False)
    elif from_file:
        published = timm.create_model(full, pretrained=False, num_classes=0).pretrained_cfg["num_classes"]
        module = load_weights(build, read_weights(weights), weights, published or 1000)
    elif not timm.is_model_pretrained(full):
        raise Unavailable(f"nobody published weights of timm/{full}; {_INSTEAD}")
    else:
        module = _from_hub(f"timm/{full}", lambda: timm.create_model(full, pretrained=True))
    labelled = getattr(module, "num_classes", 0) == 1000 and _on_imagenet(module)
    return Loaded(module, timm_preprocessing(timm.data.resolve_data_config({}, model=module)), _imagenet() if labelled else ())


def timm_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """What timm does to an image in evaluation, as a `Preprocessing`."""
    height, width = config["input_size"][1:]
    scaled = int(height / config["crop_pct"]), int(width / config["crop_pct"])
    if config["crop_mode"] not in ("center", "squash") or (config["crop_mode"] == "center" and scaled[0] != scaled[1]):
        raise BadInput(f"timm prepares images by crop_mode {config['crop_mode']!r} to {height}x{width}, which is not a crop in the centre")
    resize = scaled if config["crop_mode"] == "squash" else scaled[0]
    interpolation = config["interpolation"] if config["interpolation"] != "random" else "bilinear"
    return Preprocessing(config["mean"], config["std"], (height, width), resize=resize, interpolation=interpolation)


def _on_imagenet(module: nn.Module) -> bool:
    return int((getattr(module, "pretrained_cfg", None) or {}).get("num_classes") or 0) == 1000


def _imagenet() -> tuple[str, ...]:
    return tuple(_torchvision().ResNet18_Weights.DEFAULT.meta["categories"])


# Hugging Face -----------------------------------------------------------------------------------------------------------------------


def from_hf(name: str, weights: Weights) -> Loaded:
    """An image classifier of the Hugging Face hub ("org/name" or "org/name@revision") or of a folder; no code of the hub is ever run."""
    transformers = _extra("transformers", "hf")
    if weights is not None and weights != "default" and not is_file_name(str(weights)):
        raise BadInput(
            f"weights of hf/{name}: got {weights!r}, allowed: default, a file, or none; a revision is part of the name: hf/org/name@revision"
        )
    where, _, revision = name.partition("@")
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    classifier = transformers.AutoModelForImageClassification
    if weights == "default":
        module = _from_hub(f"hf/{name}", lambda: classifier.from_pretrained(where, use_safetensors=True, **options))
    else:
        config = _from_hub(f"hf/{name}", lambda: transformers.AutoConfig.from_pretrained(where, **options))
        module = classifier.from_config(config)
        if weights is not None:
            module = load_weights(lambda _classes: module, read_weights(str(weights)), str(weights), config.num_labels)
    processor = _from_hub(f"hf/{name}", lambda: transformers.AutoImageProcessor.from_pretrained(where, **options))
    names = module.config.id2label or {}
    labels = tuple(str(names[i]) for i in range(len(names))) if set(names) == set(range(len(names))) else ()
    return Loaded(module, hf_preprocessing(processor), () if all(label == f"LABEL_{i}" for i, label in enumerate(labels)) else labels)


def hf_preprocessing(processor: Any) -> Preprocessing:
    """What a Hugging Face image processor does to an image, as a `Preprocessing`."""
    size, crop = _sides(processor.size), _sides(getattr(processor, "crop_size", None))
    resize, final = size, size
    if crop is not None and getattr(processor, "do_center_crop", False):
        final = crop
    elif isinstance(size, int):
        # ConvNeXt's processor scales the short side to size / crop_pct and crops; at 384 and above it squashes the whole image.
        share = getattr(processor, "crop_pct", None)
        resize = int(size / share) if share and size < 384 else (size, size)
    if final is None or resize is None:
        raise BadInput(f"the image processor {type(processor).__name__} states no size; allowed: size=... to state it")
    scale = 255 * (getattr(processor, "rescale_factor", None) or 1 / 255) if getattr(processor, "do_rescale", True) else 255.0
    shift = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    normalised = getattr(processor, "do_normalize", True) and processor.image_mean is not None
    mean, std = (processor.image_mean, processor.image_std) if normalised else ((0.0,) * 3, (1.0,) * 3)
    interpolation = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}[
        int(getattr(processor, "resample", None) or 2)
    ]
    means, stds = tuple((each + shift) / scale for each in mean), tuple(each / scale for each in std)
    return Preprocessing(means, stds, final, resize=resize, interpolation=interpolation)


def _sides(size: Any) -> Any:
    """An int for a short side, (h, w) for both, None for neither; from the dict or object that processors keep."""
    if size is None or isinstance(size, int):
        return size
    get: Callable[[str], Any] = size.get if hasattr(size, "get") else lambda key: getattr(size, key, None)
    sides = (get("height"), get("width"))
    if all(sides):
        return int(sides[0]), int(sides[1])
    return get("shortest_edge")


# Shared -----------------------------------------------------------------------------------------------------------------------------


def _extra(package: str, extra: str | None = None) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise Unavailable(f"{package} is not installed; pip install 'attribkit[{extra or package}]'") from error


def _from_hub(name: str, load: Callable[[], Any]) -> Any:
    """What `load` gives; whatever keeps a hub's model from coming becomes one typed error."""
    try:
        with _offline_if_unreachable():
            return load()
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        if isinstance(error, ValueError | RuntimeError) and not isinstance(error, OSError):
            raise BrokenWeights(name, reason) from error
        raise Unavailable(
            f"{name} is neither in the cache nor could it be downloaded ({reason}); allowed: weights=PATH of a file, or weights=None (--weights none)"
        ) from error


@contextlib.contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Look into the cache alone when the hub has no address here: its client would otherwise retry for most of a minute."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    if not before and not proxied:
        try:
            socket.getaddrinfo(constants.ENDPOINT.partition("://")[2].partition("/")[0].partition(":")[0], 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
