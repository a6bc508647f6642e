"""The contract of metrics: what scores are, what they may depend on, and what they must be able to tell apart."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ..batch import Batch, Kind, Targets
from ..errors import BadInput, Unsupported
from ..methods import Gradient, InputXGradient, Oracle, RandomMap
from ..metrics import Metric
from ..metrics.base import Anew, Family
from ..model.adapter import VisionModel
from .bench import Given
from .common import Extent, add_common
from .metric_bench import MetricBench, maps_of
from .networks import SIZE, LinearModel, adapted, made
from .settings import add_settings
from .state import disturb
from .suite import Check, Contract, Passed, close, expect, passed, refused

METRIC: Contract[MetricBench] = Contract()


def check_metric(metric: Metric) -> Passed:
    """Put a metric to every check of the contract: the names of those it passes, or one `ContractBroken` that lists those it fails."""
    return passed(metric_checks(metric))


def metric_checks(metric: Metric) -> list[Check]:
    """Every check of the contract for this metric, one by one."""
    if not isinstance(metric, Metric):
        raise BadInput(f"metric: got {type(metric).__name__}, allowed: an object of a class that extends attribkit.metrics.Metric")
    return METRIC.checks(MetricBench(metric), repr(metric))


def explains_nothing(bench: MetricBench) -> str:
    """Why nothing is said about explaining again."""
    return "" if isinstance(bench.subject, Anew) else "it does not explain again"


def has_no_region(bench: MetricBench) -> str:
    """Why nothing is said about which region is compared with."""
    named = "region" in {field.name for field in dataclasses.fields(bench.subject)}  # type: ignore[arg-type]
    return "" if named else "it has no setting `region`"


# What scores are --------------------------------------------------------------------------------------------------------------------


@METRIC.check("cnn", "residual", "vit")
def one_score_for_each_image(bench: MetricBench, network: str) -> None:
    """Scores are (B,), float32, without a graph, and never infinite."""
    bench.check_values(bench.expected(network), 2)


@METRIC.check()
def it_tells_some_maps_apart(bench: MetricBench) -> None:
    """Beside a model that is sure of its answer some maps have scores, and not all have the same."""
    given = bench.given()
    flat = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(1))
    inside, model = given.batch.region("object"), adapted(bench.network())
    found = [
        bench.answer(model, dataclasses.replace(given, attribution=dataclasses.replace(bench.maps, maps=maps)))
        for maps in (bench.maps.maps, flat**8, inside + 0.1 * flat, 1 - inside + 0.1 * flat)
    ]
    known = torch.cat(found)
    known = known[~known.isnan()]
    expect(len(known) > 0 and bool((known != known[0]).any()), "scores that differ from map to map", torch.stack(found))


@METRIC.check("tall", "small")
def images_may_have_any_size(bench: MetricBench, shape: str) -> None:
    """Images that are higher than wide, or small, have scores."""
    size = (40, 24) if shape == "tall" else (20, 28)
    bench.check_values(bench.answer_of(bench.network(), bench.given(rows=1, size=size), size=size), 1)


@METRIC.check(*get_args(Kind))
def every_kind_of_target_has_a_score(bench: MetricBench, kind: Kind) -> None:
    """Maps of logits, log-odds, probabilities and evidence are scored."""
    bench.check_values(bench.answer_of(bench.network(), bench.given(rows=1, kind=kind)), 1)


ODD = ("zero", "constant", "one pixel", "tiny", "huge", "negative", "two values")


@METRIC.check(*ODD)
def odd_maps_have_a_score_or_nan(bench: MetricBench, maps: str) -> None:
    """Maps of zeros or of one value, and values very small or very large, have a score or NaN, and nothing else."""
    usual = bench.maps.maps
    odd = {
        "zero": torch.zeros(2, *SIZE),
        "constant": torch.full((2, *SIZE), -0.25),
        "one pixel": torch.zeros(2, *SIZE).index_fill(2, torch.tensor([7]), 1.0),
        "tiny": usual * 1e-30,
        "huge": usual * 1e30,
        "negative": -usual.abs() - 1,
        "two values": (usual > usual.mean()).float(),
    }[maps]
    bench.check_values(bench.scored(odd), 2)


@METRIC.check("one value", "coarse", "of one row", "finer than the image")
def maps_may_have_any_resolution(bench: MetricBench, grid: str) -> None:
    """Maps come at the method's own resolution, from a single value to more than the image has."""
    sizes = {"one value": (1, 1), "coarse": (3, 5), "of one row": (1, 7), "finer than the image": (48, 80)}
    maps = torch.rand(1, *sizes[grid], generator=torch.Generator().manual_seed(1))
    bench.check_values(bench.scored(maps, bench.given(rows=1)), 1)


