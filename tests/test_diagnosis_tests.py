"""The tests of a diagnosis: on answers made by hand the numbers are known, chance alone is found no more often than it says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from attribkit.diagnosis import amplification, proportions, swaps
from attribkit.diagnosis.amplification import Training, amplified, bias_amplification, pair_signs
from attribkit.diagnosis.answers import Answers, Donors, Swap, Version
from attribkit.diagnosis.findings import judged
from attribkit.diagnosis.groups import grouped
from attribkit.diagnosis.labels import compared
from attribkit.diagnosis.masking import VERSIONS, masked
from attribkit.diagnosis.proportions import beyond_chance, fisher, gap, wilson
from attribkit.diagnosis.regions import Overlap, looked
from attribkit.diagnosis.swaps import _Crossed, _effect, _Pairs, _student, swapped

NAMES = tuple("abcdefghij")


def words(values):
    """Labels of a group: None stays None."""
    made = np.empty(len(values), np.object_)
    made[:] = [None if value is None else f"{value}" for value in values]
    return made


def given(full, truth=None, groups=None, classes=NAMES, **rest):
    full = np.asarray(full, np.int64)
    truth = np.full(len(full), -1) if truth is None else np.asarray(truth, np.int64)
    versions = {"full": Version(full), **rest.pop("versions", {})}
    labels = {name: words(values) for name, values in (groups or {}).items()}
    return Answers(tuple(f"i{row}" for row in range(len(full))), classes, truth, labels, versions, **rest)


def told(limits):
    return "\n".join(limit.reason for limit in limits)


@pytest.fixture
def quick(monkeypatch):
    """Fewer permutations, for tests that make hundreds of diagnoses."""
    monkeypatch.setattr(swaps, "PERMUTATIONS", 199)
    monkeypatch.setattr(amplification, "PERMUTATIONS", 199)
    monkeypatch.setattr(proportions, "PERMUTATIONS", 199)
    monkeypatch.setattr(proportions.exchanged, "__defaults__", (199,))


def share_found(claims_of, runs=100):
    """The share of claims with p < 0.05, of diagnoses from so many seeds."""
    chances = [claim.p for seed in range(runs) for claim in claims_of(np.random.default_rng(seed))]
    assert len(chances) >= runs / 2
    return float((np.array(chances) < 0.05).mean())


BOUND = 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / 100)  # of 100 runs more come once in 1,000 times, if the chance is 5 %


# Groups ------------------------------------------------------------------------------------------------------------------------------


def test_a_table_of_groups():
    # Class a: on land 8 of 10 right, on water 2 of 10; class b: on land 5 of 5, on water none there.
    truth = [0] * 20 + [1] * 5
    full = [0] * 8 + [1] * 2 + [0] * 2 + [1] * 8 + [1] * 5
    found = grouped(given(full, truth, {"place": ["land"] * 10 + ["water"] * 10 + ["land"] * 5}, classes=("a", "b")))
    rows = {(row.label, row.target): (row.right, row.count, row.accuracy) for row in found.rows}
    assert rows == {
        ("land", None): (13, 15, 13 / 15),
        ("land", "a"): (8, 10, 0.8),
        ("land", "b"): (5, 5, 1.0),
        ("water", None): (2, 10, 0.2),
        ("water", "a"): (2, 10, 0.2),
    }
    assert all((row.low, row.high) == wilson(row.right, row.count) for row in found.rows)
    assert (found.worst.label, found.worst.target) == ("water", "a")
    better, worse = found.claims  # of b there is no rest to compare with
    assert (worse.effect, worse.low, worse.high) == pytest.approx(gap(2, 10, 8, 10))
    assert worse.p == pytest.approx(fisher(2, 10, 8, 10))
    assert worse.images == tuple(f"i{row}" for row in range(12, 20))
    assert worse.claim.endswith("place water are answered right in 20 % (2 of 10), other images of a in 80 %.")
    assert better.effect == pytest.approx(-0.6)
    assert better.p > 0.99
    assert not found.limits


def test_images_without_label_group_or_answer_are_left_out():
    truth = [0] * 12 + [-1, 0, 0]
    full = [0] * 6 + [1] * 6 + [0, 0, -1]
    found = grouped(given(full, truth, {"place": ["land"] * 6 + ["water"] * 6 + ["land", None, "land"]}, classes=("a", "b")))
    assert [(row.right, row.count) for row in found.rows if row.target] == [(6, 6), (0, 6)]
    assert {claim.count for claim in found.claims} == {12}
    assert "accuracy is that of the 13 images with a label and an answer, of 15" in told(found.limits)
    assert "all labelled images are of one class, a" in told(found.limits)
    assert "no image of the class b" in told(found.limits)


def test_what_groups_cannot_tell_is_said():
    assert "for want of labels" in told(grouped(given([0, 1])).limits)
    assert "for want of groups" in told(grouped(given([0, 1], [0, 1])).limits)
    lonely = grouped(given([0] * 10, [0] * 10, {"g": ["x"] * 9 + ["y"]}, classes=("a",)))
    assert "g: y has fewer than 5 labelled images" in told(lonely.limits)
    assert not lonely.claims
    many = grouped(given([0] * 50, [0] * 50, {"g": list(range(50))}, classes=("a",)))
    assert "g has 50 labels, too many" in told(many.limits)
    assert "g has one label, x" in told(grouped(given([0] * 9, [0] * 9, {"g": ["x"] * 9}, classes=("a",))).limits)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.5, 0.3, 0.2)])
def test_equal_groups_are_found_worse_off_no_more_often_than_by_chance(shares):
    def claims(draw):
        truth, group = draw.integers(0, 3, 300), draw.choice(len(shares), 300, p=shares)
        return grouped(given(np.where(draw.random(300) < 0.8, truth, (truth + 1) % 3), truth, {"g": group})).claims

    assert share_found(claims) <= BOUND


def test_a_group_that_is_worse_off_is_found():
    draw = np.random.default_rng(0)
    truth, group = draw.integers(0, 3, 600), draw.integers(0, 2, 600)
    right = draw.random(600) < np.where((truth == 1) & (group == 0), 0.6, 0.9)
    found = [
        each.claim for each in judged(grouped(given(np.where(right, truth, (truth + 1) % 3), truth, {"g": group})).claims) if each.found
    ]
    assert len(found) == 1
    assert found[0].startswith("Images of b with g 0 are")


# Masking -----------------------------------------------------------------------------------------------------------------------------


def masks(full, box, truth=None, shares=None, **rest):
    full = np.asarray(full)
    versions = {"full": Version(full, shares), "box removed": Version(np.asarray(box), shares)}
    return given(full, truth, versions=versions, region="object", seen=rest.pop("seen", np.ones(len(full), bool)), **rest)


def test_a_masking_table():
    full = [0] * 12 + [1] * 12
    box = [0] * 9 + [1] * 3 + [1] * 9 + [0] * 2 + [-1]
    truth = [0] * 12 + [1] * 11 + [-1]
    first = np.linspace(0.9, 0.1, 24)
    first[[0, 23]] = first[[23, 0]]  # the best of a is the worst of all
    found = masked(masks(full, box, truth, np.stack([first, 1 - first], 1).astype(np.float32)))
    whole, removed = found.rows
    assert (whole.version, whole.words, whole.accuracy, whole.kept, whole.count, whole.labelled) == ("full", VERSIONS["full"], 1, 1, 24, 23)
    assert (removed.kept, removed.count, removed.accuracy, removed.labelled) == (18 / 23, 23, 18 / 23, 23)
    assert (removed.kept_low, removed.kept_high) == wilson(18, 23)
    assert whole.auc == pytest.approx(11 / 12)  # one of twelve is below all, the others above
    rows = {(row.version, row.target): (row.kept, row.count, row.auc) for row in found.classes}
    assert rows["box removed", "a"] == pytest.approx((9 / 12, 12, 11 / 12))
    assert rows["box removed", "b"] == pytest.approx((9 / 11, 11, 11 / 12))
    (stays,) = found.claims
    chance = (12 * 11 + 11 * 12) / 23**2
    assert stays.effect == pytest.approx(18 / 23 - chance)
    both = np.arange(23)  # the last image was not asked about
    assert (stays.low, stays.high) == beyond_chance(np.array(full)[both], np.array(box)[both])
    assert stays.count == 23
    assert stays.p == pytest.approx(fisher(3, 12, 9, 11), abs=0.005)  # two classes: Fisher's test
    assert stays.claim.startswith("78 % of answers stay when the whole box around the object is removed; by chance 50 % would.")


def test_the_class_that_leans_on_what_is_around_is_found():
    draw = np.random.default_rng(0)
    full = draw.integers(0, 4, 400)
    box = np.where((full == 2) & (draw.random(400) < 0.8), 2, draw.choice([0, 1, 3], 400))
    found = judged(masked(masks(full, box)).claims)
    classes = [each for each in found[1:] if each.found]
    assert found[0].found
    assert len(classes) == 1
    stay, of = int(((box == 2) & (full == 2)).sum()), int((full == 2).sum())
    assert classes[0].claim.startswith(f"{stay} of {of} images answered c are still that")
    assert classes[0].effect == pytest.approx(stay / of)  # no other image becomes it
    assert classes[0].p == pytest.approx(fisher(of - stay, of, 400 - of, 400 - of))


def test_what_masking_cannot_tell_is_said():
    assert "for want of masks" in told(masked(given([0, 1])).limits)
    assert "masks of object cover no pixel" in told(masked(masks([0, 1], [0, 1], seen=np.zeros(2, bool))).limits)
    alike = masked(masks([3] * 20, [3] * 20))
    assert "all are answered d, and would stay that by chance" in told(alike.limits)
    assert not alike.claims
    few = masked(masks([0, 1] * 6, [0, 1] * 6, seen=np.arange(12) < 8))
    assert "4 of 12 images have no region object" in told(few.limits)
    assert "8 images can be asked about" in told(few.limits)
    assert not few.claims
    assert "areas under ROC curves" in told(few.limits)


def test_labels_that_are_not_the_models_have_no_area():
    shares = np.full((20, 2), 0.5, np.float32)
    found = masked(masks([0, 1] * 10, [1, 0] * 10, [0, 7] * 10, shares))
    assert found.rows[0].auc == 0.5  # of the one class that it has
    assert found.rows[0].accuracy == 0.5


@pytest.mark.parametrize(
    ("full", "box"), [((0.5, 0.5), (0.5, 0.5)), ((0.96, 0.04), (0.96, 0.04)), ((0.5, 0.3, 0.1, 0.1), (0.1, 0.2, 0.3, 0.4))]
)
def test_answers_that_have_nothing_to_do_with_one_another_stay_no_more_than_by_chance(quick, full, box):
    assert share_found(lambda draw: masked(masks(draw.choice(len(full), 300, p=full), draw.choice(len(box), 300, p=box))).claims) <= BOUND


# Swaps -------------------------------------------------------------------------------------------------------------------------------


def exchange(own, theirs, changed, pairs=None, cue="background", **rest):
    """Images with labels `own` and donors with `theirs`, each with each or `pairs`; `changed` is asked for every pair."""
    own, theirs = np.asarray(own), np.asarray(theirs)
    images, taken = np.array(list(itertools.product(range(len(own)), range(len(theirs)))) if pairs is None else pairs).T
    full = np.arange(len(own)) % 2
    found = np.where(changed(own[images], theirs[taken], images, taken), 1 - full[images], full[images])
    donors = Donors(tuple(f"d{row}" for row in range(len(theirs))), np.arange(len(theirs)) % 2, {"place": words(theirs)})
    return given(full, groups={"place": own}, swaps=(Swap(cue, images, taken, found),), donors=donors, **rest)


def test_a_complete_exchange_has_the_difference_of_shares_as_its_effect():
    # Donors of the other label change 3 of 4 images, of the same label 1 of 4, every image by every donor.
    def changed(mine, given_, images, taken):
        return np.where(mine != given_, images // 2 % 4 != taken % 4, images // 2 % 4 == taken % 4)

    found = swapped(exchange(np.arange(16) % 2, np.arange(16) // 8, changed))
    (row,), (claim,) = found.rows, found.claims
    assert (row.cue, row.by, row.other, row.others, row.same, row.sames) == ("background", "place", 0.75, 128, 0.25, 128)
    assert claim.effect == pytest.approx(0.5)
    assert claim.low < 0.5 < claim.high
    assert claim.p == pytest.approx(1 / 10_001, abs=2e-4)  # of 12,870 ways to give out labels it is the best
    assert claim.count == 16
    assert claim.claim.endswith("another place, it changes 75 % of answers; with the same place, 25 %.")
    # Donors are answered 0, 1, 0, 1 ... as images are: of those answered otherwise, every change is to the donor's answer.
    assert row.follows == pytest.approx(_follows(changed))


def _follows(changed):
    images, taken = np.array(list(itertools.product(range(16), range(16)))).T
    apart = images % 2 != taken % 2
    return changed(images % 2, taken // 8, images, taken)[apart].mean()


def test_exchanges_that_always_change_the_answer_are_certain_but_of_few_images_not_wholly():
    found = swapped(exchange(np.arange(12) % 2, np.arange(12) // 6, lambda mine, given_, *_: mine != given_))
    (claim,) = found.claims
    assert claim.effect == pytest.approx(1)
    assert claim.high == 1
    assert claim.low == pytest.approx(1 - (1 - gap(0, 72, 72, 72)[1]))
    assert claim.p == pytest.approx(1 / 924, abs=5 * math.sqrt(1 / 924 / 10_000))  # one of 12 over 6 ways


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_answers_that_all_change_or_none_say_nothing(share):
    (claim,) = swapped(exchange(np.arange(12) % 2, np.arange(12) // 6, lambda mine, *_: np.full(len(mine), share == 1))).claims
    assert claim.effect == pytest.approx(0, abs=1e-9)
    assert claim.p == 1


def test_what_donors_and_images_do_anyway_is_no_effect():
    # Donors of label 1 change every image of label 1, and images of label 1 are most: shares differ, but not by who differs from whom.
    def changed(mine, given_, images, taken):
        return given_ == 1

    pairs = [(image, donor) for image in range(40) for donor in range(16) if image < 4 or (image + donor) % 2 or donor >= 8]
    found = swapped(exchange([1] * 4 + [0] * 36, np.arange(16) // 8, changed, pairs))
    (row,), (claim,) = found.rows, found.claims
    assert row.other - row.same > 0.5
    assert claim.effect == pytest.approx(0, abs=1e-9)
    assert claim.p == 1


def test_an_image_is_not_its_own_donor_and_the_object_is_no_claim():
    answers = exchange(np.arange(16) % 2, np.arange(16) % 2, lambda mine, given_, images, taken: images != taken)
    same = Donors(answers.ids, answers.donors.answers, answers.donors.groups)
    own = Answers(answers.ids, NAMES, answers.truth, answers.groups, answers.versions, "object", None, answers.swaps, same)
    (claim,) = swapped(own).claims
    assert (swapped(own).rows[0].same, swapped(own).rows[0].sames) == (1, 112)  # 16 fewer: nobody changes by what is its own
    assert claim.effect == pytest.approx(0, abs=1e-9)
    assert not swapped(exchange(np.arange(16) % 2, np.arange(16) % 2, lambda *_: _[0] > 0, cue="object", region="object")).claims


def many_answers(rng, share):
    """40 images, each of a class of its own, with the ground of two of 30 donors; `share` of the answers become the donor's."""
    donors = Donors(tuple(f"d{row}" for row in range(30)), np.arange(100, 130), {})
    images, lent = np.arange(40).repeat(2), np.concatenate([rng.choice(30, 2, replace=False) for _ in range(40)])
    found = np.where(rng.random(80) < share, donors.answers[lent], rng.integers(100, 130, 80))
    return given(np.arange(40), classes=(), region="object", swaps=(Swap("ground", images, lent, found),), donors=donors)


