"""`load_model`: from each source the right network, prepared as its weights want; what is wrong or missing is one clear line."""

from __future__ import annotations

import csv
import http.client
import json
import socket
import sys
import types
import urllib.error

import numpy as np
import pytest
import torch
from models import GapCNN
from PIL import Image
from safetensors.torch import save_file

from attribkit.batch import Targets
from attribkit.errors import BadInput, BrokenWeights, Unavailable, UnknownName
from attribkit.images import Preprocessing, read_image
from attribkit.model import sources
from attribkit.model.zoo import load_model, model_names

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def saved(state, path):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, str(path))
    return path


# Names ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("resnet18", {}, "no model is called 'resnet18'; allowed: hf/NAME, planted/NAME, timm/NAME, torchvision/NAME"),
        ("keras/resnet18", {}, "no model is called 'keras/resnet18'; allowed"),
        ("torchvision/", {}, "no model is called 'torchvision/'"),
        ("torchvision/resnet81", {}, "no torchvision model is called 'resnet81'; did you mean resnet18"),
        (
            "torchvision/resnet18",
            {"weights": "IMAGENET1K_V9"},
            "no weights of torchvision/resnet18 is called 'IMAGENET1K_V9'; allowed: .*V1",
        ),
        (
            "torchvision/resnet18",
            {"weights": "ResNet50_Weights.IMAGENET1K_V1"},
            "no weights of torchvision/resnet18 is called 'ResNet50_Weights",
        ),
        ("torchvision/fcn_resnet50", {}, "no torchvision model is called 'fcn_resnet50'"),
        ("timm/resnett18", {}, "no timm model is called 'resnett18'; did you mean resnet18"),
        ("timm/resnet18", {"weights": "a9"}, "no weights of timm/resnet18 is called 'a9'; allowed: a1_in1k"),
        ("timm/resnet18.a9", {"weights": None}, "no weights of timm/resnet18 is called 'a9'"),
        ("timm/hf-hub:someone/model", {}, "no timm model is called 'hf-hub:someone/model'"),
        ("planted/shortcut-95", {"weights": "best"}, "no weights of a planted model is called 'best'; allowed: default; or a file"),
        ("planted/shortcut-42", {}, "no planted model is called 'shortcut-42'"),
    ],
)
def test_unknown_names_are_one_clear_line(name, settings, match):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(UnknownName, match=match) as caught:
        load_model(name, **settings)
    one_line(caught)


def test_the_names_of_every_source_that_lists_them():
    names = model_names()
    assert {"resnet50", "squeezenet1_0", "vit_b_16"} <= set(names["torchvision"])
    assert "shortcut-95" in names["planted"]
    assert "fcn_resnet50" not in names["torchvision"]
    assert "hf" not in names


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpux"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(BadInput, match=f"device: got '{device}', allowed: a device of this machine, such as 'cpu'") as caught:
        load_model("planted/shortcut-95", weights=None, device=device)
    one_line(caught)


# torchvision ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def download(monkeypatch):
    """torchvision's download as a function of one's own."""
    from torchvision.models._api import WeightsEnum

    def instead(what):
        asked = []

        def get(self, *args, **kwargs):
            asked.append(kwargs)
            return what()

        monkeypatch.setattr(WeightsEnum, "get_state_dict", get)
        return asked

    return instead


def test_preprocessing_and_classes_are_those_of_the_published_weights():
    model = load_model("torchvision/squeezenet1_1", weights=None)
    assert model.preprocessing == Preprocessing(*IMAGENET, 224, resize=256)
    assert (len(model.classes), model.classes[0], model.target("tench")) == (1000, "tench", 0)
    assert model.name == "torchvision/squeezenet1_1"
    assert not model.module.training
    # The second weights of MobileNet V2 are for a short side of 232, and EfficientNet's are bicubic.
    assert load_model("torchvision/mobilenet_v2", weights=None).preprocessing == Preprocessing(*IMAGENET, 224, resize=232)
    b0 = load_model("torchvision/efficientnet_b0", weights=None).preprocessing
    assert b0 == Preprocessing(*IMAGENET, 224, resize=256, interpolation="bicubic")


