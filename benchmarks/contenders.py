"""Who runs against whom, by family of methods: attribkit, the passes it is made of, and the library that has the method."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from passes import (
    ROWS,
    Subject,
    as_attribkit_runs_it,
    cam_by_hand,
    forward,
    forward_and_gradient,
    memory_format,
    on_photographs,
    path_by_hand,
)
from timing import Run
from torch import Tensor

import attribkit as ak
from attribkit.methods import (
    XRAI,
    CounterfactualInfill,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    IntegratedGradients,
    LayerCAM,
    Occlusion,
    RegionRemoval,
    XGradCAM,
)
from attribkit.removals import Constant, LayerMask
from attribkit.segments import Felzenszwalb, Squares

WINDOW, STRIDE = 32, 32
SAMPLES = 64  # of RISE
STEPS, DRAWS = 6, 8  # of the counterfactual in-fill


def batch_of(it: Subject) -> ak.Batch:
    """The subject's images and targets."""
    return ak.Batch(it.images, ak.Targets(it.classes), tuple(map(str, range(len(it.images)))))


def explained(it: Subject, method: ak.methods.Method) -> Run:
    """A method on the subject."""
    batch = batch_of(it)
    return lambda: method(it.model, batch)


def cams(it: Subject) -> dict[str, Run]:
    """Grad-CAM by everybody, and its one-pass relatives."""
    import pytorch_grad_cam
    from captum.attr import LayerGradCam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    ours = as_attribkit_runs_it(it, min(ROWS, len(it.images)))
    layer = it.module.get_submodule(it.layer)
    captum = LayerGradCam(it.module, layer)
    targets = [ClassifierOutputTarget(int(i)) for i in it.classes]
    runs: dict[str, Run] = {
        "by hand": lambda: cam_by_hand(it.frozen, it.layer, ours, it.classes),
        "forward alone": lambda: forward(it.frozen, ours),
        "captum LayerGradCam": lambda: captum.attribute(it.images, it.classes),
    }
    for method in (GradCAM(), HiResCAM(), GradCAMPlusPlus(), XGradCAM(), LayerCAM()):
        name = type(method).__name__
        other = getattr(pytorch_grad_cam, name)(model=it.module, target_layers=[layer])
        runs[f"attribkit {name}"] = explained(it, method)
        runs[f"pytorch-grad-cam {name}"] = lambda other=other: other(input_tensor=it.images, targets=targets)  # type: ignore[misc]
    return runs


def paths(it: Subject, steps: int) -> dict[str, Run]:
    """Integrated Gradients by everybody."""
    from captum.attr import IntegratedGradients as Captum

    ours = as_attribkit_runs_it(it, ROWS)
    captum = Captum(it.module)
    return {
        f"by hand, {ROWS} rows": lambda: path_by_hand(it, ours, steps, ROWS),
        "attribkit": explained(it, IntegratedGradients(steps=steps)),
        f"by hand, {2 * ROWS} rows": lambda: path_by_hand(it, ours, steps, 2 * ROWS),
        "captum": lambda: captum.attribute(it.images, target=it.classes, n_steps=steps, internal_batch_size=ROWS),
    }


