"""Many images explained into a folder: a picture and a map for each image and method, and one page over all of them."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import Unsupported
from ..methods.base import Method
from ..model.adapter import VisionModel
from ..scores import Failure
from .drawing import encoded, png
from .figures import compare_figure, overlay_figure
from .gallery import Item, gallery
from .output import Output
from .page import About, Section, write_page

LONGEST_NAME = 200  # bytes; file systems take 255, of which writing a file whole needs some
PAGE_FILES = ("report.html", "run.json", "failures.csv")
COMPARED_IMAGES = 6  # in one picture of all methods, each method on one scale
PAGE_IMAGES = 200  # more make a page that a browser is slow to open; the pictures of all images are in their folders


@dataclasses.dataclass(frozen=True)
class Album:
    """What one model's explanations become: pictures, maps, and a section of a page.

    `out` gets, below `folder` (empty, or ending in "/"), `METHOD/ID.png`, `compare.png` of the first images by all methods,
    `maps/METHOD/NNNN.safetensors`, and `METHOD.EXTRA/ID.png` where a method reports pictures (a counterfactual); what an earlier run
    wrote there goes when the first batch is done.
    `rows` grows by one entry an image: its id, target, label, score, probability, and what methods report beside their maps;
    `failed` by one for each image whose answer is not finite or whose picture cannot be written, and for each of several `methods`
    that turns out not to be for this model: it is left out.
    """

    out: Output
    model: VisionModel
    methods: list[Method]
    folder: str = ""
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    failed: list[Failure] = dataclasses.field(default_factory=list)

    def folders(self) -> list[str]:
        """A folder name for each method: its own, numbered where a method is asked for more than once."""
        names = [method.name for method in self.methods]
        seen = [names[: i + 1].count(name) for i, name in enumerate(names)]
        return [name if count == 1 else f"{name}-{count}" for name, count in zip(names, seen, strict=True)]

    def section(self, batches: Iterable[Batch], *, name: str = "gallery", heading: str = "") -> Section:
        """Explain all batches, write their pictures and maps, and show the first `PAGE_IMAGES` images."""
        items = itertools.chain.from_iterable(self._items(number, batch) for number, batch in enumerate(batches))
        first: list[Item] = []
        section = gallery(self._shown(items, first), name=name, heading=heading)
        if first:
            maps = {name: [item.maps[name] for item in first] for name in first[0].maps}
            figure = compare_figure([item.image for item in first], maps, titles=[item.caption for item in first])
            self.out.write(f"{self.folder}compare.png", png(figure))
        return section

    def _shown(self, items: Iterable[Item], first: list[Item]) -> Iterator[Item]:
        """The images that the page shows, of which the first ones are kept for the picture that compares all methods."""
        for place, item in enumerate(items):
            if place < COMPARED_IMAGES:
                first.append(item)
            if place < PAGE_IMAGES:
                yield item

    def record(self) -> dict[str, Any]:
        """What was run and what came of it, in plain values."""
        settings = {
            folder: {"settings": repr(method), "facts": self.model.facts(method)}
            for folder, method in zip(self.folders(), self.methods, strict=True)
        }
        return {"model": self.model.name, "folder": self.folder, "methods": settings, "images": self.rows}

    def _items(self, number: int, batch: Batch) -> Iterator[Item]:
        try:
            attributions = [found for method in list(self.methods) if (found := self._attribution(method, number, batch)) is not None]
        except Unsupported as error:
            if not number:
                raise
            self.failed.extend(Failure(name, "explain", str(error)) for name in batch.ids)
            return
        self.out.begin(*PAGE_FILES, f"{self.folder}compare.png")
        for folder, attribution in zip(self.folders(), attributions, strict=True):
            attribution.save(self.out.claim(f"{self.folder}maps/{folder}/{number:04d}.safetensors"))
        pixels = self.model.preprocessing.pixels(batch.images.cpu())
        reported = self._reported(batch, attributions)
        for place, row in enumerate(self._rows(batch, attributions)):
            maps = [attribution.maps[place].cpu() for attribution in attributions]
            if not all(math.isfinite(value) for value in row.values() if isinstance(value, float)):
                self.failed.append(Failure(row["id"], "explain", "the model's answer is not finite"))
                continue
            try:
                self._write_pictures(row, pixels[place], maps)
                for folder, pictures in reported.items():
                    self.out.write(f"{self.folder}{folder}/{picture_name(row['id'])}", encoded(pictures[place]))
            except OSError as error:  # one name that the disk does not take must not cost the other images
                self.failed.append(Failure(row["id"], "write", error.strerror or str(error)))
                continue
            self.rows.append(row)
            regions = {name: region[place].cpu() for name, region in batch.regions.items()}
            named = {method.brief(): map_ for method, map_ in zip(self.methods, maps, strict=True)}
            yield Item(pixels[place], row["id"], _caption(row), named, regions)

    def _attribution(self, method: Method, number: int, batch: Batch) -> Attribution | None:
        """The maps of a batch; None where the first batch shows that the method is not for this model, if there are others."""
        try:
            return method(self.model, batch)
        except Unsupported as error:
            if number:
                raise
            if len(self.methods) == 1:
                raise Unsupported("; ".join((*(failure.reason for failure in self.failed), str(error)))) from error
            self.methods.remove(method)
            self.failed.append(Failure(method.brief(), "explain", str(error)))
            return None

    def _rows(self, batch: Batch, attributions: Sequence[Attribution]) -> list[dict[str, Any]]:
        """What is known of each image, in plain values."""
        logits = self.model.logits(batch.images) if batch.logits is None else batch.logits
        kinds = {"score": batch.targets, "probability": dataclasses.replace(batch.targets, kind="probability")}
        columns: dict[str, Sequence[Any]] = {"id": batch.ids, "target": batch.targets.index.tolist(), "label": attributions[0].labels()}
        columns |= {name: targets.of(logits).tolist() for name, targets in kinds.items()}
        for folder, attribution in zip(self.folders(), attributions, strict=True):
            columns |= {f"{folder}.{name}": extra.tolist() for name, extra in attribution.extras.items() if extra.ndim == 1}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [{**row, "kind": batch.targets.kind} for row in rows]

    def _reported(self, batch: Batch, attributions: Sequence[Attribution]) -> dict[str, Tensor]:
        """The pictures that methods report: what has the shape of the images is one, as the model was shown it."""
        return {
            f"{folder}.{name}": self.model.preprocessing.pixels(extra.cpu())
            for folder, attribution in zip(self.folders(), attributions, strict=True)
            for name, extra in attribution.extras.items()
            if extra.shape == batch.images.shape
        }

    def _write_pictures(self, row: dict[str, Any], pixels: Tensor, maps: Sequence[Tensor]) -> None:
        for folder, method, map_ in zip(self.folders(), self.methods, maps, strict=True):
            figure = overlay_figure(pixels, map_, title=f"{_caption(row)}  |  {method.brief()}", signed=method.signed)
            self.out.write(f"{self.folder}{folder}/{picture_name(row['id'])}", png(figure))


def _caption(row: dict[str, Any]) -> str:
    """Target and score of an image, as a person reads them."""
    score = "" if row["kind"] == "probability" else f"{row['kind'].replace('_', ' ')} {row['score']:.3g}, "
    return f"{row['label']}, {score}p = {row['probability']:.3f}"


def picture_name(image: str) -> str:
    """The name of an image's pictures: its own and ".png", cut and told apart by a digest where a disk would not take it."""
    folder, slash, name = image.rpartition("/")
    whole = os.fsencode(f"{name}.png")
    if len(whole) > LONGEST_NAME:
        name = f"{whole[: LONGEST_NAME - 40].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:12]}"
    return f"{folder}{slash}{name}.png"


