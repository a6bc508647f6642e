"""The ledger of a run: one SQLite file, written ahead (WAL), so that a process may be killed at any moment."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import AttribkitError, BrokenRun, InUse, Unwritable

NAME = "ledger.db"
APPLICATION, FORMAT = 0x61747274, 1  # "attr"
PATIENCE = 30.0  # seconds that a writer waits for another

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, mark INTEGER NOT NULL);
CREATE TABLE session (id INTEGER PRIMARY KEY, began REAL NOT NULL, seen REAL NOT NULL, state TEXT NOT NULL, facts TEXT NOT NULL);
CREATE TABLE problem (id INTEGER PRIMARY KEY, label TEXT NOT NULL, model TEXT NOT NULL, asked INTEGER NOT NULL, UNIQUE (label, model));
CREATE TABLE method (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, brief TEXT NOT NULL, control INTEGER NOT NULL);
CREATE TABLE metric (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, brief TEXT NOT NULL, higher INTEGER NOT NULL);
CREATE TABLE ask (
  problem INTEGER, method INTEGER, metric INTEGER, place INTEGER NOT NULL, PRIMARY KEY (problem, method, metric)
) WITHOUT ROWID;
CREATE TABLE shard (
  id INTEGER PRIMARY KEY, problem INTEGER NOT NULL, number INTEGER NOT NULL, content TEXT NOT NULL, images INTEGER NOT NULL,
  mark INTEGER NOT NULL, asked INTEGER NOT NULL, complete INTEGER NOT NULL DEFAULT 0, lease TEXT, since REAL,
  tries INTEGER NOT NULL DEFAULT 0, doing TEXT, probing TEXT, UNIQUE (problem, number, content)
);
CREATE INDEX open_shards ON shard (asked, complete, lease, tries, id);
CREATE TABLE about (shard INTEGER PRIMARY KEY, images TEXT NOT NULL, mark INTEGER NOT NULL);
CREATE TABLE work (
  shard INTEGER, method INTEGER, images INTEGER NOT NULL, file TEXT, digest TEXT, seconds REAL NOT NULL, PRIMARY KEY (shard, method)
) WITHOUT ROWID;
CREATE TABLE score (
  shard INTEGER, method INTEGER, metric INTEGER, places BLOB NOT NULL, scores BLOB NOT NULL, chances BLOB NOT NULL, curves BLOB,
  mark INTEGER NOT NULL, PRIMARY KEY (shard, method, metric)
) WITHOUT ROWID;
CREATE TABLE suspect (shard INTEGER, image TEXT, deaths INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (shard, image));
CREATE TABLE failure (
  problem INTEGER, shard INTEGER, image TEXT, method INTEGER, stage TEXT, reason TEXT NOT NULL, mark INTEGER NOT NULL,
  PRIMARY KEY (problem, shard, image, method, stage)
);
CREATE TABLE note (id TEXT NOT NULL, stage TEXT NOT NULL, reason TEXT NOT NULL, mark INTEGER NOT NULL, PRIMARY KEY (id, stage, reason));
"""


