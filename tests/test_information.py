"""The softmax and accuracy information curves: against their reference, and where they begin, end and are not defined."""

import io
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from models import Dead, GapCNN, SingleLogit, adapted
from PIL import Image
from torch import nn

from attribkit.attribution import Attribution
from attribkit.batch import Batch, Targets
from attribkit.errors import BadInput, Unsupported
from attribkit.methods import RandomMap
from attribkit.metrics import AIC, SIC, Reading, area_under, information, information_curve, metric
from attribkit.metrics.information import THRESHOLDS, _always_shown, through
from attribkit.metrics.picture_size import entropy_size, webp_size
from attribkit.model.planted import MEAN, STD, planted_module
from attribkit.problems import draw
from attribkit.removals import Constant
from attribkit.removals.pyramid import push_pull

SIZE = (20, 30)  # of which every threshold is a whole number of pixels
HALF = 0.5


def scored(how, model, batch, maps):
    return how(model, batch, Attribution(maps, batch.targets, batch.ids, "of the test", size=tuple(batch.images.shape[-2:])))


def pictures(count, size=SIZE):
    """Smooth colours with some grain, whose values are those of 8 bits."""
    smooth = torch.nn.functional.interpolate(torch.rand(count, 3, 4, 5), size, mode="bilinear")
    return ((0.8 * smooth + 0.2 * torch.rand(count, 3, *size)) * 255).round().to(torch.uint8)


def batch_of(bits, index):
    images = (bits.float() / 255 - HALF) / HALF
    return Batch(images, Targets(index), tuple(f"image-{place}" for place in range(len(bits))))


class Sure(nn.Module):
    """The more of the image's brightness is there, the surer it is of class 0; black is class 1."""

    def forward(self, images):
        brightness = (images / 2 + 0.5).mean((1, 2, 3))
        return torch.stack([20 * brightness, torch.full_like(brightness, 5.0)], 1)


@pytest.fixture
def sure():
    return adapted(Sure(), size=SIZE)


@pytest.fixture
def bright():
    return batch_of(pictures(4), torch.zeros(4, dtype=torch.int64))


# The curve -----------------------------------------------------------------------------------------------------------------------------


def test_a_curve_joins_its_points_by_straight_lines():
    across, up = torch.rand(3, 13, dtype=torch.float64).sort(1).values, torch.rand(3, 13, dtype=torch.float64).sort(1).values
    places = np.linspace(0, 1, 1001)
    expected = [np.interp(places, np.r_[0, x, 1], np.r_[0, y, 1]) for x, y in zip(across.numpy(), up.numpy(), strict=True)]
    torch.testing.assert_close(through(across, up), torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-12)
    shuffled = torch.randperm(13)
    assert through(across[:, shuffled], up[:, shuffled]).equal(through(across, up))


def test_of_points_above_each_other_the_highest_counts_and_no_curve_falls():
    across = torch.tensor([[0.5, 0.5, 0.5, 0.8, 0.2, 0.0, 1.0]])
    up = torch.tensor([[0.3, 0.6, 0.1, 0.4, 0.2, 0.1, 0.7]])
    curve = through(across, up)[0]
    assert curve[0] == 0 and curve[-1] == 1 and (curve.diff() >= 0).all()
    places = torch.tensor([1, 100, 200, 350, 500, 650, 800, 900])
    expected = torch.tensor([0.1 + 0.1 / 200, 0.15, 0.2, 0.4, 0.6, 0.6, 0.6, 0.8], dtype=torch.float64)
    torch.testing.assert_close(curve[places], expected, rtol=0, atol=1e-6)  # 0.2 in single precision is no 0.2


@pytest.mark.parametrize("estimator", ["webp", "entropy"])
@pytest.mark.parametrize("of", ["softmax", "accuracy"])
def test_curves_begin_at_nothing_end_at_everything_and_rise(sure, bright, estimator, of):
    curve = information_curve(sure, bright, torch.randn(4, *SIZE), Reading(of, Constant("black"), estimator))
    assert curve.shape == (4, 1001) and (curve[:, 0] == 0).all() and (curve[:, -1] == 1).all()
    assert (curve.diff(dim=1) >= 0).all()
    how = {"softmax": SIC, "accuracy": AIC}[of](infill=Constant("black"), estimator=estimator)
    area = scored(how, sure, bright, torch.randn(4, *SIZE))
    assert ((area > 0) & (area < 1)).all()


