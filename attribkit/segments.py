"""Dividing an image into regions: `Segmenter`, label maps of pictures, made beside whatever else runs."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Annotated, Any, ClassVar, final

import joblib
import numpy as np
import torch
from torch import Tensor

from . import dividing
from .dividing import Array
from .errors import BadInput, OutOfMemory
from .registry import AtLeast, Settings, Table

SEGMENTERS: Table[Segmenter] = Table("segmenter")

Divide = Callable[[Array], Array]  # a picture (H, W, 3) float32 in [0, 1] -> label maps (L, H, W)


class Segmenter(Settings, ABC):
    """A way to divide pictures into regions: a frozen dataclass of plain settings, and one hook, `_begun`.

    It gives label maps (B, L, H, W), int64: L divisions of every picture, in each of which a label (a whole number from 0) is a region.
    Where a label is negative the picture is in no region: only `Labels` leaves such places, where it was given them.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    table: ClassVar[Table[Any]] = SEGMENTERS

    @final
    def __call__(self, pixels: Tensor) -> Tensor:
        """Label maps (B, L, H, W) of pictures (B, 3, H, W) in [0, 1], on their device."""
        return self.begun(pixels)()

    @final
    def begun(self, pixels: Tensor) -> Callable[[], Tensor]:
        """Begin to divide the pictures; what is returned waits for the label maps and gives them."""
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not len(pixels):
            raise BadInput(f"pixels: got {tuple(pixels.shape)}, allowed: (B, 3, H, W), at least one")
        waiting = self._begun(pixels.detach())
        return lambda: waiting().to(pixels.device, torch.int64)

    @abstractmethod
    def _begun(self, pixels: Tensor) -> Callable[[], Tensor]:
        """Begin to divide pictures (B, 3, H, W) in [0, 1], and give what waits for their label maps (B, L, H, W)."""


