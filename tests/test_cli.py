"""The command line, as a person meets it: in a process of its own where that matters, else through its entry point."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from attribkit import Attribution, cli
from attribkit.demo import TOUR, Finding
from attribkit.methods import METHODS
from attribkit.methods.base import method as made
from attribkit.metrics import METRICS
from attribkit.removals import REMOVALS
from attribkit.segments import SEGMENTERS

MODEL = ["--model", "planted/shortcut-95"]


def run(*arguments, code=0) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    assert (left.value.code or 0) == code


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_explain_writes_pictures_maps_and_a_page(photos, tmp_path, capsys):
    out = tmp_path / "out"
    run("explain", photos, *MODEL, "--method", "grad_cam", "--method", "IntegratedGradients(steps=4)", "--limit", 2, "--out", out)
    for method in ("grad_cam", "integrated_gradients"):
        pictures = sorted((out / method).iterdir())
        assert [path.name for path in pictures] == ["0.png.png", "1.png.png"]
        for path in pictures:
            with Image.open(path) as picture:
                assert picture.size[0] > 400
        maps = Attribution.load(out / "maps" / method / "0000.safetensors")
        assert maps.ids == ("0.png", "1.png") and maps.model == "planted/shortcut-95"
    page = (out / "report.html").read_text()
    assert "0.png" in page and "IntegratedGradients(steps=4)" in page and "<title>" in page
    assert (out / "failures.csv").read_text().splitlines() == ["id,stage,reason"]
    record = json.loads((out / "run.json").read_text())
    assert [row["id"] for row in record["runs"][0]["images"]] == ["0.png", "1.png"]
    shown = capsys.readouterr()
    assert "CAM layer: layer3" in shown.out and "2 images, 2 methods" in shown.out
    assert shown.err == ""  # no bar where there is no terminal


def test_json_is_one_document_and_nothing_else(photos, tmp_path, capsys):
    run(
        "explain",
        photos,
        *MODEL,
        "--method",
        "random_map",
        "--target",
        "bird",
        "--kind",
        "probability",
        "--json",
        "--out",
        tmp_path / "out",
    )
    done = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in done["images"]] == ["bird"] * 3 and done["failures"] == []
    assert all(row["score"] == pytest.approx(row["probability"]) for row in done["images"])
    assert done["methods"] == ["RandomMap(seed=0)"]


def test_broken_files_are_listed_at_the_end_and_the_rest_is_explained(photos, tmp_path, capsys):
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff not a photograph")
    (photos / "empty.png").touch()
    out = tmp_path / "out"
    run("explain", photos, photos / "gone.png", *MODEL, "--method", "edge_map", "--out", out, code=3)
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("failed: ") for line in errors)
    assert len(list((out / "edge_map").glob("*.png"))) == 3
    rows = (out / "failures.csv").read_text().splitlines()
    assert len(rows) == 4 and "empty.png" in rows[2]


def test_what_a_run_wrote_is_not_explained_by_the_next_and_not_mixed_with_it(photos, capsys):
    out = photos / "maps here"
    run("explain", photos, *MODEL, "--method", "edge_map", "--method", "grad_cam", "--out", out)
    (out / "edge_map" / "mine.txt").touch()
    run("explain", photos, *MODEL, "--method", "edge_map", "--limit", 2, "--out", out, "--json")
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["id"] for row in done["images"]] == ["0.png", "1.png"]
    assert sorted(path.name for path in (out / "edge_map").iterdir()) == ["0.png.png", "1.png.png", "mine.txt"]
    assert not list(out.glob("grad_cam/*")) and not list(out.glob("maps/grad_cam/*"))
    for _ in range(2):
        run("explain", photos, *MODEL, "--method", "random_map", "--out", photos, "--json")
        done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["id"] for row in done["images"] if not row["id"].startswith("maps here")] == ["0.png", "1.png", "2.png"]


def test_a_list_of_files_removes_nothing_but_files_inside_its_folder(photos, tmp_path):
    out, kept = tmp_path / "out", tmp_path / "kept.png"
    kept.touch()
    (out / "folder").mkdir(parents=True)
    (out / "link").symlink_to(tmp_path)
    (out / "ours.png").touch()
    names = ["../kept.png", str(kept), "link/kept.png", "folder", "nothing", "a\0b", 5, ["x"], "ours.png"]
    (out / "written.jsonl").write_text("\n".join([*map(json.dumps, names), "{not json"]))
    run("explain", photos, *MODEL, "--method", "edge_map", "--out", out)
    assert kept.is_file() and (out / "folder").is_dir() and not (out / "ours.png").exists()


def test_a_file_of_somebody_elses_is_neither_overwritten_nor_removed(photos, tmp_path, capsys):
    (photos / "compare.png").write_bytes((photos / "0.png").read_bytes())
    run("explain", photos, *MODEL, "--method", "edge_map", "--out", photos, code=2)
    assert "compare.png: is there and is not of an earlier run" in capsys.readouterr().err
    assert (photos / "compare.png").read_bytes() == (photos / "0.png").read_bytes()
    mine = tmp_path / "out" / "maps" / "edge_map" / "weights.safetensors"
    for _ in range(2):
        run("explain", photos, *MODEL, "--method", "edge_map", "--out", tmp_path / "out")
        mine.touch()
    assert mine.is_file()


@pytest.mark.parametrize("mistake", [["--target", "nosuch"], ["--kind", "foo"], ["--method", "nosuch"]])
def test_a_mistake_leaves_the_earlier_run_as_it_was(photos, tmp_path, capsys, mistake):
    run("explain", photos, *MODEL, "--method", "edge_map", "--out", tmp_path / "out")
    before = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    run("explain", photos, *MODEL, "--method", "edge_map", *mistake, "--out", tmp_path / "out", code=2)
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == before


def test_long_names_are_shortened_and_told_apart(photos, tmp_path):
    for end in "ab":
        shutil.copy(photos / "0.png", photos / f"{'ü' * 120}{end}.png")
    run("explain", photos, *MODEL, "--method", "edge_map", "--out", tmp_path / "out")
    assert len(list((tmp_path / "out" / "edge_map").iterdir())) == 5


def test_a_picture_that_cannot_be_written_costs_one_row(photos, tmp_path, capsys):
    (tmp_path / "out" / "edge_map" / "1.png.png" / "in the way").mkdir(parents=True)
    run("explain", photos, *MODEL, "--method", "edge_map", "--out", tmp_path / "out", code=3)
    rows = (tmp_path / "out" / "failures.csv").read_text().splitlines()
    assert len(rows) == 2 and rows[1].startswith("1.png,write,")
    assert "failed: 1.png: " in capsys.readouterr().err


def test_an_answer_that_is_no_number_is_a_failure_and_the_json_stays_json(photos, tmp_path, capsys):
    from attribkit.model.planted import planted_module

    weights = planted_module("shortcut-95").state_dict()
    weights["head.bias"] = torch.full_like(weights["head.bias"], float("nan"))
    save_file(weights, tmp_path / "nan.safetensors")
    run("explain", photos, *MODEL, "--weights", tmp_path / "nan.safetensors", "--method", "edge_map", "--out", tmp_path / "out", code=2)
    assert "0.png: the model's answer is not finite" in capsys.readouterr().err


def test_the_record_says_what_was_run(photos, tmp_path, capsys):
    run(
        "explain",
        photos / "0.png",
        *MODEL,
        "--weights",
        "none",
        "--method",
        "IntegratedGradients(steps=2)",
        "--method",
        "grad_cam",
        "--out",
        tmp_path,
    )
    assert "weights: random, from seed 0" in capsys.readouterr().out
    (done,) = json.loads((tmp_path / "run.json").read_text())["runs"]
    assert done["methods"]["grad_cam"]["facts"] == {
        "weights": "random, from seed 0",
        "preprocessing": "cover 96x96 bilinear, crop 96x96, mean 0.5 0.5 0.5, std 0.25 0.25 0.25",
        "precision": "float32",
        "device": "cpu",
        "layer": "layer3",
    }
    assert "integrated_gradients.convergence_delta" in done["images"][0]


def test_class_names_from_a_file_that_a_spreadsheet_wrote(photos, tmp_path):
    (tmp_path / "names.txt").write_text("carp\nwren\n", encoding="utf-8-sig")
    run(
        "explain",
        photos / "0.png",
        *MODEL,
        "--classes",
        tmp_path / "names.txt",
        "--target",
        "carp",
        "--method",
        "edge_map",
        "--out",
        tmp_path / "out",
    )


def test_the_same_call_twice_is_one(photos, tmp_path):
    run("explain", photos / "0.png", *MODEL, "--method", "grad_cam", "--method", "GradCAM()", "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["grad_cam", "maps"]


def test_the_same_method_twice_gets_two_folders(photos, tmp_path):
    run("explain", photos / "0.png", *MODEL, "--method", "grad_cam", "--method", "GradCAM(layer='layer1')", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "grad_cam" / "0.png.png").is_file() and (tmp_path / "out" / "grad_cam-2" / "0.png.png").is_file()


class Payload:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def weights(tmp_path):
    save_file({"head.weight": torch.zeros(7, 3)}, tmp_path / "shapes.safetensors")
    torch.save(Payload(tmp_path / "ran"), tmp_path / "code.pt")
    (tmp_path / "noise.safetensors").write_bytes(os.urandom(100))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "whale"], "no class is called 'whale'; allowed: bird, fish"),
        (["--target", "2"], "no class is called '2'"),
        (["--method", "gradcam"], "no method is called 'gradcam'"),
        (["--method", "IntegratedGradients(step=3)"], "no setting of IntegratedGradients is called 'step'"),
        (["--method", "IntegratedGradients(steps=0)"], "IntegratedGradients(steps=...): got 0, allowed: an int of at least 1"),
        (["--method", "__import__('os').system('true')"], "cannot read"),
        (["--method", "GradCAM(layer='layer9')"], "no layer is called 'layer9'"),
        (["--layer", "layer9"], "no layer is called 'layer9'"),
        (["--kind", "odds"], "no kind of target is called 'odds'"),
        (["--model", "planted/shortcut-42"], "shortcut-42"),
        (["--model", "torchvision/resnet51"], "no torchvision model is called 'resnet51'; did you mean"),
        (["--model", "resnet50"], "no model is called 'resnet50'; allowed: hf/NAME"),
        (["--weights", "IMAGENET1K_V9", "--model", "torchvision/resnet18"], "allowed: DEFAULT, IMAGENET1K_V1"),
        (["--weights", "{tmp}/shapes.safetensors"], "weights are not of this network"),
        (["--weights", "{tmp}/code.pt"], "would run code when loaded (posix.system)"),
        (["--weights", "{tmp}/noise.safetensors"], "not a readable safetensors file"),
        (["--weights", "{tmp}/none.safetensors"], "no such file"),
        (["--mean", "a"], "got 'a', allowed: one number, or three"),
        (["--std", "0"], "std"),
        (["--classes", "nothing"], "a text file with one class a line"),
        (["--classes", "a,b,c"], "got 3 class names, allowed: 2"),
        (["--device", "cuda:99"], "device: got 'cuda:99'"),
        (["--device", "meta"], "device: got 'meta'"),
        (["--device", "banana"], "device: got 'banana'"),
        (["--limit", "0"], "--limit"),
        (["--nonsense"], "No such option"),
        (["{tmp}/nowhere"], "nowhere"),
        (["{tmp}/*.jpeg"], "jpeg"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(photos, weights, capsys, arguments, said):
    given = [argument.replace("{tmp}", str(weights)) for argument in arguments]
    model = [] if "--model" in given else MODEL
    where = [] if given[0].startswith("/") else [photos]
    run("explain", *where, *model, *given, "--out", weights / "out", code=2)
    shown = capsys.readouterr()
    assert said in " ".join(shown.err.split()) and "Traceback" not in shown.err
    lines = [line for line in shown.err.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    assert len(lines) == 1
    assert not (weights / "ran").exists()


def test_a_model_that_fails_on_its_input_is_one_line_and_exit_code_1(photos, tmp_path, capsys):
    run("explain", photos, "--model", "planted/vit-95", "--size", 50, "--method", "gradient", "--out", tmp_path / "out", code=1)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "--traceback" in error


@pytest.mark.parametrize("what", ["methods", "removals", "segmenters", "problems", "models"])
def test_list(capsys, what):
    run("list", what, "--json")
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"methods": set(METHODS), "removals": set(REMOVALS), "segmenters": set(SEGMENTERS)}.get(what, set(found))
    assert "planted" in found or what != "problems"
    assert {"planted/vit-95", "torchvision/resnet50"} <= set(found) or what != "models"
    run("list", what, "a")
    assert capsys.readouterr().out
    run("list", "methodz", code=2)
    assert "no list is called 'methodz'" in capsys.readouterr().err


def test_list_says_what_a_thing_needs_and_costs_and_where_it_runs(capsys):
    run("list", "methods", "--json")
    methods = json.loads(capsys.readouterr().out)
    assert "needs gradients, spatial_layer; costs one forward, and a backward to the layer" in methods["grad_cam"]
    assert "needs nothing; costs nothing" in methods["random_map"] and "arXiv:1610.02391" in methods["grad_cam"]
    run("list", "removals", "--json")
    removals = json.loads(capsys.readouterr().out)
    assert "all images at once; what is removed still has some influence" in removals["blur"]
    assert removals["constant"].splitlines()[1].strip() == "Constant(colour='zero')"
    assert all(cls.paper in removals[name] for name, cls in REMOVALS.items())


def test_list_says_what_a_metric_means(capsys):
    run("list", "metrics", "--json")
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(METRICS)
    assert "faithfulness; lower is better; costs a forward per step" in found["deletion"] and "arXiv:2503.19846" in found["attention_iou"]
    assert "localisation; higher is better; 0.5 says nothing; costs nothing" in found["pixel_auc"]


def test_precision_is_an_option_of_the_model(photos, tmp_path, capsys):
    run("explain", photos, *MODEL, "--precision", "bf16", "--limit", 1, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["runs"][0]["methods"]["grad_cam"]["facts"]["precision"] == "bfloat16"
    run("explain", photos, *MODEL, "--precision", "fp8", code=2)
    assert "'fp8' is not one of 'float32', 'bf16'" in capsys.readouterr().err


# The methods of the demo's tour, each with few samples; the demo itself is run beside the tests.
SHORT_TOUR = (
    "GradCAM()",
    "LayerCAM()",
    "IntegratedGradients(steps=2)",
    "GaussianSmooth(IntegratedGradients(steps=2), kernel=9)",
    "XRAI(Gradient(), algorithm='fast')",
    "CounterfactualInfill(steps=2)",
    "LayerMasking(segmenter=Squares(32))",
    "Occlusion(window=32, stride=32)",
    "RISE(samples=8)",
    *TOUR[9:],
)


def test_demo_explains_two_models_by_the_methods_of_its_tour_and_scores_them(tmp_path, capsys, monkeypatch):
    assert [made(text).name for text in SHORT_TOUR] == [made(text).name for text in TOUR]
    monkeypatch.setattr("attribkit.demo.TOUR", SHORT_TOUR)
    monkeypatch.setattr("attribkit.demo.SCORED", 16)
    run("demo", "--out", tmp_path / "demo", "--count", 2, "--json")
    done = json.loads(capsys.readouterr().out)
    assert "planted/shortcut-100 is right on" in done["verdict"]
    names = {made(text).name for text in TOUR} | {"counterfactual_infill.counterfactual"}
    for model in ("planted-shortcut-100", "planted-shortcut-50"):
        assert {path.name for path in (tmp_path / "demo" / model).iterdir()} == {*names, "maps", "compare.png"}
    assert len(list((tmp_path / "demo" / "images").glob("*.png"))) == 2
    page = (tmp_path / "demo" / "report.html").read_text()
    assert len(page) > 20_000 and "Which methods find what each model looks at" in page
    found = {each["method"]: each for each in done["findings"]}
    assert len(found) == len(TOUR)  # an oracle knows one region, and so is not scored on both models
    controls = [each for each in found.values() if each["control"]]
    assert len(controls) == 3 and not any(each["found"] for each in controls)
    for each in found.values():
        assert each["found"] == all(low > 0.5 for _, low, _ in each["areas"])
        assert all(0 <= low <= mean <= high <= 1 for mean, low, high in each["areas"])


@pytest.mark.parametrize(("areas", "found"), [(((0.8, 0.6, 0.9), (0.7, 0.51, 0.9)), True), (((0.9, 0.8, 1.0), (0.6, 0.5, 0.7)), False)])
def test_a_method_finds_the_cause_when_both_intervals_lie_above_chance(areas, found):
    assert Finding("GradCAM()", False, areas).found is found
    assert ("finds it" in str(Finding("GradCAM()", False, areas))) is found
