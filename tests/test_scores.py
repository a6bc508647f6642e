"""Scores: what is kept, and that means, intervals and tests are what statistics says they are."""

from __future__ import annotations

import gc
import itertools
import math
import pickle
import sys
import weakref

import numpy as np
import pytest
import torch
from scipy import stats

from attribkit import BadInput, Batch, BrokenFile, Scores, Targets, Unavailable, UnknownName
from attribkit.scores import Failure, Key
from attribkit.scoring.resampling import effect, holm, intervals, sign_flips

KEY = Key("grids", "net", "GradCAM()", "Energy()")


def batch_of(ids, groups=None, targets=None):
    index = torch.arange(len(ids)) if targets is None else torch.tensor(targets)
    return Batch(torch.zeros(len(ids), 3, 2, 2), Targets(index), tuple(ids), {}, groups or {})


def names(count):
    return [f"i{row:05d}" for row in range(count)]


def filled(**methods):
    """Scores of one metric, by methods whose label is the word with "()"."""
    scores = Scores()
    for name, values in methods.items():
        scores.add(KEY._replace(method=f"{name}()"), batch_of(names(len(values))), torch.as_tensor(values, dtype=torch.float32))
    return scores


# What is kept ------------------------------------------------------------------------------------------------------------------------


def rich():
    """Three keys in three batches, with groups, chances, an undefined score, a control and a failure."""
    scores, draw = Scores(), torch.Generator().manual_seed(0)
    other = KEY._replace(metric="Deletion()")
    for ids in (names(7)[:3], names(7)[3:5], names(7)[5:]):
        rows = torch.tensor([int(id_[1:]) for id_ in ids])
        batch = batch_of(ids, {"odd": rows % 2, "share": rows / 4, "tag": rows > 3}, (rows + 10).tolist())
        values = torch.rand(len(ids), generator=draw)
        scores.add(KEY, batch, torch.where(rows == 6, math.nan, values), chances=rows / 8)
        scores.add(other, batch, values - 1, higher_is_better=False)
        scores.add(KEY._replace(method="RandomMap()"), batch, values / 2, control=True)
    scores.failures.append(Failure("i9", "read", "broken"))
    return scores


def told(scores):
    """The rows, comparable: NaN is equal to itself here."""
    return [{name: "nan" if value != value else value for name, value in row.items()} for row in scores.rows()]


def test_a_row_holds_what_was_added():
    scores = rich()
    assert len(scores) == 21 == len(list(scores.rows()))
    assert scores.keys() == [KEY, KEY._replace(metric="Deletion()"), KEY._replace(method="RandomMap()")]
    row = next(row for row in scores.rows() if row["metric"] == "Energy()" and row["id"] == "i00005")
    assert row == {
        "problem": "grids", "model": "net", "method": "GradCAM()", "metric": "Energy()", "id": "i00005", "target": 15,
        "odd": 1, "share": 1.25, "tag": True, "score": row["score"], "chance": 0.625, "higher_is_better": True, "control": False,
    }  # fmt: skip
    assert row["score"] == torch.rand(3 + 2 + 2, generator=torch.Generator().manual_seed(0))[5]
    assert scores.controls == {"RandomMap()"}


@pytest.mark.parametrize("again", [lambda scores: pickle.loads(pickle.dumps(scores)), lambda scores: Scores.merged([scores])])
def test_copies_are_the_same(again):
    copy = again(rich())
    assert told(copy) == told(rich())
    assert copy.failures == [Failure("i9", "read", "broken")] and copy.controls == {"RandomMap()"}
    copy.add(KEY, batch_of(["new"]), torch.ones(1))
    with pytest.raises(BadInput, match="image 'new': got a second score"):
        copy.add(KEY, batch_of(["new"]), torch.ones(1))


def test_a_file_reads_back_as_it_was(tmp_path):
    scores = rich()
    path = scores.write_csv(tmp_path / "new" / "scores.csv")
    head = path.read_text(encoding="utf-8").splitlines()[0]
    assert head == "problem,model,method,metric,id,target,odd,share,tag,score,chance,higher_is_better,control"
    back = Scores.read_csv(path)
    assert told(back) == told(scores) and back.controls == scores.controls
    assert [*map(repr, back.table())] == [*map(repr, scores.table())]


