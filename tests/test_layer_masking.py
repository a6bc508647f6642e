"""Layer masking: its steps against loops written from the text, its policies by hand, and what must be exactly true of any network."""

from __future__ import annotations

import copy
import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from models import Block, GapCNN, LinearModel, Raising, Recorded, ResidualCNN, TinyViT, adapted, shaken
from torch import nn

from attribkit.errors import Unsupported
from attribkit.removals import LayerMask
from attribkit.removals.carrying import Carrying, named
from attribkit.removals.masked_shapes import reshaped
from attribkit.removals.masks import Mask, Window, cleared, filled, grown, shares


def followed(module, images, keep, policy=None):
    """The answer of `module`, and what each of its layers returned with the mask that it carried."""
    run, mask, seen = Carrying(policy or LayerMask(), "net"), Mask(keep.bool().unsqueeze(1)), []
    images = cleared(images, mask)
    run.begin(images, mask)
    hooks = [each.register_forward_hook(lambda _m, _i, out, n=name: seen.append((n, out))) for name, each in module.named_modules() if name]
    try:
        with torch.no_grad(), run:
            output = module(images)
    finally:
        for hook in hooks:
            hook.remove()
    return output, [(name, out, run.masks[out]) for name, out in seen], run


def mask_after(module, keep, channels=1, policy=None):
    """The mask that the result of `module` carries, as rows of ones and zeros, for one image."""
    keep = torch.tensor(keep, dtype=torch.bool)
    output, _, run = followed(module.eval(), torch.rand(1, channels, *keep.shape) + 1, keep.unsqueeze(0), policy)
    mask = run.masks[output]
    assert (output.detach()[~mask.on.expand_as(output)] == 0).all()
    return mask.on[0, 0].int().tolist()


def blocks(count, size, side=8, share=0.5):
    drawn = torch.rand(count, -(-size[0] // side), -(-size[1] // side)) < share
    return drawn.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, : size[0], : size[1]]


def quietly(removal, *asked):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return removal(*asked)


def same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


# The steps, from the text ----------------------------------------------------------------------------------------------------------


def around(grid, row, column):
    """The sum of the 3 x 3 places around one, those beyond the edge being zero."""
    rows, columns = range(max(row - 1, 0), min(row + 2, len(grid))), range(max(column - 1, 0), min(column + 2, len(grid[0])))
    return sum(grid[r][c] for r in rows for c in columns)


def padded_by_neighbours(channels, mask, rounds):
    """Round by round, a place without value gets the sum of its neighbours over how many of them have one, plus 1e-5."""
    height, width = len(mask), len(mask[0])
    channels = [[[channel[r][c] * mask[r][c] for c in range(width)] for r in range(height)] for channel in channels]
    for _ in range(rounds):
        near = [[around(mask, r, c) for c in range(width)] for r in range(height)]
        sums = [[[around(channel, r, c) for c in range(width)] for r in range(height)] for channel in channels]
        for channel, total in zip(channels, sums, strict=True):
            for r, c in itertools.product(range(height), range(width)):
                if not mask[r][c]:
                    channel[r][c] += total[r][c] / (near[r][c] + 1e-5)
        mask = [[min(mask[r][c] + near[r][c], 1) for c in range(width)] for r in range(height)]
    return channels


def windows(mask, kernel, stride, padding, dilation=1):
    """Whether each window of a convolution sees a one, by looking at each of its places."""
    (kh, kw), height, width = kernel, len(mask), len(mask[0])
    rows = (height + 2 * padding[0] - dilation * (kh - 1) - 1) // stride + 1
    columns = (width + 2 * padding[1] - dilation * (kw - 1) - 1) // stride + 1

    def sees(row, column):
        places = itertools.product(range(kh), range(kw))
        found = ((row * stride - padding[0] + i * dilation, column * stride - padding[1] + j * dilation) for i, j in places)
        return int(any(0 <= r < height and 0 <= c < width and mask[r][c] for r, c in found))

    return [[sees(row, column) for column in range(columns)] for row in range(rows)]


def by_the_text(net, image, mask):
    """`net`, a Sequential, on one image: neighbours by as many rounds as the kernel is wide, and a mask after every layer."""
    values = image.tolist()
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            values = padded_by_neighbours(values, mask, layer.kernel_size[1])
            result = layer(torch.tensor(values, dtype=torch.float64)[None])[0]
            mask = windows(mask, layer.kernel_size, layer.stride[0], layer.padding, layer.dilation[0])
        elif isinstance(layer, nn.MaxPool2d):
            result = layer(torch.tensor(values, dtype=torch.float64)[None])[0]
            mask = windows(mask, (layer.kernel_size,) * 2, layer.stride, (layer.padding,) * 2)
        else:
            result = layer(torch.tensor(values, dtype=torch.float64)[None])[0]
        values = (result * torch.tensor(mask, dtype=torch.float64)).tolist()
    count = sum(map(sum, mask))
    return torch.tensor([sum(map(sum, channel)) / count for channel in values], dtype=torch.float64), mask


class Stack(nn.Module):
    """Layers, the mean over places, a head."""

    def __init__(self, *layers, width=3, classes=4):
        super().__init__()
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.layers(images).mean((2, 3)))


