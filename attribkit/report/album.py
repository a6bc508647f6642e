"""Many images explained into a folder: a picture and a map for each image and method, and one page over all of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BrokenImage
from ..files import write_whole
from ..methods.base import Method
from ..model.adapter import VisionModel
from .figures import overlay_figure, save_figure
from .page import About, Item, Section, gallery, write_page

PAGE_IMAGES = 200  # more make a page that a browser is slow to open; the pictures of all images are in their folders


@dataclasses.dataclass(frozen=True)
class Album:
    """What one model's explanations become: `out/METHOD/ID.png`, `out/maps/METHOD/NNNN.safetensors`, and a section of a page.

    `rows` grows by one entry an image: its id, target, label, score and probability.
    """

    out: Path
    model: VisionModel
    methods: Sequence[Method]
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def folders(self) -> list[str]:
        """A folder name for each method: its own, numbered where a method is asked for more than once."""
        names = [method.name for method in self.methods]
        seen = [names[: i + 1].count(name) for i, name in enumerate(names)]
        return [name if count == 1 else f"{name}-{count}" for name, count in zip(names, seen, strict=True)]

    def section(self, batches: Iterable[Batch], *, name: str = "gallery", heading: str = "") -> Section:
        """Explain all batches, write their pictures and maps, and show the first `PAGE_IMAGES` images."""
        items = itertools.chain.from_iterable(self._items(number, batch) for number, batch in enumerate(batches))
        return gallery((item for place, item in enumerate(items) if place < PAGE_IMAGES), name=name, heading=heading)

    def _items(self, number: int, batch: Batch) -> Iterator[Item]:
        attributions = [method(self.model, batch) for method in self.methods]
        for folder, attribution in zip(self.folders(), attributions, strict=True):
            attribution.save(self.out / "maps" / folder / f"{number:04d}.safetensors")
        pixels = self.model.preprocessing.pixels(batch.images.cpu())
        for row, caption in enumerate(self._captions(batch, attributions[0])):
            maps = {method.brief(): attribution.maps[row].cpu() for method, attribution in zip(self.methods, attributions, strict=True)}
            for folder, method, (brief, map_) in zip(self.folders(), self.methods, maps.items(), strict=True):
                figure = overlay_figure(pixels[row], map_, title=f"{caption}  |  {brief}", signed=method.signed)
                save_figure(figure, self.out / folder / f"{batch.ids[row]}.png")
            regions = {name: region[row].cpu() for name, region in batch.regions.items()}
            yield Item(pixels[row], batch.ids[row], caption, maps, regions)

    def _captions(self, batch: Batch, attribution: Attribution) -> list[str]:
        """Target and probability of each image as a person reads them; `rows` keeps them with the rest that is known."""
        logits = self.model.logits(batch.images) if batch.logits is None else batch.logits
        wanted, chance = batch.targets, dataclasses.replace(batch.targets, kind="probability")
        scores, chances = wanted.of(logits).tolist(), chance.of(logits).tolist()
        labels, facts = attribution.labels(), zip(batch.ids, wanted.index.tolist(), scores, chances, strict=True)
        for label, (name, index, score, share) in zip(labels, facts, strict=True):
            self.rows.append({"id": name, "target": index, "label": label, "kind": wanted.kind, "score": score, "probability": share})
        if wanted.kind == "probability":
            return [f"{label}, p = {share:.3f}" for label, share in zip(labels, chances, strict=True)]
        kind = wanted.kind.replace("_", " ")
        return [f"{label}, {kind} {score:.3g}, p = {share:.3f}" for label, score, share in zip(labels, scores, chances, strict=True)]


def write_album(
    out: Path, chapters: Sequence[tuple[Album, Section]], *, title: str, summary: str, broken: Sequence[BrokenImage] = ()
) -> Path:
    """Write `report.html` of all chapters, `run.json` of what was run, and `failures.csv`; the page's path."""
    albums = [album for album, _ in chapters]
    failures = [(error.path, error.reason) for error in broken]
    methods = {method.brief(): (repr(method), method.paper) for album in albums for method in album.methods}
    facts = _facts([album.model for album in albums])
    about = About(facts, [(brief, *rest) for brief, rest in methods.items()], failures)
    sections = [*(section for _, section in chapters), Section("about", "about.html", {"about": about})]
    page = write_page(out / "report.html", sections, title=title, summary=summary)
    runs = [
        {
            "model": album.model.name,
            "methods": {
                folder: {"settings": repr(method), "facts": album.model.facts(method)}
                for folder, method in zip(album.folders(), album.methods, strict=True)
            },
            "images": album.rows,
        }
        for album in albums
    ]
    write_whole(out / "run.json", json.dumps({"facts": facts, "runs": runs}, indent=1).encode())
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("id", "stage", "reason"), *((path, "read", reason) for path, reason in failures)])
    write_whole(out / "failures.csv", table.getvalue().encode("utf-8", "replace"))
    return page


def _facts(models: Sequence[VisionModel]) -> dict[str, str]:
    """What was run, on what."""
    packages = ", ".join(f"{package} {version(package)}" for package in ("attribkit", "torch", "torchvision", "pillow"))
    about = {
        f"model {model.name}" if len(models) > 1 else "model": f"{model.name}: {model.preprocessing}; {model.device}, {model.precision}"
        for model in models
    }
    return {**about, "versions": f"Python {platform.python_version()}, {packages}"}
