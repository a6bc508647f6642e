"""The result of explaining: what cannot be made, what comes back from a file, and what a damaged file does."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as as_safetensors
from torch.testing import assert_close

from attribkit.attribution import FORMAT, Attribution
from attribkit.batch import Targets
from attribkit.errors import BadInput

IDS = ("a/b.png", "ü 猫.jpg", "bad\udcffbytes.png")


def attribution(rows: int = 3, **changed: Any) -> Attribution:
    generator = torch.Generator().manual_seed(1)
    known: dict[str, Any] = {
        "maps": torch.randn(rows, 2, 3, generator=generator),
        "targets": Targets(torch.arange(rows), "log_odds"),
        "ids": (*IDS, *(f"more {i}" for i in range(rows)))[:rows],
        "method": "GradCAM(layer='x')",
        "size": (8, 12),
        "model": "toy",
        "classes": ("cat", "dog"),
        "scores": torch.randn(rows, generator=generator),
        "extras": {"convergence_delta": torch.randn(rows, dtype=torch.float64, generator=generator), "path": torch.ones(rows, 2, 2)},
    }
    return Attribution(**{**known, **changed})


def assert_same(left: Attribution, right: Attribution) -> None:
    for field in dataclasses.fields(Attribution):
        mine, theirs = getattr(left, field.name), getattr(right, field.name)
        if field.name == "targets":
            assert mine.kind == theirs.kind
            mine, theirs = mine.index, theirs.index
        if field.name == "extras":
            mine, theirs = dict(mine), dict(theirs)
        if isinstance(mine, torch.Tensor | dict):
            assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
        else:
            assert mine == theirs


# At birth -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"maps": [[1.0]]}, r"maps: got list, allowed: a \(B, h, w\) float32 tensor"),
        ({"maps": torch.zeros(3, 1, 2, 3)}, r"maps: got \(3, 1, 2, 3\) torch.float32, allowed: a \(B, h, w\) float32 tensor"),
        ({"maps": torch.zeros(3, 2, 3, dtype=torch.float64)}, r"maps: got \(3, 2, 3\) torch.float64, allowed: a \(B, h, w\) float32"),
        ({"maps": torch.zeros(3, 0, 3)}, r"maps: got \(3, 0, 3\) torch.float32, allowed: a \(B, h, w\) float32 tensor"),
        ({"maps": torch.zeros(3, 2, 3, requires_grad=True)}, r"maps: got a tensor that requires grad, allowed: a detached one"),
        ({"targets": torch.arange(3)}, r"targets: got Tensor, allowed: Targets"),
        ({"targets": Targets(torch.arange(2))}, r"targets: got 2, allowed: one per map \(3\)"),
        ({"ids": ("a",)}, r"ids: got 1, allowed: one per map \(3\)"),
        ({"ids": "abc"}, r"ids: got a string, allowed: several strings"),
        ({"ids": (Path("a"), Path("b"), Path("c"))}, r"ids: got \w+Path, allowed: strings"),
        ({"method": None}, r"method: got NoneType, allowed: str"),
        ({"model": 3}, r"model: got int, allowed: str"),
        ({"classes": (1, 2)}, r"classes: got int, allowed: strings"),
        ({"size": (8,)}, r"size: got \(8,\), allowed: \(H, W\) of the images"),
        ({"size": (8, 0)}, r"size: got \(8, 0\), allowed: \(H, W\) of the images"),
        ({"size": (8.0, 9.0)}, r"size: got \(8.0, 9.0\), allowed: \(H, W\) of the images"),
        ({"scores": torch.zeros(2)}, r"scores: got 2, allowed: one per map \(3\)"),
        ({"scores": torch.zeros(3, 1)}, r"scores: got \(3, 1\), allowed: \(3,\)"),
        ({"scores": [1, 2, 3]}, r"scores: got list, allowed: a tensor with one row per map \(3\)"),
        ({"extras": {"d": torch.zeros(4)}}, r"extras\['d'\]: got 4, allowed: one per map \(3\)"),
        ({"extras": {"d": torch.tensor(1.0)}}, r"extras\['d'\]: got Tensor, allowed: a tensor with one row per map \(3\)"),
        ({"extras": {"d": [1, 2, 3]}}, r"extras\['d'\]: got list, allowed: a tensor with one row per map \(3\)"),
    ],
)
def test_what_does_not_fit_together_is_no_attribution(changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInput, match=rf"^Attribution\.{expected}"):
        attribution(**changed)


def test_values_are_not_looked_at() -> None:
    """That would wait for the device; what is not finite is told when maps are drawn or scored."""
    assert len(attribution(maps=torch.full((3, 2, 3), torch.nan))) == 3


def test_it_cannot_be_changed_from_outside() -> None:
    extras = {"delta": torch.zeros(3)}
    made = attribution(extras=extras, ids=list(IDS), size=[8, 12])
    extras["more"] = torch.zeros(1)
    assert list(made.extras) == ["delta"]
    assert (made.ids, made.size) == (IDS, (8, 12))
    with pytest.raises(TypeError, match="does not support item assignment"):
        made.extras["more"] = torch.zeros(3)  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError, match="maps"):
        made.maps = torch.zeros(3, 2, 3)  # type: ignore[misc]


def test_it_says_what_it_is() -> None:
    assert repr(attribution()) == "<Attribution: 3 maps of 2x3 by GradCAM(layer='x') for toy>"
    assert repr(attribution(model="")) == "<Attribution: 3 maps of 2x3 by GradCAM(layer='x') for a model>"


# Use ------------------------------------------------------------------------------------------------------------------------------


def test_at_resizes_bilinearly_and_leaves_the_map_alone() -> None:
    """Doubling a row of cells 0, 4: samples at -1/4, 1/4, 3/4, 5/4 of the way, the outer ones held at the ends."""
    made = attribution(1, maps=torch.tensor([[[0.0, 4.0]]]), size=(2, 4))
    expected = torch.tensor([0.0, 1.0, 3.0, 4.0]).expand(1, 2, 4)
    assert_close(made.at(), expected, rtol=0, atol=0)
    assert_close(made.at((1, 4)), expected[:, :1], rtol=0, atol=0)
    assert made.at((1, 2)) is made.maps
    assert made.maps.shape == (1, 1, 2)


@pytest.mark.parametrize("size", [(0, 4), (4, -1)])
def test_at_refuses_a_size_that_is_none(size: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match=r"allowed: \(H, W\), each at least 1"):
        attribution().at(size)


def test_labels_are_names_where_there_are_names() -> None:
    made = attribution(4, targets=Targets(torch.tensor([1, 0, 2, -1])))
    assert made.labels() == ("dog", "cat", "class 2", "class -1")
    assert attribution(2, classes=()).labels() == ("class 0", "class 1")


def test_a_part_keeps_everything_in_step() -> None:
    whole = attribution(4)
    part = whole[1:3]
    assert (len(part), part.ids, part.method, part.size) == (2, whole.ids[1:3], whole.method, whole.size)
    assert_close(part.maps, whole.maps[1:3], rtol=0, atol=0)
    assert part.targets.index.tolist() == [1, 2]
    assert part.scores is not None
    assert whole.scores is not None
    assert_close(part.scores, whole.scores[1:3], rtol=0, atol=0)
    assert_close(part.extras["convergence_delta"], whole.extras["convergence_delta"][1:3], rtol=0, atol=0)
    assert len(whole[4:]) == 0
    assert attribution(2, scores=None)[:1].scores is None


@pytest.mark.parametrize("rows", [0, -1, "a", torch.tensor([0])])
def test_it_is_cut_by_slices_alone(rows: Any) -> None:
    with pytest.raises(BadInput, match=r"^Attribution\[\.\.\.\]: got (int|str|Tensor), allowed: a slice, such as maps\[:8\]$"):
        _ = attribution()[rows]


def test_it_travels_between_processes() -> None:
    made = attribution()
    assert_same(pickle.loads(pickle.dumps(made)), made)
    assert_same(copy.deepcopy(made), made)


# Files ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        attribution(),
        attribution(scores=None, extras={}, classes=(), model=""),
        attribution(0),
        attribution(maps=torch.tensor([[[torch.nan, torch.inf, -0.0], [1e-45, -3.4e38, 0.1]]]).repeat(3, 1, 1)),
        attribution(5)[1:4],
        attribution(maps=torch.randn(2, 3, 3).permute(2, 0, 1)),
        attribution(
            extras={"one": torch.ones(3), "mask": torch.tensor([True, False, True]), "count": torch.arange(3), "ü": torch.ones(3, 1)}
        ),
    ],
    ids=["all", "least", "none", "special values", "a part", "not contiguous", "kinds of extras"],
)
def test_what_is_saved_comes_back(made: Attribution, tmp_path: Path) -> None:
    path = made.save(tmp_path / "new folder" / "maps.safetensors")
    assert path == tmp_path / "new folder" / "maps.safetensors"
    assert [each.name for each in path.parent.iterdir()] == ["maps.safetensors"]
    assert_same(Attribution.load(path), made)
    assert_same(Attribution.load(str(path)), made)


def test_extras_may_share_memory(tmp_path: Path) -> None:
    values = torch.arange(6.0)
    made = attribution(extras={"one": values[:3], "two": values[3:], "again": values[:3]})
    assert_same(Attribution.load(made.save(tmp_path / "a.safetensors")), made)


def test_one_file_holds_everything_and_any_reader_of_the_format_reads_it(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = attribution().save(tmp_path / "a.safetensors")
    with safe_open(str(path), framework="numpy") as file:
        assert sorted(file.keys()) == ["extra.convergence_delta", "extra.path", "maps", "scores", "targets"]
        about = json.loads(file.metadata()["about"])
    assert file is not None
    assert about == {
        "ids": list(IDS),
        "kind": "log_odds",
        "method": "GradCAM(layer='x')",
        "size": [8, 12],
        "model": "toy",
        "classes": ["cat", "dog"],
        "facts": {},
    }


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up in the middle: the old file stays whole, and no half of the new one is left."""
    path = attribution(2).save(tmp_path / "a.safetensors")
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        attribution(3).save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == before


