"""What attribkit's methods cost, as ratios to the model's own passes and to other libraries, measured in one process and interleaved.

    python benchmarks/speed.py                          # Grad-CAM and Integrated Gradients, three networks with random weights
    python benchmarks/speed.py layouts                  # channels-last or not, for seven networks
    python benchmarks/speed.py memory                   # peak memory of Integrated Gradients by number of steps

Each round runs every contender once, in turn and in a new order; a ratio is taken within a round, and the median over rounds is printed,
for wall time and for the processor time of this process, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import attribkit as ak
from attribkit.methods.integrated_gradients import quadrature

NETWORKS = ("resnet50", "mobilenet_v2", "squeezenet1_0")
LAYOUT_NETWORKS = ("resnet50", "vgg11", "mobilenet_v2", "densenet121", "squeezenet1_0", "efficientnet_b0", "convnext_tiny")
ROWS = 8  # what a pass takes at once, for everybody

Run = Callable[[], object]


class Cost(NamedTuple):
    """Seconds of one run: on the clock, and on this process's processors."""

    wall: float
    cpu: float


def measured(contenders: dict[str, Run], rounds: int) -> dict[str, list[Cost]]:
    """Each contender's costs, round by round, after one run of each that does not count."""
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    order = list(contenders)
    for turn in range(-1, rounds):
        for name in order:
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name]()
            cost = Cost(time.perf_counter() - wall, time.process_time() - cpu)
            if turn >= 0:
                costs[name].append(cost)
        order = [*order[1:], order[0]]
    return costs


def compared(title: str, contenders: dict[str, Run], rounds: int, *, base: str) -> list[dict[str, Any]]:
    """A row per contender: its best time, and its ratio to `base` within each round, by the median."""
    costs = measured(contenders, rounds)
    rows = []
    for name, each in costs.items():
        ratios = {
            clock: statistics.median(getattr(mine, clock) / getattr(theirs, clock) for mine, theirs in zip(each, costs[base], strict=True))
            for clock in ("wall", "cpu")
        }
        fastest = {
            clock: min(getattr(cost, clock) for cost in each) / min(getattr(cost, clock) for cost in costs[base]) for clock in ratios
        }
        best = min(cost.wall for cost in each)
        rows.append({"case": title, "run": name, "seconds": best, **ratios, "fastest_cpu": fastest["cpu"], "fastest_wall": fastest["wall"]})
    return rows


def printed(rows: Sequence[dict[str, Any]]) -> None:
    """The rows as a Markdown table."""
    print("\n| case | run | best, ms | wall ratio | CPU ratio | CPU ratio of the fastest runs |\n|---|---|---|---|---|---|")
    for row in rows:
        ratios = " | ".join(f"{row[name]:.2f}" for name in ("wall", "cpu", "fastest_cpu"))
        print(f"| {row['case']} | {row['run']} | {1000 * row['seconds']:.0f} | {ratios} |", flush=True)


# Contenders ------------------------------------------------------------------------------------------------------------------------


class Subject(NamedTuple):
    """One network with random weights, as a user has it and frozen, as attribkit wraps it, and a batch for it."""

    name: str
    module: nn.Module
    frozen: nn.Module
    model: ak.VisionModel
    images: Tensor
    classes: Tensor
    layer: str


def subject(name: str, batch: int, size: int) -> Subject:
    """A network of torchvision with random weights, and `batch` random images."""
    torch.manual_seed(0)
    wrapped = ak.load_model(f"torchvision/{name}", weights=None, size=size)
    frozen = copy.deepcopy(wrapped.module).requires_grad_(False)
    index = torch.arange(batch) % 1000
    return Subject(name, wrapped.module, frozen, wrapped, torch.randn(batch, 3, size, size), index, wrapped.layer)


def as_attribkit_runs_it(it: Subject, rows: int) -> Tensor:
    """The images in the memory format that attribkit chooses for `rows` of them on this network and machine."""
    seen: list[Tensor] = []
    handle = it.module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    it.model.logits(it.images[:1].expand(rows, -1, -1, -1))
    handle.remove()
    chosen = torch.channels_last if seen[0].is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return it.images.contiguous(memory_format=chosen)


def slices(count: int, rows: int = ROWS) -> list[slice]:
    """`count` images, `rows` at once."""
    return [slice(first, min(first + rows, count)) for first in range(0, count, rows)]


