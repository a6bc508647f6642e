"""What a run is asked to do: problems in shards, methods, metrics; entered anew each time that somebody goes to work on it."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .ledger import Ledger


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


def begin(ledger: Ledger) -> None:
    """Forget what was asked before, but nothing of what is done; leases of whoever worked here before lapse."""
    with ledger.changing() as db:
        for forgotten in ("UPDATE problem SET asked = 0", "UPDATE shard SET asked = 0", "DELETE FROM ask", "DELETE FROM note"):
            db.execute(forgotten)


def enter(ledger: Ledger, plan: Plan) -> int:
    """Enter what is asked of a problem; its number."""
    with ledger.changing() as db:
        db.execute(
            "INSERT INTO problem (label, model, asked) VALUES (?, ?, 1) ON CONFLICT (label, model) DO UPDATE SET asked = 1",
            (plan.label, plan.model),
        )
        (problem,) = db.execute("SELECT id FROM problem WHERE label = ? AND model = ?", (plan.label, plan.model)).fetchone()
        for place, (asker, asked) in enumerate(plan.pairs):
            db.execute("INSERT OR IGNORE INTO ask VALUES (?, ?, ?, ?)", (problem, _method(db, asker), _metric(db, asked), place))
        for number, content, images in plan.shards:
            enter_shard(db, problem, number, content, images)
    return int(problem)


def enter_shard(db: sqlite3.Connection, problem: int, number: int, content: str, images: int) -> int:
    """Enter a shard, or ask for the one with this content, if it is known; its number among all."""
    db.execute(
        "INSERT INTO shard (problem, number, content, images, asked) VALUES (?, ?, ?, ?, 1) "
        "ON CONFLICT (problem, number, content) DO UPDATE SET asked = 1",
        (problem, number, content, images),
    )
    found = db.execute("SELECT id FROM shard WHERE problem = ? AND number = ? AND content = ?", (problem, number, content)).fetchone()
    return int(found[0])


def _method(db: sqlite3.Connection, asker: Asker) -> int:
    db.execute(
        "INSERT INTO method (text, brief, control) VALUES (?, ?, ?) ON CONFLICT (text) DO UPDATE SET control = excluded.control",
        (asker.text, asker.brief, asker.control),
    )
    return int(db.execute("SELECT id FROM method WHERE text = ?", (asker.text,)).fetchone()[0])


def _metric(db: sqlite3.Connection, asked: Asked) -> int:
    db.execute("INSERT OR IGNORE INTO metric (text, brief, higher) VALUES (?, ?, ?)", tuple(asked))
    return int(db.execute("SELECT id FROM metric WHERE text = ?", (asked.text,)).fetchone()[0])


OPEN = """
EXISTS (
  SELECT 1 FROM ask WHERE ask.problem = shard.problem AND NOT EXISTS (
    SELECT 1 FROM score WHERE score.shard = shard.id AND score.method = ask.method AND score.metric = ask.metric))
"""


def settle(ledger: Ledger) -> None:
    """Once everything is entered: find out which shards have something left to be done."""
    with ledger.changing() as db:
        db.execute(f"UPDATE shard SET complete = NOT {OPEN} WHERE asked = 1")


def forget_work(ledger: Ledger, spoilt: Iterable[tuple[int, int]]) -> None:
    """Take back what was done, of these shards by these methods, so that it is done again."""
    with ledger.changing() as db:
        for shard, method in spoilt:
            for table in ("work", "score", "failure"):
                db.execute(f"DELETE FROM {table} WHERE shard = ? AND method = ?", (shard, method))


def note(ledger: Ledger, rows: Iterable[tuple[str, str, str]]) -> None:
    """Note what cannot be done at all, as (id, stage, reason)."""
    with ledger.changing() as db:
        db.executemany("INSERT OR IGNORE INTO note VALUES (?, ?, ?)", rows)


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
