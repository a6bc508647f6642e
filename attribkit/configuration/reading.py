"""A TOML file, and what the command line sets in it, as a `Configuration` and an `Execution`: every mistake at once, with its place."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadInput, BrokenFile
from ..registry import Settings, read, short
from .base import PLANTED, SCHEMA, Configuration, Execution, Keys, checked, spelled
from .entries import problem_of
from .positions import positions
from .texts import text_of

RUN = "run"  # the table of a file that says how it is run
OPTION = "--"
SET = "--set"  # the option of the command line that overrides are given with
_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_BARE = re.compile(r"[^\W\d].*|[./~].*")  # a name, a call or a path, without the quotes that a shell takes away


def read_configuration(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Configuration, Execution]:
    """What the TOML file at `path` asks for, with `overrides` ("limit=100", "methods.0.steps=64", "run.workers=2") set in it.

    The file says `schema = 1`, has the fields of `Configuration` as keys and those of `Execution` in the table `run`. Methods, metrics and
    problems are lists of names, calls, or tables with the key `name`. Paths in the file are relative to it. `BadInput` has a line for each
    mistake, with the line of the file and the keys that it is under.
    """
    return configured(path, {}, overrides)


def configured(
    base: str | Path | tuple[Configuration, Execution] | None, options: Mapping[str, tuple[Keys, Any]], overrides: Sequence[str] = ()
) -> tuple[Configuration, Execution]:
    """What a file asks for, or an earlier pair, or nobody yet, with the values of `options` in it, then `overrides`.

    An option is known by its name ("--limit"): its value stands under the keys beside it.
    """
    if base is None:
        draft = _Draft({}, "", {})
    elif isinstance(base, tuple):
        draft = _of_pair(*base)
    else:
        draft = _of_file(base)
    for name, (keys, value) in options.items():
        draft.put(keys, value, name)
    for override in overrides:
        draft.set(override)
    draft.beside(Path.cwd())  # a run goes on from anywhere
    return draft.made()


def _of_file(path: str | Path) -> _Draft:
    text = text_of(path)
    try:
        raw, places = tomllib.loads(text), positions(text)
    except RecursionError:
        raise BrokenFile(path, "lists within lists within lists, without end; allowed: a configuration") from None
    except ValueError as error:
        found = _LINE.search(str(error))
        number = int(found[1]) if found else text.count("\n") + 1
        raise BrokenFile(path, f"line {number}: {_LINE.sub('', str(error)).strip()}; allowed: TOML") from None
    draft = _Draft(raw, str(path), {keys: f"{path}: line {line}" for keys, line in places.items()})
    schema = raw.pop("schema", None)
    if schema != SCHEMA or isinstance(schema, bool):
        got = "none" if schema is None else short(repr(schema))
        draft.wrong(("schema",), f"got {got}, allowed: schema = {SCHEMA}")
    draft.beside(Path(path).parent)
    return draft


def overridden(configuration: Configuration, execution: Execution, overrides: Sequence[str]) -> tuple[Configuration, Execution]:
    """Both with `overrides` set in them, checked as those of a file are."""
    return configured((configuration, execution), {}, overrides)


def _of_pair(configuration: Configuration, execution: Execution) -> _Draft:
    raw = {field.name: getattr(configuration, field.name) for field in dataclasses.fields(configuration)}
    raw |= {name: list(value) for name, value in raw.items() if isinstance(value, tuple)}
    return _Draft({**raw, RUN: dataclasses.asdict(execution)}, "the configuration", {})


class _Draft:
    """The plain values of a configuration that is not checked yet, where each stands, and what is known to be wrong with them."""

    def __init__(self, raw: dict[str, Any], source: str, places: dict[Keys, str]) -> None:
        self.raw, self.source, self.places = raw, source, places
        self.mistakes: list[str] = []

    def wrong(self, keys: Keys, what: str) -> None:
        """Note a mistake at the keys, or, where nothing stands there, at what they are in, or at what is in them."""
        around = [keys[:end] for end in range(len(keys), 0, -1) if keys[:end] in self.places]
        known = next(iter(around or [inner for inner in self.places if inner[: len(keys)] == keys]), None)
        if known is None and not self.source:  # the command line, where what is lacking is an option
            place = f"{OPTION}{spelled(keys).removesuffix('s') if keys[0] in ('methods', 'metrics', 'problems') else spelled(keys)}"
        elif known is None:
            place = f"{self.source}: {spelled(keys)}"
        elif known == keys and self.places[keys].startswith(OPTION):
            place = self.places[keys]
        else:
            place = f"{self.places[known]}, {spelled(keys)}"
        self.mistakes.append(f"{place}: {what}")

    def beside(self, folder: Path) -> None:
        """Take paths to begin at `folder`."""
        from ..model.weights import is_file_name

        def isfile(classes: str) -> bool:
            return "\0" not in classes and os.path.isfile(folder / classes)

        run = self.raw.get(RUN)
        paths = {"data": lambda text: text != PLANTED, "weights": is_file_name, "classes": isfile}
        where = [(self.raw, name, test) for name, test in paths.items()]
        for table, name, is_path in [*where, *([(run, "out", bool)] if isinstance(run, dict) else [])]:
            given = table.get(name)
            try:
                if isinstance(given, str) and given and is_path(given):
                    table[name] = os.path.abspath(folder / given)
            except BadInput as error:
                self.wrong((name,), str(error))

    def set(self, override: str) -> None:
        """KEY=VALUE, as in methods.0.steps=64; the value as TOML has it, or a word as it is."""
        place = f"{SET} {short(override if override.isprintable() else repr(override))}"
        name, equals, text = override.partition("=")
        keys: Keys = tuple(int(part) if part.isdecimal() and len(part) < 9 else part for part in name.strip().split("."))
        try:
            if not equals or "" in keys:
                raise BadInput("allowed: KEY=VALUE, such as limit=100 or methods.0.steps=64")
            value = _value(text.strip())
            table, last = self._at(keys)
            table[last] = value
        except BadInput as error:
            self.mistakes.append(f"{place}: {error}")
            return
        self._placed(keys, place)

    def put(self, keys: Keys, value: Any, place: str) -> None:
        """A value in the place of another, or of none, below tables that are made where there are none."""
        table, last = self._at(keys)
        table[last] = value
        self._placed(keys, place)

    def _placed(self, keys: Keys, place: str) -> None:
        self.places = {known: where for known, where in self.places.items() if known[: len(keys)] != keys}
        self.places[keys] = place

    def _at(self, keys: Keys) -> tuple[Any, str | int]:
        """The table or list in which the last of the keys stands; a text on the way becomes the table that it describes."""
        here: Any = self.raw
        for depth, key in enumerate(keys):
            if isinstance(here, list):
                if not isinstance(key, int) or key >= len(here):
                    raise BadInput(
                        f"got {spelled(keys[: depth + 1])}, allowed: a number below {len(here)}, as {spelled(keys[:depth])} has them"
                    )
            elif not isinstance(here, dict):
                raise BadInput(f"got {spelled(keys)}, allowed: nothing below {spelled(keys[:depth])}")
            elif isinstance(key, int):
                raise BadInput(f"got {spelled(keys[: depth + 1])}, allowed: a name, as in limit=100 or methods.0.steps=64")
            if depth == len(keys) - 1:
                return here, key
            if isinstance(here, dict):
                here.setdefault(key, {})
            here[key] = _opened(here[key], keys[0])
            here = here[key]
        raise BadInput("allowed: a key")

    def made(self) -> tuple[Configuration, Execution]:
        """Both, or `BadInput` with all that is wrong."""
        run = self.raw.pop(RUN, {})
        if not isinstance(run, dict):
            self.wrong((RUN,), f"got {short(repr(run))}, allowed: a table")
            run = {}
        asked, mistakes = checked(Configuration, self.raw)
        done, others = checked(Execution, run)
        for keys, what in [*mistakes, *(((RUN, *keys), what) for keys, what in others)]:
            self.wrong(keys, what)
        if self.mistakes:
            raise BadInput("\n".join(self.mistakes))
        return Configuration(**asked), Execution(**done)


def _value(text: str) -> Any:
    """What stands after the equals sign: TOML, or bare words, which are a string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
        if list(parsed) == ["value"]:
            return parsed["value"]
    except (ValueError, RecursionError):
        if _BARE.fullmatch(text):
            return text
    raise BadInput(f'got {short(repr(text))}, allowed: a value as TOML has it, such as 3, true, "a text" or [1, 2], or bare words')


def _opened(value: Any, of: str | int) -> Any:
    """A method, metric or problem as the table that describes it, so that one of its settings can be replaced."""
    if isinstance(value, str) and of == "problems":
        cls, settings = problem_of(value)
        return {"name": cls.name, **settings}
    if isinstance(value, str) and of in ("methods", "metrics"):
        from ..methods import METHODS
        from ..metrics import METRICS

        value = read(value, METHODS if of == "methods" else METRICS)
    if isinstance(value, Settings):
        settings = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}  # type: ignore[arg-type]
        return {"name": value.name, **settings}
    return value