def test_a_stack_of_layers_is_what_loops_written_from_the_text_make_of_it():
    net = Stack(
        nn.Conv2d(3, 3, 5, stride=2, padding=2),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 3, (1, 3), padding=(0, 2)),
        nn.BatchNorm2d(3),
    )
    net = shaken(net).double().eval()
    size = (13, 30)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    keep = torch.zeros(2, *size, dtype=torch.bool)
    keep[0, 3:5, :3] = keep[0, 12, 4] = keep[1, :2, 6:9] = True
    logits = LayerMask()(adapted(net, size=size), images, keep)
    with torch.no_grad():
        for image, kept, answer in zip(images, keep, logits, strict=True):
            pooled, mask = by_the_text(net.layers, image, kept.int().tolist())
            assert 0 < sum(map(sum, mask)) < len(mask) * len(mask[0])
            torch.testing.assert_close(answer, net.head(pooled), rtol=1e-12, atol=1e-12)


GEOMETRIES = {
    "even": {"kernel_size": 4, "padding": 1},
    "even, strided": {"kernel_size": 2, "stride": 3},
    "dilated": {"kernel_size": 3, "dilation": 3, "padding": 2},
    "flat": {"kernel_size": (1, 5), "padding": (0, 2)},
    "tall, uneven": {"kernel_size": (4, 1), "padding": (3, 0), "stride": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 5, "padding": 2, "groups": 4, "stride": 2},
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_convolution_keeps_what_sees_something_kept_and_sees_neighbours_elsewhere(name):
    conv = nn.Conv2d(4, 4, **GEOMETRIES[name]).double()
    keep = torch.rand(3, 11, 14) < 0.15
    images = torch.randn(3, 4, 11, 14, dtype=torch.float64)
    output, _, run = followed(conv, images, keep)
    for place in range(3):
        mask = keep[place].int().tolist()
        expected = windows(mask, conv.kernel_size, conv.stride[0], conv.padding, conv.dilation[0])
        assert run.masks[output].on[place, 0].int().tolist() == expected
        values = padded_by_neighbours(images[place].tolist(), mask, 1 + conv.dilation[0] * (max(conv.kernel_size) - 1))
        whole = conv(torch.tensor(values, dtype=torch.float64)[None])[0] * torch.tensor(expected)
        torch.testing.assert_close(output[place], whole.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_padding_by_name_is_the_convolution_s_own(kernel):
    conv = nn.Conv2d(1, 1, kernel, padding="same", dilation=2)
    keep = torch.rand(1, 9, 9) < 0.15
    before, after = (kernel - 1), (kernel - 1)  # 2 (k - 1) in all
    expected = windows(F.pad(keep.int(), (before, after) * 2)[0].tolist(), (kernel, kernel), 1, (0, 0), 2)
    assert mask_after(conv, keep[0].tolist()) == expected


@pytest.mark.parametrize("sides", [(1, 1, 1, 1), (0, 2, 1, 0)], ids=str)
def test_zeros_padded_before_a_convolution_are_as_its_own_and_never_filled(sides):
    conv = nn.Conv2d(3, 5, 3).double()
    images, keep = torch.randn(2, 3, 8, 9, dtype=torch.float64), torch.rand(2, 8, 9) < 0.3
    output, _, run = followed(nn.Sequential(nn.ZeroPad2d(sides), nn.ReLU(), conv), images, keep)
    own = nn.Conv2d(3, 5, 3, padding=2).double()
    own.load_state_dict(conv.state_dict())
    wide, _, wide_run = followed(own, images.relu(), keep)
    left, right, top, bottom = sides
    inside = (..., slice(2 - top, wide.shape[-2] - (2 - bottom)), slice(2 - left, wide.shape[-1] - (2 - right)))
    torch.testing.assert_close(output, wide[inside], rtol=1e-12, atol=1e-12)
    same(run.masks[output].on, wide_run.masks[wide].on[inside])


def test_what_a_window_sees_of_padding_alone_is_kept_unless_all_is_removed():
    conv = nn.Conv2d(1, 2, 1, padding=1)
    keep = torch.zeros(2, 3, 3, dtype=torch.bool)
    keep[0, 1, 1] = True
    output, _, run = followed(conv, torch.rand(2, 1, 3, 3), keep)
    mask = run.masks[output].on[:, 0].int()
    assert mask[0].tolist() == [[1] * 5, [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1] * 5]
    assert not mask[1].any() and not output[1].any()


def test_a_constant_image_stays_constant_up_to_the_shrink_of_the_reference():
    conv = nn.Conv2d(3, 4, 3).double()
    images, keep = torch.full((1, 3, 12, 12), 0.7, dtype=torch.float64), torch.rand(1, 12, 12) < 0.3
    output, _, run = followed(conv, images, keep)
    on = run.masks[output].on.expand_as(output)
    change = ((output - conv(images)).abs())[on]
    most = 2 * 1e-5 * 0.7 * conv.weight.abs().sum((1, 2, 3)).max()  # two rounds, each by at most 1e-5 of a neighbour alone
    assert 0 < change.max() < most
    assert 0 < on.float().mean() < 1


def test_rounds_grow_by_one_place_each_and_no_further():
    keep = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    keep[..., 4, 4] = True
    image = keep.double() * 3
    result = filled(image, shares(Mask(keep), 2, torch.float64))
    distance = (torch.arange(9) - 4).abs()
    distance = torch.maximum(distance[:, None], distance)
    same(result[0, 0] > 0, distance <= 2)
    torch.testing.assert_close(result[0, 0][distance == 1], torch.full((8,), 3 / (1 + 1e-5), dtype=torch.float64), rtol=1e-14, atol=0)


# Invariants -------------------------------------------------------------------------------------------------------------------------


def wide_resnet():
    from torchvision.models.resnet import Bottleneck, ResNet

    return shaken(ResNet(Bottleneck, [3, 4, 6, 3], num_classes=4, width_per_group=1)).eval()


def test_a_place_of_resnet_50_is_kept_iff_a_kept_pixel_lies_within_five_of_its_window():
    keep = blocks(5, (224, 224), side=16, share=0.04)
    keep[3], keep[4] = False, False
    keep[3, 198:], keep[4, 100, 37] = True, True
    _, seen, _ = followed(wide_resnet(), torch.randn(5, 3, 224, 224), keep)
    mask = next(mask for name, _, mask in seen if name == "layer4")
    bounds = [(max(32 * r - 5, 0), min(32 * r + 5, 223) + 1) for r in range(7)]
    expected = torch.stack([torch.stack([keep[:, a:b, c:d].flatten(1).any(1) for c, d in bounds], 1) for a, b in bounds], 1)
    same(mask.on[:, 0], expected)
    assert 0 < expected[:3].float().mean() < 1
    assert not expected[3].any() and expected[4].sum() == 1 and expected[4, 3, 1]


def test_where_the_mask_vanishes_the_answer_is_the_bias_and_a_warning_names_what_avoids_it():
    net = wide_resnet()
    model, images = adapted(net, size=(224, 224)), torch.randn(2, 3, 224, 224)
    keep = torch.zeros(2, 224, 224)
    keep[:, 198:] = 1  # 11.6 % of the image, and none of the 49 windows
    with pytest.warns(
        UserWarning, match=r"layer masking: nothing is left of some images .* LayerMask\(residual='union'\) avoids it"
    ) as told:
        logits = LayerMask()(model, images, keep)
    assert len(told) == 1
    same(logits, net.fc.bias.detach().expand(2, -1))
    assert ((LayerMask(residual="union")(model, images, keep) - net.fc.bias).abs().amax(1) > 1e-3).all()


def test_a_warning_comes_once_however_many_rows_run_at_once():
    model = adapted(wide_resnet(), size=(64, 64), max_rows=1)
    keep = torch.zeros(3, 64, 64)
    keep[:, 40:50] = 1
    with pytest.warns(UserWarning, match="nothing is left") as told:
        LayerMask()(model, torch.randn(3, 3, 64, 64), keep)
    assert len(told) == 1


def test_nothing_kept_is_no_reason_to_warn_and_gives_what_the_head_makes_of_zeros():
    net = ResidualCNN().eval()
    keep = torch.ones(2, 24, 40)
    keep[1] = 0
    logits = LayerMask()(adapted(net), torch.randn(2, 3, 24, 40), keep)
    same(logits[1], net.head.bias.detach())


def test_after_every_layer_holes_are_zero_and_masks_fit():
    from torchvision.models import resnet18

    keep = blocks(3, (64, 96))
    _, seen, _ = followed(shaken(resnet18(num_classes=3)).eval(), torch.randn(3, 3, 64, 96), keep)
    masks = {name: mask for name, _, mask in seen}
    for name, output, mask in seen:
        if name in ("avgpool", "fc"):
            assert mask is None
            continue
        assert mask.on.shape == (3, 1, *output.shape[2:])
        assert not output[~mask.on.expand_as(output)].any()
        assert output[mask.on.expand_as(output)].any()
    assert len(seen) > 60
    assert masks["layer1"] is masks["maxpool"]  # identity blocks keep their shortcut's mask: worked out once


@pytest.mark.parametrize("network", [GapCNN, ResidualCNN, TinyViT])
def test_a_batch_is_one_by_one(network):
    model, images = adapted(network()), torch.randn(5, 3, 24, 40)
    keep = blocks(5, (24, 40))
    keep[0] = True
    together = quietly(LayerMask(), model, images, keep)
    for i in range(5):
        torch.testing.assert_close(quietly(LayerMask(), model, images[i : i + 1], keep[i : i + 1])[0], together[i])


def test_no_gradient_comes_from_removed_pixels_and_none_through_what_was_made_up():
    net = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), bias=False).double()
    weight = net.weight.detach().flatten()
    images = torch.tensor([[[[2.0, 5.0, 7.0, 3.0]]]], dtype=torch.float64, requires_grad=True)
    mask = Mask(torch.tensor([[[[True, False, False, True]]]]))
    run = Carrying(LayerMask(), "net")
    inputs = cleared(images, mask)
    run.begin(inputs, mask)
    with run:
        output = net(inputs)
    (gradient,) = torch.autograd.grad(output.sum(), images)
    # Each kept pixel counts where it stands, through the windows that hold it, and not as a neighbour of others.
    expected = [weight[1] + weight[0], 0, 0, weight[1] + weight[2]]
    torch.testing.assert_close(gradient.flatten(), torch.stack([torch.as_tensor(each, dtype=torch.float64) for each in expected]))


