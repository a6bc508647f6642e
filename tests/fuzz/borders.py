"""Where things come in from outside: images, checkpoints, configurations, run lengths and manifests, each with what is damaged and how."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from fuzz.harness import Border, Case, joined, main, mutants, named, texts
from models import GapCNN, adapted
from PIL import Image
from safetensors.torch import save
from torch import nn

from attribkit.configuration import Configuration, overridden, read_configuration
from attribkit.errors import BadInput, BrokenFile, BrokenImage, BrokenWeights
from attribkit.images import read_image
from attribkit.model.weights import load_weights, read_weights
from attribkit.problems import Labelled
from attribkit.problems.manifest import read_manifest
from attribkit.problems.rle import read_run_lengths

LIMIT = 2_000_000  # pixels of an image: also bounds the time that one mutant takes


def one_line(error: Exception, path: Path) -> None:
    """An error about a file names it, and is one line."""
    assert str(error).startswith(str(path)) and str(error).isprintable(), str(error)


# Images -----------------------------------------------------------------------------------------------------------------------------


def encoded(kind: str, **options: object) -> bytes:
    noise = np.random.default_rng(7).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((40, 28), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    stream = io.BytesIO()
    mode = options.pop("mode", "RGB")
    with_exif = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    image.convert(str(mode)).save(stream, kind, **with_exif, **options)
    return stream.getvalue()


IMAGES: dict[str, list[bytes]] = {
    "JPEG": [encoded("JPEG"), encoded("JPEG", progressive=True), encoded("JPEG", mode="CMYK")],
    "PNG": [encoded("PNG"), encoded("PNG", mode="P"), encoded("PNG", mode="LA"), encoded("PNG", mode="I;16")],
    "WEBP": [encoded("WEBP"), encoded("WEBP", lossless=True), encoded("WEBP", mode="RGBA")],
    "TIFF": [encoded("TIFF"), encoded("TIFF", compression="tiff_lzw"), encoded("TIFF", compression="jpeg"), encoded("TIFF", mode="I;16")],
    "BMP": [encoded("BMP"), encoded("BMP", mode="P"), encoded("BMP", mode="RGBA")],
    "GIF": [encoded("GIF"), encoded("GIF", mode="L", save_all=True, append_images=[Image.new("L", (40, 28))])],
    "PPM": [encoded("PPM"), encoded("PPM", mode="L"), b"P3\n2 2\n300\n" + b"1 2 3 " * 4, b"P2\n2 1\n65535\n7 65535\n"],
}


def mended(png: bytes) -> bytes:
    """The PNG with every checksum made right again, so that the damage gets past it."""
    at, out = 8, bytearray(png[:8])
    while at + 12 <= len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        out += png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + png[at:])


def damaged_images(rng: random.Random) -> Iterator[Case]:
    def of(kind: str) -> Iterator[bytes]:
        for number, mutant in enumerate(mutants(IMAGES[kind], rng)):
            yield mended(mutant) if kind == "PNG" and number % 3 else mutant

    return joined(*(named(f"image.{kind.lower()}", of(kind)) for kind in IMAGES))


def meet_image(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # as for a user
        try:
            image = read_image(path, max_pixels=LIMIT)
        except BrokenImage as error:
            one_line(error, path)
            raise
    assert type(image) is Image.Image and image.mode == "RGB" and 0 < image.width * image.height <= LIMIT
    assert not image.getexif() and not image.info  # or a second reader would turn it again


# Checkpoints ------------------------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """As few weights as a network can have: so that the damage meets structure."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2, classes)


def damaged_checkpoints(rng: random.Random) -> Iterator[Case]:
    state, new, old = Small().state_dict(), io.BytesIO(), io.BytesIO()
    torch.save(state, new)
    torch.save({"state_dict": state, "epoch": 3}, old, _use_new_zipfile_serialization=False)
    seeds = {"a.safetensors": save(state), "b.pt": new.getvalue(), "c.pth": old.getvalue()}
    return joined(*(named(name, mutants(seed, rng)) for name, seed in seeds.items()))


