"""The embedded default: drawn scenes with a shortcut of known strength, for any model."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch, Targets
from ..model.planted import CLASSES
from .base import PROBLEMS, whole_number
from .scenes import PLACES, TAGS, Scenes, Shortcut, check, draw
from .shards import Shard, digested, of_range, starts

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


@dataclasses.dataclass(frozen=True)
class Planted:
    """`count` scenes whose `shortcut` agrees with the creature in `strength` % of them (see `scenes`).

    Regions "object", "background" and "tag" are disjoint and sum to 1; groups "object", "background" and "tag" are labels 0 and 1,
    which agree where the shortcut holds; the target is the creature's class, whatever the model predicts. A model of another input
    size gets the scenes resized.
    """

    name: ClassVar[str] = "planted"
    group_names: ClassVar[Mapping[str, tuple[str, ...]]] = {"object": CLASSES, "background": PLACES, "tag": TAGS}

    model: VisionModel
    count: int = 256
    strength: int = 50
    seed: int = 0
    shortcut: Shortcut = dataclasses.field(default="background", kw_only=True)
    batch_size: int = dataclasses.field(default=64, kw_only=True)

    def __post_init__(self) -> None:
        check(self.strength, self.seed, self.shortcut)
        for setting in ("count", "batch_size"):
            whole_number(self, setting, 1)

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"planted {self.shortcut}, {self.strength} % agree"

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[VisionModel, Batch]]:
        for _, batch in self.numbered():
            yield self.model, batch

    def numbered(self) -> Iterator[tuple[Sequence[int], Batch]]:
        """The batches, each with the indices of its scenes."""
        for number in range(self.shards):
            yield self._indices(number), self.batch(self._indices(number))

    @property
    def shards(self) -> int:
        """How many batches there are."""
        return starts(self.count, self.batch_size)

    def names(self, number: int) -> tuple[str, ...]:
        """The ids of the scenes of a batch."""
        return self._named(self._indices(number))

    def shard(self, number: int, names: Collection[str] | None = None) -> Shard:
        """A batch, or some of its scenes."""
        indices = self._indices(number)
        wanted = [indices[place] for place in of_range(self.names(number), names)]
        return Shard(self.model, self.batch(wanted) if wanted else None)

    def digest(self, number: int) -> str:
        """Of what decides the scenes of a batch."""
        return self.digest_of(self._indices(number))

    def digest_of(self, rows: Sequence[int]) -> str:
        """Of what decides these scenes."""
        return digested(self.strength, self.seed, self.shortcut, *self.model.size, *rows)

    def _indices(self, number: int) -> range:
        return range(number * self.batch_size, min((number + 1) * self.batch_size, self.count))

    def _named(self, indices: Sequence[int]) -> tuple[str, ...]:
        prefix = f"planted-{'t' if self.shortcut == 'tag' else 's'}{self.strength}-seed{self.seed}"
        return tuple(f"{prefix}-{index:05d}" for index in indices)

    def scenes(self, indices: Sequence[int] | None = None) -> Scenes:
        """The scenes as they are drawn, pixels in [0, 1]: all of them, or those with these indices."""
        return draw(range(self.count) if indices is None else indices, strength=self.strength, seed=self.seed, shortcut=self.shortcut)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The scenes with these indices, as the model takes them."""
        scenes, device, size = self.scenes(indices), self.model.device, tuple(self.model.size)
        return Batch(
            _normalised(resized(scenes.images, size, "bilinear"), self.model).to(device),
            Targets(scenes.kinds.to(device)),
            self._named(indices),
            {name: resized(mask.unsqueeze(1), size, "area").squeeze(1).to(device) for name, mask in scenes.regions.items()},
            {name: labels.to(device) for name, labels in scenes.groups.items()},
        )


def _normalised(images: Tensor, model: VisionModel) -> Tensor:
    return (images - torch.tensor(model.mean).view(3, 1, 1)) / torch.tensor(model.std).view(3, 1, 1)


def resized(images: Tensor, size: tuple[int, ...], mode: str) -> Tensor:
    """Images (N, C, S, S) at `size`; "area" keeps masks that sum to 1 summing to 1."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode=mode, antialias=mode == "bilinear")


PROBLEMS.add(Planted.name, Planted)
