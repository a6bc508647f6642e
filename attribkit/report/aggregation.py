"""AggAtt on a page: small pictures of mean maps, one row a method."""

from __future__ import annotations

import base64
import io
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..maps import resize
from .aggregated import PERCENTS, Aggregated
from .colours import colour_table, scale_of
from .evidence import Panels
from .scales import written

SIDE = 112  # pixels of a picture's longer side


def panels_content(panels: Panels) -> dict[str, Any]:
    """What the template shows: for each method a picture of each bin, the cell to outline, and the end of the scale they share."""
    return {
        "problem": panels.problem,
        "model": panels.model,
        "bins": [f"{low}–{high} %" for low, high in pairwise(PERCENTS)],
        "rows": [{"method": name, **_row(each)} for name, each in panels.aggregated.items()],
    }


def _row(panel: Aggregated) -> dict[str, Any]:
    height, width = panel.means.shape[-2:]
    share = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * share)), max(1, round(width * share))
    small = resize(panel.means.detach().float().cpu(), size).numpy() if share == 1 else _averaged(panel, size)
    limit = scale_of([small[place] for place, count in enumerate(panel.counts) if count], panel.limit or None).limit
    side = 100 / panel.n
    return {
        "pictures": [
            {"count": count, "src": tile(small[place] / limit) if count else "", "width": size[1], "height": size[0]}
            for place, count in enumerate(panel.counts)
        ],
        "cell": {"x": f"{panel.cell % panel.n * side:.2f}%", "y": f"{panel.cell // panel.n * side:.2f}%", "side": f"{side:.2f}%"},
        "limit": written(limit),
        "left_out": panel.left_out,
        "zero": bool(sum(panel.counts)) and not np.nan_to_num(small).any(),
    }


def _averaged(panel: Aggregated, size: tuple[int, int]) -> NDArray[np.float32]:
    means = panel.means.detach().float().cpu()
    small: NDArray[np.float32] = torch.nn.functional.adaptive_avg_pool2d(means.unsqueeze(1), size).squeeze(1).numpy()
    return small


def tile(shares: NDArray[np.float32]) -> str:
    """A map of shares of the scale as a PNG of 256 colours."""
    codes = np.rint(255 * np.clip(np.nan_to_num(shares), 0, 1)).astype(np.uint8)
    image, buffer = Image.fromarray(codes), io.BytesIO()
    image.putpalette(colour_table("inferno").tobytes())
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
