"""Configurations: what a file, the command line and a record say is read exactly, and every mistake is told with its place."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from attribkit.batch import Batch, Targets
from attribkit.configuration import Configuration, Execution, build, class_names, overridden, read_configuration
from attribkit.configuration.positions import positions
from attribkit.errors import BadInput, BrokenFile
from attribkit.methods import AtLayer, FromCallable, GradCAM, IntegratedGradients, Smooth
from attribkit.metrics import AttentionIoU, Deletion
from attribkit.problems import Disconnected, Grid, Labelled, Planted
from attribkit.removals import Blur

LEAST = {"model": "planted/shortcut-95", "data": "planted", "methods": ("grad_cam",), "metrics": ("attention_iou",)}

WHOLE = """\
schema = 1
model = "torchvision/resnet50"   # a comment
weights = "none"
mean = 0.5
std = [0.1, 0.2, 1]
size = 96
classes = ["fish", "bird"]
layer = "layer4"
precision = "bf16"
kind = "probability"
data = "images/list.csv"
problems = ["labelled", "Grid(n=3, count=50)", { name = "disconnected", part = 1 }]
methods = ["grad_cam", "IntegratedGradients(steps=20)"]
controls = false
seed = 7
limit = 100
batch = 8
maps = "float32"

[[metrics]]
name = "attention_iou"

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
deadline = 60
device = "cpu"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path, overrides: tuple[str, ...] = ()) -> list[str]:
    """The lines of the one error, without the file's own name."""
    with pytest.raises(BadInput, match=r"\S") as caught:
        read_configuration(path, overrides)
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


# What is read -----------------------------------------------------------------------------------------------------------------------


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    asked, run = read_configuration(written(tmp_path, WHOLE))
    assert asked == Configuration(
        model="torchvision/resnet50",
        weights="none",
        mean=(0.5, 0.5, 0.5),
        std=(0.1, 0.2, 1.0),
        size=96,
        classes=("fish", "bird"),
        layer="layer4",
        precision="bfloat16",
        kind="probability",
        data=str(tmp_path / "images" / "list.csv"),
        problems=(
            "Labelled()",
            "Grid(n=3, count=50, confidence=0.99, fit='enlarge')",
            "Disconnected(n=2, count=100, confidence=0.99, part=1)",
        ),
        methods=(GradCAM(), IntegratedGradients(steps=20)),
        metrics=(AttentionIoU(), Deletion(removal=Blur(sigma=3.0), steps=8)),
        controls=False,
        seed=7,
        limit=100,
        batch=8,
        maps="float32",
    )
    assert run == Execution(out=str(tmp_path / "results"), workers=2, engine="ray", deadline=60.0, device="cpu")


def test_what_is_left_out_is_as_usual(tmp_path: Path) -> None:
    text = 'schema = 1\nmodel = "planted/tag-95"\ndata = "planted"\nmethods = ["GradCAM"]\nmetrics = ["deletion"]\n'
    asked, run = read_configuration(written(tmp_path, text))
    assert dataclasses.asdict(run) == {"out": None, "workers": None, "engine": "local", "deadline": 1800.0, "device": None, "retry": False}
    shown = {name: value for name, value in asked.record().items() if name not in ("model", "data", "methods", "metrics")}
    nothing = dict.fromkeys(("mean", "std", "size", "classes", "layer", "limit"))
    usual = {"weights": "default", "precision": "float32", "kind": "logit", "problems": ["Labelled()"], "controls": True, "seed": 0}
    assert shown == {**nothing, **usual, "batch": 32, "maps": "float16", "schema": 1}


