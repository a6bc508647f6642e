"""What methods, metrics and removals promise alike: whom they ask, what they leave behind, and what their answer does not depend on."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .bench import Bench, asks_nothing
from .networks import WRAPS, Hungry, InplaceCNN, InplaceInput, Raising, Recorded, Wrapped, adapted
from .state import differences, disturb, of_module, of_process
from .suite import Contract, close, expect, refused

MODES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
STATES = ("training learning", "training frozen", "evaluating learning", "evaluating frozen")
AnyBench = Bench[Any]


def alone_as_in_its_batch(bench: AnyBench, network: str) -> None:
    """An image's answer does not depend on the others that it came with."""
    model, given, together = adapted(bench.network(network)), bench.given(network), bench.expected(network)
    alone = torch.cat([bench.answer(model, given.rows(row)) for row in range(len(given))])
    bench.close(together, alone, f"the {bench.what} of each image alone")


def in_any_order(bench: AnyBench, network: str) -> None:
    """An image's answer does not depend on its place in the batch."""
    order = (len(bench.given(network)) - 1, *range(len(bench.given(network)) - 1))
    got = bench.answer_of(bench.network(network), bench.given(network).rows(*order))
    bench.close(got, bench.expected(network)[list(order)], f"the {bench.what} in the order of the images")


def rows_at_once(bench: AnyBench, rows: int) -> None:
    """How many rows run at once changes nothing, and never are there more than the model allows."""
    module = Recorded(bench.network("residual"))
    got = bench.answer_of(module, bench.given("residual"), max_rows=rows)
    expect(max(module.rows, default=0) <= rows, f"at most {rows} rows in a forward", max(module.rows, default=0))
    bench.close(got, _whole(bench), f"the {bench.what} of the whole batch at once")


def memory_runs_out(bench: AnyBench) -> None:
    """Where memory ends at more than two rows, fewer run at once, and the answer is the same."""
    got = bench.answer_of(Hungry(bench.network("residual"), 2), bench.given("residual"))
    bench.close(got, _whole(bench), f"the {bench.what} of the whole batch at once")


def _whole(bench: AnyBench) -> Tensor:
    """Of a model whose layers have the names that those of `Recorded` have: metrics may go by them."""
    found: Tensor = bench.kept("whole", lambda: bench.answer_of(Recorded(bench.network("residual")), bench.given("residual")))
    return found


def asked_again_it_answers_the_same(bench: AnyBench) -> None:
    """A second call gives the same bits, wherever the global random generators are."""
    model, first = bench.first("vit")
    disturb(99)
    close(bench.answer(model, bench.given("vit")), first, f"the {bench.what} of the first call, whatever random numbers others drew")


def what_it_is_given_stays_as_it_is(bench: AnyBench, images: str) -> None:
    """Images, targets, maps and masks are the caller's: not a bit of them changes, also where the model works on its images in place."""
    given = bench.given().copied()
    before = {name: tensor.clone() for name, tensor in given.tensors().items()}
    answer = bench.answer_of(bench.made(InplaceInput) if images == "changed by the model" else bench.network(), given)
    bench.check_values(answer, len(given))
    for name, tensor in given.tensors().items():
        close(tensor, before[name], f"{name} as they were given")


def the_model_comes_back(bench: AnyBench, state: str) -> None:
    """Weights, `.grad`, `requires_grad`, hooks, attributes and each module's own training flag are as they were."""
    module: Any = bench.network("residual")
    module.train("training" in state)
    module.layer1.eval()  # flags are each submodule's own
    module.requires_grad_("learning" in state)
    module.head.weight.requires_grad_(True)
    module.head.weight.grad = torch.ones_like(module.head.weight)
    before = of_module(module)
    bench.answer_of(module, bench.given("residual"))
    changed = differences(before, of_module(module))
    expect(not changed, "the model as it was", f"changes in {'; '.join(changed)}")


