"""Problems on grids: which images become cells, how they are laid out, and who answers."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import GapCNN, LinearModel, Recorded, adapted
from PIL import Image
from torch import nn
from torch.testing import assert_close

from attribkit.batch import Batch, Targets
from attribkit.errors import BadInput, UnknownName, Unsupported
from attribkit.model.adapter import VisionModel
from attribkit.model.mosaic import stitched
from attribkit.model.planted import CLASSES, MEAN, SIZE, STD, planted_module
from attribkit.problems import PROBLEMS, Disconnected, Grid, Labelled, Planted
from attribkit.problems.cells import Cell, Pool, cell_regions

HIGH, WIDE = 16, 24


class ByBrightness(nn.Module):
    """Class k is what is k bright on average; halfway between two, each has half of the probability."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.arange(classes).float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -8 * (images.mean((1, 2, 3)).unsqueeze(1) - self.levels) ** 2


def lit(classes: list[int], shift: float = 0.0, start: int = 0) -> Batch:
    """Noise, as bright as its class (and a bit more); of each image the name says which it is."""
    noise = torch.randn(len(classes), 3, HIGH, WIDE, generator=torch.Generator().manual_seed(start))
    index = torch.tensor(classes)
    images = noise - noise.mean((1, 2, 3), keepdim=True) + (index + shift).view(-1, 1, 1, 1)
    return Batch(images, Targets(index), tuple(f"{place}-of-{each}" for place, each in enumerate(classes, start)))


@pytest.fixture(scope="module")
def model():
    return adapted(ByBrightness(12), size=(HIGH, WIDE))


@pytest.fixture(scope="module")
def source():
    return [lit(list(range(12)) * 2), lit(list(range(12)) * 2, start=24)]


def class_of(name: str) -> int:
    return int(name.rsplit("-", 1)[1])


def by_name(source: list[Batch]) -> dict[str, torch.Tensor]:
    return {name: image for batch in source for name, image in zip(batch.ids, batch.images, strict=True)}


# The lay-out ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3])
def test_cells_lie_row_by_row(n):
    images = torch.arange(2 * n * n).view(-1, 1, 1, 1).expand(-1, 1, 2, 3)
    grids = stitched(images, n)
    assert grids.shape == (2, 1, 2 * n, 3 * n)
    for grid, cell in itertools.product(range(2), range(n * n)):
        row, column = divmod(cell, n)
        assert grids[grid, 0, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3].unique().tolist() == [grid * n * n + cell]
        region = cell_regions(torch.tensor([cell]), n, (2, 3))[0]
        assert region.sum() == 6
        assert region[2 * row : 2 * row + 2, 3 * column : 3 * column + 3].min() == 1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_grid_is_made_of_the_images_it_names(model, source, n):
    problem = Grid(model, source, n=n, count=3)
    images, rows = by_name(source), 0
    for _, batch in problem:
        for row in range(len(batch)):
            grid, cell = (int(part) for part in batch.ids[row].removeprefix("grid-").split("-cell-"))
            assert (grid, cell) == divmod(rows, n * n)
            names = problem.cells(grid)
            assert_close(batch.images[row], stitched(torch.stack([images[name] for name in names]), n)[0], rtol=0, atol=0)
            assert int(batch.targets.index[row]) == class_of(names[cell])
            assert int(batch.groups["cell"][row]) == cell
            assert_close(batch.regions["cell"][row], cell_regions(torch.tensor([cell]), n, (HIGH, WIDE))[0], rtol=0, atol=0)
            rows += 1
    assert (rows, len(problem), problem.label) == (3 * n * n, 3 * n * n, f"GridPG {n}x{n}")


# Which images become cells ---------------------------------------------------------------------------------------------------------


def test_classes_are_distinct_and_no_image_is_used_twice(model, source):
    problem = Grid(model, source, n=3, count=5)  # 45 of 48 images
    grids = [problem.cells(index) for index in range(5)]
    assert all(len({class_of(name) for name in names}) == 9 for names in grids)
    assert max(Counter(itertools.chain(*grids)).values()) == 1


