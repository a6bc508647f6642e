"""Images with nothing of the original in them: what an uninformed pixel looks like."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnknownName

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

Fill = Literal["zero", "black", "white", "blur", "noise"]
FILLS: tuple[Fill, ...] = get_args(Fill)

# The strongest blur that is still a picture: 1/20 of the longer side leaves colours and loses every part of an object.
_BLUR_SHARE = 0.05


def fill(kind: Fill, model: VisionModel, images: Tensor, *, seed: int = 0) -> Tensor:
    """What stands for "no information" in normalised images; (B, 3, H, W) -> (B, 3, H, W).

    "zero": the mean colour the model was trained with; "black", "white"; "blur": the image under a Gaussian of 1/20 of its longer side,
    its border repeated; "noise": one draw of uniform pixels from `seed`, the same for every image.
    """
    if kind not in FILLS:
        raise UnknownName("fill", kind, FILLS)
    if kind == "zero":
        return torch.zeros_like(images)
    if kind == "blur":
        return blurred(images, _BLUR_SHARE * max(images.shape[-2:]))
    mean, std = (images.new_tensor(each).view(1, 3, 1, 1) for each in (model.mean, model.std))
    if kind == "noise":
        # Drawn on the host, so that every device gets the same numbers.
        pixels = torch.rand(1, *images.shape[1:], generator=torch.Generator().manual_seed(seed % 2**63)).to(images)
    else:
        pixels = torch.zeros_like(mean) if kind == "black" else torch.ones_like(mean)
    return ((pixels - mean) / std).expand_as(images)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images under a Gaussian of `sigma` pixels, cut at 3 sigma, with their border repeated; two passes of one dimension each."""
    reach = math.ceil(3 * sigma)
    at = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    down = F.pad(images, (0, 0, reach, reach), mode="replicate")
    down = F.conv2d(down, kernel.unsqueeze(3), groups=images.shape[1])
    across = F.pad(down, (reach, reach, 0, 0), mode="replicate")
    return F.conv2d(across, kernel.unsqueeze(2), groups=images.shape[1])
