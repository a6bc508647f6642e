"""What every figure is drawn with: lines of text, and the sheet they are laid on; the only module that imports matplotlib.

Never through pyplot, so that nothing global changes.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes as Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import Image

from .colours import Pixels, Scale, painted, pixels
from .scales import Span

Box = tuple[float, float, float, float]  # left, top, width, height, in inches from the sheet's top left corner

FONT = "DejaVu Sans"  # ships with matplotlib, so that what can be written does not depend on the machine
DPI = 110
EDGE, GAP = 0.15, 0.12  # inches: around everything, between panels


class Picture(Figure):
    """A figure that shows itself in a notebook, with or without pyplot there."""

    def _repr_png_(self) -> bytes:
        return png(self)


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
