"""Problems in parts that can be had one by one: what a run that is killed and resumed, or shared among processes, is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..batch import Batch
from ..scores import Failure
from .base import Problem

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


class Shard(NamedTuple):
    """A part of a problem: the model and the images that could be read, None where that is none, and those that could not."""

    model: VisionModel
    batch: Batch | None
    failures: tuple[Failure, ...] = ()


@runtime_checkable
class Sharded(Problem, Protocol):
    """A problem whose batches can be had in any order, as often as wanted, with the same numbers each time: its shards, 0, 1, ..."""

    @property
    def model(self) -> VisionModel:
        """Whose answers are explained."""
        ...

    @property
    def shards(self) -> int:
        """How many there are."""
        ...

    def names(self, number: int) -> tuple[str, ...]:
        """The ids of a shard's images, of which none is read for it."""
        ...

    def shard(self, number: int, names: Collection[str] | None = None) -> Shard:
        """All of a shard, or of its images those called `names` alone."""
        ...

    def digest(self, number: int) -> str:
        """What changes whenever anything about a shard does but its model: images, masks, labels, settings; no image is decoded for it."""
        ...


@runtime_checkable
class Planned(Protocol):
    """A problem that finds out at some cost which images it is made of: what it found, in values that JSON takes, and may be told."""

    def plan(self) -> Any:
        """What it found."""
        ...

    def plan_key(self) -> str:
        """What changes with anything that decides it but the model."""
        ...

    def adopt(self, plan: Any) -> None:
        """Take what another one, made alike, has found."""
        ...


def starts(count: int, each: int) -> int:
    """How many parts of at most `each` there are of `count`."""
    return -(-count // each)


def picked(batch: Batch, names: Collection[str]) -> Batch:
    """The images of a batch that are called so."""
    return rows_of(batch, [row for row, name in enumerate(batch.ids) if name in names])


def rows_of(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some of the images of a batch."""
    on = torch.tensor(rows, dtype=torch.int64, device=batch.images.device)
    return Batch(
        batch.images[on],
        batch.targets[on],
        tuple(batch.ids[row] for row in rows),
        {name: region[on] for name, region in batch.regions.items()},
        {name: group[on] for name, group in batch.groups.items()},
        None if batch.logits is None else batch.logits[on],
    )


def digested(*parts: Any) -> str:
    """A digest of plain values."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode("utf-8", "surrogatepass")).hexdigest()


def digest_of_batches(batches: Iterable[Batch]) -> str:
    """A digest of everything in batches that decides a score."""
    digest = hashlib.sha256()
    for batch in batches:
        tensors = {"images": batch.images, "targets": batch.targets.index}
        tensors |= {f"region {name}": region for name, region in batch.regions.items()}
        tensors |= {f"group {name}": group for name, group in batch.groups.items()}
        digest.update(digested(batch.ids, batch.targets.kind, list(tensors)).encode())
        for tensor in tensors.values():
            digest_tensor(digest, tensor)
    return digest.hexdigest()


def digest_tensor(digest: Any, tensor: Tensor) -> None:
    """Add a tensor's type, shape and values to a digest."""
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    whole = tensor.detach().clone(memory_format=torch.contiguous_format)  # a copy: one row of a strided tensor passes for contiguous
    digest.update(whole.reshape(-1).view(torch.uint8).cpu().numpy().data)


def of_range(names: Sequence[str], wanted: Collection[str] | None) -> list[int]:
    """The places of the wanted names, all where none are given."""
    return [place for place, name in enumerate(names) if wanted is None or name in wanted]
