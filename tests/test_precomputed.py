"""Maps that somebody else made: every form they may be stored in, what is refused and in which words, damaged files, and callables."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from models import SIZE, GapCNN, Recorded, SingleLogit, TinyViT, adapted
from safetensors.torch import save_file
from torch import Tensor, nn

from attribkit import METHODS, Attribution, BadInput, Batch, Targets, Unsupported
from attribkit.errors import BrokenFile
from attribkit.methods import AtLayer, Captum, CentreMap, FromCallable, Gradient, InputXGradient, Precomputed, RandomMap, Smooth
from attribkit.metrics import CompletenessGap, SensitivityMax
from attribkit.registry import needed, read, usage

IDS = ("cat.jpg", "dogs/dog.png", "v1.5")


def some(ids: tuple[str, ...] = IDS, targets: tuple[int, ...] = (0, 1, 2)) -> Batch:
    images = torch.randn(len(ids), 3, *SIZE, generator=torch.Generator().manual_seed(1))
    return Batch(images, Targets(torch.tensor(targets[: len(ids)])), ids)


def stored(folder: Path, ids: tuple[str, ...] = IDS, ending: str = ".npy", keep_suffix: bool = True) -> Tensor:
    """A random map for each id, in a file each."""
    maps = torch.randn(len(ids), 6, 10, generator=torch.Generator().manual_seed(2))
    for name, one in zip(ids, maps, strict=True):
        path = folder / ((name if keep_suffix else re.sub(r"\.(jpg|png)$", "", name)) + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, one.numpy()) if ending == ".npy" else save_file({"anything": one}, path)
    return maps


def loaded(folder: Path, batch: Batch | None = None) -> Tensor:
    return Precomputed(str(folder))(adapted(GapCNN()), batch or some()).maps


def of_one(folder: Path, array: np.ndarray) -> Tensor:
    np.save(folder / "cat.npy", array)
    return loaded(folder, some(IDS[:1]))[0]


# Files -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_suffix", [True, False])
@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
def test_maps_are_found_by_id_with_or_without_its_suffix(tmp_path, ending, keep_suffix):
    maps = stored(tmp_path, ending=ending, keep_suffix=keep_suffix)
    torch.testing.assert_close(loaded(tmp_path), maps, rtol=0, atol=0)
    batch = some()
    mixed = Batch(batch.images[[2, 0]], batch.targets[torch.tensor([2, 0])], (IDS[2], IDS[0]))
    torch.testing.assert_close(loaded(tmp_path, mixed), maps[[2, 0]], rtol=0, atol=0)


def test_the_result_is_an_attribution_like_any_other_and_the_model_is_asked_nothing(tmp_path):
    maps, module = stored(tmp_path), Recorded(GapCNN())
    model, batch = adapted(module), some()
    made = Precomputed(str(tmp_path))(model, batch)
    assert made.method == f"Precomputed(folder={str(tmp_path)!r})" and made.ids == IDS and made.size == SIZE
    torch.testing.assert_close(made.at(), dataclasses.replace(made, maps=maps).at(), rtol=0, atol=0)
    assert not module.rows and not Precomputed.needs
    assert torch.isfinite(CompletenessGap()(model, batch, made)).all()


def test_the_whole_name_comes_before_the_one_without_suffix(tmp_path):
    np.save(tmp_path / "cat.npy", np.zeros((2, 2)))
    np.save(tmp_path / "cat.jpg.npy", np.ones((2, 2)))
    assert (loaded(tmp_path, some(("cat.jpg",))) == 1).all()
    assert (loaded(tmp_path, some(("cat",))) == 0).all()


def test_a_dot_in_a_name_is_no_suffix(tmp_path):
    np.save(tmp_path / "v1.npy", np.zeros((2, 2)))
    with pytest.raises(BadInput, match=r"got no map of 'v1.5' \(1 of 1 images have none\)"):
        loaded(tmp_path, some(("v1.5",)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", ">f8", "int8", "uint8", "int64", "uint64", "bool", "longdouble"])
def test_every_kind_of_real_number_is_read(tmp_path, dtype):
    array = (np.arange(6).reshape(2, 3) % 2).astype(dtype)
    found = of_one(tmp_path, array)
    assert found.dtype == torch.float32 and found.tolist() == [[0, 1, 0], [1, 0, 1]]
    assert of_one(tmp_path, np.asfortranarray(array)).tolist() == found.tolist()


def test_channels_are_summed(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 4, 6))
    torch.testing.assert_close(of_one(tmp_path, array), torch.from_numpy(array.sum(0)).float())
    torch.testing.assert_close(of_one(tmp_path, array[None]), torch.from_numpy(array.sum(0)).float())
    torch.testing.assert_close(of_one(tmp_path, array[:1]), torch.from_numpy(array[0]).float(), rtol=0, atol=0)
    torch.testing.assert_close(of_one(tmp_path, np.ones((512, 7, 7), dtype=np.int32)), torch.full((7, 7), 512.0), rtol=0, atol=0)
    torch.testing.assert_close(of_one(tmp_path, np.ones((3, 5, 3))), torch.full((5, 3), 3.0), rtol=0, atol=0)


@pytest.mark.parametrize("key", ["map", "maps", "only"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int32])
def test_tensors_of_safetensors_are_told_by_name(tmp_path, key, dtype):
    wanted = torch.arange(6).view(1, 2, 3).to(dtype)
    beside = {} if key == "only" else {"another": torch.zeros(2, 3)}
    save_file({key: wanted, **beside}, tmp_path / "cat.safetensors")
    torch.testing.assert_close(loaded(tmp_path, some(IDS[:1])), wanted.float(), rtol=0, atol=0)
    save_file({"one": torch.zeros(2, 3), "two": torch.zeros(2, 3)}, tmp_path / "cat.safetensors")
    with pytest.raises(BrokenFile, match="2 tensors, allowed: one, or one called 'map' or 'maps'"):
        loaded(tmp_path, some(IDS[:1]))


def test_a_saved_attribution_is_read_by_id_and_target(tmp_path):
    model = adapted(GapCNN())
    ids = (*IDS, IDS[0])
    made = RandomMap()(model, dataclasses.replace(some(("a", "b", "c", "d"), (0, 1, 2, 4)), ids=ids))
    path = made.save(tmp_path / "all.safetensors")
    torch.testing.assert_close(loaded(path), made.maps[:3], rtol=0, atol=0)
    torch.testing.assert_close(loaded(path, some(IDS[:1], (4,))), made.maps[3:], rtol=0, atol=0)
    with pytest.raises(BadInput, match=r"got a map of 'dogs/dog.png' that explains class 1, allowed: the class asked for, 3"):
        loaded(path, some(IDS, (0, 3, 2)))
    with pytest.raises(BadInput, match=r"got no map of 'x' \(2 of 3 images have none\), allowed: one for each"):
        loaded(path, some((IDS[0], "x", "y")))
    # In a file of its own an image's Attribution may call it by another name.
    made[1:2].save(tmp_path / "maps" / "cat.safetensors")
    torch.testing.assert_close(loaded(tmp_path / "maps", some(IDS[:1], (1,))), made.maps[1:2], rtol=0, atol=0)
    made[:3].save(tmp_path / "maps" / "cat.safetensors")
    torch.testing.assert_close(loaded(tmp_path / "maps", some(IDS[:1])), made.maps[:1], rtol=0, atol=0)


def test_one_file_has_a_tensor_for_each_id(tmp_path):
    maps = torch.randn(3, 2, 4)
    path = tmp_path / "all.safetensors"
    save_file({"v1.5": maps[2].clone(), "cat": maps[0].clone(), "dogs/dog.png": maps[1].clone(), "other": torch.zeros(9, 9)}, path)
    torch.testing.assert_close(loaded(path), maps, rtol=0, atol=0)
    with pytest.raises(
        BadInput, match=r"got no map of 'y' \(1 of 2 images have none\), allowed: a saved Attribution, or a tensor called <id>"
    ):
        loaded(path, some(("cat", "y")))


def test_missing_maps_are_counted_and_the_first_is_named(tmp_path):
    stored(tmp_path, IDS[:1])
    with pytest.raises(BadInput, match=r"got no map of 'dogs/dog.png' \(2 of 3 images have none\), allowed: <id>.npy or <id>.safetensors"):
        loaded(tmp_path)
    with pytest.raises(BadInput, match="got no such folder or file"):
        loaded(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="does not say whose maps it holds"):
        loaded(tmp_path / "cat.jpg.npy")


@pytest.mark.parametrize("name", ["../cat.jpg", "a/../../cat.jpg", "/cat.jpg", "..", "a\0b", "x" * 5000])
def test_ids_lead_to_no_file_outside_of_the_folder(tmp_path, name):
    np.save(tmp_path / "cat.npy", np.zeros((2, 2)))
    (tmp_path / "maps" / "a").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"would lie outside of|got no map of"):
        loaded(tmp_path / "maps", some((name,)))
    if ".." in name or name[0] == "/":
        with pytest.raises(BadInput, match=r"image '.*': its map would lie outside of .*maps"):
            loaded(tmp_path / "maps", some((name,)))


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_links_lead_to_no_file_outside_of_the_folder(tmp_path):
    np.save(tmp_path / "secret.npy", np.zeros((2, 2)))
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "cat.npy").symlink_to(tmp_path / "secret.npy")
    with pytest.raises(BadInput, match="leads out of its folder"):
        loaded(tmp_path / "maps", some(IDS[:1]))
    (tmp_path / "linked").symlink_to(tmp_path / "maps")
    np.save(tmp_path / "maps" / "v1.5.npy", np.zeros((2, 2)))
    assert loaded(tmp_path / "linked", some(("v1.5",))).shape == (1, 2, 2)  # the folder itself may be one


def test_one_file_is_not_the_map_of_two_images(tmp_path):
    np.save(tmp_path / "cat.npy", np.zeros((2, 2)))
    with pytest.raises(BadInput, match=r"that of cat.jpg and of cat.png, allowed: one whose name says which"):
        loaded(tmp_path, some(("cat.jpg", "cat.png")))
    assert loaded(tmp_path, some(("cat.jpg", "cat.jpg"))).shape == (2, 2, 2)


def test_maps_of_one_batch_have_one_size(tmp_path):
    stored(tmp_path)
    np.save(tmp_path / "v1.5.npy", np.zeros((7, 7)))
    with pytest.raises(BadInput, match=r"got maps of 6 x 10 and 7 x 7 \(cat.jpg, v1.5\), allowed: one size for all"):
        loaded(tmp_path)


REFUSED = {
    "NaN or infinity": [
        np.array([[1, np.nan]]),
        np.array([[np.inf, 0]]),
        np.array([[1e300, 0]]),
        np.array([[-np.inf, 0]], dtype=np.float16),
    ],
    "allowed: real numbers": [
        np.zeros((2, 2), complex),
        np.array([["a", "b"]]),
        np.zeros((2, 2), "datetime64[s]"),
        np.zeros((2, 2), [("a", "f4")]),
    ],
    "got a map of": [np.zeros(4), np.zeros((1, 2, 3, 4, 5)), np.zeros((2, 3, 4, 4)), np.float32(1)],
    "channels last": [np.zeros((20, 30, 3)), np.zeros((20, 30, 1))],
    "cannot be read as a map|not empty": [np.zeros((0, 4)), np.zeros((3, 0, 4)), np.array([[{}]], dtype=object)],
}


@pytest.mark.parametrize(("words", "array"), [(words, array) for words, arrays in REFUSED.items() for array in arrays])
def test_what_is_no_map_is_refused(tmp_path, words, array):
    with pytest.raises(BadInput, match=words) as caught:
        of_one(tmp_path, array)
    assert "cat.npy" in str(caught.value) and "\n" not in str(caught.value)


def test_odd_tensors_are_refused(tmp_path):
    save_file({"map": torch.full((2, 2), torch.nan)}, tmp_path / "cat.safetensors")
    with pytest.raises(BadInput, match="NaN or infinity"):
        loaded(tmp_path, some(IDS[:1]))
    header = b'{"map":{"dtype":"C64","shape":[2,2],"data_offsets":[0,32]}}     '  # complex, which early releases do not know
    (tmp_path / "cat.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(32))
    with pytest.raises(BadInput, match="real numbers|cannot be read as a map"):
        loaded(tmp_path, some(IDS[:1]))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_no_pickle_is_ever_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([[Bomb()]], dtype=object), allow_pickle=True)
    archive = io.BytesIO()
    np.savez(archive, np.zeros((2, 2)))
    for content in (buffer.getvalue(), pickle.dumps(Bomb()), archive.getvalue(), b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00"):
        (tmp_path / "cat.npy").write_bytes(content)
        with pytest.raises(BrokenFile, match=r"cat.npy: (cannot be read as a map|is not one array)"):
            loaded(tmp_path, some(IDS[:1]))
    assert not (tmp_path / "exploded").exists()


def test_a_header_that_promises_more_than_there_is_allocates_nothing(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**7)})
    (tmp_path / "cat.npy").write_bytes(buffer.getvalue() + bytes(800))
    with pytest.raises(BrokenFile, match="cannot be read as a map: mmap length"):
        loaded(tmp_path, some(IDS[:1]))


def test_damaged_files_raise_errors_of_ours_and_nothing_else(tmp_path):
    model, batch = adapted(GapCNN()), some(IDS[:1])
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(3, 4, 5)))
    save_file({"map": torch.randn(4, 5), "b": torch.randn(2)}, tmp_path / "a.safetensors", {"note": "x"})
    RandomMap()(model, some(("a", "b"))).save(tmp_path / "b.safetensors")
    chance, failed, fine = random.Random(0), 0, 0
    for number in range(360):
        source = tmp_path / ("a.npy", "a.safetensors", "b.safetensors")[number % 3]
        content = bytearray(source.read_bytes())
        head = min(len(content), 700 if number % 2 else 130)  # most of what can go wrong stands in the head
        for _ in range(chance.randint(1, 6)):
            content[chance.randrange(head)] = chance.choice((0, 255, 32, 44, 57, 125, chance.randrange(256)))
        damaged = tmp_path / "damaged" / f"cat{source.suffix}"
        damaged.parent.mkdir(exist_ok=True)
        damaged.write_bytes(content[: chance.randrange(len(content))] if number % 5 == 0 else content)
        try:
            maps = Precomputed(str(damaged.parent))(model, batch).maps
            assert maps.ndim == 3 and maps.isfinite().all()
            fine += 1
        except BadInput as error:
            assert "\n" not in str(error) and "cat" in str(error)
            failed += 1
        damaged.unlink()
    assert failed > 100 and fine > 20


def test_stored_maps_are_of_their_images_alone(tmp_path):
    stored(tmp_path)
    model, batch, by = adapted(GapCNN()), some(), Precomputed(str(tmp_path))
    with pytest.raises(Unsupported, match="stored maps cannot be made again for other images"):
        Smooth(by, samples=2)(model, batch)
    with pytest.raises(BadInput, match="got no map of 'noisy copy 1 of cat.jpg'"):
        SensitivityMax(samples=1)(model, batch, by(model, batch), by)


def test_what_is_needed_is_said():
    assert usage(Precomputed) == "Precomputed(folder)" and needed(Precomputed) == ["folder"]
    assert usage(FromCallable) == "FromCallable(function)" and needed(FromCallable) == ["function"]
    made = Precomputed("maps of mine")
    assert read(repr(made), METHODS) == made == read("precomputed('maps of mine')", METHODS) == pickle.loads(pickle.dumps(made))
    with pytest.raises(BadInput, match="Precomputed needs folder; got 'precomputed'"):
        read("precomputed", METHODS)
    with pytest.raises(BadInput, match=r"FromCallable\(function=...\): got 'x', allowed: a callable"):
        FromCallable("x")


# Callables ---------------------------------------------------------------------------------------------------------------------------


def by_backward(module: nn.Module, images: Tensor, index: Tensor) -> Tensor:
    """Gradient x input as people write it."""
    images.requires_grad_()
    module(images).gather(1, index.unsqueeze(1)).sum().backward()
    return (images.grad * images).detach()


def by_grad(module: nn.Module, images: Tensor, index: Tensor) -> np.ndarray:
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(leaf, index).sum(), leaf)
    return gradient.sum(1).numpy()


@pytest.mark.parametrize("network", [GapCNN, TinyViT])
@pytest.mark.parametrize("rows", [2, None])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_callable_is_a_method_like_any_other(network, rows, mode):
    model, batch = adapted(network(), max_rows=rows), some()
    with mode():
        multiplied, gradient = (FromCallable(each)(model, batch).maps for each in (by_backward, by_grad))
    torch.testing.assert_close(multiplied, InputXGradient()(model, batch).maps, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, Gradient()(model, batch).maps, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["log_odds", "probability", "evidence"])
@pytest.mark.parametrize("network", [GapCNN, SingleLogit])
def test_the_callable_may_ask_for_the_explained_scalar(kind, network):
    model, batch = adapted(network()), some(targets=(0, 0, 0))
    batch = dataclasses.replace(batch, targets=Targets(batch.targets.index, kind))
    torch.testing.assert_close(FromCallable(by_grad)(model, batch).maps, Gradient()(model, batch).maps, rtol=1e-5, atol=1e-7)


def test_another_library_inside_a_callable_is_what_its_adapter_gives():
    library = pytest.importorskip("captum.attr")
    model, batch = adapted(GapCNN()), some()

    def saliency(module: nn.Module, images: Tensor, index: Tensor) -> Tensor:
        return library.DeepLift(module).attribute(images.requires_grad_(), target=index)

    with pytest.warns(UserWarning, match="Setting forward, backward hooks"):
        found = FromCallable(saliency)(model, batch).maps
    torch.testing.assert_close(found, Captum("DeepLift")(model, batch).maps, rtol=1e-4, atol=1e-5)


class Careless:
    """Leaves behind all it can."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.seen, self.answers = error, [], []

    def __call__(self, module: nn.Module, images: Tensor, index: Tensor) -> Tensor:
        self.answers.append(module(images[:1]).abs().sum().item())
        self.seen.append((module.training, images.requires_grad, torch.is_grad_enabled(), images.clone(), index.clone()))
        module.train().requires_grad_(True)
        module.register_forward_hook(lambda *_: None)
        for each in module.modules():
            each.register_forward_pre_hook(lambda *_: None)
        module(images).sum().backward()
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers(), images, index):
                tensor.zero_()
        torch.manual_seed(5)
        np.random.seed(5)
        torch.set_grad_enabled(len(self.seen) < 2)
        if self.error is not None:
            raise self.error
        return torch.ones(len(images), 2, 2)


