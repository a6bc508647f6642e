"""From a `Configuration` to the model and the problems that it names."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from .base import PLANTED, Configuration
from .entries import problem_of

if TYPE_CHECKING:
    from ..model.adapter import VisionModel
    from ..problems.base import Problem


def build(configuration: Configuration, device: str | None = None) -> tuple[VisionModel, list[Problem]]:
    """The model on `device` and its problems, in order; raises what `load_model` and the problems raise."""
    from ..model.zoo import load_model

    weights = configuration.weights
    model = load_model(
        configuration.model,
        weights=None if weights.lower() == "none" else weights,
        mean=configuration.mean,
        std=configuration.std,
        size=configuration.size,
        classes=configuration.classes,
        layer=configuration.layer,
        device=device,
        precision=configuration.precision,
    )
    return model, _Problems(configuration, model).all()


class _Problems:
    """Makes the problems of one model; those that need images share the source that reads them."""

    def __init__(self, configuration: Configuration, model: VisionModel) -> None:
        self.configuration, self.model = configuration, model
        self.asked = [problem_of(text) for text in configuration.problems]

    def all(self) -> list[Problem]:
        """One for each that is asked for, each once."""
        made = [self._made(cls, settings) for cls, settings in self.asked]
        return list({id(each): each for each in made}.values())

    def _made(self, cls: type[Any], settings: dict[str, Any]) -> Any:
        from ..problems import Labelled

        return self._source if cls is Labelled or (cls, settings) == self._scenes else self._from(cls, settings)

    def _from(self, cls: type[Any], settings: dict[str, Any]) -> Any:
        """A problem with its settings; what they do not say is as the configuration has it."""
        from ..problems import Planted

        fields, asked = {field.name for field in dataclasses.fields(cls)}, self.configuration
        common: dict[str, Any] = {"seed": asked.seed, "batch_size": asked.batch}
        if cls is Planted and asked.limit is not None:
            common["count"] = asked.limit
        places = [self.model, *([self._source] if "source" in fields else [])]
        return cls(*places, **{name: value for name, value in common.items() if name in fields} | settings)

    @functools.cached_property
    def _source(self) -> Any:
        """The images: those of the data, or the scenes that are planted."""
        from ..problems import Labelled

        asked = self.configuration
        if self._scenes is not None:
            return self._from(*self._scenes)
        return Labelled(self.model, asked.data, batch_size=asked.batch, kind=asked.kind, limit=asked.limit)

    @functools.cached_property
    def _scenes(self) -> tuple[type[Any], dict[str, Any]] | None:
        """Where the data is planted: the first of such problems, or the usual one."""
        from ..problems import Planted

        if self.configuration.data != PLANTED:
            return None
        return next(((cls, settings) for cls, settings in self.asked if cls is Planted), (Planted, {}))
