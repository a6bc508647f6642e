"""A run shared among processes of this machine, each of which may be lost at any moment."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

from ..configuration import Configuration, build
from ..errors import AttribkitError, Unavailable
from ..problems.shards import Shard, Sharded
from ..store import leases
from ..store.folder import MAPS, Workshop
from ..store.leases import Leased
from ..store.ledger import Ledger
from .asking import CONTROLS
from .leased import Bench
from .preparing import adopt
from .scoring import Paced, Run, named
from .units import Work, read

LOOK = 0.25  # seconds between looks at the processes
ASLEEP = 30.0  # seconds between two looks that say that the machine was suspended, or its clock set
BARREN = 5  # processes in a row that may end before they have begun anything
FINISHED = "finished"


class Task(NamedTuple):
    """What every process is told: the run's folder and configuration, what its problems have found out, threads for each, devices."""

    folder: str
    record: dict[str, Any]
    plans: dict[str, Any]
    threads: int
    devices: tuple[str, ...]
    deadline: float
    workers: int


class Seat(NamedTuple):
    """A process at work, by the name that its leases bear."""

    name: str
    process: Any
    pipe: connection.Connection


class Crew:
    """Processes that do what is left of a run: started, watched, and replaced where they are lost."""

    def __init__(self, shop: Workshop, task: Task, count: int) -> None:
        self.shop, self.task, self.count = shop, task, count
        self.seats: list[Seat] = []
        self.barren = 0
        self._numbers = itertools.count()
        self._late: set[str] = set()
        self._looked = self._awake = time.time()
        # A process that is forked from one which has imported everything begins at once; elsewhere it imports everything itself.
        self._context: Any = get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            self._context.set_forkserver_preload([__name__])

    def work(self, pace: Paced) -> None:
        """Until nothing is left; raises what keeps a process from working, such as a full disk."""
        try:
            for _ in range(min(self.count, max(1, self.shop.open_shards()))):
                self._hire()
            while self.seats:
                connection.wait([each for seat in self.seats for each in (seat.process.sentinel, seat.pipe)], timeout=LOOK)
                for seat in list(self.seats):
                    self._look(seat)
                self._call_time()
                pace.at(self.shop.state().done, f"{len(self.seats)} at work")
                self.shop.seen()
        finally:
            self._dismiss()

    def _hire(self) -> None:
        number = next(self._numbers)
        here, there = self._context.Pipe(duplex=False)
        name = f"worker-{number}-of-{os.getpid()}"
        device = self.task.devices[number % len(self.task.devices)]
        process = self._context.Process(target=serve, args=(self.task, name, device, there), name=name, daemon=True)
        process.start()
        there.close()
        self.seats.append(Seat(name, process, here))

    def _look(self, seat: Seat) -> None:
        """Hear what a process has to say; where it is no more, take back what it held, and let another one take its place."""
        ended, said = not seat.process.is_alive(), None
        with contextlib.suppress(EOFError, OSError):
            while seat.pipe.poll():
                said = seat.pipe.recv()
        if isinstance(said, AttribkitError):
            raise said
        if not ended:
            return
        seat.process.join()
        self.seats.remove(seat)
        seat.pipe.close()
        begun = any(worker == seat.name for worker, _, _ in leases.holders(self.shop.ledger))
        leases.lost(self.shop.ledger, seat.name, None if said == FINISHED else self._reason(seat))
        if said == FINISHED:
            return
        self.barren = 0 if begun else self.barren + 1
        if self.barren >= BARREN:
            raise Unavailable(f"worker processes end before they have begun anything: {self._reason(seat)}")
        if self.shop.open_shards():
            self._hire()

    def _reason(self, seat: Seat) -> str:
        code = seat.process.exitcode or 0
        if seat.name in self._late:
            return f"it gave no sign of life for {self.task.deadline:g} s, the deadline"
        if code < 0:
            word = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"ended by {word}" + " (out of memory, or killed by somebody)" * (word == "SIGKILL")
        return f"it exited with code {code}"

    def _call_time(self) -> None:
        """End the processes that have given no sign of life for too long; time in which this process was not awake does not count."""
        if time.time() - self._looked > ASLEEP:
            self._awake = time.time()
        self._looked = time.time()
        since: dict[str, float] = {}
        for worker, moment, _ in leases.holders(self.shop.ledger):
            since[worker] = max(moment, since.get(worker, self._awake))
        for stranger in since.keys() - {seat.name for seat in self.seats}:  # of an earlier driver, and slow to end
            leases.lost(self.shop.ledger, stranger, None)
        for seat in self.seats:
            if time.time() - since.get(seat.name, time.time()) > self.task.deadline and seat.name not in self._late:
                self._late.add(seat.name)
                seat.process.kill()

    def _dismiss(self) -> None:
        for seat in self.seats:
            seat.process.kill()
        for seat in self.seats:
            seat.process.join()
            seat.pipe.close()
            with contextlib.suppress(AttribkitError):  # what brought us here is said; the next session takes leases back as well
                leases.lost(self.shop.ledger, seat.name, None)
        self.seats.clear()