def test_the_masked_path_is_bitwise_the_plain_one_in_bfloat16_too():
    model = adapted(ResidualCNN(), precision="bfloat16")
    images, keep = torch.randn(3, 3, 24, 40), blocks(3, (24, 40))
    keep[1] = True
    same(LayerMask()(model, images, keep)[1], model.logits(images)[1])


def test_kept_whole_takes_the_plain_path_of_any_network():
    class Odd(GapCNN):
        def forward(self, images):
            return super().forward(images).cumsum(1) + torch.cumsum(images, 2).amax((1, 2, 3), keepdim=False)[:, None]

    module = Recorded(Odd())
    model, images, keep = adapted(module, max_rows=2), torch.randn(4, 3, 24, 40), torch.ones(4, 24, 40)
    same(LayerMask()(model, images, keep), model.logits(images))
    keep[3, 0, 0] = 0
    with pytest.raises(Unsupported, match="no rule for 'cumsum'"):
        LayerMask()(model, images, keep)


# Policies, by hand ------------------------------------------------------------------------------------------------------------------


class Sides(nn.Conv2d):
    """Each place becomes the sum of the two beside it: one kept place becomes the two beside it."""

    def __init__(self, channels=1):
        super().__init__(channels, channels, (1, 2), padding=(0, 1), dilation=(1, 2), bias=False, groups=channels)
        nn.init.ones_(self.weight)


