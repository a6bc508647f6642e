"""`Store`: the folder of a run, as those see it who read it and those who work on it."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import AttribkitError, BadInput, BrokenRun, InUse, Unwritable
from ..files import PARTS
from ..scores import Failure, Key, Scores
from ..scoring.parts import Column, joined
from ..scoring.summaries import Listing, Summary
from . import leases, planning, results
from .ledger import NAME, Ledger

if TYPE_CHECKING:
    from ..attribution import Attribution

LOCK, MAPS, TABLE = "lock", "maps", "table"


class State(NamedTuple):
    """How far a run is: pairs of image and method that are done, of those that are asked; images that failed; what is worked on now.

    `sessions` are those of whoever worked on it: when each began and was last seen, how it ended ("running", "done", "interrupted",
    "failed", "lost"), and its facts.
    """

    done: int
    total: int
    failed: int
    working: list[tuple[str, float, str]]
    sessions: list[tuple[float, float, str, dict[str, Any]]]

    @property
    def running(self) -> bool:
        """Whether somebody is at work, or was when they were last heard of."""
        return bool(self.sessions) and self.sessions[-1][2] == "running"

    @property
    def seconds(self) -> float:
        """How long it was worked on, all sessions together."""
        return sum(seen - began for began, seen, _, _ in self.sessions)


class Store:
    """A run on disk, to be read, also while others work on it; `BrokenRun` where there is none or it is damaged.

    `scores()` and `failures()` are those of what was asked last; `maps(method)` are as they were kept, at their own resolution.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.ledger = Ledger(self.path)
        try:
            self.ledger.sound()
        except BaseException:  # whatever it is, what was opened is closed, and it is raised again
            self.ledger.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def close(self) -> None:
        """Let go of the files."""
        self.ledger.close()

    def scores(self) -> Scores:
        """Every score of what was asked last, and what failed."""
        scores = Scores()
        piles: dict[tuple[Key, bool], list[results.Block]] = {}
        for block in results.blocks(self.ledger):
            if len(block.places):
                piles.setdefault((Key(block.problem, block.model, block.method, block.metric), block.higher), []).append(block)
                scores.controls |= {block.method} if block.control else set()
        for (key, higher), blocks in piles.items():
            columns = [_column(block) for block in blocks]
            ids = [block.known.names[place] for block in blocks for place in block.places]
            try:
                scores.enter(key, ids, joined(columns), higher)
            except BadInput as error:
                raise BrokenRun(self.path, f"damaged: {error}") from None
        scores.failures = [Failure(*each[:3]) for each in self.failures()]
        return scores

    def table(self) -> Listing[Summary]:
        """`scores().table()`: that of a run that has ended was worked out when it did."""
        kept = self.ledger.get(TABLE)
        if kept is not None and kept["stamp"] == self.stamp():
            return Listing(_summary(row) for row in kept["rows"])
        return self.scores().table()

    def stamp(self) -> list[int]:
        """What changes with every score that is asked for."""
        with self.ledger.snapshot():
            ((count, marks),) = self.ledger.rows(
                "SELECT count(*), coalesce(sum(score.mark), 0) FROM shard JOIN ask ON ask.problem = shard.problem "
                "JOIN score ON score.shard = shard.id AND score.method = ask.method AND score.metric = ask.metric WHERE shard.asked = 1"
            )
            return [int(count), int(marks), *planning.asked_in(self.ledger.db)]

    def failures(self) -> list[results.Failed]:
        """What could not be done of what was asked last."""
        return results.failures(self.ledger)

    def curves(self) -> dict[tuple[str, str, str], dict[str, NDArray[np.float32]]]:
        """By problem, model and metric, each method's curves (N, K) that scores were read off, where there are such."""
        found: dict[tuple[str, str, str], dict[str, list[NDArray[np.float16]]]] = {}
        for block in results.blocks(self.ledger):
            if block.curves is not None:
                found.setdefault((block.problem, block.model, block.metric), {}).setdefault(block.method, []).append(block.curves)
        return {key: {name: np.concatenate(each).astype(np.float32) for name, each in own.items()} for key, own in found.items()}

    def maps(self, method: str, *, problem: str | None = None) -> Iterator[Attribution]:
        """The maps by a method, named as tables call it, shard by shard; `BrokenRun` where a file is damaged."""
        from . import shards

        for _, file, digest in self.files(method, problem=problem):
            yield shards.read(self.path / MAPS / file, digest)

    def files(self, method: str, *, problem: str | None = None) -> list[tuple[int, str, str]]:
        """The files of the maps by a method: the number of the shard in its problem, the name and the digest of each."""
        from . import shards

        found = []
        with self.ledger.snapshot():
            for number, label, content, complete, text, done, file, digest in self.ledger.rows(
                "SELECT number, label, content, complete, text, work.images, file, digest FROM shard "
                "JOIN problem ON problem.id = shard.problem JOIN method ON method.brief = ? "
                "LEFT JOIN work ON work.shard = shard.id AND work.method = method.id WHERE shard.asked = 1 AND EXISTS "
                "(SELECT 1 FROM ask WHERE ask.problem = shard.problem AND ask.method = method.id) ORDER BY shard.problem, number",
                method,
            ):
                if (complete and done is None) or (file is not None and shards.name_of(content, text, str(digest)) != file):
                    raise BrokenRun(self.path, f"damaged: a file of maps is not that of what {method} made of its shard")
                if file is not None and problem in (None, label):
                    found.append((int(number), str(file), str(digest)))
        return found

    def state(self) -> State:
        """How far it is."""
        with self.ledger.snapshot():
            ((total,),) = self.ledger.rows(
                "SELECT coalesce(sum(images * methods), 0) FROM shard JOIN "
                "(SELECT problem, count(DISTINCT method) AS methods FROM ask GROUP BY problem) USING (problem) WHERE asked = 1"
            )
            ((done,),) = self.ledger.rows(
                "SELECT coalesce(sum(shard.images), 0) FROM shard JOIN work ON work.shard = shard.id WHERE shard.asked = 1 AND "
                "EXISTS (SELECT 1 FROM ask WHERE ask.problem = shard.problem AND ask.method = work.method)"
            )
            ((failed,),) = self.ledger.rows(
                "SELECT count(DISTINCT shard.problem || ' ' || failure.image) FROM failure JOIN shard ON shard.id = failure.shard "
                f"WHERE {results.COUNTS} AND failure.image <> ''"
            )
            sessions = self.ledger.rows("SELECT began, seen, state, facts FROM session ORDER BY id")
            told = [(float(began), float(seen), str(state), self.ledger.json(facts)) for began, seen, state, facts in sessions]
            return State(int(done), int(total), int(failed), leases.holders(self.ledger), told)


