"""Files to pixels, safely: `find_images`, `read_image`, and `Preprocessing`, from an image to what a model takes."""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import re
import stat
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from .errors import BadInput, BrokenImage, UnknownName

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
PathLike = str | os.PathLike[str]
Numbers = float | Sequence[float]
Pixels = int | Sequence[int]
Convert = Callable[[Image.Image], Image.Image]

# 256 MiB as RGB. Up to this size Pillow does not warn of a decompression bomb either (it does so deep inside its TIFF reader).
MAX_PIXELS = 89_478_485
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")

_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "PPM": PpmImageFile,
}
_MAGIC = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<WEBP>RIFF....WEBP)|(?P<TIFF>II[*+]\0|MM\0[*+])"
    rb"|(?P<BMP>BM)|(?P<GIF>GIF8[79]a)|(?P<PPM>P[1-6]\s)",
    re.DOTALL,
)
_WILD = re.compile(r"[*?[]")
_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 0x0102, 0x0106
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def find_images(sources: PathLike | Iterable[PathLike]) -> list[Path]:
    """The image files that `sources` (files, folders, glob patterns) name, each once, in order.

    A file is taken as it is, also when it is missing, so that reading reports it beside the others. A folder gives its images
    (by suffix, in subfolders too, sorted) without hidden ones and without links that lead out of it.
    """
    found: dict[str, Path] = {}
    for source in [sources] if isinstance(sources, str | os.PathLike) else sources:
        for path in _expanded(os.fspath(source)):
            found.setdefault(os.path.abspath(path), path)
    if not found:
        raise BadInput("no images given; allowed: files, folders, patterns such as 'photos/*.jpg'")
    return list(found.values())


def _expanded(source: str) -> list[Path]:
    path = Path(source)
    if source and not os.path.isdir(path) and (os.path.lexists(path) or not _WILD.search(source)):
        return [path]
    matches = [path] if source and os.path.isdir(path) else _matching(path)
    if not matches:
        raise BadInput(f"no such file, folder or pattern: {source!r}")
    images: list[Path] = []
    for match in matches:
        if os.path.isdir(match):
            images += _in_folder(match)
        elif _has_suffix(match.name):
            images.append(match)
    if not images:
        where = "in folder" if os.path.isdir(path) else "match"
        raise BadInput(f"no images {where} {source}; allowed: {', '.join(SUFFIXES)}")
    return images


def _matching(pattern: Path) -> list[Path]:
    """What the pattern matches, sorted; hidden files and folders only where the pattern spells out the dot."""
    parts = pattern.parts
    fixed = next((place for place, part in enumerate(parts) if _WILD.search(part)), len(parts))
    base, rest = Path(*parts[:fixed]), parts[fixed:]
    try:
        matches = sorted(base.glob(os.path.join(*rest))) if rest else []
    except (ValueError, OSError) as error:
        raise BadInput(f"pattern {str(pattern)!r}: {error}") from None
    if any(part.startswith(".") for part in rest):
        return matches
    return [match for match in matches if not any(part.startswith(".") for part in match.relative_to(base).parts)]


