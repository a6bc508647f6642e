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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..errors import AttribkitError, BadInput, BrokenWeights, Unavailable, UnknownName
from ..images import Preprocessing
from .weights import attempt, is_file_name, load_weights, read_weights

Weights = str | Path | None
_INSTEAD = "allowed: weights=PATH of a file, or weights=None (--weights none) for random ones"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A module, how it wants its images (or the error that says why nobody knows), its classes' names (empty where nobody named them)."""

    module: nn.Module
    preprocessing: Preprocessing | AttribkitError
    classes: tuple[str, ...]
    origin: str = ""  # which published weights these are, where they are such


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
    return Loaded(module, Preprocessing(planted.MEAN, planted.STD, planted.SIZE), planted.CLASSES, "those in the package")


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
    return Loaded(module, preprocessing, categories if _rows(module) in (None, len(categories)) else (), str(chosen))


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

    def told(error: Exception) -> AttribkitError:
        if isinstance(error, OSError | http.client.HTTPException):
            return Unavailable(f"{chosen} could not be downloaded from {chosen.url} ({error}); {_INSTEAD}")
        file = chosen.url.rpartition("/")[2]
        return BrokenWeights(str(chosen), f"{error or type(error).__name__}; allowed: delete {file} from torch's cache, to fetch it anew")

    return attempt(lambda: chosen.get_state_dict(progress=False, check_hash=True, weights_only=True), told)


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
        published = timm.models.get_pretrained_cfg(full)
        module = load_weights(build, read_weights(weights), weights, published.num_classes if published and published.num_classes else 1000)
    elif not timm.is_model_pretrained(full):
        raise Unavailable(f"nobody published weights of timm/{full}; {_INSTEAD}")
    else:
        module = _from_hub(f"timm/{full}", lambda: timm.create_model(full, pretrained=True))
    labelled = getattr(module, "num_classes", 0) == 1000 and _on_imagenet(module)
    preprocessing = _unless_unknown(lambda: timm_preprocessing(timm.data.resolve_data_config({}, model=module)))
    published = (getattr(module, "pretrained_cfg", None) or {}).get("tag") or "default"
    return Loaded(module, preprocessing, _imagenet() if labelled else (), f"timm's {architecture}.{published}")


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
    if weights is not None and weights != "default" and not is_file_name(weights):
        raise BadInput(
            f"weights of hf/{name}: got {weights!r}, allowed: default, a file, or none; a revision is part of the name, as in org/name@v2"
        )
    where, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    classifier = transformers.AutoModelForImageClassification
    if weights == "default":
        module, told = _from_hub(
            f"hf/{name}", lambda: classifier.from_pretrained(where, use_safetensors=True, output_loading_info=True, **options)
        )
        if told["missing_keys"]:  # which transformers would fill with random numbers
            raise BrokenWeights(f"hf/{name}", f"no weights of a classifier: {', '.join(sorted(told['missing_keys'])[:3])} missing")
    else:
        config = _from_hub(f"hf/{name}", lambda: transformers.AutoConfig.from_pretrained(where, **options))

        def build(classes: int) -> nn.Module:
            if classes != config.num_labels:
                config.num_labels = classes
            module: nn.Module = _from_hub(f"hf/{name}", lambda: classifier.from_config(config, trust_remote_code=False))
            return module

        module = build(config.num_labels) if weights is None else load_weights(build, read_weights(weights), weights, config.num_labels)
    processor = transformers.AutoImageProcessor
    preprocessing = _unless_unknown(lambda: hf_preprocessing(_from_hub(f"hf/{name}", lambda: processor.from_pretrained(where, **options))))
    names = module.config.id2label or {}
    labels = tuple(str(names[i]) for i in range(len(names))) if set(names) == set(range(len(names))) else ()
    named = () if all(label == f"LABEL_{i}" for i, label in enumerate(labels)) else labels
    return Loaded(module, preprocessing, named, f"{where} at {getattr(module.config, '_commit_hash', None) or revision or 'its folder'}")


