"""How scores are kept: as the tensors that came, then as columns on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .summaries import Label, type_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..batch import Batch

Index = NDArray[np.int64]
Floats = NDArray[np.float32]
K = TypeVar("K")


class Images:
    """The ids of all images, each with a number; which of them have a score under which key; what batches said of them."""

    def __init__(self) -> None:
        self.claimed = 0
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._seen: dict[Hashable, NDArray[np.bool_]] = {}
        self._last: About | None = None
        self._places: Index | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": None}

    def index(self, ids: Sequence[str]) -> Index:
        """The images' numbers; new ones are entered."""
        for each in ids:
            if each not in self._numbers:
                self._numbers[each] = len(self._names)
                self._names.append(each)
        return np.fromiter((self._numbers[each] for each in ids), np.int64, len(ids))

    def names(self, index: Index) -> list[str]:
        """The ids of numbers."""
        return [self._names[number] for number in index.tolist()]

    @property
    def places(self) -> Index:
        """Each image's place among all in the order of their ids."""
        if self._places is None or len(self._places) != len(self._names):
            self._places = np.empty(len(self._names), np.int64)
            self._places[sorted(range(len(self._names)), key=self._names.__getitem__)] = np.arange(len(self._names))
        return self._places

    def about(self, batch: Batch) -> About:
        """What is kept of a batch; one that comes again, for another method or metric, is kept once."""
        last = self._last
        if last is None or not last.of(batch):
            last = self._last = About(batch.ids, self.index(batch.ids), batch.targets.index, dict(batch.groups))
        return last

    def claim(self, key: Hashable, index: Index, allowed: str) -> None:
        """Note that images have a score under a key; `BadInput` where one has already."""
        seen = self._seen.get(key, np.zeros(0, np.bool_))
        if len(seen) < len(self._names):
            seen = np.concatenate([seen, np.zeros(2 * len(self._names) - len(seen), np.bool_)])
        twice = index[seen[index]] if len(np.unique(index)) == len(index) else index[np.flatnonzero(np.bincount(index)[index] > 1)]
        if len(twice):
            raise BadInput(f"image {self._names[int(twice[0])]!r}: got a second score, {allowed}")
        seen[index] = True
        self._seen[key] = seen
        self.claimed += len(index)


@dataclasses.dataclass(frozen=True, eq=False)
class About:
    """What is kept of a batch beside scores: the images' numbers, targets and labels."""

    ids: tuple[str, ...]
    index: Index
    targets: Tensor
    groups: Mapping[str, Tensor]

    def of(self, batch: Batch) -> bool:
        """Whether this is what is kept of `batch`; looks at no tensor."""
        same = self.ids == batch.ids and self.targets is batch.targets.index and self.groups.keys() == batch.groups.keys()
        return same and all(self.groups[name] is group for name, group in batch.groups.items())


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """The scores under one key, on the host: numbers of images, targets, labels (objects, None where there is none), scores, chances."""

    index: Index
    targets: Index
    groups: dict[str, NDArray[np.object_]]
    scores: Floats
    chances: Floats

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Index | NDArray[np.bool_]) -> Column:
        groups = {name: labels[rows] for name, labels in self.groups.items()}
        return Column(self.index[rows], self.targets[rows], groups, self.scores[rows], self.chances[rows])

    @property
    def defined(self) -> NDArray[np.float64]:
        """The scores that are finite."""
        return self.scores[np.isfinite(self.scores)].astype(np.float64)

    def named(self, names: Mapping[str, Sequence[str]]) -> Column:
        """The same with a name in the place of each code of a group; an empty name is no label."""
        groups = {name: labels_named(codes, names[name]) if name in names else codes for name, codes in self.groups.items()}
        return dataclasses.replace(self, groups=groups)

    def sorted(self, places: Index) -> Column:
        """The rows in the order of the images' places."""
        return self[np.argsort(places[self.index])]

    def by(self, name: str) -> Iterator[tuple[Label, Column]]:
        """The rows of each label of a group, labels in order; rows without one are left out."""
        labels = self.groups.get(name, np.empty(0, np.object_))
        for label in sorted({each for each in labels if each is not None}, key=lambda each: (isinstance(each, str), each)):
            yield label, self[labels == label]

    def minus(self, other: Column) -> NDArray[np.float64]:
        """The differences of scores where both columns, whose rows are in the same order, have one."""
        shared = np.isin(self.index, other.index), np.isin(other.index, self.index)
        differences = self.scores[shared[0]].astype(np.float64) - other.scores[shared[1]].astype(np.float64)
        both: NDArray[np.bool_] = np.isfinite(self.scores[shared[0]]) & np.isfinite(other.scores[shared[1]])
        return differences[both]


