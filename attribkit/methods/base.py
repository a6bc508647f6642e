"""What every attribution method is: `Method`, plain settings and one hook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, final

from torch import Tensor

from ..attribution import Attribution, Explained
from ..batch import Batch, Targets
from ..errors import BadInput
from ..registry import Settings, Table, one_of

if TYPE_CHECKING:
    from ..model.adapter import VisionModel

METHODS: Table[Method] = Table("method")


class Method(Settings, ABC):
    """A way to explain one scalar of a model's answer: a frozen dataclass of plain settings, and one hook, `_maps`.

    Called with a model and a batch it gives an `Attribution`: signed, un-normalised maps (B, h, w), float32, at the method's own
    resolution, on the model's device. A sample's map does not depend on the batch it came in, nor on how the batch was chunked; a
    random method takes a `seed`; a target that nothing influences gives a map of zeros; the model comes back exactly as it was, also
    when the method raises. `needs` is what it asks of a model ("logits", "gradients", "spatial_layer", and "cut" if nothing may bypass that
    layer; nothing, if it asks nothing), and a model that lacks some of it raises `Unsupported` before any work; `cost` says in words how
    much it asks. `signed` says whether values below zero speak against the target.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    cost: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    signed: ClassVar[bool] = True
    table: ClassVar[Table[Any]] = METHODS

    @final
    def __call__(self, model: VisionModel, batch: Batch) -> Attribution:
        """Explain every image of `batch`."""
        model.require(self.needs, by=self)
        batch = model.fit(batch)
        with model.studied():
            maps, extras = self._explain(model, batch)
        return Attribution(
            maps.detach().float(),
            batch.targets,
            batch.ids,
            repr(self),
            size=(batch.images.shape[-2], batch.images.shape[-1]),
            model=model.name,
            classes=model.classes,
            scores=None if batch.logits is None else batch.targets.of(batch.logits),
            extras={name: extra.detach() for name, extra in extras.items()},
            facts=model.facts(self),
        )

    def _explain(self, model: VisionModel, batch: Batch) -> Explained:
        """What the method makes of a batch; another hook, for one that must know more of it than its images and targets."""
        return self.explained(model, batch.images, batch.targets)

    @final
    def explained(self, model: VisionModel, images: Tensor, targets: Targets) -> Explained:
        """The maps in the precision they were computed in, and what else the method reports: what wrappers build on."""
        result = self._maps(model, images, targets)
        maps, extras = result if isinstance(result, Explained) else (result, {})
        if maps.ndim != 3 or len(maps) != len(images):
            raise BadInput(f"{type(self).__name__}._maps returned {tuple(maps.shape)}, allowed: ({len(images)}, h, w)")
        return Explained(maps, extras)

    @abstractmethod
    def _maps(self, model: VisionModel, images: Tensor, targets: Targets) -> Tensor | Explained:
        """One signed map per image, (B, h, w), at the method's own resolution."""


class Wrapper(Method, ABC):
    """A method around another one, its setting `method`: what that one needs and whether it is signed is so of the whole."""

    method: Method

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # the base has it for the class, a wrapper for the object
        """What the inner method asks of a model."""
        return self.method.needs

    @property
    def signed(self) -> bool:  # type: ignore[override]  # as above
        """Whether values below zero of the inner method's map speak against the target."""
        return self.method.signed

    @property
    def layer(self) -> str | None:
        """The layer that the inner method was told to look at, if it was told one."""
        layer: str | None = getattr(self.method, "layer", None)
        return layer


def method(like: str | Method) -> Method:
    """A method from its name, from its `repr`, or itself."""
    made: Method = one_of(like, Method, "grad_cam", "GradCAM()")
    return made
