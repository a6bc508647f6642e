"""One verb for what a person wants to show: the page of a diagnosis, or of scores."""

from __future__ import annotations

from pathlib import Path

from ..diagnosis.result import Diagnosis
from ..errors import BadInput
from ..scores import Scores
from .diagnosis import write_diagnosis, write_findings
from .evaluation import write_evaluation
from .evidence import Evidence
from .page import About

FINDINGS = ".json"  # beside a page, what it is made of


def write_report(result: Diagnosis | Scores, path: str | Path) -> Path:
    """Write the page of a `Diagnosis`, with all it says as JSON beside it, or of `Scores`, as one HTML file; its path."""
    if isinstance(result, Scores):
        return write_evaluation(path, Evidence(result, About()))
    if not isinstance(result, Diagnosis):
        raise BadInput(f"write_report(result=...): got {type(result).__name__}, allowed: a Diagnosis or Scores")
    beside = Path(path).with_suffix(FINDINGS)
    if beside == Path(path):
        raise BadInput(f"write_report(path=...): got {path}, allowed: the name of a page, as report.html; the JSON is written beside it")
    write_findings(beside, result)
    return write_diagnosis(path, result)