def forward(module: nn.Module, images: Tensor) -> Tensor:
    """One forward without gradients."""
    with torch.no_grad():
        return torch.cat([module(images[rows]) for rows in slices(len(images))])


def forward_and_gradient(module: nn.Module, images: Tensor, index: Tensor, rows: int = ROWS) -> Tensor:
    """The shortest way to d logit / d images of a module with frozen weights."""
    gradients = []
    for part in slices(len(images), rows):
        leaf = images[part].detach().requires_grad_()
        gradients.append(torch.autograd.grad(module(leaf).gather(1, index[part].unsqueeze(1)).sum(), leaf)[0])
    return torch.cat(gradients)


def cam_by_hand(module: nn.Module, layer: str, images: Tensor, index: Tensor) -> Tensor:
    """Grad-CAM in the fewest passes: a forward whose graph begins at the layer, and a backward to there."""
    kept: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # in-place operations may follow

    maps = []
    handle = module.get_submodule(layer).register_forward_hook(cut)
    for part in slices(len(images)):
        score = module(images[part]).gather(1, index[part].unsqueeze(1)).sum()
        gradient = torch.autograd.grad(score, kept[-1])[0]
        maps.append((gradient.mean((2, 3), keepdim=True) * kept[-1].detach()).sum(1))
    handle.remove()
    return torch.cat(maps)


def path_by_hand(it: Subject, images: Tensor, steps: int, rows: int) -> Tensor:
    """Integrated Gradients from zero in `steps` forward and backward passes per image, `rows` at once."""
    total = torch.zeros_like(images)
    points = [(at, weight, row) for at, weight in quadrature("gauss_legendre", steps) for row in range(len(images))]
    for first in range(0, len(points), rows):
        part = points[first : first + rows]
        at = torch.tensor([point for point, _, _ in part]).view(-1, 1, 1, 1)
        chosen = [row for _, _, row in part]
        gradients = forward_and_gradient(
            it.frozen, (at * images[chosen]).contiguous(memory_format=_format(images)), it.classes[chosen], rows
        )
        for gradient, (_, weight, row) in zip(gradients, part, strict=True):
            total[row] += weight * gradient
    return (total * images).sum(1)


def _format(images: Tensor) -> torch.memory_format:
    return torch.contiguous_format if images.is_contiguous() else torch.channels_last


def cam_contenders(it: Subject) -> dict[str, Run]:
    """Grad-CAM by everybody."""
    from captum.attr import LayerGradCam
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    ours = as_attribkit_runs_it(it, min(ROWS, len(it.images)))
    batch = ak.Batch(it.images, ak.Targets(it.classes), tuple(map(str, range(len(it.images)))))
    captum = LayerGradCam(it.module, it.module.get_submodule(it.layer))
    other = GradCAM(model=it.module, target_layers=[it.module.get_submodule(it.layer)])
    targets = [ClassifierOutputTarget(int(i)) for i in it.classes]
    return {
        "by hand": lambda: cam_by_hand(it.frozen, it.layer, ours, it.classes),
        "attribkit": lambda: ak.methods.GradCAM()(it.model, batch),
        "forward alone": lambda: forward(it.frozen, ours),
        "by hand, contiguous": lambda: cam_by_hand(it.frozen, it.layer, it.images, it.classes),
        "captum LayerGradCam": lambda: captum.attribute(it.images, it.classes),
        "pytorch-grad-cam": lambda: other(input_tensor=it.images, targets=targets),
    }


def path_contenders(it: Subject, steps: int) -> dict[str, Run]:
    """Integrated Gradients by everybody."""
    from captum.attr import IntegratedGradients

    ours = as_attribkit_runs_it(it, ROWS)
    batch = ak.Batch(it.images, ak.Targets(it.classes), tuple(map(str, range(len(it.images)))))
    captum = IntegratedGradients(it.module)
    return {
        f"by hand, {ROWS} rows": lambda: path_by_hand(it, ours, steps, ROWS),
        "attribkit": lambda: ak.methods.IntegratedGradients(steps=steps)(it.model, batch),
        f"by hand, {2 * ROWS} rows": lambda: path_by_hand(it, ours, steps, 2 * ROWS),
        "captum": lambda: captum.attribute(it.images, target=it.classes, n_steps=steps, internal_batch_size=ROWS),
    }


# What is compared ------------------------------------------------------------------------------------------------------------------


