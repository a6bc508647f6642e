"""How far a diagnosis has come, for whoever listens."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..progress import Pace


class Told:
    """Passes on the pace of explaining, then counts images that are asked about."""

    def __init__(self, listener: Callable[[Pace], object] | None) -> None:
        self.listener, self.began = listener, 0.0

    def heard(self, pace: Pace) -> None:
        """From an evaluation."""
        if self.listener is not None:
            self.listener(pace)

    def at(self, done: int, total: int, what: str) -> None:
        """So many images are behind."""
        now = time.perf_counter()
        self.began = self.began or now
        self.heard(Pace(done, total, now - self.began, what))
