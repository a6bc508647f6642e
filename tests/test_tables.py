"""Tables of scores: what stands in which cell, and that nothing in a name is read as Markdown."""

from __future__ import annotations

import math

import pytest
import torch

from attribkit import Batch, Scores, Targets, UnknownName
from attribkit.report.tables import comparisons, groups, leaderboard
from attribkit.scores import Key


def scored(problems=("grids",), metrics=("Energy()", "Deletion()"), names=("Good()", "Bad()", "Floor()")):
    scores = Scores()
    rows = torch.arange(20)
    batch = Batch(torch.zeros(20, 3, 2, 2), Targets(rows), tuple(f"i{row:02d}" for row in range(20)), {}, {"side": rows % 2})
    for problem in problems:
        for place, name in enumerate(names):
            for metric in metrics:
                higher = metric != "Deletion()"
                level = (0.8, 0.4, 0.1)[place] if higher else (0.2, 0.6, 0.9)[place]
                values = level + 0.01 * (rows * (3 + 2 * place) % 7 - 3.0)
                chances = torch.full((20,), 0.25) if higher else None
                key = Key(problem, "net", name, metric)
                scores.add(key, batch, values, chances=chances, higher_is_better=higher, control=name == "Floor()")
    return scores


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line.startswith("|")]


def test_a_leaderboard_has_the_best_first_and_bold_and_controls_below():
    scores = scored(names=("Bad()", "Good()", "Floor()")[::-1])  # the floor scores best here, and is no winner
    head, line, *rows = cells(leaderboard(scores))
    assert head == ["method", "Energy() ↑", "Deletion() ↓"] and line == ["---"] * 3
    assert [row[0] for row in rows] == ["Good()", "Bad()", "*Floor()*", "a map that says nothing"]
    means = {row.method: row for row in scores.table(metric="energy")}
    good = means["Good()"]
    assert rows[0][1] == f"**{good.mean:.3f} [{good.low:.3f}, {good.high:.3f}]**" and rows[0][2].startswith("**0.")
    assert not rows[1][1].startswith("*") and rows[2][1].startswith("*0.80") and not rows[2][1].startswith("**")
    assert rows[3][1:] == ["0.250", ""]
    assert leaderboard(scores).splitlines()[-1].startswith("Mean and 95 % interval over 20 images;")


def test_methods_that_cannot_be_told_apart_are_bold_together():
    scores = scored(names=("One()",))
    ids, values = zip(*((row["id"], row["score"]) for row in scores.rows() if row["metric"] == "Energy()"), strict=True)
    batch = Batch(torch.zeros(20, 3, 2, 2), Targets(torch.arange(20)), ids)
    scores.add(Key("grids", "net", "Same()", "Energy()"), batch, torch.tensor(values))
    rows = {row[0]: row[1:] for row in cells(leaderboard(scores))}
    assert rows["One()"][0] == rows["Same()"][0] and rows["Same()"][0].startswith("**") and rows["Same()"][1] == ""


def test_each_problem_has_a_table_under_its_name():
    text = leaderboard(scored(problems=("grids", "objects")))
    assert text.index("**grids, net**") < text.index("| Good() |") < text.index("**objects, net**")
    assert text.count("| method |") == 2
    assert leaderboard(scored(problems=("grids", "objects")), problem="objects", metric="energy") == leaderboard(
        scored(problems=("objects",), metrics=("Energy()",))
    )


def test_a_method_without_a_score_says_so():
    scores = scored()
    batch = Batch(torch.zeros(1, 3, 2, 2), Targets(torch.zeros(1, dtype=torch.int64)), ("i00",))
    scores.add(Key("grids", "net", "Dead()", "Energy()"), batch, torch.tensor([math.nan]))
    rows = cells(leaderboard(scores))
    assert ["Dead()", "undefined", ""] in rows
    assert leaderboard(scores).splitlines()[-1].startswith("Mean and 95 % interval over 0 to 20 images;")


def test_nothing_in_a_name_is_read_as_markdown():
    table = leaderboard(scored(metrics=("A|b\nc",), names=("My_Method(a='*x*<img>')", "B`ad", "Floor()")))
    assert r"My\_Method(a='\*x\*\<img\>')" in table and r"B\`ad" in table and r"A\|b c ↑" in table
    unescaped = [line.replace("\\|", "").count("|") for line in table.splitlines() if line.startswith("|")]
    assert set(unescaped) == {3}


def test_a_plain_table_is_aligned_and_unmarked():
    text = leaderboard(scored(), style="text")
    lines = text.splitlines()
    assert "*" not in text and "|" not in text and lines[0].split()[:2] == ["method", "Energy()"]
    assert len({line.index("0.") for line in lines[1:4]}) == 1
    with pytest.raises(UnknownName, match="no style of table is called 'html'; allowed: markdown, text"):
        leaderboard(scored(), style="html")


def test_a_comparison_table_marks_who_is_better():
    scores = scored(metrics=("Deletion()",))
    (found,) = scores.compare("bad", "good")
    head, _, row = cells(comparisons([found]))
    assert head == ["a", "b", r"a - b \[95 %\]", r"d\_z", "p", "images"]
    assert (
        row[:2] == ["Bad()", "**Good()**"]
        and row[2] == f"{found.difference:.3f} [{found.low:.3f}, {found.high:.3f}]"
        and row[4:] == [f"{found.corrected:.3g}", "20"]
    )
    head, _, *rows = cells(comparisons(scored().compare_all(controls=True)))
    assert head[0] == "metric" and len(rows) == 6


def test_a_group_table_has_a_column_for_each_label():
    scores = scored(metrics=("Energy()",))
    head, _, *rows = cells(groups(scores, "side"))
    assert head == ["method", "metric", "side = 0", "side = 1"] and len(rows) == 3
    expected = {(row.method, row.group): f"{row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in scores.table(by="side")}
    assert all(row[2:] == [expected[row[0], 0], expected[row[0], 1]] for row in rows)


def test_tables_of_nothing():
    assert leaderboard(Scores()) == "" and comparisons([]).startswith("| a | b |")
