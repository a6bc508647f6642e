"""Counterfactual in-fill (FIDO): which pixels must stay, or go, when a plausible picture takes the place of those that go."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Explained
from ..batch import Targets, turns
from ..errors import BadInput
from ..maps import resize, resize_transposed
from ..noise import keys, uniform
from ..progress import report
from ..registry import AtLeast
from ..removals.base import Ask, InFill, Removal
from ..removals.fill import Blur
from .base import Method

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

_WINDOW = 20  # steps in a row over which a mask that has settled keeps its area; the host looks once in each
_FARTHEST = 15.0  # of a keep logit from 0: beyond, float32 has no probability that is neither 0 nor 1
_DECAY = (0.9, 0.999)  # Adam's own numbers (Kingma, Ba, ICLR 2015)
_EPSILON = 1e-8


@dataclasses.dataclass(frozen=True)
class CounterfactualInfill(Method):
    """FIDO: the probability of each pixel to be kept, learnt by gradients through random masks whose gaps are filled.

    `objective` "ssr" seeks the smallest region that keeps the target's score when all else is filled, and maps `k - 0.5`; "sdr" the
    smallest whose filling destroys it, and maps `0.5 - k`; "both" learns the two side by side and maps their mean. `k`, at the images'
    resolution, are the probabilities of square cells of `cell` pixels, enlarged bilinearly. Gaps are filled by `removal`, any in-fill; a
    fill such as `Noise` is one draw for all masks, `RandomColour` one for each. The score is the log-odds of the class where targets are
    logits, and what they say otherwise.

    Adam takes `steps` steps with `samples` masks each, its `learning_rate` falling to 0 linearly. Masks are relaxed at `temperature`.
    Every pixel kept ("ssr") or filled ("sdr") costs `area_weight`, which grows from 0 over the first `ramp` steps; squared differences
    of neighbours in `k` cost `smoothness_weight`. A mask is final once its mean varied by less than `tolerance` over 20 steps (0: never).

    Reports, for each image, `counterfactual` (3, H, W), the normalised image filled wherever `k <= 0.5`; `counterfactual_score`, the
    score of that; `kept_area`, the share of its pixels that are the image's own; `steps`, how many were taken. "both" reports each of
    these, and `map` (H, W), under names that end in `_ssr` and `_sdr`.
    """

    name = "counterfactual_infill"
    paper = "Chang, Creager, Goldenberg, Duvenaud: Explaining Image Classifiers by Counterfactual Generation, ICLR 2019 (arXiv:1807.08024)"
    cost = "a forward and backward per step and sample (2,400 unless masks settle early), and twice as many for both objectives"
    needs = frozenset({"gradients"})

    objective: Literal["ssr", "sdr", "both"] = "ssr"
    removal: Removal = Blur()
    steps: Annotated[int, AtLeast(1)] = 300
    samples: Annotated[int, AtLeast(1)] = 8
    learning_rate: Annotated[float, AtLeast(0)] = 0.05
    area_weight: Annotated[float, AtLeast(0)] = 1e-3
    smoothness_weight: Annotated[float, AtLeast(0)] = 0.0
    cell: Annotated[int, AtLeast(1)] = 4
    ramp: Annotated[int, AtLeast(0)] = 30
    temperature: Annotated[float, AtLeast(0.001)] = 0.1
    tolerance: Annotated[float, AtLeast(0)] = 1e-4
    seed: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _in_fill(self.removal)
        for field in ("learning_rate", "area_weight", "smoothness_weight", "temperature", "tolerance"):
            if math.isinf(getattr(self, field)):
                raise BadInput(f"CounterfactualInfill({field}=...): got inf, allowed: a finite number")

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Explained:
        if targets.kind == "logit":
            targets = Targets(targets.index, "log_odds")
        size = (images.shape[-2], images.shape[-1])
        objectives = ("ssr", "sdr") if self.objective == "both" else (self.objective,)
        asked = _Asked(
            model, images, targets, _in_fill(self.removal).filler(model, images), keys(images, self.seed, pictures=model.pictures)
        )
        signs = torch.cat([images.new_full((len(images),), 1.0 if each == "ssr" else -1.0) for each in objectives])
        masks = self._learnt(asked, signs)
        keep = masks.result(size)
        maps = (signs.view(-1, 1, 1) * (keep - 0.5)).view(len(objectives), len(images), *size)
        learnt = zip(maps, keep.view_as(maps), masks.steps.view(maps.shape[:2]), strict=True)
        found = [{"map": own, **self._shown(asked, kept), "steps": steps} for own, kept, steps in learnt]
        if len(objectives) == 1:
            return Explained(found[0].pop("map"), found[0])
        named = zip(objectives, found, strict=True)
        return Explained(maps.mean(0), {f"{name}_{which}": value for which, each in named for name, value in each.items()})

    def _learnt(self, asked: _Asked, signs: Tensor) -> _Masks:
        """A mask for each sign, 1 where the score is to stay and -1 where it is to go; mask j is of image j modulo their number."""
        height, width = asked.images.shape[-2:]
        masks = _Masks.undecided(signs, (-(-height // self.cell), -(-width // self.cell)), self.steps)
        for step in range(self.steps):
            if self.tolerance and step % _WINDOW == 0:
                masks.look(step, self.tolerance, final=step >= self.ramp + _WINDOW)
            if not len(masks.rows):
                break
            keep = masks.keep((height, width))
            pull = self._pull(asked, masks.rows, keep, step)
            ramped = self.area_weight * min(1.0, step / self.ramp if self.ramp else 1.0)
            slope = signs[masks.rows].view(-1, 1, 1) * (ramped - pull)
            if self.smoothness_weight:
                slope = slope + self.smoothness_weight * _roughness_gradient(keep)
            masks.move(slope, self.learning_rate * (1 - step / self.steps), step)
            masks.note(pull, keep)
            report(step + 1, self.steps, self.name)
        return masks

    def _pull(self, asked: _Asked, rows: Tensor, keep: Tensor, step: int) -> Tensor:
        """How the score, its mean over this step's samples, reacts to the keep probabilities (m, H, W) of the masks `rows`; (m, H, W).

        Pairs of a mask and a sample run in rows that are always full, so memory does not grow with the number of samples.
        """
        count, odds, total = len(rows), keep.logit(), torch.zeros_like(keep)
        of = rows % len(asked.images)

        def work(part: slice) -> Tensor:
            pairs = torch.arange(part.start, part.stop, device=keep.device)
            mask, draw = pairs % count, step * self.samples + pairs // count
            which = of[mask]
            noise = uniform(asked.key[which] + draw, keep[0].numel()).view(-1, *keep.shape[1:]).to(keep.dtype)
            soft = relaxed(odds[mask], noise, self.temperature)
            images, filling = asked.images[which], asked.filling(which, soft > 0.5)
            gradient = asked.model.gradient(blended(images, soft, filling), asked.targets[which])
            return (gradient * (images - filling)).sum(1) * (soft * (1 - soft))

        def take(part: slice, reacted: Tensor) -> None:
            for _, masks, pairs in turns(part, count):  # sample by sample, so that a sum does not depend on where rows were cut
                total[masks] += reacted[pairs]

        asked.model.each_rows(work, count * self.samples, take)
        return total / (self.temperature * self.samples) / (keep * (1 - keep))

    def _shown(self, asked: _Asked, keep: Tensor) -> dict[str, Tensor]:
        """What the model would have to see, from keep probabilities (N, H, W), and what it says to that."""
        kept = keep > 0.5
        counterfactual = _in_fill(self.removal).filled(asked.model, asked.images, kept)
        return {
            "counterfactual": counterfactual,
            "counterfactual_score": asked.model.score(counterfactual, asked.targets),
            "kept_area": kept.to(keep.dtype).mean((1, 2)),
        }


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What every step asks about: of which images, what fills their gaps, and where the random numbers of each begin."""

    model: VisionModel
    images: Tensor
    targets: Targets
    filling: Ask
    key: Tensor


