"""How far long work has come: the work reports, and whoever wants to know listens."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NamedTuple

Listener = Callable[[int, int, str], None]

# Of the thread, or the task, that the work runs in: two that work side by side are not told of one another.
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def reporting(listener: Listener | None) -> Iterator[None]:
    """While it lasts, `listener(done, total, what)` hears how far a method that takes minutes has come; None silences it.

    `what` is the name of the method at work. Counts begin again with each batch, and with each method that a method runs. What the
    listener raises ends the work, which leaves everything as it was: so a listener can also call it off.
    """
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def report(done: int, total: int, what: str) -> None:
    """Tell the listener, if there is one, that `done` of `total` steps of `what` are begun or behind; costs nothing to speak of."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(done, total, what)


class Pace(NamedTuple):
    """How far a run has come: `done` of `total` units, all but `before` in so many `seconds`; `what` was the last of them."""

    done: int
    total: int
    seconds: float
    what: str
    before: int = 0

    @property
    def rate(self) -> float:
        """Units a second; 0 while nothing can be said."""
        return (self.done - self.before) / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float:
        """Seconds that the rest will take at this rate; infinite while nothing can be said."""
        return (self.total - self.done) / self.rate if self.rate else math.inf

    def __str__(self) -> str:
        left = "" if math.isinf(self.left) else f", {_clock(self.left)} left"
        return f"{self.done}/{self.total} ({self.done / max(self.total, 1):.0%}), {self.rate:.3g} a second{left}: {self.what}"


def _clock(seconds: float) -> str:
    """Seconds as people read them: 42 s, 3:05, 2:10:00."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}" if minutes else f"{rest} s"
