"""What has come of a run: scores by shard, method and metric, each with a check sum, and failures."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BrokenRun
from .ledger import Ledger, checksum, plain
from .planning import ASKED, asked_in

Floats = NDArray[np.float32]

# A failure that counts: of an asked shard, and by a method that is asked, or before any.
COUNTS = """shard.asked = 1 AND (failure.method = 0 OR EXISTS (
  SELECT 1 FROM ask WHERE ask.problem = shard.problem AND ask.method = failure.method))"""


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
    """Keep what is done, all of it or nothing; scores that are kept already stay as they are."""
    with ledger.changing() as db:
        own = _shard(db, shard)
        places = _about(ledger, db, shard, own, done.known)
        (method,) = db.execute("SELECT id FROM method WHERE text = ?", (done.method,)).fetchone()
        for text, scored in done.scores.items():
            (metric,) = db.execute("SELECT id FROM metric WHERE text = ?", (text,)).fetchone()
            blobs = _blobs(np.array([places[name] for name in scored.names], np.int32), scored)
            mark = checksum(*own, done.method, text, *blobs)
            db.execute("INSERT OR IGNORE INTO score VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (shard, method, metric, *blobs, mark))
        db.execute(
            "INSERT INTO work VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (shard, method) DO UPDATE SET "  # the file is the last one written
            "file = coalesce(excluded.file, file), digest = coalesce(excluded.digest, digest), seconds = seconds + excluded.seconds",
            (shard, method, len(done.known.names), done.file, done.digest, done.seconds),
        )
        _fail(db, shard, own, done.troubles)


def fail(ledger: Ledger, shard: int, troubles: Sequence[Trouble]) -> None:
    """Keep why something could not be done."""
    with ledger.changing() as db:
        _fail(db, shard, _shard(db, shard), troubles)


def _shard(db: sqlite3.Connection, shard: int) -> tuple[Any, ...]:
    """What says which shard it is, whatever its number among all."""
    question = "SELECT label, model, number, content FROM shard JOIN problem ON problem.id = problem WHERE shard.id = ?"
    found: tuple[Any, ...] = db.execute(question, (shard,)).fetchone()
    return found


def _fail(db: sqlite3.Connection, shard: int, own: tuple[Any, ...], troubles: Sequence[Trouble]) -> None:
    (problem,) = db.execute("SELECT problem FROM shard WHERE id = ?", (shard,)).fetchone()
    for trouble in troubles:
        found = db.execute("SELECT id FROM method WHERE text = ?", (trouble.method,)).fetchone()
        text, method = (trouble.method, found[0]) if found else ("", 0)
        for image, stage, reason in ((plain(image), plain(trouble.stage), plain(trouble.reason)) for image in trouble.images or ("",)):
            row = (problem, shard, image, method, stage, reason, checksum(*own, image, text, stage, reason))
            db.execute("INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _about(ledger: Ledger, db: sqlite3.Connection, shard: int, own: tuple[Any, ...], known: Known) -> dict[str, int]:
    """Enter what is known of images; the place of each name in the shard's list."""
    found = db.execute("SELECT images, mark FROM about WHERE shard = ?", (shard,)).fetchone()
    kept = _images(ledger, own, *found) if found else {"names": [], "targets": [], "groups": {}}
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
        db.execute("INSERT OR REPLACE INTO about VALUES (?, ?, ?)", (shard, text, checksum(*own, text)))
    return places


def _images(ledger: Ledger, own: tuple[Any, ...], text: str, mark: int) -> dict[str, Any]:
    if checksum(*own, text) != mark:
        raise BrokenRun(ledger.path, "damaged: what is known of a shard's images does not match its check sum")
    kept: dict[str, Any] = ledger.json(text)
    return kept


def _blobs(places: NDArray[np.int32], scored: Scored) -> tuple[bytes, bytes, bytes, bytes | None]:
    curves = None if scored.curves is None else np.asarray(scored.curves, np.float16).tobytes()
    return places.tobytes(), np.asarray(scored.scores, np.float32).tobytes(), np.asarray(scored.chances, np.float32).tobytes(), curves


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


def blocks(ledger: Ledger) -> list[Block]:
    """Everything that is asked and scored, in the order in which it was asked; `BrokenRun` where some of it is damaged or missing."""
    with ledger.snapshot():
        return list(_blocks(ledger))


