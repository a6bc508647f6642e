"""`VisionModel`: what methods may ask of a model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ..batch import Batch, Targets
from ..errors import BadInput, UnknownName, Unsupported
from ..images import Preprocessing
from . import families, levels
from .answer import checked, class_index, logits_in
from .lent import Lent, Rows, T
from .memory import ChannelsLastRefused, full_precision, unless_out_of_memory
from .taps import tapped
from .tokens import Layout, layout

if TYPE_CHECKING:
    from ..methods.base import Method
    from .rest import Rest

Three = float | Sequence[float]
Precision = Literal["float32", "bfloat16", "bf16"]
Combine = Callable[[Tensor, Tensor], Tensor]


class VisionModel(Lent):
    """A classifier and what is known about it: any `nn.Module` of `(B, 3, H, W) -> (B, K)` logits.

    `module` stays the caller's own object and comes back from every call exactly as it was: training flags, `requires_grad`, `.grad`,
    hooks. Images are normalised ones, (B, 3, H, W), moved to the model's device and dtype. Answers and gradients of half-precision
    models are float32.
    """

    channels = 3  # of its images
    pictures = True  # are its images, and not activations

    def __init__(  # noqa: PLR0913 - the facts about a model, all by name
        self,
        module: nn.Module,
        *,
        mean: Three | None = None,
        std: Three | None = None,
        size: int | tuple[int, int] = 224,
        classes: Sequence[str] | None = None,
        layer: str | None = None,
        preprocessing: Preprocessing | None = None,
        max_rows: int | None = None,
        precision: Precision = "float32",
        name: str | None = None,
    ) -> None:
        """Wrap `module`.

        `mean` and `std` (three numbers each, for pixels in [0, 1]) and `size` are how it wants its images, or `preprocessing` says it
        all; `layer` names the layer that CAM methods look at (found by itself otherwise); `max_rows` bounds how many images run at
        once; `precision` "bfloat16" ("bf16") runs it under autocast, which is faster and changes the maps.
        """
        if not isinstance(module, nn.Module):
            raise BadInput(f"VisionModel: got {type(module).__name__}, allowed: a torch.nn.Module")
        if preprocessing is None:
            if mean is None or std is None:
                raise BadInput("VisionModel: got no mean and std, allowed: mean=(r, g, b) and std=(r, g, b), as the model was trained with")
            preprocessing = Preprocessing(mean, std, size)
        precision = "bfloat16" if precision == "bf16" else precision
        if precision not in ("float32", "bfloat16"):
            raise UnknownName("precision", precision, ("float32", "bfloat16", "bf16"))
        if max_rows is not None and (not isinstance(max_rows, int) or max_rows < 1):
            raise BadInput(f"VisionModel(max_rows=...): got {max_rows!r}, allowed: a whole number of at least 1")
        if isinstance(classes, str):
            raise BadInput(f"VisionModel(classes=...): got {classes!r}, allowed: one name for each class")
        if any(nn.parameter.is_lazy(weight) for weight in (*module.parameters(), *module.buffers())):
            raise BadInput("VisionModel: got a module with lazy weights that are not there yet, allowed: one that has run once")
        super().__init__(module, name or type(module).__name__, max_rows)
        self.preprocessing = preprocessing
        self.classes: tuple[str, ...] = () if classes is None else tuple(str(each) for each in classes)
        self.precision = precision
        self.weights = "its own"
        self._layer = layer
        self._rests: dict[tuple[str, tuple[int, int]], Rest] = {}
        if layer is not None:
            if levels.is_word(self, layer):
                raise BadInput(f"VisionModel(layer=...): got {layer!r}, which is for methods to say, allowed: a name of a layer")
            self._find(layer)

    def __repr__(self) -> str:
        return f"<VisionModel {self.name}: {self.preprocessing}>"

    # What is known -----------------------------------------------------------------------------------------------------------

    @property
    def mean(self) -> tuple[float, float, float]:
        """The mean that was subtracted from each channel of pixels in [0, 1]."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """The number that each channel was divided by."""
        return self.preprocessing.std

    @property
    def size(self) -> tuple[int, int]:
        """The (H, W) that images are cropped to."""
        return self.preprocessing.size

    @property
    def layer(self) -> str:
        """The layer that CAM methods look at: the one given, or the last spatial one whose gradient is alive."""
        if self._layer is None:
            self._layer = families.cam_layer(self)
        return self._layer

    @functools.cached_property
    def cut(self) -> str:
        """The layer where `at` cuts the model in two, if none is named: `layer`, or the last one before it that nothing bypasses."""
        from .rest import last_cut

        return last_cut(self)

    @functools.cached_property
    def middle(self) -> str:
        """The layer that the word "middle" means: where the grid is about an eighth of the image, and nothing bypasses it."""
        return levels.middle(self)

    @property
    def layers(self) -> dict[str, tuple[int, int, int]]:
        """The spatial layers by name, in the order they run, with the (channels, height, width) of their grid."""
        return {seen.name: seen.grid for seen in families.survey(self)}

    def target(self, like: int | str) -> int:
        """The index of a class given by its name (in any case, where that is clear) or its index."""
        return class_index(like, self.classes)

    def require(self, needs: frozenset[str], *, by: Method) -> None:
        """Raise `Unsupported`, before any work, if the model lacks something that a method needs."""
        unknown = needs - {"logits", "gradients", "spatial_layer", "cut"}
        if unknown:
            raise Unsupported(f"{by!r} needs {', '.join(sorted(unknown))}; {self.name} offers logits, gradients, spatial_layer and cut")
        if "spatial_layer" in needs:
            try:
                levels.place(self, getattr(by, "layer", None), cut="cut" in needs)
            except Unsupported as error:
                raise Unsupported(f"{by!r} needs a spatial layer: {error}") from error

    def facts(self, method: Method) -> dict[str, str]:
        """What beside a method's settings decides its maps, in words: to be kept with them."""
        layer = {}
        if "spatial_layer" in method.needs:
            layer["layer"] = levels.described(self, getattr(method, "layer", None), cut="cut" in method.needs)
        return {
            "weights": self.weights,
            "preprocessing": str(self.preprocessing),
            "precision": self.precision,
            "device": self.device.type,
            **layer,
        }

    def fit(self, batch: Batch) -> Batch:
        """The batch on the model's device; an empty one raises."""
        if not len(batch):
            raise BadInput("batch: got no images, allowed: at least one")
        batch.check_finite()
        images = full_precision(batch.images.detach()).to(self.device)
        if batch.targets.index.device.type == "cpu" and (self.classes or batch.logits is not None):
            batch.targets.check(len(self.classes) or batch.logits.shape[1])  # type: ignore[union-attr]  # one of the two is there
        targets = batch.targets if batch.targets.index.device == images.device else batch.targets.to(images.device)
        logits = None if batch.logits is None else batch.logits.to(images.device)
        return dataclasses.replace(batch, images=images, targets=targets, logits=logits)

    # What may be asked -------------------------------------------------------------------------------------------------------

    def own(self, images: Tensor) -> Tensor:
        """The part of images or masks (B, C, H, W) that the answer is about: all of them; of grids, for a head, its cell."""
        return images

    def logits(self, images: Tensor) -> Tensor:
        """The model's answer; (B, 3, H, W) -> (B, K)."""
        images, _ = checked(images)
        return self.in_rows(lambda rows: (full_precision(self.answer(images[rows])),), len(images))[0]

    def score(self, images: Tensor, targets: Targets) -> Tensor:
        """The explained scalar; (B, 3, H, W) -> (B,)."""
        return targets.of(self.logits(images))

    def gradient(self, images: Tensor, targets: Targets) -> Tensor:
        """How the target's score reacts to each input value, d score / d images, (B, 3, H, W); no weight is differentiated."""
        images, targets = checked(images, targets)

        def work(rows: slice) -> tuple[Tensor]:
            leaf = images[rows].to(self.device, self._dtype(images), copy=True).requires_grad_()
            score = targets[rows].of(full_precision(self.answer(leaf)))
            return (full_precision(self._derivative(score, leaf, f"the images of {self.name}")),)

        return self.in_rows(work, len(images), grad=True)[0]

    def at(self, layer: str, size: tuple[int, int] | None = None) -> Rest:
        """The rest of the model from that layer on, for images of `size` (H, W): its "images" are activations.

        They are what `activations(images, layer, whole=True)` gives. `Unsupported` where something bypasses the layer.
        """
        from .rest import rest_of

        return rest_of(self, levels.place(self, layer), self.size if size is None else size, self._rests)

    def activations(self, images: Tensor, layer: str | None = None, *, whole: bool = False) -> Tensor:
        """What a layer returns, as a grid (B, C, h, w), by default at `layer`; `whole`: and a class token and the like, below it.

        A layer is a name, or "input", "middle" or "final": the images themselves, `middle` and `cut`.
        """
        images, _ = checked(images)
        name = levels.place(self, layer)

        def work(rows: slice) -> tuple[Tensor]:
            found, _ = self._tapped(images[rows], name)
            return (full_precision(self._layout(name, found, images[rows]).to_grid(found, whole=whole)),)

        return self.in_rows(work, len(images))[0]

    def activation_gradient(self, images: Tensor, targets: Targets, layer: str | None = None) -> tuple[Tensor, Tensor]:
        """What a layer returns and how the target's score reacts to it, both (B, C, h, w); by one forward, and a backward to the layer."""
        return self._at_layer(images, targets, layer, lambda activations, gradients: (activations, gradients))

    def activation_map(
        self, images: Tensor, targets: Targets, combine: Combine, layer: str | None = None, *, local: bool = False
    ) -> Tensor:
        """As `activation_gradient`, but only what `combine` makes of the two, (b, C, h, w) each -> (b, h, w), is kept of each row.

        `local` says that `combine` gives 0 wherever the gradient is 0, so that nobody need know the activations there.
        """
        return self._at_layer(images, targets, layer, lambda activations, gradients: (combine(activations, gradients),), local=local)[0]

    def _at_layer(
        self, images: Tensor, targets: Targets, layer: str | None, combine: Callable[[Tensor, Tensor], Rows], *, local: bool = False
    ) -> Rows:
        images, targets = checked(images, targets)
        name = levels.place(self, layer)

        def work(rows: slice) -> Rows:
            leaf, answer = self._tapped(images[rows], name, grad=True)
            gradient = self._derivative(targets[rows].of(full_precision(answer)), leaf, f"layer {name!r} of {self.name}")
            grid = self._layout(name, leaf, images[rows])
            with torch.no_grad():
                return combine(full_precision(grid.to_grid(leaf.detach())), full_precision(grid.to_grid(gradient)))

        return self.in_rows(work, len(images), grad=True)

    def probed(self, look: Callable[[Tensor], T], *, grad: bool = False) -> T:
        """What `look` makes of two random images, inside `studied`; of one where memory or `max_rows` allows no more."""

        def work(rows: slice) -> tuple[T]:
            images = torch.randn(rows.stop, self.channels, *self.size, generator=torch.Generator().manual_seed(0))
            return (look(images.to(self.device)),)

        for count in range(min(2, self.max_rows), 0, -1):
            with self._running(grad):
                try:
                    seen = unless_out_of_memory(work, slice(0, count))
                except (RuntimeError, AssertionError, TypeError, IndexError) as error:
                    height, width = self.size
                    reason = " ".join(str(error).split())
                    raise Unsupported(
                        f"{self.name} fails on images of {height} x {width} ({reason}); allowed: size=... as it wants them"
                    ) from error
            if seen is not None:
                return seen[0]
        raise self._out_of_memory()

    # How the module is run ---------------------------------------------------------------------------------------------------

    def answer(self, images: Tensor) -> Tensor:
        """The logits of images that fit into memory at once, inside `studied`; with a graph where gradients are on."""
        images = images.to(self.device, self._dtype(images))
        # On a CPU convolutions run faster with channels last, once there are images enough to pay for reordering the weights each time.
        faster = images.device.type == "cpu" and 0 < self._convolution_weights <= 10_000_000 * len(images)
        # A copy, always: a model may begin with an in-place operation, and the caller's images must stay as they are.
        images = images.clone(memory_format=torch.channels_last if faster else torch.contiguous_format)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            try:
                output = self.module(images)
            except RuntimeError as error:
                if not faster or "view size is not compatible" not in str(error):
                    raise
                self._convolution_weights = 0  # a model that says `.view` after its convolutions needs channels first, now and ever
                raise ChannelsLastRefused from error
        logits = logits_in(output, len(images), len(self.classes), self.name)
        if self.classes and logits.shape[1] != len(self.classes):
            raise BadInput(f"{self.name}: got {len(self.classes)} class names, allowed: {logits.shape[1]}, as many as it has logits")
        return logits

    def _tapped(self, images: Tensor, layer: str, *, grad: bool = False) -> tuple[Tensor, Tensor]:
        """What the layer returns, as it does, and the answer, inside `studied`; with `grad` the answer's graph begins there."""
        if levels.is_input(self, layer):
            leaf = images.to(self.device, self._dtype(images), copy=True).requires_grad_(grad)
            return leaf, self.answer(leaf)
        name, module, call = self._find(layer)
        with tapped(name, module, call=call, grad=grad) as tap:
            answer = self.answer(images)
            return tap.tensor(), answer

    def _find(self, layer: str) -> tuple[str, nn.Module, int | None]:
        """The layer's name, its module, and which of its calls is meant ("name:1" is the second)."""
        if levels.is_input(self, layer):
            raise BadInput(f"layer 'input' is the image itself, which no part of {self.name} returns; allowed here: a layer of it")
        name, _, call = levels.place(self, layer).partition(":")
        modules = dict(self.module.named_modules(remove_duplicate=False))
        if not name or name not in modules:
            raise UnknownName("layer", name, [each for each in modules if each], hint="model.layers lists the spatial ones")
        if call and not call.isdecimal():
            raise BadInput(f"layer {layer!r}: allowed: a name, or name:0, name:1, ... for a layer that is called several times")
        return name, modules[name], int(call) if call else None

    def _layout(self, layer: str, found: Tensor, images: Tensor) -> Layout:
        grid = layout(tuple(found.shape), (images.shape[-2], images.shape[-1]), families.patch(self.module))
        if grid is None and found.ndim == 4 and 1 < found.shape[2:].numel() <= images.shape[-2:].numel():
            grid = Layout("channels_first", found.shape[2], found.shape[3])  # named by a person, and strided unevenly: still a grid
        if grid is None:
            raise Unsupported(
                f"layer {layer!r} of {self.name} returns {tuple(found.shape)}, which is no grid over {tuple(images.shape[-2:])} images"
            )
        return grid

    @functools.cached_property
    def _convolution_weights(self) -> int:
        return families.convolution_weights(self.module)
