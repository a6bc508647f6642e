"""Damaged files by the thousand: each gives a right result or one error of attribkit's own, in little time and memory, and nothing else."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest
from fuzz.borders import BORDERS, IMAGES
from fuzz.harness import FINDS, MUTATORS, SECONDS, TIMES, Report, mutants, run_cases

GROWTH = 200 * 2**20  # bytes that a process may take on the way: a damaged file must not fill the memory


@pytest.fixture(scope="module", params=BORDERS)
def tried(request: pytest.FixtureRequest) -> tuple[str, Report]:
    return request.param, run_cases("fuzz.borders", request.param)


@pytest.mark.timeout(150 * TIMES)
def test_a_damaged_file_is_refused_or_right(tried: tuple[str, Report]) -> None:
    name, report = tried
    assert not report.mishaps, "\n\n".join(report.mishaps)
    count = BORDERS[name].count * TIMES
    assert report.right + report.refused == count
    assert min(report.right, report.refused) >= count // 25  # the mutators neither miss nor wreck everything
    assert report.slowest < SECONDS and report.memory < GROWTH


def test_what_was_found_once_stays_found(tried: tuple[str, Report]) -> None:
    name, report = tried
    files = sorted(path.name for path in (FINDS / name).iterdir())
    assert len(files) >= 5 and sorted(report.finds) == files
    assert {file: said for file, said in report.finds.items() if said != file.partition("-")[0]} == {}


def test_finds_are_small() -> None:
    sizes = {path.relative_to(FINDS): path.stat().st_size for path in FINDS.rglob("*") if path.is_file()}
    assert {path.parts[0] for path in sizes} == set(BORDERS)
    assert {path: size for path, size in sizes.items() if size > 10_000} == {}


# The harness itself -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("hang", r"case 1 of 'hang 0', a: .*Hang: more than 0\.5 s.*b'hang'$"),
        ("crash", r"^exit status -11: .*trying \[b'crash'\]$"),
        ("bomb", r"case 1 of 'bomb 0', a: .*MemoryError.*b'bomb'$"),
        ("wrong", r"case 1 of 'wrong 0', a: .*AssertionError: not what it should be.*b'wrong'$"),
        ("silent", r"case 1 of 'silent 0', a: KeyError without a word; b'silent'$"),
        ("stray", r"case 1 of 'stray 0', a: .*IndexError.*b'stray'$"),
    ],
)
def test_every_fault_is_told_with_its_case_and_survived(fault: str, told: str) -> None:
    """All but a crash let the other cases go on: the first is right, the last refused."""
    report = run_cases("fuzz.faults", fault, times=1)
    assert (report.right, report.refused) == ((0, 0) if fault == "crash" else (1, 1))
    (mishap,) = report.mishaps
    assert re.search(told, mishap, re.DOTALL), mishap


def test_mutants_are_the_same_for_a_seed_and_others_for_another() -> None:
    seeds = IMAGES["PPM"]
    first, again, other = (list(islice(mutants(seeds, random.Random(seed)), 60)) for seed in ("a", "a", "b"))
    assert first == again != other
    assert len(set(first)) > 55 and not set(first) <= set(seeds)
    assert all(len(mutant) > 0 for mutant in first)


@pytest.mark.parametrize("mutate", MUTATORS)
def test_each_kind_of_damage_takes_files_of_any_size(mutate: object) -> None:
    rng = random.Random(0)
    for size in (1, 2, 3, 8, 64, 500):
        whole = bytes(range(250)) * 2
        made = [bytes(mutate(bytearray(whole[:size]), rng)) for _ in range(30)]  # type: ignore[operator]
        assert size == 1 or any(mutant != whole[:size] for mutant in made)