def meet_checkpoint(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            loaded = load_weights(Small, read_weights(path), path, 5)
        except BrokenWeights as error:
            one_line(error, path)
            raise
    assert loaded.conv.weight.shape == (2, 3, 1, 1) and loaded.head.weight.shape[1] == 2
    assert all(weight.dtype == torch.float32 for weight in loaded.parameters())
    assert [each.name for each in path.parent.iterdir()] == [path.name]  # nothing that a pickle would have made


# Configurations ---------------------------------------------------------------------------------------------------------------------

CONFIGURATIONS = [
    """schema = 1
model = "planted/shortcut-95"
data = "planted"
methods = ["grad_cam", "IntegratedGradients(steps=20)", { name = "smooth", samples = 3, method = "gradient" }]
metrics = ["attention_iou", "Deletion(removal=Blur(sigma=3.0), steps=8)"]
#--set methods.1.steps=64
#--set limit=100
#--set run.workers=2
""",
    """# a run
schema = 1
model = "torchvision/resnet50"
weights = "none"
mean = [0.485, 0.456, 0.406]
std = 0.25
size = 224
classes = ["fish", "bird"]
layer = "layer4"
precision = "bf16"
kind = "probability"
data = "images/list.csv"
problems = ["labelled", "Grid(n=3, count=50)", { name = "disconnected", part = 1 }, 'Planted(shortcut="tag")']
controls = false
seed = 7
limit = 100
batch = 8
maps = "float32"

[[methods]]
name = "at_layer"
layer = "layer2"
[methods.method]
name = "integrated_gradients"
steps = 4

[[methods]]
name = "captum"
method = "Saliency"

[[metrics]]
name = "deletion"
steps = 8
[metrics.removal]
name = "blur"
sigma = 3

[run]
out = "results"
workers = 2
engine = "ray"
deadline = 60.5
device = "cpu"
#--set problems.1.n=2
#--set metrics.0.removal.sigma=0.5
""",
]

WORDS = r"""
0 1 -1 2.5 1e400 nan -inf true false 07:32:00 1979-05-27 0x10 1_000 {} [] [[]] [{}] {a=1} "" '' "x" "\ud800" "\u0000" = . , [ ] { } [[ ]] #
methods metrics problems run name steps seed methods.0 0.0.0 limit.x #--set --set "grad_cam" "GradCAM" "GradCAM(" "Smooth()" "Oracle()"
"Smooth(Smooth(Smooth(GradCAM())))" "FromCallable(print)" "Captum('Saliency',options={'a':[1]})" "Grid(n=10**9)" "Grid(seed=-1)"
"Planted(strength=101)" "Planted(count=True)" "Labelled(source=1)" "deletion" "random_map" "__import__('os')" "((((((((((((((((" é
""".split()
WORDS += ["\n", " ", '"""', "'''", "\t", "\x00", "\ufeff", "\ud800", "\x1b[31m", "\r", "9" * 5000, "[" * 3000, "-" * 200]
WORDS += ['"' + "(" * 1500 + '"', "a." * 500 + "a = 1"]
_PIECES = re.compile(r'"[^"\n]*"|\w+|\s|.', re.DOTALL)


def damaged_configurations(rng: random.Random) -> Iterator[Case]:
    by_word = texts(CONFIGURATIONS, WORDS, rng, split=_PIECES.findall)
    by_byte = mutants([text.encode() for text in CONFIGURATIONS], rng)
    return joined(*[named("run.toml", by_word)] * 3, named("run.toml", by_byte))


def before_configurations(folder: Path) -> None:
    """What the first configuration imports takes longer than a case may."""
    del folder
    Configuration(model="m", data="planted", methods=("Captum('Saliency')",), metrics=("deletion",))


def meet_configuration(path: Path) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    overrides = [line.removeprefix("#--set ") for line in lines if line.startswith("#--set ")]
    try:
        asked, run = read_configuration(path, overrides)
    except BadInput as error:
        for line in str(error).split("\n"):
            assert line.startswith((str(path), "--set ")) and line.isprintable() and len(line) < 1000, line
        raise
    record = json.loads(json.dumps(asked.record(), allow_nan=False))
    again = Configuration.from_record(record)
    assert again == asked and again.key() == asked.key()
    assert overridden(asked, run, []) == (asked, run)


# Run lengths ------------------------------------------------------------------------------------------------------------------------

RUNS = [
    '{"size": [1, 7], "counts": "231N"}',
    '{"size": [60, 2], "counts": "T3d0"}',
    '{"size": [9, 11], "counts": [20, 3, 6, 3, 6, 3, 58]}',
    '{"size": [13, 11], "counts": "g167000i0KG"}',
    '{"size": [400, 600], "counts": [10000, 200, 200, 229600]}',
    '{"size":[2,2],"counts":"4"}',
]


def plain_runs(counts: str | list[int]) -> list[int]:
    """The runs, one character at a time."""
    runs, run, shift = list[int](), 0, 0
    if isinstance(counts, list):
        return counts
    for character in counts:
        code = ord(character) - 48
        run |= (code & 31) << shift
        shift += 5
        if not code & 32:
            run -= (1 << shift) if code & 16 else 0
            runs.append(run + runs[-2] if len(runs) > 2 else run)
            run = shift = 0
    return runs


def damaged_runs(rng: random.Random) -> Iterator[Case]:
    words = '0 1 -1 7 99 1e3 1.0 true null "" "4" "231N" [] [7] {} [[ ]] size counts \\ud800 ~ / o n P \x7f 0000 PPPPPPPP'.split(" ")
    words += ["9" * 5000, "[" * 3000, "1000000000", "18446744073709551616"]
    by_word = texts(RUNS, words, rng, split=lambda text: re.findall(r"\d|\w|.", text, re.DOTALL))
    return joined(named("mask.json", by_word), named("mask.json", mutants([text.encode() for text in RUNS], rng)))


def meet_runs(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    try:
        found = read_run_lengths(text)
    except BadInput as error:
        assert str(error).isprintable() and len(str(error)) < 400, str(error)
        raise
    said = json.loads(text)
    runs = plain_runs(said["counts"])
    expected = np.repeat(np.arange(len(runs)) % 2, runs).reshape(said["size"][::-1]).T
    assert (found.mask() == expected).all() and found.mask().shape == tuple(said["size"])


# Manifests --------------------------------------------------------------------------------------------------------------------------

CLASSES = ("tench", "great white shark", "hen", "crane", "kite")
MODEL = adapted(GapCNN(), size=(24, 24), classes=CLASSES)


def lines_of(rows: list[list[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    return stream.getvalue()


MANIFESTS = [
    lines_of(
        [
            ["path", "label", "mask:body", "box:head", "group:place", "rle:runs"],
            ["images/0.png", "hen", "mask.png", "3 0 9 24", "sea", '{"size": [24, 30], "counts": [100, 20, 600]}'],
            ["images/1.png", "", "", "", "land, or so", '{"size":[24,30],"counts":"T3d0hb0"}'],
            ["./images//2.png", "Great White Shark", "mask.png", "0 0 30 24", 'a "b"', ""],
        ]
    ),
    "path,label\nimages/0.png,1\nimages/1.png,4\n",
]


def beside_manifests(folder: Path) -> None:
    (folder / "images").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    Image.fromarray(np.pad(np.full((24, 15), 255, np.uint8), ((0, 0), (0, 15)))).save(folder / "mask.png")


def damaged_manifests(rng: random.Random) -> Iterator[Case]:
    words = ', " \n \r \0 \ufeff .. / \\ : mask: box:x rle:x path label group:g nan - -1 1e400 é \ud800 \x1b[31m images/0.png mask.png hen'
    pieces = [*words.split(" "), " ", "9" * 40, "9" * 5000, "[" * 3000, "x" * 200_000]
    by_word = texts(MANIFESTS, pieces, rng, split=lambda text: re.findall(r"\w+|.", text, re.DOTALL))
    return joined(named("list.csv", by_word), named("list.csv", mutants([text.encode() for text in MANIFESTS], rng)))


def meet_manifest(path: Path) -> None:
    try:
        problem = Labelled(MODEL, path)
    except BrokenFile as error:
        one_line(error, path)
        raise
    rows = read_manifest(path).rows
    batches = [batch for _, batch in problem]
    seen = [name for batch in batches for name in batch.ids]
    assert len(problem) == len(rows) > 0
    assert sorted(seen + [each.id for each in problem.failures]) == sorted(row.path for row in rows)
    assert all((path.parent / name).resolve().is_relative_to(path.parent.resolve()) for name in seen)
    assert all(0 <= region.min() and region.max() <= 1 for batch in batches for region in batch.regions.values())


BORDERS = {
    "images": Border(2_100, damaged_images, meet_image, (BrokenImage,)),
    "checkpoints": Border(2_100, damaged_checkpoints, meet_checkpoint, (BrokenWeights,)),
    "configurations": Border(5_000, damaged_configurations, meet_configuration, (BadInput,), before_configurations),
    "run_lengths": Border(1_000, damaged_runs, meet_runs, (BadInput,)),
    "manifests": Border(700, damaged_manifests, meet_manifest, (BrokenFile,), beside_manifests),
}

if __name__ == "__main__":
    main(BORDERS)
