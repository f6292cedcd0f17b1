"""Statistics, perceptual hash and noise estimates of batches of uint8 RGB images.

A batch is seen as one tall picture (b * h, w, 3), so that OpenCV's vectorised filters
run once a batch; rows that a filter mixes across two images are cut off before anything
is counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Measured at 64 px: blocks of a million samples take 3/4 of the time of 256 images.
BLOCK_SAMPLES = 1 << 20

HASH_SIDE = 32
HASH_BLOCK = 8
# Coefficients below this are rounding noise of uint8 pixels: they count as zero.
HASH_FLOOR = 1.0
# Sensor noise is alike everywhere: this much of the middle tells it.
NOISE_SIDE = 128
# Salt and pepper: a sample this near to black or white, this far from its neighbours.
IMPULSE_DARK, IMPULSE_BRIGHT, IMPULSE_JUMP = 4, 251, 40


def statistics(images: Images) -> dict[str, Floats]:
    """Return mean, std, sharpness and saturation of each image, on the 0..255 scale.

    `mean` is over all samples; `std` is the root of the mean variance of the three
    channels, so a flat colour has none; `sharpness` is the variance of the Laplacian of
    the grey picture; `saturation` is the mean of HSV's S over
    every other row.

    Args:
        images: (b, h, w, 3) RGB.

    Returns:
        Arrays of shape (b,).
    """
    names = ("mean", "std", "sharpness", "saturation")
    return dict(zip(names, _by_block(_statistics, images), strict=True))


def _statistics(images: Images) -> tuple[Floats, ...]:
    b, h, w, _ = images.shape
    tall = _tall(images)
    # Around mid-grey the squares stay small, so that float32 holds their sum.
    values = (images ^ 128).view(np.int8).reshape(b, h, w * 3).astype(np.float32)
    means = values.sum(1).reshape(b, w, 3).sum(1) / (h * w)
    flat = values.reshape(b, h * w * 3)
    power = np.vecdot(flat, flat) / flat.shape[1]
    grey = cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY)
    laplacian = _inner(cv2.Laplacian(grey, cv2.CV_32F).reshape(b, h, w))
    hsv = cv2.cvtColor(_tall(images[:, ::2]), cv2.COLOR_RGB2HSV)
    s = cv2.extractChannel(hsv, 1).reshape(b, (h + 1) // 2 * w)
    return (
        means.mean(1) + 128,
        np.sqrt(np.maximum(power - np.vecdot(means, means) / 3, 0)),
        _variance(laplacian),
        (s.sum(1, dtype=np.uint32) / s.shape[1]).astype(np.float32),
    )


def perceptual_hash(images: Images) -> npt.NDArray[np.uint64]:
    """Return the 64-bit DCT hash of each image (Zauner 2010, low 8x8 of 32x32 grey).

    Bit i is set where the i-th coefficient, row by row, exceeds the median of those
    without the constant term. Images without structure hash to 0.

    Args:
        images: (b, h, w, 3) RGB, of any size.

    Returns:
        (b,) hashes; near-duplicates differ in few bits.
    """
    return _by_block(_hashes, images)[0]


def _hashes(images: Images) -> tuple[npt.NDArray[np.uint64]]:
    b, h, w, _ = images.shape
    grey = cv2.cvtColor(_tall(images), cv2.COLOR_RGB2GRAY).reshape(b, h, w)
    down, across = _hash_matrix(h), _hash_matrix(w)
    waves = down @ (grey.astype(np.float32) @ across.T)
    waves = waves.reshape(b, HASH_BLOCK**2)
    waves[np.abs(waves) < HASH_FLOOR] = 0
    bits = waves > np.partition(waves[:, 1:], 31, axis=1)[:, 31:32]
    bits[:, 0] = False
    return (np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64),)


def noise(images: Images) -> tuple[Floats, Floats]:
    """Estimate Gaussian noise (sigma) and salt-and-pepper share (impulse) per image.

    Sigma is the median absolute response to the noise mask of Immerkaer (1996), over
    the three channels, in grey levels; the median instead of his mean leaves edges out.
    Texture still lifts it: a clean photo of 64 px reads a few grey levels.

    Args:
        images: (b, h, w, 3) RGB, at least 3 pixels a side.

    Returns:
        Two arrays of shape (b,).
    """
    sigma, impulse = _by_block(_noise, _window(images, NOISE_SIDE))
    return sigma, impulse


def _noise(images: Images) -> tuple[Floats, Floats]:
    b, h, w, _ = images.shape
    tall = _tall(images)
    mask = np.array((1, -2, 1), np.float32)
    response = cv2.sepFilter2D(tall, cv2.CV_16S, mask, mask).reshape(b, h, w, 3)
    # About 16 rows are enough for a median, and save most of its cost.
    some = response[:, 1 : h - 1 : max(1, h // 16), 1:-1].reshape(b, -1)
    spread = np.abs(some).astype(np.float32)
    middle = spread.shape[1] // 2
    sigma = np.partition(spread, middle, axis=1)[:, middle] / (6 * 0.6745)
    jump = cv2.absdiff(tall, cv2.medianBlur(tall, 3)) > IMPULSE_JUMP
    jump &= (tall <= IMPULSE_DARK) | (tall >= IMPULSE_BRIGHT)
    inner = _inner(jump.reshape(b, h, w, 3)).view(np.uint8)
    share = inner.sum(1, dtype=np.uint32) / inner.shape[1]
    return sigma.astype(np.float32), share.astype(np.float32)


def _window(images: Images, side: int) -> Images:
    """Return the middle of each image, at most (side, side)."""
    top, left = (max(0, (n - side) // 2) for n in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def _by_block(
    measure: Callable[[Images], tuple[npt.NDArray[Any], ...]], images: Images
) -> list[npt.NDArray[Any]]:
    """Measure a batch in views whose temporary arrays fit the cache."""
    if not len(images):
        blank = np.zeros((1, *images.shape[1:]), np.uint8)
        return [values[:0] for values in measure(blank)]
    count = min(len(images), -(-images.size // BLOCK_SAMPLES))
    found = [measure(block) for block in np.array_split(images, count)]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _inner(maps: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (b, n): each map without its border, which mixes two images."""
    return np.ascontiguousarray(maps[:, 1:-1, 1:-1]).reshape(len(maps), -1)


def _variance(rows: Floats) -> Floats:
    centred = rows - rows.mean(1, keepdims=True)
    return np.asarray(np.vecdot(centred, centred) / rows.shape[1], np.float32)


def _tall(images: Images) -> Images:
    b, h, w, c = images.shape
    return np.ascontiguousarray(images).reshape(b * h, w, c)


@functools.cache
def _hash_matrix(side: int) -> Floats:
    """Return (8, side): area resize to 32, then 8 orthonormal DCT-II waves."""
    edges = np.linspace(0, side, HASH_SIDE + 1)
    cells = np.arange(side)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(
        edges[:-1, None], cells
    )
    resize = np.maximum(overlap, 0) * HASH_SIDE / side
    k, x = np.arange(HASH_BLOCK)[:, None], np.arange(HASH_SIDE)
    waves = np.cos(np.pi * k * (2 * x + 1) / (2 * HASH_SIDE)) * np.sqrt(2 / HASH_SIDE)
    waves[0] /= np.sqrt(2)
    return np.asarray(waves @ resize, np.float32)
