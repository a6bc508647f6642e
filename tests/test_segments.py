"""Segmenters against scikit-image called by hand, closed forms, and what must hold of worker processes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import torch

from attribkit import BadInput, OutOfMemory, segments
from attribkit.registry import read
from attribkit.segments import SEGMENTERS, SLIC, Felzenszwalb, Labels, Squares

SIZE = (24, 40)
QUICK = Felzenszwalb(scales=(50.0, 900.0), min_size=400)


@pytest.fixture
def pictures():
    """Three pictures of a few colours with some grain."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.rand(3, 3, 3, 4, generator=generator), size=SIZE, mode="nearest")
    return (0.8 * coarse + 0.2 * torch.rand(3, 3, *SIZE, generator=generator)).clamp(0, 1)


@pytest.fixture
def here(monkeypatch):
    """No worker processes: as on a machine with one processor."""
    monkeypatch.setattr(segments, "_workers", lambda: 1)


def test_squares_are_numbered_row_by_row():
    labels = Squares(side=2)(torch.zeros(2, 3, 3, 5))
    assert labels.dtype == torch.int64 and labels.tolist() == [[[[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]]] * 2


def test_felzenszwalb_is_what_the_reference_does_to_a_picture(pictures):
    # METHODS 3.1, 2: to [-1, 1] by its own extremes, to 224 x 224 by antialiased cubics, divided, and back by the nearest.
    from skimage.segmentation import felzenszwalb
    from skimage.transform import resize

    labels = QUICK(pictures)
    assert labels.shape == (3, 2, *SIZE) and labels.dtype == torch.int64
    for image in range(3):
        picture = pictures[image].permute(1, 2, 0).numpy()
        x = (picture - picture.min()) / (picture.max() - picture.min()) * 2 - 1
        x = resize(x, (224, 224), order=3, mode="constant", preserve_range=True, anti_aliasing=True)
        for place, scale in enumerate(QUICK.scales):
            expected = felzenszwalb(x, scale=scale, sigma=0.8, min_size=400)
            expected = resize(expected, SIZE, order=0, mode="constant", preserve_range=True, anti_aliasing=False)
            assert (labels[image, place].numpy() == expected).all()
    assert labels[:, 0].amax() >= labels[:, 1].amax() > 1


def test_slic_divides_into_about_as_many_as_asked(pictures):
    from skimage.segmentation import slic

    labels = SLIC(segments=20, compactness=30.0)(pictures)
    assert labels.shape == (3, 1, *SIZE) and labels.amin() == 0 and 10 <= len(labels[0].unique()) <= 30
    expected = slic(pictures[1].permute(1, 2, 0).numpy(), n_segments=20, compactness=30.0, start_label=0)
    assert (labels[1, 0].numpy() == expected).all()


@pytest.mark.parametrize("segmenter", [Felzenszwalb(), Felzenszwalb(scales=(100.0,)), SLIC()])
def test_a_picture_of_one_colour_is_no_obstacle(segmenter, here):
    labels = segmenter(torch.full((1, 3, *SIZE), 0.3))
    assert labels.shape[-2:] == SIZE
    assert isinstance(segmenter, SLIC) or (labels == 0).all()


@pytest.mark.parametrize("segmenter", [QUICK, SLIC(segments=12)])
def test_workers_give_what_this_process_gives_whatever_the_batch(segmenter, pictures, monkeypatch):
    results = []
    for count in (2, 1):
        monkeypatch.setattr(segments, "_workers", lambda count=count: count)
        results += [segmenter(pictures), torch.cat([segmenter(each) for each in pictures.split(1)])]
    assert all((each == results[0]).all() for each in results)


def test_the_work_is_done_in_other_processes_and_begins_at_once(pictures, monkeypatch):
    def process(picture):  # inside a function, so that a worker is sent all of it
        import os

        return np.full((1, 1, 1), os.getpid())

    def refusing(picture):
        raise ArithmeticError("divided in process")

    begun, there = threading.Event(), segments._in_workers
    monkeypatch.setattr(segments, "_workers", lambda: 2)
    monkeypatch.setattr(segments, "_in_workers", lambda jobs: begun.set() or there(jobs))
    waiting = segments._beside([process], pictures)
    assert begun.wait(20)
    assert os.getpid() not in waiting().flatten().tolist()
    with pytest.raises(ArithmeticError, match="divided in process"):
        segments._beside([refusing], pictures)()


def test_an_answer_that_nobody_waits_for_leaves_nothing_behind(pictures):
    waiting = QUICK.begun(pictures)
    del waiting
    assert QUICK(pictures).shape == (3, 2, *SIZE)


def test_a_worker_that_dies_is_one_clear_line(pictures, monkeypatch):
    def dying(jobs):
        raise BrokenProcessPool("a worker was killed")

    monkeypatch.setattr(segments, "_workers", lambda: 2)
    monkeypatch.setattr(segments, "_in_workers", dying)
    with pytest.raises(OutOfMemory, match=r"a worker process .* ended early, .* allowed: fewer workers, by .*LOKY_MAX_CPU_COUNT"):
        QUICK(pictures)


def test_a_script_needs_no_guard_and_ends_without_a_word(tmp_path):
    """No `if __name__ == "__main__"`: with workers that import the script, it would start itself again and again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from attribkit import segments\n"
        "segments._workers = lambda: 2\n"
        "print(tuple(segments.Felzenszwalb(scales=(100.0, 300.0))(torch.rand(1, 3, 24, 40)).shape))\n"
        "segments.SLIC().begun(torch.rand(1, 3, 24, 40))\n"
    )
    ran = subprocess.run([sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "(1, 2, 24, 40)\n", "")


def test_what_workers_import_does_not_load_torch():
    code = "import sys, attribkit.dividing; print('torch' in sys.modules, 'skimage.segmentation' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "False False\n"


def test_under_another_pools_worker_there_are_no_workers(monkeypatch):
    class Daemon:
        daemon = True

    assert segments._workers() >= 1
    monkeypatch.setattr("multiprocessing.current_process", Daemon)
    assert segments._workers() == 1


# One's own label maps ----------------------------------------------------------------------------------------------------------------


def test_own_labels_serve_every_picture_each_or_in_several_maps():
    one = torch.arange(24 * 40).view(SIZE) // 480
    pixels = torch.rand(3, 3, *SIZE)
    assert (Labels(one)(pixels) == one.expand(3, 1, *SIZE)).all()
    each = torch.stack((one, 1 - one, one))
    assert (Labels(each)(pixels) == each.unsqueeze(1)).all() and (Labels(each.numpy())(pixels) == each.unsqueeze(1)).all()
    several = torch.stack((each, 1 - each), 1).to(torch.uint8)
    labels = Labels(several)(pixels)
    assert labels.dtype == torch.int64 and (labels == several).all()


def test_own_numbers_lose_their_gaps_and_keep_their_order():
    given = torch.tensor([[-7, 10**12, 5], [5, 0, -1]])
    assert Labels(given)(torch.zeros(1, 3, 2, 3)).tolist() == [[[[-1, 2, 1], [1, 0, -1]]]]
    assert Labels(given.clamp_min(0) + 3)(torch.zeros(1, 3, 2, 3)).tolist() == [[[[0, 2, 1], [1, 0, 0]]]]


def test_masks_are_maps_of_one_region_each():
    masks = torch.tensor([[[True, False, False]], [[False, False, True]]])
    assert Labels(lambda picture: masks)(torch.zeros(1, 3, 1, 3)).tolist() == [[[[0, -1, -1]], [[-1, -1, 0]]]]


def test_a_function_is_shown_each_picture_and_may_find_fewer_masks_in_one():
    seen = []

    def divide(picture):
        seen.append(picture)
        return np.arange(6).reshape(1, 2, 3).repeat(1 + (picture[0, 0, 0] > 0.5), 0)

    pixels = torch.rand(2, 3, 2, 3)
    pixels[:, 0, 0, 0] = torch.tensor([0.2, 0.7])
    labels = Labels(divide)(pixels)
    assert labels.shape == (2, 2, 2, 3) and labels[:, 0].flatten(1).tolist() == [list(range(6))] * 2
    assert (labels[0, 1] == -1).all() and (labels[1, 1] == labels[1, 0]).all()
    assert seen[1].dtype == np.float32 and (seen[1] == pixels[1].permute(1, 2, 0).numpy()).all()
    assert Labels(lambda picture: np.zeros(SIZE, int))(torch.zeros(2, 3, *SIZE)).shape == (2, 1, *SIZE)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            torch.zeros(3, *SIZE, dtype=torch.int64),
            r"got \(3, 24, 40\) torch.int64, allowed: .*\(24, 40\) or \(2, 24, 40\) or \(2, L, 24, 40\)",
        ),
        (torch.zeros(2, 1, 20, 40, dtype=torch.int64), r"got \(2, 1, 20, 40\)"),
        (torch.zeros(2, 0, *SIZE, dtype=torch.int64), r"got \(2, 0, 24, 40\)"),
        (torch.zeros(SIZE), "float32, allowed: whole numbers or booleans"),
        (lambda picture: np.zeros((24, 24), int), r"got \(24, 24\) torch.int64, allowed: .*\(24, 40\) or \(L, 24, 40\)"),
    ],
)
def test_own_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(BadInput, match=message):
        Labels(labels)(torch.zeros(2, 3, *SIZE))


def test_own_labels_are_equal_to_themselves_alone_and_print_short():
    labels = torch.zeros(2, 1, *SIZE, dtype=torch.int64)
    for made in (Labels(labels), Labels(labels.numpy())):
        assert made == made and made != Labels(labels) and isinstance(hash(made), int)
        assert repr(made) == made.brief() == "Labels(<of (2, 1, 24, 40)>)"
    assert repr(Labels(test_own_labels_are_equal_to_themselves_alone_and_print_short)).startswith("Labels(<test_own_labels")
    with pytest.raises(BadInput, match="got str, allowed: a tensor, an array, or a callable"):
        Labels("mine")
    with pytest.raises(BadInput, match="cannot read"):
        read(repr(Labels(labels)), SEGMENTERS)


# Settings ----------------------------------------------------------------------------------------------------------------------------


def test_segmenters_are_read_as_they_print():
    assert set(SEGMENTERS) == {"felzenszwalb", "labels", "slic", "squares"}
    for made in (Felzenszwalb(), QUICK, SLIC(7, 0.5), Squares(3)):
        assert read(repr(made), SEGMENTERS) == made and hash(made) == hash(dataclasses.replace(made))
    assert read("felzenszwalb", SEGMENTERS) == Felzenszwalb(scales=(50, 100, 150, 250, 500, 1200))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Squares(0), "an int of at least 1"),
        (lambda: Felzenszwalb(scales=()), r"got \(\), allowed: at least one number, each above 0"),
        (lambda: Felzenszwalb(scales=(50.0, -1.0)), "each above 0"),
        (lambda: Felzenszwalb(scales=50), "a tuple of a number"),
        (lambda: Felzenszwalb(sigma=-1), "a number of at least 0"),
        (lambda: SLIC(segments=0), "an int of at least 1"),
        (lambda: SLIC(compactness=0), "a number of at least 1e-06"),
        (lambda: Squares()(torch.zeros(3, 4, 4)), r"pixels: got \(3, 4, 4\), allowed: \(B, 3, H, W\)"),
        (lambda: Squares()(torch.zeros(2, 8, 4, 4)), r"got \(2, 8, 4, 4\)"),
    ],
)
def test_wrong_settings_and_pictures_are_one_clear_line(make, message):
    with pytest.raises(BadInput, match=message):
        make()
