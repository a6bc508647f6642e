"""Images and what is asked about them: `Targets` and `Batch`."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .errors import BadInput, UnknownName

Kind = Literal["logit", "log_odds", "probability", "evidence"]


@dataclasses.dataclass(frozen=True, eq=False)
class Targets:
    """What is explained: one scalar per image.

    `index` (B,) int64 is the class or attribute; `kind` says which scalar of it: its logit, its log-odds against all others
    (`y_c - logsumexp_{j != c} y_j`; the logit itself where there is only one), its probability (softmax, or sigmoid where there is
    only one logit), or its evidence `|logit|` (multi-label models: evidence for whichever side the model takes).
    """

    index: Tensor
    kind: Kind = "logit"

    def __post_init__(self) -> None:
        if not isinstance(self.index, Tensor) or self.index.ndim != 1 or self.index.dtype != torch.int64:
            got = f"{tuple(self.index.shape)} {self.index.dtype}" if isinstance(self.index, Tensor) else type(self.index).__name__
            raise BadInput(f"Targets.index: got {got}, allowed: a (B,) int64 tensor")
        if self.kind not in get_args(Kind):
            raise UnknownName("kind of target", self.kind, get_args(Kind))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | Tensor) -> Targets:
        return Targets(self.index[rows], self.kind)

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on another device."""
        return Targets(self.index.to(device), self.kind)

    def check(self, classes: int) -> None:
        """Raise `BadInput` if an index is not one of `classes`; looks at values, so call it where data comes in, not in a loop."""
        if len(self) and not (int(self.index.min()) >= 0 and int(self.index.max()) < classes):
            wrong = self.index[(self.index < 0) | (self.index >= classes)]
            raise BadInput(f"target {int(wrong[0])}: allowed: a class index from 0 to {classes - 1}")

    def of(self, logits: Tensor) -> Tensor:
        """The explained scalar of each image; (B, K) logits -> (B,)."""
        if logits.ndim != 2 or len(logits) != len(self.index):
            raise BadInput(f"logits: got {tuple(logits.shape)}, allowed: ({len(self.index)}, K)")
        if self.index.device.type == "cpu":  # on an accelerator this look would wait for it; `check` does it where data comes in
            self.check(logits.shape[1])
        index = self.index.to(logits.device).unsqueeze(1)
        own = logits.gather(1, index).squeeze(1)
        if self.kind == "logit":
            return own
        if self.kind == "evidence":
            return own.abs()
        if self.kind == "probability":
            return own.sigmoid() if logits.shape[1] == 1 else logits.softmax(1).gather(1, index).squeeze(1)
        return own if logits.shape[1] == 1 else own - logits.scatter(1, index, float("-inf")).logsumexp(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Images and what is known about them.

    `images` (B, 3, H, W), normalised for the model; `targets` and `ids` one per image; `regions` name -> (B, H, W) masks in [0, 1];
    `groups` name -> (B,) labels; `logits` (B, K), what the model answered, where that is known already.
    """

    images: Tensor
    targets: Targets
    ids: tuple[str, ...]
    regions: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    groups: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.images, Tensor) or self.images.ndim != 4 or not self.images.is_floating_point():
            got = f"{tuple(self.images.shape)} {self.images.dtype}" if isinstance(self.images, Tensor) else type(self.images).__name__
            raise BadInput(f"Batch.images: got {got}, allowed: a (B, 3, H, W) floating-point tensor")
        if not isinstance(self.targets, Targets):
            raise BadInput(f"Batch.targets: got {type(self.targets).__name__}, allowed: Targets")
        object.__setattr__(self, "ids", names_of(self.ids, "Batch.ids"))
        rows = len(self.images)
        for name, length in {"targets": len(self.targets), "ids": len(self.ids)}.items():
            if length != rows:
                raise BadInput(f"Batch.{name}: got {length}, allowed: one per image ({rows})")
        for name, region in self.regions.items():
            _check_shape(f"Batch.regions[{name!r}]", region, (rows, *self.images.shape[-2:]))
        for name, group in self.groups.items():
            _check_shape(f"Batch.groups[{name!r}]", group, (rows,))
        if self.logits is not None and (self.logits.ndim != 2 or len(self.logits) != rows):
            raise BadInput(f"Batch.logits: got {tuple(self.logits.shape)}, allowed: ({rows}, K)")
        object.__setattr__(self, "regions", types.MappingProxyType(dict(self.regions)))
        object.__setattr__(self, "groups", types.MappingProxyType(dict(self.groups)))

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return remade(self)

    def __getitem__(self, rows: slice) -> Batch:
        """Some of the images, with everything that is known about them."""
        if not isinstance(rows, slice):
            raise BadInput(f"Batch[...]: got {type(rows).__name__}, allowed: a slice, such as batch[:8]")
        return Batch(
            self.images[rows],
            self.targets[rows],
            self.ids[rows],
            {name: region[rows] for name, region in self.regions.items()},
            {name: group[rows] for name, group in self.groups.items()},
            None if self.logits is None else self.logits[rows],
        )

    def check_finite(self) -> None:
        """Raise `BadInput` that names the images with NaN or infinite values; what methods make of those may look like a map."""
        finite = self.images.flatten(1).isfinite().all(1)
        if not finite.all():
            wrong = [self.ids[int(row)] for row in (~finite).nonzero()]
            raise BadInput(f"images: got NaN or infinity in {', '.join(wrong[:3])}{' ...' * (len(wrong) > 3)}, allowed: finite values")

    def region(self, name: str) -> Tensor:
        """The mask called `name`, (B, H, W); `UnknownName` lists what there is."""
        if name not in self.regions:
            raise UnknownName("region", name, self.regions)
        return self.regions[name]


def turns(pairs: slice, count: int) -> Iterator[tuple[int, slice, slice]]:
    """Some `pairs` of things taken round and round, `count` in a round, cut at each: (the round's number, the things, the pairs' rows)."""
    for number in range(pairs.start // count, (pairs.stop - 1) // count + 1):
        start, stop = max(pairs.start, number * count), min(pairs.stop, (number + 1) * count)
        yield number, slice(start - number * count, stop - number * count), slice(start - pairs.start, stop - pairs.start)


def remade(record: Any) -> tuple[Any, ...]:
    """How to copy a frozen record and to send it to another process: from its values, its read-only mappings as plain ones."""
    values = (getattr(record, field.name) for field in dataclasses.fields(record))
    return type(record), tuple(dict(value) if isinstance(value, types.MappingProxyType) else value for value in values)


def names_of(names: Iterable[str], what: str) -> tuple[str, ...]:
    """Several names as a tuple; `what` they are, in words, for the message if they are something else."""
    if isinstance(names, str):
        raise BadInput(f"{what}: got a string, allowed: several strings")
    found = tuple(names)
    wrong = [type(name).__name__ for name in found if not isinstance(name, str)]
    if wrong:
        raise BadInput(f"{what}: got {wrong[0]}, allowed: strings")
    return found


def _check_shape(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(tensor, Tensor):
        raise BadInput(f"{what}: got {type(tensor).__name__}, allowed: a tensor of shape {shape}")
    if tuple(tensor.shape) != shape:
        raise BadInput(f"{what}: got {tuple(tensor.shape)}, allowed: {shape}")
