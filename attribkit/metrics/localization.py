"""Localisation: which share of a map's positive part lies where the evidence is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BadInput
from ..maps import positive, resize
from .base import Metric, region_of
from .regions import floating, fraction, overlaps, paired, shrunk, size_of

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

CELL = 224  # pixels along a cell's side, to which maps of a grid are brought unless a size is told


def localization_score(maps: Tensor, cell: int, n: int, interpolate: bool = True, *, size: tuple[int, int] | None = None) -> Tensor:
    """The share of the positive part of maps (B, h, w) of an `n` x `n` grid that lies in `cell`, counted row by row from 0; (B,) in [0, 1].

    `interpolate`: after signed maps were brought to the grid's `size` (H, W), by default 224 pixels a cell where a map has fewer; the
    reference does so, and its best score is then below 1. Otherwise at the maps' own resolution. A map with nothing positive has 0.
    """
    if n < 1 or not 0 <= cell < n * n:
        raise BadInput(f"localization_score: got cell {cell} of {n} x {n}, allowed: from 0 to {max(n, 1) ** 2 - 1}, n at least 1")
    maps = floating(maps, "localization_score")
    if interpolate:
        maps = resize(maps, size or (max(maps.shape[-2], n * CELL), max(maps.shape[-1], n * CELL)))
    down, across = overlaps(n, maps.shape[-2], maps.device)[cell // n], overlaps(n, maps.shape[-1], maps.device)[cell % n]
    return _share(maps, torch.outer(down, across))


def energy_inside(maps: Tensor, region: Tensor) -> Tensor:
    """The share of the positive part of maps (B, h, w), brought to the size of `region` (B, H, W), that lies inside; (B,) in [0, 1].

    Maps are resized while they have their signs. One with nothing positive has 0.
    """
    maps, region = paired(maps, region, "energy_inside")
    return _share(resize(maps, size_of(region)), region)


def _share(maps: Tensor, region: Tensor) -> Tensor:
    """The share of the positive part of maps that lies in a region of their size."""
    maps = positive(maps)
    inside, total = (each.sum(-1).sum(-1, dtype=torch.float64) for each in (maps * region.to(maps.dtype), maps))
    return torch.where(total == 0, 0, inside / total).to(maps.dtype)


@dataclasses.dataclass(frozen=True)
class LocalizationScore(Metric):
    """The share of the map's positive part that lies in `region`: of a grid problem the cell that holds the target's class.

    `interpolate`: of the signed map at the image's size, as published; the best score of a map with s columns in a cell at the corner is
    then (1 - 1 / (8 s))^2. Otherwise at the map's own resolution, where the best is 1, each of its pixels counted by the share of it in
    the region. A map with nothing positive has 0, and an image without the region NaN.
    """

    name = "localization_score"
    paper = (
        "Böhle, Fritz, Schiele: Convolutional Dynamic Alignment Networks, CVPR 2021 (arXiv:2104.00032); "
        "Rao, Böhle, Schiele: Towards Better Understanding Attribution Methods, CVPR 2022 (arXiv:2205.10435)"
    )
    family = "localisation"

    region: str | None = None
    interpolate: bool = True

    def chances(self, batch: Batch) -> Tensor:
        """The region's share of the image, 1 / n^2 for a cell; (B,)."""
        return fraction(region_of(batch, self.region))

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        maps, region = paired(attribution.maps, region_of(batch, self.region), "LocalizationScore")
        share = energy_inside(maps, region) if self.interpolate else _share(maps, shrunk(region, size_of(maps)))
        return _where_any(region, share)


@dataclasses.dataclass(frozen=True)
class EnergyInside(Metric):
    """The energy-based pointing game: the share of the map's positive part, at the image's size, that lies in `region`.

    A map with nothing positive has 0, and an image without the region NaN. Chance is the region's share of the image.
    """

    name = "energy_inside"
    paper = "Wang et al.: Score-CAM, CVPR Workshops 2020 (arXiv:1910.01279)"
    family = "localisation"

    region: str | None = None

    def chances(self, batch: Batch) -> Tensor:
        """The region's share of the image, (B,)."""
        return fraction(region_of(batch, self.region))

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        region = region_of(batch, self.region)
        return _where_any(region, energy_inside(attribution.maps, region))


def _where_any(region: Tensor, scores: Tensor) -> Tensor:
    """The scores (B,) of images that have something of the region; there is nothing to hit in others."""
    return torch.where(region.flatten(1).amax(1) > 0, scores, torch.nan)