def test_what_is_given_overrides():
    names = [f"class {i}" for i in range(1000)]
    model = load_model(
        "torchvision/squeezenet1_1", weights=None, mean=0.5, std=(0.1, 0.2, 0.3), size=112, classes=names, layer="features.3"
    )
    assert (model.mean, model.std, model.size) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3), (112, 112))
    assert model.preprocessing.resize == 128
    assert (model.classes[7], model.layer) == ("class 7", "features.3")
    with pytest.raises(BadInput, match="got 2 class names, allowed: 1000, as many as it has logits"):
        load_model("torchvision/squeezenet1_1", weights=None, classes=["a", "b"]).logits(torch.zeros(1, 3, 64, 64))


def test_weights_of_a_file_are_in_the_network(tmp_path):
    torch.manual_seed(3)
    state = load_model("torchvision/squeezenet1_1", weights=None).module.state_dict()
    model = load_model("torchvision/squeezenet1_1", weights=saved(state, tmp_path / "w.safetensors"))
    torch.testing.assert_close(dict(model.module.state_dict()), dict(state), rtol=0, atol=0)
    assert len(model.classes) == 1000
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "w.pth")
    again = load_model("torchvision/squeezenet1_1", weights=str(tmp_path / "w.pth"))
    torch.testing.assert_close(dict(again.module.state_dict()), dict(state), rtol=0, atol=0)


def test_weights_of_other_classes_make_a_network_without_imagenets_names(tmp_path):
    import torchvision.models as tv

    state = tv.mobilenet_v3_small(num_classes=4).state_dict()
    model = load_model("torchvision/mobilenet_v3_small", weights=saved(state, tmp_path / "four.safetensors"), classes=["a", "b", "c", "d"])
    assert model.logits(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert load_model("torchvision/mobilenet_v3_small", weights=tmp_path / "four.safetensors").classes == ()


def test_a_file_of_another_network_is_one_clear_line(tmp_path):
    path = saved(GapCNN().state_dict(), tmp_path / "gap.safetensors")
    with pytest.raises(BrokenWeights, match=r"gap.safetensors: weights are not of this network: \d+ missing \(.*\); \d+ unexpected"):
        load_model("torchvision/squeezenet1_1", weights=path)


def test_auxiliary_heads_are_left_out_and_inputs_scaled_as_published(tmp_path):
    import torchvision.models as tv

    full = tv.googlenet(weights=None, num_classes=5, aux_logits=True, init_weights=False)
    model = load_model("torchvision/googlenet", weights=saved(full.state_dict(), tmp_path / "full.safetensors"))
    assert model.module.transform_input
    images = torch.randn(2, 3, 64, 64)
    full.transform_input = True
    torch.testing.assert_close(model.logits(images), full.eval()(images).detach(), rtol=1e-4, atol=1e-5)


def test_published_densenets_have_old_names(download):
    import torchvision.models as tv

    state = tv.densenet121(num_classes=1000).state_dict()
    old = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): tensor for name, tensor in state.items()}
    assert old.keys() != state.keys()
    download(lambda: old)
    torch.testing.assert_close(dict(load_model("torchvision/densenet121").module.state_dict()), dict(state), rtol=0, atol=0)


def raising(error):
    def call(*_, **__):
        raise error

    return call


def test_published_weights_are_checked_and_never_unpickled_freely(download):
    state = load_model("torchvision/squeezenet1_1", weights=None).module.state_dict()
    asked = download(lambda: state)
    for name in ("default", "DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1"):
        model = load_model("torchvision/squeezenet1_1", weights=name)
        torch.testing.assert_close(dict(model.module.state_dict()), dict(state), rtol=0, atol=0)
    assert asked == [{"progress": False, "check_hash": True, "weights_only": True}] * 4


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("Name or service not known"), http.client.IncompleteRead(b""), TimeoutError("timed out")]
)
def test_a_download_that_fails_is_one_clear_line(download, error):
    download(raising(error))
    with pytest.raises(
        Unavailable, match=r"SqueezeNet1_1_Weights.IMAGENET1K_V1 could not be downloaded from https://.*weights=PATH"
    ) as caught:
        load_model("torchvision/squeezenet1_1")
    one_line(caught)