@dataclasses.dataclass(frozen=True)
class Squares(Segmenter):
    """Squares of `side` pixels, row by row from the upper left; those at the right and lower border may be cut."""

    name = "squares"
    paper = "Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, ECCV 2014 (arXiv:1311.2901)"

    side: Annotated[int, AtLeast(1)] = 16

    def _begun(self, pixels: Tensor) -> Callable[[], Tensor]:
        down, across = (torch.arange(length, device=pixels.device) // self.side for length in pixels.shape[-2:])
        labels = down.unsqueeze(1) * (across[-1] + 1) + across
        return lambda: labels.expand(len(pixels), 1, -1, -1)


@dataclasses.dataclass(frozen=True)
class Felzenszwalb(Segmenter):
    """Regions of like colour, once for each of `scales`, the larger the coarser; those below `min_size` pixels join a neighbour.

    All are meant for a picture of 224 x 224 pixels whose values reach from -1 to 1, which it is made into first, as XRAI does. `sigma` is
    the blur before.
    """

    name = "felzenszwalb"
    paper = "Felzenszwalb, Huttenlocher: Efficient Graph-Based Image Segmentation, IJCV 2004 (doi:10.1023/B:VISI.0000022288.19776.77)"

    scales: tuple[float, ...] = (50.0, 100.0, 150.0, 250.0, 500.0, 1200.0)
    sigma: Annotated[float, AtLeast(0)] = 0.8
    min_size: Annotated[int, AtLeast(1)] = 150

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales or min(self.scales) <= 0:
            raise BadInput(f"Felzenszwalb(scales=...): got {self.scales}, allowed: at least one number, each above 0")

    def _begun(self, pixels: Tensor) -> Callable[[], Tensor]:
        # A few pictures are shared out by their scales, so that no worker is idle.
        parts = min(len(self.scales), -(-2 * _workers() // len(pixels)) if len(pixels) < 2 * _workers() else 1)
        cuts = [self.scales[len(self.scales) * part // parts : len(self.scales) * (part + 1) // parts] for part in range(parts)]
        return _beside(
            [functools.partial(dividing.felzenszwalb, scales=cut, sigma=self.sigma, min_size=self.min_size) for cut in cuts], pixels
        )


@dataclasses.dataclass(frozen=True)
class SLIC(Segmenter):
    """About as many superpixels as `segments`; the larger `compactness`, the squarer."""

    name = "slic"
    paper = "Achanta et al.: SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, TPAMI 2012 (doi:10.1109/TPAMI.2012.120)"

    segments: Annotated[int, AtLeast(1)] = 100
    compactness: Annotated[float, AtLeast(0.000001)] = 10.0

    def _begun(self, pixels: Tensor) -> Callable[[], Tensor]:
        return _beside([functools.partial(dividing.slic, segments=self.segments, compactness=self.compactness)], pixels)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Labels(Segmenter):
    """Label maps of your own: a tensor or array of them, or a function that divides one picture.

    Whole numbers, (H, W) for every picture, (B, H, W) or (B, L, H, W) for those of one batch; or a callable `(picture (H, W, 3) float32 in
    [0, 1]) -> (H, W) or (L, H, W)`, such as one that asks SAM. Each number from 0 is a region, and what is negative is in none; booleans
    are masks, each of one region. Fewer maps of one picture than of another are no matter. As it holds no plain values it does not print
    as it is read, and equals itself alone.
    """

    name = "labels"
    paper = "Kirillov et al.: Segment Anything, ICCV 2023 (arXiv:2304.02643), for one"

    labels: object

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.labels, Tensor | np.ndarray) and not callable(self.labels):
            raise BadInput(f"Labels(labels=...): got {type(self.labels).__name__}, allowed: a tensor, an array, or a callable")

    def __repr__(self) -> str:
        shape = getattr(self.labels, "shape", None)
        about = getattr(self.labels, "__name__", type(self.labels).__name__) if shape is None else f"of {tuple(shape)}"
        return f"Labels(<{about}>)"

    def brief(self) -> str:
        """As it prints."""
        return repr(self)

    def _begun(self, pixels: Tensor) -> Callable[[], Tensor]:
        size = (pixels.shape[-2], pixels.shape[-1])
        if callable(self.labels) and not isinstance(self.labels, Tensor):
            divide = self.labels  # it may hold a network, on a device: it stays in this process
            return lambda: _numbered(_padded([_regions(divide(picture), size) for picture in _pictures(pixels)]))
        labels = _regions(self.labels, size, len(pixels))
        return lambda: _numbered(labels)


def _regions(labels: object, size: tuple[int, int], count: int | None = None) -> Tensor:
    """A person's label maps as (L, H, W), or as (B, L, H, W) of `count` pictures; masks as label maps of one region each."""
    given = labels if isinstance(labels, Tensor) else torch.as_tensor(np.asarray(labels))
    shapes = [size, (-1, *size)] if count is None else [size, (count, *size), (count, -1, *size)]
    fits = any(len(shape) == given.ndim and all(a in (b, -1) for a, b in zip(shape, given.shape, strict=True)) for shape in shapes)
    if not fits or not given.numel() or given.is_floating_point() or given.is_complex():
        allowed = " or ".join(str(shape).replace("-1", "L") for shape in shapes)
        raise BadInput(f"Labels: got {tuple(given.shape)} {given.dtype}, allowed: whole numbers or booleans, {allowed}")
    whole = given.to(torch.int64) - 1 if given.dtype == torch.bool else given.to(torch.int64)
    if count is None:
        return whole.view(-1, *size)
    return whole.expand(count, 1, *size) if given.ndim == 2 else whole.reshape(count, -1, *size)


def _padded(divisions: list[Tensor]) -> Tensor:
    """Label maps (L, H, W) of each picture as (B, L, H, W), maps of no region in place of those that a picture has fewer."""
    most = max(len(each) for each in divisions)
    return torch.stack([torch.cat((each, each.new_full((most - len(each), *each.shape[1:]), -1))) for each in divisions])


def _numbered(labels: Tensor) -> Tensor:
    """The same regions, their numbers without gaps and in the same order: somebody's numbers may be as large as they like."""
    known, place = torch.unique(labels.clamp_min(-1), return_inverse=True)
    numbered: Tensor = place - (known < 0).sum()
    return numbered


def _pictures(pixels: Tensor) -> list[Array]:
    return [np.ascontiguousarray(picture) for picture in pixels.permute(0, 2, 3, 1).float().cpu().numpy()]


def _beside(parts: list[Divide], pixels: Tensor) -> Callable[[], Tensor]:
    """Begin to divide every picture by each of `parts` in worker processes; the label maps of all parts end to end."""
    pictures = _pictures(pixels)
    jobs = [joblib.delayed(part)(picture) for picture in pictures for part in parts]

    def stacked(labels: list[Array]) -> Tensor:
        own = [np.concatenate(labels[first : first + len(parts)]) for first in range(0, len(labels), len(parts))]
        return torch.from_numpy(np.stack(own))

    if _workers() == 1:
        return lambda: stacked([work(*given, **settings) for work, given, settings in jobs])
    # One thread hands out the jobs and gathers the answers. It is let go at once and ends with its last job, so that nothing has to be
    # undone where the answers are never asked for.
    thread = ThreadPoolExecutor(1)
    answers = thread.submit(_in_workers, jobs)
    thread.shutdown(wait=False)
    return lambda: stacked(_waited(answers))


def _in_workers(jobs: list[Any]) -> list[Array]:
    answers: list[Array] = joblib.Parallel(n_jobs=_workers(), backend="loky", batch_size=1, max_nbytes=None)(jobs)
    return answers


def _waited(answers: Future[list[Array]]) -> list[Array]:
    try:
        return answers.result()
    except BrokenProcessPool as error:
        raise OutOfMemory(
            f"a worker process that divided pictures into regions ended early, most often for want of memory ({type(error).__name__}); "
            "allowed: fewer workers, by the environment's LOKY_MAX_CPU_COUNT"
        ) from error


def _workers() -> int:
    """How many processes may work beside this one: one for each processor it may use, and none beneath another's worker."""
    return 1 if multiprocessing.current_process().daemon else int(joblib.effective_n_jobs(-1))
