"""Every error attribkit raises on purpose.

    AttribkitError
    ├── BadInput             an argument, a tensor or a file is not what is allowed (also a ValueError)
    │   ├── UnknownName      no method, model, layer or class of that name
    │   └── BrokenFile       a file that cannot be read as what it should be
    │       ├── BrokenImage      an image
    │       ├── BrokenWeights    the weights of that network
    │       └── BrokenRun        what an evaluation has kept on disk
    ├── Unsupported          this model cannot give what this method needs
    ├── Unavailable          an optional package, or a download, is missing
    ├── OutOfMemory          not even one image fits
    ├── Unwritable           a folder takes no more: the disk is full, or may not be written to
    ├── InUse                another process is at work on the same folder
    └── ContractBroken       a method, metric or removal does not do what all of them promise (also an AssertionError)

Each message is one line that says what is wrong, what was got, and what is allowed; `ContractBroken` has one for each broken promise.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

LONGEST_NAME = 100  # characters of a name that is shown: nothing is called so, and the rest would hide what is allowed


class AttribkitError(Exception):
    """Base of all errors that attribkit raises on purpose."""


class BadInput(AttribkitError, ValueError):
    """Something that was passed in is not what is allowed."""


class UnknownName(BadInput):
    """There is no `kind` called `got`; the message offers what is near, or everything when that is short."""

    def __init__(self, kind: str, got: object, known: Iterable[str], hint: str = "") -> None:
        names = sorted(set(known))
        self._made_of = (kind, str(got), names, hint)
        near = difflib.get_close_matches(str(got).lower(), names, n=3, cutoff=0.5)
        if len(names) <= 12:
            offer = f"allowed: {', '.join(names) or 'none'}"
        elif near:
            offer = f"did you mean {' or '.join(near)}?"
        else:
            offer = f"allowed: {', '.join(names[:6])}, ... ({len(names)} in all)"
        shown = str(got) if len(str(got)) <= LONGEST_NAME else f"{str(got)[:LONGEST_NAME]}..."
        super().__init__(f"no {kind} is called {shown!r}; {offer}{'; ' + hint if hint else ''}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str], str]]:
        return type(self), self._made_of


class BrokenFile(BadInput):
    """The file at `path` cannot be read as what it should be, for `reason`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        # a file's own words may hold what would move a terminal's cursor
        self.path, self.reason = str(path), "".join(each if each.isprintable() else "?" for each in " ".join(reason.split()))
        super().__init__(f"{self.path}: {self.reason}")

    def __reduce__(self) -> tuple[type[BrokenFile], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class BrokenImage(BrokenFile):
    """The file at `path` cannot be read as an image, for `reason`."""


class BrokenWeights(BrokenFile):
    """The file at `path` does not hold weights for the network, for `reason`."""


class BrokenRun(BrokenFile):
    """The folder or file at `path` does not hold what an evaluation has kept, for `reason`."""


class Unsupported(AttribkitError):
    """The model cannot give what was asked of it."""


class Unavailable(AttribkitError):
    """An optional package or a download that was asked for is not there."""


class OutOfMemory(AttribkitError):
    """One single row does not fit into the device's memory."""


class Unwritable(AttribkitError):
    """What was to be kept cannot be written."""


class InUse(AttribkitError):
    """Somebody else is at work there."""


class ContractBroken(AttribkitError, AssertionError):
    """`subject` fails some of so many `checks`: `failed` has their names, in order, with what was expected and got."""

    def __init__(self, subject: str, failed: Mapping[str, str], checks: int = 1) -> None:
        self.subject, self.failed, self.checks = subject, dict(failed), checks
        lines = [f"  {name}: {reason}" for name, reason in self.failed.items()]
        super().__init__("\n".join([f"{subject} breaks {len(lines)} of {checks} promise{'s' * (checks != 1)} of its contract:", *lines]))

    def __reduce__(self) -> tuple[type[ContractBroken], tuple[str, dict[str, str], int]]:
        return type(self), (self.subject, self.failed, self.checks)
