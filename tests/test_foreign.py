"""Captum and pytorch-grad-cam through the interface: the same numbers, every class on every kind of network, nothing left behind."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from models import (
    ChannelsLastCNN,
    GapCNN,
    InplaceCNN,
    LinearModel,
    Raising,
    ReluCNN,
    ResidualCNN,
    Reused,
    SingleLogit,
    TinyViT,
    adapted,
    shaken,
)
from torch import nn

from attribkit import METHODS, Batch, Targets, Unsupported
from attribkit.errors import BadInput, UnknownName
from attribkit.methods import Captum, PytorchGradCAM
from attribkit.methods.captum import attributions
from attribkit.methods.pytorch_grad_cam import maps
from attribkit.noise import keys
from attribkit.registry import read
from attribkit.segments import Squares

SIZE = (16, 24)
NETWORKS = {"gap": GapCNN, "residual": ResidualCNN, "vit": lambda: TinyViT(size=SIZE), "channels_last": ChannelsLastCNN}
# Few samples, for each class that has the setting.
FEW = {"n_steps": 3, "n_samples": 4, "nt_samples": 2, "neuron_selector": (1, 1, 1), "num_scales": 2, "batch_size": 4}
# What cannot run, and so must say why: nothing silently joins this list.
NO_RELU = ("GuidedBackprop", "Deconvolution", "GuidedGradCam", "NeuronGuidedBackprop", "NeuronDeconvolution")
UNSUPPORTED = {
    "gap": {"LayerLRP"},
    "residual": {"DeepLift", "DeepLiftShap", "NeuronDeepLift", "NeuronDeepLiftShap", "LRP", "LayerLRP"},
    "vit": {"DeepLift", "DeepLiftShap", "LayerDeepLift", "LayerDeepLiftShap", "LRP", "LayerLRP", "SESS", *NO_RELU},
    "channels_last": {"DeepLift", "DeepLiftShap", "LRP", "LayerLRP", *NO_RELU},
}


# What may be the same everywhere: a gradient before a mean, and what of so small scores and grids is rounded to 0.
FLAT = ("InternalInfluence", "Lime", "FEM", "AblationCAM")


def few(cls, *functions) -> dict:
    """The options that make a class quick."""
    known = {name for function in (cls, *functions) for name in inspect.signature(function).parameters}
    return {name: value for name, value in FEW.items() if name in known}


def settings() -> list:
    captum = [(name, Captum(name, options=few(cls, cls.attribute), segmenter=Squares(16))) for name, cls in attributions().items()]
    grad_cam = [(name, PytorchGradCAM(name, options=few(cls))) for name, cls in maps().items()]
    return [pytest.param(name, made, id=f"{type(made).__name__}-{name}") for name, made in (*captum, *grad_cam)]


def batch(count: int = 2, size=SIZE, *, dtype=torch.float32) -> Batch:
    images = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return Batch(images, Targets((torch.arange(count) + 1) % 5), tuple("abcdefgh"[:count]))


class Moduled(nn.Module):
    """Every operation a module used once, with a max-pooling: what DeepLift and LRP know all of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2, self.relu2 = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()
        self.mean, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 5)

    def forward(self, images):
        x = self.pool(self.relu1(self.conv1(images)))
        return self.head(self.mean(self.relu2(self.conv2(x))).flatten(1))


# Every class there is ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "made"), settings())
@pytest.mark.parametrize("network", NETWORKS)
def test_every_class_gives_finite_maps_or_says_in_one_line_why_not(network, name, made):
    torch.manual_seed(3)
    model = adapted(NETWORKS[network](), size=SIZE)
    try:
        result = made(model, batch(1))
    except Unsupported as error:
        assert len(str(error)) > 30 and "\n" not in str(error)
        assert name in UNSUPPORTED[network], str(error)
        return
    assert name not in UNSUPPORTED[network]
    assert len(result.maps) == 1 and torch.isfinite(result.maps).all()
    height, width = result.maps.shape[-2:]
    assert height * SIZE[1] == width * SIZE[0]
    assert name in FLAT or result.maps.amax() > result.maps.amin()


