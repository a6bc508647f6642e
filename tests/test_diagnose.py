"""`ak.diagnose` from end to end: what is asked of a model, known truth, and what bad input costs."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

import attribkit as ak
from attribkit.batch import Batch, Targets
from attribkit.diagnosing.answered import Answered, Known
from attribkit.diagnosing.asking import _answers as answered_parts
from attribkit.diagnosing.exchanging import Cue, Pool, cues_of, spread
from attribkit.diagnosing.held import Held
from attribkit.diagnosing.trained import training_of
from attribkit.diagnosing.versions import box_of, kept, shifted
from attribkit.problems.labelled import Labelled
from attribkit.problems.planted import Planted


class Quadrants(nn.Module):
    """Says whether the left half of an image is brighter than the right: two classes, by one convolution and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).view(2, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).relu().mean((2, 3))


def colours(**settings: object) -> ak.VisionModel:
    """Class 0 where there is more red than green, class 1 where there is less."""
    return ak.VisionModel(Quadrants().eval(), mean=0.0, std=1.0, size=16, classes=["red", "green"], layer="conv", **settings)


def pictures(count: int, *, follow: str, seed: int = 0) -> list[Batch]:
    """Squares of one colour on grounds of another, each drawn by itself; the label is the colour of what is to `follow`."""
    draw = np.random.default_rng(seed)
    square, ground = draw.integers(0, 2, count), draw.integers(0, 2, count)
    images, region = torch.zeros(count, 3, 16, 16), torch.zeros(count, 16, 16)
    for row in range(count):
        top, left = draw.integers(1, 8, 2)
        images[row, ground[row]] = 0.5 + 0.1 * float(draw.random())
        region[row, top : top + 6, left : left + 6] = 1
        images[row, :, top : top + 6, left : left + 6] = 0
        images[row, square[row], top : top + 6, left : left + 6] = 0.5
    labels = torch.from_numpy(square if follow == "square" else ground)
    groups = {"square": torch.from_numpy(square), "ground": torch.from_numpy(ground)}
    return [Batch(images, Targets(labels), tuple(f"{row:03d}" for row in range(count)), {"square": region}, groups)]


# What is asked ---------------------------------------------------------------------------------------------------------------------


def test_a_box_reaches_from_the_first_to_the_last_row_and_column():
    region = torch.zeros(2, 6, 8, dtype=torch.bool)
    region[0, 1, 2] = region[0, 4, 6] = True
    expected = torch.zeros(2, 6, 8, dtype=torch.bool)
    expected[0, 1:5, 2:7] = True
    assert_close(box_of(region), expected)


def test_versions_keep_what_they_say():
    region = torch.zeros(1, 8, 8, dtype=torch.bool)
    region[0, 1:3, 1:3] = region[0, 3, 3] = True
    found = {name: keep for name, (keep, _) in kept(region).items()}
    assert_close(found["region removed"], ~region)
    assert_close(found["region removed"] ^ found["region only"], torch.ones_like(region))
    assert int(found["box only"].sum()) == 9
    assert_close(found["box removed"], ~found["box only"])
    moved = found["shifted only"]
    assert (int(moved.sum()), bool((moved & region).any())) == (5, False)
    assert_close(found["shifted removed"], ~moved)


def test_a_region_that_fills_the_image_has_no_control_and_no_box_to_remove():
    region = torch.ones(1, 8, 8, dtype=torch.bool)
    there = {name: bool(each[0]) for name, (_, each) in kept(region).items()}
    assert there["region removed"]
    assert not there["shifted removed"]
    assert not there["box removed"]
    assert not shifted(region)[1].any()


def test_an_image_without_the_region_has_no_version():
    assert not any(bool(there.any()) for _, there in kept(torch.zeros(1, 8, 8, dtype=torch.bool)).values())


