"""Runs on disk: what processes gain, and what a hundred kills cost.

    python benchmarks/runs.py workers DATA          # 1,000 photographs x 5 methods, one process or two, each in turn
    python benchmarks/runs.py kills                 # 100 SIGKILLs of workers and drivers, on embedded images

DATA is a folder with `imagenet-samples/` (labels.csv and images) and `models/squeezenet1_0-imagenet.safetensors`. `workers` prints the
wall time of each way of running, its share of the fastest, and the largest difference of scores; `kills` how many rows were lost, came
twice or differ from a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

METHODS = ("grad_cam", "hires_cam", "layer_cam", "gradient", "input_x_gradient")


def evaluate(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "attribkit", "evaluate", *arguments]


def asked(names: Sequence[str], option: str) -> list[str]:
    return [part for name in names for part in (option, name)]


def scores(out: Path) -> dict[tuple[str, ...], float]:
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = [(tuple(row[name] for name in ("problem", "method", "metric", "id")), float(row["score"])) for row in csv.DictReader(file)]
    if len({key for key, _ in rows}) < len(rows):
        raise SystemExit("an image has two scores by one method and metric")
    return dict(rows)


def workers(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = photographs(given.data / "imagenet-samples", folder / "photographs", given.count)
        model = ("--model", "torchvision/squeezenet1_0", "--weights", str(given.data / "models" / "squeezenet1_0-imagenet.safetensors"))
        common = [*model, "--data", str(manifest), *asked(METHODS, "--method"), "--metric", "sparseness", "--no-controls"]
        times: dict[int, list[float]] = {}
        found: dict[int, dict[tuple[str, ...], float]] = {}
        for _ in range(given.rounds):
            for count in (0, 1, 2):
                out = folder / f"run-{count}"
                shutil.rmtree(out, ignore_errors=True)
                began = time.perf_counter()
                subprocess.run(evaluate(*common, "--workers", str(count), "--out", str(out)), check=True, capture_output=True)
                times.setdefault(count, []).append(time.perf_counter() - began)
                found[count] = scores(out)
        fastest = min(statistics.median(each) for each in times.values())
        print(f"{given.count} photographs x {len(METHODS)} methods\n")
        print("| processes | seconds, all in | beside the fastest | largest difference |")
        print("|---|---|---|---|")
        for count, each in times.items():
            median = statistics.median(each)
            apart = max(abs(found[count][key] - value) for key, value in found[0].items())
            words = "the command's own" if count == 0 else f"{count} worker{'s' * (count > 1)}"
            print(f"| {words} | {median:.0f} | {median / fastest:.2f} | {apart:.1e} |")


def photographs(source: Path, folder: Path, count: int) -> Path:
    """A manifest of the first photographs, which lie beside it."""
    folder.mkdir()
    with (source / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["file"], row["class_index"]) for row in csv.DictReader(file)][:count]
    for name, _ in rows:
        shutil.copy(source / name, folder / name)
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return folder / "list.csv"


def kills(given: argparse.Namespace) -> None:
    model = ("--model", "planted/shortcut-95", "--data", "planted", "--problem", "planted", "--limit", str(given.images), "--batch", "8")
    common = [*model, "--method", "grad_cam", "--method", "IntegratedGradients(steps=20)", "--metric", "energy_inside", "--workers", "2"]
    draw, killed = random.Random(given.seed), {"worker": 0, "driver": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(evaluate(*common, "--out", str(folder / "whole")), check=True, capture_output=True)
        out, began = folder / "killed", time.perf_counter()
        while True:
            driver = subprocess.Popen(
                evaluate(*common, "--out", str(out), "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            disturb(driver, killed, given.kills, draw)
            _, said = driver.communicate()
            if driver.returncode == 0:
                break
            if driver.returncode != -signal.SIGKILL:
                raise SystemExit(f"the run ended with {driver.returncode}: {said}")
        whole, after = scores(folder / "whole"), scores(out)
        seconds = time.perf_counter() - began
        print(f"{killed['worker']} workers and {killed['driver']} drivers killed within {seconds:.0f} s; of {len(whole)} rows")
        print(f"{len(whole.keys() - after.keys())} lost, {len(after.keys() - whole.keys())} too many, ", end="")
        print(f"{sum(after[key] != value for key, value in whole.items() if key in after)} with another score")


def disturb(driver: subprocess.Popen[str], killed: dict[str, int], most: int, draw: random.Random) -> None:
    """Kill workers now and then, and at last, one time in eight, the driver."""
    while driver.poll() is None and sum(killed.values()) < most:
        time.sleep(draw.uniform(0.2, 1.5))
        working = [worker for server in children(driver.pid) for worker in children(server)]
        if not working:
            continue
        if draw.random() < 1 / 8:
            driver.kill()
            killed["driver"] += 1
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(draw.choice(working), signal.SIGKILL)
            killed["worker"] += 1


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("workers")
    one.add_argument("data", type=Path)
    one.add_argument("--count", type=int, default=1000, help="photographs")
    one.add_argument("--rounds", type=int, default=3)
    one.set_defaults(call=workers)
    other = kinds.add_parser("kills")
    other.add_argument("--kills", type=int, default=100)
    other.add_argument("--images", type=int, default=2400)
    other.add_argument("--seed", type=int, default=0)
    other.set_defaults(call=kills)
    given = parser.parse_args()
    given.call(given)


if __name__ == "__main__":
    main()
