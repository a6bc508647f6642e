"""Train the embedded models on the planted scenes, or print the group accuracies of those in the package.

    python benchmarks/train_planted.py --out attribkit/model/planted_weights             # all 15
    python benchmarks/train_planted.py --out DIR --only tag-95 --only vit-95
    python benchmarks/train_planted.py --table

Two runs with the same seed on the same machine and versions write the same bytes; so do `shortcut-50` and `tag-50`, whose images
are the same. Image i has the same creature, clutter, light and grain for every model; only what stands behind it, and the colour of
its tag, follow the strength. Drawing takes about 10 ms an image and training about 80 s a CNN and 160 s the ViT, on one free core.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
import time

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from attribkit.model.planted import MEAN, PLANTED, STD, blank_module, planted_module, stored_weights
from attribkit.problems.scenes import Plan, Scenes, Shortcut, draw, picture, plan

IMAGES, EPOCHS, ROWS = 4000, 15, 32
TEST_IMAGES, TEST_SEED = 2400, 1
RECIPES = {"cnn": (3e-3, 0.02), "vit": (1e-3, 0.05)}  # learning rate, weight decay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, help="folder for NAME.safetensors")
    parser.add_argument("--only", action="append", choices=PLANTED, metavar="NAME", help="train this model only; may be repeated")
    parser.add_argument("--seed", type=int, default=20260, help="of the training images, the first weights and the order")
    parser.add_argument("--images", type=int, default=IMAGES, help="training images for each model")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the group accuracies of the models in the package, in Markdown")
    options = parser.parse_args()
    if options.out is None and not options.table:
        parser.error("nothing to do: pass --out DIR, --table, or both")
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in options.only or PLANTED:
            start = time.perf_counter()
            module = train(name, seed=options.seed, count=options.images, epochs=options.epochs)
            (options.out / f"{name}.safetensors").write_bytes(safetensors.torch.save(dict(stored_weights(module))))
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    if options.table:
        print(table(options.only or PLANTED))


def meaning(name: str) -> tuple[Shortcut, int]:
    """Which shortcut a model was given, and how strong."""
    kind, strength = name.split("-")
    return "tag" if kind == "tag" else "background", int(strength)


@functools.cache
def drawn(index: int, seed: int, what: Plan) -> Tensor:
    """A picture (3, S, S) uint8, drawn once for all models that want it."""
    return torch.from_numpy(np.ascontiguousarray(picture(index, seed, what)[0].transpose(2, 0, 1)))


def train(  # noqa: PLR0913 - what a training is made of, all by name
    name: str, *, seed: int, count: int, epochs: int, start: int | None = None, module: nn.Module | None = None
) -> nn.Module:
    """One model, from nothing, or on from a `module`; `start` is the seed of weights and order, if that is another than the images'."""
    shortcut, strength = meaning(name)
    plans = [plan(index, strength, seed, shortcut) for index in range(count)]
    wanted = [(index, seed, what) for index, what in enumerate(plans)]
    images = torch.stack([drawn(*each) for each in tqdm(wanted, desc=f"draw {name}", disable=None)])
    kinds = torch.tensor([each.kind for each in plans])
    torch.manual_seed(seed if start is None else start)
    module = (module or blank_module(name)).to(memory_format=torch.channels_last).train()
    rate, decay = RECIPES["vit" if name.startswith("vit") else "cnn"]
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * (count // ROWS), pct_start=0.15)
    for _ in tqdm(range(epochs), desc=f"train {name}", disable=None):
        for rows in torch.randperm(count)[: count // ROWS * ROWS].view(-1, ROWS):
            loss = F.cross_entropy(module(augmented(images[rows])), kinds[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return module.eval()


def augmented(images: Tensor) -> Tensor:
    """Normalised images, half of them mirrored."""
    mirrored = torch.where((torch.rand(len(images)) < 0.5)[:, None, None, None], images.flip(3), images)
    return normalised(mirrored.float() / 255).contiguous(memory_format=torch.channels_last)


def normalised(images: Tensor) -> Tensor:
    """Images as the models want them, from images in [0, 1]."""
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def table(names: list[str] | tuple[str, ...]) -> str:
    """Group accuracies in Markdown; a group is a creature on its own or the other ground (or with its own or the other tag)."""
    scenes = draw(range(TEST_IMAGES), strength=50, seed=TEST_SEED)
    lines = [
        "| model | fish, water / orange | fish, grass / violet | bird, water / orange | bird, grass / violet | worst group | as trained |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        shortcut, strength = meaning(name)
        cells = accuracies(planted_module(name), scenes, shortcut)
        own = (strength * (cells[0, 0] + cells[1, 1]) + (100 - strength) * (cells[0, 1] + cells[1, 0])) / 2
        shown = [f"{100 * cell:.1f}" for cell in (*cells.flatten().tolist(), float(cells.min()))]
        lines.append(f"| {name} | {' | '.join(shown)} | {float(own):.1f} |")
    return "\n".join(lines)


@torch.no_grad()
def accuracies(module: nn.Module, scenes: Scenes, shortcut: Shortcut) -> Tensor:
    """(2, 2): the share of right answers by creature and by ground (or tag)."""
    answers = torch.cat([module(normalised(part)).argmax(1) for part in scenes.images.split(100)])
    right, other = (answers == scenes.kinds).double(), scenes.groups[shortcut]
    return torch.stack([right[(scenes.kinds == kind) & (other == each)].mean() for kind in (0, 1) for each in (0, 1)]).view(2, 2)


if __name__ == "__main__":
    main()
