"""Methods around other methods: against closed forms, loops written out, captum, and what composition must keep."""

from __future__ import annotations

import pickle

import pytest
import torch
from models import SIZE, ChannelsLastCNN, GapCNN, LinearModel, Recorded, ReluCNN, ResidualCNN, TinyViT, adapted
from torch import nn

from attribkit import METHODS, BadInput, Batch, Targets, Unsupported
from attribkit.maps import smooth
from attribkit.methods import (
    RISE,
    XRAI,
    AtLayer,
    GaussianSmooth,
    GradCAM,
    Gradient,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    RandomMap,
    Smooth,
)
from attribkit.noise import keys, normal
from attribkit.registry import read
from attribkit.removals import Constant


def some(rows: int = 3, size=SIZE) -> torch.Tensor:
    return torch.randn(rows, 3, *size, dtype=torch.float64)


def targets_of(rows: int = 3) -> Targets:
    return Targets(torch.arange(rows) % 5)


def exactly(network) -> nn.Module:
    return network().double().eval()


class Squares(nn.Module):
    """Logit k is k + 1 times the sum of the pixels' squares."""

    def forward(self, images):
        return images.square().sum((1, 2, 3)).unsqueeze(1) * torch.arange(1.0, 6).to(images)


# Smooth -----------------------------------------------------------------------------------------------------------------------------


def test_of_a_linear_model_noise_changes_nothing():
    module, images, targets = exactly(LinearModel), some(), targets_of()
    weights = module.head.weight[targets.index].view(3, 3, *SIZE).sum(1).detach()
    maps = {kind: Smooth(kind=kind, samples=5).explained(adapted(module), images, targets).maps for kind in ("mean", "squared", "variance")}
    torch.testing.assert_close(maps["mean"], weights, rtol=1e-14, atol=0)
    torch.testing.assert_close(maps["squared"], weights.square(), rtol=1e-14, atol=0)
    torch.testing.assert_close(maps["variance"], torch.zeros_like(weights), rtol=0, atol=0)


def test_of_squares_the_mean_is_that_of_the_noisy_pixels_and_the_variance_four_times_that_of_the_noise():
    # d/dx sum(x^2) = 2 x; with three channels of noise of s each, a map's value 2 (sum of x + noise) has the variance 4 * 3 s^2.
    images, samples = some(2, (16, 20)), 64
    model, targets = adapted(Squares(), size=(16, 20)), Targets(torch.zeros(2, dtype=torch.int64))
    spread = images.amax((1, 2, 3)) - images.amin((1, 2, 3))
    mean, variance = (Smooth(kind=kind, samples=samples, noise=0.1).explained(model, images, targets).maps for kind in ("mean", "variance"))
    expected = 4 * 3 * (0.1 * spread) ** 2
    # The mean over 320 pixels of variances of 64 samples has a relative error of sqrt(2 / (63 * 320)) = 1 %; five times that.
    torch.testing.assert_close(variance.mean((1, 2)) / expected, torch.full((2,), 1 - 1 / samples).double(), rtol=0, atol=0.05)
    error = (mean - 2 * images.sum(1)).square().mean((1, 2))  # is the variance of a mean of 64
    torch.testing.assert_close(error / expected * samples, torch.ones(2).double(), rtol=0, atol=5 * (2 / 320) ** 0.5)
    # Each image's noise is its own.
    errors = (mean - 2 * images.sum(1)).flatten(1)
    assert torch.corrcoef(errors)[0, 1].abs() < 5 / 320**0.5


class Noting(Recorded):
    """What it was shown."""

    def forward(self, images):
        self.rows.append(images.detach())
        return self.inner(images)


def test_the_noise_is_a_share_of_each_images_own_range():
    images = torch.rand(2, 3, 32, 32) * torch.tensor([1.0, 10]).view(2, 1, 1, 1)
    module = Noting(Squares())
    Smooth(samples=8, noise=0.2).explained(adapted(module, size=32), images, targets_of(2))
    shown = torch.cat(module.rows).view(8, 2, 3, 32, 32)
    noise = (shown - images) / (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))
    # 24,576 draws an image: their deviation is known to 0.2 / sqrt(2 * 24576), and no two samples are alike.
    torch.testing.assert_close(noise.transpose(0, 1).flatten(1).std(1), torch.full((2,), 0.2), rtol=0, atol=5 * 0.2 / (2 * 24576) ** 0.5)
    torch.testing.assert_close(noise.mean((0, 2, 3, 4)), torch.zeros(2), rtol=0, atol=5 * 0.2 / 24576**0.5)
    assert torch.corrcoef(noise[:, 0].flatten(1)).fill_diagonal_(0).abs().amax() < 5 / 3072**0.5


