"""Pictures of maps: one beside its image, one method's, several methods' side by side; and, from their own files, those of scores."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BadInput, UnknownName
from ..maps import resize
from .aggregated import PERCENTS, Aggregated
from .colours import Pixels, Values, finite, painted, pixels, scale_of, stretched
from .drawing import EDGE, GAP, Axes, Box, Figure, Sheet, shown
from .leaderboard import leaderboard_figure as leaderboard_figure
from .score_figures import box_figure as box_figure
from .score_figures import curve_figure as curve_figure

SIDE, MEAN_SIDE = 2.6, 1.25  # inches: the longer side of a panel, of a mean map


def overlay_figure(image: object, map_: object, *, title: str = "", limit: float | None = None, signed: bool = False) -> Figure:
    """An image beside its map (h, w) laid over it, with a colour bar that ends at `limit` or the map's own 99.5th percentile.

    Colours diverge around zero where the map has values below it, and always with `signed`.

    A map that is constant, zero, or not finite in places is drawn with a note under the title.
    """
    base = pixels(image)
    values, note = finite(map_)
    scale = scale_of([values], limit)
    scale = scale._replace(signed=scale.signed or signed)
    width, height = _panel(base.shape)
    head = 0.15 + (0.22 if title else 0) + (0.2 if note else 0)
    sheet = Sheet(2 * width + 2 * EDGE + GAP + 0.75, height + head + EDGE)
    if title:
        sheet.text(EDGE, 0.22, title, room=sheet.width - 2 * EDGE, fontsize=9)
    if note:
        sheet.text(EDGE, head - 0.12, note, room=sheet.width - 2 * EDGE, fontsize=7.5, color="#9a3412")
    sheet.picture((EDGE, head, width, height), base)
    sheet.picture((EDGE + width + GAP, head, width, height), painted(values, scale, base))
    sheet.bar((EDGE + 2 * width + 2 * GAP, head, 0.12, height), scale)
    return sheet.figure


def compare_figure(
    images: Sequence[object] | Tensor,
    maps: Mapping[str, Sequence[object] | Tensor],
    *,
    titles: Sequence[str] = (),
    per: Literal["column", "row"] = "column",
) -> Figure:
    """A row per image: the image itself, then each method's map over it, with one scale per column (method) or per row (image).

    `maps` names the methods, each with one (h, w) map per image; `titles` are written above the rows.
    """
    bases = [pixels(image) for image in images]
    if per not in ("column", "row"):
        raise UnknownName("way to share a scale", per, ("column", "row"))
    for name, column in {**maps, "titles": titles or bases}.items():
        if len(column) != len(bases) or not bases:
            raise BadInput(f"compare_figure({name}): got {len(column)} for {len(bases)} images, allowed: one per image, of at least one")
    grid = [[finite(map_) for map_ in column] for column in maps.values()]
    width, height = _panel(bases[0].shape, SIDE * 0.75)
    head, step = 0.35, height + GAP + (0.2 if titles else 0)
    across, below = (0.6, 0.0) if per == "row" else (0.0, 0.4)
    sheet = Sheet(2 * EDGE + (1 + len(grid)) * (width + GAP) + across, head + len(bases) * step + below)
    tops = [head + row * step + (0.2 if titles else 0) for row in range(len(bases))]
    for row, title in enumerate(titles):
        sheet.text(EDGE, tops[row] - 0.1, title, room=sheet.width - 2 * EDGE)
    for place, name in enumerate(("image", *maps)):
        sheet.text(EDGE + place * (width + GAP) + width / 2, 0.2, name, room=width, ha="center", weight="bold")
    for row, base in enumerate(bases):
        sheet.picture((EDGE, tops[row], width, height), base)
    _compared(sheet, bases, grid, (width, height, per, tops))
    return sheet.figure


def attribution_figure(attribution: Attribution, batch: Batch | Tensor | None = None, *, limit: int = 8) -> Figure:
    """Up to `limit` maps of one method on one shared scale, each over its image where `batch` has it, else alone.

    A batch holds pixels normalised for the model, and neither it nor the attribution knows by what mean and std: each image is
    stretched for display so that its own 0.5th and 99.5th percentile become black and white. Colours of the photograph may differ a
    little from the file's; the map is not touched.
    """
    if limit < 1:
        raise BadInput(f"limit: got {limit}, allowed: a number of maps from 1 up")
    some = attribution[:limit]
    images = _images(some, batch)
    parts = [finite(map_) for map_ in some.maps]
    scale = scale_of([values for values, _ in parts])
    width, height = _panel(attribution.size, SIDE * 0.8)
    columns = max(1, min(4 if images is None else 2, len(parts)))
    across, down = width * (1 if images is None else 2) + GAP, height + 0.46
    rows = max(1, -(-len(parts) // columns))
    sheet = Sheet(2 * EDGE + columns * across + 0.7, 0.4 + rows * down + EDGE)
    about = f"{attribution.method} for {attribution.model}" if attribution.model else attribution.method
    sheet.text(EDGE, 0.2, about if parts else f"{about}: no maps", room=sheet.width - 2 * EDGE, fontsize=9, weight="bold")
    for place, ((values, note), caption) in enumerate(zip(parts, _captions(some), strict=True)):
        left, top = EDGE + place % columns * across, 0.4 + place // columns * down
        sheet.text(left, top + 0.08, caption, room=across - GAP)
        sheet.text(left, top + 0.24, some.ids[place], room=across - GAP, fontsize=6.5, color="#777777")
        if images is not None:
            sheet.picture((left, top + 0.36, width, height), images[place])
            sheet.picture((left + width + 0.03, top + 0.36, width, height), painted(values, scale, images[place]), note)
        else:
            sheet.picture((left, top + 0.36, width, height), painted(_at(values, attribution.size), scale), note)
    if parts:
        sheet.bar((EDGE + columns * across + 0.02, 0.76, 0.12, height), scale)
    return sheet.figure


def agg_att_figure(panels: Mapping[str, Aggregated], *, title: str = "") -> Figure:
    """A row for each name (a method, a layer): the mean map of each bin of grids, the best explained first, the target cell outlined.

    Each row has one scale, which ends at the 99.5th percentile of its pixels.
    """
    if not panels:
        raise BadInput("agg_att_figure: got no rows, allowed: at least one")
    rows, columns = next(iter(panels.values())).means.shape[-2:]
    aspect = min(max(columns / rows, 0.4), 2.5)
    width, height = MEAN_SIDE * min(aspect, 1), MEAN_SIDE / max(aspect, 1)
    head, step, bins = 0.3 + 0.3 * bool(title), height + 0.55, len(PERCENTS) - 1
    sheet = Sheet(2 * EDGE + bins * (width + GAP) + 0.65, head + len(panels) * step + EDGE)
    if title:
        sheet.text(EDGE, 0.2, title, room=sheet.width - 2 * EDGE, fontsize=9, weight="bold")
    for place, (low, high) in enumerate(itertools.pairwise(PERCENTS)):
        sheet.text(EDGE + place * (width + GAP) + width / 2, head - 0.1, f"{low}–{high} %", ha="center", weight="bold")
    for row, (name, panel) in enumerate(panels.items()):
        _aggregated(sheet, name, panel, (EDGE, head + row * step, width, height))
    return sheet.figure


def _panel(shape: Sequence[int], side: float = SIDE) -> tuple[float, float]:
    """Width and height in inches of a panel for an image (H, W, ...); extreme shapes are squeezed so that both stay readable."""
    aspect = min(max(shape[1] / shape[0], 0.4), 2.5)
    return (side, side / aspect) if aspect >= 1 else (side * aspect, side)


def _at(values: Values, size: tuple[int, int]) -> Values:
    at: Values = resize(torch.from_numpy(values)[None], size)[0].numpy()
    return at


def _captions(attribution: Attribution) -> list[str]:
    """Target and score of each image."""
    labels = list(attribution.labels())
    if attribution.scores is None:
        return labels
    kind = attribution.targets.kind.replace("_", " ")
    return [f"{shown(label, 28)}, {kind} = {score:.3g}" for label, score in zip(labels, attribution.scores.tolist(), strict=True)]


def _images(attribution: Attribution, batch: Batch | Tensor | None) -> list[Pixels] | None:
    """The image of each map: by position in a tensor, by id in a batch."""
    if batch is None:
        return None
    if isinstance(batch, Tensor):
        if batch.ndim != 4 or len(batch) < len(attribution) or tuple(batch.shape[-2:]) != attribution.size:
            allowed = (len(attribution), 3, *attribution.size)
            raise BadInput(f"images: got {tuple(batch.shape)}, allowed: {allowed}, in the order of the maps")
        rows = list(range(len(attribution)))
        images = batch
    else:
        images = batch.images
        place = {id_: row for row, id_ in reversed(list(enumerate(batch.ids)))}
        missing = [id_ for id_ in attribution.ids if id_ not in place]
        if missing:
            raise BadInput(f"batch: has no image with the id {missing[0]!r}, allowed: the batch that the maps were made from")
        same = batch.ids[: len(attribution)] == attribution.ids  # ids may repeat; then the order tells them apart
        rows = list(range(len(attribution))) if same else [place[id_] for id_ in attribution.ids]
    return [pixels(stretched(images[row])) for row in rows]


def _compared(
    sheet: Sheet, bases: list[Pixels], grid: list[list[tuple[Values, str]]], layout: tuple[float, float, str, list[float]]
) -> None:
    """Draw the maps of a comparison and their colour bars."""
    width, height, per, tops = layout
    columns = [scale_of([values for values, _ in column]) for column in grid]
    rows = [scale_of([column[row][0] for column in grid]) for row in range(len(bases))]
    for at, column in enumerate(grid):
        left = EDGE + (at + 1) * (width + GAP)
        for row, (values, note) in enumerate(column):
            scale = columns[at] if per == "column" else rows[row]
            sheet.picture((left, tops[row], width, height), painted(values, scale, bases[row]), note)
        if per == "column":
            sheet.bar((left, tops[-1] + height + GAP, width, 0.1), columns[at])
    if per == "row" and grid:
        for row, scale in enumerate(rows):
            sheet.bar((EDGE + (1 + len(grid)) * (width + GAP), tops[row], 0.1, height), scale)


def _aggregated(sheet: Sheet, name: str, panel: Aggregated, box: Box) -> None:
    """A row of an AggAtt figure, from its name down; `box` is the place of its first column."""
    left, top, width, height = box
    maps = panel.means.cpu().numpy()
    scale = scale_of([maps[place] for place, count in enumerate(panel.counts) if count], panel.limit or None)
    notes = [f"{panel.left_out} of {sum(panel.counts) + panel.left_out} grids are not finite"] * bool(panel.left_out)
    notes += ["maps are zero everywhere"] * (sum(panel.counts) > 0 and not np.nan_to_num(maps).any())
    sheet.text(left, top + 0.12, name, room=sheet.width - 2 * EDGE - 2.5 * len(notes))
    if notes:
        sheet.text(sheet.width - EDGE, top + 0.12, "; ".join(notes), fontsize=7, color="#9a3412", ha="right")
    for place, count in enumerate(panel.counts):
        at = (left + place * (width + GAP), top + 0.25, width, height)
        if count:
            axes = sheet.picture(at, painted(maps[place], scale))
            _outline(axes, panel.cell, panel.n, maps.shape[-2:])
        else:
            sheet.picture(at, np.full((1, 1, 3), 238, np.uint8))
        grids = f"{count} grid{'s' * (count != 1)}" if count else "no grids"
        sheet.text(at[0] + width / 2, at[1] + height + 0.1, grids, fontsize=6.5, color="#666666", ha="center")
    sheet.bar((left + len(panel.counts) * (width + GAP), top + 0.25, 0.1, height), scale)


def _outline(axes: Axes, cell: int, n: int, size: Sequence[int]) -> None:
    """A white line with dark sides, seen on every colour, around a cell of a picture of `size` (H, W)."""
    down, across = size[0] / n, size[1] / n
    top, left = cell // n * down - 0.5, cell % n * across - 0.5
    x, y = (left, left + across, left + across, left, left), (top, top, top + down, top + down, top)
    for colour, thick in (("#000000", 2.6), ("#ffffff", 1.2)):
        axes.plot(x, y, color=colour, linewidth=thick, linestyle="-", marker="", clip_on=False, scalex=False, scaley=False)
