"""Evaluations with a store: the numbers of one without, what is computed anew and what is not, and what an interruption costs."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import os
import sqlite3
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from models import GapCNN, LinearModel, Recorded, adapted
from PIL import Image

import attribkit as ak
from attribkit import BadInput, Batch, Targets, Unsupported
from attribkit.attribution import Explained
from attribkit.images import Preprocessing
from attribkit.methods import METHODS, FromCallable, GradCAM, Method, Precomputed
from attribkit.metrics import METRICS, Metric
from attribkit.problems import Disconnected, Grid, Labelled, Planted
from attribkit.scores import Failure
from attribkit.store import Store

SIDE = (8, 8)
LOG: list[tuple[str, str]] = []  # what was done, and with which image
MOOD: dict[str, object] = {}  # what the method of these tests is to do beside its work


def explained() -> Counter[str]:
    return Counter(name for what, name in LOG if what == "explained")


def scored() -> Counter[str]:
    return Counter(name for what, name in LOG if what == "scored")


@pytest.fixture(autouse=True)
def tables():
    """Methods and metrics that note what they do; they are taken out of the tables again."""
    before = [(table, dict(table._classes)) for table in (METHODS, METRICS)]
    LOG.clear()
    MOOD.clear()

    @dataclasses.dataclass(frozen=True)
    class Summed(Method):
        name = "summed"
        paper = "none"
        cost = "nothing"
        scale: float = 1.0

        def _explain(self, model, batch: Batch) -> Explained:
            deadly = MOOD.get("interrupt")
            if deadly is not None and deadly in batch.ids:
                raise KeyboardInterrupt("called off")
            LOG.extend(("explained", name) for name in batch.ids)
            if set(MOOD.get("fails", ())) & set(batch.ids):
                raise ValueError("an image that cannot be explained")
            maps = self._maps(model, batch.images, batch.targets)
            for row, name in enumerate(batch.ids):
                if name in MOOD.get("nan", ()):
                    maps[row, 0, 0] = math.nan
            return Explained(maps, {})

        def _maps(self, model, images, targets):
            return images.sum(1) * self.scale

    @dataclasses.dataclass(frozen=True)
    class Highest(Metric):
        name = "highest"
        paper = "none"
        family = "complexity"

        def _scores(self, model, batch, attribution):
            LOG.extend(("scored", name) for name in batch.ids)
            top = attribution.maps.amax((1, 2))
            return torch.where(top > MOOD.get("undefined above", math.inf), torch.nan, top)

    @dataclasses.dataclass(frozen=True)
    class Mean(Metric):
        name = "mean"
        paper = "none"
        family = "complexity"
        chance = 0.0

        def _scores(self, model, batch, attribution):
            return attribution.maps.mean((1, 2))

    yield
    for table, classes in before:
        table._classes.clear()
        table._classes.update(classes)


def whole(names: str, seed: int = 0) -> Batch:
    """Images of small whole numbers, of whose sums half precision loses nothing; ids are letters."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(-8, 9, (len(names), 3, *SIDE), generator=draw).float()
    half = torch.zeros(len(names), *SIDE)
    half[:, :, :4] = 1
    groups = {"odd": torch.tensor([ord(name) % 2 for name in names])}
    return Batch(images, Targets(torch.tensor([ord(name) % 5 for name in names])), tuple(names), {"left": half}, groups)


def linear():
    """A model whose gradients, its weights, half precision holds as well."""
    model = adapted(LinearModel(size=SIDE), size=SIDE)
    weight = model.module.head.weight.data
    weight.copy_(torch.randint(-8, 9, weight.shape, generator=torch.Generator().manual_seed(1)) / 16)
    torch.nn.init.zeros_(model.module.head.bias)
    return model


@pytest.fixture
def model():
    return linear()


@pytest.fixture
def batches():
    return [whole("abcd", 1), whole("efgh", 2), whole("ij", 3)]


def rows_of(scores) -> list[tuple[object, ...]]:
    """Every row, in order; NaN as a word, since it equals nothing."""
    return [tuple("nan" if value != value else value for value in row.values()) for row in scores.rows()]


def evaluate(problem, methods="summed", metrics="highest", **options):
    LOG.clear()
    return ak.evaluate(problem, methods, metrics, **{"controls": False, **options})


# The numbers ------------------------------------------------------------------------------------------------------------------------


def test_scores_are_those_without_a_store_to_the_bit(model, batches, tmp_path):
    """Maps of small whole numbers are themselves in half precision; controls are not kept, and so scored as they are."""
    asked = (Labelled(model, batches), ["summed"], ["highest", "energy_inside", "mean"])
    plain, kept = ak.evaluate(*asked), ak.evaluate(*asked, store=tmp_path)
    assert rows_of(kept) == rows_of(plain) and len(kept) == 3 * 10 * 4 + 10 * 3
    assert kept.controls == plain.controls and kept.failures == plain.failures == []
    assert str(kept.table()) == str(plain.table()) and rows_of(Store(tmp_path).scores()) == rows_of(plain)
    assert {row["id"]: row["score"] for row in kept.rows() if (row["method"], row["metric"]) == ("Summed()", "Highest()")} == {
        name: float(batch.images[row].sum(0).max()) for batch in batches for row, name in enumerate(batch.ids)
    }


