"""What the model says as pixels go, or come back, in the order of a map: deletion and insertion, and the engine that ROAD shares."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch, Targets
from ..errors import BadInput
from ..maps import resize
from ..noise import uniform
from ..registry import AtLeast
from ..removals.base import Removal
from ..removals.fill import Blur, Constant
from .base import Metric, Traced
from .draws import keys_of

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

Order = Literal["most", "least"]
Value = Literal["probability", "target"]


class Course(NamedTuple):
    """How a removal curve runs: `steps` equal shares of the pixels, the "most" or the "least" important first.

    `insert`: from an image with everything removed, to which they come back, instead of from the whole one, from which they go. `of`: the
    softmax probability of the target's class, or the explained scalar itself. `seed` decides between pixels of equal importance.
    """

    steps: int = 28
    order: Order = "most"
    insert: bool = False
    of: Value = "probability"
    seed: int = 0


_DELETION = Course()


class Kept(NamedTuple):
    """Parts of images to be shown: each pixel's rank in its image, (B, H, W), and from which rank up to which it is kept, (S, 2)."""

    ranks: Tensor
    spans: Tensor


def removal_curve(model: VisionModel, batch: Batch, maps: Tensor, removal: Removal, course: Course = _DELETION) -> Tensor:
    """What the model says of each image before the first and after every step, (B, steps + 1), by signed maps (B, h, w) of any size.

    The whole image is answered as the model answers it, and the rest as `removal` does. A map that is not finite gives NaN.
    """
    if course.steps < 1:
        raise BadInput(f"Course(steps=...): got {course.steps}, allowed: at least 1")
    pixels = batch.images.shape[-2:].numel()
    gone = [step * pixels // course.steps for step in range(1, course.steps + 1)]
    # What comes back in one order is what is still there in the other.
    from_the_top = (course.order == "most") != course.insert
    kept = [(count, pixels) if from_the_top else (0, pixels - count) for count in gone]
    targets = scalar(batch.targets, course.of)
    with model.studied():
        ranks = importance_ranks(model, batch.images, maps, seed=course.seed)
        rest = answers(model, batch.images, targets, removal, Kept(ranks, torch.tensor(kept, device=ranks.device)))
        curve = torch.cat((model.score(batch.images, targets).unsqueeze(1), rest), 1)
    curve = curve.flip(1) if course.insert else curve
    return curve.masked_fill(~maps.flatten(1).isfinite().all(1, keepdim=True), torch.nan)


def area_under(curve: Tensor) -> Tensor:
    """The mean height of curves through equidistant points (trapezoid rule), (B, points) -> (B,)."""
    return (curve.sum(1) - (curve[:, 0] + curve[:, -1]) / 2) / (curve.shape[1] - 1)


def scalar(targets: Targets, of: Value) -> Targets:
    """The scalar whose change is looked at: the probability of the target's class, or what is explained."""
    return Targets(targets.index, "probability") if of == "probability" else targets


def importance_ranks(model: VisionModel, images: Tensor, maps: Tensor, *, seed: int) -> Tensor:
    """The place of each pixel in the order of importance, 0 for the largest value of the resized map; (B, H, W) int32.

    Pixels of equal value, as all of a constant map's are, stand in an order drawn from the image's content and `seed`.
    """
    if maps.ndim != 3 or len(maps) != len(images):
        raise BadInput(f"maps: got {tuple(maps.shape)}, allowed: ({len(images)}, h, w), one for each image")
    height, width = images.shape[-2:]
    values = resize(maps, (height, width)).flatten(1)
    shuffled = uniform(keys_of("ties", images, seed, pictures=model.pictures), height * width).argsort(dim=1)
    order = shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(height * width, device=images.device, dtype=torch.int32).expand_as(order)
    return torch.empty_like(places.contiguous()).scatter_(1, order, places).view(-1, height, width)


def answers(model: VisionModel, images: Tensor, targets: Targets, removal: Removal, kept: Kept) -> Tensor:
    """The targets' scalar for every image with every part of it that is kept, (B, S); the parts of all images run in full rows."""
    count, parts = len(images), len(kept.spans)
    ask = removal.prepared(model, images)

    def work(rows: slice) -> tuple[Tensor]:
        # Every image with one part before any with the next, since parts of one size cost a removal about the same.
        pairs = torch.arange(rows.start, rows.stop, device=images.device)
        which, part = pairs % count, pairs // count
        ranks, spans = kept.ranks[which], kept.spans[part].unsqueeze(2).unsqueeze(3)
        return (targets[which].of(ask(which, (ranks >= spans[:, 0]) & (ranks < spans[:, 1]))),)

    return model.in_rows(work, count * parts)[0].view(parts, count).T


@dataclasses.dataclass(frozen=True)
class Deletion(Metric):
    """The area under the probability of the target's class while pixels are removed, the most important first: a good map's is small.

    `steps` equal shares, which differ by a pixel at most, go one after the other until nothing is kept; `removal` takes them away. Values
    are ranked with their sign, on the map resized to the image; equal ones in an order drawn from the image's content and `seed`.

    `order` "least": the least important first, and then a good map's area is large. `of` "target": the explained scalar itself.
    """

    name = "deletion"
    paper = "Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018 (arXiv:1806.07421)"
    family = "faithfulness"
    cost = "a forward per step, and one of the image"

    removal: Removal = Constant()
    steps: Annotated[int, AtLeast(1)] = 28
    order: Order = "most"
    of: Value = "probability"
    seed: Annotated[int, AtLeast(0)] = 0

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]  # the base has it for the class, this for the object
        """Only where the least important pixels go first."""
        return self.order == "least"

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Traced:
        course = Course(self.steps, self.order, insert=False, of=self.of, seed=self.seed)
        curves = removal_curve(model, batch, attribution.maps, self.removal, course)
        return Traced(area_under(curves), curves)


@dataclasses.dataclass(frozen=True)
class Insertion(Metric):
    """The area under the probability of the target's class while pixels come back to an image that lost them all: a good map's is large.

    The most important first, in `steps` equal shares as in `Deletion`. The default `removal` blurs, so that no edges of the kept part
    appear; its Gaussian grows with the image and repeats the border, where RISE's is 11 x 11 pixels of sigma 5 with dark borders, so that
    areas do not compare with that paper's. `order` "least": the least important first, and then a good map's area is small.
    """

    name = "insertion"
    paper = "Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018 (arXiv:1806.07421)"
    family = "faithfulness"
    cost = "a forward per step, and one of the image"

    removal: Removal = Blur()
    steps: Annotated[int, AtLeast(1)] = 28
    order: Order = "most"
    of: Value = "probability"
    seed: Annotated[int, AtLeast(0)] = 0

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]  # as in `Deletion`
        """Only where the most important pixels come first."""
        return self.order == "most"

    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Traced:
        course = Course(self.steps, self.order, insert=True, of=self.of, seed=self.seed)
        curves = removal_curve(model, batch, attribution.maps, self.removal, course)
        return Traced(area_under(curves), curves)
