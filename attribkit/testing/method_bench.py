"""What methods are put to their checks with."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch import Batch, Kind, Targets
from ..methods import Method
from ..model.adapter import VisionModel
from .bench import Bench, Given, Size
from .networks import SIZE
from .suite import expect


class MethodBench(Bench[Method]):
    """A method, and its maps."""

    rtol, atol, what = 1e-4, 1e-5, "maps"

    @property
    def asks(self) -> bool:
        """Whether it needs anything of the model."""
        return bool(self.subject.needs)

    def given(self, network: str = "cnn", rows: int = 3, *, size: Size = SIZE, kind: Kind = "logit") -> Given:
        """Noise, the same each time."""
        return self.kept((network == "one logit", rows, size, kind), lambda: self._given(network, rows, size, kind))  # type: ignore[no-any-return]

    def _given(self, network: str, rows: int, size: Size, kind: Kind) -> Given:
        images = torch.randn(rows, 3, *size, generator=torch.Generator().manual_seed(0))
        index = torch.arange(rows) % (1 if network == "one logit" else 5)
        return Given(Batch(images, Targets(index, kind), tuple(f"image-{row}" for row in range(rows))))

    def answer(self, model: VisionModel, given: Given) -> Tensor:
        """The maps."""
        return self.subject(model, given.batch).maps

    def check_values(self, answer: Tensor, rows: int) -> None:
        """Raise unless they are finite float32 maps."""
        expect(answer.ndim == 3 and len(answer) == rows, f"maps ({rows}, h, w)", tuple(answer.shape))
        expect(answer.dtype == torch.float32 and not answer.requires_grad, "float32 maps without a graph", answer.dtype)
        expect(answer.isfinite().all(), "finite values", f"{int((~answer.isfinite()).sum())} that are NaN or infinite")
