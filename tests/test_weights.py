"""Weights from files: the right ones load, everything else is one `BrokenWeights` of one line, and nothing in a file is ever run."""

from __future__ import annotations

import os
import random
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from models import GapCNN
from safetensors.torch import save_file
from torch import nn

from attribkit.errors import BadInput, BrokenWeights
from attribkit.model.weights import is_file_name, load_weights, read_weights

WRITERS = {".safetensors": lambda state, path: save_file({name: tensor.contiguous() for name, tensor in state.items()}, str(path))}
WRITERS |= {suffix: torch.save for suffix in (".pt", ".pth", ".bin", ".ckpt")}


def refused(path, match=None, network=None):
    """The message with which a file is refused: a `BrokenWeights` that names the file, on one line."""
    with pytest.raises(BrokenWeights, match=match) as caught:
        load_weights(GapCNN, read_weights(path), path, 5) if network is None else load_weights(network, read_weights(path), path, 5)
    assert type(caught.value) is BrokenWeights
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(module, state):
    torch.testing.assert_close(dict(module.state_dict()), dict(state), rtol=0, atol=0)


# What loads -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_state_dict_comes_back(tmp_path, suffix):
    state = GapCNN().state_dict()
    path = tmp_path / f"weights{suffix}"
    WRITERS[suffix](state, path)
    for given in (path, str(path)):
        equal(load_weights(GapCNN, read_weights(given), given, 5), state)


def test_the_old_format_of_torch_comes_back(tmp_path):
    state = GapCNN().state_dict()
    torch.save(state, tmp_path / "old.PT", _use_new_zipfile_serialization=False)
    equal(load_weights(GapCNN, read_weights(tmp_path / "old.PT"), "old.PT", 5), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": state},
        lambda state: {"model_state_dict": state, "loss": torch.tensor(1.0)},
        lambda state: {"model": {"state_dict": state, "args": [1, 2]}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
    ],
)
def test_what_a_training_script_wraps_around_them_comes_off(tmp_path, wrap):
    state = GapCNN().state_dict()
    torch.save(wrap(state), tmp_path / "checkpoint.pt")
    equal(load_weights(GapCNN, read_weights(tmp_path / "checkpoint.pt"), "checkpoint.pt", 5), state)


def test_a_head_of_other_classes_makes_a_network_of_those(tmp_path):
    state = GapCNN(classes=7).state_dict()
    torch.save(state, tmp_path / "seven.pt")
    equal(load_weights(GapCNN, read_weights(tmp_path / "seven.pt"), "seven.pt", 5), state)


def test_counters_of_batches_may_be_missing():
    state = GapCNN().state_dict()
    few = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    equal(load_weights(GapCNN, few, "few.pt", 5), state)


def test_parameters_views_and_other_precisions_are_taken_as_numbers(tmp_path):
    module = GapCNN()
    state = {name: nn.Parameter(tensor) if tensor.is_floating_point() else tensor for name, tensor in module.state_dict().items()}
    state["head.weight"] = nn.Parameter(torch.randn(8, 5).T)  # not contiguous
    state["features.conv1.weight"] = state["features.conv1.weight"].double()
    state["features.bn1.weight"], state["features.bn1.bias"] = torch.arange(16.0).chunk(2)  # one storage
    torch.save(state, tmp_path / "views.pt")
    read = read_weights(tmp_path / "views.pt")
    assert not any(tensor.requires_grad for tensor in read.values())
    loaded = load_weights(GapCNN, read, "views.pt", 5)
    torch.testing.assert_close(loaded.head.weight, state["head.weight"], rtol=0, atol=0)
    torch.testing.assert_close(loaded.features.bn1.bias.detach(), torch.arange(8.0, 16.0), rtol=0, atol=0)
    assert loaded.features.conv1.weight.dtype == torch.float32
    assert all(weight.requires_grad for weight in loaded.parameters())


def test_a_network_that_asks_for_the_version_of_its_weights():
    """MNASNet refuses weights of no stated version, which is what safetensors files have."""
    from torchvision.models import mnasnet0_5

    module = mnasnet0_5(num_classes=4)
    equal(
        load_weights(lambda classes: mnasnet0_5(num_classes=classes), dict(module.state_dict()), "mnasnet.safetensors", 4),
        module.state_dict(),
    )


