"""What a model answered, image by image: to whole images, to parts of them, and to those with something exchanged; all on the host."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..scoring.summaries import Label

Codes = NDArray[np.int64]
NONE = -1  # in the place of a class: no label, or no answer


@dataclasses.dataclass(frozen=True, eq=False)
class Version:
    """The answers to one version of every image, (N,), -1 where there is none, and its probabilities (N, K), where they are kept."""

    answers: Codes
    probabilities: NDArray[np.float32] | None = None


class Donors(NamedTuple):
    """The images that parts were taken from: their ids, their answers, and the labels of their groups by name."""

    ids: tuple[str, ...]
    answers: Codes
    groups: Mapping[str, NDArray[np.object_]]


@dataclasses.dataclass(frozen=True, eq=False)
class Swap:
    """A part of every image, `cue`, exchanged for that of a donor: rows of `images` and of donors, and the answers, (M,) each."""

    cue: str
    images: Codes
    donors: Codes
    answers: Codes


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers to N images called `ids`.

    `truth` (N,) is the class that an image is known to be of, -1 where that is not known; `groups` (N,) labels by name, None where an
    image has none; `versions` by name, of which "full" is there always; `region` the one where evidence should lie. `seen` images have
    that region. `classes` are names, none where the model has none.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    truth: Codes
    groups: Mapping[str, NDArray[np.object_]]
    versions: Mapping[str, Version]
    region: str | None = None
    seen: NDArray[np.bool_] | None = None
    swaps: tuple[Swap, ...] = ()
    donors: Donors | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def full(self) -> Codes:
        """The answers to whole images."""
        return self.versions["full"].answers

    def named(self, index: int) -> str:
        """The class with this index."""
        return self.classes[index] if 0 <= index < len(self.classes) else f"class {index}"

    def called(self, rows: NDArray[np.int64] | list[int]) -> tuple[str, ...]:
        """The ids of these rows."""
        return tuple(self.ids[int(row)] for row in rows)


def labels_of(group: NDArray[np.object_]) -> list[Label]:
    """The labels that occur, in order; numbers before words."""
    return sorted({each for each in group if each is not None}, key=lambda each: (isinstance(each, str), each))


def listed(names: Sequence[object]) -> str:
    """The names, the first three of many."""
    shown = ", ".join(map(str, names[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def told_apart(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of classes, with its index behind each that several of them have: tables know classes by their names."""
    times = Counter(classes)
    return tuple(name if times[name] == 1 else f"{name} ({index})" for index, name in enumerate(classes))


def percent(share: float) -> str:
    """A share as people read it: whole per cent, but none that is not, nor all."""
    value = 100 * share
    if 0 < value < 0.05 or 99.95 < value < 100:
        return "under 0.1 %" if value < 1 else "over 99.9 %"
    if 0 < value < 1 or 99 < value < 100:
        return f"{value:.1f} %"
    return f"{value:.0f} %"
