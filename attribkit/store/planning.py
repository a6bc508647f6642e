"""What a run is asked to do: problems in shards, methods, metrics; entered anew each time that somebody goes to work on it."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .ledger import Ledger, checksum, plain, put

ASKED = "asked"  # under which the ledger keeps what changes with anything that is asked


class Asker(NamedTuple):
    """A method as the ledger knows it: what makes it again, what tables call it, and whether it is a control."""

    text: str
    brief: str
    control: bool


class Asked(NamedTuple):
    """A metric as the ledger knows it, and whether its higher scores are the better ones."""

    text: str
    brief: str
    higher: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked of one problem: which metrics of which method; its shards, each by its number, its content's digest and its size."""

    label: str
    model: str
    pairs: Sequence[tuple[Asker, Asked]]
    shards: Iterable[tuple[int, str, int]]


def ask(ledger: Ledger, plans: Iterable[Plan], notes: Iterable[tuple[str, str, str]] = ()) -> None:
    """Ask for this and for nothing else, and forget nothing of what is done; all of it or nothing, so that readers see no state between.

    `notes` say what cannot be done at all, as (id, stage, reason).
    """
    with ledger.changing() as db:
        _nothing(db)
        for plan in plans:
            _enter(db, plan)
        _note(db, notes)
        _settle(db, "asked = 1")


def _nothing(db: sqlite3.Connection) -> None:
    """Nothing is asked."""
    for forgotten in ("UPDATE problem SET asked = 0", "UPDATE shard SET asked = 0, complete = 0", "DELETE FROM ask", "DELETE FROM note"):
        db.execute(forgotten)


def _enter(db: sqlite3.Connection, plan: Plan) -> None:
    db.execute(
        "INSERT INTO problem (label, model, asked) VALUES (?, ?, 1) ON CONFLICT (label, model) DO UPDATE SET asked = 1",
        (plan.label, plan.model),
    )
    (problem,) = db.execute("SELECT id FROM problem WHERE label = ? AND model = ?", (plan.label, plan.model)).fetchone()
    for place, (asker, asked) in enumerate(plan.pairs):
        db.execute("INSERT OR IGNORE INTO ask VALUES (?, ?, ?, ?)", (problem, _method(db, asker), _metric(db, asked), place))
    for number, content, images in plan.shards:
        _shard(db, problem, number, content, images)


def ask_shard(ledger: Ledger, label: str, model: str, shard: tuple[int, str, int]) -> int:
    """Ask for one more shard of a problem, by its number, its content's digest and its size; its number among all."""
    with ledger.changing() as db:
        (problem,) = db.execute("SELECT id FROM problem WHERE label = ? AND model = ?", (label, model)).fetchone()
        found = _shard(db, problem, *shard)
        _settle(db, "id = ?", found)
    return found


def _shard(db: sqlite3.Connection, problem: int, number: int, content: str, images: int) -> int:
    """Enter a shard, or ask for the one with this content, if it is known; its number among all."""
    db.execute(
        "INSERT INTO shard (problem, number, content, images, mark, asked) VALUES (?, ?, ?, ?, ?, 1) "
        "ON CONFLICT (problem, number, content) DO UPDATE SET asked = 1",
        (problem, number, content, images, checksum(problem, number, content, images)),
    )
    found = db.execute("SELECT id FROM shard WHERE problem = ? AND number = ? AND content = ?", (problem, number, content)).fetchone()
    return int(found[0])


def _method(db: sqlite3.Connection, asker: Asker) -> int:
    db.execute(
        "INSERT INTO method (text, brief, control) VALUES (?, ?, ?) "
        "ON CONFLICT (text) DO UPDATE SET brief = excluded.brief, control = excluded.control",
        (asker.text, asker.brief, asker.control),
    )
    return int(db.execute("SELECT id FROM method WHERE text = ?", (asker.text,)).fetchone()[0])


def _metric(db: sqlite3.Connection, asked: Asked) -> int:
    db.execute(
        "INSERT INTO metric (text, brief, higher) VALUES (?, ?, ?) "
        "ON CONFLICT (text) DO UPDATE SET brief = excluded.brief, higher = excluded.higher",
        tuple(asked),
    )
    return int(db.execute("SELECT id FROM metric WHERE text = ?", (asked.text,)).fetchone()[0])


