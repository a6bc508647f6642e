"""A damaged ledger: set aside, and what is good of it taken over into a new one."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import BrokenRun, Unwritable
from .ledger import NAME, Ledger, checksum
from .planning import resettle
from .results import blocks, failures, owns
from .shards import name_of

# Failures and suspects are not among them: where images are missing the work is done again, and they are found anew.
TABLES = ("meta", "session", "problem", "method", "metric", "ask", "shard", "about", "work", "score")


def salvaged(folder: Path) -> Ledger:
    """A new ledger with every row of the damaged one that can be read and is as it was written."""
    aside = _aside(folder)
    ledger = Ledger(folder, writing=True)
    old = sqlite3.connect(f"{aside.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    old.text_factory = lambda raw: raw.decode("utf-8", "replace")  # what is no text does not match its check sum
    try:
        with ledger.changing() as db:
            for table in TABLES:
                _copied(old, db, table)
            _checked(db)
            resettle(db)
        check(ledger)
    except (BrokenRun, ValueError, TypeError):  # what can be read makes no sense: it is all done again
        ledger.close()
        _removed(folder)
        ledger = Ledger(folder, writing=True)
    finally:
        old.close()
    return ledger


def check(ledger: Ledger) -> None:
    """Raise `BrokenRun` where anything in a ledger is damaged, asked for or not."""
    ledger.sound()
    with ledger.snapshot():
        for table, (_, keys) in _unsound(ledger.db).items():
            if keys:
                raise BrokenRun(ledger.path, f"damaged: its table {table}")
    blocks(ledger)
    failures(ledger)


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
    with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
        for row in old.execute(f"SELECT {', '.join(columns)} FROM {table}"):
            with contextlib.suppress(sqlite3.IntegrityError):
                db.execute(put, row)


def _checked(db: sqlite3.Connection) -> None:
    """Take out what is unsound, so that it is done again."""
    for table, (names, keys) in _unsound(db).items():
        db.executemany(f"DELETE FROM {table} WHERE ({', '.join(names)}) = ({', '.join('?' * len(names))})", keys)
    # An image without a score stands in a failure, which was not taken over; scores and work come and go together.
    db.execute("DELETE FROM score WHERE length(places) < 4 * (SELECT images FROM shard WHERE id = shard)")
    db.execute("DELETE FROM score WHERE shard NOT IN (SELECT shard FROM about)")
    db.execute("DELETE FROM work WHERE (shard, method) NOT IN (SELECT shard, method FROM score)")
    db.execute("DELETE FROM score WHERE (shard, method) NOT IN (SELECT shard, method FROM work)")
    db.execute("UPDATE shard SET lease = NULL, since = NULL, doing = NULL, probing = NULL, tries = 0")


def _unsound(db: sqlite3.Connection) -> dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
    """By table the names of its keys, and the keys of the rows that do not match their check sum or belong to nothing."""
    shards = owns(db)
    methods, metrics = (dict(db.execute(f"SELECT id, text FROM {table}").fetchall()) for table in ("method", "metric"))
    wrong: dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]] = {
        "meta": (("name",), []),
        "about": (("shard",), []),
        "score": (("shard", "method", "metric"), []),
        "work": (("shard", "method"), []),
        "session": (("id",), list(_sessions(db))),
    }
    for name, value, mark in db.execute("SELECT * FROM meta"):
        if checksum(name, value) != mark:
            wrong["meta"][1].append((name,))
    for shard, text, mark in db.execute("SELECT * FROM about"):
        if checksum(*shards.get(shard, ()), text) != mark:
            wrong["about"][1].append((shard,))
    for shard, method, metric, *blobs, mark in db.execute("SELECT * FROM score"):
        if checksum(*shards.get(shard, ()), methods.get(method), metrics.get(metric), *blobs) != mark:
            wrong["score"][1].append((shard, method, metric))
    for shard, method, file, digest in db.execute("SELECT shard, method, file, digest FROM work"):
        known = shard in shards and method in methods
        if not known or (file is not None and file != name_of(shards[shard][-1], methods[method], str(digest))):
            wrong["work"][1].append((shard, method))
    return wrong


def _sessions(db: sqlite3.Connection) -> Iterator[tuple[Any]]:
    """The keys of sessions that make no sense."""
    for number, began, seen, facts in db.execute("SELECT id, began, seen, facts FROM session"):
        try:
            sound = isinstance(began + seen, float) and isinstance(json.loads(facts), dict)
        except (ValueError, TypeError, RecursionError):
            sound = False
        if not sound:
            yield (number,)
