"""A run shared among the machines of a Ray cluster: shards go out, what is done comes back as rows, and the driver alone writes.

Ray computes a row at least once; what comes twice is kept once. What ends an actor takes its shard along: then the shard's images are
tried alone, and those that end an actor again and again are left out.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..configuration import Configuration, build
from ..errors import Unavailable
from ..problems.shards import Shard, Sharded
from ..scores import Failure, Key
from ..store import leases, results
from ..store import shards as files
from ..store.folder import MAPS, Workshop
from ..store.leases import Leased, Todo
from ..store.results import Trouble
from .leased import Bench
from .packing import packed, unpacked
from .preparing import adopt
from .scoring import Paced, named
from .units import Unit, Work, read
from .workers import Task, run_of

RESTARTS = 2  # of an actor, and of a task whose actor was lost
TRIES = 4  # rounds in which a shard may be lost, though none of its images is alone
LOST = "its actor was lost: it ended, was killed, or gave no sign of life within the deadline"


class Order(NamedTuple):
    """What an actor is to do: a shard, or the images of it called `names`; `alone`, one image only to see whether that ends the actor."""

    leased: Leased
    names: tuple[str, ...] | None
    alone: bool

    def row(self) -> dict[str, str]:
        """As a row of Ray's, which holds plain values."""
        own = self.leased
        told = {"shard": own.id, "problem": own.problem, "model": own.model, "number": own.number, "content": own.content}
        return {"order": json.dumps({**told, "todo": own.todo, "names": self.names, "alone": self.alone})}

    @property
    def mark(self) -> tuple[int, str]:
        """By what the row that ends it is known."""
        return self.leased.id, self.names[0] if self.alone and self.names else ""


def on_ray(shop: Workshop, bench: Bench, task: Task, count: int | None, pace: Paced) -> None:
    """Until nothing is left, on the cluster that `ray.init` finds or starts; `Unavailable` without Ray, or where no actor can begin."""
    ray = ray_package()
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    cluster, worker = _Cluster(shop, bench, task, count, pace), f"ray-{os.getpid()}"
    try:
        while several := list(iter(lambda: leases.take(shop.ledger, worker), None)):
            cluster.round(several)
            leases.lost(shop.ledger, worker, LOST)
    finally:
        leases.lost(shop.ledger, worker, None)


def ray_package() -> Any:
    """Ray, with its data library."""
    try:
        importlib.import_module("ray.data")
        return importlib.import_module("ray")
    except ImportError:
        raise Unavailable('engine "ray": Ray is not installed; allowed: pip install "attribkit[ray]"') from None


