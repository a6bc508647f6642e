"""Every metric that is registered keeps the contract that anybody's has to keep; no metric is named here."""

from __future__ import annotations

import sys
from typing import get_args

import pytest
import torch
from examples import by_promise, never_put, put, small

from attribkit import METRICS
from attribkit.metrics import draws
from attribkit.metrics.base import Anew, Family
from attribkit.noise import keys
from attribkit.testing import metric_checks
from attribkit.testing.metric_bench import MetricBench

ALL = {name: metric_checks(small(cls())) for name, cls in METRICS.items()}
# Some ask how one class compares with another, and refuse a model that has only one.
REFUSED = ("a_model_may_have_one_logit",)


@pytest.mark.parametrize("checks", by_promise(ALL))
def test_it_keeps_its_contract(checks):
    put(checks, refused=REFUSED)


@pytest.mark.parametrize("name", METRICS)
def test_no_metric_draws_what_a_method_draws(name, monkeypatch):
    # RandomMap(seed=0) has the numbers that begin with keys(images, 0); parts of the image by the same ones would be chosen by it.
    bench = MetricBench(small(METRICS[name]()))
    images, drawn = bench.given().batch.images, []

    def recorded(*asked, **more):
        drawn.append(keys(*asked, **more))
        return drawn[-1]

    monkeypatch.setattr(draws, "keys", recorded)
    bench.answer_of(bench.network())
    known = torch.cat([keys(images, *seeds) for seeds in ((), (0,), (1,), (0, 0), (0, 1))])
    assert not any(torch.isin(key, known).any() for key in drawn)
    modules = [each for name, each in sys.modules.items() if name.startswith("attribkit.metrics.") and each is not draws]
    assert len(modules) > 10 and not [each.__name__ for each in modules if hasattr(each, "keys")]


def test_the_table_is_not_empty():
    assert len(ALL) >= 15 and {cls.family for cls in METRICS.values()} == set(get_args(Family))
    local = [cls for cls in METRICS.values() if cls.family == "localisation" and not issubclass(cls, Anew)]
    assert len(local) >= 5 and sum(cls.family == "faithfulness" for cls in METRICS.values()) >= 5


def test_every_check_is_put_to_some_metric():
    assert never_put(ALL) <= {"the_answer_is_where_the_model_is[cuda]"}
    assert all(len(checks) >= 40 for checks in ALL.values())
