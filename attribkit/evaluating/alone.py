"""A run on disk that this process works on by itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from ..batch import Batch
from ..errors import AttribkitError
from ..model.adapter import VisionModel
from ..problems.base import Problem
from ..problems.shards import Shard, Sharded, digest_of_batches, rows_of
from ..progress import Pace
from ..scores import Failure, Scores
from ..store import leases, planning
from ..store.folder import MAPS, Workshop
from ..store.keys import fingerprint
from .asking import said
from .leased import Bench
from .preparing import content, facts, prepared
from .scoring import Begun, Paced, Run, check_any
from .units import Work


def evaluated(path: str | Path, run: Run, problems: Sequence[Problem], progress: Callable[[Pace], object] | None) -> Scores:
    """Do what is left of a run in the folder `path`; all of its scores."""
    run.maps = "float16"
    with Workshop(path) as shop:
        shop.begin(facts(engine="alone", workers=1))
        try:
            begun = prepared(shop, run, problems)
            done_alone(shop, run, begun, progress)
            scores = shop.scores()
            check_any(scores, run.methods, run.error)
        except BaseException as error:  # whatever it is, the ledger says how this session ended, and it is raised again
            with contextlib.suppress(AttribkitError):  # what brought us here is said; a disk that is full takes this no more
                shop.seen("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        shop.keep_table(scores)
        shop.seen("done")
        return scores


def done_alone(shop: Workshop, run: Run, begun: Sequence[Begun], progress: Callable[[Pace], object] | None) -> None:
    """Do what is left, in this process, one shard after the other."""
    worker, bench = f"alone-{os.getpid()}", bench_of(shop, run, begun)
    pace = Paced(progress, sum(len(each.problem) * len(run.pairs(each)) for each in begun), before=shop.state().done)
    try:
        while (leased := leases.take(shop.ledger, worker)) is not None:
            bench.do(leased)
            pace.at(shop.state().done, leased.problem)
            shop.seen()
        for each in begun:
            if not isinstance(each.problem, Sharded):
                _streamed(bench, worker, each, pace, shop)
    except (KeyboardInterrupt, AttribkitError):  # which say nothing of the images that were worked on
        with contextlib.suppress(AttribkitError):
            leases.lost(shop.ledger, worker, None)
        raise


def bench_of(shop: Workshop, run: Run, begun: Sequence[Begun]) -> Bench:
    """Where this process works on a run."""
    methods = [*run.lined_up, *(oracle for each in begun for oracle in each.oracles)]
    known = {(each.on.problem, each.on.model): each.problem for each in begun}
    return Bench(shop.ledger, Work(run, methods, shop.path / MAPS), known)


def _streamed(bench: Bench, worker: str, begun: Begun, pace: Paced, shop: Workshop) -> None:
    """Do what is left of a problem that can only be gone through from its beginning."""
    for number, (key, part) in enumerate(_parts(bench, begun)):
        images = len(part.batch or ()) + len(part.failures)
        shard = planning.ask_shard(bench.ledger, begun.on.problem, begun.on.model, (number, key, images))
        leased = leases.take(bench.ledger, worker, only=shard)
        if leased is not None:
            bench.finish(leased, part, _group_names(begun.problem))
        pace.at(shop.state().done, begun.on.problem)
        shop.seen()
    planning.add_notes(bench.ledger, getattr(begun.problem, "failures", ()))


def _parts(bench: Bench, begun: Begun) -> Iterator[tuple[str, Shard]]:
    """The batches, each with its content's digest, as far as the problem goes; an image that was there before is not taken again."""
    run, batches, before = bench.work.run, iter(begun.problem), set[str]()
    known: WeakKeyDictionary[VisionModel, str] = WeakKeyDictionary()  # a problem may have a model of its own for each batch
    while True:
        try:
            found = next(batches, None)
        except Exception as error:  # the images' own source may raise anything; what is scored already must not be lost
            run.error = error.with_traceback(None)
            planning.add_notes(bench.ledger, [(begun.on.problem, "problem", said(error))])
            return
        if found is None:
            return
        model, batch = found
        if model not in known:
            known[model] = fingerprint(model)
        words = begun.on.problem, digest_of_batches([batch]), [[name, *map(str, own)] for name, own in _group_names(begun.problem).items()]
        if len(batch):
            yield content(run.maps, known[model], *words), _once(model, batch, before)


def _once(model: VisionModel, batch: Batch, before: set[str]) -> Shard:
    """The images of a batch that were not there `before`."""
    new = [row for row, name in enumerate(batch.ids) if name not in before and name not in batch.ids[:row]]
    again = [name for row, name in enumerate(batch.ids) if row not in new]
    before.update(batch.ids)
    failures = tuple(
        Failure(name, "read", "it comes a second time, allowed: an id of its own for each image") for name in dict.fromkeys(again)
    )
    return Shard(model, rows_of(batch, new) if again else batch, failures)


def _group_names(problem: Problem) -> Mapping[str, Sequence[str]]:
    names: Mapping[str, Sequence[str]] = getattr(problem, "group_names", {})
    return names
