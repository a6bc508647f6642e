"""Completeness: whether a map adds up to what it explains."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BadInput
from ..model.levels import is_input
from ..removals.fill import FillKind, fill
from .base import Metric
from .parts import lost_in_rounding

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


def completeness_gap(maps: Tensor, difference: Tensor) -> Tensor:
    """How far the sum of each map (B, h, w) is from the `difference` (B,) that it should explain, relative to that; NaN where it is 0."""
    if maps.ndim != 3 or difference.shape != maps.shape[:1]:
        raise BadInput(f"completeness_gap: got {tuple(maps.shape)} and {tuple(difference.shape)}, allowed: (B, h, w) and (B,)")
    whole = difference.double()
    gap = (maps.double().sum((1, 2)) - whole).abs() / whole.abs()
    return gap.masked_fill(whole == 0, torch.nan)


@dataclasses.dataclass(frozen=True)
class CompletenessGap(Metric):
    """How far the map is from adding up to the score less that of the `baseline`, relative to this difference: 0 is complete.

    It is for maps that claim as much, at the resolution they were made in, and for the baseline that they were made with (see the fills);
    a map of zeros has 1. NaN where both scores are the same, and for maps of a layer other than the "input", by `AtLayer` or a CAM: what
    they add up to, if anything, begins with a baseline of the layer's activations.
    """

    name = "completeness_gap"
    paper = "Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks, ICML 2017 (arXiv:1703.01365)"
    family = "faithfulness"
    higher_is_better = False
    cost = "two forwards"

    baseline: FillKind = "zero"

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        layer = attribution.facts.get("layer")
        if layer is not None and not is_input(model, layer):
            return attribution.maps.new_full((len(batch),), torch.nan)
        score = model.score(batch.images, batch.targets)
        difference = score - model.score(fill(self.baseline, model, batch.images), batch.targets)
        gap = completeness_gap(attribution.maps, difference)
        return gap.masked_fill(lost_in_rounding(difference.unsqueeze(1), score), torch.nan)
