"""Maps as pictures: a perceptual colour map over the image, in grey."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_contracts.dataset import Array
from data_contracts.errors import UsageError
from models.explain.faithfulness import check_sizes
from tasks.inference import Floats

Pixels = NDArray[np.uint8]
SIDE = 192  # of a picture, pixels
CLIP = 99  # per cent of the pixels that the colours span
# Maps of one sign, and those around zero.
ONE_SIDED, TWO_SIDED = "inferno", "RdBu_r"


@functools.cache
def _colours(name: str) -> Floats:
    """Return 256 colours (256 3), 0..1, of matplotlib's map."""
    import matplotlib

    return np.asarray(matplotlib.colormaps[name](np.arange(256))[:, :3], np.float32)


def overlay(image: Pixels, values: Floats, *, signed: bool) -> Pixels:
    """Return a map's colours over its image (SIDE SIDE 3), uint8.

    Where a map says little, the image shows through in grey. A signed map is centred at
    zero: red speaks for the class, blue against it.

    Args:
        image: uint8 (h w 3).
        values: The map (h w).
        signed: Whether values below zero mean something.

    Raises:
        UsageError: Map and image differ in size.
    """
    import cv2

    check_sizes(values, image.shape[:2], what="A map")
    if not np.isfinite(values).all():
        raise UsageError("A map holds a value that is no number; nothing to draw.")
    way = cv2.INTER_CUBIC
    large = cv2.resize(image, (SIDE, SIDE), interpolation=way)
    value = cv2.resize(
        scaled(values, signed=signed), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR
    )
    level = np.rint((value + 1) * 127.5 if signed else value * 255)
    colour = _colours(TWO_SIDED if signed else ONE_SIDED)[level.astype(np.int64)]
    grey = np.repeat(large.mean(-1, keepdims=True) / 255, 3, axis=2)
    strength = 0.25 + 0.6 * np.abs(value)[..., None]
    blended = (1 - strength) * grey + strength * colour
    return np.asarray(np.rint(np.clip(blended, 0, 1) * 255), np.uint8)


def scaled(values: Floats, *, signed: bool) -> Floats:
    """Return a map (h w) in 0..1, or in -1..1 if signed, outliers clipped."""
    size = np.abs(values) if signed else values - values.min()
    # Where fewer pixels than that are marked, the largest.
    top = float(np.percentile(size, CLIP)) or float(size.max())
    own = values if signed else size
    low = -1.0 if signed else 0.0
    return np.clip(own / top, low, 1).astype(np.float32) if top > 0 else 0 * own


def png(image: Array) -> bytes:
    """Return an RGB image (h w 3), uint8, as a PNG file."""
    import cv2

    encoded: Any = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1]
    return bytes(encoded.tobytes())


def bar(*, signed: bool) -> Pixels:
    """Return the colours from low to high (12 SIDE 3), uint8, for a legend."""
    colours = _colours(TWO_SIDED if signed else ONE_SIDED)
    row = np.rint(colours[np.linspace(0, 255, SIDE).astype(np.int64)] * 255)
    return np.repeat(row[None].astype(np.uint8), 12, axis=0)