def test_nothing_that_attributes_an_image_is_left_out():
    import captum.attr

    left = {name for name in captum.attr.__all__ if inspect.isclass(getattr(captum.attr, name))} - set(attributions())
    attribute = {name for name in left if issubclass(getattr(captum.attr, name), captum.attr.Attribution)}
    # Bases, attributions of text and of data sets, and LimeBase, which is made of functions.
    text = {"LLMAttribution", "LLMGradientAttribution", "RemoteLLMAttribution"}
    bases = {"Attribution", "GradientAttribution", "PerturbationAttribution", "NeuronAttribution", "LayerAttribution", "LimeBase"}
    assert attribute == text | bases | {"DataLoaderAttribution"}
    import pytorch_grad_cam

    named = {name for name in vars(pytorch_grad_cam) if "CAM" in name} - set(maps())
    assert named == set()
    assert {"FullGrad", "FEM", "SESS"} < set(maps())


# The same numbers --------------------------------------------------------------------------------------------------------------------


def direct(name: str, module, images, index, *, layer=None, making=(), **asked):
    """What Captum gives when it is called by hand, (B, h, w)."""
    import captum.attr

    where = () if layer is None else (dict(module.named_modules())[layer],)
    made = getattr(captum.attr, name)(module, *where, **dict(making))
    target = {} if name.startswith("Neuron") or name == "LayerActivation" else {"target": index}
    return made.attribute(images.clone().requires_grad_(), **target, **asked).detach().sum(1)


PARITY = [
    ("Saliency", {}, {}),
    ("Saliency", {"abs": False}, {"abs": False}),
    ("InputXGradient", {}, {}),
    ("IntegratedGradients", {"n_steps": 6, "method": "riemann_trapezoid"}, {"n_steps": 6, "method": "riemann_trapezoid"}),
    ("IntegratedGradients", {"n_steps": 5, "baselines": 0.5}, {"n_steps": 5, "baselines": 0.5}),
    ("DeepLift", {}, {}),
    ("GuidedBackprop", {}, {}),
    ("Deconvolution", {}, {}),
    ("LRP", {}, {}),
    ("Occlusion", {}, {"sliding_window_shapes": (3, 16, 16), "strides": (3, 8, 8)}),
    ("Occlusion", {"sliding_window_shapes": (3, 5, 7)}, {"sliding_window_shapes": (3, 5, 7)}),
    ("LayerGradCam", {}, {"layer": "conv2"}),
    ("LayerConductance", {"n_steps": 5}, {"layer": "conv2", "n_steps": 5}),
    ("LayerIntegratedGradients", {"n_steps": 5}, {"layer": "conv2", "n_steps": 5}),
    ("LayerGradientXActivation", {}, {"layer": "conv2"}),
    ("LayerDeepLift", {}, {"layer": "conv2"}),
    ("LayerActivation", {}, {"layer": "conv2"}),
    ("LayerLRP", {}, {"layer": "conv2"}),
    ("InternalInfluence", {"n_steps": 4}, {"layer": "conv2", "n_steps": 4}),
    ("GuidedGradCam", {}, {"layer": "conv2"}),
    ("NeuronGradient", {"neuron_selector": (2, 1, 3)}, {"layer": "conv2", "neuron_selector": (2, 1, 3)}),
]


@pytest.mark.filterwarnings("default")  # Captum's own, which the adapter keeps from its users
@pytest.mark.parametrize(("name", "options", "asked"), PARITY, ids=lambda value: value if isinstance(value, str) else "")
def test_captum_by_name_is_captum_by_hand(name, options, asked):
    module, some = Moduled().double().eval(), batch(3, dtype=torch.float64)
    expected = direct(name, copy.deepcopy(module), some.images, some.targets.index, **asked)
    made = Captum(name, layer=asked.get("layer"), options=options)
    found = made.explained(adapted(module, size=SIZE), some.images, some.targets).maps
    assert expected.abs().amax() > 0
    exact = {"rtol": 1e-12, "atol": 1e-15} if expected.dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-7}
    assert (expected.dtype == torch.float64) == (name != "Occlusion")  # which Captum computes in float32
    torch.testing.assert_close(found, expected.double(), **exact)


