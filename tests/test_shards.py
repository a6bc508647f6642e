"""Problems in parts: any part, in any order, as often as wanted, is what going through the problem gives; and what its digest tells."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random

import numpy as np
import pytest
import torch
from models import GapCNN, adapted
from PIL import Image

from attribkit.batch import Batch, Targets
from attribkit.errors import BadInput
from attribkit.problems import Disconnected, Grid, Labelled, Planted
from attribkit.problems.shards import Planned, Sharded, digest_of_batches, digest_tensor, digested, picked, starts

SIDE = (8, 8)


class ByBrightness(torch.nn.Module):
    """Class k is what is k bright on average."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = torch.nn.Parameter(torch.arange(5).float())

    def forward(self, images):
        return -8 * (images.mean((1, 2, 3)).unsqueeze(1) - self.levels) ** 2


def bright() -> object:
    return adapted(ByBrightness(), size=SIDE, classes=tuple("vwxyz"))


def lit(names: str, seed: int = 0) -> Batch:
    """Noise, as bright as its class, with a region and two groups."""
    draw = torch.Generator().manual_seed(seed)
    images, classes = torch.randn(len(names), 3, *SIDE, generator=draw), torch.arange(len(names)) % 5
    images = images - images.mean((1, 2, 3), keepdim=True) + classes.view(-1, 1, 1, 1)
    region = (torch.rand(len(names), *SIDE, generator=draw) > 0.5).float()
    groups = {"odd": torch.arange(len(names)) % 2, "share": torch.rand(len(names), generator=draw)}
    return Batch(images, Targets(classes), tuple(names), {"object": region}, groups)