def labels_named(codes: Iterable[Any], names: Sequence[str]) -> NDArray[np.object_]:
    """The labels of codes, numbers where all names are; None for no code, and where the name is empty."""
    kind = type_of(names)
    found = [None if code is None or not names[int(code)] else kind(names[int(code)]) for code in codes]
    labels = np.empty(len(found), np.object_)
    labels[:] = found
    return labels


def joined(columns: Sequence[Column]) -> Column:
    """Several columns, one below the other."""
    if len(columns) == 1:
        return columns[0]
    names = dict.fromkeys(name for each in columns for name in each.groups)
    groups = {name: np.concatenate([each.groups.get(name, np.full(len(each), None)) for each in columns]) for name in names}
    arrays = ([getattr(each, field) for each in columns] for field in ("index", "targets", "scores", "chances"))
    index, targets, scores, chances = map(np.concatenate, arrays)
    return Column(index, targets, groups, scores, chances)


def pile(columns: list[Column], column: Column) -> None:
    """Lay a column on others, joined with those that are no longer: however many come, few lie there."""
    columns.append(column)
    while len(columns) > 1 and len(columns[-1]) >= len(columns[-2]):
        columns[-2:] = [joined(columns[-2:])]


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """The scores of one batch under one key, as they came."""

    about: About
    values: Tensor
    chances: Tensor | None

    @staticmethod
    def hosted(parts: Mapping[K, Sequence[Part]]) -> dict[K, Column]:
        """Everything that has come under each key, moved to the host together."""
        every = [part for each in parts.values() for part in each]
        abouts = list({id(part.about): part.about for part in every}.values())
        labels = iter(_on_host([group for about in abouts for group in about.groups.values()]))
        known = {
            id(about): (targets, {name: _labels(next(labels)) for name in about.groups})
            for about, targets in zip(abouts, _on_host([about.targets for about in abouts]), strict=True)
        }
        scores = iter(_on_host([part.values.float() for part in every]))
        chances = iter(_on_host([part.chances.float() for part in every if part.chances is not None]))

        def column(part: Part) -> Column:
            targets, own = known[id(part.about)]
            values = next(scores)
            return Column(part.about.index, targets, own, values, np.full_like(values, np.nan) if part.chances is None else next(chances))

        return {key: joined([column(part) for part in each]) for key, each in parts.items()}


def _labels(array: NDArray[Any]) -> NDArray[np.object_]:
    """Numbers as objects; NaN is no label."""
    labels: NDArray[np.object_] = array.astype(np.object_)
    labels[np.isnan(array)] = None
    return labels


def _on_host(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Flat tensors as arrays, with one transfer for each device and type."""
    if not tensors:
        return []
    from torch import cat as together  # scores that are read from a file need none

    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, tensor in enumerate(tensors):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(place)
    arrays: list[NDArray[Any]] = [np.empty(0)] * len(tensors)
    for places in kinds.values():
        whole = together([tensors[place] for place in places]).cpu().numpy()
        ends = np.cumsum([len(tensors[place]) for place in places])[:-1]
        for place, array in zip(places, np.split(whole, ends), strict=True):
            arrays[place] = array
    return arrays
