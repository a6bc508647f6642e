"""The one loop: what is scored, by whom, how often, and what is kept."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch
from models import Dead, GapCNN, LinearModel, ResidualCNN, adapted
from PIL import Image
from torch import Tensor

import attribkit as ak
from attribkit import BadInput, Batch, Targets, Unsupported
from attribkit.methods import METHODS, GradCAM, Gradient, Method, Oracle, RandomMap
from attribkit.metrics import METRICS, Metric
from attribkit.progress import Pace

SIZE = (24, 40)
CONTROLS = {"RandomMap()", "CentreMap()", "EdgeMap()"}


class Drawn:
    """Random images with a square region, made batch by batch; notes which of its earlier batches are still there."""

    name = "drawn"
    label = "drawn"

    def __init__(self, model, count: int = 7, rows: int = 3, regions: bool = True) -> None:
        self.model, self.count, self.rows, self.regions = model, count, rows, regions
        self.alive: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        seen: list[weakref.ref[Tensor]] = []
        for start in range(0, self.count, self.rows):
            gc.collect()
            self.alive.append(sum(each() is not None for each in seen))
            rows = range(start, min(start + self.rows, self.count))
            images = torch.stack([torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(row)) for row in rows])
            region = torch.zeros(len(rows), *SIZE)
            region[:, 4:16, 8:20] = 1
            seen.append(weakref.ref(images))
            yield self._yielded(images, region, rows)

    def _yielded(self, images: Tensor, region: Tensor, rows: range):
        regions = {"object": region, "rest": 1 - region} if self.regions else {}
        groups = {"odd": torch.tensor([row % 2 for row in rows])}
        return self.model, Batch(
            images, Targets(torch.tensor([row % 5 for row in rows])), tuple(f"i{row}" for row in rows), regions, groups
        )


@pytest.fixture
def tables():
    """What a test enters in the tables is taken out again."""
    before = [(table, dict(table._classes)) for table in (METHODS, METRICS)]
    yield
    for table, classes in before:
        table._classes.clear()
        table._classes.update(classes)


def rows_of(scores) -> dict[tuple[str, str, str], float]:
    return {(row["method"], row["metric"], row["id"]): row["score"] for row in scores.rows()}


def test_every_image_has_a_row_for_each_method_and_metric():
    problem = Drawn(adapted(GapCNN()))
    scores = ak.evaluate(problem, ["grad_cam", Gradient()], ["energy_inside", "sparseness"])
    found = rows_of(scores)
    methods = {"GradCAM()", "Gradient()", "Oracle(region='object')"} | CONTROLS
    assert set(found) == {
        (method, metric, f"i{row}") for method in methods for metric in ("EnergyInside()", "Sparseness()") for row in range(7)
    }
    assert scores.controls == CONTROLS | {"Oracle(region='object')"} and not scores.failures
    assert {(row["problem"], row["model"], row["odd"]) for row in scores.rows()} == {("drawn", "GapCNN", 0), ("drawn", "GapCNN", 1)}


def test_scores_are_those_of_the_metric_called_by_hand():
    model = adapted(GapCNN())
    found = rows_of(ak.evaluate(Drawn(model), "hires_cam", ["energy_inside", "pixel_auc"], controls=False))
    for _, batch in Drawn(model, rows=7):
        maps = METHODS["hires_cam"]()(model, batch)
        for name in ("energy_inside", "pixel_auc"):
            made = METRICS[name]()
            for row, value in enumerate(made(model, batch, maps)):
                assert found["HiResCAM()", made.brief(), f"i{row}"] == pytest.approx(float(value), abs=1e-6)


def test_the_mask_itself_is_the_ceiling_and_noise_the_floor():
    means = {row.method: row for row in ak.evaluate(Drawn(adapted(GapCNN()), 60, 20), "gradient", "energy_inside").table()}
    share = 144 / 960
    assert means["Oracle(region='object')"].mean == 1
    assert means["RandomMap()"].mean == pytest.approx(share, abs=0.01)
    assert means["Gradient()"].chance == pytest.approx(share)


def test_an_oracle_is_scored_for_its_own_region_alone():
    asked = ["EnergyInside()", "EnergyInside(region='rest')", "sparseness", "sensitivity_max", "MPRT(layers=1)"]
    found = {key[:2] for key in rows_of(ak.evaluate(Drawn(adapted(GapCNN()), 2), "gradient", asked))}
    assert {metric for method, metric in found if method == "Oracle(region='object')"} == {"EnergyInside()", "Sparseness()"}
    assert {metric for method, metric in found if method == "Oracle(region='rest')"} == {"EnergyInside(region='rest')", "Sparseness()"}


def test_batches_change_no_score():
    model = adapted(GapCNN())
    asked = ["energy_inside", "deletion"]
    one, other = (rows_of(ak.evaluate(Drawn(model, 7, rows), "grad_cam", asked)) for rows in (2, 7))
    assert set(one) == set(other)
    assert one == pytest.approx(other, abs=1e-5)


def test_maps_are_made_once_for_all_metrics(tables):
    calls: list[int] = []

    @dataclasses.dataclass(frozen=True)
    class Counting(Method):
        """A gradient that counts."""

        name = "counting"
        paper = "none"
        cost = "a count"

        def _maps(self, model, images, targets):
            calls.append(len(images))
            return images.abs().sum(1)

    ak.evaluate(Drawn(adapted(GapCNN())), Counting(), ["energy_inside", "pixel_auc", "sparseness", "deletion"])
    assert calls == [3, 3, 1]


def test_no_batch_is_kept_when_the_next_one_comes():
    """Memory must not grow with the data set: of what was evaluated only scores, ids and labels stay."""
    problem = Drawn(adapted(GapCNN()), 30, 3)
    ak.evaluate(problem, ["grad_cam", "gradient"], ["energy_inside", "attention_iou", "deletion"])
    assert max(problem.alive) <= 1  # the one that was yielded last
    assert len(problem.alive) == 11  # and a look at the first batch, before any work


def test_a_method_that_does_not_suit_is_told_and_the_rest_goes_on():
    model = adapted(LinearModel())
    scores = ak.evaluate(Drawn(model), ["grad_cam", "gradient"], "energy_inside")
    assert {key[0] for key in rows_of(scores)} == {"Gradient()", "Oracle(region='object')"} | CONTROLS
    (failure,) = scores.failures
    assert failure.id == "GradCAM() on drawn" and failure.stage == "explain" and "needs a spatial layer" in failure.reason


def test_a_metric_that_fails_on_a_method_is_told_and_the_rest_goes_on(tables):
    @dataclasses.dataclass(frozen=True)
    class Failing(Metric):
        """Fails on everything but noise."""

        name = "failing"
        paper = "none"
        family = "complexity"

        def _scores(self, model, batch, attribution):
            if "RandomMap" not in attribution.method:
                raise Unsupported("only noise, please")
            return batch.images.new_zeros(len(batch))

    scores = ak.evaluate(Drawn(adapted(GapCNN())), "gradient", [Failing(), "sparseness"])
    assert {key[0] for key in rows_of(scores) if key[1] == "Failing()"} == {"RandomMap()"}
    assert len([failure for failure in scores.failures if failure.id == "Gradient() on drawn"]) == 1
    assert {failure.stage for failure in scores.failures} == {"Failing()"}


def test_nothing_scored_is_an_error_with_its_reasons():
    with pytest.raises(Unsupported, match=r"GradCAM\(\) on drawn: .*needs a spatial layer"):
        ak.evaluate(Drawn(adapted(LinearModel())), "grad_cam", "sparseness")
    with pytest.raises(Unsupported, match="the problems have no images"):
        ak.evaluate(Drawn(adapted(GapCNN()), 0), "grad_cam", "sparseness")


def test_a_problem_without_regions_is_refused_before_any_work(tables):
    def explode(*_: object) -> None:
        raise AssertionError("explained before the check")

    with pytest.raises(BadInput, match=r"PointingGame\(\) compares maps with a region, and drawn has none"):
        ak.evaluate(Drawn(adapted(GapCNN()), regions=False), "gradient", ["sparseness", "pointing_game"], watch=explode)
    with pytest.raises(BadInput, match="no region is called 'elsewhere'"):
        ak.evaluate(Drawn(adapted(GapCNN())), "gradient", "EnergyInside(region='elsewhere')", watch=explode)
    scores = ak.evaluate(Drawn(adapted(GapCNN()), regions=False), "gradient", "sparseness")
    assert "Oracle" not in " ".join(scores.controls) and not scores.failures


@pytest.mark.parametrize(
    ("methods", "metrics", "reason"),
    [
        ([], "sparseness", r"evaluate\(methods=...\): got none"),
        ("gradient", [], r"evaluate\(metrics=...\): got none"),
        ("gradiant", "sparseness", "no method is called 'gradiant'"),
        ("gradient", "sparsness", "no metric is called 'sparsness'"),
        (7, "sparseness", "got int, allowed: one or several of str or Method"),
        (["gradient", 7], "sparseness", "method: got int"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_line(methods, metrics, reason):
    with pytest.raises(BadInput, match=reason):
        ak.evaluate(Drawn(adapted(GapCNN())), methods, metrics)


def test_several_problems_and_doubled_requests():
    model = adapted(GapCNN())
    other = Drawn(adapted(Dead(), layer="features"), 2)
    other.label = "another"
    scores = ak.evaluate([Drawn(model, 2), other], ["gradient", "Gradient()", Gradient()], ["sparseness", "Sparseness()"], controls=False)
    assert {(row["problem"], row["model"], row["method"], row["id"]) for row in scores.rows()} == {
        (problem, name, "Gradient()", f"i{row}") for problem, name in (("drawn", "GapCNN"), ("another", "Dead")) for row in range(2)
    }


def test_progress_is_told_with_rate_and_time_left():
    told: list[Pace] = []
    ak.evaluate(Drawn(adapted(GapCNN())), ["gradient", "grad_cam"], "sparseness", progress=told.append)
    assert [pace.done for pace in told] == sorted({pace.done for pace in told})
    assert told[-1].done == told[-1].total == 7 * 5 and told[-1].left == 0
    assert {pace.what for pace in told} == {f"drawn, {name}" for name in {"Gradient()", "GradCAM()"} | CONTROLS}


def test_a_pace_says_how_long_the_rest_takes():
    assert str(Pace(30, 120, 10.0, "grid")) == "30/120 (25%), 3 a second, 30 s left: grid"
    assert str(Pace(1, 7201, 1.0, "x")).endswith("1 a second, 2:00:00 left: x")
    assert "left" not in str(Pace(0, 5, 0.0, "x"))


def test_whoever_watches_sees_maps_and_their_scores():
    seen = []
    ak.evaluate(Drawn(adapted(GapCNN())), GradCAM(), ["energy_inside"], controls=False, watch=lambda *each: seen.append(each))
    told = [(label, by, len(batch), maps.ids == batch.ids) for label, by, batch, maps, _ in seen]
    assert told == [("drawn", GradCAM(), rows, True) for rows in (3, 3, 1)]
    for _, _, batch, _, found in seen:
        assert {metric: len(values) for metric, values in found.items()} == {METRICS["energy_inside"](): len(batch)}


def test_an_oracle_is_no_method_inside_another():
    model = adapted(GapCNN())
    _, batch = next(iter(Drawn(model)))
    assert torch.equal(Oracle("object")(model, batch).maps, batch.region("object"))
    with pytest.raises(Unsupported, match="not inside another method"):
        ak.methods.Smooth(Oracle("object"), samples=2)(model, batch)


def test_a_control_asked_for_by_name_stays_a_control():
    scores = ak.evaluate(Drawn(adapted(GapCNN())), ["random_map", RandomMap(seed=3), "gradient"], "sparseness")
    assert scores.controls >= {"RandomMap()", "RandomMap(seed=3)"} and "Gradient()" not in scores.controls


class Breaking(Drawn):
    """Ends after its first batch."""

    def __iter__(self):
        for number, each in enumerate(super().__iter__()):
            if number:
                raise BadInput("the second batch cannot be had")
            yield each


def test_a_problem_that_cannot_go_on_is_told_and_others_have_their_turn():
    model = adapted(GapCNN())
    broken = Breaking(model)
    broken.label = "broken"
    scores = ak.evaluate([broken, Drawn(model)], "gradient", "sparseness", controls=False)
    assert {(row["problem"], row["id"]) for row in scores.rows()} == {("broken", f"i{row}") for row in range(3)} | {
        ("drawn", f"i{row}") for row in range(7)
    }
    (failure,) = scores.failures
    assert failure == ("broken", "problem", "the second batch cannot be had")


def test_what_ends_the_only_problem_before_its_first_score_is_raised():
    class Never(Drawn):
        def __iter__(self):
            yield from ()
            raise BadInput("two classes are too few for a grid")

    with pytest.raises(BadInput, match="two classes are too few for a grid"):
        ak.evaluate(Never(adapted(GapCNN())), "gradient", "sparseness")


def test_images_that_cannot_be_read_are_failures_of_the_scores(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), np.uint8))
    image.save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "list.csv").write_text("path,label,box:object\ngood.png,1,0 0 20 20\nbad.png,2,0 0 20 20\n")
    scores = ak.evaluate(ak.problems.Labelled(adapted(GapCNN()), tmp_path / "list.csv"), "gradient", "energy_inside", controls=False)
    assert [row["id"] for row in scores.rows()] == ["good.png"]
    assert [(failure.id, failure.stage) for failure in scores.failures] == [("bad.png", "read")]


@pytest.mark.parametrize("part", [0, 1])
def test_grids_are_evaluated_by_the_head_of_each_cell(part):
    """DiFull: the gradient at the input ends at the cell. DiPart: the lower right cell sees a row and a column before it."""
    model = adapted(GapCNN(), size=(16, 24))
    images = torch.randn(12, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    known = Batch(images, Targets(model.logits(images).argmax(1)), tuple(f"i{row}" for row in range(12)))
    problem = ak.problems.Disconnected(model, [known], n=2, count=2, part=part, confidence=0.0)
    scores = ak.evaluate(problem, ["gradient", "grad_cam"], "localization_score", controls=False)
    assert len(scores) == 2 * 2 * 2 and {row["model"] for row in scores.rows()} == {"GapCNN"}
    inside = {(row["id"], row["cell"]): row["score"] for row in scores.rows() if row["method"] == "Gradient()"}
    assert {cell for _, cell in inside} == {0, 3} and len(inside) == 4
    assert all((score == 1) == (not part or cell == 0) for (_, cell), score in inside.items())
    assert all(score > 0.5 for score in inside.values())


def test_what_is_scored_is_not_lost_when_later_things_fail():
    """A source that breaks with any error, and a metric that a later batch cannot answer, cost what they touch."""

    class Exploding(Drawn):
        def __iter__(self):
            for number, each in enumerate(super().__iter__()):
                if number:
                    raise RuntimeError("the disk is\ngone")
                yield each

    model = adapted(GapCNN())
    scores = ak.evaluate(Exploding(model), "gradient", "sparseness", controls=False)
    assert len(scores) == 3 and [tuple(each) for each in scores.failures] == [("drawn", "problem", "RuntimeError: the disk is gone")]

    class Losing(Drawn):
        def _yielded(self, images, region, rows):
            model, batch = super()._yielded(images, region, rows)
            return model, batch if not rows.start else dataclasses.replace(batch, regions={})

    scores = ak.evaluate(Losing(model), "gradient", ["sparseness", "energy_inside"], controls=False)
    assert len([row for row in scores.rows() if row["metric"] == "Sparseness()"]) == 7
    assert len([row for row in scores.rows() if row["metric"] == "EnergyInside()"]) == 3
    assert {failure.stage for failure in scores.failures} == {"EnergyInside()"}


def test_somebodys_code_that_raises_costs_its_own_batch_alone():
    def fussy(module, images, index):
        if float(images.sum()) < 0:
            raise ValueError("I do not like this one")
        return images.abs().sum(1)

    model = adapted(GapCNN())
    problem = Drawn(model, 12, 1)
    liked = [batch.ids[0] for _, batch in Drawn(model, 12, 1) if float(batch.images.sum()) >= 0]
    scores = ak.evaluate(problem, [ak.methods.FromCallable(fussy), "gradient"], "sparseness", controls=False)
    told = [row["id"] for row in scores.rows() if "FromCallable" in row["method"]]
    assert 0 < len(liked) < 12 and told == liked
    assert len(scores.failures) == 12 - len(liked) and all("I do not like this one" in failure.reason for failure in scores.failures)
    assert len([row for row in scores.rows() if row["method"] == "Gradient()"]) == 12


def test_problems_of_one_name_are_told_apart_and_methods_of_one_are_refused():
    model = adapted(GapCNN())
    scores = ak.evaluate([Drawn(model, 2), Drawn(model, 2)], "gradient", "sparseness", controls=False)
    assert {row["problem"] for row in scores.rows()} == {"drawn", "drawn (2)"} and len(scores) == 4

    def made(factor):
        def scaled(module, images, index):
            return factor * images.sum(1)

        return ak.methods.FromCallable(scaled)

    with pytest.raises(BadInput, match="got two that print as FromCallable"):
        ak.evaluate(Drawn(model), [made(1), made(2)], "sparseness")


def test_a_metric_is_left_out_where_there_is_nothing_to_compare_with():
    def explode(*_: object) -> None:
        raise AssertionError("explained before the check")

    bare = Drawn(adapted(GapCNN()), 2, regions=False)
    bare.label = "bare"
    with pytest.raises(BadInput, match="and bare has none"):
        ak.evaluate(bare, "gradient", ["sparseness", "energy_inside"], watch=explode)
    scores = ak.evaluate([Drawn(adapted(GapCNN()), 2), bare], "gradient", ["sparseness", "energy_inside"], controls=False)
    assert {(row["problem"], row["metric"]) for row in scores.rows()} == {
        ("drawn", "Sparseness()"),
        ("drawn", "EnergyInside()"),
        ("bare", "Sparseness()"),
    }
    assert [(failure.id, failure.stage) for failure in scores.failures] == [("bare", "EnergyInside()")]


def test_one_image_that_fails_costs_its_own_scores_alone(tables):
    @dataclasses.dataclass(frozen=True)
    class Picky(Method):
        """Refuses one image, whatever comes with it."""

        name = "picky"
        paper = "none"
        cost = "none"

        def _maps(self, model, images, targets):
            if (images[:, 0, 0, 0] == first).any():
                raise BadInput("not that one")
            return images.abs().sum(1)

    model = adapted(GapCNN())
    batches = [batch for _, batch in Drawn(model, 7, 7)]
    first = batches[0].images[4, 0, 0, 0]
    scores = ak.evaluate(Drawn(model, 7, 7), Picky(), "energy_inside", controls=False)
    assert [row["id"] for row in scores.rows()] == ["i0", "i1", "i2", "i3", "i5", "i6"]
    assert [tuple(failure) for failure in scores.failures] == [("Picky() on drawn: i4", "explain", "not that one")]


def test_a_method_that_fails_on_everything_is_given_up(tables):
    calls = []

    @dataclasses.dataclass(frozen=True)
    class Hopeless(Method):
        """Fails on everything."""

        name = "hopeless"
        paper = "none"
        cost = "none"

        def _maps(self, model, images, targets):
            calls.append(len(images))
            raise RuntimeError("no")

    scores = ak.evaluate(Drawn(adapted(GapCNN()), 200, 8), [Hopeless(), "gradient"], "sparseness", controls=False)
    assert calls.count(8) == 4 and len(scores) == 200
    assert len(scores.failures) == 32 + 1 and scores.failures[-1].reason.startswith("given up")


@pytest.mark.parametrize(
    ("problem", "got"),
    [("planted", "got 'planted'"), (None, "got NoneType"), (3, "got int"), ([3], "got int")],
)
def test_what_is_no_problem_is_one_clear_line(problem, got):
    with pytest.raises(BadInput, match=rf"evaluate\(problem=...\): {got}, allowed: a problem"):
        ak.evaluate(problem, "gradient", "sparseness")


def test_a_batch_or_a_class_in_the_wrong_place_is_told_what_to_do():
    model = adapted(GapCNN())
    _, batch = next(iter(Drawn(model)))
    with pytest.raises(BadInput, match=r"Labelled\(model, \[batch\]\) makes one of a Batch"):
        ak.evaluate([batch], "gradient", "sparseness")
    with pytest.raises(BadInput, match=r"got the class GradCAM, allowed: an object of it, such as GradCAM\(\)"):
        ak.evaluate(Drawn(model), [GradCAM], "sparseness")
    with pytest.raises(BadInput, match=r"got the class EnergyInside, allowed: an object of it"):
        ak.evaluate(Drawn(model), "gradient", [METRICS["energy_inside"]])
    scores = ak.evaluate((each for each in [Drawn(model, 2)]), "gradient", "sparseness", controls=False)
    assert len(scores) == 2


GRADIENT_AT_THE_END = "AtLayer(Gradient(channels='max_abs'), layer='features')"


def test_the_gradient_at_the_last_layer_of_a_gap_network_cannot_tell_cells_apart():
    """Its features get the same gradient everywhere: GridPG is 1/n^2 exactly (METHODS 9.6)."""
    model = adapted(GapCNN(), size=(16, 24))
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(200, 3, 16, 24, generator=draw) + 3 * torch.randn(200, 3, 1, 1, generator=draw)
    said = model.logits(images).argmax(1)
    known = Batch(images, Targets(said), tuple(f"i{row}" for row in range(200)))
    assert len(said.unique()) >= 4
    problem = ak.problems.Grid(model, [known], n=2, count=1, confidence=0.0)
    for interpolate in (True, False):
        scores = ak.evaluate(problem, GRADIENT_AT_THE_END, f"LocalizationScore(interpolate={interpolate})", controls=False)
        assert [row["score"] for row in scores.rows()] == pytest.approx([0.25] * 4, abs=1e-6)


def test_the_same_gradient_of_a_cell_that_sees_nothing_else_reaches_the_ceiling_of_interpolation():
    """DiFull: uniform inside the cell and zero outside, so (1 - 1/(8 s)) along each side of s places, and 1 without interpolation."""
    model = adapted(GapCNN(), size=(16, 24))
    images = torch.randn(16, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    known = Batch(images, Targets(model.logits(images).argmax(1)), tuple(f"i{row}" for row in range(16)))
    problem = ak.problems.Disconnected(model, [known], n=2, count=2, confidence=0.0)
    _, height, width = model.layers["features"]
    ceiling = (1 - 1 / (8 * height)) * (1 - 1 / (8 * width))
    for interpolate, expected in ((True, ceiling), (False, 1.0)):
        scores = ak.evaluate(problem, GRADIENT_AT_THE_END, f"LocalizationScore(interpolate={interpolate})", controls=False)
        assert [row["score"] for row in scores.rows()] == pytest.approx([expected] * 4, abs=1e-6)


def test_one_cell_alone_is_the_plain_model():
    """n = 1: all three settings explain the image itself, and everything is inside."""
    model = adapted(GapCNN(), size=(16, 24))
    images = torch.randn(6, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    known = Batch(images, Targets(model.logits(images).argmax(1)), tuple(f"i{row}" for row in range(6)))
    problems = [
        ak.problems.Grid(model, [known], n=1, count=3, confidence=0.0),
        ak.problems.Disconnected(model, [known], n=1, count=3, confidence=0.0),
        ak.problems.Disconnected(model, [known], n=1, count=3, part=1, confidence=0.0),
    ]
    scores = ak.evaluate(problems, "gradient", "localization_score", controls=False)
    assert [row["score"] for row in scores.rows()] == [1.0] * 9


def pictures(folder, count=4):
    draw = np.random.default_rng(0)
    lines = ["path,label,box:object,group:habitat"]
    for place in range(count):
        Image.fromarray(draw.integers(0, 255, (30, 50, 3), np.uint8)).save(folder / f"{place}.png")
        lines.append(f"{place}.png,{place % 2},0 0 20 20,{('land', '', 'water')[place % 3]}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def test_two_models_on_one_manifest_keep_their_rows_and_labels(tmp_path):
    manifest = pictures(tmp_path)
    problems = [ak.problems.Labelled(adapted(network()), manifest) for network in (GapCNN, ResidualCNN)]
    scores = ak.evaluate(problems, "gradient", "energy_inside", controls=False)
    habitats = {"0.png": "land", "1.png": None, "2.png": "water", "3.png": "land"}
    assert {(row["model"], row["id"]): row["habitat"] for row in scores.rows()} == {
        (model, name): habitat for model in ("GapCNN", "ResidualCNN") for name, habitat in habitats.items()
    }
    assert {(row.model, row.group, row.count) for row in scores.table(by="habitat")} == {
        (model, group, count) for model in ("GapCNN", "ResidualCNN") for group, count in (("land", 2), ("water", 1))
    }


def test_regions_are_known_for_each_model_apart():
    bare, whole = Drawn(adapted(GapCNN()), 2, regions=False), Drawn(adapted(ResidualCNN()), 2)
    scores = ak.evaluate([bare, whole], "gradient", ["energy_inside", "sparseness"], controls=False)
    assert {(row["model"], row["metric"]) for row in scores.rows()} == {
        ("GapCNN", "Sparseness()"),
        ("ResidualCNN", "Sparseness()"),
        ("ResidualCNN", "EnergyInside()"),
    }
    with pytest.raises(BadInput, match="drawn has none"):
        ak.evaluate([bare, Drawn(adapted(ResidualCNN()), 2, regions=False)], "gradient", ["energy_inside", "sparseness"])


def test_a_batch_of_nothing_is_passed_over():
    class Gaps(Drawn):
        def __iter__(self):
            for model, batch in super().__iter__():
                yield model, batch[:0]
                yield model, batch

    scores = ak.evaluate(Gaps(adapted(GapCNN())), ["gradient", "grad_cam"], "sparseness", controls=False)
    assert len(scores) == 14 and not scores.failures


def test_an_oracle_is_asked_where_its_region_is_and_once():
    with_rest, without = Drawn(adapted(GapCNN()), 3), Drawn(adapted(GapCNN()), 3)
    without.label = "without"
    made = without._yielded

    def yielded(images, region, rows):
        model, batch = made(images, region, rows)
        return model, dataclasses.replace(batch, regions={"object": region})

    without._yielded = yielded
    scores = ak.evaluate([with_rest, without], ["gradient", Oracle("object")], ["EnergyInside(region='rest')", "sparseness"])
    assert [tuple(failure)[:2] for failure in scores.failures] == [("without", "EnergyInside(region='rest')")]
    asked = {(row["problem"], row["method"], row["metric"]) for row in scores.rows() if "Oracle" in row["method"]}
    assert asked == {
        ("drawn", "Oracle(region='rest')", "EnergyInside(region='rest')"),
        ("drawn", "Oracle(region='rest')", "Sparseness()"),
        ("drawn", "Oracle(region='object')", "Sparseness()"),
        ("without", "Oracle(region='object')", "Sparseness()"),
    }


def test_a_source_that_breaks_at_once_costs_itself_alone():
    class Gone(Drawn):
        label = "gone"

        def __iter__(self):
            raise OSError("no such disk")

    gone = Gone(adapted(GapCNN()))
    gone.label = "gone"
    scores = ak.evaluate([gone, Drawn(adapted(GapCNN()), 2)], "gradient", "sparseness", controls=False)
    assert len(scores) == 2 and [tuple(each) for each in scores.failures] == [("gone", "problem", "OSError: no such disk")]


def test_a_group_that_would_hide_a_column_is_refused_before_any_work():
    class Named(Drawn):
        def _yielded(self, images, region, rows):
            model, batch = super()._yielded(images, region, rows)
            return model, dataclasses.replace(batch, groups={"score": torch.zeros(len(batch))})

    with pytest.raises(BadInput, match="drawn: a group is called 'score'"):
        ak.evaluate(Named(adapted(GapCNN())), "gradient", "sparseness")


def test_what_cannot_be_read_is_told_once_though_problems_share_it(tmp_path):
    manifest = pictures(tmp_path)
    (tmp_path / "1.png").write_bytes(b"no picture")
    model = adapted(GapCNN())
    source = ak.problems.Labelled(model, manifest, batch_size=2)
    scores = ak.evaluate([source, source], "gradient", "sparseness", controls=False)
    assert [failure.id for failure in scores.failures] == ["1.png"]
    assert {row["problem"] for row in scores.rows()} == {source.label, f"{source.label} (2)"}


def test_an_image_that_comes_twice_costs_its_second_scores_alone():
    class Again(Drawn):
        def __iter__(self):
            yield from super().__iter__()
            yield next(iter(super().__iter__()))

    scores = ak.evaluate(Again(adapted(GapCNN())), "gradient", ["sparseness", "energy_inside"], controls=False)
    assert len(scores) == 14 and [failure.stage for failure in scores.failures] == ["Sparseness()", "EnergyInside()"]
    assert all("image 'i0': got a second score" in failure.reason for failure in scores.failures)
