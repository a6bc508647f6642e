"""pytorch-grad-cam's methods through the same interface as all other methods."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import torch.nn.attention
from torch import Tensor

from ..batch import Targets
from ..errors import BadInput, UnknownName, Unsupported
from ..model.answer import checked
from ..model.replica import Replica
from ..registry import AtLeast
from .base import Method
from .foreign import Options, as_options, named, parameters, seeded, sorted_out, understood

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

_GIVEN = (
    *("model", "target_layers", "reshape_transform", "ablation_layer", "compute_input_gradient", "uses_gradients", "tta_transforms"),
    *("detach", "input_tensor", "targets", "target_idx", "base_method"),
)
_FORWARDS_ALONE = frozenset({"AblationCAM", "EigenCAM", "FEM", "KPCA_CAM", "ScoreCAM"})
# Those whose code treats each image of a batch by itself and draws nothing.
_TOGETHER = frozenset(
    (
        *("GradCAM", "HiResCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM", "GradCAMElementWise", "ShapleyCAM", "FullGrad"),
        *("EigenCAM", "EigenGradCAM", "SegEigenCAM", "FEM"),
    )
)


@dataclasses.dataclass(frozen=True)
class PytorchGradCAM(Method):
    """Any map of pytorch-grad-cam by the name of its class, with its own settings as `options`: `PytorchGradCAM("FinerCAM")`.

    Options are those of the class and of its call, as a dict or as pairs; `target_layers` names several layers instead of `layer`, and
    `base_method` the class that RefineCAM, SESS and FinerCAM go around. Layers are seen as grids (B, C, h, w), a transformer's as well.
    Maps are as the library makes them: (B, H, W), at least zero, stretched to [0, 1] image by image, computed by NumPy in float32 on
    the host. What draws random numbers, or has not been seen to keep images apart, goes image by image, each draw from `seed` and the
    image. AblationCAM runs `batch_size` rows at once, on which its maps depend.
    """

    name = "pytorch_grad_cam"
    paper = "Gildenblat and contributors: PyTorch library for CAM methods, 2021 (github.com/jacobgil/pytorch-grad-cam)"
    cost = "that of the map it names; a forward and backward by default"
    signed = False

    method: str = "GradCAMElementWise"
    layer: str | None = None
    options: Options = ()
    seed: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", as_options(self.options, "PytorchGradCAM"))
        super().__post_init__()
        if self.method != type(self).method or self.options:  # a default needs no library to be listed
            self._call()
        if self.layer is not None and "spatial_layer" not in self.needs:
            raise BadInput(f"PytorchGradCAM(layer=...): got {self.layer!r}, allowed: None, since {self.method} looks at every layer")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # the base has it for the class; here it depends on the settings
        """What the named map asks of a model."""
        if self.method == "FullGrad":
            return frozenset({"gradients"})
        return frozenset({"logits" if self.method in _FORWARDS_ALONE else "gradients", "spatial_layer"})

    def _call(self) -> tuple[type[Any], dict[str, Any], dict[str, Any], tuple[str, ...]]:
        """The class, the options of its making and of its call, and the layers that an option names."""
        options = named(self.options)
        cls = _named(self.method)
        layers = options.pop("target_layers", ())
        layers = (layers,) if isinstance(layers, str) else layers
        if not isinstance(layers, tuple) or not all(isinstance(each, str) for each in layers) or (layers and self.layer is not None):
            raise BadInput(f"PytorchGradCAM(options=...): got target_layers={layers!r}, allowed: names of layers, and then no layer=...")
        base = {"base_method": _named(str(options.pop("base_method")))} if "base_method" in options else {}
        if base and "base_method" not in inspect.signature(cls).parameters:
            raise UnknownName(f"option of {self.method}", "base_method", parameters(cls, _GIVEN))
        passes_on = any(each.kind is each.VAR_KEYWORD for each in inspect.signature(cls.__call__).parameters.values())
        asking = cls.forward if passes_on else cls.__call__
        made, asked = sorted_out(options, self.method, parameters(cls, _GIVEN), parameters(asking, _GIVEN))
        return cls, {**made, **base}, asked, layers

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor:
        images, targets = checked(images, targets)
        if next(model.module.parameters(), None) is None:
            raise Unsupported(f"pytorch-grad-cam asks a model's weights where it is, and {model.name} has none")
        step = model.max_rows if self.method in _TOGETHER else 1
        parts, grad = [], "gradients" in self.needs
        for start in range(0, len(images), step):
            some, asked = images[start : start + step], targets[slice(start, start + step)]
            with understood("pytorch_grad_cam", self.method, model.name):
                parts.append(model.in_rows(functools.partial(self._part, model, some, asked), len(some), grad=grad)[0])
        return torch.cat(parts)

    def _part(self, model: VisionModel, images: Tensor, targets: Targets, rows: slice) -> tuple[Tensor]:
        """Maps (b, H, W) of rows that fit into memory at once."""
        cls, made, asked, layers = self._call()
        if "spatial_layer" in self.needs:
            layers = layers or (self.layer or model.layer,)
        images, targets = images[rows].to(model.device, copy=True), targets[rows]
        replica = Replica(model, layers, size=(images.shape[-2], images.shape[-1]))
        with _quiet(self.method), seeded(images[:1], self.seed, pictures=model.pictures):
            if "ablation_layer" in inspect.signature(cls).parameters:
                from pytorch_grad_cam.ablation_layer import AblationLayer

                made["ablation_layer"] = AblationLayer()  # the default is one object for all, which keeps what it last saw
            cam = cls(replica, list(replica.grids) if layers else [], **made)
            if self.method == "ScoreCAM":
                cam.batch_size = model.max_rows
            maps = cam(images, **_asked(self.method, targets, replica, images), **asked)
        found = torch.from_numpy(np.ascontiguousarray(maps)).to(images.device, images.dtype)
        if found.ndim != 3 or not bool(torch.isfinite(found).all()):
            what = f"{tuple(found.shape)}" if found.ndim != 3 else "values that are not finite"
            raise Unsupported(f"pytorch-grad-cam's {self.method} gives {what} on {model.name}")
        return (found,)


@contextlib.contextmanager
def _quiet(method: str) -> Iterator[None]:
    """Progress bars, remarks and divisions by zero, one for every image otherwise, are not heard; what comes of the last is looked at."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(np.errstate(all="ignore"))
        if method == "ShapleyCAM":  # differentiates twice, as fused attention cannot
            stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        yield