@pytest.mark.parametrize("kind", ["mean", "squared", "variance"])
def test_agrees_with_a_loop_over_the_same_noise(kind):
    module, images, targets = exactly(ResidualCNN), some(), targets_of()
    model, samples = adapted(module, max_rows=2), 5
    spread = (images.amax((1, 2, 3)) - images.amin((1, 2, 3))).view(-1, 1, 1, 1)
    each = []
    for sample in range(samples):
        noise = normal(keys(images, 3) + sample, images[0].numel()).view_as(images).double()
        each.append(InputXGradient().explained(model, images + 0.15 * spread * noise, targets).maps)
    expected = {
        "mean": torch.stack(each).mean(0),
        "squared": torch.stack(each).square().mean(0),
        "variance": torch.stack(each).var(0, correction=0),
    }
    found = Smooth(InputXGradient(), samples=samples, kind=kind, seed=3).explained(model, images, targets).maps
    torch.testing.assert_close(found, expected[kind], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("kind", "theirs"), [("mean", "smoothgrad"), ("squared", "smoothgrad_sq"), ("variance", "vargrad")])
def test_agrees_with_captums_noise_tunnel_given_the_same_noise(kind, theirs, monkeypatch):
    # On one channel, since captum squares each channel's value and ours the map's. Its noise comes from torch.normal alone.
    attr = pytest.importorskip("captum.attr")
    module, samples = exactly(lambda: ReluCNN()), 6
    module.features.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1).double()
    images, index = torch.randn(2, 1, *SIZE, dtype=torch.float64), torch.tensor([0, 3])
    model = adapted(module)
    model.channels = 1
    found = Smooth(samples=samples, kind=kind, noise=0.2).explained(model, images, Targets(index)).maps
    key = torch.stack([keys(images, 0) + sample for sample in range(samples)], 1).flatten()
    noise = normal(key, images[0].numel()).view(2 * samples, *images.shape[1:]).double()
    spread = (images.amax((1, 2, 3)) - images.amin((1, 2, 3))).repeat_interleave(samples).view(-1, 1, 1, 1)
    monkeypatch.setattr(torch, "normal", lambda mean, _std: mean + 0.2 * spread * noise)
    tunnel = attr.NoiseTunnel(attr.Saliency(module))
    expected = tunnel.attribute(images, nt_type=theirs, nt_samples=samples, stdevs=0.2, target=index, abs=False)
    torch.testing.assert_close(found, expected.squeeze(1), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("rows", [1, 3, 7, 64])
def test_rows_are_full_and_their_number_changes_nothing_but_the_last_bits(rows):
    module, images, targets = Recorded(exactly(ReluCNN)), some(2), targets_of(2)
    whole = Smooth(samples=9, kind="variance").explained(adapted(module), images, targets).maps
    module.rows.clear()
    found = Smooth(samples=9, kind="variance").explained(adapted(module, max_rows=rows), images, targets).maps
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-15)
    assert module.rows == [rows] * (18 // rows) + [18 % rows] * (18 % rows > 0)


def test_without_noise_or_with_one_sample_it_is_what_it_says():
    model, images, targets = adapted(exactly(ReluCNN)), some(), targets_of()
    plain = Gradient().explained(model, images, targets).maps
    torch.testing.assert_close(Smooth(noise=0, samples=4).explained(model, images, targets).maps, plain, rtol=1e-12, atol=1e-16)
    one = Smooth(samples=1, kind="variance").explained(model, images, targets).maps
    torch.testing.assert_close(one, torch.zeros_like(one), rtol=0, atol=0)
    other = Smooth(seed=1).explained(model, images, targets).maps
    assert (Smooth().explained(model, images, targets).maps != other).any()


def test_the_variance_is_right_where_it_is_small_beside_the_mean():
    class Slope(nn.Module):
        def forward(self, images):  # a gradient of 1000 and a little
            return (1000 * images + 5e-3 * images.square()).sum((1, 2, 3)).unsqueeze(1)

    images = torch.rand(1, 3, 16, 16)
    spread = images.amax() - images.amin()
    found = Smooth(samples=200, noise=0.1, kind="variance").explained(adapted(Slope(), size=16), images, Targets(torch.tensor([0]))).maps
    # 1e-2 times noise of 0.1, in each of three channels: 3e-6; E(x^2) - E(x)^2 in float32 would be off by 1.
    torch.testing.assert_close(found.mean(), 3e-6 * spread**2, rtol=0.1, atol=0)


# AtLayer ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["features.relu1", "features.conv2", "features"])
def test_integrated_gradients_at_a_layer_agree_with_captum(layer):
    # Captum integrates from the activations of an image: of this one they are all zero, with biases and BatchNorm's shifts taken out.
    attr = pytest.importorskip("captum.attr")
    module = exactly(ReluCNN)
    with torch.no_grad():
        for each in (module.features.conv1, module.features.conv2, module.features.bn1, module.features.bn2):
            each.bias.zero_()
        for each in (module.features.bn1, module.features.bn2):
            each.running_mean.zero_()
    images, index = some(), torch.tensor([0, 3, 4])
    found = AtLayer(IntegratedGradients(steps=7), layer=layer)(adapted(module), Batch(images, Targets(index), ("a", "b", "c")))
    theirs = attr.LayerIntegratedGradients(module, module.get_submodule(layer))
    expected, delta = theirs.attribute(
        images, torch.zeros_like(images), target=index, n_steps=7, method="gausslegendre", return_convergence_delta=True
    )
    maps = AtLayer(IntegratedGradients(steps=7), layer=layer).explained(adapted(module), images, Targets(index))
    torch.testing.assert_close(maps.maps, expected.sum(1).detach(), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(maps.extras["convergence_delta"], delta.double(), rtol=1e-9, atol=1e-13)
    assert found.maps.shape == maps.maps.shape and set(found.extras) == {"convergence_delta", "relative_delta"}
    assert found.facts["layer"] == layer


def test_input_times_gradient_at_a_layer_is_hires_cam():
    model, images, targets = adapted(exactly(GapCNN)), some(), targets_of()
    for layer in ("features", "features.relu1"):
        found = AtLayer(InputXGradient(), layer=layer).explained(model, images, targets).maps
        torch.testing.assert_close(found, HiResCAM(layer=layer).explained(model, images, targets).maps, rtol=1e-12, atol=1e-15)
    found = AtLayer(InputXGradient()).explained(model, images, targets).maps  # model.layer, which nothing bypasses
    torch.testing.assert_close(found, HiResCAM().explained(model, images, targets).maps, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("network", "layer"), [(ChannelsLastCNN, "norm"), (TinyViT, "blocks.0"), (lambda: TinyViT(prefix=2), "blocks.0")])
def test_tokens_and_channels_last_come_as_their_grid(network, layer):
    model, images, targets = adapted(exactly(network)), some(), targets_of()
    found = AtLayer(InputXGradient(), layer=layer).explained(model, images, targets).maps
    torch.testing.assert_close(found, HiResCAM(layer=layer).explained(model, images, targets).maps, rtol=1e-10, atol=1e-14)
    assert found.shape == ((3, 6, 10) if layer == "norm" else (3, 3, 5))


def test_the_tokens_before_the_patches_take_part_in_the_sum():
    # What the patches get and what the class token gets is all of the score's change: the map alone is not.
    model, images, targets = adapted(exactly(TinyViT)), some(), targets_of()
    found = AtLayer(IntegratedGradients(steps=4), layer="blocks.0").explained(model, images, targets)
    rest, activations = model.at("blocks.0"), model.activations(images, "blocks.0", whole=True)
    whole = IntegratedGradients(steps=4).explained(rest, activations, targets).maps
    torch.testing.assert_close(found.maps, whole[:, :3], rtol=1e-12, atol=1e-15)
    assert (whole[:, 3, 0].abs() > 1e-3).all() and not whole[:, 3, 1:].any()
    change = rest.score(activations, targets) - rest.score(torch.zeros_like(activations), targets)
    torch.testing.assert_close(found.extras["convergence_delta"], whole.sum((1, 2)) - change, rtol=1e-10, atol=1e-13)


def test_occlusion_at_a_layer_by_hand():
    # Without one cell of the last activations, a model of their mean loses that cell's part of the logit.
    module = exactly(GapCNN)
    model, images, targets = adapted(module), some(), targets_of()
    found = AtLayer(Occlusion(window=1, stride=1), layer="features").explained(model, images, targets).maps
    cam = torch.einsum("bc,bchw->bhw", module.head.weight[targets.index], module.features(images)) / 60
    torch.testing.assert_close(found, cam.detach(), rtol=1e-10, atol=1e-13)


def test_images_run_through_the_layer_in_rows():
    module = Recorded(GapCNN())
    model = adapted(module, max_rows=2)
    images, targets = torch.randn(5, 3, *SIZE), targets_of(5)
    found = AtLayer(IntegratedGradients(steps=3), layer="inner.features").explained(model, images, targets)
    whole = AtLayer(IntegratedGradients(steps=3), layer="features").explained(adapted(module.inner), images, targets)
    torch.testing.assert_close(found.maps, whole.maps, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.extras["convergence_delta"], whole.extras["convergence_delta"], rtol=0, atol=1e-5)
    assert max(module.rows) == 2


def test_what_cannot_be_done_at_a_layer_is_said():
    model, images, targets = adapted(ResidualCNN()), torch.randn(1, 3, *SIZE), targets_of(1)
    for inner in (GradCAM(), AtLayer(), Smooth(GradCAM(layer="stem"))):
        with pytest.raises(
            BadInput, match=r"AtLayer\(method=...\): got .*, which looks at a layer itself, allowed: a method that explains"
        ):
            AtLayer(inner)
    with pytest.raises(Unsupported, match="the answer depends on more than layer 'layer2', as where a layer is inside a residual branch"):
        AtLayer(Gradient(), layer="layer2").explained(model, images, targets)
    with pytest.raises(Unsupported, match="'black' is a colour, and ResidualCNN from stem on works on 8 channels"):
        AtLayer(IntegratedGradients(baseline="black"), layer="stem").explained(model, images, targets)
    with pytest.raises(Unsupported, match=r"AtLayer\(.*needs a spatial layer: LinearModel shows no spatial layer"):
        AtLayer()(adapted(LinearModel()), Batch(images, targets, ("a",)))


def test_a_transformer_is_cut_where_nothing_goes_past_and_the_map_says_where():
    model = adapted(TinyViT())
    found = AtLayer(Gradient())(model, Batch(torch.randn(2, 3, *SIZE), targets_of(2), ("a", "b")))
    assert model.layer == "blocks.1.norm1" and found.facts["layer"] == "blocks.0"


# GaussianSmooth ---------------------------------------------------------------------------------------------------------------------


def test_a_kernel_of_one_changes_nothing_and_others_are_maps_smooth():
    model, images, targets = adapted(exactly(ReluCNN)), some(), targets_of()
    plain = InputXGradient().explained(model, images, targets).maps
    torch.testing.assert_close(GaussianSmooth(InputXGradient(), kernel=1).explained(model, images, targets).maps, plain, rtol=0, atol=0)
    blurred = GaussianSmooth(InputXGradient(), kernel=7).explained(model, images, targets).maps
    torch.testing.assert_close(blurred, smooth(plain, 7), rtol=0, atol=0)
    assert (blurred < 0).any()  # signs are kept: nothing was clipped before


def test_a_lone_pixel_becomes_the_window_and_keeps_its_sum():
    module = LinearModel(classes=2).double()
    with torch.no_grad():
        module.head.weight.zero_()
        module.head.weight.view(2, 3, *SIZE)[0, 0, 12, 20] = 2.0  # far from the border
        module.head.weight.view(2, 3, *SIZE)[1, 0, 0, 0] = 2.0  # in the corner, where a quarter of the window and a bit more is left
    maps = GaussianSmooth(Gradient(), kernel=5).explained(adapted(module), some(2), Targets(torch.tensor([0, 1]))).maps
    at = torch.arange(-2, 3).double()
    window = torch.exp(-(at**2) / (2 * 1.25**2))
    window = window / window.sum()
    torch.testing.assert_close(maps[0, 10:15, 18:23], 2 * torch.outer(window, window), rtol=1e-12, atol=0)
    torch.testing.assert_close(maps.sum((1, 2)), 2 * torch.stack((torch.ones(()).double(), window[2:].sum() ** 2)), rtol=1e-12, atol=0)


def test_smoothing_is_linear_and_what_the_method_reports_is_passed_on():
    model, images, targets = adapted(exactly(ReluCNN)), some(), targets_of()
    inner = IntegratedGradients(steps=3)
    found, plain = (method.explained(model, images, targets) for method in (GaussianSmooth(inner), inner))
    other = InputXGradient().explained(model, images, targets).maps
    both = GaussianSmooth(InputXGradient()).explained(model, images, targets).maps + 2 * found.maps
    torch.testing.assert_close(both, smooth(other + 2 * plain.maps, 9), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found.extras, plain.extras, rtol=0, atol=0)


@pytest.mark.parametrize("kernel", [2, 10])
def test_an_even_kernel_is_refused(kernel):
    with pytest.raises(BadInput, match=rf"GaussianSmooth\(kernel=...\): got {kernel}, allowed: an odd number of at least 1"):
        GaussianSmooth(kernel=kernel)


# Composition ------------------------------------------------------------------------------------------------------------------------

NESTED = [
    Smooth(AtLayer(IntegratedGradients(steps=3), layer="layer1.2"), samples=2),
    Smooth(AtLayer(IntegratedGradients(steps=3), layer="stem"), samples=2),
    AtLayer(Smooth(Gradient(), samples=3), layer="stem"),
    AtLayer(Smooth(Smooth(Gradient(), samples=2), samples=2, kind="squared"), layer="stem"),
    AtLayer(RISE(samples=6), layer="stem"),
    GaussianSmooth(Smooth(InputXGradient(), samples=3)),
    GaussianSmooth(AtLayer(InputXGradient(), layer="stem"), kernel=3),
    Smooth(GradCAM(layer="stem"), samples=3),
]


@pytest.mark.parametrize("method", NESTED[1:], ids=lambda method: method.brief())
def test_what_is_nested_runs_and_does_not_depend_on_the_batch(method):
    model, images, targets = adapted(ResidualCNN()), torch.randn(4, 3, *SIZE), targets_of(4)
    together = method(model, Batch(images, targets, tuple("abcd")))
    alone = torch.cat([method(model, Batch(images[i : i + 1], targets[i : i + 1], ("x",))).maps for i in range(4)])
    assert together.maps.abs().amax() > 0
    torch.testing.assert_close(together.maps, alone, rtol=1e-3, atol=1e-4 * together.maps.abs().amax().item())
    assert together.facts.get("layer") == ("stem" if "stem" in repr(method) else None)


@pytest.mark.parametrize("method", NESTED, ids=lambda method: method.brief())
def test_what_is_nested_prints_as_it_is_read(method):
    assert read(repr(method), METHODS) == method == read(method.brief(), METHODS) == pickle.loads(pickle.dumps(method))
    assert hash(read(repr(method), METHODS)) == hash(method)


def test_a_wrapper_is_what_its_method_is():
    assert Smooth().needs == frozenset({"gradients"}) and Smooth(RandomMap()).needs == frozenset()
    assert Smooth(GradCAM()).needs == GradCAM.needs and AtLayer(Occlusion()).needs == {"logits", "spatial_layer", "cut"}
    assert GaussianSmooth(XRAI(Smooth(GradCAM(layer="a")))).needs == GradCAM.needs
    assert Smooth().signed and not Smooth(RandomMap()).signed and not GaussianSmooth(Smooth(kind="variance")).signed
    assert not Smooth(kind="squared").signed and AtLayer().signed
    assert (Smooth(GradCAM(layer="a")).layer, Smooth(AtLayer(layer="b")).layer, Smooth().layer, AtLayer().layer) == ("a", "b", None, None)
    assert Smooth(AtLayer(IntegratedGradients(), layer="layer2")).brief() == "Smooth(method=AtLayer(layer='layer2'))"
    assert read("Smooth(grad_cam)", METHODS) == Smooth(GradCAM()) == Smooth("grad_cam")


def test_a_layer_named_inside_is_one_that_need_not_be_looked_for():
    # The model's own choice of a layer would fail on it: nothing of it is spatial but what is named.
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 2, 3, stride=(4, 1), padding=1), nn.Linear(2, 5)

        def forward(self, images):
            return self.head(self.conv(images).mean((2, 3)))

    model, batch = adapted(Odd(), size=32), Batch(torch.randn(1, 3, 32, 32), targets_of(1), ("a",))
    with pytest.raises(Unsupported, match=r"Smooth\(.*needs a spatial layer"):
        Smooth(GradCAM())(model, batch)
    found = Smooth(GradCAM(layer="conv"), samples=2)(model, batch)
    assert found.maps.shape == (1, 8, 32) and found.facts["layer"] == "conv"


def test_a_layer_with_three_channels_is_no_picture():
    """Its last bits change with the batch, so that a draw by content would change altogether."""
    module = GapCNN(width=3)
    model = adapted(module)
    images = torch.randn(4, 3, *SIZE)
    batch = Batch(images, Targets(torch.arange(4)), tuple("abcd"))
    method = AtLayer(Smooth(InputXGradient(), samples=3), layer="features.conv1")
    rest = model.at("features.conv1")
    assert rest.channels == 3 and not rest.pictures
    together = method(model, batch).maps
    alone = torch.cat([method(model, batch[i : i + 1]).maps for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * together.abs().max().item())
    activations = model.activations(images, "features.conv1")
    assert keys(activations, 0, pictures=rest.pictures).unique().numel() == 1
    with pytest.raises(Unsupported, match="a colour"):
        Constant("black").filled(rest, activations, torch.ones(4, *activations.shape[-2:]))
