"""Errors say one line, and survive the way from one process to another."""

from __future__ import annotations

import pickle

import pytest

from attribkit.errors import BadInput, BrokenImage, BrokenWeights, UnknownName

ERRORS = [
    UnknownName("method", "gradcam", ["grad_cam", "random_map"], hint="see the list"),
    BrokenImage("a b.png", "cut\nshort"),
    BrokenWeights("w.pt", "empty"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_are_one_line_and_travel(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)
    assert "\n" not in str(error) and isinstance(error, BadInput) and isinstance(error, ValueError)


def test_unknown_names_offer_all_of_a_few_and_the_near_ones_of_many():
    assert str(UnknownName("layer", "x", ["b", "a"])) == "no layer is called 'x'; allowed: a, b"
    many = [f"layer{i}" for i in range(40)] + ["classifier"]
    assert str(UnknownName("layer", "clasifier", many)) == "no layer is called 'clasifier'; did you mean classifier or layer9 or layer8?"
    assert str(UnknownName("layer", "?", many)).endswith("allowed: classifier, layer0, layer1, layer10, layer11, layer12, ... (41 in all)")
