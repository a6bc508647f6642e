"""Files to pixels: every mode has its exact value, every broken file its reason, every preset its parity."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms._presets import ImageClassification

from attribkit.errors import BadInput, BrokenImage, UnknownName
from attribkit.images import MAX_PIXELS, Geometry, Preprocessing, find_images, read_image, to_rgb

GREY16 = np.array([[0, 128, 129, 257], [32768, 33000, 65406, 65535]], dtype=np.uint16)
GREY8 = np.array([[0, 0, 1, 1], [128, 128, 254, 255]], dtype=np.uint8)  # round(v / 257): 128.5 of 257 is the half


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth random picture, since resizing pure noise hides shifts and pure ramps hide kernels."""
    noise = np.random.default_rng(seed).integers(0, 256, (max(2, height // 5), max(2, width // 5), 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def values(image: Image.Image) -> torch.Tensor:
    assert image.mode == "RGB"
    return torch.from_numpy(np.array(image))


def grey(array: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.repeat(array[:, :, None], 3, axis=2))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def tiff(width: int, height: int, data: bytes, *, bits: int, photometric: int) -> bytes:
    place = 8 + 2 + 9 * 12 + 4
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: place, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


# ---- modes


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_is_divided_by_257_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(GREY16).save(tmp_path / f"a.{suffix}")
    assert_close(values(read_image(tmp_path / f"a.{suffix}")), grey(GREY8), rtol=0, atol=0)


def test_16_bit_big_endian_tiff(tmp_path: Path) -> None:
    image = Image.frombytes("I;16B", (4, 2), GREY16.astype(">u2").tobytes())
    image.save(tmp_path / "a.tif")
    assert_close(values(read_image(tmp_path / "a.tif")), grey(GREY8), rtol=0, atol=0)


def test_16_bit_tiff_whose_zero_is_white_is_inverted(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(4, 2, GREY16.astype("<u2").tobytes(), bits=16, photometric=0))
    # 65535 - v, then / 257: 65407 -> 254.5 -> 255 (rounded up), 65406 -> 254, 65278 -> 254, 32767 -> 127, 32535 -> 127, 129 -> 1
    expected = np.array([[255, 255, 254, 254], [127, 127, 1, 0]], dtype=np.uint8)
    assert_close(values(read_image(tmp_path / "a.tif")), grey(expected), rtol=0, atol=0)


def test_12_bit_tiff_is_scaled_by_its_own_range(tmp_path: Path) -> None:
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10])  # 0, 4095, 2048, 16
    (tmp_path / "a.tif").write_bytes(tiff(4, 1, packed, bits=12, photometric=1))
    # 2048 * 255 / 4095 = 127.53, 16 * 255 / 4095 = 0.996
    assert_close(values(read_image(tmp_path / "a.tif")), grey(np.array([[0, 255, 128, 1]], dtype=np.uint8)), rtol=0, atol=0)


def test_16_bit_grey_png_with_a_transparent_value(tmp_path: Path) -> None:
    rows = b"\0" + GREY16[0].astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png(4, 1, 16, 0, rows, extra=chunk(b"tRNS", struct.pack(">H", 257))))
    assert_close(values(read_image(tmp_path / "a.png")), grey(np.array([[0, 0, 1, 255]], dtype=np.uint8)), rtol=0, atol=0)


def test_16_bit_colour_png_keeps_the_high_byte(tmp_path: Path) -> None:
    pixels = np.array([[[0, 255, 256], [32768, 33000, 65535]]], dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, b"\0" + pixels.astype(">u2").tobytes()))
    # Pillow's decoder keeps v >> 8, at most one grey level from v / 257
    assert_close(values(read_image(tmp_path / "a.png")), torch.tensor([[[0, 0, 1], [128, 128, 255]]], dtype=torch.uint8), rtol=0, atol=0)


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    rgba = np.array([[[100, 0, 200, 128], [100, 0, 200, 0], [100, 0, 200, 255]]], dtype=np.uint8)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "a.png")
    # 128 / 255 of the colour and 127 / 255 of 255: 50.2 + 127, 0 + 127, 100.4 + 127
    expected = torch.tensor([[[177, 127, 227], [255, 255, 255], [100, 0, 200]]], dtype=torch.uint8)
    assert_close(values(read_image(tmp_path / "a.png")), expected, rtol=0, atol=0)


