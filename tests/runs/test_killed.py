"""Runs that are killed at any moment, workers and driver, end with the numbers of one that was left alone: none lost, none twice."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from support import command, run, scored, start, until, write_images

IMAGES, SECONDS = 64, 0.08
WORKER_KILLS, DRIVER_KILLS = 8, 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbs, and how often it began an image."""
    folder = tmp_path_factory.mktemp("whole")
    manifest = write_images(folder / "images", IMAGES)
    done = run([*command(manifest, folder / "run", method=method(folder / "log")), "--workers", "2"])
    assert done.returncode == 0, done.stderr
    assert len((folder / "log").read_text().split()) == IMAGES
    return manifest, numbers(folder / "run")


def method(log: Path, seconds: float = 0.0, gate: Path | None = None) -> str:
    return f"Stubborn(seconds={seconds}, log={str(log)!r}, gate={str(gate or '')!r})"


def numbers(out: Path) -> dict[tuple[str, ...], str]:
    """Scores, whatever the settings that only say how long the method takes."""
    return {tuple(re.sub(r"Stubborn\(.*\)", "Stubborn", part) for part in key): value for key, value in scored(out).items()}


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def workers_of(pid: int) -> list[int]:
    """The processes that work for a driver: those that its server of processes has forked."""
    return [worker for server in children(pid) for worker in children(server)]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="worker processes are found in /proc")
@pytest.mark.timeout(280)
def test_random_kills_of_workers_and_driver(whole, tmp_path):
    manifest, expected = whole
    draw, log, out = random.Random(7), tmp_path / "log", tmp_path / "run"
    log.touch()
    arguments = [*command(manifest, out, method=method(log, SECONDS)), "--workers", "2", "--resume"]
    kills: Counter[str] = Counter()
    for driver_kills in range(DRIVER_KILLS + 1):
        driver = start(arguments)
        while driver.poll() is None:
            begun = len(log.read_text().split())
            until(lambda begun=begun, driver=driver: driver.poll() is not None or len(log.read_text().split()) > begun)
            time.sleep(draw.random() * 0.6)
            if driver.poll() is not None:
                break
            share = len(log.read_text().split()) / IMAGES
            if kills["driver"] < DRIVER_KILLS and (driver_kills + 1) / (DRIVER_KILLS + 2) < share:
                driver.send_signal(signal.SIGKILL)
                kills["driver"] += 1
                break
            working = workers_of(driver.pid)
            if working and kills["worker"] < 2 * (driver_kills + 1) and kills["worker"] < WORKER_KILLS:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(working), signal.SIGKILL)
                    kills["worker"] += 1
        _, said = driver.communicate(timeout=60)
    assert driver.returncode == 0, said
    assert kills["driver"] == DRIVER_KILLS and kills["worker"] >= 12 - DRIVER_KILLS, kills
    assert numbers(out) == expected
    # A process has two shards in hand at most, of 4 images; after it is lost each of these is tried alone and then done.
    assert len(log.read_text().split()) <= IMAGES + 12 * (2 * 4) * 3


def test_a_driver_that_is_killed_takes_its_workers_along(whole, tmp_path):
    manifest, _ = whole
    (tmp_path / "gate").touch()
    driver = start([*command(manifest, tmp_path / "run", method=method(tmp_path / "log", gate=tmp_path / "gate")), "--workers", "2"])
    until(lambda: (tmp_path / "log").exists())
    working = workers_of(driver.pid)
    assert working
    driver.kill()
    driver.communicate(timeout=30)
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in working), 10)


def test_an_interrupted_run_says_how_to_go_on(whole, tmp_path):
    manifest, expected = whole
    out, log = tmp_path / "run", tmp_path / "log"
    driver = start([*command(manifest, out, method=method(log, 0.1)), "--workers", "1"])
    until(lambda: log.exists() and len(log.read_text().split()) > 10)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert f"what is finished is kept: attribkit evaluate --out {out} --resume" in said
    shown = run([*command(manifest, out)[:3], "show", str(out)])
    assert "interrupted; " in shown.stdout and shown.returncode == 0
    done = run([*command(manifest, out)[:3], "evaluate", "--out", str(out), "--resume"])
    assert done.returncode == 0, done.stderr
    assert numbers(out) == expected
    assert len(log.read_text().split()) <= IMAGES + 2 * 4  # what was in hand is done again, and nothing else


def test_a_second_driver_is_refused_by_name_and_the_first_goes_on(whole, tmp_path):
    manifest, expected = whole
    out, log, gate = tmp_path / "run", tmp_path / "log", tmp_path / "gate"
    gate.touch()
    arguments = [*command(manifest, out, method=method(log, gate=gate)), "--workers", "1", "--resume"]
    first = start(arguments)
    until(log.exists)
    second = run(arguments)
    assert second.returncode == 1
    assert re.fullmatch(
        rf"Error: {re.escape(str(out))}: process {first.pid} on \S+, since .*, works on it; allowed: .*", second.stderr.strip()
    )
    shown = run([*arguments[:3], "show", str(out)])
    assert shown.returncode == 0 and "running; " in shown.stdout
    gate.unlink()
    _, said = first.communicate(timeout=120)
    assert first.returncode == 0, said
    assert numbers(out) == expected


def test_a_run_is_not_overwritten_unasked(whole, tmp_path):
    manifest, _ = whole
    out = tmp_path / "run"
    assert run([*command(manifest, out, method="random_map"), "--limit", "4", "--workers", "0"]).returncode == 0
    again = run([*command(manifest, out, method="random_map"), "--limit", "4"])
    assert again.returncode == 2 and "there is a run in it, allowed: --resume" in again.stderr


def mounted(folder: Path, size: str) -> None:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")


def test_a_full_disk_ends_a_run_with_one_line_and_more_room_lets_it_go_on(whole, tmp_path):
    manifest, expected = whole
    disk = tmp_path / "disk"
    mounted(disk, "600k")
    try:
        arguments = [*command(manifest, disk / "run", method=method(tmp_path / "log")), "--workers", "2", "--resume"]
        full = run(arguments)
        assert full.returncode == 1
        errors = [line for line in full.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1 and ("no space" in errors[0] or "full" in errors[0]) and "Traceback" not in full.stderr
        begun = len((tmp_path / "log").read_text().split())
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        done = run(arguments)
        assert done.returncode == 0, done.stderr
        assert numbers(disk / "run") == expected
        assert 0 < begun and len((tmp_path / "log").read_text().split()) < begun + IMAGES  # some of it was kept
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert run([*arguments[:3], "show", str(disk / "run")]).returncode == 0
        refused = run(arguments)
        assert refused.returncode == 1 and re.search(r"Error: .*read-?only.*; allowed: ", refused.stderr)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