def pool_of(batches: list[Batch], model: ak.VisionModel, cues: list[Cue]) -> Pool:
    (batch,) = batches
    known = [Known(0, int(label), None, (int(group),)) for label, group in zip(batch.targets.index, batch.groups["ground"], strict=True)]
    return Pool.of(model, batch, known, cues, 0)


def test_an_exchanged_ground_keeps_the_square_and_takes_the_ground():
    model, batches = colours(), pictures(8, follow="square")
    cues = cues_of(batches[0], ["square"], 4)
    assert cues == [Cue("square", "square", False, False), Cue("background", "square", True, True)]
    pool = pool_of(batches, model, cues)
    batch, donors = batches[0], torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])
    images, whole = pool.exchanging(model, batch, cues[1])(donors)
    inside = (batch.region("square") > 0.5).unsqueeze(1)
    assert whole.all()
    assert_close(torch.where(inside, images, 0), torch.where(inside, batch.images, 0), rtol=0, atol=0)
    lent = torch.where(~inside & ~inside[donors], batch.images[donors], 0)
    assert_close(torch.where(~inside & ~inside[donors], images, 0), lent, rtol=0, atol=0)


def test_an_exchanged_square_is_the_donors_and_its_own_is_gone():
    model, batches = colours(), pictures(8, follow="square")
    cues = cues_of(batches[0], ["square"], 4)
    pool = pool_of(batches, model, cues)
    batch, donors = batches[0], torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])
    images, _ = pool.exchanging(model, batch, cues[0])(donors)
    inside = (batch.region("square") > 0.5).unsqueeze(1)
    lent = torch.where(inside[donors], batch.images[donors], 0)
    assert_close(torch.where(inside[donors], images, 0), lent, rtol=0, atol=0)
    ground = batch.groups["ground"]
    for row in range(8):  # where the square was there is the ground's colour alone, which is flat
        gap = (inside & ~inside[donors])[row, 0]
        if gap.any():
            assert float(images[row, 1 - int(ground[row])][gap].abs().max()) < 1e-5


def test_who_lends_depends_on_the_name_alone_and_is_never_oneself():
    model, batches = colours(), pictures(12, follow="square")
    cues = cues_of(batches[0], ["square"], 4)
    pool = pool_of(batches, model, cues)
    again = pool_of(batches, model, cues)
    for name in batches[0].ids:
        donors = pool.donors(name, cues[1], 3)
        assert donors == again.donors(name, cues[1], 3)
        assert len(set(donors)) == 3
        assert name not in [batches[0].ids[at] for at in donors]


def test_lenders_are_spread_over_combinations_of_labels():
    known = {f"a{at}": Known(0, 0, None, (0,)) for at in range(90)} | {f"b{at}": Known(0, 1, None, (1,)) for at in range(10)}
    chosen = spread(known, 20, 0)
    assert sum(name.startswith("b") for name in chosen) == 10
    assert spread(known, 20, 0) == chosen


def test_held_images_are_read_once():
    model = ak.load_model("planted/shortcut-95")

    class Counting(Planted):
        def shard(self, number, names=None):
            read.append(number)
            return super().shard(number, names)

    read: list[int] = []
    problem = Counting(model, 24, batch_size=8)
    held = Held(problem)
    wanted = problem.names(1)[2:4]
    assert [batch.ids for _, batch in held.images(problem.names(1))] == [problem.names(1)]
    whole = held.shard(1).batch
    part = held.shard(1, wanted).batch
    assert read == [1, 1]  # a part is not held, the whole is
    assert part.ids == wanted
    assert_close(part.images, whole.images[2:4], rtol=0, atol=0)
    assert Held(problem, room=10).shard(0).batch.ids == problem.names(0)


# Known truth -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cheating() -> ak.Diagnosis:
    model = ak.load_model("planted/shortcut-100")
    return ak.diagnose(model, Planted(model, 80, 50, 3))