def _in_folder(folder: Path) -> list[Path]:
    root, images = os.path.realpath(folder), []
    for at, folders, files in os.walk(folder, onerror=_unreadable_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images += [Path(at, name) for name in files if _has_suffix(name) and not name.startswith(".")]
    return sorted(image for image in images if not image.is_symlink() or Path(os.path.realpath(image)).is_relative_to(root))


def _unreadable_folder(error: OSError) -> None:
    # os.walk would skip the folder without a word, and its images would be missing from the result
    raise BadInput(f"folder {error.filename}: {(error.strerror or 'unreadable').lower()}") from None


def _has_suffix(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def read_image(path: PathLike, *, max_pixels: int = MAX_PIXELS, convert: Convert | None = None) -> Image.Image:
    """The image in the file at `path`, upright (EXIF), as 8-bit RGB (or as `convert` says); `BrokenImage` says why it cannot be had.

    JPEG, PNG, WebP, TIFF, BMP, GIF and PPM, told by content; of an animation the first frame. Transparency is composited on
    white, 16-bit grey is scaled, colour profiles are not applied. More than `max_pixels` are refused before decoding.
    """
    name = os.fsdecode(path)
    try:
        with open_regular(name) as file:
            return _decoded(file, max_pixels, convert or to_rgb)
    except Exception as error:
        # Decoders meet damaged files with any type: OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error, zlib.error,
        # MemoryError, ... and the list changes between releases. Whatever it is, one file is broken and the others are not.
        reason = _reason(error)
    # raised here, outside, so that it does not hold on to the decoder's frames and their buffers
    raise BrokenImage(name, reason)


def open_regular(name: str) -> IO[bytes]:
    """The file, open for reading; refuses what is not a regular file, since opening a pipe would wait for ever."""
    mode = os.stat(name).st_mode
    if stat.S_ISDIR(mode):
        raise BadInput("a folder, not a file")
    if not stat.S_ISREG(mode):
        raise BadInput("not a regular file but a pipe, a socket or a device")
    # not blocking, for a pipe that took the file's place meanwhile
    return open(name, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0)))


def _decoded(file: IO[bytes], max_pixels: int, convert: Convert) -> Image.Image:
    head = file.read(16)
    kind = _MAGIC.match(head)
    if kind is None or kind.lastgroup is None:
        raise BadInput(f"not an image of an allowed format ({', '.join(_READERS)})" if head else "the file is empty")
    file.seek(0)
    # The reader itself, not Image.open: that warns of large images by a limit of its own, global, which belongs to the user.
    with _READERS[kind.lastgroup](file) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise BadInput(f"{width} x {height} is {width * height:,} pixels, allowed: at most {max_pixels:,}")
        return _upright(image, convert)


def upright(image: Image.Image) -> Image.Image:
    """An open image as `read_image` gives it, upright and 8-bit RGB; `BrokenImage` where its file turns out to be damaged."""
    try:
        return _upright(image, to_rgb)
    except Exception as error:  # a file that is decoded only now fails in as many ways as in read_image
        reason = _reason(error)
    raise BrokenImage(getattr(image, "filename", "") or "the image", reason)


def _upright(image: Image.Image, convert: Convert) -> Image.Image:
    image.load()
    converted, turn = convert(image), _turn(image)
    return converted if turn is None else converted.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes the image upright; nothing where the EXIF block is damaged, as viewers do too: the pixels are whole."""
    # Not ImageOps.exif_transpose, which writes the whole block anew and fails on tags that it cannot write.
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error):
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, BadInput):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.filename and error.strerror:  # of opening it; a decoder that seeks to nowhere names no file
        return error.strerror.lower()
    return f"truncated or damaged: {str(error) or type(error).__name__}"


def to_rgb(image: Image.Image) -> Image.Image:
    """A new 8-bit RGB image of the same pixels: transparency on white, 16-bit grey divided by 257; refuses an unknown range."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        rgb = _from_16_bits(image)
    elif image.mode in ("I", "F"):
        kind = "float" if image.mode == "F" else "signed or 32-bit integer"
        raise BadInput(f"its pixels are {kind}s of unknown range; allowed: 8 or 16 bits, save it as such")
    elif image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    else:
        rgb = image.convert("RGB")
    rgb.info = {}  # above all its EXIF orientation, or a second reader would turn it again
    return rgb


