"""How far long work has come: the work reports, and whoever wants to know listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

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
