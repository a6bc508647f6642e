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
from ..noise import keys
from ..registry import AtLeast
from .base import Anew, Explain
from .parts import correlation

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

Similarity = Literal["spearman", "spearman_abs"]


def rank_correlation(maps: Tensor, others: Tensor, absolute: bool = False) -> Tensor:
    """Spearman's correlation of two maps over their pixels, equal values sharing their mean rank; (B, h, w) twice -> (B,).

    `absolute` ranks sizes, without signs. NaN where either map is constant, and has no ranks.
    """
    if maps.shape != others.shape or maps.ndim != 3:
        raise BadInput(f"rank_correlation: got {tuple(maps.shape)} and {tuple(others.shape)}, allowed: (B, h, w) twice")
    return correlation(*(_mean_ranks(each.abs() if absolute else each) for each in (maps, others)))


def _mean_ranks(maps: Tensor) -> Tensor:
    """Each pixel's rank in its map, from 0; equal values have the mean of theirs; (B, h, w) -> (B, h * w) in double precision."""
    flat = maps.flatten(1).contiguous()
    ordered = flat.sort(1).values.contiguous()
    smaller, not_larger = torch.searchsorted(ordered, flat), torch.searchsorted(ordered, flat, right=True)
    return (smaller + not_larger - 1).double() / 2


def _alike(maps: Tensor, others: Tensor, similarity: Similarity) -> Tensor:
    """How alike the maps are, (B,): NaN where the first is constant; 0 where only the other is, which shows nothing of the first."""
    absolute = similarity == "spearman_abs"
    itself = rank_correlation(maps, maps, absolute)
    # The maps may have been resized since they were made.
    found = rank_correlation(maps, resize(others, (maps.shape[-2], maps.shape[-1])), absolute)
    return torch.where(itself.isnan(), itself, found.nan_to_num(0.0))


@dataclasses.dataclass(frozen=True)
class MPRT(Anew):
    """Model parameter randomisation test: how alike the map and those of the model with random layers are, in the mean over the steps.

    Layers are made random from the output down, "cascading" (one more at each step, until nothing learnt is left) or each
    "independent" of the others; `layers` of them, evenly chosen, or all if there are fewer. What the numbers are: `randomised`;
    `keep_statistics` keeps what norms know of the data. A map that does not look at the weights, such as an edge detector, has exactly
    1. Maps are compared at their own resolution; NaN where the map is constant, and a random model's constant map counts 0.
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
        alike = [_alike(attribution.maps, explain(other, asked).maps, self.similarity) for _, other in steps]
        return torch.stack(alike).mean(0)


@dataclasses.dataclass(frozen=True)
class RandomLogit(Anew):
    """How alike the map and that of another class are, which is drawn for each image from its content and `seed`.

    A map that does not look at the class has exactly 1. Maps are compared at their own resolution; NaN where the map is constant, and
    the other class's constant map counts 0.
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
        step = 1 + keys(batch.images, self.seed, pictures=model.pictures).remainder(classes - 1)
        others = Targets((batch.targets.index + step) % classes, batch.targets.kind)
        return _alike(attribution.maps, explain(model, dataclasses.replace(batch, targets=others)).maps, self.similarity)
