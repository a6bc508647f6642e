"""What checks of one object share: the object, what it is given, and what it answered."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..attribution import Attribution
from ..batch import Batch, Kind
from ..model.adapter import VisionModel
from .networks import NETWORKS, SIZE, ReluCNN, SingleLogit, adapted, made
from .suite import close, expect

S = TypeVar("S")
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """What a call is given: a batch, whose region "object" a metric and a removal look at, and for a metric the maps."""

    batch: Batch
    attribution: Attribution | None = None

    def __len__(self) -> int:
        return len(self.batch)

    def rows(self, *order: int) -> Given:
        """Some of the images, in this order, with all that belongs to them."""
        index = torch.tensor(order, dtype=torch.int64)
        maps, ids = self.attribution, tuple(self.batch.ids[row] for row in order)
        targets = self.batch.targets[index]
        regions = {name: region[index] for name, region in self.batch.regions.items()}
        return Given(
            Batch(self.batch.images[index], targets, ids, regions),
            None if maps is None else dataclasses.replace(maps, maps=maps.maps[index], targets=targets, ids=ids, scores=None, extras={}),
        )

    def copied(self) -> Given:
        """The same in tensors of its own, of the kind that the caller's modes make."""
        batch, maps = self.batch, self.attribution
        targets = dataclasses.replace(batch.targets, index=batch.targets.index.clone())
        regions = {name: region.clone() for name, region in batch.regions.items()}
        own = None if maps is None else dataclasses.replace(maps, maps=maps.maps.clone(), targets=targets)
        return Given(Batch(batch.images.clone(), targets, batch.ids, regions), own)

    def showing(self, images: Tensor) -> Given:
        """The same with other images."""
        return dataclasses.replace(self, batch=dataclasses.replace(self.batch, images=images))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors in it, by what they are."""
        maps = {} if self.attribution is None else {"maps": self.attribution.maps}
        return {"images": self.batch.images, "targets": self.batch.targets.index, **self.batch.regions, **maps}


class Bench(ABC, Generic[S]):
    """Puts one object, `subject`, to its checks; what it answers to what is usually given is kept, since most checks compare with it."""

    rtol: float
    atol: float  # of the largest value where `scaled`
    scaled: bool = True
    what: str  # its answer, in words

    def __init__(self, subject: S) -> None:
        self.subject = subject
        self._kept: dict[Any, Any] = {}

    @property
    @abstractmethod
    def asks(self) -> bool:
        """Whether it says that it asks the model anything."""

    @abstractmethod
    def given(self, network: str = "cnn", rows: int = 3, *, size: Size = SIZE, kind: Kind = "logit") -> Given:
        """What it is usually given."""

    @abstractmethod
    def answer(self, model: VisionModel, given: Given) -> Tensor:
        """What it answers: maps, scores or logits, one row per image."""

    @abstractmethod
    def check_values(self, answer: Tensor, rows: int) -> None:
        """Raise unless it is an answer for so many images, whatever its values should be."""

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def network(self, name: str = "cnn") -> nn.Module:
        """A new network of this kind, always with the same weights."""
        others: dict[str, type[nn.Module]] = {"relu": ReluCNN, "one logit": SingleLogit}
        return self.made((NETWORKS | others)[name])

    def made(self, make: Callable[[], nn.Module]) -> nn.Module:
        """A new network, always with the same weights."""
        return made(make)

    def first(self, network: str = "cnn") -> tuple[VisionModel, Tensor]:
        """A model of this kind that was asked once, with what is usually given, and the answer."""

        def make() -> tuple[VisionModel, Tensor]:
            model = adapted(self.network(network))
            return model, self.answer(model, self.given(network))

        found: tuple[VisionModel, Tensor] = self.kept(("first", network), make)
        return found

    def expected(self, network: str = "cnn") -> Tensor:
        """What it answers to what is usually given."""
        return self.first(network)[1]

    def answer_of(self, module: nn.Module, given: Given | None = None, **settings: Any) -> Tensor:
        """What it answers about a module, to what is usually given."""
        return self.answer(adapted(module, **settings), self.given() if given is None else given)

    def close(self, got: Tensor, expected: Tensor, what: str) -> None:
        """Both are the same but for rounding."""
        size = float(expected.abs().nan_to_num(0.0).amax()) if self.scaled and expected.numel() else 1.0
        close(got, expected, what, rtol=self.rtol, atol=self.atol * size)

    def varied(self, expected: Tensor) -> None:
        """Raise if all images have one answer: then no comparison of them means anything."""
        known = expected.nan_to_num(0.0).flatten(1) if expected.ndim > 1 else expected.nan_to_num(0.0).unsqueeze(1)
        expect(not self.asks or bool((known != known[:1]).any()), f"{self.what} that differ from image to image", "the same for all")


def asks_nothing(bench: Bench[Any]) -> str:
    """Why a check of how the model is asked does not apply."""
    return "" if bench.asks else "it asks the model nothing"
