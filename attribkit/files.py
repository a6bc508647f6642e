"""Writing a file whole or not at all."""

from __future__ import annotations

import uuid
from pathlib import Path


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
