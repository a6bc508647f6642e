"""What the README says is run, and what it lists is there."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from attribkit import METHODS, METRICS, PROBLEMS, REMOVALS, cli
from attribkit.configuration import read_configuration
from attribkit.methods import Method, method
from attribkit.model.planted import PLANTED

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("of_the_readme")  # a class is pickled by the module that it is in
    monkeypatch.setitem(sys.modules, module.__name__, module)
    explained, removed, diagnosed, evaluated, kept, own = {}, {}, {}, {}, {}, vars(module)
    for block, names in zip(blocks("python"), (explained, removed, diagnosed, evaluated, kept, own), strict=True):
        exec(compile(block.replace("count=48", "count=8"), "README.md", "exec"), names)  # ROAD of 48 images takes a minute and a half
    assert explained["maps"].maps.shape[0] == 8 and (tmp_path / "maps.safetensors").is_file()
    assert explained["ig"].extras["relative_delta"].shape == (8,)
    assert len(evaluated["problem"]) == 8 and len(evaluated["scores"].failures) == 0
    assert (tmp_path / "scores.csv").read_text().count("\n") == len(evaluated["scores"]) + 1
    assert len(kept["scores"]) == 24 * 6 and kept["maps"].maps.shape[0] == 24
    assert len(own["passed"]) >= 90 and "another_seed_has_another_map" in own["passed"].skipped
    del METHODS._classes[own["LargestGradient"].name]
    first = diagnosed["result"].findings[0]
    assert (first.test, first.cue) == ("swap", "background") and first.effect > 0.9 and (tmp_path / "report.json").is_file()
    assert removed["logits"].shape == (8, 2) and removed["seen"].shape == removed["batch"].images.shape


def test_methods_on_command_lines_can_be_read():
    texts = re.findall(r"--method (\w+|\"[^\"]*\")", " ".join(blocks("bash")))
    assert len(texts) >= 7
    for text in texts:
        assert isinstance(method(text.strip('"')), Method)


def test_every_method_metric_problem_removal_and_planted_model_is_listed():
    classes = {**METHODS, **METRICS, **PROBLEMS, **REMOVALS}  # other tests may have entered some of their own
    own = [name for name, cls in classes.items() if cls.__module__.startswith("attribkit.")]
    assert len(own) > 60 and all(f"`{name}`" in README for name in own)
    assert all(f"`{name}`" in README for name in PLANTED)


def test_the_configuration_is_one(tmp_path):
    (block,) = blocks("toml")
    (tmp_path / "run.toml").write_text(block, encoding="utf-8")
    asked, run = read_configuration(tmp_path / "run.toml")
    assert repr(asked.methods[1]).startswith("IntegratedGradients(steps=20") and run.workers == 2


@pytest.mark.parametrize(
    "option", sorted(set(re.findall(r"--[a-z]+", "".join(line for line in README.splitlines() if line.startswith("| `--")))))
)
def test_options_are_those_of_the_command(option):
    known = {name for each in cli.attribkit.commands["explain"].params for name in each.opts}
    assert option in known
