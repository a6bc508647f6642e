"""Images that are larger than they look."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

READ_IN_LITTLE_MEMORY = """
import resource, sys
from attribkit.errors import BrokenImage
from attribkit.images import read_image
import PIL.Image
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
def peak():  # of this program alone: ru_maxrss begins with what the tests' own process took
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
before = peak()
for path in sys.argv[1:]:
    try:
        read_image(path, max_pixels=10**10 if path.endswith("allowed.png") else 89_478_485)
    except BrokenImage as error:
        print(error.reason)
        print(peak() - before)
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
    refused, grown, starved, _ = done.stdout.splitlines()
    assert refused == "30000 x 30000 is 900,000,000 pixels, allowed: at most 89,478,485"
    assert starved == "not enough memory to decode it"  # 900 MB do not fit where the limit is lifted
    assert int(grown) < 20_000  # KiB, of the 900 MB that the picture takes: it is refused before any of it is decoded