def test_scores_of_other_maps_are_within_half_precision(batches, tmp_path):
    torch.manual_seed(0)
    problem = Labelled(adapted(GapCNN(), size=SIDE), batches)
    metrics = ["energy_inside", "sparseness", "pixel_auc", "deletion"]
    plain, kept = evaluate(problem, ["grad_cam", "gradient"], metrics), evaluate(problem, ["grad_cam", "gradient"], metrics, store=tmp_path)
    ours, theirs = ({row[:5]: row[7] for row in rows_of(each)} for each in (kept, plain))
    assert ours.keys() == theirs.keys() and len(ours) == 80
    assert [key for key, value in ours.items() if value != theirs[key] and not abs(value - theirs[key]) < 1e-3] == []
    assert ours != theirs  # so what was scored are the maps that are kept
    for method in ("GradCAM()", "Gradient()"):
        maps = torch.cat([each.maps for each in Store(tmp_path).maps(method)])
        made = torch.cat([METHODS["grad_cam" if "CAM" in method else "gradient"]()(problem.model, batch).maps for batch in batches])
        top = made.abs().amax((1, 2), keepdim=True)
        assert ((maps - made).abs() / top).max() <= 2**-11 and [name for each in Store(tmp_path).maps(method) for name in each.ids] == list(
            "abcdefghij"
        )


def test_curves_are_those_that_scores_were_read_off(model, batches, tmp_path):
    evaluate(Labelled(model, batches), "summed", "deletion", store=tmp_path)
    ((where, curves),) = Store(tmp_path).curves().items()
    assert where == ("10 labelled images", "LinearModel", "Deletion()")
    made = METRICS["deletion"]()
    traced = [made.traced(model, batch, METHODS["summed"]()(model, batch)).curves for batch in batches]
    expected = torch.cat(traced).numpy()
    assert np.abs(curves["Summed()"] - expected).max() <= np.abs(expected).max() * 2**-11 and curves["Summed()"].shape == expected.shape


def test_maps_and_scores_that_are_not_finite(model, batches, tmp_path):
    MOOD["nan"], MOOD["undefined above"] = ("b", "j"), 18
    problem = Labelled(model, batches)
    plain, kept = evaluate(problem), evaluate(problem, store=tmp_path)
    assert rows_of(kept) == rows_of(plain) == rows_of(Store(tmp_path).scores())
    undefined = {row["id"] for row in kept.rows() if math.isnan(row["score"])}
    assert undefined == {"b", "j"} | {
        name for batch in batches for name, each in zip(batch.ids, batch.images, strict=True) if each.sum(0).max() > 18
    }
    assert undefined > {"b", "j"} and len(undefined) < 10 and kept.table()[0].undefined == len(undefined)
    maps = torch.cat([each.maps for each in Store(tmp_path).maps("Summed()")])
    assert maps.isnan().sum((1, 2)).tolist() == [name in "bj" for name in "abcdefghij"]


def test_a_map_beyond_half_precision_has_units_of_its_own(model, batches, tmp_path):
    """1e30 and 1e-30 times as much: no map is cut off, or sinks into zero."""
    for scale in (1e30, 1e-30):
        kept = evaluate(Labelled(model, batches), f"Summed(scale={scale})", store=tmp_path)
        for row in kept.rows():
            expected = next(b.images[b.ids.index(row["id"])].sum(0).max() for b in batches if row["id"] in b.ids) * scale
            assert row["score"] == pytest.approx(float(expected), rel=2**-10, abs=0)


# What is computed, and what is not ----------------------------------------------------------------------------------------------------


def test_a_second_call_computes_nothing(model, batches, tmp_path):
    problem = Labelled(model, batches)
    first = evaluate(problem, store=tmp_path)
    assert explained() == scored() == Counter("abcdefghij")
    assert rows_of(evaluate(problem, store=tmp_path)) == rows_of(first) and LOG == []
    assert rows_of(evaluate(Labelled(linear(), [whole("abcd", 1), whole("efgh", 2), whole("ij", 3)]), store=tmp_path)) == rows_of(first)
    assert LOG == []  # of a model and images that were made anew


def test_an_added_metric_is_read_off_the_kept_maps(model, batches, tmp_path):
    problem = Labelled(model, batches)
    at_once = evaluate(problem, "Summed(scale=0.1)", ["highest", "mean"], store=tmp_path / "at once")
    evaluate(problem, "Summed(scale=0.1)", "mean", store=tmp_path / "later")
    later = evaluate(problem, "Summed(scale=0.1)", ["highest", "mean"], store=tmp_path / "later")
    assert explained() == Counter() and scored() == Counter("abcdefghij")
    assert rows_of(later) == rows_of(at_once)


