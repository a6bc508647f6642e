"""Images that lie in files, with what a manifest says of each: read as they are needed, a damaged one at the cost of itself."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..batch import Batch, Kind, Targets
from ..errors import BadInput, BrokenFile, BrokenImage
from ..images import read_image
from ..scores import Failure
from ..scoring.summaries import type_of
from .manifest import Manifest, Region, Row
from .rle import RunLengths
from .shards import digested, starts

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

_WORDNET = re.compile(r"n\d{8}")
_MASKS = "allowed: grey, black outside and white inside, or the numbers 0 and 1"
_COLOUR = 8  # of 255: how far a JPEG's channels may differ where they are meant to be one grey


@dataclasses.dataclass(frozen=True)
class Files:
    """The rows of a manifest as a model wants them, `batch_size` at a time; labels that are no class raise `BrokenFile` when it is made.

    With a `limit` the first rows only, whose classes and codes are those that they have among all of them.
    """

    model: VisionModel
    manifest: Manifest
    kind: Kind
    batch_size: int
    failures: list[Failure]
    limit: int | None = None

    def __post_init__(self) -> None:
        _ = self._targets

    def __len__(self) -> int:
        return len(self.manifest.rows[: self.limit])

    @property
    def title(self) -> str:
        """The file with the folder that it is in, which tells manifests of one name apart."""
        source = self.manifest.source.absolute()
        return source.name if source.is_dir() else f"{source.parent.name}/{source.name}"

    @functools.cached_property
    def group_names(self) -> dict[str, tuple[str, ...]]:
        """The labels of each group, in the order of their codes: sorted, as numbers where all of them are numbers."""
        columns = zip(*(row.groups for row in self.manifest.rows), strict=True)
        return {name: _sorted(set(column)) for name, column in zip(self.manifest.groups, columns, strict=True)}

    @functools.cached_property
    def unlabelled(self) -> frozenset[str]:
        """The paths of rows without a label."""
        return frozenset(row.path for row in self.manifest.rows if not row.label)

    def numbered(self) -> Iterator[tuple[Sequence[int], Batch]]:
        """Batches, each with the rows in it; what cannot be read is left out and stands in `failures` afterwards."""
        self.failures.clear()
        for number in range(self.shards):
            rows, batch, broken = self._readable(self.rows(number))
            self.failures.extend(broken)
            if batch is not None:
                yield rows, batch

    @property
    def shards(self) -> int:
        """How many times `batch_size` rows there are."""
        return starts(len(self), self.batch_size)

    def rows(self, number: int) -> range:
        """The rows of a shard."""
        return range(number * self.batch_size, min((number + 1) * self.batch_size, len(self)))

    def named(self, rows: Sequence[int]) -> tuple[str, ...]:
        """The ids of rows."""
        return tuple(self.manifest.rows[index].path for index in rows)

    def read(self, rows: Sequence[int]) -> tuple[Batch | None, tuple[Failure, ...]]:
        """The rows that can be read, and why the others cannot."""
        _, batch, broken = self._readable(rows)
        return batch, broken

    def digest_of(self, rows: Sequence[int]) -> str:
        """What changes with the content of any of the rows' files, and with what the manifest says of them."""
        said = [[*self.manifest.rows[index][1:], self._targets[self.manifest.rows[index].label]] for index in rows]
        masks = [region for index in rows for region in self.manifest.rows[index].regions if isinstance(region, str)]
        contents = [_content(self.manifest.folder / name) for name in (*self.named(rows), *masks)]
        types = [type_of(labels).__name__ for labels in self.group_names.values()]  # one label that is a word makes words of all
        return digested(self.kind, self.manifest.regions, self.manifest.groups, types, said, contents)

    def _readable(self, rows: Sequence[int]) -> tuple[tuple[int, ...], Batch | None, tuple[Failure, ...]]:
        read, broken = {}, []
        for index in rows:
            try:
                read[index] = self._read(self.manifest.rows[index])
            except BrokenImage as error:
                broken.append(Failure(self.manifest.rows[index].path, "read", error.reason))
        return tuple(read), self._batch(list(read), list(read.values())) if read else None, tuple(broken)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The images of these rows; `BrokenImage` for the first that cannot be read."""
        return self._batch(indices, [self._read(self.manifest.rows[index]) for index in indices])

    def _batch(self, indices: Sequence[int], read: list[tuple[Tensor, list[Tensor]]]) -> Batch:
        device, rows = self.model.device, [self.manifest.rows[index] for index in indices]
        images = torch.stack([image for image, _ in read]).to(device)
        index = torch.tensor([self._targets[row.label] for row in rows], device=device)
        logits = None
        if any(not row.label for row in rows):
            logits = self.model.logits(images)
            index = torch.where(index < 0, logits.argmax(1), index)
        regions = [torch.stack(column).to(device) for column in zip(*(regions for _, regions in read), strict=True)]
        codes = {
            name: torch.tensor([self._codes[name][row.groups[place]] for row in rows], device=device)
            for place, name in enumerate(self.manifest.groups)
        }
        named = dict(zip(self.manifest.regions, regions, strict=True))
        return Batch(images, Targets(index, self.kind), tuple(row.path for row in rows), named, codes, logits)

    def _read(self, row: Row) -> tuple[Tensor, list[Tensor]]:
        """The image and its regions as the model takes them; `BrokenImage` where one of them cannot be had."""
        path = self.manifest.folder / row.path
        image = read_image(path)
        try:
            return self.model.preprocessing(image), [self._region(each, image.size) for each in row.regions]
        except BadInput as error:  # a shape that cannot be resized, such as 1 x 40000; a region that is not on the image
            raise BrokenImage(path, str(error)) from None

    def _region(self, region: Region | None, size: tuple[int, int]) -> Tensor:
        """(H, W), how much of each pixel lies inside; 0 everywhere where there is no region."""
        preprocessing = self.model.preprocessing
        if region is None:
            return torch.zeros(preprocessing.size)
        if isinstance(region, str):
            return preprocessing.mask(torch.from_numpy(np.array(self._mask(region, size))))
        if isinstance(region, RunLengths):
            _check_size("its run lengths", (region.width, region.height), size)
            return preprocessing.mask(torch.from_numpy(region.mask()))
        if region[2] > size[0] + 1 or region[3] > size[1] + 1:  # half a pixel too far is rounding; more, and it is another image's size
            raise BadInput(f"its box {' '.join(f'{each:g}' for each in region)}: reaches beyond the image of {size[0]} x {size[1]}")
        return preprocessing.box(region, *size)

    def _mask(self, name: str, size: tuple[int, int]) -> Image.Image:
        try:
            mask = read_image(self.manifest.folder / name, convert=as_mask)
        except BrokenImage as error:
            raise BadInput(f"its mask {name}: {error.reason}") from None
        _check_size(f"its mask {name}", mask.size, size)
        return mask

    @functools.cached_property
    def _targets(self) -> dict[str, int]:
        """The class of each label, -1 for none: what the model predicts."""
        found, rows = {"": -1}, {row.label: row for row in reversed(self.manifest.rows) if row.label}
        of_folder = self.manifest.source == self.manifest.folder
        classes = class_folders(sorted(rows), self.model.classes) if of_folder else {}
        for label, row in rows.items():
            try:
                found[label] = classes[label] if label in classes else self.model.target(label)
            except BadInput as error:
                where = row.at if of_folder else f"{row.at}, column label"
                raise BrokenFile(self.manifest.source, f"{where}: {error}") from None
        return found

    @functools.cached_property
    def _codes(self) -> dict[str, dict[str, int]]:
        return {name: {label: code for code, label in enumerate(labels)} for name, labels in self.group_names.items()}


def _check_size(what: str, got: tuple[int, int], size: tuple[int, int]) -> None:
    if got != size:
        raise BadInput(f"{what}: {got[0]} x {got[1]} for an image of {size[0]} x {size[1]} (both upright), allowed: the image's size")


def class_folders(folders: list[str], classes: Sequence[str]) -> dict[str, int]:
    """The class of each of the sorted folders that is named in another way than its class: "n01484850_great_white_shark", "n01484850".

    The order of WordNet ids is that of ImageNet's classes, so ids alone are enough where there is a folder for every class.
    """
    names = [name.lower() for name in classes]
    times = Counter(names)
    known = {name: index for index, name in enumerate(names) if times[name] == 1}
    words = [re.sub(r"[\s_]+", " ", _WORDNET.sub("", folder, count=1)).strip().lower() for folder in folders]
    by_id = len(folders) == len(names) and all(_WORDNET.match(folder) for folder in folders)
    if by_id and all(known.get(word, place) == place for place, word in enumerate(words)):
        return {folder: place for place, folder in enumerate(folders)}
    return {folder: known[word] for folder, word in zip(folders, words, strict=True) if word in known and folder not in classes}


def as_mask(image: Image.Image) -> Image.Image:
    """A mask's values as shares in [0, 1] (mode "F"): black is outside, white inside; `BadInput` where that cannot be told.

    One that holds nothing but the numbers 0 and 1 is read as such, whatever its depth.
    """
    if image.mode.startswith(("I", "F")):
        values, top = np.asarray(image, dtype=np.float32), 1.0 if image.mode == "F" else 65535.0
    else:
        red, green, blue, alpha = np.moveaxis(np.asarray(image.convert("RGBA"), dtype=np.float32), 2, 0)
        if alpha.min() < 255 or max(abs(red - green).max(), abs(blue - green).max()) > _COLOUR:
            raise BadInput(f"{'transparent' if alpha.min() < 255 else 'coloured'}; {_MASKS}")
        values, top = green, 255.0
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= top or 1 < high < top / 2:  # numbers of parts, 0, 1, 2, 3, would pass for a black mask
        raise BadInput(f"values from {low:g} to {high:g} of {top:g}; {_MASKS}")
    return Image.fromarray(values if high <= 1 else values / np.float32(top))


def _content(path: Path) -> str:
    """A digest of a file's bytes; of one that cannot be read, which the images' reader will say, why."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if path.is_file() else "no file"
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _sorted(labels: set[str]) -> tuple[str, ...]:
    numbers = all(label.isdecimal() for label in labels)
    return tuple(sorted(labels, key=lambda label: (int(label) if numbers else 0, label)))
