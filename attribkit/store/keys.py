"""What decides a model's answers and a method's maps, as digests: what is kept under the same ones need not be done again."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from ..errors import Unsupported
from ..methods.precomputed import Precomputed
from ..problems.shards import digest_tensor, digested
from ..registry import Settings

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

PACKAGE = __name__.partition(".")[0]
PLAIN = (str, bytes, int, float, complex, type(None), type(...))


def fingerprint(model: VisionModel) -> str:
    """A digest of a model's weights and structure, its preprocessing and its precision.

    What its code does is not in it: a `forward` that was changed under the same names gives the same digest.
    """
    digest = hashlib.sha256()
    module = model.module
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    for words in (kind, str(module), repr(model.preprocessing), model.precision, _layer(model), repr(model.classes)):
        digest.update(f"{words}\n".encode("utf-8", "surrogatepass"))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(name.encode())
        digest_tensor(digest, tensor)
    return digest.hexdigest()


def _layer(model: VisionModel) -> str:
    """The layer that CAM methods look at, which a person may have chosen."""
    try:
        return model.layer
    except Unsupported:
        return ""


def text_of(thing: Settings) -> str:
    """What makes a method or metric again; where its settings do not decide everything, a digest of what else does, as a comment.

    That is the code of a class or a callable of somebody's own (though not the code that this calls), and the files that maps are in.
    """
    more = list(_beside(thing))
    return f"{thing!r}  # {digested(*more)[:16]}" if more else repr(thing)


def _beside(thing: Settings) -> Iterator[Any]:
    cls = type(thing)
    if not cls.__module__.startswith(f"{PACKAGE}."):
        yield [_code(value) for _, value in sorted(vars(cls).items()) if hasattr(value, "__code__")]
    if isinstance(thing, Precomputed):
        yield _files(Path(thing.folder))
    for field in dataclasses.fields(thing):  # type: ignore[arg-type]  # all settings are dataclasses
        value = getattr(thing, field.name)
        if isinstance(value, Settings):
            yield from _beside(value)
        elif callable(value):
            yield _code(value)


def _code(function: Any) -> Any:
    """What a function does: its code, its defaults, and the plain values that it has from around it."""
    inner = getattr(function, "func", None)  # of a partial
    if inner is not None and not hasattr(function, "__code__"):
        return [_code(inner), *map(_constant, (function.args, tuple(sorted(function.keywords.items()))))]
    called = function if hasattr(function, "__code__") else vars(type(function)).get("__call__")
    code = getattr(called, "__code__", None)
    around = [cell.cell_contents for cell in getattr(called, "__closure__", None) or () if _is_set(cell)]
    return [_constant(each) for each in (code, getattr(called, "__defaults__", None), tuple(around))]


def _is_set(cell: Any) -> bool:
    try:
        return isinstance(cell.cell_contents, PLAIN)
    except ValueError:  # nothing is in it yet
        return False


def _constant(value: Any) -> Any:
    """A constant of a function as plain values, the same in every process."""
    if isinstance(value, CodeType):
        return [value.co_code.hex(), *value.co_names, *value.co_varnames, *map(_constant, value.co_consts)]
    if isinstance(value, tuple | frozenset):
        parts = [_constant(each) for each in value]
        return sorted(parts, key=repr) if isinstance(value, frozenset) else parts
    return repr(value) if isinstance(value, PLAIN) else type(value).__qualname__


def _files(path: Path) -> list[Any]:
    """The files of maps, each with the digest of its content."""
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = []
    for each in paths:
        if each.is_file():
            with each.open("rb") as file:
                found.append([os.fsencode(each.relative_to(path)).hex(), hashlib.file_digest(file, "sha256").hexdigest()])
    return found