def test_only_what_the_model_is_right_and_sure_about(model):
    right = [lit([0, 1, 2, 3, 4, 5])]
    wrong = [Batch(batch.images, Targets((batch.targets.index + 1) % 12), batch.ids) for batch in [lit([6, 7, 8, 9, 10, 11], start=6)]]
    unsure = [lit([6, 7, 8, 9, 10, 10], shift=0.25, start=12)]
    sure = float((-8 * torch.tensor([0.25, 0.75, 1.25]) ** 2).softmax(0)[0])  # 0.98
    assert 0.97 < sure < 0.985
    source = [*wrong, *unsure, *right]
    problem = Grid(model, source, n=2, count=1)
    assert {class_of(name) for name in problem.cells(0)} <= {0, 1, 2, 3, 4, 5}
    message = (
        r"Grid\(count=2\): 6 images of 6 classes are classified correctly with probability 0.99 or more, enough for count=1 with 4 "
        "distinct classes in each; allowed: fewer grids, smaller ones, a lower confidence, or more images"
    )
    with pytest.raises(BadInput, match=message):
        Grid(model, source, n=2, count=2).cells(0)
    less = Grid(model, source, n=2, count=3, confidence=sure - 0.005)
    assert sorted(itertools.chain(*map(less.cells, range(3)))) == sorted(itertools.chain(unsure[0].ids, right[0].ids))
    with pytest.raises(BadInput, match=r"Grid\(count=4\): 12 images of 11 classes .* probability 0.5 or more, enough for count=3"):
        Grid(model, source, n=2, count=4, confidence=0.5).cells(0)
    with pytest.raises(BadInput, match=r"Disconnected\(count=2\): 6 images of 6 classes .*, enough for count=1 with 4 images"):
        Disconnected(model, source, n=2, count=2).cells(0)


def test_a_seed_gives_the_same_grids_everywhere(model, source):
    """Far from where rounding tells: every image's probability is nearly 1."""
    problem = Grid(model, source, count=2)
    assert problem.cells(0) == ("33-of-9", "13-of-1", "8-of-8", "11-of-11")
    assert problem.cells(1) == ("34-of-10", "26-of-2", "35-of-11", "31-of-7")
    assert Disconnected(model, source, count=1).cells(0) == ("33-of-9", "13-of-1", "11-of-11", "21-of-9")


@pytest.mark.parametrize("kind", [Grid, Disconnected])
def test_grids_depend_on_the_seed_and_not_on_batches(model, source, kind):
    def drawn(source, **settings):
        problem = kind(model, source, n=2, count=6, **settings)
        return [problem.cells(index) for index in range(6)], torch.cat([batch.images for _, batch in problem if batch.ids[0][-1] == "0"])

    grids, images = drawn(source, batch_size=24)
    again, same = drawn([batch[row : row + 5] for batch in source for row in range(0, 24, 5)], batch_size=24)
    assert again == grids
    assert_close(same, images, rtol=0, atol=0)
    small, _ = drawn(source, batch_size=1)
    assert small == grids
    other, _ = drawn(source, seed=1)
    assert sum(mine == theirs for mine, theirs in zip(grids, other, strict=True)) == 0


def test_batches_hold_whole_grids(model, source):
    assert [len(batch) for _, batch in Grid(model, source, n=2, count=5, batch_size=10)] == [8, 8, 4]
    assert [len(batch) for _, batch in Grid(model, source, n=3, count=3, batch_size=2)] == [9, 9, 9]
    assert [len(batch) for _, batch in Disconnected(model, source, n=2, count=5, batch_size=3)] == [3, 3, 2, 2]


def test_the_source_is_looked_at_once(source):
    recorded = Recorded(ByBrightness(12))
    problem = Grid(adapted(recorded, size=(HIGH, WIDE), max_rows=8), source, n=1, count=4)
    assert recorded.rows == []
    for _ in range(2):
        list(problem)
        problem.cells(3)
    assert recorded.rows == [8] * 6


def counts_of(pool: Pool) -> list[int]:
    return [len(left) for left in pool._left.values()]


def filled(counts: list[int], seed: int = 0) -> Pool:
    return Pool([Cell(1000 * target + row, f"{target}/{row}", target) for target, count in enumerate(counts) for row in range(count)], seed)


