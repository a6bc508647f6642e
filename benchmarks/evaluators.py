"""What attribkit's metrics cost, beside the passes they are made of and beside other libraries, in one process and interleaved.

    python benchmarks/evaluators.py DATA                       # DATA holds imagenet-samples/ and models/; all cases
    python benchmarks/evaluators.py                            # random weights, scikit-image's photographs
    python benchmarks/evaluators.py DATA road quantus          # some cases: curves, road, quantus, localisation, pairs

Maps are Grad-CAM's. Each round runs every contender once, in turn and in a new order; a ratio is taken within a round, and the median
over rounds is printed, for wall time and for the processor time of this process. Quantus runs where it can be imported.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from passes import ROWS, Subject, as_attribkit_runs_it, forward, memory_format, on_photographs, subject
from removal_curve import NETWORKS, photographs
from timing import Run, compared
from torch import Tensor, nn

import attribkit as ak
from attribkit import maps as ak_maps
from attribkit.methods import GradCAM
from attribkit.metrics import ROAD, AttentionIoU, Deletion, Insertion, LocalizationScore, Metric, PointingGame
from attribkit.metrics.attention_iou import attention_iou, attention_iou_pairs

SHARES = [10, 20, 30, 40, 50, 60, 70, 80, 90]  # in per cent
STEPS = 28
LABELS = 40  # of CelebA, whose heatmaps are compared pairwise
Case = tuple[str, dict[str, Run], str]  # a title, who runs, and beside whom


class Grey(nn.Module):
    """A network for pictures of one channel, which it is shown three times: Quantus's ROAD takes no others."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images.expand(-1, 3, -1, -1))


def prepared(name: str, count: int, given: argparse.Namespace) -> Subject:
    """A network with photographs: trained where DATA has its weights, and else with random ones."""
    weights = None if given.data is None else given.data / "models" / f"{name}-imagenet.safetensors"
    if weights is None or not weights.is_file():
        return on_photographs(subject(name, count, 224, device=given.device))
    model = ak.load_model(f"torchvision/{name}", weights=weights, device=given.device, **NETWORKS[name])
    batch = ak.load_images(photographs(given.data, count)[0], model)
    frozen = copy.deepcopy(model.module).requires_grad_(False)
    return Subject(name, model.module, frozen, model, batch.images, batch.targets.index, model.layer)


def explained(it: Subject) -> tuple[ak.Batch, ak.Attribution]:
    """The batch, with a square in the middle as its region, and Grad-CAM's maps of it."""
    region = torch.zeros_like(it.images[:, 0])
    region[:, 56:168, 56:168] = 1
    batch = ak.Batch(it.images, ak.Targets(it.classes), tuple(map(str, range(len(it.images)))), {"object": region})
    return batch, GradCAM()(it.model, batch)


def scored(it: Subject, how: Metric) -> Run:
    """A metric on the subject."""
    batch, maps = explained(it)
    return lambda: how(it.model, batch, maps)


def forwards(it: Subject, count: int) -> Run:
    """`count` forwards for every image, full rows at once, in attribkit's memory format: what a curve cannot do without."""
    ours = as_attribkit_runs_it(it, ROWS)
    images = ours[:1].expand(ROWS, -1, -1, -1).contiguous(memory_format=memory_format(ours))
    full, rest = divmod(count * len(ours), ROWS)

    def run() -> None:
        for _ in range(full):
            forward(it.frozen, images)
        if rest:
            forward(it.frozen, images[:rest])

    return run


# Cases -----------------------------------------------------------------------------------------------------------------------------------


def curves(name: str, given: argparse.Namespace) -> list[Case]:
    """Deletion and insertion beside their forwards."""
    it = prepared(name, given.images, given)
    runs = {
        "its forwards": forwards(it, STEPS + 1),
        "attribkit Deletion": scored(it, Deletion(steps=STEPS)),
        "attribkit Insertion": scored(it, Insertion(steps=STEPS)),
    }
    return [(f"{STEPS} steps, {name}, {given.images} images", runs, "its forwards")]


def road(name: str, given: argparse.Namespace) -> list[Case]:
    """ROAD by attribkit and by pytorch-grad-cam, in one order and in both, from the same maps."""
    from pytorch_grad_cam.metrics.road import ROADCombined, ROADMostRelevantFirstAverage
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    it = prepared(name, given.few, given)
    maps = ak_maps.unit_range(explained(it)[1].at()).cpu().numpy()
    targets = [ClassifierOutputTarget(int(index)) for index in it.classes]
    cases = []
    for order, theirs in (("combined", ROADCombined(SHARES)), ("most", ROADMostRelevantFirstAverage(SHARES))):
        runs = {
            "its forwards": forwards(it, 2 * len(SHARES) if order == "combined" else len(SHARES) + 1),
            "attribkit ROAD": scored(it, ROAD(order=order)),
            "pytorch-grad-cam ROAD": partial(theirs, it.images, maps, targets, it.module),
        }
        cases.append((f"ROAD, {order}, {name}, {given.few} images", runs, "attribkit ROAD"))
    return cases


