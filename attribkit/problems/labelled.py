"""A person's own images, with what they know about them."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..batch import Batch, Kind, Targets
from ..errors import BadInput
from ..scores import Failure
from .base import PROBLEMS, whole_number
from .files import Files
from .manifest import read_manifest
from .shards import Shard, digest_of_batches, of_range

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

    Source = str | Path | Sequence[Batch]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Labelled:
    """Your own images with labels, masks, boxes and groups: from a manifest, or a folder of class folders.

    `source` is a CSV or Parquet file with columns `path,label[,mask:NAME ...][,rle:NAME ...][,box:NAME ...][,group:NAME ...]`, a
    folder of class folders (or of images alone), or a list of `Batch`. A label is a class's name or index, and where it is empty what the
    model predicts; of it the scalar `kind` is explained. A mask, a file or COCO's run lengths, goes the way of its image: a region holds
    the share of each pixel that it covers, and 0 where an image has none. Groups are codes of the labels in `group_names`. `limit` takes
    the first images only. They are read `batch_size` at a time; one that cannot be read, or whose mask cannot, is left out, and stands in
    `failures` once it has been passed.
    """

    name: ClassVar[str] = "labelled"

    model: VisionModel
    source: Source
    batch_size: int = dataclasses.field(default=32, kw_only=True)
    kind: Kind = dataclasses.field(default="logit", kw_only=True)
    limit: int | None = dataclasses.field(default=None, kw_only=True)
    failures: list[Failure] = dataclasses.field(default_factory=list, init=False)
    _images: Files | Batches = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        for setting in ("batch_size", *(["limit"] if self.limit is not None else [])):
            whole_number(self, setting, 1)
        Targets(torch.zeros(0, dtype=torch.int64), self.kind)  # raises on an unknown kind
        if isinstance(self.source, str | os.PathLike):
            manifest = read_manifest(self.source)
            images: Files | Batches = Files(self.model, manifest, self.kind, self.batch_size, self.failures, limit=self.limit)
        else:
            images = Batches(self.model, self.source, self.limit)
        object.__setattr__(self, "_images", images)

    def __repr__(self) -> str:
        return f"<Labelled: {len(self)} images of {self._images.title}>"

    @property
    def label(self) -> str:
        """What tables call it."""
        return self._images.title

    @property
    def group_names(self) -> Mapping[str, tuple[str, ...]]:
        """The label of each code, for each group of a manifest."""
        return self._images.group_names

    @property
    def unlabelled(self) -> frozenset[str]:
        """The ids of images that have no label, and whose target is what the model predicts."""
        return self._images.unlabelled

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[tuple[VisionModel, Batch]]:
        for _, batch in self.numbered():
            yield self.model, batch

    @property
    def shards(self) -> int:
        """How many batches there are."""
        return self._images.shards

    def names(self, number: int) -> tuple[str, ...]:
        """The ids of the images of a batch."""
        return self._images.named(self._images.rows(number))

    def shard(self, number: int, names: Collection[str] | None = None) -> Shard:
        """A batch, or some of its images."""
        rows = self._images.rows(number)
        return Shard(self.model, *self._images.read([rows[place] for place in of_range(self.names(number), names)]))

    def digest(self, number: int) -> str:
        """Of the files of a batch, and of what is known about them."""
        return self._images.digest_of(self._images.rows(number))

    def digest_of(self, rows: Sequence[int]) -> str:
        """Of these rows' files, and of what is known about them."""
        return self._images.digest_of(rows)

    def numbered(self) -> Iterator[tuple[Sequence[int], Batch]]:
        """The batches, each with the rows that are in it."""
        return self._images.numbered()

    def batch(self, indices: Sequence[int]) -> Batch:
        """The images of these rows, counted from 0; one that cannot be read raises `BrokenImage`."""
        wrong = [index for index in indices if not 0 <= index < len(self)]
        if wrong or not len(indices):
            raise BadInput(f"batch(indices): got {wrong[0] if wrong else 'none'}, allowed: rows from 0 to {len(self) - 1}")
        return self._images.batch(indices)


