"""What every removal must do, for each that is registered; no removal is named here."""

from __future__ import annotations

import dataclasses
import pickle
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import GapCNN, Raising, Recorded, ResidualCNN, TinyViT, adapted
from torch import nn

from attribkit import BadInput, Unsupported
from attribkit.registry import read
from attribkit.removals import REMOVALS, InFill

SIZE = (24, 40)


class Smearing(nn.Module):
    """The mean of the square around, where a removal wants a network: its dropout and BatchNorm must be in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(0.5), nn.BatchNorm2d(3)

    def forward(self, images, keep):
        return self.norm(self.dropout(F.avg_pool2d(images * keep, 5, 1, 2)))


# What stands for a setting that has no default, by its name.
NEEDED = {"module": Smearing()}


def example(cls):
    fields = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}
    return cls(**{name: NEEDED[name] for name in fields})


ALL = [pytest.param(example(cls), id=name) for name, cls in REMOVALS.items()]
INFILLS = [pytest.param(example(cls), id=name) for name, cls in REMOVALS.items() if issubclass(cls, InFill)]


def pictures(rows: int = 3, size=SIZE, seed: int = 0) -> torch.Tensor:
    """Smooth normalised images, whose means, blurs and pixels differ."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(rows, 3, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bilinear", align_corners=True)
    return 2 * (smooth + 0.1 * torch.rand(rows, 3, *size, generator=generator)) - 1.1