RANDOM = [
    ("GradientShap", {"n_samples": 5, "stdevs": 0.1, "baselines": "zero"}),
    ("KernelShap", {"n_samples": 12}),
    ("Lime", {"n_samples": 12}),
    ("ShapleyValueSampling", {"n_samples": 3}),
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "options"), RANDOM, ids=lambda value: value if isinstance(value, str) else "")
def test_captums_random_numbers_begin_with_the_image_and_the_seed(name, options):
    module, some = Moduled().double().eval(), batch(2, dtype=torch.float64)
    expected = []
    for i in range(2):
        image, number = some.images[i : i + 1], int(keys(some.images[i : i + 1], 7)) % 2**32
        torch.manual_seed(number)
        np.random.seed(number)
        asked = dict(options)
        if name == "GradientShap":
            asked["baselines"] = torch.zeros_like(image)
        else:
            mask = torch.arange(SIZE[0])[:, None] // 8 * 3 + torch.arange(SIZE[1]) // 8
            asked["feature_mask"] = mask[None, None]
        expected.append(direct(name, copy.deepcopy(module), image, some.targets.index[i : i + 1], **asked))
    made = Captum(name, options=options, segmenter=Squares(8), seed=7)
    found = made.explained(adapted(module, size=SIZE), some.images, some.targets).maps
    torch.testing.assert_close(found, torch.cat(expected).double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in maps() if name not in ("RandomCAM", "SESS")])
@pytest.mark.parametrize("network", ["cnn", "vit"])
def test_grad_cam_by_name_is_grad_cam_by_hand(name, network, capsys):
    from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if network == "vit" and name in ("ShapleyCAM", "FullGrad"):
        pytest.skip("by hand it takes no tokens")
    module = (Moduled() if network == "cnn" else TinyViT(size=SIZE)).double().eval()
    some, layer = batch(2, dtype=torch.float64), "conv2" if network == "cnn" else "blocks.0"
    own = copy.deepcopy(module)
    grid = None if network == "cnn" else lambda tokens: tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, 2, 3)
    making = {"reshape_transform": grid} if grid else {}
    if name == "AblationCAM":
        making |= {"ablation_layer": AblationLayer() if network == "cnn" else AblationLayerVit()}
        if network == "vit":
            pytest.skip("by hand it ablates the class token as well")
    expected = []
    for i in range(2):
        cam = maps()[name](own, [] if name == "FullGrad" else [dict(own.named_modules())[layer]], **making)
        index = int(some.targets.index[i])
        image = some.images[i : i + 1].clone()
        if name == "FinerCAM":
            expected.append(cam(image, targets=None, target_idx=index))
        else:
            expected.append(cam(image, [ClassifierOutputTarget(index)]))
    capsys.readouterr()
    made = PytorchGradCAM(name, layer=None if name == "FullGrad" else layer)
    found = made.explained(adapted(module, size=SIZE), some.images, some.targets).maps
    assert capsys.readouterr() == ("", "")  # the library's progress bars and remarks
    torch.testing.assert_close(found.float(), torch.from_numpy(np.concatenate(expected)), rtol=1e-5, atol=1e-6)


def test_a_linear_model_has_the_attributions_it_must_have():
    module, some = LinearModel(size=SIZE).double(), batch(2, dtype=torch.float64)
    model = adapted(module, size=SIZE)
    shares = module.head.weight[some.targets.index].view(2, 3, *SIZE) * some.images
    # By regions of 12 x 12: a row of two, and what is left of a second row.
    regions = torch.zeros(2, *SIZE, dtype=torch.float64)
    for top in (0, 12):
        for left in (0, 12):
            part = shares[:, :, top : top + 12, left : left + 12].sum((1, 2, 3))
            regions[:, top : top + 12, left : left + 12] = part.view(2, 1, 1).detach()
    for name in ("FeatureAblation", "ShapleyValues", "ShapleyValueSampling"):
        # Each of three channels of a pixel has the value of the pixel's region.
        found = Captum(name, channels="max_abs", segmenter=Squares(12)).explained(model, some.images, some.targets).maps
        torch.testing.assert_close(found, regions.abs(), rtol=1e-5, atol=1e-6)  # Captum adds some of them up in float32
    for name in ("DeepLift", "InputXGradient", "IntegratedGradients", "DeepLiftShap", "GradientShap"):
        options = {"baselines": ("zero", "zero")} if "Shap" in name else {}
        found = Captum(name, options=options).explained(model, some.images, some.targets).maps
        torch.testing.assert_close(found, shares.sum(1).detach(), rtol=1e-7, atol=1e-9)  # of noise of size 0 Captum makes 1e-10


