"""Many images explained into a folder: a picture and a map for each image and method, and one page over all of them."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BrokenImage
from ..methods.base import Method
from ..model.adapter import VisionModel
from .figures import overlay_figure, save_figure
from .page import About, Item, Section, gallery, write_page

PAGE_IMAGES = 200  # more make a page that a browser is slow to open; the pictures of all images are in their folders


@dataclasses.dataclass(frozen=True)
class Album:
    """A folder under way: `out` with `METHOD/ID.png`, `maps/METHOD/NNNN.safetensors`, `report.html`, `run.json`, `failures.csv`."""

    out: Path
    model: VisionModel
    methods: Sequence[Method]
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    began: float = dataclasses.field(default_factory=time.perf_counter)

    def folders(self) -> list[str]:
        """A folder name for each method: its own, numbered where a method is asked for more than once."""
        names = [method.name for method in self.methods]
        return [name if names[:i].count(name) == 0 else f"{name}-{names[: i + 1].count(name)}" for i, name in enumerate(names)]

    def section(self, batches: Iterable[Batch], *, name: str = "gallery") -> Section:
        """Explain all batches, write their pictures and maps, and give the section of the page that shows the first `PAGE_IMAGES`."""
        items = itertools.chain.from_iterable(self._batch(number, batch) for number, batch in enumerate(batches))
        return dataclasses.replace(gallery(self._first(items)), name=name)

    def write(self, sections: Sequence[Section], *, title: str, summary: str, broken: Sequence[BrokenImage] = ()) -> Path:
        """Write `report.html`, `run.json` and `failures.csv`; the page's path."""
        failures = [(error.path, error.reason) for error in broken]
        run = {**self.facts(), "seconds": f"{time.perf_counter() - self.began:.1f}"}
        methods = [(method.brief(), repr(method), method.paper) for method in self.methods]
        about = Section("about", "about.html", {"about": About(run, methods, failures)})
        page = write_page(self.out / "report.html", [*sections, about], title=title, summary=summary)
        record = {"facts": run, "methods": dict(zip(self.folders(), map(repr, self.methods), strict=True)), "images": self.rows}
        (self.out / "run.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        with (self.out / "failures.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "stage", "reason"), *((path, "read", reason) for path, reason in failures)])
        return page

    def facts(self) -> dict[str, str]:
        """What was run, on what."""
        packages = ", ".join(f"{package} {version(package)}" for package in ("attribkit", "torch", "torchvision", "pillow"))
        return {
            "model": self.model.name,
            "preprocessing": str(self.model.preprocessing),
            "device": f"{self.model.device}, {self.model.precision}",
            "versions": f"Python {platform.python_version()}, {packages}",
        }

    def _batch(self, number: int, batch: Batch) -> Iterator[Item]:
        attributions = [method(self.model, batch) for method in self.methods]
        for folder, attribution in zip(self.folders(), attributions, strict=True):
            attribution.save(self.out / "maps" / folder / f"{number:04d}.safetensors")
        pixels = self.model.preprocessing.pixels(batch.images.cpu())
        for row, caption in enumerate(self._captions(batch, attributions[0])):
            maps = {method.brief(): attribution.maps[row].cpu() for method, attribution in zip(self.methods, attributions, strict=True)}
            for folder, (brief, map_) in zip(self.folders(), maps.items(), strict=True):
                figure = overlay_figure(pixels[row], map_, title=f"{caption}  |  {brief}")
                save_figure(figure, self.out / folder / f"{batch.ids[row]}.png")
            regions = {name: region[row].cpu() for name, region in batch.regions.items()}
            yield Item(pixels[row], batch.ids[row], caption, maps, regions)

    def _captions(self, batch: Batch, attribution: Attribution) -> list[str]:
        """Target and probability of each image as a person reads them; `rows` keeps them with the rest that is known."""
        logits = self.model.logits(batch.images) if batch.logits is None else batch.logits
        scores, chances = (
            dataclasses.replace(batch.targets, kind=kind).of(logits).tolist() for kind in (batch.targets.kind, "probability")
        )
        labels = attribution.labels()
        for name, index, label, score, chance in zip(batch.ids, batch.targets.index.tolist(), labels, scores, chances, strict=True):
            row = {"id": name, "target": index, "label": label, "kind": batch.targets.kind, "score": score, "probability": chance}
            self.rows.append(row)
        return [f"{label}, p = {chance:.3f}" for label, chance in zip(labels, chances, strict=True)]

    def _first(self, items: Iterable[Item]) -> Iterator[Item]:
        for place, item in enumerate(items):
            if place < PAGE_IMAGES:
                yield item