def test_nobody_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its name the file appears by one rename, of a file that is whole by then."""
    seen = []

    def looked(self: Path, target: Path) -> Path:
        seen.append((Attribution.load(self).ids, Path(target).exists()))
        os.replace(self, target)
        return Path(target)

    monkeypatch.setattr(Path, "replace", looked)
    attribution().save(tmp_path / "a.safetensors")
    assert seen == [(IDS, False)]


def reason(path: Path) -> str:
    with pytest.raises(BadInput, match=r".") as caught:
        Attribution.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_file_that_is_none_is_named_with_its_reason(tmp_path: Path) -> None:
    assert "No such file" in reason(tmp_path / "missing.safetensors")
    assert reason(tmp_path).startswith("cannot be read as a saved Attribution: ")
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    assert reason(empty).startswith("cannot be read as a saved Attribution: ")


def test_another_files_tensors_are_told_apart(tmp_path: Path) -> None:
    other = tmp_path / "weights.safetensors"
    other.write_bytes(as_safetensors({"maps": torch.zeros(1, 2, 2)}))
    assert reason(other) == f"got format None, allowed: {FORMAT!r}"
    other.write_bytes(as_safetensors({"maps": torch.zeros(1, 2, 2)}, {"format": "pt"}))
    assert reason(other) == f"got format 'pt', allowed: {FORMAT!r}"


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [pickle.dumps, None], ids=["pickle", "torch.save"])
def test_a_pickle_is_refused_and_not_run(write: Any, tmp_path: Path) -> None:
    path, sign = tmp_path / "a.safetensors", tmp_path / "it ran"
    if write is None:
        torch.save(Bomb(sign), path)
    else:
        path.write_bytes(write(Bomb(sign)))
    assert reason(path).startswith("cannot be read as a saved Attribution: ")
    assert not sign.exists()


def rewritten(tmp_path: Path, about: object = None, *, drop: str = "", **changed: torch.Tensor) -> Path:
    """A file of the right format in which one thing is different."""
    made = attribution()
    tensors = {"maps": made.maps, "targets": made.targets.index} | changed
    tensors.pop(drop, None)
    good = {"ids": IDS, "kind": "logit", "method": "GradCAM()", "size": [8, 12], "model": "", "classes": []}
    metadata = (
        {"format": FORMAT}
        if drop == "about"
        else {"format": FORMAT, "about": about if isinstance(about, str) else json.dumps(about or good)}
    )
    path = tmp_path / "a.safetensors"
    path.write_bytes(as_safetensors(tensors, metadata))
    return path


@pytest.mark.parametrize("part", ["maps", "targets", "about"])
def test_a_part_that_is_missing_is_named(part: str, tmp_path: Path) -> None:
    assert reason(rewritten(tmp_path, drop=part)) == f"a saved Attribution with a part missing or damaged: KeyError({part!r})"


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ("{", "JSONDecodeError"),
        ("[" * 100_000, "RecursionError"),
        ("[]", "TypeError"),
        ("3", "TypeError"),
        ("{}", "KeyError('kind')"),
        ({"kind": "x"}, "no kind of target is called 'x'"),
        ({"kind": ["logit"]}, "no kind of target is called"),
        ({"kind": "logit", "ids": "abc", "method": "", "size": [8, 12], "model": "", "classes": []}, "ids: got a string"),
        (
            {"kind": "logit", "ids": ["a"], "method": "", "size": [8, 12], "model": "", "classes": []},
            "ids: got 1, allowed: one per map (3)",
        ),
        ({"kind": "logit", "ids": IDS, "method": 1, "size": [8, 12], "model": "", "classes": []}, "method: got int"),
        ({"kind": "logit", "ids": IDS, "method": "", "size": [8], "model": "", "classes": []}, "IndexError"),
        ({"kind": "logit", "ids": IDS, "method": "", "size": ["8", "9"], "model": "", "classes": []}, "size: got ('8', '9')"),
        ({"kind": "logit", "ids": IDS, "method": "", "size": None, "model": "", "classes": []}, "TypeError"),
        ({"kind": "logit", "ids": IDS, "method": "", "size": [8, 12], "model": "", "classes": [None]}, "classes: got NoneType"),
    ],
)
def test_damaged_metadata_is_told_in_one_line(about: object, expected: str, tmp_path: Path) -> None:
    found = reason(rewritten(tmp_path, about))
    assert found.startswith("a saved Attribution with a part missing or damaged: ")
    assert expected in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"maps": torch.zeros(3, 2, 3, dtype=torch.float16)}, "maps: got (3, 2, 3) torch.float16"),
        ({"maps": torch.zeros(3, 6)}, "maps: got (3, 6) torch.float32"),
        ({"targets": torch.zeros(3)}, "Targets.index: got (3,) torch.float32"),
        ({"targets": torch.zeros(2, dtype=torch.int64)}, "targets: got 2, allowed: one per map (3)"),
        ({"scores": torch.zeros(3, 3)}, "scores: got (3, 3)"),
        ({"extra.x": torch.zeros(2)}, "extras['x']: got 2"),
    ],
)
def test_tensors_of_another_shape_are_told_in_one_line(changed: dict[str, torch.Tensor], expected: str, tmp_path: Path) -> None:
    assert expected in reason(rewritten(tmp_path, **changed))


def mutant(good: bytes, rng: random.Random) -> bytes:
    """`good` with a few bytes changed, cut off, doubled or moved, in its header as often as behind it."""
    data = bytearray(good)
    header = 8 + struct.unpack("<Q", good[:8])[0]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(header, len(data))) if data and rng.random() < 0.7 else rng.randrange(len(data) or 1)
        act = rng.randrange(5)
        if act == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif act == 1:
            del data[at:]
        elif act == 2:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        elif act == 3:
            data[at : at + rng.randrange(1, 20)] = b""
        elif data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
    return bytes(data)


def test_damaged_files_are_bad_input_or_a_whole_attribution(tmp_path: Path) -> None:
    """600 mutants: the format does not notice changed values, so some load; none does anything else."""
    good = attribution().save(tmp_path / "good.safetensors").read_bytes()
    rng, path, refused, whole = random.Random(0), tmp_path / "mutant.safetensors", 0, 0
    for _ in range(600):
        path.write_bytes(mutant(good, rng))
        try:
            loaded = Attribution.load(path)
        except BadInput as error:
            refused += str(error).startswith(f"{path}: ")
            continue
        assert len(loaded.maps) == len(loaded.ids) == len(loaded.targets)
        whole += 1
    assert refused + whole == 600
    assert 0 < whole < 200
