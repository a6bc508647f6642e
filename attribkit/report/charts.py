"""What charts of scores share: their colours, the names of methods, the ends of axes, the line of chance, and the notes at the foot.

Colours are Okabe and Ito's, which people with any colour vision tell apart; methods that only say what a score means (random, centre,
edge, oracle) are grey everywhere, and a broken line marks the score of a map that says nothing.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

from .drawing import EDGE, Axes, Sheet

CONTROLS = ("RandomMap(", "CentreMap(", "EdgeMap(", "Oracle(")
GREY, FAINT, INK = "#8a8a8a", "#666666", "#222222"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
ROW, POINTS, SMALL, NOTES = 0.2, 7.5, 7.0, 6.5  # inches from one line of a table to the next; sizes of letters


def is_control(method: str) -> bool:
    """Whether a method is one of those that only say what a score means."""
    return f"{method}(".startswith(CONTROLS)


def colour_of(method: str) -> str:
    """Blue, or grey for a control."""
    return GREY if is_control(method) else COLOURS[0]


def headline(sheet: Sheet, title: str) -> None:
    """The title of a whole figure, if it has one."""
    if title:
        sheet.text(EDGE, 0.22, title, room=sheet.width - 2 * EDGE, fontsize=9.5, weight="bold")


def write_name(sheet: Sheet, method: str, at: tuple[float, float, float]) -> None:
    """A method's name at (left, middle), in a given width."""
    sheet.text(at[0], at[1], method, room=at[2], fontsize=POINTS, color=FAINT if is_control(method) else INK)


def label_width(names: Iterable[str]) -> float:
    """Inches that the longest name takes, up to 3.2; a letter is about 0.6 of its height wide."""
    return min(3.2, max(10, *(len(str(name)) for name in names)) * 0.6 * POINTS / 72 + 0.15)


def chance_line(axes: Axes, value: float, rows: int) -> None:
    """A broken line down `rows` rows at the score of a map that says nothing, if there is one."""
    if not math.isnan(value):
        axes.plot((value, value), (-0.5, rows - 0.5), color=INK, linewidth=1.0, linestyle=(0, (3, 2)), marker="", zorder=1)


def wrapped(notes: Sequence[str], width: float) -> list[str]:
    """Notes as the lines of a foot of `width` inches."""
    return textwrap.wrap("; ".join(notes), max(20, int((width - 2 * EDGE) * 72 / (0.6 * NOTES))))


def foot_height(lines: Sequence[str]) -> float:
    """Inches that a foot takes."""
    return 0.14 * len(lines) + 0.1


def foot(sheet: Sheet, lines: Sequence[str]) -> None:
    """Write the lines of a foot at the lower end of a sheet."""
    for place, line in enumerate(lines):
        sheet.text(EDGE, sheet.height - foot_height(lines) + 0.14 * place + 0.05, line, room=sheet.width, fontsize=NOTES, color=FAINT)