class _Cluster:
    """The driver's part: orders, and what comes of them."""

    def __init__(self, shop: Workshop, bench: Bench, task: Task, count: int | None, pace: Paced) -> None:
        self.shop, self.bench, self.task, self.pace = shop, bench, task, pace
        known = ray_package().cluster_resources()
        self.gpus = int(known.get("GPU", 0))
        self.count = count or self.gpus or max(1, int(known.get("CPU", 1)))
        self.answered = False

    def round(self, several: Sequence[Leased]) -> None:
        """Do what is left of leased shards; those that are lost stay leased."""
        orders = []
        for leased in map(self._without_deadly, several):
            names, problem = self.bench.names(leased), self.bench.problem(leased)
            if names and leased.tries <= TRIES:
                orders.append(Order(leased, names if leased.without else None, alone=False))
            else:
                self.bench.finish(leased, Shard(problem.model, None, tuple(Failure(name, "worker", LOST) for name in names)), {})
        for order in self._carried_out(orders):
            self.bench.close(order.leased)

    def _without_deadly(self, leased: Leased) -> Leased:
        """A shard that was lost before without those of its images that end an actor, even alone, even again."""
        asked = self.bench.names(leased) if leased.tries else ()
        for _ in range(leases.DEATHS):
            survived = {order.names for order in self._carried_out([Order(leased, (name,), alone=True) for name in asked])}
            asked = tuple(name for name in asked if (name,) not in survived)
            leases.blame(self.shop.ledger, leased, asked, LOST)
        return leased._replace(without=leased.without | set(asked))

    def _carried_out(self, orders: Sequence[Order]) -> Iterator[Order]:
        """The orders that come to their end; what is done is kept as it comes."""
        open_ = {order.mark: order for order in orders}
        for row in self._rows(orders) if orders else ():
            self.answered = True
            shard = int(row["shard"])
            if row["maps"]:
                files.keep(self.shop.path / MAPS, str(row["file"]), row["maps"])
            if row["done"]:
                results.commit(self.shop.ledger, shard, unpacked(row["done"], row["blobs"]))
            if row["failures"]:
                failures = [Trouble((name,), "", stage, reason) for name, stage, reason in json.loads(row["failures"])]
                results.fail(self.shop.ledger, shard, failures)
            if row["end"] and (shard, row["alone"]) in open_:  # a row that comes twice ends an order once
                yield open_.pop((shard, row["alone"]))
            self.pace.at(self.shop.state().done, f"{self.count} actors")
            self.shop.seen()

    def _rows(self, orders: Sequence[Order]) -> Iterator[dict[str, Any]]:
        ray = ray_package()
        context = ray.data.DataContext.get_current()
        before = context.max_errored_blocks, context.enable_progress_bars
        # What an actor is lost with gives no rows, and the others go on; the ledger knows what is missing.
        context.max_errored_blocks, context.enable_progress_bars = -1, False
        data = ray.data.from_items([order.row() for order in orders], override_num_blocks=len(orders)).map_batches(
            Actor,
            batch_size=1,
            batch_format="numpy",
            concurrency=min(self.count, len(orders)),
            fn_constructor_args=(self.task._asdict(),),
            num_gpus=1 if self.gpus else None,
            max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
        )
        try:
            yield from data.iter_rows()
        except ray.exceptions.RayError as error:
            # A job that breaks off is tried again for what is missing; where none has ever given an answer, there is no hope in that.
            if not self.answered:
                raise Unavailable(f"no actor of the cluster gave an answer: {' '.join(str(error).split())[-400:]}") from error
        finally:
            context.max_errored_blocks, context.enable_progress_bars = before


class Actor:
    """A process of a cluster: model and problems made anew from the configuration, then order after order."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        import torch

        self.task = Task(**task)
        torch.set_num_threads(self.task.threads)
        configuration = Configuration.from_record(self.task.record)
        _, problems = build(configuration, "cuda" if torch.cuda.is_available() else "cpu")
        adopt(problems, self.task.plans)
        run = run_of(configuration)
        self.work = Work(run, run.lined_up, Path(self.task.folder) / MAPS)
        self.problems = {(on.problem, on.model): problem for problem, on in zip(problems, named(problems), strict=True)}

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Rows of what is done of each order, and one more that ends it."""
        rows = [row for text in batch["order"] for row in self._rows(json.loads(str(text)))]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _rows(self, order: dict[str, Any]) -> Iterator[dict[str, Any]]:
        empty = {"shard": order["shard"], "alone": "", "done": "", "blobs": b"", "file": "", "maps": b"", "failures": "", "end": False}
        todo = [Todo(method, tuple(metrics), file, digest) for method, metrics, file, digest in order["todo"]]
        problem = self.problems[order["problem"], order["model"]]
        if not isinstance(problem, Sharded):
            raise TypeError(f"{order['problem']} has no shards")
        with self._deadline():
            part = read(problem, order["number"], order["names"])
        for each in todo:
            if part.batch is None:
                break
            unit = Unit(Key(order["problem"], order["model"], "", ""), order["content"], part.model, part.batch, _names(problem))
            kept: dict[str, bytes] = {}
            with self._deadline():
                (done,) = self.work.done(unit, [each], kept.__setitem__)
            if not order["alone"]:
                text, blobs = packed(done)
                yield {**empty, "done": text, "blobs": blobs, "file": done.file or "", "maps": kept.get(done.file or "", b"")}
        failures = [] if order["alone"] else part.failures
        alone = order["names"][0] if order["alone"] else ""
        yield {**empty, "failures": json.dumps(failures) if failures else "", "alone": alone, "end": True}

    def _deadline(self) -> _Deadline:
        return _Deadline(self.task.deadline)


class _Deadline:
    """A block that ends its process where it takes longer."""

    def __init__(self, seconds: float) -> None:
        self.timer = threading.Timer(seconds, os._exit, (1,))
        self.timer.daemon = True

    def __enter__(self) -> None:
        self.timer.start()

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()


def _names(problem: Any) -> Mapping[str, Sequence[str]]:
    names: Mapping[str, Sequence[str]] = getattr(problem, "group_names", {})
    return names