def masks(rows: int = 3, size=SIZE, seed: int = 0) -> torch.Tensor:
    """For each image other blocks of 4 x 4 that are kept, at least one and not all."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.rand(rows, -(-size[0] // 4), -(-size[1] // 4), generator=generator) < 0.6
    blocks[:, 0, 0], blocks[:, -1, -1] = True, False
    return blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : size[0], : size[1]]


def close(one, other) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().amax().item())


def same(one, other) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("removal", ALL)
@pytest.mark.parametrize("network", [GapCNN, ResidualCNN, TinyViT])
def test_what_is_kept_whole_is_answered_as_the_model_answers_it(removal, network):
    model = adapted(network())
    images = pictures()
    try:
        logits = removal(model, images, torch.ones(3, *SIZE))
    except Unsupported as error:
        pytest.skip(str(error))
    same(logits, model.logits(images))


@pytest.mark.parametrize("removal", ALL)
@pytest.mark.parametrize("network", [GapCNN, ResidualCNN, TinyViT])
def test_what_is_removed_changes_the_answer_which_is_finite(removal, network):
    model = adapted(network())
    images = pictures()
    try:
        logits = removal(model, images, masks())
    except Unsupported as error:
        pytest.skip(str(error))
    whole = model.logits(images)
    assert logits.shape == whole.shape and logits.dtype == torch.float32 and not logits.requires_grad
    assert torch.isfinite(logits).all() and ((logits - whole).abs().amax(1) > 1e-5).all()


@pytest.mark.parametrize("removal", INFILLS)
def test_kept_pixels_are_bitwise_their_own_and_others_are_not(removal):
    model, images, keep = adapted(GapCNN()), pictures(), masks()
    filled = removal.filled(model, images, keep)
    kept = keep.unsqueeze(1).expand_as(images)
    same(filled[kept], images[kept])
    assert (filled[~kept] != images[~kept]).float().mean() > 0.9
    same(removal.filled(model, images, torch.ones(3, *SIZE)), images)
    same(removal(model, images, keep), model.logits(filled))


@pytest.mark.parametrize("removal", ALL)
def test_removed_pixels_have_the_influence_that_the_removal_admits(removal):
    model, images, keep = adapted(GapCNN()), pictures(), masks()
    other = torch.where(keep.unsqueeze(1), images, 5 * pictures(seed=1))
    one, two = removal(model, images, keep), removal(model, other, keep)
    if removal.sees_removed:
        assert ((one - two).abs().amax(1) > 1e-4).all()
    else:
        same(one, two)


@pytest.mark.parametrize("removal", INFILLS)
def test_an_in_fill_that_sees_nothing_removed_does_not_even_see_that_it_is_no_number(removal):
    model, images, keep = adapted(GapCNN()), pictures(), masks()
    broken = images.masked_fill(~keep.unsqueeze(1), torch.nan)
    if removal.sees_removed:
        assert not torch.isfinite(removal.filled(model, broken, keep)).all()
    else:
        same(removal.filled(model, broken, keep), removal.filled(model, images, keep))


@pytest.mark.parametrize("removal", ALL)
def test_an_answer_depends_on_neither_its_batch_nor_its_place(removal):
    model, images, keep = adapted(ResidualCNN()), pictures(4), masks(4)
    keep[1], keep[2] = False, True  # what has nothing to go by, or nothing to do, must not disturb the others
    together = removal(model, images, keep)
    close(torch.cat([removal(model, images[i : i + 1], keep[i : i + 1]) for i in range(4)]), together)
    order = torch.tensor([2, 0, 3, 1])
    close(removal(model, images[order], keep[order]), together[order])
    assert ((together[0] - together).abs().amax(1)[1:] > 1e-3).all()


@pytest.mark.parametrize("removal", ALL)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_how_many_rows_run_at_once_changes_nothing(removal, rows):
    module = Recorded(ResidualCNN())
    images, keep = pictures(5), masks(5)
    whole = removal(adapted(module), images, keep)
    module.rows.clear()
    chunked = removal(adapted(module, max_rows=rows), images, keep)
    assert max(module.rows) <= rows
    close(chunked, whole)


@pytest.mark.parametrize("removal", ALL)
def test_asking_about_some_images_again_and_again_is_as_calling(removal):
    model, images, keep = adapted(ResidualCNN()), pictures(), masks(5)
    which = torch.tensor([1, 0, 1, 2, 1])
    with model.studied():
        asked = removal.prepared(model, images)(which, keep)
    close(asked, removal(model, images[which], keep))
    assert (asked[0] != asked[2]).any()  # one image without other pixels


@pytest.mark.parametrize("removal", ALL)
@pytest.mark.parametrize("size", [(22, 37), (37, 22), (33, 16)])
def test_sizes_may_be_odd_and_sides_differ(removal, size):
    model = adapted(ResidualCNN(), size=size)
    logits = removal(model, pictures(2, size), masks(2, size))
    assert logits.shape == (2, 5) and torch.isfinite(logits).all()


@pytest.mark.parametrize("removal", ALL)
def test_any_number_of_pixels_may_be_kept(removal):
    model, images = adapted(ResidualCNN()), pictures(5)
    keep = torch.zeros(5, *SIZE)
    keep[1, 3, 7] = 1  # one; none but a corner; a row; all but one
    keep[2, -1, -1] = 1
    keep[3, 11] = 1
    keep[4] = 1
    keep[4, 3, 7] = 0
    logits = removal(model, images, keep)
    assert torch.isfinite(logits).all()
    close(removal(model, images[:1], keep[:1]), logits[:1])


@pytest.mark.parametrize("removal", ALL)
def test_keep_may_be_of_any_type(removal):
    model, images, keep = adapted(GapCNN()), pictures(), masks()
    expected = removal(model, images, keep)
    for kind in (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bfloat16):
        same(removal(model, images, keep.to(kind)), expected)
    same(removal(model, images, 0.4 + 0.2 * keep), expected)


@pytest.mark.parametrize("removal", ALL)
def test_what_does_not_fit_is_refused_in_one_line(removal):
    model, images, keep = adapted(GapCNN()), pictures(), masks()
    for wrong in (keep[:2], keep.unsqueeze(1), keep[:, :, :-1], keep.numpy()):
        with pytest.raises(BadInput, match=r"keep: got .*, allowed: \(3, 24, 40\), ones where") as raised:
            removal(model, images, wrong)
        assert "\n" not in str(raised.value)
    for wrong in (images[0], images.long(), images[:0], images.numpy()):
        with pytest.raises(BadInput, match=r"images: got .*, allowed: floating-point \(B, 3, H, W\), at least one"):
            removal(model, wrong, keep)


def _state(module):
    return {
        "training": [each.training for each in module.modules()],
        "requires_grad": [weight.requires_grad for weight in module.parameters()],
        "grad": [weight.grad for weight in module.parameters()],
        "values": {name: value.tolist() for name, value in module.state_dict().items()},
        "hooks": [
            len(hooks) for each in module.modules() for hooks in (each._forward_hooks, each._forward_pre_hooks, each._backward_hooks)
        ],
        "forward": ["forward" in vars(each) for each in module.modules()],
        "random": (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),
        "modes": (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
    }


@pytest.mark.parametrize("removal", ALL)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_as_it_was(removal, training):
    module = ResidualCNN().train(training)
    module.layer1.eval()
    module.head.weight.requires_grad_(False)
    own = [value for value in vars(removal).values() if isinstance(value, nn.Module)]
    for each in own:
        each.train(training)
    images, keep = pictures(), masks()
    before, owned = _state(module), [_state(each) for each in own]
    held = images.clone(), keep.clone()
    removal(adapted(module), images, keep)
    assert _state(module) == before and [_state(each) for each in own] == owned
    same(images, held[0])
    same(keep, held[1])


@pytest.mark.parametrize("removal", ALL)
def test_the_model_comes_back_as_it_was_when_it_raises(removal):
    module = Raising().train()
    model, images, keep = adapted(module, layer="features"), pictures(), masks()
    removal(model, images, keep)
    before = _state(module)
    module.error = RuntimeError("broken on purpose")
    with pytest.raises(RuntimeError, match="broken on purpose"):
        removal(model, images, keep)
    assert _state(module) == before


@pytest.mark.parametrize("removal", ALL)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_callers_modes_change_no_answer(removal, mode):
    model, images, keep = adapted(ResidualCNN()), pictures(), masks()
    expected = removal(model, images, keep)
    with mode():
        inside = removal(model, images.clone(), keep.clone())
    same(inside.clone(), expected)
    same(removal(model, images.clone().requires_grad_(), keep), expected)


@pytest.mark.parametrize("removal", ALL)
def test_training_mode_changes_no_answer(removal):
    module, images, keep = GapCNN().eval(), pictures(), masks()
    expected = removal(adapted(module), images, keep)
    same(removal(adapted(module.train()), images, keep), expected)


@pytest.mark.parametrize("removal", ALL)
def test_only_the_model_runs_in_low_precision(removal):
    module, images, keep = GapCNN(), pictures(), masks()
    expected = removal(adapted(module), images, keep)
    auto = removal(adapted(module, precision="bfloat16"), images, keep)
    assert auto.dtype == torch.float32
    # bfloat16 keeps 8 bits, and the logits are sums of numbers of about their own size.
    torch.testing.assert_close(auto, expected, rtol=0.02, atol=0.02 * expected.abs().amax().item())
    if isinstance(removal, InFill):
        same(
            removal.filled(adapted(module, precision="bfloat16"), images, keep),
            removal.filled(adapted(module), images, keep),
        )
    half = removal(adapted(GapCNN().to(torch.bfloat16)), images, keep)
    assert half.dtype == torch.float32 and torch.isfinite(half).all()


@pytest.mark.parametrize("removal", ALL)
def test_double_precision_stays_double(removal):
    module, images, keep = GapCNN(), pictures(), masks()
    single = removal(adapted(module), images, keep)
    # A network among the settings has a precision of its own.
    if isinstance(removal, InFill) and not any(isinstance(value, nn.Module) for value in vars(removal).values()):
        assert removal.filled(adapted(module.double()), images.double(), keep).dtype == torch.float64
        double = removal(adapted(module), images.double(), keep)
    else:
        double = removal(adapted(module.double()), images, keep)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("removal", ALL)
def test_a_call_made_twice_gives_the_same_answer_and_another_seed_another(removal):
    model, images, keep = adapted(GapCNN()), pictures(), masks()
    first = removal(model, images, keep)
    torch.manual_seed(99)
    np.random.seed(99)
    same(removal(model, images, keep), first)
    if "seed" in removal.__dataclass_fields__:
        assert (dataclasses.replace(removal, seed=1)(model, images, keep) != first).any()


@pytest.mark.parametrize("removal", ALL)
def test_settings_are_plain_values_that_print_as_they_are_read(removal):
    # Pickled twice: what holds a network is equal to no other, but pickles as well.
    loaded = pickle.loads(pickle.dumps(removal))
    assert type(loaded) is type(removal) and repr(loaded) == repr(removal)
    assert len(repr(removal)) < 200 and "\n" not in repr(removal) and isinstance(hash(removal), int)
    if any(isinstance(value, nn.Module) for value in vars(removal).values()):
        with pytest.raises(BadInput, match="cannot read"):
            read(repr(removal), REMOVALS)
    else:
        assert read(repr(removal), REMOVALS) == removal == loaded == read(removal.brief(), REMOVALS) == read(removal.name, REMOVALS)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        removal.name = "another"
    with pytest.raises(TypeError, match="is final"):
        type("Extended", (type(removal),), {})


@pytest.mark.parametrize("removal", ALL)
def test_it_says_what_it_is_and_where_it_runs(removal):
    assert removal.paper and type(removal).__doc__ and removal.runs_on
    assert isinstance(removal.batched, bool) and isinstance(removal.sees_removed, bool)
    assert (removal.runs_on == "the host") is not removal.batched


def test_the_table_is_not_empty():
    assert len(ALL) >= 13
