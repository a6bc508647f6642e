"""The page of an evaluation: what it says, where it draws it, that names are text, how large it gets, and what a reader can do with it."""

from __future__ import annotations

import contextlib
import csv
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from pages import HOSTILE, Browser, Parsed, Tables, decoded, digest
from PIL import Image

from attribkit import BadInput, Batch, Scores, Targets
from attribkit.report.aggregated import aggregate
from attribkit.report.bibliography import used
from attribkit.report.evaluation import chosen, evaluation_sections, write_evaluation
from attribkit.report.evidence import Curves, Evidence, Example, Exhibit, Panels
from attribkit.report.gallery import Item, Plan, gallery
from attribkit.report.page import About
from attribkit.report.verdict import Standing, verdict
from attribkit.scores import Key

COUNT = 20
FLOOR, CEILING = "RandomMap()", "Oracle(region='object')"


def names(count):
    return tuple(f"i{row:03d}" for row in range(count))


def add(scores, method, values, *, metric="Energy()", problem="photos", model="net", control=False, higher=True, groups=None, chance=None):
    """Scores of one method, one value an image, or the same for `COUNT` images."""
    values = torch.full((COUNT,), float(values)) if isinstance(values, int | float) else torch.as_tensor(values, dtype=torch.float32)
    batch = Batch(
        torch.zeros(len(values), 3, 2, 2), Targets(torch.zeros(len(values), dtype=torch.int64)), names(len(values)), {}, groups or {}
    )
    chances = None if chance is None else torch.full((len(values),), chance)
    scores.add(Key(problem, model, method, metric), batch, values, chances=chances, higher_is_better=higher, control=control)
    return scores


def spread(middle):
    """Scores that vary a little, by the same amounts whatever the middle: two such columns differ by a constant."""
    return [middle + 0.001 * (row % 5 - 2) for row in range(COUNT)]


def scored(**metrics):
    """Scores of methods A(), B(), C() and of controls, one value each, by metric."""
    scores = Scores()
    for metric, (higher, values) in metrics.items():
        for method, value in values.items():
            label = {"floor": FLOOR, "ceiling": CEILING}.get(method, f"{method}()")
            add(scores, label, spread(value), metric=f"{metric}()", higher=higher, control=method in ("floor", "ceiling"))
    return scores


def said(scores):
    return verdict(Standing.of(scores))


# The verdict ---------------------------------------------------------------------------------------------------------------------------


def test_one_metric_and_one_leader():
    found = said(scored(Energy=(True, {"A": 0.8, "B": 0.5, "C": 0.4, "floor": 0.2, "ceiling": 1.0})))
    assert found.said == [
        "A() leads by Energy() on photos, ahead of 2 other methods.",
        "The best method is significantly better than the controls, which know nothing of the model.",
    ]
    assert found.warnings == []  # the ceiling, which knows the answer, is above every method and no reason to warn


def test_less_is_better_where_it_is():
    found = said(scored(Deletion=(False, {"A": 0.8, "B": 0.5, "floor": 0.9})))
    assert found.said[0] == "B() leads by Deletion() on photos, ahead of 1 other method."


def test_leaders_that_cannot_be_told_apart_are_named_together():
    found = said(scored(Energy=(True, {"A": 0.8, "B": 0.8, "C": 0.4})))
    assert found.said == [
        "A() and B() lead by Energy() on photos, ahead of 1 other method, and cannot be told apart.",
        "No control was scored, so that it is not known what a map would score that knows nothing of the model.",
    ]
    found = said(scored(Energy=(True, {"A": 0.8, "B": 0.8, "floor": 0.4})))
    assert found.said[0] == "A() and B() cannot be told apart by Energy() on photos."


