"""What every removal is: `Removal`, an answer to "what would the model say without these pixels?"."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor

from ..errors import BadInput
from ..model.answer import checked
from ..model.memory import full_precision
from ..registry import Settings, Table

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

REMOVALS: Table[Removal] = Table("removal")

# Which of the images, (R,) int64, and which pixels of each are kept, (R, H, W) bool -> something with R rows.
Ask = Callable[[Tensor, Tensor], Tensor]


class Removal(Settings, ABC):
    """A way to take pixels away: a frozen dataclass of plain settings, and one hook.

    Called with a model, normalised images (B, 3, H, W) and `keep` (B, H, W), where 1 is kept and 0 removed (others are cut at 0.5), it
    gives the model's logits (B, K) without the removed pixels. What is kept whole is answered as the model answers it. An image's answer
    depends on neither its batch nor its place there; a random removal takes a `seed`. `batched` says whether all images are worked on
    at once, `runs_on` where, and `sees_removed` whether the removed pixels still have some influence (as through their blur).
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    batched: ClassVar[bool] = True
    runs_on: ClassVar[str] = "the model's device"
    sees_removed: ClassVar[bool] = False
    table: ClassVar[Table[Any]] = REMOVALS

    @final
    def __call__(self, model: VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        """The model's logits for every image without what is not kept, (B, K)."""
        return _asked(model, images, keep, self.prepared)

    @abstractmethod
    def prepared(self, model: VisionModel, images: Tensor) -> Ask:
        """Get ready to ask many times, inside `studied`, about some of `images` (R of them, that fit into memory): logits (R, K)."""


class InFill(Removal, ABC):
    """A removal that puts other pixels in the place of the removed ones; its hook, `_filling`, makes them."""

    @final
    def prepared(self, model: VisionModel, images: Tensor) -> Ask:
        """The model's answer to the images with their gaps filled."""
        shown = self._composing(model, images)
        return lambda which, keep: full_precision(model.answer(shown(which, keep)))

    @final
    def filled(self, model: VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        """The images that the model is shown instead, (B, 3, H, W): bitwise their own where they are kept."""
        return _asked(model, images, keep, self._composing)

    def _composing(self, model: VisionModel, images: Tensor) -> Ask:
        """Some of `images` with their gaps filled, (R, 3, H, W)."""
        filling = self.filler(model, images)
        return lambda which, keep: composite(images[which], keep, filling(which, keep))

    def filler(self, model: VisionModel, images: Tensor) -> Ask:
        """What stands in the gaps of some of `images`, (R, 3, H, W), of which only the gaps are used."""
        return lambda which, keep: self._filling(model, images[which], keep)

    @abstractmethod
    def _filling(self, model: VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        """Plausible images (R, 3, H, W) where `keep` (R, H, W) is False; elsewhere anything finite."""


class Fill(InFill, ABC):
    """An in-fill that does not depend on what is kept, and so is made once for each image; its hook is `_whole`."""

    @final
    def filler(self, model: VisionModel, images: Tensor) -> Ask:
        """The same for every `keep`."""
        whole = self._whole(model, images)
        return lambda which, keep: whole[which]

    @final
    def _filling(self, model: VisionModel, images: Tensor, keep: Tensor) -> Tensor:
        return self._whole(model, images)

    @abstractmethod
    def _whole(self, model: VisionModel, images: Tensor) -> Tensor:
        """What each image is with everything removed, (B, 3, H, W)."""


def composite(images: Tensor, keep: Tensor, filling: Tensor) -> Tensor:
    """The images where `keep` (R, H, W), and the filling elsewhere; bitwise either the one or the other."""
    return torch.where(keep.unsqueeze(1), images, filling)


def _asked(model: VisionModel, images: Tensor, keep: Tensor, prepared: Callable[[VisionModel, Tensor], Ask]) -> Tensor:
    """What is asked, once it is prepared, of every image with its own `keep`, in rows that fit into memory."""
    images, keep = _fitting(model, images, keep)
    with model.studied():
        ask = prepared(model, images)
        every = torch.arange(len(images), device=images.device)
        return model.in_rows(lambda rows: (ask(every[rows], keep[rows]),), len(images))[0]


def _fitting(model: VisionModel, images: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the model's device, `keep` as booleans, or `BadInput` that says what does not fit."""
    if not hasattr(model, "studied"):
        raise BadInput(f"model: got {type(model).__name__}, allowed: a VisionModel, such as ak.VisionModel(module, mean=..., std=...)")
    images, _ = checked(images, channels=model.channels)
    wanted = (len(images), *images.shape[-2:])
    if not isinstance(keep, Tensor) or tuple(keep.shape) != wanted or keep.is_complex():
        got = f"{tuple(keep.shape)} {keep.dtype}" if isinstance(keep, Tensor) else type(keep).__name__
        raise BadInput(f"keep: got {got}, allowed: {wanted}, ones where an image is kept and zeros where it is removed")
    kept = keep if keep.dtype == torch.bool else keep > 0.5
    return full_precision(images).to(model.device), kept.to(model.device)
