"""Damaged input by the thousand: seeded mutants, and a process of its own in which each is tried, with limits on memory and time.

A border is a source of damaged cases and what to do with one: it must give a right result, which is checked there, or raise an error of
attribkit's own. `run_cases` starts the process and gives its counts; anything else that happens there is a mishap, which names the case.
By hand, with the tests' folder as working directory, `python -m fuzz.borders images --times 100`, or the same factor for the tests as
`ATTRIBKIT_FUZZ_TIMES`. What once went wrong, or well might, lies in `finds/BORDER/`, as `right-NAME` or `refused-NAME` by what should
come of it, and is tried first.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

SECONDS = 5  # for one case; more is a hang
MEMORY = 1 << 30  # bytes of address space beyond what the process has when it begins
TIMES = int(os.environ.get("ATTRIBKIT_FUZZ_TIMES", "1"))
TESTS = Path(__file__).resolve().parents[1]
FINDS = Path(__file__).resolve().parent / "finds"

TRIED = "tried-"  # what the name of the file being tried begins with
Case = tuple[str, bytes]  # the name of a file, and what is in it


@dataclasses.dataclass(frozen=True)
class Border:
    """Where something comes in from outside.

    `cases` gives damaged files, of which `count` are tried; `meet` is told where one lies, raises one of `refusals` where it is refused,
    and `AssertionError` where what comes of it is wrong. `prepare` puts beside the files what they need; `seconds` are for one case.
    """

    count: int
    cases: Callable[[random.Random], Iterator[Case]]
    meet: Callable[[Path], object]
    refusals: tuple[type[Exception], ...]
    prepare: Callable[[Path], object] = lambda folder: None
    seconds: float = SECONDS


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of the cases; `mishaps` tells of those that were neither right nor refused; `memory` is the growth in bytes."""

    right: int
    refused: int
    mishaps: list[str]
    finds: dict[str, str]
    slowest: float
    memory: int
    seconds: float


class Hang(BaseException):
    """A case took too long; no `except Exception` hides it."""


# Mutants ----------------------------------------------------------------------------------------------------------------------------


def flip(data: bytearray, rng: random.Random) -> bytearray:
    """Single bits, every second one in the first 64 bytes: headers are where readers go wrong."""
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(min(64, len(data)) if rng.random() < 0.5 else len(data))
        data[at] ^= 1 << rng.randrange(8)
    return data


def cut(data: bytearray, rng: random.Random) -> bytearray:
    """The end is gone."""
    return data[: rng.randrange(1, len(data) + 1)]


def lie(data: bytearray, rng: random.Random) -> bytearray:
    """A length, size or offset that is not true: a number of 2, 4 or 8 bytes written over somewhere."""
    width = rng.choice([2, 4, 4, 8])
    at = rng.randrange(max(1, min(len(data), rng.choice([64, len(data)])) - width))
    number = rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)])
    data[at : at + width] = (number & (256**width - 1)).to_bytes(width, rng.choice(["big", "little"]))
    return data


def splice(data: bytearray, rng: random.Random) -> bytearray:
    """A piece moved, repeated or taken out."""
    start, to = rng.randrange(len(data)), rng.randrange(len(data))
    piece = data[start : start + rng.randrange(1, 40)]
    return data[:to] + piece * rng.choice([0, 1, 3]) + data[to + rng.choice([0, len(piece)]) :]


def smear(data: bytearray, rng: random.Random) -> bytearray:
    """Bytes that mean something, set, put in or taken out near the head or the tail, where the structure is."""
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(min(rng.choice([len(data), 400, 400]), len(data)))
        at = at if rng.random() < 0.5 else len(data) - 1 - at
        kind = rng.choice(["set", "out", "in"])
        if kind == "set":
            data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x2E, 0x52])
        elif kind == "in":
            data[at:at] = rng.randbytes(rng.choice([1, 4, 64]))
        elif len(data) > 64:
            del data[at : at + rng.choice([1, 4, 64])]
    return data


MUTATORS: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (flip, cut, lie, splice, smear)


def mutants(seeds: bytes | Sequence[bytes], rng: random.Random) -> Iterator[bytes]:
    """Damaged copies of one of the seeds, each kind of damage in its turn, without end."""
    seeds = [seeds] if isinstance(seeds, bytes) else seeds
    while True:
        for mutate in MUTATORS:
            yield bytes(mutate(bytearray(rng.choice(seeds)), rng)) or b"\0"