def test_ids_of_any_kind_survive_a_file(tmp_path):
    ids = ["=1+1", "a,b", 'quo"te', "line\nbreak", "carriage\rreturn", "ü 猫", "", " x ", "lone\udce4surrogate"]
    scores = Scores()
    scores.add(KEY, batch_of(ids), torch.arange(9.0))
    assert [row["id"] for row in Scores.read_csv(scores.write_csv(tmp_path / "scores.csv")).rows()] == ids


HEAD = "problem,model,method,metric,id,target,odd,score,chance,higher_is_better,control\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "its first line is not problem,model"),
        ("a,b,c\n1,2,3\n", "its first line is not problem,model"),
        (HEAD.replace("odd", "odd,odd"), "its first line is not problem,model"),
        (HEAD + "p,m,a,e,i,0,1,0.5,,True\n", "line 2: 10 values, allowed: 11"),
        (HEAD + "p,m,a,e,i,0,1,0.5,,True,False\np,m,a,e,j,0,1,much,,True,False\n", "line 3: target, score and chance are '0', 'much', ''"),
        (HEAD + "p,m,a,e,i,0.5,1,0.5,,True,False\n", "line 2: target, score and chance"),
        (HEAD + "p,m,a,e,i,0,1,0.5,,yes,False\n", "line 2: higher_is_better and control of a by e"),
        (HEAD + "p,m,a,e,i,0,1,0.5,,True,False\np,m,a,e,j,0,1,1,,False,False\n", "line 3: higher_is_better and control of a by e"),
        (HEAD + 'p,m,a,e,"i,0,1,0.5,,True,False\n', "line 2: unexpected end of data"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, text, match):
    path = tmp_path / "scores.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BrokenFile, match=match):
        Scores.read_csv(path)


def test_a_file_that_is_not_there_or_says_things_twice(tmp_path):
    with pytest.raises(BrokenFile, match=r"gone.csv: cannot be read: No such file"):
        Scores.read_csv(tmp_path / "gone.csv")
    path = tmp_path / "scores.csv"
    path.write_text(HEAD + 2 * "p,m,a,e,i,0,1,0.5,,True,False\n", encoding="utf-8")
    with pytest.raises(BadInput, match="image 'i': got a second score, allowed: one score for each image by e of a on p"):
        Scores.read_csv(path)


def test_labels_that_look_like_numbers_stay_what_they_are(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(HEAD + "p,m,a,e,i,0,01,0.5,,True,False\np,m,a,e,j,0,,0.5,,True,False\n", encoding="utf-8")
    assert [row["odd"] for row in Scores.read_csv(path).rows()] == ["01", None]


def test_an_image_has_one_score_under_a_key():
    scores = Scores()
    scores.add(KEY, batch_of(["a", "b"]), torch.ones(2))
    with pytest.raises(BadInput, match="image 'b': got a second score"):
        scores.add(KEY, batch_of(["c", "b"]), torch.ones(2))
    with pytest.raises(BadInput, match="image 'd': got a second score"):
        scores.add(KEY, batch_of(["c", "d", "d"]), torch.ones(3))
    scores.add(KEY, batch_of(["c"]), torch.ones(1))
    scores.add(KEY._replace(problem="objects"), batch_of(["a"]), torch.ones(1))
    assert [row["id"] for row in scores.rows()] == ["a", "b", "c", "a"]
    with pytest.raises(BadInput, match="image 'a': got a second score"):
        _ = scores + filled(GradCAM=[1.0]) + scores


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"values": torch.ones(3)}, r"Scores.add\(values=...\): got \(3,\), allowed: a \(2,\) tensor"),
        ({"values": [1.0, 2.0]}, r"Scores.add\(values=...\): got list, allowed: a \(2,\) tensor"),
        ({"values": torch.ones(2), "chances": torch.ones(2, 1)}, r"Scores.add\(chances=...\): got \(2, 1\)"),
        ({"values": torch.ones(2), "higher_is_better": False}, r"Energy\(\): got higher_is_better=False"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(given, match):
    scores = filled(GradCAM=[1.0])
    with pytest.raises(BadInput, match=match):
        scores.add(KEY._replace(method="Other()"), batch_of(["x", "y"]), **given)
    assert scores.keys() == [KEY] and len(scores) == 1


def test_a_group_may_not_be_called_as_a_column():
    with pytest.raises(BadInput, match="a group is called 'score'"):
        Scores().add(KEY, batch_of(["a"], {"score": torch.ones(1)}), torch.ones(1))


def test_images_and_graphs_are_let_go():
    batch, leaf = batch_of(["a", "b"]), torch.ones(2, requires_grad=True)
    scores, images, graph = Scores(), weakref.ref(batch.images), weakref.ref(values := leaf * 2)
    scores.add(KEY, batch, values)
    del batch, values
    gc.collect()
    assert images() is None and graph() is None and scores.table()[0].mean == 2


def test_tensors_come_to_the_host_together_when_first_read(monkeypatch):
    moved = []
    real = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: moved.append(len(tensor)) or real(tensor))
    scores = Scores()
    for start in range(0, 40, 4):
        batch = batch_of(names(40)[start : start + 4])
        for method in ("A()", "B()"):
            scores.add(KEY._replace(method=method), batch, torch.ones(4))
    assert moved == [] and len(scores) == 80 and len(scores.keys()) == 2
    scores.table()
    list(scores.rows())
    assert moved == [40, 80]  # targets once for both methods, and all scores


