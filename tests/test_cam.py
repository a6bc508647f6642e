"""Class activation maps against closed forms (METHODS 1.3) and against two other implementations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from models import ChannelsLastCNN, Dead, GapCNN, InplaceCNN, TinyViT, adapted
from torch import nn

from attribkit import Targets, UnknownName
from attribkit.maps import positive, resize, unit_range
from attribkit.methods import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM

SIZE = (24, 40)
FAMILY = (GradCAM, HiResCAM, GradCAMPlusPlus, XGradCAM, LayerCAM)


def double(network) -> nn.Module:
    return network().double().eval()


def test_after_a_global_average_the_map_is_the_cam_and_sums_to_the_logit_without_its_bias():
    module = double(GapCNN)
    model = adapted(module, layer="features")
    images, targets = torch.randn(3, 3, *SIZE, dtype=torch.float64), Targets(torch.tensor([0, 2, 4]))
    maps = GradCAM().explained(model, images, targets).maps
    features, weights = module.features(images), module.head.weight[targets.index]
    cam = torch.einsum("bc,bchw->bhw", weights, features) / features.shape[2:].numel()
    torch.testing.assert_close(maps, cam.detach(), rtol=1e-12, atol=1e-14)
    bare = model.score(images, targets) - module.head.bias[targets.index].detach()
    torch.testing.assert_close(maps.sum((1, 2)), bare, rtol=1e-12, atol=1e-14)


def test_numbers_by_hand():
    # One channel pair on 1 x 2 places: A = [[1, 2]], [[10, 20]]; logit = mean(A1) * 3 - mean(A2), so the weights are 3/2 and -1/2
    # and the map is [1.5 - 5, 3 - 10].
    class Hand(nn.Module):
        def __init__(self):
            super().__init__()
            self.take = nn.Identity()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            a = self.take(x[:, :2] * self.scale).mean((2, 3))
            return torch.stack((3 * a[:, 0] - a[:, 1], a[:, 0]), 1)

    images = torch.tensor([[[[1.0, 2]], [[10, 20]], [[0, 0]]]])
    model = adapted(Hand(), layer="take", size=(1, 2))
    maps = GradCAM().explained(model, images, Targets(torch.tensor([0]))).maps
    torch.testing.assert_close(maps, torch.tensor([[[-3.5, -7.0]]]))


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_scaling_the_target_scales_the_map_and_a_constant_changes_nothing(factor):
    module = double(InplaceCNN)
    model = adapted(module, layer="features")
    images, targets = torch.randn(2, 3, *SIZE, dtype=torch.float64), Targets(torch.tensor([1, 3]))
    before = GradCAM().explained(model, images, targets).maps
    with torch.no_grad():
        module.head.weight.mul_(factor)
        module.head.bias.add_(5)
    torch.testing.assert_close(GradCAM().explained(model, images, targets).maps, factor * before, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("layer", ["features.conv2", "features.relu1", "features"])
def test_agrees_with_captum(layer):
    # Both compute the same sums in float64; what is left is their order.
    attr = pytest.importorskip("captum.attr")
    module = double(GapCNN)
    images, index = torch.randn(3, 3, *SIZE, dtype=torch.float64), torch.tensor([0, 3, 4])
    maps = GradCAM(layer=layer).explained(adapted(module), images, Targets(index)).maps
    theirs = attr.LayerGradCam(module, module.get_submodule(layer)).attribute(images, target=index)
    torch.testing.assert_close(maps, theirs.squeeze(1).detach(), rtol=1e-12, atol=1e-14)


def test_agrees_with_pytorch_grad_cam_after_its_post_processing():
    # Theirs: ReLU, min-max with 1e-7 in the denominator, OpenCV's bilinear resize in float32, min-max again. 2e-3 covers the 1e-7,
    # twice, on maps of this size, and the interpolation in float32; a wrong weight, layer or order moves whole cells.
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    module = GapCNN().eval()
    images, index = torch.randn(2, 3, 64, 64), torch.tensor([1, 4])
    maps = GradCAM(layer="features.relu1").explained(adapted(module, size=64), images, Targets(index)).maps
    ours = unit_range(positive(resize(unit_range(positive(maps)), (64, 64))))
    with pytorch_grad_cam.GradCAM(module, [module.features.relu1]) as cam:
        theirs = torch.from_numpy(cam(images, [ClassifierOutputTarget(int(i)) for i in index]))
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=0, atol=2e-3)


def test_channels_last_features_give_the_map_of_their_permutation():
    module = double(ChannelsLastCNN)
    images, targets = torch.randn(2, 3, *SIZE, dtype=torch.float64), Targets(torch.tensor([0, 1]))
    maps = GradCAM(layer="norm").explained(adapted(module), images, targets).maps
    features = module.norm(module.features(images))  # (B, h, w, C), averaged and read by a linear head
    cam = (features * module.head.weight[targets.index][:, None, None]).sum(3) / features.shape[1:3].numel()
    torch.testing.assert_close(maps, cam.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_tokens_come_as_their_grid_without_the_tokens_before_them(prefix):
    module = TinyViT(prefix=prefix).double().eval()
    model = adapted(module)
    images, targets = torch.randn(2, 3, *SIZE, dtype=torch.float64), Targets(torch.tensor([0, 1]))
    maps = GradCAM(layer="blocks.1.norm1").explained(model, images, targets).maps
    tokens = [None]
    handle = module.blocks[1].norm1.register_forward_hook(lambda _m, _a, output: tokens.__setitem__(0, output))
    logits = module(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 0][0] + logits[:, 1][1], tokens)
    patches, slopes = tokens[0][:, prefix:], gradient[:, prefix:]
    expected = (patches * slopes.mean(1, keepdim=True)).sum(2).view(2, 3, 5)
    torch.testing.assert_close(maps, expected.detach(), rtol=1e-10, atol=1e-12)


def test_memory_is_bounded_by_the_rows_that_run_at_once(monkeypatch):
    # What is kept of a chunk is its map, not its activations: combine sees no more rows than run at once.
    import attribkit.methods.cam as cam

    seen, weighed = [], cam._weighed
    monkeypatch.setattr(cam, "_weighed", lambda a, g: (seen.append(len(a)), weighed(a, g))[1])
    model = adapted(GapCNN(), max_rows=2)
    maps = GradCAM(layer="features").explained(model, torch.randn(5, 3, *SIZE), Targets(torch.zeros(5, dtype=torch.int64))).maps
    assert seen == [2, 2, 1] and maps.shape == (5, 6, 10)


def test_a_layer_that_was_named_may_step_unevenly():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=(4, 1), padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model = adapted(module, size=32)
    maps = GradCAM(layer="0").explained(model, torch.randn(1, 3, 32, 32), Targets(torch.tensor([0]))).maps
    assert maps.shape == (1, 8, 32)


def test_a_wrong_layer_is_one_clear_line():
    with pytest.raises(UnknownName, match=r"no layer is called 'featurs'.*features"):
        GradCAM(layer="featurs").explained(adapted(GapCNN()), torch.randn(1, 3, *SIZE), Targets(torch.tensor([0])))


def test_a_unit_far_away_has_no_part_in_another_images_map():
    module = double(GapCNN)
    model = adapted(module, layer="features")
    images, targets = torch.randn(2, 3, *SIZE, dtype=torch.float64), Targets(torch.tensor([0, 1]))
    before = GradCAM().explained(model, images, targets).maps
    images[1] = F.relu(images[1]) + 7
    after = GradCAM().explained(model, images, targets).maps
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
    assert (after[1] != before[1]).any()


# The one-pass family -----------------------------------------------------------------------------------------------------------------


class Weighted(nn.Module):
    """Logit 0 is the sum of `slopes` times the activations, which are the first of the image's channels."""

    def __init__(self, slopes: list) -> None:
        super().__init__()
        self.take, self.slopes = nn.Identity(), nn.Parameter(torch.tensor(slopes))

    def forward(self, images):
        score = (self.take(images[:, : len(self.slopes)]) * self.slopes).sum((1, 2, 3))
        return torch.stack((score, 0 * score), 1)