def _from_16_bits(image: Image.Image) -> Image.Image:
    # Pillow itself clips at 255. From TIFF it hands out 12-bit values as they are, and those where 0 is white not inverted.
    tags = getattr(image, "tag_v2", {})
    top = 4095 if tags.get(_BITS) == (12,) else 65535
    table = ((np.arange(65536) * 255 + top // 2) // top).clip(max=255).astype(np.uint8)
    values = np.asarray(image)
    grey = table[top - values if tags.get(_PHOTOMETRIC) == 0 else values]
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where a model's input lies in the photograph: its point (x, y) is `(left + scale_x * x, top + scale_y * y)` there.

    In pixels, counted from the upper left corner of the corner pixel; `size` (H, W) is the input's. Where the input was padded
    the box reaches beyond the photograph.
    """

    scale_x: float
    scale_y: float
    left: float
    top: float
    size: tuple[int, int]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of the input in the photograph."""
        return self.left, self.top, self.left + self.scale_x * self.size[1], self.top + self.scale_y * self.size[0]


@dataclasses.dataclass(frozen=True, init=False)
class Preprocessing:
    """From an image to what a model takes: resized with antialiasing, cropped in the centre, normalised.

    `mean` and `std` for pixels in [0, 1], one number or three; `size` of the crop, (H, W) or a number for a square; `resize` is the
    length of the short side, or (H, W) for straight to that size, or None for just covering the crop. A crop that is larger than
    the resized image is padded with black, as torchvision, timm and transformers do. Equals torchvision's presets on PIL images.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: tuple[int, int]
    resize: int | tuple[int, int] | None
    interpolation: Interpolation

    def __init__(
        self,
        mean: Numbers,
        std: Numbers,
        size: Pixels,
        resize: Pixels | None = None,
        interpolation: str = "bilinear",
    ) -> None:
        if interpolation not in get_args(Interpolation):
            raise UnknownName("interpolation", interpolation, get_args(Interpolation))
        settings = {
            "mean": _three("mean", mean, above=-math.inf),
            "std": _three("std", std, above=0),
            "size": _pair("size", size),
            "resize": None if resize is None else _pair("resize", resize) if isinstance(resize, Sequence) else _pair("resize", resize)[0],
            "interpolation": interpolation,
        }
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    def __call__(self, image: Image.Image) -> Tensor:
        """The image as the model takes it, (3, H, W) float32."""
        pixels = torch.from_numpy(np.array(self.crop(image))).permute(2, 0, 1).contiguous().to(torch.float32) / 255
        return (pixels - _channels(self.mean, pixels)) / _channels(self.std, pixels)

    def __str__(self) -> str:
        crop = f"{self.size[0]}x{self.size[1]}"
        if self.resize is None:
            first = f"cover {crop}"
        else:
            first = f"short side {self.resize}" if isinstance(self.resize, int) else f"resize {self.resize[0]}x{self.resize[1]}"
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{first} {self.interpolation}, crop {crop}, mean {mean}, std {std}"

    def crop(self, image: Image.Image) -> Image.Image:
        """The part of the image that the model sees, at the model's size, as RGB: everything but the normalisation."""
        if not isinstance(image, Image.Image):
            raise BadInput(f"Preprocessing: got {type(image).__name__}, allowed: a PIL image")
        width, height = self._resized(*image.size)
        if width * height > MAX_PIXELS:
            got = f"{image.width} x {image.height} would become {width} x {height}"
            raise BadInput(f"too elongated to resize: {got}, allowed: at most {MAX_PIXELS:,} pixels")
        rgb = image if image.mode == "RGB" else to_rgb(image)
        left, top = _centred(width, self.size[1]), _centred(height, self.size[0])
        resized = rgb.resize((width, height), Image.Resampling[self.interpolation.upper()])
        return resized.crop((left, top, left + self.size[1], top + self.size[0]))

    def geometry(self, width: int, height: int) -> Geometry:
        """Where the crop lies in an image of that size."""
        wide, high = self._resized(width, height)
        scale_x, scale_y = width / wide, height / high
        return Geometry(scale_x, scale_y, scale_x * _centred(wide, self.size[1]), scale_y * _centred(high, self.size[0]), self.size)

    def mask(self, mask: Tensor) -> Tensor:
        """What the model sees of a mask of the whole image, (h, w) -> (H, W): the share of each pixel it covers, 0 beyond the image."""
        at = self.geometry(mask.shape[1], mask.shape[0])
        down = _shares(at.top, at.scale_y, at.size[0], torch.arange(mask.shape[0] + 1))
        across = _shares(at.left, at.scale_x, at.size[1], torch.arange(mask.shape[1] + 1))
        return (down @ mask.double() @ across.T).clamp(0, 1).float()  # a sum of shares may exceed 1 in its last bit

    def box(self, box: Sequence[float], width: int, height: int) -> Tensor:
        """As `mask`, for the box (x0, y0, x1, y1), ends excluded, in an image of that size."""
        at = self.geometry(width, height)
        down = _shares(at.top, at.scale_y, at.size[0], torch.tensor(box[1::2]))
        across = _shares(at.left, at.scale_x, at.size[1], torch.tensor(box[0::2]))
        return (down @ across.T).clamp(0, 1).float()

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) or one (3, H, W), back to pixels in [0, 1]."""
        if images.ndim not in (3, 4) or images.shape[-3] != 3 or not images.is_floating_point():
            raise BadInput(f"pixels(images): got {tuple(images.shape)} {images.dtype}, allowed: floating-point (B, 3, H, W) or (3, H, W)")
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        return (images * _channels(self.std, images) + _channels(self.mean, images)).clamp(0, 1)

    def replaced(self, *, mean: Numbers | None = None, std: Numbers | None = None, size: Pixels | None = None) -> Preprocessing:
        """The same with other numbers; with another size, `resize` changes in proportion."""
        new = self.size if size is None else _pair("size", size)
        resize = self.resize
        if isinstance(resize, int):
            resize = max(1, round(resize * min(new) / min(self.size)))
        elif resize is not None:
            resize = max(1, round(resize[0] * new[0] / self.size[0])), max(1, round(resize[1] * new[1] / self.size[1]))
        mean, std = self.mean if mean is None else mean, self.std if std is None else std
        return Preprocessing(mean, std, new, resize, self.interpolation)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing; the side that is not given is cut to a whole number, as torchvision does."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        high, wide = self.size if self.resize is None else (self.resize, self.resize)
        return (wide, int(wide * height / width)) if wide * height >= high * width else (int(high * width / height), high)


def _centred(length: int, crop: int) -> int:
    """Where a crop begins on an axis of that length, below 0 where it is longer; halves are rounded as torchvision does."""
    return round((length - crop) / 2) if crop <= length else -((crop - length) // 2)


def _shares(start: float, scale: float, count: int, edges: Tensor) -> Tensor:
    """How much of each of `count` pixels, `scale` wide each from `start` on, lies between neighbouring edges; (E,) -> (count, E - 1)."""
    return ((edges.double() - start) / scale - torch.arange(count).unsqueeze(1)).clamp(0, 1).diff(dim=1)


def _channels(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)


def _three(name: str, value: Numbers, *, above: float) -> tuple[float, float, float]:
    # a string is iterable too: "0.5" becomes "0", ".", "5", of which the second is no number
    try:
        given = [float(each) for each in value] if isinstance(value, Iterable) else [float(value)] * 3
    except (TypeError, ValueError):
        given = []
    if len(given) != 3 or not all(math.isfinite(each) and each > above for each in given):
        raise BadInput(f"Preprocessing({name}=...): got {value!r}, allowed: a number{' above 0' if above == 0 else ''}, or three")
    return given[0], given[1], given[2]


def _pair(name: str, value: Pixels) -> tuple[int, int]:
    try:
        given = [operator.index(each) for each in value] if isinstance(value, Sequence) else [operator.index(value)] * 2
    except TypeError:
        given = []
    if len(given) != 2 or min(given) < 1:
        raise BadInput(f"Preprocessing({name}=...): got {value!r}, allowed: a number of pixels of at least 1, or (height, width)")
    return given[0], given[1]
