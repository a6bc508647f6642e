"""The contract of methods: what maps are, and what they may depend on."""

from __future__ import annotations

import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ..batch import Kind, Targets
from ..errors import BadInput, Unsupported
from ..methods import Method
from ..model.adapter import VisionModel
from .bench import Size, asks_nothing
from .common import STATES, Extent, add_common
from .method_bench import MethodBench
from .networks import NETWORKS, SIZE, Dead, GapCNN, LinearModel, OneQuarter, Recorded, TinyViT, adapted, made
from .settings import add_settings
from .state import disturb
from .suite import Check, Contract, Passed, close, expect, passed, refused

QUARTERS = ("top left", "top right", "bottom left", "bottom right")
METHOD: Contract[MethodBench] = Contract()


def check_method(method: Method) -> Passed:
    """Put a method to every check of the contract: the names of those it passes, or one `ContractBroken` that lists those it fails."""
    return passed(method_checks(method))


def method_checks(method: Method) -> list[Check]:
    """Every check of the contract for this method, one by one, for pytest: `@pytest.mark.parametrize("check", ..., ids=str)`."""
    if not isinstance(method, Method):
        raise BadInput(f"method: got {type(method).__name__}, allowed: an object of a class that extends attribkit.methods.Method")
    return METHOD.checks(MethodBench(method), repr(method))


# What maps are ----------------------------------------------------------------------------------------------------------------------


@METHOD.check()
def it_runs_somewhere(bench: MethodBench) -> None:
    """Of the networks here, which are of five kinds, at least one can be explained."""
    reasons = []
    for network in NETWORKS:
        try:
            bench.check_values(bench.expected(network), 3)
            return
        except Unsupported as error:
            reasons.append(f"{network}: {error}")
    expect(False, "maps of one of the networks", "; ".join(reasons))


@METHOD.check(*NETWORKS)
def one_signed_map_for_each_image(bench: MethodBench, network: str) -> None:
    """Maps are (B, h, w), float32, finite, without a graph, and not the same everywhere."""
    maps = bench.expected(network)
    bench.check_values(maps, 3)
    expect(maps.amax() > maps.amin(), "maps that are not constant", f"{float(maps.amax()):.3g} everywhere")
    _in_proportion(maps, SIZE)
    bench.varied(maps)


def _in_proportion(maps: Tensor, size: Size) -> None:
    """Raise unless rows are rows: a transposed grid of 24 x 40 would have 2.8 times its proportion; a grid of few places is not exact."""
    (height, width), proportion = maps.shape[-2:], size[0] / size[1]
    near = proportion / 1.25 <= height / width <= proportion * 1.25
    expect(near, f"a grid in the proportion of {size[0]} x {size[1]}", f"{height} x {width}")


@METHOD.check("wide", "tall", "odd", "wide tokens", "tall tokens")
def rows_are_rows(bench: MethodBench, shape: str) -> None:
    """The grid of a map has the proportions of the image, which would not be so if rows and columns were swapped."""
    size = {"wide": SIZE, "tall": (40, 24), "odd": (23, 41)}[shape.split()[0]]
    model = adapted(made(lambda: TinyViT(size=size)) if "tokens" in shape else bench.network(), size=size)
    result = bench.subject(model, bench.given(size=size).batch)
    bench.check_values(result.maps, 3)
    _in_proportion(result.maps, size)
    expect(result.size == size and result.at().shape == (3, *size), f"the size of the images, {size}", result.size)


@METHOD.check(*QUARTERS, unless=asks_nothing)
def evidence_lies_where_the_model_looks(bench: MethodBench, quarter: str) -> None:
    """Of a model that sees one quarter of the image alone, that is not the quarter in which maps show least."""
    maps = bench.subject(adapted(made(partial(OneQuarter, quarter))), bench.given().batch).at()
    strength = (maps - maps.flatten(1).median(1).values[:, None, None]).abs()
    strength = strength / strength.sum((1, 2), keepdim=True).clamp_min(1e-30)
    shares = {name: float((strength * made(partial(OneQuarter, name)).seen(maps)).sum() / 3) for name in QUARTERS}  # type: ignore[operator]
    least = min(value for name, value in shares.items() if name != quarter)
    expect(
        shares[quarter] > least,
        f"more at the {quarter} than in one of the others",
        {name: round(share, 3) for name, share in shares.items()},
    )


@METHOD.check(unless=asks_nothing)
def nothing_comes_of_a_dead_model(bench: MethodBench) -> None:
    """Where nothing influences any logit, maps are zero everywhere."""
    maps = bench.answer_of(made(Dead), layer="features")
    close(maps, torch.zeros_like(maps), "maps of zeros")


@METHOD.check(unless=asks_nothing)
def another_target_has_another_map(bench: MethodBench) -> None:
    """The map is of the target that was asked for."""
    given = bench.given()
    other = dataclasses.replace(given, batch=dataclasses.replace(given.batch, targets=Targets((given.batch.targets.index + 1) % 5)))
    same = (bench.answer_of(bench.network(), other) == bench.expected()).flatten(1).all(1)
    expect(not same.any(), "other maps for other targets", f"the same for {int(same.sum())} of {len(same)} images")