@pytest.mark.parametrize("error", [None, RuntimeError("broken on purpose"), KeyboardInterrupt("stopped on purpose")])
def test_whatever_a_callable_leaves_behind_reaches_nobody(error):
    module = GapCNN().train()
    module.head.weight.requires_grad_(False)
    model, batch = adapted(module, max_rows=2), some()
    before = [value.clone() for value in (*module.state_dict().values(), batch.images, batch.targets.index, torch.get_rng_state())]
    numbers, careless = np.random.get_state()[1].copy(), Careless(error)
    if error is None:
        assert (FromCallable(careless)(model, batch).maps == 1).all()
    else:
        with pytest.raises(type(error), match="on purpose"):
            FromCallable(careless)(model, batch)
    after = (*module.state_dict().values(), batch.images, batch.targets.index, torch.get_rng_state())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert module.training and module.features.training and torch.is_grad_enabled() and (np.random.get_state()[1] == numbers).all()
    assert [each.requires_grad for each in module.parameters()] == [each is not module.head.weight for each in module.parameters()]
    assert all(each.grad is None for each in module.parameters())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
    for rows, (training, asks, grad, images, index) in zip((slice(2), slice(2, 3)), careless.seen, strict=error is None):
        assert (training, asks, grad) == (False, False, True)
        assert torch.equal(images, batch.images[rows]) and torch.equal(index, batch.targets.index[rows])
    assert all(careless.answers), "each rows' module is as new"


