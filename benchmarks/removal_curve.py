"""How fast accuracy falls as more of a photograph is removed, by what stands for the removed part.

    python benchmarks/removal_curve.py DATA                      # DATA holds imagenet-samples/ and models/
    python benchmarks/removal_curve.py DATA --images 100         # every so manieth photograph, 100 in all
    python benchmarks/removal_curve.py DATA --removal "Blur(sigma=0.1)" --removal LayerMask

Photographs that the network classifies correctly lose random blocks of 16 x 16 pixels, 0 to 100 % of them; a photograph loses the same
blocks under every removal, and those of 10 % among those of 20 %. Prints a Markdown table for each network, and writes every count to
benchmarks/results/removal_curve.json. A removal that disturbs the network only by what is gone keeps accuracy longest.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attribkit as ak
from attribkit.registry import read
from attribkit.removals import REMOVALS, Removal

NETWORKS: dict[str, dict[str, Any]] = {"squeezenet1_0": {}, "mobilenet_v2": {"mean": 0.5, "std": 0.5}}
CHOSEN = ("Constant()", "Constant(colour='grey')", "Blur()", "PushPull()", "NoisyLinear()", "LayerMask()", "LayerMask(residual='union')")
SHARES = tuple(tenth / 10 for tenth in range(11))
BLOCK = 16


def kept(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """For each share and image which pixels are kept, (shares, count, H, W): blocks are removed in one random order an image."""
    down, across = -(-size[0] // BLOCK), -(-size[1] // BLOCK)
    order = torch.rand(count, down * across, generator=torch.Generator().manual_seed(seed)).argsort(1).argsort(1)
    gone = torch.stack([order < round(share * down * across) for share in SHARES]).view(len(SHARES), count, down, across)
    return ~gone.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[..., : size[0], : size[1]]


def photographs(data: Path, count: int) -> tuple[list[Path], Tensor]:
    """`count` of the labelled photographs, evenly over the classes, and their classes."""
    folder = data / "imagenet-samples"
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [rows[place * len(rows) // count] for place in range(min(count, len(rows)))]
    return [folder / row["file"] for row in rows], torch.tensor([int(row["class_index"]) for row in rows])


def curve(model: ak.VisionModel, removal: Removal, images: Tensor, classes: Tensor, keep: Tensor) -> list[int]:
    """How many images are still classified correctly, by share removed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # masks that vanish are what is measured here
        return [int((removal(model, images, some).argmax(1).cpu() == classes).sum()) for some in keep]


def measured(name: str, given: argparse.Namespace, removals: list[Removal]) -> list[dict[str, Any]]:
    """A row for each removal on one network."""
    weights = given.data / "models" / f"{name}-imagenet.safetensors"
    model = ak.load_model(f"torchvision/{name}", weights=weights, device=given.device, **NETWORKS[name])
    files, classes = photographs(given.data, given.images)
    batch = ak.load_images(files, model)
    right = batch.targets.index.cpu() == classes
    images, classes = batch.images[right], classes[right]
    keep = kept(len(images), model.size, given.seed)
    rows = []
    for removal in removals:
        start = time.perf_counter()
        correct = curve(model, removal, images, classes, keep)
        seconds = time.perf_counter() - start
        row = {"network": name, "removal": removal.brief(), "images": len(images), "shares": SHARES, "correct": correct, "seconds": seconds}
        rows.append(row)
        print(line(row), flush=True)
    return rows


def head(name: str) -> str:
    shares = [f"{share:.0%}" for share in SHARES]
    return "\n".join(
        (f"\n**{name}**, accuracy in % by share removed\n", "| removal | " + " | ".join(shares) + " | mean |", "|---" * 13 + "|")
    )


def line(row: dict[str, Any]) -> str:
    accuracy = [100 * correct / row["images"] for correct in row["correct"]]
    return " | ".join((f"| `{row['removal']}`", *(f"{each:.0f}" for each in accuracy), f"{sum(accuracy) / len(accuracy):.1f} |"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds imagenet-samples/ and models/")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="as often as you like; both otherwise")
    parser.add_argument("--removal", action="append", help="a removal as it prints itself, as often as you like")
    parser.add_argument("--images", type=int, default=1000, help="photographs to take, of which the correctly classified ones count")
    parser.add_argument("--seed", type=int, default=0, help="of the blocks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "removal_curve.json")
    given = parser.parse_args()
    removals = [read(text, REMOVALS) for text in given.removal or CHOSEN]
    rows = []
    for name in given.network or NETWORKS:
        print(head(name))
        rows += measured(name, given, removals)
    about = {"torch": torch.__version__, "machine": platform.machine(), "device": given.device, "block": BLOCK, "seed": given.seed}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