@pytest.fixture(scope="module")
def honest() -> ak.Diagnosis:
    model = ak.load_model("planted/shortcut-50")
    return ak.diagnose(model, Planted(model, 80, 50, 3))


def test_the_planted_shortcut_comes_first(cheating):
    first = cheating.findings[0]
    assert (first.test, first.cue) == ("swap", "background")
    assert first.effect > 0.9
    assert "another background" in first.claim


def test_nothing_is_found_where_there_is_no_shortcut(honest):
    assert honest.findings == ()
    assert len(honest.claims) > 10


def test_a_tag_is_found_where_the_tag_was_the_shortcut():
    model = ak.load_model("planted/tag-100")
    found = ak.diagnose(model, Planted(model, 64, 50, 3)).findings
    assert (found[0].test, found[0].cue) == ("swap", "tag")
    assert not [each for each in found if each.test == "swap" and each.cue == "background"]


def test_scores_on_the_object_fall_and_on_the_background_rise(cheating, honest):
    score = [{row.region: row.score for row in each.regions if row.target is None and row.by is None} for each in (honest, cheating)]
    assert score[0]["object"] > score[1]["object"] + 0.2
    assert score[0]["background"] < score[1]["background"] - 0.2


def test_a_model_that_goes_by_colour_is_told_by_exact_numbers():
    """The ground is larger than the square, so that the brightest colour is the ground's: every answer is its colour."""
    model = colours()
    result = ak.diagnose(model, pictures(60, follow="square"), "gradient", removal="Constant()")
    rows = {row.version: row for row in result.versions}
    assert rows["full"].kept == 1.0
    assert rows["box removed"].kept == 1.0
    (swap,) = [row for row in result.swaps if (row.cue, row.by) == ("background", "ground")]
    assert (swap.other, swap.same, swap.follows) == (1.0, 0.0, 1.0)
    (square,) = [row for row in result.swaps if (row.cue, row.by) == ("square", "square")]
    assert (square.other, square.same) == (0.0, 0.0)
    assert (result.findings[0].test, result.findings[0].cue) == ("swap", "background")
    accuracy = {(row.target, row.label): row.accuracy for row in result.groups if row.by == "ground"}
    assert accuracy["red", 0] == accuracy["green", 1] == 1.0
    assert accuracy["red", 1] == accuracy["green", 0] == 0.0


def test_the_model_comes_back_as_it_was(cheating):
    model = ak.load_model("planted/shortcut-95")
    model.module.train()
    before = {name: weight.clone() for name, weight in model.module.state_dict().items()}
    state = torch.get_rng_state()
    ak.diagnose(model, Planted(model, 12))
    assert_close(dict(model.module.state_dict()), before, rtol=0, atol=0)
    assert all(module.training for module in model.module.modules())
    assert all(weight.grad is None for weight in model.module.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.module.modules())
    assert_close(torch.get_rng_state(), state, rtol=0, atol=0)


def test_the_same_call_finds_the_same(cheating):
    model = ak.load_model("planted/shortcut-100")
    again = ak.diagnose(model, Planted(model, 80, 50, 3, batch_size=17))
    assert [(each.claim, each.effect, each.p) for each in again.findings] == [
        (each.claim, each.effect, each.p) for each in cheating.findings
    ]


def test_every_finding_points_at_images_that_are_shown(cheating):
    for finding, pictures_ in zip(cheating.findings, cheating.pictures, strict=True):
        assert finding.images
        assert {each.id for each in pictures_} >= set(finding.images)
    swapped_ = [each for each in cheating.pictures[0] if ", background of " in each.id]
    assert len(swapped_) == len(cheating.findings[0].images)
    assert all(each.map is not None and each.image.dtype == torch.uint8 for pictures_ in cheating.pictures for each in pictures_)


def test_mean_maps_are_of_every_answer_and_group(cheating):
    for each in cheating.means:
        assert float(each.map.sum()) == pytest.approx(1, abs=1e-4)
    whole = {each.answer: each.count for each in cheating.means if each.by is None}
    parts = {each.answer: 0 for each in cheating.means}
    for each in cheating.means:
        parts[each.answer] += each.count * (each.by == "background")
    assert parts == whole