def test_several_metrics_are_counted():
    scores = scored(
        Energy=(True, {"A": 0.8, "B": 0.5, "C": 0.4, "floor": 0.1}),
        Pointing=(True, {"A": 0.9, "B": 0.9, "C": 0.4, "floor": 0.1}),
        Deletion=(False, {"A": 0.3, "B": 0.2, "C": 0.4, "floor": 0.9}),
    )
    found = said(scores)
    assert found.said == [
        "A() and B() are each among the best by 2 of 3 metrics, A() alone by 1, B() alone by 1.",
        "A() and B() share first place by 1 of them: they cannot be told apart.",
        "By each of them the best method is significantly better than the controls, which know nothing of the model.",
    ]


def test_who_leads_most_comes_first_and_the_others_follow():
    scores = scored(
        One=(True, {"A": 0.8, "B": 0.5, "C": 0.4}), Two=(True, {"A": 0.9, "B": 0.5, "C": 0.4}), Three=(True, {"A": 0.1, "B": 0.2, "C": 0.4})
    )
    assert said(scores).said[0] == "A() is among the best by 2 of 3 metrics, by 2 of them alone; C() by 1."


def test_several_problems_are_rankings():
    scores = add(add(scored(One=(True, {"A": 0.8, "B": 0.5})), "A()", spread(0.8), problem="grid"), "B()", spread(0.5), problem="grid")
    assert said(scores).said[0] == "A() is among the best in 2 of 2 rankings (one for each metric and problem), in 2 of them alone."


def test_none_can_be_told_apart():
    scores = scored(One=(True, {"A": 0.8, "B": 0.8}), Two=(True, {"A": 0.5, "B": 0.5}))
    assert said(scores).said[0] == "No method can be told apart from another by any of 2 metrics."


@pytest.mark.parametrize("floor", [0.8, 0.9])
def test_a_control_that_scores_as_well_is_a_warning(floor):
    found = said(scored(Energy=(True, {"A": 0.8, "B": 0.5, "floor": floor})))
    assert found.said == ["A() leads by Energy() on photos, ahead of 1 other method."]
    assert found.warnings == [
        f"No method is significantly better than a control that knows nothing of the model (Energy(): RandomMap() {floor:.3f}, "
        "best method A() 0.800). A good score there says little about a method."
    ]


def test_a_warning_counts_the_metrics_that_a_control_passes():
    scores = scored(One=(True, {"A": 0.8, "B": 0.5, "floor": 0.1}), Two=(False, {"A": 0.8, "B": 0.5, "floor": 0.4}))
    assert said(scores).warnings[0].startswith("By 1 of 2 metrics no method is significantly better than a control")


def test_one_method_and_no_score_at_all():
    assert said(scored(One=(True, {"A": 0.8}))).said[0] == (
        "A() is the only method that was scored, so that there is nothing but controls to compare it with."
    )
    assert said(Scores()).said == said(add(Scores(), "A()", math.nan)).said == ["No method has a score on any image."]


# Which images ---------------------------------------------------------------------------------------------------------------------------


def gapped(*, higher=True):
    """Twelve images: the mean of two methods grows with the image, and they are apart on 2, 5, 7 and 9, the most on 2."""
    gaps = np.zeros(12)
    gaps[[2, 5, 7, 9]] = 4, 3, 2, 1
    scores = add(Scores(), "A()", np.arange(12) - gaps / 2, higher=higher)
    return add(scores, "B()", np.arange(12) + gaps / 2, higher=higher)


def test_a_gallery_has_what_differs_what_is_extreme_and_what_lies_between():
    # Half: 2, 5, 7, 9. A quarter: the best, 11, and the worst, 0. Of 10, 8, 6, 4, 3, 1, which are left, the first of each half.
    assert chosen(gapped(), "photos", "net", 8) == [names(12)[row] for row in (0, 2, 4, 5, 7, 9, 10, 11)]
    # Where less is better those that are left are 1, 3, 4, 6, 8, 10 from the best.
    assert chosen(gapped(higher=False), "photos", "net", 8) == [names(12)[row] for row in (0, 1, 2, 5, 6, 7, 9, 11)]


def test_all_images_are_shown_where_they_fit():
    assert chosen(gapped(), "photos", "net") == chosen(gapped(), "photos", "net", 12) == list(names(12))
    assert chosen(gapped(), "other", "net") == chosen(Scores(), "photos", "net") == []
    with pytest.raises(BadInput, match=r"chosen\(count=...\): got 0, allowed: at least 1"):
        chosen(gapped(), "photos", "net", 0)