@METRIC.check("nan", "inf", "-inf")
def a_map_that_is_not_finite_has_nan(bench: MetricBench, value: str) -> None:
    """NaN or infinity in one value of a map, or in all, makes its score NaN, and disturbs no other."""
    three = bench.given(rows=3)
    broken, expected = maps_of(three).maps.clone(), bench.kept("three", lambda: bench.answer_of(bench.network(), three)).clone()
    broken[1, 2, 3] = float(value)
    broken[2] = float(value)
    expected[1:] = torch.nan
    close(bench.scored(broken, three), expected, "NaN for the second map and the third, and its own score for the first")


@METRIC.check()
def maps_may_lie_in_memory_anyhow(bench: MetricBench) -> None:
    """Maps that are a window of wider ones are maps."""
    maps = bench.maps.maps
    bench.close(bench.scored(F.pad(maps, (2, 2))[..., 2:-2]), bench.expected(), "the scores of contiguous maps")


@METRIC.check()
def a_blank_image_has_a_score_or_nan(bench: MetricBench) -> None:
    """Images of one colour end nothing."""
    bench.check_values(_of_noise(bench, torch.zeros(2, *SIZE), index=0), 2)


@METRIC.check("empty", "full", "soft")
def regions_may_be_odd(bench: MetricBench, region: str) -> None:
    """Regions of no pixel, of all, or with shares between 0 and 1 end nothing."""
    masks = {
        "empty": torch.zeros(2, *SIZE),
        "full": torch.ones(2, *SIZE),
        "soft": torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(2)),
    }
    bench.check_values(_of_noise(bench, masks[region]), 2)


def _of_noise(bench: MetricBench, region: Tensor, index: int | None = None) -> Tensor:
    """The scores of noise as a map of two images with this region; of blank images where all are asked for one class."""
    images = bench.given().batch.images if index is None else torch.zeros(2, 3, *SIZE)
    batch, model = Batch(images, Targets(torch.tensor([0, 1])), ("a", "b"), {"object": region}), adapted(bench.network())
    return bench.subject(model, batch, RandomMap()(model, batch), RandomMap())


@METRIC.check()
def names_of_images_change_nothing(bench: MetricBench) -> None:
    """What the images are called has no influence."""
    given, ids = bench.given(), ("x", "y")
    other = Given(dataclasses.replace(given.batch, ids=ids), dataclasses.replace(bench.maps, ids=ids))
    close(bench.answer_of(bench.network(), other), bench.expected(), "the scores under other names")


# What is compared with what ---------------------------------------------------------------------------------------------------------


@METRIC.check()
def maps_of_other_images_are_refused(bench: MetricBench) -> None:
    """Maps whose images have other names are refused."""
    given = bench.given()
    with refused(BadInput, "maps of other images", "maps of other images"):
        bench.answer_of(bench.network(), dataclasses.replace(given, batch=dataclasses.replace(given.batch, ids=("x", "y"))))