def _asked(method: str, targets: Targets, replica: Replica, images: Tensor) -> dict[str, Any]:
    """What is explained, as the library is told: a function of each image's logits; FinerCAM compares classes by itself."""
    if method != "FinerCAM":
        return {"targets": [_explained(targets[slice(i, i + 1)]) for i in range(len(targets))]}
    if targets.kind != "logit" or replica(images).shape[1] < 2:
        got = "one logit" if targets.kind == "logit" else f"the target kind {targets.kind!r}"
        raise Unsupported(f"pytorch-grad-cam's FinerCAM compares the logits of classes; got {got}, allowed: 'logit' of two or more")
    return {"targets": None, "target_idx": int(targets.index[0])}


def _explained(target: Targets) -> Callable[[Tensor], Tensor]:
    def scalar(logits: Tensor) -> Tensor:
        rows = logits if logits.ndim == 2 else logits.unsqueeze(0)
        scores = Targets(target.index.expand(len(rows)), target.kind).of(rows)
        return scores if logits.ndim == 2 else scores[0]

    return scalar


@functools.cache
def maps() -> dict[str, type[Any]]:
    """The classes of the installed pytorch-grad-cam that make maps from layers, by name."""
    import pytorch_grad_cam as library

    classes = {name: each for name, each in vars(library).items() if inspect.isclass(each)}
    return {
        name: each for name, each in classes.items() if "target_layers" in inspect.signature(each).parameters and hasattr(each, "forward")
    }


def _named(name: str) -> type[Any]:
    if name not in maps():
        raise UnknownName("map of pytorch-grad-cam", name, maps())
    return maps()[name]
