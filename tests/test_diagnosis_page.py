"""The page of a diagnosis: what it says first, that its numbers are those found, that names are text, what a reader can do with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from diagnoses import diagnosis, hostile
from pages import HOSTILE, Browser, Parsed, Tables, decoded, digest

from attribkit import BadInput, Batch, Scores, Targets
from attribkit.diagnosis.answers import percent
from attribkit.diagnosis.findings import Finding, Limit, judged, ranked
from attribkit.diagnosis.groups import GroupRow
from attribkit.diagnosis.labels import PairRow
from attribkit.diagnosis.masking import ClassRow, VersionRow
from attribkit.diagnosis.result import Diagnosis, MeanMap, Picture
from attribkit.diagnosis.swaps import SwapRow
from attribkit.report import claims as claims_of
from attribkit.report import diagnosis as page_of
from attribkit.report.cells import between, points
from attribkit.report.claims import chance_of, claims_content, headline
from attribkit.report.diagnosis import diagnosis_sections, write_diagnosis, write_findings
from attribkit.report.distributions import charts
from attribkit.report.means import means_content
from attribkit.report.writing import write_report
from attribkit.scores import Failure, Key
from attribkit.scoring.summaries import Listing

TABLES = ("groups", "versions", "classes", "swaps", "amplification", "regions", "labels")


def made(claims=(), limits=(), **given):
    """A diagnosis of nothing but what is given."""
    every = judged(claims)
    words = {name: Listing(given.pop(name, ())) for name in TABLES}
    return Diagnosis(
        "net", "photos", "", "", ranked(every), tuple(every), tuple(limits), **words, scores=given.pop("scores", Scores()), **given
    )


def claim(test, cue, effect=0.4, p=1e-6, text="A claim.", **more):
    return Finding(text, test, cue, effect, effect - 0.1, effect + 0.1, 50, p, **more)


@pytest.fixture(scope="module")
def full():
    return diagnosis()


@pytest.fixture(scope="module")
def page(full, tmp_path_factory):
    return write_diagnosis(tmp_path_factory.mktemp("page") / "page.html", full)


def table_of(path, head):
    """The rows of the first table whose first head is this one."""
    return next(table for table in Tables(path).found if table[0][0] == head)


# What it says first ----------------------------------------------------------------------------------------------------------------------


def test_the_headline_names_what_experiments_show_and_the_rest_follows():
    claims = [claim("swap", "background"), claim("masking", "outside the object"), claim("masking", "outside the object")]
    claims += [claim("groups", "place"), claim("groups", "place"), claim("regions", "object"), claim("frame", "image border", p=0.9)]
    found = made(claims, [Limit("labels", "a protected label")])
    assert (
        headline(found) == "6 of 7 claims stand: experiments show that the model leans on the background and what lies outside the object."
    )
    assert claims_content(found, set())["more"] == [
        "2 groups of images are answered right less often than the rest of their class (by place).",
        "Maps are not where they should be (object), which suggests a cause and proves none.",
        "Tested: parts exchanged (1 claim), parts removed (2 claims), accuracy by group (2 claims), maps and regions (1 claim) "
        "and maps and the border (1 claim).",
        "Not tested: bias amplification and maps of labels.",
    ]


def test_a_small_effect_is_not_called_a_leaning():
    found = made([dataclasses.replace(claim("masking", "outside the object"), effect=0.02)])
    assert headline(found) == "1 of 1 claim stands: experiments show that few answers, 2 of 100, hang on what lies outside the object."


def test_a_model_is_never_called_fine():
    found = made([claim("groups", "place", p=0.8)])
    assert headline(found) == "None of 1 claim stands: no test shows that the model leans on something that it should not."
    assert "This is no proof that the model is right for the right reasons" in " ".join(claims_content(found, set())["more"])
    assert headline(made()) == "Nothing could be tested, for the reasons given below."


def test_one_claim_stands():
    assert headline(made([claim("amplification", "place")])) == "1 of 1 claim stands: answers exaggerate what goes together with place."


def test_many_cues_are_counted():
    found = made([claim("swap", name) for name in "abcde"])
    assert headline(found) == "5 of 5 claims stand: experiments show that the model leans on the a, the b, the c and 2 more."


@pytest.mark.parametrize(
    ("p", "text"), [(1e-9, "p < 0.001"), (0.0123, "p = 0.012"), (0.0996, "p = 0.100"), (0.456, "p = 0.46"), (math.nan, "p unknown")]
)
def test_chances_in_words(p, text):
    assert chance_of(p) == text


@pytest.mark.parametrize(("value", "text"), [(0.4249, "42"), (-0.03, "−3"), (0.004, "0.4"), (0.0, "0"), (-1e-9, "0"), (math.nan, "–")])
def test_effects_are_hundredths(value, text):
    assert points(value) == text


def test_an_interval_that_ends_at_all_says_so():
    assert between(0.1, 1 - 1e-15) == "[10, 100]" and between(0.995, 0.999) == "[99.5, 99.9]" and between(math.nan, 1.0) == ""


def test_each_finding_has_its_numbers_and_leads_to_its_table_and_its_pictures(full, page):
    text = page.read_text("utf-8")
    parsed, links, here = Parsed(page), {}, ""
    for tag, attributes in parsed.tags:
        if tag in ("li", "section"):
            here = attributes.get("id", "")
        elif tag == "a" and here.startswith("claim-") and attributes["href"].startswith("#evidence"):
            links[here] = attributes["href"]
    words = " ".join(" ".join(parsed.texts).split())
    assert len(full.findings) == text.count('class="claim"') == len(links)
    for number, each in enumerate(full.findings, 1):
        assert " ".join(each.claim.split()) in words
        assert f"({points(each.low)} to {points(each.high)})" in words and f"{each.count} images · {chance_of(each.corrected)}" in words
        assert links[f"claim-{number}"] == f"#evidence-{number}"
        assert f"{len(full.pictures[number - 1])} pictures" in words and each.how in words
    known = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    assert {attributes["href"][1:] for attributes in parsed.all("a") if attributes["href"].startswith("#")} <= known
    assert "40 more of 100 answers change" in words  # the legend says what a number means


def test_effects_lie_on_one_axis_with_zero(full):
    content = claims_content(full, set())
    ends = [end for each in full.findings for end in (each.low, each.high, each.effect)]
    top = max(ends) + 0.04 * max(ends)
    low = -0.04 * max(ends)
    for each, shown in zip(full.findings, [*content["claims"], *content["folded"]], strict=True):
        places = [100 * (value - low) / (top - low) for value in (each.low, each.effect, each.high)]
        drawn = [float(place.rstrip("%")) for place in (shown["chart"]["ends"][0], shown["chart"]["at"], shown["chart"]["ends"][1])]
        assert drawn == pytest.approx(places, abs=0.01)
    assert content["ticks"][0]["text"] == "0"


def test_all_that_does_not_stand_is_there_too(full, page):
    rows = table_of(page, "Claim")[1:]
    rest = [each for each in full.claims if not each.found]
    assert [row[0] for row in rows] == [" ".join(each.claim.split()) for each in rest] and len(rows) + len(full.findings) == len(
        full.claims
    )
    assert [row[2].split(" ")[0] for row in rows] == [points(each.effect) for each in rest]
    assert [row[3] for row in rows] == [chance_of(each.corrected) for each in rest]


# Tables ----------------------------------------------------------------------------------------------------------------------------------


def test_groups_have_every_cell_and_the_lowest_is_marked(full, page):
    head, *rows = table_of(page, "Class")
    cells = {(row[0], label): cell for row in rows for label, cell in zip(head[1:], row[1:], strict=True)}
    worst = min(row.accuracy for row in full.groups if row.target and row.count >= 5)
    for each in full.groups:
        place = (each.target or "All classes", each.label)
        mark = " lowest" if each.target and each.accuracy == worst else ""
        assert cells.pop(place) == f"{percent(each.accuracy)}{mark} {between(each.low, each.high)} {each.right} of {each.count}"
    assert set(cells.values()) <= {""}


@pytest.mark.parametrize(("high", "marked"), [(0.59, 1), (0.61, 0)])
def test_the_lowest_is_marked_where_it_lies_wholly_below_the_highest(tmp_path, high, marked):
    rows = [GroupRow("place", "land", "cat", 9, 10, 0.9, 0.6, 0.98), GroupRow("place", "sea", "cat", 2, 10, 0.2, 0.06, high)]
    rows.append(GroupRow("place", "air", "cat", 0, 2, 0.0, 0.0, 0.65))  # too few to be called the lowest
    cells = [cell for table in Tables(write_diagnosis(tmp_path / "page.html", made(groups=rows))).found for row in table for cell in row]
    assert [cell for cell in cells if "lowest" in cell] == [f"20 % lowest [6, {100 * high:.0f}] 2 of 10"] * marked


def test_masking_has_a_row_a_version_on_an_axis_from_nothing_to_all(tmp_path):
    nan = math.nan
    rows = [
        VersionRow("full", "the whole image", 0.5, 0.25, 0.75, 0.875, 1.0, 0.9, 1.0, 40, 20),
        VersionRow("shifted only", "nothing but", nan, nan, nan, nan, 0.1, 0.0, 0.2, 40, 0),
    ]
    path = write_diagnosis(tmp_path / "page.html", made(versions=rows))
    tables = Tables(path)
    assert tables.found[0] == [
        ["Shown", "Right", "AUC", "Kept", "Images"],
        ["full: the whole image", "50 % [25, 75]", "88 %", "100 % [90, 100]", "40"],
        ["shifted only: nothing but", "–", "–", "10 % [0, 20]", "40"],
    ]
    drawn = tables.drawn[0][1]
    assert [each["cx"] for each in drawn if each.get("class") == "dot"] == ["50.00%", "100.00%"]
    assert [(each["x1"], each["x2"]) for each in drawn if each.get("class") == "interval"] == [("25.00%", "75.00%"), ("90.00%", "100.00%")]


@pytest.mark.parametrize(("count", "folded"), [(10, 0), (11, 1)])
def test_many_classes_are_folded(tmp_path, count, folded):
    rows = [ClassRow("box removed", f"class {at}", 0.5, at / 20, 0.0, 1.0, 20) for at in range(count)]
    path = write_diagnosis(tmp_path / "page.html", made(classes=rows))
    assert len(Parsed(path).all("details")) == folded
    assert table_of(path, "Answered as")[2] == ["class 1", "5 % [0, 100] AUC 50 %"]


def test_exchanged_parts_amplification_and_labels(full, page):
    for row, each in zip(table_of(page, "Exchanged")[1:], full.swaps, strict=True):
        assert row == [
            f"{each.cue}, for that of another {each.by}",
            f"{percent(each.other)} of {each.others}",
            f"{percent(each.same)} of {each.sames}",
            f"{points(each.other - each.same)} points",
            percent(each.follows),
        ]
    (each,) = full.amplification
    assert table_of(page, "Group")[1] == [
        each.by,
        f"{points(each.amplification)} [{points(each.low)}, {points(each.high)}]",
        points(each.size),
        str(each.count),
    ]
    head, *rows = table_of(page, "Label")
    pairs = {(row[0], other): cell for row in rows for other, cell in zip(head[1:], row[1:], strict=True)}
    assert len(full.labels) == 6
    for each in full.labels:
        said = f"{each.score:.2f} [{each.low:.2f}, {each.high:.2f}]"
        assert pairs.pop((each.one, each.other)) == said == pairs.pop((each.other, each.one))
    assert set(pairs.values()) == {""}


def test_of_many_labels_pairs_are_listed_the_closest_first(tmp_path):
    rows = [PairRow(f"l{one}", f"l{other}", (one * 13 + other) / 200, 0.0, 1.0, 9) for one in range(13) for other in range(one)]
    path = write_diagnosis(tmp_path / "page.html", made(labels=rows))
    (table,) = (table for table in Tables(path).found if table[0][0] == "Labels")
    assert len(table) == 1 + 78 and table[1][0] == "l12, l11" and table[-1][0] == "l1, l0"


def test_a_swap_without_anything_to_compare_is_said(tmp_path):
    row = SwapRow("tag", "answer", 0.25, 8, math.nan, 0, math.nan)
    assert table_of(write_diagnosis(tmp_path / "page.html", made(swaps=[row])), "Exchanged")[1] == [
        "tag, for that of another answer",
        "25 % of 8",
        "–",
        "–",
        "–",
    ]


def test_regions_stand_beside_the_level_of_an_even_map(full, page):
    tables = [table for table in Tables(page).found if table[0][:2] == ["Answered as", "All"] and "Scale" not in table[0]]
    assert len(tables) == len({each.region for each in full.regions})
    every = {cell for table in tables for row in table[1:] for cell in row[1:]}
    for each in full.regions:
        interval = f"[{each.low:.2f}, {each.high:.2f}] " if math.isfinite(each.low) else ""
        assert f"{each.score:.2f} {interval}even {each.uniform:.2f}" in every


def test_boxes_are_of_the_images_of_each_label(full, page):
    values = {}
    for row in full.scores.rows():
        for name in ("all images", f"background: {row['background']}"):
            values.setdefault((row["metric"], name), []).append(row["score"])
    said = {tuple(row[:1] + row[-1:]) for table in Tables(page).found if table[0][0] == "Images" for row in table[1:-1]}
    assert len(values) == 3 * 4
    for (_, name), scores in values.items():
        low, median, high = np.percentile(np.asarray(scores), (25, 50, 75))
        assert (name, f"{median:.3f} [{low:.3f}, {high:.3f}]") in said


def test_what_is_0_or_1_of_every_image_has_no_box():
    batch = Batch(torch.zeros(3, 3, 2, 2), Targets(torch.zeros(3, dtype=torch.int64)), ("a", "b", "c"), {}, {})
    scores = Scores()
    for metric, values in (("right", [0.0, 1.0, 1.0]), ("share", [0.0, 0.5, 1.0]), ("none", [math.nan] * 3)):
        scores.add(Key("photos", "net", "A()", metric), batch, torch.tensor(values))
    assert [chart["metric"] for chart in charts(scores)] == ["share"]


def test_columns_of_mean_maps_keep_the_labels_of_a_group_together():
    means = [
        MeanMap("cat", by, label, torch.ones(2, 2), 1)
        for by, label in (("place", "sea"), ("tag", "red"), (None, None), ("place", "land"), ("tag", "blue"))
    ]
    assert means_content(means)["columns"] == ["All", "place: land", "place: sea", "tag: blue", "tag: red"]


def test_mean_maps_share_a_scale_in_a_row_and_where_there_is_none_it_is_empty():
    one, other = torch.zeros(2, 2), torch.zeros(2, 2)
    one[0, 0], other[1, 1] = 1.0, 0.5
    means = [
        MeanMap("cat", None, None, one, 7),
        MeanMap("cat", "place", "sea", other, 3),
        MeanMap("dog", None, None, torch.full((2, 2), 0.25), 4),
    ]
    found = means_content(means)
    assert found["columns"] == ["All", "place: sea"]
    cat, dog = found["rows"]
    assert cat["limit"] == "4×" and dog["limit"] == "1×"  # all of it in one pixel of four; everywhere the same
    assert decoded(cat["pictures"][0]["src"]).tolist() == [[255, 0], [0, 0]]
    assert decoded(cat["pictures"][1]["src"]).tolist() == [[0, 0], [0, 128]]
    assert [picture["count"] for picture in dog["pictures"]] == [4, 0] and dog["pictures"][1]["src"] == ""


def test_the_scale_of_a_row_reaches_to_the_highest_of_its_maps():
    flat, high = torch.full((2, 2), 0.25), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    (row,) = means_content([MeanMap("cat", None, None, flat, 7), MeanMap("cat", "place", "sea", high, 3)])["rows"]
    assert row["limit"] == "4×" and decoded(row["pictures"][0]["src"]).tolist() == [[64, 64], [64, 64]]


def test_a_large_mean_map_becomes_small_and_one_that_is_not_finite_is_drawn():
    large = MeanMap("cat", None, None, torch.full((300, 224), 1 / (300 * 224)), 2)
    (picture,) = means_content([large])["rows"][0]["pictures"]
    assert (picture["height"], picture["width"]) == (112, 83) and decoded(picture["src"]).min() == 255
    assert means_content([MeanMap("cat", None, None, torch.full((2, 2), math.nan), 2)])["rows"][0]["zero"]


# Evidence --------------------------------------------------------------------------------------------------------------------------------


def test_evidence_has_the_pictures_of_its_finding_in_their_order(full, page):
    data = Parsed(page).data
    for number, pictures in enumerate(full.pictures, 1):
        items = data[f"evidence-{number}-data"]["items"]
        assert len(items) == len(pictures)
        assert all(
            item["maps"][0]["max"] == pytest.approx(float(each.map.max()), rel=1e-5) for item, each in zip(items, pictures, strict=True)
        )
        assert data[f"evidence-{number}-data"]["regions"] == ["object", "background"]
    sections = [section for section in diagnosis_sections(full) if section.template == "gallery.html"]
    assert [[card["id"] for card in section.content["cards"]] for section in sections] == [list(each.images) for each in full.findings]
    assert [section.content["back"] for section in sections] == [f"claim-{number}" for number in range(1, len(full.findings) + 1)]


def test_a_finding_without_pictures_has_no_gallery_and_one_without_maps_shows_images(tmp_path):
    claims = [claim("swap", "one", text="First."), claim("groups", "two", text="Second.")]
    picture = Picture("a.jpg", "cat", torch.rand(3, 8, 8), None, {})
    path = write_diagnosis(tmp_path / "page.html", made(claims, pictures=((), (picture,))))
    parsed = Parsed(path)
    assert [attributes["href"] for attributes in parsed.all("a") if "evidence" in attributes["href"]] == ["#evidence-2", "#evidence-2"]
    known = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    assert {attributes["href"][1:] for attributes in parsed.all("a") if attributes["href"].startswith("#")} <= known  # there are no tables
    assert parsed.data["evidence-2-data"]["items"] == [{"maps": [], "regions": [], "scores": []}]
    assert [attributes["alt"] for attributes in parsed.all("img")] == ["a.jpg"]


def test_galleries_share_what_a_page_may_take(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    claims = [claim("swap", str(at)) for at in range(5)]
    pictures = tuple(
        tuple(
            Picture(f"{at}-{row}", "", torch.rand(3, 224, 224, generator=generator), torch.randn(224, 224, generator=generator), {})
            for row in range(4)
        )
        for at in range(5)
    )
    monkeypatch.setattr(page_of, "GALLERIES", 600_000)
    small = write_diagnosis(tmp_path / "small.html", made(claims, pictures=pictures)).stat().st_size
    monkeypatch.setattr(page_of, "GALLERIES", 1_200_000)
    large = write_diagnosis(tmp_path / "large.html", made(claims, pictures=pictures)).stat().st_size
    tiny = Picture("", "", torch.zeros(3, 8, 8), torch.zeros(2, 2), {})
    fixed = write_diagnosis(tmp_path / "fixed.html", made(claims, pictures=((tiny,) * 4,) * 5)).stat().st_size
    assert small < 600_000 + fixed < large < 1_200_000 + fixed


# Whatever comes --------------------------------------------------------------------------------------------------------------------------


def structure(path):
    return [tag for tag, _ in Parsed(path).tags if tag != "wbr"]


@pytest.mark.parametrize("name", [*HOSTILE, "\u202egpj.exe", "a\x00b"])
def test_names_are_text_whatever_is_in_them(tmp_path, name, clean):
    path = write_diagnosis(tmp_path / "page.html", diagnosis(60, hostile(name), each=1), title=name)
    assert structure(path) == structure(clean)
    parsed, expected = Parsed(path), Parsed(clean)
    assert (parsed.scripts, parsed.styles) == (expected.scripts, expected.styles)
    seen = " ".join("".join("\ufffd" if character in "\u202e\x00" else character for character in name).split())
    cells = {cell for table in Tables(path).found for row in table for cell in row}
    assert {seen, f"{seen} 2"} <= cells
    assert parsed.data["evidence-1-data"]["regions"][0].startswith(parsed.data["evidence-1-data"]["methods"][0]["name"])
    assert not {"\u202e", "\x00"} & set(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return write_diagnosis(tmp_path_factory.mktemp("clean") / "page.html", diagnosis(60, hostile("clean"), each=1))


def test_nothing_but_its_own_scripts_can_run_and_nothing_is_styled_in_place(page):
    parsed = Parsed(page)
    (policy,) = [meta["content"] for meta in parsed.all("meta") if "http-equiv" in meta]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'" and allowed["style-src"] == digest(parsed.styles[0]) and len(parsed.styles) == 1
    assert allowed["script-src"].split() == [digest(script) for script in parsed.scripts] and len(parsed.scripts) == 2
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith(("#", "https://arxiv.org/abs/")), attributes


def test_an_empty_diagnosis_is_a_page_that_says_so(tmp_path):
    found = made(limits=[Limit("groups", "for want of labels"), Limit("groups", "for want of labels")])
    path = write_diagnosis(tmp_path / "page.html", found)
    assert [section.name for section in diagnosis_sections(found)] == ["summary", "about"]
    words = " ".join(Parsed(path).texts)
    assert "Nothing could be tested" in words and words.count("for want of labels") == 1 and "nan" not in words


def test_without_masks_the_page_says_which_tests_that_cost(tmp_path):
    found = diagnosis(masks=False)
    path = write_diagnosis(tmp_path / "page.html", found)
    names = [section.name for section in diagnosis_sections(found)]
    assert names[:5] == ["summary", "groups", "amplification", "regions", "spread"] and not {"masking", "swaps", "labels"} & set(names)
    words = " ".join(" ".join(Parsed(path).texts).split())
    for each in found.limits:
        assert each.reason in words
    assert "Not tested: parts exchanged, parts removed, maps and regions and maps of labels." in words
    assert "nan" not in {cell for table in Tables(path).found for row in table for cell in row}
    assert not any("nan" in str(value) for _, attributes in Parsed(path).tags for name, value in attributes.items() if name != "src")


def test_sections_come_in_order(full):
    names = [section.name for section in diagnosis_sections(full)]
    first = ["summary", "groups", "masking", "swaps", "amplification", "labels", "regions", "spread", "means"]
    assert names == [*first, *(f"evidence-{number}" for number in range(1, len(full.findings) + 1)), "claims", "about"]


def test_what_was_run_cites_the_papers_of_its_tests_and_failures(full, tmp_path):
    scores = Scores()
    scores.failures.append(Failure("x.jpg", "read", "broken"))
    path = write_diagnosis(tmp_path / "page.html", dataclasses.replace(full, scores=scores))
    used, tests = table_of(path, "Used"), table_of(path, "Test")
    assert [row[0] for row in used] == ["Used", "GradCAM()", "parts removed by LayerMask()"] and all(
        row[2].startswith("[") for row in used[1:]
    )
    assert ["parts removed", "4 claims"] == tests[2][:2] and tests[-1][:2] == ["all claims together", "Holm's correction, 5 % level"]
    assert ["x.jpg", "broken"] in table_of(path, "What")
    text = path.read_text("utf-8")
    assert all(number in text for number in ("2503.19846", "2102.12594", "2210.11924", "Mask of truth"))


# JSON, and the one verb ------------------------------------------------------------------------------------------------------------------


def test_the_json_has_everything_and_no_number_that_is_none(full, tmp_path):
    given = dataclasses.replace(full, findings=(dataclasses.replace(full.findings[0], low=math.nan), *full.findings[1:]))

    def refused(word):
        raise AssertionError(word)

    found = json.loads(write_findings(tmp_path / "f.json", given).read_text("utf-8"), parse_constant=refused)
    assert found["findings"][0]["low"] is None and found["findings"][1]["low"] == full.findings[1].low
    assert [each["claim"] for each in found["claims"]] == [each.claim for each in full.claims]
    assert [each["reason"] for each in found["limits"]] == [each.reason for each in full.limits]
    for name in TABLES:
        assert len(found[name]) == len(getattr(full, name))
    assert found["groups"][0] == dataclasses.asdict(full.groups[0])
    assert (found["model"], found["about"]["seed"]) == ("planted/shortcut-95", "0")
    rows = [
        (each["method"], each["metric"], name, score)
        for each in found["scores"]
        for name, score in zip(each["ids"], each["scores"], strict=True)
    ]
    known = [(row["method"], row["metric"], row["id"], pytest.approx(row["score"], rel=1e-5)) for row in full.scores.rows()]
    assert rows == known
    assert [[each["id"] for each in shown] for shown in found["pictures"]] == [[each.id for each in shown] for shown in full.pictures]


def test_a_report_is_of_a_diagnosis_or_of_scores(full, tmp_path):
    path = write_report(made([claim("swap", "tag")]), tmp_path / "out" / "report.html")
    assert path == tmp_path / "out" / "report.html" and "experiments show" in path.read_text("utf-8")
    assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["findings"][0]["cue"] == "tag"
    batch = Batch(torch.zeros(2, 3, 2, 2), Targets(torch.zeros(2, dtype=torch.int64)), ("a", "b"), {}, {})
    scores = Scores()
    scores.add(Key("photos", "net", "A()", "Energy()"), batch, torch.ones(2))
    assert "A() is the only method that was scored" in write_report(scores, str(tmp_path / "scores.html")).read_text("utf-8")
    assert not (tmp_path / "scores.json").exists()
    with pytest.raises(BadInput, match=r"write_report\(result=\.\.\.\): got dict, allowed: a Diagnosis or Scores"):
        write_report({}, tmp_path / "x.html")
    with pytest.raises(BadInput, match=r"write_report\(path=\.\.\.\): got .*x\.json, allowed: the name of a page"):
        write_report(made(), tmp_path / "x.json")


def test_the_same_diagnosis_makes_the_same_page(full, page, tmp_path):
    assert write_diagnosis(tmp_path / "again.html", full).read_bytes() == page.read_bytes()


# In a browser ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def browse(tmp_path):
    with contextlib.ExitStack() as stack:
        yield lambda path: stack.enter_context(Browser.at(path, tmp_path / "profile"))


def test_a_reader_goes_from_claim_to_pictures_and_back(full, browse, tmp_path, monkeypatch):
    monkeypatch.setattr(claims_of, "OPEN", 3)
    page = write_diagnosis(tmp_path / "page.html", full)
    tab = browse(page)
    tab.until("document.readyState === 'complete'")
    assert tab.run("document.querySelectorAll('table').length") == len(Tables(page).found)
    assert tab.run("scrollY") == 0
    tab.run("document.querySelector('#claim-2 a[href=\"#evidence-2\"]').click()")
    top = "Math.abs(document.getElementById('evidence-2').getBoundingClientRect().top)"
    tab.until(f"location.hash === '#evidence-2' && {top} < innerHeight / 2")
    drawn = "document.querySelectorAll('#evidence-2 canvas[data-drawn]').length"
    tab.until(f"{drawn} > 0")

    picture = "document.querySelector('#evidence-2 .cards canvas').toDataURL()"
    tab.run(f"window.before = {picture}, true")
    tab.run(
        """(() => { const slider = document.querySelector('#evidence-2 input[name=opacity]');
        slider.value = 10; slider.dispatchEvent(new Event('input', { bubbles: true })) })()"""
    )
    tab.until(f"{picture} !== window.before")
    assert tab.run("document.querySelector('#evidence-2 output[name=opacity-value]').value") == "10 %"
    tab.until("document.querySelectorAll('#evidence-2 .panel svg path').length > 0")
    outline = "document.querySelector('#evidence-2 .panel svg').hasAttribute('hidden')"
    assert tab.run(outline) is False
    tab.run("document.querySelector('#evidence-2 input[name=outlines]').click()")
    tab.until(outline)

    tab.run("document.querySelector('#evidence-2 .open').click()")
    assert tab.run("document.querySelector('#evidence-2 dialog').open")
    tab.run("document.querySelector('#evidence-2 dialog').close()")
    tab.run("document.querySelector('#evidence-2 .back a').click()")
    tab.until("location.hash === '#claim-2' && document.getElementById('claim-2').getBoundingClientRect().top < innerHeight")

    # A claim that is folded away is unfolded by a link to it.
    tab.run("document.querySelector('#evidence-4 .back a').click()")
    tab.until("document.querySelector('.fold').open && document.getElementById('claim-4').getBoundingClientRect().height > 0")

    column = "[...document.querySelector('#groups table').tBodies[0].rows].map((row) => Number(row.cells[1].dataset.value))"
    tab.run("document.querySelectorAll('#groups thead th')[1].querySelector('button').click()")
    found = tab.run(column)
    assert found == sorted(found, reverse=True) and len(set(found)) > 1
    assert tab.complaints == []
    assert {url.partition(":")[0] for url in tab.requests} <= {"file", "data"}
    assert [url for url in tab.requests if url.startswith("file:")] in ([], [page.as_uri()])


@pytest.mark.parametrize("width", [400, 1600])
def test_no_width_needs_to_be_scrolled_sideways(tmp_path, browse, width):
    names = hostile("x" * 300) | {"file": '"><img src=x onerror=alert(1)>'}
    tab = browse(write_diagnosis(tmp_path / "page.html", diagnosis(60, names, each=1), title="y" * 300))
    tab.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    tab.until("document.querySelector('.gallery')?.dataset.drawn === '1' || (document.querySelector('.gallery')?.scrollIntoView(), false)")
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("document.querySelectorAll('img[src=x]').length") == 0
    assert tab.complaints == []