def the_model_comes_back_when_it_raises(bench: AnyBench) -> None:
    """An error inside the model reaches the caller as it is, and everything about the model is as it was."""
    module: Any = bench.made(Raising)
    module.error = RuntimeError("broken on purpose")
    before = of_module(module), of_process()
    with refused(RuntimeError, "broken on purpose", "a model that raises") if bench.asks else contextlib.nullcontext():
        bench.answer_of(module, layer="features")
    changed = differences(before[0], of_module(module)) + differences(before[1], of_process())
    expect(not changed, "the model as it was", f"changes in {'; '.join(changed)}")


def the_process_comes_back(bench: AnyBench) -> None:
    """Global random generators, modes and defaults of PyTorch, NumPy and Python are where they were."""
    before = of_process()
    bench.answer_of(bench.network())
    changed = differences(before, of_process())
    expect(not changed, "the process as it was", f"changes in {'; '.join(changed)}")


def nothing_is_held_on_to(bench: AnyBench) -> None:
    """Once the answer is there, neither the model nor the images are kept alive by anything."""
    module, given = bench.network(), bench.given().copied()
    network, images = weakref.ref(module), StorageWeakRef(given.batch.images.untyped_storage())  # type: ignore[no-untyped-call]
    bench.answer_of(module, given)
    del module, given
    for generation in range(3):  # the oldest only if need be: there are many objects in it
        if network() is not None or not images.expired():  # type: ignore[no-untyped-call]
            gc.collect(generation)
    alive = ["the model"] * (network() is not None) + ["the images"] * (not images.expired())  # type: ignore[no-untyped-call]
    expect(not alive, "nothing kept after the call", f"{' and '.join(alive)} still in memory")


def the_models_state_changes_nothing(bench: AnyBench, state: str) -> None:
    """A model in training mode is looked at as in evaluation mode, and frozen weights are no hindrance: to the bit."""
    module = bench.network()
    module = module.eval() if state == "evaluating" else module.requires_grad_(False)
    close(bench.answer_of(module), bench.expected(), f"the {bench.what} of a model in training mode whose weights learn")


def the_callers_mode_changes_nothing(bench: AnyBench, mode: str) -> None:
    """Called under `no_grad`, `inference_mode`, `enable_grad` or `autocast` it gives the same bits."""
    model = adapted(bench.network("residual"))
    with MODES[mode]():
        got = bench.answer(model, bench.given("residual").copied())
    close(got.clone(), bench.expected("residual"), f"the {bench.what} without {mode}")


def layers_may_work_in_place(bench: AnyBench) -> None:
    """A model whose layers overwrite what they are given answers as one whose layers do not."""
    plain = bench.answer_of(bench.network("relu"), layer="features")
    bench.close(bench.answer_of(bench.made(InplaceCNN), layer="features"), plain, f"the {bench.what} of the same model not in place")


def logits_may_come_in_a_container(bench: AnyBench, kind: str) -> None:
    """Logits inside a dict, tuple, list, dataclass or named tuple, or as maps of one place, are found."""
    bench.close(bench.answer_of(bench.made(lambda: Wrapped(kind))), bench.expected(), f"the {bench.what} of the model with bare logits")


def names_of_classes_change_nothing(bench: AnyBench) -> None:
    """What the classes are called has no influence."""
    close(
        bench.answer_of(bench.network(), classes=("a", "b", "c", "d", "e")), bench.expected(), f"the {bench.what} of classes without names"
    )


def images_may_require_a_gradient(bench: AnyBench) -> None:
    """Images that are part of the caller's own graph are explained as others, and get no `.grad`."""
    given = bench.given()
    images = given.batch.images.clone().requires_grad_()
    got = bench.answer_of(bench.network(), given.showing(images))
    close(got, bench.expected(), f"the {bench.what} of images that require no gradient")
    expect(images.grad is None and not got.requires_grad, "no gradient of the caller's images, and no graph", images.grad)


