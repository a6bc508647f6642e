"""What every metric is: `Metric`, plain settings and one hook; `Anew`, one that explains again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch
from ..errors import BadInput, Unsupported
from ..registry import Settings, Table, one_of

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

METRICS: Table[Metric] = Table("metric")

Family = Literal["localisation", "faithfulness", "robustness", "randomisation", "complexity"]
Explain = Callable[["VisionModel", Batch], Attribution]


class Traced(NamedTuple):
    """What a metric's hook may return: the score of each image, (B,), and the curve that it is read off, (B, K) at even steps."""

    scores: Tensor
    curves: Tensor | None


class Metric(Settings, ABC):
    """A way to score maps: a frozen dataclass of plain settings, and one hook, `_scores`.

    Called with a model, a batch and an attribution of it, it gives one score per image, (B,), on the model's device. An image's score
    depends on neither its batch nor its place there; what is not defined for an image is NaN, and nothing else is: a map that is not
    finite has NaN. A random metric takes a `seed`. `higher_is_better` is its direction; `chance` the score of a map that says nothing,
    where that is one number, and `chances` the same image by image, where it depends on the image. `family` says what is asked of a map,
    `cost` in words how much is asked of the model. A metric that has a setting `region` compares maps with that region of the batch, by
    default its first.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    family: ClassVar[Family]
    higher_is_better: ClassVar[bool] = True
    chance: ClassVar[float | None] = None
    cost: ClassVar[str] = "nothing"
    table: ClassVar[Table[Any]] = METRICS

    @final
    def __call__(self, model: VisionModel, batch: Batch, attribution: Attribution, method: Explain | None = None) -> Tensor:
        """The score of every image; `method`, by which the maps were made, is asked again by a metric that compares explanations."""
        return self.traced(model, batch, attribution, method).scores

    @final
    def traced(self, model: VisionModel, batch: Batch, attribution: Attribution, method: Explain | None = None) -> Traced:
        """The score of every image, and the curves that they are read off, where there are such."""
        if attribution.ids != batch.ids:
            raise BadInput(f"{type(self).__name__}: got maps of other images than the batch's, allowed: the attribution of this batch")
        if batch.images.device != model.device or batch.images.dtype not in (torch.float32, torch.float64):
            batch = model.fit(batch)
        if attribution.maps.device != batch.images.device:
            attribution = attribution.to(batch.images.device)
        with model.studied():
            found = self._scored(model, batch, attribution, method)
        scores, curves = found if isinstance(found, Traced) else (found, None)
        if tuple(scores.shape) != (len(batch),):
            raise BadInput(f"{type(self).__name__}._scores returned {tuple(scores.shape)}, allowed: ({len(batch)},)")
        scores = torch.where(attribution.maps.flatten(1).isfinite().all(1), scores.detach().float(), torch.nan)
        return Traced(scores, None if curves is None else curves.detach().float())

    def chances(self, batch: Batch) -> Tensor | None:
        """The score that a map which says nothing would get on each image, (B,); None where that is not defined."""
        return None if self.chance is None else batch.images.new_full((len(batch),), self.chance, dtype=torch.float32)

    def _scored(self, model: VisionModel, batch: Batch, attribution: Attribution, method: Explain | None) -> Tensor | Traced:
        return self._scores(model, batch, attribution)

    @abstractmethod
    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor | Traced:
        """One score per image, (B,), or `Traced`; inside `model.studied()`, everything on the model's device."""


class Anew(Metric, ABC):
    """A metric that compares a map with maps of the same method for something else: other images, another model, another target."""

    @final
    def _scored(self, model: VisionModel, batch: Batch, attribution: Attribution, method: Explain | None) -> Tensor:
        if method is None:
            raise Unsupported(
                f"{self.brief()} explains again; allowed: the method itself beside its maps, metric(model, batch, maps, method)"
            )
        return self._compared(model, batch, attribution, method)

    @final
    def _scores(self, model: VisionModel, batch: Batch, attribution: Attribution) -> Tensor:
        return self._scored(model, batch, attribution, None)

    @abstractmethod
    def _compared(self, model: VisionModel, batch: Batch, attribution: Attribution, explain: Explain) -> Tensor:
        """One score per image, (B,), by calls of `explain`."""


def region_of(batch: Batch, name: str | None) -> Tensor:
    """The region called `name`, or the batch's first, (B, H, W) in [0, 1]; `BadInput` where there is none at all."""
    if not batch.regions:
        raise BadInput("region: got a batch without regions, allowed: images with masks or boxes")
    return batch.region(next(iter(batch.regions)) if name is None else name)


def metric(like: str | Metric) -> Metric:
    """A metric from its name, from its `repr`, or itself."""
    made: Metric = one_of(like, Metric, "deletion", "Deletion()")
    return made