def serve(task: Task, name: str, device: str, pipe: connection.Connection) -> None:
    """A process of a crew: do shards until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it decides
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    try:
        import torch

        torch.set_num_threads(task.threads)
        ledger = Ledger(Path(task.folder), writing=True)
        bench = bench_of(task, ledger, device)
        with Ahead(bench, name, task.workers) as shards:
            for leased, part in shards:
                bench.do(leased, part)
        pipe.send(FINISHED)
    except AttribkitError as error:
        pipe.send(error.with_traceback(None))
        raise SystemExit(1) from None


def bench_of(task: Task, ledger: Ledger, device: str) -> Bench:
    """Where a process works: model and problems made anew from the configuration."""
    configuration = Configuration.from_record(task.record)
    _, problems = build(configuration, device)
    adopt(problems, task.plans)
    run = run_of(configuration)
    known = {(on.problem, on.model): problem for problem, on in zip(problems, named(problems), strict=True)}
    return Bench(ledger, Work(run, run.lined_up, Path(task.folder) / MAPS), known)


def run_of(configuration: Configuration) -> Run:
    """What scores, as a configuration asks."""
    run = Run(configuration.methods, configuration.metrics, controls=CONTROLS if configuration.controls else ())
    run.maps = configuration.maps
    return run


def _end_with(parent: Any) -> None:
    """A process whose parent is gone has nobody left to work for."""
    connection.wait([parent.sentinel])
    os._exit(1)


class Ahead:
    """Leased shards, each read by a thread of its own while the one before is worked on, as long as there are enough for the others."""

    def __init__(self, bench: Bench, name: str, others: int) -> None:
        self.bench, self.name, self.others = bench, name, others
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loader")

    def __enter__(self) -> Iterator[tuple[Leased, Shard | None]]:
        return self._shards()

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _shards(self) -> Iterator[tuple[Leased, Shard | None]]:
        waiting = self._next()
        while waiting is not None or leases.anything(self.bench.ledger):
            if waiting is None:  # others work on what is left, and may be lost
                time.sleep(LOOK)
                waiting = self._next()
                continue
            leased, coming = waiting
            part = None if coming is None else coming.result()
            waiting = None if leased.tries or leases.free(self.bench.ledger) < self.others else self._next()
            yield leased, part
            waiting = waiting or self._next()

    def _next(self) -> tuple[Leased, Future[Shard] | None] | None:
        leased = leases.take(self.bench.ledger, self.name)
        if leased is None:
            return None
        problem = self.bench.problems[leased.problem, leased.model]
        if leased.tries or leased.without or not isinstance(problem, Sharded):
            return leased, None
        return leased, self._pool.submit(read, problem, leased.number, None)


def crew_size(devices: Sequence[str], asked: int | None) -> int:
    """How many processes work, if nobody says: one for each accelerator; on the CPU, one for all of its cores."""
    return asked if asked is not None else len(devices)


def devices_of(device: str | None) -> tuple[str, ...]:
    """Where processes run their models: on the device that is asked for, or on all accelerators that there are."""
    import torch

    if device is not None and device != "cuda":
        return (device,)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{number}" for number in range(count)) or (device or "cpu",)