def test_scores_hold_every_image_of_every_test(cheating):
    metrics = {key.metric: key.method for key in cheating.scores.keys()}  # noqa: SIM118 - no mapping
    assert metrics["answered right"] == "the model"
    assert metrics["answer stays, box removed"].startswith("LayerMask")
    assert not [name for name in metrics if "mirrored" in name]
    kept_ = [row["score"] for row in cheating.scores.rows() if row["metric"] == "answer stays, box removed"]
    (row,) = [row for row in cheating.versions if row.version == "box removed"]
    assert np.mean(kept_) == pytest.approx(row.kept)


def test_training_labels_make_amplification_known(cheating):
    model = ak.load_model("planted/shortcut-100")
    assert not [row for row in cheating.amplification if row.by == "background"]
    result = ak.diagnose(model, Planted(model, 64, 50, 3), training=Planted(model, 80, 100, 5))
    (row,) = [row for row in result.amplification if row.by == "background"]
    assert row.amplification == pytest.approx(0.5, abs=0.02)  # every answer is the ground's, of which half are right
    assert row.low > 0.3


def test_maps_of_labels_are_compared_with_a_protected_one():
    model = ak.load_model("planted/shortcut-95")
    result = ak.diagnose(model, Planted(model, 16), protected="fish")
    (row,) = result.labels
    assert {row.one, row.other} == {"fish", "bird"}
    batch = Planted(model, 16).batch(range(16))
    maps = [ak.explain(model, ak.Batch(batch.images, Targets(torch.full((16,), at)), batch.ids), "grad_cam") for at in (0, 1)]
    both = ak.metrics.HeatmapIoU(other=1)(model, ak.Batch(batch.images, maps[0].targets, batch.ids), maps[0], ak.methods.GradCAM())
    assert row.score == pytest.approx(float(both[both.isfinite()].mean()), abs=1e-5)


# What is lacking, and bad input ----------------------------------------------------------------------------------------------------


def photographs(folder, count=12, *, masks=True, header=None, rows=None):
    """A manifest of small pictures: red or green squares on red or green."""
    (batch,) = pictures(count, follow="square")
    for row, name in enumerate(batch.ids):
        array = (255 * batch.images[row].permute(1, 2, 0)).byte().numpy()
        Image.fromarray(array).save(folder / f"{name}.png")
        Image.fromarray((255 * batch.region("square")[row]).byte().numpy()).save(folder / f"{name}-mask.png")
    path = folder / "list.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header or ["path", "label", *(["mask:square"] if masks else []), "group:ground"])
        for row, name in enumerate(batch.ids):
            known = [f"{name}.png", ("red", "green")[int(batch.targets.index[row])], *([f"{name}-mask.png"] if masks else [])]
            writer.writerow([*known, f"g{int(batch.groups['ground'][row])}"] if rows is None else rows(row, name))
    return path


def reasons(result: ak.Diagnosis, test: str) -> str:
    return "; ".join(each.reason for each in result.limits if each.test == test)


def test_without_masks_the_rest_is_done_and_said(tmp_path):
    result = ak.diagnose(colours(), photographs(tmp_path, 40, masks=False), "gradient")
    assert not result.versions
    assert not result.swaps
    assert "for want of masks" in reasons(result, "masking")
    assert "for want of masks" in reasons(result, "swap")
    assert {row.region for row in result.regions} == {"image border", "image centre"}
    assert result.groups
    assert [each for each in result.findings if each.test == "groups"]


