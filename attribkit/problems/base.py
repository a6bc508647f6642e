"""Problem: a model and batches about which something is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from ..batch import Batch
from ..registry import Table

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


class Problem(Protocol):
    """Iterating yields `(model, batch)`, batches made on the way, the same ones each time; `len` counts images.

    A batch's images are normalised for the model and on its device; so are its regions and groups.
    """

    def __iter__(self) -> Iterator[tuple[VisionModel, Batch]]: ...

    def __len__(self) -> int: ...


PROBLEMS: Table[Problem] = Table("problem")
