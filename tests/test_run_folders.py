"""Folders of runs: one who works on them and many who read, disks that are full or closed, and every kind of damage."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import LinearModel, adapted

import attribkit as ak
from attribkit import Batch, Targets
from attribkit.errors import BrokenRun, InUse, Unwritable
from attribkit.problems import Labelled
from attribkit.store import Store, planning
from attribkit.store.folder import Workshop
from attribkit.store.ledger import Ledger

SIDE = (8, 8)
ASKED = (["gradient", "random_map"], ["sparseness", "energy_inside"])


def problem(shards: int = 6, side: tuple[int, int] = SIDE) -> Labelled:
    """Four images in a shard."""
    model = adapted(LinearModel(size=side), size=side)
    draw = torch.Generator().manual_seed(0)
    weight = model.module.head.weight.data
    weight.copy_(torch.randn(weight.shape, generator=draw))
    torch.nn.init.zeros_(model.module.head.bias)
    batches = []
    for number in range(shards):
        region = (torch.rand(4, *side, generator=draw) > 0.5).float()
        ids = tuple(f"{number}{letter}" for letter in "abcd")
        groups = {"odd": torch.tensor([0, 1, 0, 1])}
        batches.append(Batch(torch.randn(4, 3, *side, generator=draw), Targets(torch.arange(4)), ids, {"object": region}, groups))
    return Labelled(model, batches)


def evaluate(folder: Path, **options):
    return ak.evaluate(problem(), *ASKED, store=folder, controls=False, **options)


def rows_of(scores) -> list[tuple[object, ...]]:
    return [tuple("nan" if value != value else value for value in row.values()) for row in scores.rows()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run, one as it lay there when its process was killed in the middle, and the rows of either."""
    folder = tmp_path_factory.mktemp("runs")
    copied: list[int] = []

    def watch(_problem, by, batch, _maps, _found) -> None:
        if batch.ids[0] == "4a" and by.name == "gradient":
            shutil.copytree(folder / "finished", folder / "killed")
            copied.append(1)

    evaluate(folder / "finished", watch=watch)
    assert copied == [1] and {path.name for path in (folder / "killed").iterdir()} == {
        "ledger.db",
        "ledger.db-shm",
        "ledger.db-wal",
        "lock",
        "lock-journal",
        "maps",
    }
    with Store(folder / "finished") as store:
        expected = rows_of(store.scores())
    assert len(expected) == 24 * 4
    return folder, expected


@pytest.fixture
def finished(runs, tmp_path):
    return shutil.copytree(runs[0] / "finished", tmp_path / "run")


@pytest.fixture
def killed(runs, tmp_path):
    return shutil.copytree(runs[0] / "killed", tmp_path / "run")


def scores_in(folder: Path) -> list[tuple[object, ...]]:
    with Store(folder) as store:
        return rows_of(store.scores())


def is_one_line(error: BaseException) -> bool:
    return str(error).isprintable() and len(str(error)) < 500


# Who works on it ----------------------------------------------------------------------------------------------------------------------