class Sum(nn.Module):
    """A residual block of `Sides`, its shortcut on the left or on the right of the sum."""

    def __init__(self, left):
        super().__init__()
        self.left, self.sides = left, Sides()

    def forward(self, x):
        if self.left:
            return x + self.sides(x)
        branch = self.sides(x)
        branch += x
        return branch


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(
    ("residual", "expected"),
    [("intersection", [0, 0, 1, 1, 0, 0, 0]), ("union", [0, 1, 1, 1, 1, 1, 1]), ("shortcut", [0, 0, 1, 1, 0, 1, 0])],
)
def test_what_a_residual_sum_keeps(residual, left, expected):
    keep = [[0, 0, 1, 1, 0, 1, 0]]
    assert mask_after(Sides(), keep) == [[0, 1, 1, 1, 1, 0, 1]]
    assert mask_after(Sum(left), keep, policy=LayerMask(residual=residual)) == [expected]


def test_a_product_keeps_what_both_of_its_factors_do_whatever_the_policy():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.sides = Sides()

        def forward(self, x):
            return x * self.sides(x).sigmoid()

    assert mask_after(Gate(), [[0, 0, 1, 1, 0]], policy=LayerMask(residual="union")) == [[0, 0, 1, 1, 0]]


class Join(nn.Module):
    """The image, the image, and `Sides` of it, as channels, and one channel that knows nothing of the image."""

    def __init__(self):
        super().__init__()
        self.sides = Sides()

    def forward(self, x):
        return torch.cat([x, x.relu(), self.sides(x), torch.ones(1, 1, *x.shape[2:])], 1)


@pytest.mark.parametrize(
    ("concat", "expected"), [("union", [0, 1, 1, 1, 0]), ("majority", [0, 0, 1, 0, 0]), ("intersection", [0, 0, 0, 0, 0])]
)
def test_what_joined_channels_keep(concat, expected):
    assert mask_after(Join(), [[0, 0, 1, 0, 0]], policy=LayerMask(concat=concat)) == [expected]


def test_a_tie_is_no_majority():
    class Two(Join):
        def forward(self, x):
            return torch.cat([x, self.sides(x)], 1)

    assert mask_after(Two(), [[0, 0, 1, 1, 0]], policy=LayerMask(concat="majority")) == [[0, 0, 1, 1, 0]]
    assert mask_after(Two(), [[0, 0, 1, 0, 0]], policy=LayerMask(concat="majority")) == [[0, 0, 0, 0, 0]]