@pytest.mark.parametrize(
    ("entry", "method"),
    [
        ('"grad_cam"', GradCAM()),
        ('"GradCAM"', GradCAM()),
        ("\"GradCAM(layer='layer3')\"", GradCAM(layer="layer3")),
        ('{ name = "grad_cam", layer = "layer3" }', GradCAM(layer="layer3")),
        ('{ name = "IntegratedGradients", steps = 4 }', IntegratedGradients(steps=4)),
        ('{ name = "smooth", samples = 3, method = "grad_cam" }', Smooth(GradCAM(), samples=3)),
        (
            '{ name = "at_layer", layer = "layer2", method = { name = "integrated_gradients", steps = 4 } }',
            AtLayer(IntegratedGradients(steps=4), layer="layer2"),
        ),
    ],
)
def test_a_method_is_a_name_a_call_or_a_table(tmp_path: Path, entry: str, method: object) -> None:
    text = f'schema = 1\nmodel = "m"\ndata = "planted"\nmetrics = ["deletion"]\nmethods = ["random_map", {entry}, "random_map"]\n'
    asked, _ = read_configuration(written(tmp_path, text))
    assert asked.methods[1:] == (method,)  # what comes twice is asked once


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("labelled", "Labelled()"),
        ("Grid()", "Grid(n=2, count=100, confidence=0.99, fit='enlarge')"),
        ("grid(confidence=1, seed=0)", "Grid(n=2, count=100, seed=0, confidence=1.0, fit='enlarge')"),
        ("Planted(strength=95)", "Planted(strength=95, shortcut='background')"),
        ("Planted(count=3, shortcut='tag')", "Planted(count=3, strength=50, shortcut='tag')"),
        ({"name": "disconnected", "n": 3}, "Disconnected(n=3, count=100, confidence=0.99, part=0)"),
    ],
)
def test_a_problem_has_one_text(given: object, text: str) -> None:
    """A seed, and how many scenes are planted, are told only where they are given: else they follow the configuration."""
    once = Configuration(**LEAST, problems=(given,))  # type: ignore[arg-type]
    assert once.problems == (text,)
    assert Configuration(**LEAST, problems=once.problems) == once


