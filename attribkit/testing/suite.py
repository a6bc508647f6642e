"""A contract is a list of checks: each a promise, put to one object at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import unittest
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from torch import Tensor

from ..errors import ContractBroken, Unsupported
from ..registry import short
from .state import apart

B = TypeVar("B")


class Differs(AssertionError):
    """Something is not as a contract says: what was expected, and what was got, in one line."""


class Passed(list[str]):
    """The names of the checks that an object passed, and in `skipped` those that do not apply to it, each with the reason."""

    def __init__(self, names: Iterable[str] = (), skipped: dict[str, str] | None = None) -> None:
        super().__init__(names)
        self.skipped = dict(skipped or {})


@dataclasses.dataclass(frozen=True)
class Check:
    """One promise of a contract, to be kept by one object.

    Called it returns nothing where the promise is kept, and raises `ContractBroken` where it is not; where it says nothing of this object
    it raises `unittest.SkipTest` with the reason, which pytest takes for a skip. `why_not` is that reason, where it is known beforehand.
    """

    name: str
    reason: str
    subject: str
    run: Callable[[], None] = dataclasses.field(repr=False)
    why_not: str = ""

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Put it to the object."""
        if self.why_not:
            raise unittest.SkipTest(self.why_not)
        try:
            with apart(zlib.crc32(self.name.encode())):  # not one seed for all: what draws from the global generators is to differ
                self.run()
        except unittest.SkipTest:
            raise
        except Unsupported as error:
            raise unittest.SkipTest(f"Unsupported: {error}") from error
        except Exception as error:
            got = str(error) if isinstance(error, Differs) else f"expected no error, got {type(error).__name__}: {error}"
            raise ContractBroken(self.subject, {self.name: " ".join(got.split())}) from error


@dataclasses.dataclass(frozen=True)
class Rule(Generic[B]):
    """What becomes a check for each of its `values`: a function of a bench and a value, or of a bench alone where it has none."""

    function: Callable[..., None]
    values: tuple[Any, ...]
    unless: Callable[[B], str] | None

    def checks(self, bench: B, subject: str) -> Iterator[Check]:
        """For the object on the bench."""
        name, doc = self.function.__name__, self.function.__doc__ or ""
        reason = " ".join(doc.split())
        why_not = "" if self.unless is None else self.unless(bench)
        if not self.values:
            yield Check(name, reason, subject, functools.partial(self.function, bench), why_not)
        for value in self.values:
            yield Check(f"{name}[{_word(value)}]", reason, subject, functools.partial(self.function, bench, value), why_not)


class Contract(Generic[B]):
    """The rules of one kind of object, in their order; `B` is what they are put to, an object with all that a check of it needs."""

    def __init__(self) -> None:
        self.rules: list[Rule[B]] = []

    def add(self, function: Callable[..., None], *values: Any, unless: Callable[[B], str] | None = None) -> None:
        """One more rule; `unless` says why it does not apply to an object, or nothing."""
        self.rules.append(Rule(function, values, unless))

    def check(self, *values: Any, unless: Callable[[B], str] | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """As `add`, written above a function."""

        def enter(function: Callable[..., None]) -> Callable[..., None]:
            self.add(function, *values, unless=unless)
            return function

        return enter

    def checks(self, bench: B, subject: str) -> list[Check]:
        """Every check of the object on the bench."""
        return [check for rule in self.rules for check in rule.checks(bench, subject)]


def passed(checks: Iterable[Check]) -> Passed:
    """Run all checks of one object: their names if it passes, else one `ContractBroken` that lists every one it fails, in order."""
    failed: dict[str, str] = {}
    found, subject = Passed(), ""
    for check in checks:
        subject = check.subject
        try:
            check()
        except unittest.SkipTest as reason:
            found.skipped[check.name] = str(reason)
        except ContractBroken as error:
            failed |= error.failed
        else:
            found.append(check.name)
    if failed:
        raise ContractBroken(subject, failed, len(found) + len(failed))
    return found


def _word(value: Any) -> str:
    return "x".join(str(each) for each in value) if isinstance(value, tuple) else str(value)


# What checks say --------------------------------------------------------------------------------------------------------------------


def expect(holds: bool | Tensor, expected: str, got: object) -> None:
    """Raise `Differs` unless it holds; both are said in words."""
    if not holds:
        raise Differs(f"expected {expected}, got {short(' '.join(str(got).split()), 160)}")


def close(got: Tensor, expected: Tensor, what: str, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Both have one shape and kind of number, and values as near as is said (NaN where NaN is); `what` they are, in words."""
    expect(got.shape == expected.shape, f"{what}, {tuple(expected.shape)}", tuple(got.shape))
    expect(got.dtype == expected.dtype, f"{what}, {expected.dtype}", got.dtype)
    if got.allclose(expected, rtol=rtol, atol=atol, equal_nan=True):
        return
    undefined = (got.isnan() != expected.isnan()).sum()
    difference, size = (got - expected).abs().nan_to_num(0.0), expected.abs().nan_to_num(0.0)
    nan = f", and {int(undefined)} that are NaN on one side" if undefined else ""
    raise Differs(f"expected {what}, got values that differ by up to {float(difference.max()):.3g} of {float(size.max()):.3g}{nan}")


@contextlib.contextmanager
def refused(error: type[Exception], words: str, what: str) -> Iterator[None]:
    """What is done inside raises this error, with these words in its one line."""
    try:
        yield
    except error as raised:
        expect(words in str(raised), f"{what} to be refused with the words {words!r}", raised)
        expect("\n" not in str(raised), f"{what} to be refused in one line", str(raised).count("\n") + 1)
        return
    raise Differs(f"expected {what} to be refused with {error.__name__} ({words!r}), got no error")
