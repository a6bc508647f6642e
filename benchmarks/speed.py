"""What attribkit's methods cost, as ratios to the model's own passes and to other libraries, measured in one process and interleaved.

    python benchmarks/speed.py                          # Grad-CAM and its family, Integrated Gradients; three networks
    python benchmarks/speed.py layouts                  # channels-last or not, for seven networks
    python benchmarks/speed.py occlusion                # also: cams, regions, rise, masking, infill, xrai: one family against its passes
    python benchmarks/speed.py precision                # what bfloat16 changes in each method's map
    python benchmarks/speed.py memory                   # peak memory of Integrated Gradients by number of steps

Each round runs every contender once, in turn and in a new order; a ratio is taken within a round, and the median over rounds is printed,
for wall time and for the processor time of this process, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import contenders
import torch
from passes import ROWS, forward, forward_and_gradient, on_photographs, subject
from timing import Run, compared, printed
from torch import Tensor

import attribkit as ak
from attribkit import maps as ak_maps

NETWORKS = ("resnet50", "mobilenet_v2", "squeezenet1_0")
LAYOUT_NETWORKS = ("resnet50", "vgg11", "mobilenet_v2", "densenet121", "squeezenet1_0", "efficientnet_b0", "convnext_tiny")


# What is compared ------------------------------------------------------------------------------------------------------------------


def ratios(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Grad-CAM's family and Integrated Gradients against the passes they are made of and against other libraries."""
    rows = []
    for name in given.model or NETWORKS:
        for batch in given.batch:
            it = subject(name, batch, given.size, weights=given.weights.get(name), device=given.device)
            part = compared(f"CAMs, {name}, batch {batch}", contenders.cams(it), given.rounds, base="by hand")
            for steps in given.steps if batch in given.path_batch else ():
                runs = contenders.paths(it, steps)
                part += compared(f"IG({steps}), {name}, batch {batch}", runs, given.path_rounds, base=f"by hand, {ROWS} rows")
            printed(part)
            rows += part
    return rows


def family(given: argparse.Namespace) -> list[dict[str, Any]]:
    """One family of methods against its passes and against the library that has it."""
    rows = []
    make, base = contenders.FAMILIES[given.what]
    for name in given.model or NETWORKS[:2]:
        for batch in given.batch:
            it = subject(name, batch, given.size, weights=given.weights.get(name), device=given.device)
            part = compared(f"{given.what}, {name}, batch {batch}", make(it), given.rounds, base=base)
            printed(part)
            rows += part
    return rows


def precision(given: argparse.Namespace) -> list[dict[str, Any]]:
    """How much of each method's map survives bfloat16: Spearman's rank correlation with float32, the median over images."""
    rows = []
    print("\n| network | method | rank correlation | lowest |\n|---|---|---|---|")
    for name in given.model or NETWORKS[1:2]:
        it = on_photographs(subject(name, 6, given.size, weights=given.weights.get(name), device=given.device))
        low = ak.VisionModel(it.module, preprocessing=it.model.preprocessing, layer=it.layer, precision="bf16")
        batch = contenders.batch_of(it)
        for method in contenders.SHORT:
            pairs = [_ranks(method(model, batch).maps) for model in (it.model, low)]
            found = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*pairs, strict=True)])
            rows.append({"network": name, "method": repr(method), "median": found.median().item(), "lowest": found.min().item()})
            print(f"| {name} | {method.brief()} | {rows[-1]['median']:.4f} | {rows[-1]['lowest']:.4f} |", flush=True)
    return rows


def _ranks(maps: Tensor) -> Tensor:
    return ak_maps.ranks(maps).flatten(1).double()


def layouts(given: argparse.Namespace) -> list[dict[str, Any]]:
    """A forward, and a forward with the images' gradient, with images and weights in either memory format."""
    rows = []
    for name in given.model or LAYOUT_NETWORKS:
        for batch in given.batch:
            it = subject(name, batch, given.size, device=given.device)
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
    runs = contenders.paths(it, given.steps[0])
    forward_and_gradient(it.frozen, it.images[:1], it.classes[:1])
    before = _status("VmRSS")
    runs[given.who]()
    print(_status("VmHWM") - before)
    return []


def _weights(text: str) -> tuple[str, str]:
    network, _, file = text.partition("=")
    if not file:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: NETWORK=FILE")
    return network, file


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main() -> None:
    """Parse the arguments, measure, print."""
    what = {"ratios": ratios, "layouts": layouts, "memory": memory, "precision": precision, "child": child}
    what |= dict.fromkeys(contenders.FAMILIES, family)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="ratios", choices=what)
    parser.add_argument("--model", action="append", help="a network of torchvision; may be given several times")
    parser.add_argument("--batch", type=int, nargs="+", help="images in a batch (1 8 16; 1 16 for layouts; 4 for memory)")
    parser.add_argument("--path-batch", type=int, nargs="+", default=[1], help="at which of them to run Integrated Gradients")
    parser.add_argument("--steps", type=int, nargs="+", help="of Integrated Gradients (20 50; 10 50 200 for memory)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--path-rounds", type=int, default=3, help="rounds of Integrated Gradients")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--weights", type=_weights, action="append", default=[], metavar="NETWORK=FILE", help="instead of random ones")
    parser.add_argument("--device", default="cpu", help="cuda, for one")
    parser.add_argument("--threads", type=int, help="of torch; all cores by default")
    parser.add_argument("--json", type=Path, help="file to write all rows to")
    parser.add_argument("--who", default="attribkit", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.batch = given.batch or {"ratios": [1, 8, 16], "layouts": [1, 16], "masking": [8]}.get(given.what, [1, 8])
    given.weights = dict(given.weights)
    given.steps = given.steps or ([20, 50] if given.what == "ratios" else [10, 50, 200])
    if given.threads:
        torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", message=".*(backward hook|requires_grad|non-full backward).*")
    rows = what[given.what](given)
    if given.json:
        given.json.write_text(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