@METHOD.check(*((kind, network) for kind in get_args(Kind) for network in ("cnn", "one logit")))
def every_kind_of_target_has_a_map(bench: MethodBench, kind: tuple[Kind, str]) -> None:
    """Logits, log-odds, probabilities and evidence are explained, of models with several logits and with one."""
    maps = bench.answer_of(bench.network(kind[1]), bench.given(kind[1], kind=kind[0]))
    bench.check_values(maps, 3)
    expect(maps.abs().amax() > 0, "maps that are not zero", "zeros")


@METHOD.check(0.0, 1.5)
def a_constant_image_has_a_map(bench: MethodBench, value: float) -> None:
    """An image of one colour has a finite map."""
    given = bench.given(rows=2)
    bench.check_values(bench.answer_of(bench.network(), given.showing(torch.full_like(given.batch.images, value))), 2)


@METHOD.check("strong", "weak")
def images_may_be_strong_or_weak(bench: MethodBench, images: str) -> None:
    """Images with a hundred times the usual contrast, or a hundredth of it, have finite maps."""
    given = bench.given(rows=2)
    bench.check_values(bench.answer_of(bench.network(), given.showing(given.batch.images * (100 if images == "strong" else 0.01))), 2)


# What is refused --------------------------------------------------------------------------------------------------------------------


@METHOD.check("nan", "inf", "-inf")
def images_that_are_not_finite_are_refused(bench: MethodBench, value: str) -> None:
    """NaN or infinity in one pixel is refused in one line that names the image."""
    given = bench.given()
    images = given.batch.images.clone()
    images[1, 2, 3, 4] = float(value)
    with refused(BadInput, "NaN or infinity in image-1", "an image that is not finite"):
        bench.answer_of(bench.network(), given.showing(images))


@METHOD.check()
def an_empty_batch_is_refused(bench: MethodBench) -> None:
    """No images are no question."""
    with refused(BadInput, "got no images", "an empty batch"):
        bench.answer_of(bench.network(), bench.given().rows())


@METHOD.check()
def a_model_without_a_layer_is_refused_or_explained(bench: MethodBench) -> None:
    """A model that has no spatial layer is refused in one line before it runs, if the method needs one, and explained if it does not."""
    module = Recorded(made(LinearModel))
    if "spatial_layer" not in bench.subject.needs:
        bench.check_values(bench.answer_of(module), 3)
        return
    with refused(Unsupported, "needs a spatial layer", "a model without a spatial layer"):
        bench.answer_of(module)


# Random numbers and precision -------------------------------------------------------------------------------------------------------


def has_no_seed(bench: MethodBench) -> str:
    """Why nothing is said about another seed."""
    return "" if "seed" in {field.name for field in dataclasses.fields(bench.subject)} else "it has no seed"  # type: ignore[arg-type]


@METHOD.check()
def an_equal_method_has_the_same_maps(bench: MethodBench) -> None:
    """All that decides a map is in the settings: another object with the same gives the same bits."""
    disturb(7)
    maps = dataclasses.replace(bench.subject)(adapted(bench.network()), bench.given().batch).maps  # type: ignore[type-var]
    close(maps, bench.expected(), "the maps of a method with the same settings")


@METHOD.check(unless=lambda bench: has_no_seed(bench) or ("" if not bench.asks else "what it draws may not matter on every model"))
def another_seed_has_another_map(bench: MethodBench) -> None:
    """What is drawn depends on the seed."""
    other = dataclasses.replace(bench.subject, seed=bench.subject.seed + 1)  # type: ignore[type-var, attr-defined]
    expect(
        (other(adapted(bench.network()), bench.given().batch).maps != bench.expected()).any(), "other maps under another seed", "the same"
    )


@METHOD.check()
def single_precision_stays_single(bench: MethodBench) -> None:
    """Inside, too, maps of a float32 model are float32: what wraps the method goes on with what it is given."""
    maps = _inside(bench, adapted(bench.network()), bench.given().batch.images)
    expect(maps.dtype == torch.float32, "float32 maps from `_maps`", maps.dtype)


@METHOD.check()
def double_precision_stays_double(bench: MethodBench) -> None:
    """Maps of a float64 model are computed in float64, and are those of the float32 model but for rounding."""
    given, model = bench.given(), adapted(bench.network().double())
    maps = _inside(bench, model, given.batch.images.double())
    expect(maps.dtype == torch.float64 or not bench.asks, "float64 maps from `_maps`", maps.dtype)
    close(bench.answer(model, given), maps.float(), "the maps in float64", rtol=1e-4, atol=1e-6)


def _inside(bench: MethodBench, model: VisionModel, images: Tensor) -> Tensor:
    with model.studied():
        return bench.subject.explained(model, images, bench.given().batch.targets).maps