class Ledger:
    """A connection to the ledger in `folder`: to read it, or, `writing`, to change it.

    `BrokenRun` where it is none, or is damaged; `Unwritable` where it cannot be written; `InUse` where others do not let go of it.
    """

    def __init__(self, folder: Path, *, writing: bool = False) -> None:
        self.path = folder / NAME
        self.writing = writing
        if not writing and not self.path.is_file():
            raise BrokenRun(folder, f"no run: there is no {NAME} in it; allowed: a folder that an evaluation has written")
        with self.translated():
            self.db = self._connected()
            try:
                self._check()
            except BaseException:  # whatever it is, what was begun is undone, and it is raised again
                self.db.close()
                raise

    def _connected(self) -> sqlite3.Connection:
        if self.writing:
            return sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        address = self.path.absolute().as_uri()
        db = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            db.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError as error:
            db.close()
            if error.sqlite_errorname not in ("SQLITE_CANTOPEN", "SQLITE_READONLY_CANTINIT", "SQLITE_READONLY_DIRECTORY"):
                raise
            # Where nothing can be written, no process writes: the file is read as it stands.
            ahead = self.path.with_name(f"{NAME}-wal")
            if ahead.is_file() and ahead.stat().st_size:
                return self._in_memory(ahead)
            db = sqlite3.connect(f"{address}?immutable=1", uri=True, isolation_level=None, check_same_thread=False)
        return db

    def _in_memory(self, ahead: Path) -> sqlite3.Connection:
        """A copy of the ledger with what is written ahead of it, of which a killed process has put nothing into the file yet."""
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        with tempfile.TemporaryDirectory() as folder:
            for path in (self.path, ahead):
                shutil.copyfile(path, Path(folder) / path.name)
            with contextlib.closing(sqlite3.connect(Path(folder) / NAME)) as copy:
                copy.backup(memory)
        return memory

    def _check(self) -> None:
        """Raise unless this is a ledger; make one where there is nothing yet."""
        (application,), (version,) = (self.db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
        empty = not self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if self.writing and empty and application == 0:
            self.db.execute("PRAGMA journal_mode = WAL")
            self.db.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; COMMIT;"
            )
        elif application != APPLICATION:
            raise BrokenRun(self.path, "it is no ledger of attribkit; allowed: one that an evaluation has written")
        elif version != FORMAT:
            raise BrokenRun(self.path, f"got format {version}, allowed: {FORMAT}; another version of attribkit has written it")
        elif self.writing:
            self.db.execute("PRAGMA journal_mode = WAL")
        if self.writing:
            self.db.execute("PRAGMA synchronous = NORMAL")  # whole after a crash of anything; a power cut may cost the last commits

    def close(self, *, last: bool = False) -> None:
        """Let go of the file; the `last` to write leaves one plain file, which can be read where nothing can be written."""
        if last and self.writing:
            with contextlib.suppress(sqlite3.DatabaseError):  # somebody reads it, or the disk is full: then it stays as it is
                self.db.execute("PRAGMA journal_mode = DELETE")
        self.db.close()

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """While it lasts, SQLite's errors become ours."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self._said(error) from error
        except UnicodeDecodeError as error:  # of a name in the file that SQLite would have told of
            raise BrokenRun(self.path, f"damaged: {error}") from error

    def _said(self, error: sqlite3.DatabaseError) -> Exception:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
            if not self.writing:
                return BrokenRun(self.path, f"cannot be read: {error}")
            return Unwritable(f"{self.path}: {error}; allowed: a folder with room that may be written to; what was finished is kept")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return InUse(f"{self.path}: another process holds it; allowed: to wait until that has ended")
        return BrokenRun(self.path, f"damaged: {error}")

    @contextlib.contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing."""
        with self.translated():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:  # whatever it is, what was begun is undone, and it is raised again
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """While it lasts, what is read is of one moment, whatever others write; `BrokenRun` where what is read makes no sense."""
        with self.translated():
            self.db.execute("BEGIN")
            try:
                yield
            except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
                if isinstance(error, AttribkitError):
                    raise
                raise BrokenRun(self.path, f"damaged: {type(error).__name__}: {error}") from None
            finally:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")

    def rows(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows that answer a question."""
        with self.translated():
            return self.db.execute(question, values).fetchall()

    def sound(self) -> None:
        """Raise `BrokenRun` unless the file is built as it should be; what is in it has check sums of its own."""
        found = self.rows("PRAGMA integrity_check(1)")
        if found != [("ok",)]:
            raise BrokenRun(self.path, f"damaged: {found[0][0] if found else 'nothing can be read'}")

    def get(self, name: str) -> Any:
        """What was put under a name; None if nothing was."""
        found = self.rows("SELECT value, mark FROM meta WHERE name = ?", name)
        if not found:
            return None
        if checksum(name, found[0][0]) != found[0][1]:
            raise BrokenRun(self.path, f"damaged: what is kept under {name[:40]!r} does not match its check sum")
        return self.json(found[0][0])

    def put(self, name: str, value: Any) -> None:
        """Keep a value that JSON takes."""
        with self.changing() as db:
            put(db, name, value)

    def json(self, text: object) -> Any:
        """A value that was written as JSON; `BrokenRun` where it is not that."""
        try:
            return json.loads(text)  # type: ignore[arg-type]  # what is no text is an error like any other
        except (ValueError, TypeError, RecursionError) as error:
            raise BrokenRun(self.path, f"damaged: a value that is no JSON ({error})") from None


def put(db: sqlite3.Connection, name: str, value: Any) -> None:
    """Keep a value that JSON takes, in a transaction that has begun."""
    text = json.dumps(value)
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, text, checksum(name, text)))


def plain(text: str) -> str:
    """A text as the ledger takes it: what is no character, as in a file's name that is no UTF-8, is written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def checksum(*parts: object) -> int:
    """A check sum of texts, numbers and bytes, which tells damage that SQLite does not see."""
    found = 0
    for part in parts:
        raw = part if isinstance(part, bytes) else repr(part).encode("utf-8", "surrogatepass")
        found = zlib.crc32(raw, zlib.crc32(b"%d:" % len(raw), found))
    return found
