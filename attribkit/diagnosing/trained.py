"""What a model was trained on, as far as its labels and groups go: no image of a manifest is read for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..diagnosis.amplification import Training
from ..diagnosis.answers import NONE
from ..errors import BadInput, BrokenFile
from ..model.adapter import VisionModel
from ..problems.manifest import read_manifest
from ..scoring.parts import labels_named
from .answered import code_of


def training_of(model: VisionModel, given: Any) -> Training:
    """The classes and groups in a manifest, or of every batch of a problem."""
    if isinstance(given, str | Path):
        return _of_manifest(model, given)
    if not hasattr(given, "label") or not hasattr(given, "__iter__"):
        raise BadInput(f"training: got {type(given).__name__}, allowed: a problem, or a manifest (CSV or Parquet)")
    truth: list[NDArray[np.int64]] = []
    codes: dict[str, list[NDArray[Any]]] = {}
    for _, batch in given:
        truth.append(batch.targets.index.cpu().numpy())
        for name, group in batch.groups.items():
            codes.setdefault(name, []).append(group.cpu().numpy())
    names: Mapping[str, Sequence[str]] = getattr(given, "group_names", {})
    groups = {name: _labels(np.concatenate(parts), names.get(name)) for name, parts in codes.items()}
    return Training(np.concatenate(truth), groups)


def _labels(codes: NDArray[Any], names: Sequence[str] | None) -> NDArray[np.object_]:
    known = [code_of(code) for code in codes.tolist()]
    if names is not None:
        return labels_named(known, names)
    labels = np.empty(len(known), np.object_)
    labels[:] = known
    return labels


def _of_manifest(model: VisionModel, path: str | Path) -> Training:
    manifest = read_manifest(path)
    known: dict[str, int] = {"": NONE}
    for row in manifest.rows:
        if row.label not in known:
            try:
                known[row.label] = model.target(row.label)
            except BadInput as error:
                raise BrokenFile(path, f"{row.at}, column label: {error}") from None
    groups = {}
    for place, name in enumerate(manifest.groups):
        texts = [row.groups[place] for row in manifest.rows]
        groups[name] = labels_named(range(len(texts)), texts)
    return Training(np.array([known[row.label] for row in manifest.rows], np.int64), groups)
