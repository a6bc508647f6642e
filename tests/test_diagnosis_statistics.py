"""The statistics under a diagnosis: intervals and chances are what closed forms, enumeration and scipy say they are."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from attribkit.diagnosis import proportions
from attribkit.diagnosis.answers import labels_of, percent
from attribkit.diagnosis.findings import Finding, judged, ranked
from attribkit.diagnosis.labels import _beyond
from attribkit.diagnosis.proportions import above, agreement, auc, beyond_chance, exchanged, fisher, gap, means, wilson
from attribkit.diagnosis.swaps import _student


def array(*values):
    return np.array(values, np.int64)


# Shares ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (1, 10), (7, 20), (81, 263), (50, 50)])
def test_wilson_is_where_the_score_test_just_does_not_reject(hits, count):
    share = hits / count
    for end in wilson(hits, count):
        if 0 < end < 1:
            assert abs(share - end) / math.sqrt(end * (1 - end) / count) == pytest.approx(1.959964, abs=1e-5)
    assert wilson(hits, count) == pytest.approx(tuple(stats.binomtest(hits, count).proportion_ci(method="wilson")), abs=1e-9)


def test_wilson_of_newcombe_1998():
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, Table I, method 3
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_a_gap_is_that_of_newcombes_tenth_method():
    assert gap(48, 80, 56, 70) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)  # 56/70 and 48/80: Newcombe 1998, Table II, (a)
    assert gap(56, 70, 48, 80) == pytest.approx((-0.2, -0.3339, -0.0524), abs=5e-5)
    assert gap(0, 10, 10, 10) == pytest.approx((1, 0.6075, 1), abs=5e-5)  # 1 - sqrt(2) * 0.2775, the Wilson interval of none of ten
    assert gap(0, 20, 10, 10) == pytest.approx((1, 0.6791, 1), abs=5e-5)  # (h)


def test_nothing_is_said_of_no_images():
    assert all(math.isnan(each) for each in (*wilson(0, 0), *gap(0, 0, 1, 2), *gap(1, 2, 0, 0)))
    assert fisher(0, 0, 1, 2) == fisher(1, 2, 0, 0) == 1
    assert agreement(array(), array())[2] == 1
    assert all(math.isnan(each) for each in beyond_chance(array(1), array(1)))


@pytest.mark.parametrize("table", [(1, 8, 7, 9), (0, 5, 5, 5), (3, 10, 3, 10), (10, 10, 0, 10), (400, 900, 480, 1000), (2, 3, 900, 1000)])
def test_fisher_is_that_of_scipy(table):
    hits, count, other, others = table
    expected = stats.fisher_exact([[hits, count - hits], [other, others - other]], alternative="less").pvalue
    assert fisher(*table) == pytest.approx(expected, rel=1e-8)


def test_fisher_of_the_lady_who_tastes_tea():
    assert fisher(1, 4, 3, 4) == pytest.approx(17 / 70)
    assert fisher(3, 4, 1, 4) == pytest.approx(69 / 70)


# Agreement ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"), [(array(0, 0, 1, 1, 2, 0), array(0, 0, 1, 2, 2, 1)), (array(3, 3, 3, 5, 5, 5), array(3, 3, 3, 5, 5, 3))]
)
def test_agreement_is_that_of_all_orders(one, other):
    same, chance, p = agreement(one, other)
    every = np.array([(np.array(order) == other).mean() for order in itertools.permutations(one)])
    assert same == (one == other).mean()
    assert chance == pytest.approx(every.mean())
    assert p == pytest.approx((every >= same - 1e-12).mean(), abs=4 * math.sqrt(0.25 / 10_000))


def test_agreement_of_two_kinds_is_fishers_test_by_orders_and_by_tables(monkeypatch):
    draw = np.random.default_rng(1)
    one = draw.integers(0, 2, 200)
    other = np.where(draw.random(200) < 0.2, one, draw.integers(0, 2, 200))
    table = [[int(((one == a) & (other == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    assert 0.001 < expected < 0.2
    for images in (1, 10_000):  # for a cell: tables are drawn, then orders
        monkeypatch.setattr(proportions, "TABLES", images)
        assert agreement(one, other)[2] == pytest.approx(expected, abs=4 * math.sqrt(expected / 10_000))


def test_tables_and_orders_have_one_distribution(monkeypatch):
    draw = np.random.default_rng(0)
    one, other, weights = draw.integers(0, 3, 90), draw.integers(0, 4, 90), draw.normal(size=(3, 4))
    found = []
    for images in (1, 10_000):
        monkeypatch.setattr(proportions, "TABLES", images)
        found.append(exchanged(one, other, weights, np.random.default_rng(2), 4_000))
    mean = sum(weights[a, b] * (one == a).sum() * (other == b).sum() / 90 for a in range(3) for b in range(4))
    for each in found:
        assert each.mean() == pytest.approx(mean, abs=4 * each.std() / math.sqrt(4_000))
    assert stats.ks_2samp(*found).pvalue > 0.001


def test_answers_that_are_all_alike_agree_by_chance():
    assert agreement(array(*[4] * 50), array(*[4] * 50)) == (1, 1, 1)
    one = array(*[0] * 49, 1)
    assert agreement(one, one)[2] == pytest.approx(1 / 50, abs=0.006)  # the one that differs has to come where the other one is
    assert agreement(one, one[::-1])[2] == 1


def test_an_excess_of_agreement_is_covered_by_its_interval_as_often_as_it_says():
    for shares, dependence in (((0.5, 0.5), 0.3), ((0.9, 0.1), 1.0), ((0.4, 0.3, 0.3), 0.5)):
        truth, covered = dependence * (1 - np.square(shares).sum()), 0
        for seed in range(60):
            draw = np.random.default_rng(seed)
            one = draw.choice(len(shares), 400, p=shares)
            other = np.where(draw.random(400) < dependence, one, draw.choice(len(shares), 400, p=shares))
            low, high = beyond_chance(one, other)
            covered += low - 1e-9 <= truth <= high + 1e-9
        assert covered >= 51  # of 60 with 95 % fewer come once in 1,500 times


def test_an_excess_of_agreement_has_wilsons_width_where_all_agree_and_halves_are_equal():
    one = np.arange(400) % 2
    assert beyond_chance(one, one) == pytest.approx((wilson(400, 400)[0] - 0.5, 0.5))


# Means -------------------------------------------------------------------------------------------------------------------------------


def test_one_sided_signs_are_those_of_all_patterns():
    values = np.array([0.9, -0.2, 0.4, 0.0, 0.7, -0.1, 0.0])
    sums = np.array([np.dot(signs, values) for signs in itertools.product((-1, 1), repeat=7)])
    assert above(values) == pytest.approx((sums >= values.sum() - 1e-12).mean())
    assert above(-values) == above(np.zeros(5)) == above(np.zeros(0)) == 1


def test_many_values_are_as_the_normal_sum_and_an_outlier_is_not():
    values = np.random.default_rng(0).normal(0.07, 1, 1_000)
    expected = stats.norm.sf(values.sum() / np.sqrt(np.square(values).sum()))
    assert above(values) == pytest.approx(expected)
    assert above(values) == pytest.approx(float(proportions.sign_flips([values])[0]) / 2, abs=0.004)
    assert above(values + 10) == pytest.approx(0.5 / 10_001)  # not below what draws could show
    one = np.append(np.tile([1.0, -1.0], 500), 1e3)  # its sign has to be right, and the others have to sum to nothing or more
    assert above(one) == pytest.approx(0.5 * stats.binom.sf(499, 1_000, 0.5), abs=0.01)


def test_an_interval_of_a_mean_is_the_bootstraps_and_of_many_the_normal_one():
    draw = np.random.default_rng(0)
    few, many = draw.random(50), draw.random(900)
    ends = means([few, many, few[:1]])
    np.testing.assert_array_equal(ends[0], proportions.intervals([few])[0])
    assert ends[1].tolist() == pytest.approx(stats.norm.interval(0.95, many.mean(), stats.sem(many)))
    assert np.isnan(ends[2]).all()
    assert ends[1].tolist() == pytest.approx(proportions.intervals([many])[0].tolist(), abs=0.002)


@pytest.mark.parametrize("free", [1, 2, 3, 8, 9, 30])
def test_students_tail_is_that_of_scipy(free):
    for t in (0.0, 0.5, 2.0, 12.0):
        assert _beyond(t, free) == pytest.approx(stats.t.sf(t, free), abs=1e-12)
    assert _beyond(math.inf, free) == pytest.approx(0, abs=1e-15)


def test_students_point_is_that_of_scipy():
    for free, error in ((3, 0.03), (7, 1e-3), (63, 1e-5)):
        assert _student(free) == pytest.approx(stats.t.ppf(0.975, free), abs=error)


# Order -------------------------------------------------------------------------------------------------------------------------------


def test_auc_is_the_share_of_pairs_in_order_and_ties_are_half():
    draw = np.random.default_rng(0)
    scores, positive = draw.integers(0, 6, 40) / 5, draw.random(40) < 0.4
    pairs = [(one > zero) + (one == zero) / 2 for one in scores[positive] for zero in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(np.mean(pairs))
    assert auc(np.ones(40), positive) == 0.5
    assert auc(-scores, positive) == pytest.approx(1 - np.mean(pairs))


def test_auc_of_one_kind_or_of_what_is_not_finite_is_not_defined():
    assert math.isnan(auc(np.ones(3), np.ones(3, bool)))
    assert math.isnan(auc(np.ones(3), np.zeros(3, bool)))
    assert math.isnan(auc(np.array([1, math.nan, 0]), np.array([True, False, False])))


# Findings ----------------------------------------------------------------------------------------------------------------------------


def claim(name, p, effect=0.1, test="groups"):
    return Finding(name, test, "cue", effect, 0.0, 1.0, 10, p)


def test_claims_are_corrected_as_one_family_and_ranked_by_kind_then_effect():
    every = judged([claim("a", 0.01), claim("b", 0.012, 0.5), claim("c", 0.3), claim("d", 0.0001, 0.01, "swap"), claim("e", 0.001, -0.5)])
    assert [each.corrected for each in every] == pytest.approx([0.03, 0.03, 0.3, 0.0005, 0.004])
    assert [each.claim for each in ranked(every)] == ["d", "b", "a"]  # not e, which is in the other direction


def test_what_cannot_be_told_is_not_found_and_does_not_count():
    every = judged([claim("a", 0.04), claim("b", math.nan), claim("c", 0.0, math.nan)])
    assert every[0].corrected == pytest.approx(0.04)
    assert ranked(every) == (every[0],)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.5, "50 %"), (0.004, "0.4 %"), (0.996, "99.6 %"), (5e-5, "under 0.1 %"), (1 - 5e-5, "over 99.9 %")],
)
def test_a_share_is_none_or_all_only_if_it_is(share, text):
    assert percent(share) == text


def test_labels_are_numbers_then_words():
    assert labels_of(np.array(["b", None, 10, 2, "a", 2], np.object_)) == [2, 10, "a", "b"]
