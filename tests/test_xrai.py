"""XRAI against the text of METHODS 3 written out pixel by pixel, its invariants, closed forms, and PAIR's own."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch
from models import GapCNN, LinearModel, Recorded, TinyViT, adapted

from attribkit import BadInput, Targets, Unsupported
from attribkit.methods import METHODS, XRAI, GradCAM, Gradient, InputXGradient, IntegratedGradients
from attribkit.methods.ranking import cover, ranked, selected, swept
from attribkit.registry import read
from attribkit.segments import SLIC, Felzenszwalb, Labels, Squares

SIZE = (24, 40)


def disk_grown(mask: np.ndarray, radius: int) -> np.ndarray:
    """Every pixel that has one of the mask's within `radius`."""
    wide = np.pad(mask, radius)
    near = [(row, column) for row in range(-radius, radius + 1) for column in range(-radius, radius + 1) if row**2 + column**2 <= radius**2]
    return np.any([np.roll(wide, shift, (0, 1)) for shift in near], axis=0)[radius:, radius:][: mask.shape[0], : mask.shape[1]]


def masks_of(labels: np.ndarray, dilation: int) -> list[np.ndarray]:
    return [disk_grown(each == label, dilation) for each in labels for label in range(each.max() + 1) if (each == label).any()]


def greedy_by_hand(a, masks, area_threshold, min_pixels):
    """METHODS 3.1, 3: the regions in the order they were added."""
    covered, left, regions = np.zeros(a.shape, bool), list(masks), []
    while covered.mean() <= area_threshold:
        left = [mask for mask in left if (mask & ~covered).sum() >= min_pixels]
        if not left:
            break
        gains = [a[mask & ~covered].mean() for mask in left]
        best = max(range(len(left)), key=lambda place: (gains[place], -place))
        regions.append(left[best] & ~covered)
        covered |= left.pop(best)
    return regions


def sweep_by_hand(a, masks, min_pixels):
    """METHODS 3.1, 4."""
    covered, regions = np.zeros(a.shape, bool), []
    for mask in sorted(masks, key=lambda mask: -a[mask].mean()):
        if (mask & ~covered).sum() >= min_pixels:
            regions.append(mask & ~covered)
            covered |= mask
    return regions


def painted_by_hand(a, regions):
    """METHODS 3.1, 5: heat, ranks, and which step took each pixel."""
    heat, ranks, steps = np.zeros(a.shape), np.zeros(a.shape, int), np.full(a.shape, -1)
    rest = ~np.any([*regions, np.zeros(a.shape, bool)], axis=0)
    by_value = sorted(regions, key=lambda region: -a[region].mean()) + ([rest] if rest.any() else [])
    for rank, region in enumerate(by_value, 1):
        heat[region], ranks[region] = a[region].mean(), rank
    for step, region in enumerate(regions):
        steps[region] = step
    return heat, ranks, steps


def numbers(shape, seed=0):
    """Smooth whole numbers, whose sums are exact: the order of a sum decides nothing."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    smooth = torch.nn.functional.avg_pool2d(noise.unsqueeze(1), 5, 1, 2, count_include_pad=False).squeeze(1)
    return (smooth * 1000).round()


def blobs(images, maps, size, seed=0, most=9):
    """Label maps of nearest centres, of which every map has another number."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.stack(torch.meshgrid(*(torch.arange(length) for length in size), indexing="ij"), -1).double()
    labels = torch.empty(images, maps, *size, dtype=torch.int64)
    for image in range(images):
        for each in range(maps):
            centres = torch.rand(3 + (image + each) % most, 2, generator=generator, dtype=torch.float64) * torch.tensor(size)
            labels[image, each] = (at.unsqueeze(2) - centres).square().sum(-1).argmin(-1)
    return labels


def xrai(values, labels, *, algorithm="full", area_threshold=1.0, min_pixels=50, dilation=5):
    masks = cover(values, labels, dilation=dilation)
    full = algorithm == "full"
    taken = selected(masks, area_threshold=area_threshold, min_pixels=min_pixels) if full else swept(masks, min_pixels=min_pixels)
    # A mask that is skipped has a step too: the regions alone are numbered here.
    numbered = torch.stack([torch.unique(torch.cat((each, each.new_tensor([-1]))), return_inverse=True)[1][:-1] - 1 for each in taken])
    return (*ranked(values, taken), numbered.view(values.shape))


CASES = [
    *(("full", threshold, least, dilation) for threshold in (1.0, 0.4, 0.0) for least, dilation in ((50, 5), (7, 2))),
    ("full", 1.0, 1, 0),
    ("fast", 1.0, 50, 5),
    ("fast", 0.3, 7, 2),
    ("fast", 1.0, 1, 0),
]


