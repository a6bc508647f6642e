"""The run on disk: who works on what, what is kept of it and how, and what a folder that is harmed is good for."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from models import LinearModel, adapted

from attribkit import Batch, Targets
from attribkit.attribution import Attribution
from attribkit.errors import BadInput, BrokenRun
from attribkit.evaluating import leased as on_leases
from attribkit.evaluating.leased import Bench
from attribkit.evaluating.preparing import prepared
from attribkit.evaluating.scoring import Run
from attribkit.evaluating.units import Work
from attribkit.maps import doubled, halved
from attribkit.methods import Gradient
from attribkit.metrics import METRICS
from attribkit.problems import Labelled
from attribkit.store import leases, planning, results
from attribkit.store import shards as files
from attribkit.store.folder import Workshop
from attribkit.store.ledger import Ledger
from attribkit.store.planning import Asked, Asker, Plan
from attribkit.store.results import Done, Known, Scored, Trouble

SIDE = (8, 8)
A, B = Asker("A()", "A()", False), Asker("B()", "B()", True)
X, Y = Asked("X()", "X()", True), Asked("Y()", "Y()", False)
PAIRS = [(A, X), (A, Y), (B, X)]


def asked(ledger: Ledger, *numbers: int, pairs=PAIRS, label: str = "problem") -> Ledger:
    """A ledger that is asked for these shards, of two images each."""
    planning.ask(ledger, [Plan(label, "model", pairs, [(number, f"content {number}", 2) for number in numbers])])
    return ledger


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path, writing=True)
    yield made
    made.close()


def known(*names: str, **groups) -> Known:
    return Known(names, tuple(range(len(names))), groups)


def scores(*names: str, start: float = 0.0, curves=None) -> Scored:
    values = np.arange(len(names), dtype=np.float32) + np.float32(start)
    return Scored(names, values, values / 2, curves)


def done(method: str = "A()", names=("p", "q"), metrics=("X()", "Y()"), troubles=(), file=None, start=0.0) -> Done:
    found = {metric: scores(*names, start=start + place) for place, metric in enumerate(metrics)}
    return Done(method, known(*names), found, tuple(troubles), 1.5, file, None if file is None else f"digest of {file}")


def everything(ledger: Ledger) -> dict[str, list[tuple[object, ...]]]:
    return {table: ledger.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in ("about", "score", "work", "failure")}


# Leases -------------------------------------------------------------------------------------------------------------------------------


def test_shards_are_taken_in_order_and_once(ledger):
    asked(ledger, 0, 1, 2)
    taken = [leases.take(ledger, worker) for worker in ("a", "b", "a", "c")]
    assert [each and (each.number, each.worker, each.tries) for each in taken] == [(0, "a", 0), (1, "b", 0), (2, "a", 0), None]
    assert taken[0].todo == (leases.Todo("A()", ("X()", "Y()"), None, None), leases.Todo("B()", ("X()",), None, None))
    assert (taken[0].problem, taken[0].model, taken[0].content) == ("problem", "model", "content 0")
    assert [(worker, doing) for worker, _, doing in leases.holders(ledger)] == [("a", "reading"), ("b", "reading"), ("a", "reading")]


def test_only_what_is_asked_for_is_taken(ledger):
    asked(ledger, 0, 1, 2)
    asked(ledger, 1)
    assert leases.anything(ledger) and leases.take(ledger, "a").number == 1 and leases.take(ledger, "a") is None
    asked(ledger, 2, 3, label="another")
    assert [(each.problem, each.number) for each in iter(lambda: leases.take(ledger, "b"), None)] == [("another", 2), ("another", 3)]
    asked(ledger)
    assert not leases.anything(ledger) and leases.take(ledger, "c") is None


def test_what_is_finished_is_not_taken_again(ledger):
    asked(ledger, 0)
    first = leases.take(ledger, "a")
    results.commit(ledger, first.id, done())
    leases.finish(ledger, first)
    second = leases.take(ledger, "a")  # B is left
    assert (second.tries, second.todo) == (0, (leases.Todo("B()", ("X()",), None, None),))
    results.commit(ledger, second.id, done("B()", metrics=["X()"]))
    leases.finish(ledger, second)
    assert leases.take(ledger, "a") is None and not leases.anything(ledger)
    asked(ledger, 0, pairs=[*PAIRS, (B, Y)])
    assert leases.take(ledger, "a").todo == (leases.Todo("B()", ("Y()",), None, None),)


def test_a_shard_is_given_back_by_none_but_its_holder(ledger):
    asked(ledger, 0)
    mine = leases.take(ledger, "a")
    leases.mark(ledger, mine._replace(worker="b"), doing="theirs")
    leases.finish(ledger, mine._replace(worker="b"))
    assert [(worker, doing) for worker, _, doing in leases.holders(ledger)] == [("a", "reading")]
    before = leases.holders(ledger)[0][1]
    leases.mark(ledger, mine, doing="A()", probing="p")
    leases.alive(ledger, mine)
    assert leases.holders(ledger)[0][::2] == ("a", "p") and leases.holders(ledger)[0][1] > before


def test_what_nobody_died_of_comes_first(ledger):
    asked(ledger, 0, 1, 2)
    for _ in range(2):
        leases.take(ledger, "a")
    leases.lost(ledger, "a", "it died")
    order = [leases.take(ledger, "b") for _ in range(3)]
    assert [(each.number, each.tries) for each in order] == [(2, 0), (0, 1), (1, 1)]


def test_to_be_ended_from_outside_makes_nothing_suspect(ledger):
    asked(ledger, 0)
    for _ in range(5):
        leased = leases.take(ledger, "a")
        leases.mark(ledger, leased, probing="p")
        leases.lost(ledger, "a", None)
        assert (leased.tries, leased.suspects, leased.without) == (0, (), frozenset())
    assert leases.holders(ledger) == []


def test_what_a_process_dies_of_alone_is_suspect_and_then_left_out(ledger):
    asked(ledger, 0)
    seen = []
    for image in ("q", None, "p", "q", "p"):
        leased = leases.take(ledger, "a")
        seen.append((leased.tries, leased.suspects, leased.without))
        leases.mark(ledger, leased, doing="A()", probing=image)
        leases.lost(ledger, "a", f"killed by {image}")
    last = leases.take(ledger, "a")
    assert seen == [
        (0, (), frozenset()),
        (1, ("q",), frozenset()),
        (2, ("q",), frozenset()),
        (3, ("p", "q"), frozenset()),
        (4, ("p",), {"q"}),
    ]
    assert (last.tries, last.suspects, last.without) == (5, (), {"p", "q"})
    assert dict(ledger.rows("SELECT image, reason FROM suspect")) == {"p": "killed by p", "q": "killed by q"}


def test_blame_is_a_death_of_each(ledger):
    asked(ledger, 0)
    leased = leases.take(ledger, "a")
    leases.blame(ledger, leased, ["p", "q"], "lost")
    leases.blame(ledger, leased, ["q"], "lost again")
    leases.finish(ledger, leased)
    assert leases.take(ledger, "a").without == {"q"} and leases.DEATHS == 2


def test_a_lost_process_takes_back_all_that_it_held_and_no_more(ledger):
    asked(ledger, 0, 1, 2)
    for worker in ("a", "b", "a"):
        leases.take(ledger, worker)
    leases.lost(ledger, "a", "it died")
    assert [worker for worker, _, _ in leases.holders(ledger)] == ["b"]
    assert [leases.take(ledger, "c").number for _ in range(2)] == [0, 2]


def test_finished_work_forgets_its_tries(ledger):
    asked(ledger, 0, 1)
    leases.take(ledger, "a")
    leases.lost(ledger, "a", "it died")
    again = leases.take(ledger, "a", only=1)
    assert again.tries == 1
    leases.finish(ledger, again)
    assert leases.take(ledger, "a", only=1).tries == 0
    assert leases.take(ledger, "a", only=1) is None and leases.take(ledger, "a", only=99) is None


# What works on a run by itself: every shard that it gets is kept, with scores that tell it from the others, and printed.
TAKING = """
import sys
from pathlib import Path
import numpy as np
from attribkit.store import leases, results
from attribkit.store.ledger import Ledger