@pytest.mark.parametrize(("concat", "expected"), [("union", [1, 1, 0, 1]), ("majority", [1, 0, 0, 0]), ("intersection", [1, 0, 0, 0])])
def test_places_that_become_channels_vote_as_channels_do(concat, expected):
    class Merge(nn.Module):
        def forward(self, x):
            rows, width = x.permute(0, 2, 3, 1), x.shape[3]
            return rows.reshape(1, 1, width // 2, 2, 4).flatten(3).permute(0, 3, 1, 2)

    keep = [[1, 1, 1, 0, 0, 0, 0, 1]]
    assert mask_after(Merge(), keep, channels=4, policy=LayerMask(concat=concat)) == [expected]


def averaged(layer, policy):
    images = torch.tensor([[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]], dtype=torch.float64)
    keep = torch.tensor([[[1, 0, 0, 0], [1, 1, 0, 0]]])
    output, _, run = followed(layer, images, keep, policy)
    return output.flatten().tolist(), run.masks[output]


@pytest.mark.parametrize(("pool", "mean", "total"), [("renormalise", 4.0, 32.0), ("plain", 1.5, 12.0)])
def test_averages_are_of_what_is_kept_or_of_all(pool, mean, total):
    class Mean(nn.Module):
        def __init__(self, of):
            super().__init__()
            self.of = of

        def forward(self, x):
            return self.of(x)

    for of in (nn.AdaptiveAvgPool2d(1), Mean(lambda x: x.mean((2, 3))), Mean(lambda x: x.mean([-1, -2], keepdim=True))):
        assert averaged(of, LayerMask(pool=pool)) == ([mean], None)
    assert averaged(Mean(lambda x: x.sum((2, 3))), LayerMask(pool=pool)) == ([total], None)
    values, mask = averaged(nn.AvgPool2d(2), LayerMask(pool=pool))
    assert values == [4.0 if pool == "renormalise" else 3.0, 0.0] and mask.on.flatten().tolist() == [True, False]


def test_an_average_with_padding_is_over_the_kept_ones_of_the_places_that_there_are():
    # Windows of 2 x 2 whose zero padding counts: one place of the image in a corner, two at an edge.
    for pool, share in (("renormalise", 2), ("plain", 1)):
        values, mask = averaged(nn.AvgPool2d(2, padding=1), LayerMask(pool=pool))
        # 1 in a corner; 2 and 3 are removed, and so is 4; 5 in a corner; of 6 and 7 only the one is kept; 8 is removed.
        assert values == [0.25, 0.0, 0.0, 1.25, 1.5 * share, 0.0]
        assert mask.on.flatten().tolist() == [True, False, False, True, True, False]


def test_the_maximum_is_over_kept_places_and_zeros():
    values, mask = averaged(nn.MaxPool2d(2), LayerMask())
    assert values == [6.0, 0.0] and mask.on.flatten().tolist() == [True, False]


def test_a_gate_sees_the_mean_of_kept_places_alone():
    from torchvision.ops import SqueezeExcitation

    gate = SqueezeExcitation(3, 2).double().eval()
    images, keep = torch.randn(2, 3, 5, 6, dtype=torch.float64), torch.rand(2, 5, 6) < 0.4
    output, _, run = followed(gate, images, keep)
    kept = keep.unsqueeze(1)
    mean = (images * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True)
    expected = images * kept * torch.sigmoid(gate.fc2(torch.relu(gate.fc1(mean))))
    torch.testing.assert_close(output, expected.detach(), rtol=1e-12, atol=1e-12)
    same(run.masks[output].on, kept)


NORMS = {
    "group": nn.GroupNorm(2, 4),
    "instance": nn.InstanceNorm2d(4, affine=True),
    "layer over all": nn.LayerNorm([4, 5, 6]),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_over_places_takes_its_statistics_from_what_is_kept(name):
    norm = NORMS[name].double()
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.5, 0.5)
    images, keep = torch.randn(3, 4, 5, 6, dtype=torch.float64), torch.rand(3, 5, 6) < 0.5
    keep[0], keep[2] = True, False
    output, _, _ = followed(norm, images, keep)
    same(output[0], norm(images)[0].detach())
    assert not output[2].any()
    groups = {"group": 2, "instance": 4, "layer over all": 1}[name]
    rows = images[1][:, keep[1]].view(groups, -1)  # the kept values alone
    normal = ((rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + 1e-5).sqrt()).view(4, -1)
    if name == "layer over all":
        expected = normal * norm.weight[:, keep[1]] + norm.bias[:, keep[1]]
    else:
        expected = normal * norm.weight[:, None] + norm.bias[:, None]
    torch.testing.assert_close(output[1][:, keep[1]], expected.detach(), rtol=1e-10, atol=1e-10)
    assert not output[1][:, ~keep[1]].any()


def test_a_norm_by_the_statistics_of_the_batch_is_refused():
    with pytest.raises(Unsupported, match="no rule for 'batch_norm' with the statistics of the batch"):
        followed(nn.BatchNorm2d(3, track_running_stats=False), torch.rand(2, 3, 4, 4), torch.eye(4).expand(2, 4, 4))


def test_resizing_sees_no_zeros_beside_what_is_kept():
    class Twice(nn.Module):
        def forward(self, x):
            return F.interpolate(x, scale_factor=2, mode="bilinear")

    keep = torch.zeros(1, 4, 4, dtype=torch.bool)
    keep[:, :, :2] = True
    output, _, run = followed(Twice(), torch.full((1, 1, 4, 4), 2.0, dtype=torch.float64), keep)
    assert run.masks[output].on[0, 0, 0].tolist() == [True] * 4 + [False] * 4
    torch.testing.assert_close(output[0, 0, 0], torch.tensor([2.0] * 4 + [0.0] * 4, dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_sequence_is_masked_as_a_grid_of_one_row():
    class Lines(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 3, padding=2, dilation=2).double()

        def forward(self, x):
            return self.conv(x.squeeze(2))

    net, images, keep = Lines(), torch.randn(2, 2, 1, 9, dtype=torch.float64), torch.rand(2, 1, 9) < 0.3
    flat = nn.Conv2d(2, 3, (1, 3), padding=(0, 2), dilation=(1, 2)).double()
    flat.load_state_dict({"weight": net.conv.weight.unsqueeze(2), "bias": net.conv.bias})
    output, _, run = followed(net, images, keep)
    expected, _, other = followed(flat, images, keep)
    torch.testing.assert_close(output, expected.squeeze(2), rtol=1e-12, atol=1e-12)
    same(run.masks[output].on, other.masks[expected].on.squeeze(2))


def test_a_flattened_map_has_zeros_in_its_holes():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2 * 24 * 40, 5)

        def forward(self, x):
            return self.head(self.conv(x).flatten(1))

    net, images, keep = Flat(), torch.randn(2, 3, 24, 40), blocks(2, (24, 40))
    expected = net.head((net.conv(images) * keep.unsqueeze(1)).flatten(1))
    torch.testing.assert_close(LayerMask()(adapted(net), images, keep), expected.detach())


def test_a_flattened_map_of_which_nothing_is_left_is_warned_of():
    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 2, 1, stride=4), nn.Linear(2 * 6 * 10, 5)

        def forward(self, x):
            return self.head(self.conv(x).flatten(1))

    keep, net = torch.zeros(1, 24, 40), Sparse()
    keep[:, 1::4] = 1  # rows that no window looks at
    with pytest.warns(UserWarning, match="nothing is left of some images in the last features of Sparse"):
        same(LayerMask()(adapted(net), torch.randn(1, 3, 24, 40), keep)[0], net.head.bias.detach())


# Tokens -----------------------------------------------------------------------------------------------------------------------------


def vision_transformer():
    from torchvision.models.vision_transformer import VisionTransformer

    net = VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=5).double().eval()
    nn.init.normal_(net.class_token)
    nn.init.normal_(net.heads.head.weight)
    nn.init.normal_(net.encoder.pos_embedding)
    return net


