"""What keeping a run on disk costs beside its work, and how long a finished one takes to be shown.

python benchmarks/store.py cost --images FOLDER     # Grad-CAM on ResNet-18, with and without a store, interleaved; where it goes
python benchmarks/store.py show                     # runs of 100,000 scores: Store(...).table(), and the command `attribkit show`
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import measured

import attribkit as ak
from attribkit.evaluating import alone, preparing, scoring
from attribkit.problems.labelled import Labelled
from attribkit.store import Store, leases, planning, results, shards
from attribkit.store.folder import Workshop
from attribkit.store.ledger import Ledger

RUNS = {"10 methods x 10 metrics x 1,000 images": (10, 10, 1_000), "2 methods x 1 metric x 50,000 images": (2, 1, 50_000)}


# What it costs ------------------------------------------------------------------------------------------------------------------------


def cost(given: argparse.Namespace) -> None:
    """Grad-CAM and one cheap metric, no controls: as little work as a store has ever to be beside."""
    torch.set_num_threads(given.threads)
    model = ak.load_model("torchvision/resnet18", weights=None)
    numbers = itertools.count()

    def evaluated(store: Path | None) -> None:
        problem = Labelled(model, given.images, batch_size=given.batch, limit=given.count)
        ak.evaluate(problem, "grad_cam", "sparseness", controls=False, store=store)

    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        costs = measured(
            {"without": lambda: evaluated(None), "with a store": lambda: evaluated(Path(folder) / str(next(numbers)))}, given.rounds
        )
        print(f"\nGrad-CAM, ResNet-18, {given.count} images, batches of {given.batch}, {given.threads} threads, {given.rounds} rounds\n")
        print("| run | wall, s | processor, s |\n|---|---|---|")
        for name, each in costs.items():
            print(f"| {name} | {statistics.median(cost.wall for cost in each):.2f} | {statistics.median(cost.cpu for cost in each):.2f} |")
        for clock in ("wall", "cpu"):
            pairs = zip(costs["with a store"], costs["without"], strict=True)
            ratio = statistics.median(getattr(one, clock) / getattr(other, clock) for one, other in pairs)
            best = [min(getattr(cost, clock) for cost in costs[name]) for name in ("with a store", "without")]
            what = "wall time" if clock == "wall" else "processor time"
            print(f"\n{what}: {100 * (ratio - 1):+.1f} % (median of ratios), {100 * (best[0] / best[1] - 1):+.1f} % (fastest runs)")
        spent = Counter[str]()
        with timed(spent):
            began = time.perf_counter()
            evaluated(Path(folder) / "timed")
            whole = time.perf_counter() - began
        print("\n| where it goes | ms | % of the run |\n|---|---|---|")
        for name, seconds in spent.most_common():
            print(f"| {name} | {1000 * seconds:.1f} | {100 * seconds / whole:.2f} |")
        print(f"| all of it | {1000 * sum(spent.values()):.1f} | {100 * sum(spent.values()) / whole:.2f} |")


@contextlib.contextmanager
def timed(spent: Counter[str]) -> Iterator[None]:
    """While it lasts, the time that each part of the store takes is counted, without that of parts inside it."""
    parts: list[tuple[str, Any, str]] = [
        ("digest of the model", preparing, "fingerprint"),
        ("digests of images", Labelled, "digest"),
        ("half precision", scoring, "as_kept"),
        ("encoding maps", shards, "encoded"),
        ("writing maps, fsync", shards, "keep"),
        ("ledger", Ledger, "rows"),
        ("ledger", planning, "ask"),
        ("ledger", leases, "take"),
        ("ledger", leases, "mark"),
        ("ledger", leases, "finish"),
        ("ledger", results, "commit"),
        ("ledger", results, "fail"),
        ("opening and closing", Workshop, "__init__"),
        ("opening and closing", Workshop, "close"),
        ("opening and closing", alone, "facts"),
        ("looking at kept maps", Workshop, "spoilt"),
        ("sessions", Workshop, "begin"),
        ("sessions", Workshop, "seen"),
        ("scores and table", Workshop, "scores"),
        ("scores and table", Workshop, "keep_table"),
    ]
    inside: list[float] = []
    before = [(where, name, vars(where).get(name)) for _, where, name in parts]

    def counted(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            inside.append(0.0)
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                took = time.perf_counter() - began
                spent[part] += took - inside.pop()
                if inside:
                    inside[-1] += took

        return call

    for part, where, name in parts:
        setattr(where, name, counted(part, getattr(where, name)))
    try:
        yield
    finally:
        for where, name, function in before:
            if function is None:
                delattr(where, name)
            else:
                setattr(where, name, function)


# How long it takes to show ------------------------------------------------------------------------------------------------------------


def show(given: argparse.Namespace) -> None:
    """Finished runs, of which nothing was computed: scores are noise."""
    print("| run | scores | ledger, MB | `table()`, s | the same worked out, s | `attribkit show`, s |\n|---|---|---|---|---|---|")
    for name, (methods, metrics, images) in RUNS.items():
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            made(Path(folder), methods, metrics, images)
            size = sum(path.stat().st_size for path in Path(folder).glob("ledger.db*")) / 1e6

            def table(folder: str = folder) -> None:
                with Store(folder) as store:
                    str(store.table())

            def scores(folder: str = folder) -> None:
                with Store(folder) as store:
                    str(store.scores().table())

            def shown(folder: str = folder) -> None:
                subprocess.run([sys.executable, "-m", "attribkit", "show", folder], check=True, capture_output=True)

            took = [statistics.median(seconds(each) for _ in range(given.rounds)) for each in (table, scores, shown)]
            print(f"| {name} | {methods * metrics * images:,} | {size:.1f} | {' | '.join(f'{each:.2f}' for each in took)} |", flush=True)


def seconds(what: Callable[[], object]) -> float:
    """How long it takes, on the clock."""
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def made(folder: Path, methods: int, metrics: int, images: int, each: int = 32) -> None:
    """A finished run in shards of `each` images."""
    draw, names = np.random.default_rng(0), [f"n{number % 1000:08d}/ILSVRC2012_val_{number:08d}.JPEG" for number in range(images)]
    askers = [planning.Asker(f"Method{number}()", f"Method{number}()", False) for number in range(methods)]
    asked = [planning.Asked(f"Metric{number}()", f"Metric{number}()", True) for number in range(metrics)]
    starts = range(0, images, each)
    with Workshop(folder) as shop:
        shop.begin(preparing.facts(engine="alone", workers=1))
        parts = [(number, f"{number:064x}", len(names[start : start + each])) for number, start in enumerate(starts)]
        planning.ask(shop.ledger, [planning.Plan("photographs", "resnet18", [*itertools.product(askers, asked)], parts)])
        for shard, start in enumerate(starts, 1):
            own = tuple(names[start : start + each])
            known = results.Known(own, tuple(range(len(own))), {"place": [number % 3 for number in range(len(own))]})
            for asker in askers:
                scored = {
                    metric.text: results.Scored(own, draw.random(len(own), np.float32), np.full(len(own), 0.5, np.float32))
                    for metric in asked
                }
                results.commit(shop.ledger, shard, results.Done(asker.text, known, scored, (), 1.0))
            leases.finish(shop.ledger, leases.Leased(shard, "", "", "", 0, "", 0, (), (), frozenset()))
        shop.keep_table(shop.scores())
        shop.seen("done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "show"))
    parser.add_argument("--images", type=Path, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where runs are written, by default the system's folder for such")
    given = parser.parse_args()
    if given.what == "cost" and given.images is None:
        parser.error("cost needs --images FOLDER")
    {"cost": cost, "show": show}[given.what](given)


if __name__ == "__main__":
    main()
