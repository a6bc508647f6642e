"""What a user of the package meets: its names, their signatures, its errors, and what importing it costs."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import inspect
import json
import pickle
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

import attribkit as ak
from attribkit import errors

HEAVY = (
    "captum",
    "pytorch_grad_cam",
    "torchvision",
    "skimage",
    "scipy",
    "sklearn",
    "matplotlib",
    "timm",
    "transformers",
    "PIL",
    "cv2",
    "jinja2",
    "pandas",
)


def modules_after(statement: str, *names: str) -> list[str]:
    """Which of `names` a fresh Python has imported after `statement`."""
    asked = f"import sys, json\n{statement}\nsys.stderr.write(json.dumps(sorted(set({names!r}) & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=120)
    found: list[str] = json.loads(done.stderr.splitlines()[-1])
    return found


def test_importing_the_package_imports_nothing_heavy() -> None:
    """`import attribkit` may import torch and numpy; today it needs neither before a name is used."""
    assert modules_after("import attribkit", *HEAVY, "torch", "numpy", "click", "tqdm") == []


@pytest.mark.parametrize("statement", ["attribkit.VisionModel", "attribkit.Targets", "attribkit.methods.GradCAM", "attribkit.load_model"])
def test_the_core_needs_no_rival_and_no_drawing(statement: str) -> None:
    """Pillow reads images and so belongs to the core; everything else loads where it is used."""
    heavy = [name for name in HEAVY if name != "PIL"]
    assert modules_after(f"import attribkit; {statement}", *heavy, "torch") == ["torch"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-h"],
        ["--version"],
        ["explain", "--help"],
        ["evaluate", "--help"],
        ["diagnose", "--help"],
        ["show", "--help"],
        ["demo", "--help"],
        ["list", "--help"],
        [],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    run = f"from attribkit.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass"
    assert modules_after(run, *HEAVY, "torch", "numpy", "tqdm") == []


def test_showing_a_run_needs_no_torch(tmp_path: Path) -> None:
    """Its table is there sooner than torch is imported."""
    statement = "from attribkit.store import Store; Ledger = __import__('attribkit.store.ledger', fromlist=['Ledger']).Ledger; "
    statement += f"from pathlib import Path; Ledger(Path({str(tmp_path)!r}), writing=True).close(); Store({str(tmp_path)!r}).table()"
    assert modules_after(statement, *HEAVY, "torch") == []


def test_shell_completion_imports_nothing_heavy() -> None:
    run = (
        "import os\nos.environ.update(_ATTRIBKIT_COMPLETE='bash_complete', COMP_WORDS='attribkit ', COMP_CWORD='1')\n"
        "from attribkit.cli import main\ntry: main([])\nexcept SystemExit: pass"
    )
    assert modules_after(run, *HEAVY, "torch", "numpy") == []


def stub() -> ast.Module:
    return ast.parse(resources.files("attribkit").joinpath("__init__.pyi").read_text(encoding="utf-8"))


def stub_names() -> list[str]:
    return [alias.asname or alias.name for node in stub().body if isinstance(node, ast.ImportFrom) for alias in node.names]


def test_the_public_names_are_those_of_the_stub() -> None:
    assert sorted(ak.__all__) == sorted(stub_names())
    assert len(set(stub_names())) == len(stub_names())


def test_every_name_of_the_stub_is_exported_openly() -> None:
    """`X as X` is what a type checker takes for a name that is meant to be used."""
    aliases = [alias for node in stub().body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert [alias.name for alias in aliases if alias.asname != alias.name] == []


@pytest.mark.parametrize("name", sorted(stub_names()))
def test_every_public_name_is_the_object_that_the_stub_names(name: str) -> None:
    source = next(node.module for node in stub().body if isinstance(node, ast.ImportFrom) for alias in node.names if alias.name == name)
    module = importlib.import_module(f"attribkit.{name}") if source is None else importlib.import_module(f"attribkit.{source}")
    there = getattr(ak, name)
    assert there is (module if source is None else getattr(module, name))
    assert getattr(there, "__doc__", None), f"{name} says nothing of itself"


def test_a_name_that_is_not_there_raises_and_dir_lists_those_that_are() -> None:
    assert set(ak.__all__) <= set(dir(ak))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ak.no_such_name


def test_there_is_one_version() -> None:
    written = Path(__file__).parents[1] / "pyproject.toml"
    assert tomllib.loads(written.read_text(encoding="utf-8"))["project"]["version"] == ak.__version__
    assert importlib.metadata.version("attribkit") == ak.__version__


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("attribkit").joinpath("py.typed").is_file()


# name -> its parameters as DESIGN's scripts use them: positional ones bare, those by keyword alone after "*", "=" where there is a default.
SIGNATURES = {
    "load_model": "name, *, weights=, mean=, std=, size=, classes=, layer=, device=, precision=",
    "VisionModel": "module, *, mean=, std=, size=, classes=, layer=, preprocessing=, max_rows=, precision=, name=",
    "load_images": "files, model, targets=, *, kind=",
    "explain": "model, images, method_like, targets=",
    "Targets": "index, kind=",
    "Batch": "images, targets, ids, regions=, groups=, logits=",
    "Attribution": "maps, targets, ids, method, size, model=, classes=, scores=, extras=, facts=",
    "Attribution.at": "self, size=",
    "Attribution.show": "self, batch=, *, limit=",
    "Attribution.save": "self, path",
    "Attribution.load": "path",
    "VisionModel.logits": "self, images",
    "VisionModel.score": "self, images, targets",
    "VisionModel.gradient": "self, images, targets",
    "VisionModel.activations": "self, images, layer=, *, whole=",
    "VisionModel.activation_gradient": "self, images, targets, layer=",
    "VisionModel.at": "self, layer, size=",
    "methods.Method.__call__": "self, model, batch",
    "methods.AtLayer": "method=, layer=",
    "methods.Captum": "method=, layer=, options=, channels=, segmenter=, seed=",
    "methods.CentreMap": "",
    "methods.CounterfactualInfill": "objective=, removal=, steps=, samples=, learning_rate=, area_weight=, smoothness_weight=, cell=, "
    "ramp=, temperature=, tolerance=, seed=",
    "methods.EdgeMap": "",
    "methods.GaussianSmooth": "method=, kernel=",
    "methods.GradCAM": "layer=",
    "methods.GradCAMPlusPlus": "layer=",
    "methods.Gradient": "channels=",
    "methods.HiResCAM": "layer=",
    "methods.InputXGradient": "",
    "methods.IntegratedGradients": "steps=, baseline=, rule=, seed=, channels=",
    "methods.LayerCAM": "layer=",
    "methods.LayerMasking": "segmenter=, masking=",
    "methods.Occlusion": "removal=, window=, stride=",
    "methods.PytorchGradCAM": "method=, layer=, options=, seed=",
    "methods.RandomMap": "seed=",
    "methods.RegionRemoval": "removal=, segmenter=",
    "methods.RISE": "removal=, samples=, cells=, keep=, seed=",
    "methods.Smooth": "method=, samples=, noise=, kind=, seed=",
    "methods.XGradCAM": "layer=",
    "methods.XRAI": "method=, segmenter=, algorithm=, area_threshold=, min_pixels=, dilation=",
    "methods.convergence_delta": "maps, start, end",
    "removals.Removal.__call__": "self, model, images, keep",
    "removals.InFill.filled": "self, model, images, keep",
    "removals.Biharmonic": "",
    "removals.Blur": "sigma=",
    "removals.Constant": "colour=",
    "removals.Generator": "module",
    "removals.Harmonic": "tolerance=",
    "removals.ImageMean": "",
    "removals.LayerMask": "residual=, concat=, pool=, tokens=, unknown=",
    "removals.LocalMean": "window=",
    "removals.NavierStokes": "radius=",
    "removals.Noise": "seed=",
    "removals.NoisyLinear": "noise=, seed=, tolerance=",
    "removals.PushPull": "",
    "removals.RandomColour": "noise=, seed=",
    "removals.Telea": "radius=",
    "segments.Segmenter.__call__": "self, pixels",
    "segments.Felzenszwalb": "scales=, sigma=, min_size=",
    "segments.Labels": "labels",
    "segments.SLIC": "segments=, compactness=",
    "segments.Squares": "side=",
    "evaluate": "problem, methods, metrics, *, store=, controls=, progress=, watch=",
    "diagnose": "model, problem, method=, *, removal=, protected=, training=, seed=, store=, progress=",
    "write_report": "result, path",
    "Diagnosis.record": "self",
    "Scores.add": "self, key, batch, values, *, chances=, higher_is_better=, control=",
    "Scores.table": "self, *, problem=, metric=, by=",
    "Scores.compare": "self, a, b, *, metric=, problem=",
    "Scores.compare_all": "self, metric=, problem=, *, controls=",
    "Scores.ranking": "self, metric=, problem=",
    "Scores.rows": "self",
    "Scores.write_csv": "self, path",
    "Scores.read_csv": "path",
    "Scores.frame": "self",
    "Scores.merged": "several",
    "methods.at_layers": "like, layers=",
    "methods.Oracle": "region",
    "methods.Precomputed": "folder",
    "methods.FromCallable": "function, label=, seed=",
    "metrics.Metric.__call__": "self, model, batch, attribution, method=",
    "metrics.AIC": "infill=, estimator=, seed=",
    "metrics.AttentionIoU": "region=, resolution=, empty=",
    "metrics.AveragePrecision": "region=",
    "metrics.CompletenessGap": "baseline=",
    "metrics.Deletion": "removal=, steps=, order=, of=, seed=",
    "metrics.EnergyInside": "region=",
    "metrics.Entropy": "",
    "metrics.HalfMass": "share=",
    "metrics.HeatmapIoU": "other=, resolution=",
    "metrics.Infidelity": "kind=, removal=, samples=, cells=, noise=, scaled=, normalised=, seed=",
    "metrics.Insertion": "removal=, steps=, order=, of=, seed=",
    "metrics.LocalizationScore": "region=, interpolate=",
    "metrics.MaskIoU": "region=",
    "metrics.MPRT": "order=, layers=, similarity=, keep_statistics=, seed=",
    "metrics.NoiseStability": "noise=, samples=, seed=",
    "metrics.PixelAUC": "region=",
    "metrics.PointingGame": "region=, tolerance=",
    "metrics.RandomLogit": "similarity=, seed=",
    "metrics.ROAD": "removal=, shares=, order=, of=, seed=",
    "metrics.SensitivityMax": "radius=, samples=, seed=",
    "metrics.SensitivityN": "removal=, shares=, samples=, cells=, seed=",
    "metrics.SIC": "infill=, estimator=, confident=, seed=",
    "metrics.Sparseness": "",
    "problems.Disconnected": "model, source, n=, count=, seed=, part=, *, confidence=, batch_size=",
    "problems.Grid": "model, source, n=, count=, seed=, *, confidence=, batch_size=, fit=",
    "problems.Labelled": "model, source, *, batch_size=, kind=, limit=",
    "Store": "path",
    "Store.scores": "self",
    "Store.failures": "self",
    "Store.table": "self",
    "Store.curves": "self",
    "Store.maps": "self, method, *, problem=",
    "Store.state": "self",
    "metrics.area_under": "curve",
    "metrics.attention_iou": "a, b",
    "metrics.attention_iou_pairs": "maps",
    "metrics.average_precision": "maps, region",
    "metrics.completeness_gap": "maps, difference",
    "metrics.energy_inside": "maps, region",
    "metrics.entropy": "maps",
    "metrics.gini": "maps",
    "metrics.half_mass_share": "maps, share=",
    "metrics.infidelity": "predicted, drops, *, scaled=, normalised=",
    "metrics.information_curve": "model, batch, maps, reading=",
    "metrics.localization_score": "maps, cell, n, interpolate=, *, size=",
    "metrics.map_correlation": "maps, others",
    "metrics.mask_iou": "maps, region",
    "metrics.metric": "like",
    "metrics.pixel_auc": "maps, region",
    "metrics.pointing_game": "maps, region, tolerance=",
    "metrics.rank_correlation": "maps, others, absolute=",
    "metrics.relative_change": "maps, others",
    "metrics.removal_curve": "model, batch, maps, removal, course=",
    "metrics.road": "model, batch, maps, removal, removed=",
    "metrics.sensitivity_n": "sums, drops",
    "problems.Planted": "model, count=, strength=, seed=, *, shortcut=, batch_size=",
    "testing.check_method": "method",
    "testing.check_metric": "metric",
    "testing.check_removal": "removal",
    "testing.method_checks": "method",
    "testing.metric_checks": "metric",
    "testing.removal_checks": "removal",
}


def _signature(path: str) -> str:
    found: object = ak
    for part in path.split("."):
        found = getattr(found, part)
    assert callable(found)
    words, starred = [], False
    for parameter in inspect.signature(found).parameters.values():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words.append("*")
            starred = True
        words.append(parameter.name + ("" if parameter.default is parameter.empty else "="))
    return ", ".join(words)


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_signatures_are_a_contract(name: str) -> None:
    assert _signature(name) == SIGNATURES[name]


def test_the_attributes_that_scripts_read_are_there() -> None:
    known = {"size", "mean", "std", "layer", "max_rows", "device", "layers", "target"}
    assert known <= set(dir(ak.VisionModel))
    assert {field.name for field in dataclasses.fields(ak.Attribution)} >= {"maps", "targets", "ids", "method"}
    assert set(ak.METHODS) >= {"grad_cam", "integrated_gradients", "gradient", "input_x_gradient", "random_map", "centre_map", "edge_map"}
    assert ak.METHODS["grad_cam"] is ak.methods.GradCAM
    tables = {
        "methods": ak.METHODS,
        "metrics": ak.METRICS,
        "problems": ak.PROBLEMS,
        "removals": ak.REMOVALS,
        "segments": ak.SEGMENTERS,
    }
    own = {f"{room}.{cls.__name__}" for room, table in tables.items() for cls in table.values() if cls.__module__.startswith("attribkit.")}
    assert own <= set(SIGNATURES)


# Errors ----------------------------------------------------------------------------------------------------------------------------


def drawn_tree() -> dict[str, str]:
    """class -> its parent, read off the drawing in the docstring."""
    above: list[str] = []
    parents: dict[str, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        words = line.strip(" │├└─").split()
        if line.startswith("    ") and words and words[0].isidentifier() and hasattr(errors, words[0]):
            depth = (len(line) - len(line.lstrip(" │├└─")) - 4) // 4
            above[depth:] = [words[0]]
            if depth:
                parents[words[0]] = above[depth - 1]
    return parents


def test_the_tree_of_errors_is_the_one_drawn() -> None:
    own = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.AttribkitError)]
    real = {each.__name__: next(base.__name__ for base in each.__bases__) for each in own if each is not errors.AttribkitError}
    assert drawn_tree() == real
    assert len(real) >= 7
    assert [each.__name__ for each in own if issubclass(each, ValueError)] == [
        "BadInput",
        "UnknownName",
        "BrokenFile",
        "BrokenImage",
        "BrokenWeights",
        "BrokenRun",
    ]


def test_every_error_is_public() -> None:
    assert {"AttribkitError", *drawn_tree()} <= set(ak.__all__)


@pytest.mark.parametrize("cls", [ak.BrokenImage, ak.BrokenWeights])
def test_errors_about_files_keep_path_and_reason_through_a_pickle(cls: type[ak.BrokenImage] | type[ak.BrokenWeights]) -> None:
    """A worker process sends its error home as a pickle."""
    error = cls(Path("a b") / "ü.png", "one\n  line\tonly ")
    assert (error.path, error.reason, str(error)) == (
        str(Path("a b") / "ü.png"),
        "one line only",
        f"{Path('a b') / 'ü.png'}: one line only",
    )
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.path, again.reason, str(again)) == (cls, error.path, error.reason, str(error))


MANY = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", *(f"vgg{i}" for i in range(11, 19))]


@pytest.mark.parametrize(
    ("got", "known", "offer"),
    [
        ("layr4", ["layer4", "layer1", "layer4"], "allowed: layer1, layer4"),
        ("x", [], "allowed: none"),
        ("RESNET5O", MANY, "did you mean resnet50 or resnet152 or resnet34?"),
        ("zzz", MANY, "allowed: resnet101, resnet152, resnet18, resnet34, resnet50, vgg11, ... (13 in all)"),
    ],
    ids=["few", "none", "near", "far"],
)
def test_an_unknown_name_is_answered_with_what_there_is(got: str, known: list[str], offer: str) -> None:
    assert str(ak.UnknownName("layer", got, known)) == f"no layer is called {got!r}; {offer}"
    assert str(ak.UnknownName("layer", got, known, hint="see there")) == f"no layer is called {got!r}; {offer}; see there"