@pytest.mark.parametrize(("name", "call"), [("pandas", Scores.frame), ("pyarrow", lambda scores: scores.write_parquet("x"))])
def test_an_optional_package_that_is_missing_is_named(monkeypatch, name, call):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Unavailable, match=f"{name} is not installed; allowed without it"):
        call(rich())


def test_a_frame_holds_the_rows():
    pandas = pytest.importorskip("pandas")
    frame = rich().frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame.columns) == list(next(rich().rows()))
    assert frame.score.tolist()[:6] == [row["score"] for row in rich().rows()][:6]


def test_parquet_takes_a_name_that_is_no_utf_8(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    scores = Scores()
    scores.add(Key("p", "m", "a", "b"), Batch(torch.zeros(1, 3, 2, 2), Targets(torch.tensor([0])), ("a\udcff.png",)), torch.tensor([0.5]))
    (row,) = parquet.read_table(scores.write_parquet(tmp_path / "scores.parquet")).to_pylist()
    assert (row["id"], row["score"]) == ("a?.png", 0.5)


def test_parquet_holds_the_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    read = parquet.read_table(rich().write_parquet(tmp_path / "scores.parquet")).to_pylist()
    assert [row["id"] for row in read] == [row["id"] for row in rich().rows()] and read[0] == next(rich().rows())


# Means and intervals -----------------------------------------------------------------------------------------------------------------


def test_a_summary_by_hand():
    scores = Scores()
    scores.add(KEY, batch_of(names(5)), torch.tensor([1.0, 2, 6, math.nan, math.inf]), chances=torch.tensor([0.5, math.nan, 0.25, 0, 0]))
    (row,) = scores.table()
    assert (row.mean, row.median, row.count, row.undefined, row.chance) == (3, 2, 3, 2, 0.375)
    assert 1 <= row.low < 3 < row.high <= 6 and row.group is None and row.std == pytest.approx(7**0.5)


@pytest.mark.parametrize(("values", "mean", "count"), [([], math.nan, 0), ([math.nan, math.nan], math.nan, 0), ([2.0], 2, 1)])
def test_too_few_scores_have_no_interval(values, mean, count):
    (row,) = filled(A=values).table()
    assert row.count == count and (row.mean == mean or mean != mean != row.mean != row.mean)
    assert math.isnan(row.low) and math.isnan(row.high)


@pytest.mark.parametrize("count", [2, 12, 150])
def test_an_interval_is_scipys_percentile_bootstrap(count):
    values = np.random.default_rng(count).gamma(1.5, size=count)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1))
    (low, high) = intervals([values])[0]
    # two runs of 10,000 resamples: the 2.5 % quantile of a normal has the standard error 0.027 standard deviations; four of them, twice
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=4 * 2**0.5 * 0.027 * theirs.standard_error)


