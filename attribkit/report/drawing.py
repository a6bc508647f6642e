"""What every figure is drawn with: colours, lines of text, and the sheet they are laid on; the only module that imports matplotlib.

Never through pyplot, so that nothing global changes. How a value becomes a colour is the same everywhere. Maps with negative values are
painted with a diverging table, red for and blue against the target, 0 white; maps without are painted from 0 upwards with a sequential
one. The end of the scale is the 99.5th percentile of the absolute values, so that one pixel of a heavy-tailed gradient does not blank all
the others; what lies beyond takes the end's colour, and the colour bar then says "≥". Laid over a photograph, which turns grey, a value is
the more opaque the larger it is and 0 is transparent; under a signed map the photograph is faded as well, so that red and blue stand out
where it is dark.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes as Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import BadInput, UnknownName
from ..maps import resize

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]
Box = tuple[float, float, float, float]  # left, top, width, height, in inches from the sheet's top left corner
Span = tuple[float, float]

FONT = "DejaVu Sans"  # ships with matplotlib, so that what can be written does not depend on the machine
DPI = 110
EDGE, GAP = 0.15, 0.12  # inches: around everything, between panels
PERCENTILE = 99.5
# The outermost tenth of each arm of RdBu is nearly black; without it both ends stay red and blue.
TABLES = {
    "diverging": ("RdBu_r", 0.05, 0.95),
    "inferno": ("inferno", 0.0, 1.0),
    "cividis": ("cividis", 0.0, 1.0),
    "grey": ("gray", 0.0, 1.0),
}
OPACITY, RISE = 0.9, 0.7  # of a value at the end of the scale; smaller ones have OPACITY * (value / end) ** RISE
FADED = 0.6  # the contrast that a photograph keeps under a signed map


class Scale(NamedTuple):
    """From value to colour: the end of the scale, whether it runs below zero too, and whether values lie beyond it."""

    limit: float
    signed: bool
    clipped: bool = False


class Picture(Figure):
    """A figure that shows itself in a notebook, with or without pyplot there."""

    def _repr_png_(self) -> bytes:
        return png(self)


# From tensors to pixels


@lru_cache
def colour_table(name: str) -> Pixels:
    """The 256 colours (256, 3) of a table: diverging (entry 128 is zero), inferno, cividis, grey."""
    if name not in TABLES:
        raise UnknownName("colour table", name, TABLES)
    source, low, high = TABLES[name]
    at = np.linspace(low, high, 255) if name == "diverging" else np.linspace(low, high, 256)
    colours: Pixels = np.rint(matplotlib.colormaps[source](at)[:, :3] * 255).astype(np.uint8)
    if name == "diverging":  # codes 1 ... 255 lie symmetrically around 128; code 0 is not used
        colours = np.concatenate([colours[:1], colours])
        colours[128] = 255
    colours.flags.writeable = False  # it is shared
    return colours


def pixels(image: object) -> Pixels:
    """An image (3, H, W) or (H, W, 3), tensor or array in [0, 1] or uint8, as (H, W, 3) uint8; grey ones may have one channel."""
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim == 3 and array.shape[-1] not in (1, 3) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise BadInput(f"image: got {tuple(array.shape)}, allowed: (3, H, W) or (H, W, 3)")
    if array.dtype != np.uint8:
        array = np.rint(np.nan_to_num(array.astype(np.float32)).clip(0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def stretched(image: Tensor) -> Tensor:
    """A normalised image (3, H, W) for display, where mean and std are not known: its 0.5th percentile becomes 0, its 99.5th 1."""
    image = image.detach().to("cpu", torch.float32).nan_to_num(0.0, 0.0, 0.0)
    low, high = (float(end) for end in np.percentile(image.numpy(), (100 - PERCENTILE, PERCENTILE)))
    return (image.double() - low).div(max(high - low, 1e-12)).clamp(0, 1).float()


def finite(map_: object) -> tuple[Values, str]:
    """A map as a (h, w) float32 array in which what is not finite became 0, and what a reader must be told about it, if anything."""
    values = np.asarray(map_.detach().to("cpu", torch.float32).numpy() if isinstance(map_, Tensor) else map_)
    if values.ndim != 2 or 0 in values.shape:
        raise BadInput(f"map: got {tuple(values.shape)}, allowed: (h, w)")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    bad = ~np.isfinite(values)
    count = int(bad.sum())
    notes = [f"{count} value{'s are' if count > 1 else ' is'} not finite"] if count else []
    good = values[~bad]
    if good.size and not good.any():
        notes.append("map is zero everywhere")
    elif good.size and good.min() == good.max():
        notes.append("map is constant")
    return np.where(bad, np.float32(0), values), "; ".join(notes)


def scale_of(maps: Sequence[Values], limit: float | None = None) -> Scale:
    """The scale that these finite maps share: up to `limit`, or to their 99.5th percentile."""
    if limit is not None and not (np.isfinite(limit) and limit > 0):
        raise BadInput(f"limit: got {limit}, allowed: a positive number")
    flat = np.concatenate([values.ravel() for values in maps]) if maps else np.zeros(1, np.float32)
    sizes = np.abs(flat)
    top = float(sizes.max())
    # "higher" takes a value that is there: on a 7x7 grid the largest itself, not something between the two largest.
    end = limit or float(np.percentile(sizes, PERCENTILE, method="higher")) or top
    # Rounding leaves values like -1e-9 in maps that have no negative evidence.
    return Scale(end or 1.0, bool(flat.min() < -1e-6 * top), top > end > 0)


def painted(values: Values, scale: Scale, under: Pixels | None = None) -> Pixels:
    """The colours of a map, alone or, resized bilinearly, over an image."""
    if under is not None:
        values = resize(torch.from_numpy(values)[None], (under.shape[0], under.shape[1]))[0].numpy()
    share = np.clip(values, -scale.limit if scale.signed else 0, scale.limit).astype(np.float64) / scale.limit
    if under is None:
        return _coloured(share, signed=scale.signed)
    grey = under.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    alpha = OPACITY * np.abs(share) ** RISE
    if scale.signed:  # from half way up each arm of the table: the tints below it are nearly white, which transparency already says
        grey, share = 255 - FADED * (255 - grey), np.sign(share) * (0.5 + 0.5 * np.abs(share))
    colours = _coloured(share, signed=scale.signed)
    laid: Pixels = np.rint(grey[..., None] + alpha[..., None] * (colours - grey[..., None])).astype(np.uint8)
    return laid


def _coloured(share: NDArray[np.float64], *, signed: bool) -> Pixels:
    """The table's colours for shares of the scale, -1 to 1 or 0 to 1."""
    codes = np.rint(128 + 127 * share if signed else 255 * share).astype(np.uint8)
    colours: Pixels = colour_table("diverging" if signed else "inferno")[codes]
    return colours