def test_an_added_method_is_all_that_is_done(model, batches, tmp_path):
    problem = Labelled(model, batches)
    one = evaluate(problem, store=tmp_path)
    both = evaluate(problem, ["Summed(scale=2.0)", "summed"], store=tmp_path)
    assert explained() == Counter("abcdefghij")
    assert [row for row in rows_of(both) if row[2] == "Summed()"] == rows_of(one)
    doubled = {row["id"]: row["score"] for row in both.rows() if row["method"] == "Summed(scale=2.0)"}
    assert doubled == {row["id"]: 2 * row["score"] for row in one.rows()}
    assert [key.method for key in both.keys()] == ["Summed(scale=2.0)", "Summed()"]  # noqa: SIM118 - in the order asked for


def test_what_is_not_asked_for_is_not_answered(model, batches, tmp_path):
    problem = Labelled(model, batches)
    evaluate(problem, ["summed", "gradient"], ["highest", "mean"], store=tmp_path)
    fewer = evaluate(problem, "gradient", "mean", store=tmp_path)
    assert {key[2:] for key in fewer.keys()} == {("Gradient()", "Mean()")} and LOG == []  # noqa: SIM118 - no mapping
    some = evaluate(Labelled(model, batches[:1]), "gradient", "mean", store=tmp_path)
    assert {row["id"] for row in some.rows()} == set("abcd")
    back = evaluate(problem, ["summed", "gradient"], ["highest", "mean"], store=tmp_path)
    assert len(back) == 40 and LOG == []
    assert [key[2:] for key in back.keys()][:2] == [("Summed()", "Highest()"), ("Summed()", "Mean()")]  # noqa: SIM118 - no mapping


def other(batch: Batch, **values) -> Batch:
    return dataclasses.replace(batch, **values)


def changed_pixel(batches):
    images = batches[1].images.clone()
    images[0, 0, 0, 0] += 1
    return [batches[0], other(batches[1], images=images), batches[2]]


def changed_mask(batches):
    left = batches[1].regions["left"].clone()
    left[3, 0, 0] = 0
    return [batches[0], other(batches[1], regions={"left": left}), batches[2]]


def changed_label(batches):
    index = batches[1].targets.index.clone()
    index[2] = (index[2] + 1) % 5
    return [batches[0], other(batches[1], targets=Targets(index)), batches[2]]


def changed_group(batches):
    return [batches[0], other(batches[1], groups={"odd": 1 - batches[1].groups["odd"]}), batches[2]]


def changed_name(batches):
    return [batches[0], other(batches[1], ids=("e", "x", "g", "h")), batches[2]]


def changed_kind(batches):
    return [other(each, targets=Targets(each.targets.index, "probability")) for each in batches]


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        (changed_pixel, "efgh"),
        (changed_mask, "efgh"),
        (changed_label, "efgh"),
        (changed_group, "efgh"),
        (changed_name, "exgh"),
        (changed_kind, "abcdefghij"),
        (lambda batches: batches[::-1], "abcdefghij"),  # numbers of shards are part of their keys
    ],
    ids=["pixel", "mask", "label", "group", "name", "kind", "order"],
)
def test_what_changed_in_a_batch_is_done_anew_and_nothing_else(model, batches, tmp_path, change, anew):
    metrics = ["highest", "energy_inside"]
    first = evaluate(Labelled(model, batches), "summed", metrics, store=tmp_path)
    second = evaluate(Labelled(model, change(batches)), "summed", metrics, store=tmp_path)
    if anew != "abcdefghij" or change is changed_kind:
        assert explained() == Counter(anew)
    assert rows_of(second) == rows_of(evaluate(Labelled(model, change(batches)), "summed", metrics))
    assert rows_of(evaluate(Labelled(model, batches), "summed", metrics, store=tmp_path)) == rows_of(first) and LOG == []


def changed_weight():
    model = linear()
    with torch.no_grad():
        model.module.head.weight[0, 0] += 1
    return model


def changed_preprocessing():
    return ak.VisionModel(linear().module, preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5 + 1e-8), SIDE), name="LinearModel")


def changed_precision():
    return ak.VisionModel(linear().module, mean=(0.5,) * 3, std=(0.5,) * 3, size=SIDE, precision="bf16", name="LinearModel")


def changed_buffer():
    model = linear()
    model.module.register_buffer("extra", torch.zeros(1))
    return model


@pytest.mark.parametrize("change", [changed_weight, changed_preprocessing, changed_precision, changed_buffer])
def test_another_model_is_another_key(batches, tmp_path, change):
    first = evaluate(Labelled(linear(), batches), store=tmp_path)
    evaluate(Labelled(change(), batches), store=tmp_path)
    assert explained() == Counter("abcdefghij")
    assert rows_of(evaluate(Labelled(linear(), batches), store=tmp_path)) == rows_of(first) and LOG == []


