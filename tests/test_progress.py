"""Who listens hears of every step, of its own thread only; nobody has to listen."""

from __future__ import annotations

import threading

import pytest
import torch
from models import GapCNN, adapted

from attribkit import Batch, Targets
from attribkit.methods import CounterfactualInfill
from attribkit.progress import report, reporting


def test_a_listener_hears_what_is_reported_while_it_listens():
    heard = []
    report(1, 3, "before")
    with reporting(lambda *told: heard.append(told)):
        report(2, 3, "inside")
    report(3, 3, "after")
    assert heard == [(2, 3, "inside")]


def test_the_innermost_listener_is_told_and_none_silences_those_outside():
    outer, inner = [], []
    with reporting(lambda *told: outer.append(told)):
        with reporting(lambda *told: inner.append(told)):
            report(1, 2, "a")
        with reporting(None):
            report(2, 2, "b")
        report(1, 1, "c")
    assert (outer, inner) == ([(1, 1, "c")], [(1, 2, "a")])


def test_an_error_inside_ends_the_listening():
    heard = []
    with pytest.raises(KeyError, match="inside"), reporting(lambda *told: heard.append(told)):
        raise KeyError("inside")
    report(1, 1, "after")
    assert heard == []


def test_threads_that_work_side_by_side_are_told_of_themselves_alone():
    heard: dict[str, list[str]] = {"a": [], "b": []}
    together = threading.Barrier(2, timeout=10)

    def work(name: str) -> None:
        with reporting(lambda _done, _total, what: heard[name].append(what)):
            together.wait()
            report(1, 1, name)
            together.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in heard]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert heard == {"a": ["a"], "b": ["b"]}


def test_what_the_listener_raises_calls_the_work_off_and_leaves_the_model_as_it_was():
    module = GapCNN().train()
    model = adapted(module)
    heard = []

    def enough(done: int, total: int, what: str) -> None:
        heard.append((done, total, what))
        if done == 2:
            raise KeyboardInterrupt("enough")

    batch = Batch(torch.randn(1, 3, 24, 40), Targets(torch.tensor([0])), ("a",))
    with pytest.raises(KeyboardInterrupt, match="enough"), reporting(enough):
        CounterfactualInfill(steps=5, samples=2)(model, batch)
    assert heard == [(1, 5, "counterfactual_infill"), (2, 5, "counterfactual_infill")]
    assert all(each.training for each in module.modules()) and all(weight.requires_grad for weight in module.parameters())
