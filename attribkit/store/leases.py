"""Who works on which shard: leases, what a lost one makes suspect, and what is left out for it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from .ledger import Ledger, plain
from .planning import OPEN

DEATHS = 2  # times that an image, alone, ends the process which works on it, before it is left out

_AGAIN = "ON CONFLICT (shard, image) DO UPDATE SET deaths = deaths + 1, reason = excluded.reason"
_BLAME = f"INSERT INTO suspect VALUES (?, ?, 1, ?) {_AGAIN}"


class Todo(NamedTuple):
    """What is left to be done by one method: its metrics that have no scores yet, and the file that has its maps, if they are kept."""

    method: str
    metrics: tuple[str, ...]
    file: str | None
    digest: str | None


class Leased(NamedTuple):
    """A shard that somebody works on: its number in its problem, its content's digest, how often it was tried before, what is left.

    `suspects` are images that a process has died of, the worst first; `without` those that are left out.
    """

    id: int
    worker: str
    problem: str
    model: str
    number: int
    content: str
    tries: int
    todo: tuple[Todo, ...]
    suspects: tuple[str, ...]
    without: frozenset[str]


def take(ledger: Ledger, worker: str, *, only: int | None = None) -> Leased | None:
    """Lease a shard that has something left to be done, those that nobody died of first; None where there is none.

    `only` that one, if it is given.
    """
    which = "AND id = ?" if only is not None else ""
    with ledger.changing() as db:
        found = db.execute(
            f"SELECT id, tries FROM shard WHERE asked = 1 AND complete = 0 AND lease IS NULL {which} ORDER BY tries, id LIMIT 1",
            () if only is None else (only,),
        ).fetchone()
        if found is None:
            return None
        db.execute(
            "UPDATE shard SET lease = ?, since = ?, doing = 'reading', probing = NULL, tries = tries + 1 WHERE id = ?",
            (worker, time.time(), found[0]),
        )
    return _leased(ledger, worker, *found)


def _leased(ledger: Ledger, worker: str, shard: int, before: int) -> Leased:
    ((label, model, number, content),) = ledger.rows(
        "SELECT label, model, number, content FROM shard JOIN problem ON problem.id = shard.problem WHERE shard.id = ?", shard
    )
    suspects = ledger.rows("SELECT image, deaths FROM suspect WHERE shard = ? ORDER BY deaths DESC, image", shard)
    without = frozenset(image for image, deaths in suspects if deaths >= DEATHS)
    worst = tuple(image for image, _ in suspects if image not in without)
    return Leased(shard, worker, label, model, number, content, before, left(ledger, shard), worst, without)


def left(ledger: Ledger, shard: int) -> tuple[Todo, ...]:
    """What is left to be done of a shard."""
    rows = ledger.rows(
        "SELECT method.text, metric.text, work.file, work.digest FROM shard JOIN ask ON ask.problem = shard.problem "
        "JOIN method ON method.id = ask.method JOIN metric ON metric.id = ask.metric "
        "LEFT JOIN work ON work.shard = shard.id AND work.method = ask.method "
        "LEFT JOIN score ON score.shard = shard.id AND score.method = ask.method AND score.metric = ask.metric "
        "WHERE shard.id = ? AND score.shard IS NULL ORDER BY ask.place",
        shard,
    )
    todo: dict[str, Todo] = {}
    for method, metric, file, digest in rows:
        known = todo.get(method, Todo(method, (), file, digest))
        todo[method] = known._replace(metrics=(*known.metrics, metric))
    return tuple(todo.values())


def mark(ledger: Ledger, leased: Leased, *, doing: str | None = None, probing: str | None = None) -> None:
    """A sign of life: what is being done with a leased shard now, or with which of its images alone."""
    with ledger.changing() as db:
        db.execute(
            "UPDATE shard SET since = ?, doing = ?, probing = ? WHERE id = ? AND lease = ?",
            (time.time(), doing, None if probing is None else plain(probing), leased.id, leased.worker),
        )


def alive(ledger: Ledger, leased: Leased) -> None:
    """A sign of life."""
    with ledger.changing() as db:
        db.execute("UPDATE shard SET since = ? WHERE id = ? AND lease = ?", (time.time(), leased.id, leased.worker))


def finish(ledger: Ledger, leased: Leased) -> None:
    """Give a shard back."""
    with ledger.changing() as db:
        db.execute(f"UPDATE shard SET complete = NOT {OPEN} WHERE id = ?", (leased.id,))
        db.execute(
            "UPDATE shard SET lease = NULL, doing = NULL, probing = NULL, tries = 0 WHERE id = ? AND lease = ?", (leased.id, leased.worker)
        )


def lost(ledger: Ledger, worker: str, reason: str | None) -> None:
    """Take back what a process held that is no more, for `reason`; None: it was ended from outside, which makes nothing suspect."""
    with ledger.changing() as db:
        if reason is not None:
            db.execute(
                f"INSERT INTO suspect SELECT id, probing, 1, ? FROM shard WHERE lease = ? AND probing IS NOT NULL {_AGAIN}",
                (plain(reason), worker),
            )
        else:
            db.execute("UPDATE shard SET tries = tries - 1 WHERE lease = ?", (worker,))
        db.execute("UPDATE shard SET lease = NULL, doing = NULL, probing = NULL WHERE lease = ?", (worker,))


def blame(ledger: Ledger, leased: Leased, images: Iterable[str], reason: str) -> None:
    """Note that a process ended, for `reason`, while it was at work on each of these images alone."""
    with ledger.changing() as db:
        db.executemany(_BLAME, [(leased.id, plain(image), plain(reason)) for image in images])


def holders(ledger: Ledger) -> list[tuple[str, float, str]]:
    """Who holds something: the name of the process, when it last gave a sign of life, and at what it is."""
    rows = ledger.rows("SELECT lease, since, coalesce(probing, doing, '') FROM shard WHERE lease IS NOT NULL AND asked = 1 ORDER BY id")
    return [(str(lease), float(since), str(doing)) for lease, since, doing in rows]


def free(ledger: Ledger) -> int:
    """How many shards have something left to be done and nobody at them."""
    return int(ledger.rows("SELECT count(*) FROM shard WHERE asked = 1 AND complete = 0 AND lease IS NULL")[0][0])


def anything(ledger: Ledger) -> bool:
    """Whether something is left to be done, or somebody is still at it."""
    return bool(ledger.rows("SELECT 1 FROM shard WHERE asked = 1 AND complete = 0 LIMIT 1"))
