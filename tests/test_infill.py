"""What each fill and in-fill puts into a gap, against closed forms, a direct sparse solver, and the libraries that have it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import GapCNN, adapted
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve
from torch import nn

from attribkit import BadInput, Unavailable, Unsupported
from attribkit.removals import (
    Biharmonic,
    Blur,
    Constant,
    Generator,
    Harmonic,
    ImageMean,
    LocalMean,
    NavierStokes,
    Noise,
    NoisyLinear,
    PushPull,
    RandomColour,
    Telea,
)

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture
def model():
    return adapted(GapCNN(), mean=MEAN, std=STD)


def filled(removal, model, images, keep):
    return removal.filled(model, images, keep)


def centre(height, width, margin):
    """Everything is kept but a rectangle, (1, H, W)."""
    keep = torch.ones(1, height, width, dtype=torch.bool)
    keep[:, margin:-margin, margin:-margin] = False
    return keep


def normalised(pixels):
    mean, std = (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (MEAN, STD))
    return (pixels - mean) / std


# Fills -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("colour", "level"), [("black", 0.0), ("grey", 0.5), ("white", 1.0)])
def test_a_colour_is_that_colour_after_normalisation(model, colour, level):
    images, keep = torch.randn(2, 3, 6, 7, dtype=torch.float64), torch.zeros(2, 6, 7)
    expected = normalised(torch.full((3, 1, 1), level, dtype=torch.float64)).expand(2, 3, 6, 7)
    torch.testing.assert_close(filled(Constant(colour), model, images, keep), expected)
    assert (filled(Constant(), model, images, keep) == 0).all()


def test_the_images_mean_is_of_all_its_pixels(model):
    images = torch.arange(2 * 3 * 4, dtype=torch.float64).view(2, 3, 2, 2)
    keep = torch.tensor([[[1, 0], [0, 1]], [[0, 0], [0, 0]]])
    expected = images.clone()
    for image, channel, mean in ((0, 0, 1.5), (0, 1, 5.5), (0, 2, 9.5), (1, 0, 13.5), (1, 1, 17.5), (1, 2, 21.5)):
        expected[image, channel][keep[image] == 0] = mean
    torch.testing.assert_close(filled(ImageMean(), model, images, keep), expected, **EXACT)


def test_a_blur_is_a_gaussian_of_a_share_of_the_longer_side(model):
    images = torch.randn(2, 3, 24, 40, dtype=torch.float64)
    # 1/20 of 40 is a sigma of 2, cut at 6 pixels.
    expected = ndimage.gaussian_filter(images.numpy(), 2, axes=(2, 3), mode="nearest", truncate=3)
    torch.testing.assert_close(filled(Blur(), model, images, torch.zeros(2, 24, 40)), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_noise_is_uniform_over_colours_and_the_same_for_every_image(model):
    images = torch.randn(2, 3, 60, 50)
    noise = filled(Noise(seed=3), model, images, torch.zeros(2, 60, 50))
    pixels = noise * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert -1e-6 < pixels.min() < 0.01 < 0.99 < pixels.max() < 1 + 1e-6
    assert abs(pixels.std() - 12**-0.5) < 0.01
    torch.testing.assert_close(noise[0], noise[1], rtol=0, atol=0)


def test_a_random_colour_is_one_colour_and_grain(model):
    images = torch.randn(2, 3, 60, 50)
    gone = torch.zeros(2, 60, 50)
    to_pixels = torch.tensor(STD).view(3, 1, 1), torch.tensor(MEAN).view(3, 1, 1)
    plain = filled(RandomColour(noise=0, seed=5), model, images, gone) * to_pixels[0] + to_pixels[1]
    torch.testing.assert_close(plain, plain[:1, :, :1, :1].expand_as(plain), rtol=0, atol=0)
    assert plain.min() >= 0 and plain.max() <= 1 and len(plain[0, :, 0, 0].unique()) == 3
    grainy = filled(RandomColour(noise=0.05, seed=5), model, images, gone) * to_pixels[0] + to_pixels[1]
    inside = (plain > 0.2) & (plain < 0.8)  # four standard deviations from being cut
    assert inside.any() and abs((grainy - plain)[inside].std() - 0.05) < 0.002
    cut = filled(RandomColour(noise=2, seed=5), model, images, gone) * to_pixels[0] + to_pixels[1]
    torch.testing.assert_close(torch.stack([cut.min(), cut.max()]), torch.tensor([0.0, 1.0]), rtol=0, atol=1e-6)


# Local means and the pyramid -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3, 7, 15, 31])
def test_a_local_mean_is_that_of_the_kept_pixels_in_its_window(model, window):
    images = torch.randn(2, 3, 13, 18, dtype=torch.float64)
    keep = torch.rand(2, 13, 18) < 0.1
    reach, expected = window // 2, images.clone()
    for one, row, column in (~keep).nonzero().tolist():
        rows, columns = slice(max(0, row - reach), row + reach + 1), slice(max(0, column - reach), column + reach + 1)
        kept = images[one, :, rows, columns][:, keep[one, rows, columns]]
        expected[one, :, row, column] = kept.mean(1) if kept.shape[1] else 0
    torch.testing.assert_close(filled(LocalMean(window), model, images, keep), expected, **EXACT)


def test_a_local_mean_where_all_is_kept_is_the_box_mean(model):
    images = torch.randn(1, 3, 9, 11, dtype=torch.float64)
    with model.studied():
        means = LocalMean(5).filler(model, images)(torch.tensor([0]), torch.ones(1, 9, 11, dtype=torch.bool))
    expected = F.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    torch.testing.assert_close(means, expected, **EXACT)


def test_a_window_has_a_middle():
    with pytest.raises(BadInput, match=r"LocalMean\(window=...\): got 4, allowed: an odd number"):
        LocalMean(4)


def test_push_pull_halves_and_interpolates(model):
    a, b = 1.0, 17.0
    for keep, expected in (
        ([1, 0, 0, 1], [a, 0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b, b]),
        # Cells of two hold (a, -, -, b), and of those cells of two (a, b).
        ([1, 0, 0, 0, 0, 0, 0, 1], [1, 2, 4, 7, 11, 14, 16, 17]),
        ([0, 1, 0], [a, a, a]),
    ):
        gap = torch.tensor([keep]).unsqueeze(0)
        line = torch.full((1, 3, 1, len(keep)), 99.0, dtype=torch.float64)
        line[..., 0], line[..., -1] = (a, b) if keep[0] else (99.0, 99.0)
        line[..., 1] = 99.0 if keep[0] else a
        for images, kept in ((line, gap), (line.mT, gap.mT)):
            made = filled(PushPull(), model, images, kept).flatten(2)
            torch.testing.assert_close(made, torch.tensor(expected, dtype=torch.float64).expand(1, 3, -1), **EXACT)


# What holds for every in-fill that takes means of what is kept -------------------------------------------------------------------------

MEANS = [LocalMean(), PushPull(), Harmonic(), NoisyLinear(noise=0)]


@pytest.mark.parametrize("removal", MEANS, ids=repr)
@pytest.mark.parametrize("share", [0.002, 0.1, 0.7])
def test_means_stay_between_what_is_kept(model, removal, share):
    images = torch.randn(3, 3, 45, 70)
    keep = torch.rand(3, 45, 70) < share
    made = filled(removal, model, images, keep)
    if isinstance(removal, LocalMean):  # which has a colour of its own where a window is empty
        keep = keep | (made == 0).all(1)
    for image, own, kept in zip(images, made, keep, strict=True):
        low, high = (end.view(3, 1, 1) for end in (image[:, kept].amin(1), image[:, kept].amax(1)))
        slack = 1e-6 if isinstance(removal, LocalMean | PushPull) else 0  # sums that are rounded; solutions are cut
        assert ((own >= low - slack) & (own <= high + slack)).all()
        assert (own[:, ~kept].std(1) > 0.01).all()


@pytest.mark.parametrize("tolerance", [0.1, 1e-5])
def test_solutions_among_black_and_white_are_neither_blacker_nor_whiter(model, tolerance):
    images, keep = (torch.rand(5, 3, 45, 70) < 0.1).float(), torch.rand(5, 45, 70) < 0.5
    for removal in (Harmonic(tolerance), NoisyLinear(noise=0, tolerance=tolerance)):
        made = filled(removal, model, images, keep)
        assert made.min() == 0 and made.max() == 1


@pytest.mark.parametrize("removal", MEANS, ids=repr)
def test_a_constant_image_stays_constant(model, removal):
    images = torch.tensor([0.3, -1.7, 2.2], dtype=torch.float64).view(1, 3, 1, 1).expand(2, 3, 20, 31)
    keep = torch.rand(2, 20, 31) < 0.3
    torch.testing.assert_close(filled(removal, model, images, keep), images, **EXACT)


@pytest.mark.parametrize("removal", [*MEANS, NoisyLinear(), Telea(), NavierStokes(), Biharmonic()], ids=repr)
def test_without_anything_kept_it_is_the_mean_colour_of_training(model, removal):
    made = filled(removal, model, torch.randn(2, 3, 12, 17), torch.zeros(2, 12, 17))
    torch.testing.assert_close(made, torch.zeros_like(made), rtol=0, atol=1e-7)


# The linear systems ----------------------------------------------------------------------------------------------------------------

SOLVED = {"harmonic": Harmonic, "noisy_linear": lambda **settings: NoisyLinear(noise=0, **settings)}


def direct(name, image, keep):
    """The same system by a sparse direct solver: (3, H, W) and (H, W) -> (3, H, W), float64."""
    image, gap = image.double().numpy(), ~keep.numpy()
    around = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1) if down or across]
    weight = {step: {1: 1 / 4, 2: 0}[abs(step[0]) + abs(step[1])] for step in around}
    if name == "noisy_linear":
        weight = {step: {1: 1 / 6, 2: 1 / 12}[abs(step[0]) + abs(step[1])] for step in around}
    place = np.cumsum(gap).reshape(gap.shape) - 1
    rows, columns = np.nonzero(gap)
    total, right, entries = np.zeros(len(rows)), np.zeros((len(rows), 3)), []
    for (down, across), share in weight.items():
        row, column = rows + down, columns + across
        there = np.flatnonzero((row >= 0) & (row < gap.shape[0]) & (column >= 0) & (column < gap.shape[1]))
        total[there] += share
        row, column = row[there], column[there]
        unknown = gap[row, column]
        entries += [(there[unknown], place[row, column][unknown], np.full(unknown.sum(), -share))]
        right[there[~unknown]] += share * image[:, row[~unknown], column[~unknown]].T
    entries += [(np.arange(len(rows)), np.arange(len(rows)), total)]
    at, other, value = (np.concatenate(part) for part in zip(*entries, strict=True))
    image[:, gap] = spsolve(coo_matrix((value, (at, other)), 2 * (len(rows),)).tocsc(), right).T
    return torch.from_numpy(image)


def hard_gaps(height, width):
    """Gaps of many kinds: scattered pixels, large squares, all but a few pixels, all but a border; (n, H, W)."""
    one, two, edge = (torch.zeros(height, width, dtype=torch.bool) for _ in range(3))
    one[5, 7] = two[1, 2] = two[-9, -20] = True
    edge[:, 0] = True
    blocks = (torch.rand(-(-height // 16), -(-width // 16)) < 0.4).repeat_interleave(16, 0).repeat_interleave(16, 1)
    kept = (torch.rand(height, width) < share for share in (0.5, 0.05, 0.003))
    return torch.stack([one, two, edge, blocks[:height, :width], centre(height, width, 8)[0], *kept])


@pytest.mark.parametrize("name", SOLVED)
@pytest.mark.parametrize("size", [(75, 110), (64, 64)])
def test_the_system_is_solved_as_a_direct_solver_does(model, name, size):
    keep = hard_gaps(*size)
    images = torch.randn(len(keep), 3, *size, dtype=torch.float64)
    images[::2] += torch.linspace(-3, 3, size[1]).double()
    expected = torch.stack([direct(name, *each) for each in zip(images, keep, strict=True)])
    span = 8.0  # about what the kept values of every image here span
    exact = filled(SOLVED[name](tolerance=1e-11), model, images, keep)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-9 * span)
    # The tolerance bounds a step, and a dozen of such steps are what may still be missing.
    single = filled(SOLVED[name](), model, images.float(), keep)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=12e-5 * span)
    rough = filled(SOLVED[name](tolerance=1e-2), model, images, keep)
    assert 1e-5 < (rough - expected).abs().max() < 0.12 * span


@pytest.mark.parametrize("name", SOLVED)
def test_large_gaps_of_a_whole_picture_are_solved_to_a_thousandth(model, name):
    keep = torch.stack([torch.rand(224, 224) < 0.05, centre(224, 224, 28)[0], torch.zeros(224, 224, dtype=torch.bool)])
    keep[2, [5, 200], [7, 190]] = True
    images = torch.randn(3, 3, 224, 224) + 10  # two pixels alone, of ten and a bit: no digit to lose
    expected = torch.stack([direct(name, *each) for each in zip(images, keep, strict=True)])
    torch.testing.assert_close(filled(SOLVED[name](), model, images, keep).double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SOLVED)
def test_the_tolerance_is_a_share_of_the_range(model, name):
    images, keep = torch.randn(1, 3, 40, 50), torch.rand(1, 40, 50) < 0.1
    rough = SOLVED[name](tolerance=1e-3)
    torch.testing.assert_close(filled(rough, model, 1024 * images, keep), 1024 * filled(rough, model, images, keep), rtol=0, atol=0)


@pytest.mark.parametrize("name", SOLVED)
def test_discrete_harmonic_functions_are_continued_exactly(model, name):
    y, x = (each.double() / 20 for each in torch.meshgrid(torch.arange(-20, 20), torch.arange(-30, 30), indexing="ij"))
    images = torch.stack([2 * x - 3 * y + 1, x * x - y * y, x**3 - 3 * x * y * y]).unsqueeze(0)
    keep = centre(40, 60, 5)
    made = filled(SOLVED[name](tolerance=1e-12), model, images, keep)
    torch.testing.assert_close(made, images, rtol=0, atol=1e-9)


def test_in_one_dimension_a_gap_is_a_straight_line_and_flat_beyond_the_last_pixel(model):
    line = torch.full((1, 3, 1, 12), 50.0, dtype=torch.float64)
    line[..., 3], line[..., 9] = 1.0, 4.0
    keep = torch.zeros(1, 1, 12)
    keep[..., [3, 9]] = 1
    expected = torch.tensor([1, 1, 1, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4, 4], dtype=torch.float64).expand(1, 3, -1)
    for removal in (Harmonic(tolerance=1e-12), NoisyLinear(noise=0, tolerance=1e-12)):
        torch.testing.assert_close(filled(removal, model, line, keep).flatten(2), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(filled(removal, model, line.mT, keep.mT).flatten(2), expected, rtol=0, atol=1e-9)


def test_diagonal_neighbours_count_half(model):
    images = torch.full((1, 3, 3, 3), -100.0, dtype=torch.float64)
    images[0, :, [0, 0, 2, 2], [0, 2, 0, 2]] = 12.0
    images[0, :, [0, 1, 1, 2], [1, 0, 2, 1]] = 0.0
    keep = torch.ones(1, 3, 3)
    keep[0, 1, 1] = 0
    assert filled(NoisyLinear(noise=0), model, images, keep)[0, 0, 1, 1].item() == pytest.approx(4.0, abs=1e-9)
    assert filled(Harmonic(), model, images, keep)[0, 0, 1, 1].item() == pytest.approx(0.0, abs=1e-9)
    keep = torch.ones(1, 3, 3)
    keep[0, 0, 1] = 0  # at the border: three straight neighbours, of which one is in the middle, and two diagonal ones
    images[0, :, 1, 1] = 6.0
    # (1/6 (12 + 12 + 6) + 1/12 (0 + 0)) / (3/6 + 2/12)
    assert filled(NoisyLinear(noise=0), model, images, keep)[0, 0, 0, 1].item() == pytest.approx(7.5, abs=1e-9)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of what the library asks NumPy
def test_noisy_linear_is_roads_imputer(model):
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    for share in (0.9, 0.5, 0.1):
        image, keep = torch.randn(3, 32, 45), torch.rand(32, 45) < share
        expected = road.NoisyLinearImputer(noise=0)(image, keep.float())
        made = filled(NoisyLinear(noise=0, tolerance=1e-7), model, image.unsqueeze(0), keep.unsqueeze(0))[0]
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


def test_its_noise_is_in_the_gaps_alone_and_each_image_and_gap_has_its_own(model):
    image = torch.randn(1, 3, 60, 80)
    images = torch.cat([image, image, image + 0.5])
    keep = torch.rand(60, 80) < 0.4
    keeps = torch.stack([keep, keep, keep])
    grain = (filled(NoisyLinear(noise=0.02), model, images, keeps) - filled(NoisyLinear(noise=0), model, images, keeps)).transpose(0, 1)
    gaps = grain[:, :, ~keep]
    assert (grain[:, :, keep] == 0).all()
    assert (gaps.std((0, 2)) - 0.02).abs().max() < 0.001 and gaps.mean((0, 2)).abs().max() < 0.001
    torch.testing.assert_close(gaps[:, 0], gaps[:, 1], rtol=0, atol=0)
    assert torch.corrcoef(gaps[:, [0, 2]].transpose(0, 1).flatten(1))[0, 1].abs() < 0.05
    another = keep.clone()
    another[0, 0] = ~another[0, 0]
    other = filled(NoisyLinear(noise=0.02), model, image, another[None]) - filled(NoisyLinear(noise=0), model, image, another[None])
    both = ~keep & ~another
    assert torch.corrcoef(torch.stack([grain[:, 0, both].flatten(), other[0, :, both].flatten()]))[0, 1].abs() < 0.05
    assert torch.corrcoef(gaps[:, 0])[0, 1].abs() < 0.1  # nor do channels share one


# Libraries on the host -------------------------------------------------------------------------------------------------------------


def photograph(size=(48, 64)):
    from skimage import data, transform

    picture = transform.resize(data.astronaut(), size, anti_aliasing=True)
    return np.rint(255 * picture).astype(np.uint8)


@pytest.mark.parametrize(("removal", "flag"), [(Telea(), "INPAINT_TELEA"), (NavierStokes(), "INPAINT_NS"), (Telea(7.5), "INPAINT_TELEA")])
def test_opencv_is_asked_in_its_own_terms(model, removal, flag):
    cv2 = pytest.importorskip("cv2")
    bits = photograph()
    keep = torch.rand(48, 64) < 0.6
    keep[20:28, 30:44] = False
    missing = (~keep.numpy()).astype(np.uint8)
    expected = torch.from_numpy(cv2.inpaint(bits * (1 - missing[..., None]), missing, removal.radius, getattr(cv2, flag)))
    images = normalised(torch.from_numpy(bits).permute(2, 0, 1).double() / 255).unsqueeze(0)
    made = filled(removal, model, images, keep.unsqueeze(0))[0]
    torch.testing.assert_close(made, normalised(expected.permute(2, 0, 1).double() / 255), rtol=0, atol=1e-9)


def test_biharmonic_is_scikit_images(model):
    from skimage.restoration import inpaint_biharmonic

    picture = photograph((24, 32)) / 255
    keep = torch.rand(24, 32) < 0.7
    expected = inpaint_biharmonic(picture * keep.numpy()[..., None], ~keep.numpy(), channel_axis=-1)
    images = normalised(torch.from_numpy(picture).permute(2, 0, 1)).unsqueeze(0)
    made = filled(Biharmonic(), model, images, keep.unsqueeze(0))[0]
    torch.testing.assert_close(made, normalised(torch.from_numpy(expected).permute(2, 0, 1)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("removal", [Telea(), NavierStokes()])
def test_a_missing_opencv_is_told_in_one_line(model, removal, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    images, keep = torch.randn(1, 3, 8, 8), centre(8, 8, 2)
    with pytest.raises(Unavailable, match="Telea and NavierStokes need OpenCV, .* pip install .*opencv-python-headless") as raised:
        removal(model, images, keep)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("removal", [Telea(), NavierStokes(), Biharmonic(), Constant("grey"), RandomColour()], ids=repr)
def test_pictures_have_three_channels(model, removal, monkeypatch):
    with pytest.raises(BadInput, match=r"got \(1, 4, 8, 8\) torch.float32, allowed: floating-point \(B, 3, H, W\)"):
        removal.filled(model, torch.randn(1, 4, 8, 8), centre(8, 8, 2))
    monkeypatch.setattr(model, "pictures", False)
    monkeypatch.setattr(model, "channels", 4)  # as of the rest of a model, whose images are activations
    with pytest.raises(Unsupported, match="works on 4 channels; allowed"):
        removal.filled(model, torch.randn(1, 4, 8, 8), centre(8, 8, 2))


# One's own network -----------------------------------------------------------------------------------------------------------------


class Painter(nn.Module):
    """Says in each pixel what it saw: training or not, gradients or not, and the mean of `keep`."""

    def __init__(self, error=None):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.inner = nn.Dropout(0.5)
        self.error = error

    def forward(self, images, keep):
        if self.error:
            raise self.error
        saw = torch.stack([torch.tensor(float(self.training or self.inner.training)), torch.tensor(float(torch.is_grad_enabled()))])
        assert images.requires_grad is False and self.weight.requires_grad is False
        return torch.cat([saw.view(1, 2, 1, 1).expand(len(images), 2, *images.shape[-2:]), keep], 1) * self.weight


@pytest.mark.parametrize("training", [True, False])
def test_a_network_of_ones_own_runs_in_evaluation_mode_and_comes_back_as_it_was(model, training):
    painter = Painter().train(training)
    painter.inner.train(not training)
    images, keep = torch.randn(2, 3, 8, 8), centre(8, 8, 2).expand(2, -1, -1)
    made = filled(Generator(painter), model, images, keep)
    torch.testing.assert_close(made[:, :, ~keep[0]], torch.zeros(2, 3, 16), rtol=0, atol=0)
    assert (painter.training, painter.inner.training, painter.weight.requires_grad) == (training, not training, True)
    painter.error = RuntimeError("no paint")
    with pytest.raises(RuntimeError, match="no paint"):
        filled(Generator(painter), model, images, keep)
    assert (painter.training, painter.inner.training, painter.weight.requires_grad) == (training, not training, True)


def test_a_callable_gets_the_images_without_what_is_removed(model):
    seen = []

    def paint(images, keep):
        seen.append((images.clone(), keep.clone()))
        return (images + 7).double()

    images, keep = torch.randn(2, 3, 8, 8), centre(8, 8, 2).expand(2, -1, -1)
    made = filled(Generator(paint), model, images, keep)
    ((got, kept),) = seen
    torch.testing.assert_close(kept, keep.unsqueeze(1).float(), rtol=0, atol=0)
    torch.testing.assert_close(got, images * kept, rtol=0, atol=0)
    torch.testing.assert_close(made, torch.where(keep.unsqueeze(1), images, torch.tensor(7.0)), rtol=0, atol=0)
    assert repr(Generator(paint)).endswith("paint)") and repr(Generator(Painter())) == "Generator(module=Painter)"


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (lambda images, keep: images[:, :1], r"\(2, 1, 8, 8\) torch.float32"),
        (lambda images, keep: images[0], r"\(3, 8, 8\) torch.float32"),
        (lambda images, keep: images.long(), r"\(2, 3, 8, 8\) torch.int64"),
        (lambda images, keep: images.numpy(), "ndarray"),
    ],
)
def test_a_callable_that_returns_something_else_is_told_so(model, wrong, got):
    with pytest.raises(BadInput, match=rf"Generator\(.*\): returned {got}, allowed: floating-point \(2, 3, 8, 8\)"):
        filled(Generator(wrong), model, torch.randn(2, 3, 8, 8), centre(8, 8, 2).expand(2, -1, -1))
    with pytest.raises(BadInput, match=r"Generator\(module=...\): got 'lama', allowed: a callable"):
        Generator("lama")


def test_a_random_colour_is_drawn_anew_for_each_mask_and_is_the_same_for_the_same(model):
    images, keep = torch.zeros(3, 3, 20, 30), torch.ones(3, 20, 30)
    keep[:2, 4:9, 4:9] = 0
    keep[2, 4:9, 4:10] = 0
    filled = RandomColour().filled(model, images, keep)[:, :, 4:9, 4:9]
    assert filled[0].equal(filled[1])  # neither the place in the batch nor what was removed
    assert (filled[0].mean((1, 2)) - filled[2].mean((1, 2))).abs().max() > 0.05
    assert not RandomColour(seed=1).filled(model, images, keep)[0, :, 4:9, 4:9].equal(filled[0])


def test_a_module_is_not_a_model(model):
    with pytest.raises(BadInput, match="model: got .*, allowed: a VisionModel"):
        Constant()(model.module, torch.zeros(1, 3, 8, 8), torch.ones(1, 8, 8))
    with pytest.raises(BadInput, match=r"keep: got \(1, 8, 8\) torch.complex64"):
        Constant()(model, torch.zeros(1, 3, 8, 8), torch.ones(1, 8, 8, dtype=torch.complex64))
