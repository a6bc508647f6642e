"""What removals are put to their checks with."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch import Batch, Kind, Targets
from ..maps import resize
from ..model.adapter import VisionModel
from ..removals import InFill, Removal
from .bench import Bench, Given, Size
from .networks import SIZE, adapted
from .suite import expect


class RemovalBench(Bench[Removal]):
    """A removal, and the logits that it gives."""

    rtol, atol, what = 1e-4, 1e-5, "logits"
    asks = True

    def given(self, network: str = "cnn", rows: int = 3, *, size: Size = SIZE, kind: Kind = "logit") -> Given:
        """Smooth pictures, whose means, blurs and pixels differ, and for each other blocks of 4 x 4 that are kept."""
        return self.kept((rows, size), lambda: pictures(rows, size))  # type: ignore[no-any-return]

    def answer(self, model: VisionModel, given: Given) -> Tensor:
        """The logits without what is not kept."""
        return self.subject(model, given.batch.images, given.batch.region("object"))

    def check_values(self, answer: Tensor, rows: int) -> None:
        """Raise unless they are finite float32 logits."""
        expect(answer.ndim == 2 and len(answer) == rows, f"logits ({rows}, K)", tuple(answer.shape))
        expect(answer.dtype == torch.float32 and not answer.requires_grad, "float32 logits without a graph", answer.dtype)
        expect(answer.isfinite().all(), "finite logits", f"{int((~answer.isfinite()).sum())} that are NaN or infinite")

    def asked(self, keep: Tensor, images: Tensor | None = None, network: str = "cnn") -> Tensor:
        """The logits of a new network without what is not in `keep`."""
        return self.subject(adapted(self.network(network)), self.images if images is None else images, keep)

    @property
    def images(self) -> Tensor:
        """The usual pictures."""
        return self.given().batch.images

    @property
    def keep(self) -> Tensor:
        """What is usually kept of them, as booleans."""
        return self.given().batch.region("object") > 0

    @property
    def infill(self) -> InFill:
        """The removal, where `fills_nothing` has nothing against it."""
        if not isinstance(self.subject, InFill):
            raise TypeError(f"{self.subject!r} is no InFill")
        return self.subject


def pictures(rows: int, size: Size, seed: int = 0) -> Given:
    """Smooth normalised images, and for each other blocks of 4 x 4 that are kept, at least one and not all."""
    generator = torch.Generator().manual_seed(seed)
    smooth = resize(torch.rand(3 * rows, 5, 5, generator=generator), size).view(rows, 3, *size)
    images = 2 * (smooth + 0.1 * torch.rand(rows, 3, *size, generator=generator)) - 1.1
    blocks = torch.rand(rows, -(-size[0] // 4), -(-size[1] // 4), generator=torch.Generator().manual_seed(seed)) < 0.6
    blocks[:, 0, 0], blocks[:, -1, -1] = True, False
    keep = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : size[0], : size[1]].float()
    index = torch.zeros(rows, dtype=torch.int64)
    return Given(Batch(images, Targets(index), tuple(f"image-{row}" for row in range(rows)), {"object": keep}))