def most(counts: tuple[int, ...], size: int) -> int:
    """How many times `size` distinct classes can be taken: always from those with the most left."""
    left, times = sorted(counts), 0
    while len(left) >= size and min(left[-size:]) > 0:
        left = sorted([*left[:-size], *(each - 1 for each in left[-size:])])
        times += 1
    return times


def test_as_many_grids_are_made_as_there_can_be():
    """Classes of uneven sizes: taking at random alone would leave images of one class behind."""
    rng = np.random.default_rng(5)
    for trial in range(150):
        counts = [int(each) for each in rng.integers(0, 9, rng.integers(1, 9))]
        size = int(rng.integers(1, 5))
        enough = filled(counts).enough_for(size)
        assert enough == most(tuple(counts), size), (counts, size)
        pool = filled(counts, seed=trial)
        for count in range(enough, 0, -1):
            taken = [pool.take(each).target for each in pool.distinct(size, count)]
            assert len(set(taken)) == size, (counts, size)
        assert sum(counts_of(pool)) == sum(counts) - enough * size


def test_classes_are_drawn_alike_where_there_are_images_enough():
    seen = Counter()
    for seed in range(600):
        seen.update(filled([30, 20, 10, 10, 10], seed).distinct(2, 5))
    # 240 each, with a standard deviation of 12
    assert all(abs(seen[target] - 240) < 60 for target in range(5)), seen


# GridPG --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A network and noise that it has classified itself, both as they come from `tests/models.py`."""
    torch.manual_seed(8)
    model = adapted(GapCNN(classes=8), size=(HIGH, WIDE))
    images = 3 * torch.randn(64, 3, HIGH, WIDE) + 2 * torch.randn(64, 3, 1, 1)
    said = model.logits(images).argmax(1)
    assert len(said.unique()) >= 4
    return model, [Batch(images, Targets(said), tuple(f"{place}-of-{each}" for place, each in enumerate(said.tolist())))]