@METHOD.check("float64", "bfloat16")
def images_may_be_of_another_precision(bench: MethodBench, dtype: str) -> None:
    """Images in another precision than the model's are explained, and the maps are float32."""
    given = bench.given()
    images = given.batch.images.to(getattr(torch, dtype))
    maps = bench.answer_of(bench.network(), given.showing(images))
    bench.check_values(maps, 3)
    if dtype == "float64":
        bench.close(maps, bench.expected(), "the maps of the images in float32")


@METHOD.check()
def a_model_in_bfloat16_has_nearly_the_same_map(bench: MethodBench) -> None:
    """With `precision="bfloat16"` maps are float32, and the same to a few percent of their strength: it keeps 8 bits."""
    maps = bench.answer_of(bench.network(), precision="bfloat16")
    bench.check_values(maps, 3)
    alike = float(F.cosine_similarity(maps.flatten(), bench.expected().flatten(), dim=0))
    expect(alike > 0.97, "a cosine with the maps in float32 of more than 0.97", f"{alike:.3f}")


@METHOD.check()
def only_the_model_runs_in_low_precision(bench: MethodBench) -> None:
    """With `precision="bfloat16"` the model runs under autocast, the method does not; what asks nothing of it is exact."""
    seen: list[bool] = []

    class Noting(GapCNN):
        def forward(self, images: Tensor) -> object:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(images)

    model = adapted(made(Noting), precision="bfloat16")
    with model.studied():
        expect(not torch.is_autocast_enabled("cpu"), "no autocast around the method", "autocast")
    maps = bench.answer(model, bench.given())
    expect(all(seen), "autocast in every forward", f"{seen.count(False)} of {len(seen)} without")
    if not bench.asks:
        close(maps, bench.expected(), "the maps in float32")


# What travels with maps -------------------------------------------------------------------------------------------------------------


def _result(bench: MethodBench) -> tuple[VisionModel, Attribution]:
    def make() -> tuple[VisionModel, Attribution]:
        model = adapted(bench.network())
        return model, bench.subject(model, bench.given().batch)

    found: tuple[VisionModel, Attribution] = bench.kept("result", make)
    return found


@METHOD.check()
def what_decided_the_maps_travels_with_them(bench: MethodBench) -> None:
    """Images' names and size, the method, the model's precision and preprocessing and, where it looks at one, the layer."""
    model, result = _result(bench)
    got = (result.ids, result.method, result.size)
    expect(got == (bench.given().batch.ids, repr(bench.subject), SIZE), "ids, method and size of what was explained", got)
    facts = result.facts
    expect(facts["precision"] == "float32" and "crop 24x40" in facts["preprocessing"], "float32, crop 24x40", dict(facts))
    layer = model.layer if "spatial_layer" in bench.subject.needs else None
    expect(facts.get("layer") == layer, f"the layer, {layer}", facts.get("layer"))


@METHOD.check()
def maps_are_saved_and_loaded(bench: MethodBench) -> None:
    """A file of the maps holds all that was known of them."""
    result = _result(bench)[1]
    with tempfile.TemporaryDirectory() as folder:
        again = Attribution.load(result.save(Path(folder) / "maps.safetensors"))
    close(again.maps, result.maps, "the maps that were saved")
    expect(dict(again.facts) == dict(result.facts) and again.method == result.method, "facts and method as saved", dict(again.facts))
    expect(set(again.extras) == set(result.extras), f"what else it reports, {sorted(result.extras)}", sorted(again.extras))


@METHOD.check()
def what_else_it_reports_belongs_to_each_image(bench: MethodBench) -> None:
    """Each further fact has one row per image, and is the same for an image alone."""
    model, result = _result(bench)
    for row in range(len(result)) if result.extras else ():
        alone = bench.subject(model, bench.given().rows(row).batch).extras
        for name, extra in result.extras.items():
            close(alone[name].float(), extra[row : row + 1].float(), f"extras[{name!r}] of the image in its batch", rtol=1e-3, atol=1e-4)


@METHOD.check()
def it_is_its_settings_and_one_hook(bench: MethodBench) -> None:
    """The class adds no public name but its settings and what the base asks for."""
    cls = type(bench.subject)
    known = {"name", "paper", "cost", "needs", "signed", "local", *(field.name for field in dataclasses.fields(cls))}  # type: ignore[arg-type]
    own = sorted(name for name in vars(cls) if not name.startswith("_") and name not in known and name not in ALLOWED)
    expect(not own, "no public name but its settings and what the base asks for", own)


ALLOWED = ("brief",)


@METHOD.check()
def it_says_what_it_costs_and_needs(bench: MethodBench) -> None:
    """In words what it costs, and from a short list what it needs."""
    subject = bench.subject
    expect(isinstance(subject.cost, str) and bool(subject.cost), "the cost in words", repr(getattr(subject, "cost", None)))
    allowed = {"logits", "gradients", "spatial_layer", "cut"}
    expect(set(subject.needs) <= allowed, f"needs among {', '.join(sorted(allowed))}", sorted(subject.needs))
    expect(isinstance(subject.signed, bool), "signed to be True or False", subject.signed)


add_common(METHOD, Extent(NETWORKS, states=STATES))
add_settings(METHOD)
