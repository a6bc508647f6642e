"""What a method has come to on a shard, as text and bytes: to be sent from one machine to another."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..store.results import Done, Known, Scored, Trouble


def packed(done: Done) -> tuple[str, bytes]:
    """Text and bytes of which `unpacked` makes the same again."""
    blobs: list[bytes] = []
    scores = {}
    for metric, scored in done.scores.items():
        arrays: list[np.ndarray[Any, Any]] = [scored.scores, scored.chances, *([] if scored.curves is None else [scored.curves])]
        scores[metric] = {"names": scored.names, "arrays": [[str(each.dtype), each.shape] for each in arrays]}
        blobs += [each.tobytes() for each in arrays]
    known = {"names": done.known.names, "targets": done.known.targets, "groups": dict(done.known.groups)}
    about = {name: getattr(done, name) for name in ("method", "troubles", "seconds", "file", "digest")}
    return json.dumps({**about, "known": known, "scores": scores}), b"".join(blobs)


def unpacked(text: str, content: bytes) -> Done:
    """What was packed."""
    about: dict[str, Any] = json.loads(text)
    known, at, scores = about.pop("known"), 0, {}
    for metric, told in about.pop("scores").items():
        arrays = []
        for dtype, shape in told["arrays"]:
            count = int(np.prod(shape))
            arrays.append(np.frombuffer(content, dtype, count, at).reshape(shape))
            at += arrays[-1].nbytes
        scores[metric] = Scored(tuple(told["names"]), *arrays)
    troubles = tuple(Trouble(tuple(images), *rest) for images, *rest in about.pop("troubles"))
    return Done(known=Known(tuple(known["names"]), tuple(known["targets"]), known["groups"]), scores=scores, troubles=troubles, **about)
