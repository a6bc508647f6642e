"""Problem: a model and batches about which something is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..batch import Batch
from ..errors import BadInput
from ..registry import Table

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


class Problem(Protocol):
    """Iterating yields `(model, batch)`, batches made on the way, the same ones each time; `len` counts the images of all batches.

    A batch's images are normalised for the model that comes with it and on its device; so are its regions and groups. The first region is
    where evidence for the target should lie. `label` names the problem with its settings, in tables.
    """

    name: ClassVar[str]

    @property
    def label(self) -> str:
        """What tables call it, such as "GridPG 2x2"."""
        ...

    def __iter__(self) -> Iterator[tuple[VisionModel, Batch]]: ...

    def __len__(self) -> int: ...


def whole_number(problem: Any, setting: str, low: int) -> None:
    """Raise `BadInput` unless the problem's `setting` is an int of at least `low`."""
    value = getattr(problem, setting)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise BadInput(f"{type(problem).__name__}({setting}=...): got {value!r}, allowed: an int of at least {low}")


PROBLEMS: Table[Problem] = Table("problem")
