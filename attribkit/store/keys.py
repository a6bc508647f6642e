"""What decides the answers of a model, as a digest."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ..errors import Unsupported
from ..problems.shards import digest_tensor

if TYPE_CHECKING:
    from ..model.adapter import VisionModel


def fingerprint(model: VisionModel) -> str:
    """A digest of a model's weights and structure, its preprocessing and its precision.

    What its code does is not in it: a `forward` that was changed under the same names gives the same digest.
    """
    digest = hashlib.sha256()
    module = model.module
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    for words in (kind, str(module), str(model.preprocessing), model.precision, _layer(model), repr(model.classes)):
        digest.update(f"{words}\n".encode("utf-8", "surrogatepass"))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(name.encode())
        digest_tensor(digest, tensor)
    return digest.hexdigest()


def _layer(model: VisionModel) -> str:
    """The layer that CAM methods look at, which a person may have chosen."""
    try:
        return model.layer
    except Unsupported:
        return ""
