"""Other people's maps: read from files, or made by any callable."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from torch import Tensor

from ..attribution import FORMAT, Explained
from ..batch import Batch, Targets
from ..errors import BadInput, BrokenFile, Unsupported
from ..images import SUFFIXES
from ..model.replica import Replica
from ..model.weights import attempt
from ..registry import AtLeast
from .base import Method
from .foreign import seeded

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

_ENDINGS = (".npy", ".safetensors")
_NPY = b"\x93NUMPY"  # what such a file begins with
_SHAPES = "(h, w), (1, h, w) or (C, h, w)"


@dataclasses.dataclass(frozen=True)
class Precomputed(Method):
    """Maps that were made elsewhere and saved, matched to the images by their ids.

    `folder` holds a file for each image, its id with ".npy" or ".safetensors" behind it or in the place of its own suffix (cat.jpg.npy,
    cat.npy); a .safetensors file has one tensor, or one called "map" or "maps". Or `folder` is one .safetensors file: a saved
    `Attribution`, whose targets must be those asked for, or a tensor for each id. Maps are (h, w), (1, h, w) or (C, h, w), whose channels
    are summed, of any kind of real number, and finite; those of one batch have one size. They are of the images they were made of, and
    of no others: what asks for maps of changed images is refused.
    """

    name = "precomputed"
    paper = "as made elsewhere"
    cost = "reading a file per image"

    folder: str

    def _explain(self, model: VisionModel, batch: Batch) -> Explained:
        whole = Path(self.folder)
        found = _from_folder(whole, batch) if whole.is_dir() else _from_file(whole, batch)
        first, *others = maps = list(found)
        for name, one in zip(batch.ids[1:], others, strict=True):
            if one.shape != first.shape:
                sizes = " and ".join(f"{each.shape[0]} x {each.shape[1]}" for each in (first, one))
                raise BadInput(f"{self!r}: got maps of {sizes} ({batch.ids[0]}, {name}), allowed: one size for all")
        return Explained(torch.stack(maps).to(batch.images.device), {})

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        raise Unsupported(f"{self!r}: stored maps cannot be made again for other images; allowed: the images that they were made of")


@dataclasses.dataclass(frozen=True)
class FromCallable(Method):
    """Maps made by any callable `(module, images, index) -> maps`, such as another library's.

    It gets a copy of the model's module in evaluation mode, which may be hooked and changed at will, a copy of some normalised images
    (R, 3, H, W) on the model's device, and the class to explain for each, (R,) int64; gradients are on. `module(images)` gives logits
    (R, K), and `module(images, index)` the explained scalars (R,). It returns (R, h, w) or (R, C, h, w), whose channels are summed, as
    a tensor or array of finite numbers. An image's map must not depend on its batch; random draws begin with `seed` and the first of the
    images. `label` is what tables call it, by default the callable's own name. A callable has no text that could be read back, so this
    method cannot be written on a command line.
    """

    name = "from_callable"
    paper = "as the callable says"
    cost = "as the callable says"
    needs = frozenset({"gradients"})

    function: Callable  # type: ignore[type-arg]  # the bare class is what settings can be checked against
    label: str = ""
    seed: Annotated[int, AtLeast(0)] = 0

    def __repr__(self) -> str:
        """With the callable's name: its own text would be another in each run."""
        return f"FromCallable(function={self._named}, seed={self.seed})"

    def brief(self) -> str:
        """As `repr`, without the seed where it is the usual one."""
        return repr(self) if self.seed else f"FromCallable(function={self._named})"

    @property
    def _named(self) -> str:
        return self.label or getattr(self.function, "__qualname__", type(self.function).__qualname__)

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        size = (images.shape[-2], images.shape[-1])

        def work(rows: slice) -> tuple[Tensor]:
            some = images[rows].to(model.device, copy=True)
            lent = Replica(model, kind=targets.kind, size=size, own_weights=True)  # without what was done to the last one
            with seeded(some[:1], self.seed, pictures=model.pictures):
                made = self.function(lent, some, targets.index[rows].clone())
            return (self._checked(made, len(some)).to(images.device),)

        return model.in_rows(work, len(images), grad=True)[0]

    def _checked(self, made: Any, rows: int) -> Tensor:
        """What the callable returned as maps (R, h, w)."""
        if not isinstance(made, Tensor | np.ndarray):
            raise BadInput(f"{self!r}: returned {type(made).__name__}, allowed: a tensor or an array of maps")
        maps = made.detach() if isinstance(made, Tensor) else _tensor(made, repr(self))
        if maps.ndim not in (3, 4) or len(maps) != rows or not maps.numel():
            raise BadInput(f"{self!r}: returned {tuple(maps.shape)}, allowed: ({rows}, h, w) or ({rows}, C, h, w)")
        return _summed(maps, repr(self))


