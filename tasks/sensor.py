"""What noise a picture carries at its own size, before a resize averages it away.

Limits below were fitted on clean photos (docs/data-quality.md says which).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

# Sensor noise is alike everywhere: this much of the middle tells it.
WINDOW = 96
LEAST_SIDE = 6
GRID = 8  # JPEG codes blocks of this side
# Texture's power at half size over that at full size: 97 % of 600 clean photos of 32 to
# 480 pixels, carpets and playing cards among them, then read below 8.
TEXTURE = 4.0
MASK = np.array((1, -2, 1), np.float32)
RING = np.array(((1, 1, 1), (1, 0, 1), (1, 1, 1)), np.uint8)
# A lone point lies this far outside all its neighbours, and this many times farther
# than the middle pixel lies from its median: Gaussian noise reaches the first only.
LONE_STEP, LONE_SPREADS = 30, 6
# Salt and pepper: nearer than this to black or white, that far from the median.
EXTREME, JUMP = 30, 30
# From this share of lone points the picture is mended too; thrice the largest that 150
# clean photos of 128 pixels and more have.
MEND_FROM = 0.005
# Bits a pixel below which a JPEG file has no room for noise, by the mean step of its
# luminance table: 99 % of clean photos lie below.
ROOM, ROOM_BY_STEP = 5.2, 0.6


class Sensor(NamedTuple):
    """Noise of one picture at its own size.

    Attributes:
        sigma: Standard deviation of Gaussian noise, grey levels, less what texture
            explains.
        rough: The same, texture included: nearer to the truth where there is noise.
        impulse: Share of lone bright or dark points; close to that of salt and pepper
            while there is little.
        blockiness: Steps across the edges of 8x8 blocks over those beside them.
    """

    sigma: float
    rough: float
    impulse: float
    blockiness: float


SILENT = Sensor(0.0, 0.0, 0.0, 1.0)


def has_room(size: int, pixels: int, step: float) -> bool:
    """Whether a JPEG file is large enough to hold noise.

    Args:
        size: Bytes of the file.
        pixels: Its width times its height.
        step: Mean of the luminance quantisation table.
    """
    return 8 * size > pixels * (ROOM - ROOM_BY_STEP * math.log2(max(step, 1)))


def middle(image: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return the middle of a picture, cut along its JPEG blocks."""
    top, left = (max(0, n - WINDOW) // 2 // GRID * GRID for n in image.shape[:2])
    return image[top : top + WINDOW, left : left + WINDOW]


def read_sensor(part: Pixels) -> Sensor:
    """Measure the middle of a picture (h, w, 3), BGR, at the size it was taken.

    Roughness is the median absolute response to the mask of Immerkaer (1996), at full
    and at half size. White noise is as rough at both; texture is at least twice as
    rough at half size, which tells the two apart.
    """
    if min(part.shape[:2]) < LEAST_SIDE:
        return SILENT
    part = np.ascontiguousarray(part)
    grey = cv2.cvtColor(part, cv2.COLOR_BGR2GRAY).view(np.uint8)
    inner = (slice(1, -1), slice(1, -1))
    spread = _median(cv2.absdiff(grey, cv2.medianBlur(grey, 3))[inner][::4])
    bright = cv2.subtract(grey, cv2.dilate(grey, RING))
    dark = cv2.subtract(cv2.erode(grey, RING), grey)
    lone = np.maximum(bright, dark)[inner] > max(LONE_STEP, LONE_SPREADS * spread)
    rough = _roughness(part)
    # Halving averages four pixels, which halves the deviation of white noise.
    height, width = (n // 2 for n in part.shape[:2])
    half = cv2.resize(
        part[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA
    )
    coarse = 2 * _roughness(half.view(np.uint8))
    sigma = max(TEXTURE * rough**2 - coarse**2, 0) / (TEXTURE - 1)
    return Sensor(
        math.sqrt(sigma), rough, np.count_nonzero(lone) / lone.size, _blockiness(grey)
    )


def mend(image: Pixels) -> Pixels:
    """Replace salt and pepper, and nothing else, by the median around it (h, w, 3)."""
    calm = cv2.medianBlur(image, 3).view(np.uint8)
    hit = cv2.absdiff(image, calm) > JUMP
    hit &= (image <= EXTREME) | (image >= 255 - EXTREME)
    return np.where(hit.any(axis=2, keepdims=True), calm, image)


def _roughness(image: Pixels) -> float:
    """Return the deviation of white noise that would be as rough, grey levels."""
    response = np.abs(cv2.sepFilter2D(image, cv2.CV_16S, MASK, MASK)[1:-1:2, 1:-1])
    return _median(response) / (6 * 0.6745)


def _median(values: npt.NDArray[np.generic]) -> float:
    flat = values.ravel()
    half = len(flat) // 2
    return float(np.partition(flat, half)[half])


def _blockiness(grey: Pixels) -> float:
    """Return the mean step across block edges over that between the pixels beside."""
    ratios = []
    for picture in (grey, cv2.transpose(grey).view(np.uint8)):
        steps = cv2.absdiff(picture[1:], picture[:-1]).mean(axis=1)
        edges = np.arange(GRID - 1, len(steps) - 1, GRID)
        beside = (steps[edges - 1] + steps[edges + 1]) / 2
        ratios.append((steps[edges] + 0.5) / (beside + 0.5))
    found = np.concatenate(ratios)
    return float(found.mean()) if len(found) else SILENT.blockiness