@dataclasses.dataclass
class _Masks:
    """M masks while they are learnt: `logits` (M, h, w) of keeping a cell, which are minus the paper's, and Adam's two moments.

    `rows` are the m that still move; `steps` how many each took; `alive` whether a gradient ever reached it; `low` and `high` (m,)
    bound the mean keep probability since the last look.
    """

    logits: Tensor
    moments: tuple[Tensor, Tensor]
    rows: Tensor
    steps: Tensor
    alive: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def undecided(cls, like: Tensor, cells: tuple[int, int], steps: int) -> _Masks:
        """A mask for each of `like` (M,), with even chances everywhere."""
        count, device = len(like), like.device
        logits, first, second = (like.new_zeros(count, *cells) for _ in range(3))
        every, taken = torch.arange(count, device=device), torch.full((count,), steps, device=device)
        alive = torch.zeros(count, dtype=torch.bool, device=device)
        return cls(logits, (first, second), every, taken, alive, *_bounds(like, count))

    def keep(self, size: tuple[int, int]) -> Tensor:
        """The keep probabilities of those that still move, (m, H, W): squashed first, then enlarged."""
        return resize(self.logits[self.rows].sigmoid(), size)

    def result(self, size: tuple[int, int]) -> Tensor:
        """The keep probabilities of all, (M, H, W); even chances where nothing that was filled ever mattered."""
        keep = resize(self.logits.sigmoid(), size)
        return torch.where(self.alive.view(-1, 1, 1), keep, torch.full_like(keep, 0.5))

    def move(self, slope: Tensor, rate: float, step: int) -> None:
        """One step of Adam for those that still move, against the loss's `slope` in their keep probabilities (m, H, W)."""
        rows = self.rows
        chance = self.logits[rows].sigmoid()
        gradient = resize_transposed(slope, (chance.shape[1], chance.shape[2])) * (chance * (1 - chance))
        for moment, decay, power in zip(self.moments, _DECAY, (gradient, gradient**2), strict=True):
            moment[rows] = decay * moment[rows] + (1 - decay) * power
        mean, square = (moment[rows] / (1 - decay ** (step + 1)) for moment, decay in zip(self.moments, _DECAY, strict=True))
        self.logits[rows] = (self.logits[rows] - rate * mean / (square.sqrt() + _EPSILON)).clamp(-_FARTHEST, _FARTHEST)

    def note(self, pull: Tensor, keep: Tensor) -> None:
        """Remember which masks a gradient reached, and how their areas vary."""
        area = keep.mean((1, 2))
        self.alive[self.rows] |= (pull != 0).flatten(1).any(1)
        self.low, self.high = torch.minimum(self.low, area), torch.maximum(self.high, area)

    def look(self, step: int, tolerance: float, *, final: bool) -> None:
        """Begin to watch the areas anew; if it is `final`, masks whose areas have settled move no more (here the host waits)."""
        if final:
            moving = self.high - self.low >= tolerance
            self.steps[self.rows] = torch.where(moving, self.steps[self.rows], step)
            self.rows = self.rows[moving]
        self.low, self.high = _bounds(self.low, len(self.rows))