def test_without_labels_accuracy_is_not_claimed(tmp_path):
    path = photographs(
        tmp_path, 12, header=["path", "label", "mask:square"], rows=lambda row, name: [f"{name}.png", "", f"{name}-mask.png"]
    )
    result = ak.diagnose(colours(), path, "gradient", removal="Constant()")
    assert not result.groups
    assert "for want of labels" in reasons(result, "groups")
    assert all(row.labelled == 0 and np.isnan(row.accuracy) for row in result.versions)
    assert {row.by for row in result.swaps} <= {"answer"}


def test_a_missing_file_a_broken_one_and_a_mask_of_another_size_cost_themselves(tmp_path):
    path = photographs(tmp_path, 14)
    (tmp_path / "003.png").unlink()
    (tmp_path / "004.png").write_bytes(b"nothing")
    Image.new("L", (5, 5)).save(tmp_path / "005-mask.png")
    result = ak.diagnose(colours(), path, "gradient", removal="Constant()")
    assert {each.id for each in result.scores.failures} == {"003.png", "004.png", "005.png"}
    assert sum(row.count for row in result.groups if row.target is None) == 11
    assert "3 images could not be read" in reasons(result, "groups")


def test_no_image_that_can_be_read_is_one_line(tmp_path):
    path = photographs(tmp_path, 2)
    for image in tmp_path.glob("*.png"):
        image.unlink()
    with pytest.raises(ak.BadInput, match="no image that can be read and answered"):
        ak.diagnose(colours(), path, "gradient")


def test_a_label_that_is_no_class_is_one_line(tmp_path):
    path = photographs(tmp_path, 3, header=["path", "label"], rows=lambda row, name: [f"{name}.png", "blue"])
    with pytest.raises(ak.BrokenFile, match="line 2, column label: no class is called 'blue'"):
        ak.diagnose(colours(), path)


def test_a_single_class_and_a_group_of_one_image_are_said(tmp_path):
    def rows(row, name):
        return [f"{name}.png", "red", f"{name}-mask.png", "rare" if row == 0 else "common"]

    result = ak.diagnose(colours(), photographs(tmp_path, 20, rows=rows), "gradient", removal="Constant()")
    said = reasons(result, "groups")
    assert "of one class" in said
    assert "rare" in said
    assert not [each for each in result.claims if "rare" in each.claim and each.test == "groups"]
    assert all(np.isnan(row.auc) for row in result.versions)


def test_a_map_that_is_not_finite_costs_its_image():
    def broken(model, images, targets):
        return torch.where((images[:, 0, 0, 0] == 7).view(-1, 1, 1), torch.nan, images.sum(1))

    (batch,) = pictures(12, follow="square")
    batch.images[3, 0, 0, 0] = 7
    result = ak.diagnose(colours(), [batch], ak.methods.FromCallable(broken, label="broken"), removal="Constant()")
    (row,) = [row for row in result.regions if row.region == "square" and row.target is None and row.by is None]
    assert row.count == 11
    assert "1 of 12 images" in reasons(result, "regions")
    assert [each.stage for each in result.scores.failures] == ["explain"]
    assert sum(row.count for row in result.groups if (row.by, row.target) == ("ground", None)) == 12  # its answer is known


