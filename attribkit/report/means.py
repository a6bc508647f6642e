"""Mean maps by class and group: one row a class, all images and each label side by side, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..diagnosis.result import MeanMap
from .aggregation import SIDE, tile
from .coding import averaged
from .colours import finite, scale_of
from .diagnosis_tables import column_name

Column = tuple[str | None, Any]


def means_content(means: Sequence[MeanMap]) -> dict[str, Any]:
    """What the template shows: for each class a picture of each column, empty where there is no map, and how high its scale goes."""
    columns: list[Column] = list(dict.fromkeys((each.by, each.label) for each in means))
    groups = list(dict.fromkeys(by for by, _ in columns))
    columns.sort(key=lambda column: (column[0] is not None, groups.index(column[0]), str(column[1])))
    known = {(each.answer, each.by, each.label): each for each in means}
    return {
        "columns": [column_name(*column) for column in columns],
        "rows": [
            _row(answer, [known.get((answer, *column)) for column in columns]) for answer in dict.fromkeys(each.answer for each in means)
        ],
    }


def _row(answer: str, means: Sequence[MeanMap | None]) -> dict[str, Any]:
    """One class; the scale counts in what a map has that is the same everywhere."""
    maps = [None if each is None or not each.count else _levels(each) for each in means]
    limit = scale_of([map_ for map_ in maps if map_ is not None]).limit
    pictures: list[dict[str, Any]] = []
    for each, map_ in zip(means, maps, strict=True):
        if each is None or map_ is None:
            pictures.append({"count": 0, "src": "", "width": SIDE, "height": SIDE})
        else:
            pictures.append({"count": each.count, "src": tile(map_ / limit), "width": map_.shape[1], "height": map_.shape[0]})
    return {"answer": answer, "pictures": pictures, "limit": f"{limit:.3g}×", "zero": not any(np.any(map_) for map_ in maps)}


def _levels(each: MeanMap) -> NDArray[np.float32]:
    """A map in multiples of a uniform one of its sum, at most `SIDE` pixels on its longer side."""
    values = finite(each.map)[0]
    return averaged(values * np.float32(values.size), SIDE)
