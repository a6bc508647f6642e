"""What a model says of versions of its images, and of images with parts exchanged: batch by batch, an image that fails alone."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Batch, Targets
from ..diagnosis.answers import NONE, Answers, Donors, Swap, Version
from ..diagnosis.masking import VERSIONS
from ..evaluating.asking import said
from ..maps import positive, resize, unit_range
from ..methods.base import Method
from ..metrics.attention_iou import attention_iou_pairs
from ..model.adapter import VisionModel
from ..removals.base import Removal
from ..scores import Failure
from ..scoring.parts import labels_named
from .answered import MOST_CLASSES, Answered
from .exchanging import Pool
from .held import Held
from .versions import kept

LAYER_MASKING = "layer masking:"  # how its warnings begin


class Questions(NamedTuple):
    """What is asked: versions of `region` by `removal`, parts of so many `donors` from a `pool`, and maps of `labels` by `method`."""

    region: str | None
    removal: Removal
    pool: Pool | None
    donors: int
    method: Method
    labels: tuple[int, ...]
    protected: int | None = None


class Row(NamedTuple):
    """What one image came to: -1 where it has no such version, or no answer to it.

    Its answers to versions, and their probabilities; its donors of each cue, and the answers to what they lent; how the maps of labels
    overlap.
    """

    versions: tuple[int, ...]
    probabilities: NDArray[np.float32] | None
    donors: Mapping[str, tuple[int, ...]]
    swaps: Mapping[str, tuple[int, ...]]
    pairs: NDArray[np.float32] | None


ASKED = tuple(name for name in VERSIONS if name != "full")


@dataclasses.dataclass(eq=False)
class Asking:
    """Asks `questions` about the images of a problem; `rows` and `failures` grow, `said` has what removals warned of."""

    model: VisionModel
    questions: Questions
    rows: dict[str, Row] = dataclasses.field(default_factory=dict)
    failures: list[Failure] = dataclasses.field(default_factory=list)
    said: list[str] = dataclasses.field(default_factory=list)

    def all(self, problem: Held, names: Collection[str]) -> Iterator[int]:
        """Ask about every image of these names, shard by shard; how many are behind."""
        for _, batch in problem.images(names):
            self.batch(batch)
            yield len(self.rows)

    def batch(self, batch: Batch) -> None:
        """Ask about a batch, or where that fails about its halves."""
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self.rows |= self._asked(batch)
        except Exception as error:  # a model's own code may raise anything, and what it says of other images must not be lost
            if len(batch) == 1:
                self.failures.append(Failure(batch.ids[0], "ask", said(error)))
                return
            middle = len(batch) // 2
            self.batch(batch[:middle])
            self.batch(batch[middle:])
        else:
            self._heard(caught)

    def _heard(self, caught: Sequence[warnings.WarningMessage]) -> None:
        for each in caught:
            text = str(each.message)
            if not text.startswith(LAYER_MASKING):
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
            elif text not in self.said:
                self.said.append(text)

    def _asked(self, batch: Batch) -> dict[str, Row]:
        versions, shares = self._versions(batch)
        donors, swaps = self._swaps(batch)
        pairs = self._pairs(batch)
        return {
            name: Row(
                tuple(versions[row].tolist()),
                None if shares is None else shares[row],
                {cue: chosen[row] for cue, chosen in donors.items()},
                {cue: tuple(found[row].tolist()) for cue, found in swaps.items()},
                None if pairs is None else pairs[row],
            )
            for row, name in enumerate(batch.ids)
        }

    def _versions(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """The answers to each version, (B, V), and where there are few classes their probabilities, (B, V, K)."""
        if self.questions.region is None:
            return np.full((len(batch), len(ASKED)), NONE, np.int64), None
        answers, shares = [], []
        for keep, there in kept(batch.region(self.questions.region) > 0.5).values():
            logits = self.questions.removal(self.model, batch.images, keep)
            answers.append(_answers(logits, there))
            shares.append(torch.where(there.unsqueeze(1), logits.softmax(1), torch.nan))
        few = shares[0].shape[1] <= MOST_CLASSES
        return torch.stack(answers, 1).cpu().numpy(), torch.stack(shares, 1).float().cpu().numpy() if few else None

    def _swaps(self, batch: Batch) -> tuple[dict[str, list[tuple[int, ...]]], dict[str, NDArray[np.int64]]]:
        """Of each cue, the donors of each image, and the answers, (B, donors)."""
        pool = self.questions.pool
        donors: dict[str, list[tuple[int, ...]]] = {}
        found: dict[str, NDArray[np.int64]] = {}
        if pool is None:
            return donors, found
        for cue in pool.cues:
            chosen = [tuple(pool.donors(name, cue, self.questions.donors)) for name in batch.ids]
            most = max(map(len, chosen), default=0)
            columns, exchanged = [], pool.exchanging(self.model, batch, cue)
            for turn in range(most):
                there = torch.tensor([len(own) > turn for own in chosen], device=batch.images.device)
                at = torch.tensor([own[turn] if len(own) > turn else 0 for own in chosen], device=batch.images.device)
                images, whole = exchanged(at)
                columns.append(_answers(self.model.logits(images), there & whole))
            if columns:
                donors[cue.name], found[cue.name] = chosen, torch.stack(columns, 1).cpu().numpy()
        return donors, found

    def _pairs(self, batch: Batch) -> NDArray[np.float32] | None:
        """Heatmap scores of every two labels, (B, L, L)."""
        if not self.questions.labels:
            return None
        size = (batch.images.shape[-2], batch.images.shape[-1])
        maps = []
        for label in self.questions.labels:
            targets = Targets(torch.full_like(batch.targets.index, label), batch.targets.kind)
            found = self.questions.method(self.model, dataclasses.replace(batch, targets=targets)).maps
            maps.append(unit_range(resize(unit_range(positive(found)), size)))
        pairs: NDArray[np.float32] = attention_iou_pairs(torch.stack(maps, 1)).float().cpu().numpy()
        return pairs


def _answers(logits: Tensor, there: Tensor) -> Tensor:
    """The answers, -1 where an image has no such version, or no finite answer to it."""
    return torch.where(there & logits.isfinite().all(1), logits.argmax(1), NONE)


def answers_of(answered: Answered, asking: Asking, classes: tuple[str, ...]) -> Answers:
    """Everything that was answered, as the tests take it."""
    ids = tuple(answered.known)
    known = [answered.known[name] for name in ids]
    region, pool = asking.questions.region, asking.questions.pool
    groups = {name: _labels(answered, name, [each.groups[place] for each in known]) for place, name in enumerate(answered.groups)}
    shares = [each.probabilities for each in known]
    few = bool(known) and all(each is not None for each in shares)
    full = Version(np.array([each.answer for each in known], np.int64), np.array(shares, np.float32) if few else None)
    rows = [asking.rows.get(name) for name in ids]
    versions = {"full": full}
    if region is not None:
        versions |= {name: _version(rows, place, answered.outputs) for place, name in enumerate(ASKED)}
    return Answers(
        ids,
        classes,
        np.array([each.truth for each in known], np.int64),
        groups,
        versions,
        region,
        None if region is None else np.array([row is not None and max(row.versions) >= 0 for row in rows], bool),
        tuple(_swap(rows, cue.name) for cue in pool.cues) if pool is not None else (),
        None if pool is None else _donors(answered, pool),
    )


def _version(rows: Sequence[Row | None], place: int, outputs: int) -> Version:
    answers = np.array([NONE if row is None else row.versions[place] for row in rows], np.int64)
    if not any(row is not None and row.probabilities is not None for row in rows):
        return Version(answers)
    blank = np.full(outputs, np.nan, np.float32)
    return Version(answers, np.stack([blank if row is None or row.probabilities is None else row.probabilities[place] for row in rows]))


def _swap(rows: Sequence[Row | None], cue: str) -> Swap:
    every = [
        (place, donor, answer)
        for place, row in enumerate(rows)
        if row is not None and cue in row.swaps
        for donor, answer in zip(row.donors[cue], row.swaps[cue], strict=False)
    ]
    images, donors, answers = (np.array(column, np.int64) for column in zip(*every, strict=True)) if every else (np.empty(0, np.int64),) * 3
    return Swap(cue, images, donors, answers)


def _donors(answered: Answered, pool: Pool) -> Donors:
    groups = {name: _labels(answered, name, [each.groups[place] for each in pool.known]) for place, name in enumerate(answered.groups)}
    return Donors(pool.batch.ids, np.array([each.answer for each in pool.known], np.int64), groups)


def _labels(answered: Answered, name: str, codes: Sequence[int | float | None]) -> NDArray[np.object_]:
    """The labels of codes; an empty one is none, and numbers stay numbers."""
    names = answered.group_names.get(name)
    if names is not None:
        return labels_named(codes, names)
    labels = np.empty(len(codes), np.object_)
    labels[:] = codes
    return labels
