"""The same shards on a local Ray with two workers: an actor that is killed, and an image that kills its actor, cost no row but its own."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from support import command, failed, run, scored, start, until, write_images

pytest.importorskip("ray", reason='Ray is not installed: pip install "attribkit[ray]"')


def actors() -> list[int]:
    """The processes in which actors of a map over rows run; they say so in their titles."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_bytes().startswith((b"ray::_MapWorker", b"ray::MapWorker")):
                found.append(int(entry.name))
    return found


@pytest.mark.timeout(280)
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="actors are found in /proc")
def test_an_actor_killed_by_its_pid_loses_nothing(tmp_path):
    manifest = write_images(tmp_path / "images", 40, special={11: "magenta", 30: "broken"})
    alone = run([*command(manifest, tmp_path / "alone"), "--workers", "1"])
    assert alone.returncode == 3, alone.stderr

    log = tmp_path / "log"
    settings = f"Stubborn(seconds=0.2, log={str(log)!r})"
    driver = start([*command(manifest, tmp_path / "ray", method=settings), "--workers", "2", "--engine", "ray"])
    until(lambda: log.exists() and len(log.read_text().split()) > 6, 150)
    working = until(actors, 20)
    os.kill(working[0], signal.SIGKILL)
    _, said = driver.communicate(timeout=250)
    assert driver.returncode == 3, said

    def plain(out: Path) -> dict[tuple[str, ...], str]:
        return {tuple("Stubborn()" if part.startswith("Stubborn(") else part for part in key): value for key, value in scored(out).items()}

    assert plain(tmp_path / "ray") == plain(tmp_path / "alone")
    reasons = failed(tmp_path / "ray")
    assert set(reasons) == set(failed(tmp_path / "alone")) == {"011.png", "030.png"}
    assert reasons["011.png"].startswith("worker: left out: alone it ended its process 2 times: its actor was lost")
