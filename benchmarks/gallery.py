"""The pictures of README.md: every method on three photographs and three images of the planted problem, and what must be seen instead.

    python benchmarks/gallery.py --weights mobilenet_v2-imagenet.safetensors --mean 0.5 --std 0.5

Photographs are scikit-image's own samples (astronaut: NASA, public domain; coffee: Rachel Michetti, CC0; chelsea: Stéfan van der Walt,
CC0), explained for what torchvision's MobileNet V2 takes them for; planted images are explained for planted/shortcut-95, which looks at
the background. Without `--weights` torchvision downloads its own.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import Tensor

import attribkit as ak
from attribkit.methods import method
from attribkit.report.drawing import png
from attribkit.report.figures import compare_figure

PHOTOGRAPHS = {"astronaut": data.astronaut, "coffee": data.coffee, "chelsea": data.chelsea}
PLANTED = 3
# A heading, and the method for photographs and for planted images, which are 64 pixels wide: windows and regions in proportion.
SHEETS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "gradients-and-cams": (
        ("Grad-CAM", "GradCAM()", "GradCAM()"),
        ("HiRes-CAM", "HiResCAM()", "HiResCAM()"),
        ("Grad-CAM++", "GradCAMPlusPlus()", "GradCAMPlusPlus()"),
        ("XGrad-CAM", "XGradCAM()", "XGradCAM()"),
        ("Layer-CAM", "LayerCAM()", "LayerCAM()"),
        ("SmoothGrad, squared", "Smooth(kind='squared')", "Smooth(kind='squared')"),
        ("Integrated Gradients", "IntegratedGradients()", "IntegratedGradients()"),
        ("the same, smoothed", "GaussianSmooth(kernel=33)", "GaussianSmooth(kernel=9)"),
    ),
    "regions-and-removals": (
        ("XRAI", "XRAI()", "XRAI()"),
        ("FIDO, kept", "CounterfactualInfill(steps=150)", "CounterfactualInfill(steps=150)"),
        ("FIDO, destroyed", "CounterfactualInfill('sdr', steps=150)", "CounterfactualInfill('sdr', steps=150)"),
        ("layer masking", "LayerMasking(SLIC())", "LayerMasking(SLIC())"),
        ("regions, blurred", "RegionRemoval(segmenter=SLIC())", "RegionRemoval(segmenter=SLIC())"),
        ("Occlusion", "Occlusion(window=32, stride=8)", "Occlusion(window=12, stride=4)"),
        ("RISE", "RISE(samples=2000)", "RISE(samples=2000)"),
        ("Finer-CAM", "PytorchGradCAM('FinerCAM')", "PytorchGradCAM('FinerCAM')"),
    ),
}


class Shown(NamedTuple):
    """Images of one model, what it takes them for, and their pixels."""

    model: ak.VisionModel
    batch: ak.Batch
    pixels: Tensor
    titles: list[str]


def photographs(given: argparse.Namespace) -> Shown:
    """The photographs as MobileNet V2 sees them."""
    model = ak.load_model("torchvision/mobilenet_v2", weights=given.weights, mean=given.mean, std=given.std)
    images = torch.stack([model.preprocessing(Image.fromarray(picture())) for picture in PHOTOGRAPHS.values()])
    return _shown(model, images, list(PHOTOGRAPHS))


def planted() -> Shown:
    """Images of the planted problem as the model with the shortcut sees them."""
    model = ak.load_model("planted/shortcut-95")
    _, batch = next(iter(ak.problems.Planted(model, PLANTED, seed=3)))
    return _shown(model, batch.images, list(batch.ids))


def _shown(model: ak.VisionModel, images: Tensor, names: list[str]) -> Shown:
    logits = model.logits(images)
    index = logits.argmax(1)
    sure = logits.softmax(1).gather(1, index.unsqueeze(1)).squeeze(1)
    titles = [f"{model.classes[i]}, p = {p:.2f}" for i, p in zip(index.tolist(), sure.tolist(), strict=True)]
    batch = ak.Batch(images, ak.Targets(index), tuple(names), logits=logits)
    return Shown(model, batch, model.preprocessing.pixels(images), titles)


def sheet(shown: list[Shown], columns: tuple[tuple[str, str, str], ...], out: Path) -> list[ak.Attribution]:
    """One picture: for each model a row an image and a column a method, each column with a scale of its own."""
    parts, kept = [], []
    for place, each in enumerate(shown):
        found: dict[str, Tensor] = {}
        for heading, *texts in columns:
            began = time.perf_counter()
            maps = method(texts[place])(each.model, each.batch)
            print(f"{texts[place]} on {each.model.name}: {time.perf_counter() - began:.1f} s", flush=True)
            found[heading] = maps.maps
            kept.append(maps)
        figure = compare_figure(list(each.pixels), found, titles=each.titles)
        parts.append(Image.open(io.BytesIO(png(figure))).convert("RGB"))
    canvas = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    for place, part in enumerate(parts):
        canvas.paste(part, (0, sum(earlier.height for earlier in parts[:place])))
    canvas.save(out, quality=85)
    return kept


def counterfactuals(shown: list[Shown], maps: list[ak.Attribution], out: Path, side: int = 224) -> None:
    """One picture: the images above, and below them what the model would have to see."""
    above = [image for each in shown for image in each.pixels]
    rows = [above]
    for objective in ("ssr", "sdr"):
        found = [each for each in maps if f"objective={objective!r}" in each.method and "counterfactual" in each.extras]
        pictures = zip(shown, found, strict=True)
        rows.append([image for each, one in pictures for image in each.model.preprocessing.pixels(one.extras["counterfactual"])])
    canvas = Image.new("RGB", (len(above) * (side + 4), len(rows) * (side + 4)), "white")
    for down, row in enumerate(rows):
        for across, image in enumerate(row):
            pixels = (255 * image.permute(1, 2, 0)).round().byte().numpy()
            canvas.paste(Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side)), (across * (side + 4), down * (side + 4)))
    canvas.save(out, quality=85)


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="default", help="file with weights of torchvision's mobilenet_v2")
    parser.add_argument("--mean", type=float, help="of the pixels that the weights were trained with, where it is not torchvision's")
    parser.add_argument("--std", type=float, help="their standard deviation")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pictures")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    shown = [photographs(given), planted()]
    maps = [each for name, columns in SHEETS.items() for each in sheet(shown, columns, given.out / f"{name}.jpg")]
    counterfactuals(shown, maps, given.out / "counterfactuals.jpg")


if __name__ == "__main__":
    main()