def texts(seeds: Sequence[str], words: Sequence[str], rng: random.Random, *, split: Callable[[str], list[str]]) -> Iterator[bytes]:
    """Damaged copies of texts: pieces (as `split` finds them) left out, repeated, exchanged, or replaced by one of `words`; without end."""
    while True:
        pieces = split(rng.choice(seeds))
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            at, other = rng.randrange(len(pieces)), rng.randrange(len(pieces))
            kind = rng.choice(["word", "word", "word", "out", "twice", "swap"])
            if kind == "word":
                pieces[at] = rng.choice(words)
            elif kind == "out" and len(pieces) > 1:
                del pieces[at]
            elif kind == "twice":
                pieces.insert(at, pieces[other])
            else:
                pieces[at], pieces[other] = pieces[other], pieces[at]
        yield "".join(pieces).encode("utf-8", "surrogatepass")


def named(name: str, contents: Iterator[bytes]) -> Iterator[Case]:
    """Each of the contents in a file of that name."""
    return ((name, content) for content in contents)


def joined(*several: Iterator[Case]) -> Iterator[Case]:
    """One of each in turn, until one has no more."""
    return (case for cases in zip(*several, strict=False) for case in cases)


# Trying them ------------------------------------------------------------------------------------------------------------------------


def run_cases(module: str, border: str, *, times: int = TIMES, seed: int = 0, seconds: float = 120) -> Report:
    """Try the cases of a border that is in the table `BORDERS` of a module, in a process of its own, within `seconds` in all.

    A process that dies or does not come back is a mishap, with the case that it was trying.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", module, border, "--times", str(times), "--seed", str(seed), "--folder", folder]
        paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds * times, check=False)
            ended = f"exit status {done.returncode}: {done.stderr[-2000:]}"
            lines = done.stdout.splitlines()
        except subprocess.TimeoutExpired:
            ended, lines = f"no end after {seconds * times} s", []
        if lines:
            return Report(**json.loads(lines[-1]))
        kept = [path.read_bytes()[:10_000] for path in Path(folder).glob(f"{TRIED}*")]
        return Report(0, 0, [f"{ended}; trying {kept}"], {}, 0.0, 0, 0.0)


def main(borders: Mapping[str, Border]) -> None:
    """What the process does: the cases of a border, and their report as a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("border", choices=borders)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        os.chdir(folder)  # where code in a file, if it ran, would leave its trace
        report = tried(borders[asked.border], f"{asked.border} {asked.seed}", folder, times=asked.times, finds=FINDS / asked.border)
    sys.stdout.write(json.dumps(dataclasses.asdict(report)) + "\n")


def tried(border: Border, seed: str, folder: Path, *, times: int, finds: Path) -> Report:
    """Every find and every case once, under the limits."""
    border.prepare(folder)
    signal.signal(signal.SIGALRM, functools.partial(_hang, border.seconds))
    _limit()
    counts, mishaps, slowest, start = {"right": 0, "refused": 0}, list[str](), 0.0, time.perf_counter()
    before = _peak()
    found = {path.name: outcome(border, (path.name, path.read_bytes()), folder) for path in sorted(finds.glob("*"))}
    for number, case in zip(range(border.count * times), border.cases(random.Random(seed)), strict=False):
        began = time.perf_counter()
        said = outcome(border, case, folder)
        slowest = max(slowest, time.perf_counter() - began)
        if said in counts:
            counts[said] += 1
        else:
            mishaps.append(f"case {number} of {seed!r}, {case[0]}: {said}; {case[1][:2000]!r}")
    return Report(counts["right"], counts["refused"], mishaps[:10], found, slowest, _peak() - before, time.perf_counter() - start)


def outcome(border: Border, case: Case, folder: Path) -> str:
    """What comes of a case: "right", "refused", or what went wrong."""
    path = folder / f"{TRIED}{case[0]}"
    path.write_bytes(case[1])
    signal.setitimer(signal.ITIMER_REAL, border.seconds)
    try:
        border.meet(path)
        return "right"
    except border.refusals as error:
        return "refused" if str(error).strip() else f"{type(error).__name__} without a word"
    except (Exception, Hang):
        return traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        path.unlink()


def _limit() -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _peak() -> int:
    """The most bytes of memory that this program has had; ru_maxrss would begin with those of the process that started it."""
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))


def _hang(seconds: float, number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Hang(f"more than {seconds} s")
