"""Stability: how much a map changes when the image hardly does."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BadInput
from ..maps import resize
from ..noise import normal, uniform
from ..registry import AtLeast
from .base import Anew, Explain
from .draws import keys_of
from .parts import correlated, direction

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


def relative_change(maps: Tensor, others: Tensor) -> Tensor:
    """The norm of the difference of two maps over that of the first, or over 1 where that is 0; (B, h, w) twice -> (B,).

    NaN where either is not finite.
    """
    one, other = _paired(maps, others, "relative_change")
    norm = torch.linalg.vector_norm(one, dim=1)
    change: Tensor = torch.linalg.vector_norm(other - one, dim=1)
    return (change / torch.where(norm > 0, norm, 1)).masked_fill(~change.isfinite(), torch.nan)


def map_correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Pearson's correlation of two maps over pixels, (B, h, w) twice -> (B,): NaN where the first is constant, 0 where the other is.

    NaN also where either is not finite.
    """
    one, other = _paired(maps, others, "map_correlation")
    known, found = direction(one), direction(other)
    constant = found.isnan() & other.isfinite().all(1, keepdim=True)
    return correlated(known, found.masked_fill(constant, 0))


def _paired(maps: Tensor, others: Tensor, what: str) -> tuple[Tensor, Tensor]:
    if maps.shape != others.shape or maps.ndim != 3:
        raise BadInput(f"{what}: got {tuple(maps.shape)} and {tuple(others.shape)}, allowed: (B, h, w) twice")
    return maps.flatten(1).double(), others.flatten(1).double()


class _NoisyCopies(Anew, ABC):
    """A metric that compares the map with those of `samples` noisy copies of the image, explained for the same target."""

    samples: int
    seed: int

    def _compared(self, model: VisionModel, batch: Batch, attribution: Attribution, explain: Explain) -> Tensor:
        count, key = len(batch), keys_of(self.name, batch.images, self.seed, pictures=model.pictures)
        size = (attribution.maps.shape[-2], attribution.maps.shape[-1])  # what the maps were resized to, if they were

        def work(rows: slice) -> tuple[Tensor]:
            pairs = torch.arange(rows.start, rows.stop, device=batch.images.device)
            which, sample = pairs % count, pairs // count
            names = tuple(f"noisy copy {pair // count + 1} of {batch.ids[pair % count]}" for pair in range(rows.start, rows.stop))
            noisy = batch.images[which] + self._noise(batch.images[which], key[which] + sample)
            maps = resize(explain(model, Batch(noisy, batch.targets[which], names)).maps, size)
            return (self._alike(attribution.maps[which], maps),)

        return self._overall(model.in_rows(work, count * self.samples)[0].view(self.samples, count))

    @abstractmethod
    def _noise(self, images: Tensor, key: Tensor) -> Tensor:
        """What is added to images (R, 3, H, W), drawn from a key for each (R,)."""

    @abstractmethod
    def _alike(self, maps: Tensor, others: Tensor) -> Tensor:
        """A comparison of maps (R, h, w) with those of the copies, (R,)."""

    @abstractmethod
    def _overall(self, compared: Tensor) -> Tensor:
        """One score per image, (B,), from the comparisons (samples, B)."""


@dataclasses.dataclass(frozen=True)
class SensitivityMax(_NoisyCopies):
    """By how much the map changes at most, relative to itself, when every value of the image changes by up to `radius`.

    The largest, over `samples` draws of uniform noise from `seed` and the image, of the norm of the map's change over that of the map.
    `radius` is in units of the model's input, after normalisation. A map that never changes has 0; NaN where one is not finite.
    """

    name = "sensitivity_max"
    paper = "Yeh, Hsieh, Suggala, Inouye, Ravikumar: On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019 (arXiv:1901.09392)"
    family = "robustness"
    higher_is_better = False
    cost = "samples x the method's"

    radius: Annotated[float, AtLeast(0)] = 0.02
    samples: Annotated[int, AtLeast(1)] = 10
    seed: Annotated[int, AtLeast(0)] = 0

    def _noise(self, images: Tensor, key: Tensor) -> Tensor:
        return self.radius * (2 * uniform(key, images[0].numel()).view_as(images).to(images) - 1)

    def _alike(self, maps: Tensor, others: Tensor) -> Tensor:
        return relative_change(maps, others)

    def _overall(self, compared: Tensor) -> Tensor:
        return compared.amax(0)


@dataclasses.dataclass(frozen=True)
class NoiseStability(_NoisyCopies):
    """How alike the map and the maps of noisy copies of the image are: their mean correlation over pixels, at most 1.

    `samples` copies with Gaussian noise, whose standard deviation is the share `noise` of the range of the image's values, drawn from
    `seed` and the image. A copy's constant map counts 0; NaN where the map itself is constant, or one is not finite. Stability alone is
    no merit, and it has no value of chance: of what knows nothing of the model, noise that is drawn anew for each image has 0, an edge
    detector nearly 1, and a map that does not look at the image 1.
    """

    name = "noise_stability"
    paper = "Alvarez-Melis, Jaakkola: On the Robustness of Interpretability Methods, 2018 (arXiv:1806.08049)"
    family = "robustness"
    cost = "samples x the method's"

    noise: Annotated[float, AtLeast(0)] = 0.05
    samples: Annotated[int, AtLeast(1)] = 5
    seed: Annotated[int, AtLeast(0)] = 0

    def _noise(self, images: Tensor, key: Tensor) -> Tensor:
        spread = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
        return self.noise * spread * normal(key, images[0].numel()).view_as(images).to(images)

    def _alike(self, maps: Tensor, others: Tensor) -> Tensor:
        return map_correlation(maps, others)

    def _overall(self, compared: Tensor) -> Tensor:
        return compared.mean(0)
