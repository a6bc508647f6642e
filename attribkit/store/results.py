"""What has come of a run: scores by shard, method and metric, each with a check sum, and failures."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BrokenRun
from .ledger import Ledger

Floats = NDArray[np.float32]


class Scored(NamedTuple):
    """The scores of some images by one metric: their names, scores and chances (N,), curves (N, K) where there are such."""

    names: tuple[str, ...]
    scores: Floats
    chances: Floats
    curves: NDArray[np.float16] | None = None


class Known(NamedTuple):
    """What is known of some images: names, targets, and labels by group (None where an image has none)."""

    names: tuple[str, ...]
    targets: tuple[int, ...]
    groups: Mapping[str, Sequence[Any]]


class Trouble(NamedTuple):
    """Why something of a shard could not be done: of which images (none: of all), by which method, at which stage."""

    images: tuple[str, ...]
    method: str
    stage: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Done:
    """What a method has come to on a shard: scores by the text of their metric, the file of its maps and that file's digest."""

    method: str
    known: Known
    scores: Mapping[str, Scored]
    troubles: tuple[Trouble, ...]
    seconds: float
    file: str | None = None
    digest: str | None = None


def commit(ledger: Ledger, shard: int, done: Done) -> None:
    """Keep what is done, all of it or nothing; what is kept already stays as it is."""
    with ledger.changing() as db:
        places = _about(ledger, db, shard, done.known)
        (method,) = db.execute("SELECT id FROM method WHERE text = ?", (done.method,)).fetchone()
        for text, scored in done.scores.items():
            (metric,) = db.execute("SELECT id FROM metric WHERE text = ?", (text,)).fetchone()
            blobs = _blobs(np.array([places[name] for name in scored.names], np.int32), scored)
            db.execute("INSERT OR IGNORE INTO score VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (shard, method, metric, *blobs, _mark(*blobs)))
        db.execute(
            "INSERT INTO work VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (shard, method) DO UPDATE SET "
            "file = coalesce(file, excluded.file), digest = coalesce(digest, excluded.digest), seconds = seconds + excluded.seconds",
            (shard, method, len(done.known.names), done.file, done.digest, done.seconds),
        )
        _fail(db, shard, done.troubles)


def fail(ledger: Ledger, shard: int, troubles: Sequence[Trouble]) -> None:
    """Keep why something could not be done."""
    with ledger.changing() as db:
        _fail(db, shard, troubles)


def _fail(db: sqlite3.Connection, shard: int, troubles: Sequence[Trouble]) -> None:
    (problem,) = db.execute("SELECT problem FROM shard WHERE id = ?", (shard,)).fetchone()
    for trouble in troubles:
        found = db.execute("SELECT id FROM method WHERE text = ?", (trouble.method,)).fetchone()
        rows = [(problem, shard, image, found[0] if found else 0, trouble.stage, trouble.reason) for image in trouble.images or ("",)]
        db.executemany("INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?, ?)", rows)


def _about(ledger: Ledger, db: sqlite3.Connection, shard: int, known: Known) -> dict[str, int]:
    """Enter what is known of images; the place of each name in the shard's list."""
    found = db.execute("SELECT images, mark FROM about WHERE shard = ?", (shard,)).fetchone()
    kept = _images(ledger, *found) if found else {"names": [], "targets": [], "groups": {}}
    places = {name: place for place, name in enumerate(kept["names"])}
    new = [row for row, name in enumerate(known.names) if name not in places]
    if new or not found:
        before = len(places)
        for row in new:
            places[known.names[row]] = len(places)
            kept["names"].append(known.names[row])
            kept["targets"].append(known.targets[row])
        for name in {**kept["groups"], **known.groups}:
            labels = known.groups.get(name, [None] * len(known.names))
            kept["groups"].setdefault(name, [None] * before).extend(labels[row] for row in new)
        text = json.dumps(kept)
        db.execute("INSERT OR REPLACE INTO about VALUES (?, ?, ?)", (shard, text, _mark(text.encode())))
    return places


def _blobs(places: NDArray[np.int32], scored: Scored) -> tuple[bytes, bytes, bytes, bytes | None]:
    curves = None if scored.curves is None else np.asarray(scored.curves, np.float16).tobytes()
    return places.tobytes(), np.asarray(scored.scores, np.float32).tobytes(), np.asarray(scored.chances, np.float32).tobytes(), curves


def _mark(*parts: bytes | None) -> int:
    """A check sum, which tells damage that SQLite does not see."""
    mark = 0
    for part in parts:
        mark = zlib.crc32(part or b"", mark)
    return mark


def check_about(text: object, mark: object) -> bool:
    """Whether what is known of images is as it was written."""
    return isinstance(text, str) and _mark(text.encode("utf-8", "surrogatepass")) == mark


def check_score(places: object, scores: object, chances: object, curves: object, mark: object) -> bool:
    """Whether scores are as they were written."""
    blobs = (places, scores, chances, curves)
    return all(isinstance(blob, bytes) for blob in blobs[:3]) and isinstance(curves, bytes | None) and _mark(*blobs) == mark  # type: ignore[arg-type]  # looked at just before


def _images(ledger: Ledger, text: str, mark: int) -> dict[str, Any]:
    if not check_about(text, mark):
        raise BrokenRun(ledger.path, "damaged: what is known of a shard's images does not match its check sum")
    kept: dict[str, Any] = ledger.json(text)
    return kept


class Block(NamedTuple):
    """The scores of one shard by one method and metric, as tables call these; `places` says which of the shard's images they are of."""

    problem: str
    model: str
    method: str
    metric: str
    higher: bool
    control: bool
    known: Known
    places: NDArray[np.int32]
    scores: Floats
    chances: Floats
    curves: NDArray[np.float16] | None


def blocks(ledger: Ledger) -> Iterator[Block]:
    """Everything that is asked and scored, in the order in which it was asked; `BrokenRun` where a check sum does not fit."""
    images = {shard: _known(ledger, text, mark) for shard, text, mark in ledger.rows("SELECT shard, images, mark FROM about")}
    for *names, shard, places, scores, chances, curves, mark in ledger.rows(
        "SELECT problem.label, problem.model, method.brief, metric.brief, metric.higher, method.control, shard.id, "
        "score.places, score.scores, score.chances, score.curves, score.mark "
        "FROM shard JOIN ask ON ask.problem = shard.problem JOIN problem ON problem.id = shard.problem "
        "JOIN method ON method.id = ask.method JOIN metric ON metric.id = ask.metric "
        "JOIN score ON score.shard = shard.id AND score.method = ask.method AND score.metric = ask.metric "
        "WHERE shard.asked = 1 ORDER BY shard.problem, ask.place, shard.number"
    ):
        try:
            yield _block(names, images[shard], (places, scores, chances, curves), mark)
        except (KeyError, ValueError, TypeError) as error:
            raise BrokenRun(ledger.path, f"damaged: the scores of shard {shard} by {names[3]} of {names[2]}: {error}") from None


def _block(names: list[Any], known: Known, blobs: tuple[Any, ...], mark: int) -> Block:
    if _mark(*blobs) != mark:
        raise ValueError("their check sum does not match")
    places, scores, chances, curves = (
        None if blob is None else np.frombuffer(blob, kind) for blob, kind in zip(blobs, ("i4", "f4", "f4", "f2"), strict=True)
    )
    if places is None or scores is None or chances is None or not len(places) == len(scores) == len(chances):
        raise ValueError("not as many scores as images")
    if len(places) and not 0 <= places.min() <= places.max() < len(known.names):
        raise ValueError("of images that are not in the shard")
    shaped = None if curves is None or not len(places) else curves.reshape(len(places), -1)
    problem, model, method, metric, higher, control = names
    return Block(problem, model, method, metric, bool(higher), bool(control), known, places, scores, chances, shaped)


def _known(ledger: Ledger, text: str, mark: int) -> Known:
    kept = _images(ledger, text, mark)
    try:
        names, targets = tuple(kept["names"]), tuple(kept["targets"])
        groups = {str(name): list(labels) for name, labels in kept["groups"].items()}
    except (KeyError, TypeError, AttributeError):
        raise BrokenRun(ledger.path, "damaged: what is known of a shard's images has a part missing") from None
    return Known(names, targets, groups)


class Failed(NamedTuple):
    """A failure as people read it: the image, or what else it was; the stage; the reason; the problem and the methods that it cost."""

    id: str
    stage: str
    reason: str
    problem: str
    methods: tuple[str, ...]


def failures(ledger: Ledger) -> list[Failed]:
    """What could not be done of what is asked: a row for each image and reason, whatever number of methods it cost."""
    notes = ledger.rows("SELECT id, stage, reason FROM note ORDER BY rowid")
    found = [Failed(id_, stage, reason, "", ()) for id_, stage, reason in notes]
    rows = ledger.rows(
        "SELECT failure.image, failure.stage, failure.reason, problem.label, coalesce(method.brief, '') "
        "FROM failure JOIN shard ON shard.id = failure.shard JOIN problem ON problem.id = failure.problem "
        "LEFT JOIN method ON method.id = failure.method WHERE shard.asked = 1 AND (failure.method = 0 OR EXISTS "
        "(SELECT 1 FROM ask WHERE ask.problem = failure.problem AND ask.method = failure.method)) "
        "ORDER BY shard.problem, shard.number, failure.image, failure.stage, failure.method"
    )
    several: dict[tuple[str, str, str, str], dict[str, None]] = {}
    for image, stage, reason, problem, method in rows:
        several.setdefault((image, stage, reason, problem), {}).update({method: None} if method else {})
    for (image, stage, reason, problem), methods in several.items():
        found.append(Failed(image or ", ".join(methods) or problem, stage, reason, problem, tuple(methods)))
    return found