class Silent(nn.Module):
    """No finite answer to images whose first pixel is 9; raises on those where it is 8, if asked about parts of them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images):
        logits = self.inner(images)
        return torch.where((images[:, 0, 0, 0] == 9).unsqueeze(1), torch.nan, logits)


def test_an_answer_that_is_not_finite_is_left_out():
    (batch,) = pictures(12, follow="square")
    batch.images[4, 0, 0, 0] = 9
    model = ak.VisionModel(Silent(Quadrants()).eval(), mean=0.0, std=1.0, size=16, classes=["red", "green"])
    result = ak.diagnose(model, [batch], "gradient", removal="Constant()")
    assert [(each.id, each.reason) for each in result.scores.failures] == [("004", "the model's answer is not finite")]
    assert sum(row.count for row in result.groups if (row.by, row.target) == ("ground", None)) == 11


def test_a_removal_that_fails_on_an_image_costs_that_image():
    def refuse(images, keep):
        if (images[:, 0, 0, 0] == 8).any():
            raise RuntimeError("not this one")
        return images * 0

    (batch,) = pictures(8, follow="square")
    batch.images[5, 0, 0, 0] = 8
    result = ak.diagnose(colours(), [batch], "gradient", removal=ak.removals.Generator(refuse))
    assert [(each.id, each.stage) for each in result.scores.failures] == [("005", "ask")]
    (row,) = [row for row in result.versions if row.version == "region removed"]
    assert row.count == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "diagnose\\(problem=...\\): got int, allowed: a problem such as"),
        ([], "source: got none"),
        ("nowhere.csv", "no such file"),
    ],
)
def test_what_is_no_problem_is_one_line(given, message):
    with pytest.raises(ak.BadInput, match=message):
        ak.diagnose(colours(), given)


class Single(nn.Module):
    """One logit, as models of one yes or no have it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3)).unsqueeze(1)


def changed(batch: Batch, **parts: object) -> Batch:
    whole = {name: getattr(batch, name) for name in ("images", "targets", "ids", "regions", "groups")}
    return Batch(**{**whole, **parts})


def test_one_logit_is_no_choice_of_a_class():
    model = ak.VisionModel(Single().eval(), mean=0.0, std=1.0, size=16)
    with pytest.raises(ak.BadInput, match="got one logit, allowed: one for each of two classes or more"):
        ak.diagnose(model, pictures(4, follow="square"), "gradient")


@pytest.mark.parametrize("name", ["image border", "image centre", "square, mirrored"])
def test_a_region_may_not_have_the_name_of_one_that_every_image_is_given(name):
    (batch,) = pictures(4, follow="square")
    batch = changed(batch, regions={"square": batch.region("square"), name: batch.region("square")})
    with pytest.raises(ak.BadInput, match=f"a region is called '{name}', allowed: any name but image border"):
        ak.diagnose(colours(), [batch], "gradient")


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_seed_that_is_none_is_one_line(seed):
    with pytest.raises(ak.BadInput, match="seed=...\\): got .*, allowed: an int of at least 0"):
        ak.diagnose(colours(), pictures(4, follow="square"), "gradient", seed=seed)


def test_why_no_image_can_be_read_is_said():
    (batch,) = pictures(4, follow="square")
    with pytest.raises(ak.BadInput, match="answered \\(000: target 5: allowed: a class index from 0 to 1\\)"):
        ak.diagnose(colours(), [changed(batch, targets=Targets(torch.full((4,), 5)))], "gradient")


def test_what_is_found_does_not_depend_on_what_an_interrupted_call_had_explained(tmp_path):
    model, (batch,) = colours(), pictures(96, follow="square")
    parts, reached = [batch[start : start + 24] for start in range(0, 96, 24)], []

    def explain(model, images, targets):
        if not reached and torch.equal(images, parts[2].images[: len(images)]):
            reached.append(True)
            raise KeyboardInterrupt("by hand")
        return images.sum(1)

    by = ak.methods.FromCallable(explain, label="interrupted")
    with pytest.raises(KeyboardInterrupt, match="by hand"):
        ak.diagnose(model, parts, by, removal="Constant()", store=tmp_path / "run")
    again = ak.diagnose(model, parts, by, removal="Constant()", store=tmp_path / "run")
    assert again.record() == ak.diagnose(model, parts, by, removal="Constant()").record()


def test_classes_of_one_name_are_told_apart():
    model = ak.VisionModel(Quadrants().eval(), mean=0.0, std=1.0, size=16, classes=["crane", "crane"], layer="conv")
    result = ak.diagnose(model, pictures(30, follow="square"), "gradient", removal="Constant()")
    assert {row.target for row in result.groups} == {None, "crane (0)", "crane (1)"}
    assert {row.target for row in result.classes} == {"crane (0)", "crane (1)"}


