"""What metrics are put to their checks with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..attribution import Attribution
from ..batch import Batch, Kind, Targets
from ..methods import GradCAM, InputXGradient, Method
from ..metrics import Metric
from ..model.adapter import VisionModel
from .bench import Bench, Given, Size
from .networks import SIZE, adapted, made
from .suite import expect

SURE = 100.0  # times its usual weights a head says a class with a probability of more than 0.8


class MetricBench(Bench[Metric]):
    """A metric, and the scores that it gives to the maps of `by`, which it has something to say of."""

    rtol, atol, scaled, what = 1e-3, 1e-4, False, "scores"

    def __init__(self, subject: Metric) -> None:
        super().__init__(subject)
        # Faithfulness is also asked of what claims to add up.
        self.by: Method = InputXGradient() if subject.family == "faithfulness" else GradCAM()

    @property
    def asks(self) -> bool:
        """Whether it costs anything of the model's time."""
        return self.subject.cost != "nothing"

    def given(self, network: str = "cnn", rows: int = 2, *, size: Size = SIZE, kind: Kind = "logit") -> Given:
        """Noise with regions, what the model says of it, and maps of that."""
        return self.kept((network, rows, size, kind), lambda: self._given(network, rows, size, kind))  # type: ignore[no-any-return]

    def _given(self, network: str, rows: int, size: Size, kind: Kind) -> Given:
        images = torch.randn(rows, 3, *size, generator=torch.Generator().manual_seed(0))
        region = torch.zeros(rows, *size)
        for row in range(rows):
            region[row, 4 + row : 16 + row, size[1] // 4 + 2 * row : size[1] // 4 + 16 + 2 * row] = 1
        model = adapted(self.network(network), size=size)
        targets = Targets(model.logits(images).argmax(1), kind)
        batch = Batch(images, targets, tuple(f"image-{row}" for row in range(rows)), {"object": region, "other": 1 - region})
        return Given(batch, self.by(model, batch))

    def made(self, make: Callable[[], nn.Module]) -> nn.Module:
        """A new network that is sure of its answers: of others some metrics say nothing."""
        module = made(make, seed=1)
        with torch.no_grad():
            module.head.weight.mul_(SURE)  # type: ignore[operator, union-attr]
        return module

    def answer(self, model: VisionModel, given: Given) -> Tensor:
        """The scores."""
        if given.attribution is None:
            raise TypeError("a metric is given maps")
        return self.subject(model, given.batch, given.attribution, self.by)

    def check_values(self, answer: Tensor, rows: int) -> None:
        """Raise unless they are float32 scores, none infinite; NaN is what is not defined."""
        expect(tuple(answer.shape) == (rows,), f"scores ({rows},)", tuple(answer.shape))
        expect(answer.dtype == torch.float32 and not answer.requires_grad, "float32 scores without a graph", answer.dtype)
        expect(not answer.isinf().any(), "finite scores, or NaN where they are not defined", answer)

    @property
    def maps(self) -> Attribution:
        """The usual maps."""
        return maps_of(self.given())

    def scored(self, maps: Tensor, given: Given | None = None) -> Tensor:
        """The scores of other maps, as if `by` had made them."""
        given = given or self.given()
        other = dataclasses.replace(maps_of(given), maps=maps)
        return self.answer(adapted(self.network()), dataclasses.replace(given, attribution=other))

    def better(self, one: Tensor, other: Tensor) -> Tensor:
        """Where the first score is better than the second."""
        return one > other if self.subject.higher_is_better else one < other


def maps_of(given: Given) -> Attribution:
    """The maps in what a metric is given."""
    if given.attribution is None:
        raise TypeError("a metric is given maps")
    return given.attribution
