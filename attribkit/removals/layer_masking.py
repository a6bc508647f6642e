"""Layer masking: masks travel with the activations, so that removed pixels leave neither a colour nor an edge."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..errors import Unsupported
from ..model.memory import full_precision
from ..model.taps import as_written
from . import masked_layers, masked_shapes, masked_tokens, masked_values
from .base import Ask, Removal
from .carrying import Carrying
from .masks import Mask, cleared

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

# Imported for the rules that they enter.
_RULES = (masked_layers, masked_shapes, masked_tokens, masked_values)


@dataclasses.dataclass(frozen=True)
class LayerMask(Removal):
    """Every layer sees kept pixels alone: holes are lent the mean of their neighbours for a convolution, and are zero after it.

    For any network, CNN or transformer, none of which is rewritten: its operations are followed while it runs. An image kept whole is
    answered as always (by a transformer, beside images that are not, to rounding); with nothing kept, features are zeros and the
    logits those of the head alone. A max pool counts holes as zeros, as the reference does.

    `residual`: what a sum keeps, the "intersection" of what its two branches do, the "union", or what the "shortcut" (the one that came
    through fewer windows) does. `concat`: what joined channels keep, the "union", the "majority" or the "intersection". `pool`: averages of
    kept places alone ("renormalise") or of all, holes being zeros ("plain"). `tokens`: a transformer's token is kept if "all" of its
    pixels are, or if "any" is. `unknown`: an operation without a rule raises `Unsupported`, or "remask" lets it run where it keeps the
    shape, and zeroes the holes after it.
    """

    name = "layer_mask"
    paper = "Balasubramanian, Feizi: Towards Improved Input Masking for Convolutional Neural Networks, ICCV 2023 (arXiv:2211.14646)"

    residual: Literal["intersection", "union", "shortcut"] = "intersection"
    concat: Literal["union", "majority", "intersection"] = "union"
    pool: Literal["renormalise", "plain"] = "renormalise"
    tokens: Literal["all", "any"] = "all"
    unknown: Literal["raise", "remask"] = "raise"

    def prepared(self, model: VisionModel, images: Tensor) -> Ask:
        """The model's answer with masks beside its activations."""
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.module.modules()):
            raise Unsupported(f"layer masking follows the operations of a network, and {model.name} is TorchScript, which hides them")
        warned = False

        def ask(which: Tensor, keep: Tensor) -> Tensor:
            nonlocal warned
            if bool(keep.all()):
                return full_precision(model.answer(images[which]))
            logits, run = self._masked(model, images[which], keep)
            if not warned and run.last is not None and _vanished(model.own(keep.unsqueeze(1)), run.last):
                warned = True
                warnings.warn(_VANISHED.format(model.name, "tokens='any'" if run.tokens else "residual='union'"), stacklevel=2)
            return logits

        return ask

    def _masked(self, model: VisionModel, images: Tensor, keep: Tensor) -> tuple[Tensor, Carrying]:
        mask = Mask(keep.unsqueeze(1))
        run = Carrying(self, model.name)
        images = cleared(images, mask)
        run.begin(images, mask)
        with as_written(), run:
            logits = model.answer(images)
        if logits not in run.masks:
            raise Unsupported(f"layer masking cannot follow {model.name}: something that is no PyTorch function stands before its answer")
        return full_precision(logits), run


_VANISHED = (
    "layer masking: nothing is left of some images in the last features of {}, though pixels of them are kept, so it answers as to an "
    "empty image; LayerMask({}) avoids it"
)


def _vanished(keep: Tensor, last: Mask) -> bool:
    """Whether an image of which something is kept has nothing left in the last mask; the one look at the host after a forward."""
    if len(last.on) != len(keep):
        return False
    return bool((keep.flatten(1).any(1) & ~last.on.flatten(1).any(1)).any())