def test_a_weight_that_is_changed_in_place_is_seen(model, batches, tmp_path):
    problem = Labelled(model, batches)
    first = evaluate(problem, "gradient", "mean", store=tmp_path)
    with torch.no_grad():
        model.module.head.weight.mul_(2)
    second = evaluate(problem, "gradient", "mean", store=tmp_path)
    assert [row[7] for row in rows_of(second)] == [2 * row[7] for row in rows_of(first)]  # the gradient is the weight


@pytest.fixture
def manifest(tmp_path):
    """Six pictures with masks and groups, two in a shard."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = ["path,label,mask:object,group:place"]
    for number in range(6):
        draw = np.random.default_rng(number)
        Image.fromarray(draw.integers(0, 256, (*SIDE, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(255 * (draw.random(SIDE) > 0.5).astype(np.uint8)).save(folder / f"mask{number}.png")
        lines.append(f"{number}.png,{number % 5},mask{number}.png,{number % 3}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder / "list.csv"


def of_files(model, manifest, **options):
    return Labelled(model, manifest, batch_size=2, **options)


@pytest.mark.parametrize("what", ["image", "mask", "label", "group", "box", "kind"])
def test_a_changed_file_is_done_anew_and_nothing_else(model, manifest, tmp_path, what):
    metrics, out = ["highest", "energy_inside"], tmp_path / "run"
    first = evaluate(of_files(model, manifest), "summed", metrics, store=out)
    assert rows_of(first) == rows_of(evaluate(of_files(model, manifest), "summed", metrics, store=out)) and LOG == []
    text, image, mask = (manifest.parent / name for name in ("list.csv", "3.png", "mask3.png"))
    before = text.read_text(), image.read_bytes(), mask.read_bytes()
    if what == "image":
        image.write_bytes((manifest.parent / "0.png").read_bytes())
    elif what == "mask":
        mask.write_bytes((manifest.parent / "mask0.png").read_bytes())
    elif what in ("label", "group"):
        text.write_text(before[0].replace("3.png,3,mask3.png,0", "3.png,4,mask3.png,0" if what == "label" else "3.png,3,mask3.png,1"))
    elif what == "box":
        text.write_text(
            "\n".join(f"{line},{'box:other' if number == 0 else '1 1 5 5'}" for number, line in enumerate(before[0].splitlines()))
        )
    kind = "probability" if what == "kind" else "logit"
    second = evaluate(of_files(model, manifest, kind=kind), "summed", metrics, store=out)
    assert explained() == Counter(["2.png", "3.png"] if what in ("image", "mask", "label", "group") else [f"{n}.png" for n in range(6)])
    assert rows_of(second) == rows_of(evaluate(of_files(model, manifest, kind=kind), "summed", metrics, store=tmp_path / "fresh"))
    for path, content in zip((text, image, mask), before, strict=True):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert rows_of(evaluate(of_files(model, manifest), "summed", metrics, store=out)) == rows_of(first) and LOG == []


def test_labels_that_stop_being_numbers_are_words_in_all_shards(model, manifest, tmp_path):
    """`1` and `"1"` would be two groups, were the shards of before answered as they are."""
    evaluate(of_files(model, manifest), store=tmp_path / "run")
    manifest.write_text(manifest.read_text().replace("5.png,0,mask5.png,2", "5.png,0,mask5.png,none"))
    kept = evaluate(of_files(model, manifest), store=tmp_path / "run")
    assert {row["place"] for row in kept.rows()} == {"0", "1", "2", "none"}


def test_an_image_that_cannot_be_read_costs_itself_until_it_is_mended(model, manifest, tmp_path):
    good = (manifest.parent / "2.png").read_bytes()
    (manifest.parent / "2.png").write_bytes(b"no picture")
    for _ in range(2):
        kept = evaluate(of_files(model, manifest), store=tmp_path / "run")
        assert [(each.id, each.stage) for each in kept.failures] == [("2.png", "read")] and len(kept) == 5
    assert LOG == []
    (manifest.parent / "2.png").write_bytes(good)
    kept = evaluate(of_files(model, manifest), store=tmp_path / "run")
    assert kept.failures == [] and len(kept) == 6 and explained() == Counter(["2.png", "3.png"])


def test_names_that_are_no_text(model, tmp_path):
    """As of files from an old archive: what cannot be read is told of in characters that there are."""
    folder = os.fsencode(tmp_path / "pictures")
    os.mkdir(folder)
    os.mkdir(os.path.join(folder, b"0"))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIDE, 3), dtype=np.uint8))
    picture.save(tmp_path / "one.png")
    for name, content in ((b"good\xff.png", (tmp_path / "one.png").read_bytes()), (b"bad\xff.png", b"no picture")):
        try:
            with open(os.path.join(folder, b"0", name), "wb") as file:
                file.write(content)
        except OSError:
            pytest.skip("file names are text here")
    for _ in range(2):
        kept = evaluate(Labelled(model, tmp_path / "pictures"), store=tmp_path / "run")
        assert [row["id"] for row in kept.rows()] == ["0/good\udcff.png"]
        assert [(each.id, each.stage) for each in kept.failures] == [("0/bad\\udcff.png", "read")]
    assert LOG == []


# Failures -----------------------------------------------------------------------------------------------------------------------------


def test_an_image_that_fails_costs_itself_and_is_not_tried_again(model, batches, tmp_path):
    MOOD["fails"] = ("c", "i")
    problem = Labelled(model, batches)
    plain = evaluate(problem, ["summed", "gradient"], ["highest", "mean"])
    kept = evaluate(problem, ["summed", "gradient"], ["highest", "mean"], store=tmp_path)
    assert rows_of(kept) == rows_of(plain) and len(kept) == 2 * (10 + 8)
    failed = Store(tmp_path).failures()
    assert [(each.id, each.stage, each.methods) for each in failed] == [("c", "explain", ("Summed()",)), ("i", "explain", ("Summed()",))]
    assert {each.reason for each in failed} == {each.reason for each in kept.failures} == {"ValueError: an image that cannot be explained"}
    again = evaluate(problem, ["summed", "gradient"], ["highest", "mean"], store=tmp_path)
    assert rows_of(again) == rows_of(plain) and again.failures == kept.failures and LOG == []
    state = Store(tmp_path).state()
    assert (state.done, state.total, state.failed) == (20, 20, 2)
    assert Store(tmp_path).state().failed == 2 and evaluate(problem, "gradient", "mean", store=tmp_path).failures == []
    assert Store(tmp_path).state().failed == 0  # it was another method that failed on them


def test_a_metric_that_is_added_where_an_image_failed(model, batches, tmp_path):
    MOOD["fails"] = ("c",)
    evaluate(Labelled(model, batches), "summed", "mean", store=tmp_path)
    kept = evaluate(Labelled(model, batches), "summed", ["mean", "highest"], store=tmp_path)
    assert {row["id"] for row in kept.rows() if row["metric"] == "Highest()"} == set("abdefghij")
    assert set(explained()) == set("abcd") and len(kept.failures) == 1


def test_what_a_model_cannot_do_is_said_once(batches, tmp_path):
    problem = Labelled(linear(), batches)
    kept = evaluate(problem, ["grad_cam", "summed"], store=tmp_path)
    (failure,) = Store(tmp_path).failures()
    assert (failure.id, failure.stage, failure.methods) == ("GradCAM()", "explain", ("GradCAM()",))
    assert len(kept) == 10 and kept.failures[0].reason == failure.reason
    with pytest.raises(Unsupported, match="GradCAM"):
        evaluate(problem, "grad_cam", store=tmp_path)


# An interruption ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", "aehi")
def test_an_interrupted_call_goes_on_where_it_stopped(model, batches, tmp_path, at):
    problem = Labelled(model, batches)
    whole_run = evaluate(problem, ["summed", "gradient"])
    MOOD["interrupt"] = at
    with pytest.raises(KeyboardInterrupt, match="called off"):
        evaluate(problem, ["summed", "gradient"], store=tmp_path)
    before = explained()
    store = Store(tmp_path)
    assert store.state().sessions[-1][2] == "interrupted" and store.state().working == []
    assert rows_of(store.scores()) == [row for row in rows_of(whole_run) if row[4] in before]
    MOOD.clear()
    kept = evaluate(problem, ["summed", "gradient"], store=tmp_path)
    assert before + explained() == Counter("abcdefghij") and rows_of(kept) == rows_of(whole_run)
    assert [how for _, _, how, _ in Store(tmp_path).state().sessions] == ["interrupted", "done"]


def test_an_interruption_between_two_methods_loses_none_of_the_first(model, batches, tmp_path):
    MOOD["interrupt"] = "f"
    with pytest.raises(KeyboardInterrupt, match="called off"):
        evaluate(Labelled(model, batches), ["Summed(scale=4.0)", "gradient"], "mean", store=tmp_path)
    done = {(row["method"], row["id"]) for row in Store(tmp_path).scores().rows()}
    assert done == {(method, name) for method in ("Summed(scale=4.0)", "Gradient()") for name in "abcd"}
    MOOD.clear()
    MOOD["interrupt"] = "i"
    with pytest.raises(KeyboardInterrupt, match="called off"):
        evaluate(Labelled(model, batches), ["gradient", "Summed(scale=4.0)"], "mean", store=tmp_path)
    done = {(row["method"], row["id"]) for row in Store(tmp_path).scores().rows()}
    assert {name for method, name in done if method == "Gradient()"} == set("abcdefghij")
    assert {name for method, name in done if method != "Gradient()"} == set("abcdefgh")


def test_progress_counts_what_was_done_before_as_done(model, batches, tmp_path):
    MOOD["interrupt"] = "i"
    with pytest.raises(KeyboardInterrupt, match="called off"):
        evaluate(Labelled(model, batches), store=tmp_path)
    MOOD.clear()
    heard: list[tuple[int, int, int]] = []
    evaluate(Labelled(model, batches), store=tmp_path, progress=lambda pace: heard.append((pace.before, pace.done, pace.total)))
    assert heard == [(8, 10, 10)]


# Problems of all kinds ----------------------------------------------------------------------------------------------------------------


class Own:
    """A problem that can only be gone through from its beginning."""

    name = "own"
    label = "own images"

    def __init__(self, model, batches, *, error: Exception | None = None) -> None:
        self.model, self.batches, self.error = model, batches, error

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def __iter__(self):
        for number, batch in enumerate(self.batches):
            if self.error is not None and number == 2:
                raise self.error
            yield self.model, batch


def test_a_problem_without_shards(model, batches, tmp_path):
    plain = evaluate(Own(model, batches), "summed", ["highest", "energy_inside"])
    first = evaluate(Own(model, batches), "summed", ["highest", "energy_inside"], store=tmp_path)
    assert rows_of(first) == rows_of(plain)
    assert rows_of(evaluate(Own(model, batches), "summed", ["highest", "energy_inside"], store=tmp_path)) == rows_of(plain) and LOG == []
    evaluate(Own(model, changed_mask(batches)), "summed", ["highest", "energy_inside"], store=tmp_path)
    assert explained() == Counter("efgh")
    evaluate(Own(changed_weight(), batches), "summed", ["highest", "energy_inside"], store=tmp_path)
    assert explained() == Counter("abcdefghij")
    assert rows_of(evaluate(Own(model, batches), "summed", ["highest", "energy_inside"], store=tmp_path)) == rows_of(plain) and LOG == []


def test_a_problem_without_shards_is_gone_on_with(model, batches, tmp_path):
    MOOD["interrupt"] = "h"
    with pytest.raises(KeyboardInterrupt, match="called off"):
        evaluate(Own(model, batches), store=tmp_path)
    MOOD.clear()
    kept = evaluate(Own(model, batches), store=tmp_path)
    assert explained() == Counter("efghij") and rows_of(kept) == rows_of(evaluate(Own(model, batches)))


def test_the_names_of_groups_are_part_of_the_key(model, batches, tmp_path):
    def named(*names: str):
        problem = Own(model, batches)
        problem.group_names = {"odd": names}
        return problem

    for names in (("even", "odd"), ("gerade", "ungerade"), ("even", "odd")):
        kept = evaluate(named(*names), store=tmp_path)
        assert rows_of(kept) == rows_of(evaluate(named(*names))) and {row["odd"] for row in kept.rows()} == set(names)


def test_a_problem_that_raises_half_way(model, batches, tmp_path):
    problem = Own(model, batches, error=OSError("the camera is gone"))
    plain = evaluate([problem, Labelled(model, batches)])
    kept = evaluate([problem, Labelled(model, batches)], store=tmp_path)
    assert sorted(rows_of(kept)) == sorted(rows_of(plain)) and len(kept) == 18
    assert kept.failures == plain.failures == [("own images", "problem", "OSError: the camera is gone")]
    again = evaluate(Own(model, batches), store=tmp_path)
    assert again.failures == [] and explained() == Counter("ij")


def test_what_a_problem_says_it_could_not_read_is_kept(model, batches, tmp_path):
    problem = Own(model, batches)
    problem.failures = [Failure("z", "read", "no such picture")]
    kept = evaluate(problem, store=tmp_path)
    assert kept.failures == problem.failures and len(kept) == 10


def test_an_image_that_comes_twice_is_taken_once(model, batches, tmp_path):
    twice = other(batches[1], ids=("e", "b", "e", "h"))
    kept = evaluate(Own(model, [batches[0], twice, batches[2]]), store=tmp_path)
    assert [row["id"] for row in kept.rows()] == list("abcdehij")
    assert [(each.id, each.stage) for each in kept.failures] == [("b", "read"), ("e", "read")]
    assert {row["id"]: row["score"] for row in kept.rows()}["e"] == float(batches[1].images[0].sum(0).max())


class Several(Own):
    """Each batch with a model of its own, which nobody keeps."""

    factors = (1, 2, 4)

    def __init__(self, model, batches) -> None:
        super().__init__(model, batches)
        self.seen, self.alive = [], []

    def __iter__(self):
        for factor, batch in zip(self.factors, self.batches, strict=True):
            gc.collect()
            self.alive.append(sum(each() is not None for each in self.seen))
            model = linear()
            with torch.no_grad():
                model.module.head.weight.mul_(factor)
            self.seen.append(weakref.ref(model))
            yield model, batch
            del model


def test_models_that_come_and_go_are_told_apart(model, batches, tmp_path):
    """The gradient is the weight. Models are let go of, and one that lies where another lay is not taken for that one."""
    for factors in ((1, 2, 4), (1, 2, 8), (1, 2, 4)):
        problem = Several(model, batches)
        problem.factors = factors
        assert rows_of(evaluate(problem, "gradient", "mean", store=tmp_path)) == rows_of(evaluate(problem, "gradient", "mean"))
        assert max(problem.alive) <= 2, problem.alive  # but for the last one, and that of the look at the first batch


class ByBrightness(torch.nn.Module):
    """Class k is what is k bright on average."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = torch.nn.Parameter(torch.arange(5).float())

    def forward(self, images):
        return -8 * (images.mean((1, 2, 3)).unsqueeze(1) - self.levels) ** 2


