"""The brushes of the planted scenes: grounds, creatures, clutter and tags, as arrays.

Colours are RGB in [0, 1], arrays are (S, S) or (S, S, 3) float64, `y` grows downwards. Only `Generator.random` is drawn from, so a
stream gives the same numbers everywhere.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..model.planted import SIZE

Array: TypeAlias = NDArray[np.float64]

OVER = 3  # samples per pixel and direction of everything that has an edge


class Layer(NamedTuple):
    """Something painted over what is below it: `colour` (h, w, 3) and `cover` (h, w) from pixel (`top`, `left`) on, nothing elsewhere."""

    top: int
    left: int
    colour: Array
    cover: Array

    def over(self, below: Array) -> Array:
        """The picture with this layer on top."""
        picture, cover = below.copy(), self.cover[..., None]
        part = picture[self.top : self.top + len(self.cover), self.left : self.left + self.cover.shape[1]]
        part += (self.colour - part) * cover
        return picture

    def mask(self) -> Array:
        """How much of each pixel of the picture it covers, (S, S)."""
        whole = np.zeros((SIZE, SIZE))
        whole[self.top : self.top + len(self.cover), self.left : self.left + self.cover.shape[1]] = self.cover
        return whole


class Window(NamedTuple):
    """The samples around a thing: where they start in the picture, and how far each is from the middle of the thing, in pixels."""

    top: int
    left: int
    column: Array
    row: Array

    def turned(self, turn: float) -> tuple[Array, Array]:
        """Along and across a thing turned by `turn` radians."""
        cos, sin = np.cos(turn), np.sin(turn)
        return self.column * cos + self.row * sin, self.row * cos - self.column * sin

    def layer(self, colour: Array, inside: NDArray[np.bool_]) -> Layer:
        """Pixels from samples: cover is the share of samples inside, colour their mean."""
        high, wide = inside.shape[0] // OVER, inside.shape[1] // OVER
        count = inside.reshape(high, OVER, wide, OVER).sum((1, 3))
        total = (colour * inside[..., None]).reshape(high, OVER, wide, OVER, 3).sum((1, 3))
        return Layer(self.top, self.left, total / np.maximum(count, 1)[..., None], count / OVER**2)


def window(x: float, y: float, reach: float) -> Window:
    """All samples of the picture at most `reach` pixels from column `x` and row `y`, and a few more."""
    left, top = max(int(x - reach), 0), max(int(y - reach), 0)
    right, bottom = min(int(x + reach) + 1, SIZE), min(int(y + reach) + 1, SIZE)
    columns, rows = (start + (np.arange((stop - start) * OVER) + 0.5) / OVER for start, stop in ((left, right), (top, bottom)))
    column, row = np.meshgrid(columns - x, rows - y)
    return Window(top, left, column, row)


def between(rng: Generator, low: float, high: float) -> float:
    """One uniform draw."""
    return low + (high - low) * float(rng.random())


def hsv(hue: float, saturation: float, value: float) -> Array:
    """A colour, (3,); the hue wraps around."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)))


def mix(first: Array, second: Array, share: Array) -> Array:
    """From `first` where `share` is 0 to `second` where it is 1; colours (3,) or (S, S, 3), `share` (S, S)."""
    share = share.clip(0, 1)[..., None]
    return np.asarray(first * (1 - share) + second * share)


def noise(rng: Generator, x: Array, y: Array) -> Array:
    """Smooth noise in [0, 1] with features of size 1 (value noise on a lattice that repeats every 32)."""
    lattice = rng.random((32, 32))
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    along, down = x - left, y - top
    along, down = along * along * (3 - 2 * along), down * down * (3 - 2 * down)
    upper = lattice[top & 31, left & 31] * (1 - along) + lattice[top & 31, (left + 1) & 31] * along
    lower = lattice[(top + 1) & 31, left & 31] * (1 - along) + lattice[(top + 1) & 31, (left + 1) & 31] * along
    return np.asarray(upper * (1 - down) + lower * down)


