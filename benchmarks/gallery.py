"""The pictures of README.md: every method on three photographs and three images of the planted problem, and what must be seen instead.

    python benchmarks/gallery.py --weights mobilenet_v2-imagenet.safetensors --mean 0.5 --std 0.5

Photographs are scikit-image's own samples (astronaut: NASA, public domain; coffee: Rachel Michetti, CC0; chelsea: Stéfan van der Walt,
CC0), explained for what torchvision's MobileNet V2 takes them for; planted images are explained for planted/shortcut-95, which looks at
the background. Without `--weights` torchvision downloads its own.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import Tensor

import attribkit as ak
from attribkit.methods import Method, method
from attribkit.report.figures import compare_figure, png

PHOTOGRAPHS = {"astronaut": data.astronaut, "coffee": data.coffee, "chelsea": data.chelsea}
PLANTED = 3
# For photographs, and for planted images, which are 64 pixels wide: windows and regions in proportion.
SHEETS: dict[str, tuple[tuple[str, str], ...]] = {
    "gradients and CAMs": (
        ("GradCAM()", "GradCAM()"),
        ("HiResCAM()", "HiResCAM()"),
        ("GradCAMPlusPlus()", "GradCAMPlusPlus()"),
        ("XGradCAM()", "XGradCAM()"),
        ("LayerCAM()", "LayerCAM()"),
        ("Smooth(Gradient(), kind='squared')", "Smooth(Gradient(), kind='squared')"),
        ("IntegratedGradients()", "IntegratedGradients()"),
        ("GaussianSmooth(IntegratedGradients(), kernel=33)", "GaussianSmooth(IntegratedGradients(), kernel=9)"),
    ),
    "regions and removals": (
        ("XRAI()", "XRAI()"),
        ("CounterfactualInfill(steps=150)", "CounterfactualInfill(steps=150)"),
        ("CounterfactualInfill(objective='sdr', steps=150)", "CounterfactualInfill(objective='sdr', steps=150)"),
        ("LayerMasking(segmenter=SLIC())", "LayerMasking(segmenter=SLIC())"),
        ("RegionRemoval(segmenter=SLIC())", "RegionRemoval(segmenter=SLIC())"),
        ("Occlusion(window=32, stride=8)", "Occlusion(window=12, stride=4)"),
        ("RISE(samples=2000)", "RISE(samples=2000)"),
        ("PytorchGradCAM('FinerCAM')", "PytorchGradCAM('FinerCAM')"),
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


def sheet(shown: list[Shown], pairs: tuple[tuple[str, str], ...], out: Path) -> list[ak.Attribution]:
    """One picture: a row for each image and a column for each method."""
    columns: dict[str, list[Tensor]] = {}
    kept = []
    for pair in pairs:
        made: list[Method] = [method(text) for text in pair]
        for each, which in zip(shown, made, strict=True):
            began = time.perf_counter()
            maps = which(each.model, each.batch)
            print(f"{which.brief()} on {each.model.name}: {time.perf_counter() - began:.1f} s", flush=True)
            columns.setdefault(made[0].brief(), []).extend(maps.maps)
            kept.append(maps)
    images = [image for each in shown for image in each.pixels]
    titles = [title for each in shown for title in each.titles]
    saved(png(compare_figure(images, columns, titles=titles)), out)
    return kept


def counterfactuals(shown: list[Shown], maps: list[ak.Attribution], out: Path, side: int = 224) -> None:
    """One picture: the images above, and below them what the model would have to see."""
    found = [each for each in maps if "counterfactual" in each.extras]
    above = [image for each in shown for image in each.pixels]
    rows = [above]
    for objective in range(0, len(found), len(shown)):
        pictures = zip(shown, found[objective : objective + len(shown)], strict=True)
        rows.append([image for each, one in pictures for image in each.model.preprocessing.pixels(one.extras["counterfactual"])])
    canvas = Image.new("RGB", (len(above) * (side + 4), len(rows) * (side + 4)), "white")
    for down, row in enumerate(rows):
        for across, image in enumerate(row):
            pixels = (255 * image.permute(1, 2, 0)).round().byte().numpy()
            canvas.paste(Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side)), (across * (side + 4), down * (side + 4)))
    canvas.save(out, quality=88)


def saved(whole: bytes, out: Path) -> None:
    """A picture as JPEG, which is small enough for a repository."""
    import io

    Image.open(io.BytesIO(whole)).convert("RGB").save(out, quality=88)


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
    maps = [each for name, pairs in SHEETS.items() for each in sheet(shown, pairs, given.out / f"{name.replace(' ', '-')}.jpg")]
    counterfactuals(shown, maps, given.out / "counterfactuals.jpg")


if __name__ == "__main__":
    main()
