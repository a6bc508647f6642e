"""What images there are and what is known about each: read from a manifest, or from a folder of class folders."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import io
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..errors import BadInput, BrokenFile, Unavailable
from ..images import find_images, open_regular
from ..registry import short
from .rle import RunLengths, read_run_lengths

Box = tuple[float, float, float, float]
Region = str | RunLengths | Box
LONGEST = 1_000_000  # characters of a line: what has more is no manifest, and reading on would fill the memory
LONGEST_FIELD = 4096  # characters, as many as a path may have
LONGEST_RUNS = 131_072  # characters of a mask in run lengths, as many as a field of CSV may have
_ALLOWED = "allowed: path, label, and as many of mask:NAME, rle:NAME, box:NAME, group:NAME as you like"
REGIONS = ("mask", "rle", "box")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")


class Row(NamedTuple):
    """One image: where it stands in its manifest (for messages), its path in the folder, its label and, by column, what else is known.

    An empty `label` means what the model predicts; a region is a mask's path, its run lengths, a box (x0, y0, x1, y1), or None where there
    is none.
    """

    at: str
    path: str
    label: str
    regions: tuple[Region | None, ...] = ()
    groups: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The `rows` of the file (or folder) `source`, whose paths begin at `folder`; the names of their regions and groups."""

    source: Path
    folder: Path
    regions: tuple[str, ...]
    groups: tuple[str, ...]
    rows: tuple[Row, ...]


def read_manifest(source: str | Path) -> Manifest:
    """The manifest in a CSV or Parquet file, or made of a folder's images; `BrokenFile` says what is wrong with it, and in which line.

    Columns `path,label[,mask:NAME ...][,rle:NAME ...][,box:NAME ...][,group:NAME ...]`; paths are relative to the file and stay in its
    folder. In a folder of class folders a class folder's name is the label; images that lie in the folder itself have none.
    """
    path = Path(source)
    if path.is_dir():
        return _of_folder(path)
    try:
        parquet = path.suffix.lower() in (".parquet", ".pq")
        lines = _parquet(path) if parquet else _csv(path)
        return _checked(path, lines)
    except FileNotFoundError:
        reason = "no such file or folder"
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text; allowed: UTF-8, with or without a byte-order mark"
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    except BadInput as error:
        reason = str(error)
    raise BrokenFile(path, reason)


def _of_folder(folder: Path) -> Manifest:
    """Every image in the folder; its label is the name of the folder below `folder` that it is in."""
    paths = [image.relative_to(folder) for image in find_images(folder)]
    inside = [len(path.parts) > 1 for path in paths]
    if any(inside) and not all(inside):
        stray = next(path for path, deep in zip(paths, inside, strict=True) if not deep)
        raise BadInput(f"{folder}: got {str(stray)!r} beside class folders, allowed: images in class folders, or without any")
    rows = [Row(f"folder {path.parts[0]!r}", path.as_posix(), path.parts[0] if len(path.parts) > 1 else "") for path in paths]
    return Manifest(folder, folder, (), (), tuple(rows))