def test_grey_with_alpha_is_composited_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[100, 128], [100, 0], [100, 255]]], dtype=np.uint8), "LA").save(tmp_path / "a.png")
    assert_close(values(read_image(tmp_path / "a.png")), grey(np.array([[177, 255, 100]], dtype=np.uint8)), rtol=0, atol=0)


def test_grey_with_premultiplied_alpha() -> None:
    image = Image.fromarray(np.array([[[100, 128], [100, 0], [100, 255]]], dtype=np.uint8), "LA").convert("La")
    # stored as 50, 0, 100; 50 * 255 / 128 is 99.6, and the decoder cuts it to 99
    assert_close(values(to_rgb(image)), grey(np.array([[177, 255, 100]], dtype=np.uint8)), rtol=0, atol=1)


@pytest.mark.parametrize(("transparency", "first"), [(None, [10, 20, 30]), (0, [255, 255, 255]), (bytes([128, 255]), [132, 137, 142])])
@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette(tmp_path: Path, transparency: int | bytes | None, first: list[int], suffix: str) -> None:
    if suffix == "gif" and isinstance(transparency, bytes):
        pytest.skip("a GIF colour is transparent or is not")
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.save(tmp_path / f"a.{suffix}", **({} if transparency is None else {"transparency": transparency}))
    # a half: 128 / 255 * 10 + 127 = 132.02, 137.04, 142.06
    assert_close(values(read_image(tmp_path / f"a.{suffix}")), torch.tensor([[first, [40, 50, 60]]], dtype=torch.uint8), rtol=0, atol=0)


