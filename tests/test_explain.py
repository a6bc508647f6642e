"""From files, pictures and tensors to maps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from models import GapCNN, adapted
from PIL import Image

from attribkit import Attribution, BadInput, Batch, BrokenImage, Targets, UnknownName, explain, load_images
from attribkit.explaining import as_batch, image_ids, stream_images
from attribkit.methods import GradCAM, RandomMap

CLASSES = ["ant", "Bee", "cat", "dog", "eel"]


@pytest.fixture
def model():
    return adapted(GapCNN(), size=(24, 40), classes=CLASSES)


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(["a.png", "b.jpg", "sub/a.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 50, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def test_load_images_gives_what_the_model_wants_and_predicts(model, folder):
    batch = load_images(folder, model)
    assert batch.ids == ("a.png", "b.jpg", "sub/a.png") and batch.images.shape == (3, 3, 24, 40)
    torch.testing.assert_close(batch.images[0], model.preprocessing(Image.open(folder / "a.png")))
    torch.testing.assert_close(batch.logits, model.logits(batch.images))
    assert batch.targets.index.tolist() == batch.logits.argmax(1).tolist()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("cat", [2, 2, 2]),
        ("bee", [1, 1, 1]),
        (4, [4, 4, 4]),
        ("4", [4, 4, 4]),
        (["dog", 0, "1"], [3, 0, 1]),
        (torch.tensor([1, 2, 3]), [1, 2, 3]),
        (torch.tensor(3), [3, 3, 3]),
        (Targets(torch.tensor([2, 0, 1]), "log_odds"), [2, 0, 1]),
    ],
)
def test_targets_by_name_index_or_one_each(model, folder, asked, expected):
    targets = load_images(folder, model, asked).targets
    assert targets.index.tolist() == expected and targets.kind == ("log_odds" if isinstance(asked, Targets) else "logit")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("wolf", "no class is called 'wolf'; allowed: Bee, ant, cat, dog, eel"),
        (5, "no class is called .?5"),
        (-1, "no class is called .?-1"),
        (["cat", "dog"], "got 2, allowed: one, or one for each of 3"),
        (torch.tensor([0, 1, 5]), "target 5: allowed: a class index from 0 to 4"),
        (torch.tensor([0, 1, -1]), "target -1: allowed"),
        (torch.tensor([0.9, 1.7, 2.0]), "got a tensor of torch.float32, allowed: class indices"),
    ],
)
def test_wrong_targets_are_one_clear_line(model, folder, asked, message):
    with pytest.raises(BadInput, match=message):
        load_images(folder, model, asked)


def test_everything_that_holds_images_gives_the_same_maps(model, folder):
    path = folder / "a.png"
    expected = explain(model, load_images(path, model), "grad_cam")
    picture = Image.open(path)
    for images in (
        path,
        str(path),
        [path],
        picture,
        [picture],
        model.preprocessing(picture),
        model.preprocessing(picture)[None],
        str(folder / "a.*"),
    ):
        result = explain(model, images, GradCAM())
        assert isinstance(result, Attribution)
        torch.testing.assert_close(result.maps, expected.maps)
    assert explain(model, picture, "GradCAM(layer='features.conv1')", targets="cat").labels() == ("cat",)


def test_a_picture_that_was_photographed_sideways_is_turned(model):
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # "turn by 90 degrees to the right to see it upright"
    torch.testing.assert_close(explain(model, turned, "edge_map").maps, explain(model, upright, "edge_map").maps)


def test_scores_and_labels_travel_with_the_maps(model, folder):
    batch = load_images(folder, model, "dog", kind="probability")
    result = explain(model, batch, "random_map")
    torch.testing.assert_close(result.scores, batch.logits.softmax(1)[:, 3])
    assert result.labels() == ("dog", "dog", "dog") and result.targets.kind == "probability"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 24, 40, dtype=torch.uint8), "got .2, 3, 24, 40. torch.uint8, allowed: normalised floating-point"),
        (torch.zeros(24, 40), "got .24, 40."),
        (torch.zeros(1, 4, 24, 40), "got .1, 4, 24, 40."),
        (torch.zeros(1, 3, 0, 40), "got .1, 3, 0, 40."),
        (torch.zeros(0, 3, 24, 40), "got none, allowed: at least one"),
        (3, "got int, allowed: a Batch, a path"),
        ([torch.zeros(3, 24, 40)], "got list, allowed"),
        ("nowhere/*.png", "nowhere"),
    ],
)
def test_what_is_no_image_is_one_clear_line(model, images, message):
    with pytest.raises(BadInput, match=message):
        explain(model, images, "grad_cam")


@pytest.mark.parametrize("wrong", ["planted/shortcut-95", torch.nn.Linear(1, 1), None])
def test_what_is_no_model_is_one_clear_line(wrong):
    with pytest.raises(BadInput, match=r"model: got .*, allowed: a VisionModel, from ak.load_model"):
        explain(wrong, torch.zeros(1, 3, 24, 40), "grad_cam")


@pytest.mark.parametrize("asked", [1.5, b"x", True, {"cat"}])
def test_what_is_no_target_is_one_clear_line(model, asked):
    with pytest.raises(BadInput, match=r"targets: got .*, allowed: a class name or index"):
        explain(model, torch.zeros(1, 3, 24, 40), "grad_cam", targets=asked)


def test_numpy_integers_are_targets(model):
    assert explain(model, torch.zeros(1, 3, 24, 40), "edge_map", targets=np.int64(2)).labels() == ("cat",)
    assert explain(model, torch.zeros(2, 3, 24, 40), "edge_map", targets=np.array([2, 0])).labels() == ("cat", "ant")


def test_a_batch_without_answers_gets_its_scores(model):
    batch = Batch(torch.randn(2, 3, 24, 40), Targets(torch.tensor([0, 1])), ("a", "b"))
    torch.testing.assert_close(explain(model, batch, "edge_map").scores, model.score(batch.images, batch.targets))


def test_wrong_methods_are_one_clear_line(model):
    images = torch.zeros(1, 3, 24, 40)
    with pytest.raises(UnknownName, match=r"no method is called 'gradcam'; did you mean grad_cam"):
        explain(model, images, "gradcam")
    with pytest.raises(BadInput, match="got int, allowed: a name"):
        explain(model, images, 3)
    with pytest.raises(BadInput, match="a Batch and targets"):
        explain(model, Batch(images, Targets(torch.tensor([0])), ("a",)), "grad_cam", targets="cat")


def test_a_stream_goes_on_past_broken_files_and_keeps_the_order(model, folder):
    (folder / "a2.png").write_bytes(b"not an image")
    Image.new("L", (400_000, 1)).save(folder / "long.png")
    paths = [folder / name for name in ("a.png", "a2.png", "missing.png", "b.jpg", "long.png", "sub/a.png")]
    broken: list[BrokenImage] = []
    batches = list(stream_images(paths, model, rows=2, broken=broken))
    assert [batch.ids for batch in batches] == [("a.png",), ("b.jpg",), ("sub/a.png",)]
    assert [error.path for error in broken] == [str(folder / name) for name in ("a2.png", "missing.png", "long.png")]
    with pytest.raises(BrokenImage, match="a2.png"):
        load_images(folder, model)


def test_a_picture_whose_file_is_cut_short_is_a_broken_image(model, folder):
    whole = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    with Image.open(folder / "b.jpg") as picture, pytest.raises(BrokenImage, match=r"b.jpg: truncated or damaged"):
        explain(model, picture, "grad_cam")


def test_ids_are_the_paths_below_what_they_share(tmp_path):
    assert image_ids([tmp_path / "x" / "a.png", tmp_path / "y" / "a.png"]) == ["x/a.png", "y/a.png"]
    assert image_ids([tmp_path / "a.png"]) == ["a.png"]
    assert image_ids([]) == []


def test_a_batch_of_tensors_knows_what_the_model_answers(model):
    batch = as_batch(torch.randn(2, 3, 24, 40), model, ids=["one", "two"])
    assert batch.ids == ("one", "two") and batch.logits.shape == (2, 5)
    again = RandomMap()(model, dataclasses.replace(batch, logits=None))
    assert again.scores is None
