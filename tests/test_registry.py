"""Settings: what is read is what was printed, wrong values are answered in one line, and nothing that is read is ever run."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import math
import re
import warnings
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attribkit.problems  # noqa: F401 - whose table holds classes that no text can describe
from attribkit.errors import BadInput, UnknownName
from attribkit.registry import LONGEST, AtLeast, Settings, Table, read, short

TOYS: Table[Any] = Table("toy")
PARTS: Table[Any] = Table("part")


class Toy(Settings):
    """The abstract base of a role."""

    table: ClassVar[Table[Any]] = TOYS


@dataclasses.dataclass(frozen=True)
class Top(Toy):
    """A toy with a setting of every kind."""

    name = "top"

    turns: Annotated[int, AtLeast(1)] = 3
    speed: float = 0.5
    lean: Annotated[float, AtLeast(0)] | None = None
    colour: Literal["red", "blue"] = "red"
    label: str | None = None
    sizes: tuple[int, ...] = (1, 2)
    lit: bool = False


@dataclasses.dataclass(frozen=True)
class Twice(Toy):
    """A wrapper of another toy."""

    name = "twice"

    inner: Toy
    times: int = 2


@dataclasses.dataclass(frozen=True)
class Wheel(Settings):
    """A thing of another role, which a toy may hold."""

    name = "wheel"
    table = PARTS

    radius: float = 1.0


@dataclasses.dataclass(frozen=True)
class Cart(Toy):
    """A toy with a part and with no default for it."""

    name = "cart"

    wheel: Wheel
    others: tuple[Wheel, ...] = ()


def message(text: str, *tables: Table[Any]) -> str:
    with pytest.raises(BadInput, match=r".") as caught:
        read(text, *(tables or (TOYS, PARTS)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What can be read ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top", Top()),
        ("  top\n", Top()),
        ("Top", Top()),
        ("Top()", Top()),
        ("top()", Top()),
        ("top(4)", Top(turns=4)),
        ("Top(4, 0.25, None, 'blue')", Top(4, 0.25, None, "blue")),
        ('Top(label="a, (b) \\"c\\" \\u00fc")', Top(label='a, (b) "c" ü')),
        ("Top(sizes=(1,))", Top(sizes=(1,))),
        ("Top(sizes=[4, 5])", Top(sizes=(4, 5))),
        ("Top(sizes=())", Top(sizes=())),
        ("Top(speed=-1e-3)", Top(speed=-0.001)),
        ("Top(turns=0x10)", Top(turns=16)),
        ("Top(lit=True)", Top(lit=True)),
        ("Twice(Top(turns=7))", Twice(Top(turns=7))),
        ("twice(top())", Twice(Top())),
        ("Twice(top)", Twice(Top())),
        ("Twice(Top)", Twice(Top())),
        ("Twice('Top(4)')", Twice(Top(4))),
        ("Cart('wheel')", Cart(Wheel())),
        ("Twice(inner=Twice(Twice(Top())), times=5)", Twice(Twice(Twice(Top())), 5)),
        ("Cart(Wheel(2))", Cart(Wheel(2.0))),
        ("Cart(wheel(), others=(Wheel(1), Wheel(3.5)))", Cart(Wheel(), (Wheel(), Wheel(3.5)))),
    ],
)
def test_names_and_calls_are_read(text: str, expected: Toy) -> None:
    assert read(text, TOYS, PARTS) == expected


tops = st.builds(
    Top,
    turns=st.integers(1, 10**6),
    speed=st.floats(allow_nan=False, allow_infinity=False),
    lean=st.none() | st.floats(0, 1e300),
    colour=st.sampled_from(["red", "blue"]),
    label=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    sizes=st.lists(st.integers(-9, 9), max_size=4).map(tuple),
    lit=st.booleans(),
)
wheels = st.builds(Wheel, st.floats(allow_nan=False, allow_infinity=False))
toys = st.recursive(
    tops | st.builds(Cart, wheels, st.lists(wheels, max_size=2).map(tuple)),
    lambda inner: st.builds(Twice, inner, st.integers(0, 9)),
    max_leaves=3,
)


@settings(max_examples=300, deadline=None)
@given(toys)
def test_what_is_printed_is_read_back(toy: Toy) -> None:
    again = read(repr(toy), TOYS, PARTS)
    assert (again, repr(again), hash(again)) == (toy, repr(toy), hash(toy))
    assert read(toy.brief(), TOYS, PARTS) == toy


def test_brief_names_only_what_differs_from_the_defaults() -> None:
    assert Top().brief() == "Top()"
    assert Twice(Top(turns=4, colour="blue")).brief() == "Twice(inner=Top(turns=4, colour='blue'))"


class Red(enum.StrEnum):
    red = "red"


@pytest.mark.parametrize(
    ("toy", "printed"),
    [
        (Top(speed=1), "speed=1.0"),
        (Top(speed=np.float64(0.25)), "speed=0.25"),
        (Top(lean=2), "lean=2.0"),
        (Top(colour=Red.red), "colour='red'"),  # type: ignore[arg-type]
        (Top(label=np.str_("x")), "label='x'"),
        (Cart(Wheel(3)), "radius=3.0"),
    ],
)
def test_what_is_equal_prints_the_same(toy: Toy, printed: str) -> None:
    """A `repr` keys the store: `Top(speed=1)` and `Top(speed=1.0)` are one method and so have one key."""
    assert printed in repr(toy)
    assert read(repr(toy), TOYS, PARTS) == toy


# What cannot be -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tops", "no toy is called 'tops'; allowed: cart, top, twice"),
        ("Tip(1)", "no toy is called 'Tip'; allowed: cart, top, twice"),
        ("'top'", "no toy is called \"'top'\"; allowed: cart, top, twice"),
        ("wheel()", "no toy is called 'Wheel'; allowed: cart, top, twice"),
        ("Top(spin=1)", "no setting of Top is called 'spin'; allowed: colour, label, lean, lit, sizes, speed, turns"),
        ("Twice()", "Twice needs inner; got 'Twice()'"),
        ("twice", "Twice needs inner; got 'twice'"),
        ("Wheel(1, 2)", "Wheel takes at most 1 settings, got 2 in 'Wheel(1, 2)'"),
        ("Top(turns=1, turns=2)", "Top: got turns twice in 'Top(turns=1, turns=2)', allowed: once"),
        ("Top(1, turns=2)", "Top: got turns twice in 'Top(1, turns=2)', allowed: once"),
        ("Top(turns=x)", "cannot read 'x' in 'Top(turns=x)'; allowed: numbers, strings, tuples, None, True, False"),
        ("Top(turns=0)", "Top(turns=...): got 0, allowed: an int of at least 1"),
        ("Top(turns=2.0)", "Top(turns=...): got 2.0, allowed: an int of at least 1"),
        ("Top(turns=True)", "Top(turns=...): got True, allowed: an int of at least 1"),
        ("Top(speed='fast')", "Top(speed=...): got 'fast', allowed: a number"),
        ("Top(speed=True)", "Top(speed=...): got True, allowed: a number"),
        ("Top(speed=None)", "Top(speed=...): got None, allowed: a number"),
        ("Top(lean=-0.5)", "Top(lean=...): got -0.5, allowed: a number of at least 0 or None"),
        ("Top(lean='x')", "Top(lean=...): got 'x', allowed: a number of at least 0 or None"),
        ("Top(colour='green')", "Top(colour=...): got 'green', allowed: 'red' or 'blue'"),
        ("Top(label=3)", "Top(label=...): got 3, allowed: a string or None"),
        ("Top(label=b'x')", "Top(label=...): got b'x', allowed: a string or None"),
        ("Top(sizes=3)", "Top(sizes=...): got 3, allowed: a tuple of an int"),
        ("Top(sizes=(1, 'x'))", "Top(sizes=...): got (1, 'x'), allowed: a tuple of an int"),
        ("Top(lit=1)", "Top(lit=...): got 1, allowed: True or False"),
        ("Twice(Wheel())", "Twice(inner=...): got Wheel(radius=1.0), allowed: a Toy"),
        ("Twice('tip')", "no toy is called 'tip'; allowed: cart, top, twice"),
        ("Cart(tip)", "cannot read 'tip' in 'Cart(tip)'; allowed: numbers, strings, tuples, None, True, False"),
        ("Planted", "no toy is called 'Planted'; allowed: cart, top, twice"),
        ("Twice(Planted())", "no toy is called 'Planted'; allowed: cart, top, twice"),
        ("Cart(Tip())", "no part is called 'Tip'; allowed: wheel"),
        ("", "cannot read the toy ''; allowed: a name, or a call such as Name(setting=1)"),
        ("Top(", "cannot read the toy 'Top('; allowed: a name, or a call such as Name(setting=1)"),
        ("Top()\nTop()", "cannot read the toy 'Top()\\nTop()'; allowed: a name, or a call such as Name(setting=1)"),
        ("top\0", "cannot read the toy 'top\\x00'; allowed: a name, or a call such as Name(setting=1)"),
    ],
)
def test_a_wrong_text_gets_one_clear_line(text: str, expected: str) -> None:
    assert message(text) == expected


def test_what_is_near_is_offered() -> None:
    known: Table[Any] = Table("thing")
    for i in range(13):
        known.add(f"thing_{i:02}", Top)
    assert message("thing_1", known) == "no thing is called 'thing_1'; did you mean thing_12 or thing_11 or thing_10?"


@pytest.mark.parametrize("value", [math.nan, np.float32(1), 10**400, 1j, np.nan])
def test_a_number_is_a_python_number_that_a_float_can_hold(value: Any) -> None:
    """NaN would make a setting that differs from itself."""
    with pytest.raises(BadInput, match=r"^Top\(speed=\.\.\.\): got .*, allowed: a number$"):
        Top(speed=value)


def test_infinity_is_a_number() -> None:
    assert Top(speed=math.inf).speed == math.inf
    assert Top(lean=math.inf).lean == math.inf


@pytest.mark.parametrize("value", [[1, 2], (1, True), (1.0,), {1}, "12", None])
def test_a_tuple_is_a_tuple_of_its_kind(value: Any) -> None:
    with pytest.raises(BadInput, match=re.escape("allowed: a tuple of an int")):
        Top(sizes=value)


# Nothing is run -------------------------------------------------------------------------------------------------------------------


HOSTILE = [
    "__import__('os').system('true')",
    "Top(label=__import__('os').getcwd())",
    "Top(turns=(lambda: 1)())",
    "lambda: Top()",
    "[Top() for _ in (1,)]",
    "Top(sizes=[x for x in (1, 2)])",
    "Top(sizes=(*(1, 2),))",
    "Top(*[1])",
    "Top(**{'turns': 1})",
    "Top().turns",
    "Top.__class__",
    "Top()()",
    "Top(label=f'{1}')",
    "Top(turns=1 if True else 2)",
    "Top(turns=(x := 1))",
    "Top(turns=2 ** 9)",
    "Top(turns=9 ** 9 ** 9 ** 9)",
    "Top(turns=1 + 1)",
    "Top(label='a' * 10**9)",
    "Top(lit=not False)",
    "Top(turns=1 < 2)",
    "Top(turns=(yield))",
    "await Top()",
    "Top(label=Top().__class__.__name__)",
    "Top(turns={}.get(1))",
    "open('x', 'w')",
    "exec('1')",
    "Top(turns=len('abc'))",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_an_expression_is_refused_without_being_evaluated(text: str) -> None:
    assert message(text).startswith(("cannot read ", "no toy is called "))


DEEP = {
    "parentheses": "(" * 900 + ")" * 900,
    "calls": "Twice(" * 250 + "Top()" + ")" * 250,
    "lists": "Top(sizes=" + "[" * 900 + "]" * 900 + ")",
    "minus": "Top(turns=" + "-" * 1900 + "1)",
    "sums": "Top(turns=" + "+".join(["1j"] * 600) + ")",
    "attributes": "Top(turns=x" + ".a" * 900 + ")",
    "calls in a row": "Top" + "()" * 900,
    "subscripts": "Top(turns=x" + "[0]" * 600 + ")",
    "digits": "Top(turns=" + "9" * 1900 + ")",
    "nots": "Top(lit=" + "not " * 450 + "1)",
}


@pytest.mark.parametrize("shape", DEEP)
def test_depth_is_answered_not_suffered(shape: str) -> None:
    text = DEEP[shape]
    assert len(text) <= LONGEST, "it must reach the parser"
    if shape == "digits":  # below the interpreter's limit on digits it is an int like any other
        assert read(text, TOYS).turns == 10**1900 - 1
        return
    assert len(message(text)) < 300


def test_a_text_has_an_end() -> None:
    for huge in ("x" * 10**6, "Top(label='" + "a" * 10**6 + "')", "(" * 10**6):
        assert message(huge).startswith("cannot read the toy ")
        assert message(huge).endswith(f"; allowed: at most 2000 characters, got {len(huge)}")
        assert len(message(huge)) < 300


def test_the_parsers_own_warnings_do_not_reach_the_user() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(r"Top(label='\d')", TOYS).label == r"\d"
        assert message("Top(turns=1if 1else 2)").startswith("cannot read '1if 1else 2' in ")


WORDS = """
    Top top Twice Wheel Cart turns label inner sizes = ( ) () , [ ] { } * ** : . - + ' " \\ # ...
    1 0.5 1e999 0x 1_ None True lambda if else not await f' b' := ü
