"""The tour in the box: two models of one kind, one of which learned a shortcut, and what every method shows of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ..batch import Batch, Targets
from ..methods.base import method
from ..model.adapter import VisionModel
from ..model.planted import CLASSES
from ..model.zoo import load_model
from ..problems.planted import Planted
from ..problems.scenes import PLACES
from .album import PAGE_FILES, Album, write_album
from .figures import encoded
from .output import Output
from .page import Section

MODELS = {"planted/shortcut-95": "leans on the background", "planted/shortcut-50": "had to learn the object"}
# One of each kind, with as many samples as images of this size need; then the controls, which ask the model nothing.
TOUR = (
    "GradCAM()",
    "LayerCAM()",
    "IntegratedGradients()",
    "GaussianSmooth(IntegratedGradients(), kernel=9)",
    "XRAI()",
    "CounterfactualInfill(steps=60)",
    "LayerMasking(segmenter=Squares(8))",
    "Occlusion(window=8, stride=4)",
    "RISE(samples=500)",
    "RandomMap()",
    "CentreMap()",
    "EdgeMap()",
)
SCORED = 320  # images that the accuracies in the verdict are measured on
SEED = 7


def write_demo(out: Path, count: int) -> tuple[Path, str]:
    """Make `count` images, explain both models by the methods of `TOUR`, and write it all below `out`; the page and a verdict in words."""
    methods = [method(text) for text in TOUR]
    folder = Output(out)
    folder.begin(*PAGE_FILES)
    chapters: list[tuple[Album, Section]] = []
    findings = []
    for name, words in MODELS.items():
        model = load_model(name)
        album = Album(folder, model, list(methods), f"{name.replace('/', '-')}/")
        batches = [_asked(model, batch) for _, batch in Planted(model, count, seed=SEED)]
        for batch in batches if not chapters else []:  # both models get the same images
            _write_images(folder, batch, model)
        heading = f"{name}: the model that {words}"
        chapters.append((album, album.section(batches, name=name.replace("/", "-"), heading=heading)))
        agreeing, conflicting = _accuracies(model)
        findings.append(f"{name} is right on {agreeing:.0%} of images whose background fits the animal, on {conflicting:.0%} of the others")
    verdict = f"{'; '.join(findings)}."
    title = "A model that looks at the background, and one that looks at the animal"
    failures = [failure for album, _ in chapters for failure in album.failed]
    return write_album(folder, chapters, title=title, summary=verdict, failures=failures), verdict


def _asked(model: VisionModel, batch: Batch) -> Batch:
    """The batch with what the model takes each image for as the target, and what the image shows as its name."""
    logits = model.logits(batch.images)
    shows = zip(batch.groups["object"].tolist(), batch.groups["background"].tolist(), batch.ids, strict=True)
    ids = tuple(f"{CLASSES[kind]}-on-{PLACES[place]}-{name[-5:]}" for kind, place, name in shows)
    regions = {name: batch.region(name) for name in ("object", "tag")}
    return dataclasses.replace(batch, targets=Targets(logits.argmax(1)), ids=ids, regions=regions, logits=logits)


def _write_images(folder: Output, batch: Batch, model: VisionModel) -> None:
    for name, image in zip(batch.ids, model.preprocessing.pixels(batch.images.cpu()), strict=True):
        folder.write(f"images/{name}.png", encoded(image))


def _accuracies(model: VisionModel) -> tuple[float, float]:
    """The share of right answers where the background fits the animal, and where it does not."""
    answers = [
        (model.logits(batch.images).argmax(1) == batch.targets.index, batch.groups) for _, batch in Planted(model, SCORED, seed=SEED + 1)
    ]
    right = torch.cat([correct for correct, _ in answers]).float()
    fits = torch.cat([groups["object"] == groups["background"] for _, groups in answers])
    return right[fits].mean().item(), right[~fits].mean().item()