def test_paths_in_a_file_begin_where_it_lies_and_those_of_the_line_where_one_stands(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufefffish\n\n bird \n", encoding="utf-8")
    text = 'schema = 1\nmodel = "m"\nmethods = ["grad_cam"]\nmetrics = ["deletion"]\ndata = "../photos"\nclasses = "names.txt"\n'
    path = written(tmp_path, text + 'weights = "w.safetensors"\nrun.out = "out"\n')
    asked, run = read_configuration(path)
    assert (asked.data, asked.weights, run.out) == (str(tmp_path.parent / "photos"), str(tmp_path / "w.safetensors"), str(tmp_path / "out"))
    assert asked.classes == ("fish", "bird")
    asked, run = read_configuration(path, ["data=photos", "weights=IMAGENET1K_V2", "run.out=there", 'classes=["a"]'])
    here = Path.cwd()
    assert (asked.data, asked.weights, run.out, asked.classes) == (str(here / "photos"), "IMAGENET1K_V2", str(here / "there"), ("a",))


def test_class_names_come_from_a_file_or_a_list(tmp_path: Path) -> None:
    assert class_names("a, b,c d") == ("a", "b", "c d")
    with pytest.raises(BadInput, match="^got 'nothing', allowed: a text file with one class a line, or names with commas between them$"):
        class_names("nothing")
    for content, why in (
        (b"\n\n", "got no names, allowed: one class a line"),
        (b"a\n\xff", "line 2: it is not UTF-8 text; allowed: UTF-8"),
    ):
        (tmp_path / "names").write_bytes(content)
        with pytest.raises(BrokenFile, match=why):
            class_names(str(tmp_path / "names"))


# Mistakes ---------------------------------------------------------------------------------------------------------------------------

WRONG = """\
schema = 2
modle = "planted/shortcut-95"
data = 5
limit = "16"
seed = -1
mean = [1, 2]
std = 0
size = 2.0
controls = 1
classes = "nowhere"
maps = "float64"
methods = ["grad_can",
   "IntegratedGradients(steps=0)",
   # not an item
   { name = "smooth", samples = 0, method = { name = "integrated_gradients", steps = 0, rul = "x" } },
   3, { steps = 4 }, { name = "oracle" }]
problems = ["Grid(n=0, count=-1)", "Labelled(batch_size=3)", "mosaic", "Planted(strength=200)", "Grid(2)", "Grid(n=open)", ""]

[[metrics]]
name = "deletion"
steps = "8"
[metrics.removal]
name = "blur"
  sigma = -1
[[metrics]]
name = "insertio"

[run]
workers = true
engine = "slurm"
deadline = 0
out = ""
host = "a"
"""


def test_every_mistake_is_told_at_once_with_its_line_and_keys(tmp_path: Path) -> None:
    assert mistakes(written(tmp_path, WRONG)) == [
        "line 1, schema: got 2, allowed: schema = 1",
        "line 2, modle: no key is called 'modle'; did you mean model or methods?",
        "line 3, data: got 5, allowed: a string",
        "line 4, limit: got '16', allowed: an int of at least 1",
        "line 5, seed: got -1, allowed: an int of at least 0",
        "line 6, mean: got [1, 2], allowed: a number, or three",
        "line 7, std: got 0, allowed: a number above 0, or three",
        "line 8, size: got 2.0, allowed: an int of at least 1",
        "line 9, controls: got 1, allowed: True or False",
        "line 10, classes: got 'nowhere', allowed: a text file with one class a line, or names with commas between them",
        "line 11, maps: got 'float64', allowed: 'float16' or 'float32' or 'none'",
        "line 12, methods[0]: no method is called 'grad_can'; did you mean grad_cam or xgrad_cam or gradient?",
        "line 13, methods[1]: IntegratedGradients(steps=...): got 0, allowed: an int of at least 1",
        "line 15, methods[2].method.rul: no setting of IntegratedGradients is called 'rul'; allowed: baseline, channels, rule, seed, steps",
        "line 15, methods[2].method.steps: IntegratedGradients(steps=...): got 0, allowed: an int of at least 1",
        "line 15, methods[2].samples: Smooth(samples=...): got 0, allowed: an int of at least 1",
        "line 16, methods[3]: got 3, allowed: a name, a call such as Name(setting=1), or a table",
        "line 16, methods[4]: got None, allowed: name = a method",
        "line 16, methods[5]: Oracle needs region",
        "line 17, problems[0].n: Grid(n=...): got 0, allowed: an int of at least 1",
        "line 17, problems[0].count: Grid(count=...): got -1, allowed: an int of at least 1",
        "line 17, problems[1].batch_size: no setting of Labelled is called 'batch_size'; allowed: none; batch of the whole run says it",
        "line 17, problems[2]: no problem is called 'mosaic'; allowed: disconnected, grid, labelled, planted",
        "line 17, problems[3].strength: strength: got 200, allowed: an int from 0 to 100, in per cent",
        "line 17, problems[4]: cannot read the problem 'Grid(2)'; allowed: a name, or a call such as Grid(n=3)",
        "line 17, problems[5]: cannot read 'Grid(n=open)'; allowed: settings that are numbers, strings, tuples, None, True, False",
        "line 17, problems[6]: cannot read the problem ''; allowed: a name, or a call such as Name(setting=1)",
        "line 24, metrics[0].removal.sigma: Blur(sigma=...): got -1, allowed: a number of at least 0.001",
        "line 21, metrics[0].steps: Deletion(steps=...): got '8', allowed: an int of at least 1",
        "line 26, metrics[1].name: no metric is called 'insertio'; did you mean insertion or deletion?",
        "model: got none, allowed: a value",
        "line 29, run.workers: got True, allowed: an int of at least 0",
        "line 30, run.engine: got 'slurm', allowed: 'local' or 'ray'",
        "line 31, run.deadline: got 0.0, allowed: seconds, a number above 0",
        "line 32, run.out: got '', allowed: something in it",
        "line 33, run.host: no key is called 'host'; allowed: deadline, device, engine, out, retry, workers",
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'schema = 1\nmodel = "a\n', r"line 2: Illegal character '\n'; allowed: TOML"),
        (b"schema = 1\n\nmodel 3\n", "line 3: Expected '=' after a key in a key/value pair; allowed: TOML"),
        (b"schema = 1\nschema = 1\n", "line 2: Cannot overwrite a value; allowed: TOML"),
        (b"schema = 1\nmodel = \n", "line 2: Invalid value; allowed: TOML"),
        (b"schema = [1\n\n", "line 3: Unclosed array; allowed: TOML"),
        (b"schema = 1\nmodel = 'caf\xe9'\n", "line 2: it is not UTF-8 text; allowed: UTF-8"),
        (b"a = " + b"[" * 50_000, "lists within lists within lists, without end; allowed: a configuration"),
        (b"#" * 1_000_001, "more than 1,000,000 bytes, allowed: fewer"),
        (None, "no such file"),
        ("folder", "a folder, not a file"),
        ("pipe", "not a regular file but a pipe, a socket or a device"),
    ],
)
def test_what_is_no_toml_is_one_line(tmp_path: Path, content: bytes | str | None, why: str) -> None:
    path = tmp_path / "run.toml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    with pytest.raises(BrokenFile, match=r"\S") as caught:
        read_configuration(path)
    end = "Unclosed array" in why and str(caught.value).replace("Unclosed array (at end of document)", "Unclosed array")
    assert (end or str(caught.value)) == f"{path}: {why}"


