"""Settings objects: checked when made, printed as they are read, found by name.

A method, a metric or a removal is a frozen dataclass of plain values. `repr` writes one, `read` reads one back, and the class is
in its table (`METHODS`, ...) because its module was imported.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from .errors import BadInput, UnknownName

T = TypeVar("T")
TABLES: list[Table[Any]] = []  # every table there is: the classes that a text may name


class Table(Mapping[str, type[T]], Generic[T]):
    """Name -> class of one kind of thing; two classes under one name raise."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}
        TABLES.append(self)

    def add(self, name: str, cls: type[T]) -> None:
        """Enter `cls` under `name`; a class defined anew under its own name (a notebook cell run twice) replaces itself."""
        there = self._classes.get(name)
        if there is not None and (there.__module__, there.__qualname__) != (cls.__module__, cls.__qualname__):
            raise BadInput(
                f"two {self.kind}s are called {name!r}: {there.__module__}.{there.__qualname__} and {cls.__module__}.{cls.__qualname__}"
            )
        self._classes[name] = cls

    def __getitem__(self, name: str) -> type[T]:
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        return len(self._classes)

    def __repr__(self) -> str:
        return f"<{len(self)} {self.kind}s: {', '.join(self)}>"


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """`Annotated[int, AtLeast(1)]`: the smallest allowed value of a setting."""

    low: float