@pytest.mark.parametrize("of", ["softmax", "accuracy"])
def test_it_is_the_references_where_no_values_are_equal(monkeypatch, sure, of):
    pic = pytest.importorskip("saliency.metrics.pic")
    monkeypatch.setattr(pic.np, "trapz", np.trapezoid, raising=False)  # as NumPy called it when the reference was written
    monkeypatch.setattr(pic, "create_blurred_image", lambda full_img, pixel_mask, **_: full_img * pixel_mask[..., None])
    # A size that grows with each pixel: of points above or behind each other the reference makes something else.
    monkeypatch.setattr(pic, "estimate_image_entropy", lambda picture: int((picture.sum(2) > 0).sum()))
    monkeypatch.setitem(information._SIZES, "entropy", lambda bits: (bits.sum(1) > 0).sum((1, 2)).float())
    bits = pictures(6)
    batch = batch_of(bits, torch.zeros(6, dtype=torch.int64))
    maps = torch.stack([torch.randperm(600).view(SIZE) for _ in range(6)]) / 600
    curves = information_curve(sure, batch, maps, Reading(of, Constant("black"), "entropy"))
    always = _always_shown(batch.images, 0)

    def answer(shown):
        logits = sure.logits((torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255 - HALF) / HALF)
        return (logits.softmax(1)[:, 0] if of == "softmax" else (logits.argmax(1) == 0).float()).numpy()

    for one, saliency, shown, curve in zip(bits, maps, always, curves, strict=True):
        found = pic.compute_pic_metric(one.permute(1, 2, 0).numpy(), saliency.numpy(), shown.numpy(), answer, THRESHOLDS)
        torch.testing.assert_close(curve, torch.from_numpy(found.curve_y), rtol=0, atol=1e-5)
        torch.testing.assert_close(area_under(curve[None])[0].item(), float(found.auc), rtol=0, atol=1e-5)


def test_what_is_always_shown_is_a_hundredth_and_the_corners_and_the_images_own():
    images = torch.randn(3, 3, 40, 50)
    images[2] = images[0]
    shown = _always_shown(images, 0)
    assert shown[:, [0, 0, -1, -1], [0, -1, 0, -1]].all()
    assert all(20 <= count <= 24 for count in shown.sum((1, 2)).tolist())
    assert shown[0].equal(shown[2]) and not shown[0].equal(shown[1]) and not shown.equal(_always_shown(images, 1))
    control = RandomMap()(adapted(GapCNN()), Batch(images[:2], Targets(torch.tensor([0, 1])), ("a", "b"))).maps.flatten(1)
    first = control.argsort(1, descending=True)[:, :20]  # of which another draw shows one in a hundred
    assert shown[:2].flatten(1).gather(1, first).sum() <= 4


# Scores --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [SIC, AIC], ids=lambda each: each.name)
def test_a_monotone_transform_of_the_map_changes_nothing(sure, bright, how):
    maps = torch.randn(4, *SIZE)
    measure = how(infill=Constant("black"), estimator="entropy")
    for other in (maps.exp(), 3 * maps - 7, maps**3):
        assert scored(measure, sure, bright, other).equal(scored(measure, sure, bright, maps))
    assert not scored(measure, sure, bright, -maps).equal(scored(measure, sure, bright, maps))


@pytest.mark.parametrize("how", [SIC(estimator="entropy"), SIC(), AIC()], ids=repr)
def test_a_score_depends_on_neither_batch_nor_chunk(bright, how):
    maps = torch.randn(4, 5, 6)
    maps[1] = 0.5
    how = type(how)(infill=Constant("black"), estimator=how.estimator)
    together = scored(how, adapted(Sure(), size=SIZE, max_rows=8), bright, maps)
    alone = [scored(how, adapted(Sure(), size=SIZE, max_rows=3), bright[row : row + 1], maps[row : row + 1]) for row in range(4)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-5, atol=1e-6)
    again = type(how)(infill=how.infill, estimator=how.estimator, seed=1)
    assert together.isfinite().all() and not scored(again, adapted(Sure(), size=SIZE), bright, maps).equal(together)


