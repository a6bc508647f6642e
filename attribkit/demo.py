"""The tour in the box: two models of one kind, one of which learned a shortcut; what each leans on, what methods show, which are right."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .batch import Batch, Targets
from .diagnosing import diagnose
from .diagnosis.result import Diagnosis
from .evaluating import evaluate
from .methods.base import method
from .metrics.overlap import PixelAUC
from .model.adapter import VisionModel
from .model.planted import CLASSES
from .model.zoo import load_model
from .problems.labelled import Labelled
from .problems.planted import Planted
from .problems.scenes import PLACES
from .progress import Pace
from .report.album import PAGE_FILES, Album, write_album
from .report.diagnosis import diagnosis_sections, write_findings
from .report.drawing import encoded
from .report.output import Output
from .report.page import Section
from .scores import Scores


class Subject(NamedTuple):
    """A model of the tour: its name, what is known of it, and the region that it looks at."""

    name: str
    words: str
    cause: str


SUBJECTS = (
    Subject("planted/shortcut-100", "always found the answer in the background", "background"),
    Subject("planted/shortcut-50", "had to learn the object", "object"),
)
# One of each kind, with as many samples as images of this size need; then the controls, which ask the model nothing.
TOUR = (
    "GradCAM()",
    "LayerCAM()",
    "IntegratedGradients()",
    "GaussianSmooth(IntegratedGradients(), kernel=9)",
    "XRAI()",
    "CounterfactualInfill(steps=40)",
    "LayerMasking(segmenter=Squares(8))",
    "Occlusion()",
    "RISE(samples=300)",
    "RandomMap()",
    "CentreMap()",
    "EdgeMap()",
)
SCORED = 320  # images that the accuracies in the verdict are measured on
EVALUATED = 2  # times as many images are scored as are shown
DIAGNOSED = 20  # times as many are diagnosed
FINDINGS = "findings.json"
METHODS = "Which methods find what each model looks at"
SEED = 7


class Finding(NamedTuple):
    """Whether a method finds what each model looks at: the area under its pixels' ROC curve, with the ends of its interval, by model."""

    method: str
    control: bool
    areas: tuple[tuple[float, float, float], ...]

    @property
    def found(self) -> bool:
        """Above chance on every model, interval and all; their causes exclude each other, so no map is that knows nothing of the model."""
        return all(low > 0.5 for _, low, _ in self.areas)

    def __str__(self) -> str:
        areas = "".join(f"{mean:8.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in self.areas)
        return f"{self.method:48}{areas}   {'finds it' if self.found else 'a control' if self.control else 'does not'}"


class Demo(NamedTuple):
    """What the tour wrote and found: of methods, and of the models."""

    page: Path
    verdict: str
    findings: list[Finding]
    diagnoses: list[Diagnosis]

    def __str__(self) -> str:
        head = f"{'':48}" + "".join(f"{each.name.removeprefix('planted/'):>22}" for each in SUBJECTS)
        regions = f"{'share of (cause, other) pixel pairs in right order':48}" + "".join(f"{each.cause:>22}" for each in SUBJECTS)
        return "\n".join((head, regions, *map(str, self.findings), self.verdict, *map(_leaning, self.diagnoses)))

    def json(self) -> str:
        """For machines."""
        found = [{**each._asdict(), "found": each.found} for each in self.findings]
        diagnoses = {each.model: [finding.claim for finding in each.findings] for each in self.diagnoses}
        return json.dumps({"report": str(self.page), "verdict": self.verdict, "findings": found, "diagnoses": diagnoses})


def write_demo(out: Path, count: int, progress: Callable[[Pace], object] | None = None) -> Demo:
    """Explain both models on `count` images by the methods of `TOUR`, score these on more, diagnose on more still; all below `out`."""
    methods = [method(text) for text in TOUR]
    folder = Output(out)
    folder.begin(*PAGE_FILES, FINDINGS)
    models = [load_model(each.name) for each in SUBJECTS]
    chapters: list[tuple[Album, Section]] = []
    for model, subject in zip(models, SUBJECTS, strict=True):
        name = subject.name.replace("/", "-")
        album = Album(folder, model, list(methods), f"{name}/")
        batches = [_asked(model, batch) for _, batch in Planted(model, count, seed=SEED)]
        for batch in batches if not chapters else []:  # both models get the same images
            _write_images(folder, batch, model)
        heading = f"{subject.name}: the model that {subject.words}"
        chapters.append((album, album.section(batches, name=name, heading=heading)))
    scores = [_scored(model, subject, EVALUATED * count, progress) for model, subject in zip(models, SUBJECTS, strict=True)]
    findings = _findings(scores)
    diagnoses = [diagnose(model, Planted(model, DIAGNOSED * count, seed=SEED + 3), progress=progress) for model in models]
    write_findings(folder.claim(FINDINGS), diagnoses[0])
    verdict = f"{_agreement(models)} {_found(findings)}"
    title = "A model that looks at the background, and one that looks at the animal"
    failures = [failure for album, _ in chapters for failure in album.failed]
    tables = [
        *(section for section in diagnosis_sections(diagnoses[0]) if section.name != "about"),
        Section("findings", "findings.html", _shown(findings, EVALUATED * count, verdict), heading=METHODS),
    ]
    summary = f"{_leaning(diagnoses[0])} {_leaning(diagnoses[1])}"
    page = write_album(folder, chapters, title=title, summary=summary, failures=failures, first=tables)
    return Demo(page, verdict, findings, diagnoses)


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


def _scored(model: VisionModel, subject: Subject, count: int, progress: Callable[[Pace], object] | None) -> Scores:
    """How well each method's map of what the model answers tells the pixels of its cause from the others."""
    batches = [_answered(model, batch) for _, batch in Planted(model, count, seed=SEED + 2)]
    return evaluate(Labelled(model, batches), TOUR, PixelAUC(subject.cause), progress=progress)


def _answered(model: VisionModel, batch: Batch) -> Batch:
    return dataclasses.replace(batch, targets=Targets(model.logits(batch.images).argmax(1)))


def _findings(scores: list[Scores]) -> list[Finding]:
    """A line for each method that was scored on every model."""
    rows = [{row.method: row for row in each.table()} for each in scores]
    methods = [name for name in rows[0] if all(name in each for each in rows)]
    controls = set.intersection(*(each.controls for each in scores))
    return [Finding(name, name in controls, tuple((each[name].mean, each[name].low, each[name].high) for each in rows)) for name in methods]


def _found(findings: list[Finding]) -> str:
    methods = [each for each in findings if not each.control]
    right = [each.method for each in methods if each.found]
    wrong = [each.method for each in methods if not each.found]
    words = f"{len(right)} of {len(methods)} methods find what both look at: {', '.join(right) or 'none'}."
    return f"{words} Not: {', '.join(wrong)}." if wrong else words


def _shown(findings: list[Finding], count: int, verdict: str) -> dict[str, Any]:
    return {"findings": findings, "subjects": SUBJECTS, "count": count, "verdict": verdict}


def _leaning(diagnosis: Diagnosis) -> str:
    """What a diagnosis says first."""
    tested = len(diagnosis.claims)
    if not diagnosis.findings:
        return f"{diagnosis.model}: none of {tested} claims stands, that it leans on something else than the animal."
    return f"{diagnosis.model}: {len(diagnosis.findings)} of {tested} claims stand, first of all this one. {diagnosis.findings[0].claim}"


def _agreement(models: list[VisionModel]) -> str:
    said = []
    batches = [batch for _, batch in Planted(models[0], SCORED, seed=SEED + 1)]  # which both want alike
    for model, subject in zip(models, SUBJECTS, strict=True):
        agreeing, conflicting = _accuracies(model, batches)
        said.append(
            f"{subject.name} is right on {agreeing:.0%} of images whose background fits the animal, on {conflicting:.0%} of the others"
        )
    return f"{'; '.join(said)}."


def _accuracies(model: VisionModel, batches: list[Batch]) -> tuple[float, float]:
    """The share of right answers where the background fits the animal, and where it does not."""
    answers = [(model.logits(batch.images).argmax(1) == batch.targets.index, batch.groups) for batch in batches]
    right = torch.cat([correct for correct, _ in answers]).float()
    fits = torch.cat([groups["object"] == groups["background"] for _, groups in answers])
    return right[fits].mean().item(), right[~fits].mean().item()