HOLDING = """
import sys, time
from attribkit.evaluating.preparing import facts
from attribkit.store.folder import Workshop
shop = Workshop(sys.argv[1])
shop.begin(facts())
print("ready", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def held(folder: Path):
    """Another process that works on it; it is killed in the end."""
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_one_is_refused_by_name_until_the_first_is_gone(finished, runs):
    with held(finished) as process:
        wanted = rf"^{finished}: process {process.pid} on \S+, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \S+, works on it; allowed: .*$"
        with pytest.raises(InUse, match=wanted):
            Workshop(finished)
        assert scores_in(finished) == runs[1]  # who only reads is not kept waiting
        with Store(finished) as store:
            assert store.state().running
        process.send_signal(signal.SIGKILL)
        process.wait()
        began = time.perf_counter()
        Workshop(finished).close()
        assert time.perf_counter() - began < 1
    assert [state for _, _, state, _ in Store(finished).state().sessions] == ["done", "running"]


def test_a_second_one_in_the_same_process_is_refused_as_well(finished):
    with Workshop(finished) as first:
        with pytest.raises(InUse, match="works on it"):
            Workshop(finished)
        first.begin({})
        with pytest.raises(InUse, match=": another process works on it"):  # whose facts are not known
            Workshop(finished)
    Workshop(finished).close()


def test_it_is_read_while_it_is_written(tmp_path, runs):
    """Whatever moment is seen, every row is a right one; there are more and more of them."""
    expected, counts, errors = set(runs[1]), [], []

    def write() -> None:
        try:
            evaluate(tmp_path, watch=lambda *_: time.sleep(0.01))
        except BaseException as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        if (tmp_path / "ledger.db").is_file():
            with contextlib.suppress(BrokenRun), Store(tmp_path) as store:  # it may have no tables yet
                seen = rows_of(store.scores())
                assert set(seen) <= expected and len(set(seen)) == len(seen)
                counts.append(len(seen))
                state = store.state()
                assert 0 <= state.done <= state.total <= 48
    writer.join()
    assert errors == [] and counts == sorted(counts) and len(set(counts)) > 3 and scores_in(tmp_path) == runs[1]


def test_what_a_reader_holds_open_hinders_nobody(finished, runs):
    with Store(finished) as store:
        began = time.perf_counter()
        assert rows_of(evaluate(finished)) == runs[1]
        assert time.perf_counter() - began < 10
        assert rows_of(store.scores()) == runs[1]


def test_what_a_killed_writer_left_is_cleaned(killed):
    left = [killed / ".abc.part", killed / "maps" / ".def.part"]
    for path in left:
        path.write_bytes(b"half")
    (killed / "maps" / "someone's.txt").write_text("kept")
    Store(killed).close()
    assert all(path.exists() for path in left)
    Workshop(killed).close()
    assert not any(path.exists() for path in left) and (killed / "maps" / "someone's.txt").exists()


def test_a_killed_run_ends_with_the_same_numbers(killed, runs):
    before = scores_in(killed)
    assert set(before) < set(runs[1]) and len(before) == 4 * 4 * 4
    assert rows_of(evaluate(killed)) == runs[1]
    assert [state for _, _, state, _ in Store(killed).state().sessions] == ["lost", "done"]
    assert sorted(path.name for path in killed.iterdir()) == ["ledger.db", "lock", "maps"]


def test_the_kept_table_is_that_of_the_scores(finished):
    with Store(finished) as store:
        assert repr(store.table()) == repr(store.scores().table()) and store.ledger.get("table") is not None
        assert {row.count for row in store.table()} == {24}
    with Workshop(finished) as shop:
        planning.ask(shop.ledger, [])
    with Store(finished) as store:
        assert list(store.table()) == [] and store.ledger.get("table") is not None  # which is of something else
    ak.evaluate(problem(3), *ASKED, store=finished, controls=False)
    with Store(finished) as store:
        assert repr(store.table()) == repr(store.scores().table()) and {row.count for row in store.table()} == {12}


# Disks --------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A file system of one megabyte, and what makes it take nothing more."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield place, lambda how: subprocess.run(["mount", "-o", f"remount,{how},size=1m", str(place)], check=True)
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("which", ["finished", "killed", "killed, one file less"])
def test_a_folder_that_may_not_be_written_to_is_read(disk, runs, which):
    place, remount = disk
    name = which.partition(",")[0]
    shutil.copytree(runs[0] / name, place / "run")
    if which.endswith("less"):
        (place / "run" / "ledger.db-shm").unlink()
    expected = scores_in(runs[0] / name)
    remount("ro")
    try:
        assert scores_in(place / "run") == expected and len(expected) >= 64
        with Store(place / "run") as store:
            assert sum(len(each) for each in store.maps("Gradient()")) == len(expected) // 4
            assert store.state().total == 48
        with pytest.raises(
            Unwritable, match=r"^\S+ledger.db: .*(readonly|unable to open).*; allowed: a folder with room that may be written to; .*$"
        ) as caught:
            Workshop(place / "run")
        assert is_one_line(caught.value)
    finally:
        remount("rw")
    assert rows_of(evaluate(place / "run")) == runs[1]


@pytest.mark.parametrize(("room", "any_left"), [(0, False), (60_000, False), (330_000, True), (390_000, True)])
def test_a_disk_that_is_full(disk, room, any_left):
    """What was finished is kept and can be read; with room again the run ends with the numbers of one that was let alone."""
    place, asked = disk[0], (problem(6, (24, 24)), "gradient", "sparseness")
    expected = rows_of(ak.evaluate(*asked, store=place.parent / "whole", controls=False))
    filler = place / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.tell() < 2**20 - room:
            file.write(bytes(4096))
    with pytest.raises(Unwritable, match=r"no space left on device|disk is full|disk I/O error") as caught:
        ak.evaluate(*asked, store=place / "run", controls=False)
    assert is_one_line(caught.value)
    before = scores_in(place / "run") if any_left else []
    assert set(before) < set(expected) and any_left == bool(before)
    filler.unlink()
    assert rows_of(ak.evaluate(*asked, store=place / "run", controls=False)) == expected
    assert not list(place.glob("**/.*.part"))


# Damage -------------------------------------------------------------------------------------------------------------------------------


def at(where: float, change: Callable[[bytearray, int], object]) -> Callable[[Path], None]:
    """Change the ledger in place."""

    def harm(folder: Path) -> None:
        data = bytearray((folder / "ledger.db").read_bytes())
        change(data, int(where * len(data)))
        (folder / "ledger.db").write_bytes(data)

    return harm


def zeroed(data: bytearray, place: int) -> None:
    start = place - place % 4096
    data[start : start + 4096] = bytes(4096)


def scrambled(data: bytearray, place: int) -> None:
    start = place - place % 4096
    data[start : start + 4096] = bytes((each * 7 + 3) % 256 for each in range(4096))


def cut(data: bytearray, place: int) -> None:
    del data[place:]


def changing(*statements: str) -> Callable[[Path], None]:
    """Change what stands in the ledger."""

    def harm(folder: Path) -> None:
        with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as db, db:
            for statement in statements:
                assert db.execute(statement).rowcount != 0, statement

    return harm


def replaced(content: bytes | None) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / "ledger.db").unlink()
        if content is None:
            (folder / "ledger.db").mkdir()
        else:
            (folder / "ledger.db").write_bytes(content)

    return harm


FLIP = "CAST(substr({0}, 1, {1}) || x'41' || substr({0}, {1} + 2) AS BLOB)"
HARMS: dict[str, Callable[[Path], None]] = {
    **{f"a page of zeros at {where}": at(where, zeroed) for where in (0, 0.2, 0.4, 0.6, 0.8, 0.95)},
    **{f"a page of noise at {where}": at(where, scrambled) for where in (0, 0.3, 0.5, 0.7, 0.9)},
    **{f"cut at {where}": at(where, cut) for where in (0.0001, 0.1, 0.5, 0.9, 0.999)},
    "a score": changing(f"UPDATE score SET scores = {FLIP.format('scores', 5)} WHERE shard = 3"),
    "a chance": changing(f"UPDATE score SET chances = {FLIP.format('chances', 3)} WHERE shard = 2 AND metric = 2"),
    "a place": changing("UPDATE score SET places = x'00000000020000000100000003000000' WHERE shard = 1"),
    "a place beyond": changing("UPDATE score SET places = x'00000000010000000200000063000000' WHERE shard = 1"),
    "a score less": changing("UPDATE score SET places = x'', scores = x'', chances = x'' WHERE shard = 1 AND method = 1"),
    "two scores swapped": changing("UPDATE score SET metric = metric + 10", "UPDATE score SET metric = 13 - metric"),
    "two methods swapped": changing("UPDATE score SET method = method + 10", "UPDATE score SET method = 13 - method"),
    "two shards swapped": changing("UPDATE score SET shard = 99 WHERE shard = 1", "UPDATE score SET shard = 1 WHERE shard = 2"),
    "names of metrics swapped": changing("UPDATE metric SET id = id + 10", "UPDATE metric SET id = 13 - id"),
    "a brief": changing("UPDATE metric SET brief = 'EnergyInsidf()' WHERE brief = 'EnergyInside()'"),
    "a direction": changing("UPDATE metric SET higher = 1 - higher"),
    "a control": changing("UPDATE method SET control = 1 - control"),
    "a label": changing("UPDATE problem SET label = 'others'"),
    "a content": changing("UPDATE shard SET content = 'f' || substr(content, 2) WHERE id = 3"),
    "a number": changing("UPDATE shard SET number = 77 WHERE id = 3"),
    "not asked": changing("UPDATE shard SET asked = 0 WHERE id = 3"),
    "less asked": changing("DELETE FROM ask WHERE method = 1 AND metric = 2"),
    "scores gone": changing("DELETE FROM score WHERE shard = 4 AND metric = 1"),
    "names gone": changing("DELETE FROM about WHERE shard = 4"),
    "a name": changing("UPDATE about SET images = replace(images, '3b', '3x') WHERE shard = 4"),
    "a group": changing("UPDATE about SET images = replace(images, '[0, 1', '[1, 1') WHERE shard = 4"),
    "no UTF-8": changing("UPDATE about SET images = CAST(x'7b22ff' AS TEXT) WHERE shard = 4"),
    "names of another shard": changing(
        "UPDATE about SET (images, mark) = (SELECT images, mark FROM about WHERE shard = 2) WHERE shard = 4"
    ),
    "the table": changing("UPDATE meta SET value = replace(value, '0.', '1.') WHERE name = 'table'"),
    "the table's mark": changing("UPDATE meta SET mark = mark + 1 WHERE name = 'table'"),
    "what was asked": changing("UPDATE meta SET value = '[1, 2, 3]' WHERE name = 'asked'"),
    "words for marks": changing("UPDATE score SET mark = 'a lot' WHERE shard = 1"),
    "words for scores": changing("UPDATE score SET scores = 'a lot' WHERE shard = 1"),
    "words for times": changing("UPDATE session SET began = 'once', seen = 'now'"),
    "words for facts": changing("UPDATE session SET facts = 'none'"),
    "words for everything": changing("UPDATE shard SET images = 'few', asked = 'yes', complete = 'no', number = 'n' || number"),
    **{
        f"no {table}": changing(f"DROP TABLE {table}")
        for table in (
            "meta",
            "session",
            "problem",
            "method",
            "metric",
            "ask",
            "shard",
            "about",
            "work",
            "score",
            "failure",
            "suspect",
            "note",
        )
    },
    "empty": replaced(b""),
    "zeros": replaced(bytes(40_000)),
    "text": replaced(b"not a database, but long enough to be one " * 100),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_ledger_is_never_a_wrong_number(finished, runs, harm):
    """To read it gives the right numbers or says that it is damaged; the next call takes over what is good, and ends as if nothing were."""
    expected = runs[1]
    HARMS[harm](finished)
    read = None
    with contextlib.suppress(BrokenRun):
        read = scores_in(finished)
    assert read in (None, expected)
    try:
        with Store(finished) as store:
            assert repr(store.table()) and (store.failures(), store.state().total) == ([], 48)
            assert sum(len(each) for each in store.maps("Gradient()")) == 24
            assert repr(store.table()) == repr(store.scores().table())
    except BrokenRun as error:
        assert is_one_line(error) and str(finished) in str(error)
    again = evaluate(finished)
    assert rows_of(again) == expected == scores_in(finished)
    with Store(finished) as store:
        assert repr(store.table()) == repr(again.table()) and sum(len(each) for each in store.maps("Gradient()")) == 24
        assert store.failures() == [] and store.state().done == 48


@pytest.mark.parametrize(
    ("harm", "redone"),
    [
        ("a score", "3rd"),
        ("names gone", "4th"),
        ("a content", "3rd"),
        ("the table", ""),
        ("no ask", ""),
        ("words for times", ""),
        ("no work", "all"),
        ("two scores swapped", "all"),
        ("a page of noise at 0", "all"),
    ],
)
def test_what_is_good_is_taken_over(finished, harm, redone):
    """All that is computed again are the images of the shard that was harmed."""
    HARMS[harm](finished)
    seen: set[str] = set()
    evaluate(finished, watch=lambda _problem, _by, batch, _maps, _found: seen.update(batch.ids))
    shards = {"": "", "3rd": "2", "4th": "3", "all": "012345"}[redone]
    assert seen == {f"{shard}{letter}" for shard in shards for letter in "abcd"}
    assert (finished / "ledger.damaged-1.db").exists()


def test_a_damaged_ledger_is_set_aside_as_it_was(finished):
    for number in (1, 2):
        HARMS["a score"](finished)
        content = (finished / "ledger.db").read_bytes()
        evaluate(finished)
        assert (finished / f"ledger.damaged-{number}.db").read_bytes()[100:] == content[
            100:
        ]  # beyond the header, which says how it was opened


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA application_id = 7", "it is no ledger of attribkit; allowed: one that an evaluation has written"),
        ("PRAGMA user_version = 2", "got format 2, allowed: 1; another version of attribkit has written it"),
    ],
)
def test_what_is_not_ours_is_left_alone(finished, statement, said):
    with contextlib.closing(sqlite3.connect(finished / "ledger.db")) as db:
        db.execute(statement)
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    for opened in (Store, Workshop, evaluate):
        with pytest.raises(BrokenRun, match=re.escape(f"{finished / 'ledger.db'}: {said}") + "$"):
            opened(finished)
    assert {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()} == before


def test_a_folder_where_the_ledger_should_be(finished):
    replaced(None)(finished)
    with pytest.raises(BrokenRun, match="no run: there is no ledger.db in it"):
        Store(finished)
    with pytest.raises(Unwritable, match=r"ledger\.db: unable to open database file; allowed: .*$"):
        Workshop(finished)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(
        BrokenRun, match=rf"^{tmp_path}: no run: there is no ledger\.db in it; allowed: a folder that an evaluation has written$"
    ):
        Store(tmp_path)
    with pytest.raises(BrokenRun, match="no run"):
        Store(tmp_path / "nowhere")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("lost", [("ledger.db-wal",), ("ledger.db-wal", "ledger.db-shm"), ("ledger.db-shm",), ("lock",), ("maps",)])
def test_what_a_killed_run_has_lost(killed, runs, lost):
    """Without what was written ahead an earlier moment is what there is, or nothing."""
    before = scores_in(killed)
    for name in lost:
        path = killed / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    seen: list[tuple[object, ...]] = []
    with contextlib.suppress(BrokenRun):
        seen = scores_in(killed)
    assert set(seen) <= set(runs[1]) and ("ledger.db-wal" in lost or seen == before)
    assert rows_of(evaluate(killed)) == runs[1]


@pytest.mark.parametrize("content", [b"", b"left by another program", bytes(5000), b"SQLite format 3\x00" + b"\xff" * 4080], ids=len)
def test_a_lock_that_nobody_holds_is_none(finished, runs, content):
    (finished / "lock").write_bytes(content)
    with Workshop(finished), pytest.raises(InUse, match="works on it"):
        Workshop(finished)
    assert rows_of(evaluate(finished)) == runs[1]


def test_a_folder_where_the_lock_should_be(finished):
    (finished / "lock").unlink()
    (finished / "lock").mkdir()
    with pytest.raises(Unwritable, match=r"lock: unable to open database file; allowed: a folder .*$"):
        Workshop(finished)


def test_maps_of_two_shards_that_were_swapped(finished, runs):
    with Store(finished) as store:
        (_, first, _), (_, second, _), *_ = store.files("Gradient()")
    contents = [(finished / "maps" / name).read_bytes() for name in (first, second)]
    for name, content in zip((second, first), contents, strict=True):
        (finished / "maps" / name).write_bytes(content)
    with Store(finished) as store, pytest.raises(BrokenRun, match="its digest is not the one in the ledger"):
        list(store.maps("Gradient()"))
    changing(f"UPDATE work SET file = (CASE file WHEN '{first}' THEN '{second}' ELSE '{first}' END) WHERE shard <= 2 AND method = 1")(
        finished
    )
    with Store(finished) as store, pytest.raises(BrokenRun, match="a file of maps is not that of what Gradient"):
        list(store.maps("Gradient()"))
    evaluate(finished)
    with Store(finished) as store:
        maps = {name: row for each in store.maps("Gradient()") for name, row in zip(each.ids, each.maps, strict=True)}
        expected = {
            name: row
            for batch in problem().source
            for name, row in zip(batch.ids, ak.methods.Gradient()(problem().model, batch).maps, strict=True)
        }
        assert maps.keys() == expected.keys() and all((maps[name] - expected[name]).abs().max() < 2e-3 for name in maps)


def test_values_that_are_kept_by_name(tmp_path):
    with contextlib.closing(Ledger(tmp_path, writing=True)) as ledger:
        for value in ({"a": [1, None, "ü"]}, 3, None, "text"):
            ledger.put("name", value)
            assert ledger.get("name") == value
        assert ledger.get("other") is None
        ledger.db.execute("UPDATE meta SET value = '5'")
        with pytest.raises(BrokenRun, match="damaged: what is kept under 'name' does not match its check sum$"):
            ledger.get("name")
        with pytest.raises(BrokenRun, match="damaged: a value that is no JSON"):
            ledger.json("[" * 100_000)