# What does not fit ----------------------------------------------------------------------------------------------------------


def test_what_is_missing_unexpected_or_misshaped_is_named(tmp_path):
    state = dict(GapCNN().state_dict())
    del state["features.conv1.weight"]
    state["head.bias"] = torch.zeros(6)
    state |= {f"extra{i}": torch.zeros(1) for i in range(5)}
    state["features.bn1.weight"] = torch.zeros(9)
    torch.save(state, tmp_path / "other.pt")
    assert refused(tmp_path / "other.pt").removeprefix(f"{tmp_path}/other.pt: ") == (
        "weights are not of this network: 1 missing (features.conv1.weight); 5 unexpected (extra0, extra1, extra2, ...); "
        "2 of another shape (features.bn1.weight (9,) for (8,), head.bias (6,) for (5,))"
    )


def test_one_name_too_few_or_too_many_is_enough(tmp_path):
    state = dict(GapCNN().state_dict())
    torch.save(state | {"more": torch.zeros(1)}, tmp_path / "more.pt")
    refused(tmp_path / "more.pt", r"not of this network: 1 unexpected \(more\)$")
    del state["head.bias"]
    torch.save(state, tmp_path / "less.pt")
    refused(tmp_path / "less.pt", r"not of this network: 1 missing \(head.bias\)$")


def test_codes_of_weights_are_not_taken_for_weights(tmp_path):
    state = dict(GapCNN().state_dict())
    state["features.conv1.weight"] = torch.zeros(8, 3, 3, 3, dtype=torch.int8)
    state["features.conv2.weight"] = torch.zeros(8, 8, 3, 3, dtype=torch.complex64)
    torch.save(state, tmp_path / "codes.pt")  # older safetensors cannot hold complex numbers
    match = r"2 of another type \(features.conv1.weight torch.int8 for torch.float32, features.conv2.weight torch.complex64 for"
    refused(tmp_path / "codes.pt", match)


def test_a_network_that_cannot_take_another_number_of_classes(tmp_path):
    torch.save(GapCNN(classes=7).state_dict(), tmp_path / "seven.pt")
    refused(tmp_path / "seven.pt", r"2 of another shape \(head.weight \(7, 8\) for \(5, 8\)", network=lambda _classes: GapCNN())


def test_a_head_of_no_classes_is_not_built(tmp_path):
    state = dict(GapCNN().state_dict()) | {"head.weight": torch.zeros(0, 8), "head.bias": torch.zeros(0)}
    torch.save(state, tmp_path / "none.pt")
    refused(tmp_path / "none.pt", r"head.weight \(0, 8\) for \(5, 8\)")