OPEN = """
EXISTS (
  SELECT 1 FROM ask WHERE ask.problem = shard.problem AND NOT EXISTS (
    SELECT 1 FROM score WHERE score.shard = shard.id AND score.method = ask.method AND score.metric = ask.metric))
"""


def _settle(db: sqlite3.Connection, which: str, *values: int) -> None:
    """Once something is entered: find out which shards have something left to be done, and note what is asked."""
    db.execute(f"UPDATE shard SET complete = NOT {OPEN} WHERE {which}", values)
    put(db, ASKED, asked_in(db))


def asked_in(db: sqlite3.Connection) -> list[int]:
    """What changes with anything that is asked, and with what tables call it."""
    asks = db.execute(
        "SELECT place, label, model, method.text, method.brief, control, metric.text, metric.brief, higher "
        "FROM ask JOIN problem ON problem.id = ask.problem JOIN method ON method.id = ask.method JOIN metric ON metric.id = ask.metric "
        "ORDER BY ask.problem, ask.place"
    )
    count, marks = db.execute("SELECT count(*), coalesce(sum(mark), 0) FROM shard WHERE asked = 1").fetchone()
    return [checksum(*asks), int(count), int(marks)]


def resettle(db: sqlite3.Connection) -> None:
    """After a ledger was mended: what was asked stays so if all of it is there, and else nothing is asked any more."""
    kept = db.execute("SELECT value, mark FROM meta WHERE name = ?", (ASKED,)).fetchone()
    if kept is None or (json.dumps(asked_in(db)), checksum(ASKED, kept[0])) != tuple(kept):
        _nothing(db)
    _settle(db, "asked = 1")


def forget_failures(ledger: Ledger) -> int:
    """Take back all that was done of shards in which something failed, so that it is tried again; how many those are."""
    with ledger.changing() as db:
        failed = db.execute("SELECT DISTINCT shard FROM failure UNION SELECT DISTINCT shard FROM suspect").fetchall()
        for (shard,) in failed:
            for table in ("work", "score", "failure", "suspect"):
                db.execute(f"DELETE FROM {table} WHERE shard = ?", (shard,))
            db.execute("UPDATE shard SET tries = 0 WHERE id = ?", (shard,))
            _settle(db, "id = ?", shard)
        return len(failed)


def forget_work(ledger: Ledger, spoilt: Iterable[tuple[int, int]]) -> None:
    """Take back what was done, of these shards by these methods, so that it is done again."""
    with ledger.changing() as db:
        for shard, method in spoilt:
            for table in ("work", "score", "failure"):
                db.execute(f"DELETE FROM {table} WHERE shard = ? AND method = ?", (shard, method))
            _settle(db, "id = ?", shard)


def add_notes(ledger: Ledger, rows: Iterable[tuple[str, str, str]]) -> None:
    """Note, later on, what cannot be done at all, as (id, stage, reason)."""
    with ledger.changing() as db:
        _note(db, rows)


def _note(db: sqlite3.Connection, rows: Iterable[tuple[str, str, str]]) -> None:
    for id_, stage, reason in rows:
        row = plain(id_), plain(stage), plain(reason)
        db.execute("INSERT OR IGNORE INTO note VALUES (?, ?, ?, ?)", (*row, checksum(*row)))


def begin_session(ledger: Ledger, facts: dict[str, object], now: float) -> int:
    """Note that somebody goes to work; the session's number."""
    with ledger.changing() as db:
        db.execute("UPDATE session SET state = 'lost' WHERE state = 'running'")
        done = db.execute("INSERT INTO session (began, seen, state, facts) VALUES (?, ?, 'running', ?)", (now, now, json.dumps(facts)))
        return int(done.lastrowid or 0)


def end_session(ledger: Ledger, session: int, state: str, now: float) -> None:
    """Note how it ended, or that it goes on ("running")."""
    with ledger.changing() as db:
        db.execute("UPDATE session SET state = ?, seen = ? WHERE id = ?", (state, now, session))
