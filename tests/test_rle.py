"""Masks in COCO's run lengths: what an encoder wrote comes back, whatever else is refused, and a region goes the way of its image."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import GapCNN, adapted
from PIL import Image
from torch.testing import assert_close

from attribkit.batch import Batch
from attribkit.errors import BadInput, BrokenFile
from attribkit.problems import Labelled
from attribkit.problems.manifest import read_manifest
from attribkit.problems.rle import read_run_lengths


def runs_of(mask: np.ndarray) -> list[int]:
    """Lengths down the columns, beginning with how many zeros there are."""
    runs, last = [0], False
    for value in mask.T.flatten().tolist():
        if value != last:
            runs.append(0)
            last = value
        runs[-1] += 1
    return runs


def compressed(runs: list[int]) -> str:
    """As COCO packs them: from the fourth on the difference to the last but one, in pieces of 5 bits, the sixth says that one follows."""
    text = ""
    for place, run in enumerate(runs):
        rest = run - runs[place - 2] if place > 2 else run
        while True:
            piece, rest = rest & 31, rest >> 5
            done = rest == (-1 if piece & 16 else 0)
            text += chr(48 + piece + (0 if done else 32))
            if done:
                break
    return text


def written(mask: np.ndarray, *, packed: bool) -> str:
    runs = runs_of(mask)
    return json.dumps({"size": list(mask.shape), "counts": compressed(runs) if packed else runs})


# Read -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"size": [1, 7], "counts": [2, 3, 1, 1]}', ["0011101"]),
        ('{"size": [1, 7], "counts": "231N"}', ["0011101"]),  # 2, 3, 1, and 1 - 3 = -2, whose 5 bits are 30: "N"
        ('{"size": [1, 7], "counts": [0, 6, 1]}', ["1111110"]),
        ('{"counts": [1, 3, 2], "size": [2, 3]}', ["010", "110"]),  # columns 01, 11, 00
        ('{"size": [2, 3], "counts": "132"}', ["010", "110"]),
        ('{"size": [3, 1], "counts": [3]}', ["0", "0", "0"]),
        ('{"size": [3, 1], "counts": [0, 3]}', ["1", "1", "1"]),
        ('{"size": [3, 1], "counts": [0, 0, 1, 0, 0, 2]}', ["0", "1", "1"]),  # runs of nothing mean nothing
    ],
)
def test_small_masks_by_hand(text: str, rows: list[str]) -> None:
    mask = read_run_lengths(text).mask()
    assert mask.dtype == np.bool_
    assert ["".join("01"[value] for value in row) for row in mask.tolist()] == rows


def test_runs_of_more_than_a_piece_by_hand() -> None:
    """100 is 4 and 3 in pieces of 5 bits: 4 with more to come is "T", then "3"; 20 would read as -12, so it has a piece of 0: "d0"."""
    runs = read_run_lengths('{"size": [60, 2], "counts": "T3d0"}')
    assert_close(runs.mask().T.flatten(), np.arange(120) >= 100)


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    coarse=st.integers(1, 40),
    packed=st.booleans(),
)
def test_what_an_encoder_writes_comes_back(size: tuple[int, int], seed: int, share: float, coarse: int, packed: bool) -> None:
    """Masks with runs of all lengths: noise in blocks of `coarse` pixels."""
    noise = np.random.default_rng(seed).random((size[0] // coarse + 1, size[1] // coarse + 1)) < share
    mask = noise.repeat(coarse, 0).repeat(coarse, 1)[: size[0], : size[1]]
    assert_close(read_run_lengths(written(mask, packed=packed)).mask(), mask)


def test_a_large_mask_comes_back() -> None:
    """Differences of runs of many pieces, among them negative ones."""
    mask = np.zeros((2000, 3000), bool)
    mask[:, 17:2500] = True
    mask[5, 2700] = True
    assert_close(read_run_lengths(written(mask, packed=True)).mask(), mask)


# Refused ----------------------------------------------------------------------------------------------------------------------------

ALLOWED = r'allowed: \{"size": \[height, width\], "counts": \[runs\] or "runs as COCO compresses them"\}$'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("231N", f"^{ALLOWED}"),
        ("[[1, 7], [2, 3, 1, 1]]", f"^{ALLOWED}"),
        ('{"size": [1, 7]}', f"^{ALLOWED}"),
        ('{"size": [1, 7], "counts": [7], "area": 0}', f"^{ALLOWED}"),
        ('{"size": [1, 7], "counts": [7]', f"^{ALLOWED}"),
        ("[" * 100_000, f"^{ALLOWED}"),
        ('{"size": [1, 7], "counts": [' + "9" * 5000 + "]}", f"^{ALLOWED}"),
        ('{"size": 7, "counts": [7]}', f"^a size of 7, {ALLOWED}"),
        ('{"size": [1, 7, 1], "counts": [7]}', rf"^a size of \[1, 7, 1\], {ALLOWED}"),
        ('{"size": [0, 7], "counts": []}', rf"^a size of \[0, 7\], {ALLOWED}"),
        ('{"size": [true, 7], "counts": [7]}', rf"^a size of \[True, 7\], {ALLOWED}"),
        ('{"size": [1.0, 7], "counts": [7]}', rf"^a size of \[1\.0, 7\], {ALLOWED}"),
        ('{"size": [100000, 100000], "counts": [10000000000]}', "^100000 x 100000 is 10000000000 pixels, allowed: at most 89,478,485$"),
        ('{"size": [1, 7], "counts": [2, 3, 1]}', r"^runs of 6 pixels in all, allowed: runs that fill 7 x 1 = 7 pixels exactly$"),
        ('{"size": [1, 7], "counts": [2, 3, 3]}', "^runs of 8 pixels in all, allowed"),
        ('{"size": [1, 7], "counts": []}', "^runs of 0 pixels in all, allowed"),
        ('{"size": [1, 7], "counts": ""}', "^runs of 0 pixels in all, allowed"),
        ('{"size": [1, 7], "counts": [8, -1]}', r"^counts of \[8, -1\], allowed: lengths of runs from 0 to 7, the pixels of its size$"),
        ('{"size": [1, 7], "counts": [6.0, 1]}', r"^counts of \[6\.0, 1\], allowed: lengths of runs"),
        ('{"size": [1, 7], "counts": [true, 6]}', r"^counts of \[True, 6\], allowed: lengths of runs"),
        ('{"size": [1, 7], "counts": {"a": 7}}', r"^counts of \{'a': 7\}, allowed: lengths of runs"),
        ('{"size": [1, 7], "counts": "8O"}', "^a run below 0, allowed: runs that fill 7 x 1 = 7 pixels exactly$"),
        ('{"size": [1, 7], "counts": "231"}', "^runs of 6 pixels in all, allowed"),
        ('{"size": [1, 7], "counts": "231n"}', "^compressed counts with a character that COCO does not use, or without their end; allowed"),
        ('{"size": [1, 7], "counts": "23 2"}', "^compressed counts with a character that COCO does not use"),
        ('{"size": [1, 7], "counts": "23\u00e91"}', "^compressed counts with a character that COCO does not use"),
        ('{"size": [1, 7], "counts": "23\\ud8001"}', "^compressed counts with a character that COCO does not use"),
        ('{"size": [1, 7], "counts": "7PPPPPPPPPPPPPPP0"}', "^compressed counts with a run beyond all images; allowed: COCO's own$"),
    ],
)  # fmt: skip
def test_what_is_no_mask_is_one_clear_line(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=why) as caught:
        read_run_lengths(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_no_character_can_be_changed_unseen() -> None:
    """Each of the other 63 in each place either is refused, or is a mask of that size, and another one."""
    mask = np.zeros((13, 11), bool)
    mask[3:9, 4:7] = mask[2, 9] = True
    counts = compressed(runs_of(mask))
    refused = 0
    for place in range(len(counts)):
        for code in {*range(48, 112)} - {ord(counts[place])}:
            changed = counts[:place] + chr(code) + counts[place + 1 :]
            try:
                found = read_run_lengths(json.dumps({"size": [13, 11], "counts": changed})).mask()
            except BadInput:
                refused += 1
            else:
                assert found.shape == mask.shape and (found != mask).any()
    assert refused >= 63 * len(counts) - 5  # the sum sees nearly all


# In a manifest ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return adapted(GapCNN(), size=(24, 24), classes=("a", "b", "c", "d", "e"))


def listed(folder: Path, *rows: tuple[str, ...], header: tuple[str, ...] = ("path", "label", "rle:thing")) -> Path:
    path = folder / "list.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def only(problem: Labelled) -> Batch:
    ((_, batch),) = problem
    return batch


def test_run_lengths_are_a_region_like_a_mask_in_a_file(model, tmp_path: Path) -> None:
    """Resized and cropped as the image is; nothing where the field is empty; beside boxes and files, in the order of the columns."""
    mask = np.zeros((30, 40), bool)
    mask[5:21, 13:33] = True
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    for name in ("0.png", "1.png"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / name)
    header = ("path", "rle:packed", "label", "box:corner", "mask:file", "rle:plain")
    rows = (
        ("0.png", written(mask, packed=True), "b", "13 5 33 21", "mask.png", written(mask, packed=False)),
        ("1.png", "", "c", "", "", " "),
    )
    batch = only(Labelled(model, listed(tmp_path, *rows, header=header)))
    assert list(batch.regions) == ["packed", "corner", "file", "plain"]
    for name in ("packed", "plain", "corner"):
        assert_close(batch.regions[name], batch.regions["file"], rtol=0, atol=1e-6)
    assert_close(
        batch.regions["packed"][0].sum(), torch.tensor(16 * 20 * (24 / 30) ** 2), rtol=0, atol=1e-3
    )  # 320 pixels at 0.8 of the size
    assert float(batch.regions["packed"][1].sum()) == 0


def test_a_mask_is_of_the_upright_image(model, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "turned.png", exif=turned)
    Image.new("RGB", (40, 30)).save(tmp_path / "plain.png")
    upright = written(np.ones((40, 30), bool), packed=True)
    problem = Labelled(model, listed(tmp_path, ("turned.png", "a", upright), ("plain.png", "a", upright)))
    assert only(problem).ids == ("turned.png",)
    (failure,) = problem.failures
    assert failure == ("plain.png", "read", "its run lengths: 30 x 40 for an image of 40 x 30 (both upright), allowed: the image's size")


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ('{"size": [2, 2], "counts": [3]}', "runs of 3 pixels in all, allowed: runs that fill 2 x 2 = 4 pixels exactly"),
        ("mask.png", 'allowed: {"size": [height, width], "counts": [runs] or "runs as COCO compresses them"}'),
        ('{"size": [2, 2],\n "counts": [4]}', "allowed: text without tabs, line breaks and other control characters"),
    ],
)
def test_a_damaged_mask_is_told_with_its_line_and_column(model, tmp_path: Path, field: str, why: str) -> None:
    path = listed(tmp_path, ("0.png", "a", '{"size": [1, 1], "counts": [1]}'), ("1.png", "b", field))
    with pytest.raises(BrokenFile, match=r"\S") as caught:
        Labelled(model, path)
    line = 4 if "\n" in field else 3
    assert str(caught.value) == f"{path}: line {line}, column rle:thing: got {field!r}, {why}"


def test_a_mask_may_be_as_long_as_a_field_of_csv(tmp_path: Path) -> None:
    """A chessboard has a run for each pixel: 60,000 of them, in 119,431 characters."""
    board = np.indices((200, 300)).sum(0) % 2 == 1
    text = json.dumps({"size": [200, 300], "counts": runs_of(board)}, separators=(",", ":"))
    assert len(text) == 119_431
    (row,) = read_manifest(listed(tmp_path, ("0.png", "a", text))).rows
    assert_close(row.regions[0].mask(), board)  # type: ignore[union-attr]
    path = listed(tmp_path, ("0.png", "a", text + " " * 20_000))
    with pytest.raises(BrokenFile, match=r"line 2: field larger than field limit \(131072\); allowed: CSV$"):
        read_manifest(path)


def test_the_name_of_a_region_is_taken_once(tmp_path: Path) -> None:
    path = listed(tmp_path, ("0.png", "a", "", ""), header=("path", "label", "rle:thing", "mask:thing"))
    with pytest.raises(BrokenFile, match="the header: got two columns for mask thing, allowed: one of each, and each region's name once"):
        read_manifest(path)
