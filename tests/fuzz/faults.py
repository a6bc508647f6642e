"""Borders that do what none may: to see that the harness tells of it, and survives it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzz.harness import Border, Case, main, named


def _border(fault: bytes, what: Callable[[], object]) -> Border:
    """Three cases, of which the second meets its fault."""

    def cases(_rng: object) -> Iterator[Case]:
        return named("a", iter([b"first", fault, b"last"]))

    def meet(path: Path) -> None:
        if path.read_bytes() == fault:
            what()
        if path.read_bytes() == b"last":
            raise KeyError("refused")

    return Border(3, cases, meet, (KeyError,), seconds=0.5)


def _hang() -> None:
    while True:
        pass


def _wrong() -> None:
    raise AssertionError("not what it should be")


BORDERS = {
    "hang": _border(b"hang", _hang),
    "crash": _border(b"crash", lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    "bomb": _border(b"bomb", lambda: bytearray(1 << 36)),
    "wrong": _border(b"wrong", _wrong),
    "silent": _border(b"silent", lambda: (_ for _ in ()).throw(KeyError())),
    "stray": _border(b"stray", lambda: [][0]),
}

if __name__ == "__main__":
    main(BORDERS)
