"""Random parts of an image: what a map says they hold, and what the model answers without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..batch import Batch
from ..maps import resize
from ..removals.base import Removal

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

_ROUNDING = 8 * torch.finfo(torch.float32).eps  # by so much of its size a score may change with the batch that it was computed in


class Grid(NamedTuple):
    """A division of an image into cells, row by row: which row of cells each row of pixels lies in, (H,), and which column, (W,)."""

    down: Tensor
    across: Tensor
    rows: int
    columns: int

    @classmethod
    def over(cls, images: Tensor, cells: int) -> Grid:
        """`cells` x `cells` of them, as equal as whole pixels allow; of a side with fewer pixels each is a cell."""
        rows, columns = (min(cells, side) for side in images.shape[-2:])
        down, across = (torch.arange(side, device=images.device) for side in images.shape[-2:])
        return cls(down * rows // len(down), across * columns // len(across), rows, columns)

    def sums(self, maps: Tensor) -> Tensor:
        """What the cells of maps (B, H, W) hold, (B, rows * columns), in double precision."""
        down, across = (
            (place.unsqueeze(1) == torch.arange(count, device=maps.device)).double()
            for place, count in ((self.down, self.rows), (self.across, self.columns))
        )
        return (down.T @ maps.double() @ across).flatten(1)

    def pixels(self, cells: Tensor) -> Tensor:
        """Values of the cells, (R, rows * columns), as the image has them, (R, H, W)."""
        return cells.view(-1, self.rows, self.columns)[:, self.down][:, :, self.across]


class Parts(NamedTuple):
    """`number` parts of every image, unions of cells: drawn from a key and the part's place, (R,) each, as (R, rows * columns) bool.

    `key` (B,) is what each image's draws begin with.
    """

    grid: Grid
    number: int
    drawn: Callable[[Tensor, Tensor], Tensor]
    key: Tensor


def without_parts(model: VisionModel, batch: Batch, maps: Tensor, removal: Removal, parts: Parts) -> tuple[Tensor, Tensor]:
    """The sum of the maps (B, H, W) inside each part, and the score without it; (B, number) each, inside `studied`."""
    ask = removal.prepared(model, batch.images)
    held = parts.grid.sums(maps)

    def work(rows: slice) -> tuple[Tensor, Tensor]:
        pairs = torch.arange(rows.start, rows.stop, device=batch.images.device)
        which, place = pairs // parts.number, pairs % parts.number
        chosen = parts.drawn(parts.key[which] + place, place)
        score = batch.targets[which].of(ask(which, ~parts.grid.pixels(chosen)))
        return (chosen * held[which]).sum(1), score

    sums, scores = model.in_rows(work, len(batch) * parts.number)
    return sums.view(len(batch), -1), scores.view(len(batch), -1)


def over_image(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps at the image's `size` (H, W) that hold what they held: bilinear, and divided by how many times more pixels there are."""
    return resize(maps, size) * (maps.shape[-2:].numel() / (size[0] * size[1]))


def lost_in_rounding(drops: Tensor, scores: Tensor) -> Tensor:
    """Whether changes (B, S) of scores (B,) are all of the size of rounding errors: nothing is known then; (B,) bool."""
    return drops.abs().amax(1) <= _ROUNDING * scores.abs()


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation along the last dimension; NaN where either is constant, up to the rounding of float32."""
    return correlated(direction(one), direction(other))


def direction(values: Tensor) -> Tensor:
    """What of values is correlated, along the last dimension: less their mean, of length 1; NaN for constant ones, up to rounding."""
    values = values.double()
    constant = values.amax(-1, keepdim=True) - values.amin(-1, keepdim=True) <= _ROUNDING * values.abs().amax(-1, keepdim=True)
    centred = values - values.mean(-1, keepdim=True)
    long: Tensor = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    return (centred / long.clamp_min(torch.finfo(torch.float64).tiny)).masked_fill(constant, torch.nan)


def correlated(one: Tensor, other: Tensor) -> Tensor:
    """The correlation of values by their `direction`s."""
    return (one * other).sum(-1).clamp(-1, 1)
