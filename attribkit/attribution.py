"""The result of explaining: `Attribution`, maps with everything needed to know what they are."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import maps as on_maps
from .batch import Batch, Targets, names_of, remade
from .errors import BadInput
from .files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "attribkit/attribution/1"


class Explained(NamedTuple):
    """What a method's hook may return beside its maps: further facts, one row per image (a convergence delta, a counterfactual)."""

    maps: Tensor
    extras: Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Attribution:
    """Signed, un-normalised saliency maps of one method, at the method's own resolution.

    `maps` (B, h, w) float32; `targets` and `ids` one per image; `method` the `repr` that makes the method again; `size` (H, W) of the
    images; `model` and `classes` name what was explained; `scores` (B,) is the model's answer for the target where it is known;
    `extras` holds what else the method reports, one row per image; `facts` what else decided the maps (layer, precision, ...), in words.
    """

    maps: Tensor
    targets: Targets
    ids: tuple[str, ...]
    method: str
    size: tuple[int, int]
    model: str = ""
    classes: tuple[str, ...] = ()
    scores: Tensor | None = None
    extras: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.maps, Tensor) or self.maps.ndim != 3 or self.maps.dtype != torch.float32 or 0 in self.maps.shape[1:]:
            got = f"{tuple(self.maps.shape)} {self.maps.dtype}" if isinstance(self.maps, Tensor) else type(self.maps).__name__
            raise BadInput(f"Attribution.maps: got {got}, allowed: a (B, h, w) float32 tensor")
        if self.maps.requires_grad:
            raise BadInput("Attribution.maps: got a tensor that requires grad, allowed: a detached one")
        object.__setattr__(self, "ids", names_of(self.ids, "Attribution.ids"))
        object.__setattr__(self, "classes", names_of(self.classes, "Attribution.classes"))
        for name, value, kind in (("targets", self.targets, Targets), ("method", self.method, str), ("model", self.model, str)):
            if not isinstance(value, kind):
                raise BadInput(f"Attribution.{name}: got {type(value).__name__}, allowed: {kind.__name__}")
        sides = tuple(self.size)
        if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
            raise BadInput(f"Attribution.size: got {self.size}, allowed: (H, W) of the images")
        object.__setattr__(self, "size", sides)
        self._check_rows()
        names_of([*self.facts, *self.facts.values()], "Attribution.facts")
        object.__setattr__(self, "extras", types.MappingProxyType(dict(self.extras)))
        object.__setattr__(self, "facts", types.MappingProxyType(dict(self.facts)))

    def _check_rows(self) -> None:
        """Raise unless everything has one row per map."""
        rows = len(self.maps)
        reported = {f"extras[{name!r}]": extra for name, extra in self.extras.items()}
        for name, tensor in reported.items() if self.scores is None else {**reported, "scores": self.scores}.items():
            if not isinstance(tensor, Tensor) or not tensor.ndim:
                raise BadInput(f"Attribution.{name}: got {type(tensor).__name__}, allowed: a tensor with one row per map ({rows})")
        if self.scores is not None and self.scores.ndim != 1:
            raise BadInput(f"Attribution.scores: got {tuple(self.scores.shape)}, allowed: ({rows},)")
        lengths = {"targets": len(self.targets), "ids": len(self.ids), "scores": rows if self.scores is None else len(self.scores)}
        for name, length in (lengths | {name: len(extra) for name, extra in reported.items()}).items():
            if length != rows:
                raise BadInput(f"Attribution.{name}: got {length}, allowed: one per map ({rows})")

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return remade(self)

    def __getitem__(self, rows: slice) -> Attribution:
        """Some of the maps, with everything that is known about them."""
        if not isinstance(rows, slice):
            raise BadInput(f"Attribution[...]: got {type(rows).__name__}, allowed: a slice, such as maps[:8]")
        return dataclasses.replace(
            self,
            maps=self.maps[rows],
            targets=self.targets[rows],
            ids=self.ids[rows],
            scores=None if self.scores is None else self.scores[rows],
            extras={name: extra[rows] for name, extra in self.extras.items()},
        )

    def __repr__(self) -> str:
        rows, height, width = self.maps.shape
        return f"<Attribution: {rows} maps of {height}x{width} by {self.method} for {self.model or 'a model'}>"

    def at(self, size: int | tuple[int, int] | None = None) -> Tensor:
        """The maps resized (bilinear) to `size` (H, W), by default that of the images; (B, H, W)."""
        sides = self.size if size is None else (size, size) if isinstance(size, int) else size
        if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
            raise BadInput(f"Attribution.at: got {size}, allowed: (H, W), each at least 1, or one number for a square")
        return on_maps.resize(self.maps, sides)

    def to(self, device: torch.device | str) -> Attribution:
        """The same on another device."""
        scores = None if self.scores is None else self.scores.to(device)
        extras = {name: extra.to(device) for name, extra in self.extras.items()}
        return dataclasses.replace(self, maps=self.maps.to(device), targets=self.targets.to(device), scores=scores, extras=extras)

    def labels(self) -> tuple[str, ...]:
        """The name of each image's target class, or its index where the model's classes have no names."""
        return tuple(self.classes[i] if 0 <= i < len(self.classes) else f"class {i}" for i in self.targets.index.tolist())

    def show(self, batch: Batch | Tensor | None = None, *, limit: int = 8) -> Figure:
        """A matplotlib figure of up to `limit` maps, over the images of `batch` where that is given."""
        from .report.figures import attribution_figure

        return attribution_figure(self, batch, limit=limit)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, with all metadata inside; it appears under its name only once it is complete."""
        from safetensors.torch import save

        tensors = {"maps": self.maps, "targets": self.targets.index}
        if self.scores is not None:
            tensors["scores"] = self.scores
        tensors |= {f"extra.{name}": extra for name, extra in self.extras.items()}
        about = {
            "ids": self.ids,
            "kind": self.targets.kind,
            "method": self.method,
            "size": self.size,
            "model": self.model,
            "classes": self.classes,
            "facts": dict(self.facts),
        }
        metadata = {"format": FORMAT, "about": json.dumps(about)}
        # Copies, since the format refuses tensors that share memory, as parts of one batch do.
        whole = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        return write_whole(path, save(whole, metadata))

    @classmethod
    def load(cls, path: str | Path) -> Attribution:
        """Read what `save` wrote; a file that is not such a file raises `BadInput`, and nothing in it is ever executed."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a file, not a dict
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{path}: cannot be read as a saved Attribution: {error}") from error
        if metadata.get("format") != FORMAT:
            raise BadInput(f"{path}: got format {metadata.get('format')!r}, allowed: {FORMAT!r}")
        try:
            about: dict[str, Any] = json.loads(metadata["about"])
            return cls(
                maps=tensors["maps"],
                targets=Targets(tensors["targets"], about["kind"]),
                ids=about["ids"],
                method=about["method"],
                size=(about["size"][0], about["size"][1]),
                model=about["model"],
                classes=about["classes"],
                scores=tensors.get("scores"),
                extras={name.removeprefix("extra."): tensor for name, tensor in tensors.items() if name.startswith("extra.")},
                facts=about.get("facts", {}),
            )
        except (KeyError, TypeError, IndexError, ValueError, RecursionError) as error:  # BadInput and JSON's errors are ValueErrors
            reason = str(error) if isinstance(error, BadInput) else repr(error)
            raise BadInput(f"{path}: a saved Attribution with a part missing or damaged: {reason}") from error
