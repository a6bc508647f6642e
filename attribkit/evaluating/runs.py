"""A run from its configuration to its page: what the command line asks for."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..configuration import Configuration, Execution, build
from ..errors import AttribkitError, BadInput, BrokenRun
from ..files import write_whole
from ..model.adapter import VisionModel
from ..problems.base import Problem
from ..progress import Pace
from ..report.evaluation import write_evaluation
from ..report.page import About
from ..scores import Scores
from ..store import planning
from ..store.folder import Store, Workshop, is_run
from ..store.keys import fingerprint
from ..store.results import Failed
from .alone import bench_of, done_alone
from .exhibits import evidence
from .preparing import facts, plans, prepared
from .scoring import Begun, Paced, Run, check_any
from .workers import Crew, Task, crew_size, devices_of, run_of

FILES = ("scores.csv", "run.json", "failures.csv", "report.html")
UNSHOWN = ("methods", "metrics", "schema", "classes", "weights")  # of a configuration: said elsewhere on the page, or too long
CONFIGURATION, EXECUTION = "configuration", "execution"  # under which the ledger keeps them

Say = Callable[[str], None]
Heard = Callable[[Pace], object]


class Outcome(NamedTuple):
    """What a run has come to."""

    out: Path
    scores: Scores
    failures: list[Failed]
    seconds: float


def earlier(out: Path) -> tuple[Configuration, Execution] | None:
    """What the run in a folder was asked for; None where there is no run."""
    if not is_run(out):
        return None
    try:
        with Store(out) as store:
            record = store.ledger.get(CONFIGURATION)
            kept: Any = store.ledger.get(EXECUTION) or {}
        return Configuration.from_record(record), dataclasses.replace(Execution(**kept), out=str(out))
    except (BadInput, TypeError) as error:  # a damaged ledger is one, too: the rest of it can be gone on with
        raise BrokenRun(out, f"it cannot say what it was asked for ({error}); allowed: the same options again, or --config") from None


class Job(NamedTuple):
    """What a session has to do, on which devices, and who is told of it."""

    configuration: Configuration
    execution: Execution
    devices: tuple[str, ...]
    model: VisionModel
    problems: Sequence[Problem]
    say: Say
    progress: Heard | None

    @property
    def workers(self) -> int:
        """How many processes work beside this one."""
        return crew_size(self.devices, self.execution.workers)


def execute(configuration: Configuration, execution: Execution, *, say: Say, progress: Heard | None = None) -> Outcome:
    """Do what is left of a run, and write its files into its folder; what is done is kept, whatever ends this."""
    if execution.out is None:
        raise BadInput("out: got none, allowed: a folder for the run")
    out, devices = Path(execution.out), devices_of(execution.device)
    taken = next((name for name in FILES if (out / name).exists()), None)
    if taken and not is_run(out):
        raise BadInput(f"{out / taken}: is there and is not of a run, allowed: another folder")
    model, problems = build(configuration, devices[0])
    job = Job(configuration, execution, devices, model, problems, say, progress)
    with Workshop(out) as shop:
        shop.begin(facts(engine=execution.engine, workers=job.workers, devices=list(devices)))
        try:
            return _done(shop, job)
        except BaseException as error:  # whatever it is, the ledger says how this session ended, and it is raised again
            with contextlib.suppress(AttribkitError):  # what brought us here is said; a disk that is full takes this no more
                shop.seen("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise


def _done(shop: Workshop, job: Job) -> Outcome:
    model, run = job.model, run_of(job.configuration)
    job.say(f"{model.name}: {model.preprocessing}; on {', '.join(job.devices)}\nweights: {model.weights}")
    if shop.salvaged:
        job.say("the ledger was damaged: what is good of it was taken over, the rest is done again")
    shop.ledger.put(CONFIGURATION, job.configuration.record())
    shop.ledger.put(EXECUTION, dataclasses.asdict(dataclasses.replace(job.execution, retry=False)))
    if job.execution.retry:
        job.say(f"{planning.forget_failures(shop.ledger)} pieces of work with failures are done again")
    begun = prepared(shop, run, job.problems)
    state = shop.state()
    if state.done:
        job.say(f"{state.done} of {state.total} pairs of image and method are done already")
    _worked(shop, job, run, begun)
    scores, failures = shop.scores(), shop.failures()
    check_any(scores, run.methods, run.error)
    shop.keep_table(scores)
    shop.seen("done")
    job.say("writing tables and page")
    about = _about(shop, job.configuration, run, {"weights": model.weights, "fingerprint": fingerprint(model)})
    _write(shop, about, scores, failures)
    page_about = _page_about(about, run, failures)
    shown = [each.brief() for each in run.methods]
    write_evaluation(shop.path / "report.html", evidence(shop, begun, page_about, shown), title=_title(begun, model.name))
    return Outcome(shop.path, scores, failures, shop.state().seconds)


def _worked(shop: Workshop, job: Job, run: Run, begun: Sequence[Begun]) -> None:
    """Do what is left, by the engine that is asked for."""
    if job.execution.engine == "local" and not job.workers:
        done_alone(shop, run, begun, job.progress)
        return
    if not shop.open_shards():
        return
    found = plans(shop, [each.problem for each in begun])
    threads = max(1, torch.get_num_threads() // max(1, job.workers))
    task = Task(str(shop.path), job.configuration.record(), found, threads, job.devices, job.execution.deadline, job.workers)
    state = shop.state()
    pace = Paced(job.progress, state.total, before=state.done)
    if job.execution.engine == "ray":
        from .on_ray import on_ray

        on_ray(shop, bench_of(shop, run, begun), task, job.execution.workers, pace)
    else:
        Crew(shop, task, job.workers).work(pace)


def _title(begun: Sequence[Begun], model: str) -> str:
    names = ", ".join(dict.fromkeys(each.on.problem for each in begun))
    return f"Which methods tell what {model} looks at: {names}"


# What is written ---------------------------------------------------------------------------------------------------------------------


def _about(shop: Workshop, configuration: Configuration, run: Run, model: dict[str, str]) -> dict[str, Any]:
    """What was run, on what, by whom and how long, in plain values."""
    state = shop.state()
    sessions = [
        {**told, "ended": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seen)), "state": how, "seconds": round(seen - began, 3)}
        for began, seen, how, told in state.sessions
    ]
    return {
        "format": "attribkit/run/1",
        "configuration": configuration.record(),
        "key": configuration.key(),
        "model": {"name": configuration.model, **model},
        "seed": configuration.seed,
        "methods": [repr(each) for each in run.lined_up],
        "metrics": [repr(each) for each in run.metrics],
        "pairs": {"done": state.done, "asked": state.total},
        "failed_images": state.failed,
        "wall_seconds": round(state.seconds, 3),
        "sessions": sessions,
    }


def _write(shop: Workshop, about: dict[str, Any], scores: Scores, failures: Sequence[Failed]) -> None:
    write_tables(shop.path, scores, [(each.id, each.stage, said_of(each)) for each in failures])
    write_whole(shop.path / "run.json", json.dumps(about, indent=1, allow_nan=False).encode())


def write_tables(out: Path, scores: Scores, failures: Iterable[tuple[str, str, str]]) -> None:
    """Write every score, and each failure's id, stage and reason, into a folder."""
    scores.write_csv(out / "scores.csv")
    if find_spec("pyarrow") is not None:
        scores.write_parquet(out / "scores.parquet")
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("id", "stage", "reason"), *failures])
    write_whole(out / "failures.csv", table.getvalue().encode("utf-8", "replace"))


