"""Captum's attributions through the same interface as all other methods."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ..attribution import Explained
from ..batch import Targets
from ..errors import BadInput, UnknownName, Unsupported
from ..model.answer import checked
from ..model.replica import Replica, leaf
from ..registry import AtLeast
from ..removals.fill import FILLS, fill
from ..segments import Segmenter, Squares
from .base import Method
from .foreign import Options, as_options, named, parameters, seeded, sorted_out, understood

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

# What is not for an option to say: the adapter does, or it is a function, or it prints.
_GIVEN = (
    *("inputs", "target", "additional_forward_args", "forward_func", "model", "layer", "device_ids", "attribution_method"),
    *("feature_mask", "layer_mask", "perm_func", "similarity_func", "perturb_func", "custom_attribution_func", "grad_kwargs"),
    *("show_progress", "verbose", "return_input_shape"),
)
_NOISY = 8  # noisy copies of an image at once
_FORWARDS_ALONE = ("Occlusion", "Ablation", "Permutation", "ShapleyValue", "Lime", "KernelShap", "LayerActivation")
_AT_A_LAYER = ("Layer", "Neuron", "GuidedGradCam", "InternalInfluence")
_OF_INPUT = ("attribute_to_layer_input", "attribute_to_neuron_input")
_MOST_REGIONS = 8  # whose orders ShapleyValues can go through: 8! are 40,320


@dataclasses.dataclass(frozen=True)
class Captum(Method):
    """Any attribution of Captum by the name of its class, with its own settings as `options`: `Captum("DeepLift", options={"eps": 1e-6})`.

    Options are those of the class and of its `attribute`, as a dict or as pairs. `layer` is for attributions at a layer, whose output
    they see as a grid (B, C, h, w), a transformer's as well; `neuron_selector` is then (channel, row, column), and what explains a
    neuron asks nothing of the target. A pixel's channels give their sum, largest absolute value or Euclidean norm. What works on features
    has one for each region of `segmenter`, or for each place of a layer; permutation shuffles the values inside a region. `baselines`
    is a number, a fill ("zero", "black", "blur", ...) or several fills; a distribution is by default ("zero", "black", "white").
    NoiseTunnel goes around the class that the option `attribution_method` names ("Saliency").

    What perturbs or draws random numbers goes image by image, each draw from `seed` and the image. DeepLift reports how far its map is
    from adding up (`convergence_delta`), as others do under the option `return_convergence_delta`; without that option, it refuses a
    model of whose operations it does not know all, where it does not add up.
    """

    name = "captum"
    paper = "Kokhlikyan et al.: Captum: A unified and generic model interpretability library for PyTorch, 2020 (arXiv:2009.07896)"
    cost = "that of the attribution it names; a forward and backward by default"

    method: str = "InputXGradient"
    layer: str | None = None
    options: Options = ()
    channels: Literal["sum", "max_abs", "norm"] = "sum"
    segmenter: Segmenter = Squares()
    seed: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", as_options(self.options, "Captum"))
        super().__post_init__()
        if self.method != type(self).method or self.options:  # a default needs no Captum to be listed
            _Call(self)
        if self.layer is not None and "spatial_layer" not in self.needs:
            raise BadInput(f"Captum(layer=...): got {self.layer!r}, allowed: None, since {self.method} looks at no layer")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # the base has it for the class; here it depends on the settings
        """What the named attribution asks of a model."""
        within = str(named(self.options).get("attribution_method", "Saliency")) if self.method == "NoiseTunnel" else self.method
        asks = "logits" if any(word in within for word in _FORWARDS_ALONE) else "gradients"
        return frozenset({asks, "spatial_layer"} if within.startswith(_AT_A_LAYER) else {asks})

    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Explained:
        images, targets = checked(images, targets)
        call = _Call(self)
        parts, step = [], 1 if call.alone else max(1, model.max_rows // call.rows)
        for start in range(0, len(images), step):
            some, asked = images[start : start + step], targets[slice(start, start + step)]
            work = functools.partial(self._part, model, call, some, asked)
            with understood("captum", self.method, model.name):
                parts.append(model.in_rows(work, len(some), grad="gradients" in self.needs))
        maps, *deltas = (torch.cat(column) for column in zip(*parts, strict=True))
        return Explained(maps, {"convergence_delta": deltas[0]} if deltas else {})

    def _part(self, model: VisionModel, call: _Call, images: Tensor, targets: Targets, rows: slice) -> tuple[Tensor, ...]:
        """Maps (b, h, w), and (b,) how far they are from adding up where that is known, of rows that fit into memory at once."""
        images, index = leaf(images[rows], model), targets.index[rows].to(model.device)
        layer = (self.layer or model.layer) if "spatial_layer" in self.needs else None
        size = (images.shape[-2], images.shape[-1])
        grids = (layer,) if layer is not None and not call.raw else ()
        replica = Replica(model, grids, kind=targets.kind, size=size, own_weights="LRP" in self.method)
        attribute = call.made(replica, layer)
        settings = call.settings(model, images, self)
        twice = 2 if "Permutation" in self.method else 1  # Captum leaves a single image as it is
        asked = images.repeat(twice, 1, 1, 1)
        with seeded(images, self.seed, pictures=model.pictures) if call.alone else contextlib.nullcontext():
            found = attribute(asked, additional_forward_args=(index.repeat(twice),), **settings)
        found, *deltas = found if settings.get("return_convergence_delta") else (found,)
        found = (found if isinstance(found, Tensor) else next(iter(found)))[: len(images)]
        if layer is not None and call.raw and "Neuron" not in self.method:
            found = replica.as_grid(layer, found, images)
        deltas = [delta.detach().view(len(images), -1).mean(1) for delta in deltas]
        self._check(call, model, found, deltas)
        return (_folded(found.detach().to(images.dtype), self.channels), *deltas)

    def _check(self, call: _Call, model: VisionModel, found: Tensor, deltas: list[Tensor]) -> None:
        """Refuse what Captum returns without a word although it is not what was asked for."""
        if found.ndim != 4 or not bool(torch.isfinite(found).all()):
            what = f"{tuple(found.shape)}" if found.ndim != 4 else "values that are not finite"
            raise Unsupported(f"captum's {self.method} gives {what} on {model.name}")
        if call.adds_up and bool((deltas[0].abs() > 1e-3 * found.abs().sum((1, 2, 3))).any()):
            raise Unsupported(
                f"captum's {self.method} does not add up to the score's difference on {model.name}, some of whose operations it"
                " does not know (functions such as F.relu, products, norms, attention, probabilities); allowed: the logit of a network"
                " whose activations are modules, or the option return_convergence_delta=True, which takes the map as it is"
            )


def _folded(found: Tensor, channels: str) -> Tensor:
    """(B, C, h, w) -> (B, h, w)."""
    if channels == "sum":
        return found.sum(1)
    return found.abs().amax(1) if channels == "max_abs" else found.norm(dim=1)


class _Call:
    """Which class of Captum is meant, how it is made and what it is told, found before there is a model."""

    def __init__(self, settings: Captum) -> None:
        options, self.name = named(settings.options), settings.method
        self.outer = _named(self.name)
        tunnel = "attribution_method" in inspect.signature(self.outer).parameters
        self.inner = _named(str(options.pop("attribution_method", "Saliency"))) if tunnel else self.outer
        making, self.known = parameters(self.inner.__init__, _GIVEN), parameters(self.inner.attribute, _GIVEN)
        if tunnel:
            self.known = {**self.known, **parameters(self.outer.attribute, _GIVEN)}
        self.making, self.asked = sorted_out(options, self.name, making, self.known)
        self.takes = inspect.signature(self.inner.attribute).parameters
        self.raw = "LRP" in self.name or any(self.asked.get(name) for name in _OF_INPUT)
        told = {"return_convergence_delta", "multiply_by_inputs"}
        self.adds_up = "DeepLift" in self.name and told <= {*making, *self.known} and not told & {*options}
        # Rows of an image that run together: it and its baseline, or two steps between which differences are taken.
        self.rows = 2 if any(word in self.name for word in ("DeepLift", "Conductance")) else 1
        self.alone = tunnel or "stdevs" in self.known or self._is_distribution or self._perturbs
        if "neuron_selector" in self.known and "neuron_selector" not in self.asked:
            raise BadInput(f"Captum: {self.name} needs the option neuron_selector, allowed: (channel, row, column) of the layer's grid")
        if "baselines" in self.asked:
            self._check_fills(self.asked["baselines"])

    @property
    def _is_distribution(self) -> bool:
        return "baselines" in self.known and self.known["baselines"].default is inspect.Parameter.empty

    @property
    def _perturbs(self) -> bool:
        from captum.attr import PerturbationAttribution

        return issubclass(self.inner, PerturbationAttribution)

    def _check_fills(self, baselines: Any) -> None:
        for each in baselines if isinstance(baselines, tuple) else (baselines,):
            if isinstance(each, str) and each not in FILLS:
                raise UnknownName("fill", each, FILLS)

    def made(self, replica: Replica, layer: str | None) -> Callable[..., Any]:
        """The attribution of a replica as a function of images."""
        making = dict(self.making)
        if "interpretable_model" in making:
            making["interpretable_model"] = _interpretable(making["interpretable_model"])
        if "perm_func" in inspect.signature(self.inner).parameters:
            making["perm_func"] = _shuffled
        self._refuse(replica, layer)
        where = () if layer is None else (replica.layer(layer) if self.raw else replica.grids[0],)
        found = _permuting(self.inner)(replica, *where, **making)
        if self.inner is not self.outer:
            found = self.outer(found)
        attribute: Callable[..., Any] = found.attribute
        return attribute

    def _refuse(self, replica: Replica, layer: str | None) -> None:
        """What Captum does in silence with a model that it cannot treat, or refuses in words that say little."""
        name, model = self.inner.__name__, replica.twin.name
        if any(word in name for word in ("Guided", "Deconvolution")) and not any(isinstance(each, nn.ReLU) for each in replica.modules()):
            raise Unsupported(f"captum's {self.name} changes modules of torch.nn.ReLU, and {model} has none")
        if "LRP" in name:
            leaves = [each for _, each in replica.inner.named_modules(remove_duplicate=False) if next(each.children(), None) is None]
            twice = next((each for each in leaves if sum(each is other for other in leaves) > 1), None)
            if twice is not None:
                raise Unsupported(f"captum's {self.name} needs a module for each operation, and {model} uses {twice} under several names")
        if name == "LayerLRP" and next(replica.layer(str(layer)).children(), None) is not None:
            raise Unsupported(f"captum's LayerLRP looks at single operations, and layer {layer!r} of {model} holds several")

    def settings(self, model: VisionModel, images: Tensor, settings: Captum) -> dict[str, Any]:
        """What `attribute` is told beside the images (b, 3, H, W): the options, and what stands where there is none."""
        height, width = images.shape[-2:]
        found: dict[str, Any] = {}
        if "perturbations_per_eval" in self.known:
            found["perturbations_per_eval"] = model.max_rows if "Permutation" not in self.name else max(1, model.max_rows // 2)
        if "internal_batch_size" in self.known:
            found["internal_batch_size"] = max(model.max_rows, self.rows * len(images))
        if "nt_samples_batch_size" in self.known:
            found["nt_samples_batch_size"] = _NOISY  # and not `max_rows`, with which the order of the draws would change
        if "sliding_window_shapes" in self.known:
            found["sliding_window_shapes"] = (images.shape[1], min(16, height), min(16, width))
            if "sliding_window_shapes" not in self.asked:
                found["strides"] = (images.shape[1], min(8, height), min(8, width))
        if "feature_mask" in self.takes:
            found["feature_mask"] = self._features(model, images, settings)
        if "layer_mask" in self.takes and not self.raw:
            grid = model.activations(images, settings.layer).shape[2:]
            found["layer_mask"] = torch.arange(grid.numel(), device=images.device).view(1, 1, *grid)
        if self.adds_up:
            found["return_convergence_delta"] = True
        if self._is_distribution and self.inner is not self.outer:
            found["draw_baseline_from_distrib"] = True
        return {**found, **self.asked, **self._baselines(model, images, settings.seed)}

    def _features(self, model: VisionModel, images: Tensor, settings: Captum) -> Tensor:
        """The number of each pixel's region, from 0 and without gaps, (1, 1, H, W)."""
        labels = settings.segmenter(model.preprocessing.pixels(images))
        if labels.shape[1] != 1:
            raise Unsupported(f"{settings.segmenter!r} divides an image {labels.shape[1]} times; allowed: one that does so once")
        values, mask = torch.unique(labels, return_inverse=True)
        if self.name == "ShapleyValues" and len(values) > _MOST_REGIONS:
            raise Unsupported(
                f"captum's ShapleyValues goes through every order of the regions, {len(values)} here; allowed: at most {_MOST_REGIONS}"
                " (segmenter=Squares(side=...)), or ShapleyValueSampling"
            )
        numbers: Tensor = mask.reshape(labels.shape)
        return numbers

    def _baselines(self, model: VisionModel, images: Tensor, seed: int) -> dict[str, Any]:
        given = self.asked.get("baselines")
        if given is None and self._is_distribution:
            given = ("zero", "black", "white")
        if isinstance(given, str):
            return {"baselines": fill(given, model, images, seed=seed)}  # type: ignore[arg-type]  # checked when made
        if isinstance(given, tuple):
            return {"baselines": torch.cat([fill(each, model, images, seed=seed) for each in given])}
        return {} if given is None else {"baselines": given}