def by_hand(method, slopes: list, activations: list) -> torch.Tensor:
    """The map of a model whose gradient is `slopes`, (C, h, w), at these `activations`."""
    images = torch.zeros(1, 3, *torch.tensor(activations).shape[1:])
    images[0, : len(activations)] = torch.tensor(activations)
    model = adapted(Weighted(slopes), layer="take", size=images.shape[2:])
    return method.explained(model, images, Targets(torch.tensor([0]))).maps[0]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # A = [[1, 3]], [[2, 2]] and G = [[2, -1]], [[-3, 4]]; the sums of A are 4 and 4.
        (GradCAM(), [0.5 * 1 + 0.5 * 2, 0.5 * 3 + 0.5 * 2]),
        (HiResCAM(), [2 * 1.0 - 3 * 2, -1 * 3.0 + 4 * 2]),
        (LayerCAM(), [2 * 1.0, 4 * 2.0]),
        # 1 / (2 + S G): 1/10 where G is 2 and 1/18 where it is 4; the weights are 2/10 and 4/18.
        (GradCAMPlusPlus(), [0.2 * 1 + 2 / 9 * 2, 0.2 * 3 + 2 / 9 * 2]),
        # sum(G A) = 2 - 3 and -6 + 8; over the sums of A, -1/4 and 2/4.
        (XGradCAM(), [-0.25 * 1 + 0.5 * 2, -0.25 * 3 + 0.5 * 2]),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_the_familys_numbers_by_hand(method, expected):
    found = by_hand(method, [[[2.0, -1.0]], [[-3.0, 4.0]]], [[[1.0, 3.0]], [[2.0, 2.0]]])
    torch.testing.assert_close(found, torch.tensor([expected]))