def pixels() -> tuple[Array, Array]:
    """Column and row of the middle of each pixel."""
    column, row = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    return column, row


def water(rng: Generator) -> Array:
    """Water from above: a net of light over slow swell, (S, S, 3)."""
    column, row = pixels()
    hue, scale = between(rng, 0.36, 0.64), between(rng, 9, 17)
    deep = hsv(hue + between(rng, 0.0, 0.05), between(rng, 0.35, 0.9), between(rng, 0.25, 0.5))
    shallow = hsv(hue, between(rng, 0.25, 0.7), between(rng, 0.5, 0.85))
    x, y = column / scale, row / scale * between(rng, 1.3, 2.4)
    x, y = x + 1.2 * noise(rng, x / 2, y / 2), y + 1.2 * noise(rng, x / 2, y / 2)
    swell = 0.6 * noise(rng, x / 3, y / 3) + 0.4 * noise(rng, x, y)
    net = 1 - np.abs(noise(rng, x, y) - noise(rng, x * 1.1 + 5, y * 1.1 + 9)) * 2.2
    fine = 1 - np.abs(2 * noise(rng, x * 2.1, y * 2.1) - 1)
    light = between(rng, 0.35, 0.8) * net.clip(0, 1) ** 7 + 0.25 * fine**5
    return mix(mix(deep, shallow, 1.3 * swell - 0.15), hsv(hue - 0.03, 0.1, 1.0), light)


def grass(rng: Generator) -> Array:
    """A meadow: rows of blades, each row before the one behind it, (S, S, 3)."""
    column, row = pixels()
    hue, value = between(rng, 0.13, 0.46), between(rng, 0.5, 0.8)
    saturation, wide = between(rng, 0.3, 0.8), between(rng, 3.2, 5.5)
    soil = hsv(hue - 0.04, saturation * 0.9, value * 0.38)
    patch = noise(rng, column / 21, row / 21)
    picture = mix(soil, soil * 1.6, noise(rng, column / 5, row / 5))
    step, lean = between(rng, 5, 8), between(rng, -0.35, 0.35)
    bent = between(rng, 3, 6) * (noise(rng, column / 11, row / 17) - 0.5)
    for base in np.arange(step / 2, SIZE + 5 * step, step):
        upright = column + lean * (row - base) + wide * between(rng, 0, 32) + bent
        blade = np.floor(upright / wide).astype(np.int64) & 63
        size, shade, tint, foot = rng.random((4, 64))
        tall = (base - row) / (step * 4) + 0.3 * (foot[blade] - 0.5)
        reach = tall / (0.5 + 0.5 * size[blade])
        across = np.abs(upright / wide % 1.0 - 0.5) * wide
        cover = (0.55 * wide * (1 - reach) - across + 0.25).clip(0, 1) * (tall * 8).clip(0, 1)
        light = (0.5 + 0.3 * shade[blade] + 0.35 * reach.clip(0, 1) + 0.3 * (patch - 0.5)) * (1.15 - 0.35 * across / wide)
        colour = mix(hsv(hue, saturation, value), hsv(hue - 0.07, saturation * 0.8, value * 1.1), tint[blade])
        picture += (colour * light[..., None] - picture) * cover[..., None]
    return picture


GROUNDS = {"water": water, "grass": grass}


def ellipse(x: Array, y: Array, at: Sequence[float], half: Sequence[float], tilt: float = 0.0) -> Array:
    """Depth inside an ellipse: positive inside, its smaller half axis in the centre."""
    cos, sin = np.cos(tilt), np.sin(tilt)
    u, v = (x - at[0]) * cos + (y - at[1]) * sin, (y - at[1]) * cos - (x - at[0]) * sin
    return np.asarray((1 - np.sqrt((u / half[0]) ** 2 + (v / half[1]) ** 2)) * min(half))