def test_one_network_sees_the_whole_grid(trained):
    model, source = trained
    problem = Grid(model, source, n=2, count=3, confidence=0)
    (seeing, batch), *_ = problem
    assert tuple(seeing.size) == (2 * HIGH, 2 * WIDE)
    with torch.no_grad():
        expected = model.module.eval()(batch.images)  # a network that ends in a mean takes any size as it is
        model.module.train()
    assert_close(seeing.logits(batch.images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fit", ["enlarge", "shrink"])
def test_one_cell_is_the_plain_problem(trained, fit):
    model, source = trained
    problem = Grid(model, source, n=1, count=64, confidence=0, fit=fit)
    seen = {}
    for asked, batch in problem:
        assert asked is model
        assert batch.regions["cell"].min() == 1
        seen |= {
            problem.cells(int(name[5:9]))[0]: (image, int(target))
            for name, image, target in zip(batch.ids, batch.images, batch.targets.index, strict=True)
        }
    assert sorted(seen) == sorted(source[0].ids)
    for name, image, target in zip(source[0].ids, source[0].images, source[0].targets.index, strict=True):
        assert_close(seen[name][0], image, rtol=0, atol=0)
        assert seen[name][1] == int(target)


def test_a_shrunk_grid_has_the_size_of_the_model(trained):
    model, source = trained
    whole, problem = (Grid(model, source, n=2, count=3, confidence=0, fit=fit) for fit in ("enlarge", "shrink"))
    assert problem.label == "GridPG 2x2 shrunk"
    for (_, large), (asked, small) in zip(whole, problem, strict=True):
        assert asked is model
        expected = F.interpolate(large.images, size=(HIGH, WIDE), mode="bilinear", antialias=True)
        assert_close(small.images, expected, rtol=0, atol=0)
        assert_close(small.regions["cell"], F.avg_pool2d(large.regions["cell"], 2), rtol=0, atol=0)
        assert (small.ids, small.targets.index.tolist()) == (large.ids, large.targets.index.tolist())


def test_cells_that_share_a_pixel_share_the_region():
    """Three cells on 16 rows: the border lies within a pixel."""
    model = adapted(ByBrightness(12), size=(HIGH, WIDE))
    (_, batch), *_ = Grid(model, [lit(list(range(12)))], n=3, count=1, fit="shrink")
    assert_close(batch.regions["cell"].sum(0), torch.ones(HIGH, WIDE))
    assert_close(batch.regions["cell"].sum((1, 2)), torch.full((9,), HIGH * WIDE / 9), rtol=0.15, atol=0)


def test_a_model_of_one_size_only_is_refused_by_name():
    torch.manual_seed(0)
    model = adapted(LinearModel(size=(HIGH, WIDE)), size=(HIGH, WIDE))
    images = torch.randn(60, 3, HIGH, WIDE)
    source = [Batch(images, Targets(model.logits(images).argmax(1)), tuple(map(str, range(60))))]
    problem = Grid(model, source, n=2, count=2, confidence=0)
    with pytest.raises(Unsupported, match=r"GridPG 2x2: .*; or Grid\(..., fit='shrink'\), which resizes the grid to 16 x 24"):
        next(iter(problem))
    asked, batch = next(iter(Grid(model, source, n=2, count=2, confidence=0, fit="shrink")))
    assert asked.logits(batch.images).shape == (8, 5)


# DiFull and DiPart -----------------------------------------------------------------------------------------------------------------


def test_the_first_and_the_last_cell_show_one_class(model, source):
    problem = Disconnected(model, source, n=3, count=5)
    for index in range(5):
        names = problem.cells(index)
        classes = [class_of(name) for name in names]
        assert classes[0] == classes[-1]
        assert names[0] != names[-1]
        assert len(set(classes)) == 8
    assert max(Counter(itertools.chain(*map(problem.cells, range(5)))).values()) == 1


def test_with_one_image_a_class_the_last_cell_has_its_own(model):
    problem = Disconnected(model, [lit(list(range(12)))], n=2, count=3)
    assert sorted(itertools.chain(*([class_of(name) for name in problem.cells(index)] for index in range(3)))) == list(range(12))
    for _, batch in problem:
        cell = int(batch.ids[0][-1])
        assert batch.targets.index.tolist() == [class_of(problem.cells(index)[cell]) for index in range(3)]


def test_with_few_classes_they_repeat(model):
    problem = Disconnected(model, [lit([3, 7] * 10)], n=2, count=5)  # all 20 images
    grids = [problem.cells(index) for index in range(5)]
    assert len(set(itertools.chain(*grids))) == 20
    assert [class_of(names[0]) == class_of(names[3]) for names in grids] == [True] * 5
    with pytest.raises(BadInput, match=r"Grid\(count=1\): 20 images of 2 classes .*, enough for count=0 with 4 distinct classes"):
        Grid(model, [lit([3, 7] * 10)], n=2, count=1).cells(0)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_each_head_answers_for_its_cell_alone(trained, n):
    model, source = trained
    problem = Disconnected(model, source, n=n, count=4, confidence=0, batch_size=2)
    ends = [0, n * n - 1][: min(2, n * n)]
    assert (len(problem), problem.label) == (4 * len(ends), f"DiFull {n}x{n}")
    images, seen = by_name(source), []
    for asked, batch in problem:
        (cell,) = batch.groups["cell"].unique().tolist()
        seen += batch.ids
        assert tuple(batch.images.shape) == (2, 3, n * HIGH, n * WIDE)
        assert_close(batch.regions["cell"], cell_regions(batch.groups["cell"], n, (HIGH, WIDE)), rtol=0, atol=0)
        names = [problem.cells(int(name[5:9]))[cell] for name in batch.ids]
        assert batch.targets.index.tolist() == [class_of(name) for name in names]
        alone = model.logits(torch.stack([images[name] for name in names]))
        assert_close(asked.logits(batch.images), alone, rtol=1e-5, atol=1e-5)
    assert seen == [f"grid-{grid:04d}-cell-{cell}" for first in (0, 2) for cell in ends for grid in (first, first + 1)]


def test_dipart_hands_on_its_part(trained, monkeypatch):
    model, source = trained
    asked = []
    monkeypatch.setattr("attribkit.problems.disconnected.head_of", lambda *given: asked.append(given) or model)
    problem = Disconnected(model, source, 2, 2, 0, 1, confidence=0)
    assert (problem.label, len(list(problem))) == ("DiPart(1) 2x2", 2)
    list(problem)
    assert asked == [(model, 2, 0, 1), (model, 2, 3, 1)]  # once, not for every pass


# Sources -------------------------------------------------------------------------------------------------------------------------


def test_planted_scenes_become_cells():
    model = VisionModel(planted_module("shortcut-50"), mean=MEAN, std=STD, size=SIZE, classes=CLASSES)
    scenes = Planted(model, count=30, batch_size=8)
    assert_close(scenes.batch([17, 3]).images, torch.cat([batch.images for _, batch in scenes])[[17, 3]], rtol=0, atol=0)
    problem = Disconnected(model, scenes, n=2, count=2, confidence=0.9)
    (_, batch), *_ = problem
    place = int(problem.cells(0)[0].rsplit("-", 1)[1])
    assert_close(batch.images[0, :, :SIZE, :SIZE], scenes.batch([place]).images[0], rtol=0, atol=0)
    assert problem.failures == []


def test_images_are_found_again_behind_one_that_is_broken(tmp_path, model):
    for number in range(6):
        Image.fromarray(np.full((HIGH, WIDE, 3), 128 + 127 * (number % 2), np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "m.csv").write_text("path,label\n" + "".join(f"{number}.png,{number % 2}\n" for number in range(6)))
    own = VisionModel(model.module, mean=128 / 255, std=127 / 255, size=(HIGH, WIDE))
    for source in (tmp_path / "m.csv", str(tmp_path / "m.csv"), Labelled(own, tmp_path / "m.csv", batch_size=2)):
        problem = Grid(own, source, n=1, count=5)
        seen = {
            problem.cells(int(name[5:9]))[0]: float(image.mean())
            for _, batch in problem
            for name, image in zip(batch.ids, batch.images, strict=True)
        }
        assert {name: round(mean) for name, mean in seen.items()} == {"0.png": 0, "2.png": 0, "3.png": 1, "4.png": 0, "5.png": 1}
        assert [(each.id, each.reason) for each in problem.failures] == [("1.png", "the file is empty")]


def test_what_cannot_be_a_source_is_refused(model, trained, source):
    other, images = trained
    with pytest.raises(BadInput, match="Grid: got a source made for GapCNN, allowed: one made for the same model"):
        Grid(model, Labelled(other, images))
    with pytest.raises(BadInput, match="source: got int, allowed: a manifest"):
        Disconnected(model, 7)
    small = [batch.__class__(batch.images[..., :8], batch.targets, batch.ids) for batch in source]
    with pytest.raises(BadInput, match=r"a grid's cells: got images of \(16, 8\), allowed: the model's size, \(16, 24\)"):
        Grid(model, small).cells(0)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Grid, {"n": 0}, r"Grid\(n=...\): got 0, allowed: an int of at least 1"),
        (Grid, {"count": True}, r"Grid\(count=...\): got True, allowed: an int"),
        (Grid, {"seed": -1}, r"Grid\(seed=...\): got -1, allowed: an int of at least 0"),
        (Disconnected, {"batch_size": 0}, r"Disconnected\(batch_size=...\): got 0, allowed: an int"),
        (Disconnected, {"part": -1}, r"Disconnected\(part=...\): got -1, allowed: an int of at least 0"),
        (Grid, {"confidence": 1.5}, r"Grid\(confidence=...\): got 1.5, allowed: a probability from 0 to 1"),
        (Grid, {"confidence": float("nan")}, r"Grid\(confidence=...\): got nan, allowed: a probability"),
        (Grid, {"fit": "crop"}, "no fit is called 'crop'; allowed: enlarge, shrink"),
    ],
)
def test_wrong_settings_raise_when_made(model, source, kind, settings, message):
    with pytest.raises((BadInput, UnknownName), match=message):
        kind(model, source, **settings)


def test_both_are_in_the_table(model, source):
    assert (PROBLEMS["grid"], PROBLEMS["disconnected"]) == (Grid, Disconnected)
    assert repr(Grid(model, source, n=3)) == "<Grid: 100 grids of 3 x 3 for ByBrightness>"
