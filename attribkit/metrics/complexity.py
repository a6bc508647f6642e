"""Complexity: how few pixels hold a map, whatever they show."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BadInput
from ..registry import AtLeast
from .base import Metric
from .regions import floating

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


def gini(maps: Tensor) -> Tensor:
    """The Gini index of the absolute values of maps (B, h, w): 0 where all are equal, 1 - 1 / (h w) where one holds everything; (B,).

    NaN for a map of zeros.
    """
    shares = _shares(maps, "gini").sort(1).values
    count = shares.shape[1]
    place = torch.arange(1, count + 1, device=maps.device, dtype=shares.dtype)
    return (2 * (shares * place).sum(1) / count - (count + 1) / count).clamp_min(0).to(floating(maps, "gini").dtype)


def entropy(maps: Tensor) -> Tensor:
    """The entropy of the absolute values of maps (B, h, w) as shares of their sum, over the largest there is, log(h w); (B,) in [0, 1].

    0 where one pixel holds everything, 1 where all are equal. NaN for a map of zeros, and for one of a single pixel.
    """
    shares = _shares(maps, "entropy")
    most = math.log(shares.shape[1]) or math.nan
    held: Tensor = torch.special.entr(shares).sum(1) / most
    return held.clamp_max(1).to(floating(maps, "entropy").dtype)


def half_mass_share(maps: Tensor, share: float = 0.5) -> Tensor:
    """The smallest part of the area of maps (B, h, w) that holds the `share` of the sum of absolute values; (B,), NaN for zeros.

    Of the last pixel only as much is counted as is needed, so that a uniform map has `share` exactly.
    """
    _check_share("half_mass_share", share)
    shares = _shares(maps, "half_mass_share").sort(1, descending=True).values
    held = shares.cumsum(1)
    wanted = share * held[:, -1:]
    last = torch.searchsorted(held, wanted).clamp_max(shares.shape[1] - 1)
    over = (held.gather(1, last) - wanted) / shares.gather(1, last)
    return ((last + 1 - over) / shares.shape[1]).squeeze(1).to(floating(maps, "half_mass_share").dtype)


def _shares(maps: Tensor, what: str) -> Tensor:
    """Absolute values as shares of their sum, (B, h w), in double precision; NaN in a map of zeros."""
    size = floating(maps, what).flatten(1).abs().double()
    return size / size.sum(1, keepdim=True)


def _check_share(what: str, share: float) -> None:
    if not 0 < share <= 1:
        raise BadInput(f"{what}(share=...): got {share}, allowed: more than 0, and at most 1")


@dataclasses.dataclass(frozen=True)
class Sparseness(Metric):
    """How unequal the absolute values of the map are, at its own resolution: their Gini index, 0 for a uniform map.

    NaN for a map of zeros. Sparse is easy to read, not true: a point that is drawn by lot is as sparse as can be.
    """

    name = "sparseness"
    paper = "Chalasani et al.: Concise Explanations of Neural Networks Using Adversarial Training, ICML 2020 (arXiv:1810.06583)"
    family = "complexity"
    chance = 0.0

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        return gini(attribution.maps)


@dataclasses.dataclass(frozen=True)
class Entropy(Metric):
    """The entropy of the absolute values of the map as shares of their sum, at its own resolution, over that of a uniform map.

    From 0, one pixel, to 1, a uniform map, so that maps of different resolutions compare; NaN for a map of zeros.
    """

    name = "entropy"
    paper = "Bhatt, Weller, Moura: Evaluating and Aggregating Feature-based Model Explanations, IJCAI 2020 (arXiv:2005.00631)"
    family = "complexity"
    higher_is_better = False
    chance = 1.0

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        return entropy(attribution.maps)


@dataclasses.dataclass(frozen=True)
class HalfMass(Metric):
    """The smallest part of the image that holds the `share` of the absolute values of the map, at its own resolution.

    A uniform map has `share`. NaN for a map of zeros.
    """

    name = "half_mass"
    paper = "the area under which a share of the map lies, read off its Lorenz curve (Hurley, Rickard, 2009, arXiv:0811.4706)"
    family = "complexity"
    higher_is_better = False

    share: Annotated[float, AtLeast(0)] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share("HalfMass", self.share)

    def chances(self, batch: Batch) -> Tensor:
        """What a uniform map has, (B,)."""
        return batch.images.new_full((len(batch),), self.share, dtype=torch.float32)

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        return half_mass_share(attribution.maps, self.share)