def polygon(x: Array, y: Array, corners: Sequence[Sequence[float]]) -> Array:
    """Depth inside a convex polygon, its corners in either order."""
    edges = list(zip(corners, (*corners[1:], corners[0]), strict=True))
    way = np.sign(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in edges))
    depth = np.full(x.shape, np.inf)
    for (x0, y0), (x1, y1) in edges:
        depth = np.minimum(depth, ((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) * way / np.hypot(x1 - x0, y1 - y0))
    return depth


def union(*depths: Array) -> Array:
    """Depth inside any of the parts."""
    return np.asarray(np.maximum.reduce(depths))


def fish(rng: Generator, x: Array, y: Array) -> Array:
    """Depth inside a fish that looks to the right, in body lengths of 2."""
    high, fork, fin = between(rng, 0.36, 0.48), between(rng, 0.38, 0.52), between(rng, 0.5, 0.66)
    body = ellipse(x, y, (0.2, 0.0), (0.85, high))
    upper = polygon(x, y, ((-0.42, 0.0), (-1.12, -fork), (-0.98, -0.02), (-0.42, 0.1)))
    lower = polygon(x, y, ((-0.42, -0.1), (-0.98, 0.02), (-1.12, fork), (-0.42, 0.1)))
    back = polygon(x, y, ((-0.3, -0.15), (-0.2, -fin), (0.12, -fin - 0.04), (0.45, -0.25)))
    belly = polygon(x, y, ((0.25, 0.2), (0.0, fin), (-0.18, fin - 0.06), (-0.1, 0.2)))
    return union(body, upper, lower, back, belly)


def bird(rng: Generator, x: Array, y: Array) -> Array:
    """Depth inside a bird that looks to the right, in body lengths of 2."""
    high, up, leg = between(rng, 0.36, 0.44), between(rng, 0.36, 0.48), between(rng, 0.66, 0.8)
    tail = between(rng, -0.12, 0.2)
    body = ellipse(x, y, (0.0, 0.0), (0.7, high), between(rng, -0.3, -0.1))
    head = ellipse(x, y, (0.56, -up), (0.27, 0.25))
    bill = polygon(x, y, ((0.72, -up - 0.14), (1.1, -up + 0.03), (0.72, -up + 0.13)))
    back = polygon(x, y, ((-0.35, -0.14), (-0.35, 0.26), (-1.12, tail + 0.16), (-1.12, tail - 0.12))[::-1])
    legs = [polygon(x, y, ((at - 0.04, 0.2), (at + 0.05, 0.2), (at + 0.09, leg), (at, leg))) for at in (-0.12, 0.14)]
    feet = [polygon(x, y, ((at, leg - 0.06), (at + 0.24, leg - 0.03), (at + 0.24, leg + 0.04), (at, leg + 0.04))) for at in (-0.12, 0.14)]
    return union(body, head, bill, back, *legs, *feet)


EYES = {"fish": (0.72, -0.1), "bird": (0.6, -0.46)}
SHAPES = {"fish": fish, "bird": bird}


def creature(rng: Generator, kind: str) -> Layer:
    """One creature, of any place, size, turn, side and colour: what is drawn before its outline is the same for both kinds."""
    half, turn, side = between(rng, 18, 30), between(rng, -0.6, 0.6), -1.0 if rng.random() < 0.5 else 1.0
    view = window(between(rng, half + 2, SIZE - half - 2), between(rng, half + 1, SIZE - half - 1), half * 1.25)
    along, across = view.turned(turn)
    x, y = side * along / half, across / half
    coat = _coat(rng, x, y)
    depth = SHAPES[kind](rng, x, y)
    rim = (depth * half / 1.6).clip(0, 1)
    colour = coat * (0.4 + 0.6 * rim * (1 + 0.8 * (depth - 0.15).clip(-0.15, 0.25)))[..., None]
    eye = np.hypot(x - EYES[kind][0], y - EYES[kind][1]) * half
    colour = mix(mix(colour, np.ones(3), (2.9 - eye) * 2), np.array([0.05, 0.05, 0.08]), (1.7 - eye) * 2)
    return view.layer(colour, depth > 0)


def _coat(rng: Generator, x: Array, y: Array) -> Array:
    """Plain, striped or spotted, lighter below; says nothing about the kind."""
    base = hsv(between(rng, 0, 1), between(rng, 0.25, 0.85), between(rng, 0.6, 1.0))
    mark = hsv(between(rng, 0, 1), between(rng, 0.2, 0.9), between(rng, 0.3, 1.0))
    pattern, period, phase = int(rng.random() * 3), between(rng, 0.22, 0.4), between(rng, 0, 1)
    if pattern == 0:
        marks = np.zeros_like(x)
    elif pattern == 1:
        marks = (((x + 0.25 * y * y) / period + phase) % 1.0 - 0.55) * 6
    else:
        marks = (noise(rng, x / period + 8, y / period + 8) - 0.6) * 9
    belly = mix(base, 0.5 + 0.5 * base, (y + 0.05) * 1.8)
    return mix(belly, mark, 0.8 * marks.clip(0, 1)) * (1.1 - 0.25 * y.clip(-1, 1))[..., None]


def clutter(rng: Generator) -> list[Layer]:
    """Leaves, pebbles and chips strewn about: as large as parts of a creature, of any colour."""
    layers = []
    for _ in range(3 + int(rng.random() * 5)):
        half, turn, kind = between(rng, 2.5, 7.5), between(rng, 0, 2 * np.pi), int(rng.random() * 3)
        view = window(between(rng, 0, SIZE), between(rng, 0, SIZE), half + 1)
        x, y = (each / half for each in view.turned(turn))
        tone = hsv(between(rng, 0, 1), between(rng, 0.1, 0.7), between(rng, 0.35, 0.95))
        depth = _scrap(kind, between(rng, 0.4, 0.9), x, y)
        light = 0.45 + 0.55 * (depth * half / 1.5).clip(0, 1) * (1.1 - 0.2 * view.row / half)
        layers.append(view.layer(tone * light[..., None], depth > 0))
    return layers


def _scrap(kind: int, wide: float, x: Array, y: Array) -> Array:
    """Depth inside a pebble, a leaf or a chip of half length 1."""
    if kind == 0:
        return ellipse(x, y, (0, 0), (1.0, wide))
    if kind == 1:
        lift = (1 - wide * wide) / (2 * wide)
        return np.asarray(lift + wide - np.maximum(np.hypot(x, y - lift), np.hypot(x, y + lift)))
    return polygon(x, y, ((-0.9, -0.5 * wide), (0.7, -0.6), (0.6, wide), (-0.4, 0.8)))


def tag(rng: Generator, hue: float) -> Layer:
    """A small sticker in one of the corners: white border, coloured field."""
    right, low = rng.random() < 0.5, rng.random() < 0.5
    x, y = (SIZE - between(rng, 8.5, 11) if far else between(rng, 8.5, 11) for far in (right, low))
    half, turn = between(rng, 5.2, 6.4), between(rng, -0.3, 0.3)
    view = window(x, y, half * 1.5)
    along, across = (np.abs(each) for each in view.turned(turn))
    depth = half - np.maximum(np.maximum(along, across), (along + across) * 0.62)
    field = hsv(hue + between(rng, -0.03, 0.03), between(rng, 0.7, 0.95), between(rng, 0.75, 0.95))
    return view.layer(mix(np.full(3, 0.97), field, (depth - 1.2) * 3), depth > 0)


def lit(rng: Generator, picture: Array) -> Array:
    """The picture in some light: brighter on one side, a little warm or cold, with grain."""
    column, row = pixels()
    slope = between(rng, -0.18, 0.18) * (column / SIZE - 0.5) + between(rng, -0.18, 0.18) * (row / SIZE - 0.5)
    warm = between(rng, -0.05, 0.05)
    tint = between(rng, 0.88, 1.1) * np.array([1 + warm, 1.0, 1 - warm])
    grain = 0.02 * (rng.random((SIZE, SIZE)) + rng.random((SIZE, SIZE)) - 1)
    return picture * tint * (1 + slope + grain)[..., None]
