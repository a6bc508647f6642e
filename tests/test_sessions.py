"""What one session leaves to the next: leases, failures, what was asked for, and from where."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from models import GapCNN, adapted

import attribkit as ak
from attribkit import BadInput, Batch, Targets
from attribkit.configuration import Execution, configured
from attribkit.evaluating.runs import earlier, execute
from attribkit.methods import METHODS, Method
from attribkit.store import leases, planning
from attribkit.store.folder import Store, Workshop


@pytest.fixture
def tables():
    before = dict(METHODS._classes)
    yield
    METHODS._classes.clear()
    METHODS._classes.update(before)


def batches(count: int, rows: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 24, 40, generator=draw)
    return [
        Batch(images[at : at + rows], Targets(torch.zeros(rows, dtype=torch.int64)), tuple(f"i{row:03d}" for row in range(at, at + rows)))
        for at in range(0, count, rows)
    ]


def fussy_about(names: set[int], images: torch.Tensor) -> type[Method]:
    """A method that cannot do some of the images, known by their values."""
    refused = {float(images[row, 0, 0, 0]) for row in names}

    @dataclasses.dataclass(frozen=True)
    class Fussy(Method):
        name = "fussy"
        paper = "none"
        cost = "nothing"

        def _maps(self, model, images, targets):
            if {float(value) for value in images[:, 0, 0, 0]} & refused:
                raise ValueError("not this one")
            return images.mean(1)

    return Fussy


@pytest.mark.usefixtures("tables")
def test_what_is_scored_does_not_depend_on_how_often_a_run_was_begun_anew(tmp_path):
    """A method that fails on the first 40 images is not given up where a session may end at any moment: the other 24 have scores."""
    parts = batches(64, 8)
    cls = fussy_about(set(range(40)), torch.cat([part.images for part in parts]))
    model = adapted(GapCNN())
    at_once = ak.evaluate(ak.problems.Labelled(model, parts), cls(), "sparseness", store=tmp_path / "one", controls=False)
    for end in (3, 6, 8):
        problem = ak.problems.Labelled(model, parts[:end])
        grown = None
        if end > 5:
            grown = ak.evaluate(problem, cls(), "sparseness", store=tmp_path / "more", controls=False)
        else:
            with pytest.raises(ak.Unsupported, match="not this one"):
                ak.evaluate(problem, cls(), "sparseness", store=tmp_path / "more", controls=False)
    expected = {f"i{row:03d}" for row in range(40, 64)}
    assert {row["id"] for row in at_once.rows()} == {row["id"] for row in grown.rows()} == expected
    assert {each.id for each in at_once.failures} == {each.id for each in grown.failures} == {f"i{row:03d}" for row in range(40)}


def test_whatever_ended_a_session_says_nothing_of_the_images_it_was_at(tmp_path):
    """Three reboots, or kills by somebody, while one and the same image was worked on alone do not leave it out."""
    model = adapted(GapCNN())
    ak.evaluate(ak.problems.Labelled(model, batches(8, 8)), "random_map", "sparseness", store=tmp_path, controls=False)
    for name in ("alone-1", "alone-2", "worker-0-of-3"):
        with Workshop(tmp_path) as shop:
            with shop.ledger.changing() as db:
                db.execute("UPDATE shard SET complete = 0")
            leased = leases.take(shop.ledger, name)
            leases.mark(shop.ledger, leased, probing="i003")
        with Workshop(tmp_path) as shop:
            shop.begin({})
            assert leases.holders(shop.ledger) == []
            assert shop.ledger.rows("SELECT * FROM suspect") == []
            assert leases.take(shop.ledger, "next").tries == 0
            leases.lost(shop.ledger, "next", None)


@pytest.mark.usefixtures("tables")
def test_failures_are_tried_again_when_that_is_asked_for(tmp_path):
    parts = batches(16, 4)
    cls = fussy_about({5}, torch.cat([part.images for part in parts]))
    problem = ak.problems.Labelled(adapted(GapCNN()), parts)
    ak.evaluate(problem, cls(), "sparseness", store=tmp_path, controls=False)
    with Workshop(tmp_path) as shop:
        assert shop.open_shards() == 0 and len(shop.failures()) == 1
        assert planning.forget_failures(shop.ledger) == 1
        assert shop.open_shards() == 1 and shop.failures() == []
    METHODS._classes.pop("fussy")
    mended = fussy_about(set(), torch.cat([part.images for part in parts]))
    scores = ak.evaluate(problem, mended(), "sparseness", store=tmp_path, controls=False)
    assert len(scores) == 16 and scores.failures == []


def test_a_run_goes_on_from_any_folder_as_it_was_asked_for(tmp_path, monkeypatch):
    """Relative paths are those of the folder in which the run began; so are workers, deadline and the like those of the session before."""
    (tmp_path / "here" / "photos").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    options = {
        "--model": (("model",), "planted/shortcut-95"),
        "--data": (("data",), "photos"),
        "--weights": (("weights",), "weights.safetensors"),
        "--method": (("methods",), ["random_map"]),
        "--metric": (("metrics",), ["sparseness"]),
        "--workers": (("run", "workers"), 0),
    }
    asked, how = configured(None, options, ["run.out=../run"])
    here = os.path.realpath(tmp_path / "here")
    assert (os.path.realpath(asked.data), how.workers) == (f"{here}/photos", 0)
    assert os.path.isabs(asked.weights) and os.path.realpath(how.out) == os.path.realpath(tmp_path / "run")

    planted = dataclasses.replace(asked, data="planted", weights="default", problems=("planted",), limit=4, controls=False)
    execute(planted, dataclasses.replace(how, deadline=77.0), say=lambda text: None)
    monkeypatch.chdir(tmp_path / "there")
    again, then = earlier(tmp_path / "run")
    assert again == planted and then == Execution(out=str(tmp_path / "run"), workers=0, deadline=77.0)


def test_a_folder_without_a_run_has_nothing_to_go_on_with(tmp_path):
    assert earlier(tmp_path) is None
    ak.evaluate(ak.problems.Labelled(adapted(GapCNN()), batches(4, 4)), "random_map", "sparseness", store=tmp_path, controls=False)
    with pytest.raises(ak.BrokenRun, match="it cannot say what it was asked for .* allowed: the same options again"):
        earlier(tmp_path)
    with Store(tmp_path) as store:
        assert len(store.scores()) == 4


def test_an_execution_says_what_it_allows():
    with pytest.raises(BadInput, match=r"Execution\(workers=\.\.\.\): got -1, allowed: an int of at least 0"):
        Execution(workers=-1)
