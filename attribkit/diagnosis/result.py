"""`Diagnosis`: what was found, what could not be told, and everything that both can be checked against."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ..scores import Scores
from ..scoring.summaries import Listing
from .amplification import AmplificationRow
from .findings import Finding, Limit
from .groups import GroupRow
from .labels import PairRow
from .masking import ClassRow, VersionRow
from .regions import RegionRow
from .swaps import SwapRow


class Picture(NamedTuple):
    """An image that a finding points at: its id, what it is and how it was answered in words, pixels (3, H, W) in [0, 1].

    `map` (h, w) is signed, None where there is none; `regions` are masks (H, W) in [0, 1] by name. Of a swap `id` ends in what was put in.
    """

    id: str
    caption: str
    image: Tensor
    map: Tensor | None
    regions: Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class MeanMap:
    """The mean of the positive parts of maps, each as shares of its sum, over `count` images of a class and, unless None, a group."""

    answer: str
    by: str | None
    label: str | None
    map: Tensor
    count: int


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """What a model leans on and should not, as far as images tell.

    `findings` stand, ranked; `claims` are all that were tested; `limits` say what could not be. The tables hold what both rest on, and
    `scores` every score of every image. `pictures` has those that each finding points at, in the order of `findings`. `about` says what
    was run, on what.
    """

    model: str
    problem: str
    method: str
    removal: str
    findings: tuple[Finding, ...]
    claims: tuple[Finding, ...]
    limits: tuple[Limit, ...]
    groups: Listing[GroupRow]
    versions: Listing[VersionRow]
    classes: Listing[ClassRow]
    swaps: Listing[SwapRow]
    amplification: Listing[AmplificationRow]
    regions: Listing[RegionRow]
    labels: Listing[PairRow]
    scores: Scores
    pictures: tuple[tuple[Picture, ...], ...] = ()
    means: tuple[MeanMap, ...] = ()
    about: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.model} on {self.problem}: {len(self.findings)} of {len(self.claims)} claims stand"]
        lines += [f"{place}. {each.claim}" for place, each in enumerate(self.findings, 1)]
        lines += [f"not told: {each.reason}" for each in self.limits]
        return "\n".join("".join(each if each.isprintable() else "?" for each in " ".join(line.split())) for line in lines)

    __repr__ = __str__

    def record(self) -> dict[str, Any]:
        """Everything but pictures and single images' scores, in values that JSON takes."""
        tables = ("groups", "versions", "classes", "swaps", "amplification", "regions", "labels")
        return {
            "format": "attribkit/diagnosis/1",
            **{name: getattr(self, name) for name in ("model", "problem", "method", "removal")},
            "about": dict(self.about),
            "findings": [_plain(dataclasses.asdict(each)) for each in self.findings],
            "claims": [_plain(dataclasses.asdict(each)) for each in self.claims],
            "limits": [each._asdict() for each in self.limits],
            **{name: [_plain(dataclasses.asdict(row)) for row in getattr(self, name)] for name in tables},
        }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, None in the place of what is not finite, which JSON has no word for."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}