class Batches:
    """Images that are in memory already."""

    group_names: Mapping[str, tuple[str, ...]] = {}
    unlabelled: frozenset[str] = frozenset()

    def __init__(self, model: VisionModel, batches: Sequence[Batch], limit: int | None = None) -> None:
        if not isinstance(batches, list | tuple) or not batches or not all(isinstance(each, Batch) for each in batches):
            got = "none" if batches == [] else type(batches).__name__
            raise BadInput(f"source: got {got}, allowed: a manifest (CSV or Parquet), a folder of class folders, or a list of Batch")
        alike = {(tuple(each.regions), tuple(each.groups), each.targets.kind) for each in batches}
        if len(alike) > 1:
            raise BadInput("source: got batches with other regions, groups or kinds of target, allowed: the same in all of them")
        names = [name for each in batches for name in each.ids]
        twice = next((name for name, times in Counter(names).items() if times > 1), None)
        if twice is not None:
            raise BadInput(f"source: got two images with the id {twice!r}, allowed: an id of its own for each")
        before = itertools.accumulate(map(len, batches), initial=0)
        cut = [each[: max(0, limit - start)] for each, start in zip(batches, before, strict=False)] if limit is not None else batches
        self.model, self.batches = model, tuple(each for each in cut if len(each) or limit is None)
        self._rows = [(batch, row) for batch in self.batches for row in range(len(batch))]
        self._starts = [0, *itertools.accumulate(map(len, self.batches))]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def title(self) -> str:
        """There is no file to call them by."""
        return f"{len(self)} labelled images"

    def numbered(self) -> Iterator[tuple[Sequence[int], Batch]]:
        """As they were given, on the model's device."""
        for number, batch in enumerate(self.batches):
            yield self.rows(number), self._moved(batch)

    @property
    def shards(self) -> int:
        """How many batches were given."""
        return len(self.batches)

    def rows(self, number: int) -> range:
        """The rows of a batch."""
        start = self._starts[number]
        return range(start, start + len(self.batches[number]))

    def named(self, rows: Sequence[int]) -> tuple[str, ...]:
        """The ids of rows."""
        return tuple(batch.ids[row] for batch, row in (self._rows[index] for index in rows))

    def read(self, rows: Sequence[int]) -> tuple[Batch | None, tuple[Failure, ...]]:
        """The images of these rows: a batch as it was given, if they are its own."""
        if list(rows) in [list(self.rows(number)) for number in range(self.shards)]:
            return self._moved(self._rows[rows[0]][0]), ()
        return self.batch(rows) if len(rows) else None, ()

    def digest_of(self, rows: Sequence[int]) -> str:
        """Of the values of these rows."""
        return digest_of_batches(batch[row : row + 1] for batch, row in (self._rows[index] for index in rows))

    def batch(self, indices: Sequence[int]) -> Batch:
        """Rows of any of the batches, in one."""
        parts = [self._moved(batch[row : row + 1]) for batch, row in (self._rows[index] for index in indices)]
        if len({part.images.shape for part in parts}) > 1:
            raise BadInput("batch(indices): got images of several sizes, allowed: one size")
        known = [part.logits for part in parts if part.logits is not None]
        return Batch(
            torch.cat([part.images for part in parts]),
            Targets(torch.cat([part.targets.index for part in parts]), parts[0].targets.kind),
            tuple(part.ids[0] for part in parts),
            _joined([part.regions for part in parts]),
            _joined([part.groups for part in parts]),
            torch.cat(known) if len(known) == len(parts) else None,
        )

    def _moved(self, batch: Batch) -> Batch:
        device = self.model.device
        return Batch(
            batch.images.to(device),
            batch.targets.to(device),
            batch.ids,
            {name: region.to(device) for name, region in batch.regions.items()},
            {name: group.to(device) for name, group in batch.groups.items()},
            None if batch.logits is None else batch.logits.to(device),
        )


def _joined(parts: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


PROBLEMS.add(Labelled.name, Labelled)