def write_album(  # noqa: PLR0913 - what a page is made of, all by name
    out: Output,
    chapters: Sequence[tuple[Album, Section]],
    *,
    title: str,
    summary: str,
    failures: Sequence[Failure] = (),
    first: Sequence[Section] = (),
) -> Path:
    """Write `report.html` of what comes `first` and all chapters, `run.json` of what was run, and `failures.csv`; the page's path."""
    albums = [album for album, _ in chapters]
    methods = {method.brief(): (repr(method), method.paper) for album in albums for method in album.methods}
    facts = _facts([album.model for album in albums])
    about = About(facts, [(brief, *rest) for brief, rest in methods.items()], [(failure.id, failure.reason) for failure in failures])
    sections = [*first, *(section for _, section in chapters), Section("about", "about.html", {"about": about})]
    page = write_page(out.claim("report.html"), sections, title=title, summary=summary)
    runs = [album.record() for album in albums]
    out.write("run.json", json.dumps({"facts": facts, "runs": runs}, indent=1, allow_nan=False).encode())
    table = io.StringIO(newline="")
    csv.writer(table).writerows([Failure._fields, *failures])
    out.write("failures.csv", table.getvalue().encode("utf-8", "replace"))
    return page


def _facts(models: Sequence[VisionModel]) -> dict[str, str]:
    """What was run, on what."""
    packages = ", ".join(f"{package} {version(package)}" for package in ("attribkit", "torch", "torchvision", "pillow"))
    about = {
        f"model {model.name}" if len(models) > 1 else "model": (
            f"{model.name}, weights: {model.weights}; {model.preprocessing}; {model.device}, {model.precision}"
        )
        for model in models
    }
    return {**about, "versions": f"Python {platform.python_version()}, {packages}"}