def lit(names: str) -> Batch:
    """As `whole`, as bright as its class."""
    batch = whole(names)
    classes = torch.arange(len(names)) % 5
    images = batch.images - batch.images.mean((1, 2, 3), keepdim=True) + classes.view(-1, 1, 1, 1)
    return other(batch, images=images, targets=Targets(classes))


def test_grids_are_found_once(tmp_path):
    """16 images are looked at to find which the model is sure of; a second call, made anew, looks at none."""
    module = Recorded(ByBrightness())
    model = adapted(module, size=SIDE)
    source = [lit("abcdefgh"), lit("ijklmnop")]

    def looked(source=source, **options) -> int:
        module.rows.clear()
        problem = Grid(model, source, count=2, fit="shrink", batch_size=4, **options)
        found.append(rows_of(evaluate(problem, "random_map", "energy_inside", store=tmp_path)))
        return sum(rows for rows in module.rows if rows == 8)

    found: list[list[tuple[object, ...]]] = []
    assert (looked(), looked()) == (16, 0) and found[0] == found[1] and len(found[0]) == 8
    assert looked([source[0], other(source[1], images=source[1].images + 1e-3)]) == 16
    assert (looked(seed=1), looked(seed=1), looked(confidence=0.5)) == (16, 0, 16) and found[2] != found[0] != found[3]
    with torch.no_grad():
        module.inner.levels += 1e-3
    assert looked() == 16
    with torch.no_grad():
        module.inner.levels.copy_(torch.arange(5).float())
    assert looked() == 0 and found[-1] == found[0]


