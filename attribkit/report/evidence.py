"""What the page of an evaluation shows: scores, and the images, maps and curves that they can be checked against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from numpy.typing import ArrayLike

from ..scores import Scores
from .aggregated import Aggregated
from .page import About


@dataclass(frozen=True, eq=False)
class Example:
    """One image of a gallery: its name, what is explained of it, and its pixels (3, H, W) in [0, 1].

    `maps` has a map (h, w) for each method, `scores` for each metric the score of each method (NaN or absent where there is none), and
    `regions` masks (H, W) in [0, 1]. Methods and metrics go by the names that they have in the scores.
    """

    id: str
    label: str
    image: object
    maps: Mapping[str, object]
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    regions: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Exhibit:
    """Images of one problem and model, `total` of which were scored; `examples` may be read once only, and is read one by one."""

    problem: str
    model: str
    examples: Iterable[Example]
    total: int


@dataclass(frozen=True, eq=False)
class Curves:
    """What a metric's scores are areas of: for each method, curves (N, K), one an image, at K even steps from 0 to 1."""

    problem: str
    model: str
    metric: str
    curves: Mapping[str, ArrayLike]


@dataclass(frozen=True, eq=False)
class Panels:
    """AggAtt of one problem and model: for each method, mean maps from the best explained grids to the worst."""

    problem: str
    model: str
    aggregated: Mapping[str, Aggregated]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything that the page of an evaluation is made of; `about` says what was run, on what, by whose papers, and what failed."""

    scores: Scores
    about: About
    exhibits: Sequence[Exhibit] = ()
    curves: Sequence[Curves] = ()
    panels: Sequence[Panels] = ()