def test_rows_are_those_that_fit_in_their_order():
    rows, batch = [], some(tuple("abcde"), (4, 3, 2, 1, 0))

    def function(_module: nn.Module, images: Tensor, index: Tensor) -> Tensor:
        rows.append(len(images))
        return images * index.view(-1, 1, 1, 1)

    made = FromCallable(function)(adapted(GapCNN(), max_rows=2), batch).maps
    torch.testing.assert_close(made, batch.images.sum(1) * torch.arange(4, -1, -1).view(-1, 1, 1))
    assert rows == [2, 2, 1]


@pytest.mark.parametrize(
    "returned",
    [
        lambda images: images.sum(1, keepdim=True),
        lambda images: images.double(),
        lambda images: images.sum(1).numpy().astype(np.float64),
        lambda images: images.sum(1).requires_grad_(),
        lambda images: np.asfortranarray(images.numpy())[:, ::-1],
    ],
)
def test_maps_come_in_any_common_form(returned):
    batch = some()
    made = FromCallable(lambda _module, images, _index: returned(images))(adapted(GapCNN()), batch)
    assert made.maps.dtype == torch.float32
    torch.testing.assert_close(made.maps, batch.images.sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda images: None, "returned NoneType, allowed: a tensor or an array"),
        (lambda images: [images], "returned list, allowed"),
        (lambda images: images[:1, 0], r"returned \(1, 24, 40\), allowed: \(3, h, w\) or \(3, C, h, w\)"),
        (lambda images: images[:, 0, 0], r"returned \(3, 40\)"),
        (lambda images: images[:, :, :0], r"returned \(3, 3, 0, 40\)"),
        (lambda images: images / 0, "NaN or infinity"),
        (lambda images: images.to(torch.complex64).numpy(), "allowed: real numbers"),
        (lambda images: images.to(torch.complex64), "allowed: real numbers"),
    ],
)
def test_what_a_callable_may_not_return(returned, words):
    with pytest.raises(BadInput, match=words):
        FromCallable(lambda _module, images, _index: returned(images), label="mine")(adapted(GapCNN()), some())


