"""Findings: claims in plain words, each with its effect, its interval and the test that made it; judged together, and ranked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ..scoring.resampling import holm

Test = Literal["swap", "masking", "groups", "amplification", "regions", "frame", "labels"]

# What an experiment shows comes before what is only observed of answers, and that before what maps suggest.
ORDER: tuple[Test, ...] = ("swap", "masking", "groups", "amplification", "regions", "frame", "labels")
LEVEL = 0.05
SHOWN = 12  # images that a finding points at, at most


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim about a model, as one test on `count` images makes it.

    `claim` is a sentence; `cue` what it is about (a region, a group, a class); `effect` a difference of shares of images or of scores,
    from -1 to 1, with its 95 % interval `low` to `high`; `p` the chance of at least such an effect where there is none, `corrected` the
    same after Holm's correction for every claim that was tested; `images` the ids to look at, the most telling first; `how` says what was
    compared with what.
    """

    claim: str
    test: Test
    cue: str
    effect: float
    low: float
    high: float
    count: int
    p: float
    images: tuple[str, ...] = ()
    how: str = ""
    corrected: float = float("nan")

    @property
    def found(self) -> bool:
        """Whether the claim stands at the 5 % level, in the direction that it says."""
        return self.corrected < LEVEL and self.effect > 0


class Limit(NamedTuple):
    """What could not be told: the test that did not run, or not on everything, and for want of what."""

    test: Test
    reason: str


def judged(claims: Iterable[Finding]) -> list[Finding]:
    """All claims with their p-values corrected as one family, so that any false finding at all has the chance that is stated."""
    every = list(claims)
    corrected = holm(np.array([each.p for each in every], np.float64))
    return [dataclasses.replace(each, corrected=value) for each, value in zip(every, corrected.tolist(), strict=True)]


def ranked(claims: Sequence[Finding]) -> tuple[Finding, ...]:
    """The claims that stand, experiments first, then by effect."""
    return tuple(sorted((each for each in claims if each.found), key=lambda each: (ORDER.index(each.test), -each.effect)))
