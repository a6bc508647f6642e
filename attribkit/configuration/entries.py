"""Methods, metrics and problems as a file has them: a name, a call, or a table with the name and the settings."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import AttribkitError, BadInput, UnknownName
from ..registry import Settings, Table, hints, kind_of, needed, parsed, read, short

T = TypeVar("T")
Keys = tuple[str | int, ...]
Mistakes = list[tuple[Keys, str]]

# What a problem gets from the rest of the configuration: its model, its images, how many of them at a time, what of their targets.
GIVEN = {"model": "the model", "source": "data", "batch_size": "batch", "kind": "kind", "limit": "limit"}


def methods_from(value: Any) -> tuple[tuple[Any, ...], Mistakes]:
    """The methods of a list, and what is wrong with the others."""
    from ..methods import METHODS

    return _several(value, lambda each: _settings(each, METHODS))


def metrics_from(value: Any) -> tuple[tuple[Any, ...], Mistakes]:
    """The metrics of a list, and what is wrong with the others."""
    from ..metrics import METRICS

    return _several(value, lambda each: _settings(each, METRICS))


def problems_from(value: Any) -> tuple[tuple[Any, ...], Mistakes]:
    """The problems of a list in the one text that each has, and what is wrong with the others."""
    return _several(value, _problem)


class _Wrong(BadInput):
    """One or more mistakes in one entry."""

    def __init__(self, mistakes: Mistakes) -> None:
        self.mistakes = mistakes
        super().__init__("; ".join(what for _, what in mistakes))


def _several(value: Any, read_one: Callable[[Any], T]) -> tuple[tuple[T, ...], Mistakes]:
    if not isinstance(value, list | tuple) or not value:
        raise BadInput(f"got {short(repr(value))}, allowed: a list of one or more names, calls or tables")
    found, mistakes = dict[T, None](), Mistakes()
    for place, each in enumerate(value):
        try:
            found[read_one(each)] = None
        except _Wrong as error:
            mistakes += [((place, *keys), what) for keys, what in error.mistakes]
        except AttribkitError as error:
            mistakes.append(((place,), " ".join(str(error).split())))
    return tuple(found), mistakes


def _settings(given: Any, table: Table[Any]) -> Settings:
    """A method or a metric that a text can describe."""
    made: Any
    if isinstance(given, Mapping):
        made = _of_table(given, table)
    elif isinstance(given, str):
        made = read(given, table)
    elif isinstance(given, tuple(table.values())):
        made = given
    else:
        raise BadInput(f"got {short(repr(given))}, allowed: a name, a call such as Name(setting=1), or a table")
    if _read_again(made, table) != made:
        raise BadInput(f"got {short(repr(made))}, allowed: a {table.kind} that its own text describes, since a run keeps that alone")
    settings: Settings = made
    return settings


def _read_again(made: Settings, table: Table[Any]) -> Any:
    try:
        return read(repr(made), table)
    except BadInput:
        return None


def _of_table(given: Mapping[str, Any], table: Table[Any]) -> Any:
    """The object that a table with the key `name` describes; its settings may be such tables themselves."""
    cls, settings = _class(given, table), {name: value for name, value in given.items() if name != "name"}
    meant, mistakes = hints(cls), Mistakes()
    for name, value in settings.items():
        try:
            if name not in meant:
                raise UnknownName(f"setting of {cls.__name__}", name, meant)
            kind = kind_of(meant[name])
            nested = kind is not None and isinstance(value, Mapping)
            settings[name] = _of_table(value, kind.table) if kind is not None and nested else _tuples(value)
        except _Wrong as error:
            mistakes += [((name, *keys), what) for keys, what in error.mistakes]
        except BadInput as error:
            mistakes.append(((name,), str(error)))
    missing = [name for name in needed(cls) if name not in settings]
    if missing:
        raise _Wrong([*mistakes, ((), f"{cls.__name__} needs {', '.join(missing)}")])
    right = {name: value for name, value in settings.items() if name not in {keys[0] for keys, _ in mistakes}}
    return _made(cls, right, needed(cls), mistakes)


def _class(given: Mapping[str, Any], table: Table[Any]) -> type[Any]:
    name = given.get("name")
    if not isinstance(name, str):
        raise _Wrong([(("name",) if "name" in given else (), f"got {short(repr(name))}, allowed: name = a {table.kind}")])
    for own, cls in table.items():
        if name in (own, cls.__name__):
            return cls
    raise _Wrong([(("name",), str(UnknownName(table.kind, name, table)))])


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _made(make: Callable[..., T], settings: Mapping[str, Any], always: list[str], mistakes: Mistakes) -> T:
    """What `make` makes of the settings; where it refuses, every setting that is wrong by itself is named, beside known mistakes."""
    try:
        made = make(**settings)
    except BadInput as error:
        found: dict[str, Keys] = {}
        for name in sorted(settings, key=lambda name: name not in always):
            try:
                make(**{each: settings[each] for each in settings if each == name or each in always})
            except BadInput as alone:
                found.setdefault(str(alone), (name,))
        raise _Wrong([*mistakes, *((keys, what) for what, keys in (found or {str(error): ()}).items())]) from None
    if mistakes:
        raise _Wrong(mistakes)
    return made


class _Blank:
    """Stands for the model and the images of a problem whose settings are to be checked before there are any."""

    classes = ()

    @property
    def model(self) -> _Blank:
        return self

    def numbered(self) -> None:
        """What makes it a source of images."""

    def batch(self) -> None:
        """Likewise."""


def _problem(given: Any) -> str:
    """The one text of a problem: every setting, but those that follow the configuration where they are not given."""
    cls, settings = problem_of(given)
    fields = _settable(cls)
    hints = {name: f"{GIVEN[name]} of the whole run says it" for name in settings if name in GIVEN}
    unknown: Mistakes = [
        ((name,), str(UnknownName(f"setting of {cls.__name__}", name, fields, hints.get(name, ""))))
        for name in settings
        if name not in fields
    ]
    known = {name: value for name, value in settings.items() if name in fields}
    if known and cls.__module__.partition(".")[0] == __name__.partition(".")[0]:  # a stranger's may ask more of its model, and so waits
        places = [_Blank()] * _images(cls)
        _made(lambda **some: cls(*places, **some), known, [], unknown)
    if unknown:
        raise _Wrong(unknown)
    shown = {name: settings.get(name, field.default) for name, field in fields.items() if name in settings or not _follows(cls, name)}
    for name, value in shown.items():
        if isinstance(fields[name].default, float) and isinstance(value, int):
            shown[name] = float(value)  # 1 and 1.0 are one setting
    return f"{cls.__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def problem_of(given: Any) -> tuple[type[Any], dict[str, Any]]:
    """The class and the settings that a name, a call or a table of a problem gives, as yet unchecked."""
    from ..problems import PROBLEMS

    if isinstance(given, Mapping):
        return _class(given, PROBLEMS), {name: _tuples(value) for name, value in given.items() if name != "name"}
    if not isinstance(given, str):
        raise BadInput(f"got {short(repr(given))}, allowed: a name, a call such as Grid(n=3), or a table")
    tree = parsed(given.strip(), PROBLEMS.kind)
    call = tree if isinstance(tree, ast.Call) else ast.Call(func=tree, args=[], keywords=[])
    names = [keyword.arg for keyword in call.keywords]
    if not isinstance(call.func, ast.Name) or call.args or None in names or len(set(names)) < len(names):
        raise BadInput(f"cannot read the problem {short(given)!r}; allowed: a name, or a call such as Grid(n=3)")
    cls = _named(call.func.id, PROBLEMS)
    return cls, {str(keyword.arg): _literal(keyword.value, given) for keyword in call.keywords}


def _named(name: str, table: Table[Any]) -> type[Any]:
    found = next((cls for own, cls in table.items() if name in (own, cls.__name__)), None)
    if found is None:
        raise UnknownName(table.kind, name, table)
    return found


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise BadInput(f"cannot read {short(text)!r}; allowed: settings that are numbers, strings, tuples, None, True, False") from None


def _settable(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init and field.name not in GIVEN}


def _images(cls: type[Any]) -> int:
    """How many places there are for a model and its images."""
    return sum(field.name in ("model", "source") for field in dataclasses.fields(cls))


def _follows(cls: type[Any], name: str) -> bool:
    """Whether a setting, where it is not given, is that of the configuration: the seed, and how many scenes are planted, its limit."""
    return name == "seed" or (name == "count" and cls.__name__ == "Planted")