def test_images_that_say_nothing_are_skipped(sure):
    bits = pictures(5)
    bits[1] = (bits[1] * 0.2).to(torch.uint8)  # too dark to be sure of
    bits[2] = 200  # less to say than black with its own pixels in it
    batch = batch_of(bits, torch.tensor([0, 0, 0, 1, 0]))  # and the fourth is of another class than it says
    maps = torch.randn(5, *SIZE)
    maps[4, 0, 0] = torch.inf
    for how in (SIC(Constant("black")), AIC(Constant("black"))):
        assert scored(how, sure, batch, maps).isfinite().tolist() == [True, False, False, False, False]
    for how in (SIC(Constant("white")), AIC(Constant("white"))):  # by which nothing is lost
        assert scored(how, sure, batch, maps).isnan().all()
    lax = scored(SIC(Constant("black"), confident=0), sure, batch, maps)
    assert lax.isfinite().tolist() == [True, True, False, False, False]  # black is surer of class 1 than the fourth is


class Forgetful(nn.Module):
    """As sure of class 0 of what shows at most `few` pixels as of what shows all; of anything between, of class 1."""

    def __init__(self, few):
        super().__init__()
        self.few = few

    def forward(self, images):
        shown = (images > -0.99).any(1).flatten(1).sum(1)
        sure = (shown <= self.few) | (shown == images.shape[2] * images.shape[3])
        return torch.stack([torch.where(sure, 5.0, -5.0), torch.zeros(len(images))], 1)


@pytest.mark.parametrize("how", [SIC, AIC], ids=lambda each: each.name)
def test_an_image_whose_blur_gets_as_much_is_skipped(how):
    # What lies between gets less than both, so that only the comparison of the two tells that there is nothing to gain.
    batch = batch_of(pictures(3).clamp_min(100), torch.zeros(3, dtype=torch.int64))
    always = _always_shown(batch.images, 0)
    maps = torch.rand(3, *SIZE).masked_fill(always, -1)
    few = int(always.sum((1, 2)).max())
    model = adapted(Forgetful(few), size=SIZE)
    shown = torch.where(always.unsqueeze(1), batch.images, -1)
    assert model.logits(torch.cat((batch.images, shown))).argmax(1).tolist() == [0] * 6
    assert scored(how(Constant("black")), model, batch, maps).isnan().all()
    none = adapted(Forgetful(0), size=SIZE)  # the same, but for the blur
    assert scored(how(Constant("black")), none, batch, maps).isfinite().all()


@pytest.mark.parametrize("how", [SIC(confident=0), AIC()], ids=lambda each: each.name)
def test_a_model_that_says_the_same_of_everything_gives_no_score(how):
    batch = Batch(torch.randn(2, 3, 24, 40), Targets(torch.tensor([4, 4])), ("a", "b"))
    assert scored(how, adapted(Dead()), batch, torch.randn(2, 24, 40)).isnan().all()


def test_one_logit_is_right_where_it_is_positive():
    model = adapted(SingleLogit())
    batch = batch_of(pictures(24, (24, 40)), torch.zeros(24, dtype=torch.int64))
    with torch.no_grad():
        model.module.head.bias -= (model.logits(batch.images).median() + model.logits(-torch.ones_like(batch.images[:1]))[0, 0]) / 2
    whole = model.logits(batch.images)[:, 0] > 0
    shown = torch.where(_always_shown(batch.images, 0).unsqueeze(1), batch.images, torch.tensor(-1.0))
    black = model.logits(shown)[:, 0] > 0
    found = scored(AIC(Constant("black"), "entropy"), model, batch, torch.randn(24, 24, 40))
    assert found.isfinite().equal(whole & ~black) and len(set(whole.tolist()) | set(black.tolist())) == 2