def _from_folder(folder: Path, batch: Batch) -> Iterator[Tensor]:
    """The map of each image from its own file."""
    files = [_file_of(folder, name) for name in batch.ids]
    missing = [name for name, file in zip(batch.ids, files, strict=True) if file is None]
    if missing:
        raise _missing(missing, batch.ids, str(folder), "<id>.npy or <id>.safetensors")
    owner: dict[Path | None, str] = {}
    for name, file in zip(batch.ids, files, strict=True):
        if owner.setdefault(file, name) != name:
            raise BadInput(f"{file}: got a map that would be that of {owner[file]} and of {name}, allowed: one whose name says which")
    for number, file in enumerate(files):
        if file is not None:
            one = batch[number : number + 1]
            yield _from_npy(file) if file.suffix == ".npy" else _from_safetensors(file, one, alone=True)[0]


def _file_of(folder: Path, name: str) -> Path | None:
    """The file with the map of the image `name`, if there is one."""
    inside = PurePath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise BadInput(f"image {name!r}: its map would lie outside of {folder}, allowed: ids that are file names or paths inside a folder")
    for stem in (name, _without_suffix(name)):
        for ending in _ENDINGS:
            path = os.path.join(folder, stem + ending)
            if os.path.isfile(path):
                if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
                    raise BadInput(f"{path}: leads out of its folder, allowed: files inside {folder}")
                return Path(path)
    return None


def _without_suffix(name: str) -> str:
    """An image's name without the suffix of an image file; a dot in another place belongs to the name."""
    stem, dot, _ = name.rpartition(".")
    return stem if dot and name.lower().endswith(SUFFIXES) else name


def _from_file(path: Path, batch: Batch) -> list[Tensor]:
    """The map of each image from one file for all."""
    if not os.path.isfile(path):
        raise BadInput(f"{path}: got no such folder or file, allowed: a folder of maps, or a .safetensors file")
    if path.suffix != ".safetensors":
        raise BadInput(f"{path}: got one file that does not say whose maps it holds, allowed: a folder of maps, or a .safetensors file")
    return _from_safetensors(path, batch)


def _missing(missing: Sequence[str], ids: Sequence[str], where: str, wanted: str) -> BadInput:
    return BadInput(f"{where}: got no map of {missing[0]!r} ({len(missing)} of {len(ids)} images have none), allowed: {wanted} for each")


