"""Damaged files by the thousand: each is refused as `BrokenImage` or read as an RGB image, and nothing else happens."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attribkit.errors import BrokenImage
from attribkit.images import read_image

MUTANTS = 400  # of each format
LIMIT = 2_000_000  # pixels: also bounds the time that one mutant takes


def encoded(kind: str, **options: object) -> bytes:
    noise = np.random.default_rng(7).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((40, 28), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    stream = io.BytesIO()
    mode = options.pop("mode", "RGB")
    with_exif = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    image.convert(str(mode)).save(stream, kind, **with_exif, **options)
    return stream.getvalue()


SEEDS: dict[str, list[bytes]] = {
    "JPEG": [encoded("JPEG"), encoded("JPEG", progressive=True), encoded("JPEG", mode="CMYK")],
    "PNG": [encoded("PNG"), encoded("PNG", mode="P"), encoded("PNG", mode="LA"), encoded("PNG", mode="I;16")],
    "WEBP": [encoded("WEBP"), encoded("WEBP", lossless=True), encoded("WEBP", mode="RGBA")],
    "TIFF": [encoded("TIFF"), encoded("TIFF", compression="tiff_lzw"), encoded("TIFF", compression="jpeg"), encoded("TIFF", mode="I;16")],
    "BMP": [encoded("BMP"), encoded("BMP", mode="P"), encoded("BMP", mode="RGBA")],
    "GIF": [encoded("GIF"), encoded("GIF", mode="L", save_all=True, append_images=[Image.new("L", (40, 28))])],
    "PPM": [encoded("PPM"), encoded("PPM", mode="L"), b"P3\n2 2\n300\n" + b"1 2 3 " * 4, b"P2\n2 1\n65535\n7 65535\n"],
}


def flip(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice([1, 1, 2, 8])):
        # headers are where decoders go wrong: every second flip lands in the first 64 bytes
        at = rng.randrange(min(64, len(data)) if rng.random() < 0.5 else len(data))
        data[at] ^= 1 << rng.randrange(8)
    return data


def cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(1, len(data))]


def lie(data: bytearray, rng: random.Random) -> bytearray:
    """A length, size or offset that is not true: a number of 2 or 4 bytes written over somewhere."""
    width = rng.choice([2, 4])
    at = rng.randrange(max(1, min(len(data), rng.choice([64, len(data)])) - width))
    number = rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)])
    data[at : at + width] = (number & (256**width - 1)).to_bytes(width, rng.choice(["big", "little"]))
    return data


def splice(data: bytearray, rng: random.Random) -> bytearray:
    """A piece moved, repeated or taken out."""
    start, to = rng.randrange(len(data)), rng.randrange(len(data))
    piece = data[start : start + rng.randrange(1, 40)]
    return data[:to] + piece * rng.choice([0, 1, 3]) + data[to + rng.choice([0, len(piece)]) :]


MUTATORS: list[Callable[[bytearray, random.Random], bytearray]] = [flip, cut, lie, splice]


def mended(png: bytes) -> bytes:
    """The PNG with every checksum made right again, so that the damage gets past it."""
    at, out = 8, bytearray(png[:8])
    while at + 12 <= len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        out += png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + png[at:])


def mutants(kind: str) -> list[bytes]:
    rng = random.Random(f"{kind} 0")
    made = []
    for number in range(MUTANTS):
        mutant = bytes(MUTATORS[number % len(MUTATORS)](bytearray(rng.choice(SEEDS[kind])), rng))
        made.append(mended(mutant) if kind == "PNG" and number % 3 else mutant)
    return made


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as for a user: as errors they would hide what comes after them
@pytest.mark.parametrize("kind", SEEDS)
def test_a_damaged_file_is_refused_or_read(tmp_path: Path, kind: str) -> None:
    path, read, refused = tmp_path / "mutant", 0, 0
    for mutant in mutants(kind):
        path.write_bytes(mutant)
        try:
            image = read_image(path, max_pixels=LIMIT)
        except BrokenImage as error:
            assert error.reason and "\n" not in str(error)
            refused += 1
        else:
            assert type(image) is Image.Image and image.mode == "RGB" and image.width * image.height <= LIMIT
            read += 1
    assert read + refused == MUTANTS
    assert read > MUTANTS // 20 and refused > MUTANTS // 10  # the mutators neither miss nor wreck everything


def test_the_seeds_themselves_are_whole(tmp_path: Path) -> None:
    for number, seed in enumerate(seed for seeds in SEEDS.values() for seed in seeds):
        path = tmp_path / str(number)
        path.write_bytes(seed)
        assert read_image(path).mode == "RGB"


READ_IN_LITTLE_MEMORY = """
import resource, sys
from attribkit.errors import BrokenImage
from attribkit.images import read_image
import PIL.Image
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_image(path, max_pixels=10**10 if path.endswith("allowed.png") else 89_478_485)
    except BrokenImage as error:
        print(error.reason)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def bomb(path: Path, side: int) -> Path:
    """A black picture of `side` x `side` pixels, 1 bit each, whose rows compress a thousandfold."""
    squeeze = zlib.compressobj(9)
    data = b"".join(squeeze.compress(bytes(1 + (side + 7) // 8)) for _ in range(side)) + squeeze.flush()
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    for kind, body in [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]:
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(content)
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_bomb_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.png", 30000)
    assert path.stat().st_size < 200_000
    allowed = tmp_path / "allowed.png"
    allowed.write_bytes(path.read_bytes())
    command = [sys.executable, "-c", READ_IN_LITTLE_MEMORY, path, allowed]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    refused, starved, grown = done.stdout.splitlines()
    assert refused == "30000 x 30000 is 900,000,000 pixels, allowed: at most 89,478,485"
    assert starved == "not enough memory to decode it"  # 900 MB do not fit where the limit is lifted
    assert int(grown) < 20_000  # KiB, of the 900 MB that the picture takes