@pytest.mark.parametrize(("algorithm", "threshold", "least", "dilation"), CASES)
def test_order_heat_and_ranks_are_those_of_the_text(algorithm, threshold, least, dilation):
    values, labels = numbers((3, *SIZE)), blobs(3, 4, SIZE)
    heat, ranks, taken = xrai(values, labels, algorithm=algorithm, area_threshold=threshold, min_pixels=least, dilation=dilation)
    for image in range(3):
        a, masks = values[image].numpy(), masks_of(labels[image].numpy(), dilation)
        regions = greedy_by_hand(a, masks, threshold, least) if algorithm == "full" else sweep_by_hand(a, masks, least)
        expected = painted_by_hand(a, regions)
        assert (taken[image].numpy() == expected[2]).all()
        np.testing.assert_allclose(heat[image].numpy(), expected[0], rtol=1e-13)
        assert (ranks[image].numpy() == expected[1]).all()


def test_equal_means_go_by_the_order_of_the_masks_and_ranks_by_the_order_of_the_steps():
    # Columns of 2, 1, 2, 1 in two maps that say the same: the first of each pair is taken first, by both algorithms.
    values = torch.tensor([2.0, 1.0, 2.0, 1.0], dtype=torch.float64).repeat_interleave(10).expand(1, 24, 40)
    labels = (torch.arange(40) // 10).expand(1, 2, 24, 40)
    for algorithm in ("full", "fast"):
        _, ranks, taken = xrai(values, labels, algorithm=algorithm, dilation=0)
        assert ranks[0, 0, ::10].tolist() == [1, 3, 2, 4] and taken[0, 0, ::10].tolist() == [0, 2, 1, 3]


def test_two_disjoint_regions_and_the_rest_by_hand():
    # 60 pixels of mean 2, 80 of mean 5, and a rest whose mean, 9, is the largest and whose rank is still the last.
    values = torch.full((1, 24, 40), 9.0, dtype=torch.float64)
    labels = torch.full((1, 1, 24, 40), -1)
    values[0, :6, :10], labels[0, 0, :6, :10] = 2.0, 0
    values[0, 10:18, 20:30], labels[0, 0, 10:18, 20:30] = 5.0, 1
    values[0, 10, 20], values[0, 10, 21] = 1.0, 9.0  # the mean of a region is what counts
    for algorithm in ("full", "fast"):
        heat, ranks, _ = xrai(values, labels, algorithm=algorithm, dilation=0)
        expected = torch.full_like(values, 9.0)
        expected[0, :6, :10], expected[0, 10:18, 20:30] = 2.0, 5.0
        torch.testing.assert_close(heat, expected, rtol=1e-14, atol=0)
        assert (ranks[0, 0, 0], ranks[0, 10, 20], ranks[0, 23, 39]) == (2, 1, 3) and ranks.unique().tolist() == [1, 2, 3]


def test_a_difference_may_have_a_larger_mean_than_the_region_before_it():
    # Four stripes. One mask is the second and third (mean 5), the other the third and fourth (4.5): once the first is taken, the other
    # has the fourth left, 7. Its rank is before that of the one which was taken before it; the first stripe is nobody's.
    values = torch.tensor([-9.0, 8.0, 2.0, 7.0], dtype=torch.float64).repeat_interleave(10).expand(1, 24, 40)
    one, other = torch.tensor([-1, 0, 0, -1]), torch.tensor([-1, -1, 0, 0])
    labels = torch.stack([each.repeat_interleave(10).expand(24, 40) for each in (one, other)]).unsqueeze(0)
    for algorithm in ("full", "fast"):
        heat, ranks, taken = xrai(values, labels, algorithm=algorithm, dilation=0)
        assert heat[0, 0, ::10].tolist() == [-9.0, 5.0, 5.0, 7.0]
        assert taken[0, 0, ::10].tolist() == [-1, 0, 0, 1] and ranks[0, 0, ::10].tolist() == [3, 2, 2, 1]


@pytest.mark.parametrize("threshold", [1.0, 0.5, 0.1, 0.0])
@pytest.mark.parametrize("algorithm", ["full", "fast"])
def test_sums_are_kept_and_regions_are_a_ranked_partition(algorithm, threshold):
    values, labels = torch.randn(4, *SIZE, dtype=torch.float64), blobs(4, 3, SIZE, seed=1)
    heat, ranks, taken = xrai(values, labels, algorithm=algorithm, area_threshold=threshold, min_pixels=20, dilation=3)
    torch.testing.assert_close(heat.sum((1, 2)), values.sum((1, 2)), rtol=1e-12, atol=1e-10)
    for own, a, rank, step in zip(heat, values, ranks, taken, strict=True):
        assert rank.unique().tolist() == list(range(1, int(rank.amax()) + 1))
        levels = [own[rank == place] for place in range(1, int(rank.amax()) + 1)]
        for place, level in enumerate(levels, 1):
            assert (level == level[0]).all() and len(step[rank == place].unique()) == 1
            torch.testing.assert_close(level[0], a[rank == place].mean(), rtol=1e-12, atol=1e-14)
        ranked_alone = levels[:-1] if (step < 0).any() else levels
        assert all(one[0] >= other[0] for one, other in itertools.pairwise(ranked_alone))
        assert (step < 0).any() == bool((step[rank == rank.amax()] < 0).all())


def test_area_threshold_stops_after_the_step_that_passes_it():
    # Eight stripes of 5 columns, each an eighth: at 0.25 the loop goes on while at most a quarter is covered, and so adds a third stripe.
    values = torch.arange(40, dtype=torch.float64).flip(0).div(5, rounding_mode="floor").expand(1, 24, 40)
    labels = (torch.arange(40) // 5).expand(1, 1, 24, 40)
    for threshold, regions in ((0.0, 1), (0.24, 2), (0.25, 3), (1.0, 8)):
        _, ranks, taken = xrai(values, labels, area_threshold=threshold, dilation=0)
        assert int(taken.amax()) + 1 == regions
        assert int(ranks.amax()) == min(regions + 1, 8)


def test_fewer_than_the_least_pixels_are_left_over():
    # Stripes of 24, 25 and 911 pixels: at a least of 25 the first is nobody's.
    columns = torch.zeros(960, dtype=torch.int64)
    columns[24:49], columns[49:] = 1, 2
    for algorithm in ("full", "fast"):
        values = torch.where(columns == 0, 7.0, columns.double()).view(1, *SIZE)
        _, ranks, taken = xrai(values, columns.view(1, 1, *SIZE), algorithm=algorithm, min_pixels=25, dilation=0)
        assert [int(ranks.flatten()[at]) for at in (0, 30, 500)] == [3, 2, 1]
        assert (taken.flatten() == -1).sum() == 24


@pytest.mark.parametrize("algorithm", ["full", "fast"])
def test_a_constant_shifts_the_map_and_a_factor_scales_it(algorithm):
    values, labels = numbers((2, *SIZE)), blobs(2, 3, SIZE)
    heat, ranks, _ = xrai(values, labels, algorithm=algorithm, min_pixels=10)
    shifted = xrai(values + 4096, labels, algorithm=algorithm, min_pixels=10)
    scaled = xrai(values * 4, labels, algorithm=algorithm, min_pixels=10)
    torch.testing.assert_close(shifted[0], heat + 4096, rtol=1e-13, atol=0)
    torch.testing.assert_close(scaled[0], heat * 4, rtol=0, atol=0)
    assert (shifted[1] == ranks).all() and (scaled[1] == ranks).all()


@pytest.mark.parametrize("algorithm", ["full", "fast"])
def test_one_region_of_the_whole_image_gives_the_mean_and_so_does_none(algorithm):
    values = torch.randn(2, *SIZE, dtype=torch.float64)
    for label in (0, -1):
        heat, ranks, _ = xrai(values, torch.full((2, 1, *SIZE), label), algorithm=algorithm)
        torch.testing.assert_close(heat, values.mean((1, 2), keepdim=True).expand_as(heat), rtol=1e-12, atol=1e-15)
        assert (ranks == 1).all()
    flat = xrai(torch.zeros(2, *SIZE), blobs(2, 3, SIZE), algorithm=algorithm)
    assert flat[0].abs().amax() == 0 and flat[1].amin() == 1


def test_hundreds_of_masks_of_many_images_fill_several_words():
    # 4 x 4 squares, 60 of them in one map and 15 of 8 x 8 in another, the third image having fewer: 75 masks need two words of 64.
    labels = torch.cat((Squares(4)(torch.zeros(3, 3, *SIZE)), Squares(8)(torch.zeros(3, 3, *SIZE))), 1)
    labels[2] = blobs(1, 2, SIZE)[0]
    values = numbers((3, *SIZE), seed=3)
    heat, ranks, _ = xrai(values, labels, min_pixels=3, dilation=1)
    for image in range(3):
        regions = greedy_by_hand(values[image].numpy(), masks_of(labels[image].numpy(), 1), 1.0, 3)
        expected = painted_by_hand(values[image].numpy(), regions)
        np.testing.assert_allclose(heat[image].numpy(), expected[0], rtol=1e-13)
        assert (ranks[image].numpy() == expected[1]).all()


@pytest.mark.parametrize("size", [(24, 40), (3, 9), (1, 1)])
def test_masks_grow_by_a_disk(size):
    labels = blobs(2, 2, size)
    masks = cover(torch.zeros(2, *size), labels, dilation=5)
    for image in range(2):
        for place, expected in enumerate(masks_of(labels[image].numpy(), 5)):
            mask = torch.full((2,), place)
            assert (masks.within(mask)[masks.atom[image]].view(size).numpy() == expected).all()


# The method --------------------------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_reference():
    method = XRAI()
    assert method.method == IntegratedGradients(steps=100, baseline=("min", "max"), channels="max")
    assert method.segmenter == Felzenszwalb((50, 100, 150, 250, 500, 1200), 0.8, 150)
    assert (method.algorithm, method.area_threshold, method.min_pixels, method.dilation) == ("full", 1.0, 50, 5)


@pytest.mark.parametrize("algorithm", ["full", "fast"])
def test_any_method_and_any_segmenter_go_together(algorithm):
    module, images = TinyViT().double(), torch.randn(2, 3, *SIZE, dtype=torch.float64)
    model, targets = adapted(module), Targets(torch.tensor([1, 4]))
    for inner, segmenter in ((InputXGradient(), Squares(8)), (IntegratedGradients(steps=2), SLIC(segments=12))):
        method = XRAI(inner, segmenter, algorithm, min_pixels=10, dilation=2)
        result = method.explained(model, images, targets)
        values = inner.explained(model, images, targets).maps
        labels = segmenter(model.preprocessing.pixels(images))
        for image in range(2):
            a, masks = values[image].numpy(), masks_of(labels[image].numpy(), 2)
            regions = greedy_by_hand(a, masks, 1.0, 10) if algorithm == "full" else sweep_by_hand(a, masks, 10)
            heat, ranks, _ = painted_by_hand(a, regions)
            np.testing.assert_allclose(result.maps[image].numpy(), heat, rtol=1e-9, atol=1e-15)
            assert (result.extras["ranks"][image].numpy() == ranks).all()


def test_a_coarse_map_is_brought_to_the_size_of_the_image():
    model = adapted(GapCNN().double())
    images, targets = torch.randn(1, 3, *SIZE, dtype=torch.float64), Targets(torch.tensor([1]))
    maps = GradCAM().explained(model, images, targets).maps
    large = torch.nn.functional.interpolate(maps.unsqueeze(1), size=SIZE, mode="bilinear", align_corners=False).squeeze(1)
    whole = XRAI(GradCAM(), Labels(torch.zeros(SIZE, dtype=torch.int64))).explained(model, images, targets)
    assert whole.maps.shape == (1, *SIZE) and maps.shape != large.shape
    torch.testing.assert_close(whole.maps, large.mean((1, 2), keepdim=True).expand_as(large), rtol=1e-10, atol=1e-15)


def test_the_segmenter_is_shown_pixels_and_not_what_the_model_is():
    seen = []
    model = adapted(GapCNN(), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    images = torch.randn(2, 3, *SIZE)
    segmenter = Labels(lambda picture: seen.append(picture) or np.zeros(SIZE, int))
    XRAI(Gradient(), segmenter).explained(model, images, Targets(torch.tensor([0, 1])))
    expected = (images * torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1) + torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)).clamp(0, 1)
    torch.testing.assert_close(torch.from_numpy(np.stack(seen)), expected.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-7)


def test_what_is_needed_is_what_the_inner_method_needs():
    assert XRAI().needs == {"gradients"} and XRAI(method=GradCAM()).needs == GradCAM.needs
    assert XRAI(method="random_map").needs == frozenset()
    with pytest.raises(Unsupported, match="needs a spatial layer"):
        adapted(LinearModel()).require(XRAI(method=GradCAM()).needs, by=XRAI(method=GradCAM()))


def test_regions_are_made_while_the_model_is_asked(monkeypatch):
    """The workers' answer waits for the model's first forward: were the model asked only afterwards, this would never end."""
    asked = threading.Event()

    class Telling(GapCNN):
        def forward(self, images):
            asked.set()
            return super().forward(images)

    def answered(jobs):
        assert asked.wait(20), "the model was not asked while the regions were made"
        return [work(*given, **settings) for work, given, settings in jobs]

    monkeypatch.setattr("attribkit.segments._workers", lambda: 2)
    monkeypatch.setattr("attribkit.segments._in_workers", answered)
    model = adapted(Telling())
    maps = XRAI(method=Gradient()).explained(model, torch.randn(2, 3, *SIZE), Targets(torch.tensor([0, 1]))).maps
    assert asked.is_set() and maps.shape == (2, *SIZE)


def test_a_map_that_is_not_finite_is_refused():
    module = LinearModel()
    with torch.no_grad():
        module.head.weight[1, 7] = float("nan")
    method = XRAI(method=Gradient(), segmenter=Squares(8))
    with pytest.raises(BadInput, match=r"a map of Gradient\(.*\) that is not finite, allowed: finite numbers"):
        method.explained(adapted(module), torch.randn(1, 3, *SIZE), Targets(torch.tensor([1])))


def test_activations_are_no_picture():
    module = Recorded(GapCNN())
    model = adapted(module)
    model.pictures = False
    with pytest.raises(Unsupported, match="XRAI needs a picture to divide, and Recorded works on 8 channels of a layer"):
        XRAI().explained(model, torch.randn(1, 8, 6, 10), Targets(torch.tensor([1])))
    assert not module.rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": "slow"}, "allowed: 'full' or 'fast'"),
        ({"area_threshold": -0.1}, "a number of at least 0"),
        ({"area_threshold": 1.5}, "got 1.5, allowed: a share of the image, from 0 to 1"),
        ({"min_pixels": 0}, "an int of at least 1"),
        ({"dilation": -1}, "an int of at least 0"),
        ({"segmenter": "slices"}, "no segmenter is called 'slices'"),
    ],
)
def test_wrong_settings_are_one_clear_line(settings, message):
    with pytest.raises(BadInput, match=message):
        XRAI(**settings)