def _summary(row: Any) -> Summary:
    """A row of a table from plain values, which have no NaN."""
    values: dict[str, Any] = {name: math.nan if value is None and name != "group" else value for name, value in row.items()}
    return Summary(**values)


def _column(block: results.Block) -> Column:
    """A block of scores as `Scores` takes them; images have no numbers yet."""
    places = block.places
    groups = {}
    for name, labels in block.known.groups.items():
        every = np.empty(len(labels), np.object_)
        every[:] = labels
        groups[name] = every[places]
    targets = np.array(block.known.targets, np.int64)[places]
    return Column(np.zeros(len(places), np.int64), targets, groups, block.scores, block.chances)


class Workshop(Store):
    """The folder of a run that this process alone works on: made where there is none; `InUse` where another process has it.

    A process that is killed lets go of it. A damaged ledger is set aside, and what is good of it is taken over.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            (self.path / MAPS).mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            for part in (*self.path.glob(PARTS), *(self.path / MAPS).glob(PARTS)):
                part.unlink(missing_ok=True)
        except OSError as error:
            raise Unwritable(f"{self.path}: {(error.strerror or str(error)).lower()}; allowed: a folder that may be written to") from error
        try:
            self.salvaged = False
            self.ledger = self._opened()
        except BaseException:  # whatever it is, what was opened is closed, and it is raised again
            self._lock.close()
            raise
        self._session: int | None = None

    def _locked(self) -> sqlite3.Connection:
        try:
            return _exclusively(self.path / LOCK)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise InUse(
                    f"{self.path}: {self._holder()} works on it; allowed: to wait until that has ended, or another folder"
                ) from None
            raise Unwritable(f"{self.path / LOCK}: {error}; allowed: a folder with room that may be written to") from error

    def _holder(self) -> str:
        try:
            with Store(self.path) as store:
                facts = store.state().sessions[-1][3]
            return f"process {facts['pid']} on {facts['host']}, since {facts['began']},"
        except (AttribkitError, LookupError, TypeError):  # it has only just begun, or its ledger is damaged
            return "another process"

    def _opened(self) -> Ledger:
        from .salvage import check, salvaged

        try:
            ledger = Ledger(self.path, writing=True)
            try:
                check(ledger)
                with ledger.changing() as db:  # or it would be found out after the first work that it may not be written to
                    db.execute("DELETE FROM meta WHERE name IS NULL")
                return ledger
            except BaseException:  # whatever it is, what was opened is closed, and it is raised again
                ledger.close()
                raise
        except BrokenRun as error:
            if "another version" in error.reason or "no ledger" in error.reason:
                raise
        self.salvaged = True
        return salvaged(self.path)

    def open_shards(self) -> int:
        """How many shards have something left to be done."""
        return int(self.ledger.rows("SELECT count(*) FROM shard WHERE asked = 1 AND complete = 0")[0][0])

    def begin(self, facts: dict[str, object]) -> None:
        """Note that work begins."""
        self._session = planning.begin_session(self.ledger, facts, time.time())
        for worker, _, _ in leases.holders(self.ledger):
            # Whatever ended the one who worked here, or processes that ended with it, says nothing of the images that were worked on.
            leases.lost(self.ledger, worker, None)

    def seen(self, state: str = "running") -> None:
        """Note that work goes on, or how it ended."""
        if self._session is not None:
            planning.end_session(self.ledger, self._session, state, time.time())

    def spoilt(self) -> list[str]:
        """Look at every file of maps that is asked for, and forget the work whose file is not as it was; the files' names."""
        from . import shards

        rows = self.ledger.rows(
            "SELECT work.shard, work.method, work.file, work.digest FROM work JOIN shard ON shard.id = work.shard "
            "WHERE shard.asked = 1 AND work.file IS NOT NULL"
        )
        bad = [(shard, method, file) for shard, method, file, digest in rows if shards.digest_of(self.path / MAPS / file) != digest]
        planning.forget_work(self.ledger, [(shard, method) for shard, method, _ in bad])
        return [file for _, _, file in bad]

    def keep_table(self, scores: Scores) -> None:
        """Keep the table of all scores for whoever asks for it next."""
        rows = [dataclasses.asdict(row) for row in scores.table()]
        plain = [{name: None if value != value else value for name, value in row.items()} for row in rows]
        self.ledger.put(TABLE, {"stamp": self.stamp(), "rows": plain})

    def close(self) -> None:
        """Let go of the folder."""
        self.ledger.close(last=True)
        self._lock.close()


def is_run(path: Path) -> bool:
    """Whether there is a run in a folder."""
    return (path / NAME).exists()


def _exclusively(path: Path) -> sqlite3.Connection:
    """A lock that goes with the process that has it, whatever ends it; nothing is in its file, and what is there is thrown away."""
    lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        lock.close()
        if error.sqlite_errorname not in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            raise
        path.write_bytes(b"")
        return _exclusively(path)
    return lock