def ratios(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Grad-CAM and Integrated Gradients against the passes they are made of and against other libraries."""
    rows = []
    for name in given.model or NETWORKS:
        for batch in given.batch:
            it = subject(name, batch, given.size)
            part = compared(f"Grad-CAM, {name}, batch {batch}", cam_contenders(it), given.rounds, base="by hand")
            for steps in given.steps if batch in given.path_batch else ():
                contenders = path_contenders(it, steps)
                part += compared(f"IG({steps}), {name}, batch {batch}", contenders, given.path_rounds, base=f"by hand, {ROWS} rows")
            printed(part)
            rows += part
    return rows


def layouts(given: argparse.Namespace) -> list[dict[str, Any]]:
    """A forward, and a forward with the images' gradient, with images and weights in either memory format."""
    rows = []
    for name in given.model or LAYOUT_NETWORKS:
        for batch in given.batch:
            it = subject(name, batch, given.size)
            last = it.images.contiguous(memory_format=torch.channels_last)
            ready = copy.deepcopy(it.frozen).to(memory_format=torch.channels_last)
            ways = {"contiguous": (it.frozen, it.images), "images channels-last": (it.frozen, last), "and weights": (ready, last)}
            forwards: dict[str, Run] = {way: partial(forward, *run) for way, run in ways.items()}
            both: dict[str, Run] = {way: partial(forward_and_gradient, *run, it.classes) for way, run in ways.items()}
            part = compared(f"forward, {name}, batch {batch}", forwards, given.rounds, base="contiguous")
            part += compared(f"forward + gradient, {name}, batch {batch}", both, given.rounds, base="contiguous")
            printed(part)
            rows += part
    return rows


def memory(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The most memory a fresh process ever held while it ran Integrated Gradients, by number of steps."""
    rows = []
    print("\n| network, batch | steps | attribkit, MiB | captum, MiB |\n|---|---|---|---|")
    for name in given.model or ("squeezenet1_0",):
        for batch in given.batch:
            for steps in given.steps:
                peaks = {who: _peak(name, batch, steps, who, given) for who in ("attribkit", "captum")}
                print(f"| {name}, {batch} | {steps} | {peaks['attribkit']:.0f} | {peaks['captum']:.0f} |", flush=True)
                rows.append({"network": name, "batch": batch, "steps": steps, **peaks})
    return rows


def _peak(name: str, batch: int, steps: int, who: str, given: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "child", "--model", name, "--batch", str(batch), "--steps", str(steps), "--who", who]
    command += ["--size", str(given.size), "--threads", str(torch.get_num_threads())]
    # Freed memory goes back to the system at once, so that the peak is what was in use together and not what the allocator hoarded.
    fresh = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    return float(subprocess.run(command, env=fresh, check=True, capture_output=True, text=True).stdout)


def child(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Run Integrated Gradients once and print by how many MiB this process's peak rose above what it held before."""
    it = subject(given.model[0], given.batch[0], given.size)
    contenders = path_contenders(it, given.steps[0])
    forward_and_gradient(it.frozen, it.images[:1], it.classes[:1])
    before = _status("VmRSS")
    contenders[given.who]()
    print(_status("VmHWM") - before)
    return []


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main() -> None:
    """Parse the arguments, measure, print."""
    what = {"ratios": ratios, "layouts": layouts, "memory": memory, "child": child}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="ratios", choices=what)
    parser.add_argument("--model", action="append", help="a network of torchvision; may be given several times")
    parser.add_argument("--batch", type=int, nargs="+", help="images in a batch (1 8 16; 1 16 for layouts; 4 for memory)")
    parser.add_argument("--path-batch", type=int, nargs="+", default=[1], help="at which of them to run Integrated Gradients")
    parser.add_argument("--steps", type=int, nargs="+", help="of Integrated Gradients (20 50; 10 50 200 for memory)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--path-rounds", type=int, default=3, help="rounds of Integrated Gradients")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, help="of torch; all cores by default")
    parser.add_argument("--json", type=Path, help="file to write all rows to")
    parser.add_argument("--who", default="attribkit", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.batch = given.batch or {"ratios": [1, 8, 16], "layouts": [1, 16]}.get(given.what, [4])
    given.steps = given.steps or ([20, 50] if given.what == "ratios" else [10, 50, 200])
    if given.threads:
        torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", message=".*(backward hook|requires_grad|non-full backward).*")
    rows = what[given.what](given)
    if given.json:
        given.json.write_text(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
