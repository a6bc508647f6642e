"""Networks to check with: each small, and each of a kind that has broken some tool for explanations."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.adapter import VisionModel

SIZE = (24, 40)  # (H, W), not square: rows are told from columns
HALF = (0.5, 0.5, 0.5)


def adapted(module: nn.Module, *, size: int | tuple[int, int] = SIZE, mean: Any = HALF, std: Any = HALF, **settings: Any) -> VisionModel:
    """`module` as a `VisionModel` with numbers that play no part in a check."""
    return VisionModel(module, mean=mean, std=std, size=size, **settings)


def shaken(module: nn.Module) -> nn.Module:
    """BatchNorms with statistics and scales of their own, so that eval and train differ; weights are as they were made."""
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            for tensor, low, high in (
                (each.running_mean, -0.2, 0.2),
                (each.running_var, 0.5, 1.5),
                (each.weight, 0.5, 1.5),
                (each.bias, -0.2, 0.2),
            ):
                if tensor is not None:
                    nn.init.uniform_(tensor, low, high)
    return module


def made(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network whose weights are the same each time, in training mode as PyTorch makes them."""
    with torch.random.fork_rng(()):
        torch.default_generator.manual_seed(seed)
        return make()


class GapCNN(nn.Module):
    """Convolutions, the mean over places, one linear head: d logit_c / d features is exactly `head.weight[c] / (h w)`."""

    def __init__(self, classes: int = 5, width: int = 8, inplace: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, width, 3, stride=2, padding=1),
                bn1=nn.BatchNorm2d(width),
                relu1=nn.ReLU(inplace=inplace),
                conv2=nn.Conv2d(width, width, 3, stride=2, padding=1),
                bn2=nn.BatchNorm2d(width),
            )
        )
        self.head = nn.Linear(width, classes)
        shaken(self)

    def forward(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> (B, classes)."""
        return self.head(self.features(images).mean((2, 3)))


class ReluCNN(GapCNN):
    """As `GapCNN`, with a ReLU between features and mean: d logit_c / d features is `head.weight[c] / (h w)` where they are positive."""

    def forward(self, images: Tensor) -> Any:
        """As `GapCNN`."""
        return self.head(F.relu(self.features(images)).mean((2, 3)))


class InplaceCNN(GapCNN):
    """`ReluCNN` with every ReLU in place, the one right after `features` as well; loads the state of a `GapCNN`."""

    def __init__(self, classes: int = 5, width: int = 8) -> None:
        super().__init__(classes, width, inplace=True)

    def forward(self, images: Tensor) -> Any:
        """As `GapCNN`."""
        return self.head(F.relu_(self.features(images)).mean((2, 3)))


class InplaceInput(GapCNN):
    """As `GapCNN` on twice the images, which it doubles in place."""

    def forward(self, images: Tensor) -> Any:
        """As `GapCNN`."""
        return super().forward(images.mul_(2))


class ResidualCNN(nn.Module):
    """Residual blocks that use one ReLU module six times over, as torchvision's ResNets do."""

    def __init__(self, classes: int = 5, width: int = 8) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.layer1 = self._block(width)
        self.layer2 = self._block(width)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.head = nn.Linear(width, classes)
        shaken(self)

    def _block(self, width: int) -> nn.Sequential:
        conv = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
        return nn.Sequential(conv[0], nn.BatchNorm2d(width), self.relu, conv[1], nn.BatchNorm2d(width))

    def forward(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> (B, classes)."""
        x = self.relu(self.stem(images))
        x = self.relu(x + self.layer1(x))
        x = self.relu(x + self.layer2(x))
        return self.head(self.relu(self.down(x)).mean((2, 3)))


class Block(nn.Module):
    """A transformer's block, norms first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Any:
        """(B, T, width) -> (B, T, width)."""
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, -1)
        tokens = tokens + self.proj(F.scaled_dot_product_attention(query, key, value))
        return tokens + self.mlp(self.norm2(tokens))


class TinyViT(nn.Module):
    """Patches of 8 x 8, `prefix` tokens before them, two blocks, read off the first token (or the mean where there is none)."""

    def __init__(self, classes: int = 5, width: int = 12, prefix: int = 1, size: tuple[int, int] = SIZE) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, stride=8)
        self.first = nn.Parameter(torch.randn(1, prefix, width))
        self.place = nn.Parameter(0.1 * torch.randn(1, prefix + size[0] // 8 * (size[1] // 8), width))
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> (B, classes)."""
        patches = self.patch(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(images), -1, -1), patches], 1) + self.place
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return self.head(tokens[:, 0] if self.first.shape[1] else tokens.mean(1))


class ToLast(nn.Module):
    """(B, C, h, w) -> (B, h, w, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """The same values, channels last."""
        return x.permute(0, 2, 3, 1)


class ChannelsLastCNN(nn.Module):
    """Features (B, h, w, C) with a norm over channels, as Swin has them; `norm` is the last spatial layer."""

    def __init__(self, classes: int = 5, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 4, stride=4), ToLast(), nn.GELU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> (B, classes)."""
        return self.head(self.norm(self.features(images)).mean((1, 2)))


class FlattenedCNN(nn.Module):
    """A map flattened by `.view`, which only takes channels-first memory: much of what people write themselves."""

    def __init__(self, classes: int = 5, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 5, stride=4, padding=1)
        self.more = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width * 6 * 10, classes)

    def forward(self, images: Tensor) -> Any:
        """(B, 3, 24, 40) -> (B, classes)."""
        x = F.relu(self.more(F.relu(self.conv(images))))
        return self.head(x.view(len(images), -1))


class LinearModel(nn.Module):
    """One linear map of the pixels: the gradient is its weight, and no layer is spatial."""

    def __init__(self, classes: int = 5, size: tuple[int, int] = SIZE) -> None:
        super().__init__()
        self.head = nn.Linear(3 * size[0] * size[1], classes)

    def forward(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> (B, classes)."""
        return self.head(images.flatten(1))


class Dead(GapCNN):
    """As `GapCNN`, but nothing influences any logit."""

    def forward(self, images: Tensor) -> Any:
        """As `GapCNN`."""
        return 0 * super().forward(images) + torch.arange(5.0, device=images.device)


class Raising(GapCNN):
    """As `GapCNN`, until `error` is set: then that is raised, after the features and before the head."""

    error: BaseException | None = None

    def forward(self, images: Tensor) -> Any:
        """As `GapCNN`."""
        features = self.features(images)
        if self.error is not None:
            raise self.error
        return self.head(features.mean((2, 3)))


class OneQuarter(nn.Module):
    """Sees one quarter of the image, "top left" and so on, and nothing else: without biases no other place has any value behind it."""

    def __init__(self, quarter: str, classes: int = 5, width: int = 8) -> None:
        super().__init__()
        self.top, self.left = "top" in quarter, "left" in quarter
        first, second = (nn.Conv2d(inputs, width, 3, stride=2, padding=1, bias=False) for inputs in (3, width))
        self.features = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.head = nn.Linear(width, classes)

    def seen(self, images: Tensor) -> Tensor:
        """1 where it looks, 0 elsewhere; (H, W)."""
        height, width = images.shape[-2:]
        mask = images.new_zeros(height, width)
        rows = slice(0, height // 2) if self.top else slice(height - height // 2, height)
        mask[rows, slice(0, width // 2) if self.left else slice(width - width // 2, width)] = 1
        return mask

    def forward(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> (B, classes)."""
        return self.head(self.features(images * self.seen(images)).mean((2, 3)))


class Rows(list[int]):
    """Numbers of rows, one list for a network and all copies of it: what asks a copy asks the network."""

    def __deepcopy__(self, memo: object) -> Rows:
        return self


class Recorded(nn.Module):
    """`inner`, with the number of rows of every forward in `rows`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.rows = Rows()

    def forward(self, images: Tensor) -> Any:
        """As `inner`."""
        self.rows.append(len(images))
        return self.inner(images)


class Hungry(Recorded):
    """`inner`, which runs out of memory on more than `limit` rows."""

    def __init__(self, inner: nn.Module, limit: int, error: BaseException | None = None) -> None:
        super().__init__(inner)
        self.limit, self.error = limit, error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def forward(self, images: Tensor) -> Any:
        """As `inner`, or `error`."""
        logits = super().forward(images)
        if len(images) > self.limit:
            raise self.error
        return logits


@dataclasses.dataclass
class Output:
    """Logits beside what a loss would be, which comes first and is None."""

    loss: Tensor | None
    logits: Tensor


class Pair(NamedTuple):
    """Logits after features, by name."""

    features: Tensor
    logits: Tensor


WRAPS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dict": lambda features, logits: {"features": features, "logits": logits},
    "tuple": lambda features, logits: (logits, features),
    "list": lambda features, logits: [logits, features],
    "dataclass": lambda _features, logits: Output(None, logits),
    "namedtuple": Pair,
    "maps of one place": lambda _features, logits: logits[:, :, None, None],
}


class Wrapped(GapCNN):
    """As `GapCNN`, its logits inside one of `WRAPS`."""

    def __init__(self, kind: str, classes: int = 5) -> None:
        super().__init__(classes)
        self.kind = kind

    def forward(self, images: Tensor) -> Any:
        """As `GapCNN`, in a container."""
        features = self.features(images)
        return WRAPS[self.kind](features, self.head(features.mean((2, 3))))


class SingleLogit(GapCNN):
    """One logit an image, returned as (B,)."""

    def __init__(self) -> None:
        super().__init__(classes=1)

    def forward(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> (B,)."""
        return super().forward(images).squeeze(1)


# The kinds of network that a call has to give an answer on.
NETWORKS: dict[str, type[nn.Module]] = {
    "cnn": GapCNN,
    "residual": ResidualCNN,
    "flattened": FlattenedCNN,
    "vit": TinyViT,
    "channels last": ChannelsLastCNN,
}