def _bounds(like: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return like.new_full((count,), math.inf), like.new_full((count,), -math.inf)


def _in_fill(removal: Removal) -> InFill:
    if not isinstance(removal, InFill):
        raise BadInput(
            f"CounterfactualInfill(removal=...): got {removal!r}, allowed: a removal that fills gaps with pixels, such as Blur()"
        )
    return removal


def relaxed(odds: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Samples between 0 and 1 (concrete, or Gumbel-sigmoid) of what has these log-odds, from uniform noise in [0, 1); all of one shape.

    A sample is above 0.5 with exactly the probability that the log-odds mean, at any temperature.
    """
    return ((odds + noise.logit()) / temperature).sigmoid()


def blended(images: Tensor, soft: Tensor, filling: Tensor) -> Tensor:
    """`soft` (R, H, W) of each image and the rest of its filling, both (R, 3, H, W); bitwise the image where `soft` is 1."""
    return torch.lerp(filling, images, soft.unsqueeze(1))


def _roughness_gradient(keep: Tensor) -> Tensor:
    """The gradient of the sum of squared differences of neighbours in each of (m, H, W)."""
    down, across = keep.diff(dim=1), keep.diff(dim=2)
    return 2 * (F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1)) + F.pad(across, (1, 0)) - F.pad(across, (0, 1)))
