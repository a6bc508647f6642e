"""The page of an evaluation: what it found, on top, and everything that this can be checked against."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..scores import Scores
from ..scoring.summaries import Summary
from .aggregation import panels_content
from .bibliography import used
from .boards import Board
from .choosing import RULE
from .choosing import chosen as chosen
from .evidence import Curves, Evidence, Example, Exhibit
from .gallery import Item, Plan, gallery
from .page import Section, write_page
from .plots import board_chart, box_chart, curve_chart, looks, overview
from .scales import numbers, span_of, written
from .spreads import scores_of
from .verdict import Standing, verdict

TITLE = "Evaluation of attribution methods"
GALLERIES = 5_200_000  # bytes of all galleries of a page, of which each has at least `LEAST`
LEAST = 2_400_000
LABELS = 24  # of a group that a table has columns for
Subject = tuple[str, str]  # problem and model


def write_evaluation(path: str | Path, evidence: Evidence, *, title: str = TITLE) -> Path:
    """Write the page of an evaluation as one HTML file; it appears under its name only once it is complete."""
    return write_page(path, evaluation_sections(evidence), title=title, summary=_summary(evidence))


def evaluation_sections(evidence: Evidence) -> list[Section]:
    """The sections of the page, from the verdict to what was run; those for which there is no evidence are left out."""
    standing = Standing.of(evidence.scores)
    failures = len(evidence.about.failures)
    found = verdict(standing)
    said = [*found.said, *([f"{failures:,} failure{'s are' if failures > 1 else ' is'} listed at the end."] if failures else [])]
    return [
        Section("verdict", "verdict.html", {"said": said, "warnings": found.warnings}, style="evaluation.css"),
        *_leaderboards(standing),
        *_groups(standing),
        *_spreads(standing),
        *_curves(evidence),
        *_panels(evidence),
        *_galleries(evidence, standing.read.higher),
        Section("about", "run.html", used(evidence.about), heading="What was run"),
    ]


def _summary(evidence: Evidence) -> str:
    """What was scored, in numbers."""
    keys = evidence.scores.keys()
    if not keys:
        return ""
    controls = evidence.scores.controls
    methods, metrics = {key.method for key in keys} - controls, {key.metric for key in keys}
    parts = [(len(methods), "method"), (len({key.method for key in keys} & controls), "control"), (len(metrics), "metric")]
    parts.append((len({key[:2] for key in keys}), "problem"))
    return ", ".join(f"{count} {noun}{'s' * (count != 1)}" for count, noun in parts) + f"; {len(evidence.scores):,} scores"


def _leaderboards(standing: Standing) -> list[Section]:
    """A table of everything for each problem that was asked about by several metrics, and a board for each metric."""
    if not standing.boards:
        return []
    subjects = [
        {
            "problem": problem,
            "model": model,
            "overview": overview(standing, boards) if len(boards) > 1 else None,
            "boards": [board_chart(standing, board) for board in boards],
        }
        for (problem, model), boards in _by_subject(standing.boards).items()
    ]
    content = {"subjects": subjects, "controls": bool(standing.scores.controls)}
    return [Section("leaderboard", "leaderboard.html", content, "tables.js", heading="Leaderboard")]


def _by_subject(boards: Sequence[Board]) -> dict[Subject, list[Board]]:
    found: dict[Subject, list[Board]] = {}
    for board in boards:
        found.setdefault(board.subject[:2], []).append(board)
    return found


def _groups(standing: Standing) -> list[Section]:
    """For each group and problem, a row for each method and metric, a column for each label."""
    sizes = {by: len(labels) for by, labels in standing.read.labels.items()}
    tables = [table for by, size in sizes.items() if 0 < size <= LABELS for table in _group_tables(standing.scores, by)]
    content = {"tables": tables, "large": [(by, size) for by, size in sizes.items() if size > LABELS]}
    return [Section("groups", "groups.html", content, "tables.js", heading="Groups")] if any(sizes.values()) else []


def _group_tables(scores: Scores, by: str) -> Iterator[dict[str, Any]]:
    rows = scores.table(by=by)
    for problem, model in dict.fromkeys((row.problem, row.model) for row in rows):
        mine = [row for row in rows if (row.problem, row.model) == (problem, model)]
        labels = list(dict.fromkeys(row.group for row in mine))
        metrics = list(dict.fromkeys(row.metric for row in mine))
        found = {(row.metric, row.method, row.group): row for row in mine}
        body = [
            {
                "metric": metric,
                "method": method,
                "control": method in scores.controls,
                "cells": [_group_cell(found.get((metric, method, label))) for label in labels],
            }
            for metric in metrics
            for method in dict.fromkeys(row.method for row in mine if row.metric == metric)
        ]
        yield {"by": by, "problem": problem, "model": model, "metrics": metrics, "labels": labels, "rows": body}


def _group_cell(row: Summary | None) -> dict[str, Any] | None:
    if row is None:
        return None
    interval = f"[{written(row.low)}, {written(row.high)}]" if math.isfinite(row.low) else ""
    return {"text": written(row.mean), "interval": interval, "value": row.mean if row.count else None, "count": row.count}


def _spreads(standing: Standing) -> list[Section]:
    """Box plots, in which one metric has one axis whatever the problem."""
    found: dict[str, list[float]] = {}
    for key, of in standing.read.scores.items():
        found.setdefault(key.metric, []).extend(of.values())
    for board in standing.boards:
        found[board.subject[2]].extend(row.chance for row in board.rows)
    spans = {metric: span_of(scores_of(values, metric).tolist()) for metric, values in found.items()}
    charts = []
    for board in standing.boards:
        mine = {
            key.method: scores_of(numbers(list(of.values())), key.method)
            for key, of in standing.read.scores.items()
            if (key.problem, key.model, key.metric) == board.subject
        }
        if any(len(values) for values in mine.values()):
            charts.append(box_chart(board, mine, spans[board.subject[2]], standing.scores.controls))
    return [Section("spread", "boxes.html", {"charts": charts}, heading="Image by image")] if charts else []


def _curves(evidence: Evidence) -> list[Section]:
    """A chart for each metric that is the area of a curve."""
    given: list[Curves] = [each for each in evidence.curves if each.curves]
    styles = looks((name for each in given for name in each.curves), evidence.scores.controls)
    charts = [curve_chart(each, styles) for each in given]
    data = {"charts": [[line.pop("values") for line in chart["lines"]] for chart in charts]}
    return [Section("curves", "curves.html", {"charts": charts}, "curves.js", data, "Curves")] if charts else []


def _panels(evidence: Evidence) -> list[Section]:
    tables = [panels_content(each) for each in evidence.panels if each.aggregated]
    heading = "Mean maps, from the best explained grids to the worst"
    return [Section("panels", "panels.html", {"tables": tables}, heading=heading)] if tables else []


def _galleries(evidence: Evidence, higher: Mapping[str, bool]) -> list[Section]:
    """A gallery for each exhibit."""
    sections = []
    for number, exhibit in enumerate(evidence.exhibits, 1):
        budget = max(LEAST, GALLERIES // len(evidence.exhibits))
        plan = Plan(higher, frozenset(evidence.scores.controls), budget)
        name = "gallery" if len(evidence.exhibits) == 1 else f"gallery-{number}"
        heading = f"Images: {exhibit.problem}{f', {exhibit.model}' if exhibit.model else ''}"
        section = gallery(_items(exhibit), name=name, heading=heading, plan=plan)
        shown = len(section.content["cards"])
        note = f"{shown:,} of {exhibit.total:,} images: {RULE}." if 0 < shown < exhibit.total else ""
        sections.append(dataclasses.replace(section, content={**section.content, "note": note}))
    return sections


def _items(exhibit: Exhibit) -> Iterator[Item]:
    def item(each: Example) -> Item:
        return Item(each.image, each.id, each.label, each.maps, each.regions, each.scores)

    return map(item, exhibit.examples)