def test_a_damaged_download_is_one_clear_line(download):
    download(raising(EOFError("Ran out of input")))
    with pytest.raises(
        BrokenWeights, match=r"IMAGENET1K_V1: Ran out of input; allowed: delete squeezenet1_1-.*pth from torch's cache, to fetch it anew"
    ):
        load_model("torchvision/squeezenet1_1")


# timm -----------------------------------------------------------------------------------------------------------------------


def test_timms_configuration_is_followed():
    pytest.importorskip("timm")
    model = load_model("timm/resnet18", weights=None)
    assert model.preprocessing == Preprocessing(*IMAGENET, 224, resize=235, interpolation="bicubic")  # 224 / 0.95
    assert model.classes[:2] == ("tench", "goldfish")
    half = load_model("timm/vit_tiny_patch16_224", weights=None)
    assert half.preprocessing == Preprocessing(0.5, 0.5, 224, resize=248, interpolation="bicubic")  # 224 / 0.9
    assert load_model("timm/resnet18.fb_swsl_ig1b_ft_in1k", weights=None).preprocessing.interpolation == "bilinear"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Preprocessing(0.5, 0.2, 224, resize=256)),
        ({"crop_pct": 1.0}, Preprocessing(0.5, 0.2, 224, resize=224)),
        ({"crop_mode": "squash", "crop_pct": 1.0}, Preprocessing(0.5, 0.2, 224, resize=(224, 224))),
        ({"crop_mode": "squash"}, Preprocessing(0.5, 0.2, 224, resize=(256, 256))),
        ({"interpolation": "random"}, Preprocessing(0.5, 0.2, 224, resize=256)),
        ({"interpolation": "bicubic"}, Preprocessing(0.5, 0.2, 224, resize=256, interpolation="bicubic")),
    ],
)
def test_timms_transforms_make_the_same_of_a_picture(config, expected):
    factory = pytest.importorskip("timm.data.transforms_factory")
    config = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bilinear"} | config
    got = sources.timm_preprocessing(config | {"input_size": (3, 224, 224)})
    assert got == expected
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    if config["interpolation"] != "random":
        theirs = factory.transforms_imagenet_eval(224, **config)(picture)
        torch.testing.assert_close(got(picture), theirs, rtol=1e-5, atol=1e-5)


def test_a_crop_that_is_not_in_the_centre_must_be_overridden(monkeypatch):
    timm = pytest.importorskip("timm")
    config = timm.data.resolve_data_config({}, model=timm.create_model("resnet18")) | {"crop_mode": "border"}
    monkeypatch.setattr(timm.data, "resolve_data_config", lambda *_, **__: config)
    with pytest.raises(
        BadInput, match=r"timm/resnet18: timm prepares images by crop_mode 'border'.*; allowed: mean=, std= and size= to say how"
    ):
        load_model("timm/resnet18", weights=None)
    assert load_model("timm/resnet18", weights=None, mean=0.5, std=0.5, size=64).preprocessing == Preprocessing(0.5, 0.5, 64)


def test_a_file_for_a_timm_model(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(5)
    for classes, names in ((1000, 1000), (4, 0)):
        state = timm.create_model("mobilenetv3_small_050", num_classes=classes).state_dict()
        model = load_model("timm/mobilenetv3_small_050", weights=saved(state, tmp_path / f"{classes}.safetensors"))
        torch.testing.assert_close(dict(model.module.state_dict()), dict(state), rtol=0, atol=0)
        assert len(model.classes) == names


def test_timm_weights_are_fetched_by_their_tag(monkeypatch):
    timm = pytest.importorskip("timm")
    asked, create = [], timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **_: asked.append((name, pretrained)) or create("test_vit"))
    for name, weights in (("resnet18", "default"), ("resnet18", "a2_in1k"), ("resnet18.a3_in1k", "default"), ("resnet18.a3_in1k", None)):
        load_model(f"timm/{name}", weights=weights)
    assert asked == [("resnet18", True), ("resnet18.a2_in1k", True), ("resnet18.a3_in1k", True), ("resnet18.a3_in1k", False)]


