"""Work on a leased shard: carefully where a process has died of it before, and each method's work kept as it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..problems.base import Problem
from ..problems.shards import Shard, Sharded
from ..progress import reporting
from ..scores import Failure, Key
from ..store import leases, results
from ..store import shards as files
from ..store.leases import Leased
from ..store.ledger import Ledger, plain
from ..store.results import Done, Known, Scored, Trouble
from .units import Unit, Work, read

# So often a shard may end its process, though none of its images does so alone, before they are never put together again.
APART = 6
HOPELESS = 25
_HOPELESS = f"left out: the images that it was worked on with ended their process {HOPELESS} times, though none of them did alone"
PULSE = 1.0  # seconds between signs of life of a method that takes long


class Bench(NamedTuple):
    """Where work is done: the ledger, what does it, the problems by what tables call them and their models."""

    ledger: Ledger
    work: Work
    problems: Mapping[tuple[str, str], Problem]

    def do(self, leased: Leased, part: Shard | None = None) -> None:
        """Do all that is left of a shard of a problem that has shards, read already or not, and give it back."""
        problem, names = self.problem(leased), self.names(leased)
        with reporting(self._pulse(leased)):
            if leased.tries > HOPELESS:
                part = Shard(problem.model, None, tuple(Failure(name, "worker", _HOPELESS) for name in names))
            elif leased.tries:
                self._probe(leased, problem, names)
            if part is None:
                leases.mark(self.ledger, leased, doing="reading")
                part = read(problem, leased.number, names if leased.without else None) if names else Shard(problem.model, None)
            self.finish(leased, part, getattr(problem, "group_names", {}))

    def problem(self, leased: Leased) -> Sharded:
        """The problem that a shard is of."""
        problem = self.problems[leased.problem, leased.model]
        if not isinstance(problem, Sharded):
            raise TypeError(f"{leased.problem} has no shards")
        return problem

    def names(self, leased: Leased) -> tuple[str, ...]:
        """The images of a shard, but for those that are left out."""
        return tuple(name for name in self.problem(leased).names(leased.number) if not {name, plain(name)} & leased.without)

    def finish(self, leased: Leased, part: Shard, group_names: Mapping[str, Sequence[str]]) -> None:
        """Do all that is left of a shard that has been read, and give it back."""
        results.fail(self.ledger, leased.id, [Trouble((each.id,), "", each.stage, each.reason) for each in part.failures])
        if part.batch is None or not len(part.batch):
            for each in leased.todo:
                nothing = Scored((), np.empty(0, np.float32), np.empty(0, np.float32))
                done = Done(each.method, Known((), (), {}), dict.fromkeys(each.metrics, nothing), (), 0.0)
                results.commit(self.ledger, leased.id, done)
        else:
            unit = Unit(Key(leased.problem, leased.model, "", ""), leased.content, part.model, part.batch, group_names)
            self._commit(leased, unit)
        self.close(leased)

    def close(self, leased: Leased) -> None:
        """Give a shard back of which all is done, and keep why some of its images are left out."""
        results.fail(self.ledger, leased.id, self._left_out(leased))
        leases.finish(self.ledger, leased)

    def _commit(self, leased: Leased, unit: Unit) -> None:
        def begins(method: str) -> None:
            leases.mark(self.ledger, leased, doing=method)

        for done in self.work.done(unit, leased.todo, self._keep, apart=leased.tries > APART, begins=begins):
            results.commit(self.ledger, leased.id, done)

    def _keep(self, name: str, content: bytes) -> None:
        files.keep(self.work.folder, name, content)

    def _probe(self, leased: Leased, problem: Sharded, names: Sequence[str]) -> None:
        """Do everything with each image alone, for nothing but to see which of them the process dies of: the ledger knows it then."""
        known = [name for name in leased.suspects if name in map(plain, names)]
        for name in sorted(names, key=lambda name: known.index(plain(name)) if plain(name) in known else len(known)):
            leases.mark(self.ledger, leased, probing=name)
            part = read(problem, leased.number, [name])
            if part.batch is not None:
                unit = Unit(Key(leased.problem, leased.model, "", ""), leased.content, part.model, part.batch, {})
                for _ in self.work.done(unit, leased.todo, lambda _name, _content: None):
                    leases.alive(self.ledger, leased)

    def _left_out(self, leased: Leased) -> list[Trouble]:
        reasons = dict(self.ledger.rows("SELECT image, reason FROM suspect WHERE shard = ?", leased.id))
        return [
            Trouble((name,), "", "worker", f"left out: alone it ended its process {leases.DEATHS} times: {reasons[name]}")
            for name in sorted(leased.without)
        ]

    def _pulse(self, leased: Leased) -> Callable[[int, int, str], None]:
        """A method that reports how far it has come is alive."""
        last = time.monotonic()

        def heard(_done: int, _total: int, _what: str) -> None:
            nonlocal last
            if time.monotonic() - last > PULSE:
                last = time.monotonic()
                leases.alive(self.ledger, leased)

        return heard
