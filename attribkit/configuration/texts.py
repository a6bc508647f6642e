"""Text files that a person wrote: small, UTF-8, and regular ones."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BadInput, BrokenFile
from ..registry import short

LARGEST = 1_000_000  # bytes: a configuration is a page or two, and a thousand classes are twenty


def text_of(path: str | Path) -> str:
    """The text of the file at `path`; `BrokenFile` says why it cannot be had."""
    from ..images import open_regular

    try:
        with open_regular(os.fspath(path)) as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise BadInput(f"more than {LARGEST:,} bytes, allowed: fewer")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        reason = "no such file"
    except UnicodeDecodeError as error:
        reason = f"line {content[: error.start].count(10) + 1}: it is not UTF-8 text; allowed: UTF-8"
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    except ValueError as error:  # a BadInput of what is no regular file, or a path with a zero byte
        reason = str(error)
    raise BrokenFile(path, reason)


def class_names(given: str) -> tuple[str, ...]:
    """Class names from a text file with one a line, or from a list with commas between them."""
    if os.path.isfile(given):
        names = tuple(line.strip() for line in text_of(given).splitlines() if line.strip())
        if not names:
            raise BrokenFile(given, "got no names, allowed: one class a line")
        return names
    if "," not in given:
        raise BadInput(f"got {short(repr(given))}, allowed: a text file with one class a line, or names with commas between them")
    return tuple(name.strip() for name in given.split(","))
