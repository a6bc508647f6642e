"""A problem whose targets are what its model answers: what maps of a diagnosis explain, and what is kept of every answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..batch import Batch, Targets
from ..diagnosis.answers import told_apart
from ..errors import BadInput
from ..evaluating.units import read
from ..problems.shards import Shard, digested, rows_of
from ..scores import Failure
from .held import Around, Held

BORDER, CENTRE, MIRRORED = "image border", "image centre", "{}, mirrored"
FRAME = 8  # the border is an eighth of each side wide
MOST_CLASSES = 50  # of which the probabilities are kept


class Known(NamedTuple):
    """What is known of an image: its answer, its label (-1: none), its probabilities where they are kept, the codes of its groups."""

    answer: int
    truth: int
    probabilities: tuple[float, ...] | None
    groups: tuple[int | float | None, ...]


@dataclasses.dataclass(eq=False)
class Answered(Around[Held]):
    """The images of `problem`, the model's answer as the target; `known` fills as they are read.

    Beside the problem's regions stand each of them mirrored, the image's border and its centre; beside its groups the class, where it is
    known. An image without a finite answer is left out.
    """

    name: ClassVar[str] = "answered"

    known: dict[str, Known] = dataclasses.field(default_factory=dict, init=False)
    groups: tuple[str, ...] = dataclasses.field(default=(), init=False)
    regions: tuple[str, ...] = dataclasses.field(default=(), init=False)
    outputs: int = dataclasses.field(default=0, init=False)
    _last: tuple[int, Shard] | None = dataclasses.field(default=None, init=False)

    def digest(self, number: int) -> str:
        """Of the problem's shard; what its model answers, the model decides."""
        return digested(self.name, self.problem.digest(number))

    @property
    def group_names(self) -> Mapping[str, tuple[str, ...]]:
        """The problem's, and the names of the classes."""
        names = told_apart(self.model.classes) or tuple(f"class {index}" for index in range(self.outputs))
        return {**self.problem.group_names, self.class_group: names}

    @property
    def class_group(self) -> str:
        """What the group of the labels' classes is called, beside the problem's groups."""
        return "class" if "class" not in self.groups else "labelled class"

    def shard(self, number: int, names: Collection[str] | None = None) -> Shard:
        """A shard, or some of its images, with answers; the last whole one is kept, since an evaluation looks at the first one twice."""
        if names is None and self._last is not None and self._last[0] == number:
            return self._last[1]
        made = self._answered(self.problem.shard(number, names))
        if names is None:
            self._last = number, made
        return made

    def first(self) -> Batch:
        """The first images that can be read, or `BadInput` that says why one cannot."""
        reasons = []
        for number in range(self.shards):
            part = read(self, number, None)
            if part.batch is not None and len(part.batch):
                return part.batch
            reasons += [f" ({each.id}: {each.reason})" for each in part.failures[:1]]
        raise BadInput(f"{self.label}: got no image that can be read and answered{''.join(reasons[:1])}, allowed: at least one")

    def check(self) -> None:
        """Raise `BadInput` where an answer is no choice, or a region has the name of one that every image is given."""
        if self.outputs < 2:
            raise BadInput(
                f"{self.model.name}: got one logit, allowed: one for each of two classes or more, of which the largest is the answer"
            )
        given = {BORDER, CENTRE, *map(MIRRORED.format, self.regions)}
        taken = next((name for name in self.regions if name in given), None)
        if taken is not None:
            allowed = f"any name but {BORDER}, {CENTRE}, and that of another region with {MIRRORED.format('')!r} behind it"
            raise BadInput(f"{self.label}: a region is called {taken!r}, allowed: {allowed}")

    def order(self) -> None:
        """Put what is known in the order of the problem's images, whatever was read first: who lends parts depends on it."""
        names = (name for number in range(self.shards) for name in self.names(number))
        self.known = {name: self.known[name] for name in names if name in self.known}

    def _answered(self, part: Shard) -> Shard:
        if part.batch is None or not len(part.batch):
            return part
        batch = part.model.fit(part.batch)
        logits = part.model.logits(batch.images) if batch.logits is None else batch.logits
        finite = logits.isfinite().all(1)
        failures = part.failures
        if not bool(finite.all()):
            good = finite.tolist()
            failures += tuple(
                Failure(n, "answer", "the model's answer is not finite") for n, ok in zip(batch.ids, good, strict=True) if not ok
            )
            kept = [row for row, ok in enumerate(good) if ok]
            if not kept:
                return Shard(part.model, None, failures)
            batch, logits = rows_of(batch, kept), logits[finite]
        return Shard(part.model, self._noted(batch, logits), failures)

    def _noted(self, batch: Batch, logits: Tensor) -> Batch:
        """The batch with answers as targets; what is known of its images is kept."""
        unlabelled = self.problem.unlabelled
        self.groups, self.regions, self.outputs = tuple(batch.groups), tuple(batch.regions), logits.shape[1]
        answers, shares = logits.argmax(1), logits.softmax(1)
        truth = torch.tensor([name not in unlabelled for name in batch.ids], device=logits.device)
        truth = torch.where(truth, batch.targets.index, -1)
        rows = shares.tolist() if self.outputs <= MOST_CLASSES else [None] * len(batch)
        codes = [list(map(code_of, group.tolist())) for group in batch.groups.values()]
        each = zip(batch.ids, answers.tolist(), truth.tolist(), rows, strict=True)
        for place, (name, answer, label, row) in enumerate(each):
            own = tuple(column[place] for column in codes)
            self.known[name] = Known(answer, label, None if row is None else tuple(row), own)
        labels = torch.where(truth >= 0, truth.float(), torch.nan)
        return Batch(
            batch.images,
            Targets(answers, batch.targets.kind),
            batch.ids,
            _framed(batch),
            {**batch.groups, self.class_group: labels},
            logits,
        )


def code_of(value: float) -> int | float | None:
    """A label of a group as it is kept: a whole number as one, none where it is not a number."""
    if value != value:
        return None
    return int(value) if float(value).is_integer() else value


def _framed(batch: Batch) -> dict[str, Tensor]:
    """The regions, each of them mirrored, and two that every image has."""
    border = torch.ones(len(batch), *batch.images.shape[-2:], device=batch.images.device)
    height, width = border.shape[1:]
    border[:, height // FRAME : height - height // FRAME, width // FRAME : width - width // FRAME] = 0
    centre = torch.zeros_like(border)
    centre[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    mirrored = {MIRRORED.format(name): region.flip(1, 2) for name, region in batch.regions.items()}
    return {**batch.regions, **mirrored, BORDER: border, CENTRE: centre}