def without_tokens(net, image, kept):
    """The forward of `net` on the tokens of kept patches alone, and on no others."""
    tokens = net.class_token + net.encoder.pos_embedding[:, :1]
    patches = net.conv_proj(image[None]).flatten(2).transpose(1, 2) + net.encoder.pos_embedding[:, 1:]
    tokens = torch.cat([tokens, patches[:, kept]], 1)
    return net.heads(net.encoder.ln(net.encoder.layers(tokens))[:, 0])[0].detach()


def test_removed_tokens_are_as_if_they_had_never_been():
    net, images = vision_transformer(), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    patches = torch.rand(4, 4, 4) < 0.5
    patches[0], patches[3] = True, False
    keep = patches.repeat_interleave(8, 1).repeat_interleave(8, 2)
    logits = quietly(LayerMask(), adapted(net, size=(32, 32)), images, keep)
    for image, kept, answer in zip(images, patches.flatten(1), logits, strict=True):
        torch.testing.assert_close(answer, without_tokens(net, image, kept), rtol=1e-10, atol=1e-10)


def test_a_token_is_kept_if_all_or_if_any_of_its_pixels_are():
    net, images = vision_transformer(), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    keep = torch.ones(1, 32, 32)
    keep[:, :3, :3] = keep[:, 8:16, 8:16] = 0  # a corner of patch 0, and all of patch 5
    model = adapted(net, size=(32, 32))
    kept = torch.ones(16, dtype=torch.bool)
    kept[5] = False
    filled_in = filled(images * keep, shares(Mask(keep.bool().unsqueeze(1)), 7, torch.float64))[0]
    torch.testing.assert_close(
        LayerMask(tokens="any")(model, images, keep)[0], without_tokens(net, filled_in, kept), rtol=1e-10, atol=1e-10
    )
    kept[0] = False
    torch.testing.assert_close(LayerMask()(model, images, keep)[0], without_tokens(net, images[0], kept), rtol=1e-10, atol=1e-10)


def test_removed_tokens_are_not_in_the_mean():
    net = TinyViT(prefix=0).double().eval()
    images, keep = torch.randn(1, 3, 24, 40, dtype=torch.float64), torch.ones(1, 24, 40)
    keep[:, :8, 8:24] = 0
    kept = torch.ones(15, dtype=torch.bool)
    kept[1:3] = False
    tokens = (net.patch(images).flatten(2).transpose(1, 2) + net.place)[:, kept]
    for block in net.blocks:
        tokens = block(tokens)
    expected = net.head(net.norm(tokens).mean(1))
    torch.testing.assert_close(LayerMask()(adapted(net), images, keep), expected.detach(), rtol=1e-10, atol=1e-10)