@pytest.mark.parametrize("layer", ["features", "features.relu1"])
def test_after_a_global_average_the_family_has_closed_forms(layer):
    class Ending(GapCNN):  # the head looks at what `layer` returns
        def forward(self, images):
            return self.head((self.features if layer == "features" else self.features[:3])(images).mean((2, 3)))

    module = double(Ending)
    images, targets = torch.randn(3, 3, *SIZE, dtype=torch.float64), Targets(torch.tensor([0, 2, 4]))
    features = (module.features if layer == "features" else module.features[:3])(images).detach()
    weights, places = module.head.weight[targets.index].detach(), features.shape[2:].numel()

    def maps(method):
        return method.explained(adapted(module, layer=layer), images, targets).maps

    def sums(each):
        return torch.einsum("bc,bchw->bhw", each, features)

    cam = sums(weights) / places
    torch.testing.assert_close(maps(GradCAM()), cam, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(maps(HiResCAM()), cam, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(maps(XGradCAM()), cam, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(maps(LayerCAM()), sums(weights.clamp_min(0)) / places, rtol=1e-12, atol=1e-14)
    # S G is the channel's mean times the head's weight, and there are as many places as G was divided by.
    plus = weights.clamp_min(0) / (2 + weights * features.mean((2, 3)))
    torch.testing.assert_close(maps(GradCAMPlusPlus()), sums(plus), rtol=1e-10, atol=1e-12)


def test_hires_cam_sums_to_the_logit_before_piecewise_linear_layers_without_bias():
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    module = nn.Sequential(*layers, nn.Linear(6 * 10 * 18, 3, bias=False)).double().eval()
    images, targets = torch.randn(3, 3, *SIZE, dtype=torch.float64), Targets(torch.tensor([0, 1, 2]))
    model = adapted(module, layer="1")
    sums = HiResCAM().explained(model, images, targets).maps.sum((1, 2))
    torch.testing.assert_close(sums, model.score(images, targets), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", FAMILY)
@pytest.mark.parametrize("layer", ["features.conv2", "features.relu1", "features"])
def test_the_family_agrees_with_pytorch_grad_cam_before_its_post_processing(method, layer):
    # Theirs adds 1e-6 to Grad-CAM++'s denominator 2 G^2 + S G^3: the head is made so large that G is in the hundreds, and that a share of
    # 1e-9 at most. It adds 1e-7 to the S of X-Grad-CAM, which is of the size of 1. Without such a constant only rounding differs.
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    module = double(GapCNN)
    with torch.no_grad():
        module.head.weight.copy_(torch.where(torch.rand(5, 8) < 0.5, -1, 1) * (1 + torch.rand(5, 8)) * 1e5)
    images, index = torch.randn(2, 3, *SIZE, dtype=torch.float64), torch.tensor([1, 4])
    maps = method(layer=layer).explained(adapted(module), images, Targets(index)).maps
    targets, place = [ClassifierOutputTarget(int(i)) for i in index], module.get_submodule(layer)
    with getattr(pytorch_grad_cam, method.__name__)(module, [place]) as cam:
        cam.outputs = cam.activations_and_grads(images)
        sum(target(output) for target, output in zip(targets, cam.outputs, strict=True)).backward()
        activations, gradients = (
            tensors[0].detach().numpy() for tensors in (cam.activations_and_grads.activations, cam.activations_and_grads.gradients)
        )
        theirs = torch.from_numpy(cam.get_cam_image(images, place, targets, activations, gradients, False))
    bound = {GradCAMPlusPlus: 1e-9, XGradCAM: 1e-7}.get(method, 1e-12)
    torch.testing.assert_close(maps, theirs, rtol=bound, atol=bound * theirs.abs().amax().item())


@pytest.mark.parametrize("method", [HiResCAM, LayerCAM, GradCAMPlusPlus, XGradCAM])
def test_the_family_gives_zeros_where_nothing_has_an_influence(method):
    model = adapted(Dead(), layer="features")
    maps = method().explained(model, torch.randn(2, 3, *SIZE), Targets(torch.tensor([0, 1]))).maps
    torch.testing.assert_close(maps, torch.zeros(2, 6, 10), rtol=0, atol=0)
    # Nor is a channel that is dead all over, 0 of 0, anything but zero.
    found = by_hand(method(), [[[2.0, 1.0]], [[1.0, 0.0]]], [[[1.0, 3.0]], [[0.0, 0.0]]])
    torch.testing.assert_close(found, by_hand(method(), [[[2.0, 1.0]]], [[[1.0, 3.0]]]))


@pytest.mark.parametrize("size", [1e-20, 1e-3, 1e15])
def test_grad_cam_plus_plus_neither_overflows_nor_vanishes_with_the_gradient(size):
    # As written, G^2 / (2 G^2 + S G^3) is 0 / 0 for a gradient of 1e-20 in float32 and infinity over infinity for one of 1e15.
    found = by_hand(GradCAMPlusPlus(), [[[size, -size]]], [[[1.0, 3.0]]])
    expected = size / (2 + 4 * size)
    torch.testing.assert_close(found, torch.tensor([[expected, 3 * expected]]), rtol=1e-6, atol=0)


def test_near_a_pole_the_denominators_keep_their_sign_and_a_size():
    # S G = -2 exactly: the denominator is taken for 1e-6; S = 0 of activations 1 and -1: for 1e-7.
    found = by_hand(GradCAMPlusPlus(), [[[1.0, 1.0]]], [[[-3.0, 1.0]]])
    torch.testing.assert_close(found, torch.tensor([[-6e6, 2e6]]), rtol=1e-5, atol=0)
    # Just beyond the pole, S G = -2 - 2^-22: -1e-6.
    found = by_hand(GradCAMPlusPlus(), [[[1.0, 1.0]]], [[[-3.0 - 2**-22, 1.0]]])
    torch.testing.assert_close(found, torch.tensor([[6e6, -2e6]]), rtol=1e-5, atol=0)
    found = by_hand(XGradCAM(), [[[2.0, 1.0]]], [[[-1.0, 1.0]]])
    torch.testing.assert_close(found, torch.tensor([[1e7, -1e7]]), rtol=1e-5, atol=0)
    found = by_hand(XGradCAM(), [[[2.0, 1.0]]], [[[-1.0 - 2**-24, 1.0 - 2**-24]]])  # a sum of -1.2e-7, which is large enough
    torch.testing.assert_close(found, by_hand(XGradCAM(), [[[2.0, 1.0]]], [[[-1.0 - 2**-24, 1.0 - 2**-24]]]))


@pytest.mark.parametrize("method", [HiResCAM, LayerCAM, GradCAMPlusPlus, XGradCAM])
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_the_family_sees_tokens_as_their_grid(method, prefix):
    model = adapted(TinyViT(prefix=prefix).double().eval())
    images, targets = torch.randn(2, 3, *SIZE, dtype=torch.float64), Targets(torch.tensor([0, 1]))
    a, g = model.activation_gradient(images, targets, "blocks.1.norm1")
    assert a.shape == (2, 12, 3, 5)
    s = a.sum((2, 3), keepdim=True)
    weights = {
        HiResCAM: g,
        LayerCAM: g.clamp_min(0),
        GradCAMPlusPlus: (g.clamp_min(0) * g**2 / (2 * g**2 + s * g**3)).sum((2, 3), keepdim=True),
        XGradCAM: (g * a).sum((2, 3), keepdim=True) / s,
    }[method]
    found = method(layer="blocks.1.norm1").explained(model, images, targets).maps
    torch.testing.assert_close(found, (weights * a).sum(1), rtol=1e-9, atol=1e-11)