def _blocks(ledger: Ledger) -> Iterator[Block]:
    if ledger.get(ASKED) not in (None, asked_in(ledger.db)):
        raise BrokenRun(ledger.path, "damaged: what was asked does not match its check sum")
    shards = owns(ledger.db)
    images = {
        shard: _known(_images(ledger, shards[shard], text, mark))
        for shard, text, mark in ledger.rows("SELECT about.* FROM about JOIN shard ON shard.id = shard WHERE asked = 1")
    }
    for *names, method, metric, shard, complete, mark, places, scores, chances, curves in ledger.rows(
        "SELECT problem.label, problem.model, method.brief, metric.brief, metric.higher, method.control, method.text, metric.text, "
        "shard.id, shard.complete, score.mark, score.places, score.scores, score.chances, score.curves "
        "FROM shard JOIN ask ON ask.problem = shard.problem JOIN problem ON problem.id = shard.problem "
        "JOIN method ON method.id = ask.method JOIN metric ON metric.id = ask.metric "
        "LEFT JOIN score ON score.shard = shard.id AND score.method = ask.method AND score.metric = ask.metric "
        "WHERE shard.asked = 1 ORDER BY shard.problem, ask.place, shard.number"
    ):
        blobs = (places, scores, chances, curves)
        if mark is None and not complete:
            continue
        if checksum(*shards[shard], method, metric, *blobs) != mark:
            raise BrokenRun(ledger.path, f"damaged: the scores of shard {shard} by {names[3]} of {names[2]} do not match their check sum")
        yield _block(names, images[shard], blobs)


def _block(names: Sequence[Any], known: Known, blobs: tuple[Any, ...]) -> Block:
    places, scores, chances = (np.frombuffer(blob, kind) for blob, kind in zip(blobs, ("i4", "f4", "f4"), strict=False))
    curves = None if blobs[3] is None or not len(places) else np.frombuffer(blobs[3], np.float16).reshape(len(places), -1)
    problem, model, method, metric, higher, control = names
    return Block(problem, model, method, metric, bool(higher), bool(control), known, places, scores, chances, curves)


def _known(kept: dict[str, Any]) -> Known:
    return Known(tuple(kept["names"]), tuple(kept["targets"]), kept["groups"])


class Failed(NamedTuple):
    """A failure as people read it: the image, or what else it was; the stage; the reason; the problem and the methods that it cost."""

    id: str
    stage: str
    reason: str
    problem: str
    methods: tuple[str, ...]


def failures(ledger: Ledger) -> list[Failed]:
    """What could not be done of what is asked: a row for each image and reason, whatever number of methods it cost."""
    with ledger.snapshot():
        notes = ledger.rows("SELECT id, stage, reason, mark FROM note ORDER BY rowid")
        if any(checksum(*note) != mark for *note, mark in notes):
            raise BrokenRun(ledger.path, "damaged: a note does not match its check sum")
        several: dict[tuple[str, str, str, str], dict[str, None]] = {}
        for image, stage, reason, problem, method in _failed(ledger):
            several.setdefault((image, stage, reason, problem), {}).update({method: None} if method else {})
    found = [Failed(id_, stage, reason, "", ()) for id_, stage, reason, _ in notes]
    for (image, stage, reason, problem), methods in several.items():
        found.append(Failed(image or ", ".join(methods) or problem, stage, reason, problem, tuple(methods)))
    return found


def _failed(ledger: Ledger) -> Iterator[tuple[str, str, str, str, str]]:
    """Image, stage, reason, problem and method of what counts; all others are looked at as well, which may have come to be of others."""
    shards = owns(ledger.db)
    for image, text, stage, reason, mark, own, method, counts in ledger.rows(
        f"SELECT image, coalesce(text, ''), stage, reason, failure.mark, shard, coalesce(brief, ''), {COUNTS} "
        "FROM failure LEFT JOIN shard ON shard.id = failure.shard LEFT JOIN method ON method.id = failure.method "
        "ORDER BY shard.problem, shard.number, failure.image, failure.stage, failure.method"
    ):
        if checksum(*shards[own], image, text, stage, reason) != mark:
            raise BrokenRun(ledger.path, "damaged: a failure does not match its check sum")
        if counts:
            yield image, stage, reason, shards[own][0], method


def owns(db: sqlite3.Connection) -> dict[int, tuple[Any, ...]]:
    """Of every shard what says which it is: its problem's label and model, its number there, and its content's digest."""
    return {
        row[0]: row[1:]
        for row in db.execute("SELECT shard.id, label, model, number, content FROM shard JOIN problem ON problem.id = problem")
    }
