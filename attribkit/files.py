"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

PARTS = ".*.part"  # what files are called while they are written; those of a process that was killed are left behind


def write_whole(path: str | Path, content: bytes) -> Path:
    """Write `content` to `path`, with the folders above it; the file appears under its name only once it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def write_durable(path: Path, content: bytes) -> None:
    """As `write_whole`, below a folder that is there; and the file's content is on the disk before it has its name."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
