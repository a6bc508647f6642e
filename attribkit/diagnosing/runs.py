"""A diagnosis into a folder: the ledger and the maps, every score, the findings as JSON, and the page."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from ..diagnosis.result import Diagnosis
from ..errors import BadInput
from ..evaluating.preparing import facts
from ..evaluating.runs import CONFIGURATION, write_tables
from ..files import write_whole
from ..model.adapter import VisionModel
from ..problems.base import Problem
from ..report.diagnosis import write_diagnosis, write_findings
from ..store.folder import Store, is_run
from .calls import diagnose

FILES = ("report.html", "findings.json", "scores.csv", "failures.csv", "run.json")


class Written(NamedTuple):
    """What was found, in which folder it is, and how long that took."""

    out: Path
    diagnosis: Diagnosis
    seconds: float


def diagnosed(out: Path, model: VisionModel, problem: Problem | str | Path, **asked: Any) -> Written:
    """Diagnose into the folder `out`, with what `diagnose` may be asked; what an earlier call left there of its own is used."""
    _check(out)
    began = time.perf_counter()
    found = diagnose(model, problem, store=out, **asked)
    seconds = time.perf_counter() - began
    write_tables(out, found.scores, found.scores.failures)
    about = {"format": "attribkit/diagnosis-run/1", **found.about, "wall_seconds": round(seconds, 3), **facts(engine="alone")}
    write_whole(out / "run.json", json.dumps(about, indent=1, allow_nan=False).encode())
    write_findings(out / "findings.json", found)
    write_diagnosis(out / "report.html", found, title=f"What {model.name} leans on: {found.problem}")
    return Written(out, found, seconds)


def _check(out: Path) -> None:
    """Raise `BadInput` where the folder holds something else."""
    taken = next((name for name in FILES if (out / name).exists()), None)
    if taken and not is_run(out):
        raise BadInput(f"{out / taken}: is there and is not of a diagnosis, allowed: another folder")
    if is_run(out):
        with Store(out) as store:
            if store.ledger.get(CONFIGURATION) is not None:
                raise BadInput(f"{out}: there is a run of `evaluate` in it, allowed: another folder")
