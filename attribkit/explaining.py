"""From a person's images to maps: `load_images` and `explain`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .attribution import Attribution
from .batch import Batch, Kind, Targets
from .errors import BadInput, BrokenImage
from .images import find_images, read_image, upright
from .methods.base import Method, method
from .model.adapter import VisionModel

if TYPE_CHECKING:
    from PIL import Image

    Files = str | Path | Sequence[str | Path]
    Asked = Targets | Tensor | int | str | Sequence[int | str] | None


def load_images(files: Files, model: VisionModel, targets: Asked = None, *, kind: Kind = "logit") -> Batch:
    """Read images and prepare them as `model` wants them.

    `files` is a path, a folder, a glob pattern, or several of these; `targets` the class to explain: an index or a name, one for all
    images or one for each, and what the model predicts where it is None. Raises `BrokenImage` for the first file that cannot be read.
    """
    _check_model(model)
    paths = find_images([files] if isinstance(files, str | os.PathLike) else files)
    images = torch.stack([_prepared(path, model) for path in paths])
    return as_batch(images, model, targets, ids=image_ids(paths), kind=kind)


def stream_images(  # noqa: PLR0913 - as load_images, and how to go on
    paths: Sequence[Path], model: VisionModel, targets: Asked = None, *, rows: int, broken: list[BrokenImage], kind: Kind = "logit"
) -> Iterator[Batch]:
    """Batches of at most `rows` images from `paths`; files that cannot be read are added to `broken`, and the rest goes on."""
    ids = image_ids(paths)
    for first in range(0, len(paths), rows):
        images, found = [], []
        for path, name in zip(paths[first : first + rows], ids[first : first + rows], strict=True):
            try:
                images.append(_prepared(path, model))
                found.append(name)
            except BrokenImage as error:
                broken.append(error)
        if images:
            yield as_batch(torch.stack(images), model, targets, ids=found, kind=kind)


def _prepared(path: Path, model: VisionModel) -> Tensor:
    image = read_image(path)
    try:
        return model.preprocessing(image)
    except BadInput as error:  # a shape that cannot be resized, such as 1 x 40000
        raise BrokenImage(path, str(error)) from error


def image_ids(paths: Sequence[Path]) -> list[str]:
    """A distinct name for each file: its path below the folder that all of them share."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    shared = Path(os.path.commonpath([path.parent for path in absolute])) if absolute else Path()
    return [path.relative_to(shared).as_posix() for path in absolute]


def as_batch(images: Tensor, model: VisionModel, targets: Asked = None, *, ids: Iterable[str] | None = None, kind: Kind = "logit") -> Batch:
    """A batch of normalised images (B, 3, H, W) or one (3, H, W), with what the model answers and what is asked of it."""
    _check_model(model)
    images = images.unsqueeze(0) if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:] or not images.is_floating_point():
        raise BadInput(
            f"images: got {tuple(images.shape)} {images.dtype}, allowed: normalised floating-point images (B, 3, H, W) or (3, H, W)"
        )
    if not len(images):
        raise BadInput("images: got none, allowed: at least one")
    images = images.detach().to(model.device)
    logits = model.logits(images)
    names = [str(i) for i in range(len(images))] if ids is None else list(ids)
    return Batch(images, _targets(targets, logits, model, kind), tuple(names), logits=logits)


def explain(
    model: VisionModel, images: Batch | Tensor | Image.Image | Files, method_like: str | Method, targets: Asked = None
) -> Attribution:
    """Saliency maps of `images` by a method.

    `images` is a `Batch`, a path, a folder, a pattern or several of these, a PIL image or several, or a normalised tensor (B, 3, H, W);
    `method_like` a `Method`, its name ("grad_cam") or a call as it prints itself ("IntegratedGradients(steps=20)"); `targets` the class
    to explain, by default the one predicted.
    """
    _check_model(model)
    chosen = method(method_like)
    if isinstance(images, Batch):
        if targets is not None:
            raise BadInput("explain: got a Batch and targets, allowed: a Batch, which has its own targets, or images with targets")
        known = images.logits is not None
        return chosen(model, images if known else dataclasses.replace(images, logits=model.logits(images.images)))
    if isinstance(images, Tensor):
        return chosen(model, as_batch(images, model, targets))
    pictures = _pictures(images)
    if pictures:
        prepared = torch.stack([model.preprocessing(picture) for picture in pictures])
        return chosen(model, as_batch(prepared, model, targets))
    return chosen(model, load_images(images, model, targets))  # type: ignore[arg-type]


def _check_model(model: Any) -> None:
    if not isinstance(model, VisionModel):
        got = f"the name {model!r}" if isinstance(model, str) else type(model).__name__
        raise BadInput(f"model: got {got}, allowed: a VisionModel, from ak.load_model(name) or ak.VisionModel(module, mean=..., std=...)")


def _pictures(images: Any) -> list[Image.Image]:
    """The PIL images that were given, upright; none if something else was."""
    from PIL import Image

    given = [images] if isinstance(images, Image.Image) else images
    if isinstance(given, list | tuple) and given and all(isinstance(each, Image.Image) for each in given):
        return [upright(each) for each in given]
    if not isinstance(images, str | os.PathLike) and not (
        isinstance(given, list | tuple) and all(isinstance(each, str | os.PathLike) for each in given)
    ):
        raise BadInput(
            f"images: got {type(images).__name__}, allowed: a Batch, a path or paths, a PIL image or several, or a normalised tensor"
        )
    return []


def _targets(asked: Asked, logits: Tensor, model: VisionModel, kind: Kind) -> Targets:
    rows = len(logits)
    if isinstance(asked, Targets):
        targets = asked.to(logits.device)
    elif asked is None:
        targets = Targets(logits.argmax(1), kind)
    elif isinstance(asked, Tensor):
        if asked.is_floating_point() or asked.is_complex() or asked.dtype == torch.bool:
            raise BadInput(f"targets: got a tensor of {asked.dtype}, allowed: class indices, as integers")
        targets = Targets(
            asked.to(logits.device, torch.int64).reshape(-1).expand(rows) if asked.numel() == 1 else asked.to(logits.device, torch.int64),
            kind,
        )
    else:
        if not isinstance(asked, int | np.integer | str | list | tuple | np.ndarray) or isinstance(asked, bool):
            raise BadInput(f"targets: got {type(asked).__name__}, allowed: a class name or index, or one for each image")
        each = (
            [asked] * rows
            if isinstance(asked, int | np.integer | str)
            else list(np.ravel(asked) if isinstance(asked, np.ndarray) else asked)
        )
        targets = Targets(torch.tensor([model.target(one) for one in each], dtype=torch.int64, device=logits.device), kind)
    if len(targets) != rows:
        raise BadInput(f"targets: got {len(targets)}, allowed: one, or one for each of {rows} images")
    targets.check(logits.shape[1])
    return targets
