"""The page of a diagnosis: what stands, on top, and everything that this can be checked against."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..diagnosis.findings import ORDER
from ..diagnosis.result import Diagnosis, Picture
from ..errors import AttribkitError
from ..files import write_whole
from ..methods.base import Method
from ..registry import one_of
from ..removals.base import Removal
from .bibliography import used
from .cells import Cells
from .claims import KINDS, claims_content, others
from .diagnosis_tables import tables
from .distributions import charts
from .gallery import Item, Plan, gallery
from .means import means_content
from .page import About, Section, write_page

TITLE = "Diagnosis"
GALLERIES = 9_000_000  # bytes of all galleries of a page, of which one has at most `MOST`
MOST = 2_400_000
HEADING = 90  # characters of a claim in a heading
HOLM = "Holm: A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979"


def write_diagnosis(path: str | Path, diagnosis: Diagnosis, *, title: str = TITLE) -> Path:
    """Write the page of a diagnosis as one HTML file; it appears under its name only once it is complete."""
    return write_page(path, diagnosis_sections(diagnosis), title=title, summary=_summary(diagnosis))


def write_findings(path: str | Path, diagnosis: Diagnosis) -> Path:
    """Write everything that a diagnosis says, every image's scores with it, as JSON; pictures by their names and captions."""
    pictures = [[{"id": each.id, "caption": each.caption} for each in shown] for shown in diagnosis.pictures]
    scores = [
        {**key._asdict(), "ids": ids, "scores": [float(f"{score:.6g}") if math.isfinite(score) else None for score in column.scores]}
        for key, ids, column, _ in diagnosis.scores.columns()
    ]
    text = json.dumps({**diagnosis.record(), "pictures": pictures}, indent=1, allow_nan=False)
    rows = ",\n".join(
        f"  {json.dumps(row, allow_nan=False)}" for row in scores
    )  # a line for each metric, which has a number for each image
    return write_whole(path, f'{text[:-2]},\n "scores": [\n{rows}\n ]\n}}\n'.encode())


def diagnosis_sections(diagnosis: Diagnosis) -> list[Section]:
    """The sections of the page, from what stands to what was run; those for which there is nothing are left out."""
    boxes = charts(diagnosis.scores)
    means = means_content(diagnosis.means)
    rest = [
        *tables(diagnosis),
        *([Section("spread", "boxes.html", {"charts": boxes, "of": "Images"}, heading="Image by image")] if boxes else []),
        *([Section("means", "means.html", means, heading="Mean maps by class and group")] if means["rows"] else []),
        *_galleries(diagnosis),
        *_others(others(diagnosis)),
        Section("about", "run.html", used(_about(diagnosis), ("Used", "Test")), heading="What was run"),
    ]
    content = claims_content(diagnosis, {section.name for section in rest})
    # The second section brings a second style: the page has each once.
    first = Section("summary", "claims.html", content, style="evaluation.css")
    return [first, *(dataclasses.replace(section, style="diagnosis.css") for section in rest)]


def _summary(diagnosis: Diagnosis) -> str:
    """What was asked about what."""
    parts = [f"{diagnosis.model} on {diagnosis.problem}"]
    parts += [f"maps by {diagnosis.method}"] if diagnosis.method else []
    parts += [f"parts removed by {diagnosis.removal}"] if diagnosis.removal else []
    return "; ".join(parts)


def _galleries(diagnosis: Diagnosis) -> list[Section]:
    """A gallery for each finding that has pictures."""
    shown = [place for place, pictures in enumerate(diagnosis.pictures[: len(diagnosis.findings)]) if pictures]
    budget = min(MOST, GALLERIES // max(1, len(shown)))
    sections = []
    for place in shown:
        number, claim = place + 1, diagnosis.findings[place].claim
        items = _items(diagnosis.pictures[place], diagnosis.method or "map")
        section = gallery(items, name=f"evidence-{number}", heading=f"{number}. {_begun(claim)}", plan=Plan(budget=budget))
        sections.append(dataclasses.replace(section, content={**section.content, "back": f"claim-{number}"}))
    return sections


def _begun(claim: str) -> str:
    """How a claim begins."""
    words = " ".join(claim.split())
    return words if len(words) <= HEADING else f"{words[: HEADING - 2].rstrip()} …"


def _items(pictures: Sequence[Picture], method: str) -> Iterator[Item]:
    for each in pictures:
        yield Item(each.image, each.id, each.caption, {} if each.map is None else {method: each.map}, each.regions)


def _others(found: list[Cells]) -> list[Section]:
    content: dict[str, Any] = {"tables": found, "reading": "", "whole": True}
    return [Section("claims", "cells.html", content, "tables.js", heading="What does not stand")] if found else []


def _about(diagnosis: Diagnosis) -> About:
    """What was run, by whose papers."""
    facts = {"model": diagnosis.model, "problem": diagnosis.problem, **diagnosis.about}
    things = (("maps", diagnosis.method, Method), ("parts removed by", diagnosis.removal, Removal))
    methods = [(f"{what} {name}" if what != "maps" else name, name, _paper(name, base)) for what, name, base in things if name]
    counts = Counter(each.test for each in diagnosis.claims)
    tests = [(KINDS[test].name, f"{counts[test]} claim{'s' * (counts[test] != 1)}", KINDS[test].paper) for test in ORDER if counts[test]]
    tests += [("all claims together", "Holm's correction, 5 % level", HOLM)] if tests else []
    return About(facts, methods, [(each.id, each.reason) for each in diagnosis.scores.failures], tests)


def _paper(name: str, base: type[Method] | type[Removal]) -> str:
    """The paper of a method or a removal, if its name is one that can be read."""
    try:
        return str(one_of(name, base, "name", "Name()").paper)
    except AttribkitError:  # a name that a person gave, which is no call
        return ""
