"""A network to measure on, and what methods are made of, by hand in the fewest PyTorch passes."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

import attribkit as ak
from attribkit.methods.integrated_gradients import quadrature

ROWS = 8  # what a pass takes at once, for everybody


class Subject(NamedTuple):
    """One network with random weights, as a user has it and frozen, as attribkit wraps it, and a batch for it."""

    name: str
    module: nn.Module
    frozen: nn.Module
    model: ak.VisionModel
    images: Tensor
    classes: Tensor
    layer: str


def subject(name: str, batch: int, size: int, weights: str | None = None, device: str = "cpu") -> Subject:
    """A network of torchvision with random weights or those of a file, and `batch` random images."""
    torch.manual_seed(0)
    wrapped = ak.load_model(f"torchvision/{name}", weights=weights, size=size, device=device)
    frozen = copy.deepcopy(wrapped.module).requires_grad_(False)
    index = torch.arange(batch, device=device) % 1000
    return Subject(name, wrapped.module, frozen, wrapped, torch.randn(batch, 3, size, size).to(device), index, wrapped.layer)


def on_photographs(it: Subject) -> Subject:
    """The same network with photographs (scikit-image's own samples, and their mirror images), and what it takes them for."""
    from PIL import Image
    from skimage import data

    taken = [Image.fromarray(picture()) for picture in (data.astronaut, data.coffee, data.chelsea)]
    prepared = torch.stack([it.model.preprocessing(picture) for picture in taken]).to(it.images.device)
    images = torch.cat((prepared, prepared.flip(3))).repeat(-(-len(it.images) // 6), 1, 1, 1)[: len(it.images)]
    return it._replace(images=images, classes=it.model.logits(images).argmax(1))


def as_attribkit_runs_it(it: Subject, rows: int) -> Tensor:
    """The images in the memory format that attribkit chooses for `rows` of them on this network and machine."""
    seen: list[Tensor] = []
    handle = it.module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    it.model.logits(it.images[:1].expand(rows, -1, -1, -1))
    handle.remove()
    chosen = torch.channels_last if seen[0].is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return it.images.contiguous(memory_format=chosen)


def slices(count: int, rows: int = ROWS) -> list[slice]:
    """`count` images, `rows` at once."""
    return [slice(first, min(first + rows, count)) for first in range(0, count, rows)]


def forward(module: nn.Module, images: Tensor) -> Tensor:
    """One forward without gradients."""
    with torch.no_grad():
        return torch.cat([module(images[rows]) for rows in slices(len(images))])


def forward_and_gradient(module: nn.Module, images: Tensor, index: Tensor, rows: int = ROWS) -> Tensor:
    """The shortest way to d logit / d images of a module with frozen weights."""
    gradients = []
    for part in slices(len(images), rows):
        leaf = images[part].detach().requires_grad_()
        gradients.append(torch.autograd.grad(module(leaf).gather(1, index[part].unsqueeze(1)).sum(), leaf)[0])
    return torch.cat(gradients)


def cam_by_hand(module: nn.Module, layer: str, images: Tensor, index: Tensor) -> Tensor:
    """Grad-CAM in the fewest passes: a forward whose graph begins at the layer, and a backward to there."""
    kept: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # in-place operations may follow

    maps = []
    handle = module.get_submodule(layer).register_forward_hook(cut)
    for part in slices(len(images)):
        score = module(images[part]).gather(1, index[part].unsqueeze(1)).sum()
        gradient = torch.autograd.grad(score, kept[-1])[0]
        maps.append((gradient.mean((2, 3), keepdim=True) * kept[-1].detach()).sum(1))
    handle.remove()
    return torch.cat(maps)


def path_by_hand(it: Subject, images: Tensor, steps: int, rows: int) -> Tensor:
    """Integrated Gradients from zero in `steps` forward and backward passes per image, `rows` at once."""
    total = torch.zeros_like(images)
    points = [(at, weight, row) for at, weight in quadrature("gauss_legendre", steps) for row in range(len(images))]
    for first in range(0, len(points), rows):
        part = points[first : first + rows]
        at = images.new_tensor([point for point, _, _ in part]).view(-1, 1, 1, 1)
        chosen = [row for _, _, row in part]
        gradients = forward_and_gradient(
            it.frozen, (at * images[chosen]).contiguous(memory_format=memory_format(images)), it.classes[chosen], rows
        )
        for gradient, (_, weight, row) in zip(gradients, part, strict=True):
            total[row] += weight * gradient
    return (total * images).sum(1)


def memory_format(images: Tensor) -> torch.memory_format:
    return torch.contiguous_format if images.is_contiguous() else torch.channels_last