def said_of(failed: Failed) -> str:
    """Why something failed, and which methods it cost, where it was not all of them."""
    return f"{failed.reason} ({', '.join(failed.methods)})" if failed.methods and failed.id != ", ".join(failed.methods) else failed.reason


def _page_about(about: dict[str, Any], run: Run, failures: Sequence[Failed]) -> About:
    configuration, last = about["configuration"], about["sessions"][-1]
    shown = {name: value for name, value in configuration.items() if name not in UNSHOWN and value is not None}
    words = {name: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in shown.items()}
    words["data"] = "/".join(Path(words["data"]).parts[-2:])  # whose machine it was is nobody's business
    more = {
        "weights": about["model"]["weights"],
        "fingerprint": about["model"]["fingerprint"],
        "versions": ", ".join(f"{name} {number}" for name, number in last["versions"].items()),
        "machine": f"{last['machine']}, Python {last['python']}, {', '.join(last['devices'])}",
        "time": f"{about['wall_seconds']:.0f} s in {len(about['sessions'])} session{'s' * (len(about['sessions']) > 1)}",
    }
    return About(
        {**words, **more},
        [(each.brief(), repr(each), each.paper) for each in run.lined_up],
        [(each.id, said_of(each)) for each in failures],
        [(each.brief(), repr(each), each.paper) for each in run.metrics],
    )