def test_labels_that_are_no_whole_numbers_stay_apart():
    (batch,) = pictures(20, follow="square")
    result = ak.diagnose(
        colours(), [changed(batch, groups={"weight": 0.2 + 0.5 * batch.groups["ground"]})], "gradient", removal="Constant()"
    )
    assert sorted({row.label for row in result.groups}) == pytest.approx([0.2, 0.7])


def test_an_image_of_which_nothing_is_left_tells_nothing_of_an_exchanged_part():
    (batch,) = pictures(8, follow="square")
    whole = batch.region("square").clone()
    whole[0] = 1  # all of this donor's image is the part
    model, (cue, _) = colours(), cues_of(batch, ["square"], 4)
    pool = pool_of([changed(batch, regions={"square": whole})], model, [cue])
    _, left = pool.exchanging(model, batch, cue)(torch.tensor([0, 0, 0, 3, 3, 3, 3, 0]))
    assert left.tolist() == [False, False, False, True, True, True, True, False]


def test_masks_that_cover_nothing_are_said_to():
    (batch,) = pictures(12, follow="square")
    result = ak.diagnose(colours(), [changed(batch, regions={"square": 0 * batch.region("square")})], "gradient")
    assert "the masks of square cover no pixel" in reasons(result, "masking")


def test_many_regions_are_one_line_and_the_first_four_are_exchanged():
    (batch,) = pictures(12, follow="square")
    regions = {f"r{at}": batch.region("square") for at in range(6)}
    result = ak.diagnose(colours(), [changed(batch, regions=regions)], "gradient", removal="Constant()")
    assert "exchanging 2 more regions does: the first 4 are exchanged" in reasons(result, "swap")
    undefined = 12 - next(row.count for row in result.regions if row.region == "r0")
    assert reasons(result, "regions") == f"{undefined} of 12 images have no r0, r1, r2 and 3 more, or a map that is flat or not finite"


def test_of_several_labels_at_once_nothing_is_claimed_silently():
    (batch,) = pictures(4, follow="square")
    result = ak.diagnose(colours(), [changed(batch, targets=Targets(batch.targets.index, "evidence"))], "gradient")
    assert "the largest logit is taken for the answer" in reasons(result, "groups")