def images_may_lie_in_memory_anyhow(bench: AnyBench, layout: str) -> None:
    """Images that are channels last in memory, or a window of wider ones, are images."""
    given = bench.given()
    images = given.batch.images
    width = images.shape[3]
    spread = F.pad(images, (3, 3))[..., 3 : width + 3] if layout == "a window" else images.contiguous(memory_format=torch.channels_last)
    bench.close(bench.answer_of(bench.network(), given.showing(spread)), bench.expected(), f"the {bench.what} of contiguous images")


def two_threads_may_ask_at_once(bench: AnyBench) -> None:
    """Two threads with one model get what one would get."""
    model, given = adapted(bench.network()), bench.given()
    orders = range(len(given)), reversed(range(len(given)))
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda order: bench.answer(model, given.rows(*order)), orders))
    bench.close(answers[0], bench.expected(), f"the {bench.what} that one thread gets")
    bench.close(answers[1], bench.expected().flip(0), f"the {bench.what} that one thread gets")


def the_answer_is_where_the_model_is(bench: AnyBench, device: str) -> None:
    """The answer comes on the model's device, wherever the images were."""
    got = bench.answer_of(bench.network().to(device))
    expect(got.device.type == device, f"{bench.what} on {device}", got.device)
    bench.check_values(got, len(bench.given()))


def a_model_may_have_one_logit(bench: AnyBench) -> None:
    """A model that answers with one number for each image, (B,), is a model."""
    bench.check_values(bench.expected("one logit"), len(bench.given()))


def weights_may_be_of_half_precision(bench: AnyBench) -> None:
    """A model in bfloat16 has an answer in float32."""
    got = bench.answer_of(bench.network().to(torch.bfloat16))
    expect(got.dtype == torch.float32, f"{bench.what} in float32", got.dtype)
    bench.check_values(got, len(bench.given()))


def the_model_is_asked_as_is_said(bench: AnyBench) -> None:
    """The model runs if the object says that it asks something of it, and not once if it says that it asks nothing."""
    module = Recorded(bench.network())
    bench.answer_of(module)
    expect(bool(module.rows) == bench.asks, f"{'some' if bench.asks else 'no'} forward of the model", f"{len(module.rows)}")


def no_accelerator(_bench: AnyBench) -> str:
    """Why nothing is checked on an accelerator."""
    return "" if torch.cuda.is_available() else "there is no CUDA device here"


@dataclasses.dataclass(frozen=True)
class Extent:
    """For which kinds of network, numbers of rows, states of the model and containers of logits what is common is checked."""

    networks: Iterable[str]
    rows: Iterable[int] = (1, 2, 5)
    states: Iterable[str] = ("training learning", "evaluating frozen")
    wraps: Iterable[str] = tuple(WRAPS)


def add_common(contract: Contract[Any], extent: Extent) -> None:
    """Enter all of these into a contract."""
    contract.add(alone_as_in_its_batch, *extent.networks)
    contract.add(in_any_order, *extent.networks)
    contract.add(rows_at_once, *extent.rows)
    contract.add(memory_runs_out, unless=asks_nothing)
    contract.add(asked_again_it_answers_the_same)
    contract.add(what_it_is_given_stays_as_it_is, "as they are", "changed by the model")
    contract.add(the_model_comes_back, *extent.states)
    contract.add(the_model_comes_back_when_it_raises)
    contract.add(the_process_comes_back)
    contract.add(nothing_is_held_on_to)
    contract.add(the_models_state_changes_nothing, "evaluating", "frozen")
    contract.add(the_callers_mode_changes_nothing, *MODES)
    contract.add(layers_may_work_in_place)
    contract.add(logits_may_come_in_a_container, *extent.wraps)
    contract.add(names_of_classes_change_nothing)
    contract.add(images_may_require_a_gradient)
    contract.add(images_may_lie_in_memory_anyhow, "channels last", "a window")
    contract.add(two_threads_may_ask_at_once)
    contract.add(the_answer_is_where_the_model_is, "cpu")
    contract.add(the_answer_is_where_the_model_is, "cuda", unless=no_accelerator)
    contract.add(a_model_may_have_one_logit)
    contract.add(weights_may_be_of_half_precision)
    contract.add(the_model_is_asked_as_is_said)
