"""Deletion, insertion and ROAD: against closed forms, against what each removal says by itself, and against pytorch-grad-cam."""

import dataclasses

import numpy as np
import pytest
import torch
from models import LinearModel, Recorded, ReluCNN, SingleLogit, adapted, shaken
from torch import nn

from attribkit.attribution import Attribution
from attribkit.batch import Batch, Targets
from attribkit.errors import BadInput
from attribkit.maps import resize
from attribkit.methods import RandomMap
from attribkit.metrics import ROAD, Course, Deletion, Insertion, Removed, area_under, metric, rank_correlation, removal_curve, road
from attribkit.metrics.removal_curves import importance_ranks
from attribkit.removals import Blur, Constant, Generator, Harmonic, LayerMask, NoisyLinear, Telea
from attribkit.removals.base import Fill

H, W = 24, 40
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def batch_of(count=3, size=(H, W), dtype=torch.float32, kind="logit"):
    images = torch.randn(count, 3, *size, dtype=dtype)
    return Batch(images, Targets(torch.arange(count) % 5, kind), tuple(f"image-{place}" for place in range(count)))


def scored(how, model, batch, maps):
    return how(model, batch, Attribution(maps, batch.targets, batch.ids, "of the test", size=batch.images.shape[-2:]))


@pytest.fixture
def cnn():
    return adapted(ReluCNN())


@pytest.fixture
def linear():
    return adapted(LinearModel().double())


def contributions(model, batch):
    """What each pixel adds to the target's logit of a `LinearModel`, and what there is without any."""
    weight = model.module.head.weight[batch.targets.index].view(-1, 3, H, W)
    return (weight * batch.images).sum(1).detach(), model.module.head.bias[batch.targets.index].detach()


@dataclasses.dataclass(frozen=True)
class Nothing(Fill):
    """In the place of what is removed, the same again."""

    def _whole(self, model, images):
        return images


