"""The contract of removals: what a model says without some pixels, and what it may not depend on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import BadInput
from ..removals import InFill, Removal
from .common import Extent, add_common
from .networks import NETWORKS, SIZE, adapted
from .removal_bench import RemovalBench, pictures
from .settings import add_settings
from .state import differences, disturb, of_module
from .suite import Check, Contract, Passed, close, expect, passed, refused

REMOVAL: Contract[RemovalBench] = Contract()


def check_removal(removal: Removal) -> Passed:
    """Put a removal to every check of the contract: the names of those it passes, or one `ContractBroken` that lists those it fails."""
    return passed(removal_checks(removal))


def removal_checks(removal: Removal) -> list[Check]:
    """Every check of the contract for this removal, one by one."""
    if not isinstance(removal, Removal):
        raise BadInput(f"removal: got {type(removal).__name__}, allowed: an object of a class that extends attribkit.removals.Removal")
    return REMOVAL.checks(RemovalBench(removal), repr(removal))


def fills_nothing(bench: RemovalBench) -> str:
    """Why nothing is said about other pixels in the place of the removed ones."""
    return "" if isinstance(bench.subject, InFill) else "it puts no other pixels in the place of the removed ones"


def holds_networks(bench: RemovalBench) -> list[nn.Module]:
    """The networks among its settings."""
    return [value for value in vars(bench.subject).values() if isinstance(value, nn.Module)]


def fills_nothing_in_double(bench: RemovalBench) -> str:
    """Why nothing is said about the precision of a filling."""
    return fills_nothing(bench) or ("a network among its settings has a precision of its own" if holds_networks(bench) else "")


def holds_no_network(bench: RemovalBench) -> str:
    """Why nothing is said about networks among its settings."""
    return "" if holds_networks(bench) else "there is no network among its settings"


# What the answer is -----------------------------------------------------------------------------------------------------------------


@REMOVAL.check(*NETWORKS)
def what_is_kept_whole_is_answered_as_the_model_answers_it(bench: RemovalBench, network: str) -> None:
    """With everything kept the logits are the model's own, to the bit."""
    logits = adapted(bench.network(network)).logits(bench.images)
    close(bench.asked(torch.ones(3, *SIZE), network=network), logits, "the model's own logits")


@REMOVAL.check(*NETWORKS)
def what_is_removed_changes_the_answer(bench: RemovalBench, network: str) -> None:
    """Without some pixels the logits are others: float32, finite, and of no graph."""
    got, whole = bench.expected(network), adapted(bench.network(network)).logits(bench.images)
    bench.check_values(got, 3)
    expect(got.shape == whole.shape, f"logits {tuple(whole.shape)}", tuple(got.shape))
    change = (got - whole).abs().amax(1)
    expect((change > 1e-5).all(), "other logits for every image than with all pixels", f"changes of {change}")


@REMOVAL.check()
def removed_pixels_have_the_influence_that_is_admitted(bench: RemovalBench) -> None:
    """Other values where pixels are removed change no bit, unless `sees_removed` says that they have some influence; then they have."""
    other = torch.where(bench.keep.unsqueeze(1), bench.images, 5 * pictures(3, SIZE, seed=1).batch.images)
    got = bench.asked(bench.keep, other)
    if bench.subject.sees_removed:
        change = (got - bench.expected()).abs().amax(1)
        expect((change > 1e-4).all(), "an influence of removed pixels on every image, as sees_removed says", f"changes of {change}")
    else:
        close(got, bench.expected(), "the logits whatever the removed pixels were, as sees_removed says")


@REMOVAL.check()
def what_stays_matters(bench: RemovalBench) -> None:
    """Two images of which the same place is kept have different answers."""
    keep = bench.keep[:1].expand(3, -1, -1)
    got = bench.asked(keep)
    expect(((got[0] - got[1:]).abs().amax(1) > 1e-4).all(), "other logits for other images", got)


@REMOVAL.check("22x37", "37x22", "33x16")
def sizes_may_be_odd(bench: RemovalBench, size: str) -> None:
    """Images of any size and proportion are answered, also where blocks do not fit into them."""
    height, width = (int(side) for side in size.split("x"))
    given = bench.given(rows=2, size=(height, width))
    bench.check_values(bench.answer_of(bench.network("residual"), given, size=(height, width)), 2)


PARTS = ("nothing", "one pixel", "a corner", "a row", "all but a pixel")


@REMOVAL.check(*PARTS)
def any_part_may_be_kept(bench: RemovalBench, part: str) -> None:
    """Nothing, one pixel, a corner, a row, or all but one pixel: the answer is finite, and the same beside other images."""
    keep = torch.zeros(3, *SIZE)
    if part == "one pixel":
        keep[1, 3, 7] = 1
    elif part == "a corner":
        keep[1, -1, -1] = 1
    elif part == "a row":
        keep[1, 11] = 1
    elif part == "all but a pixel":
        keep[1] = 1
        keep[1, 3, 7] = 0
    keep[2] = 1
    together = bench.asked(keep, network="residual")
    bench.check_values(together, 3)
    bench.close(bench.asked(keep[1:2], bench.images[1:2], "residual"), together[1:2], "the logits beside other images")