def test_channels_are_folded_as_asked():
    model, some = adapted(Moduled().double(), size=SIZE), batch(2, dtype=torch.float64)
    gradient = model.gradient(some.images, some.targets)
    for channels, expected in (("sum", gradient.sum(1)), ("max_abs", gradient.abs().amax(1)), ("norm", gradient.square().sum(1).sqrt())):
        found = Captum("Saliency", options={"abs": False}, channels=channels).explained(model, some.images, some.targets).maps
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_the_explained_scalar_is_that_of_the_targets():
    from pytorch_grad_cam.utils.image import scale_cam_image

    model, some = adapted(Moduled().double(), size=SIZE), batch(2, dtype=torch.float64)
    for kind in ("logit", "log_odds", "probability", "evidence"):
        targets = Targets(some.targets.index, kind)
        expected = (model.gradient(some.images, targets) * some.images).sum(1)
        found = Captum("InputXGradient").explained(model, some.images, targets).maps
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)
        cells = model.activation_map(some.images, targets, lambda a, g: (a * g).clamp_min(0).sum(1), "conv2")
        stretched = scale_cam_image(scale_cam_image(cells.numpy(), SIZE[::-1]))  # before and after it is resized
        cam = PytorchGradCAM("GradCAMElementWise", layer="conv2").explained(model, some.images, targets).maps
        torch.testing.assert_close(cam.float(), torch.from_numpy(stretched), rtol=1e-4, atol=1e-5)


# Layers ------------------------------------------------------------------------------------------------------------------------------


def test_tokens_and_channels_last_maps_are_seen_as_grids():
    # Captum alone would take a grid's rows or the tokens for channels.
    for network in (TinyViT(size=SIZE), ChannelsLastCNN()):
        model, some = adapted(network.double(), size=SIZE), batch(2, dtype=torch.float64)
        expected = METHODS["grad_cam"]().explained(model, some.images, some.targets).maps
        found = Captum("LayerGradCam").explained(model, some.images, some.targets).maps
        assert expected.abs().amax() > 0
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)


def test_one_of_several_calls_of_a_layer_may_be_named():
    model, some = adapted(Reused().double(), size=SIZE), batch(2, dtype=torch.float64)
    for call in ("conv:0", "conv:1"):
        expected = METHODS["grad_cam"](layer=call).explained(model, some.images, some.targets).maps
        found = Captum("LayerGradCam", layer=call).explained(model, some.images, some.targets).maps
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)
    with pytest.raises(Unsupported, match="called more than once"):
        Captum("LayerGradCam", layer="conv")(model, batch())
    with pytest.raises(Unsupported, match="never calls layer 'unused'"):
        PytorchGradCAM("GradCAM", layer="unused")(model, batch())
    with pytest.raises(UnknownName, match="no layer is called 'nowhere'"):
        PytorchGradCAM("GradCAM", layer="nowhere")(model, batch())


def test_an_operation_in_place_after_the_layer_changes_no_map():
    plain, inplace = ReluCNN(), InplaceCNN()
    inplace.load_state_dict(plain.state_dict())
    for made in (PytorchGradCAM("ShapleyCAM", layer="features"), PytorchGradCAM("FEM", layer="features"), Captum("LayerActivation")):
        found, expected = (made(adapted(module, layer="features", size=SIZE), batch()).maps for module in (inplace, plain))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_several_layers_may_be_named(capsys):
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    module, some = Moduled(), batch()
    found = PytorchGradCAM("GradCAM", options={"target_layers": ("relu1", "conv2")})(adapted(module, size=SIZE), some).maps
    by_hand = maps()["GradCAM"](module, [module.relu1, module.conv2])
    expected = by_hand(some.images, [ClassifierOutputTarget(int(index)) for index in some.targets.index])
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def test_a_layers_input_is_attributed_to_where_an_option_says_so():
    model, some = adapted(Moduled().double(), size=SIZE), batch(2, dtype=torch.float64)
    at = Captum("LayerGradCam", layer="conv2", options={"attribute_to_layer_input": True})
    before = Captum("LayerGradCam", layer="pool")
    found, expected = (each.explained(model, some.images, some.targets).maps for each in (at, before))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)


# Batches, seeds, memory --------------------------------------------------------------------------------------------------------------

DRAWING = [
    *(Captum(name, options=few(attributions()[name], attributions()[name].attribute), segmenter=Squares(8)) for name, _ in RANDOM),
    Captum("NoiseTunnel", options={"nt_samples": 3}),
    Captum("NoiseTunnel", options={"attribution_method": "GradientShap", "nt_samples": 2, "n_samples": 2}),
    Captum("FeaturePermutation", segmenter=Squares(8)),
    Captum("LayerGradientShap", options={"n_samples": 3}),
    PytorchGradCAM("RandomCAM"),
]