# Curves ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize("steps", [1, 7, 96])  # 960 pixels are no multiple of 7
def test_of_a_linear_model_a_curve_is_a_sum_of_what_is_kept(linear, insert, order, steps):
    batch = batch_of(dtype=torch.float64)
    adds, bias = contributions(linear, batch)
    maps = torch.randn(3, H, W)
    curve = removal_curve(linear, batch, maps, Constant(), Course(steps, order, insert=insert, of="target"))
    flat = adds.flatten(1).gather(1, maps.flatten(1).argsort(1, descending=order == "most"))
    gone = [step * H * W // steps for step in range(steps + 1)]
    # What came back is what is not gone yet when as many steps are left: the same parts in both directions.
    kept = [flat[:, : H * W - count] for count in reversed(gone)] if insert else [flat[:, count:] for count in gone]
    torch.testing.assert_close(curve, torch.stack([part.sum(1) for part in kept], 1) + bias.unsqueeze(1), **EXACT)


@pytest.mark.parametrize("removal", [Constant(), Blur(), NoisyLinear(), Telea(), LayerMask(unknown="remask")], ids=lambda each: each.name)
def test_each_point_is_what_the_removal_says(cnn, removal):
    if removal.name == "telea":
        pytest.importorskip("cv2")
    batch, maps = batch_of(2), torch.randn(2, H, W)
    curve = removal_curve(cnn, batch, maps, removal, Course(4))
    order = maps.flatten(1).argsort(1, descending=True).argsort(1).view(2, H, W)
    for step in range(5):
        expected = removal(cnn, batch.images, order >= 240 * step).softmax(1).gather(1, batch.targets.index.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(curve[:, step], expected, rtol=1e-5, atol=1e-6)


def test_curves_begin_and_end_at_the_image_and_at_nothing(cnn):
    batch, maps = batch_of(), torch.randn(3, 6, 10)
    image, nothing = (
        cnn.logits(shown).softmax(1).gather(1, batch.targets.index.unsqueeze(1)).squeeze(1)
        for shown in (batch.images, torch.zeros_like(batch.images))
    )
    assert ((image - nothing).abs() > 1e-3).all()
    for order in ("most", "least"):
        down = removal_curve(cnn, batch, maps, Constant(), Course(5, order))
        up = removal_curve(cnn, batch, maps, Constant(), Course(5, order, insert=True))
        for ends in (down[:, [0, -1]], up[:, [-1, 0]]):
            torch.testing.assert_close(ends, torch.stack((image, nothing), 1), rtol=1e-5, atol=1e-6)
        assert down.shape == (3, 6) and (down >= 0).all() and (down <= 1).all()


def test_what_comes_back_in_one_order_is_what_is_left_in_the_other(cnn):
    batch, maps = batch_of(), torch.randn(3, H, W)
    back = removal_curve(cnn, batch, maps, Blur(), Course(6, "most", insert=True))
    left = removal_curve(cnn, batch, maps, Blur(), Course(6, "least"))
    torch.testing.assert_close(back, left.flip(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", [Deletion(steps=6), Insertion(steps=6), ROAD()], ids=lambda each: each.name)
def test_a_monotone_transform_of_the_map_changes_nothing(cnn, how):
    batch = batch_of()
    maps = torch.randn(3, H, W)
    for other in (maps.exp(), 3 * maps - 7, maps**3):
        assert scored(how, cnn, batch, other).equal(scored(how, cnn, batch, maps))
    assert not scored(how, cnn, batch, -maps).allclose(scored(how, cnn, batch, maps), atol=1e-3)


@pytest.mark.parametrize("how", [Deletion(steps=6), Insertion(steps=6), ROAD(shares=(0.1, 0.5))], ids=lambda each: each.name)
def test_maps_of_a_layer_are_resized_first(cnn, how):
    batch, maps = batch_of(), torch.randn(3, 6, 10)
    assert scored(how, cnn, batch, maps).equal(scored(how, cnn, batch, resize(maps, (H, W))))


def test_with_the_image_in_the_place_of_what_is_removed_all_points_are_equal(cnn):
    batch, maps = batch_of(), torch.randn(3, H, W)
    curve = removal_curve(cnn, batch, maps, Nothing(), Course(5))
    torch.testing.assert_close(curve, curve[:, :1].expand_as(curve), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scored(ROAD(removal=Nothing()), cnn, batch, maps), torch.zeros(3), rtol=0, atol=1e-6)


def test_area_is_the_trapezoid_rule():
    curve = torch.rand(4, 11, dtype=torch.float64)
    expected = torch.from_numpy(np.trapezoid(curve.numpy(), dx=0.1, axis=1))
    torch.testing.assert_close(area_under(curve), expected, **EXACT)
    torch.testing.assert_close(area_under(torch.tensor([[1.0, 0.0]])), torch.tensor([0.5]))


# Order ---------------------------------------------------------------------------------------------------------------------------------


def test_ranks_follow_values_and_ties_are_drawn_from_image_and_seed(cnn):
    images = torch.randn(2, 3, H, W)
    maps = torch.randint(-2, 3, (2, H, W)).float()
    ranks = importance_ranks(cnn, images, maps, seed=0)
    for own, values in zip(ranks.flatten(1).long(), maps.flatten(1), strict=True):
        assert own.sort().values.equal(torch.arange(H * W))
        assert (torch.empty(H * W).scatter_(0, own, values).diff() <= 0).all()
        for value in values.unique():  # among equals the place says nothing: its correlation with the rank is that of chance
            mine = own[values == value].double()
            assert abs(torch.corrcoef(torch.stack([mine, torch.arange(len(mine)).double()]))[0, 1]) < 0.25
    constant = importance_ranks(cnn, images, torch.zeros(2, 3, 5), seed=0)
    assert not constant[0].equal(constant[1])
    assert importance_ranks(cnn, images.flip(0), torch.ones(2, H, W), seed=0).flip(0).equal(constant)
    assert not importance_ranks(cnn, images, torch.zeros(2, H, W), seed=1).equal(constant)


def test_ties_have_nothing_of_a_random_map_of_the_same_seed(cnn):
    batch = batch_of(16)
    ranks = importance_ranks(cnn, batch.images, torch.zeros(16, H, W), seed=0).float()
    control = RandomMap()(cnn, batch).maps
    assert rank_correlation(ranks, control).mean().abs() < 4 / (16 * H * W) ** 0.5


@pytest.mark.parametrize("how", [Deletion, Insertion, ROAD], ids=lambda each: each.name)
def test_the_seed_decides_between_equals_alone(cnn, how):
    batch, maps = batch_of(), torch.randn(3, H, W)
    assert scored(how(seed=1), cnn, batch, maps).equal(scored(how(), cnn, batch, maps))
    assert not scored(how(seed=1), cnn, batch, 0 * maps).equal(scored(how(), cnn, batch, 0 * maps))


# Scores --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [Deletion, Insertion], ids=lambda each: each.name)
@pytest.mark.parametrize("order", ["most", "least"])
def test_what_each_pixel_adds_beats_chance_and_its_opposite_does_not(linear, how, order):
    batch = batch_of(8, dtype=torch.float64)
    adds, _ = contributions(linear, batch)
    measure = how(removal=Constant(), steps=12, order=order, of="target")
    best, chance, worst = (scored(measure, linear, batch, maps) for maps in (adds.float(), torch.randn(8, H, W), -adds.float()))
    if not measure.higher_is_better:
        best, chance, worst = -best, -chance, -worst
    assert (best > chance).all() and (chance > worst).all()


def test_directions_and_chances():
    assert [Deletion().higher_is_better, Insertion().higher_is_better, ROAD().higher_is_better] == [False, True, True]
    least = [how(order="least").higher_is_better for how in (Deletion, Insertion, ROAD)]
    assert least == [True, False, True] and not ROAD(order="most").higher_is_better
    assert [Deletion().chance, Insertion().chance, ROAD(order="most").chance, ROAD(order="least").chance] == [None] * 4
    assert ROAD().chances(batch_of(2)).equal(torch.zeros(2)) and ROAD(order="most").chances(batch_of(2)) is None


@pytest.mark.parametrize("how", [Deletion(steps=6), Insertion(steps=6), ROAD(), ROAD(order="most")], ids=repr)
def test_a_score_depends_on_neither_batch_nor_chunk(how):
    module = shaken(ReluCNN())
    batch, maps = batch_of(5), torch.randn(5, 12, 20)
    maps[1] = 0.5  # its ties are broken by its own image
    together = scored(how, adapted(module, max_rows=8), batch, maps)
    alone = torch.cat([scored(how, adapted(module, max_rows=3), batch[row : row + 1], maps[row : row + 1]) for row in range(5)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_every_row_is_full_and_none_is_asked_twice():
    module = Recorded(ReluCNN())
    model, maps = adapted(module, max_rows=8), torch.randn(5, H, W)
    for how, asked in (
        (Deletion(steps=9), [8, 8, 8, 8, 8, 5, 5]),  # 5 images x 9 steps, and the images
        (Insertion(steps=9), [8, 8, 8, 8, 8, 5, 5]),
        (ROAD(shares=(0.3, 0.6)), [8, 8, 4]),
        (ROAD(shares=(0.3, 0.6), order="least"), [8, 2, 5]),
    ):
        module.rows.clear()
        scored(how, model, batch_of(5), maps)
        assert module.rows == asked, how


def test_the_target_of_probability_is_its_class_and_of_target_what_is_explained(cnn):
    batch, maps = batch_of(kind="log_odds"), torch.randn(3, H, W)
    for of, kind in (("probability", "probability"), ("target", "log_odds")):
        start = removal_curve(cnn, batch, maps, Constant(), Course(2, of=of))[:, 0]
        torch.testing.assert_close(start, cnn.score(batch.images, Targets(batch.targets.index, kind)), rtol=1e-5, atol=1e-6)
    single = adapted(SingleLogit())
    one = Batch(batch.images, Targets(torch.zeros(3, dtype=torch.int64)), batch.ids)
    start = removal_curve(single, one, maps, Constant(), Course(2))[:, 0]
    torch.testing.assert_close(start, single.logits(batch.images)[:, 0].sigmoid(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", [Deletion(steps=4), Insertion(steps=4), ROAD(shares=(0.5,)), ROAD(order="least")], ids=repr)
def test_a_map_that_is_not_finite_has_no_score(cnn, how):
    maps = torch.randn(3, H, W)
    maps[1, 3, 4] = torch.nan
    assert scored(how, cnn, batch_of(), maps).isnan().tolist() == [False, True, False]


def test_bad_settings_are_told_in_one_line(cnn):
    with pytest.raises(BadInput, match=r"Deletion\(steps=...\): got 0, allowed: an int of at least 1"):
        Deletion(steps=0)
    with pytest.raises(BadInput, match=r"Course\(steps=...\): got 0, allowed: at least 1"):
        removal_curve(cnn, batch_of(), torch.randn(3, H, W), Constant(), Course(0))
    for shares in ((), (0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(BadInput, match=r"ROAD\(shares=...\): got .*, allowed: shares of the pixels, above 0 and below 1"):
            ROAD(shares=shares)
        with pytest.raises(BadInput, match=r"ROAD\(shares=...\): got"):
            road(cnn, batch_of(), torch.randn(3, H, W), Constant(), Removed(shares))
    with pytest.raises(BadInput, match=r"maps: got \(2, 24, 40\), allowed: \(3, h, w\), one for each image"):
        removal_curve(cnn, batch_of(), torch.randn(2, H, W), Constant())
    made = metric("Deletion(removal=LayerMask(residual='union'), steps=5, order='least')")
    assert made == Deletion(LayerMask("union"), 5, "least") and metric(repr(made)) == made


# ROAD ----------------------------------------------------------------------------------------------------------------------------------


def test_exactly_the_shares_are_removed_also_of_a_constant_map(cnn):
    kept = []

    def paint(images, keep):
        kept.extend(keep.sum((1, 2, 3)).int().tolist())
        return images

    for maps in (torch.zeros(1, H, W), torch.randn(1, H, W), (torch.rand(1, H, W) < 0.05).float()):
        kept.clear()
        scored(ROAD(removal=Generator(paint), shares=(0.1, 0.3333)), cnn, batch_of(1), maps)
        assert kept == [864, 640, 864, 640]  # of 960 pixels 96 and 320 are gone


def test_of_a_linear_model_road_is_what_the_shares_add(linear):
    batch = batch_of(dtype=torch.float64)
    adds, _ = contributions(linear, batch)
    maps = torch.randn(3, H, W)
    flat = adds.flatten(1).gather(1, maps.flatten(1).argsort(1))  # from the least important on
    lost = {"least": [flat[:, :count].sum(1) for count in (192, 480)], "most": [flat[:, -count:].sum(1) for count in (192, 480)]}
    change = {order: -torch.stack(parts).mean(0) for order, parts in lost.items()}
    change["combined"] = (change["least"] - change["most"]) / 2
    for order, expected in change.items():
        found = road(linear, batch, maps, Constant(), Removed((0.2, 0.5), order))
        torch.testing.assert_close(found, expected, **EXACT)


def test_the_opposite_of_a_map_has_the_opposite_score(cnn):
    batch, maps = batch_of(), torch.randn(3, H, W)
    forth, back = (scored(ROAD(removal=Harmonic()), cnn, batch, each) for each in (maps, -maps))
    torch.testing.assert_close(forth, -back, rtol=1e-4, atol=1e-6)
    assert (forth.abs() > 1e-4).all()


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of what the library asks NumPy
def test_road_is_pytorch_grad_cams_where_no_values_are_equal(monkeypatch):
    theirs = pytest.importorskip("pytorch_grad_cam.metrics.road")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Noiseless(theirs.NoisyLinearImputer):
        def __init__(self):
            super().__init__(noise=0)

    monkeypatch.setattr(theirs, "NoisyLinearImputer", Noiseless)
    size = (20, 30)  # whose tenths are whole numbers of pixels, so that a percentile cuts between two of them
    torch.manual_seed(2)
    module = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(48, 5)).eval()
    batch = batch_of(2, size)
    maps = torch.stack([torch.randperm(600).view(size) for _ in range(2)]) / 600
    targets = [ClassifierOutputTarget(int(index)) for index in batch.targets.index]
    for order, other in (
        ("combined", theirs.ROADCombined()),
        ("most", theirs.ROADMostRelevantFirstAverage()),
        ("least", theirs.ROADLeastRelevantFirstAverage()),
    ):
        expected = torch.from_numpy(np.asarray(other(batch.images, maps.numpy(), targets, module)))
        found = scored(ROAD(removal=NoisyLinear(noise=0, tolerance=1e-7), order=order), adapted(module, size=size), batch, maps)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