@pytest.mark.parametrize("value", ["nan", "inf", "[0.5, 0.5, nan]", "1979-05-27", "true", '"0.5"', "{ a = 1 }"])
def test_what_is_no_number_is_no_mean(tmp_path: Path, value: str) -> None:
    text = f'schema = 1\nmodel = "m"\ndata = "planted"\nmethods = ["grad_cam"]\nmetrics = ["deletion"]\nmean = {value}\n'
    assert [line.partition(": got")[0] for line in mistakes(written(tmp_path, text))] == ["line 6, mean"]


def test_a_method_that_no_text_describes_is_refused() -> None:
    with pytest.raises(
        BadInput, match=r"^Configuration\(methods\[1\]=\.\.\.\): got FromCallable\(function=print, seed=0\), allowed: a method"
    ):
        Configuration(**{**LEAST, "methods": ("grad_cam", FromCallable(print))})


def test_in_python_all_is_told_at_once_too() -> None:
    with pytest.raises(BadInput, match=r"\S") as caught:
        Configuration(**{**LEAST, "methods": [], "limit": 0, "layer": ""})
    assert str(caught.value).splitlines() == [
        "Configuration(layer=...): got '', allowed: something in it",
        "Configuration(methods=...): got [], allowed: a list of one or more names, calls or tables",
        "Configuration(limit=...): got 0, allowed: an int of at least 1",
    ]


# Overrides --------------------------------------------------------------------------------------------------------------------------