@pytest.mark.parametrize("made", DRAWING, ids=lambda made: f"{type(made).__name__}-{made.method}")
def test_a_draw_belongs_to_the_image_and_the_generators_are_given_back(made):
    import dataclasses

    model, some = adapted(ChannelsLastCNN(), size=SIZE), batch(3)
    together = made(model, some).maps
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    alone = torch.cat([made(adapted(model.module, size=SIZE, max_rows=2), some[i : i + 1]).maps for i in (2, 0, 1)])[[1, 2, 0]]
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5 * together.abs().amax().item())
    np.random.seed(5)
    torch.testing.assert_close(made(model, some).maps, together, rtol=0, atol=0)
    assert (dataclasses.replace(made, seed=1)(model, some).maps != together).any()


SEEN: list[int] = []


class Counting(Moduled):
    """Notes how many rows run at once, wherever it was copied to."""

    def forward(self, images):
        SEEN.append(len(images))
        return super().forward(images)


@pytest.mark.parametrize(
    "made",
    [
        Captum("InputXGradient"),
        Captum("IntegratedGradients", options={"n_steps": 7}),
        Captum("DeepLift"),
        Captum("Occlusion", options={"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8)}),
        Captum("LayerConductance", layer="conv2", options={"n_steps": 7}),
        Captum("KernelShap", options={"n_samples": 9}),
        Captum("FeaturePermutation"),
        PytorchGradCAM("GradCAM"),
        PytorchGradCAM("ScoreCAM"),
    ],
    ids=lambda made: made.method,
)
def test_no_more_rows_run_at_once_than_the_model_allows(made):
    SEEN.clear()
    module = Counting()
    made(adapted(module, size=SIZE, max_rows=4, layer="conv2"), batch(5))
    assert max(SEEN) == 4 and module.training


def test_memory_that_runs_out_halves_the_rows():
    class Small(Moduled):
        def forward(self, images):
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(images)

    torch.manual_seed(0)
    small, plain = Small(), Moduled()
    plain.load_state_dict(small.state_dict())
    for made in (Captum("Saliency"), PytorchGradCAM("GradCAM", layer="conv2")):
        model = adapted(small, size=SIZE)
        torch.testing.assert_close(made(model, batch(5)).maps, made(adapted(plain, size=SIZE), batch(5)).maps, rtol=1e-5, atol=1e-6)
        assert model.max_rows == 2


# What is refused ---------------------------------------------------------------------------------------------------------------------


def test_deeplift_says_how_far_it_is_from_adding_up_and_refuses_what_it_cannot_know():
    some = batch(3, dtype=torch.float64)
    model = adapted(Moduled().double(), size=SIZE)
    exact = Captum("DeepLift").explained(model, some.images, some.targets)
    change = model.score(some.images, some.targets) - model.score(torch.zeros_like(some.images), some.targets)
    torch.testing.assert_close(exact.maps.sum((1, 2)), change, rtol=1e-9, atol=1e-12)
    assert exact.extras["convergence_delta"].shape == (3,) and exact.extras["convergence_delta"].abs().amax() < 1e-12
    functional = adapted(ReluCNN(), size=SIZE)
    for name in ("DeepLift", "DeepLiftShap", "LayerDeepLift"):
        with pytest.raises(Unsupported, match="does not add up"):
            Captum(name, layer="features.conv1" if "Layer" in name else None)(functional, batch())
    taken = Captum("DeepLift", options={"return_convergence_delta": True})(functional, batch())
    assert taken.extras["convergence_delta"].abs().amax() > 1e-3
    with pytest.raises(Unsupported, match="does not add up"):
        Captum("DeepLift")(model, Batch(some.images, Targets(some.targets.index, "probability"), some.ids))


def test_modules_that_are_not_there_or_used_twice_are_named():
    with pytest.raises(Unsupported, match="changes modules of torch.nn.ReLU, and TinyViT has none"):
        Captum("GuidedBackprop")(adapted(TinyViT(size=SIZE), size=SIZE), batch())
    with pytest.raises(Unsupported, match="being used more than once in the network"):
        Captum("DeepLift")(adapted(ResidualCNN(), size=SIZE), batch())
    with pytest.raises(Unsupported, match=r"uses ReLU\(inplace=True\) under several names"):
        Captum("LRP")(adapted(ResidualCNN(), size=SIZE), batch())
    with pytest.raises(Unsupported, match="single operations, and layer 'features'"):
        Captum("LayerLRP", layer="features")(adapted(GapCNN(), size=SIZE), batch())
    with pytest.raises(Unsupported, match="every order of the regions, 24 here; allowed: at most 8"):
        Captum("ShapleyValues", segmenter=Squares(4))(adapted(GapCNN(), size=SIZE), batch())
    with pytest.raises(Unsupported, match="compares the logits of classes; got one logit"):
        PytorchGradCAM("FinerCAM")(adapted(SingleLogit(), size=SIZE), Batch(batch().images, Targets(torch.zeros(2).long()), ("a", "b")))


def test_a_module_that_cannot_be_copied_is_refused():
    class Held(GapCNN):
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle '_thread.lock' object")

    with pytest.raises(Unsupported, match="Held cannot be copied"):
        Captum("Saliency")(adapted(Held(), size=SIZE), batch())


# Nothing is left behind --------------------------------------------------------------------------------------------------------------


def everything(module) -> list:
    """What each submodule holds: names, hooks, flags, values and gradients."""
    kept = []
    for each in module.modules():
        hooks = [len(value) for name, value in vars(each).items() if name.endswith("_hooks")]
        kept.append((sorted(vars(each)), list(each._modules.values()), hooks, each.training, vars(each).get("rule")))
    for weight in module.parameters():
        kept.append((weight.requires_grad, weight.detach().clone().tolist(), None if weight.grad is None else weight.grad.tolist()))
    return kept


@pytest.mark.parametrize("raising", [False, True])
@pytest.mark.parametrize(
    "made",
    [
        Captum("DeepLift", options={"return_convergence_delta": True}),
        Captum("LRP"),
        Captum("GuidedBackprop"),
        Captum("LayerIntegratedGradients", options={"n_steps": 3}),
        PytorchGradCAM("GradCAM"),
        PytorchGradCAM("AblationCAM"),
        PytorchGradCAM("FullGrad"),
    ],
    ids=lambda made: made.method,
)
def test_the_model_is_as_it_was_also_when_it_raises_half_way(made, raising):
    from captum.attr._utils.lrp_rules import GammaRule

    module = Raising().train()
    module.features.conv1.rule = GammaRule() if made.method == "LRP" else None  # the user's own, which Captum takes away
    module.head.weight.grad = torch.ones_like(module.head.weight)
    model, some = adapted(module, layer="features", size=SIZE), batch()
    before, images = everything(module), some.images.clone()
    if raising:
        module.error = RuntimeError("broken on purpose")
        before = everything(module)
        with pytest.raises(RuntimeError, match="^broken on purpose$"):
            made(model, some)
    else:
        made(model, some)
    assert everything(module) == before
    torch.testing.assert_close(some.images, images, rtol=0, atol=0)


def test_the_weights_are_not_copied_except_for_what_writes_into_them():
    from attribkit.model.replica import Replica

    model = adapted(Moduled(), size=SIZE)
    with model.studied():
        shared, own = Replica(model, size=SIZE), Replica(model, size=SIZE, own_weights=True)
    assert shared.inner.head is not model.module.head and shared.inner.head.weight is model.module.head.weight
    assert own.inner.head.weight is not model.module.head.weight


# Settings ----------------------------------------------------------------------------------------------------------------------------


def test_options_are_read_as_they_print():
    made = Captum("DeepLift", options={"multiply_by_inputs": False, "eps": 1e-6})
    assert made == Captum("DeepLift", options=(("eps", 1e-6), ("multiply_by_inputs", False))) and hash(made) == hash(made)
    assert made.options == (("eps", 1e-6), ("multiply_by_inputs", False))
    assert read(repr(made), METHODS) == made
    assert read("Captum('DeepLift', options={'eps': 1e-06, 'multiply_by_inputs': False})", METHODS) == made
    steps = read("Captum('IntegratedGradients', options={'n_steps': 7})", METHODS)
    assert steps.options == (("n_steps", 7),) and type(steps.options[0][1]) is int
    window = Captum("Occlusion", options={"sliding_window_shapes": [3, 5, 7]})
    assert read(repr(window), METHODS) == window and dict(window.options)["sliding_window_shapes"] == (3, 5, 7)


WRONG = [
    (lambda: Captum("DeepLyft"), UnknownName, "no attribution of Captum is called 'DeepLyft'.*DeepLift"),
    (lambda: Captum("LimeBase"), UnknownName, "no attribution of Captum is called 'LimeBase'"),
    (lambda: Captum("Saliency", options={"absolute": True}), UnknownName, "no option of Saliency is called 'absolute'; allowed: abs"),
    (lambda: Captum("Saliency", options=(("abs", True), ("abs", False))), BadInput, "got 'abs' twice"),
    (lambda: Captum("Saliency", options=(1,)), BadInput, "pairs of a name and a value, or a dict"),
    (lambda: Captum("Saliency", options=3), BadInput, "allowed: a tuple"),
    (lambda: Captum("Saliency", layer="conv2"), BadInput, "Saliency looks at no layer"),
    (lambda: Captum("NeuronGradient"), BadInput, "needs the option neuron_selector"),
    (lambda: Captum("DeepLift", options={"baselines": "pink"}), UnknownName, "no fill is called 'pink'"),
    (lambda: Captum("NoiseTunnel", options={"attribution_method": "Nothing"}), UnknownName, "no attribution of Captum is called 'Nothing'"),
    (lambda: PytorchGradCAM("GradCum"), UnknownName, "no map of pytorch-grad-cam is called 'GradCum'.*GradCAM"),
    (lambda: PytorchGradCAM("FinerCAM", options={"beta": 1}), UnknownName, "no option of FinerCAM is called 'beta'.*alpha"),
    (lambda: PytorchGradCAM("GradCAM", options={"base_method": "GradCAM"}), UnknownName, "no option of GradCAM is called 'base_method'"),
    (lambda: PytorchGradCAM("FullGrad", layer="conv2"), BadInput, "FullGrad looks at every layer"),
    (lambda: PytorchGradCAM(layer="a", options={"target_layers": "b"}), BadInput, "names of layers, and then no layer"),
]


@pytest.mark.parametrize(("make", "error", "message"), WRONG)
def test_wrong_settings_are_told_in_one_line(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_what_is_needed_depends_on_the_named_class():
    assert Captum().needs == {"gradients"} and Captum("Occlusion").needs == {"logits"}
    assert Captum("LayerGradCam").needs == {"gradients", "spatial_layer"} and Captum("LayerActivation").needs == {"logits", "spatial_layer"}
    assert Captum("NoiseTunnel", options={"attribution_method": "Occlusion"}).needs == {"logits"}
    assert PytorchGradCAM("FullGrad").needs == {"gradients"} and PytorchGradCAM("EigenCAM").needs == {"logits", "spatial_layer"}


def test_options_reach_the_inner_methods():
    model, some = adapted(Moduled(), size=SIZE), batch()
    finer = [PytorchGradCAM("FinerCAM", options={"alpha": alpha})(model, some).maps for alpha in (0, 1)]
    assert (finer[0] != finer[1]).any()
    plain, around = (
        PytorchGradCAM("HiResCAM")(model, some).maps,
        PytorchGradCAM("RefineCAM", options={"base_method": "HiResCAM"})(model, some).maps,
    )
    torch.testing.assert_close(plain, around, rtol=1e-5, atol=1e-5)
    strict = Captum("Lime", options={"interpretable_model": ("SkLearnLasso", 1e-6), "n_samples": 20}, segmenter=Squares(8))(
        model, some
    ).maps
    assert strict.abs().amax() > 0
    with pytest.raises(UnknownName, match="no linear model of Captum is called 'Tree'"):
        Captum("Lime", options={"interpretable_model": "Tree"})(model, some)


def test_listing_the_methods_imports_neither_library():
    code = (
        "import sys, attribkit; from attribkit.registry import needed, usage\n"
        "shown = [(usage(cls), cls.cost, needed(cls) or cls().needs) for cls in attribkit.METHODS.values()]\n"
        "assert len(shown) > 5 and not {'captum', 'pytorch_grad_cam', 'sklearn', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_with_batch_norms_and_half_precision_run():
    module = shaken(GapCNN()).to(torch.bfloat16)
    model = adapted(module, size=SIZE)
    for made in (PytorchGradCAM("GradCAM"), PytorchGradCAM("EigenCAM"), Captum("LayerGradCam"), Captum("FeatureAblation")):
        result = made(model, batch()).maps
        assert torch.isfinite(result).all() and result.abs().amax() > 0
