"""Which images a gallery shows of more than fit, and the scores image by image that this is decided by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..scores import Key, Scores
from ..scoring.summaries import Label
from .scales import Numbers

COUNT = 200  # images; more make a page that a browser is slow to open
RULE = (
    "half are those on which the methods' scores differ the most, a quarter have the highest and the lowest scores, "
    "and the others are spread evenly between these"
)


class ByImage(NamedTuple):
    """The score of each image under each key, whether more is better by each metric, and the labels of each group."""

    scores: dict[Key, dict[str, float]]
    higher: dict[str, bool]
    labels: dict[str, set[Label]]

    @classmethod
    def of(cls, scores: Scores) -> ByImage:
        """Read every score once."""
        found: dict[Key, dict[str, float]] = {}
        higher: dict[str, bool] = {}
        labels: dict[str, set[Label]] = {name: set() for name in scores.groups}
        for row in scores.rows():
            found.setdefault(Key(row["problem"], row["model"], row["method"], row["metric"]), {})[row["id"]] = row["score"]
            higher[row["metric"]] = row["higher_is_better"]
            for name, known in labels.items():
                if row[name] is not None:
                    known.add(row[name])
        return cls(found, higher, labels)


def chosen(scores: Scores, problem: str, model: str, count: int = COUNT) -> list[str]:
    """The ids of at most `count` images of a problem and model, in order: all of them, or those that `RULE` says.

    Images are compared by their place among all images, from 0 to 1, metric by metric, and then on average: how far the best and the worst
    method's scores lie apart, and how good the methods' scores are on average. Controls do not count; of equals the first by id is taken.
    """
    if count < 1:
        raise BadInput(f"chosen(count=...): got {count}, allowed: at least 1")
    read = ByImage.of(scores)
    every = {key: of for key, of in read.scores.items() if key[:2] == (problem, model)}
    ids = sorted({name for of in every.values() for name in of})
    if len(ids) <= count:
        return ids
    apart, level = _ranked({key: of for key, of in every.items() if key.method not in scores.controls}, ids, read.higher)
    differ = np.nan_to_num(apart).max(initial=0) > 0  # not by one method, nor where all agree
    picked = dict.fromkeys(_falling(apart)[: count // 2] if differ else [])
    order = _falling(level)
    known, ends = [at for at in order if not np.isnan(level[at])], count // 4
    picked.update(dict.fromkeys((*known[: ends // 2], *known[::-1][: ends - ends // 2])))
    left = [at for at in order if at not in picked]
    room = count - len(picked)
    picked.update(dict.fromkeys(left[place * len(left) // room] for place in range(room)))
    return [ids[at] for at in sorted(picked)]


def _ranked(found: dict[Key, dict[str, float]], ids: list[str], higher: dict[str, bool]) -> tuple[Numbers, Numbers]:
    """How far methods are apart on each image, and how good its scores are, by places averaged over metrics; NaN without scores."""
    aparts, levels = [], []
    for metric in dict.fromkeys(key.metric for key in found):
        rows = [[of.get(name, np.nan) for name in ids] for key, of in found.items() if key.metric == metric]
        values = np.array(rows, np.float64)
        values[~np.isfinite(values)] = np.nan
        many = np.isfinite(values).sum(0)
        apart, level = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
        apart[many > 1] = np.nanmax(values[:, many > 1], 0) - np.nanmin(values[:, many > 1], 0)
        level[many > 0] = np.nanmean(values[:, many > 0], 0) * (1 if higher[metric] else -1)
        aparts.append(_places(apart))
        levels.append(_places(level))
    return _averaged(aparts, len(ids)), _averaged(levels, len(ids))


def _places(values: Numbers) -> Numbers:
    """The place of each value among all, from 0 to 1, equal ones in the middle of theirs; NaN stays."""
    known = np.flatnonzero(~np.isnan(values))
    places = np.full(len(values), np.nan)
    if len(known):
        distinct, at, times = np.unique(values[known], return_inverse=True, return_counts=True)
        middles = np.cumsum(times) - (times + 1) / 2
        places[known] = middles[at] / max(1, len(known) - 1) if len(distinct) > 1 else 0.0
    return places


def _averaged(columns: Iterable[Numbers], count: int) -> Numbers:
    """The mean of what is known of each image."""
    table = np.array([np.full(count, np.nan), *columns])
    known = (~np.isnan(table)).sum(0)
    mean: Numbers = np.where(known, np.nansum(table, 0) / np.maximum(known, 1), np.nan)
    return mean


def _falling(values: Numbers) -> list[int]:
    """Places from the largest value to the smallest, then those without one; of equals the first."""
    order: NDArray[np.int64] = np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")
    return [int(at) for at in order]