def test_a_damaged_plan_is_made_again(tmp_path):
    model, source = adapted(ByBrightness(), size=SIDE), [lit("abcdefgh"), lit("ijklmnop")]
    first = evaluate(Grid(model, source, count=2, fit="shrink"), "random_map", "energy_inside", store=tmp_path)
    with Store(tmp_path) as store, sqlite3.connect(tmp_path / "ledger.db") as db:
        ((name, plan),) = store.ledger.rows("SELECT name, value FROM meta WHERE name LIKE 'plan %'")
        swapped = plan.replace("[[[", "[[[1", 1)  # of the first cell the row is another one
        assert swapped != plan
        db.execute("UPDATE meta SET value = ? WHERE name = ?", (swapped, name))
    db.close()
    again = evaluate(Grid(model, source, count=2, fit="shrink"), "random_map", "energy_inside", store=tmp_path)
    assert rows_of(again) == rows_of(first)
    assert Store(tmp_path).ledger.rows("SELECT value FROM meta WHERE name = ?", name) == [(plan,)]


@pytest.mark.parametrize("kind", ["planted", "grid", "shrunk", "disconnected", "partly"])
def test_problems_of_the_package(kind, tmp_path):
    """Maps that nothing is lost of: of controls, which are scored as they are."""
    torch.manual_seed(0)
    model, small = adapted(ByBrightness(), size=SIDE), adapted(GapCNN(), size=SIDE)
    source = [lit("abcdefgh"), lit("ijklmnop")]
    problem = {
        "planted": lambda: Planted(small, 10, batch_size=4),
        "grid": lambda: Grid(model, source, count=3, batch_size=8),
        "shrunk": lambda: Grid(model, source, count=3, batch_size=8, fit="shrink"),
        "disconnected": lambda: Disconnected(small, sure(small), count=3, confidence=0, batch_size=2),
        "partly": lambda: Disconnected(small, sure(small), count=3, confidence=0, batch_size=2, part=1),
    }[kind]
    asked = ["random_map", "edge_map"], ["energy_inside", "pointing_game"]
    plain, kept = evaluate(problem(), *asked), evaluate(problem(), *asked, store=tmp_path)
    assert rows_of(kept) == rows_of(plain) and len(kept) == 4 * len(problem())
    assert kept.groups == plain.groups != []
    assert rows_of(evaluate(problem(), *asked, store=tmp_path)) == rows_of(plain)