SOURCE = (lit("abcdefgh", 1), lit("ijklmnop", 2))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Seven pictures, three in a shard: masks, run lengths, boxes and groups; the second cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = ["path,label,mask:object,rle:other,box:frame,group:place"]
    for number in range(7):
        draw = np.random.default_rng(number)
        Image.fromarray(draw.integers(0, 256, (*SIDE, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(255 * (draw.random(SIDE) > 0.5).astype(np.uint8)).save(folder / f"m{number}.png")
        runs = f'"{{""size"": [8, 8], ""counts"": [{number}, 10, {54 - number}]}}"'
        lines.append(f"{number}.png,{'vwxyz'[number % 5]},m{number}.png,{runs},1 1 {4 + number % 3} 5,{number % 2}")
    (folder / "1.png").write_bytes(b"no picture")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder / "list.csv"


def small() -> object:
    torch.manual_seed(0)
    return adapted(GapCNN(), size=SIDE)


def sure():
    """A network with convolutions, and images of which what it says is right."""
    model = small()
    return model, [dataclasses.replace(each, targets=Targets(model.logits(each.images).argmax(1))) for each in SOURCE]


PROBLEMS = {
    "batches": lambda files: Labelled(bright(), [*SOURCE, lit("q", 3)]),
    "batches, some": lambda files: Labelled(bright(), [*SOURCE, lit("q", 3)], limit=11),
    "files": lambda files: Labelled(bright(), files, batch_size=3),
    "files, some": lambda files: Labelled(bright(), files, batch_size=3, limit=5),
    "planted": lambda files: Planted(small(), 7, batch_size=3),
    "tags": lambda files: Planted(small(), 5, 80, 3, shortcut="tag", batch_size=2),
    "grid": lambda files: Grid(bright(), SOURCE, count=3, batch_size=8),
    "grid, shrunk": lambda files: Grid(bright(), SOURCE, count=3, batch_size=4, fit="shrink"),
    "single cells": lambda files: Grid(bright(), SOURCE, n=1, count=5, batch_size=2),
    "disconnected": lambda files: Disconnected(*sure(), count=3, batch_size=2, confidence=0),
    "partly": lambda files: Disconnected(*sure(), count=3, batch_size=2, confidence=0, part=1),
    "one cell": lambda files: Disconnected(*sure(), n=1, count=3, batch_size=2, confidence=0),
}


@pytest.fixture(params=PROBLEMS)
def problem(request, files):
    return PROBLEMS[request.param](files)


def same(a: Batch | None, b: Batch | None) -> bool:
    """Whether two batches are the same to the bit."""
    if a is None or b is None:
        return a is b
    mine, others = ({"images": each.images, "targets": each.targets.index, **each.regions, **each.groups} for each in (a, b))
    kinds = a.ids == b.ids and a.targets.kind == b.targets.kind and list(a.regions) == list(b.regions) and list(a.groups) == list(b.groups)
    return kinds and all(torch.equal(mine[name], others[name]) and mine[name].dtype == others[name].dtype for name in mine)


# What any problem in parts promises ---------------------------------------------------------------------------------------------------


def test_its_parts_are_what_going_through_it_gives(problem):
    assert isinstance(problem, Sharded)
    through = list(problem)
    parts = {number: problem.shard(number) for number in random.Random(0).sample(range(problem.shards), problem.shards)}
    assert [same(parts[number].batch, batch) for number, (_, batch) in enumerate(through)] == [True] * problem.shards
    # The same model, or one that answers the same: that of a cell, or of a larger input.
    images = through[0][1].images
    assert torch.equal(parts[0].model.logits(images), through[0][0].logits(images))
    assert sum(len(part.batch) + len(part.failures) for part in parts.values()) == len(problem)


def test_names_are_those_of_the_images(problem):
    names = [problem.names(number) for number in range(problem.shards)]
    assert [name for each in names for name in dict.fromkeys(each)] == [name for each in names for name in each]
    assert len({name for each in names for name in each}) == len(problem)
    for number, part in enumerate(map(problem.shard, range(problem.shards))):
        left = {each.id for each in part.failures}
        assert tuple(name for name in names[number] if name not in left) == part.batch.ids


def test_some_images_of_a_part_are_rows_of_it(problem):
    for number in range(problem.shards):
        part, names = problem.shard(number), problem.names(number)
        for wanted in ({names[-1]}, set(names[::2]), set(names), set()):
            some = problem.shard(number, wanted)
            readable = [row for row, name in enumerate(part.batch.ids) if name in wanted]
            assert {each.id for each in some.failures} == {each.id for each in part.failures} & wanted
            if not readable:
                assert some.batch is None
            else:
                assert same(some.batch, picked(part.batch, wanted)) and some.batch.ids == tuple(part.batch.ids[row] for row in readable)


def test_digests_are_the_same_in_another_object_and_differ_between_parts(files, request, problem):
    again = PROBLEMS[request.node.callspec.params["problem"]](files)
    digests = [problem.digest(number) for number in range(problem.shards)]
    assert (
        digests
        == [again.digest(number) for number in range(problem.shards)]
        == [problem.digest(number) for number in range(problem.shards)]
    )
    assert len(set(digests)) == problem.shards and all(len(each) == 64 for each in digests)


def test_no_image_is_decoded_for_names_and_digests_of_files(files, monkeypatch):
    problem = PROBLEMS["files"](files)
    expected = problem.digest(0), problem.names(0)

    def read(*_: object, **__: object):
        raise AssertionError("an image was read")

    monkeypatch.setattr("attribkit.problems.files.read_image", read)
    assert (problem.digest(0), problem.names(0)) == expected


def test_what_cannot_be_read_is_told_with_its_part(files):
    problem = PROBLEMS["files"](files)
    assert [[each.id for each in problem.shard(number).failures] for number in range(3)] == [["1.png"], [], []]
    alone = problem.shard(0, ["1.png"])
    assert alone.batch is None and alone.failures[0].stage == "read" and alone.failures == problem.shard(0).failures


# What a digest tells ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"strength": 60},
        {"seed": 1},
        {"shortcut": "tag"},
        {"batch_size": 2},
    ],
    ids=str,
)
def test_settings_of_planted_scenes(change):
    before, after = Planted(small(), 6, batch_size=3), Planted(small(), 6, **{"batch_size": 3, **change})
    assert before.digest(0) != after.digest(0)
    assert before.digest(0) == Planted(small(), 99, batch_size=3).digest(0)  # how many there are beside these decides nothing


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Grid, {"n": 1}),
        (Grid, {"seed": 1}),
        (Grid, {"fit": "shrink"}),
        (Disconnected, {"n": 1}),
        (Disconnected, {"seed": 1}),
        (Disconnected, {"part": 1}),
    ],
    ids=str,
)
def test_settings_of_grids(kind, change):
    settings = {"count": 3, "confidence": 0, "batch_size": 4}
    model, source = (bright(), SOURCE) if kind is Grid else sure()
    assert kind(model, source, **settings).digest(0) != kind(model, source, **settings, **change).digest(0)


def test_the_cells_of_disconnected_grids_are_told_apart():
    """Two shards of the same grids: one explains the first cell, the other the last."""
    problem = PROBLEMS["disconnected"](None)
    assert problem.shards == 4 and problem.names(0) == ("grid-0000-cell-0", "grid-0001-cell-0")
    assert problem.names(1) == ("grid-0000-cell-3", "grid-0001-cell-3") and problem.digest(0) != problem.digest(1)