def test_of_many_answers_those_that_become_the_donors_are_counted():
    found = swapped(many_answers(np.random.default_rng(0), 1.0))
    ((row,), (claim,)) = found.rows, found.claims
    assert (row.by, row.other, row.others, row.follows) == ("image", 1.0, 80, 1.0)
    assert math.isnan(row.same)
    assert claim.p == pytest.approx(1 / 10_001)
    assert claim.effect == pytest.approx(1 - 1 / 30, abs=0.01)  # by chance one donor in thirty has that answer
    assert claim.low == pytest.approx(wilson(40, 40)[0] - (1 - claim.effect))


def test_answers_that_go_anywhere_do_not_go_over_to_donors(quick):
    assert share_found(lambda rng: swapped(many_answers(rng, 0.0)).claims) <= BOUND


def test_what_swaps_cannot_tell_is_said():
    never = lambda mine, *_: mine < 0  # noqa: E731
    assert swapped(given([0, 1])) == swaps.Swapped(swapped(given([0])).rows, [], [])
    few = swapped(exchange(np.arange(12) % 2, [0] * 9 + [1] * 3, never))
    assert "place: fewer than two labels have 4 donors of background" in told(few.limits)
    many = swapped(exchange(range(30), range(30), never))
    assert "place has 30 labels, too many" in told(many.limits)
    apart = exchange([0] * 12, np.arange(12) // 6, never, [(image, donor) for image in range(12) for donor in range(6, 12)])
    assert "fewer than two labels" in told(swapped(apart).limits)
    split = exchange([0] * 6 + [1] * 6, np.arange(12) // 6, never, [(image, image) for image in range(12)])
    assert "no donors of background were given both" in told(swapped(split).limits)
    assert not [*few.claims, *many.claims, *swapped(apart).claims, *swapped(split).claims]


def regressed(changed, mine, labels, taken):
    """The share that differing adds beside a number for each donor and each label of images; what is left of it, and of the answers."""
    kinds = np.arange(len(labels)), np.unique(mine)
    design = np.concatenate([taken[:, None] == kinds[0], mine[:, None] == kinds[1]], 1).astype(float)
    both = np.stack([(mine != labels[taken]).astype(float), changed], 1)
    apart, left = (both - design @ np.linalg.lstsq(design, both, rcond=None)[0]).T
    effect = (apart @ left) / (apart @ apart)
    return effect, apart * (left - effect * apart) / (apart @ apart)


def test_an_exchange_is_judged_by_least_squares_and_errors_that_go_together():
    draw = np.random.default_rng(3)
    own, theirs = draw.choice(3, 70, p=(0.5, 0.3, 0.2)), np.repeat([0, 1, 2], (12, 6, 4))
    images, taken = np.array(lent(draw, 70, theirs)).T
    changed = (draw.random(140) < np.where(own[images] != theirs[taken], 0.5, 0.3)).astype(float)
    pairs = _Pairs(images, taken, changed, changed > 2, taken)
    crossed = _Crossed.of(pairs, own, theirs)
    orders = np.stack([theirs, *(draw.permutation(theirs) for _ in range(5))])
    for labels, ratio in zip(orders, crossed._ratios(orders), strict=True):
        effect, errors = regressed(changed, own[images], labels, taken)
        assert ratio == pytest.approx(effect / np.sqrt(np.square(np.bincount(taken, errors)).sum()))
    effect, errors = regressed(changed, own[images], theirs, taken)
    sums = [np.square(np.bincount(each, errors)).sum() for each in (images, taken, np.arange(140))]
    half = math.sqrt(max(sums[0], sums[1], sums[0] + sums[1] - sums[2])) * _student(3)  # of the rarest label there are four donors
    assert _effect(pairs, crossed, own[images] != theirs[taken]) == pytest.approx((effect, effect - half, effect + half))


def lent(draw, images, donors, per=2):
    """Pairs, as they are drawn: every label of donors alike, whatever the image's."""
    weights = 1 / np.bincount(donors)[donors]
    chosen = (draw.choice(len(donors), per, replace=False, p=weights / weights.sum()) for _ in range(images))
    return [(image, int(donor)) for image, some in enumerate(chosen) for donor in some]


def anyway(draw, mine, given_, taken, donors):
    """Donors that change more or less, of one label more, and images of one label that are changed more easily."""
    return draw.random(len(mine)) < 0.5 * draw.beta(0.5, 1, donors)[taken] + 0.2 * given_ + 0.3 * mine


def pushed(draw, mine, given_, taken, donors):
    """Donors each of which favours one answer or the other, whatever its label."""
    return draw.random(len(mine)) < 1 / (1 + np.exp(1.5 - draw.normal(0, 2, donors)[taken] * (1 - 2 * mine)))


@pytest.mark.parametrize(
    ("images", "donors", "chance"),
    [((0.5, 0.5), (32, 32), anyway), ((0.1, 0.9), (56, 8), anyway), ((0.9, 0.1), (5, 5), pushed), ((0.5, 0.5), (40, 8), pushed)],
)
def test_donors_that_differ_fool_no_exchange(quick, images, donors, chance):
    theirs = np.repeat(np.arange(2), donors)

    def claims(draw):
        own = draw.choice(2, 150, p=images)
        return swapped(
            exchange(own, theirs, lambda mine, to, _, taken: chance(draw, mine, to, taken, len(theirs)), lent(draw, 150, theirs))
        ).claims

    assert share_found(claims) <= BOUND


def test_a_part_that_decides_is_found():
    draw, theirs, found = np.random.default_rng(0), np.arange(64) // 32, 0
    for _ in range(20):
        own = draw.integers(0, 2, 100)
        (claim,) = swapped(
            exchange(own, theirs, lambda mine, to, *_: draw.random(len(mine)) < np.where(mine != to, 0.4, 0.1), lent(draw, 100, theirs))
        ).claims
        found += claim.p < 0.05
        assert abs(claim.effect - 0.3) < 0.2
    assert found == 20


def test_without_groups_the_answers_are_the_groups():
    answers = exchange(np.arange(16) % 2, np.arange(16) % 2, lambda mine, given_, *_: mine != given_)
    bare = Answers(answers.ids, NAMES, answers.truth, {}, answers.versions, None, None, answers.swaps, answers.donors)
    (row,) = swapped(bare).rows
    assert (row.by, row.other, row.same, row.follows) == ("answer", 1, 0, 1)


def many(draw, art, planted=0.0):
    """Images and donors of 24 answers, of which two have one donor each; what is exchanged makes `art` of a quarter of them."""
    theirs = np.concatenate([[0, 1], np.repeat(np.arange(2, 24), 3)])[:64]
    images, taken = np.array(lent(draw, 150, theirs)).T
    full = draw.integers(0, 24, 150)
    found = np.where(draw.random(300) < 0.25, art, full[images])
    found = np.where(draw.random(300) < planted, theirs[taken], found)
    donors = Donors(tuple(f"d{row}" for row in range(64)), theirs, {})
    return given(full, swaps=(Swap("background", images, taken, found),), donors=donors)


@pytest.mark.parametrize("art", [0, 5])
def test_what_any_exchange_makes_of_answers_is_not_the_donors_answer(quick, art):
    assert share_found(lambda draw: swapped(many(draw, art)).claims) <= BOUND
    chances = [swapped(many(np.random.default_rng(seed), art)).claims[0].p for seed in range(40)]
    assert 0.25 < np.median(chances) < 0.8  # nor is it less than chance


def test_many_answers_that_go_over_are_found():
    answers = many(np.random.default_rng(0), 3, 0.1)
    (row,), (claim,) = swapped(answers).rows, swapped(answers).claims
    (swap,) = answers.swaps
    apart = answers.full[swap.images] != answers.donors.answers[swap.donors]
    assert (row.by, row.follows) == ("image", (swap.answers == answers.donors.answers[swap.donors])[apart].mean())
    assert claim.p < 1e-3
    assert abs(claim.effect - 0.1) < 0.05


# Amplification -----------------------------------------------------------------------------------------------------------------------


def hot(values, kinds=2):
    return np.asarray(values)[:, None] == np.arange(kinds)


def test_signs_say_what_goes_together_and_independent_labels_have_none():
    attributes, tasks = np.repeat([0, 0, 1, 1], 25), np.repeat([0, 1, 0, 1], 25)
    np.testing.assert_array_equal(pair_signs(hot(attributes), hot(tasks)), np.zeros((2, 2)))
    tasks[:10], tasks[-10:] = 1, 0
    np.testing.assert_array_equal(pair_signs(hot(attributes), hot(tasks)), [[-1, 1], [1, -1]])
    none = np.zeros((50, 2), bool)  # images with neither are not among those that count
    np.testing.assert_array_equal(pair_signs(np.r_[hot(attributes), none], np.r_[hot(tasks), none]), [[-1, 1], [1, -1]])


def test_bias_amplification_by_hand():
    # 10 images of attribute 0: 6 are task 0, 8 are answered so. 5 of attribute 1: 2 are task 0, 1 is answered so. None of attribute 2.
    attributes, truth = hot([0] * 10 + [1] * 5, 3), hot([0] * 6 + [1] * 4 + [0] * 2 + [1] * 3)
    found = hot([0] * 8 + [1] * 2 + [0] + [1] * 4)
    signs = np.array([[1, -1], [-1, 1], [1, 1]])
    shares = bias_amplification(attributes, truth, found, signs)
    np.testing.assert_allclose(shares, [[0.2, 0.2], [0.2, 0.2], [np.nan, np.nan]])
    np.testing.assert_array_equal(bias_amplification(attributes, truth, truth, signs)[:2], np.zeros((2, 2)))
    order = [2, 0, 1]  # relabelled groups: the same terms in another order
    np.testing.assert_array_equal(bias_amplification(attributes[:, order], truth, found, signs[order]), shares[order])


def biased(draw, count, strength=0.6):
    truth = draw.integers(0, 2, count)
    return truth, np.where(draw.random(count) < strength, truth, draw.integers(0, 2, count))


def test_perfect_answers_amplify_nothing_and_a_shortcut_what_it_takes():
    # 40 images of each class, 30 of which have the label that goes with it; all answers follow the label.
    truth = np.repeat([0, 1], 40)
    label = np.where(np.arange(80) % 40 < 30, truth, 1 - truth)
    perfect, short = (amplified(given(full, truth, {"g": label}), Training(truth, {"g": words(label)})) for full in (truth, label))
    (row,) = perfect.rows
    assert (row.amplification, row.size, row.variance, row.count, perfect.claims[0].p) == (0, 0, 0, 80, 1)
    (row,), (claim,) = short.rows, short.claims
    assert (row.amplification, row.size, row.variance) == pytest.approx((0.25, 0.25, 0))  # 100 % beside 75 %, in all four pairs
    assert row.low < 0.25 < row.high
    assert claim.p < 1e-3
    assert claim.images == tuple(f"i{row}" for row in [*range(30, 40), *range(70, 72)])


def test_amplifications_of_opposite_sign_do_not_cancel_in_size():
    truth, label = np.repeat([0, 1], 40), np.where(np.arange(80) % 40 < 30, 0, 1)
    label[40:] = np.where(np.arange(40) < 30, 1, 0)
    full = truth.copy()
    full[[30, 31, 32, 33]] = 1  # of label 1: four more are answered 1 than are
    full[[0, 1]] = 1  # of label 0: two more, which goes against
    (row,) = amplified(given(full, truth, {"g": label}), None).rows
    assert row.amplification == pytest.approx((4 / 40 - 2 / 40) / 2)
    assert row.size == pytest.approx((4 / 40 + 2 / 40) / 2)
    assert row.variance == pytest.approx((1 / 40) ** 2)


def test_groups_are_combined_in_pairs():
    draw = np.random.default_rng(0)
    truth, label = biased(draw, 400)
    other = draw.integers(0, 2, 400)
    found = amplified(given(label, truth, {"g": label, "h": np.where(truth == 0, 0, other)}), None)
    assert [row.by for row in found.rows] == ["g", "h", "g + h"]
    assert found.claims[0].p < 1e-3
    assert found.claims[1].p > 0.05  # which goes together with the class, but answers follow g


def test_what_amplification_cannot_tell_is_said():
    truth = np.repeat([0, 1], 50)
    independent = np.arange(100) % 2
    assert "for want of labels or groups" in told(amplified(given(truth), None).limits)
    assert "for want of labels or groups" in told(amplified(given(truth, truth, {"g": [0] * 100}), None).limits)
    assert "no class goes together with g in these images, which stand" in told(
        amplified(given(truth, truth, {"g": independent}), None).limits
    )
    training = Training(truth, {"g": words(independent)})
    mostly = np.where(np.arange(100) % 5 == 0, truth, 1 - truth)
    assert "no class goes together with g in training" in told(amplified(given(truth, truth, {"g": mostly}), training).limits)
    assert "g says what class an image is of" in told(amplified(given(truth, truth, {"g": truth}), training).limits)
    assert "the training images have no group h" in told(amplified(given(truth, truth, {"h": independent}), training).limits)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("answer", ["random", "one too often", "errors"])
def test_errors_that_have_nothing_to_do_with_groups_amplify_nothing(quick, trained, answer):
    def claims(draw):
        truth, label = biased(draw, 300, 0.3)
        wrong = {"random": draw.integers(0, 2, 300), "one too often": np.ones(300, int), "errors": 1 - truth}[answer]
        full = np.where(draw.random(300) < (1 if answer == "random" else 0.25), wrong, truth)
        training = Training(*(each if place == 0 else {"g": words(each)} for place, each in enumerate(biased(draw, 2_000, 0.3))))
        return amplified(given(full, truth, {"g": label}), training if trained else None).claims

    assert share_found(claims) <= BOUND


def test_one_class_given_too_often_is_not_taken_for_a_group_that_is_followed(quick):
    # One label goes together with class 1, all others are too rare to go together with anything: what is answered 1 too often in every
    # group alike is a larger share of those with that label than of none, and would be found by signs alone.
    def claims(draw):
        truth, rare = draw.integers(0, 2, 500), 1 + draw.integers(0, 30, 500)
        label = np.where((draw.random(500) < 0.2) & (truth == 1), 0, rare)
        label = np.where((draw.random(500) < 0.1) & (truth == 0), 0, label)
        return amplified(given(np.where(draw.random(500) < 0.3, 1, truth), truth, {"g": label}), None).claims

    assert share_found(claims) <= BOUND


def test_answers_that_follow_a_group_are_found():
    draw = np.random.default_rng(0)
    truth, label = biased(draw, 400)
    full = np.where(draw.random(400) < 0.3, label, truth)
    (claim,) = amplified(given(full, truth, {"g": label}), None).claims
    assert claim.p < 0.01
    assert (claim.low + claim.high) / 2 == pytest.approx(claim.effect)  # normal, of so many: around the mean of what each image adds


# Regions -----------------------------------------------------------------------------------------------------------------------------


def overlap(region, scores, uniform, elsewhere=None):
    scores = np.asarray(scores, np.float64)
    nowhere = np.full(len(scores), np.nan) if elsewhere is None else np.asarray(elsewhere, np.float64)
    return Overlap(region, scores, np.full(len(scores), float(uniform)), nowhere)


def test_regions_by_class_and_group():
    scores = np.arange(20) / 20
    found = looked(given([0] * 8 + [1] * 12, groups={"g": ["x", "y"] * 10}), [overlap("object", scores, 0.4)], [])
    rows = {(row.target, row.label): (row.score, row.uniform, row.count) for row in found.rows}
    assert rows[None, None] == pytest.approx((0.475, 0.4, 20))
    assert rows["b", None] == pytest.approx((0.675, 0.4, 12))
    assert rows[None, "x"] == pytest.approx((0.45, 0.4, 10))
    assert rows["a", "y"] == pytest.approx((0.2, 0.4, 4))
    assert len(rows) == 1 + 2 + 2 * 3


def test_maps_look_past_what_should_decide_only_if_elsewhere_gets_more():
    draw = np.random.default_rng(0)
    low, high = draw.normal(0.2, 0.02, 40), draw.normal(0.3, 0.02, 40)
    answers = given(np.arange(40) % 2, region="object")
    (past,) = looked(answers, [overlap("object", low, 0.6, high)], []).claims
    assert (past.effect, past.count, past.p < 1e-3) == (pytest.approx((high - low).mean()), 40, True)
    assert past.claim.startswith("Maps look past the object: they overlap it by 0.20, the same shape elsewhere by 0.31,")
    assert past.images[0] == f"i{np.argmax(high - low)}"
    (small,) = looked(answers, [overlap("object", high, 0.6, low)], []).claims  # a small map on the object is below a uniform one
    assert (small.effect < 0, small.p) == (True, 1)
    (above,) = looked(answers, [overlap("object", low, 0.1, high)], []).claims
    assert (above.effect < 0, above.p) == (True, 1)
    assert not looked(answers, [overlap("object", low, 0.6)], []).claims  # without elsewhere it cannot be told


def test_maps_lie_on_another_region_only_if_elsewhere_gets_less():
    draw = np.random.default_rng(0)
    low, high = draw.normal(0.5, 0.02, 40), draw.normal(0.6, 0.02, 40)
    answers = given(np.arange(40) % 2, region="object")
    (on,) = looked(answers, [overlap("background", high, 0.95, low)], []).claims
    assert (on.effect, on.p < 1e-3) == (pytest.approx((high - low).mean()), True)
    (off,) = looked(answers, [overlap("background", low, 0.1, high)], []).claims
    assert (off.effect < 0, off.p) == (True, 1)
    (trace,) = looked(answers, [overlap("tag", high, 0.7, low)], []).claims  # of a small region a uniform map is a bar as well
    assert (trace.effect < 0, trace.p) == (True, 1)
    border = looked(answers, [], [overlap("image border", high, 0.4), overlap("image centre", high, 0.4)])
    (frame,) = border.claims
    assert (frame.test, frame.effect) == ("frame", pytest.approx(high.mean() - 0.4))
    assert "for want of masks" in told(border.limits)


def test_images_without_region_are_counted_and_those_without_elsewhere_left_out():
    scores, elsewhere = np.full(30, 0.5), np.full(30, 0.4)
    scores[:3], elsewhere[3:8] = np.nan, np.nan
    found = looked(given(np.arange(30) % 2, region="object"), [overlap("tag", scores, 0.3, elsewhere)], [])
    assert found.claims[0].count == 22
    assert found.claims[0].effect == pytest.approx(0.1)
    assert "3 of 30 images have no tag" in told(found.limits)
    empty = looked(given(np.arange(30) % 2, region="object"), [overlap("tag", np.full(30, np.nan), 0.3)], [])
    assert not [*empty.rows, *empty.claims]


def iou(one, other):
    one, other = one / one.sum(), other / other.sum()
    return (one * other).sum() / (((one + other) / 2) ** 2).sum()


@pytest.mark.parametrize("region", ["object", "background"])
def test_maps_put_down_anywhere_neither_miss_nor_meet_a_region(region):
    rows, columns = np.mgrid[:12, :12]

    def claims(draw):
        made = []
        for _ in range(24):
            top, left = draw.integers(0, 8, 2)
            mask = np.zeros((12, 12))
            mask[top : top + 5, left : left + 5] = 1
            mask = mask if region == "object" else 1 - mask
            at = draw.uniform(0, 12, 2)
            map_ = np.exp(-((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / 8) + 1e-3
            made.append((iou(map_, mask), iou(np.ones((12, 12)), mask), iou(map_, mask[::-1, ::-1])))
        return looked(given(np.arange(24) % 2, region="object"), [Overlap(region, *np.array(made).T)], []).claims

    assert share_found(claims) <= BOUND


# Labels ------------------------------------------------------------------------------------------------------------------------------


def pairs_of(columns):
    """Overlaps (N, L, L) of which those with label 0 are `columns` (N, L - 1), and the others a half."""
    made = np.full((len(columns), columns.shape[1] + 1, columns.shape[1] + 1), 0.5)
    made[:, 0, 1:] = made[:, 1:, 0] = columns
    return made


def test_pairs_of_labels_and_the_one_that_stands_out():
    draw = np.random.default_rng(0)
    columns = np.clip(np.linspace(0.4, 0.46, 7) + draw.normal(0, 0.05, (60, 7)), 0, 1)
    columns[:, 2] += 0.4
    found = compared(given(np.zeros(60)), NAMES[:8], pairs_of(columns), "a")
    assert len(found.rows) == 28
    assert [(row.one, row.other) for row in found.rows][:3] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert found.rows[0].score == pytest.approx(columns[:, 0].mean())
    standing = [each for each in judged(found.claims) if each.found]
    assert [each.cue for each in standing] == ["d"]
    assert standing[0].effect == pytest.approx((columns[:, 2] - np.delete(columns, 2, 1).mean(1)).mean())


def test_labels_that_differ_as_labels_do_are_not_found():
    def claims(draw):
        columns = np.clip(draw.normal(0.5, 0.1, 8) + draw.normal(0, 0.1, (300, 8)), 0, 1)
        return compared(given(np.zeros(300)), NAMES[:9], pairs_of(columns), "a").claims

    assert share_found(claims) <= BOUND


def test_what_labels_cannot_tell_is_said_and_a_missing_map_costs_no_image():
    assert "needs a protected label" in told(compared(given([0]), (), None, None).limits)
    columns = np.random.default_rng(0).random((30, 6))
    assert "whether one of 4 labels" in told(compared(given(np.zeros(30)), NAMES[:5], pairs_of(columns[:, :4]), "a").limits)
    columns[:, 1] = np.nan
    columns[:5, 3] = np.nan
    counts = {claim.cue: claim.count for claim in compared(given(np.zeros(30)), NAMES[:7], pairs_of(columns), "a").claims}
    assert counts == {"b": 30, "d": 30, "e": 25, "f": 30, "g": 30}
