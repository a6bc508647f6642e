"""Manifests, masks and boxes: what is read from them, and what is refused."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from models import GapCNN, adapted
from PIL import Image
from torch.testing import assert_close

from attribkit.batch import Batch, Targets
from attribkit.errors import BadInput, BrokenFile, BrokenImage, Unavailable
from attribkit.images import Preprocessing
from attribkit.problems import PROBLEMS, Labelled
from attribkit.problems.files import as_mask, class_folders

CLASSES = ("tench", "great white shark", "hen", "crane", "kite")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return adapted(GapCNN(), size=(24, 24), classes=CLASSES)


def picture(path: Path, size=(30, 24), seed=0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def masked(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def manifest(folder: Path, text: str, name: str = "manifest.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture
def five(tmp_path):
    for number in range(5):
        picture(tmp_path / "images" / f"{number}.png", seed=number)
    return tmp_path


def only(problem: Labelled) -> Batch:
    ((_, batch),) = problem
    return batch


# What is read --------------------------------------------------------------------------------------------------------------------


def test_a_manifest_is_what_it_says(model, five):
    masked(five / "m.png", np.pad(np.full((24, 15), 255, np.uint8), ((0, 0), (0, 15))))
    lines = [
        "path,box:head,label,group:place,mask:body,group:age",
        "images/0.png,3 0 9 24,hen,sea,m.png,10",
        "images/3.png,,1,,,9",
        "./images//1.png,0 0 30 24,Great White Shark,land,m.png,10",
    ]
    problem = Labelled(model, manifest(five, "\n".join(lines)))
    batch = only(problem)
    assert (len(problem), problem.label, problem.failures) == (3, f"{five.name}/manifest.csv", [])
    assert batch.ids == ("images/0.png", "images/3.png", "images/1.png")
    assert batch.targets.index.tolist() == [2, 1, 1]
    assert list(batch.regions) == ["head", "body"]  # as the columns stand
    assert problem.group_names == {"place": ("", "land", "sea"), "age": ("9", "10")}
    assert {name: codes.tolist() for name, codes in batch.groups.items()} == {"place": [2, 0, 1], "age": [1, 0, 1]}
    # 30 x 24 is cropped to its middle 24 columns: the first three are gone.
    expected = torch.zeros(3, 24, 24)
    expected[0, :, :6] = 1
    expected[2] = 1
    assert_close(batch.regions["head"], expected, rtol=0, atol=0)
    expected = torch.zeros(3, 24, 24)
    expected[[0, 2], :, :12] = 1
    assert_close(batch.regions["body"], expected, rtol=0, atol=0)
    assert_close(batch.images[1], model.preprocessing(Image.open(five / "images/3.png")), rtol=0, atol=0)


def test_an_empty_label_is_what_the_model_predicts(model, five):
    names = [f"images/{number}.png" for number in range(5)]
    unlabelled = only(Labelled(model, manifest(five, "path,label\n" + "".join(f"{name},\n" for name in names))))
    said = model.logits(unlabelled.images).argmax(1)
    assert_close(unlabelled.targets.index, said, rtol=0, atol=0)
    other = (int(said[2]) + 1) % 5
    lines = [f"{name},{other if place == 2 else ''}" for place, name in enumerate(names)]
    mixed = only(Labelled(model, manifest(five, "path,label\n" + "\n".join(lines)), kind="evidence"))
    assert mixed.targets.index.tolist() == [other if place == 2 else each for place, each in enumerate(said.tolist())]
    assert mixed.targets.kind == "evidence"
    assert_close(mixed.logits, model.logits(mixed.images))


def test_batches_stream_and_rows_can_be_had_again(model, five):
    lines = [f"images/{number}.png,{number},g{number % 2}" for number in range(5)]
    path = manifest(five, "path,label,group:parity\n" + "\n".join(lines))
    whole = only(Labelled(model, path))
    problem = Labelled(model, path, batch_size=2)
    parts = [batch for _, batch in problem]
    assert [len(part) for part in parts] == [2, 2, 1]
    assert [rows for rows, _ in problem.numbered()] == [(0, 1), (2, 3), (4,)]
    assert_close(torch.cat([part.images for part in parts]), whole.images, rtol=0, atol=0)
    assert torch.cat([part.groups["parity"] for part in parts]).tolist() == [0, 1, 0, 1, 0]
    some = problem.batch([4, 1, 4])
    assert (some.ids, some.targets.index.tolist()) == (("images/4.png", "images/1.png", "images/4.png"), [4, 1, 4])
    assert_close(some.images, whole.images[[4, 1, 4]], rtol=0, atol=0)
    with pytest.raises(BadInput, match="got 5, allowed: rows from 0 to 4"):
        problem.batch([0, 5])
    with pytest.raises(BadInput, match="got none, allowed: rows from 0 to 4"):
        problem.batch([])


def test_images_are_read_as_they_are_needed(model, five, monkeypatch):
    read = []
    monkeypatch.setattr("attribkit.problems.files.read_image", lambda path: read.append(path.name) or Image.open(path).convert("RGB"))
    lines = [f"images/{number}.png,{number}" for number in range(5)]
    batches = iter(Labelled(model, manifest(five, "path,label\n" + "\n".join(lines)), batch_size=2))
    assert read == []
    next(batches)
    assert read == ["0.png", "1.png"]
    next(batches)
    assert read == ["0.png", "1.png", "2.png", "3.png"]


def test_what_is_broken_costs_itself(model, five):
    (five / "images/1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    masked(five / "good.png", np.full((24, 30), 255, np.uint8))
    masked(five / "small.png", np.full((12, 15), 255, np.uint8))
    (five / "empty.png").write_bytes(b"")
    picture(five / "thin.png", size=(20000, 1))
    lines = [
        "path,label,mask:object,box:head",
        "images/0.png,0,good.png,",
        "images/1.png,0,good.png,",
        "images/2.png,0,small.png,",
        "images/3.png,0,empty.png,",
        "images/4.png,0,good.png,0 0 32 24",
        "gone.png,0,good.png,",
        "images,0,good.png,",
        "thin.png,0,,",
    ]
    problem = Labelled(model, manifest(five, "\n".join(lines)), batch_size=2)
    for _ in range(2):  # the list is of one pass, not of all
        assert [batch.ids for _, batch in problem] == [("images/0.png",), ("thin.png",)]
        assert [(each.id, each.stage) for each in problem.failures] == [
            ("images/1.png", "read"),
            ("images/2.png", "read"),
            ("images/3.png", "read"),
            ("images/4.png", "read"),
            ("gone.png", "read"),
            ("images", "read"),
        ]
    reasons = [each.reason for each in problem.failures]
    assert reasons[1] == "its mask small.png: 15 x 12 for an image of 30 x 24 (both upright), allowed: the image's size"
    assert reasons[2] == "its mask empty.png: the file is empty"
    assert reasons[3] == "its box 0 0 32 24: reaches beyond the image of 30 x 24"
    assert reasons[4:] == ["no such file", "a folder, not a file"]
    with pytest.raises(BrokenImage, match="truncated or damaged"):
        problem.batch([0, 1])


def test_a_folder_of_class_folders(model, tmp_path):
    for name in ("hen/a.png", "hen/more/b.png", "n01484850_great_white_shark/c.png", "0/d.png", "kite/.hidden.png", "kite/notes.txt"):
        picture(tmp_path / name) if name.endswith("png") else (tmp_path / name).write_text("none")
    problem = Labelled(model, tmp_path)
    batch = only(problem)
    assert problem.label == tmp_path.name
    assert list(zip(batch.ids, batch.targets.index.tolist(), strict=True)) == [
        ("0/d.png", 0),
        ("hen/a.png", 2),
        ("hen/more/b.png", 2),
        ("n01484850_great_white_shark/c.png", 1),
    ]
    picture(tmp_path / "crow" / "e.png")
    with pytest.raises(BrokenFile, match=r"folder 'crow': no class is called 'crow'; allowed: crane, great white shark"):
        Labelled(model, tmp_path)
    picture(tmp_path / "stray.png")
    with pytest.raises(BadInput, match="got 'stray.png' beside class folders, allowed: images in class folders, or without any"):
        Labelled(model, tmp_path)


def test_a_folder_of_images_alone_has_no_labels(model, five):
    batch = only(Labelled(model, five / "images"))
    assert batch.ids == tuple(f"{number}.png" for number in range(5))
    assert_close(batch.targets.index, model.logits(batch.images).argmax(1), rtol=0, atol=0)


def test_class_folders_by_words_and_by_wordnet_ids():
    ids = ["n01440764", "n01484850", "n01514859"]
    assert class_folders(ids, ("a", "b", "c")) == {"n01440764": 0, "n01484850": 1, "n01514859": 2}
    assert class_folders(ids, ("a", "b", "c", "d")) == {}
    # a name that stands in another place than its id: not ImageNet's classes
    assert class_folders(["n01440764_b", "n01484850_a"], ("a", "b")) == {"n01440764_b": 1, "n01484850_a": 0}
    # the same name twice is told by the ids around it
    assert class_folders(["n00000001_a", "n00000002_crane", "n00000003_crane"], ("a", "crane", "crane"))["n00000003_crane"] == 2
    assert class_folders(["Great_White__Shark"], CLASSES) == {"Great_White__Shark": 1}


def test_a_list_of_batches(model):
    images = torch.randn(5, 3, 24, 24)
    parts = [
        Batch(
            images[rows],
            Targets(torch.arange(5)[rows]),
            tuple("abcde"[rows]),
            {"object": images[rows, 0].sigmoid()},
            {"g": torch.arange(5)[rows]},
        )
        for rows in (slice(0, 3), slice(3, 5))
    ]
    problem = Labelled(model, parts)
    assert (len(problem), problem.label, problem.group_names) == (5, "5 labelled images", {})
    assert [(list(rows), batch.ids) for rows, batch in problem.numbered()] == [([0, 1, 2], ("a", "b", "c")), ([3, 4], ("d", "e"))]
    some = problem.batch([4, 0])
    assert (some.ids, some.targets.index.tolist(), some.groups["g"].tolist()) == (("e", "a"), [4, 0], [4, 0])
    assert_close(some.images, images[[4, 0]], rtol=0, atol=0)
    assert_close(some.regions["object"], images[[4, 0], 0].sigmoid(), rtol=0, atol=0)
    with pytest.raises(BadInput, match="batches with other regions, groups or kinds of target, allowed: the same in all"):
        Labelled(model, [parts[0], Batch(images[:1], Targets(torch.zeros(1, dtype=torch.int64)), ("x",))])
    for wrong in ([], [images], images):
        with pytest.raises(BadInput, match="allowed: a manifest .CSV or Parquet., a folder of class folders, or a list of Batch"):
            Labelled(model, wrong)


def test_it_is_in_the_table_and_checks_its_settings(model, five):
    assert PROBLEMS["labelled"] is Labelled
    path = manifest(five, "path,label\nimages/0.png,0\n")
    with pytest.raises(BadInput, match=r"Labelled\(batch_size=...\): got 0, allowed: an int of at least 1"):
        Labelled(model, path, batch_size=0)
    with pytest.raises(BadInput, match="no kind of target is called 'logits'"):
        Labelled(model, path, kind="logits")


# Masks and boxes go the way of their image -----------------------------------------------------------------------------------------


def supersampled(inside: np.ndarray, preprocessing: Preprocessing, factor: int = 64) -> torch.Tensor:
    """The share of each input pixel inside, by points: what `Geometry` says of each is looked up in the mask."""
    height, width = inside.shape
    at = preprocessing.geometry(width, height)
    rows = at.top + at.scale_y * (np.arange(at.size[0] * factor) + 0.5) / factor
    columns = at.left + at.scale_x * (np.arange(at.size[1] * factor) + 0.5) / factor
    row, column = (np.floor(each).astype(int) for each in (rows, columns))
    on = ((row >= 0) & (row < height))[:, None] & ((column >= 0) & (column < width))[None]
    found = np.where(on, inside[row.clip(0, height - 1)[:, None], column.clip(0, width - 1)[None]], 0.0)
    return torch.from_numpy(found.reshape(at.size[0], factor, at.size[1], factor).mean((1, 3))).float()


PREPARED = [
    Preprocessing(0.5, 0.25, (12, 16), (20, 28)),  # straight to a size, then a crop
    Preprocessing(0.5, 0.25, 14),  # just covering
    Preprocessing(0.5, 0.25, (12, 20), 15),  # by the short side
    Preprocessing(0.5, 0.25, (60, 20), 15),  # the crop is larger than the image: padded
]


@pytest.mark.parametrize("preprocessing", PREPARED, ids=str)
@pytest.mark.parametrize("size", [(17, 23), (64, 33)])
def test_a_mask_is_the_share_of_each_pixel(preprocessing, size):
    inside = np.random.default_rng(1).random(size).astype(np.float32)
    mask = preprocessing.mask(torch.from_numpy(inside))
    assert (mask.dtype, tuple(mask.shape)) == (torch.float32, preprocessing.size)
    assert_close(mask, supersampled(inside, preprocessing), rtol=0, atol=2 / 64)
    # Exactly: nothing is lost or made by resizing, only by cropping.
    everything = preprocessing.mask(torch.ones(size))
    seen = preprocessing.box((0, 0, size[1], size[0]), size[1], size[0])
    assert_close(everything, seen, rtol=0, atol=1e-6)


@pytest.mark.parametrize("preprocessing", PREPARED, ids=str)
def test_a_box_is_the_mask_of_its_pixels(preprocessing):
    inside = torch.zeros(31, 47)
    inside[4:20, 11:30] = 1
    assert_close(preprocessing.box((11, 4, 30, 20), 47, 31), preprocessing.mask(inside), rtol=0, atol=1e-6)


def test_a_box_keeps_its_area_at_fractions_of_pixels():
    preprocessing = Preprocessing(0.5, 0.25, (10, 10), (10, 10))
    assert_close(preprocessing.box((2.5, 1, 7.25, 3.5), 20, 20).sum().double(), torch.tensor(4.75 * 2.5 / 4).double())
    expected = torch.zeros(10, 10)
    expected[0, 1:4] = torch.tensor([0.75, 1, 0.625]) * 0.5
    expected[1, 1:4] = torch.tensor([0.75, 1, 0.625]) * 0.75
    assert_close(preprocessing.box((2.5, 1, 7.25, 3.5), 20, 20), expected)


def test_a_mask_stays_on_what_it_masks():
    """White on black, prepared as an image and as a mask: the same pixels, up to the resampling at its edges."""
    preprocessing = Preprocessing(0, 1, (24, 24), 32, "box")
    inside = np.zeros((64, 96), np.uint8)
    inside[10:41, 33:70] = 255
    image = preprocessing(Image.fromarray(inside).convert("RGB"))[0]
    assert_close(preprocessing.mask(torch.from_numpy(inside) / 255), image, rtol=0, atol=0.003)  # 8 bits


TURNED = {  # EXIF orientation -> how the pixels in the file come from the upright ones
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: np.swapaxes(x, 0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.rot90(np.swapaxes(x, 0, 1), 2),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("turn", TURNED)
@pytest.mark.parametrize("tagged", [False, True], ids=["mask upright", "mask turned too"])
def test_a_mask_is_turned_by_its_own_tag_only(model, tmp_path, turn, tagged):
    inside = np.zeros((24, 30), np.uint8)
    inside[2:9, 5:22] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    turned = np.ascontiguousarray(TURNED[turn](inside))
    Image.fromarray(turned).convert("RGB").save(tmp_path / "a.png", exif=exif)
    if tagged:
        Image.fromarray(turned).save(tmp_path / "m.png", exif=exif)
    else:
        Image.fromarray(inside).save(tmp_path / "m.png")
    batch = only(Labelled(model, manifest(tmp_path, "path,label,mask:m,box:b\na.png,0,m.png,5 2 22 9\n")))
    expected = torch.from_numpy(inside[:, 3:27] / 255).float()
    for region in batch.regions.values():
        assert_close(region[0], expected, rtol=0, atol=0)
    assert_close(batch.images[0, 0] * 0.5 + 0.5, expected, rtol=0, atol=1e-6)


GREY = np.array([[0, 255], [128, 51]], np.uint8)
BIT = np.array([[0, 1], [1, 0]], np.uint8)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), GREY / 255),
        (Image.fromarray(GREY).convert("RGB"), GREY / 255),
        (Image.fromarray(GREY).convert("RGBA"), GREY / 255),
        (Image.fromarray(GREY).convert("P"), GREY / 255),
        (Image.fromarray(BIT.astype(bool)), BIT),
        (Image.fromarray(BIT), BIT),
        (Image.fromarray(BIT.astype(np.uint16)), BIT),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY / 255),
        (Image.fromarray((GREY / 255).astype(np.float32)), GREY / 255),
        (Image.fromarray(np.zeros((2, 2), np.uint8)), np.zeros((2, 2))),
    ],
    ids=["L", "RGB", "RGBA", "P", "1", "L01", "16 bit 01", "16 bit", "F", "black"],
)
def test_black_is_outside_and_white_inside(image, expected):
    found = as_mask(image)
    assert found.mode == "F"
    assert_close(torch.from_numpy(np.array(found)), torch.from_numpy(expected).float())


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8)), "values from 0 to 3 of 255"),
        (Image.fromarray(np.array([[0, 255]], np.uint16)), "values from 0 to 255 of 65535"),
        (Image.fromarray(np.array([[0, 1.5]], np.float32)), "values from 0 to 1.5 of 1"),
        (Image.fromarray(np.array([[-1, 1]], np.float32)), "values from -1 to 1 of 1"),
        (Image.fromarray(np.array([[np.nan, 1]], np.float32)), "values from nan to nan of 1"),
        (Image.new("RGB", (2, 2), (255, 0, 0)), "coloured"),
        (Image.new("RGBA", (2, 2), (255, 255, 255, 0)), "transparent"),
    ],
    ids=["numbers of parts", "8 in 16 bits", "too high", "negative", "nan", "red", "clear"],
)
def test_a_mask_that_is_not_clear_is_refused(image, reason):
    with pytest.raises(BadInput, match=f"{reason}; allowed: grey, black outside and white inside"):
        as_mask(image)


# What is refused -----------------------------------------------------------------------------------------------------------------

GOOD = "path,label,mask:m,box:b,group:g\nimages/0.png,0,m.png,1 2 3 4,x\nimages/1.png,1,,,y\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty; allowed: a header"),
        ("\ufeff\n\n", "the file is empty; allowed: a header"),
        ("path,label\n", "got no images, allowed: a line for each image"),
        ("images/0.png,0\n", r"the header: got the column 'images/0.png', allowed: path, label, and as many of mask:NAME"),
        ("path,mask:m\na,b\n", "got 'path,mask:m', which lacks the column label"),
        ("label,group:g\na,b\n", "which lacks the column path"),
        ("path,label,path\n", "two columns for path, allowed: one of each"),
        ("path,label,mask:a,box:a\n", "two columns for box a, allowed: one of each, and each region's name once"),
        ("path,label,mask:\n", "got the column 'mask:', allowed"),
        ("path,label,masks:a\n", "got the column 'masks:a', allowed"),
        ("path\tlabel\na.png\t0\n", r"got the column 'path\\tlabel', allowed"),
        ("path,label\na.png,0,1\n", "line 2: got 3 fields, allowed: 2"),
        ("path,label\n\n\na.png\n", "line 4: got 1 fields, allowed: 2"),
        ('path,label\n"a.png,0\nb.png,1\n', "line 3: unexpected end of data; allowed: CSV"),
        ('path,label\n"a"b.png,0\n', "line 2: ',' expected after '\"'; allowed: CSV"),
        ("path,label\na.png,0\na.png,1\n", "line 3, column path: got 'a.png' as in line 2, allowed: each image once"),
        ("path,label\na.png,0\n.//a.png,1\n", "line 3, column path: got 'a.png' as in line 2"),
        ("path,label\n ,0\n", "line 2, column path: got ' ', allowed: a path"),
        ("path,label\na\0.png,0\n", r"line 2, column path: got 'a\\x00.png', allowed: text without"),
        ('path,label\na.png,"0\n1"\n', r"line 3, column label: got '0\\n1', allowed: text without"),
        (f"path,label\n{'a' * 5000},0\n", "line 2, column path: .* of 5,000 characters, allowed: at most 4,096"),
        (f"path,label\n{'a' * 200_000},0\n", r"line 2: field larger than field limit \(131072\); allowed: CSV"),
        (f"path,label\n{'a,' * 600_000}\n", "got a line of more than 1,000,000 characters, allowed: CSV"),
        ("path,label,box:b\na.png,0,1 2 3\n", "line 2, column box:b: got '1 2 3', allowed: 'x0 y0 x1 y1'"),
        ("path,label,box:b\na.png,0,1 2 3 x\n", "column box:b: got '1 2 3 x', allowed"),
        ("path,label,box:b\na.png,0,3 2 1 4\n", "column box:b: got '3 2 1 4', allowed"),
        ("path,label,box:b\na.png,0,1 2 3 2\n", "column box:b: got '1 2 3 2', allowed"),
        ("path,label,box:b\na.png,0,-1 2 3 4\n", "column box:b: got '-1 2 3 4', allowed"),
        ("path,label,box:b\na.png,0,1 2 nan 4\n", "column box:b: got '1 2 nan 4', allowed"),
        ("path,label,box:b\na.png,0,1 2 1e999 4\n", "column box:b: got '1 2 1e999 4', allowed"),
        ("path,label\na.png,crow\n", "line 2, column label: no class is called 'crow'"),
        ("path,label\na.png,5\n", "line 2, column label: no class is called '5'; .* an index from 0 to 4"),
        ("path,label\nb.png,hen\na.png,-1\n", "line 3, column label: no class is called '-1'"),
        (b"path,label\n\xff\xfe.png,0\n", "it is not UTF-8 text; allowed: UTF-8, with or without a byte-order mark"),
        ("path,label\na.png,0\n".encode("utf-16"), "it is not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it is not UTF-8 text"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "it is not UTF-8 text"),
        (b"\0" * 1000, "the header: got the column"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_in_one_line(model, tmp_path, content, message):
    path = tmp_path / "manifest.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BrokenFile, match=message) as caught:
        Labelled(model, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


@pytest.mark.parametrize(
    "path",
    ["../a.png", "images/../../a.png", "images/../a.png", "/etc/passwd", "..", r"..\a.png", r"C:\a.png", "C:/a.png", r"\\host\a.png"],
)
@pytest.mark.parametrize("column", ["path", "mask:m"])
def test_a_path_does_not_leave_the_folder(model, five, path, column):
    values = {"path": "images/0.png", "mask:m": "images/1.png"} | {column: path}
    text = f"path,label,mask:m\nimages/2.png,0,\n{values['path']},0,{values['mask:m']}\n"
    with pytest.raises(BrokenFile, match=f"line 3, column {column}: got .*, allowed: a path relative to the manifest that does not leave"):
        Labelled(model, manifest(five, text))


@pytest.mark.parametrize("path", ["out/secret.png", "link.png", "images/deep.png"])
def test_a_link_does_not_lead_out_of_the_folder(model, five, path):
    picture(five / "elsewhere" / "secret.png")
    inside = five / "data"
    (five / "images").rename(five / "kept")
    inside.mkdir()
    (inside / "images").mkdir()
    os.symlink(five / "elsewhere", inside / "out")
    os.symlink("../elsewhere/secret.png", inside / "link.png")
    os.symlink(five / "elsewhere" / "secret.png", inside / "images" / "deep.png")
    with pytest.raises(BrokenFile, match="line 2, column path: got .*, allowed: a path relative to the manifest that does not leave"):
        Labelled(model, manifest(inside, f"path,label\n{path},0\n"))


def test_a_link_inside_the_folder_is_followed(model, five):
    os.symlink("images", five / "photos")
    os.symlink("0.png", five / "images" / "again.png")
    os.symlink(five, five.parent / "other")
    problem = Labelled(model, manifest(five.parent / "other", "path,label\nphotos/1.png,1\nimages/again.png,0\n"))
    assert (only(problem).ids, problem.failures) == (("photos/1.png", "images/again.png"), [])


def test_what_cannot_be_opened_is_refused(model, tmp_path):
    with pytest.raises(BrokenFile, match="nowhere.csv: no such file or folder"):
        Labelled(model, tmp_path / "nowhere.csv")
    with pytest.raises(BadInput, match="no images in folder"):
        Labelled(model, tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(BrokenFile, match="not a regular file but a pipe"):
        Labelled(model, tmp_path / "pipe.csv")


def test_a_byte_order_mark_blank_lines_quotes_and_crlf_are_read(model, five):
    text = '\ufeff"path","label",group:g\r\n\r\nimages/0.png,"hen","a, b"\r\nimages/1.png,1,"c ""d"""\r\n\r\n'
    batch = only(problem := Labelled(model, manifest(five, text)))
    assert (batch.ids, batch.targets.index.tolist()) == (("images/0.png", "images/1.png"), [2, 1])
    assert problem.group_names == {"g": ("a, b", 'c "d"')}


