"""Scores as a CSV file, and back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import BrokenFile
from .parts import Column
from .summaries import YES, type_of

ABOUT = ("problem", "model", "method", "metric")
FIXED = (*ABOUT, "id", "target", "score", "chance", "higher_is_better", "control")


class Read(NamedTuple):
    """The rows under one key, whose images have no numbers yet; whether higher is better, and whether the method is a control."""

    about: tuple[str, str, str, str]
    ids: list[str]
    column: Column
    higher: bool
    control: bool


def written_table(rows: Iterable[Mapping[str, Any]], groups: list[str]) -> bytes:
    """The rows as CSV in UTF-8, labels between targets and scores, numbers with as many digits as tell single precision apart."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")  # either character of which is then quoted in an id
    writer.writerow([*FIXED[:6], *groups, *FIXED[6:]])
    for row in rows:
        numbers = [np.float32(row["score"]), "" if np.isnan(row["chance"]) else np.float32(row["chance"])]
        labels = ("" if row[name] is None else row[name] for name in groups)
        writer.writerow([*(row[name] for name in FIXED[:6]), *labels, *numbers, row["higher_is_better"], row["control"]])
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_table(path: str | Path) -> Iterator[Read]:
    """The rows of a file of `written_table`, key by key; `BrokenFile` names the line that is not as it should be."""
    lines, groups = _lines(path)
    keys: dict[tuple[str, ...], list[tuple[int, list[str]]]] = {}
    for number, line in lines:
        keys.setdefault(tuple(line[:4]), []).append((number, line))
    types = {name: type_of([line[6 + place] for _, line in lines]) for place, name in enumerate(groups)}
    for about, own in keys.items():
        flags = {tuple(line[-2:]) for _, line in own}
        if len(flags) > 1 or not set(next(iter(flags))) <= set(YES):
            raise BrokenFile(
                path, f"line {own[-1][0]}: higher_is_better and control of {about[2]} by {about[3]}: allowed: one True or False each"
            )
        higher, control = (YES[flag] for flag in next(iter(flags)))
        ids, column = _column(path, own, types)
        yield Read((about[0], about[1], about[2], about[3]), ids, column, higher, control)


def _lines(path: str | Path) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """The rows with their line numbers, and the names of the groups."""
    try:
        text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise BrokenFile(path, f"cannot be read: {error.strerror}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = next(reader, [])
        groups = head[6:-4]
        if head != [*FIXED[:6], *groups, *FIXED[6:]] or len(set(head)) != len(head):
            raise BrokenFile(path, f"its first line is not {','.join(FIXED[:6])}, names of groups, {','.join(FIXED[6:])}")
        lines = [(reader.line_num, line) for line in reader]
    except csv.Error as error:
        raise BrokenFile(path, f"line {reader.line_num}: {error}") from None
    for number, line in lines:
        if len(line) != len(head):
            raise BrokenFile(path, f"line {number}: {len(line)} values, allowed: {len(head)}")
    return lines, groups


def _column(path: str | Path, own: list[tuple[int, list[str]]], types: dict[str, Any]) -> tuple[list[str], Column]:
    numbers: list[tuple[int, float, float]] = []
    for number, line in own:
        try:
            numbers.append((int(line[5]), float(line[-4]), float(line[-3] or "nan")))
        except ValueError:
            got = f"{line[5]!r}, {line[-4]!r}, {line[-3]!r}"
            raise BrokenFile(
                path, f"line {number}: target, score and chance are {got}, allowed: a whole number, a number, a number or nothing"
            ) from None
    targets, scores, chances = zip(*numbers, strict=True)
    groups = {}
    for place, (name, kind) in enumerate(types.items()):
        groups[name] = np.full(len(own), None)
        groups[name][:] = [None if line[6 + place] == "" else kind(line[6 + place]) for _, line in own]
    index = np.zeros(len(own), np.int64)
    column = Column(index, np.array(targets, np.int64), groups, np.array(scores, np.float32), np.array(chances, np.float32))
    return [line[4] for _, line in own], column
