"""In-fills made of what is kept around a gap, on the model's device and for all images at once, and those of a person's own network."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from ..errors import BadInput
from ..model.adapter import VisionModel
from ..noise import keys, normal
from ..registry import AtLeast
from .base import InFill
from .poisson import EIGHT, FOUR, solved
from .pyramid import push_pull


@dataclasses.dataclass(frozen=True)
class LocalMean(InFill):
    """The mean of what is kept in a square of `window` pixels around, and the mean colour of training (0) where it holds nothing kept."""

    name = "local_mean"
    paper = "Chang, Creager, Goldenberg, Duvenaud: Explaining Image Classifiers by Counterfactual Generation, ICLR 2019 (arXiv:1807.08024)"

    window: Annotated[int, AtLeast(1)] = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window % 2 == 0:
            raise BadInput(f"LocalMean(window=...): got {self.window}, allowed: an odd number, which has a pixel in its middle")

    def _filling(self, model: VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        kept = keep.unsqueeze(1)
        count = _around(kept.to(images), self.window)
        return _around(torch.where(kept, images, 0), self.window) / count.clamp_min(1)


def _around(grid: Tensor, window: int) -> Tensor:
    """Sums over squares of `window` pixels, zeros beyond the border, by way of sums over ever longer runs; (R, C, H, W) -> the same."""
    for axis in (-1, -2):
        length, reach = grid.shape[axis], window // 2
        shape = list(grid.shape)
        shape[axis] = reach
        beyond = grid.new_zeros(shape)
        runs, run, total, covered = torch.cat((beyond, grid, beyond), axis), 1, torch.zeros_like(grid), 0
        while True:  # `runs` holds the sums over `run` values; those of the powers of two that `window` is made of are put end to end
            if window & run:
                total = total + runs.narrow(axis, covered, length)
                covered += run
            if covered == window:
                break
            reached = runs.shape[axis] - run
            runs = runs.narrow(axis, 0, reached) + runs.narrow(axis, run, reached)
            run *= 2
        grid = total
    return grid


@dataclasses.dataclass(frozen=True)
class PushPull(InFill):
    """Means of what is kept, over cells twice as large until there is something, and back by bilinear interpolation; zeros without any."""

    name = "push_pull"
    paper = "Gortler, Grzeszczuk, Szeliski, Cohen: The Lumigraph, SIGGRAPH 1996"

    def _filling(self, model: VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        return push_pull(images, keep.unsqueeze(1))


@dataclasses.dataclass(frozen=True)
class Harmonic(InFill):
    """The smoothest surface over a gap (Laplace's equation): each pixel the mean of its four neighbours; zeros where nothing is kept.

    It is solved until a further step moves no pixel by more than `tolerance` of the range of what is kept.
    """

    name = "harmonic"
    paper = "Pérez, Gangnet, Blake: Poisson Image Editing, SIGGRAPH 2003 (with no gradients of a source)"

    tolerance: Annotated[float, AtLeast(0)] = 1e-5

    def _filling(self, model: VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        return solved(images, keep.unsqueeze(1), FOUR, tolerance=self.tolerance)


@dataclasses.dataclass(frozen=True)
class NoisyLinear(InFill):
    """ROAD's: each pixel the mean of its eight neighbours (diagonal ones count half), and Gaussian noise; zeros where nothing is kept.

    `noise` is the standard deviation, in normalised images as the reference has it; each image and `keep` has a draw of its own from
    `seed`. The means are solved until a further step moves no pixel by more than `tolerance` of the range of what is kept.
    """

    name = "noisy_linear"
    paper = "Rong, Leemann et al.: A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022 (arXiv:2202.00449)"

    noise: Annotated[float, AtLeast(0)] = 0.01
    seed: Annotated[int, AtLeast(0)] = 0
    tolerance: Annotated[float, AtLeast(0)] = 3e-5

    def _filling(self, model: VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        kept = keep.unsqueeze(1)
        linear = solved(images, kept, EIGHT, tolerance=self.tolerance)
        if not self.noise:
            return linear
        # What is removed must not decide the draw either.
        key = keys(torch.where(kept, images, 0), self.seed, pictures=model.pictures)
        grain = normal(key, images[0].numel()).view(images.shape).to(images)
        return torch.where(kept.any(-1, keepdim=True).any(-2, keepdim=True), linear + self.noise * grain, 0)


@dataclasses.dataclass(frozen=True)
class Generator(InFill):
    """An in-painting network of one's own: any callable `(images, keep) -> images`, such as LaMa, a diffusion model or a GAN.

    It gets normalised images (R, 3, H, W), zero where they are removed, and `keep` (R, 1, H, W), 1.0 where they are kept, on the model's
    device, and gives (R, 3, H, W), of which only the gaps are used. A module is run in evaluation mode without gradients and given back
    as it was. What it gives for an image must depend on neither its batch nor chance. A callable has no text that could be read
    back, so this removal alone cannot be written on a command line.
    """

    name = "generator"
    paper = "Chang, Creager, Goldenberg, Duvenaud: Explaining Image Classifiers by Counterfactual Generation, ICLR 2019 (arXiv:1807.08024)"
    runs_on = "wherever the callable does"

    module: Callable  # type: ignore[type-arg]  # the bare class is what settings can be checked against

    def __repr__(self) -> str:
        """With the callable's name: a network's own text is as long as the network."""
        return f"Generator(module={getattr(self.module, '__qualname__', type(self.module).__qualname__)})"

    def brief(self) -> str:
        """As `repr`."""
        return repr(self)

    def _filling(self, model: VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        kept = keep.unsqueeze(1)
        # Any module can be studied as a model is, and is then given back as it was.
        own = VisionModel(self.module, mean=0.0, std=1.0) if isinstance(self.module, torch.nn.Module) else None
        with own.studied() if own else contextlib.nullcontext():
            made = self.module(torch.where(kept, images, 0), kept.to(images))
        if not isinstance(made, Tensor) or made.shape != images.shape or not made.is_floating_point():
            got = f"{tuple(made.shape)} {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
            raise BadInput(f"{self!r}: returned {got}, allowed: floating-point {tuple(images.shape)}, as many images as it got")
        return made.detach().to(images)
