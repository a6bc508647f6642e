"""Which attribution method tells the truth about two networks, on photographs: the tables and pictures of README.md.

    python benchmarks/leaderboard.py DATA                       # DATA holds imagenet-samples/, ecssd/ and models/
    python benchmarks/leaderboard.py DATA --part objects        # also grids, removals, panels; all of them otherwise
    python benchmarks/leaderboard.py DATA --grids 4 --images 16 # a quick look

grids     GridPG, DiFull and DiPart with 2 x 2 photographs that the network is sure of, at the input, the middle and the final layer
objects   Attention-IoU, energy and pointing on the salient objects of photographs that the network is sure of
removals  deletion, insertion and ROAD on photographs
panels    AggAtt of CAM methods on DiFull, whose explained logit sees the first cell alone

Writes every score to benchmarks/results/leaderboard-PART-NETWORK.csv, pictures to benchmarks/pictures/, and prints Markdown tables.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import attribkit as ak
from attribkit.methods import (
    XRAI,
    CounterfactualInfill,
    GradCAM,
    HiResCAM,
    IntegratedGradients,
    LayerCAM,
    LayerMasking,
    XGradCAM,
    at_layers,
)
from attribkit.methods import AtLayer as At
from attribkit.methods.base import Method
from attribkit.report.aggregated import AggAtt
from attribkit.report.drawing import png
from attribkit.report.figures import agg_att_figure
from attribkit.report.leaderboard import leaderboard_figure
from attribkit.report.score_figures import box_figure
from attribkit.report.tables import leaderboard
from attribkit.scores import Scores
from attribkit.segments import Squares

HERE = Path(__file__).parent
NETWORKS: dict[str, dict[str, Any]] = {"mobilenet_v2": {"mean": 0.5, "std": 0.5}, "squeezenet1_0": {}}
SURE = {"mobilenet_v2": 0.99, "squeezenet1_0": 0.9}  # of its class, for a photograph to be a cell; SqueezeNet is sure of few
LEVELS = ("input", "middle", "final")

IG = IntegratedGradients(steps=10)
FIDO = {"steps": 20, "samples": 2}
# The five named methods at the three layers; parts of the image are as large as the grid there makes them.
FIVE: dict[str, tuple[Method, ...]] = {
    "Grad-CAM": at_layers(GradCAM()),
    "Integrated Gradients": at_layers(IG),
    "XRAI": at_layers(XRAI(method=IG, algorithm="fast")),
    "Counterfactual in-fill": (
        CounterfactualInfill(**FIDO, cell=8),
        *(At(CounterfactualInfill(**FIDO, cell=1), layer=layer) for layer in LEVELS[1:]),
    ),
    "Layer masking": (
        LayerMasking(segmenter=Squares(56)),
        At(LayerMasking(segmenter=Squares(8)), layer="middle"),
        At(LayerMasking(segmenter=Squares(2)), layer="final"),
    ),
}


def network(name: str, given: argparse.Namespace) -> ak.VisionModel:
    """A network with its trained weights."""
    weights = given.data / "models" / f"{name}-imagenet.safetensors"
    return ak.load_model(f"torchvision/{name}", weights=weights, device=given.device, **NETWORKS[name])


@contextmanager
def gathered(files: Iterable[tuple[Path, str, Path | None]]) -> Iterator[Path]:
    """A manifest of (photograph, label, mask or None) beside copies of them, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as temporary:
        rows, folder = [], Path(temporary) / "photographs"  # the folder's name is part of the problem's, in the tables
        folder.mkdir()
        for photograph, label, mask in files:
            names = [photograph.name, label]
            shutil.copy(photograph, folder)
            if mask is not None:
                names.append(f"masks/{mask.name}")
                (folder / "masks").mkdir(exist_ok=True)
                shutil.copy(mask, folder / "masks")
            rows.append(names)
        manifest = folder / "manifest.csv"
        with manifest.open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label", "mask:object"][: len(rows[0])], *rows])
        yield manifest