@REMOVAL.check()
def other_images_masks_are_theirs(bench: RemovalBench) -> None:
    """An image of which nothing is kept, and one of which all is, disturb no other in their batch, and have answers of their own."""
    given, keep = bench.given(rows=4), bench.given(rows=4).batch.region("object").clone()
    keep[1], keep[2] = 0, 1
    together = bench.asked(keep, given.batch.images, "residual")
    alone = torch.cat([bench.asked(keep[row : row + 1], given.batch.images[row : row + 1], "residual") for row in range(4)])
    bench.close(together, alone, "the logits of each image alone")
    expect(((together[0] - together).abs().amax(1)[1:] > 1e-3).all(), "other logits for each image", together)


@REMOVAL.check("float64", "int64", "uint8", "bool", "bfloat16", "soft")
def keep_may_be_of_any_type(bench: RemovalBench, dtype: str) -> None:
    """What is kept may be said by numbers of any type, cut at one half."""
    keep = 0.4 + 0.2 * bench.keep if dtype == "soft" else bench.keep.to(getattr(torch, dtype))
    close(bench.asked(keep), bench.expected(), "the logits of the same mask in float32")


@REMOVAL.check("rows", "channels", "width", "array")
def a_mask_that_does_not_fit_is_refused(bench: RemovalBench, wrong: str) -> None:
    """A mask of another shape, or that is no tensor, is refused in one line."""
    keep = bench.keep
    masks: dict[str, Any] = {"rows": keep[:2], "channels": keep.unsqueeze(1), "width": keep[:, :, :-1], "array": np.ones((3, *SIZE))}
    with refused(BadInput, "allowed: (3, 24, 40), ones where", f"a mask of wrong {wrong}"):
        bench.asked(masks[wrong])


@REMOVAL.check("one image", "whole numbers", "none", "array")
def images_that_do_not_fit_are_refused(bench: RemovalBench, wrong: str) -> None:
    """Images of another shape or type, or none, are refused in one line."""
    images = bench.images
    others: dict[str, Any] = {"one image": images[0], "whole numbers": images.long(), "none": images[:0], "array": np.ones((3, 3, *SIZE))}
    with refused(BadInput, "allowed: floating-point (B, 3, H, W), at least one", f"images that are {wrong}"):
        bench.asked(bench.keep, others[wrong])


@REMOVAL.check()
def asking_again_and_again_is_as_calling(bench: RemovalBench) -> None:
    """Once prepared it may be asked about some of the images, in any order and several times, and answers as to a call."""
    images, keep = bench.images, bench.given(rows=5).batch.region("object") > 0
    model, which = adapted(bench.network("residual")), torch.tensor([1, 0, 1, 2, 1])
    with model.studied():
        asked = bench.subject.prepared(model, images)(which, keep)
    bench.close(asked, bench.asked(keep, images[which], "residual"), "the logits of a call for the same images")
    expect((asked[0] != asked[2]).any(), "other logits of one image without other pixels", asked[0])


# What is put in the place of removed pixels -----------------------------------------------------------------------------------------


@REMOVAL.check(unless=fills_nothing)
def kept_pixels_are_their_own_and_others_are_not(bench: RemovalBench) -> None:
    """In the filled image kept pixels are their own to the bit, and nearly all of the others are other values."""
    images, keep = bench.images, bench.keep
    filled = bench.infill.filled(adapted(bench.network()), images, keep)
    kept = keep.unsqueeze(1).expand_as(images)
    close(filled[kept], images[kept], "kept pixels as they were")
    share = float((filled[~kept] != images[~kept]).float().mean())
    expect(share > 0.9, "other values at more than 90 % of removed pixels", f"{100 * share:.0f} %")


@REMOVAL.check(unless=fills_nothing)
def with_all_kept_the_filled_image_is_the_image(bench: RemovalBench) -> None:
    """Where nothing is missing nothing is filled."""
    close(bench.infill.filled(adapted(bench.network()), bench.images, torch.ones(3, *SIZE)), bench.images, "the images")


@REMOVAL.check(unless=fills_nothing)
def the_answer_is_that_of_the_filled_image(bench: RemovalBench) -> None:
    """What the model says without pixels is what it says to the filled image."""
    model = adapted(bench.network())
    close(bench.expected(), model.logits(bench.infill.filled(model, bench.images, bench.keep)), "the logits of the filled images")


