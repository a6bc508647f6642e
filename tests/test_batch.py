"""What is asked of a model and what is known about its images: closed forms for every kind of target, and what cannot be made."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from attribkit.batch import Batch, Kind, Targets
from attribkit.errors import BadInput, UnknownName

KINDS = get_args(Kind)
LOGITS = torch.tensor([[1.0, 3.0, -2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)


def targets(*index: int, kind: Kind = "logit") -> Targets:
    return Targets(torch.tensor(index), kind)


def batch(rows: int = 3, **changed: Any) -> Batch:
    known: dict[str, Any] = {
        "images": torch.arange(rows * 3 * 4 * 5, dtype=torch.float32).view(rows, 3, 4, 5),
        "targets": targets(*range(rows)),
        "ids": tuple(f"image {row}" for row in range(rows)),
        "regions": {"object": torch.arange(rows).view(rows, 1, 1).expand(rows, 4, 5) / 10},
        "groups": {"place": torch.arange(rows) * 7},
        "logits": torch.arange(rows * 6, dtype=torch.float32).view(rows, 6),
    }
    return Batch(**{**known, **changed})


# The explained scalar ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("logit", (-2.0, 0.0)),
        ("evidence", (2.0, 0.0)),
        ("log_odds", (-2 - math.log(math.e + math.exp(3)), -math.log(2))),
        ("probability", (math.exp(-2) / (math.e + math.exp(3) + math.exp(-2)), 1 / 3)),
    ],
)
def test_each_kind_by_its_definition(kind: Kind, expected: tuple[float, float]) -> None:
    """Of class 2 in (1, 3, -2), and of class 0 in three equal logits."""
    assert_close(targets(2, 0, kind=kind).of(LOGITS), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("logit", -1.5), ("evidence", 1.5), ("log_odds", -1.5), ("probability", 1 / (1 + math.exp(1.5)))],
)
def test_a_single_logit_is_a_log_odds_already(kind: Kind, expected: float) -> None:
    """With one output the other class is implied: log(p / (1 - p)) of sigmoid(y) is y."""
    found = targets(0, kind=kind).of(torch.tensor([[-1.5]], dtype=torch.float64))
    assert_close(found, torch.tensor([expected], dtype=torch.float64), rtol=1e-12, atol=0)


def test_two_classes_have_a_log_odds_that_is_their_difference() -> None:
    logits = torch.tensor([[0.3, -1.2], [5.0, 2.0]], dtype=torch.float64)
    assert_close(targets(0, 1, kind="log_odds").of(logits), torch.tensor([1.5, -3.0], dtype=torch.float64), rtol=1e-12, atol=0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**31), st.floats(0.1, 30))
def test_log_odds_and_probability_say_the_same(classes: int, seed: int, scale: float) -> None:
    """probability = sigmoid(log-odds), for every number of classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(4, classes, dtype=torch.float64, generator=generator)
    index = torch.randint(classes, (4,), generator=generator)
    odds, chance = Targets(index, "log_odds").of(logits), Targets(index, "probability").of(logits)
    assert_close(odds.sigmoid(), chance, rtol=1e-9, atol=1e-15)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1000.0, -1000.0, 0.0]], dtype=torch.float64)
    assert targets(0, kind="log_odds").of(logits).item() == 1000.0
    assert targets(1, kind="log_odds").of(logits).item() == -2000.0
    assert targets(1, kind="probability").of(logits).item() == 0.0
    assert targets(0, kind="probability").of(logits).item() == 1.0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("logit", (0.0, 0.0, 1.0)),
        ("evidence", (0.0, 0.0, -1.0)),
        ("log_odds", (-1 / (1 + math.exp(2)), -1 / (1 + math.exp(-2)), 1.0)),
    ],
)
def test_the_gradient_of_each_kind(kind: Kind, expected: tuple[float, ...]) -> None:
    """Log-odds move against the others by their softmax among themselves: of 1 and 3, 1 / (1 + e^2) and 1 / (1 + e^-2)."""
    logits = LOGITS[:1].clone().requires_grad_()
    gradient = torch.autograd.grad(targets(2, kind=kind).of(logits).sum(), logits)[0]
    assert_close(gradient, torch.tensor([expected], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_the_gradient_of_a_probability_is_that_of_its_log_odds_times_p_one_minus_p(classes: int) -> None:
    logits = LOGITS[:1, :classes].clone().requires_grad_()
    chance, odds = (targets(classes - 1, kind=kind).of(logits).sum() for kind in ("probability", "log_odds"))
    of_chance, of_odds = (torch.autograd.grad(score, logits)[0] for score in (chance, odds))
    assert_close(of_chance, chance.detach() * (1 - chance.detach()) * of_odds, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_answered_by_itself(kind: Kind) -> None:
    logits = torch.randn(5, 4, dtype=torch.float64)
    asked = Targets(torch.tensor([3, 0, 1, 3, 2]), kind)
    alone = torch.cat([asked[row : row + 1].of(logits[row : row + 1]) for row in range(5)])
    assert_close(asked.of(logits), alone, rtol=0, atol=0)


# Targets ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "got"),
    [
        ([1, 2], "list"),
        (3, "int"),
        (torch.tensor(3), r"\(\) torch.int64"),
        (torch.zeros(2, 1, dtype=torch.int64), r"\(2, 1\) torch.int64"),
        (torch.zeros(2), r"\(2,\) torch.float32"),
        (torch.zeros(2, dtype=torch.int32), r"\(2,\) torch.int32"),
        (torch.zeros(2, dtype=torch.bool), r"\(2,\) torch.bool"),
    ],
)
def test_an_index_is_one_int64_per_image(index: Any, got: str) -> None:
    with pytest.raises(BadInput, match=rf"^Targets\.index: got {got}, allowed: a \(B,\) int64 tensor$"):
        Targets(index)


@pytest.mark.parametrize("kind", ["logits", "", None, 1])
def test_the_kind_is_one_of_four(kind: Any) -> None:
    with pytest.raises(UnknownName, match=rf"no kind of target is called '{kind}'; allowed: evidence, log_odds, logit, probability$"):
        Targets(torch.tensor([0]), kind)


@pytest.mark.parametrize(("index", "wrong"), [((0, 3), 3), ((-1, 0), -1), ((2, 10**12), 10**12)])
def test_an_index_that_is_no_class_is_refused(index: tuple[int, int], wrong: int) -> None:
    """-1 would otherwise be read as the last class, silently."""
    for look in (lambda asked: asked.check(3), lambda asked: asked.of(LOGITS)):
        with pytest.raises(BadInput, match=rf"^target {wrong}: allowed: a class index from 0 to 2$"):
            look(targets(*index))


@pytest.mark.parametrize("shape", [(2,), (3, 3), (2, 3, 1)])
def test_logits_have_a_row_per_target(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match=r"^logits: got \(.*\), allowed: \(2, K\)$"):
        targets(0, 0).of(torch.zeros(shape))


def test_targets_can_be_cut_and_keep_their_kind() -> None:
    asked = targets(4, 5, 6, kind="evidence")
    assert len(asked) == 3
    for part, expected in {
        asked[1:]: [5, 6],
        asked[torch.tensor([2, 0])]: [6, 4],
        asked.to("cpu"): [4, 5, 6],
    }.items():
        assert (part.index.tolist(), part.kind) == (expected, "evidence")
    assert len(asked[:0]) == 0
    asked[:0].check(0)


def test_no_targets_of_no_logits_are_no_scores() -> None:
    assert Targets(torch.zeros(0, dtype=torch.int64)).of(torch.zeros(0, 5)).shape == (0,)


# Batch ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"images": [1]}, r"Batch\.images: got list, allowed: a \(B, 3, H, W\) floating-point tensor"),
        ({"images": torch.zeros(3, 4, 5)}, r"Batch\.images: got \(3, 4, 5\) torch.float32, allowed: a \(B, 3, H, W\)"),
        ({"images": torch.zeros(3, 3, 4, 5, dtype=torch.uint8)}, r"Batch\.images: got \(3, 3, 4, 5\) torch.uint8, allowed"),
        ({"targets": torch.tensor([0, 1, 2])}, r"Batch\.targets: got Tensor, allowed: Targets"),
        ({"targets": targets(0, 1)}, r"Batch\.targets: got 2, allowed: one per image \(3\)"),
        ({"ids": ("a", "b")}, r"Batch\.ids: got 2, allowed: one per image \(3\)"),
        ({"ids": "abc"}, r"Batch\.ids: got a string, allowed: several strings"),
        ({"ids": (1, 2, 3)}, r"Batch\.ids: got int, allowed: strings"),
        ({"regions": {"object": torch.zeros(3, 5, 4)}}, r"Batch\.regions\['object'\]: got \(3, 5, 4\), allowed: \(3, 4, 5\)"),
        ({"regions": {"object": torch.zeros(2, 4, 5)}}, r"Batch\.regions\['object'\]: got \(2, 4, 5\), allowed: \(3, 4, 5\)"),
        ({"regions": {"object": [[0]]}}, r"Batch\.regions\['object'\]: got list, allowed: a tensor"),
        ({"groups": {"place": torch.zeros(3, 1)}}, r"Batch\.groups\['place'\]: got \(3, 1\), allowed: \(3,\)"),
        ({"groups": {"place": [0, 1, 0]}}, r"Batch\.groups\['place'\]: got list, allowed: a tensor"),
        ({"logits": torch.zeros(2, 6)}, r"Batch\.logits: got \(2, 6\), allowed: \(3, K\)"),
        ({"logits": torch.zeros(3)}, r"Batch\.logits: got \(3,\), allowed: \(3, K\)"),
    ],
)
def test_what_does_not_fit_together_is_no_batch(changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInput, match=f"^{expected}"):
        batch(**changed)