def sure(model) -> list[Batch]:
    """Images of which what the model says is right."""
    return [other(each, targets=Targets(model.logits(each.images).argmax(1))) for each in (whole("abcdefgh", 1), whole("ijklmnop", 2))]


def test_problems_of_one_name_are_told_apart(model, batches, tmp_path):
    """Their number is part of what tables call them; a third that was not there before takes nothing of the others."""
    first, second = Labelled(model, [batches[0]]), Labelled(model, [batches[1]])
    kept = evaluate([first, second], store=tmp_path)
    assert rows_of(kept) == rows_of(evaluate([first, second]))
    assert {key.problem for key in kept.keys()} == {"4 labelled images", "4 labelled images (2)"}  # noqa: SIM118 - no mapping
    turned = evaluate([second, first], store=tmp_path)
    assert rows_of(turned) == rows_of(evaluate([second, first]))


# Methods that settings do not say everything of ---------------------------------------------------------------------------------------


def signed(module, images, index):
    LOG.append(("explained", str(len(images))))
    return images.sum(1)


def test_callables_of_one_name_are_told_apart(model, batches, tmp_path):
    def ask(function):
        kept = evaluate(Labelled(model, batches), FromCallable(function, label="mine"), "mean", store=tmp_path)
        return [row["score"] for row in kept.rows()]

    def made(factor):
        return lambda module, images, index: factor * images.sum(1)

    first = ask(signed)
    assert len(LOG) == 3
    assert ask(signed) == first and LOG == []
    assert ask(lambda module, images, index: 2 * images.sum(1)) == [2 * each for each in first]
    assert ask(lambda module, images, index: 4 * images.sum(1)) == [4 * each for each in first]
    assert ask(made(2)) == [2 * each for each in first] and ask(made(8)) == [8 * each for each in first]
    assert ask(functools.partial(scaled, factor=2)) == [2 * each for each in first]
    assert ask(functools.partial(scaled, factor=4)) == [4 * each for each in first]
    assert ask(signed) == first and LOG == []