@pytest.mark.parametrize("count", [1000, 4096, 4097, 40_000])
def test_an_interval_of_many_is_the_normal_one(count):
    values = np.random.default_rng(count).normal(3, 2, count)
    error = values.std() / math.sqrt(count)
    assert intervals([values])[0] == pytest.approx(values.mean() + 1.96 * error * np.array([-1, 1]), abs=4 * 0.027 * error)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """300 normal samples of 60: nominal 95 %, less the known shortfall of the percentile interval, P(|t| < 1.96 sqrt(59/60)) = 0.942."""
    trials = 300
    ends = intervals(list(np.random.default_rng(0).normal(size=(trials, 60))))
    covered = int(((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).sum())
    low, high = stats.binom.interval(0.999, trials, 1 - 2 * stats.t.sf(1.96 * math.sqrt(59 / 60), 59))
    assert low <= covered <= high


def test_columns_asked_together_get_the_intervals_they_get_alone():
    columns = [np.random.default_rng(seed).normal(size=length) for seed, length in enumerate((5, 9, 5, 1, 0, 9))]
    together = intervals(columns)
    np.testing.assert_array_equal(together, np.concatenate([intervals([each]) for each in columns]))
    assert np.isnan(together[3:5]).all() and not np.isnan(together[[0, 1, 2, 5]]).any()


def test_order_and_batches_change_nothing():
    values = torch.rand(30, generator=torch.Generator().manual_seed(1))
    results = []
    for order, size in ((range(30), 30), (range(29, -1, -1), 7), ([(7 * row) % 30 for row in range(30)], 1)):
        scores = Scores()
        for method in ("A()", "B()") if size != 7 else ("B()", "A()"):
            for start in range(0, 30, size):
                rows = list(order)[start : start + size]
                scores.add(KEY._replace(method=method), batch_of([names(30)[row] for row in rows]), values[rows] ** (1 + (method == "B()")))
        results.append([*sorted(map(repr, scores.table())), *map(repr, scores.compare("A", "B")), *map(repr, scores.ranking())])
    assert results[0] == results[1] == results[2]


def test_reading_between_batches_and_merging_change_nothing():
    values = torch.rand(10, generator=torch.Generator().manual_seed(1))
    halves = [Scores(), Scores()]
    read, whole = Scores(), filled(A=values)
    for half, rows in zip(halves, (slice(0, 4), slice(4, 10)), strict=True):
        for scores in (half, read):
            scores.add(KEY._replace(method="A()"), batch_of(names(10))[rows], values[rows])
            scores.table()
    every = (whole, read, halves[1] + halves[0], Scores.merged(halves))
    assert len({repr(scores.table()[0]) for scores in every}) == 1


def test_groups_split_the_images():
    scores = Scores()
    scores.add(KEY, batch_of(names(6), {"side": torch.tensor([1, 0, 1, 0, 1, 1])}), torch.tensor([1.0, 10, 2, 20, 3, math.nan]))
    scores.add(KEY, batch_of(["ungrouped"]), torch.tensor([99.0]))
    rows = scores.table(by="side")
    assert [(row.group, row.mean, row.count, row.undefined) for row in rows] == [(0, 15, 2, 0), (1, 2, 3, 1)]
    assert scores.table()[0].count == 6
    with pytest.raises(UnknownName, match="no group is called 'sid'; allowed: side"):
        scores.table(by="sid")


def test_a_label_that_is_not_a_number_is_none():
    scores = Scores()
    scores.add(KEY, batch_of(names(3), {"age": torch.tensor([1.5, math.nan, 1.5])}), torch.tensor([1.0, 5, 3]))
    assert [(row.group, row.mean) for row in scores.table(by="age")] == [(1.5, 2)]


@pytest.mark.parametrize("name", ["GradCAM()", "GradCAM", "grad_cam", "gradcam()", "GRAD_CAM"])
def test_names_are_matched_loosely(name):
    found = filled(GradCAM=[1.0, 2], Other=[0.0, 0]).compare(name, "other", metric="energy", problem="Grids")
    assert [(each.a, each.b, each.difference) for each in found] == [("GradCAM()", "Other()", 1.5)]


def test_names_that_are_not_there_or_not_one():
    scores = filled(GradCAM=[1.0], Grad_CAM=[1.0])
    with pytest.raises(UnknownName, match="no method is called 'lime'; allowed: GradCAM"):
        scores.compare("lime", "GradCAM()")
    with pytest.raises(BadInput, match=r"method 'gradcam': got a name of several, allowed: one of GradCAM\(\), Grad_CAM\(\)"):
        scores.compare("gradcam", "GradCAM()")
    with pytest.raises(UnknownName, match="no metric is called 'iou'"):
        scores.table(metric="iou")


# Comparisons -------------------------------------------------------------------------------------------------------------------------


def test_equal_methods_do_not_differ():
    (found,) = filled(A=[0.1, 0.7, 0.3], B=[0.1, 0.7, 0.3]).compare("A", "B")
    assert (found.difference, found.low, found.high, found.effect, found.p, found.corrected, found.better) == (0, 0, 0, 0, 1, 1, None)


def test_a_pair_is_compared_over_the_images_both_have():
    scores = Scores()
    scores.add(KEY._replace(method="A()"), batch_of(["a", "b", "c", "d"]), torch.tensor([4.0, math.nan, 1, 9]))
    scores.add(KEY._replace(method="B()"), batch_of(["e", "d", "c", "b"]), torch.tensor([7.0, 3, 0, 0]))
    (found,) = scores.compare("A", "B")
    assert (found.difference, found.count) == (3.5, 2)  # d: 9 - 3, c: 1 - 0
    assert found.effect == pytest.approx(3.5 / math.sqrt(12.5))
    (back,) = scores.compare("B", "A")
    assert (back.difference, back.low, back.high, back.p) == (-3.5, -found.high, -found.low, found.p)


def test_pairing_sees_what_means_do_not():
    spread = np.random.default_rng(0).normal(size=200)
    (found,) = filled(A=spread + 0.05, B=spread).compare("A", "B")
    assert found.low > 0 and found.p == pytest.approx(1 / 10_001) and found.better == "A()"
    first, second = filled(A=spread + 0.05, B=spread).table()
    assert first.low < second.high


def test_a_sign_flip_p_is_that_of_all_sign_patterns():
    values = np.random.default_rng(3).normal(0.4, 1, 8)
    signed = np.array([np.dot(signs, values) for signs in itertools.product((-1, 1), repeat=8)])
    expected = (np.abs(signed) >= abs(values.sum()) - 1e-12).mean()
    assert sign_flips([values])[0] == expected
    assert expected == pytest.approx(stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue)


def test_a_sign_flip_p_of_many_is_near_that_of_a_t_test_and_never_zero():
    values = np.random.default_rng(4).normal(0.2, 1, 100)
    p = stats.ttest_1samp(values, 0).pvalue
    assert sign_flips([values])[0] == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 10_000) + 0.1 * p)
    assert sign_flips([values + 9])[0] == 1 / 10_001
    assert np.isnan(sign_flips([np.zeros(0)])[0]) and sign_flips([np.ones(1)])[0] == 1


