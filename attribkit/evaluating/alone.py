"""A run on disk that this process works on by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..problems.base import Problem
from ..problems.shards import Shard, Sharded, digest_of_batches
from ..progress import Pace
from ..scores import Scores
from ..store import leases, planning
from ..store.folder import MAPS, Workshop
from ..store.keys import fingerprint
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
            error = run.error
            done_alone(shop, run, begun, progress)
            scores = shop.scores()
            check_any(scores, run.methods, error)
        except KeyboardInterrupt:
            shop.seen("interrupted")
            raise
        except BaseException:
            shop.seen("failed")
            raise
        shop.keep_table(scores)
        shop.seen("done")
        return scores


def done_alone(shop: Workshop, run: Run, begun: Sequence[Begun], progress: Callable[[Pace], object] | None) -> None:
    """Do what is left, in this process, one shard after the other."""
    worker, bench = f"alone-{os.getpid()}", bench_of(shop, run, begun)
    pace = Paced(progress, sum(len(each.problem) * len(run.pairs(each)) for each in begun), before=shop.state().done)
    while (leased := leases.take(shop.ledger, worker)) is not None:
        bench.do(leased)
        pace.at(shop.state().done, leased.problem)
        shop.seen()
    for each in begun:
        if not isinstance(each.problem, Sharded):
            _streamed(bench, worker, each, pace, shop)


def bench_of(shop: Workshop, run: Run, begun: Sequence[Begun]) -> Bench:
    """Where this process works on a run."""
    methods = [*run.lined_up, *(oracle for each in begun for oracle in each.oracles)]
    known = {(each.on.problem, each.on.model): each.problem for each in begun}
    return Bench(shop.ledger, Work(run, methods, shop.path / MAPS), known)


def _streamed(bench: Bench, worker: str, begun: Begun, pace: Paced, shop: Workshop) -> None:
    """Do what is left of a problem that can only be gone through from its beginning."""
    ((problem,),) = bench.ledger.rows("SELECT id FROM problem WHERE label = ? AND model = ?", begun.on.problem, begun.on.model)
    group_names: Mapping[str, Sequence[str]] = getattr(begun.problem, "group_names", {})
    for number, (key, part) in enumerate(_parts(begun, bench.work.run.maps)):
        with bench.ledger.changing() as db:
            shard = planning.enter_shard(db, problem, number, key, len(part.batch or ()))
        planning.settle(bench.ledger)
        leased = leases.take(bench.ledger, worker, only=shard)
        if leased is not None:
            leases.mark(bench.ledger, leased, doing="reading")
            bench.finish(leased, part, group_names)
        pace.at(shop.state().done, begun.on.problem)


def _parts(begun: Begun, maps: str) -> Iterator[tuple[str, Shard]]:
    known: dict[int, str] = {}
    for model, batch in begun.problem:
        if len(batch):
            weights = known.setdefault(id(model), "") or fingerprint(model)
            known[id(model)] = weights
            yield content(maps, weights, begun.on.problem, digest_of_batches([batch])), Shard(model, batch)