@METRIC.check("the first", "by its name", "another", "one that is not there", "of a batch without any", unless=has_no_region)
def the_region_that_is_named_is_meant(bench: MetricBench, which: str) -> None:
    """Maps are compared with the region that is named, by default the first; one that is not there is refused."""
    given, model = bench.given(), adapted(bench.network())
    name = {"the first": None, "another": "other", "one that is not there": "elsewhere"}.get(which, "object")
    subject = dataclasses.replace(bench.subject, region=name)  # type: ignore[type-var]
    batch = dataclasses.replace(given.batch, regions={}) if "without" in which else given.batch
    words = {"one that is not there": "no region is called"}.get(which, "without regions")
    if which in ("one that is not there", "of a batch without any"):
        with refused(BadInput, words, f"a region, {which},"):
            subject(model, batch, bench.maps, bench.by)
        return
    first = dataclasses.replace(bench.subject, region="object")(model, batch, bench.maps, bench.by)  # type: ignore[type-var]
    got = subject(model, batch, bench.maps, bench.by)
    if which == "another":
        expect((got != first).any(), "other scores for another region", "the same")
    else:
        close(got, first, "the scores for the first region by its name")


@METRIC.check("bool", "uint8", "float64", unless=has_no_region)
def regions_may_be_of_any_type(bench: MetricBench, dtype: str) -> None:
    """Masks may be numbers of any type."""
    given = bench.given()
    regions = {name: region.to(getattr(torch, dtype)) for name, region in given.batch.regions.items()}
    got = bench.answer_of(bench.network(), dataclasses.replace(given, batch=dataclasses.replace(given.batch, regions=regions)))
    bench.close(got, bench.expected(), "the scores for the same masks in float32")


@METRIC.check(unless=explains_nothing)
def what_explains_again_needs_the_method(bench: MetricBench) -> None:
    """Without the method beside its maps it is refused."""
    with refused(Unsupported, "explains again", "a metric that explains again, without the method,"):
        bench.subject(adapted(bench.network()), bench.given().batch, bench.maps)


@METRIC.check("nan", "inf", "-inf", unless=explains_nothing)
def a_new_map_that_is_not_finite_has_nan(bench: MetricBench, value: str) -> None:
    """Where a map is compared with one that is not finite, the score is NaN, and the others have theirs."""
    model, batch = adapted(bench.network()), bench.given().batch

    def explain(other: VisionModel, some: Batch) -> Attribution:
        found = Gradient()(other, some)
        broken = found.maps.clone()
        broken[[row for row, name in enumerate(found.ids) if name.endswith("image-1")], 2, 3] = float(value)
        return dataclasses.replace(found, maps=broken)

    maps = Gradient()(model, batch)
    whole, some = bench.subject(model, batch, maps, Gradient()), bench.subject(model, batch, maps, explain)
    expect(whole.isfinite().all(), "scores of finite maps", whole)
    expect(torch.equal(some.isnan(), torch.tensor([False, True])), "NaN for the second image alone", some)


# Chance, and which way is up --------------------------------------------------------------------------------------------------------


def knows_no_chance(bench: MetricBench) -> str:
    """Why nothing is said about chance."""
    return "" if bench.subject.chances(bench.given().batch) is not None else "it knows no score of a map that says nothing"


@METRIC.check(unless=knows_no_chance)
def chance_is_a_number_for_each_image(bench: MetricBench) -> None:
    """The score of a map that says nothing is known for each image, and is the one number that is declared, where one is."""
    chances = _chances(bench, bench.given().batch)
    expect(tuple(chances.shape) == (2,) and bool(chances.isfinite().all()), "a finite number for each image, (2,)", chances)
    expect(bench.subject.chance is None or bool((chances == bench.subject.chance).all()), f"chance, {bench.subject.chance}", chances)


@METRIC.check(unless=knows_no_chance)
def chance_does_not_depend_on_the_batch(bench: MetricBench) -> None:
    """The chance of an image is that of it alone."""
    given = bench.given()
    alone = torch.cat([_chances(bench, given.rows(row).batch) for row in range(len(given))])
    bench.close(_chances(bench, given.batch), alone, "the chance of each image alone")


def _chances(bench: MetricBench, batch: Batch) -> Tensor:
    found = bench.subject.chances(batch)
    if found is None:
        raise TypeError("chances are None for some batches, and not for others")
    return found


def localises_nothing(bench: MetricBench) -> str:
    """Why nothing is said about masks."""
    alone = bench.subject.family == "localisation" and not isinstance(bench.subject, Anew)
    return "" if alone else "it compares maps with no mask"


