"""Memory while many images stream through an evaluation: it must not grow with their number.

    python benchmarks/streaming.py                  # 10,000 synthetic images, Grad-CAM, three metrics
    python benchmarks/streaming.py --count 2000

Prints, for every tenth of the images, the resident memory of the process and the images a second.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import attribkit as ak
from attribkit.progress import Pace

METRICS = ("attention_iou", "energy_inside", "pointing_game")


class Synthetic:
    """Noise with a brighter square, whose place is the region; made as it is asked for."""

    name = "synthetic"
    label = "synthetic"

    def __init__(self, model: ak.VisionModel, count: int, rows: int = 64) -> None:
        self.model, self.count, self.rows = model, count, rows

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[ak.VisionModel, ak.Batch]]:
        height, width = self.model.size
        for start in range(0, self.count, self.rows):
            rows = min(self.rows, self.count - start)
            draw = torch.Generator().manual_seed(start)
            images, region = torch.randn(rows, 3, height, width, generator=draw), torch.zeros(rows, height, width)
            for row, (top, left) in enumerate(torch.randint(0, min(height, width) // 2, (rows, 2), generator=draw).tolist()):
                region[row, top : top + height // 3, left : left + width // 3] = 1
            images, region = (images + region.unsqueeze(1)).to(self.model.device), region.to(self.model.device)
            targets = ak.Targets(torch.zeros(rows, dtype=torch.int64, device=self.model.device))
            yield self.model, ak.Batch(images, targets, tuple(f"{start + row}" for row in range(rows)), {"square": region})


def resident(what: str = "VmRSS") -> float:
    """MiB of memory that the process holds now, or, as "VmHWM", has held at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
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

    scores = ak.evaluate(Synthetic(model, given.count), "grad_cam", METRICS, progress=told)
    print(f"\n{scores.table()}")


if __name__ == "__main__":
    main()