@pytest.mark.parametrize("error", [OSError("no connection"), TimeoutError("timed out")])
def test_a_hub_that_cannot_be_reached_is_one_clear_line(monkeypatch, error):
    timm, hf = pytest.importorskip("timm"), pytest.importorskip("transformers")
    monkeypatch.setattr(timm, "create_model", raising(error))
    monkeypatch.setattr(hf.AutoModelForImageClassification, "from_pretrained", raising(error))
    for name in ("timm/resnet18", "hf/someone/model"):
        with pytest.raises(
            Unavailable, match=f"{name} is neither in the cache nor could it be downloaded .*; allowed: weights=PATH"
        ) as caught:
            load_model(name)
        one_line(caught)


def test_weights_that_nobody_published(monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "is_model_pretrained", lambda name: False)
    with pytest.raises(Unavailable, match="nobody published weights of timm/resnet18; allowed: weights=PATH of a file"):
        load_model("timm/resnet18")


def test_without_an_address_of_the_hub_only_the_cache_is_asked(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    seen = []

    def look():
        seen.append(constants.HF_HUB_OFFLINE)
        raise OSError("not cached")

    monkeypatch.setattr(socket, "getaddrinfo", raising(socket.gaierror("Name or service not known")))
    with pytest.raises(Unavailable, match="not cached"):
        sources._from_hub("hf/a/b", look)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(Unavailable, match="not cached"):
        sources._from_hub("hf/a/b", look)
    assert seen == [True, False]
    assert not constants.HF_HUB_OFFLINE


# Extras ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("package", "extra", "name"), [("timm", "timm", "timm/resnet18"), ("transformers", "hf", "hf/a/b")])
def test_a_package_that_is_missing_is_named_with_its_install_line(monkeypatch, package, extra, name):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unavailable, match=rf"{package} is not installed; pip install 'attribkit\[{extra}\]'") as caught:
        load_model(name, weights=None)
    one_line(caught)


# Hugging Face ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder with a tiny ViT and an image processor, as `save_pretrained` writes it."""
    hf = pytest.importorskip("transformers")
    config = hf.ViTConfig(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    config.id2label, config.label2id = {0: "cat", 1: "dog", 2: "emu"}, {"cat": 0, "dog": 1, "emu": 2}
    hf.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    processor = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32}, "resample": 2}
    processor |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path / "vit"


def test_a_folder_is_a_model_with_its_names_and_preparation(folder):
    model = load_model(f"hf/{folder}")
    assert model.classes == ("cat", "dog", "emu")
    assert model.preprocessing == Preprocessing(0.5, 0.5, 32, resize=(32, 32))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.logits(images), model.module(images).logits.detach(), rtol=1e-5, atol=1e-6)
    assert model.layers[model.layer] == (16, 4, 4)
    assert model.activation_gradient(images, Targets(torch.tensor([0, 1])))[1].any()


def test_a_folder_with_a_file_of_weights_or_none(folder, tmp_path):
    torch.manual_seed(9)
    state = load_model(f"hf/{folder}", weights=None).module.state_dict()
    model = load_model(f"hf/{folder}", weights=saved(state, tmp_path / "other.safetensors"))
    torch.testing.assert_close(dict(model.module.state_dict()), dict(state), rtol=0, atol=0)
    state["classifier.weight"], state["classifier.bias"] = torch.zeros(7, 16), torch.zeros(7)
    seven = load_model(f"hf/{folder}", weights=saved(state, tmp_path / "seven.safetensors"))
    assert seven.logits(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert seven.classes == ()  # transformers calls them LABEL_0 and so on, which is no name


def test_a_folder_with_a_pickle_alone_is_refused(folder):
    state = load_model(f"hf/{folder}").module.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(BrokenWeights, match=r"model\.safetensors") as caught:
        load_model(f"hf/{folder}")
    one_line(caught)


def test_code_in_a_folder_is_not_run(folder):
    mark = folder / "was_here"
    (folder / "code.py").write_text(
        f"open({str(mark)!r}, 'w')\nfrom transformers import ViTForImageClassification as Model, ViTConfig as Config"
    )
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(f"hf/{folder}").classes == ("cat", "dog", "emu")
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "made_up"}))
    with pytest.raises(BrokenWeights, match="contains custom code which must be executed") as caught:
        load_model(f"hf/{folder}")
    one_line(caught)
    assert not mark.exists()


