"""What is said of scores: summaries, comparisons and places, which print themselves as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

R = TypeVar("R")
Label = int | float | bool | str
YES = {"True": True, "False": False}


@dataclasses.dataclass(frozen=True)
class Summary:
    """One method by one metric on one problem, or on one group of its images.

    `std` is the standard deviation of the scores, `low` and `high` the 95 % percentile bootstrap interval of their mean; `count` images
    have a score, `undefined` have none; `chance` is the mean score of a map that says nothing on those that have, NaN where that is not
    defined; `group` is None without groups.
    """

    problem: str
    model: str
    method: str
    metric: str
    group: Label | None
    mean: float
    low: float
    high: float
    median: float
    std: float
    count: int
    undefined: int
    chance: float
    higher_is_better: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two methods by one metric, paired over the `count` images that both have a score of.

    `difference` is the mean of a's score minus b's, `low` and `high` its 95 % percentile bootstrap interval; `effect` is Cohen's d_z
    (mean over standard deviation of the differences); `p` is of a two-sided sign-flip test, `corrected` the same after Holm's
    correction for all the pairs that were asked about together.
    """

    problem: str
    model: str
    metric: str
    a: str
    b: str
    difference: float
    low: float
    high: float
    effect: float
    p: float
    corrected: float
    count: int
    higher_is_better: bool

    @property
    def better(self) -> str | None:
        """The method that scores better at the 5 % level, if one does."""
        if not self.corrected < 0.05 or not self.difference:
            return None
        return self.a if (self.difference > 0) == self.higher_is_better else self.b


@dataclasses.dataclass(frozen=True)
class Place:
    """A method's place by one metric: `rank` 1 is best, shared by those that cannot be told apart, None for controls and without scores."""

    problem: str
    model: str
    metric: str
    rank: int | None
    method: str
    mean: float
    low: float
    high: float
    count: int


class Listing(tuple[R, ...], Generic[R]):
    """Records of one kind, in order; printed, an aligned table whose title holds what is the same in all rows."""

    __slots__ = ()

    def __str__(self) -> str:
        if not self:
            return "(nothing)"
        names = [field.name for field in dataclasses.fields(self[0])]  # type: ignore[arg-type]
        columns = {name: [shown(getattr(row, name)) for row in self] for name in names}
        constant = [name for name in ("problem", "model", "metric", "group") if name in columns and len(set(columns[name])) == 1]
        title = ", ".join(columns[name][0] for name in constant if columns[name][0])
        body = aligned([[name, *column] for name, column in columns.items() if name not in constant and any(column)])
        return f"{title}\n{body}" if title else body

    __repr__ = __str__


def shown(value: object) -> str:
    """A value in a table, on one line: four significant digits, "yes" or "no", nothing where there is nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else " ".join(str(value).split())


def aligned(columns: list[list[str]]) -> str:
    """Columns of text, each as wide as its longest; columns of numbers to the right."""
    padded = []
    for column in columns:
        width, right = max(map(len, column)), all(_is_number(text) for text in column[1:])
        padded.append([text.rjust(width) if right else text.ljust(width) for text in column])
    return "\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True))


def _is_number(text: str) -> bool:
    return text.lstrip("-")[:1].isdigit() or text in ("", "nan", "inf", "-inf")


def type_of(texts: Iterable[str]) -> Any:
    """What the labels of a group are: truth values, whole numbers, numbers, or words."""
    known = {text for text in texts if text}
    if known <= set(YES):
        return YES.__getitem__
    for kind in (int, float):
        try:
            if all(str(kind(text)) == text for text in known):
                return kind
        except ValueError:
            continue
    return str
