"""What every object of settings promises: plain values that print as they are read, compare, and travel."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

from ..errors import BadInput
from ..registry import Settings, needed, read
from .bench import Bench
from .suite import Contract, expect, refused

AnyBench = Bench[Any]
PLAIN = (int, float, str, bool, type(None))


def is_plain(made: Settings) -> bool:
    """Whether all settings are values that have a text: numbers, words, and other such settings."""

    def plain(value: object) -> bool:
        if isinstance(value, tuple):
            return all(map(plain, value))
        return is_plain(value) if isinstance(value, Settings) else isinstance(value, PLAIN)

    return all(plain(getattr(made, field.name)) for field in dataclasses.fields(made))  # type: ignore[arg-type]


def holds_what_has_no_text(bench: AnyBench) -> str:
    """Why it need not be read back: a network or a function among its settings has no text."""
    return "" if is_plain(bench.subject) else "a setting of it has no text that could be read back"


def needs_settings(bench: AnyBench) -> str:
    """Why it cannot be made from its name alone."""
    missing = needed(type(bench.subject))
    return f"it cannot be made without {', '.join(missing)}" if missing else ""


def it_prints_as_it_is_read(bench: AnyBench) -> None:
    """Its `repr` is read back as an equal object: what a report prints is what a command line takes."""
    _reads_back(bench.subject, repr(bench.subject))


def in_brief_it_prints_as_it_is_read(bench: AnyBench) -> None:
    """So is its short form, with only the settings that are not the usual ones."""
    _reads_back(bench.subject, bench.subject.brief())


def _reads_back(subject: Any, text: str) -> None:
    if is_plain(subject):
        again = read(text, subject.table)
        expect(again == subject, f"{text!r} to be read back as the same", repr(again))
    else:
        with refused(BadInput, "cannot read", f"{text!r}, in which a setting has no text,"):
            read(text, subject.table)


def it_prints_in_one_short_line(bench: AnyBench) -> None:
    """Its `repr` fits into the cell of a table."""
    text = repr(bench.subject)
    expect(len(text) < 400 and "\n" not in text, "a repr of one line of less than 400 characters", f"{len(text)}: {text}")


def it_is_made_by_its_name(bench: AnyBench) -> None:
    """Its name alone makes an object with the usual settings."""
    cls = type(bench.subject)
    again = read(bench.subject.name, cls.table)
    expect(type(again) is cls and (not is_plain(again) or again == cls()), f"{bench.subject.name!r} to make {cls.__name__}()", repr(again))


def it_is_in_its_table(bench: AnyBench) -> None:
    """Its class is the one that stands in the table under its name, which is a plain word."""
    cls = type(bench.subject)
    expect(cls.table.get(cls.name) is cls, f"{cls.__name__} in the table as {cls.name!r}", cls.table.get(cls.name))
    expect(cls.name.isidentifier() and cls.name == cls.name.lower(), "a name in small letters, such as grad_cam", cls.name)


def it_pickles(bench: AnyBench) -> None:
    """It goes to another process and comes back as it was."""
    _as_it_was(bench.subject, pickle.loads(pickle.dumps(bench.subject)))


def it_copies(bench: AnyBench) -> None:
    """A deep copy is as good as itself."""
    _as_it_was(bench.subject, copy.deepcopy(bench.subject))


def _as_it_was(subject: Any, again: Any) -> None:
    expect(type(again) is type(subject) and repr(again) == repr(subject), f"{subject!r}", repr(again))
    expect(again == subject or not is_plain(subject), "an equal object", "one that is not equal")


def equal_objects_have_one_hash(bench: AnyBench) -> None:
    """It may be the key of a dict, and an object with equal settings is the same key."""
    again = dataclasses.replace(bench.subject)
    expect(again == bench.subject and hash(again) == hash(bench.subject), "equal objects, and one hash of them", f"{again!r}")


def its_settings_are_frozen(bench: AnyBench) -> None:
    """No setting can be changed on an object: another setting is another object."""
    expect(dataclasses.is_dataclass(bench.subject), "a dataclass", type(bench.subject).__name__)
    with refused(dataclasses.FrozenInstanceError, "cannot assign", "setting its name"):
        bench.subject.name = "another"


def its_class_is_final(bench: AnyBench) -> None:
    """Nothing extends it: what varies is wrapped instead."""
    with refused(TypeError, "is final", "a class that extends it"):
        type("Extended", (type(bench.subject),), {})


def it_says_what_it_is(bench: AnyBench) -> None:
    """It has a sentence of its own, and names the paper that it follows or says what it is instead."""
    cls, inherited = type(bench.subject), {base.__doc__ for base in type(bench.subject).__mro__[1:]}
    generated = f"{cls.__name__}("  # what `dataclass` writes where nobody did
    written = bool(cls.__doc__) and cls.__doc__ not in inherited and not str(cls.__doc__).startswith(generated)
    expect(written, "a docstring of its own", repr(cls.__doc__))
    expect(isinstance(bench.subject.paper, str) and bool(bench.subject.paper), "the paper in words", repr(getattr(cls, "paper", None)))


def add_settings(contract: Contract[Any]) -> None:
    """Enter all of these into a contract."""
    contract.add(it_prints_as_it_is_read)
    contract.add(in_brief_it_prints_as_it_is_read)
    contract.add(it_prints_in_one_short_line)
    contract.add(it_is_made_by_its_name, unless=needs_settings)
    contract.add(it_is_in_its_table)
    contract.add(it_pickles)
    contract.add(it_copies)
    contract.add(equal_objects_have_one_hash)
    contract.add(its_settings_are_frozen)
    contract.add(its_class_is_final)
    contract.add(it_says_what_it_is)