def labelled(given: argparse.Namespace) -> list[tuple[Path, str, Path | None]]:
    """The photographs of one class each."""
    folder = given.data / "imagenet-samples"
    with (folder / "labels.csv").open(newline="") as file:
        return [(folder / row["file"], row["class_index"], None) for row in csv.DictReader(file)]


def with_objects(given: argparse.Namespace, name: str) -> list[tuple[Path, str, Path | None]]:
    """The photographs whose object is in the crop and of which the network is at least half sure; the class is what it predicts."""
    folder, short = given.data / "ecssd", name.partition("_v")[0].partition("1_")[0]
    with (folder / "images.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row[f"{short}_prob"]) >= 0.5 and float(row["mask_in_crop"]) >= 0.8]
    return [(folder / "images" / row["file"], "", (folder / "masks" / row["file"]).with_suffix(".png")) for row in rows[: given.images]]


def told(pace: Any) -> None:
    """A line a minute, and the last."""
    now = time.monotonic()
    if pace.done == pace.total or now - told.last > 60:  # type: ignore[attr-defined]
        told.last = now  # type: ignore[attr-defined]
        print(pace, file=sys.stderr, flush=True)


told.last = time.monotonic()  # type: ignore[attr-defined]


def grids(name: str, given: argparse.Namespace) -> Scores:
    """Every method at every layer, where the cell that matters is known."""
    model = network(name, given)
    with gathered(labelled(given)) as manifest:
        source = ak.problems.Labelled(model, manifest)
        settings: dict[str, Any] = {"n": 2, "count": given.grids, "confidence": SURE[name]}
        problems = [
            ak.problems.Grid(model, source, **settings),
            ak.problems.Disconnected(model, source, **settings),
            ak.problems.Disconnected(model, source, **settings, part=1),
        ]
        methods = [each for row in FIVE.values() for each in row]
        return ak.evaluate(problems, methods, ["LocalizationScore()", "LocalizationScore(interpolate=False)"], progress=told)


def grid_table(scores: Scores, name: str) -> str:
    """A row a method; for each problem its three layers."""
    found = {(row.problem, row.method, row.metric): row for row in scores.table()}
    problems = list(dict.fromkeys(problem for problem, _, _ in found))
    head = [f"**{name}**", *(f"{problem}, {level}" for problem in problems for level in LEVELS)]
    rows = [[method, *(_cell(found, problem, at) for problem in problems for at in layers)] for method, layers in FIVE.items()]
    for control in sorted(scores.controls):
        shown = [_cell(found, problem, control) for problem in problems]
        rows.append([f"*{control}*", *(cell for each in shown for cell in (each, "", ""))])
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _cell(found: dict[tuple[str, str, str], Any], problem: str, method: Method | str) -> str:
    row = found.get((problem, method if isinstance(method, str) else method.brief(), "LocalizationScore()"))
    return "" if row is None else f"{row.mean:.2f} [{row.low:.2f}, {row.high:.2f}]"


def objects(name: str, given: argparse.Namespace) -> Scores:
    """How much of each map is on the object."""
    model = network(name, given)
    with gathered(with_objects(given, name)) as manifest:
        methods = [row[0] if not isinstance(row[0], GradCAM) else GradCAM() for row in FIVE.values()]
        metrics = ["AttentionIoU()", "EnergyInside()", "PointingGame()", "PixelAUC()"]
        return ak.evaluate(ak.problems.Labelled(model, manifest), methods, metrics, progress=told)


def removals(name: str, given: argparse.Namespace) -> Scores:
    """What the score does when pixels go in the order of the map."""
    model = network(name, given)
    every = labelled(given)
    some = [every[place * len(every) // given.images] for place in range(given.images)]
    with gathered(some) as manifest:
        methods = [row[0] if not isinstance(row[0], GradCAM) else GradCAM() for row in FIVE.values()]
        metrics = ["Deletion()", "Insertion()", "ROAD()"]
        return ak.evaluate(ak.problems.Labelled(model, manifest), methods, metrics, progress=told)


def panels(name: str, given: argparse.Namespace) -> Scores:
    """CAM methods where only the first cell can matter; with a picture of where their maps lie."""
    model = network(name, given)
    methods = [GradCAM(), XGradCAM(), HiResCAM(), LayerCAM()]
    collected = {each.brief(): AggAtt(0, 2) for each in methods}

    def watch(_problem: str, by: Method, batch: ak.Batch, maps: ak.Attribution, found: dict[Any, torch.Tensor]) -> None:
        first = batch.groups["cell"] == 0
        if by.brief() in collected and bool(first.any()):
            collected[by.brief()].add(maps.maps[first], next(iter(found.values()))[first])

    with gathered(labelled(given)) as manifest:
        problem = ak.problems.Disconnected(model, ak.problems.Labelled(model, manifest), count=given.panels, confidence=0.9)
        scores = ak.evaluate(problem, methods, "LocalizationScore()", watch=watch, progress=told)
    title = f"DiFull, {name}: the logit sees the upper left cell alone; mean positive maps of {given.panels} grids, by score"
    figure = agg_att_figure({method: each.result() for method, each in collected.items()}, title=title)
    (given.out / "pictures" / f"aggatt-{name}.png").write_bytes(png(figure))
    return scores


def pictured(part: str, name: str, scores: Scores, given: argparse.Namespace) -> None:
    """Box plots of the grids, and a leaderboard of the others."""
    target = given.out / "pictures" / f"leaderboard-{part}-{name}.png"
    if part == "grids":
        rows = [row for row in scores.rows() if row["metric"] == "LocalizationScore()"]
        boxes: dict[str, dict[str, list[float]]] = {}
        for problem in dict.fromkeys(row["problem"] for row in rows):
            for place, level in enumerate(LEVELS):
                panel = boxes.setdefault(f"{problem}, {level}", {})
                for method, layers in FIVE.items():
                    panel[method] = [row["score"] for row in rows if row["problem"] == problem and row["method"] == layers[place].brief()]
        target.write_bytes(png(box_figure(boxes, title=f"Localisation on grids of photographs, {name}", chance=0.25)))
    elif part != "panels":
        figure = leaderboard_figure(scores.table(), comparisons=scores.compare_all(), title=f"{name}, photographs")
        target.write_bytes(png(figure))


PARTS: dict[str, Callable[[str, argparse.Namespace], Scores]] = {"grids": grids, "objects": objects, "removals": removals, "panels": panels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds imagenet-samples/, ecssd/ and models/")
    parser.add_argument("--part", action="append", choices=PARTS, help="as often as you like; all otherwise")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="as often as you like; both otherwise")
    parser.add_argument("--grids", type=int, default=4, help="grids of 2 x 2 photographs")
    parser.add_argument("--panels", type=int, default=50, help="grids behind the AggAtt panels")
    parser.add_argument("--images", type=int, default=32, help="photographs, of the other two parts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder of results/ and pictures/")
    given = parser.parse_args()
    for folder in ("results", "pictures"):
        (given.out / folder).mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", message="layer masking: nothing is left")
    for part in given.part or PARTS:
        for name in given.network or NETWORKS:
            began = time.perf_counter()
            scores = PARTS[part](name, given)
            scores.write_csv(given.out / "results" / f"leaderboard-{part}-{name}.csv")
            pictured(part, name, scores, given)
            print(f"\n{grid_table(scores, name) if part == 'grids' else f'**{name}**' + chr(10) * 2 + leaderboard(scores)}")
            for failure in scores.failures:
                print(f"- {failure.id}: {failure.reason}")
            print(f"\n({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
