"""ROAD: how the score changes as pixels are removed in a way that shows little of where they were."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BadInput
from ..registry import AtLeast
from ..removals.base import Removal
from ..removals.infill import NoisyLinear
from .base import Metric
from .removal_curves import Kept, Value, answers, importance_ranks, scalar

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

Both = Literal["combined", "most", "least"]
TENTHS = tuple(tenth / 10 for tenth in range(1, 10))


class Removed(NamedTuple):
    """What is removed: which `shares` of the pixels, and of those the "most" or the "least" important, or "combined".

    `of`: what changes is the probability of the target's class, or the explained scalar itself. `seed` decides between pixels of equal
    importance.
    """

    shares: tuple[float, ...] = TENTHS
    order: Both = "combined"
    of: Value = "target"
    seed: int = 0


_ROAD = Removed()


def road(model: VisionModel, batch: Batch, maps: Tensor, removal: Removal, removed: Removed = _ROAD) -> Tensor:
    """The mean change of each image's score over the shares, (B,), by signed maps (B, h, w) of any size; NaN for one that is not finite.

    "combined": half the change without the least important pixels minus that without the most important.
    """
    _check(removed.shares)
    pixels = batch.images.shape[-2:].numel()
    counts = [round(share * pixels) for share in removed.shares]
    without = {"most": [(count, pixels) for count in counts], "least": [(0, pixels - count) for count in counts]}
    spans = without["most"] + without["least"] if removed.order == "combined" else without[removed.order]
    targets = scalar(batch.targets, removed.of)
    with model.studied():
        ranks = importance_ranks(model, batch.images, maps, seed=removed.seed)
        scores = answers(model, batch.images, targets, removal, Kept(ranks, torch.tensor(spans, device=ranks.device)))
        if removed.order == "combined":  # in which what the whole image scores cancels out
            most, least = scores.chunk(2, 1)
            change = (least - most).mean(1) / 2
        else:
            change = scores.mean(1) - model.score(batch.images, targets)
    return change.masked_fill(~maps.flatten(1).isfinite().all(1), torch.nan)


@dataclasses.dataclass(frozen=True)
class ROAD(Metric):
    """How much less the score falls without the least important pixels than without the most important, halved: the mean over `shares`.

    Exactly these shares of the pixels are removed, whatever values they have: they are ranked with their sign, on the map resized to the
    image, equal ones in an order drawn from the image's content and `seed`. (pytorch-grad-cam's removes all that is not below a percentile
    of the map, so all of a constant one, and takes maps in [0, 1].) `order` "most" or "least": the change of the score without those
    alone. `of` "probability": of the target's class, in place of the explained scalar.
    """

    name = "road"
    paper = "Rong, Leemann et al.: A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022 (arXiv:2202.00449)"
    family = "faithfulness"
    cost = "two forwards per share, each after an in-fill; in one order, one per share and one of the image"

    removal: Removal = NoisyLinear()
    shares: tuple[float, ...] = TENTHS
    order: Both = "combined"
    of: Value = "target"
    seed: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.shares)

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]  # the base has it for the class, this for the object
        """Unless it is the score without the most important pixels, which should fall."""
        return self.order != "most"

    @property
    def chance(self) -> float | None:  # type: ignore[override]  # as above
        """A random map's expected score, where the two orders are set against each other: they are alike."""
        return 0.0 if self.order == "combined" else None

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        return road(model, batch, attribution.maps, self.removal, Removed(self.shares, self.order, self.of, self.seed))


def _check(shares: tuple[float, ...]) -> None:
    if not shares or not all(0 < share < 1 for share in shares):
        raise BadInput(f"ROAD(shares=...): got {shares}, allowed: shares of the pixels, above 0 and below 1")
