"""What a page shows of a run: of its images those worth a look, with their maps; curves; mean maps of grids."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BrokenRun
from ..metrics.localization import localization_score
from ..problems.cells import Cells
from ..problems.shards import Sharded
from ..report.aggregated import AggAtt, Aggregated
from ..report.evaluation import chosen
from ..report.evidence import Curves, Evidence, Example, Exhibit, Panels
from ..report.page import About
from ..scores import Scores
from ..store.folder import MAPS, Store
from ..store.shards import read as read_maps
from .scoring import Begun
from .units import read

SHOWN = 200  # images in all galleries together
CELL = 0  # of grids: the one whose maps are averaged

ByMetric = dict[str, dict[str, float]]


def evidence(store: Store, begun: Sequence[Begun], about: About, methods: Sequence[str]) -> Evidence:
    """What the page of a run is made of; `methods` are those whose maps are shown, as tables call them."""
    scores = store.scores()
    curves = [Curves(*where, of) for where, of in store.curves().items()]
    exhibits = [_exhibit(store, scores, each, methods, SHOWN // len(begun)) for each in begun if isinstance(each.problem, Sharded)]
    panels = [Panels(each.on.problem, each.on.model, mean) for each in begun if (mean := _mean_maps(store, each, methods))]
    return Evidence(scores, about, exhibits, curves, panels)


def _exhibit(store: Store, scores: Scores, begun: Begun, methods: Sequence[str], count: int) -> Exhibit:
    problem, model = begun.on.problem, begun.on.model
    names = chosen(scores, problem, model, count)
    every = {name for key, ids, _, _ in scores.columns() if key[:2] == (problem, model) for name in ids}
    return Exhibit(problem, model, _examples(store, begun, methods, names, _scores_of(scores, begun, set(names))), len(every))


def _scores_of(scores: Scores, begun: Begun, names: set[str]) -> dict[str, ByMetric]:
    """The scores of some images, by metric and method."""
    found: dict[str, ByMetric] = {name: {} for name in names}
    for key, ids, column, _ in scores.columns():
        if key[:2] == begun.on[:2]:
            for name, score in zip(ids, column.scores.tolist(), strict=True):
                if name in found:
                    found[name].setdefault(key.metric, {})[key.method] = score
    return found


def _examples(
    store: Store, begun: Begun, methods: Sequence[str], names: Sequence[str], scores: Mapping[str, ByMetric]
) -> Iterator[Example]:
    """The images of these names, in the order of the problem, each with its maps."""
    problem, wanted = begun.problem, set(names)
    if not isinstance(problem, Sharded):
        return
    files = {method: {number: rest for number, *rest in store.files(method, problem=begun.on.problem)} for method in methods}
    for number in range(problem.shards):
        here = [name for name in problem.names(number) if name in wanted]
        part = read(problem, number, here) if here else None
        if part is None or part.batch is None:
            continue
        maps = {method: kept for method in methods if (kept := _maps(store, files[method].get(number))) is not None}
        pixels = part.model.preprocessing.pixels(part.batch.images.cpu())
        for row, name in enumerate(part.batch.ids):
            yield _example(part.batch, row, pixels[row], begun, {method: own[name] for method, own in maps.items() if name in own}, scores)


def _example(  # noqa: PLR0913 - what an example is made of
    batch: Batch, row: int, pixels: Tensor, begun: Begun, maps: Mapping[str, Tensor], scores: Mapping[str, ByMetric]
) -> Example:
    classes = getattr(getattr(begun.problem, "model", None), "classes", ())
    target = int(batch.targets.index[row])
    regions = {name: region[row].cpu().numpy() for name, region in batch.regions.items()}
    shown = {method: map_.numpy() for method, map_ in maps.items()}
    label = classes[target] if target < len(classes) else f"class {target}"
    return Example(batch.ids[row], label, pixels.numpy(), shown, scores[batch.ids[row]], regions)


def _maps(store: Store, file: Sequence[str] | None) -> dict[str, Tensor] | None:
    """The maps in a file by the names of their images; None where there is none, or it is damaged: that the next session mends."""
    if file is None:
        return None
    try:
        kept = read_maps(store.path / MAPS / file[0], file[1])
    except BrokenRun:
        return None
    return dict(zip(kept.ids, kept.maps, strict=True))


def _mean_maps(store: Store, begun: Begun, methods: Sequence[str]) -> dict[str, Aggregated]:
    """AggAtt of each method that has maps, of a problem of grids."""
    problem = begun.problem
    if not isinstance(problem, Cells) or problem.n < 2:
        return {}
    found = {}
    for method in methods:
        gathered = AggAtt(CELL, problem.n)
        count = 0
        for part in _of_cell(store, begun.on.problem, method):
            gathered.add(part.maps, localization_score(part.maps, CELL, problem.n))
            count += len(part)
        if count:
            found[method] = gathered.result()
    return found


def _of_cell(store: Store, problem: str, method: str) -> Iterator[Attribution]:
    """The maps of the grids whose cell is asked about."""
    try:
        for kept in store.maps(method, problem=problem):
            rows = [row for row, name in enumerate(kept.ids) if name.endswith(f"-cell-{CELL}")]
            if rows:
                ids = tuple(kept.ids[row] for row in rows)
                yield dataclasses.replace(kept, maps=kept.maps[rows], targets=kept.targets[torch.tensor(rows)], ids=ids)
    except BrokenRun:  # a file was lost while the run went on; the next session makes it again
        return
