"""Pictures of what is found: images with their maps and regions, what a swap showed the model, and mean maps by class and group."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch, Targets
from ..diagnosis.answers import NONE, Answers, Swap, labels_of
from ..diagnosis.findings import Finding
from ..diagnosis.masking import DECIDES
from ..diagnosis.result import MeanMap, Picture
from ..errors import BrokenRun
from ..maps import positive, unit_sum
from ..scoring.summaries import Label
from ..store.folder import MAPS, Store
from ..store.shards import read as read_maps
from .answered import Answered
from .asking import Asking
from .versions import box_of

CLASSES, LABELS = 6, 6  # of mean maps: the classes with the most answers; groups with no more labels
BOX = "its box"


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """What can be shown of a diagnosis; `folder` has the maps."""

    folder: Path
    answered: Answered
    asking: Asking
    answers: Answers

    def pictures(self, findings: Sequence[Finding]) -> tuple[tuple[Picture, ...], ...]:
        """The images that each finding points at; of a swap, each followed by what the model was shown instead."""
        wanted = {name for each in findings for name in each.images}
        known = {picture.id: (picture, batch) for picture, batch in self._whole(wanted)}
        return tuple(tuple(self._of(each, known)) for each in findings)

    def _of(self, finding: Finding, known: Mapping[str, tuple[Picture, Batch]]) -> Iterator[Picture]:
        swap = next((each for each in self.answers.swaps if finding.test == "swap" and each.cue == finding.cue), None)
        for name in finding.images:
            if name in known:
                picture, batch = known[name]
                yield self._boxed(picture) if finding.test == "masking" else picture
                if swap is not None:
                    yield from self._swapped(swap, batch)

    def _whole(self, wanted: set[str]) -> Iterator[tuple[Picture, Batch]]:
        maps = self._files
        for number, batch in self.answered.problem.images(wanted):
            kept = self._kept(*maps[number]) if number in maps else {}
            for row, name in enumerate(batch.ids):
                one = batch[row : row + 1]
                yield self._picture(one, name, self._caption(name), kept.get(name)), one

    def _picture(self, one: Batch, name: str, caption: str, map_: Tensor | None) -> Picture:
        pixels = (255 * self.answered.model.preprocessing.pixels(one.images.cpu())[0]).round().to(torch.uint8)
        regions = {region: (mask[0] > 0.5).cpu() for region, mask in one.regions.items()}
        return Picture(name, caption, pixels, map_, regions)

    def _caption(self, name: str) -> str:
        at = self._rows[name]
        truth, answer = self.answers.truth[at], self.answers.named(int(self.answers.full[at]))
        if truth == NONE:
            return f"answered {answer}"
        return f"{answer}, right" if truth == self.answers.full[at] else f"{self.answers.named(int(truth))}, answered {answer}"

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.answers.ids)}

    def _boxed(self, picture: Picture) -> Picture:
        """The picture with the box that was removed, and what was answered without it."""
        region = picture.regions.get(str(self.answers.region))
        if region is None:
            return picture
        answer = self.answers.named(int(self.answers.versions[DECIDES].answers[self._rows[picture.id]]))
        return picture._replace(
            caption=f"{picture.caption}; without the box: {answer}", regions={**picture.regions, BOX: box_of(region.unsqueeze(0))[0]}
        )

    def _swapped(self, swap: Swap, one: Batch) -> Iterator[Picture]:
        """The image with the part of a donor that changed its answer, if it did by one that it was shown to."""
        pool = self.asking.questions.pool
        at = self._rows[one.ids[0]]
        changed = np.flatnonzero((swap.images == at) & (swap.answers != NONE) & (swap.answers != self.answers.full[at]))
        cue = next((each for each in pool.cues if each.name == swap.cue), None) if pool is not None else None
        if not len(changed) or pool is None or cue is None:
            return
        donor, answer = int(swap.donors[changed[0]]), int(swap.answers[changed[0]])
        images, _ = pool.exchanging(self.answered.model, one, cue)(torch.tensor([donor], device=one.images.device))
        shown = Batch(images, Targets(torch.tensor([answer], device=images.device), one.targets.kind), one.ids)
        map_ = self.asking.questions.method(self.answered.model, shown).maps[0].cpu()
        caption = f"answered {self.answers.named(answer)}, with another image's {cue.name}"
        yield self._picture(shown, f"{one.ids[0]}, {cue.name} of {pool.batch.ids[donor]}", caption, map_)

    # Maps ------------------------------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _files(self) -> dict[int, tuple[str, str]]:
        """The file of each shard's maps, and its digest."""
        with Store(self.folder) as store:
            return {number: (file, digest) for number, file, digest in store.files(self.asking.questions.method.brief())}

    def _kept(self, file: str, digest: str) -> dict[str, Tensor]:
        """The maps of a shard by the names of their images, on the host; none where the file is lost."""
        try:
            kept: Attribution = read_maps(self.folder / MAPS / file, digest)
        except BrokenRun:  # it was lost while this went on; the images are shown without
            return {}
        return dict(zip(kept.ids, kept.maps, strict=True))

    def means(self) -> tuple[MeanMap, ...]:
        """The mean map of each of the most frequent answers, of all images and of each label of each group that has few."""
        rows, sums = self._rows, dict[tuple[int, str | None, Label | None], tuple[Tensor, int]]()
        parts = self._parts()
        for file in self._files.values():
            for name, map_ in self._kept(*file).items():
                if name in rows and bool(map_.isfinite().all()):
                    share = unit_sum(positive(map_.double()))
                    for part, inside in parts.items():
                        if inside[rows[name]] and (part not in sums or sums[part][0].shape == share.shape):
                            total, count = sums.get(part, (torch.zeros_like(share), 0))
                            sums[part] = total + share, count + 1
        return tuple(
            MeanMap(self.answers.named(answer), by, None if label is None else str(label), total.float() / count, count)
            for (answer, by, label), (total, count) in sums.items()
        )

    def _parts(self) -> dict[tuple[int, str | None, Label | None], NDArray[np.bool_]]:
        answers = self.answers
        found, counts = np.unique(answers.full, return_counts=True)
        frequent = [int(found[at]) for at in np.argsort(-counts, kind="stable")[:CLASSES]]
        parts: dict[tuple[int, str | None, Label | None], NDArray[np.bool_]] = {}
        for each in frequent:
            mine = answers.full == each
            parts[each, None, None] = mine
            for by, group in answers.groups.items():
                labels = labels_of(group)
                parts |= {(each, by, label): mine & (group == label) for label in labels if len(labels) <= LABELS}
        return parts