def test_weights_without_a_classifier_are_not_filled_with_chance(folder):
    from safetensors.torch import load_file

    state = load_file(str(folder / "model.safetensors"))
    save_file(
        {name: tensor for name, tensor in state.items() if "classifier" not in name}, str(folder / "model.safetensors"), {"format": "pt"}
    )
    with pytest.raises(BrokenWeights, match=r"no weights of a classifier: classifier.bias, classifier.weight missing"):
        load_model(f"hf/{folder}")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_folder_is_one_clear_line(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-50])
    with pytest.raises(BrokenWeights, match=f"hf/{folder}: ") as caught:
        load_model(f"hf/{folder}")
    one_line(caught)


def test_without_a_processor_the_preparation_must_be_said(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BadInput, match="; allowed: mean=, std= and size= to say how it wants its images") as caught:
        load_model(f"hf/{folder}", mean=0.5, std=0.5)
    one_line(caught)
    assert load_model(f"hf/{folder}", mean=0.4, std=0.3, size=32).preprocessing == Preprocessing(0.4, 0.3, 32)


def test_published_names_of_weights_are_refused_with_the_way_to_say_a_revision():
    pytest.importorskip("transformers")
    with pytest.raises(BadInput, match="weights of hf/a/b: got 'v2', allowed: default, a file, or none; a revision is part of the name"):
        load_model("hf/a/b", weights="v2")


def test_a_revision_is_part_of_the_name(monkeypatch):
    hf = pytest.importorskip("transformers")
    asked = []

    def from_pretrained(where, **options):
        asked.append((where, options))
        raise OSError("that is all")

    monkeypatch.setattr(hf.AutoModelForImageClassification, "from_pretrained", from_pretrained)
    for name in ("hf/org/name", "hf/org/name@v2"):
        with pytest.raises(Unavailable, match="that is all"):
            load_model(name)
    safe = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    assert asked == [("org/name", safe | {"revision": "main"}), ("org/name", safe | {"revision": "v2"})]


PROCESSORS = {
    "a squash (ViT)": ("ViTImageProcessor", {"size": {"height": 48, "width": 48}}, {"resize": (48, 48), "size": 48}),
    "not square": ("ViTImageProcessor", {"size": {"height": 32, "width": 48}}, {"resize": (32, 48), "size": (32, 48)}),
    "short side and crop (CLIP)": (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 48}, "do_center_crop": True, "resample": 3},
        {"resize": 56, "size": 48, "interpolation": "bicubic"},
    ),
    "squash and crop (DeiT)": (
        "DeiTImageProcessor",
        {"size": {"height": 56, "width": 56}, "crop_size": {"height": 48, "width": 48}, "do_center_crop": True},
        {"resize": (56, 56), "size": 48},
    ),
    "crop_pct (ConvNeXt)": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}, {"resize": 256, "size": 224}),
    "crop_pct from 384 on": (
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 384}, "crop_pct": 1.0},
        {"resize": (384, 384), "size": 384},
    ),
    "crop_pct and crop (PoolFormer)": (
        "PoolFormerImageProcessor",
        {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "crop_pct": 0.9, "do_center_crop": True},
        {"resize": 248, "size": 224},
    ),
    "LeViT's own": (
        "LevitImageProcessor",
        {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
        {"resize": 256, "size": 224},
    ),
    "nearest": (
        "ViTImageProcessor",
        {"size": {"height": 48, "width": 48}, "resample": 0},
        {"resize": (48, 48), "size": 48, "interpolation": "nearest"},
    ),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_processor_is_followed(kind):
    hf = pytest.importorskip("transformers")
    name, settings, expected = PROCESSORS[kind]
    processor = getattr(hf, name)(**({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 2} | settings))
    assert sources.hf_preprocessing(processor) == Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), **expected)


