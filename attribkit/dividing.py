"""Functions that divide one picture into regions, on the host: what worker processes run.

They start sooner for what is not imported here: no torch, and scikit-image only once it is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_SIZE = (224, 224)  # what Felzenszwalb's scales and smallest region mean in XRAI, whatever the picture's own size


def felzenszwalb(picture: Array, *, scales: tuple[float, ...], sigma: float, min_size: int) -> Array:
    """Felzenszwalb's graph-based regions of a picture (H, W, 3), once for each scale, as XRAI makes them; (scales, H, W) int32.

    The picture is stretched to [-1, 1], the range that the scales are meant for, and divided at 224 x 224.
    """
    from skimage.segmentation import felzenszwalb as divided
    from skimage.transform import resize

    low, high = picture.min(), picture.max()
    if low == high:
        return np.zeros((len(scales), *picture.shape[:2]), dtype=np.int32)
    stretched = 2 * ((picture - low) / (high - low)) - 1
    small = resize(stretched, _SIZE, order=3, mode="constant", preserve_range=True, anti_aliasing=True)
    labels = [divided(small, scale=scale, sigma=sigma, min_size=min_size) for scale in scales]
    back = {"order": 0, "mode": "constant", "preserve_range": True, "anti_aliasing": False}
    return np.stack([resize(each, picture.shape[:2], **back) for each in labels]).astype(np.int32)


def slic(picture: Array, *, segments: int, compactness: float) -> Array:
    """SLIC's superpixels of a picture (H, W, 3) in [0, 1]; (1, H, W) int32."""
    from skimage.segmentation import slic as divided

    labels: Array = divided(picture, n_segments=segments, compactness=compactness, start_label=0)
    return labels[None].astype(np.int32)