def test_what_the_line_sets_takes_the_place_of_what_the_file_says(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    sets = ["methods.1.steps=64", "limit=3", "run.workers=1", "model=planted/vit-95", "metrics.1.removal.sigma=0.5", "problems.1.count=9"]
    sets += ["problems.2.part=0", 'methods.0={name = "gradient"}', "controls=true", "mean=[0.1, 0.2, 0.3]", "layer='a b'"]
    asked, run = read_configuration(path, sets)
    before, _ = read_configuration(path)
    assert asked.methods[1:] == (IntegratedGradients(steps=64),) and asked.methods[0].name == "gradient"
    assert asked.metrics == (AttentionIoU(), Deletion(removal=Blur(sigma=0.5), steps=8))
    assert asked.problems[1:] == (
        "Grid(n=3, count=9, confidence=0.99, fit='enlarge')",
        "Disconnected(n=2, count=100, confidence=0.99, part=0)",
    )
    assert (asked.limit, asked.model, asked.controls, asked.mean, asked.layer) == (3, "planted/vit-95", True, (0.1, 0.2, 0.3), "a b")
    assert (run.workers, run.engine) == (1, "ray")
    same = {"limit": 100, "model": before.model, "controls": False, "mean": before.mean, "layer": "layer4"}
    same |= {"methods": before.methods, "metrics": before.metrics, "problems": before.problems}
    assert dataclasses.replace(asked, **same) == before


def test_overrides_of_what_is_made_already() -> None:
    before = Configuration(**LEAST, problems=("grid",)), Execution(workers=3)
    assert overridden(*before, []) == before
    asked, run = overridden(*before, ["methods.0.layer=layer3", "seed=4", "run.device=cpu", "problems.0.n=3", "methods.0.layer=layer2"])
    assert asked == Configuration(**{**LEAST, "methods": (GradCAM("layer2"),)}, seed=4, problems=("Grid(n=3)",))
    assert run == Execution(workers=3, device="cpu")


def test_a_wrong_override_is_told_by_its_own_words(tmp_path: Path) -> None:
    sets = ("limit=abc", "methods.1.steps=0", "methods.9.steps=1", "model.x=1", "seed", "=3", "layer=", "modle=3", "run.workers=-1")
    told = mistakes(
        written(tmp_path, WHOLE), (*sets, "methods.0.sigma=2", "batch=1\nseed=3", "maps=1x", "metrics.1.removal=blurr", "limt.x=1")
    )
    assert told == [
        "--set methods.9.steps=1: got methods[9], allowed: a number below 2, as methods has them",
        "--set model.x=1: got model.x, allowed: nothing below model",
        "--set seed: allowed: KEY=VALUE, such as limit=100 or methods.0.steps=64",
        "--set =3: allowed: KEY=VALUE, such as limit=100 or methods.0.steps=64",
        "--set layer=: got '', allowed: a value as TOML has it, such as 3, true, \"a text\" or [1, 2], or bare words",
        "--set 'batch=1\\nseed=3': got '1\\nseed=3', allowed: a value as TOML has it, such as 3, true, \"a text\" or [1, 2], or bare words",
        "--set maps=1x: got '1x', allowed: a value as TOML has it, such as 3, true, \"a text\" or [1, 2], or bare words",
        "--set methods.0.sigma=2: no setting of GradCAM is called 'sigma'; allowed: layer",
        "--set methods.1.steps=0: IntegratedGradients(steps=...): got 0, allowed: an int of at least 1",
        "--set limit=abc: got 'abc', allowed: an int of at least 1",
        "--set metrics.1.removal=blurr: no removal is called 'blurr'; did you mean blur?",
        "--set modle=3: no key is called 'modle'; did you mean model or methods?",
        "--set limt.x=1, limt: no key is called 'limt'; did you mean limit?",
        "--set run.workers=-1: got -1, allowed: an int of at least 0",
    ]


def test_a_mistake_in_a_table_that_the_line_sets_is_not_told_with_a_line_of_the_file(tmp_path: Path) -> None:
    """The file has steps of that metric too, in a line of their own, which are gone."""
    table = '{name="deletion", steps=0}'
    assert mistakes(written(tmp_path, WHOLE), (f"metrics.1={table}",)) == [
        f"--set metrics.1={table}, metrics[1].steps: Deletion(steps=...): got 0, allowed: an int of at least 1"
    ]


# Records ----------------------------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_through_json(tmp_path: Path) -> None:
    asked, _ = read_configuration(written(tmp_path, WHOLE))
    record = json.loads(json.dumps(asked.record(), allow_nan=False))
    assert list(record) == sorted(record) and set(record) == {"schema", *(field.name for field in dataclasses.fields(asked))}
    assert record["methods"] == [repr(each) for each in asked.methods]
    again = Configuration.from_record(record)
    assert again == asked and again.key() == asked.key() and again.record() == record


def test_the_key_is_that_of_the_values_and_of_nothing_else(tmp_path: Path) -> None:
    asked = Configuration(**LEAST)
    text = json.dumps(asked.record(), sort_keys=True, separators=(",", ":"))
    assert asked.key() == hashlib.sha256(text.encode()).hexdigest()
    assert Configuration(**{**LEAST, "methods": [GradCAM()], "metrics": ["AttentionIoU()"]}, problems=["Labelled"]).key() == asked.key()
    others = [
        dataclasses.replace(asked, **{name: value})
        for name, value in {
            "model": "planted/tag-95", "weights": "none", "mean": 0.4, "std": 0.4, "size": 96, "classes": ("a", "b"), "layer": "x",
            "precision": "bf16", "kind": "evidence", "data": "d", "problems": ("grid",), "methods": ("gradient",), "metrics": ("deletion",),
            "controls": False, "seed": 1, "limit": 9, "batch": 9, "maps": "none",
        }.items()
    ]  # fmt: skip
    assert len(others) == len(dataclasses.fields(asked))
    assert len({asked.key(), *(each.key() for each in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda record: record.pop("seed"), "^the record of a run, seed: got none, allowed: a value$"),
        (lambda record: record.pop("model"), "^the record of a run, model: got none, allowed: a value$"),
        (lambda record: record.update(schema=2), "^the record of a run: got another kind, allowed: one of schema 1$"),
        (lambda record: record.update(limit=1.0), r"^the record of a run, limit: got 1\.0, allowed: an int of at least 1$"),
        (lambda record: record.update(methods="grad_cam"), "^the record of a run, methods: got 'grad_cam', allowed: a list of one or more"),
        (lambda record: record.update(methods=["GradCAM(layer=1"]), r"^the record of a run, methods\[0\]: cannot read the method"),
        (lambda record: record.update(more=1), "^the record of a run, more: no key is called 'more'"),
    ],
)
def test_a_damaged_record_is_refused(damage: object, why: str) -> None:
    record = Configuration(**LEAST).record()
    damage(record)  # type: ignore[operator]
    with pytest.raises(BadInput, match=why):
        Configuration.from_record(record)


def test_a_record_makes_no_file_be_read(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("a\nb\n", encoding="utf-8")
    record = {**Configuration(**LEAST).record(), "classes": str(tmp_path / "names")}
    with pytest.raises(BadInput, match=r"^the record of a run, classes: got .*names', allowed: names$"):
        Configuration.from_record(record)
    with pytest.raises(BadInput, match="got another kind, allowed: one of schema 1"):
        Configuration.from_record(["schema"])


# Lines ------------------------------------------------------------------------------------------------------------------------------


def test_each_key_is_found_in_its_line() -> None:
    text = '''# [not] = "a table"
a = 1
"b c".'d' = """
e = 2 \\""" [f]
"""
g = [ "x # no comment", [
  1, 2], # ] = [
  { h = 3, i.j = [4,
  5] } ]
k = \'\'\'it's "]" \'\'\'\'
[l . m]
n = 1979-05-27 07:32:00
[[o]]
p = 1.5e-3
[[o.q]]
r = "\\" ] ="
[[o.q]]
[o.q.s]
"\\u0074" = 1
[[o]]
[o.u]
'''
    assert positions(text) == {
        ("a",): 2, ("b c",): 3, ("b c", "d"): 3, ("g",): 6, ("g", 0): 6, ("g", 1): 6, ("g", 1, 0): 7, ("g", 1, 1): 7,
        ("g", 2): 8, ("g", 2, "h"): 8, ("g", 2, "i"): 8, ("g", 2, "i", "j"): 8, ("g", 2, "i", "j", 0): 8, ("g", 2, "i", "j", 1): 9,
        ("k",): 10, ("l",): 11, ("l", "m"): 11, ("l", "m", "n"): 12,
        ("o",): 13, ("o", 0): 13, ("o", 0, "p"): 14, ("o", 0, "q"): 15, ("o", 0, "q", 0): 15, ("o", 0, "q", 0, "r"): 16,
        ("o", 0, "q", 1): 17, ("o", 0, "q", 1, "s"): 18, ("o", 0, "q", 1, "s", "t"): 19, ("o", 1): 20, ("o", 1, "u"): 21,
    }  # fmt: skip


# What is built ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six grey squares of two classes, of which the fourth has a group of its own."""
    lines = ["path,label,group:place"]
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number,) * 3).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{('fish', 'bird')[number % 2]},{'zoo' if number == 3 else 'sea'}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "list.csv"