def test_what_a_processor_does_to_numbers_is_followed():
    hf = pytest.importorskip("transformers")
    size = {"size": {"height": 40, "width": 40}, "resample": 2}
    plain = sources.hf_preprocessing(hf.ViTImageProcessor(do_normalize=False, **size))
    assert (plain.mean, plain.std) == ((0.0,) * 3, (1.0,) * 3)
    offset = {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False, "include_top": False, "do_center_crop": False}
    shifted = sources.hf_preprocessing(hf.EfficientNetImageProcessor(**offset, **size))
    assert shifted.mean == pytest.approx((0.5,) * 3)  # 2 x - 1 is (x - 1/2) / (1/2)
    assert shifted.std == pytest.approx((0.5,) * 3)
    normal = {"image_mean": [0.4] * 3, "image_std": [0.2] * 3, "rescale_factor": 1 / 255, "rescale_offset": False}
    twice = sources.hf_preprocessing(hf.EfficientNetImageProcessor(include_top=True, do_center_crop=False, **normal, **size))
    assert twice.mean == pytest.approx((0.4,) * 3)
    assert twice.std == pytest.approx((0.04,) * 3)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("MobileViTImageProcessor", {"do_flip_channel_order": True}),
        ("ViTImageProcessor", {"do_resize": False, "size": {"height": 40, "width": 40}}),
        ("CLIPImageProcessor", {"do_resize": False, "size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 48}}),
    ],
)
def test_a_processor_that_does_something_else_is_not_guessed_at(name, settings):
    hf = pytest.importorskip("transformers")
    with pytest.raises(BadInput, match=f"the image processor {name}.* does more to an image than to resize, crop and normalise it"):
        sources.hf_preprocessing(getattr(hf, name)(**settings))


def test_a_processor_that_bounds_the_long_side_states_no_size():
    processor = types.SimpleNamespace(size={"shortest_edge": 40, "longest_edge": 60})
    with pytest.raises(BadInput, match="the image processor SimpleNamespace states no size"):
        sources.hf_preprocessing(processor)


# Planted, and real weights --------------------------------------------------------------------------------------------------


def test_planted_models_come_trained_or_blank_or_from_a_file(tmp_path):
    trained = load_model("planted/shortcut-95")
    assert (trained.classes, trained.size) == (("fish", "bird"), (96, 96))
    images = torch.randn(2, 3, 96, 96)
    blank = load_model("planted/shortcut-95", weights=None)
    assert not torch.allclose(blank.logits(images), trained.logits(images))
    again = load_model("planted/tag-50", weights=saved(trained.module.state_dict(), tmp_path / "mine.safetensors"))
    torch.testing.assert_close(again.logits(images), trained.logits(images), rtol=0, atol=0)


def test_a_model_loaded_inside_inference_mode_has_gradients():
    with torch.inference_mode():
        model = load_model("planted/vit-95")
    assert model.gradient(torch.randn(1, 3, 96, 96), Targets(torch.tensor([0]))).any()


def _top1(model, folder, count):
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:: 1000 // count]
    images = torch.stack([model.preprocessing(read_image(folder / row["file"])) for row in rows])
    right = model.logits(images).argmax(1) == torch.tensor([int(row["class_index"]) for row in rows])
    return float(right.float().mean())


def test_squeezenet_sees_real_photographs(shared_data):
    """61.7 % of all 1,000 are right; of 100, two standard errors are 10 points."""
    weights = shared_data / "models" / "squeezenet1_0-imagenet.safetensors"
    assert abs(_top1(load_model("torchvision/squeezenet1_0", weights=weights), shared_data / "imagenet-samples", 100) - 0.617) < 0.1


def test_mobilenet_wants_another_mean_than_torchvisions(shared_data):
    weights = shared_data / "models" / "mobilenet_v2-imagenet.safetensors"
    right, wrong = (
        _top1(load_model("torchvision/mobilenet_v2", weights=weights, **numbers), shared_data / "imagenet-samples", 40)
        for numbers in ({"mean": 0.5, "std": 0.5}, {})
    )
    assert abs(right - 0.785) < 0.13  # of 40 images, two standard errors
    assert wrong < right
