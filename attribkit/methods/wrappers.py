"""Methods around another method: with noise on the images, at a layer, or with its map blurred."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from ..attribution import Explained
from ..batch import Targets, turns
from ..errors import BadInput
from ..maps import smooth
from ..model.levels import is_input, place
from ..noise import keys, normal
from ..registry import AtLeast
from .base import Method, Wrapper
from .gradient import Gradient
from .integrated_gradients import IntegratedGradients

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


@dataclasses.dataclass(frozen=True)
class Smooth(Wrapper):
    """Another method's maps of noisy copies of the image, put together: their mean, the mean of their squares, or their variance.

    `samples` copies with Gaussian noise, whose standard deviation is the share `noise` of the range of the image's values, drawn from its
    content and `seed`; of activations, whose last bits differ from batch to batch, from `seed` alone. "squared" and "variance" are taken
    of each value of the map, after its channels were summed; both have no sign.
    """

    name = "smooth"
    paper = (
        "Smilkov et al.: SmoothGrad, 2017 (arXiv:1706.03825); squared: Hooker et al., NeurIPS 2019 (arXiv:1806.10758); "
        "variance: Adebayo et al., 2018 (arXiv:1810.03307)"
    )
    cost = "samples x its method's"

    method: Method = Gradient()
    samples: Annotated[int, AtLeast(1)] = 25
    noise: Annotated[float, AtLeast(0)] = 0.15
    kind: Literal["mean", "squared", "variance"] = "mean"
    seed: Annotated[int, AtLeast(0)] = 0

    @property
    def signed(self) -> bool:  # type: ignore[override]  # as in `Wrapper`
        """Only a mean has the signs of what it is the mean of."""
        return self.kind == "mean" and self.method.signed

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        count, key = len(images), keys(images, self.seed, pictures=model.pictures)
        mean = scatter = images.new_zeros(())

        def work(rows: slice) -> Tensor:
            pairs = torch.arange(rows.start, rows.stop, device=images.device)
            which, sample = pairs % count, pairs // count
            found = self.method.explained(model, self._noisy(images[which], key[which] + sample), targets[which]).maps
            return found.square() if self.kind == "squared" else found

        def take(rows: slice, found: Tensor) -> None:
            nonlocal mean, scatter
            if not rows.start:
                mean, scatter = (found.new_zeros(count, *found.shape[1:]) for _ in range(2))
            for number, one, row in turns(rows, count):
                step = found[row] - mean[one]
                mean[one] += step / (number + 1)  # Welford's way: what does not vary has a variance of exactly 0
                scatter[one] += step * (found[row] - mean[one])

        model.each_rows(work, count * self.samples, take)
        return scatter / self.samples if self.kind == "variance" else mean

    def _noisy(self, images: Tensor, key: Tensor) -> Tensor:
        """The images (R, C, H, W), each under the draw that belongs to its key."""
        draw = normal(key, images[0].numel()).view_as(images).to(images)
        spread = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
        return images + self.noise * spread * draw


@dataclasses.dataclass(frozen=True)
class AtLayer(Wrapper):
    """Another method, applied to a layer's activations as if they were the image; its map has the layer's resolution.

    `layer` must be one that nothing bypasses (by default `model.cut`): what comes after it is then a model of its own, `model.at(layer)`.
    The words "middle" and "final" mean `model.middle` and `model.cut`, and at the "input" this is the method itself.
    Tokens of a transformer come as their grid; those before the patches take part but are not in the map. Of what the method reports,
    one number for each image is kept, such as a convergence delta.
    """

    name = "at_layer"
    paper = "Rao, Böhle, Schiele: Towards Better Understanding Attribution Methods, CVPR 2022 (arXiv:2205.10435)"
    cost = "a forward, and its method's on the rest of the model"

    method: Method = IntegratedGradients()
    layer: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if "spatial_layer" in self.method.needs:
            raise BadInput(
                f"AtLayer(method=...): got {self.method.brief()}, which looks at a layer itself, allowed: a method that explains the input"
            )

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # as in `Wrapper`
        """What the inner method asks, and a layer to ask it at."""
        return self.method.needs | {"spatial_layer", "cut"}

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Explained:
        if is_input(model, self.layer):
            return self.method.explained(model, images, targets)
        layer = place(model, self.layer, cut=True)
        rest = model.at(layer, (images.shape[-2], images.shape[-1]))
        names: list[str] = []

        def work(rows: slice) -> tuple[Tensor, ...]:
            activations = model.activations(images[rows], layer, whole=True)
            with rest.studied():
                maps, extras = self.method.explained(rest, activations, targets[rows])
            names[:] = [name for name, extra in extras.items() if extra.ndim == 1]
            return rest.over_image(maps), *(extras[name] for name in names)

        maps, *numbers = model.in_rows(work, len(images))
        return Explained(maps, dict(zip(names, numbers, strict=True)))


@dataclasses.dataclass(frozen=True)
class GaussianSmooth(Wrapper):
    """Another method's signed map under a Gaussian window of `kernel` x `kernel` of its pixels, an odd number; zero beyond the border.

    The standard deviation is a quarter of `kernel`. What the method reports beside its map is passed on.
    """

    name = "gaussian_smooth"
    paper = "Rao, Böhle, Schiele: Better Understanding Differences in Attribution Methods, TPAMI 2024 (arXiv:2303.11884)"
    cost = "its method's"

    method: Method = IntegratedGradients()
    kernel: Annotated[int, AtLeast(1)] = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise BadInput(f"GaussianSmooth(kernel=...): got {self.kernel}, allowed: an odd number of at least 1")

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Explained:
        maps, extras = self.method.explained(model, images, targets)
        return Explained(smooth(maps, self.kernel), extras)
