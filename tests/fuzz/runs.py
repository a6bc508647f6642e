"""Damaged folders of runs: a finished one and one that was killed, each of their files flipped, cut, swapped, emptied or gone."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fuzz.harness import Border, Case, main, mutants
from models import LinearModel, adapted

import attribkit as ak
from attribkit import Batch, Targets
from attribkit.errors import AttribkitError
from attribkit.methods import FromCallable
from attribkit.problems import Labelled
from attribkit.store import Store

PAGE = 4096
SIDE = (8, 8)
GONE_ON_WITH = 8  # one of so many cases is not only read, but gone on with
Folder = dict[str, bytes]


# The runs -----------------------------------------------------------------------------------------------------------------------------


def bright(module: Any, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The sum of the channels; fails on one image, whose first value is 9."""
    if (images[:, 0, 0, 0] == 9).any():
        raise ValueError("an image that cannot be explained")
    return images.sum(1)


def evaluated(folder: Path | None, **options: Any) -> Any:
    model = adapted(LinearModel(size=SIDE), size=SIDE)
    draw = torch.Generator().manual_seed(0)
    weight = model.module.head.weight.data
    weight.copy_(torch.randint(-8, 9, weight.shape, generator=draw) / 16)
    torch.nn.init.zeros_(model.module.head.bias)
    batches = []
    for number in range(4):
        images = torch.randint(-8, 9, (4, 3, *SIDE), generator=draw).float()
        images[1, 0, 0, 0] = 9 if number == 2 else 1
        region, ids = (torch.rand(4, *SIDE, generator=draw) > 0.5).float(), tuple(f"{number}{letter}" for letter in "abcd")
        batches.append(Batch(images, Targets(torch.arange(4)), ids, {"object": region}, {"odd": torch.tensor([0, 1, 0, 1])}))
    methods = [FromCallable(bright), "gradient"]
    return ak.evaluate(Labelled(model, batches), methods, ["sparseness", "energy_inside"], store=folder, controls=False, **options)


def files_of(folder: Path) -> Folder:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def made() -> tuple[dict[str, Folder], list[tuple[Any, ...]]]:
    """The files of a finished run and of one as it lay there when its process was killed, and the rows of the finished one."""
    with tempfile.TemporaryDirectory() as place:
        folder, killed = Path(place) / "run", list[Folder]()

        def watch(_problem: str, by: Any, batch: Batch, _maps: object, _found: object) -> None:
            if batch.ids[0] == "3a" and not killed:
                killed.append(files_of(folder))

        evaluated(folder, watch=watch)
        with Store(folder) as store:
            told = answers(store)
        return {"finished": files_of(folder), "killed": killed[0]}, told


def answers(store: Store) -> dict[str, Any]:
    """Everything that a run says of its scores."""
    rows = [tuple("nan" if value != value else value for value in row.values()) for row in store.scores().rows()]
    maps = [(name, digest(row)) for each in store.maps("Gradient()") for name, row in zip(each.ids, each.maps, strict=True)]
    return {"rows": rows, "failures": store.failures(), "maps": maps, "table": repr(store.table())}


def digest(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.numpy().tobytes())


RUNS: dict[str, Folder] = {}
EXPECTED: dict[str, Any] = {}


def prepare(_folder: Path) -> None:
    torch.set_num_threads(1)
    runs, told = made()
    RUNS.update(runs)
    EXPECTED.update(told)


# What is done to them -----------------------------------------------------------------------------------------------------------------


def harmed(run: Folder, rng: random.Random, changed: Iterator[bytes], name: str) -> Folder:
    """The run with some kind of damage to the file `name`."""
    maps = [other for other in run if other.startswith("maps")]
    kind = rng.choice(["mutant"] * 6 + ["page", "page", "pages", "gone", "empty", "swapped", "older"])
    content = run[name]
    if kind == "mutant" or not content:
        return {**run, name: next(changed)}
    if kind == "page":
        at = rng.randrange(max(1, len(content) // PAGE)) * PAGE
        return {**run, name: content[:at] + rng.choice([bytes(PAGE), rng.randbytes(PAGE)]) + content[at + PAGE :]}
    if kind == "pages":  # written in another order, as by a disk that lost power
        one, other = (PAGE * rng.randrange(max(1, len(content) // PAGE)) for _ in range(2))
        pages = {one: content[other : other + PAGE], other: content[one : one + PAGE]}
        return {**run, name: b"".join(pages.get(at, content[at : at + PAGE]) for at in range(0, len(content), PAGE))}
    if kind == "gone":
        return {other: data for other, data in run.items() if other != name}
    if kind == "swapped":
        first, second = rng.sample(maps, 2)
        return {**run, first: run[second], second: run[first]}
    if kind == "older":  # of a finished run the ledger, of a killed one everything else, or the other way round
        return {**run, name: RUNS["killed" if run is RUNS["finished"] else "finished"].get(name, b"")}
    return {**run, name: b""}


def damaged(rng: random.Random) -> Iterator[Case]:
    sources = {(which, name): mutants(content or b"\0", rng) for which, run in RUNS.items() for name, content in run.items()}
    while True:
        for which, run in RUNS.items():
            others = [name for name in run if name != "ledger.db"]
            wal = [name for name in others if name.endswith("-wal")]
            name = rng.choice(["ledger.db"] * 6 + wal * 6 + [rng.choice(others)] * 3)
            yield "run", packed(which, harmed(run, rng, sources[which, name], name))


def packed(which: str, run: Folder) -> bytes:
    head = json.dumps([which, [[name, len(content)] for name, content in run.items()]]).encode()
    return head + b"\n" + b"".join(run.values())


def unpacked(case: bytes, folder: Path) -> str:
    head, _, contents = case.partition(b"\n")
    which, sizes = json.loads(head)
    at = 0
    for name, size in sizes:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(contents[at : at + size])
        at += size
    return str(which)


# What must come of it -----------------------------------------------------------------------------------------------------------------


def meet(path: Path) -> None:
    """To read it gives the right answers or one error; to go on with it ends with all of them."""
    folder = path.with_name("met")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    which = unpacked(path.read_bytes(), folder)
    error = None
    try:
        with Store(folder) as store:
            check(which, answers(store))
    except AttribkitError as caught:
        error = caught
        assert str(error).isprintable() and len(str(error)) < 1000, str(error)
    if zlib.crc32(path.read_bytes()) % GONE_ON_WITH == 0:
        go_on(folder)
    if error is not None:
        raise error


def check(which: str, told: dict[str, Any]) -> None:
    if which == "finished" and told["rows"]:
        wrong = [name for name in EXPECTED if told[name] != EXPECTED[name]]
    else:  # of an earlier moment
        wrong = [name for name in ("rows", "failures", "maps") if not set(told[name]) <= set(EXPECTED[name])]
    assert not wrong, wrong


def go_on(folder: Path) -> None:
    foreign = folder / "ledger.db"
    ours = foreign.read_bytes()[60:72] if foreign.is_file() else b""
    try:
        evaluated(folder)
    except AttribkitError as error:
        assert ours != RUNS["finished"]["ledger.db"][60:72], error
        assert "no ledger of attribkit" in str(error) or "another version" in str(error), error
        return
    with Store(folder) as store:
        assert answers(store) == EXPECTED
    with contextlib.suppress(FileNotFoundError), open(os.environ.get("ATTRIBKIT_FUZZ_COUNT", ""), "a") as file:
        file.write(".")


BORDERS = {"runs": Border(560, damaged, meet, (AttribkitError,), prepare)}

if __name__ == "__main__":
    main(BORDERS)