def _csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Lines that are not empty, each with where it is: the header, then the rows."""
    with open_regular(os.fspath(path)) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader = csv.reader(_lines(text), strict=True)
        try:
            for fields in reader:
                if fields:
                    yield f"line {reader.line_num}", fields
        except csv.Error as error:
            raise BadInput(f"line {reader.line_num}: {error}; allowed: CSV") from None


def _lines(file: io.TextIOWrapper) -> Iterator[str]:
    while line := file.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise BadInput(f"got a line of more than {LONGEST:,} characters, allowed: CSV")
        yield line


def _parquet(path: Path) -> Iterator[tuple[str, list[str]]]:
    """As `_csv`, of a Parquet file, some thousand rows at a time."""
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise Unavailable(f"{path}: to read Parquet, pip install pyarrow; or write the manifest as CSV") from error
    try:
        with open_regular(os.fspath(path)) as stream, parquet.ParquetFile(stream) as file:
            yield "the header", [str(name) for name in file.schema_arrow.names]
            number = 0
            for batch in file.iter_batches():
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield f"row {number}", [_text(value) for value in values]
    except arrow.ArrowException as error:
        raise BadInput(f"no Parquet: {error}") from None


def _text(value: Any) -> str:
    """A value as CSV would have it: nothing for none, and whole numbers without a fraction."""
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        return value.decode()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _checked(path: Path, lines: Iterator[tuple[str, list[str]]]) -> Manifest:
    """The lines as rows; the first thing that is wrong raises `BadInput`."""
    _, header = next(lines, ("", []))
    columns = _columns(header)
    regions = [column for column in columns if column[0] in REGIONS]
    reader = _Fields(os.fspath(path.parent))
    rows: list[Row] = []
    first: dict[str, str] = {}
    for at, fields in lines:
        if len(fields) != len(columns):
            raise BadInput(f"{at}: got {len(fields)} fields, allowed: {len(columns)}, one for each column of the header")
        row = reader.row(at, columns, fields)
        if row.path in first:
            raise BadInput(f"{at}, column path: got {_quoted(row.path)} as in {first[row.path]}, allowed: each image once")
        first[row.path] = at
        rows.append(row)
    if not rows:
        raise BadInput("got no images, allowed: a line for each image below the header")
    groups = tuple(name for kind, name in columns if kind == "group")
    return Manifest(path, path.parent, tuple(name for _, name in regions), groups, tuple(rows))


def _columns(header: list[str]) -> list[tuple[str, str]]:
    """The header as (kind, name): ("path", ""), ("label", ""), ("mask", "object"), ..."""
    if not header:
        raise BadInput(f"the file is empty; allowed: a header ({_ALLOWED.removeprefix('allowed: ')})")
    columns = []
    for field in header:
        kind, colon, name = (part.strip() for part in field.partition(":"))
        plain = kind in ("path", "label") and not colon
        if not plain and (kind not in (*REGIONS, "group") or not name or _CONTROL.search(name)):
            raise BadInput(f"the header: got the column {_quoted(field)}, {_ALLOWED}")
        columns.append(("region" if kind in REGIONS else kind, name))
        if columns.count(columns[-1]) > 1:
            raise BadInput(
                f"the header: got two columns for {kind} {name}".rstrip() + ", allowed: one of each, and each region's name once"
            )
    for needed in ("path", "label"):
        if (needed, "") not in columns:
            raise BadInput(f"the header: got {_quoted(','.join(header))}, which lacks the column {needed}, {_ALLOWED}")
    return [(field.partition(":")[0].strip(), name) for field, (_, name) in zip(header, columns, strict=True)]


class _Fields:
    """Reads the fields of a line; knows which folders lie inside the manifest's own."""

    def __init__(self, folder: str) -> None:
        self.folder, self.root = folder, os.path.realpath(folder)
        self._inside: dict[str, bool] = {}

    def row(self, at: str, columns: list[tuple[str, str]], fields: Iterable[str]) -> Row:
        """The row that stands in these fields; `BadInput` names the column that is wrong."""
        found: dict[str, list[Any]] = {"path": [], "label": [], "region": [], "group": []}
        for (kind, name), field in zip(columns, fields, strict=True):
            try:
                value = self._value(kind, field)
            except BadInput as error:
                column = f"{kind}:{name}" if name else kind
                raise BadInput(f"{at}, column {column}: got {_quoted(field)}, {error}") from None
            found["region" if kind in REGIONS else kind].append(value)
        return Row(at, found["path"][0], found["label"][0], tuple(found["region"]), tuple(found["group"]))

    def _value(self, kind: str, field: str) -> Region | None:
        longest = LONGEST_RUNS if kind == "rle" else LONGEST_FIELD
        if len(field) > longest:
            raise BadInput(f"of {len(field):,} characters, allowed: at most {longest:,}")
        if _CONTROL.search(field):
            raise BadInput("allowed: text without tabs, line breaks and other control characters")
        if kind == "box":
            return _box(field)
        if kind == "rle":
            return read_run_lengths(field) if field.strip() else None
        if kind == "path" or (kind == "mask" and field.strip()):
            return self._path(field)
        return None if kind == "mask" else field.strip()

    def _path(self, field: str) -> str:
        """The path as it is known by: without "./" and doubled slashes."""
        if not field.strip():
            raise BadInput("allowed: a path")
        if _DRIVE.match(field) or ".." in re.split(r"[/\\]", field) or self._leads_out(field):
            raise BadInput("allowed: a path relative to the manifest that does not leave its folder")
        return PurePosixPath(field).as_posix()

    def _leads_out(self, field: str) -> bool:
        """Whether links take the path out of the folder."""
        path = os.path.join(self.folder, field)
        parent = os.path.dirname(path)
        if parent not in self._inside:
            self._inside[parent] = self._is_inside(parent)
        return not self._inside[parent] or (os.path.islink(path) and not self._is_inside(path))

    def _is_inside(self, path: str) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self.root)


def _box(field: str) -> Box | None:
    """Four numbers, corner before corner; None for nothing."""
    if not field.strip():
        return None
    try:
        x0, y0, x1, y1 = (float(each) for each in field.split())
    except ValueError:
        x0 = y0 = x1 = y1 = math.nan
    if not 0 <= x0 < x1 < math.inf or not 0 <= y0 < y1 < math.inf:
        raise BadInput("allowed: 'x0 y0 x1 y1' in pixels of the upright image, ends excluded, x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def _quoted(text: str) -> str:
    return short(repr(text))
