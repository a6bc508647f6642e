"""Heads for one cell of a grid: DiFull is the model on the crop and blind elsewhere; DiPart is what a forward written by hand says."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from examples import small
from models import (
    SIZE,
    Block,
    ChannelsLastCNN,
    FlattenedCNN,
    GapCNN,
    InplaceCNN,
    Raising,
    Recorded,
    ResidualCNN,
    TinyViT,
    adapted,
)
from torch import Tensor, nn

from attribkit import BadInput, Batch, Targets, Unsupported
from attribkit import methods as m
from attribkit.model.cells import head_of
from attribkit.model.mosaic import Mosaic, cell_of, cells_of, stitched, window
from attribkit.model.sized import sized
from attribkit.model.tokens import Layout
from attribkit.removals import Constant, LayerMask

NETWORKS = [GapCNN, ResidualCNN, ChannelsLastCNN, TinyViT, lambda: TinyViT(prefix=7), lambda: TinyViT(prefix=0)]
TARGETS = Targets(torch.tensor([1, 2, 0]))
HEIGHT, WIDTH = SIZE


def exactly(network=GapCNN, **settings):
    return adapted(network().double().eval(), **settings)


def grids(n: int = 2, rows: int = 3) -> Tensor:
    return torch.randn(rows, 3, n * HEIGHT, n * WIDTH, dtype=torch.float64)


def batch(images: Tensor) -> Batch:
    return Batch(images, TARGETS[: len(images)], tuple(str(row) for row in range(len(images))))


def other_cells_changed(images: Tensor, n: int, cell: int) -> Tensor:
    changed = cells_of(torch.randn_like(images), n)
    changed[cell :: n**2] = cell_of(images, n, cell)
    return stitched(changed, n)


def outside(maps: Tensor, n: int, cell: int) -> Tensor:
    """The parts of maps that lie over other cells."""
    cells = cells_of(maps.unsqueeze(1), n)
    return cells[torch.arange(len(cells)) % n**2 != cell]


def three_blocks(prefix: int = 1) -> TinyViT:
    network = TinyViT(prefix=prefix)
    network.blocks.append(Block(12))
    for block in network.blocks:  # attention that is far from even
        nn.init.normal_(block.qkv.weight, std=0.5)
    return network


# Grids -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3])
def test_cells_are_those_of_the_grid_row_by_row(n):
    images = torch.randn(2, 3, n * 4, n * 5)
    cells = cells_of(images, n)
    for cell in range(n**2):
        top, left = cell // n * 4, cell % n * 5
        expected = images[:, :, top : top + 4, left : left + 5]
        torch.testing.assert_close(cells[cell :: n**2], expected, rtol=0, atol=0)
        torch.testing.assert_close(cell_of(images, n, cell), expected, rtol=0, atol=0)
    torch.testing.assert_close(stitched(cells, n), images, rtol=0, atol=0)


@pytest.mark.parametrize("prefix", [0, 1, 7])
def test_tokens_before_each_cells_patches_lie_below_all_of_them(prefix):
    mosaic, output = Mosaic.of(Layout("tokens", 2, 3, prefix), 2), torch.randn(3 * 4, prefix + 6, 5)
    grid, below = mosaic.to_grid(output, whole=True), -(-prefix // 3)
    assert grid.shape == (3, 5, 2 * (2 + below), 6) == (3, 5, mosaic.rows, 6)
    torch.testing.assert_close(grid[:, :, :4], mosaic.to_grid(output), rtol=0, atol=0)
    torch.testing.assert_close(mosaic.to_grid(output.view(3, -1, 5)), mosaic.to_grid(output), rtol=0, atol=0)  # a grid's tokens end to end
    torch.testing.assert_close(mosaic.from_grid(grid), output, rtol=0, atol=0)
    torch.testing.assert_close(mosaic.one(grid, 2), mosaic.cells(grid)[2::4], rtol=0, atol=0)
    torch.testing.assert_close(grid[1, :, 2:4, 3:].flatten(1).T, output[4 + 3, prefix:], rtol=0, atol=0)


def test_rows_that_straddle_cells_belong_to_none():
    assert [window(14, 7, 2, place) for place in range(2)] == [0, 7]
    assert [window(27, 13, 2, place) for place in range(2)] == [0, 14]  # SqueezeNet: stride 16, centres at 17, 33, ...
    assert [window(41, 13, 3, place) for place in range(3)] == [0, 14, 28]
    assert window(28, 13, 2, 0) is None and window(25, 13, 2, 0) is None
    assert window(5, 5, 1, 0) == 0 and window(6, 5, 1, 0) is None


# DiFull ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("n", "cell"), [(2, 0), (2, 1), (2, 3), (3, 5)])
def test_difull_answers_to_the_cell_alone(network, n, cell):
    model, images = exactly(network), grids(n)
    head = head_of(model, n, cell)
    assert head.module is model.module and head.size == (n * HEIGHT, n * WIDTH) and head.name.endswith(f"cell {cell} of {n}x{n} (DiFull)")
    expected = model.logits(cell_of(images, n, cell))
    torch.testing.assert_close(head.logits(images), expected, rtol=0, atol=0)
    torch.testing.assert_close(head.logits(other_cells_changed(images, n, cell)), expected, rtol=0, atol=0)
    assert (head_of(model, n, 0 if cell else 1).logits(images) != expected).any()


@pytest.mark.parametrize("network", NETWORKS)
def test_difull_stitches_each_cells_own_activations_and_gradients(network):
    model, images, cell = exactly(network), grids(), 2
    head = head_of(model, 2, cell)
    for layer in (model.layer, model.middle):
        activations, gradients = head.activation_gradient(images, TARGETS, layer)
        assert activations.shape[1:] == head.layers[layer] and gradients.shape == activations.shape
        torch.testing.assert_close(head.activations(images, layer), activations, rtol=0, atol=0)
        for each in range(4):
            own, slope = model.activation_gradient(cell_of(images, 2, each), TARGETS, layer)
            torch.testing.assert_close(cell_of(activations, 2, each), own, rtol=0, atol=0)
            expected = slope if each == cell else torch.zeros_like(slope)
            torch.testing.assert_close(cell_of(gradients, 2, each), expected, rtol=0, atol=0)


EXACT = [
    m.Gradient(),
    m.InputXGradient(),
    m.IntegratedGradients(steps=3),
    m.IntegratedGradients(steps=3, baseline="blur"),
    m.Smooth(m.InputXGradient(), samples=3),
    m.HiResCAM(),
    m.HiResCAM(layer="middle"),
    m.HiResCAM(layer="input"),
    m.LayerCAM(),
    m.AtLayer(m.IntegratedGradients(steps=3)),
    m.AtLayer(m.InputXGradient(), layer="middle"),
    m.AtLayer(m.Smooth(m.Gradient(), samples=2), layer="final"),
]


@pytest.mark.parametrize("network", [ResidualCNN, TinyViT])
@pytest.mark.parametrize("method", EXACT, ids=repr)
def test_difull_gradients_are_exactly_zero_outside_the_cell(network, method):
    head, images = head_of(exactly(three_blocks if network is TinyViT else network), 2, 3), grids()
    maps = method(head, batch(images)).maps
    assert maps.shape[1] % 2 == maps.shape[2] % 2 == 0
    assert outside(maps, 2, 3).abs().max() == 0 < cell_of(maps.unsqueeze(1), 2, 3).abs().max()


@pytest.mark.parametrize("network", [ResidualCNN, TinyViT])
@pytest.mark.parametrize("method", [m.GradCAM(), m.GradCAMPlusPlus(), m.XGradCAM()], ids=repr)
def test_pooled_maps_are_not_zero_outside_the_cell(network, method):
    maps = method(head_of(exactly(network), 2, 3), batch(grids())).maps
    assert outside(maps, 2, 3).abs().amax() > 0.01 * maps.abs().amax()


def test_grad_cam_pools_the_cells_gradient_over_the_whole_grid():
    model, images, cell = exactly(), grids(), 1
    maps = m.GradCAM()(head_of(model, 2, cell), batch(images)).maps.double()
    # Each of the cell's h w places has the gradient weight / (h w); their sum over the n^2 h w places of the grid is weight / (n^2 h w).
    weights = model.module.head.weight[TARGETS.index] / (4 * 6 * 10)
    everywhere = stitched(model.activations(cells_of(images, 2)), 2)
    torch.testing.assert_close(maps, torch.einsum("bc,bchw->bhw", weights, everywhere).detach(), rtol=1e-6, atol=1e-9)


def test_local_maps_run_the_cell_alone_and_others_each_cell_once():
    model = adapted(Recorded(GapCNN()), layer="inner.features", max_rows=4)
    head, images = head_of(model, 3, 4), torch.randn(6, 3, 3 * HEIGHT, 3 * WIDTH)
    for ask, rows in (
        (lambda: head.logits(images), [4, 2]),
        (lambda: head.gradient(images, Targets(torch.zeros(6, dtype=torch.int64))), [4, 2]),
        (lambda: m.HiResCAM()(head, Batch(images, Targets(torch.zeros(6, dtype=torch.int64)), tuple("abcdef"))), [4, 2]),
        (lambda: m.GradCAM()(head, Batch(images, Targets(torch.zeros(6, dtype=torch.int64)), tuple("abcdef"))), [4] * 9 + [2] * 9),
        (lambda: head.activations(images), [4] * 9 + [2] * 9),
    ):
        model.module.rows.clear()
        ask()
        assert model.module.rows == rows


def test_a_long_sequence_with_block_diagonal_attention_is_the_cells_apart():
    network, images = three_blocks().double().eval(), grids()
    expected = by_hand(network, images, 2, 3)
    for cell in range(4):
        torch.testing.assert_close(head_of(adapted(network), 2, cell).logits(images), expected[:, cell], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(head_of(adapted(network), 2, cell, 3).logits(images), expected[:, cell], rtol=1e-10, atol=1e-12)
        single = copy.deepcopy(network).float()
        torch.testing.assert_close(head_of(adapted(single), 2, cell).logits(images), expected[:, cell].float(), rtol=1e-5, atol=1e-5)


# DiPart ----------------------------------------------------------------------------------------------------------------------------


def by_hand(network: TinyViT, images: Tensor, n: int, part: int) -> Tensor:
    """A TinyViT on one long sequence of all cells, under a mask in the last `part` blocks: (B, n^2, K)."""
    prefix, cells = network.first.shape[1], n**2
    each = [network.patch(cell_of(images, n, cell)).flatten(2).transpose(1, 2) for cell in range(cells)]
    tokens = torch.cat([torch.cat([network.first.expand(len(images), -1, -1), own], 1) + network.place for own in each], 1)
    length = tokens.shape[1] // cells
    apart = torch.block_diag(*[torch.ones(length, length)] * cells).bool()
    for place, block in enumerate(network.blocks):
        query, key, value = block.qkv(block.norm1(tokens)).chunk(3, -1)
        mask = apart if place >= len(network.blocks) - part else None
        tokens = tokens + block.proj(F.scaled_dot_product_attention(query, key, value, attn_mask=mask))
        tokens = tokens + block.mlp(block.norm2(tokens))
    tokens = network.norm(tokens).view(len(images), cells, length, -1)
    return network.head(tokens[:, :, 0] if prefix else tokens.mean(2)).detach()


@pytest.mark.parametrize("prefix", [0, 1, 7])
@pytest.mark.parametrize("part", [1, 2])
def test_dipart_of_a_transformer_is_the_long_sequence_with_its_last_blocks_masked(prefix, part):
    network, images = three_blocks(prefix).double().eval(), grids()
    expected, alone = by_hand(network, images, 2, part), by_hand(network, images, 2, 3)
    assert (expected - alone).abs().max() > 1e-3
    for cell in range(4):
        head = head_of(adapted(network), 2, cell, part)
        torch.testing.assert_close(head.logits(images), expected[:, cell], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", ["patch", "blocks.0", "blocks.1", "blocks.1.norm1", "blocks.2.norm1", "norm"])
def test_dipart_of_a_transformer_shows_the_activations_and_gradients_of_all_cells(layer):
    network, images, cell = three_blocks().double().eval(), grids(), 1
    head = head_of(adapted(network), 2, cell, 1)
    activations, gradients = head.activation_gradient(images, TARGETS, layer)
    assert activations.shape == (3, 12, 6, 10) == (3, *head.layers[layer])
    torch.testing.assert_close(head.activations(images, layer), activations, rtol=0, atol=0)
    far = outside(gradients.abs().sum(1), 2, cell).amax((1, 2, 3))
    assert bool((far > 0).all()) if layer in ("patch", "blocks.0", "blocks.1.norm1") else bool((far == 0).all())
    # A step along the gradient changes the score by the gradient times the step.
    rest = head.at(layer) if layer in ("patch", "blocks.0", "blocks.1", "norm") else None
    if rest is not None:
        whole = head.activations(images, layer, whole=True)
        torch.testing.assert_close(rest.logits(whole), head.logits(images), rtol=1e-10, atol=1e-12)
        found = rest.over_image(rest.gradient(whole, TARGETS).flatten(0, 1)).view_as(gradients)
        torch.testing.assert_close(found, gradients, rtol=1e-10, atol=1e-13)


def test_dipart_of_a_cnn_gives_each_cell_its_part_of_the_grids_features():
    model, images = exactly(), grids()
    parts = torch.stack([head_of(model, 2, cell, 1).logits(images) for cell in range(4)])
    whole = model.logits(images)  # which a network with a global mean answers at any size
    torch.testing.assert_close(parts.mean(0), whole, rtol=1e-12, atol=1e-13)
    features = model.activations(images, "features")
    for cell in range(4):
        expected = model.module.head(cell_of(features, 2, cell).mean((2, 3))).detach()
        torch.testing.assert_close(parts[cell], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("network", [GapCNN, InplaceCNN, ResidualCNN, FlattenedCNN])
def test_dipart_of_a_cnn_sees_across_the_border_and_no_further(network):
    head, images = head_of(exactly(network), 2, 3, 1), grids()
    gradient = head.gradient(images, TARGETS).abs().sum(1)
    reach = 15 if network is ResidualCNN else 9
    assert outside(gradient, 2, 3).max() > 0 == gradient[:, : HEIGHT - reach].max() == gradient[:, :, : WIDTH - reach].max()
    assert (head.logits(other_cells_changed(images, 2, 3)) != head.logits(images)).any()


@pytest.mark.parametrize("network", [GapCNN, InplaceCNN, ResidualCNN, ChannelsLastCNN, FlattenedCNN])
def test_dipart_of_a_cnn_shows_and_continues_from_the_whole_grids_layers(network):
    model, images, cell = exactly(network), grids(), 2
    head = head_of(model, 2, cell, 1)
    assert list(head.layers)[-1] == head.cut
    for layer in {head.cut, head.middle, head.layer}:
        activations, gradients = head.activation_gradient(images, TARGETS, layer)
        assert activations.shape[1:] == head.layers[layer]
        torch.testing.assert_close(head.activations(images, layer), activations, rtol=0, atol=0)
        rest = head.at(layer)
        torch.testing.assert_close(rest.logits(activations), head.logits(images), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(rest.gradient(activations, TARGETS), gradients, rtol=1e-10, atol=1e-13)
    assert outside(gradients.abs().sum(1), 2, cell).shape[-2:] == (activations.shape[2] // 2, activations.shape[3] // 2)
    final = head.activation_gradient(images, TARGETS, "final")[1].abs().sum(1)
    assert outside(final, 2, cell).max() == 0 < final.max()


class Unpadded(nn.Module):
    """A stride of 4 and a window of 7 without padding: 9 places of 40 pixels, 19 of 80."""

    def __init__(self, padding: int = 0) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 16, 7, stride=4, padding=padding)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.features(images)).mean((2, 3)))


def test_features_that_straddle_the_border_belong_to_no_cell():
    model, images = exactly(Unpadded), grids()
    assert head_of(model, 2, 3, 1).activations(images).shape[2:] == (11, 19)
    for cell in range(4):  # each window inside a cell sees that cell alone
        expected = model.logits(cell_of(images, 2, cell))
        torch.testing.assert_close(head_of(model, 2, cell, 1).logits(images), expected, rtol=1e-12, atol=1e-13)


def test_features_that_do_not_divide_into_cells_are_refused():
    with pytest.raises(
        Unsupported, match=r"layer 'features' returns 13 x 21 for a grid and 7 x 11 for a cell, which are not 2 x 2 of them"
    ):
        head_of(exactly(lambda: Unpadded(padding=4)), 2, 0, 1)


# What is common to both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("part", [0, 1])
def test_a_grid_of_one_cell_is_the_model(network, part):
    model, images = exactly(network), grids(1)
    head = head_of(model, 1, 0, part)
    torch.testing.assert_close(head.logits(images), model.logits(images), rtol=0, atol=0)
    torch.testing.assert_close(head.gradient(images, TARGETS), model.gradient(images, TARGETS), rtol=0, atol=0)
    for method in (m.GradCAM(), m.AtLayer(m.IntegratedGradients(steps=3)), m.Occlusion(window=8, stride=8)):
        found, expected = method(head, batch(images)).maps, method(model, batch(images)).maps
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("network", [GapCNN, TinyViT])
@pytest.mark.parametrize(
    "method",
    [
        small(m.RegionRemoval()),
        small(m.LayerMasking()),
        small(m.XRAI()),
        m.CounterfactualInfill(steps=2),
        m.Occlusion(window=8, stride=8),
        m.AtLayer(m.Occlusion(window=3, stride=3)),
    ],
    ids=lambda method: method.name,
)
def test_methods_that_take_pixels_away_run_on_heads(network, part, method):
    head, images = head_of(adapted(network()), 2, 3, part), grids(rows=1).float()
    maps = method(head, batch(images)).maps  # without a word when the cell is gone and others are kept
    assert maps.isfinite().all() and maps.abs().max() > 0
    if method.name == "occlusion" and not part:
        assert outside(maps, 2, 3).abs().max() < 1e-6 * maps.abs().max()  # windows that end at the border; answers of other batches


@pytest.mark.parametrize("network", [GapCNN, ResidualCNN, TinyViT])
def test_masks_are_carried_into_the_cell(network):
    model, images, cell = exactly(network), grids(), 1
    keep = torch.rand(3, 1, 2 * HEIGHT // 8, 2 * WIDTH // 8).repeat_interleave(8, 2).repeat_interleave(8, 3)[:, 0] > 0.3
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="layer masking: nothing is left")
        found = LayerMask()(head_of(model, 2, cell), images, keep)
        expected = LayerMask()(model, cell_of(images, 2, cell), cell_of(keep.unsqueeze(1), 2, cell)[:, 0])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert (found - model.logits(cell_of(images, 2, cell))).abs().max() > 1e-3


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("network", [GapCNN, TinyViT])
def test_a_constant_removal_of_the_cell_alone_is_that_of_the_crop(network, part):
    head, images = head_of(exactly(network), 2, 3, part), grids()
    keep = torch.ones(3, 2 * HEIGHT, 2 * WIDTH, dtype=torch.bool)
    keep[:, HEIGHT:, WIDTH:] = False
    black = images * keep.unsqueeze(1)
    torch.testing.assert_close(Constant(colour="zero")(head, images, keep), head.logits(black), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("network", [GapCNN, TinyViT])
def test_captum_explains_a_head_by_its_input_and_no_layer_of_single_cells(network, part):
    pytest.importorskip("captum")
    head, images = head_of(exactly(network), 2, 3, part), grids()
    for method in ("Saliency", "InputXGradient"):
        maps = m.Captum(method)(head, batch(images)).maps
        expected = head.gradient(images, TARGETS)
        expected = expected.abs() if method == "Saliency" else expected * images
        torch.testing.assert_close(maps.double(), expected.sum(1), rtol=1e-5, atol=1e-8)
    layered = m.Captum("LayerGradientXActivation")
    if network is GapCNN and part:  # whose layers are those of the whole grid
        activations, gradients = head.activation_gradient(images, TARGETS)
        torch.testing.assert_close(layered(head, batch(images)).maps.double(), (activations * gradients).sum(1), rtol=1e-5, atol=1e-8)
    else:
        with pytest.raises(Unsupported, match="another library would see layer '.*' of single cells"):
            layered(head, batch(images))


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("network", [GapCNN, TinyViT])
def test_grad_cam_of_another_library_is_refused_or_the_same(network, part):
    pytest.importorskip("pytorch_grad_cam")
    head, images = head_of(exactly(network), 2, 3, part), grids(rows=1)
    theirs = m.PytorchGradCAM("GradCAM")
    if network is GapCNN and part:
        assert theirs(head, batch(images)).maps.shape == (1, 2 * HEIGHT, 2 * WIDTH)
    else:
        with pytest.raises(Unsupported, match="another library would see layer '.*' of single cells"):
            theirs(head, batch(images))


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("network", [Raising, TinyViT])
def test_a_head_gives_the_module_back_as_it_was(network, part):
    module = network().train()
    head, images = head_of(adapted(module), 2, 3, part), grids().float()
    hooks = [(each, len(each._forward_hooks), len(each._forward_pre_hooks)) for each in module.modules()]
    m.GradCAM()(head, batch(images))
    head.at(head.cut).logits(head.activations(images, head.cut, whole=True))
    if network is Raising:
        module.error = KeyError("the network's own")
        with pytest.raises(KeyError, match="the network's own"):
            head.gradient(images, TARGETS)
        with pytest.raises(KeyError, match="the network's own"):
            head.activation_gradient(images, TARGETS)
    else:
        with pytest.raises(RuntimeError, match="size of tensor"):
            head.logits(torch.randn(1, 3, 4 * HEIGHT, 2 * WIDTH))
    assert all(each.training for each in module.modules()) and all(weight.requires_grad for weight in module.parameters())
    assert all(len(each._forward_hooks) == after and len(each._forward_pre_hooks) == before == 0 for each, after, before in hooks)
    assert all(weight.grad is None for weight in module.parameters()) and not any(len(each._forward_hooks) for each in module.modules())


def test_grids_count_as_many_rows_as_they_take():
    module = Recorded(three_blocks())
    model, images = adapted(module, max_rows=9), grids(rows=5).float()
    module.rows.clear()
    head = head_of(model, 2, 0, 1)
    assert head.max_rows == 2 and head_of(model, 2, 0).max_rows == 9 and head_of(adapted(module, max_rows=1), 2, 0, 1).max_rows == 1
    module.rows.clear()
    head.logits(images)
    assert module.rows == [8, 8, 4]
    assert head_of(adapted(GapCNN()), 2, 0, 1).max_rows == 2


def test_what_stands_for_a_model_with_other_weights_is_one():
    """A shallow copy around another module, as for randomised weights, asks that module alone; at a layer too."""
    for network, part in ((GapCNN, 0), (GapCNN, 1), (TinyViT, 1)):
        head, other, images = head_of(exactly(network), 2, 1, part), exactly(network), grids()
        twin = copy.copy(head)
        twin.module, twin._rests = other.module, {}
        expected = head_of(other, 2, 1, part)
        torch.testing.assert_close(twin.logits(images), expected.logits(images), rtol=0, atol=0)
        whole = expected.activations(images, expected.cut, whole=True)
        torch.testing.assert_close(twin.activations(images, expected.cut, whole=True), whole, rtol=0, atol=0)
        torch.testing.assert_close(twin.at(expected.cut).logits(whole), expected.logits(images), rtol=1e-10, atol=1e-12)


# What is refused --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"n": 0, "cell": 0}, r"head_of\(n=...\): got 0, allowed: a whole number from 1 to"),
        ({"n": 2, "cell": 4}, r"head_of\(cell=...\): got 4, allowed: a whole number from 0 to 3"),
        ({"n": 2, "cell": -1}, r"head_of\(cell=...\): got -1"),
        ({"n": 2, "cell": True}, r"head_of\(cell=...\): got True"),
        ({"n": 2, "cell": 0, "part": -1}, r"head_of\(part=...\): got -1"),
        ({"n": 2, "cell": 0, "part": 2}, r"head_of\(part=...\): got 2, allowed: 1, since the last features of GapCNN are a grid, or 0"),
    ],
)
def test_settings_out_of_range_are_named(given, wrong):
    with pytest.raises(BadInput, match=wrong):
        head_of(adapted(GapCNN()), **given)


def test_a_transformer_has_as_many_parts_as_blocks():
    with pytest.raises(BadInput, match=r"head_of\(part=...\): got 3, allowed: from 1 to 2, the blocks of TinyViT, or 0"):
        head_of(adapted(TinyViT()), 2, 0, 3)


def test_heads_of_models_that_are_not_plain_are_refused():
    model = adapted(GapCNN())
    for other in (head_of(model, 2, 0), sized(model, (48, 80)), model.at("features")):
        with pytest.raises(BadInput, match=rf"head_of: got a {type(other).__name__}, allowed: a VisionModel of images"):
            head_of(other, 2, 0)


@pytest.mark.parametrize("part", [0, 1])
def test_images_that_do_not_divide_are_refused(part):
    with pytest.raises(BadInput, match="got images of 49 x 80, allowed: sides that 2 divides"):
        head_of(adapted(GapCNN()), 2, 0, part).logits(torch.randn(1, 3, 49, 80))


class KnowsPlaces(TinyViT):
    """Blocks with a bias for each place in the sequence (`bias`), or whose attention looks back alone."""

    def __init__(self, kind: str) -> None:
        super().__init__(prefix=0)
        self.blocks = nn.ModuleList([Placed(kind), Placed(kind)])


class Placed(Block):
    def __init__(self, kind: str) -> None:
        super().__init__(12)
        self.kind, self.bias = kind, nn.Parameter(torch.randn(15, 15))

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, -1)
        scores = query @ key.transpose(1, 2)
        scores = scores + self.bias if self.kind == "bias" else scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
        return tokens + self.mlp(self.norm2(tokens + self.proj(scores.softmax(-1) @ value)))


def test_blocks_that_know_places_are_refused():
    with pytest.raises(Unsupported, match="block 'blocks.0' takes no tokens of 4 images at once .*; allowed: part=0"):
        head_of(adapted(KnowsPlaces("bias")), 2, 0, 1)
    with pytest.raises(Unsupported, match="to block 'blocks.0' the order of tokens matters beyond their embedding"):
        head_of(adapted(KnowsPlaces("causal")), 2, 0, 1)
    assert head_of(adapted(KnowsPlaces("bias")), 2, 0, 2).name.endswith("(DiPart(2))")


def test_a_layer_behind_the_cells_parting_is_refused():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.after, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.after(self.features(images)).mean((2, 3)))

    head = head_of(adapted(Two(), layer="features"), 2, 0, 1)
    assert "after" not in head.layers
    for ask in (
        lambda: head.activations(torch.randn(1, 3, 48, 80), "after"),
        lambda: head.at("after"),
        lambda: head.lend(("after",)),
    ):
        with pytest.raises(Unsupported, match="layer 'after' comes after 'features', where the cells part; allowed: one up to there"):
            ask()


def test_a_network_without_blocks_side_by_side_is_refused():
    network = TinyViT()
    network.blocks = nn.ModuleList([network.blocks[0]])
    with pytest.raises(Unsupported, match="TinyViT shows no blocks of one type, side by side, that each return all of its tokens"):
        head_of(adapted(network), 2, 0, 1)


# Networks of libraries ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
def test_blocks_of_each_librarys_transformer_are_found_and_shared(library):
    pytest.importorskip(library)
    if library == "torchvision":
        from torchvision.models import VisionTransformer as OfTorchvision

        network = OfTorchvision(image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=7)
    elif library == "timm":
        from timm.models.vision_transformer import VisionTransformer

        network = VisionTransformer(img_size=32, patch_size=8, depth=3, num_heads=2, embed_dim=16, num_classes=7)
    else:
        from transformers import ViTConfig, ViTForImageClassification

        settings = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "num_labels": 7}
        network = ViTForImageClassification(ViTConfig(hidden_size=16, patch_size=8, initializer_range=0.5, **settings))
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.4)
    model, images = adapted(network.double().eval(), size=(32, 32)), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    found = [head_of(model, 2, 3, part).logits(images) for part in (1, 2, 3, 0)]
    torch.testing.assert_close(found[3], model.logits(cell_of(images, 2, 3)), rtol=0, atol=0)
    torch.testing.assert_close(found[2], found[3], rtol=0, atol=0)
    assert all((one - other).abs().max() > 1e-3 for one, other in ((found[0], found[1]), (found[1], found[2])))
    # All cells alike: what they see of one another is themselves, and each is as if alone.
    same = images[:, :, :32, :32].repeat(1, 1, 2, 2)
    torch.testing.assert_close(head_of(model, 2, 1, 1).logits(same), model.logits(images[:, :, :32, :32]), rtol=1e-8, atol=1e-10)


def test_dipart_of_a_swin_is_that_of_a_grid():
    from torchvision.models import SwinTransformer

    network = SwinTransformer(patch_size=[4, 4], embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=[2, 2], num_classes=5)
    model, images = adapted(network.double().eval(), size=(32, 32)), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    parts = torch.stack([head_of(model, 2, cell, 1).logits(images) for cell in range(4)])
    torch.testing.assert_close(parts.mean(0), model.logits(images), rtol=1e-10, atol=1e-12)
