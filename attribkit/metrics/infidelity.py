"""Infidelity: how far what a map predicts is from what the score does when the image is changed at random."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BadInput
from ..model.memory import full_precision
from ..noise import normal, uniform
from ..registry import AtLeast
from ..removals.base import Removal
from ..removals.fill import Constant
from .base import Metric
from .draws import keys_of
from .parts import Grid, Parts, lost_in_rounding, over_image, without_parts

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


def infidelity(predicted: Tensor, drops: Tensor, *, scaled: bool = True, normalised: bool = True) -> Tensor:
    """The mean squared difference of predicted and true drops of the score, (B, samples) each -> (B,), in double precision.

    `scaled`: after the factor, one for each image and at least 0, that makes it smallest. `normalised`: over the mean square of the true
    drops, so that a prediction of no change at all has 1; NaN where the score never changes.
    """
    if predicted.shape != drops.shape or predicted.ndim != 2:
        raise BadInput(f"infidelity: got {tuple(predicted.shape)} and {tuple(drops.shape)}, allowed: (B, samples) twice")
    predicted, drops = predicted.double(), drops.double()
    if scaled:
        power = predicted.square().sum(1, keepdim=True)
        factor = (predicted * drops).sum(1, keepdim=True) / torch.where(power > 0, power, 1)
        predicted = predicted * factor.clamp_min(0)  # an opposite map is not turned round
    error = (predicted - drops).square().mean(1)
    if not normalised:
        return error
    size = drops.square().mean(1)
    return torch.where(size > 0, error / size, torch.nan)


@dataclasses.dataclass(frozen=True)
class Infidelity(Metric):
    """How far what the map predicts for a random change of the image is from what the score does: the mean squared difference.

    What is changed, `samples` times, each draw from `seed` and the image: "square" takes a block of cells at a random place away, of any
    size, out of `cells` x `cells`; "cells" each of them with probability 1/2; both by `removal`, and the map predicts the sum of its values
    there, as contributions to the score (Integrated Gradients, input x gradient). "noise" subtracts grey Gaussian noise, the same in all
    channels, whose standard deviation is the share `noise` of the range of the image's values, and the map, as a gradient whose channels
    were summed, predicts its product with the noise. A map of another size is resized so that it holds the same in all.

    `scaled` lets each map have the unit that suits it best, but not the opposite sign; `normalised` divides by the mean square of what
    the score does: then 0 is a perfect map, a map of zeros has 1, and NaN says that the score never changed. A constant map has less
    than 1, since larger parts matter more. With neither, this is the published definition.
    """

    name = "infidelity"
    paper = "Yeh, Hsieh, Suggala, Inouye, Ravikumar: On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019 (arXiv:1901.09392)"
    family = "faithfulness"
    higher_is_better = False
    cost = "a forward per sample, and one of the image"

    kind: Literal["square", "cells", "noise"] = "square"
    removal: Removal = Constant()
    samples: Annotated[int, AtLeast(1)] = 100
    cells: Annotated[int, AtLeast(1)] = 14
    noise: Annotated[float, AtLeast(0)] = 0.1
    scaled: bool = True
    normalised: bool = True
    seed: Annotated[int, AtLeast(0)] = 0

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        maps = over_image(attribution.maps, (batch.images.shape[-2], batch.images.shape[-1]))
        whole = model.score(batch.images, batch.targets)
        if self.kind == "noise":
            predicted, changed = self._under_noise(model, batch, maps)
        else:
            grid = Grid.over(batch.images, self.cells)
            drawn = _blocks if self.kind == "square" else _halves
            parts = Parts(grid, self.samples, lambda key, _place: drawn(grid, key), self._key(model, batch))
            predicted, changed = without_parts(model, batch, maps, self.removal, parts)
        drops = whole.unsqueeze(1) - changed
        scores = infidelity(predicted, drops, scaled=self.scaled, normalised=self.normalised)
        return scores.masked_fill(lost_in_rounding(drops, whole), torch.nan) if self.normalised else scores

    def _under_noise(self, model: VisionModel, batch: Batch, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The products of the maps (B, H, W) with noise, and the scores of the images without it; (B, samples) each."""
        images, size = batch.images, batch.images.shape[-2:]
        spread = self.noise * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
        key = self._key(model, batch)

        def work(rows: slice) -> tuple[Tensor, Tensor]:
            pairs = torch.arange(rows.start, rows.stop, device=images.device)
            which, sample = pairs // self.samples, pairs % self.samples
            noise = normal(key[which] + sample, size.numel()).view(-1, *size).to(images) * spread[which].view(-1, 1, 1)
            answer = full_precision(model.answer(images[which] - noise.unsqueeze(1)))
            return (noise.double() * maps[which].double()).sum((1, 2)), batch.targets[which].of(answer)

        predicted, changed = model.in_rows(work, len(batch) * self.samples)
        return predicted.view(len(batch), -1), changed.view(len(batch), -1)

    def _key(self, model: VisionModel, batch: Batch) -> Tensor:
        return keys_of(self.name, batch.images, self.seed, pictures=model.pictures)


def _halves(grid: Grid, key: Tensor) -> Tensor:
    """Each cell with probability 1/2, (R, rows * columns) bool."""
    return uniform(key, grid.rows * grid.columns) < 0.5


def _blocks(grid: Grid, key: Tensor) -> Tensor:
    """A block of cells whose sides are one random share of the grid's, at a random place; (R, rows * columns) bool."""
    side, *starts = uniform(key, 3).unsqueeze(2).unbind(1)

    def along(count: int, start: Tensor) -> Tensor:
        long = 1 + (side * count).floor()
        first = (start * (count - long + 1)).floor()
        at = torch.arange(count, device=key.device)
        return (at >= first) & (at < first + long)

    down, across = (along(count, start) for count, start in zip((grid.rows, grid.columns), starts, strict=True))
    return (down.unsqueeze(2) & across.unsqueeze(1)).flatten(1)