def test_one_transparent_colour_of_an_rgb_png(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)).save(tmp_path / "a.png", transparency=(4, 5, 6))
    assert_close(values(read_image(tmp_path / "a.png")), torch.tensor([[[1, 2, 3], [255] * 3]], dtype=torch.uint8), rtol=0, atol=0)


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp", "pbm", "gif"])
def test_one_bit(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(np.array([[True, False, True]])).save(tmp_path / f"a.{suffix}")
    assert_close(values(read_image(tmp_path / f"a.{suffix}")), grey(np.array([[255, 0, 255]], dtype=np.uint8)), rtol=0, atol=0)


@pytest.mark.parametrize("suffix", ["png", "tiff", "bmp", "ppm", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossless_formats_give_back_what_was_saved(tmp_path: Path, suffix: str, mode: str) -> None:
    image = picture(7, 5).convert(mode)
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert_close(values(read_image(tmp_path / f"a.{suffix}")), values(image.convert("RGB")), rtol=0, atol=0)


@pytest.mark.parametrize(("suffix", "off"), [("tif", 0), ("jpg", 2)])
def test_cmyk(tmp_path: Path, suffix: str, off: int) -> None:
    Image.new("CMYK", (16, 16), (255, 0, 51, 51)).save(tmp_path / f"a.{suffix}", **({"quality": 100} if off else {}))
    # without a profile: 255 - min(255, ink * (255 - K) / 255 + K): red none, green 255 - 51, blue 255 - 51 - 40.8
    expected = torch.tensor([0, 204, 163], dtype=torch.uint8).expand(16, 16, 3)
    assert_close(values(read_image(tmp_path / f"a.{suffix}")), expected, rtol=0, atol=off)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_the_first_frame_of_several(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], **({"lossless": True} if suffix == "webp" else {}))
    assert_close(values(read_image(tmp_path / f"a.{suffix}")), values(first), rtol=0, atol=0)


def test_jpeg_with_a_second_picture_inside_gives_the_first(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (16, 16), (200, 10, 10)), Image.new("RGB", (16, 16), (10, 10, 200))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert_close(values(read_image(tmp_path / "a.jpg")), values(first), rtol=0, atol=3)


@pytest.mark.parametrize(("mode", "words"), [("F", "floats of unknown range"), ("I", "32-bit integers of unknown range")])
def test_unknown_range_is_refused(tmp_path: Path, mode: str, words: str) -> None:
    Image.new(mode, (3, 3), 100).save(tmp_path / "a.tiff")
    with pytest.raises(BrokenImage, match=f"a.tiff: .*{words}.*allowed: 8 or 16 bits"):
        read_image(tmp_path / "a.tiff")
    with pytest.raises(BadInput, match=words):
        to_rgb(Image.new(mode, (3, 3)))


# How the EXIF standard describes each orientation (stored row 0 and column 0 are the visual ...), written out with numpy.
UPRIGHT = {
    1: lambda s: s,
    2: lambda s: s[:, ::-1],
    3: lambda s: s[::-1, ::-1],
    4: lambda s: s[::-1],
    5: lambda s: s.swapaxes(0, 1),
    6: lambda s: s.swapaxes(0, 1)[:, ::-1],
    7: lambda s: s.swapaxes(0, 1)[::-1, ::-1],
    8: lambda s: s.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = np.kron(np.array([[10, 50, 90], [130, 170, 210]], dtype=np.uint8), np.ones((16, 16), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, **quality)
    image = read_image(tmp_path / f"a.{suffix}")
    assert_close(values(image), grey(UPRIGHT[orientation](stored).copy()), rtol=0, atol=1)
    assert image.getexif().get(0x0112, 1) == 1  # nobody turns it twice
    assert "exif" not in image.info


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish!", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"Exif\0\0"])
def test_a_damaged_exif_block_does_not_cost_the_image(tmp_path: Path, exif: bytes) -> None:
    picture(8, 6).save(tmp_path / "a.png", exif=exif)
    assert_close(values(read_image(tmp_path / "a.png")), values(picture(8, 6)), rtol=0, atol=0)


def test_a_wrong_extension_does_not_matter(tmp_path: Path) -> None:
    picture(4, 4).save(tmp_path / "a.jpg", format="PNG")
    assert_close(values(read_image(str(tmp_path / "a.jpg"))), values(picture(4, 4)), rtol=0, atol=0)


# ---- broken files


def refused(path: Path | str, reason: str, **options: int) -> None:
    with pytest.raises(BrokenImage, match=reason) as caught:
        read_image(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None  # holds no frames of the decoder


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif", "ppm"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    picture(64, 48).save(tmp_path / f"a.{suffix}")
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(whole[: int(len(whole) * share)])
    refused(tmp_path / f"a.{suffix}", "truncated or damaged: .")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
        (b"hello world, this is text", r"not an image of an allowed format \(JPEG, PNG, WEBP, TIFF, BMP, GIF, PPM\)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of an allowed format"),
        (b"8BPS\0\1" + bytes(40), "not an image of an allowed format"),
        (b"SIMPLE  =                    T" + bytes(60), "not an image of an allowed format"),
        (b"Pf\n1 1\n-1.0\n" + bytes(4), "not an image of an allowed format"),
    ],
)
def test_not_an_image(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", reason)


def test_a_decoder_that_is_sent_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(4, 4).save(tmp_path / "a.png")
    monkeypatch.setattr("attribkit.images.to_rgb", lambda image: os.lseek(0, -1, 99))
    refused(tmp_path / "a.png", "truncated or damaged: .*Invalid argument|truncated or damaged: .*Illegal seek")


def test_missing_folder_and_impossible_paths(tmp_path: Path) -> None:
    refused(tmp_path / "none.jpg", "no such file")
    refused(tmp_path, "a folder, not a file")
    refused(str(tmp_path / ("a" * 300)), "file name too long")
    refused("a\0b.png", "null")


@pytest.fixture
def alarm() -> Iterator[None]:
    """Turns a read that waits for ever into an error, and so into the wrong reason."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
def test_pipes_sockets_and_devices_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    refused(tmp_path / "a.png", "not a regular file but a pipe, a socket or a device")
    refused("/dev/zero", "not a regular file")
    with socket.socket(socket.AF_UNIX) as server:
        os.symlink(tmp_path, short := Path(f"/tmp/{os.getpid()}-images"))  # a socket's path has room for 100 characters only
        try:
            server.bind(str(short / "s"))
        finally:
            short.unlink()
    refused(tmp_path / "s", "not a regular file")


@pytest.mark.usefixtures("alarm")
def test_a_pipe_that_takes_the_place_of_the_file_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    regular = os.stat(tmp_path / "file")
    monkeypatch.setattr("attribkit.images.os.stat", lambda path: regular)
    refused(tmp_path / "pipe", "the file is empty")


def test_unreadable(tmp_path: Path) -> None:
    picture(4, 4).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)  # root may read anything
    try:
        refused(tmp_path / "a.png", "permission denied")
    finally:
        os.seteuid(own)


def test_whatever_decoding_raises_is_a_broken_image_but_not_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(4, 4).save(tmp_path / "a.png")
    reasons = {MemoryError(): "not enough memory", AssertionError(): "damaged: AssertionError", RecursionError("deep"): "damaged: deep"}
    for error, reason in reasons.items():
        monkeypatch.setattr("attribkit.images.to_rgb", lambda image, error=error: (_ for _ in ()).throw(error))
        refused(tmp_path / "a.png", reason)
    monkeypatch.setattr("attribkit.images.to_rgb", lambda image: (_ for _ in ()).throw(KeyboardInterrupt("ctrl-c")))
    with pytest.raises(KeyboardInterrupt, match="ctrl-c"):
        read_image(tmp_path / "a.png")


def test_the_pixel_limit_is_ours_and_not_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(20, 10).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "20 x 10 is 200 pixels, allowed: at most 199", max_pixels=199)
    assert read_image(tmp_path / "a.png", max_pixels=200).size == (20, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)  # would make Image.open warn, and a warning is an error here
    assert read_image(tmp_path / "a.png").size == (20, 10)
    assert Image.MAX_IMAGE_PIXELS == 150
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    refused(tmp_path / "a.png", "at most 199", max_pixels=199)
    assert MAX_PIXELS <= 2**30 // 4 // 3  # above it Pillow's TIFF reader warns


def test_too_large_is_told_from_the_header_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png(30000, 30000, 8, 2, b""))
    (tmp_path / "a.tif").write_bytes(tiff(60000, 60000, b"", bits=8, photometric=1))
    (tmp_path / "a.ppm").write_bytes(b"P6\n99999 99999\n255\n")
    (tmp_path / "a.gif").write_bytes(b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    for name, size in {"a.png": "30000 x 30000", "a.tif": "60000 x 60000", "a.ppm": "99999 x 99999", "a.gif": "65535 x 65535"}.items():
        refused(tmp_path / name, f"{size} is .* pixels, allowed: at most 89,478,485")


# ---- finding


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ["b.jpg", "a.PNG", "notes.txt", ".hidden.png", "sub/c.webp", "sub/.d.png", ".git/e.png", "sub/deep/f.tiff"]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "out.png").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*sources: str | Path) -> list[str]:
    return [path.as_posix() for path in find_images(sources)]


def test_a_folder_gives_its_images_sorted_without_hidden_ones(tree: Path) -> None:
    assert names("in") == ["in/a.PNG", "in/b.jpg", "in/sub/c.webp", "in/sub/deep/f.tiff"]
    assert find_images(tree / "in") == [tree / "in" / name for name in ("a.PNG", "b.jpg", "sub/c.webp", "sub/deep/f.tiff")]


def test_files_are_taken_as_given_and_once(tree: Path) -> None:
    thrice = ["in/b.jpg", "./in/b.jpg", tree / "in" / "b.jpg"]
    assert names(*thrice, "in/notes.txt", "in/.hidden.png") == ["in/b.jpg", "in/notes.txt", "in/.hidden.png"]
    assert names("in/sub", "in")[:3] == ["in/sub/c.webp", "in/sub/deep/f.tiff", "in/a.PNG"]


def test_a_missing_file_is_kept_and_reported_when_read(tree: Path) -> None:
    assert names("none.jpg", "in/b.jpg") == ["none.jpg", "in/b.jpg"]
    refused("none.jpg", "no such file")


def test_patterns(tree: Path) -> None:
    assert names("in/*.jpg") == ["in/b.jpg"]
    assert names("in/*") == ["in/a.PNG", "in/b.jpg", "in/sub/c.webp", "in/sub/deep/f.tiff"]
    assert names("**/*.tiff", "*.png") == ["in/sub/deep/f.tiff", "out.png"]
    assert names("in/.hid*") == ["in/.hidden.png"]
    assert names(str(tree / "in" / "[ab].*")) == [(tree / "in" / name).as_posix() for name in ("a.PNG", "b.jpg")]
    (tree / "x[1].png").touch()
    assert names("x[1].png") == ["x[1].png"]


def test_links_out_of_the_folder_are_not_followed(tree: Path) -> None:
    os.symlink(tree / "out.png", tree / "in" / "leads-out.png")
    os.symlink(tree / "empty", tree / "in" / "sub" / "folder")
    (tree / "empty" / "g.png").touch()
    os.symlink("b.jpg", tree / "in" / "inside.jpg")
    os.symlink(tree / "in", tree / "in" / "loop")
    assert names("in") == ["in/a.PNG", "in/b.jpg", "in/inside.jpg", "in/sub/c.webp", "in/sub/deep/f.tiff"]
    os.symlink("in", tree / "link")  # the folder itself may be one
    assert names("link")[0] == "link/a.PNG"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("empty", "no images in folder empty; allowed: .bmp, .gif, .*.webp"),
        ("none*.jpg", r"no such file, folder or pattern: 'none\*.jpg'"),
        ("", "no such file, folder or pattern: ''"),
        ("in/*.txt", r"no images match in/\*.txt; allowed: .bmp"),
        ("in/.g**x/*", "pattern|no such file"),
    ],
)
def test_a_source_that_gives_nothing_is_refused(tree: Path, source: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        find_images(["in/b.jpg", source])


def test_no_sources_and_an_unreadable_folder_are_refused(tree: Path) -> None:
    with pytest.raises(BadInput, match="no images given"):
        find_images([])
    (tree / "in" / "sub").chmod(0)
    own = os.geteuid()
    tree.chmod(0o755)
    if own == 0:
        os.seteuid(65534)  # root may read anything
    try:
        with pytest.raises(BadInput, match="folder in/sub: permission denied"):
            find_images("in")
    finally:
        os.seteuid(own)
        (tree / "in" / "sub").chmod(0o755)


# ---- preprocessing

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 251), (64, 64), (33, 47), (1000, 101), (256, 256)])
@pytest.mark.parametrize(("short", "crop"), [(256, 224), (232, 224), (97, 75), (64, 80)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_parity_with_torchvisions_preset(size: tuple[int, int], short: int, crop: int, interpolation: str) -> None:
    image = picture(*size)
    preset = ImageClassification(crop_size=crop, resize_size=short, interpolation=InterpolationMode(interpolation))
    ours = Preprocessing(**IMAGENET, size=crop, resize=short, interpolation=interpolation)
    assert_close(ours(image), preset(image), rtol=0, atol=0)


@pytest.mark.parametrize("interpolation", ["nearest", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("resize", [(40, 71), (90, 31), None])
def test_parity_of_straight_resizing_and_of_covering(interpolation: str, resize: tuple[int, int] | None) -> None:
    image = picture(101, 67)
    theirs = F.center_crop(F.resize(image, [48] if resize is None else list(resize), InterpolationMode(interpolation)), [48, 48])
    ours = Preprocessing(0.5, 0.25, 48, resize, interpolation)
    assert_close(values(ours.crop(image)), values(theirs), rtol=0, atol=0)
    assert_close(ours(image), (F.to_tensor(theirs) - 0.5) / 0.25, rtol=0, atol=0)


@pytest.mark.parametrize("photo", [(300, 200), (37, 211), (7, 7), (640, 427)])
@pytest.mark.parametrize("size", [(100, 100), (50, 200), (3, 5), (427, 640)])
def test_covering_needs_no_padding_and_wastes_one_side_only(photo: tuple[int, int], size: tuple[int, int]) -> None:
    where = Preprocessing(0, 1, size).geometry(*photo)
    left, top, right, bottom = where.box
    assert left >= 0 and top >= 0 and right <= photo[0] + 1e-9 and bottom <= photo[1] + 1e-9
    assert (right - left == pytest.approx(photo[0])) or (bottom - top == pytest.approx(photo[1]))


def test_geometry_of_a_crop_in_closed_form() -> None:
    # 512 x 384 -> short side 256: 341 x 256, since 256 * 512 / 384 = 341.3; crop 224: left round(58.5) = 58, top 16
    where = Preprocessing(0, 1, 224, 256).geometry(512, 384)
    assert where == Geometry(512 / 341, 1.5, 58 * 512 / 341, 24.0, (224, 224))
    assert where.box == pytest.approx((58 * 512 / 341, 24, 282 * 512 / 341, 360))
    # 100 x 50 straight to 50 x 50, then padded to 60 x 60: 5 black pixels around, each of 2 x 1 of the photograph
    assert Preprocessing(0, 1, 60, (50, 50)).geometry(100, 50) == Geometry(2, 1, -10, -5, (60, 60))


def test_geometry_finds_a_mark_of_the_photograph() -> None:
    photo = np.zeros((300, 500, 3), dtype=np.uint8)
    photo[120:140, 310:350] = 255  # centre (330, 130)
    settings = Preprocessing(0, 1, (96, 112), 128)
    seen = settings(Image.fromarray(photo))[0].double()
    rows, columns = torch.arange(96) + 0.5, torch.arange(112) + 0.5
    x, y = float((seen.sum(0) * columns).sum() / seen.sum()), float((seen.sum(1) * rows).sum() / seen.sum())
    where = settings.geometry(500, 300)
    assert where.left + where.scale_x * x == pytest.approx(330, abs=0.3)
    assert where.top + where.scale_y * y == pytest.approx(130, abs=0.3)


def test_padding_is_black_and_the_picture_in_its_middle() -> None:
    seen = Preprocessing(0, 1, (4, 7), (2, 3)).crop(Image.new("RGB", (3, 2), "white"))
    expected = np.zeros((4, 7), dtype=np.uint8)
    expected[1:3, 2:5] = 255
    assert_close(values(seen), grey(expected), rtol=0, atol=0)


def test_pixels_undoes_the_normalisation_and_clamps() -> None:
    settings = Preprocessing(**IMAGENET, size=32, resize=32)
    image = picture(32, 32)
    expected = values(image).permute(2, 0, 1) / 255
    assert_close(settings.pixels(settings(image)), expected, rtol=0, atol=1e-6)
    both = torch.stack([settings(image), settings(image) * 100]).double()
    assert_close(settings.pixels(both)[0], expected.double(), rtol=0, atol=1e-6)
    assert settings.pixels(both)[1].aminmax() == (0, 1)
    assert settings.pixels(both.to(torch.bfloat16)).dtype == torch.float32
    with pytest.raises(BadInput, match=r"got \(1, 32, 32\) torch.float32, allowed"):
        settings.pixels(torch.zeros(1, 32, 32))


def test_other_modes_and_other_things() -> None:
    settings = Preprocessing(0, 1, 2, 2)
    assert_close(settings(Image.new("RGBA", (2, 2), (0, 0, 0, 0))), torch.ones(3, 2, 2))
    assert_close(settings(Image.fromarray(np.full((2, 2), 257 * 51, dtype=np.uint16))), torch.full((3, 2, 2), 0.2))
    with pytest.raises(BadInput, match="got ndarray, allowed: a PIL image"):
        settings(np.zeros((2, 2, 3)))


def test_a_very_long_image_is_refused_instead_of_blown_up() -> None:
    with pytest.raises(BadInput, match="too elongated to resize: 1 x 40000 would become 256 x 10240000, allowed: at most"):
        Preprocessing(0, 1, 224, 256)(Image.new("RGB", (1, 40000)))


def test_settings_are_completed_printed_compared_and_pickled() -> None:
    settings = Preprocessing(mean=[0.485, 0.456, 0.406], std=IMAGENET["std"], size=224, resize=256)
    assert str(settings) == "short side 256 bilinear, crop 224x224, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    assert (settings.mean, settings.size) == ((0.485, 0.456, 0.406), (224, 224))
    assert settings == Preprocessing(**IMAGENET, size=(224, 224), resize=256)
    assert settings == pickle.loads(pickle.dumps(settings)) == eval(repr(settings))
    assert len({settings, settings.replaced()}) == 1
    assert str(Preprocessing(0.5, 1, (8, 9), [10, 11], "box")) == "resize 10x11 box, crop 8x9, mean 0.5 0.5 0.5, std 1 1 1"
    assert str(Preprocessing(0.5, 1, 8)) == "cover 8x8 bilinear, crop 8x8, mean 0.5 0.5 0.5, std 1 1 1"


def test_replaced_scales_the_resizing_with_the_size() -> None:
    settings = Preprocessing(**IMAGENET, size=224, resize=256, interpolation="bicubic")
    assert settings.replaced(size=448) == Preprocessing(**IMAGENET, size=448, resize=512, interpolation="bicubic")
    assert settings.replaced(size=227).resize == 259  # 256 * 227 / 224 = 259.4
    assert settings.replaced(mean=0.5, std=(1, 2, 3)) == Preprocessing(0.5, (1, 2, 3), 224, 256, "bicubic")
    assert Preprocessing(0, 1, (100, 50), (120, 70)).replaced(size=(200, 25)).resize == (240, 35)
    assert Preprocessing(0, 1, 224).replaced(size=96).resize is None
    assert Preprocessing(0, 1, 224, 1).replaced(size=1).resize == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mean": (0.5, 0.5)}, r"mean=...\): got \(0.5, 0.5\), allowed: a number, or three"),
        ({"mean": "0.5"}, r"mean=...\): got '0.5'.*three"),
        ({"mean": float("nan")}, "mean=.*nan"),
        ({"std": 0}, "std=.*got 0, allowed: a number above 0, or three"),
        ({"std": (1, 1, -1)}, "std=.*above 0"),
        ({"size": 0}, "size=.*got 0, allowed: a number of pixels of at least 1"),
        ({"size": (224, 224, 3)}, "size=.*height, width"),
        ({"size": 224.0}, "size=.*got 224.0"),
        ({"resize": (0, 5)}, "resize=.*at least 1"),
        ({"resize": "256"}, "resize=.*got '256'"),
    ],
)
def test_settings_are_checked_at_birth(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Preprocessing(**{"mean": 0.5, "std": 0.5, "size": 224, **wrong})


def test_an_unknown_interpolation_names_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="no interpolation is called 'cubic'; allowed: bicubic, bilinear, box, hamming, lanczos, nearest"):
        Preprocessing(0, 1, 224, 256, "cubic")