@METRIC.check("the mask beats chance", "the mask beats its opposite", "chance beats the opposite", unless=localises_nothing)
def the_better_map_has_the_better_score(bench: MetricBench, which: str) -> None:
    """With the direction declared the wrong way round, or two of its parts swapped, one of the comparisons fails."""
    model, batch = adapted(bench.network()), bench.given().batch
    truth = Oracle("object")(model, batch).maps
    noise = 0.3 + 0.1 * RandomMap()(model, batch).maps
    maps = {"the mask": truth + 0.1 * noise, "chance": noise, "opposite": 1 - truth + 0.1 * noise}
    best, middle, worst = (bench.kept(name, partial(bench.scored, each)) for name, each in maps.items())
    words = f"a {'higher' if bench.subject.higher_is_better else 'lower'} score for the better maps"
    if which == "the mask beats chance":
        expect(bench.better(best, middle).all(), words, (best, middle))
    elif which == "the mask beats its opposite":
        expect(bench.better(best.mean(), worst.mean()), words, (best.mean(), worst.mean()))
    else:
        expect(not bench.better(worst.mean(), middle.mean()), words, (middle.mean(), worst.mean()))


@METRIC.check(unless=lambda bench: "" if bench.subject.family == "faithfulness" else "it compares maps with no change of the answer")
def contributions_to_a_linear_model_beat_their_opposites(bench: MetricBench) -> None:
    """What a pixel adds to a linear score is its value times its weight: no map is more faithful, and its opposite misleads."""
    model = adapted(made(LinearModel))
    batch = dataclasses.replace(bench.given().batch, targets=Targets(model.logits(bench.given().batch.images).argmax(1)))
    truth = InputXGradient()(model, batch)
    opposite = dataclasses.replace(truth, maps=-truth.maps)
    best, worst = (bench.subject(model, batch, maps, InputXGradient()) for maps in (truth, opposite))
    known = ~(best.isnan() | worst.isnan())
    expect(bench.better(best, worst)[known].all(), "a better score for the contributions", (best, worst))


# Random numbers, precision and words ------------------------------------------------------------------------------------------------


@METRIC.check()
def an_equal_metric_has_the_same_scores(bench: MetricBench) -> None:
    """All that decides a score is in the settings: another object with the same gives the same bits."""
    disturb(7)
    again = dataclasses.replace(bench.subject)  # type: ignore[type-var]
    got = again(adapted(bench.network()), bench.given().batch, bench.maps, bench.by)
    close(got, bench.expected(), "the scores of a metric with the same settings")


@METRIC.check("model", "images")
def double_precision_is_taken(bench: MetricBench, what: str) -> None:
    """A model or images in float64 have scores, in float32."""
    given, module = bench.given(rows=1), bench.network()
    module = module.double() if what == "model" else module
    given = given.showing(given.batch.images.double()) if what == "images" else given
    bench.check_values(bench.answer_of(module, given), 1)


@METRIC.check()
def a_model_in_bfloat16_has_a_score(bench: MetricBench) -> None:
    """With `precision="bfloat16"` scores are float32; what asks nothing of the model gives the same bits."""
    scores = bench.answer_of(bench.network(), precision="bfloat16")
    bench.check_values(scores, 2)
    if not bench.asks:
        close(scores, bench.expected(), "the scores beside a model in float32")


@METRIC.check()
def it_says_which_way_is_up_and_what_it_asks(bench: MetricBench) -> None:
    """`higher_is_better`, `family`, `cost` and `chance` are said."""
    subject = bench.subject
    expect(isinstance(subject.higher_is_better, bool), "higher_is_better to be True or False", subject.higher_is_better)
    expect(subject.family in get_args(Family), f"a family among {', '.join(get_args(Family))}", getattr(subject, "family", None))
    expect(isinstance(subject.cost, str) and bool(subject.cost), "the cost in words", repr(subject.cost))
    expect(subject.chance is None or isinstance(subject.chance, int | float), "chance as a number, or None", repr(subject.chance))


add_common(METRIC, Extent(("residual",), rows=(2,), wraps=("dict", "tuple")))
add_settings(METRIC)