def test_attention_written_out_drops_tokens_as_the_fused_one_does():
    class Written(Block):
        def forward(self, tokens):
            query, key, value = self.qkv(self.norm1(tokens)).chunk(3, -1)
            weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
            tokens = tokens + self.proj(weights @ value)
            return tokens + self.mlp(self.norm2(tokens))

    class Lettered(Block):
        def forward(self, tokens):
            query, key, value = self.qkv(self.norm1(tokens)).chunk(3, -1)
            scores = torch.einsum("bid,bjd->bij", query, key) / query.shape[-1] ** 0.5
            tokens = tokens + self.proj(torch.einsum("b i j, b j d -> b i d", F.softmax(scores, dim=2), value))
            return tokens + self.mlp(self.norm2(tokens))

    fused, images = TinyViT().double(), torch.randn(2, 3, 24, 40, dtype=torch.float64)
    nn.init.normal_(fused.blocks[1].qkv.weight)  # attention that differs between tokens
    keep = blocks(2, (24, 40))
    expected = LayerMask()(adapted(fused), images, keep)
    for kind in (Written, Lettered):
        other = TinyViT().double()
        other.blocks = nn.ModuleList([kind(12).double() for _ in range(2)])
        other.load_state_dict(fused.state_dict())
        torch.testing.assert_close(LayerMask()(adapted(other), images, keep), expected, rtol=1e-10, atol=1e-10)


def test_where_no_token_is_left_a_warning_names_what_avoids_it():
    keep = torch.zeros(1, 24, 40)
    keep[:, 4:12] = 1
    with pytest.warns(UserWarning, match=r"LayerMask\(tokens='any'\) avoids it"):
        LayerMask()(adapted(TinyViT()), torch.randn(1, 3, 24, 40), keep)
    LayerMask(tokens="any")(adapted(TinyViT()), torch.randn(1, 3, 24, 40), keep)


# What is not known, and what goes wrong ----------------------------------------------------------------------------------------------