def _from_npy(path: Path) -> Tensor:
    def load() -> np.ndarray[Any, Any]:
        with open(path, "rb") as file:
            if file.read(len(_NPY)) != _NPY:
                raise BrokenFile(path, "is not one array as np.save writes it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd headers; what counts is whether it can be read
            # Mapped, so that a header which promises more than the file holds allocates nothing.
            mapped: np.ndarray[Any, Any] = np.load(path, mmap_mode="r")
            return mapped

    return _one_map(_tensor(attempt(load, lambda error: _broken(path, error)), str(path)), str(path))


def _from_safetensors(path: Path, batch: Batch, *, alone: bool = False) -> list[Tensor]:
    """The maps of a batch in one file; `alone`: of one image, which the file is named after, whatever it says inside."""
    found = attempt(lambda: _tensors_in(path, batch, alone), lambda error: _broken(path, error))
    return [_one_map(each, str(path)) for each in found]


def _tensors_in(path: Path, batch: Batch, alone: bool) -> list[Tensor]:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") == FORMAT:
            ids, maps = [str(name) for name in json.loads(metadata["about"])["ids"]], file.get_slice("maps")
            targets = file.get_tensor("targets").tolist()
            if not maps.get_shape()[0] == len(ids) == len(targets):
                raise BrokenFile(path, "a saved Attribution with a part missing")
            ids = list(batch.ids) if alone and len(ids) == 1 else ids
            return [
                maps[row : row + 1]
                for row in _rows_of(dict(zip(zip(ids, targets, strict=True), range(len(ids)), strict=True)), batch, path)
            ]
        keys = list(file.keys())
        return [file.get_tensor(key) for key in ([_own_key(keys, path)] if alone else _keys_of(keys, batch, path))]


def _broken(path: Path, error: Exception) -> BrokenFile:
    return BrokenFile(path, f"cannot be read as a map: {str(error) or type(error).__name__}")


def _rows_of(saved: dict[tuple[str, int], int], batch: Batch, path: Path) -> list[int]:
    """Which rows of a saved `Attribution`, told by id and target, are those of the batch."""
    classes = dict(saved.keys())
    missing = [name for name in batch.ids if name not in classes]
    if missing:
        raise _missing(missing, batch.ids, str(path), "one")
    asked = list(zip(batch.ids, batch.targets.index.tolist(), strict=True))
    for name, target in asked:
        if (name, target) not in saved:
            raise BadInput(f"{path}: got a map of {name!r} that explains class {classes[name]}, allowed: the class asked for, {target}")
    return [saved[each] for each in asked]


def _keys_of(keys: list[str], batch: Batch, path: Path) -> list[str]:
    """The tensors of a file that has one for each id."""
    known = set(keys)
    places = [next((key for key in (name, _without_suffix(name)) if key in known), None) for name in batch.ids]
    missing = [name for name, place in zip(batch.ids, places, strict=True) if place is None]
    if missing:
        raise _missing(missing, batch.ids, str(path), "a saved Attribution, or a tensor called <id>")
    return [place for place in places if place is not None]


def _own_key(keys: list[str], path: Path) -> str:
    """The tensor of a file that belongs to one image."""
    named = [key for key in ("map", "maps") if key in keys]
    if len(keys) != 1 and not named:
        raise BrokenFile(path, f"{len(keys)} tensors, allowed: one, or one called 'map' or 'maps'")
    return (named or keys)[0]


def _tensor(array: np.ndarray[Any, Any], what: str) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise BadInput(f"{what}: got values of {array.dtype}, allowed: real numbers")
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 4
    return torch.from_numpy(np.array(array, dtype=np.float64 if wide else np.float32))  # a copy, of any byte order


def _one_map(found: Tensor, what: str) -> Tensor:
    """A map (h, w) from a stored tensor."""
    shape = tuple(found.shape)
    if found.ndim == 4 and shape[0] == 1:
        found = found[0]
    if found.ndim not in (2, 3) or not found.numel():
        raise BadInput(f"{what}: got a map of {shape}, allowed: {_SHAPES}, not empty")
    if found.ndim == 3 and found.shape[2] in (1, 3, 4) and found.shape[0] not in (1, 3, 4):
        raise BadInput(f"{what}: got a map of {shape}, with its channels last, allowed: {_SHAPES}")
    return _summed(found if found.ndim == 3 else found.unsqueeze(0), what, channels=0).float()


def _summed(maps: Tensor, what: str, *, channels: int = 1) -> Tensor:
    """Maps of real numbers that are finite, also as float32, their channels summed where they have any; float32 or float64."""
    if maps.is_complex():
        raise BadInput(f"{what}: got values of {maps.dtype}, allowed: real numbers")
    maps = maps if maps.dtype == torch.float64 else maps.float()
    maps = maps.sum(channels) if maps.ndim == channels + 3 else maps
    if not maps.float().isfinite().all():
        raise BadInput(f"{what}: got NaN or infinity, or numbers beyond float32, allowed: finite ones")
    return maps