def _forwards(it: Subject, count: int) -> Run:
    """`count` forwards for every image, `ROWS` at once, in attribkit's memory format: what a perturbation cannot do without."""
    ours = as_attribkit_runs_it(it, ROWS)
    images = ours[:1].expand(ROWS, -1, -1, -1).contiguous(memory_format=memory_format(ours))
    rest = count * len(ours) % ROWS

    def run() -> None:
        for _ in range(count * len(ours) // ROWS):
            forward(it.frozen, images)
        if rest:
            forward(it.frozen, images[:rest])

    return run


def occlusions(it: Subject) -> dict[str, Run]:
    """A window slid over the image."""
    from captum.attr import Occlusion as Captum

    method = Occlusion(window=WINDOW, stride=STRIDE)
    captum = Captum(it.module)
    shape, stride = (3, WINDOW, WINDOW), (3, STRIDE, STRIDE)
    together = max(1, ROWS // len(it.images))
    return {
        "its forwards": _forwards(it, (it.images.shape[-1] // WINDOW) ** 2 + 1),
        "attribkit": explained(it, method),
        "captum": lambda: captum.attribute(it.images, shape, stride, target=it.classes, perturbations_per_eval=together),
    }


def regions(it: Subject) -> dict[str, Run]:
    """Squares removed one by one."""
    from captum.attr import FeatureAblation

    squares = Squares(WINDOW)
    labels = squares(torch.rand_like(it.images[:1]))
    captum = FeatureAblation(it.module)
    together = max(1, ROWS // len(it.images))
    return {
        "its forwards": _forwards(it, int(labels.max()) + 2),
        "attribkit": explained(it, RegionRemoval(removal=Constant(), segmenter=squares)),
        "captum FeatureAblation": lambda: captum.attribute(
            it.images, target=it.classes, feature_mask=labels, perturbations_per_eval=together
        ),
    }


def rise(it: Subject) -> dict[str, Run]:
    """Random masks; the loop of the paper, whose masks are made beforehand."""
    masks = torch.rand(SAMPLES, 1, *it.images.shape[-2:]).to(it.images)
    ours = as_attribkit_runs_it(it, ROWS)

    def loop() -> Tensor:
        total = ours.new_zeros(len(ours), *ours.shape[-2:])
        for place, image in enumerate(ours):
            for first in range(0, SAMPLES, ROWS):
                part = masks[first : first + ROWS]
                scores = forward(it.frozen, part * image)[:, it.classes[place]]
                total[place] += (scores.view(-1, 1, 1) * part.squeeze(1)).sum(0)
        return total

    return {
        "its forwards": _forwards(it, SAMPLES + 1),
        "attribkit": explained(it, ak.methods.RISE(samples=SAMPLES)),
        "the paper's loop": loop,
    }


def masking(it: Subject) -> dict[str, Run]:
    """A forward with layer masking, by the share of random 16 x 16 blocks that is kept, against a plain one."""
    ours = as_attribkit_runs_it(it, ROWS)
    side = it.images.shape[-1] // 16
    runs: dict[str, Run] = {"plain forward": lambda: forward(it.frozen, ours), "attribkit, plain": lambda: it.model.logits(it.images)}
    for kept in (1.0, 0.9, 0.5, 0.1):
        blocks = torch.rand(len(ours), side, side, generator=torch.Generator().manual_seed(0)) < kept
        keep = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
        runs[f"attribkit LayerMask, {kept:.0%} kept"] = lambda keep=keep: LayerMask()(it.model, it.images, keep)  # type: ignore[misc]
    return runs


def infills(it: Subject) -> dict[str, Run]:
    """Counterfactual in-fill against its steps x draws forward and backward passes."""
    ours = as_attribkit_runs_it(it, ROWS)
    rows = torch.arange(STEPS * DRAWS * len(ours), device=ours.device) % len(ours)
    short = CounterfactualInfill(steps=STEPS, samples=DRAWS)

    def passes() -> None:
        for first in range(0, len(rows), ROWS):
            part = rows[first : first + ROWS]
            forward_and_gradient(it.frozen, ours[part].contiguous(memory_format=memory_format(ours)), it.classes[part])

    return {"its passes": passes, "attribkit": explained(it, short)}


@dataclasses.dataclass(frozen=True)
class Flat(ak.methods.Method):
    """A map that costs nothing, so that what is left of XRAI's time is its own."""

    name = "benchmark_flat"
    paper = "none"
    cost = "nothing"

    def _maps(self, model: ak.VisionModel, images: Tensor, targets: ak.Targets) -> Tensor:
        return images.sum(1)


def regions_ranked(it: Subject) -> dict[str, Run]:
    """Everything in XRAI but the gradients, and PAIR's own with the same attribution where it is installed (`pip install saliency`)."""
    it = on_photographs(it)
    runs: dict[str, Run] = {
        "attribkit XRAI without gradients": explained(it, XRAI(method=Flat())),
        "attribkit XRAI fast without gradients": explained(it, XRAI(method=Flat(), algorithm="fast")),
        "the segments alone": lambda: Felzenszwalb()(it.model.preprocessing.pixels(it.images)),
    }
    if importlib.util.find_spec("saliency") is not None:
        pair: Any = importlib.import_module("saliency.core")
        pictures = (255 * it.model.preprocessing.pixels(it.images)).permute(0, 2, 3, 1).cpu().numpy()
        maps = it.images.sum(1).unsqueeze(3).expand(-1, -1, -1, 3).cpu().numpy()

        def theirs() -> None:
            for picture, base in zip(pictures, maps, strict=True):
                pair.XRAI().GetMask(picture, None, base_attribution=base)

        runs["PAIR saliency XRAI without gradients"] = theirs
    return runs


# Every kind of method with few samples: for what does not depend on their number.
SHORT = tuple(
    ak.methods.method(text)
    for text in (
        "GradCAM()",
        "HiResCAM()",
        "GradCAMPlusPlus()",
        "XGradCAM()",
        "LayerCAM()",
        "Gradient()",
        "IntegratedGradients(steps=20)",
        "Smooth(Gradient(), samples=10)",
        "XRAI(IntegratedGradients(steps=10))",
        "Occlusion(window=32, stride=16)",
        "RISE(samples=200)",
        "RegionRemoval(segmenter=Squares(32))",
        "LayerMasking(segmenter=Squares(32))",
        "CounterfactualInfill(steps=20, samples=4)",
    )
)

FAMILIES: dict[str, tuple[Callable[[Subject], dict[str, Run]], str]] = {
    "cams": (cams, "by hand"),
    "occlusion": (occlusions, "its forwards"),
    "regions": (regions, "its forwards"),
    "rise": (rise, "its forwards"),
    "masking": (masking, "plain forward"),
    "infill": (infills, "its passes"),
    "xrai": (regions_ranked, "attribkit XRAI without gradients"),
}
