"""An image that is broken, raises, ends its process, hangs or fills the memory costs itself alone, and one row."""

from __future__ import annotations

import json

import pytest
from support import command, failed, run, scored, write_images

SPECIAL = {2: "broken", 5: "red", 9: "green", 13: "blue", 17: "magenta", 21: "cyan"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poison")
    manifest = write_images(folder / "images", 24, special=SPECIAL)
    return folder / "run", run([*command(manifest, folder / "run"), "--workers", "2", "--deadline", "5"]), manifest


def test_each_costs_one_row_and_the_others_are_scored(finished):
    out, done, _ = finished
    assert done.returncode == 3, done.stderr
    reasons = failed(out)
    assert {name: reason.split(":")[0] for name, reason in reasons.items()} == {
        "002.png": "read",
        "005.png": "worker",
        "009.png": "worker",
        "013.png": "explain",
        "017.png": "worker",
        "021.png": "explain",
    }
    assert "it exited with code 0" in reasons["005.png"] and "no sign of life for 5 s" in reasons["009.png"]
    assert "this image is blue (Stubborn())" in reasons["013.png"] and "SIGKILL" in reasons["017.png"]
    assert "allocate memory" in reasons["021.png"]
    good = {f"{number:03d}.png" for number in range(24) if number not in SPECIAL}
    for metric in ("EnergyInside()", "PointingGame()"):
        assert {id_ for _, method, name, id_ in scored(out) if method == "Stubborn()" and name == metric} == good
    assert all(f"failed: {name}" in done.stderr for name in reasons)


def test_what_failed_is_not_tried_again(finished):
    """A session that goes on has nothing left to do; the page, the table and the exit code are the same."""
    out, _, _ = finished
    before = scored(out)
    again = run([*command(out, out)[:3], "evaluate", "--out", str(out), "--resume", "--json"])
    assert again.returncode == 3, again.stderr
    assert len(json.loads(again.stdout)["failures"]) == len(SPECIAL)
    assert scored(out) == before


def test_an_image_that_is_mended_is_scored(finished):
    """Its content is another one, so the shard that it is in is done again, and what failed there is forgotten."""
    out, _, manifest = finished
    whole = write_images(manifest.parent.parent / "whole", 24)
    (manifest.parent / "002.png").write_bytes((whole.parent / "002.png").read_bytes())
    again = run([*command(manifest, out), "--resume", "--workers", "1"])
    assert again.returncode == 3, again.stderr
    assert "002.png" not in failed(out) and set(failed(out)) == {f"{number:03d}.png" for number in SPECIAL if number != 2}
    assert {id_ for _, method, _, id_ in scored(out) if method == "Stubborn()"} >= {"002.png", "000.png"}
