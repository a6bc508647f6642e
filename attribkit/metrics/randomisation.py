"""Randomisation: whether a map changes when the model's weights, or the class that is explained, are others."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch, Targets
from ..errors import BadInput, Unsupported
from ..maps import resize
from ..model.randomised import Order, randomised
from ..registry import AtLeast
from .base import Anew, Explain
from .draws import keys_of
from .ordering import mean_ranks
from .parts import correlated, direction

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

Similarity = Literal["spearman", "spearman_abs"]


def rank_correlation(maps: Tensor, others: Tensor, absolute: bool = False) -> Tensor:
    """Spearman's correlation of two maps over their pixels, equal values sharing their mean rank; (B, h, w) twice -> (B,).

    `absolute` ranks sizes, without signs. NaN where either map is constant, and has no ranks, or is not finite.
    """
    if maps.shape != others.shape or maps.ndim != 3:
        raise BadInput(f"rank_correlation: got {tuple(maps.shape)} and {tuple(others.shape)}, allowed: (B, h, w) twice")
    return correlated(_ranking(maps, absolute), _ranking(others, absolute))


def _ranking(maps: Tensor, absolute: bool) -> Tensor:
    """The direction of each map's ranks, (B, h * w): NaN for one that is constant or not finite."""
    found = direction(mean_ranks(maps.abs() if absolute else maps))
    return found.masked_fill(~_finite(maps), torch.nan)


def _finite(maps: Tensor) -> Tensor:
    return maps.flatten(1).isfinite().all(1, keepdim=True)


class _Reference:
    """The maps that others are compared with, which are ranked once."""

    def __init__(self, maps: Tensor, similarity: Similarity) -> None:
        self._size, self._absolute = (maps.shape[-2], maps.shape[-1]), similarity == "spearman_abs"
        self._ranking = _ranking(maps, self._absolute)

    def alike(self, others: Tensor) -> Tensor:
        """How alike other maps (B, h, w) of any size are, (B,): NaN where one is not finite or the first is constant.

        0 where only the other is constant, which shows nothing of the first.
        """
        others = resize(others, self._size)  # as the maps may have been since they were made
        found = _ranking(others, self._absolute)
        constant = found.isnan() & _finite(others)
        return correlated(self._ranking, found.masked_fill(constant, 0))


@dataclasses.dataclass(frozen=True)
class MPRT(Anew):
    """Model parameter randomisation test: how alike the map and those of the model with random layers are, in the mean over the steps.

    Layers are made random from the output down, "cascading" (one more at each step, until nothing learnt is left) or each
    "independent" of the others; `layers` of them, evenly chosen, or all if there are fewer. What the numbers are: `randomised`;
    `keep_statistics` keeps what norms know of the data. A map that does not look at the weights, such as an edge detector, has exactly
    1. Maps are compared at their own resolution; NaN where the map is constant or any is not finite, and a random model's constant map
    counts 0.
    """

    name = "mprt"
    paper = "Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim: Sanity Checks for Saliency Maps, NeurIPS 2018 (arXiv:1810.03292)"
    family = "randomisation"
    higher_is_better = False
    chance = 1.0
    cost = "layers x the method's, beside the map itself: layers + 1 explanations in all"

    order: Order = "cascading"
    layers: Annotated[int, AtLeast(1)] = 8
    similarity: Similarity = "spearman"
    keep_statistics: bool = False
    seed: Annotated[int, AtLeast(0)] = 0

    def _compared(self, model: VisionModel, batch: Batch, attribution: Attribution, explain: Explain) -> Tensor:
        asked = dataclasses.replace(batch, logits=None)  # those were another model's
        steps = randomised(model, seed=self.seed, layers=self.layers, order=self.order, keep_statistics=self.keep_statistics)
        reference = _Reference(attribution.maps, self.similarity)
        return torch.stack([reference.alike(explain(other, asked).maps) for _, other in steps]).mean(0)


@dataclasses.dataclass(frozen=True)
class RandomLogit(Anew):
    """How alike the map and that of another class are, which is drawn for each image from its content and `seed`.

    A map that does not look at the class has exactly 1. Maps are compared at their own resolution; NaN where the map is constant or one
    is not finite, and the other class's constant map counts 0.
    """

    name = "random_logit"
    paper = "Sixt, Granz, Landgraf: When Explanations Lie: Why Many Modified BP Attributions Fail, ICML 2020 (arXiv:1912.09818)"
    family = "randomisation"
    higher_is_better = False
    chance = 1.0
    cost = "one more explanation"

    similarity: Similarity = "spearman"
    seed: Annotated[int, AtLeast(0)] = 0

    def _compared(self, model: VisionModel, batch: Batch, attribution: Attribution, explain: Explain) -> Tensor:
        classes = (model.logits(batch.images[:1]) if batch.logits is None else batch.logits).shape[1]
        if classes < 2:
            raise Unsupported(f"{self.brief()}: {model.name} has one logit, allowed: a model of two classes or more")
        step = 1 + keys_of(self.name, batch.images, self.seed, pictures=model.pictures).remainder(classes - 1)
        others = Targets((batch.targets.index + step) % classes, batch.targets.kind)
        anew = explain(model, dataclasses.replace(batch, targets=others))
        return _Reference(attribution.maps, self.similarity).alike(anew.maps)