class Between(GapCNN):
    """As `GapCNN`, with something done to its features."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, images):
        return self.head(self.what(self.features(images)).mean((2, 3)))


def deformed(x):
    from torchvision.ops import deform_conv2d

    return deform_conv2d(x, torch.zeros(len(x), 2, *x.shape[2:]), torch.ones(8, 8, 1, 1))


UNKNOWN = {
    "cumsum": lambda x: x.cumsum(2),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, torch.ones(8, 8, 2, 2), stride=2),
    "max_pool2d_with_indices": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "deform_conv2d": deformed,
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "numpy": lambda x: torch.from_numpy(x.numpy()),
    "tolist": lambda x: x * len(x.tolist()),
    "sum": lambda x: x / x.sum(),
    "getitem": lambda x: x[:, :, [0, 1]],
    "setitem": lambda x: x.__setitem__(0, 1.0) or x,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_operation_without_a_rule_is_named(name):
    with pytest.raises(
        Unsupported, match=f"layer masking has no rule for '{name}'.* which Between does to activations with holes; allowed: "
    ):
        LayerMask()(adapted(Between(UNKNOWN[name])), torch.randn(2, 3, 24, 40), blocks(2, (24, 40)))


def test_an_operation_without_a_rule_may_be_let_through_where_it_keeps_the_shape():
    keep = torch.ones(1, 24, 40)
    keep[:, 6:16, 20:28] = 0
    images = torch.randn(1, 3, 24, 40)
    model = adapted(Between(lambda x: x.cumsum(2)))
    logits = LayerMask(unknown="remask")(model, images, keep)
    same(logits, LayerMask(unknown="remask")(model, images.masked_fill(keep[:, None] == 0, 7.0), keep))
    with pytest.raises(Unsupported, match="'conv_transpose2d' whose result has another shape"):
        LayerMask(unknown="remask")(adapted(Between(UNKNOWN["conv_transpose2d"])), images, keep)


def test_what_is_let_through_is_zero_in_its_holes():
    class Through(nn.Module):
        def forward(self, x):
            return x.cumsum(3)

    assert mask_after(Through(), [[1, 0, 1, 0]], policy=LayerMask(unknown="remask")) == [[1, 0, 1, 0]]


def test_a_compiled_network_is_followed_as_it_was_written():
    module, images, keep = ResidualCNN(), torch.randn(2, 3, 24, 40), blocks(2, (24, 40))
    expected = LayerMask()(adapted(module), images, keep)
    same(LayerMask()(adapted(torch.compile(module, backend="eager")), images, keep), expected)


def test_a_scripted_function_inside_is_noticed():
    class Scripted(GapCNN):
        def forward(self, images):
            return self.head(scripted(self.features(images)).mean((2, 3)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(torch.nn.functional.softsign)
    with pytest.raises(Unsupported, match="layer masking cannot follow Scripted: something that is no PyTorch function"):
        LayerMask()(adapted(Scripted()), torch.randn(1, 3, 24, 40), torch.zeros(1, 24, 40))


def test_torchscript_is_refused_with_the_reason(recwarn):
    module = torch.jit.trace(GapCNN().eval(), torch.randn(1, 3, 24, 40))
    recwarn.clear()
    with pytest.raises(Unsupported, match="is TorchScript, which hides them"):
        LayerMask()(adapted(module), torch.randn(1, 3, 24, 40), torch.zeros(1, 24, 40))


def test_an_answer_that_does_not_come_from_the_images_by_pytorch_is_refused():
    class Hidden(GapCNN):
        def forward(self, images):
            return torch.zeros(len(images), 5)

    with pytest.raises(Unsupported, match="layer masking cannot follow Hidden"):
        LayerMask()(adapted(Hidden()), torch.randn(1, 3, 24, 40), torch.zeros(1, 24, 40))


@pytest.mark.parametrize("error", [RuntimeError("of the user's own"), KeyboardInterrupt("of the user's own")])
def test_what_a_network_raises_comes_out_as_it_is_and_nothing_is_followed_any_more(error):
    module = Raising()
    module.error = error
    with pytest.raises(type(error), match="of the user's own") as caught:
        LayerMask()(adapted(module), torch.randn(1, 3, 24, 40), torch.eye(24, 40)[None])
    assert caught.value is error
    assert torch._C._len_torch_function_stack() == 0


def test_no_layer_of_the_network_is_replaced_or_hooked():
    module = ResidualCNN()
    before = [(name, id(each), dict(each._forward_hooks)) for name, each in module.named_modules()]
    LayerMask()(adapted(module), torch.randn(1, 3, 24, 40), blocks(1, (24, 40)))
    assert before == [(name, id(each), dict(each._forward_hooks)) for name, each in module.named_modules()]


def test_linear_models_are_answered_without_the_pixels():
    net, images, keep = LinearModel(), torch.randn(2, 3, 24, 40), blocks(2, (24, 40))
    same(LayerMask()(adapted(net), images, keep), net(images * keep[:, None]).detach())


# Parts ------------------------------------------------------------------------------------------------------------------------------


def test_one_name_stands_for_all_spellings():
    x = torch.ones(2, 2)
    spellings = {torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__, torch.Tensor.__iadd__, torch.Tensor.__radd__}
    assert {named(each) for each in spellings} == {"add"}
    assert named(type(x).shape.__get__) == ".shape" and named(torch.Tensor.T.__get__) == "T"
    assert named(torch.Tensor.__rsub__) == "rsub" and named(torch.Tensor.__rmatmul__) == "rmatmul"


@pytest.mark.parametrize(
    ("old", "new", "varying"),
    [
        ((2, 6, 4, 5), (2, 3, 2, 4, 5), (0, 2, 3)),
        ((2, 6, 4, 5), (2, 6, 20), (0, 2, 3)),
        ((2, 6, 4, 5), (2, 120), (0, 2, 3)),
        ((2, 1, 4, 5), (2, 4, 5), (0, 2, 3)),
        ((2, 20, 6), (2, 20, 3, 2), (0, 1)),
        ((2, 4, 4, 1, 6), (2, 2, 2, 2, 2, 6, 1), (0, 1, 2)),
        ((6, 4, 5), (2, 3, 20), (0, 1, 2)),
        ((1, 6, 4, 5), (6, 20), (2, 3)),
    ],
    ids=str,
)
def test_a_mask_takes_the_shape_of_its_values(old, new, varying):
    on = torch.rand([size if place in varying else 1 for place, size in enumerate(old)]) < 0.5
    result = reshaped(on, old, new, lambda on: on.any(-1))
    assert result.ndim == len(new) and all(size in (1, whole) for size, whole in zip(result.shape, new, strict=True))
    same(result.expand(new), on.expand(old).reshape(new))
    assert result.numel() == on.numel() or new == (2, 120)


def test_masks_of_one_resolution_are_worked_out_once(monkeypatch):
    from torchvision.models import resnet18

    grown_masks = []
    monkeypatch.setattr("attribkit.removals.carrying.grown", lambda mask, window: grown_masks.append(window) or grown(mask, window))
    followed(shaken(resnet18(num_classes=3)).eval(), torch.randn(2, 3, 64, 64), blocks(2, (64, 64)))
    # 20 convolutions; the stem, each stage's first block (two ways) and what its second convolution or its other blocks grow.
    assert len(grown_masks) < 20 and len([window for window in grown_masks if window == Window((7, 7), (2, 2), (3, 3))]) == 1


def test_half_precision_is_full_precision_rounded():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1)
    )
    module = nn.Sequential(module, nn.Flatten(), nn.Linear(8, 5))
    images, keep = torch.randn(2, 3, 32, 32).half(), torch.ones(2, 32, 32)
    keep[:, 8:24, 8:24] = 0  # wide enough for places none of whose neighbours are valid
    half = LayerMask()(adapted(copy.deepcopy(module).half(), size=(32, 32)), images, keep)
    full = LayerMask()(adapted(copy.deepcopy(module.half()).float(), size=(32, 32)), images.float(), keep)
    torch.testing.assert_close(half, full, rtol=0, atol=4e-3)  # 11 bits a step, of values about 1
