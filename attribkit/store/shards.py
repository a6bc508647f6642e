"""Files of maps: safetensors at the maps' own resolution, named by what they are of, whole or not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from ..attribution import Attribution
from ..batch import Targets
from ..errors import BadInput, BrokenRun, Unwritable
from ..files import write_durable
from ..maps import doubled, halved

FORMAT = "attribkit/maps/1"
LONGEST = 6 * 4096  # bytes of an image's name as JSON: what claims to be longer is not read
Precision = Literal["float16", "float32", "none"]


def check_precision(maps: str) -> Precision:
    """The precision in which maps are kept, from its name."""
    if maps not in get_args(Precision):
        raise BadInput(f"maps: got {maps!r}, allowed: {', '.join(get_args(Precision))}")
    return maps  # type: ignore[return-value]  # it is one of them


def as_kept(attribution: Attribution, maps: Precision) -> Attribution:
    """The attribution with the maps that a file of it would hold, which are those that are scored."""
    return dataclasses.replace(attribution, maps=doubled(*halved(attribution.maps))) if maps == "float16" else attribution


def name_of(content: str, method: str, digest: str) -> str:
    """The name of the file that has the maps of a shard with this content by a method, and itself has this digest.

    So one that is made again, a bit otherwise, as on an accelerator, takes no other's place.
    """
    return f"{hashlib.sha256(f'{content} {method}'.encode()).hexdigest()[:24]}-{digest[:16]}.safetensors"


def digest(content: bytes) -> str:
    """The digest of a file's content."""
    return hashlib.sha256(content).hexdigest()


def keep(folder: Path, name: str, content: bytes) -> None:
    """Write the content of a file of maps."""
    try:
        folder.mkdir(exist_ok=True)
        write_durable(folder / name, content)
    except OSError as error:
        raise Unwritable(f"{folder / name}: {(error.strerror or str(error)).lower()}; what was finished is kept") from error


def encoded(parts: Sequence[Attribution], maps: Precision) -> bytes:
    """The content of a file: the maps of all parts, which have one resolution."""
    import torch
    from safetensors.torch import save

    whole = torch.cat([part.maps for part in parts]).detach().cpu().contiguous()
    tensors = {"maps": whole, "targets": torch.cat([part.targets.index for part in parts]).cpu().int()}
    if maps == "float16":
        tensors["maps"], tensors["units"] = halved(whole)
    names = zlib.compress(json.dumps([name for part in parts for name in part.ids]).encode(), 9)  # else a third of a file of small maps
    tensors["ids"] = torch.tensor(list(names), dtype=torch.uint8)
    first = parts[0]
    about = {"format": FORMAT, "kind": first.targets.kind, "method": first.method, "model": first.model, "size": first.size}
    return save(tensors, {"about": json.dumps(about)})  # one entry: several would be in an order of chance


def digest_of(path: Path) -> str | None:
    """The digest of a file; None where there is none that can be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def read(path: Path, expected: str | None = None) -> Attribution:
    """The maps in a file; `BrokenRun` where it is not there, is damaged, or has not the digest that is `expected`."""
    import safetensors.torch

    try:
        content = path.read_bytes()
    except OSError as error:
        raise BrokenRun(path, f"cannot be read: {error.strerror}") from error
    if expected is not None and digest(content) != expected:
        raise BrokenRun(path, "damaged: its digest is not the one in the ledger")
    try:
        tensors, about = safetensors.torch.load(content), _about(content)
        maps = doubled(tensors["maps"], tensors["units"]) if "units" in tensors else tensors["maps"]
        targets, size = Targets(tensors["targets"].long(), about["kind"]), (about["size"][0], about["size"][1])
        names = zlib.decompressobj().decompress(bytes(tensors["ids"].tolist()), LONGEST * len(maps) + 2)
        return Attribution(maps, targets, json.loads(names), about["method"], size, model=about["model"])
    except (safetensors.SafetensorError, zlib.error, KeyError, TypeError, IndexError, ValueError, RuntimeError, RecursionError) as error:
        raise BrokenRun(path, f"no maps of a run: {error}") from None


def _about(content: bytes) -> dict[str, Any]:
    """What the header says beside where the tensors are."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    about: dict[str, Any] = json.loads(header["about"])
    if about["format"] != FORMAT:
        raise ValueError(f"got format {about['format']!r}, allowed: {FORMAT!r}")
    return about
