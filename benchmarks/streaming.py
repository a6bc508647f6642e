"""Memory while many images stream through an evaluation: it must not grow with their number.

    python benchmarks/streaming.py                  # 10,000 planted scenes, Grad-CAM, three metrics
    python benchmarks/streaming.py --count 2000

Prints, for every tenth of the images, the resident memory of the process and the images a second.
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path

import torch

import attribkit as ak
from attribkit.progress import Pace

METRICS = ("attention_iou", "energy_inside", "pointing_game")


def resident() -> float:
    """MiB of memory that the process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this system does not say how much memory a process holds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="images")
    parser.add_argument("--model", default="planted/shortcut-95")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    model = ak.load_model(given.model, device=given.device)
    began, shown = time.perf_counter(), 0
    print("| images | resident, MiB | images a second |\n|---|---|---|")

    def told(pace: Pace) -> None:
        nonlocal shown
        images = pace.done * given.count // pace.total
        if images * 10 // given.count > shown:
            shown = images * 10 // given.count
            gc.collect()
            print(f"| {images} | {resident():.0f} | {images / (time.perf_counter() - began):.0f} |", flush=True)

    scores = ak.evaluate(ak.problems.Planted(model, given.count), "grad_cam", METRICS, progress=told)
    print(f"\n{scores.table()}")


if __name__ == "__main__":
    main()