def test_random_draws_of_a_callable_belong_to_its_seed():
    def drawing(module: nn.Module, images: Tensor, index: Tensor) -> Tensor:
        return torch.rand(len(images), 4, 4) + torch.from_numpy(np.random.rand(len(images), 4, 4))

    model, batch = adapted(GapCNN()), some()
    first = FromCallable(drawing)(model, batch).maps
    torch.manual_seed(7)
    np.random.seed(7)
    torch.testing.assert_close(FromCallable(drawing)(model, batch).maps, first, rtol=0, atol=0)
    assert (FromCallable(drawing, seed=1)(model, batch).maps != first).any()


def test_a_callable_is_named_in_tables():
    assert repr(FromCallable(by_grad)) == "FromCallable(function=by_grad, seed=0)"
    assert FromCallable(by_grad).brief() == "FromCallable(function=by_grad)" != FromCallable(by_grad, seed=1).brief()
    assert FromCallable(Careless()).brief() == "FromCallable(function=Careless)"
    assert FromCallable(by_grad, "ours, 20 steps").brief() == "FromCallable(function=ours, 20 steps)"
    assert isinstance(FromCallable(by_grad)(adapted(GapCNN()), some()), Attribution)


def test_a_callable_can_be_wrapped():
    model, batch = adapted(GapCNN()), some()
    for wrapped, own in ((Smooth, FromCallable(by_grad)), (AtLayer, FromCallable(by_backward))):
        plain = {Smooth: Gradient(), AtLayer: InputXGradient()}[wrapped]
        settings = {"samples": 3} if wrapped is Smooth else {"layer": "features.conv1"}
        torch.testing.assert_close(
            wrapped(own, **settings)(model, batch).maps, wrapped(plain, **settings)(model, batch).maps, rtol=1e-4, atol=1e-6
        )
    assert torch.isfinite(SensitivityMax(samples=2)(model, batch, CentreMap()(model, batch), FromCallable(by_grad))).all()
