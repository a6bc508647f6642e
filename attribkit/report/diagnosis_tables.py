"""The tables of a diagnosis: groups, masking, exchanged parts, amplification, pairs of labels, regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from ..diagnosis.groups import FEWEST, GroupRow
from ..diagnosis.labels import PairRow
from ..diagnosis.masking import ClassRow, VersionRow
from ..diagnosis.regions import RegionRow
from ..diagnosis.result import Diagnosis
from ..scoring.summaries import Label
from .cells import ROWS, SHARES, Cells, between, bracketed, cell, chart, even_span, level, points, row, share, table
from .page import Section
from .scales import span_of, written

MATRIX = 12  # labels whose pairs are shown as a square, and not as a list
R = TypeVar("R")

READING = {
    "groups": "Of the images of a class (row) with a label (column), how many are answered right, with the 95 % interval (Wilson) and "
    "the counts. Small charts: dot and interval on an axis from 0 to 100 %; fewer images make a wider interval. Marked: the lowest of "
    "those with at least five images, if its interval lies wholly below that of the highest.",
    "masking": "Each row is a version of every image that has the region. Kept: as the answer to the whole image. What stays high without "
    "the region does not need it; a shifted mask (italics) takes as much away elsewhere, and shows what taking away does by itself. "
    "AUC: how well classes are told apart, 50 % is by chance, 100 % is without error. Intervals: 95 % (Wilson); charts: 0 to 100 %.",
    "swaps": "How many answers change when a part of the image comes from another image: one with another label of the group, and one with "
    "the same (broken line in the chart), which shows what cutting and pasting does by itself. Followed: how often the answer becomes that "
    "to the other image, where the two differed.",
    "amplification": "How much more often answers pair a label with a class than the images do, where both go together in training: in "
    "points (of 100 images), with the 95 % interval; broken line: not at all. Size: the mean over pairs whatever the direction, so that "
    "pairs cannot cancel one another.",
    "labels": "How much the maps of two labels overlap: 0 where they share nothing, 1 where they are the same. In small print: the 95 % "
    "interval.",
    "regions": "How much maps overlap a region, from 0 (not at all) to 1 (the map is the region), with the 95 % interval; “even” and the "
    "broken line: what a map has that is the same everywhere. Above it maps seek the region, below it they avoid it.",
}


def tables(diagnosis: Diagnosis) -> list[Section]:
    """A section for each test that has something to show."""
    made: list[tuple[str, str, list[Cells]]] = [
        ("groups", "Who is answered right how often", _groups(diagnosis)),
        ("masking", "What stays when the region is taken away", [*_versions(diagnosis.versions), *_classes(diagnosis.classes)]),
        ("swaps", "What answers do when parts are exchanged", _swaps(diagnosis)),
        ("amplification", "Whether answers exaggerate what goes together", _amplification(diagnosis)),
        ("labels", "How maps of labels overlap", _labels(diagnosis.labels)),
        ("regions", "Where maps lie", _regions(diagnosis.regions)),
    ]
    return [
        Section(name, "cells.html", {"tables": found, "reading": READING[name]}, "tables.js", heading=heading)
        for name, heading, found in made
        if found
    ]


def _parts(rows: Iterable[R], by: Callable[[R], object]) -> dict[object, list[R]]:
    """The rows by something, in the order in which it came."""
    found: dict[object, list[R]] = {}
    for each in rows:
        found.setdefault(by(each), []).append(each)
    return found


# Groups


def _groups(diagnosis: Diagnosis) -> list[Cells]:
    """For each group, classes by labels; the lowest cells are marked."""
    tables = []
    for by, rows in _parts(diagnosis.groups, lambda each: each.by).items():
        labels = list(dict.fromkeys(each.label for each in rows))
        known = {(each.target, each.label): each for each in rows}
        cells = {place: _accuracy(each) for place, each in known.items()}
        for each in _lowest([each for each in rows if each.target is not None and each.count >= FEWEST]):
            cells[each.target, each.label]["mark"] = "lowest"
        body = [
            row("All classes" if target is None else target, [cells.get((target, label)) for label in labels])
            for target in dict.fromkeys(each.target for each in rows)
        ]
        tables.append(table(f"Accuracy by {by}", ["Class", *map(str, labels)], body, heading=f"By {by}"))
    return tables


def _lowest(cells: Sequence[GroupRow]) -> list[GroupRow]:
    """The cells that are answered right least often, if what they may be at most is less than what the best one is at least."""
    if not cells:
        return []
    worst, best = (choose(cells, key=lambda each: each.accuracy) for choose in (min, max))
    return [each for each in cells if each.accuracy == worst.accuracy] if worst.high < best.low else []


def _accuracy(each: GroupRow) -> Cells:
    return cell(
        share(each.accuracy),
        f"{between(each.low, each.high)} {each.right} of {each.count}",
        value=each.accuracy,
        chart=chart(each.accuracy, (each.low, each.high), SHARES),
    )


# Masking


def _versions(rows: Sequence[VersionRow]) -> list[Cells]:
    """A row for each version of the images."""
    heads = ["Shown", "Right", "AUC", "Kept", "Images"]
    body = [
        row(
            f"{each.version}: {each.words}",
            [
                _share(each.accuracy, each.low, each.high, f"{each.labelled} labelled images"),
                cell(share(each.auc), value=each.auc),
                _share(each.kept, each.kept_low, each.kept_high, f"{each.count} images"),
                cell(each.count, value=each.count),
            ],
            control=each.version.startswith("shifted"),
        )
        for each in rows
    ]
    return [table("Versions of the images", heads, body)] if body else []


def _share(value: float, low: float, high: float, title: str) -> Cells:
    return cell(share(value), between(low, high), value=value, title=title, chart=chart(value, (low, high), SHARES))


def _classes(rows: Sequence[ClassRow]) -> list[Cells]:
    """Classes by versions."""
    names = list(dict.fromkeys(each.version for each in rows if each.version != "full" or math.isfinite(each.auc)))
    known = {(each.target, each.version): each for each in rows}
    body = [
        row(target, [_class_cell(known.get((target, name))) for name in names]) for target in dict.fromkeys(each.target for each in rows)
    ]
    folded = f"Answers kept in each of {len(body)} classes" if len(body) > ROWS else ""
    heads = ["Answered as", *names]
    return [table("Answers kept by class", heads, body, heading="By class: answers kept", folded=folded)] if body else []


def _class_cell(each: ClassRow | None) -> Cells | None:
    if each is None:
        return None
    area = f"AUC {share(each.auc)}" if math.isfinite(each.auc) else ""
    found = _share(each.kept, each.low, each.high, f"{each.count} images")
    return {**found, "more": f"{found['more']} {area}".strip()}


# Exchanged parts, and amplification


def _swaps(diagnosis: Diagnosis) -> list[Cells]:
    heads = ["Exchanged", "Changed by another", "By the same", "Difference", "Followed"]
    body = [
        row(
            f"{each.cue}, for that of another {each.by}",
            [
                cell(
                    share(each.other),
                    f"of {each.others}",
                    value=each.other,
                    chart=chart(each.other, (math.nan, math.nan), SHARES, chance=each.same),
                ),
                cell(share(each.same), f"of {each.sames}" if each.sames else "", value=each.same),
                cell(points(each.other - each.same), "points" if each.sames else "", value=each.other - each.same),
                cell(share(each.follows), value=each.follows),
            ],
        )
        for each in diagnosis.swaps
    ]
    return [table("Exchanged parts", heads, body)] if body else []


def _amplification(diagnosis: Diagnosis) -> list[Cells]:
    rows = diagnosis.amplification
    span = even_span([end for each in rows for end in (each.amplification, each.low, each.high)])
    body = [
        row(
            each.by,
            [
                cell(
                    points(each.amplification),
                    bracketed(each.low, each.high, points),
                    value=each.amplification,
                    chart=chart(each.amplification, (each.low, each.high), span, chance=0.0),
                ),
                cell(points(each.size), value=each.size, title=f"variance over pairs {written(each.variance)}"),
                cell(each.count, value=each.count),
            ],
        )
        for each in rows
    ]
    return [table("Bias amplification", ["Group", "Amplification, points", "Size, points", "Images"], body)] if body else []


# Maps


def _labels(rows: Sequence[PairRow]) -> list[Cells]:
    """All pairs, as a square where that is not too large."""
    names = list(dict.fromkeys(name for each in rows for name in (each.other, each.one)))
    known = {pair: each for each in rows for pair in ((each.one, each.other), (each.other, each.one))}
    if len(names) <= MATRIX:
        body = [row(one, [_pair(known.get((one, other))) for other in names]) for one in names]
        return [table("Overlap of labels", ["Label", *names], body)] if body else []
    ordered = sorted(rows, key=lambda each: -each.score if math.isfinite(each.score) else math.inf)
    body = [row(f"{each.one}, {each.other}", [_pair(each), cell(each.count, value=each.count)]) for each in ordered]
    return [table("Overlap of labels", ["Labels", "Overlap", "Images"], body, folded=f"All {len(body)} pairs of {len(names)} labels")]


def _pair(each: PairRow | None) -> Cells | None:
    if each is None:
        return None
    more = bracketed(each.low, each.high, level)
    return cell(
        level(each.score), more, value=each.score, title=f"{each.count} images", chart=chart(each.score, (each.low, each.high), SHARES)
    )


def _regions(rows: Sequence[RegionRow]) -> list[Cells]:
    """For each region, classes by groups; one axis for all."""
    span = span_of([0.0, *(end for each in rows for end in (each.score, each.low, each.high, each.uniform))])
    tables = []
    for region, mine in _parts(rows, lambda each: each.region).items():
        columns: list[tuple[str | None, Label | None]] = list(dict.fromkeys((each.by, each.label) for each in mine))
        known = {(each.target, each.by, each.label): each for each in mine}
        body = [
            row("All images" if target is None else target, [_region(known.get((target, *column)), span) for column in columns])
            for target in dict.fromkeys(each.target for each in mine)
        ]
        heads = ["Answered as", *(column_name(*column) for column in columns)]
        folded = f"{region}: maps of {len(body) - 1} classes" if len(body) > ROWS else ""
        tables.append(table(f"Overlap with {region}", heads, body, heading=str(region), folded=folded))
    return tables


def _region(each: RegionRow | None, span: tuple[float, float]) -> Cells | None:
    if each is None:
        return None
    return cell(
        level(each.score),
        f"{bracketed(each.low, each.high, level)} even {level(each.uniform)}".strip(),
        value=each.score,
        title=f"{each.count} image{'s' * (each.count != 1)}",
        chart=chart(each.score, (each.low, each.high), span, chance=each.uniform),
    )


def column_name(by: str | None, label: Any) -> str:
    """What a column of a group's label is called."""
    return "All" if by is None else f"{by}: {label}"