def test_controls_decide_nothing_and_one_method_spreads_its_images():
    alone = add(Scores(), "A()", np.arange(12.0))
    # Nothing is apart: 11 and 0 are the ends; of 10 ... 1, six: at 0, 1, 3, 5, 6, 8 of ten.
    expected = [names(12)[row] for row in (0, 2, 4, 5, 7, 9, 10, 11)]
    assert chosen(alone, "photos", "net", 8) == expected
    assert chosen(add(alone, FLOOR, np.arange(12.0) % 5, control=True), "photos", "net", 8) == expected


def test_metrics_count_alike_whatever_their_scale_and_what_is_undefined_comes_last():
    scores = Scores()
    for metric, scale, apart in (("Small()", 1.0, {3: 1.0}), ("Large()", 1e6, {8: 1.0, 9: 0.5})):
        gap = np.zeros(12)
        gap[list(apart)] = [scale * share for share in apart.values()]
        add(scores, "A()", np.where(np.arange(12) == 11, np.nan, np.arange(12) * scale), metric=metric)
        add(scores, "B()", np.where(np.arange(12) == 11, np.nan, np.arange(12) * scale + gap), metric=metric)
    assert chosen(scores, "photos", "net", 4) == [names(12)[row] for row in (0, 3, 8, 10)]  # 11 has no score; ends: 1 of 4, the last one


# What stands where ------------------------------------------------------------------------------------------------------------------------


def write(tmp_path, scores=None, about=None, **evidence):
    return write_evaluation(tmp_path / "page.html", Evidence(scores or Scores(), about or About(), **evidence))


