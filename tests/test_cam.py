"""Grad-CAM against closed forms (METHODS 1.3) and against two other implementations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from models import ChannelsLastCNN, GapCNN, InplaceCNN, TinyViT, adapted
from torch import nn

from attribkit import Targets, UnknownName
from attribkit.maps import positive, resize, unit_range
from attribkit.methods import GradCAM

SIZE = (24, 40)


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