def scaled(module, images, index, factor):
    return factor * images.sum(1)


def test_a_method_whose_code_was_changed_is_another_one(model, batches, tmp_path):
    """As in a notebook, where a cell is edited and run again."""

    def define(factor: int) -> None:
        body = {1: lambda self, model, images, targets: images.sum(1), 2: lambda self, model, images, targets: images.sum(1) * 2}[factor]
        space = {"name": "edited", "paper": "none", "cost": "nothing", "_maps": body, "__module__": __name__, "__qualname__": "Edited"}
        dataclasses.dataclass(frozen=True)(type("Edited", (Method,), space))

    means = []
    for factor in (1, 2, 1):
        define(factor)
        means.append([row["score"] for row in evaluate(Labelled(model, batches), "edited", "mean", store=tmp_path).rows()])
    assert means[0] == means[2] and means[1] == [2 * each for each in means[0]]


def test_files_of_maps_that_were_changed_are_read_again(model, batches, tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    for name in "abcdefghij":
        np.save(folder / f"{name}.npy", np.full(SIDE, ord(name), np.float32))
    asked = (Labelled(model, batches), Precomputed(str(folder)), "mean")
    assert [row["score"] for row in evaluate(*asked, store=tmp_path / "run").rows()] == [float(ord(name)) for name in "abcdefghij"]
    np.save(folder / "c.npy", np.full(SIDE, 7, np.float32))
    kept = {row["id"]: row["score"] for row in evaluate(*asked, store=tmp_path / "run").rows()}
    assert kept == {name: 7.0 if name == "c" else float(ord(name)) for name in "abcdefghij"}


# Maps that are gone -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["gone", "flipped", "another's", "emptied"])
def test_maps_that_are_not_as_they_were_are_made_again(model, batches, tmp_path, harm):
    problem = Labelled(model, batches)
    first = evaluate(problem, store=tmp_path)
    files = {number: tmp_path / "maps" / name for number, name, _ in Store(tmp_path).files("Summed()")}
    contents = {number: path.read_bytes() for number, path in files.items()}
    if harm == "gone":
        files[1].unlink()
    else:
        flipped = contents[1][:-1] + bytes([contents[1][-1] ^ 1])
        files[1].write_bytes({"flipped": flipped, "another's": contents[0], "emptied": b""}[harm])
    with pytest.raises(ak.errors.BrokenRun, match=r"cannot be read: No such file|its digest is not the one in the ledger"):
        list(Store(tmp_path).maps("Summed()"))
    assert rows_of(Store(tmp_path).scores()) == rows_of(first)  # scores are elsewhere
    assert rows_of(evaluate(problem, store=tmp_path)) == rows_of(first) and explained() == Counter("efgh")
    assert {number: path.read_bytes() for number, path in files.items()} == contents


def test_a_folder_that_cannot_be_one_is_refused_before_any_work(model, batches, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ak.errors.Unwritable, match=r"file: .*; allowed: a folder that may be written to$"):
        evaluate(Labelled(model, batches), store=tmp_path / "file")
    with pytest.raises(BadInput, match="at least one"):
        evaluate(Labelled(model, batches), [], store=tmp_path / "run")
    assert LOG == [] and not Path(tmp_path / "run").exists() and isinstance(GradCAM(), Method)