def test_where_the_creature_is_comes_before_where_it_is_not():
    scenes = draw(range(24), strength=100, seed=5)
    model = adapted(planted_module("shortcut-50"), size=(64, 64), mean=MEAN, std=STD)
    images = (scenes.images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    batch = Batch(images, Targets(scenes.kinds), tuple(map(str, range(24))))
    oracle = scenes.objects
    for how in (SIC(estimator="entropy"), AIC(estimator="entropy")):
        best, worst = (scored(how, model, batch, maps) for maps in (oracle, -oracle))
        told = best.isfinite()
        assert told.sum() >= 5 and best[told].mean() > worst[told].mean() + 0.1, how


# How much information ------------------------------------------------------------------------------------------------------------------


def test_a_webp_is_as_long_as_pillow_writes_it():
    bits = pictures(3)
    sizes = webp_size(bits)
    for one, size in zip(bits, sizes, strict=True):
        file = io.BytesIO()
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(file, format="webp", lossless=True, quality=100)
        assert len(file.getvalue()) == size


def test_entropy_is_that_of_what_neighbours_do_not_tell():
    flat = torch.full((1, 3, 65, 65), 77, dtype=torch.uint8)
    slope = torch.arange(65, dtype=torch.uint8).expand(1, 3, 65, 65)
    noise = torch.randint(0, 256, (1, 3, 65, 65), dtype=torch.uint8)
    grey = noise[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(entropy_size(torch.cat([flat, slope])), torch.zeros(2))
    # 4,096 draws of 8 bits look like a bit or less than that; what red and blue add to grey noise is nothing.
    one, three = entropy_size(torch.cat([grey, noise]))
    assert 0.8 * 4096 < one < 4096 and 2.4 * 4096 < three < 3 * 4096
    with pytest.raises(BadInput, match=r"pictures: got \(1, 3, 65, 65\) torch.float32, allowed: \(R, 3, H, W\) uint8"):
        entropy_size(flat.float())


def test_entropy_is_counted_as_it_says():
    bits = pictures(2, (13, 17))
    for picture, found in zip(bits.long(), entropy_size(bits), strict=True):
        total = 0.0
        for values in (picture[0] - picture[1], picture[1], picture[2] - picture[1]):
            counts = {}
            for row, column in itertools.product(range(1, 13), range(1, 17)):
                left, above, corner, own = (
                    int(values[place]) for place in ((row, column - 1), (row - 1, column), (row - 1, column - 1), (row, column))
                )
                guess = min(left, above) if corner >= max(left, above) else max(left, above) if corner <= min(left, above) else None
                rest = (own - (left + above - corner if guess is None else guess)) % 256
                uneven = abs(left - corner) + abs(above - corner)
                kind = sum(uneven > limit for limit in (1, 3, 7, 13, 25, 45, 80))
                counts.setdefault(kind, Counter())[rest] += 1
            total -= sum(n * math.log2(n / sum(kind.values())) for kind in counts.values() for n in kind.values())
        assert found.item() == pytest.approx(total / 8, rel=1e-6)


def test_both_measures_see_an_image_come_back_alike():
    picture = pictures(1, (64, 80))
    keep = torch.rand(64, 80).argsort(1).argsort(1)
    images = torch.cat([push_pull(picture.float(), (keep < count)[None, None]) for count in (4, 20, 40, 60, 80)])
    webp, entropy = (size(images.round().to(torch.uint8)) for size in (webp_size, entropy_size))
    assert (webp.diff() > 0).all() and (entropy.diff() > 0).all()


def test_what_is_no_picture_and_what_is_no_probability_is_refused(monkeypatch):
    model = adapted(GapCNN())
    batch = Batch(torch.randn(1, 3, 24, 40), Targets(torch.tensor([0])), ("a",))
    monkeypatch.setattr(model, "pictures", False)
    with pytest.raises(Unsupported, match="information curves measure pictures, and GapCNN works on 3 channels"):
        scored(SIC(), model, batch, torch.randn(1, 24, 40))
    with pytest.raises(BadInput, match=r"SIC\(confident=...\): got 1.5, allowed: a probability, from 0 to 1"):
        SIC(confident=1.5)
    with pytest.raises(BadInput, match=r"SIC\(infill=...\): got LayerMask\(.*\), allowed: a InFill"):
        SIC(infill="LayerMask")
    made = metric("SIC(infill=Harmonic(), estimator='entropy')")
    assert metric(repr(made)) == made