"""
words = st.sampled_from([*WORDS.split(), "for x in", " ", "\t", "\n", "\0", "\ud800"])


@settings(max_examples=5000, deadline=None)
@given(st.lists(words, max_size=14).map("".join) | st.text(max_size=40) | st.binary(max_size=30).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_a_toy_or_bad_input(text: str) -> None:
    made: Toy | None = None
    with contextlib.suppress(BadInput):
        made = read(text, TOYS, PARTS)
    assert made is None or (isinstance(made, Toy) and read(repr(made), TOYS, PARTS) == made)


def test_short_keeps_both_ends() -> None:
    assert short("a" * 80) == "a" * 80
    assert short("0123456789" * 10, room=20) == "01234567 ... 3456789"


# Tables and classes ---------------------------------------------------------------------------------------------------------------


def test_a_table_is_a_mapping_in_order_of_names() -> None:
    assert list(TOYS) == ["cart", "top", "twice"]
    assert dict(TOYS) == {"cart": Cart, "top": Top, "twice": Twice}
    assert len(PARTS) == 1
    assert "top" in TOYS
    assert "Top" not in TOYS
    assert repr(TOYS) == "<3 toys: cart, top, twice>"
    with pytest.raises(KeyError, match="none"):
        _ = TOYS["none"]


def test_two_classes_under_one_name_raise() -> None:
    table: Table[Any] = Table("thing")
    table.add("one", Top)
    table.add("one", Top)
    with pytest.raises(BadInput, match=rf"^two things are called 'one': {__name__}\.Top and {__name__}\.Wheel$"):
        table.add("one", Wheel)
    assert table["one"] is Top


def test_a_class_of_a_taken_name_cannot_even_be_defined() -> None:
    with pytest.raises(BadInput, match="two toys are called 'top'"):

        class Other(Toy):
            name = "top"

    assert TOYS["top"] is Top


def test_a_class_defined_again_replaces_itself() -> None:
    """A notebook cell that is run twice defines its class twice."""
    table: Table[Any] = Table("thing")

    def define() -> type[Any]:
        class Cell(Settings):
            name = "cell"

        return Cell

    Settings.table = table
    try:
        first, second = define(), define()
    finally:
        del Settings.table
    assert first is not second
    assert table["cell"] is second


def test_a_final_class_cannot_be_extended() -> None:
    with pytest.raises(TypeError, match=r"^Faster extends Top, which is final: wrap it instead$"):

        class Faster(Top):
            pass


def test_an_abstract_class_may_be_extended_and_is_not_in_the_table() -> None:
    class Abstract(Toy):
        pass

    assert "Abstract" not in {cls.__name__ for cls in TOYS.values()}


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="turns"):
        Top().turns = 5  # type: ignore[misc]


def test_an_unknown_name_is_bad_input() -> None:
    with pytest.raises(UnknownName, match="no toy is called"):
        read("nothing", TOYS)