def test_a_grid_is_another_one_when_a_cell_shows_something_else():
    model = bright()
    before = Grid(model, SOURCE, count=3, batch_size=4)
    cells = [before.cells(number) for number in range(3)]
    dimmer = SOURCE[0].images.clone()
    row = SOURCE[0].ids.index(next(name for name in cells[1] if name in SOURCE[0].ids))
    dimmer[row] += 1e-3
    after = Grid(model, [dataclasses.replace(SOURCE[0], images=dimmer), SOURCE[1]], count=3, batch_size=4)
    assert [after.cells(number) for number in range(3)] == cells
    assert [before.digest(number) == after.digest(number) for number in range(3)] == [True, False, True]


def test_a_batch_is_another_one_with_anything_that_decides_a_score():
    batch = SOURCE[0]
    logits = dataclasses.replace(batch, logits=torch.zeros(8, 5))
    assert digest_of_batches([batch]) == digest_of_batches([logits])  # what a model answers is in the model's own digest
    changed = {
        "images": batch.images + 1e-6,
        "type": batch.images.double(),
        "ids": tuple("abcdefgi"),
        "targets": Targets(batch.targets.index.flip(0)),
        "kind": Targets(batch.targets.index, "evidence"),
        "regions": {"object": 1 - batch.regions["object"]},
        "region's name": {"thing": batch.regions["object"]},
        "no region": {},
        "groups": {**batch.groups, "odd": 1 - batch.groups["odd"]},
        "group's name": {"even": batch.groups["odd"], "share": batch.groups["share"]},
    }
    fields = {"type": "images", "kind": "targets", "region's name": "regions", "no region": "regions", "group's name": "groups"}
    digests = {what: digest_of_batches([dataclasses.replace(batch, **{fields.get(what, what): value})]) for what, value in changed.items()}
    assert len({*digests.values(), digest_of_batches([batch])}) == len(changed) + 1
    assert digest_of_batches([batch[:4], batch[4:]]) != digest_of_batches([batch])


def test_how_a_tensor_lies_in_memory_is_no_difference():
    batch = SOURCE[0]
    laid = dataclasses.replace(batch, images=batch.images.to(memory_format=torch.channels_last))
    assert laid.images.stride() != batch.images.stride() and digest_of_batches([laid]) == digest_of_batches([batch])


def test_values_are_digested_with_their_borders():
    assert len({digested("ab", "c"), digested("a", "bc"), digested(["ab", "c"]), digested("ab", ["c"]), digested("1"), digested(1)}) == 6
    assert len(digested("\udcff")) == 64  # of a file's name that is no UTF-8


@pytest.mark.parametrize(("count", "each", "parts"), [(0, 3, 0), (1, 3, 1), (3, 3, 1), (4, 3, 2), (9, 3, 3), (10, 3, 4), (5, 1, 5)])
def test_starts(count, each, parts):
    assert starts(count, each) == parts


# What is found out once ---------------------------------------------------------------------------------------------------------------


def test_a_plan_goes_through_json_and_makes_the_same_grids():
    first = PROBLEMS["grid"](None)
    assert isinstance(first, Planned)
    second = PROBLEMS["grid"](None)
    assert second.plan_key() == first.plan_key()
    second.adopt(json.loads(json.dumps(first.plan())))
    assert second.grids == first.grids and [second.digest(n) for n in range(second.shards)] == [
        first.digest(n) for n in range(first.shards)
    ]
    assert all(same(a, b) for (_, a), (_, b) in zip(first, second, strict=True))


@pytest.mark.parametrize("change", [{"n": 1}, {"count": 2}, {"seed": 1}, {"confidence": 0.5}], ids=str)
def test_the_key_of_a_plan_tells_what_decides_it(change):
    settings = {"n": 2, "count": 3, "seed": 0}
    assert Grid(bright(), SOURCE, **settings).plan_key() != Grid(bright(), SOURCE, **{**settings, **change}).plan_key()
    assert Grid(bright(), SOURCE, **settings).plan_key() != Disconnected(bright(), SOURCE, **settings).plan_key()
    assert Grid(bright(), SOURCE, **settings).plan_key() == Grid(bright(), SOURCE, **settings, fit="shrink", batch_size=4).plan_key()


def test_rows_beyond_the_source_are_refused():
    with pytest.raises(BadInput, match=r"got 16, allowed: rows from 0 to 15"):
        Labelled(bright(), SOURCE).batch([3, 16])


def test_one_row_of_a_strided_tensor_has_the_digest_of_its_values():
    """As a batch of labels that are columns of a table: one row of it passes for contiguous, and is not."""
    table = torch.arange(12).view(4, 3)
    for row in range(4):
        digests = [hashlib.sha256(), hashlib.sha256()]
        digest_tensor(digests[0], table[:, 1][row : row + 1])
        digest_tensor(digests[1], torch.tensor([3 * row + 1]))
        assert digests[0].hexdigest() == digests[1].hexdigest()