_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def hf_preprocessing(processor: Any) -> Preprocessing:
    """What a Hugging Face image processor does to an image, as a `Preprocessing`; checked on a picture, since each has its own rules."""
    size, crop = _sides(getattr(processor, "size", None)), _sides(getattr(processor, "crop_size", None))
    final = crop if crop is not None and getattr(processor, "do_center_crop", False) else size
    kind = type(processor).__name__
    if size is None or final is None:
        raise BadInput(f"the image processor {kind} states no size")
    short: int = size if isinstance(size, int) else min(size)
    share = getattr(processor, "crop_pct", None)
    # Scaled so that the crop is a share of it (ConvNeXt, PoolFormer); as stated; squashed (ConvNeXt from 384 on); LeViT's own.
    ways: list[Any] = [size, (short, short), int(short * 256 / 224)]
    if share:
        ways.insert(0, int(short / share))
    mean, std = _scaled(processor)
    resample = getattr(processor, "resample", None)
    interpolation = _RESAMPLE[2 if resample is None else int(resample)]
    for resize in ways:
        preprocessing = Preprocessing(mean, std, final, resize=resize, interpolation=interpolation)
        if _agree(processor, preprocessing):
            return preprocessing
    raise BadInput(f"the image processor {kind} does more to an image than to resize, crop and normalise it")


def _scaled(processor: Any) -> tuple[list[float], list[float]]:
    """The mean and std with which a processor normalises pixels in [0, 1]."""
    scale = 255 * (getattr(processor, "rescale_factor", None) or 1 / 255) if getattr(processor, "do_rescale", True) else 255.0
    shift = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    # Some processors do not normalise and, in some versions of transformers, have no such numbers at all.
    normalised = getattr(processor, "do_normalize", True) and getattr(processor, "image_mean", None) is not None
    mean, std = (_three(processor.image_mean), _three(processor.image_std)) if normalised else ([0.0] * 3, [1.0] * 3)
    again = _three(processor.image_std) if getattr(processor, "include_top", False) else [1.0] * 3  # EfficientNet's, divided by it twice
    return [(each + shift) / scale for each in mean], [each * other / scale for each, other in zip(std, again, strict=True)]


def _three(numbers: Any) -> list[float]:
    return [float(each) for each in numbers] if isinstance(numbers, list | tuple) else [float(numbers)] * 3


def _agree(processor: Any, preprocessing: Preprocessing) -> bool:
    """Whether both make the same of a picture of ramps, one to the right, one down, one to the left; but for two grey levels."""
    down = Image.linear_gradient("L")
    left = down.transpose(Image.Transpose.ROTATE_270)
    right = down.transpose(Image.Transpose.ROTATE_90)
    picture = Image.merge("RGB", [ramp.resize((400, 300)) for ramp in (right, down, left)])
    theirs = torch.as_tensor(processor(images=picture, return_tensors="pt")["pixel_values"])[0]
    ours = preprocessing(picture)
    if theirs.shape != ours.shape:
        return False
    return bool(((theirs - ours).abs() * torch.tensor(preprocessing.std).view(3, 1, 1)).amax() <= 2 / 255)


def _sides(size: Any) -> Any:
    """An int for a short side, (h, w) for both, None for neither; from the dict or object that processors keep."""
    if size is None or isinstance(size, int):
        return size
    get: Callable[[str], Any] = size.get if hasattr(size, "get") else lambda key: getattr(size, key, None)
    sides = (get("height"), get("width"))
    if all(sides):
        return int(sides[0]), int(sides[1])
    return None if get("longest_edge") else get("shortest_edge")


# Shared -----------------------------------------------------------------------------------------------------------------------------


def _extra(package: str, extra: str | None = None) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise Unavailable(f"{package} is not installed; pip install 'attribkit[{extra or package}]'") from error


def _from_hub(name: str, load: Callable[[], Any]) -> Any:
    """What `load` gives; whatever keeps a hub's model from coming becomes one typed error."""

    def told(error: Exception) -> AttribkitError:
        if isinstance(error, ImportError):
            return Unavailable(f"{name} needs a package that is not installed ({_short(error)})")
        network = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "requests")
        if network and not Path(name.partition("/")[2]).is_dir():
            return Unavailable(f"{name} is neither in the cache nor could it be downloaded ({_short(error)}); {_INSTEAD}")
        return BrokenWeights(name, _short(error) or type(error).__name__)

    with _offline_if_unreachable():
        return attempt(load, told)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _unless_unknown(find: Callable[[], Preprocessing]) -> Preprocessing | AttribkitError:
    try:  # a processor may fail on a picture in any way
        return attempt(find, lambda error: BadInput(f"the image processor fails on a picture ({_short(error)})"))
    except AttribkitError as error:
        return error


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
