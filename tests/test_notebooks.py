"""The notebooks run from the first cell to the last, show what their text says, and are kept without what they showed."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
# What the text of each relies on: patterns that its outputs match, in this order, across everything that it shows.
SHOWN = {
    "is_my_model_cheating": (
        r"1\. The model goes by the background",
        r"background: 1\.00 ",
        r"(?m)^background +grass +fish +0 +\d+ +0 ",
        r"(?m)^background +background +1 +\d+ +0 ",
        r"without the region .*",
        r"<picture>",
        r"shortcut-50 on .*: 0 of \d+ claims stand",
    ),
    "what_did_my_model_look_at": (
        r"<picture>",
        r"<picture>",
        r"GradCAM\(\) ",
        r"without the object, 100% of the answers stay",
        r"without the background, (4|5|6)\d% of the answers stay",
    ),
    "which_method_should_i_trust": (
        r"<picture>",
        r"<picture>",
        r"EdgeMap\(\)",
        r"(?m)^ +CentreMap\(\)",  # fails where the background is the truth: behind every method
        r"CentreMap\(\) ",
        r"(?m)^ +1 +IntegratedGradients\(\)",
        r"(?m)^GradCAM\(\) +EdgeMap\(\) +-0\.\d+ +-0\.\d+ +-0\.",
    ),
}


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(SHOWN)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_is_kept_without_what_it_showed(path):
    """So that a change of it can be read, and nobody takes old figures for those of today's code."""
    book = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3" and set(book.metadata) == {"kernelspec", "language_info"}
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert 4 <= len(code) < len(book.cells) <= 10
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert all(cell.metadata == {} for cell in book.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_runs_and_shows_what_its_text_says(path, tmp_path, monkeypatch):
    """In an empty folder; a cell that raises ends the test with that cell and its traceback."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    (folder := tmp_path / "here").mkdir()
    book = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    NotebookClient(book, timeout=250, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    text, at = "\n".join(map(words, outputs)), 0
    for pattern in SHOWN[path.stem]:
        found = re.compile(pattern).search(text, at)
        assert found, f"{pattern!r} is not in what it shows after\n{text[at:]}"
        at = found.end()


def words(output) -> str:
    if output.output_type == "stream":
        return output.text
    return "<picture>" if "image/png" in output.data else output.data["text/plain"]
