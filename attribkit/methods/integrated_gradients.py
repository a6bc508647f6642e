"""Integrated Gradients: the gradient, averaged along the straight path from a baseline to the image, times that path."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from ..attribution import Explained
from ..batch import Targets, turns
from ..errors import BadInput
from ..registry import AtLeast
from ..removals.fill import FillKind, fill
from .base import Method

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

Rule = Literal["gauss_legendre", "midpoint", "trapezoid"]


@dataclasses.dataclass(frozen=True)
class IntegratedGradients(Method):
    """Attributions that sum to the score's difference between the image and a baseline.

    `steps` points per path; `baseline` one of "zero" (the mean colour), "black", "white", "min", "max" (the image's own extremes),
    "blur", "noise", or several of them, whose attributions are averaged; `rule` places and weighs the points; a pixel has the "sum" of
    its `channels`, or their "max". Reports `convergence_delta` (B,), the sum of all attributions minus the score's difference, and
    `relative_delta` (B,), its size as a share of that difference.
    """

    name = "integrated_gradients"
    paper = "Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks, ICML 2017 (arXiv:1703.01365)"
    cost = "a forward and backward per step and baseline"
    needs = frozenset({"gradients"})

    steps: Annotated[int, AtLeast(1)] = 50
    baseline: FillKind | tuple[FillKind, ...] = "zero"
    rule: Rule = "gauss_legendre"
    seed: Annotated[int, AtLeast(0)] = 0
    channels: Literal["sum", "max"] = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.baseline:
            raise BadInput("IntegratedGradients(baseline=...): got an empty tuple, allowed: at least one baseline")
        if self.rule == "trapezoid" and self.steps < 2:
            raise BadInput(
                f"IntegratedGradients(steps=...): got {self.steps}, allowed: at least 2 for the trapezoid rule, which needs both ends"
            )

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Explained:
        kinds = (self.baseline,) if isinstance(self.baseline, str) else self.baseline
        values, start = torch.zeros_like(images), images.new_zeros(len(images))
        for place, kind in enumerate(kinds):
            baseline = fill(kind, model, images, seed=self.seed + place)  # several noises are several draws
            attributed = path_gradient(model, images, baseline, targets, rule=quadrature(self.rule, self.steps)) * (images - baseline)
            values = values + attributed / len(kinds)
            start = start + model.score(baseline, targets) / len(kinds)
        end = model.score(images, targets)
        sums = values.sum(1)
        delta = convergence_delta(sums, start, end)
        return Explained(
            sums if self.channels == "sum" else values.amax(1),
            {"convergence_delta": delta, "relative_delta": relative_delta(delta, start, end)},
        )


def path_gradient(model: VisionModel, images: Tensor, baseline: Tensor, targets: Targets, *, rule: list[tuple[float, float]]) -> Tensor:
    """The gradient's weighted mean over the points of the straight path from `baseline` to `images`; all (B, 3, H, W).

    Pairs of a point and an image run in rows that are always full, so memory does not grow with the number of points.
    """
    count = len(images)
    at, weights = images.new_tensor(rule).unbind(1)
    total = torch.zeros_like(images)

    def work(rows: slice) -> Tensor:
        pairs = torch.arange(rows.start, rows.stop, device=images.device)
        which, point = pairs % count, pairs // count
        path = baseline[which] + at[point].view(-1, 1, 1, 1) * (images[which] - baseline[which])
        return model.gradient(path, targets[which]) * weights[point].view(-1, 1, 1, 1)

    def take(rows: slice, gradients: Tensor) -> None:
        for _, one, gradient in turns(rows, count):
            total[one] += gradients[gradient]

    model.each_rows(work, count * len(rule), take)
    return total


def quadrature(rule: Rule, steps: int) -> list[tuple[float, float]]:
    """The points in [0, 1] and their weights, which sum to 1.

    "gauss_legendre" is exact where the gradient is a polynomial of degree 2 * steps - 1 along the path, and evaluates neither end.
    """
    if rule == "gauss_legendre":
        at, weights = np.polynomial.legendre.leggauss(steps)
        return list(zip(((1 + at) / 2).tolist(), (weights / 2).tolist(), strict=True))
    if rule == "midpoint":
        return [((step + 0.5) / steps, 1 / steps) for step in range(steps)]
    ends = [0.5, *[1.0] * (steps - 2), 0.5]
    return [(step / (steps - 1), weight / (steps - 1)) for step, weight in enumerate(ends)]


def convergence_delta(maps: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """How far maps (B, h, w) are from summing to the score's change from `start` to `end` (B,): 0 for an exact integral; (B,)."""
    return maps.sum((1, 2)) - (end - start)


def relative_delta(delta: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The size of a convergence delta as a share of the score's change; 0 where both are 0; (B,)."""
    change = (end - start).abs().clamp_min(torch.finfo(delta.dtype).eps)
    return torch.where(delta == 0, torch.zeros_like(delta), delta.abs() / change)
