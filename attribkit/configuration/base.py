"""`Configuration`, everything that decides the numbers of an evaluation, and `Execution`, how it is run; checked when made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..errors import AttribkitError, BadInput, UnknownName
from ..registry import AtLeast, Settings, fitting, hints, needed, short
from .entries import methods_from, metrics_from, problems_from
from .texts import class_names

if TYPE_CHECKING:
    from ..batch import Kind
    from ..methods.base import Method
    from ..metrics.base import Metric

SCHEMA = 1  # of files and records; another number when what they mean changes
PLANTED = "planted"  # the data in the box

Three = tuple[float, float, float]
Keys = tuple[str | int, ...]
Mistake = tuple[Keys, str]  # where, as in ("methods", 1, "steps"), and what is wrong there


class _Checked:
    """Base of both: each field is brought to its plain form, and all that is wrong is said together."""

    def __post_init__(self) -> None:
        values, mistakes = checked(type(self), vars(self))
        if mistakes:
            raise BadInput("\n".join(f"{type(self).__name__}({spelled(keys)}=...): {what}" for keys, what in mistakes))
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration(_Checked):
    """What is evaluated: a model, its images, and what is asked of them.

    `weights` as `load_model` has them, or "none"; `mean`, `std`, `size`, `classes` (names, or what `class_names` reads) and `layer`
    override what goes with the model. `data` is a manifest, a folder, or "planted"; `problems` are their names, or calls such as
    "Grid(n=3, count=50)", and `seed` is that of problems that have one and do not say it. `kind` is what of its target `Labelled`
    explains; `limit` takes the first images only; `batch` images are read at a time; `maps` says how maps are kept.
    """

    model: str
    weights: str = "default"
    mean: Three | None = None
    std: Three | None = None
    size: Annotated[int, AtLeast(1)] | None = None
    classes: tuple[str, ...] | None = None
    layer: str | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    kind: Kind = "logit"
    data: str
    problems: tuple[str, ...] = ("labelled",)
    methods: tuple[Method, ...]
    metrics: tuple[Metric, ...]
    controls: bool = True
    seed: Annotated[int, AtLeast(0)] = 0
    limit: Annotated[int, AtLeast(1)] | None = None
    batch: Annotated[int, AtLeast(1)] = 32
    maps: Literal["float16", "float32", "none"] = "float16"

    def record(self) -> dict[str, Any]:
        """Every field in values that JSON has, methods and metrics as they print themselves: what `from_record` reads back."""
        found = {field.name: _json(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return dict(sorted({"schema": SCHEMA, **found}.items()))

    @classmethod
    def from_record(cls, record: Any) -> Configuration:
        """The configuration that `record()` was made of; `BadInput` where it is none, or damaged."""
        if not isinstance(record, Mapping) or record.get("schema") != SCHEMA:
            raise BadInput(f"the record of a run: got another kind, allowed: one of schema {SCHEMA}")
        given = {name: value for name, value in record.items() if name != "schema"}
        mistakes: list[Mistake] = []
        if isinstance(given.get("classes"), str):  # which would be a file to read
            mistakes.append((("classes",), f"got {short(repr(given.pop('classes')))}, allowed: names"))
        lacking = {field.name for field in dataclasses.fields(cls)} - set(record) - set(needed(cls))
        mistakes += [((name,), "got none, allowed: a value") for name in sorted(lacking)]
        values, found = checked(cls, given)
        mistakes += found
        if mistakes:
            raise BadInput("\n".join(f"the record of a run, {spelled(keys)}: {what}" for keys, what in mistakes))
        return cls(**values)

    def key(self) -> str:
        """The sha256 of the record: two configurations have the same one exactly when they are equal."""
        text = json.dumps(self.record(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution(_Checked):
    """How it is run, which changes no number: the folder `out`, so many `workers`, an engine, seconds that one image may take, a device.

    `retry`: what failed before is tried again.
    """

    out: str | None = None
    workers: Annotated[int, AtLeast(0)] | None = None
    engine: Literal["local", "ray"] = "local"
    deadline: float = 1800.0
    device: str | None = None
    retry: bool = False


def checked(cls: type[Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Mistake]]:
    """Each field that is given, in its plain form, and everything that is wrong with what is given and what is not."""
    meant, values, mistakes = _meant(cls), dict[str, Any](), list[Mistake]()
    for name, value in given.items():
        try:
            if name not in meant:
                raise UnknownName("key", name, meant)
            if name in _ENTRIES:
                values[name], wrong = _ENTRIES[name](value)
                mistakes += [((name, *keys), what) for keys, what in wrong]
            else:
                values[name] = _field(name, value, meant[name])
        except AttribkitError as error:
            mistakes.append(((name,), _one_line(error)))
    mistakes += [((name,), "got none, allowed: a value") for name in needed(cls) if name not in given]
    return values, mistakes


_ENTRIES: dict[str, Callable[[Any], tuple[tuple[Any, ...], list[Mistake]]]] = {
    "methods": methods_from,
    "metrics": metrics_from,
    "problems": problems_from,
}


def _meant(cls: type[Any]) -> Mapping[str, Any]:
    if cls is Execution:
        return hints(cls)
    from ..batch import Kind

    return hints(cls, Kind=Kind, Method=Settings, Metric=Settings)


def _field(name: str, value: Any, hint: Any) -> Any:
    """The value of a field that is no list of methods, metrics or problems."""
    if name in ("mean", "std"):
        return _three(value, above=0 if name == "std" else -math.inf)
    if name == "classes" and isinstance(value, str):
        value = class_names(value)
    if name == "precision" and value == "bf16":
        value = "bfloat16"
    try:
        plain = fitting(tuple(value) if isinstance(value, list) else value, hint)
    except BadInput as error:
        raise BadInput(str(error).removesuffix(" or None")) from None  # a file has no None
    if name == "deadline" and not 0 < plain < math.inf:
        raise BadInput(f"got {plain!r}, allowed: seconds, a number above 0")
    if plain in ("", ()):
        raise BadInput(f"got {plain!r}, allowed: something in it")
    return plain


def _three(value: Any, *, above: float) -> Three | None:
    """One number for all channels, or one for each."""
    if value is None:
        return None
    given = [value] * 3 if not isinstance(value, list | tuple) else list(value)
    numbers = [each for each in given if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(given) != 3 or len(numbers) != 3 or not all(math.isfinite(each) and each > above for each in numbers):
        raise BadInput(f"got {short(repr(value))}, allowed: a number{' above 0' if above == 0 else ''}, or three")
    return float(given[0]), float(given[1]), float(given[2])


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(each) for each in value]
    return repr(value) if isinstance(value, Settings) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def spelled(keys: Keys) -> str:
    """Where in a file: ("methods", 1, "steps") -> "methods[1].steps"."""
    return "".join(_spelled(keys)).removeprefix(".")


def _spelled(keys: Keys) -> Iterator[str]:
    for key in keys:
        yield f"[{key}]" if isinstance(key, int) else f".{key if key.isprintable() and len(key) <= 60 else repr(key[:60])}"
