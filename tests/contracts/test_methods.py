"""Every method that is registered keeps the contract that anybody's has to keep; no method is named here."""

from __future__ import annotations

import pytest
from examples import by_promise, never_put, put, small

from attribkit import METHODS
from attribkit.methods import Method
from attribkit.registry import needed
from attribkit.testing import method_checks

ALL = {name: method_checks(small(cls())) for name, cls in METHODS.items() if not needed(cls)}


@pytest.mark.parametrize("checks", by_promise(ALL))
def test_it_keeps_its_contract(checks):
    put(checks)


def test_the_table_is_not_empty():
    assert len(ALL) >= 20 and all(issubclass(cls, Method) for cls in METHODS.values())


def test_every_check_is_put_to_some_method():
    assert never_put(ALL) <= {"the_answer_is_where_the_model_is[cuda]"}
    assert all(len(checks) >= 40 for checks in ALL.values())