def test_a_model_and_its_problems_are_built_on_one_source(photos: Path) -> None:
    problems = ("labelled", "Grid(n=1, count=2, confidence=0)", "Disconnected(n=2, count=1, seed=5)", "Planted(strength=95)")
    asked = Configuration(**{**LEAST, "data": str(photos)}, problems=problems, seed=3, limit=4, batch=3, kind="probability", mean=0.25)
    model, built = build(asked)
    own, grid, cells, scenes = built
    assert isinstance(own, Labelled) and isinstance(grid, Grid) and isinstance(cells, Disconnected) and isinstance(scenes, Planted)
    assert (model.mean, model.name, str(model.device)) == ((0.25, 0.25, 0.25), "planted/shortcut-95", "cpu")
    assert grid.source is own and cells.source is own
    assert (own.kind, own.batch_size, own.limit, len(own)) == ("probability", 3, 4, 4)
    assert (grid.n, grid.count, grid.confidence, grid.seed, grid.batch_size, cells.seed) == (1, 2, 0.0, 3, 3, 5)
    assert (scenes.strength, scenes.seed, scenes.count, scenes.batch_size) == (95, 3, 4, 3)
    assert [len(batch) for _, batch in own] == [3, 1]


def test_planted_data_is_a_problem_and_a_source() -> None:
    asked = Configuration(**LEAST, problems=("Disconnected(n=1, count=2)", "labelled", "planted"), seed=9, limit=50)
    _, (cells, scenes) = build(asked)
    assert isinstance(scenes, Planted) and isinstance(cells, Disconnected) and cells.source is scenes
    assert (scenes.count, scenes.seed, scenes.strength) == (50, 9, 50)
    asked = Configuration(**LEAST, problems=("Disconnected(n=1, count=2)", "Planted(strength=95, count=20)", "planted"))
    _, (cells, strong, usual) = build(asked)
    assert isinstance(strong, Planted) and isinstance(usual, Planted) and isinstance(cells, Disconnected) and cells.source is strong
    assert (strong.strength, strong.count, usual.strength, usual.count) == (95, 20, 50, 256)