# Parquet -------------------------------------------------------------------------------------------------------------------------


def test_parquet_needs_pyarrow(model, five, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Unavailable, match="to read Parquet, pip install pyarrow; or write the manifest as CSV"):
        Labelled(model, manifest(five, "", "a.parquet"))


class FakeParquet:
    """As much of pyarrow's ParquetFile as is used."""

    columns: ClassVar = {
        "path": [["images/0.png", b"images/1.png"], ["images/2.png"]],
        "label": [[2.0, None], ["hen"]],
        "group:g": [[1, float("nan")], [True]],
    }

    def __init__(self, stream) -> None:
        if stream.read(4) != b"PAR1":
            raise ArithmeticError("magic bytes\nnot found")
        self.schema_arrow = types.SimpleNamespace(names=list(self.columns))

    def __enter__(self):
        return self

    def __exit__(self, *_exc) -> None:
        pass

    def iter_batches(self):
        for number in range(2):
            held = [types.SimpleNamespace(to_pylist=lambda values=column[number]: values) for column in self.columns.values()]
            yield types.SimpleNamespace(columns=held)


def test_parquet_is_read_as_csv_is(model, five, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(ArrowException=ArithmeticError))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", types.SimpleNamespace(ParquetFile=FakeParquet))
    (five / "a.parquet").write_bytes(b"PAR1")
    problem = Labelled(model, five / "a.parquet")
    batch = only(problem)
    assert batch.targets.index.tolist() == [2, int(batch.logits[1].argmax()), 2]
    assert problem.group_names == {"g": ("", "1", "True")}
    assert batch.groups["g"].tolist() == [1, 0, 2]
    monkeypatch.setitem(FakeParquet.columns, "label", [[2.0, None], ["crow"]])
    with pytest.raises(BrokenFile, match="a.parquet: row 3, column label: no class is called 'crow'"):
        Labelled(model, five / "a.parquet")
    (five / "a.parquet").write_bytes(b"nope")
    with pytest.raises(BrokenFile, match="a.parquet: no Parquet: magic bytes not found"):
        Labelled(model, five / "a.parquet")