@REMOVAL.check(unless=fills_nothing)
def removed_pixels_need_not_be_numbers(bench: RemovalBench) -> None:
    """NaN in the place of removed pixels changes no bit of the filling, unless `sees_removed` says that they have some influence."""
    model = adapted(bench.network())
    filled = bench.infill.filled(model, bench.images.masked_fill(~bench.keep.unsqueeze(1), torch.nan), bench.keep)
    if bench.subject.sees_removed:
        expect(not filled.isfinite().all(), "some influence of removed pixels, as sees_removed says", "none")
    else:
        close(filled, bench.infill.filled(model, bench.images, bench.keep), "the filling whatever was there before")


@REMOVAL.check(unless=fills_nothing)
def a_low_precision_of_the_model_is_not_the_fillings(bench: RemovalBench) -> None:
    """With `precision="bfloat16"` the filling is the same to the bit."""
    low, high = (bench.infill.filled(adapted(bench.network(), precision=p), bench.images, bench.keep) for p in ("bfloat16", "float32"))
    close(low, high, "the filling beside a model in float32")


@REMOVAL.check(unless=fills_nothing_in_double)
def a_double_image_is_filled_in_double(bench: RemovalBench) -> None:
    """Images in float64 are filled in float64."""
    filled = bench.infill.filled(adapted(bench.network().double()), bench.images.double(), bench.keep)
    expect(filled.dtype == torch.float64, "float64", filled.dtype)


@REMOVAL.check("training", "evaluating", unless=holds_no_network)
def a_network_of_its_own_comes_back(bench: RemovalBench, state: str) -> None:
    """A network among the settings runs in evaluation mode, and is as it was after the call."""
    own = holds_networks(bench)
    flags = [[each.training for each in module.modules()] for module in own]
    try:
        for module in own:
            module.train(state == "training")
        before = [of_module(module) for module in own]
        got = bench.asked(bench.keep)
        changed = [name for was, module in zip(before, own, strict=True) for name in differences(was, of_module(module))]
    finally:
        for module, were in zip(own, flags, strict=True):
            for each, flag in zip(module.modules(), were, strict=True):
                each.training = flag
    expect(not changed, "its own network as it was", "; ".join(changed))
    close(got, bench.expected(), "the logits whatever mode its own network is in")


# Random numbers and precision -------------------------------------------------------------------------------------------------------


@REMOVAL.check()
def an_equal_removal_has_the_same_answer(bench: RemovalBench) -> None:
    """All that decides an answer is in the settings: another object with the same gives the same bits."""
    disturb(7)
    again = dataclasses.replace(bench.subject)  # type: ignore[type-var]
    close(again(adapted(bench.network()), bench.images, bench.keep), bench.expected(), "the logits of a removal with the same settings")


@REMOVAL.check(unless=lambda bench: "" if "seed" in vars(bench.subject) else "it has no seed")
def another_seed_has_another_answer(bench: RemovalBench) -> None:
    """What is drawn depends on the seed."""
    other = dataclasses.replace(bench.subject, seed=bench.subject.seed + 1)  # type: ignore[type-var, attr-defined]
    got = other(adapted(bench.network()), bench.images, bench.keep)
    expect((got != bench.expected()).any(), "other logits under another seed", "the same")


@REMOVAL.check()
def double_precision_stays_double(bench: RemovalBench) -> None:
    """A model in float64 answers in float64, and what it answers in float32 but for rounding."""
    double = bench.subject(adapted(bench.network().double()), bench.images if holds_networks(bench) else bench.images.double(), bench.keep)
    expect(double.dtype == torch.float64, "float64 logits", double.dtype)
    close(double.float(), bench.expected(), "the logits in float32", rtol=1e-3, atol=1e-4)


@REMOVAL.check()
def a_model_in_bfloat16_has_nearly_the_same_answer(bench: RemovalBench) -> None:
    """With `precision="bfloat16"` logits are float32, and the same to two per cent: it keeps 8 bits."""
    got, expected = bench.answer_of(bench.network(), precision="bfloat16"), bench.expected()
    close(got, expected, "about the logits in float32", rtol=0.02, atol=0.02 * float(expected.abs().amax()))


@REMOVAL.check()
def it_says_where_it_runs_and_what_it_sees(bench: RemovalBench) -> None:
    """`runs_on` in words, `batched` and `sees_removed` as facts; what runs on the host takes one image at a time."""
    subject = bench.subject
    facts = isinstance(subject.batched, bool) and isinstance(subject.sees_removed, bool)
    expect(facts, "batched and sees_removed to be True or False", (subject.batched, subject.sees_removed))
    expect(isinstance(subject.runs_on, str) and bool(subject.runs_on), "runs_on in words", repr(subject.runs_on))
    expect((subject.runs_on == "the host") is not subject.batched, "batched=False on the host alone", (subject.runs_on, subject.batched))


add_common(REMOVAL, Extent(("residual",), wraps=("dict", "tuple")))
add_settings(REMOVAL)