# From strings to what a figure can show


def shown(text: object, room: int = 80) -> str:
    """`text` on one line of at most `room` characters, shortened in the middle, with a mark for each character that cannot be drawn."""
    line = " ".join(str(text).split())
    if len(line) > room:
        line = f"{line[: room - room // 2 - 1]}…{line[len(line) - room // 2 :]}"
    return "".join(character if _drawable(character) else "\ufffd" for character in line)


@lru_cache(4096)
def _drawable(character: str) -> bool:
    """Whether the font has the character, and it is none that controls, hides or reorders others."""
    font = get_font(findfont(FontProperties(family=FONT)))
    return not unicodedata.category(character).startswith("C") and font.get_char_index(ord(character)) != 0


class Sheet:
    """A figure of `width` x `height` inches, on which everything is placed in inches from its top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Picture(figsize=(width, height), dpi=DPI, facecolor="white")
        self.figure.set_layout_engine("none")  # whatever the user's settings say
        FigureCanvasAgg(self.figure)
        self.width, self.height = width, height

    def text(self, x: float, y: float, text: object, *, room: float = 0.0, **how: Any) -> None:
        """Write a line, its middle at height `y`, shortened to `room` inches; nothing in it is read as mathematics or TeX."""
        how = {"fontsize": 8.0, "color": "#222222", "va": "center", "family": FONT, **how}
        line = shown(text, max(8, int(room * 72 / (0.6 * how["fontsize"])))) if room else shown(text)
        self.figure.text(x / self.width, 1 - y / self.height, line, parse_math=False, usetex=False, **how)

    def picture(self, box: Box, colours: Pixels, note: str = "") -> Axes:
        """Draw pixels into `box`, and a note across the foot of it; axes whose unit is a pixel of them."""
        left, top, width, height = box
        axes = self._axes(box)
        axes.imshow(colours, aspect="auto")
        if note:
            plate = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 2}
            self.text(left + width / 2, top + height - 0.12, note, room=width, ha="center", fontsize=6.5, bbox=plate)
        return axes

    def bar(self, box: Box, scale: Scale) -> None:
        """A colour bar with numbers, upright where `box` is."""
        left, top, width, height = box
        upright = height > width
        ramp = np.linspace(-scale.limit if scale.signed else 0, scale.limit, 256, dtype=np.float32)
        self.picture(box, painted(ramp[::-1, None] if upright else ramp[None], scale))
        beyond = "≥ " if scale.clipped else ""
        ends = [(1.0, f"{beyond}{scale.limit:.3g}"), (0.5, "0" if scale.signed else f"{scale.limit / 2:.3g}"), (0.0, "0")]
        if scale.signed:
            ends[-1] = (0.0, f"{'≤ ' if scale.clipped else ''}−{scale.limit:.3g}")
        for share, label in ends:
            if upright:
                inside = {1.0: "top", 0.5: "center", 0.0: "bottom"}[share]
                self.text(left + width + 0.05, top + (1 - share) * height, label, fontsize=7, va=inside)
            else:
                side = {1.0: "right", 0.5: "center", 0.0: "left"}[share]
                self.text(left + share * width, top + height + 0.1, label, fontsize=7, ha=side)

    def _axes(self, box: Box) -> Axes:
        left, top, width, height = box
        axes = self.figure.add_axes((left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height))
        axes.set_axis_off()
        return axes

    def plot(self, box: Box, across: Span, down: Span, ticks: Sequence[float] = ()) -> Axes:
        """Axes in `box` for data from `across[0]` to `across[1]` and, from top to bottom, `down`; numbers and grey lines at `ticks`."""
        left, top, width, height = box
        axes = self._axes(box)
        axes.set_xlim(*across)
        axes.set_ylim(down[1], down[0])
        for tick in ticks:
            axes.plot([tick, tick], down, color="#e3e3e3", linewidth=0.7, linestyle="-", marker="", zorder=0)
            at = left + width * (tick - across[0]) / (across[1] - across[0])
            self.text(at, top + height + 0.1, f"{tick:.6g}".replace("-", "−"), fontsize=7, color="#555555", ha="center")
        return axes


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two, both ends included."""
    values = MaxNLocator(nbins=most, steps=[1, 2, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [0.0 if abs(tick) < slack else float(tick) for tick in values if low - slack <= tick <= high + slack]


# Files


def png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"compress_level": 3}, bbox_inches=None)
    return buffer.getvalue()


def encoded(image: object) -> bytes:
    """An image as PNG, pixel for pixel."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(image)).save(buffer, format="PNG")
    return buffer.getvalue()