def test_p_values_are_uniform_where_nothing_differs():
    found = sign_flips(list(np.random.default_rng(5).normal(size=(400, 20))))
    assert stats.kstest(found, "uniform").pvalue > 0.001


def test_ties_count_as_far():
    """Whole numbers: sums that are equal must not be told apart by rounding."""
    values = np.array([0.1, 0.2, 0.3] * 5)
    assert sign_flips([values[:3]])[0] == 2 / 8
    ours, drawn = sign_flips([np.array([1.0] * 9 + [-1.0] * 6)])[0], stats.binomtest(9, 15).pvalue
    assert ours == pytest.approx(drawn, abs=4 * math.sqrt(drawn * (1 - drawn) / 10_000))


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.9, math.nan, 0.02])), [0.9, math.nan, 0.04])
    np.testing.assert_array_equal(holm(np.array([0.7, 0.6])), [1, 1])


def test_effects_at_the_edges():
    assert effect(np.array([2.0, 2.0])) == math.inf and effect(np.array([-2.0, -2.0])) == -math.inf
    assert effect(np.zeros(3)) == 0 and math.isnan(effect(np.ones(1)))


def separated(**levels):
    noise = np.random.default_rng(0).normal(0, 1, (len(levels), 40))
    return filled(**{name: level + 0.1 * row for (name, level), row in zip(levels.items(), noise, strict=True)})