def test_a_part_of_a_batch_keeps_everything_in_step() -> None:
    part = batch(4)[1:3]
    assert len(part) == 2
    assert part.ids == ("image 1", "image 2")
    assert_close(part.images, torch.arange(60.0, 180.0).view(2, 3, 4, 5), rtol=0, atol=0)
    assert part.targets.index.tolist() == [1, 2]
    assert_close(part.region("object")[:, 0, 0], torch.tensor([0.1, 0.2]), rtol=0, atol=0)
    assert part.groups["place"].tolist() == [7, 14]
    assert part.logits is not None
    assert part.logits[:, 0].tolist() == [6.0, 12.0]
    assert len(batch(4)[4:]) == 0
    assert batch(2, logits=None)[:1].logits is None


@pytest.mark.parametrize("rows", [0, torch.tensor([0]), "a"])
def test_a_batch_is_cut_by_slices_alone(rows: Any) -> None:
    """`batch[0]` would give images without their batch dimension."""
    with pytest.raises(BadInput, match=r"^Batch\[\.\.\.\]: got (int|Tensor|str), allowed: a slice, such as batch\[:8\]$"):
        _ = batch()[rows]


def test_a_missing_region_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"^no region is called 'tag'; allowed: object$"):
        batch().region("tag")


def test_batches_and_targets_are_compared_by_identity() -> None:
    """Comparing their tensors has no single answer, and a comparison that raises breaks `in` and `index`."""
    asked, made = targets(1, 2), batch()
    assert asked in [targets(1, 2), asked]
    assert made in [batch(), made]
    assert len({asked, targets(1, 2), made}) == 3


def test_a_batch_cannot_be_changed_from_outside() -> None:
    regions = {"object": torch.zeros(3, 4, 5)}
    made = batch(regions=regions, ids=["a", "b", "c"])
    regions["tag"] = torch.zeros(1)
    assert list(made.regions) == ["object"]
    assert made.ids == ("a", "b", "c")
    with pytest.raises(TypeError, match="does not support item assignment"):
        made.regions["tag"] = torch.zeros(3, 4, 5)  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError, match="ids"):
        made.ids = ()  # type: ignore[misc]


def test_a_batch_travels_between_processes() -> None:
    made = batch()
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert again.ids == made.ids
        assert_close(again.images, made.images, rtol=0, atol=0)
        assert_close(dict(again.regions), dict(made.regions), rtol=0, atol=0)
        assert again.groups["place"].tolist() == [0, 7, 14]