def take_all(folder, name, say):
    ledger = Ledger(Path(folder), writing=True)
    while (leased := leases.take(ledger, name)) is not None:
        names, values = (f"{leased.number}", f"{leased.number}'"), np.array([leased.number, leased.number + 1], np.float32)
        made = {metric: results.Scored(names, values, values / 2) for metric in ("X()", "Y()")}
        results.commit(ledger, leased.id, results.Done("A()", results.Known(names, (0, 1), {}), made, (), 1.0))
        leases.finish(ledger, leased)
        say(leased.number)
    ledger.close()
"""


def check_taken(ledger: Ledger, count: int, found: list[list[int]]) -> None:
    assert sorted(number for each in found for number in each) == list(range(count))
    blocks = results.blocks(ledger)
    assert [block.scores.tolist() for block in blocks] == [[number, number + 1] for number in range(count)] * 2
    assert [float(block.known.names[0]) for block in blocks] == [*range(count)] * 2


def test_threads_never_get_the_same_shard(tmp_path):
    space: dict[str, object] = {}
    exec(TAKING, space)
    with contextlib.closing(Ledger(tmp_path, writing=True)) as ledger:
        asked(ledger, *range(60), pairs=[(A, X), (A, Y)])
        found: list[list[int]] = [[], [], []]
        threads = [
            threading.Thread(target=space["take_all"], args=(tmp_path, f"{number}", each.append)) for number, each in enumerate(found)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        check_taken(ledger, 60, found)


def test_processes_never_get_the_same_shard(tmp_path):
    """They begin together, when the file `go` is there."""
    waiting = "import time\nprint('ready', flush=True)\nwhile not Path('go').exists(): time.sleep(0.001)\n"
    code = f"{TAKING}\n{waiting}take_all('.', sys.argv[1], print)"
    with contextlib.closing(Ledger(tmp_path, writing=True)) as ledger:
        asked(ledger, *range(200), pairs=[(A, X), (A, Y)])
        workers = [
            subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True, cwd=tmp_path) for name in ("a", "b")
        ]
        assert [each.stdout.readline() for each in workers] == ["ready\n"] * 2
        (tmp_path / "go").touch()
        found = [list(map(int, each.communicate(timeout=60)[0].split())) for each in workers]
        assert min(map(len, found)) > 0
        check_taken(ledger, 200, found)


# What is done is kept, all of it or nothing -------------------------------------------------------------------------------------------


def test_what_is_committed_is_read_back(ledger):
    asked(ledger, 0)
    curves = np.array([[1, 0.5, 0.1], [0, 0.25, 3]], np.float16)
    scored = Scored(("q", "p"), np.array([1.5, math.nan], np.float32), np.array([0.5, math.nan], np.float32), curves)
    labels = known("p", "q", place=["x", None], odd=[1, 0])
    results.commit(ledger, 1, Done("A()", labels, {"X()": scored, "Y()": scores()}, (), 2.0, "file", "digest"))
    first, second = results.blocks(ledger)
    assert first[:6] == ("problem", "model", "A()", "X()", True, False) and second[3:5] == ("Y()", False)
    assert first.known == labels and first.places.tolist() == [1, 0]
    assert np.array_equal(first.scores, scored.scores, equal_nan=True) and np.array_equal(first.chances, scored.chances, equal_nan=True)
    assert np.array_equal(first.curves, curves) and second.curves is None and len(second.scores) == 0
    assert ledger.rows("SELECT images, file, digest, seconds FROM work") == [(2, "file", "digest", 2.0)]


@pytest.mark.parametrize("table", ["score", "work", "failure"])
def test_a_commit_that_breaks_off_leaves_nothing(ledger, table):
    asked(ledger, 0)
    results.commit(ledger, 1, done("B()", metrics=["X()"]))
    before = everything(ledger)
    ledger.db.execute(f"CREATE TEMP TRIGGER harm BEFORE INSERT ON main.{table} BEGIN SELECT RAISE(ABORT, 'the plug was pulled'); END")
    with pytest.raises(BrokenRun, match="the plug was pulled"):
        results.commit(ledger, 1, done(names=("r", "s"), troubles=[Trouble(("t",), "A()", "explain", "no")]))
    assert everything(ledger) == before and not ledger.db.in_transaction
    ledger.db.execute("DROP TRIGGER harm")
    results.commit(ledger, 1, done(names=("r", "s")))
    assert len(everything(ledger)["score"]) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_raises_in_the_middle_is_undone(ledger, error):
    asked(ledger, 0)

    class Harmful(dict):
        def items(self):
            yield "X()", scores("p", "q")
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        results.commit(ledger, 1, Done("A()", known("p", "q"), Harmful(), (), 1.0))
    assert not any(everything(ledger).values())


def test_to_commit_twice_is_to_commit_once(ledger):
    asked(ledger, 0)
    one = done(troubles=[Trouble(("r",), "A()", "explain", "no"), Trouble((), "A()", "Y()", "never")], file="f")
    results.commit(ledger, 1, one)
    before = everything(ledger)
    results.commit(ledger, 1, one)
    after = everything(ledger)
    assert [row[:-1] for row in after.pop("work")] == [row[:-1] for row in before.pop("work")]  # it took twice as long
    assert after == before and ledger.rows("SELECT seconds FROM work") == [(3.0,)]


def test_what_is_kept_stays_and_what_is_missing_is_added(ledger):
    """As where a method was explained anew for a metric that came later: the last file is the one that lies there."""
    asked(ledger, 0)
    results.commit(ledger, 1, done(metrics=["X()"], file="first"))
    results.commit(ledger, 1, done(metrics=["X()", "Y()"], start=10, file="second"))
    results.commit(ledger, 1, done(metrics=["Y()"], start=20))
    assert [block.scores.tolist() for block in results.blocks(ledger)] == [[0, 1], [11, 12]]
    assert ledger.rows("SELECT file, digest FROM work") == [("second", "digest of second")]


def test_images_that_only_some_methods_could_explain(ledger):
    """Names come together from all of them, labels and places with them."""
    asked(ledger, 0)
    results.commit(ledger, 1, Done("A()", known("q", odd=[1]), {"X()": scores("q"), "Y()": scores("q")}, (), 1.0))
    results.commit(ledger, 1, Done("B()", known("p", "q", odd=[0, 1], place=["x", "y"]), {"X()": scores("p", "q", start=5)}, (), 1.0))
    first, _, last = results.blocks(ledger)
    assert first.known.names == ("q", "p") and first.known.groups == {"odd": [1, 0], "place": [None, "x"]}
    assert (first.places.tolist(), first.scores.tolist()) == ([0], [0]) and (last.places.tolist(), last.scores.tolist()) == ([1, 0], [5, 6])


def test_failures_are_one_for_each_image_and_reason(ledger):
    asked(ledger, 0, 1)
    results.fail(ledger, 1, [Trouble(("p",), "A()", "explain", "no"), Trouble(("p", "q"), "B()", "explain", "no")])
    results.fail(ledger, 1, [Trouble(("p",), "A()", "explain", "no"), Trouble((), "A()", "X()", "never")])
    results.fail(ledger, 2, [Trouble(("z",), "", "read", "broken")])
    planning.add_notes(ledger, [("problem", "X()", "no masks"), ("problem", "X()", "no masks")])
    assert results.failures(ledger) == [
        ("problem", "X()", "no masks", "", ()),
        ("A()", "X()", "never", "problem", ("A()",)),
        ("p", "explain", "no", "problem", ("A()", "B()")),
        ("q", "explain", "no", "problem", ("B()",)),
        ("z", "read", "broken", "problem", ()),
    ]
    asked(ledger, 0, pairs=[(B, X)])
    assert [each[0::4] for each in results.failures(ledger)] == [("p", ("B()",)), ("q", ("B()",))]


def test_to_ask_is_all_or_nothing(ledger):
    asked(ledger, 0, 1)

    def plans():
        yield Plan("another", "model", PAIRS, [(0, "content", 2)])
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        planning.ask(ledger, plans())
    assert [leases.take(ledger, "a").problem for _ in range(2)] == ["problem"] * 2
    results.blocks(ledger)  # what is asked matches its check sum


def test_forgotten_work_is_done_again(ledger):
    asked(ledger, 0, 1)
    for shard in (1, 2):
        results.commit(ledger, shard, done(troubles=[Trouble(("r",), "A()", "explain", "no")]))
        results.commit(ledger, shard, done("B()", metrics=["X()"]))
        leases.finish(ledger, leases.take(ledger, "a", only=shard))
    assert not leases.anything(ledger)
    planning.forget_work(ledger, [(2, 1)])
    left = leases.take(ledger, "a")
    assert (left.number, [each.method for each in left.todo]) == (1, ["A()"]) and len(results.failures(ledger)) == 1


def test_shards_that_end_their_process_again_and_again(tmp_path):
    """After so many tries images are explained one by one, after more they are given up: without an end of the process, by the ledger."""
    torch.manual_seed(0)
    model = adapted(LinearModel(size=SIDE), size=SIDE)
    batch = Batch(torch.randn(3, 3, *SIDE), Targets(torch.zeros(3, dtype=torch.int64)), tuple("pqr"))
    problem, sizes = Labelled(model, [batch]), []
    run = Run([Gradient()], [METRICS["sparseness"]()])
    run.maps = "float16"
    run.watch = lambda _problem, _by, part, _maps, _found: sizes.append(len(part))
    with Workshop(tmp_path) as shop:
        prepared(shop, run, [problem])
        bench = Bench(shop.ledger, Work(run, run.lined_up, tmp_path / "maps"), {(problem.label, model.name): problem})

        def tried(times: int) -> None:
            shop.ledger.db.execute("UPDATE shard SET tries = ?, lease = NULL, complete = 0", (times,))
            planning.forget_work(shop.ledger, [(1, 1)])
            sizes.clear()
            bench.do(leases.take(shop.ledger, "me"))

        alone = [1, 1, 1]  # to see which of them ends it
        tried(0)
        expected = shop.scores().rows()
        assert sizes == [3]
        expected = [row["score"] for row in shop.scores().rows()]
        for times, then in ((1, [3]), (on_leases.APART, [3]), (on_leases.APART + 1, alone), (on_leases.HOPELESS, alone)):
            tried(times)
            assert sizes == alone + then
            assert [row["score"] for row in shop.scores().rows()] == pytest.approx(expected, abs=1e-6)
        tried(on_leases.HOPELESS + 1)
        assert sizes == [] and len(shop.scores()) == 0
        assert [(each.id, each.stage) for each in shop.failures()] == [(name, "worker") for name in "pqr"]
        assert all("25 times, though none of them did alone" in each.reason for each in shop.failures())


def test_an_image_that_is_left_out_costs_itself(tmp_path):
    torch.manual_seed(0)
    model = adapted(LinearModel(size=SIDE), size=SIDE)
    problem = Labelled(model, [Batch(torch.randn(3, 3, *SIDE), Targets(torch.zeros(3, dtype=torch.int64)), tuple("pqr"))])
    run = Run([Gradient()], [METRICS["sparseness"]()])
    with Workshop(tmp_path) as shop:
        prepared(shop, run, [problem])
        leases.blame(shop.ledger, leases.take(shop.ledger, "me"), ["q"], "killed")
        leases.lost(shop.ledger, "me", "killed")
        first = leases.take(shop.ledger, "me")
        leases.blame(shop.ledger, first, ["q"], "killed again")
        leases.lost(shop.ledger, "me", "killed")
        Bench(shop.ledger, Work(run, run.lined_up, tmp_path / "maps"), {(problem.label, model.name): problem}).do(
            leases.take(shop.ledger, "me")
        )
        assert [row["id"] for row in shop.scores().rows()] == ["p", "r"] and not leases.anything(shop.ledger)
        assert shop.failures() == [
            ("q", "worker", "left out: alone it ended its process 2 times: killed again", problem.label, ()),
        ]


# Files of maps ------------------------------------------------------------------------------------------------------------------------


def attribution(maps: torch.Tensor, start: int = 0, **settings) -> Attribution:
    names = tuple(f"image-{number}" for number in range(start, start + len(maps)))
    about = {"method": "A()", "size": (32, 32), "model": "model", **settings}
    return Attribution(maps.float(), Targets(torch.arange(len(maps))), names, **about)


def kept(folder: Path, maps: torch.Tensor, precision: str = "float16") -> Attribution:
    content = files.encoded([attribution(maps)], precision)
    files.keep(folder, "file", content)
    return files.read(folder / "file", files.digest(content))


def test_half_precision_loses_at_most_one_in_2048(tmp_path):
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn(200, 7, 7, generator=draw) * torch.exp(20 * torch.randn(200, 1, 1, generator=draw))
    found = kept(tmp_path, maps).maps
    top = maps.abs().amax((1, 2), keepdim=True)
    assert ((found - maps).abs() / top).max() <= 2**-11
    near = maps.abs() > top * 2**-13  # whose halves are normal numbers
    assert ((found - maps).abs() / maps.abs())[near].max() <= 2**-11
    assert not torch.equal(found, maps)


def test_numbers_that_half_precision_holds_are_exact(tmp_path):
    powers = torch.tensor([2.0**each for each in range(-126, 127)]).view(-1, 1, 1) * torch.tensor([1.0, -0.5, 0.25, 2**-14]).view(1, 2, 2)
    assert torch.equal(kept(tmp_path, powers).maps, powers)
    whole = torch.randint(-2048, 2049, (20, 5, 3), generator=torch.Generator().manual_seed(0)).float()
    for factor in (1.0, 2.0**100, 2.0**-100):
        assert torch.equal(kept(tmp_path, whole * factor).maps, whole * factor)
    halves, units = halved(powers)
    assert halves.dtype == torch.float16 and (halves.abs().amax((1, 2)) == 1).all() and torch.equal(doubled(halves, units), powers)


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-40, 1.1754942e-38, 3.4028235e38, 65504.0, 65520.0, 1e30])
def test_the_smallest_and_the_largest_numbers(tmp_path, value):
    maps = torch.tensor([[[value, -value], [0.0, value / 2]]])
    found = kept(tmp_path, maps).maps
    assert found.isfinite().all() and ((found - maps).abs() <= maps.abs().max() * 2**-11).all()
    assert float(found[0, 0, 0]) == pytest.approx(float(maps[0, 0, 0]), rel=2**-11, abs=0)


def test_maps_that_are_not_finite_stay_so(tmp_path):
    maps = torch.tensor([[math.nan, 1.0], [math.inf, -3.0], [-math.inf, math.nan], [2.0, 1e9]]).view(4, 1, 2)
    found = kept(tmp_path, maps).maps
    assert torch.equal(found.isnan(), maps.isnan()) and torch.equal(found.isinf(), maps.isinf())
    assert (
        found[0, 0, 1] == 1
        and found[1, 0, 1] == -3
        and found[1, 0, 0] > 0 > found[2, 0, 0]
        and found[3, 0, 1] == pytest.approx(1e9, rel=2**-11)
    )


def test_single_precision_is_exact(tmp_path):
    maps = torch.randn(5, 6, 7)
    maps[0, 0, 0], maps[1, 1, 1] = math.nan, 1e-45
    assert torch.equal(kept(tmp_path, maps, "float32").maps.nan_to_num(7), maps.nan_to_num(7))


def test_a_file_says_what_it_is(tmp_path):
    parts = [attribution(torch.ones(2, 3, 4)), attribution(torch.zeros(1, 3, 4), 2)]
    content = files.encoded(parts, "float16")
    files.keep(tmp_path, "file", content)
    found = files.read(tmp_path / "file")
    assert found.ids == ("image-0", "image-1", "image-2") and found.targets.index.tolist() == [0, 1, 0]
    assert (found.method, found.model, found.size, found.targets.kind) == ("A()", "model", (32, 32), "logit")
    assert [files.encoded(parts, "float16") for _ in range(20)] == [content] * 20  # or digests would differ by chance


def test_names_of_files_tell_content_method_and_digest():
    names = {files.name_of(*words) for words in (("c", "m", "0" * 64), ("d", "m", "0" * 64), ("c", "n", "0" * 64), ("c", "m", "1" * 64))}
    assert len(names) == 4 and all(Path(name).name == name and name.endswith(".safetensors") for name in names)


def test_ten_thousand_maps_take_about_a_megabyte():
    total = heads = 0
    draw = torch.Generator().manual_seed(0)
    for start in range(0, 10_000, 32):
        maps = torch.rand(min(32, 10_000 - start), 7, 7, generator=draw)
        ids = tuple(f"n{1440764 + number}/ILSVRC2012_val_{number:08d}.JPEG" for number in range(start, start + len(maps)))
        made = Attribution(
            maps, Targets(torch.full((len(maps),), 281)), ids, "GradCAM(layer=None, relu=True)", (224, 224), "torchvision/resnet18"
        )
        content = files.encoded([made], "float16")
        total, heads = total + len(content), heads + 8 + int.from_bytes(content[:8], "little")
    assert total < 1.3e6 and heads < 0.15e6


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda content: content[:-1], "no maps of a run: .*"),
        (lambda content: b"", "no maps of a run: .*"),
        (lambda content: b"\xff" * 8 + content[8:], "no maps of a run: .*"),
        (
            lambda content: content.replace(b"attribkit/maps/1", b"attribkit/maps/2"),
            "got format 'attribkit/maps/2', allowed: 'attribkit/maps/1'",
        ),
        (lambda content: content.replace(b'\\"size\\": [32, 32]', b'\\"size\\": [32, -2]'), r"no maps of a run: .*size.*"),
        (lambda content: content.replace(b'\\"kind\\": \\"logit\\"', b'\\"kind\\": \\"legit\\"'), "no kind of target is called 'legit'.*"),
        (lambda content: content.replace(b'"ids"', b'"idz"'), "no maps of a run: 'ids'"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 255]), "no maps of a run: .*"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, harm, said):
    content = files.encoded([attribution(torch.ones(2, 2, 2))], "float16")
    (tmp_path / "file").write_bytes(harm(content))
    assert harm(content) != content
    with pytest.raises(BrokenRun, match=f"file: .*{said}$"):
        files.read(tmp_path / "file")
    with pytest.raises(BrokenRun, match="file: damaged: its digest is not the one in the ledger$"):
        files.read(tmp_path / "file", files.digest(content))


def test_names_that_would_fill_the_memory_are_not_unpacked(tmp_path):
    import zlib

    from safetensors.torch import load, save

    content = files.encoded([attribution(torch.ones(1, 2, 2))], "float16")
    bomb = zlib.compress(b'["' + b"a" * 50_000_000 + b'"]', 9)
    tensors = {**load(content), "ids": torch.tensor(list(bomb), dtype=torch.uint8)}
    (tmp_path / "file").write_bytes(save(tensors, {"about": json.dumps({"format": files.FORMAT})}))
    with pytest.raises(BrokenRun, match=r"no maps of a run: "):
        files.read(tmp_path / "file")


def test_precisions_by_name():
    assert [files.check_precision(each) for each in ("float16", "float32", "none")] == ["float16", "float32", "none"]
    with pytest.raises(BadInput, match=r"^maps: got 'half', allowed: float16, float32, none$"):
        files.check_precision("half")
    one = attribution(torch.tensor([[[1 / 3]]]))
    assert files.as_kept(one, "float16").maps.item() == float(np.float16(4 / 3)) / 4 != one.maps.item()
    assert files.as_kept(one, "float32") is files.as_kept(one, "none") is one