@pytest.mark.parametrize(
    ("held", "match"),
    [
        (lambda: {}, "holds an empty dict; allowed: a state dict of names and tensors"),
        (lambda: [torch.zeros(3)], "holds a list"),
        (lambda: torch.zeros(3), "holds a Tensor"),
        (lambda: 3, "holds a int"),
        (lambda: {"epoch": 3}, "epoch is a int; allowed"),
        (lambda: {"w": torch.zeros(3, 3).to_sparse()}, "w is not a plain tensor"),
        (lambda: {"w": torch.zeros(3, device="meta")}, "w is not a plain tensor"),
        (lambda: {"w": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8)}, "w is not a plain tensor"),
        (lambda: {"head.weight": torch.zeros(1).expand(10**7, 8)}, r"head.weight claims \(10000000, 8\), more than the whole file"),
        (lambda: {"bad\nname\x1b[31m": 1}, r"bad\?name\?\[31m is a int"),
        (lambda: {"long" * 100: 1}, r"longl\.\.\. is a int"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's own, of saving sparse and quantised tensors
def test_a_file_that_holds_something_else(tmp_path, held, match):
    torch.save(held(), tmp_path / "file.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(tmp_path / "file.pt", match)


# Code in a file -------------------------------------------------------------------------------------------------------------


class Payload:
    """Unpickled without care, makes a file."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def _wrapped(payload):
    return {"state_dict": GapCNN().state_dict(), "extra": payload}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("wrap", [lambda payload: payload, _wrapped], ids=["alone", "beside weights"])
def test_code_in_a_file_is_named_and_not_run(tmp_path, suffix, new, wrap):
    mark, path = tmp_path / "was_here", tmp_path / f"weights{suffix}"
    torch.save(wrap(Payload(os.system, f"touch {mark}")), path, _use_new_zipfile_serialization=new)
    message = refused(path, "cannot be read as weights alone|it would run code when loaded")
    assert not mark.exists()
    assert "system" in message or not new  # what the old format wanted cannot always be told without running it
    assert "re-save it where you trust it: safetensors.torch.save_file" in message


def test_the_payload_does_run_where_nothing_prevents_it(tmp_path):
    mark = tmp_path / "was_here"
    torch.save(Payload(os.system, f"touch {mark}"), tmp_path / "weights.pt")
    torch.load(tmp_path / "weights.pt", weights_only=False)
    assert mark.exists()


def test_a_whole_pickled_module_is_named(tmp_path):
    torch.save(GapCNN(), tmp_path / "module.pt")
    refused(tmp_path / "module.pt", r"it would run code when loaded \(.*networks.GapCNN")


def test_a_pickle_under_the_name_of_safetensors_is_not_run(tmp_path):
    mark, path = tmp_path / "was_here", tmp_path / "weights.safetensors"
    torch.save(Payload(os.system, f"touch {mark}"), path)
    refused(path, "not a readable safetensors file")
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore")  # torch's own, of making TorchScript
def test_torchscript_is_refused(tmp_path):
    torch.jit.trace(GapCNN().eval(), torch.zeros(1, 3, 8, 8)).save(str(tmp_path / "script.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(tmp_path / "script.pt", "is TorchScript, a program; allowed: a file as torch.save writes it")


def test_a_file_that_inflates_is_refused_before_it_does(tmp_path):
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for part in plain.infolist():
            bomb.writestr(part.filename, plain.read(part))
    assert (tmp_path / "bomb.pt").stat().st_size < 10**5
    refused(tmp_path / "bomb.pt", "has compressed parts; allowed: a file as torch.save writes it")


# Files that are no weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_broken_files_are_one_clear_line(tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    WRITERS[suffix](GapCNN().state_dict(), whole)
    cases = {
        "empty": b"",
        "one byte": b"\x80",
        "random": random.Random(0).randbytes(5000),
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "truncated": whole.read_bytes()[:-100],
        "half": whole.read_bytes()[: whole.stat().st_size // 2],
        "header": (1 << 60).to_bytes(8, "little") + b"{}",
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content)
        refused(path, "not a readable safetensors file" if suffix == ".safetensors" else "cannot be read as weights alone")


def test_what_is_not_there_or_not_a_file(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    refused(tmp_path / "folder.pt", "a folder, allowed: a file")
    refused(tmp_path / "missing.safetensors", "no such file")
    refused(tmp_path / f"{'x' * 300}.pt", "no such file")
    refused(tmp_path / "nul\0.pt", "no such file")
    (tmp_path / "weights.npz").write_bytes(b"x")
    refused(tmp_path / "weights.npz", "got a .npz, allowed: .safetensors, .pt, .pth, .bin, .ckpt")
    refused(tmp_path / "weights", "got a file without suffix, allowed")


# Names ----------------------------------------------------------------------------------------------------------------------


def test_a_file_is_told_from_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for like in ("weights.safetensors", "w.PT", "a/b", "a\\b", "./x", Path("weights")):
        assert is_file_name(like)
    for like in ("IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1", "augreg_in21k_ft_in1k", "default"):
        assert not is_file_name(like)
    Path("weights").write_bytes(b"")
    Path("default").mkdir()
    assert not is_file_name("default")
    with pytest.raises(BadInput, match="weights: got 'weights', allowed: a file ending in .safetensors, .pt, .pth, .bin, .ckpt"):
        is_file_name("weights")