def test_random_weights_and_classes_reach_the_model() -> None:
    model, _ = build(Configuration(**LEAST, weights="none", classes="dog, cat", precision="bf16", layer="layer1"))
    assert (model.weights, model.classes, model.precision, model.layer) == ("random, from seed 0", ("dog", "cat"), "bfloat16", "layer1")


def test_a_limit_takes_the_first_images_and_changes_nothing_about_them(photos: Path) -> None:
    model, _ = build(Configuration(**LEAST))
    every, three = Labelled(model, photos, batch_size=2), Labelled(model, photos, batch_size=2, limit=3)
    assert (len(every), len(three), len(Labelled(model, photos, limit=99))) == (6, 3, 6)
    (_, first), (_, last) = three
    assert (first.ids, last.ids) == (("0.png", "1.png"), ("2.png",))
    whole = every.batch(range(6))
    torch.testing.assert_close(torch.cat([first.images, last.images]), whole.images[:3], rtol=0, atol=0)
    assert three.group_names == every.group_names == {"place": ("sea", "zoo")}  # the codes do not depend on the limit
    assert torch.cat([first.groups["place"], last.groups["place"]]).tolist() == whole.groups["place"][:3].tolist() == [0, 0, 0]


def test_a_limit_cuts_batches_that_are_given() -> None:
    model, _ = build(Configuration(**LEAST))
    given = [
        Batch(torch.rand(n, 3, 96, 96), Targets(torch.zeros(n, dtype=torch.int64)), tuple(f"{n}{i}" for i in range(n))) for n in (2, 3)
    ]
    assert [batch.ids for _, batch in Labelled(model, given, limit=3)] == [("20", "21"), ("30",)]
    assert [batch.ids for _, batch in Labelled(model, given, limit=2)] == [("20", "21")]
    with pytest.raises(BadInput, match=r"^Labelled\(limit=\.\.\.\): got 0, allowed: an int of at least 1$"):
        Labelled(model, given, limit=0)


def test_nothing_heavy_is_imported_before_something_is_read() -> None:
    said = "import sys, attribkit.configuration; print(sorted({'torch', 'numpy', 'PIL', 'attribkit.methods'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
