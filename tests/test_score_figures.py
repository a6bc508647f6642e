"""Figures of scores: where the numbers stand, what is left out and said, and how grids are binned."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.text import Text

from attribkit.errors import BadInput
from attribkit.report import aggregated
from attribkit.report.aggregated import AggAtt, aggregate, borders
from attribkit.report.charts import COLOURS, GREY
from attribkit.report.drawing import png
from attribkit.report.figures import agg_att_figure
from attribkit.report.leaderboard import leaderboard_figure
from attribkit.report.scales import ticks
from attribkit.report.score_figures import box_figure, curve_figure
from attribkit.scoring.summaries import Comparison, Summary

HOSTILE = ["$x^2$ \\frac{ _a_", "漢字 \u202e CAM", "x" * 300, "a\nb\x00", ""]


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def lines(axes):
    """Every line of the axes as (x, y, marker, colour)."""
    return [(list(line.get_xdata()), list(line.get_ydata()), line.get_marker(), line.get_color()) for line in axes.lines]


def summary(method, mean, *, metric="M()", half=0.05, undefined=0, chance=math.nan, higher=True, problem="P"):
    return Summary(problem, "net", method, metric, None, mean, mean - half, mean + half, mean, 0.1, 10, undefined, chance, higher)


def comparison(a, b, *, told, metric="M()", count=10):
    p = 0.01 if told else 0.5
    return Comparison("P", "net", metric, a, b, 1.0, 0.0, 2.0, 1.0, p, p, count, True)


# AggAtt


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (500, (0, 10, 25, 250, 475, 490, 500)),
        (100, (0, 2, 5, 50, 95, 98, 100)),
        (30, (0, 1, 2, 15, 29, 29, 30)),  # 0.6, 1.5, 15, 28.5, 29.4: rounded, halves up
        (7, (0, 0, 0, 4, 7, 7, 7)),  # 0.14, 0.35, 3.5, 6.65, 6.86
        (1, (0, 0, 0, 1, 1, 1, 1)),  # 0.02, 0.05, 0.5, 0.95, 0.98
    ],
)
def test_bins_end_at_rounded_shares_of_the_grids(count, expected):
    assert borders(count) == expected


def naive(maps, scores, cell, n, size):
    """The bins by sorting tuples and adding NumPy arrays."""
    large = F.interpolate(maps[:, None].double(), size=size, mode="bilinear", align_corners=False)[:, 0].clamp_min(0).numpy()
    height, width = size[0] // n, size[1] // n
    top, left = cell // n * height, cell % n * width
    inside = large[:, top : top + height, left : left + width].sum((1, 2))
    order = sorted(range(len(maps)), key=lambda row: (-float(scores[row]), -inside[row]))
    edges = borders(len(maps))
    return [large[order[first:end]].mean(0) if end > first else None for first, end in itertools.pairwise(edges)]


@pytest.mark.parametrize(("count", "cell", "n"), [(100, 1, 2), (37, 8, 3), (7, 0, 2)])
def test_bins_are_the_means_of_positive_resized_maps_in_the_order_of_scores(count, cell, n):
    generator = torch.Generator().manual_seed(count)
    maps = torch.randn(count, 6, 6, generator=generator)
    scores = torch.randint(0, 9, (count,), generator=generator) / 8  # many ties
    result = aggregate(maps, scores, cell=cell, n=n, size=(12, 18))
    expected = naive(maps, scores, cell, n, (12, 18))
    assert result.counts == tuple(end - first for first, end in itertools.pairwise(borders(count)))
    for mine, theirs in zip(result.means.numpy(), expected, strict=True):
        assert np.isnan(mine).all() if theirs is None else np.allclose(mine, theirs, atol=1e-6)
    pixels = np.concatenate([each.ravel() for each in expected if each is not None])
    assert result.limit == pytest.approx(np.percentile(pixels, 99.5), rel=1e-5)


def test_grids_of_the_same_score_are_sorted_by_the_positive_evidence_inside_the_cell():
    # All of score 0.5. Outside the cell there is most in the last, which must not count; nor must what is negative.
    maps = torch.zeros(7, 4, 4)
    for row, value in enumerate((1.0, 5.0, 3.0, 7.0, 2.0, 4.0, 6.0)):
        maps[row, 2, 3], maps[row, :2, :2], maps[row, 3, 2] = value, 20 - value, -10 * value
    result = aggregate(maps, torch.full((7,), 0.5), cell=3, n=2, size=(4, 4))
    assert result.counts == (0, 0, 4, 3, 0, 0)
    assert result.means[2:4, 2, 3].tolist() == [5.5, 2.0]  # of 7, 6, 5, 4 and of 3, 2, 1
    assert result.means[2:4, 3, 2].tolist() == [0.0, 0.0]


def test_maps_are_resized_while_they_are_signed():
    maps = torch.tensor([[[1.0, -1.0]]])
    result = aggregate(maps, torch.ones(1), cell=0, n=1, size=(1, 4))
    assert result.means[2].tolist() == [[1.0, 0.5, 0.0, 0.0]]  # 1, 0.5, -0.5, -1; clipped first it would be 1, 0.75, 0.25, 0


def test_batches_added_one_by_one_give_the_bins_of_all_and_grids_are_224_pixels_a_cell():
    maps, scores = torch.randn(9, 5, 5), torch.rand(9)
    whole = aggregate(maps, scores, cell=0, n=2)
    assert whole.means.shape == (6, 448, 448)
    assert aggregate(torch.randn(1, 500, 5), torch.ones(1), cell=0, n=2).means.shape[-2:] == (500, 448)
    parts = AggAtt(0, 2)
    for first in range(0, 9, 4):
        parts.add(maps[first : first + 4], scores[first : first + 4])
    result = parts.result()
    assert result.counts == whole.counts
    torch.testing.assert_close(result.means, whole.means, rtol=0, atol=1e-7, equal_nan=True)


def test_a_grid_that_is_not_finite_is_left_out_and_counted():
    maps, scores = torch.rand(9, 4, 4), torch.rand(9)
    maps[2, 0, 0], scores[5] = float("inf"), float("nan")
    result = aggregate(maps, scores, cell=0, n=2, size=(4, 4))
    good = [row for row in range(9) if row not in (2, 5)]
    alone = aggregate(maps[good], scores[good], cell=0, n=2, size=(4, 4))
    assert (result.counts, result.left_out, result.limit) == (alone.counts, 2, alone.limit)
    assert torch.equal(result.means.nan_to_num(-1.0), alone.means.nan_to_num(-1.0))
    assert "2 of 9 grids are not finite" in texts(agg_att_figure({"CAM": result}))
    none = aggregate(maps[2:3], scores[2:3], cell=0, n=2, size=(4, 4))
    assert (none.counts, none.left_out) == ((0,) * 6, 1)
    assert png(agg_att_figure({"CAM": none})).startswith(b"\x89PNG")


def test_maps_are_brought_to_full_size_a_few_at_a_time(monkeypatch):
    seen = []

    def watched(maps, size):
        seen.append(len(maps))
        return F.interpolate(maps[:, None], size=size)[:, 0]

    monkeypatch.setattr(aggregated, "resize", watched)
    aggregate(torch.rand(500, 2, 2), torch.rand(500), cell=0, n=2, size=(4, 4))
    assert max(seen) <= 16
    assert sum(seen) == 2 * 500  # once for the order, once for the sums


def test_what_cannot_be_binned_is_refused():
    with pytest.raises(BadInput, match=r"AggAtt: got cell 4 of 2 x 2, allowed: from 0 to 3"):
        AggAtt(4, 2)
    with pytest.raises(BadInput, match=r"AggAtt: got maps of shape \(2, 3\), allowed: \(B, h, w\)"):
        AggAtt(0, 2).add(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(BadInput, match=r"AggAtt: got scores of shape \(3,\), allowed: \(2,\), as there are 2 maps"):
        AggAtt(0, 2).add(torch.zeros(2, 3, 3), torch.zeros(3))
    with pytest.raises(BadInput, match="AggAtt: got no maps, allowed: at least one grid"):
        AggAtt(0, 2).result()
    with pytest.raises(BadInput, match="agg_att_figure: got no rows"):
        agg_att_figure({})


def test_an_agg_att_figure_has_six_panels_a_row_with_the_cell_outlined_and_one_scale():
    maps = torch.arange(1.0, 101.0).view(100, 1, 1).expand(100, 2, 2)
    result = aggregate(maps, torch.arange(100) / 100, cell=1, n=2, size=(8, 8))
    few = aggregate(maps[:7], torch.arange(7) / 7, cell=1, n=2, size=(8, 8))
    figure = agg_att_figure({"CAM": result, "$few$": few}, title="bins")
    assert len(figure.axes) == 2 * (6 + 1)
    said = texts(figure)
    assert said[:8] == ["bins", "0–2 %", "2–5 %", "5–50 %", "50–95 %", "95–98 %", "98–100 %", "CAM"]
    assert said[8:14] == ["2 grids", "3 grids", "45 grids", "45 grids", "3 grids", "2 grids"]
    assert said.count("no grids") == 4
    outline = figure.axes[0].lines[0]
    assert (min(outline.get_xdata()), max(outline.get_xdata())) == (3.5, 7.5)  # the right half ...
    assert (min(outline.get_ydata()), max(outline.get_ydata())) == (-0.5, 3.5)  # ... of the upper one
    best, _, middle = (np.asarray(axes.images[0].get_array())[0, 0].tolist() for axes in figure.axes[:3])
    assert best == [252, 255, 164]  # the mean of 100 and 99 is the end of the scale
    assert middle != best
    assert "≥ 50" in texts(agg_att_figure({"CAM": result._replace(limit=50.0)}))


# Leaderboards


def test_methods_stand_from_the_best_with_dot_interval_and_chance_where_the_numbers_are():
    rows = [summary("A()", 0.2, chance=0.25), summary("B()", 0.8, chance=0.25), summary("RandomMap()", 0.5, half=0.1, chance=0.25)]
    figure = leaderboard_figure(rows, title="board")
    (axes,) = figure.axes
    drawn = lines(axes)
    dots = [(x[0], y[0], colour) for x, y, marker, colour in drawn if marker == "o"]
    assert dots == [(0.8, 0, COLOURS[0]), (0.5, 1, GREY), (0.2, 2, COLOURS[0])]
    assert ([0.5 - 0.1, 0.5 + 0.1], [1, 1], "", GREY) in drawn
    assert [line.get_linestyle() for line in axes.lines if list(line.get_xdata()) == [0.25, 0.25]] == ["--"]
    low, high = axes.get_xlim()
    assert low < 0.15
    assert high > 0.85
    assert axes.get_ylim() == (2.5, -0.5)  # the best is on top
    said = texts(figure)
    names = [text for text in said if text.endswith("()")]
    assert names == ["M()", "B()", "RandomMap()", "A()"]
    assert "0.8 [0.75, 0.85]" in said
    assert "higher is better" in said
    assert "P · net" in said


def test_scores_below_zero_are_on_the_axis_and_long_names_in_full():
    name = "GaussianSmooth(IntegratedGradients(), kernel=9)"
    figure = leaderboard_figure([summary(name, -3.0), summary("B()", 1.0)])
    low, high = figure.axes[0].get_xlim()
    assert (low, high) == pytest.approx((-3.05 - 0.04 * 4.1, 1.05 + 0.04 * 4.1))
    assert name in texts(figure)


def test_the_lowest_comes_first_where_lower_is_better_and_what_has_no_score_last():
    rows = [summary("A()", 0.9, higher=False), summary("B()", math.nan, higher=False), summary("C()", 0.1, higher=False, undefined=3)]
    figure = leaderboard_figure(rows)
    said = texts(figure)
    assert [text for text in said if text in ("A()", "B()", "C()")] == ["C()", "A()", "B()"]
    assert "lower is better" in said
    assert "no score" in said
    assert "0.1 [0.05, 0.15] *3" in said
    assert any("*n: undefined for n images" in text for text in said)
    assert not any("broken line" in text or "grey" in text for text in said)  # neither is there


def test_each_metric_has_a_panel_of_its_own():
    rows = [summary(name, 0.1 * place, metric=metric) for metric in ("M()", "N()", "O()") for place, name in enumerate(("A()", "B()"))]
    figure = leaderboard_figure(rows)
    assert len(figure.axes) == 3
    boxes = [axes.get_position() for axes in figure.axes]
    assert boxes[0].x0 == boxes[2].x0 < boxes[1].x0
    assert boxes[0].y0 == boxes[1].y0 > boxes[2].y1
    assert len(leaderboard_figure([summary("A()", 1.0), summary("A()", 1.0, problem="Q")]).axes) == 2


def bars(rows, comparisons):
    axes = leaderboard_figure(rows, comparisons=comparisons).axes
    return [(x[0], round(y[0] + 0.3, 6), round(y[1] - 0.3, 6)) for x, y, _, _ in lines(axes[1])] if len(axes) > 1 else []


def test_a_bar_joins_the_methods_of_which_none_is_better_than_another():
    names = ["A", "B", "C", "D"]
    rows = [summary(name, 0.9 - 0.1 * place) for place, name in enumerate(names)]
    told = {("A", "C"), ("A", "D"), ("B", "D")}
    pairs = [comparison(a, b, told=(a, b) in told) for a, b in itertools.combinations(names, 2)]
    # A-B, B-C and C-D are level: three runs of two, the middle one beside the others.
    assert bars(rows, pairs) == [(0, 0, 1), (1, 1, 2), (0, 2, 3)]
    assert bars(rows, [comparison(a, b, told=False) for a, b in itertools.combinations(names, 2)]) == [(0, 0, 3)]
    assert bars(rows, [comparison(a, b, told=True) for a, b in itertools.combinations(names, 2)]) == []
    assert bars(rows, [comparison("A", "B", told=False, metric="other")]) == []
    assert bars(rows, [comparison("A", "B", told=False, count=0)]) == []
    # Only those that were compared: what stands between them, here a control, neither joins nor divides.
    assert bars(rows, [comparison("D", "A", told=False)]) == [(0, 0, 3)]


def test_a_leaderboard_of_nothing_or_of_several_groups_is_refused():
    with pytest.raises(BadInput, match="leaderboard_figure: got no rows, allowed: at least one"):
        leaderboard_figure([])
    with pytest.raises(BadInput, match=r"leaderboard: got two rows of A\(\) for M\(\), allowed: those of one group"):
        leaderboard_figure([summary("A()", 0.5), summary("A()", 0.6)])


# Boxes


def test_a_box_shows_quartiles_whiskers_and_what_lies_beyond():
    # Quartiles of 0 ... 8 and 30: 2.25, 4.5, 6.75; 1.5 times the box from there ends at -4.5 and 13.5.
    values = [*range(9), 30.0, float("nan")]
    figure = box_figure({"input": {"A()": values, "Oracle()": [1.0]}}, chance=3.0)
    (axes,) = figure.axes
    assert len(axes.patches) == 2
    assert axes.patches[0].get_xy()[:, 0].tolist() == [2.25, 6.75, 6.75, 2.25, 2.25]
    drawn = lines(axes)
    assert ([0.0, 2.25], [0, 0], "", COLOURS[0]) in drawn
    assert ([6.75, 8.0], [0, 0], "", COLOURS[0]) in drawn
    assert ([30.0], [0], "o", COLOURS[0]) in drawn
    assert [x for x, y, _, _ in drawn if y == [-0.32, 0.32]] == [[4.5, 4.5]]
    assert [line.get_linestyle() for line in axes.lines if list(line.get_xdata()) == [3.0, 3.0]] == ["--"]
    assert [(x, colour) for x, y, _, colour in drawn if y == [1 - 0.32, 1 + 0.32]] == [([1.0, 1.0], GREY)]


def test_a_whisker_does_not_end_inside_its_box():
    # 7.5 and 10 are the quartiles; 0 is beyond, and all that is near is at the right end.
    (axes,) = box_figure({"": {"A": [0.0, 10.0, 10.0, 10.0]}}).axes
    assert [x for x, y, marker, _ in lines(axes) if y == [0, 0] and marker == ""] == [[7.5, 7.5], [10.0, 10.0]]


def test_panels_of_boxes_share_methods_rows_and_axis():
    scores = {layer: {"A": np.array([0.1, 0.9]), "B": torch.tensor([0.5, 2.0])} for layer in ("input", "middle", "final", "other")}
    scores["middle"] = {"B": [0.5], "C": [float("nan")]}
    figure = box_figure(scores, title="boxes", label="score", chance={"input": 0.25})
    assert [len(axes.patches) for axes in figure.axes] == [2, 1, 2, 2]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert {axes.get_ylim() for axes in figure.axes} == {(2.5, -0.5)}
    assert figure.axes[1].patches[0].get_xy()[0, 1] == pytest.approx(1 - 0.32)  # B's row, though A is not there
    said = texts(figure)
    assert said.count("no scores") == 2 + 3  # A and C of "middle", C of the others
    assert [said.count(name) for name in ("A", "B", "C")] == [2, 2, 2]  # once for each line of panels
    dashed = [[line for line in axes.lines if line.get_linestyle() == "--"] for axes in figure.axes]
    assert [len(found) for found in dashed] == [1, 0, 0, 0]
    with pytest.raises(BadInput, match="box_figure: got no scores, allowed: at least one method in one panel"):
        box_figure({"input": {}})
    with pytest.raises(BadInput, match=r"box_figure\(A\): got \(2, 2\), allowed: \(N,\), one score per image"):
        box_figure({"input": {"A": np.zeros((2, 2))}})


# Curves


def test_a_curve_is_a_mean_in_its_interval():
    curves = np.array([[1.0, 0.5, 0.0], [1.0, 0.7, 0.4], [1.0, float("nan"), 0.0]])
    figure = curve_figure({"A()": curves, "RandomMap()": torch.ones(2, 5), "B()": np.full((1, 3), np.nan)}, up="p")
    axes, keys = figure.axes
    shown = {tuple(y): (x, colour) for x, y, _, colour in lines(axes) if len(x) > 2}
    assert sorted(map(len, shown)) == [3, 5]
    mean = next(y for y in shown if len(y) == 3)
    assert mean == pytest.approx((1.0, 0.6, 0.2))
    assert shown[mean] == ([0.0, 0.5, 1.0], COLOURS[0])
    assert shown[1.0, 1.0, 1.0, 1.0, 1.0][1] == GREY
    band = axes.collections[0].get_paths()[0].vertices
    error = 1.96 * 0.1  # standard deviation of 0.5 and 0.7 is 0.1414; over the root of 2
    assert sorted(set(band[band[:, 0] == 0.5, 1].round(6))) == pytest.approx([0.6 - error, 0.6 + error])
    assert len(keys.lines) == 2
    assert "B(): no curve" in texts(figure)
    with pytest.raises(BadInput, match=r"curve_figure\(A\): got \(3,\), allowed: \(N, K\), K at least 2"):
        curve_figure({"A": [1.0, 2.0, 3.0]})
    with pytest.raises(BadInput, match="curve_figure: got no curves"):
        curve_figure({})


def test_no_two_lines_look_the_same():
    names = [f"M{place}()" for place in range(20)] + ["RandomMap()", "CentreMap()", "EdgeMap()", "Oracle()"]
    _, keys = curve_figure({name: np.zeros((1, 2)) for name in names}).axes
    looks = [(line.get_color(), str(line._dash_pattern)) for line in keys.lines]
    assert len(set(looks)) == len(names)
    assert [colour for colour, _ in looks[20:]] == [GREY] * 4


# All of them


def every(name):
    result = aggregate(torch.eye(4).expand(7, 4, 4), torch.arange(7) / 7, cell=0, n=2, size=(8, 8))
    other = name + "!"
    return [
        agg_att_figure({name: result, other: result}, title=name),
        leaderboard_figure(
            [summary(name, 0.5, metric=name), summary(other, math.nan, metric=name)],
            comparisons=[comparison(name, other, told=False, metric=name)],
            title=name,
        ),
        box_figure({name: {name: [0.1, 0.2]}, other: {name: []}}, title=name, label=name),
        curve_figure({name: np.ones((2, 3)), other: np.zeros((2, 3))}, title=name, across=name, up=name),
    ]


def test_the_same_numbers_give_the_same_picture():
    for first, second in zip(every("A()"), every("A()"), strict=True):
        assert png(first) == png(second)


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_drawn_as_it_is(name):
    for figure in every(name):
        assert png(figure).startswith(b"\x89PNG")
        for text in figure.findobj(Text):
            assert not text.get_parse_math() or not text.get_text()
            assert not set(text.get_text()) & set("\u202e\n\x00")


def test_nothing_written_leaves_the_sheet_or_covers_something_else():
    """Names and numbers, as drawn, lie inside the figure and overlap no other."""
    names = [
        "GaussianSmooth(IntegratedGradients(), kernel=9)",
        "RegionRemoval(removal=LayerMask(), segments=100, order='morf')",
        "Oracle()",
    ]
    rows = [
        summary(name, -1.2345e-5 * (place + 1), metric=metric, half=1e-6, undefined=120, chance=0.0)
        for metric in ("LocalizationScore(interpolate=False)", "N()", "O()")
        for place, name in enumerate(names)
    ]
    values = {name: np.linspace(-1e-4, 1e-4, 9) for name in names}
    for figure in (
        leaderboard_figure(rows, title="board"),
        box_figure({layer: values for layer in ("input", "middle", "final", "last")}, title="boxes", label="score", chance=0.0),
        box_figure({"input": {"A": [0.5]}}, label="score"),
        curve_figure({name: np.outer([1, 2], each) for name, each in values.items()}, title="curves"),
    ):
        png(figure)
        boxes = [(text.get_text(), text.get_window_extent()) for text in figure.findobj(Text) if text.get_text()]
        width, height = figure.get_size_inches() * figure.dpi
        for said, box in boxes:
            assert box.x0 >= 0, said
            assert box.y0 >= 0, said
            assert box.x1 <= width, said
            assert box.y1 <= height, said
        for (one, first), (other, second) in itertools.combinations(boxes, 2):
            assert not (first.padded(-1).overlaps(second.padded(-1))), (one, other)


def test_ticks_are_round_numbers_inside_the_axis():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-0.13, 0.31, most=4) == pytest.approx([0.0, 0.2])
    assert ticks(0.1, 0.9, most=4) == pytest.approx([0.2, 0.4, 0.6, 0.8])
