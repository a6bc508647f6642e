"""Every removal that is registered keeps the contract that anybody's has to keep; no removal is named here."""

from __future__ import annotations

import dataclasses

import pytest
import torch.nn.functional as F
from examples import by_promise, never_put, put
from torch import nn

from attribkit.removals import REMOVALS
from attribkit.testing import removal_checks


class Smearing(nn.Module):
    """The mean of the square around, where a removal wants a network: its dropout and BatchNorm must be in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(0.5), nn.BatchNorm2d(3)

    def forward(self, images, keep):
        return self.norm(self.dropout(F.avg_pool2d(images * keep, 5, 1, 2)))


# What stands for a setting that has no default, by its name.
NEEDED = {"module": Smearing()}


def example(cls):
    fields = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}
    return cls(**{name: NEEDED[name] for name in fields})


ALL = {name: removal_checks(example(cls)) for name, cls in REMOVALS.items()}


@pytest.mark.parametrize("checks", by_promise(ALL))
def test_it_keeps_its_contract(checks):
    put(checks)


def test_the_table_is_not_empty():
    assert len(ALL) >= 13


def test_every_check_is_put_to_some_removal():
    assert never_put(ALL) <= {"the_answer_is_where_the_model_is[cuda]"}
    assert all(len(checks) >= 40 for checks in ALL.values())