def test_training_labels_that_no_image_has_are_said(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("path,label,group:ground\n" + "".join(f"{at}.png,red,sea\n{at}b.png,green,land\n" for at in range(20)))
    result = ak.diagnose(colours(), pictures(20, follow="square"), "gradient", removal="Constant()", training=path)
    assert "none of the labels of ground that these images have" in reasons(result, "amplification")


def test_what_is_printed_has_no_characters_that_move_the_terminal():
    (batch,) = pictures(12, follow="square")
    hostile = changed(batch, regions={"a\n\x1b[31m\u202eb": batch.region("square")})
    text = str(ak.diagnose(colours(), [hostile], "gradient", removal="Constant()"))
    assert "around the a ?[31m?b is removed" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_problem_of_another_model_is_one_line():
    with pytest.raises(ak.BadInput, match="allowed: one that was made with the model itself"):
        ak.diagnose(colours(), Labelled(colours(), pictures(4, follow="square")))


def test_a_module_is_no_model():
    with pytest.raises(ak.BadInput, match="got Quadrants, allowed: a VisionModel"):
        ak.diagnose(Quadrants(), pictures(4, follow="square"))


def test_a_protected_label_must_be_a_class():
    with pytest.raises(ak.BadInput, match="no class is called 'blue'"):
        ak.diagnose(colours(), pictures(4, follow="square"), "gradient", protected="blue")


def test_images_of_several_sizes_cannot_lend_one_another_parts():
    (small,) = pictures(6, follow="square")
    large = Batch(
        nn.functional.interpolate(small.images, scale_factor=2),
        small.targets,
        tuple(f"large-{name}" for name in small.ids),
        {"square": nn.functional.interpolate(small.region("square").unsqueeze(1), scale_factor=2).squeeze(1)},
        small.groups,
    )
    result = ak.diagnose(colours(), [small, large], "gradient", removal="Constant()")
    assert "of one size" in reasons(result, "swap")
    assert not result.swaps


def test_training_is_read_from_a_manifest_without_its_images(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("path,label,group:place\na.png,red,sea\nb.png,,land\nc.png,1,\n")
    found = training_of(colours(), path)
    assert found.truth.tolist() == [0, -1, 1]
    assert found.groups["place"].tolist() == ["sea", "land", None]
    path.write_text("path,label\na.png,blue\n")
    with pytest.raises(ak.BrokenFile, match="line 2, column label"):
        training_of(colours(), path)
    with pytest.raises(ak.BadInput, match="training: got int"):
        training_of(colours(), 3)


def test_layer_masking_gives_way_where_it_does_not_run():
    class Odd(Quadrants):
        def forward(self, images):
            return super().forward(torch.fft.ifft2(torch.fft.fft2(images)).real)

    model = ak.VisionModel(Odd().eval(), mean=0.0, std=1.0, size=16, classes=["red", "green"])
    result = ak.diagnose(model, pictures(8, follow="square"), "gradient")
    assert result.removal == "NoisyLinear()"
    assert "layer masking does not run" in reasons(result, "masking")


def test_what_was_kept_is_not_explained_again(tmp_path):
    model = colours()
    calls = []

    def counted(model, images, targets):
        calls.append(len(images))
        return images.sum(1)

    by = ak.methods.FromCallable(counted, label="counted")
    first = ak.diagnose(model, pictures(12, follow="square"), by, removal="Constant()", store=tmp_path / "run")
    made = sum(calls)
    again = ak.diagnose(model, pictures(12, follow="square"), by, removal="Constant()", store=tmp_path / "run")
    assert [row.score for row in again.regions] == [row.score for row in first.regions]
    assert again.versions == first.versions
    assert sum(calls) - made < made  # pictures of swaps alone


# The command ------------------------------------------------------------------------------------------------------------------------


def test_the_command_writes_everything(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "attribkit", "diagnose", "--model", "planted/shortcut-95", "--data", "planted", "--limit", "48"]
    done = subprocess.run([*command, "--out", str(out), "--json"], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["findings"][0]["cue"] == "background"
    assert {path.name for path in out.iterdir()} >= {
        "report.html", "findings.json", "scores.csv", "failures.csv", "run.json", "ledger.db", "maps"
    }  # fmt: skip
    kept_ = json.loads((out / "findings.json").read_text())
    assert kept_["findings"] == told["findings"]
    assert len(ak.Scores.read_csv(out / "scores.csv")) > 48 * 8
    assert "another background" in (out / "report.html").read_text()


def test_the_command_refuses_other_folders(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    command = [sys.executable, "-m", "attribkit", "diagnose", "--model", "planted/shortcut-95", "--data", "planted", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 2
    assert "is there and is not of a diagnosis" in done.stderr
    assert (tmp_path / "report.html").read_text() == "mine"


def test_answers_know_what_is_not_labelled(tmp_path):
    path = photographs(tmp_path, 3, header=["path", "label"], rows=lambda row, name: [f"{name}.png", "red" if row == 0 else ""])
    answered = Answered(Held(Labelled(colours(), path)))
    batch = answered.first()
    assert [answered.known[name].truth for name in batch.ids] == [0, -1, -1]
    assert answered.group_names["class"] == ("red", "green")


def test_an_answer_to_a_part_that_is_not_finite_is_none():
    logits = torch.tensor([[torch.nan, 1.0], [0.0, 1.0], [2.0, 1.0], [torch.inf, 0.0]])
    assert answered_parts(logits, torch.tensor([True, True, False, True])).tolist() == [-1, 1, -1, -1]
