"""What tests of runs share: images in a manifest, the command in a process of its own, and what has come of it."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
STARTED: list[subprocess.Popen[str]] = []
# It asks nobody, waits on a slow machine, and does not give way to other tests.
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "150", "RAY_worker_niceness": "0"}
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "magenta": (255, 0, 255), "cyan": (0, 255, 255)}


def write_images(folder: Path, count: int, *, special: Mapping[int, str] = {}) -> Path:
    """A manifest of `count` small pictures, each with a mask and a group; those of `special` are of one colour."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    rows = []
    for number in range(count):
        pixels = draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        colour = special.get(number)
        if colour in COLOURS:
            pixels[:] = COLOURS[colour]
        name = f"{number:03d}.png"
        if colour == "broken":
            (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
        else:
            Image.fromarray(pixels).save(folder / name)
        mask = np.zeros((64, 64), np.uint8)
        mask[8 : 40 + number % 16, 8:40] = 255
        Image.fromarray(mask).save(folder / f"mask-{name}")
        rows.append((name, ("fish", "bird")[number % 2], f"mask-{name}", ("day", "night")[number % 3 == 0]))
    manifest = folder / "list.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "mask:object", "group:time"), *rows])
    return manifest


def command(
    manifest: Path, out: Path, *more: str, method: str = "stubborn", metrics: Sequence[str] = ("energy_inside", "pointing_game")
) -> list[str]:
    asked = [part for metric in metrics for part in ("--metric", metric)]
    model = ("--model", "planted/shortcut-95", "--data", str(manifest), "--batch", "4", "--device", "cpu")
    return [sys.executable, "-m", "attribkit", "evaluate", *model, "--method", method, *asked, "--out", str(out), *more]


def environment() -> dict[str, str]:
    """One thread a process, whatever the machine, so that numbers are the same ones; and the method of these tests."""
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATTRIBKIT_TEST_METHODS", "PYTHONUNBUFFERED")}
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **one, "PYTHONPATH": path, **RAY}


def run(arguments: list[str], *, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=timeout, check=False)


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """A process that an interrupt reaches, though a shell that put the tests into the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        STARTED.append(subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    finally:
        signal.signal(signal.SIGINT, before)
    return STARTED[-1]


def scored(out: Path) -> dict[tuple[str, ...], str]:
    """Every score as it stands in scores.csv; an image that came twice under one key would raise here."""
    found: dict[tuple[str, ...], str] = {}
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = (row["problem"], row["method"], row["metric"], row["id"])
            assert key not in found, f"{key} is there twice"
            found[key] = f"{row['target']} {row.get('time')} {row['score']} {row['chance']}"
    return found


def failed(out: Path) -> dict[str, str]:
    with (out / "failures.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows), "an image costs one row"
    return {row["id"]: f"{row['stage']}: {row['reason']}" for row in rows}


def until(condition, seconds: float = 60, pause: float = 0.05):
    """What the condition gives once it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(pause)
    raise AssertionError(f"nothing within {seconds} s")
