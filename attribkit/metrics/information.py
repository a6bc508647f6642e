"""Performance information curves: how well the model does on a blurred image by how much of its information has come back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch, Targets
from ..errors import BadInput, Unsupported
from ..model.memory import full_precision
from ..noise import uniform
from ..registry import AtLeast
from ..removals.base import InFill, composite
from ..removals.infill import PushPull
from .base import Metric, Traced
from .draws import keys_of
from .picture_size import entropy_size, webp_size
from .removal_curves import area_under, importance_ranks

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

Estimator = Literal["webp", "entropy"]
THRESHOLDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75)
_SEEDLINGS = 0.01  # the share of pixels that the blurred image is made from
_POINTS = 1000  # of a curve, and one more at its end
_SIZES = {"webp": webp_size, "entropy": entropy_size}


class Reading(NamedTuple):
    """How information curves are read: "softmax" the probability of the target's class, or "accuracy" whether it is the most likely one.

    `estimator` says how much information an image holds, `infill` what stands between the pixels that are shown, `confident` how much the
    whole image must get; `seed` draws the pixels that are always shown, and decides between pixels of equal importance.
    """

    of: Literal["softmax", "accuracy"] = "softmax"
    infill: InFill = PushPull()
    estimator: Estimator = "webp"
    confident: float = 0.8
    seed: int = 0


_SOFTMAX = Reading()


def information_curve(model: VisionModel, batch: Batch, maps: Tensor, reading: Reading = _SOFTMAX) -> Tensor:
    """The curve of each image from (0, 0) to (1, 1), read at 1,001 equidistant shares of its information, (B, 1001).

    By signed maps (B, h, w) of any size. NaN where the whole image gets less than `confident`, where its blur gets no less or holds no
    less information, and for a map that is not finite. Several images are put together by the median of their curves.
    """
    if not model.pictures:
        raise Unsupported(f"information curves measure pictures, and {model.name} works on {batch.images.shape[1]} channels; allowed: 3")
    with model.studied():
        ranks = importance_ranks(model, batch.images, maps, seed=reading.seed)
        # The image whole, its blur, and what lies between.
        information, value = _measured(model, batch, ranks, reading)
    (whole, blur), (best, worst) = information[:, :2].T, value[:, :2].T
    skipped = (best < reading.confident) | (worst >= best) | (blur >= whole) | ~maps.flatten(1).isfinite().all(1)
    across, up = (
        ((part[:, 2:] - low.unsqueeze(1)) / torch.where(skipped, 1, high - low).unsqueeze(1)).clamp(0, 1)
        for part, low, high in ((information, blur, whole), (value, worst, best))
    )
    return through(across, up).masked_fill(skipped.unsqueeze(1), torch.nan)


def through(across: Tensor, up: Tensor) -> Tensor:
    """Rising curves from (0, 0) through points in [0, 1] x [0, 1] to (1, 1), (B, N) each, read at 1,001 places; (B, 1001) float64.

    A curve is the best that was reached with so much or less, joined by straight lines; of points above each other the highest counts.
    """
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=across.device).expand(len(across), 2)
    x, order = torch.cat((across.double(), ends), 1).sort(dim=1, stable=True)
    y = torch.cat((up.double(), ends), 1).gather(1, order).cummax(1).values
    y = y.gather(1, torch.searchsorted(x, x, right=True) - 1)
    at = torch.arange(_POINTS, dtype=torch.float64, device=x.device).div(_POINTS).expand(len(x), -1).contiguous()
    after = torch.searchsorted(x, at, right=True)  # never the end, for all of `at` is below 1
    (left, right), (low, high) = ((each.gather(1, after - 1), each.gather(1, after)) for each in (x, y))
    curve = torch.lerp(low, high, (at - left) / (right - left))
    curve[:, 0] = 0
    return torch.cat((curve, ends[:, 1:]), 1)


def _measured(model: VisionModel, batch: Batch, ranks: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
    """How much information is in each image whole, in its blur and in what lies between, and what the model makes of it; (B, 15) each."""
    images, count = batch.images, len(batch)
    pixels = images.shape[-2:].numel()
    shown = torch.tensor([pixels, 0, *(round(threshold * pixels) for threshold in THRESHOLDS)], device=images.device)
    seedlings = _always_shown(images, reading.seed)
    filling = reading.infill.filler(model, images)
    mean, std = (images.new_tensor(each).view(3, 1, 1) for each in (model.mean, model.std))

    def work(rows: slice) -> tuple[Tensor, Tensor]:
        pairs = torch.arange(rows.start, rows.stop, device=images.device)
        which, part = pairs % count, pairs // count
        keep = seedlings[which] | (ranks[which] < shown[part].view(-1, 1, 1))
        seen = composite(images[which], keep, filling(which, keep))
        logits = full_precision(model.answer(seen))
        size = _SIZES[reading.estimator](((seen * std + mean).clamp(0, 1) * 255).round().to(torch.uint8))
        return size, _value(logits, batch.targets[which], reading.of)

    information, value = model.in_rows(work, count * len(shown))
    return information.view(-1, count).T, value.view(-1, count).T


def _value(logits: Tensor, targets: Targets, of: Literal["softmax", "accuracy"]) -> Tensor:
    probability = Targets(targets.index, "probability").of(logits)
    if of == "softmax":
        return probability
    right = probability > 0.5 if logits.shape[1] == 1 else logits.argmax(1) == targets.index
    return right.to(logits.dtype)


def _always_shown(images: Tensor, seed: int) -> Tensor:
    """The corners and a random 1 % of the pixels, the same for every map of an image; (B, H, W) bool."""
    height, width = images.shape[-2:]
    drawn = uniform(keys_of("always shown", images, seed), height * width).topk(int(_SEEDLINGS * height * width), dim=1).indices
    shown = torch.zeros(len(images), height * width, dtype=torch.bool, device=images.device).scatter_(1, drawn, True)
    shown = shown.view(-1, height, width)
    shown[:, :: max(height - 1, 1), :: max(width - 1, 1)] = True
    return shown


@dataclasses.dataclass(frozen=True)
class SIC(Metric):
    """The softmax information curve's area: how soon the probability of the target's class comes back with the information of the image.

    An image is blurred, but for its corners and a random 1 % of its pixels; then the most important 0.5 % to 75 % come back. Both its
    information and the probability count from 0 for the blurred image to 1 for the whole one. An image is skipped (NaN) whose probability
    is less than `confident`, or whose blur has no lower one or holds no less information.

    `infill` stands for linear interpolation between the pixels that are shown, by default a pyramid of means. `estimator` "webp" is the
    published one, the length of a lossless file, written on the host; "entropy" stays on the device. Each image has the area of its own
    curve, where the paper takes that of the median curve. Equal values of a map come in an order drawn from the image and `seed`.
    """

    name = "sic"
    paper = "Kapishnikov, Bolukbasi, Viégas, Terry: XRAI: Better Attributions Through Regions, ICCV 2019 (arXiv:1906.02825)"
    family = "faithfulness"
    cost = "15 forwards, each after an in-fill and beside a lossless file"

    infill: InFill = PushPull()
    estimator: Estimator = "webp"
    confident: Annotated[float, AtLeast(0)] = 0.8
    seed: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.confident > 1:
            raise BadInput(f"SIC(confident=...): got {self.confident}, allowed: a probability, from 0 to 1")

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Traced:
        curves = information_curve(
            model, batch, attribution.maps, Reading("softmax", self.infill, self.estimator, self.confident, self.seed)
        )
        return Traced(area_under(curves), curves)


@dataclasses.dataclass(frozen=True)
class AIC(Metric):
    """The accuracy information curve's area: how soon the target's class becomes the most likely one, as information comes back.

    As `SIC`, with 1 for an image whose most likely class is the target's, and 0 for another: one that is wrong when whole, or right when
    blurred, is skipped (NaN).
    """

    name = "aic"
    paper = "Kapishnikov, Bolukbasi, Viégas, Terry: XRAI: Better Attributions Through Regions, ICCV 2019 (arXiv:1906.02825)"
    family = "faithfulness"
    cost = "15 forwards, each after an in-fill and beside a lossless file"

    infill: InFill = PushPull()
    estimator: Estimator = "webp"
    seed: Annotated[int, AtLeast(0)] = 0

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Traced:
        curves = information_curve(model, batch, attribution.maps, Reading("accuracy", self.infill, self.estimator, 1.0, self.seed))
        return Traced(area_under(curves), curves)