def test_every_pair_is_corrected_within_its_metric():
    scores = separated(A=0, B=0.05, C=0.06)
    found = scores.compare_all()
    assert [(each.a, each.b) for each in found] == [("A()", "B()"), ("A()", "C()"), ("B()", "C()")]
    np.testing.assert_allclose([each.corrected for each in found], holm(np.array([each.p for each in found])))
    for each in found:
        (alone,) = scores.compare(each.a, each.b)
        assert alone.p == each.p == alone.corrected
    scores.controls.add("A()")
    assert [(each.a, each.b) for each in scores.compare_all()] == [("B()", "C()")] and len(scores.compare_all(controls=True)) == 3


def test_one_comparison_for_each_problem_model_and_metric():
    scores = rich()
    assert [each.metric for each in scores.compare("grad_cam", "random_map")] == ["Energy()"]
    for place in ({"problem": "other"}, {"model": "other"}, {"metric": "Other()"}):
        for method in ("GradCAM()", "RandomMap()"):
            scores.add(KEY._replace(method=method, **place), batch_of(["a", "b"]), torch.ones(2))
    assert len(scores.compare("grad_cam", "random_map")) == 4
    assert len(scores.compare("grad_cam", "random_map", problem="other")) == 1


@pytest.mark.parametrize("higher", [True, False])
def test_ranks_are_shared_where_tests_do_not_separate(higher):
    levels = {"A": 5.0, "B": 3.0, "C": 3.001, "D": 1.0}
    noise = np.random.default_rng(0).normal(0, 0.1, (4, 40))
    scores = Scores(controls={"Floor()"})
    for (name, level), row in zip(levels.items(), noise, strict=True):
        key = KEY._replace(method=f"{name}()")
        scores.add(key, batch_of(names(40)), torch.as_tensor((level + row) * (1 if higher else -1)), higher_is_better=higher)
    scores.add(KEY._replace(method="Floor()"), batch_of(names(40)), torch.full((40,), 2.0 if higher else -2.0), higher_is_better=higher)
    scores.add(KEY._replace(method="Undefined()"), batch_of(names(40)), torch.full((40,), math.nan), higher_is_better=higher)
    places = scores.ranking()
    assert {place.method: place.rank for place in places} == {"A()": 1, "B()": 2, "C()": 2, "D()": 4, "Floor()": None, "Undefined()": None}
    assert places[0].method == "A()" and [place.method for place in places][3:] == ["Floor()", "D()", "Undefined()"]


def test_a_rank_is_never_better_than_that_of_a_better_mean():
    """B is surely worse than A; C, whose mean is below B's, varies so much that nothing is sure."""
    base = np.zeros(40)
    wild = np.random.default_rng(0).normal(0, 5, 40)
    scores = filled(A=base + 1, B=base + 0.9, C=wild - wild.mean() + 0.8)
    assert [(place.method, place.rank) for place in scores.ranking()] == [("A()", 1), ("B()", 2), ("C()", 2)]


# As text -----------------------------------------------------------------------------------------------------------------------------


def test_a_table_prints_aligned_under_what_is_the_same_in_all_rows():
    lines = str(filled(A=[0.0, 0.0], LongerName=[0.5, 0.5]).table()).splitlines()
    assert lines[0] == "grids, net, Energy()"
    assert lines[1].split() == "method mean low high median std count undefined chance higher_is_better".split()
    assert lines[2].split() == "A() 0 0 0 0 0 2 0 nan yes".split() and lines[3].startswith("LongerName()   0.5")
    assert lines[1].index("mean") + 4 == lines[2].index("0") + 1 == lines[3].index("0.5") + 3
    assert str(Scores().table()) == "(nothing)" and len(Scores()) == 0


def test_codes_of_groups_get_their_names_and_an_empty_name_is_no_label():
    scores = Scores()
    batch = batch_of(names(4), {"habitat": torch.tensor([1, 0, 2, 1])})
    scores.add(KEY, batch, torch.tensor([1.0, 2, 3, 5]))
    scores.add(KEY._replace(problem="other"), batch, torch.tensor([1.0, 2, 3, 5]))
    scores.name_groups(KEY, {"habitat": ("", "land", "water")})
    rows = {(row["problem"], row["id"]): row["habitat"] for row in scores.rows()}
    assert [rows[KEY.problem, name] for name in names(4)] == ["land", None, "water", "land"]
    assert [rows["other", name] for name in names(4)] == [1, 0, 2, 1]
    found = {row.group: row.mean for row in scores.table(problem=KEY.problem, by="habitat")}
    assert found == {"land": 3, "water": 3}
