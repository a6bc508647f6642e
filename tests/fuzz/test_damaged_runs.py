"""Run folders, damaged by the hundred: what is read is right or refused, and what is gone on with ends with the right numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.harness import SECONDS, TIMES, Report, run_cases
from fuzz.runs import BORDERS, GONE_ON_WITH

GROWTH = 200 * 2**20  # bytes that the process may take on the way


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> tuple[Report, int]:
    counted = tmp_path_factory.mktemp("fuzz") / "count"
    counted.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTRIBKIT_FUZZ_COUNT", str(counted))
        report = run_cases("fuzz.runs", "runs", seconds=240)
    return report, len(Path(counted).read_text())


@pytest.mark.timeout(280 * TIMES)
def test_a_damaged_run_is_refused_or_right(tried):
    report, _ = tried
    assert not report.mishaps, "\n\n".join(report.mishaps)
    count = BORDERS["runs"].count * TIMES
    assert report.right + report.refused == count >= 500
    assert min(report.right, report.refused) >= count // 10  # neither missed nor wrecked everything
    assert report.slowest < SECONDS and report.memory < GROWTH


def test_enough_of_them_were_gone_on_with_to_the_end(tried):
    assert tried[1] >= max(40, BORDERS["runs"].count * TIMES // GONE_ON_WITH // 2)
