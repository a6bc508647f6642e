"""Sensitivity-n: whether the score drops by more where the map holds more, over random parts of one size."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BadInput
from ..noise import uniform
from ..registry import AtLeast
from ..removals.base import Removal
from ..removals.fill import Constant
from .base import Metric
from .draws import keys_of
from .parts import Grid, Parts, correlation, over_image, without_parts

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


def sensitivity_n(sums: Tensor, drops: Tensor) -> Tensor:
    """The correlation of what random parts of one size hold with the drop of the score without them, (B, sizes, samples) each -> (B,).

    It is the mean over sizes of Pearson's correlation over samples, leaving out sizes where either is constant; NaN if that is all.
    """
    if sums.shape != drops.shape or sums.ndim != 3:
        raise BadInput(f"sensitivity_n: got {tuple(sums.shape)} and {tuple(drops.shape)}, allowed: (B, sizes, samples) twice")
    return correlation(sums, drops).nanmean(1)


@dataclasses.dataclass(frozen=True)
class SensitivityN(Metric):
    """Whether the score drops by more where the map holds more: their correlation over random parts of one size, from -1 to 1.

    A part is some of `cells` x `cells` cells of the image: each of `shares` of them, `samples` times, each draw from `seed` and the image;
    `removal` takes it away, and the map's values there are summed. The mean over sizes; NaN where map or score is constant. Single
    pixels, as in the paper, hardly move the score of a photograph: `cells` of the image's side gives them.
    """

    name = "sensitivity_n"
    paper = (
        "Ancona, Ceolini, Öztireli, Gross: Towards Better Understanding of Gradient-Based Attribution Methods, ICLR 2018 (arXiv:1711.06104)"
    )
    family = "faithfulness"
    chance = 0.0
    cost = "a forward per sample of each size"

    removal: Removal = Constant()
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    samples: Annotated[int, AtLeast(2)] = 40
    cells: Annotated[int, AtLeast(2)] = 14
    seed: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            raise BadInput(f"SensitivityN(shares=...): got {self.shares}, allowed: shares of the image, each above 0 and below 1")

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        maps, grid = attribution.maps, Grid.over(batch.images, self.cells)
        cells = grid.rows * grid.columns
        # At least one and never all, of which there would be but one choice.
        sizes = torch.tensor([min(max(1, round(share * cells)), cells - 1) for share in self.shares], device=maps.device)

        def drawn(key: Tensor, place: Tensor) -> Tensor:
            order = uniform(key, cells).argsort(dim=1, stable=True).argsort(dim=1)
            return order < sizes[place // self.samples].unsqueeze(1)

        key = keys_of(self.name, batch.images, self.seed, pictures=model.pictures)
        parts = Parts(grid, len(sizes) * self.samples, drawn, key)
        found = without_parts(model, batch, over_image(maps, (batch.images.shape[-2], batch.images.shape[-1])), self.removal, parts)
        sums, scores = (each.view(len(batch), len(sizes), -1) for each in found)
        # The scores themselves, and not their drops, show what of them is rounding; the correlation is the same.
        constant = maps.amax((1, 2)) == maps.amin((1, 2))  # whose sums still tell cells of 1 from cells of 2 pixels
        return sensitivity_n(sums, -scores).masked_fill(constant, torch.nan)