@functools.cache
def attributions() -> dict[str, type[Any]]:
    """The classes of the installed Captum that attribute a model's score to an image, by name."""
    import captum.attr as library

    asked_of = {"forward_func", "model", "layer", "attribution_method"}
    found = {}
    for name in library.__all__:
        cls = getattr(library, name)
        if inspect.isclass(cls) and issubclass(cls, library.Attribution) and hasattr(cls, "attribute"):
            needed = {key for key, each in parameters(cls.__init__, ()).items() if each.default is inspect.Parameter.empty}
            if needed <= asked_of and "inputs" in inspect.signature(cls.attribute).parameters:
                found[name] = cls
    return found


def _named(name: str) -> type[Any]:
    if name not in attributions():
        raise UnknownName("attribution of Captum", name, attributions())
    return attributions()[name]


def _interpretable(given: Any) -> Any:
    """A linear model of Captum by its name, or by its name and its `alpha`: what Lime fits."""
    from captum._utils.models import linear_model as library

    name, *alpha = given if isinstance(given, tuple) else (given,)
    known = {each: cls for each, cls in vars(library).items() if each.startswith("SkLearn") and each != "SkLearnLinearModel"}
    if name not in known:
        raise UnknownName("linear model of Captum", name, known)
    return known[name](**dict(zip(("alpha",), alpha, strict=False)))


def _shuffled(inputs: Tensor, mask: Tensor) -> Tensor:
    """Inputs with the values inside the mask in another order: Captum's own way takes them from other images of the batch."""
    inside = mask.expand_as(inputs[:1]).flatten().nonzero().squeeze(1)
    order = inside[torch.randperm(len(inside)).to(inside.device)]
    flat = inputs.flatten(1).clone()
    flat[:, inside] = flat[:, order]
    return flat.view(inputs.shape)


def _permuting(cls: type[Any]) -> Any:
    """The class; one that makes a FeaturePermutation by itself, so that it shuffles as that does here."""
    from captum.attr import FeaturePermutation, LayerFeaturePermutation

    if cls is not LayerFeaturePermutation:
        return cls
    return type(cls.__name__, (cls,), {"attributor": property(lambda _: functools.partial(FeaturePermutation, perm_func=_shuffled))})