def test_a_board_has_the_best_first_on_one_axis_and_controls_without_a_rank(tmp_path):
    scores = scored(Energy=(True, {"B": 0.5, "A": 0.8, "C": 0.5, "floor": 0.2}))
    (head, *rows, _) = Tables(write(tmp_path, scores)).found[0]
    assert head == ["Rank", "Method", "Chart", "Not told apart", "Mean [95 %]"]
    means = {row.method: f"{row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in scores.table()}
    assert rows == [
        ["1", "A()", "", "", means["A()"]],
        ["2", "B()", "", "a", means["B()"]],
        ["2", "C()", "", "a", means["C()"]],
        ["", "RandomMap() (control)", "", "", means[FLOOR]],
    ]


def test_dots_lie_where_the_numbers_are(tmp_path):
    scores = add(add(Scores(), "A()", 1, chance=0.5), "B()", 0, chance=0.5)
    page = Tables(write(tmp_path, scores))
    # The axis runs from -0.04 to 1.04: 1.04 / 1.08, 0.04 / 1.08 and a half of the way.
    dots = [[each["cx"] for each in row if "cx" in each] for row in page.drawn[0][1:3]]
    assert dots == [["96.30%"], ["3.70%"]]
    assert [each["x1"] for each in page.drawn[0][1] if each.get("class") == "chance"] == ["50.00%"]
    assert "a map that says nothing: 0.500" in write(tmp_path, scores).read_text("utf-8")

    scores = add(scores, "C()", [0.0, 1.0] * 10)
    (row,) = [each for each in scores.table() if each.method == "C()"]
    drawn = Tables(write(tmp_path, scores)).drawn[0][2]  # between A() and B()
    at = {value: f"{100 * (value + 0.04) / 1.08:.2f}%" for value in (row.low, row.mean, row.high)}
    assert [each["cx"] for each in drawn if "cx" in each] == [at[0.5]] == ["50.00%"]
    assert [(each["x1"], each["x2"]) for each in drawn if each.get("class") == "interval"] == [(at[row.low], at[row.high])]


def test_undefined_scores_are_counted(tmp_path):
    values = [*spread(0.5)[:-2], math.nan, math.nan]
    rows = Tables(write(tmp_path, add(add(Scores(), "A()", values), "B()", math.nan))).found[0]
    assert rows[1][-1] == "18 +2 undefined"
    assert rows[2][-3:] == ["", "no score", "0 +20 undefined"][-3:]


def test_several_metrics_have_an_overview_in_which_the_best_stand_out(tmp_path):
    scores = scored(One=(True, {"A": 0.8, "B": 0.5, "floor": 0.1}), Two=(False, {"A": 0.8, "B": 0.5, "floor": 0.9}))
    rows = Tables(write(tmp_path, scores)).found[0]
    assert rows[0] == ["Method", "One() ↑", "Two() ↓"]
    assert rows[1:] == [
        ["A()", "0.800 (among the best)", "0.800"],
        ["B()", "0.500", "0.500 (among the best)"],
        ["RandomMap() (control)", "0.100", "0.900"],
    ]


def test_groups_have_a_table(tmp_path):
    codes = torch.arange(COUNT) % 2
    scores = add(Scores(), "A()", [0.2 + 0.6 * (row % 2) for row in range(COUNT)], groups={"side": codes})
    scores.name_groups(Key("photos", "net", "", ""), {"side": ["left", "right"]})
    text = write(tmp_path, scores).read_text("utf-8")
    assert "By <bdi>side</bdi>" in text
    found = next(table for table in Tables(tmp_path / "page.html").found if table[0] == ["Method", "left", "right"])
    assert found[1] == ["A()", "0.200 [0.200, 0.200]", "0.800 [0.800, 0.800]"]


def test_a_group_of_many_labels_has_no_table(tmp_path):
    text = write(tmp_path, add(Scores(), "A()", torch.rand(25), groups={"each": torch.arange(25)})).read_text("utf-8")
    assert "<bdi>each</bdi>: 25 labels are too many for a table." in text and "By <bdi>each</bdi>" not in text


def test_boxes_are_quartiles_with_whiskers_and_what_lies_beyond(tmp_path):
    # 0 ... 8 and 30: quartiles 2.25, 4.5, 6.75; 1.5 boxes beyond reach 13.5, so that 30 is a dot. The axis runs from -1.2 to 31.2.
    page = Tables(write(tmp_path, add(Scores(), "A()", [*range(9), 30])))
    place = next(at for at, table in enumerate(page.found) if table[0] == ["Method", "Chart", "Median and quartiles"])
    assert page.found[place][1] == ["A()", "", "4.500 [2.250, 6.750]"]
    drawn = page.drawn[place][1]
    (box,) = [each for each in drawn if each.get("class") == "box"]
    at = {value: f"{100 * (value + 1.2) / 32.4:.2f}%" for value in (0, 2.25, 4.5, 6.75, 8)}
    assert (box["x"], box["width"]) == (at[2.25], f"{100 * 4.5 / 32.4:.2f}%")
    assert [(each["x1"], each["x2"]) for each in drawn if each.get("class") in ("whisker", "median")] == [
        (at[0], at[2.25]),
        (at[6.75], at[8]),
        (at[4.5], at[4.5]),
    ]
    assert [each["d"] for each in drawn if each.get("class") == "beyond"] == [f"M{round(150 * 31.2 / 32.4)} .5h0"]


def test_curves_are_means_with_their_interval(tmp_path):
    curves = np.array([[1.0, 0.6, 0.0], [1.0, 0.4, 0.0], [np.nan, 0.0, 0.0]])
    path = write(tmp_path, scored(Deletion=(False, {"A": 0.5})), curves=[Curves("photos", "net", "Deletion()", {"A()": curves})])
    parsed = Parsed(path)
    assert parsed.data["curves-data"] == {"charts": [[[1.0, 0.5, 0.0]]]}
    # From -0.04 to 1.04, the mean runs from 0.04 / 1.08 below the top through the middle; 0.5 +- 1.96 * 0.1 is 0.304 ... 0.696.
    mean = next(each["d"] for each in parsed.all("path") if each.get("class") == "mean" and "L" in each["d"])
    band = next(each["d"] for each in parsed.all("path") if each.get("class") == "band")
    assert mean == "M0.0 37.0L500.0 500.0L1000.0 963.0"
    assert band == "M0.0 37.0L500.0 318.5L1000.0 963.0L1000.0 963.0L500.0 681.5L0.0 37.0Z"
    assert ["A() 1 left out", "1.000", "0.500", "0.000", ""] in Tables(path).found[-1]


def test_agg_att_has_a_picture_a_bin_and_says_of_how_many(tmp_path):
    maps = torch.zeros(50, 8, 8)
    maps[:, :4, 4:] = 1.0
    found = aggregate(maps, torch.linspace(1, 0, 50), cell=1, n=2, size=(8, 8))
    path = write(tmp_path, panels=[Panels("grid", "net", {"A()": found})])
    table = next(table for table in Tables(path).found if len(table[0]) == 8)
    assert table[0] == ["Method", "0–2 %", "2–5 %", "5–50 %", "50–95 %", "95–98 %", "98–100 %", "Scale"]
    assert table[1] == ["A()", "1 grid", "2 grids", "22 grids", "23 grids", "1 grid", "1 grid", "1.000 0"]
    pictures = [each for each in Parsed(path).all("img") if each["alt"] == "mean map"]
    assert len(pictures) == 6
    assert decoded(pictures[0]["src"]).tolist() == [[0] * 4 + [255] * 4] * 4 + [[0] * 8] * 4  # codes of a palette
    cell = next(each for each in Parsed(path).all("rect") if each.get("class") is None)
    assert [cell[side] for side in ("x", "y", "width", "height")] == ["50.00%", "0.00%", "50.00%", "50.00%"]


def test_what_was_run_has_numbered_papers_each_once():
    about = About(
        methods=[("A()", "A(x=1)", "One, 2016 (arXiv:1610.02391)"), ("R()", "R()", "a control: noise")],
        metrics=[("M()", "M()", "Two, 2018; One, 2016 (arXiv:1610.02391)")],
    )
    found = used(about)
    assert found["papers"] == ["One, 2016 (arXiv:1610.02391)", "Two, 2018"]
    assert [(row["name"], row["papers"], row["note"]) for _, rows in found["used"] for row in rows] == [
        ("A()", [1], ""),
        ("R()", [], "a control: noise"),
        ("M()", [2, 1], ""),
    ]


def test_of_many_failures_200_are_shown(tmp_path):
    path = write(tmp_path, about=About(failures=[(f"file {row}.jpg", "broken") for row in range(1500)]))
    text = path.read_text("utf-8")
    assert len(Tables(path).found[-1]) == 1 + 200 and "file 199.jpg" in text and "file 200.jpg" not in text
    assert "And 1,300 more." in text and "1,500 failures are listed at the end." in text


def example(name, label="cat", methods=("A()",), scores=None, regions=()):
    maps = {method: torch.eye(3) - 0.2 for method in methods}
    return Example(name, label, torch.rand(3, 8, 8), maps, scores or {}, {region: torch.eye(8) for region in regions})


def test_cards_carry_their_scores(tmp_path):
    scores = {"One()": {"A()": 0.25, "B()": math.nan}, "Two()": {"B()": 1 / 3, FLOOR: 1}}
    known = scored(One=(True, {"A": 0.8, "floor": 0.5}), Two=(False, {"A": 0.8}))
    exhibit = Exhibit("photos", "net", iter([example("a", scores=scores), example("b")]), 7)
    path = write(tmp_path, known, exhibits=[exhibit])
    data = Parsed(path).data["gallery-data"]
    assert data["metrics"] == [{"name": "One()", "higher": True}, {"name": "Two()", "higher": False}]
    assert data["scored"] == [{"name": "A()", "control": False}, {"name": "B()", "control": False}, {"name": FLOOR, "control": True}]
    assert [item["scores"] for item in data["items"]] == [[[0.25, None, None], [None, 0.3333, 1.0]], [[None] * 3] * 2]
    assert "2 of 7 images: half are those on which the methods&#39; scores differ the most" in path.read_text("utf-8")


# Whatever comes ---------------------------------------------------------------------------------------------------------------------------


def everything(name, other="B()"):
    """Evidence in which everything that has a name is called `name`."""
    scores = Scores()
    for method, control in ((name, False), (other, False), (FLOOR, True)):
        add(scores, method, spread(0.5), metric=name, problem=name, model=name, control=control, groups={"side": torch.arange(COUNT) % 2})
    scores.name_groups(Key(name, name, "", ""), {"side": [name, "other"]})
    about = About({name: name}, [(name, name, name)], [(name, name)], [(name, name, name)])
    item = example(name, name, [name], {name: {name: 0.5, other: 0.25}}, [name])
    aggregated = aggregate(torch.rand(4, 4, 4), torch.rand(4), cell=0, n=2, size=(4, 4))
    return Evidence(
        scores,
        about,
        [Exhibit(name, name, [item], 1)],
        [Curves(name, name, name, {name: np.random.default_rng(0).random((4, 5))})],
        [Panels(name, name, {name: aggregated})],
    )


def structure(path):
    """The tags, but for the places where a name may be broken and the links to papers."""
    return [tag for tag, _ in Parsed(path).tags if tag != "wbr"]


@pytest.mark.parametrize("name", [*HOSTILE, "\u202egpj.exe", "a\x00b"])
def test_names_are_text_whatever_is_in_them(tmp_path, name):
    clean = write_evaluation(tmp_path / "clean.html", everything("clean"))
    path = write_evaluation(tmp_path / "page.html", everything(name), title=name)
    assert structure(path) == structure(clean)
    parsed, expected = Parsed(path), Parsed(clean)
    assert (parsed.scripts, parsed.styles) == (expected.scripts, expected.styles)
    seen = "".join("\ufffd" if character in "\u202e\x00" else character for character in name)
    assert parsed.data["gallery-data"]["metrics"][0]["name"] == seen == parsed.data["gallery-data"]["scored"][0]["name"]
    assert " ".join(seen.split()) in {cell for table in Tables(path).found for row in table for cell in row}
    assert not {"\u202e", "\x00"} & set(path.read_text("utf-8"))


def test_nothing_but_its_own_scripts_can_run_and_nothing_is_styled_in_place(tmp_path):
    parsed = Parsed(write_evaluation(tmp_path / "page.html", everything("clean")))
    (policy,) = [meta["content"] for meta in parsed.all("meta") if "http-equiv" in meta]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'" and allowed["style-src"] == digest(parsed.styles[0]) and len(parsed.styles) == 1
    assert allowed["script-src"].split() == [digest(script) for script in parsed.scripts] and len(parsed.scripts) == 3
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#"), attributes


EMPTY = {
    "nothing": Evidence(Scores(), About()),
    "no score is defined": Evidence(add(Scores(), "A()", math.nan), About()),
    "one image, one method, one metric": Evidence(add(Scores(), "A()", [0.5]), About(), [Exhibit("photos", "net", [example("i000")], 1)]),
    "no maps": Evidence(add(Scores(), "A()", [0.5]), About(), [Exhibit("photos", "net", [example("i000", methods=[])], 1)]),
    "no images": Evidence(add(Scores(), "A()", [0.5]), About(), [Exhibit("photos", "net", [], 0)], [Curves("p", "m", "M()", {})]),
    "no curve is finite": Evidence(Scores(), About(), (), [Curves("photos", "net", "M()", {"A()": np.full((2, 3), np.nan)})]),
    "only controls": Evidence(add(Scores(), FLOOR, 0.5, control=True), About()),
}


@pytest.mark.parametrize("what", EMPTY)
def test_little_makes_a_page_too(tmp_path, what):
    path = write_evaluation(tmp_path / "page.html", EMPTY[what])
    text = path.read_text("utf-8")
    assert "nan" not in {cell for table in Tables(path).found for row in table for cell in row}
    assert not any("nan" in str(value) for _, attributes in Parsed(path).tags for name, value in attributes.items() if name != "src")
    assert ("No method has a score on any image." in text) == (what not in ("one image, one method, one metric", "no maps", "no images"))


def test_sections_come_in_order_and_only_where_there_is_something():
    everywhere = [section.name for section in evaluation_sections(everything("clean"))]
    assert everywhere == ["verdict", "leaderboard", "groups", "spread", "curves", "panels", "gallery", "about"]
    assert [section.name for section in evaluation_sections(EMPTY["nothing"])] == ["verdict", "about"]
    two = Evidence(Scores(), About(), [Exhibit("a", "", [], 0), Exhibit("b", "", [], 0)])
    assert [(section.name, section.heading) for section in evaluation_sections(two)[1:3]] == [
        ("gallery-1", "Images: a"),
        ("gallery-2", "Images: b"),
    ]


def test_a_page_of_everything_is_of_bounded_size_and_the_same_each_time(tmp_path):
    scores, generator = Scores(), torch.Generator().manual_seed(0)
    for problem in range(3):
        for method in range(10):
            for metric in range(8):
                key = {"problem": f"problem {problem}", "metric": f"Metric{metric}()", "control": method > 7}
                add(scores, f"Method{method}(setting={method})", torch.rand(40, generator=generator), **key)
    first = write_evaluation(tmp_path / "one.html", Evidence(scores, About())).read_bytes()
    assert first == write_evaluation(tmp_path / "two.html", Evidence(scores, About())).read_bytes()
    assert len(first) < 1_500_000
    assert len(Tables(tmp_path / "one.html").found) == 3 + 24 + 24


def test_the_page_draws_without_matplotlib():
    code = "import attribkit.report.evaluation, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_200_photographs_with_five_methods_fit_into_six_megabytes(tmp_path, shared_data):
    with (shared_data / "imagenet-samples" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::5]
    generator = torch.Generator().manual_seed(0)

    def examples():
        for row in rows:
            with Image.open(shared_data / "imagenet-samples" / row["file"]) as image:
                photograph = np.asarray(image.convert("RGB").resize((224, 224)))
            coarse = {f"Cam{at}()": torch.randn(7, 7, generator=generator) for at in range(3)}
            fine = {f"Gradient{at}()": torch.randn(224, 224, generator=generator) ** 3 for at in range(2)}  # noise, which hardly compresses
            yield Example(row["file"], row["label"], photograph, coarse | fine, {"M()": {name: 0.5 for name in coarse | fine}})

    path = write(tmp_path, exhibits=[Exhibit("photos", "net", examples(), 1000)])
    assert len(rows) == 200 and 4_500_000 < path.stat().st_size < 5_800_000  # the rest is for tables and charts
    maps = Parsed(path).data["gallery-data"]["items"][0]["maps"]
    assert [decoded(map_["src"]).shape for map_ in maps[:3]] == [(7, 7)] * 3
    assert decoded(maps[3]["src"]).shape[0] >= 56


def test_photographs_shrink_until_they_take_three_fifths_of_what_a_gallery_may(tmp_path):
    generator = np.random.default_rng(0)
    items = [Item(generator.integers(0, 256, (320, 240, 3), np.uint8), str(at), "", {"m": torch.eye(2)}) for at in range(4)]
    cards = gallery(items, plan=Plan(budget=100_000)).content["cards"]
    assert 40_000 < sum(len(card["image"]) for card in cards) <= 60_000  # a step is 7/8 of a side, 3/4 of the pixels
    for card in cards:
        assert decoded(card["image"]).shape[:2] == (card["height"], card["width"])
        assert card["width"] == pytest.approx(0.75 * card["height"], abs=1)


# In a browser ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def browse(tmp_path):
    with contextlib.ExitStack() as stack:
        yield lambda path: stack.enter_context(Browser.at(path, tmp_path / "profile"))


def test_a_reader_can_sort_read_off_and_look_up(tmp_path, browse):
    scores = scored(One=(True, {"A": 0.8, "B": 0.5, "floor": 0.1}), Two=(False, {"A": 0.8, "B": 0.5, "floor": 0.9}))
    given = [(0.9, 0.8), (0.2, 0.9), (0.5, 0.1)]  # the methods differ by 0.1, 0.7, 0.4
    items = [
        example(f"i{at}", methods=["A()", "B()"], scores={"One()": {"A()": a, "B()": b}, "Two()": {"A()": b, "B()": a}})
        for at, (a, b) in enumerate(given)
    ]
    curves = Curves("photos", "net", "Two()", {"A()": np.array([[1.0, 0.5, 0.0]] * 2), "B()": np.array([[1.0, 0.2, 0.0]] * 2)})
    path = write(tmp_path, scores, exhibits=[Exhibit("photos", "net", items, 3)], curves=[curves])
    page = browse(path)
    page.until("document.querySelector('.gallery')?.dataset.drawn === '3'")

    column = "[...document.querySelector('table.overview').tBodies[0].rows].map((row) => row.cells[0].dataset.value)"
    click = "document.querySelectorAll('table.overview thead th')[2].querySelector('button').click()"
    assert page.run(column) == ["A()", "B()", FLOOR]
    page.run(click)
    assert page.run(column) == ["B()", "A()", FLOOR]  # less is better, and comes first
    page.run(click)
    assert page.run(column) == [FLOOR, "A()", "B()"]
    assert page.run("document.querySelectorAll('table.overview thead th')[2].getAttribute('aria-sort')") == "descending"

    page.run("document.querySelector('.chart').focus()")
    read = "[...document.querySelectorAll('.legend-table td.read')].map((cell) => cell.textContent)"
    assert page.run(read) == ["0.500", "0.200"]
    page.press("ArrowRight")
    assert page.run(read) == ["0.000", "0.000"]
    page.press("Home")
    assert page.run(read) == ["1.000", "1.000"]
    assert page.run("document.activeElement.className") == "chart"  # the gallery's keys stayed out of it

    cards = "[...document.querySelectorAll('.cards .id')].map((card) => card.textContent)"
    assert page.run(cards) == ["i1", "i2", "i0"]
    assert page.run("document.querySelector('.card .score').textContent") == "One()0.2, methods differ by 0.7"

    def choose(**controls):
        set_ = "".join(f"form.{name}.value = '{value}';" for name, value in controls.items())
        set_ += "form.order.dispatchEvent(new Event('input', { bubbles: true }));"
        page.run(f"(() => {{ const form = document.querySelector('form.bar').elements; {set_} }})()")
        return page.run(cards)

    assert choose(order="best") == ["i0", "i2", "i1"]  # of A(), by One(): 0.9, 0.5, 0.2
    assert choose(order="worst") == ["i1", "i2", "i0"]
    assert choose(order="best", method=1) == ["i1", "i0", "i2"]  # of B(): 0.9, 0.8, 0.1
    assert choose(order="best", metric=1) == ["i2", "i0", "i1"] or page.run(cards) == ["i1", "i2", "i0"]
    assert choose(order="worst", metric=0, of="mean", method="all") == ["i2", "i1", "i0"]  # means 0.85, 0.55, 0.3
    assert choose(order="", method=0) == ["i0", "i1", "i2"]

    page.run("document.querySelector('.card .open').click()")
    page.until("document.querySelectorAll('dialog canvas[data-drawn]').length === 2")
    table = "[...document.querySelectorAll('.large-scores tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    assert page.run(table) == [["Score", "One()", "Two()"], ["A()", "0.9", "0.8"], ["B()", "0.8", "0.9"]]
    assert page.complaints == []
    assert {url.partition(":")[0] for url in page.requests} <= {"file", "data"}
    assert [url for url in page.requests if url.startswith("file:")] in ([], [path.as_uri()])


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_no_width_needs_to_be_scrolled_sideways(tmp_path, browse, width):
    page = browse(write_evaluation(tmp_path / "page.html", everything("x" * 300, other="Method(setting=1)"), title="y" * 300))
    page.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    page.until("document.querySelector('.gallery')?.dataset.drawn === '1' || (document.querySelector('.gallery')?.scrollIntoView(), false)")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.complaints == []