def quantus(name: str, given: argparse.Namespace) -> list[Case]:
    """Quantus's pixel flipping, its ROAD on grey pictures, and its pointing game."""
    if importlib.util.find_spec("quantus") is None:
        print("Quantus cannot be imported: its cases are left out")
        return []
    import quantus as other

    it = prepared(name, given.few, given)
    pixels = it.images.shape[-2:].numel()
    flipping = other.PixelFlipping(features_in_step=pixels // STEPS, perturb_baseline=0.0, disable_warnings=True)
    road = other.ROAD(percentages=SHARES, disable_warnings=True)
    pointing = other.PointingGame(disable_warnings=True)
    grey = it.images.mean(1, keepdim=True)
    in_grey = Subject(it.name, it.module, it.frozen, it.model, grey.expand(-1, 3, -1, -1).contiguous(), it.classes, it.layer)
    cases = {
        "pixel flipping": (it, Deletion(steps=STEPS), partial(flipping, model=it.module, **_arrays(it, it.images))),
        "ROAD, most, grey": (in_grey, ROAD(order="most"), partial(road, model=Grey(it.module).eval(), **_arrays(in_grey, grey))),
        "pointing game": (it, PointingGame(), partial(pointing, model=it.module, **_arrays(it, it.images, regions=True))),
    }
    return [
        (f"{what}, {name}, {given.few} images", {"attribkit": scored(one, how), "Quantus": theirs}, "attribkit")
        for what, (one, how, theirs) in cases.items()
    ]


def _arrays(it: Subject, images: Tensor, *, regions: bool = False) -> dict[str, Any]:
    """What Quantus is called with: NumPy arrays of images, classes, maps and regions."""
    batch, maps = explained(it)
    given = {"x_batch": images, "y_batch": it.classes, "a_batch": maps.at().unsqueeze(1)}
    if regions:
        given["s_batch"] = batch.region("object").unsqueeze(1).to(torch.int64)
    return {name: tensor.cpu().numpy() for name, tensor in given.items()} | {"device": str(images.device)}


def localisation(name: str, given: argparse.Namespace) -> list[Case]:
    """What Attention-IoU and the score of a grid's cell add to Grad-CAM's maps."""
    it = prepared(name, given.images, given)
    batch, _ = explained(it)
    runs: dict[str, Run] = {"its maps": lambda: GradCAM()(it.model, batch)}
    runs |= {f"attribkit {type(how).__name__}": scored(it, how) for how in (AttentionIoU(), LocalizationScore())}
    return [(f"beside Grad-CAM, {name}, {given.images} images", runs, "its maps")]


def pairs(name: str, given: argparse.Namespace) -> list[Case]:
    """The overlap of every two of an image's heatmaps: by Gram matrices, and one pair at a time."""
    maps = torch.rand(given.images, LABELS, 56, 56, device=given.device)

    def one_by_one() -> Tensor:
        found = [attention_iou(maps[:, one], maps[:, other]) for one in range(LABELS) for other in range(LABELS)]
        return torch.stack(found, 1).view(-1, LABELS, LABELS)

    torch.testing.assert_close(attention_iou_pairs(maps), one_by_one(), rtol=1e-4, atol=1e-5)
    runs = {"attribkit pairs": lambda: attention_iou_pairs(maps), "one pair at a time": one_by_one}
    return [(f"{LABELS} x {LABELS} heatmaps, {given.images} images", runs, "attribkit pairs")]


CASES: dict[str, tuple[Callable[[str, argparse.Namespace], list[Case]], tuple[str, ...]]] = {
    "curves": (curves, ("mobilenet_v2", "squeezenet1_0", "resnet50")),
    "road": (road, ("mobilenet_v2", "squeezenet1_0")),
    "quantus": (quantus, ("mobilenet_v2",)),
    "localisation": (localisation, ("mobilenet_v2", "squeezenet1_0", "resnet50")),
    "pairs": (pairs, ("any",)),
}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table; three digits, since what a metric adds to its maps is a thousandth of them."""
    lines = ["| case | run | best, ms | wall ratio | CPU ratio |", "|---|---|---|---|---|"]
    for row in rows:
        numbers = " | ".join(f"{number:.3g}" for number in (row["wall"], row["cpu"]))
        lines.append(f"| {row['case']} | {row['run']} | {1000 * row['seconds']:.1f} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="the folder that holds imagenet-samples/ and models/")
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all otherwise")
    parser.add_argument("--model", action="append", help="a network of torchvision, as often as you like; else those of each case")
    parser.add_argument("--images", type=int, default=8, help="in a batch")
    parser.add_argument("--few", type=int, default=2, help="where another library takes seconds for each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cuda, for one")
    parser.add_argument("--threads", type=int, help="of torch; all cores by default")
    parser.add_argument("--json", type=Path, help="file to write all rows to")
    given = parser.parse_args()
    if given.data is not None and str(given.data) in CASES:  # a case, where no data is given
        given.cases, given.data = [str(given.data), *given.cases], None
    if set(given.cases) - set(CASES):
        parser.error(f"cases: got {' '.join(given.cases)}, allowed: {' '.join(CASES)}")
    if given.threads:
        torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")  # of other libraries
    rows = []
    for what in given.cases or CASES:
        make, networks = CASES[what]
        for name in given.model or networks:
            for title, runs, base in make(name, given):
                rows += compared(title, runs, given.rounds, base=base)
                print(f"# {title}", flush=True)
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
