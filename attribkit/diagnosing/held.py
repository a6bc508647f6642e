"""Images that are asked about several times, held in memory as far as there is room."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar, Generic, TypeVar

from ..batch import Batch
from ..evaluating.units import read
from ..model.adapter import VisionModel
from ..problems.labelled import Labelled
from ..problems.shards import Shard, Sharded, rows_of

P = TypeVar("P", bound=Sharded)
ROOM = 512 * 2**20  # bytes of images and masks; what does not fit is read anew


@dataclasses.dataclass(eq=False)
class Around(ABC, Generic[P]):
    """A problem around another one, whose images it has."""

    problem: P

    @property
    def model(self) -> VisionModel:
        """The problem's."""
        return self.problem.model

    @property
    def label(self) -> str:
        """The problem's."""
        return self.problem.label

    def __len__(self) -> int:
        return len(self.problem)

    def __iter__(self) -> Iterator[tuple[VisionModel, Batch]]:
        for number in range(self.shards):
            part = self.shard(number)
            if part.batch is not None:
                yield part.model, part.batch

    @property
    def shards(self) -> int:
        """As many as the problem has."""
        return self.problem.shards

    def names(self, number: int) -> tuple[str, ...]:
        """The ids of a shard's images."""
        return self.problem.names(number)

    @abstractmethod
    def shard(self, number: int, names: Collection[str] | None = None) -> Shard:
        """A shard, or some of its images."""


@dataclasses.dataclass(eq=False)
class Held(Around[Sharded]):
    """A problem whose first shards are read once."""

    name: ClassVar[str] = "held"

    room: int = ROOM
    _shards: dict[int, Shard] = dataclasses.field(default_factory=dict, init=False)

    @property
    def group_names(self) -> Mapping[str, tuple[str, ...]]:
        """The problem's, if it has some."""
        names: Mapping[str, tuple[str, ...]] = getattr(self.problem, "group_names", {})
        return names

    @property
    def unlabelled(self) -> Collection[str]:
        """The images of which the problem knows no label."""
        names: Collection[str] = getattr(self.problem, "unlabelled", ())
        return names

    def digest(self, number: int) -> str:
        """The problem's."""
        return self.problem.digest(number)

    def shard(self, number: int, names: Collection[str] | None = None) -> Shard:
        """A shard, or some of its images; a whole one is held while there is room."""
        if number not in self._shards:
            part = self.problem.shard(number, names)
            size = 0 if part.batch is None else sum(each.nbytes for each in (part.batch.images, *part.batch.regions.values()))
            if names is None and size <= self.room:
                self._shards[number] = part
                self.room -= size
            return part
        part = self._shards[number]
        if names is None or part.batch is None:
            return part
        chosen = [row for row, name in enumerate(part.batch.ids) if name in names]
        failures = tuple(each for each in part.failures if each.id in names)
        return Shard(part.model, rows_of(part.batch, chosen) if chosen else None, failures)

    def images(self, wanted: Collection[str]) -> Iterator[tuple[int, Batch]]:
        """The images of these names, shard by shard; those that cannot be read are left out."""
        for number in range(self.shards):
            own = [name for name in self.names(number) if name in wanted]
            part = read(self, number, own) if own else None
            if part is not None and part.batch is not None and len(part.batch):
                yield number, part.model.fit(part.batch)

    def together(self, wanted: Collection[str]) -> Batch | None:
        """The images of these names in one batch; None where none can be read, or not all have one size."""
        parts = [batch for _, batch in self.images(wanted)]
        if len({part.images.shape[1:] for part in parts}) != 1:
            return None
        whole = Labelled(self.model, parts)
        return whole.batch(range(len(whole)))
