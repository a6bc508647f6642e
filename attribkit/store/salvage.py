"""A damaged ledger: set aside, and what is good of it taken over into a new one."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from ..errors import BrokenRun, Unwritable
from .ledger import NAME, Ledger
from .results import blocks, check_about, check_score

TABLES = ("meta", "session", "problem", "method", "metric", "shard", "about", "work", "score", "suspect", "failure")


def salvaged(folder: Path) -> Ledger:
    """A new ledger with every row of the damaged one that can be read and is as it was written."""
    aside = _aside(folder)
    ledger = Ledger(folder, writing=True)
    old = sqlite3.connect(f"{aside.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        with ledger.changing() as db:
            for table in TABLES:
                _copied(old, db, table)
            _checked(db)
        list(blocks(ledger))
    except (BrokenRun, ValueError, TypeError):  # what can be read makes no sense: it is all done again
        ledger.close()
        _removed(folder)
        ledger = Ledger(folder, writing=True)
    finally:
        old.close()
    return ledger


def _aside(folder: Path) -> Path:
    """Where the damaged ledger lies from now on."""
    number = 1
    while (aside := folder / f"ledger.damaged-{number}.db").exists():
        number += 1
    try:
        for end in ("", "-wal", "-shm"):
            path = folder / f"{NAME}{end}"
            if path.exists():
                path.rename(f"{aside}{end}")
    except OSError as error:
        raise Unwritable(f"{folder}: {(error.strerror or str(error)).lower()}; its ledger is damaged and cannot be set aside") from error
    return aside


def _removed(folder: Path) -> None:
    for end in ("", "-wal", "-shm"):
        (folder / f"{NAME}{end}").unlink(missing_ok=True)


def _copied(old: sqlite3.Connection, db: sqlite3.Connection, table: str) -> None:
    """Copy the rows that can be read; a damaged page ends a table."""
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    put = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    with contextlib.suppress(sqlite3.DatabaseError):
        for row in old.execute(f"SELECT {', '.join(columns)} FROM {table}"):
            with contextlib.suppress(sqlite3.IntegrityError):
                db.execute(put, row)


def _checked(db: sqlite3.Connection) -> None:
    """Take out what does not match its check sum or belongs to nothing, so that it is done again."""
    for shard, text, mark in db.execute("SELECT shard, images, mark FROM about").fetchall():
        if not check_about(text, mark):
            db.execute("DELETE FROM about WHERE shard = ?", (shard,))
    for shard, method, metric, *rest in db.execute(
        "SELECT shard, method, metric, places, scores, chances, curves, mark FROM score"
    ).fetchall():
        if not check_score(*rest):
            db.execute("DELETE FROM score WHERE shard = ? AND method = ? AND metric = ?", (shard, method, metric))
    db.execute("DELETE FROM score WHERE shard NOT IN (SELECT shard FROM about) OR shard NOT IN (SELECT id FROM shard)")
    db.execute("DELETE FROM work WHERE (shard, method) NOT IN (SELECT shard, method FROM score)")
    db.execute("UPDATE shard SET lease = NULL, doing = NULL, probing = NULL, tries = 0")