def test_settings_are_read_as_they_print():
    method = XRAI(GradCAM(layer="layer4"), SLIC(segments=50), "fast", dilation=2)
    assert read(repr(method), METHODS) == method == read("XRAI(GradCAM('layer4'), SLIC(50), algorithm='fast', dilation=2)", METHODS)
    assert read("XRAI(method=gradient, segmenter=squares)", METHODS) == XRAI(Gradient(), Squares())
    own = XRAI(segmenter=Labels(torch.zeros(SIZE, dtype=torch.int64)))
    assert own == own and own != XRAI(segmenter=Labels(torch.zeros(SIZE, dtype=torch.int64))) and isinstance(hash(own), int)


# The reference's own -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("saliency.core.xrai", reason="PAIR's saliency is not installed")


def theirs(reference, attribution, masks, picture, algorithm, threshold=1.0):
    about = reference.XRAIParameters(return_xrai_segments=True, algorithm=algorithm, area_threshold=threshold)
    attribution = np.repeat(attribution[..., None], 3, -1)
    out = reference.XRAI().GetMaskWithDetails(picture, None, segments=masks, base_attribution=attribution, extra_parameters=about)
    return out.attribution_mask, out.segments


@pytest.mark.parametrize(("algorithm", "threshold"), [("full", 1.0), ("full", 0.3), ("fast", 1.0)])
def test_agrees_with_pair_on_the_same_attribution_and_segments(reference, algorithm, threshold):
    size = (48, 64)
    values, labels = torch.randn(2, *size, dtype=torch.float64), blobs(2, 4, size, most=13)
    heat, ranks, _ = xrai(values, labels, algorithm=algorithm, area_threshold=threshold)
    for image in range(2):
        masks = masks_of(labels[image].numpy(), 5)
        expected = theirs(reference, values[image].numpy(), masks, np.zeros((*size, 3)), algorithm, threshold)
        np.testing.assert_allclose(heat[image].numpy(), expected[0], rtol=1e-10, atol=1e-14)
        assert (ranks[image].numpy() == expected[1]).all()


def test_agrees_with_pair_on_a_photograph_and_its_own_segments(reference):
    from skimage import data

    picture = (data.chelsea()[::3, ::3] / 255).astype(np.float32)  # 100 x 151: regions are made at 224 x 224 and brought back
    size = picture.shape[:2]
    values = numbers((1, *size))
    labels = Felzenszwalb()(torch.from_numpy(picture).permute(2, 0, 1).unsqueeze(0))
    heat, ranks, _ = xrai(values, labels)
    expected = theirs(reference, values[0].numpy(), None, picture, "full")
    np.testing.assert_allclose(heat[0].numpy(), expected[0], rtol=1e-10)
    assert (ranks[0].numpy() == expected[1]).all()