class Settings:
    """Base of everything that is a frozen dataclass of plain values with a name in a table.

    A class is abstract (no `name`) or final (a `name`): a final one is entered in its table and cannot be extended, since what
    varies is wrapped instead. Values are checked against the annotations when an object is made, and kept as plain ones (a NumPy
    number becomes a number), so that what is equal prints the same; where settings of a kind are wanted, their text will do.
    """

    name: ClassVar[str]
    table: ClassVar[Table[Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        final = next((base for base in cls.__mro__[1:] if "name" in vars(base)), None)
        if final is not None:
            raise TypeError(f"{cls.__name__} extends {final.__name__}, which is final: wrap it instead")
        if "name" in vars(cls):
            cls.table.add(cls.name, cls)

    def __post_init__(self) -> None:
        for field, hint in hints(type(self)).items():
            object.__setattr__(self, field, fitting(getattr(self, field), hint, f"{type(self).__name__}({field}=...): "))

    def brief(self) -> str:
        """As `repr`, with only the settings that differ from their defaults: for people to read."""
        shown = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                shown.append(f"{field.name}={value.brief() if isinstance(value, Settings) else repr(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


def usage(cls: type[Settings]) -> str:
    """How an object of a class is made: as it prints itself with its defaults, or the settings that have none."""
    return f"{cls.__name__}({', '.join(needed(cls))})" if needed(cls) else repr(cls())


def needed(cls: type[Any]) -> list[str]:
    """The settings that an object of a class cannot be made without."""
    return [field.name for field in dataclasses.fields(cls) if _is_needed(field)]


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def kind_of(hint: Any) -> type[Settings] | None:
    """The kind of settings that an annotation means, if it means one."""
    return hint if isinstance(hint, type) and issubclass(hint, Settings) else None


def hints(cls: Any, **names: Any) -> Mapping[str, Any]:
    """The annotation of each field of a dataclass; `names` are those that only a type checker imports."""
    return _evaluated(cls, tuple(names.items()))


@functools.cache  # to evaluate the annotations of a class takes a millisecond, and objects are made by the thousand
def _evaluated(cls: Any, names: tuple[tuple[str, Any], ...]) -> Mapping[str, Any]:
    found = typing.get_type_hints(cls, localns=dict(names) or None, include_extras=True)
    return types.MappingProxyType({field.name: found[field.name] for field in dataclasses.fields(cls)})


def fitting(value: Any, hint: Any, what: str = "") -> Any:
    """`value` as the plain one that an annotation means; `BadInput`, with `what` in front, says what it allows."""
    kind = kind_of(hint)
    if kind is not None and isinstance(value, str):
        value = read(value, kind.table)
    wrong = _wrong(value, hint)
    if wrong:
        raise BadInput(f"{what}got {short(repr(value))}, allowed: {wrong}")
    return _plain(value, hint)


def _wrong(value: object, hint: Any) -> str:
    """What would be allowed, in words, if `value` is not; else the empty string."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        low = next((extra.low for extra in args[1:] if isinstance(extra, AtLeast)), None)
        wrong = _wrong(value, args[0])
        too_low = not wrong and low is not None and value is not None and not value >= low  # type: ignore[operator]
        return f"{wrong or _wrong(object(), args[0])} of at least {low:g}" if (wrong or too_low) and low is not None else wrong
    if origin is typing.Literal:
        return "" if value in args else " or ".join(repr(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return "" if any(not _wrong(value, arg) for arg in args) else " or ".join(_wrong(value, arg) for arg in args)
    if origin is tuple:
        inner = args[0]
        fits = isinstance(value, tuple) and all(not _wrong(item, inner) for item in value)
        return "" if fits else f"a tuple of {_wrong(object(), inner)}"
    return "" if _is(value, hint) else _words(hint)


def _plain(value: Any, hint: Any) -> Any:
    """An allowed value as the plain type that its annotation means, which prints as it is read."""
    if isinstance(value, tuple):
        return tuple(_plain(item, hint) for item in value)
    if isinstance(value, str):
        return str.__str__(value)  # not str(value), which an enumeration answers with its name
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return float(value) if isinstance(value, float) or not _means(int, hint) else int(value)


def _means(kind: type, hint: Any) -> bool:
    """Whether `kind` is among the types of an annotation."""
    args = typing.get_args(hint)[:1] if typing.get_origin(hint) is typing.Annotated else typing.get_args(hint)
    return hint is kind or any(_means(kind, arg) or type(arg) is kind for arg in args)


def _is(value: Any, kind: Any) -> bool:
    if kind is None or kind is types.NoneType:
        return value is None
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (abs(value) <= sys.float_info.max or abs(value) == math.inf)  # no NaN, no int beyond all floats
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    names = {
        int: "an int",
        float: "a number",
        str: "a string",
        bool: "True or False",
        types.NoneType: "None",
        None: "None",
        Callable: "a callable",
    }
    return names.get(kind) or f"a {getattr(kind, '__name__', kind)}"


LONGEST = 2000  # characters of a setting's text; nobody writes more by hand, and what a parser does with more is its own affair


def read(text: str, *tables: Table[Any]) -> Any:
    """The object that `text` describes: a name of `tables[0]` ("grad_cam") or a call as `repr` prints it ("Smooth(GradCAM())").

    Values are literals or further such calls (of any table there is); nothing is evaluated. Anything else raises `BadInput`.
    """
    tables = (*tables, *(table for table in TABLES if table not in tables))
    kind, text = tables[0].kind, text.strip()
    if text.replace("_", "").isalnum() and not text[:1].isdigit() and text in tables[0]:
        return _made(tables[0][text], {}, text)
    tree = parsed(text, kind)
    if isinstance(tree, ast.Name):
        tree = ast.Call(func=tree, args=[], keywords=[])
    if not isinstance(tree, ast.Call):
        raise UnknownName(kind, short(text), tables[0])
    made = _value(tree, text, tables)
    if not isinstance(made, tuple(tables[0].values())):
        raise UnknownName(kind, type(made).__name__, tables[0])
    return made


def one_of(like: Any, base: Any, name: str, call: str) -> Any:
    """Settings of a kind, from their name, from their `repr`, or themselves; `name` and `call` are examples of the first two."""
    kind = base.table.kind
    if isinstance(like, base):
        return like
    if isinstance(like, type) and issubclass(like, base):
        raise BadInput(f"{kind}: got the class {like.__name__}, allowed: an object of it, such as {like.__name__}()")
    if not isinstance(like, str):
        examples = f"a name such as {name!r}, a call such as {call!r}, or a {base.__name__}"
        raise BadInput(f"{kind}: got {type(like).__name__}, allowed: {examples}")
    return read(like, base.table)


def short(text: str, room: int = 80) -> str:
    """`text`, cut in the middle where it has more than `room` characters: for messages."""
    return text if len(text) <= room else f"{text[: room // 2 - 2]} ... {text[len(text) - room // 2 + 3 :]}"


def parsed(text: str, kind: str) -> ast.expr:
    """The expression that a text is, which is meant to describe a thing of a kind; nothing is evaluated."""
    if len(text) > LONGEST:
        raise BadInput(f"cannot read the {kind} {short(text)!r}; allowed: at most {LONGEST} characters, got {len(text)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes and digits, which say nothing to the person who typed this
            return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadInput(f"cannot read the {kind} {short(text)!r}; allowed: a name, or a call such as Name(setting=1)") from None


def _value(node: ast.expr, text: str, tables: tuple[Table[Any], ...]) -> Any:
    if isinstance(node, ast.Call):
        return _called(node, text, tables)
    if isinstance(node, ast.Name) and any(node.id in (name, cls.__name__) for table in tables for name, cls in _settings(table).items()):
        return _called(ast.Call(func=node, args=[], keywords=[]), text, tables)
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(item, text, tables) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        part = ast.get_source_segment(text, node) or text
        raise BadInput(f"cannot read {short(part)!r} in {short(text)!r}; allowed: numbers, strings, tuples, None, True, False") from None


def _called(node: ast.Call, text: str, tables: tuple[Table[Any], ...]) -> Any:
    if not isinstance(node.func, ast.Name) or any(keyword.arg is None for keyword in node.keywords):
        raise BadInput(f"cannot read {short(text)!r}; allowed: a call such as Name(setting=1)")
    cls = _find(node.func.id, tables)
    names = [field.name for field in dataclasses.fields(cls)]
    if len(node.args) > len(names):
        raise BadInput(f"{cls.__name__} takes at most {len(names)} settings, got {len(node.args)} in {short(text)!r}")
    given = [*names[: len(node.args)], *(str(keyword.arg) for keyword in node.keywords)]
    twice = next((name for name in given if given.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"{cls.__name__}: got {twice} twice in {short(text)!r}, allowed: once")
    nodes = (*node.args, *(keyword.value for keyword in node.keywords))
    meant = hints(cls)
    values = [_value(each, text, _first(meant.get(name), tables)) for name, each in zip(given, nodes, strict=True)]
    return _made(cls, dict(zip(given, values, strict=True)), text)


def _first(hint: Any, tables: tuple[Table[Any], ...]) -> tuple[Table[Any], ...]:
    """The tables, that of the settings which an annotation means before the others."""
    kind = kind_of(hint)
    return tables if kind is None else (kind.table, *(table for table in tables if table is not kind.table))


def _find(name: str, tables: tuple[Table[Any], ...]) -> type[Any]:
    for table in tables:
        for own, cls in _settings(table).items():
            if name in (own, cls.__name__):
                return cls
    raise UnknownName(tables[0].kind, short(name), tables[0])


def _settings(table: Table[Any]) -> dict[str, type[Settings]]:
    """The classes of a table whose objects a text can describe; problems, for one, hold a model."""
    return {name: cls for name, cls in table.items() if issubclass(cls, Settings)}


def _made(cls: type[Any], settings: dict[str, Any], text: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in settings:
        if name not in fields:
            raise UnknownName(f"setting of {cls.__name__}", short(name), fields)
    missing = [name for name in needed(cls) if name not in settings]
    if missing:
        raise BadInput(f"{cls.__name__} needs {', '.join(missing)}; got {short(text)!r}")
    return cls(**settings)
