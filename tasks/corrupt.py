"""Spoil images on purpose, in 15 ways and 5 severities, to measure what a model bears.

Strengths are those in use for 32 pixels (Hendrycks & Dietterich 2019, arXiv 1903.12261,
have the idea; the functions and figures here are others) and follow the image's side:
lengths grow with it, noise with its root. What happens to an image depends on its key,
the corruption and the severity, never on the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Random = np.random.Generator

SEVERITIES = 5
REFERENCE_SIDE = 32


class Corruption(StrEnum):
    """Ways to spoil an image."""

    gaussian_noise = "gaussian_noise"
    shot_noise = "shot_noise"
    impulse_noise = "impulse_noise"
    speckle_noise = "speckle_noise"
    gaussian_blur = "gaussian_blur"
    defocus_blur = "defocus_blur"
    motion_blur = "motion_blur"
    zoom_blur = "zoom_blur"
    fog = "fog"
    brightness = "brightness"
    contrast = "contrast"
    saturation = "saturation"
    pixelation = "pixelation"
    jpeg = "jpeg"
    elastic = "elastic"


def corrupt(
    images: Images, corruption: Corruption, *, severity: int, keys: npt.ArrayLike
) -> Images:
    """Return spoiled copies of `images`.

    Args:
        images: uint8 (b, h, h, 3).
        corruption: How to spoil them.
        severity: 1, barely visible, to 5.
        keys: A number for each image (b,), such as the start of its digest.

    Raises:
        ValueError: There is no such severity.
    """
    if not 1 <= severity <= SEVERITIES:
        raise ValueError(f"severity must lie in 1..{SEVERITIES}, received {severity}")
    strengths, spoil = WAYS[corruption]
    strength, place = strengths[severity - 1], list(WAYS).index(corruption)
    out = np.empty_like(images)
    for i, key in enumerate(np.asarray(keys)):
        rng = np.random.default_rng([int(key), place, severity])
        spoiled = spoil(images[i].astype(np.float32) / 255, strength, rng)
        out[i] = np.rint(np.clip(spoiled, 0, 1) * 255)
    return out


def _scale(image: Floats) -> float:
    """Return how much larger the image is than those that strengths are meant for."""
    return float(image.shape[0] / REFERENCE_SIDE)


def gaussian_noise(image: Floats, strength: float, rng: Random) -> Floats:
    """Add normal noise of `strength` times the root of the scale."""
    return image + _normal(image, rng) * np.float32(strength * _scale(image) ** 0.5)


def shot_noise(image: Floats, photons: float, rng: Random) -> Floats:
    """Count light as if white were `photons` (at scale 1)."""
    photons /= _scale(image)
    return (rng.poisson(image * photons) / photons).astype(np.float32)


def impulse_noise(image: Floats, share: float, rng: Random) -> Floats:
    """Turn a share of the pixels black or white."""
    out, hit = image.copy(), rng.random(image.shape[:2])
    share = min(share * _scale(image) ** 0.5, 0.5)
    out[hit < share / 2], out[hit > 1 - share / 2] = 0, 1
    return out


def speckle_noise(image: Floats, strength: float, rng: Random) -> Floats:
    """Add normal noise in proportion to the light."""
    return image + image * _normal(image, rng) * np.float32(
        strength * _scale(image) ** 0.5
    )


def gaussian_blur(image: Floats, sigma: float, rng: Random) -> Floats:
    """Blur by a bell of `sigma` pixels (at scale 1)."""
    del rng
    return _as_floats(cv2.GaussianBlur(image, (0, 0), sigma * _scale(image)))


def defocus_blur(image: Floats, radius: float, rng: Random) -> Floats:
    """Blur by a disc of `radius` pixels (at scale 1), its edge one pixel soft."""
    del rng
    radius *= _scale(image)
    reach = int(np.ceil(radius))
    ticks = np.arange(-reach, reach + 1)
    disc = np.clip(radius + 0.5 - np.hypot(ticks[:, None], ticks), 0, 1)
    return _filtered(image, disc)


def motion_blur(image: Floats, length: float, rng: Random) -> Floats:
    """Blur along a line of `length` pixels (at scale 1) in any direction."""
    reach, angle = length * _scale(image) / 2, rng.uniform(0, np.pi)
    ticks = np.arange(-int(np.ceil(reach)), int(np.ceil(reach)) + 1)
    along = ticks[:, None] * np.sin(angle) + ticks * np.cos(angle)
    across = ticks[:, None] * np.cos(angle) - ticks * np.sin(angle)
    line = np.clip(1 - np.abs(across), 0, 1) * np.clip(
        reach + 0.5 - np.abs(along), 0, 1
    )
    return _filtered(image, line)


def zoom_blur(image: Floats, largest: float, rng: Random) -> Floats:
    """Average views from no zoom to `largest`."""
    del rng
    side, total = image.shape[0], np.zeros_like(image)
    zooms = np.linspace(1, largest, 8)
    for zoom in zooms:
        edge = (side - 1) / 2 * (1 - 1 / zoom)
        view = np.array([[1 / zoom, 0, edge], [0, 1 / zoom, edge]])
        total += _warped(image, view)
    return _as_floats(total / len(zooms))


def fog(image: Floats, strength: float, rng: Random) -> Floats:
    """Mix in white clouds of several sizes."""
    side = image.shape[0]
    clouds = np.zeros((side, side), np.float32)
    for octave in range(4):
        coarse = rng.random((2 + 2**octave,) * 2, np.float32)
        fine = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        clouds += _as_floats(fine) / 2**octave
    clouds = (clouds - clouds.min()) / max(float(np.ptp(clouds)), 1e-6)
    haze = (strength * (0.4 + 0.6 * clouds))[..., None]
    return _as_floats((image + haze) / (1 + strength))


def brightness(image: Floats, strength: float, rng: Random) -> Floats:
    """Add light."""
    del rng
    return image + np.float32(strength)


def contrast(image: Floats, share: float, rng: Random) -> Floats:
    """Keep a share of the distance from the mean colour."""
    del rng
    mean = image.mean(axis=(0, 1))
    return _as_floats((image - mean) * np.float32(share) + mean)


def saturation(image: Floats, factor: float, rng: Random) -> Floats:
    """Multiply the distance from grey."""
    del rng
    grey = _as_floats(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[..., None]
    return grey + (image - grey) * np.float32(factor)


def pixelation(image: Floats, share: float, rng: Random) -> Floats:
    """Average over blocks: a share of the side as many, fewer for large images."""
    del rng
    side = image.shape[0]
    share = share ** max(1 + np.log2(_scale(image)) / 2, 0.5)
    few = max(2, round(side * share))
    edges, ticks = np.linspace(0, side, few + 1)[:, None], np.arange(side)
    overlap = np.minimum(edges[1:], ticks + 1) - np.maximum(edges[:-1], ticks)
    cells = np.maximum(overlap, 0).astype(np.float32)  # (few, side)
    there_and_back = cells.T @ cells * np.float32(few / side)
    rows = np.einsum("ij,jkc->ikc", there_and_back, image)
    return _as_floats(np.einsum("ij,kjc->kic", there_and_back, rows))


def jpeg(image: Floats, quality: float, rng: Random) -> Floats:
    """Store and read as JPEG, coarser for large images."""
    del rng
    quality = int(np.clip(quality / _scale(image) ** 0.5, 5, 95))
    pixels = np.rint(image[..., ::-1] * 255).astype(np.uint8)
    _, stored = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    read = cv2.imdecode(stored, cv2.IMREAD_COLOR)
    assert read is not None
    return read[..., ::-1].astype(np.float32) / np.float32(255)


def elastic(image: Floats, strength: float, rng: Random) -> Floats:
    """Shift pixels by a smooth field of up to about `strength` of the side."""
    side = image.shape[0]
    shift = rng.uniform(-1, 1, (2, side, side)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(part, (0, 0), side / 12) for part in shift])
    smooth *= strength * side / max(float(np.abs(smooth).max()), 1e-6)
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    return _as_floats(
        cv2.remap(
            image,
            columns + smooth[0],
            rows + smooth[1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    )


def _normal(image: Floats, rng: Random) -> Floats:
    return rng.standard_normal(image.shape, np.float32)


def _filtered(image: Floats, kernel: npt.NDArray[np.float64]) -> Floats:
    return _as_floats(cv2.filter2D(image, -1, kernel / kernel.sum()))


def _warped(image: Floats, view: npt.NDArray[np.float64]) -> Floats:
    side = image.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return _as_floats(
        cv2.warpAffine(
            image, view, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101
        )
    )


def _as_floats(image: npt.NDArray[np.generic]) -> Floats:
    return image.astype(np.float32, copy=False)


Spoil = Callable[[Floats, float, Random], Floats]
# Strength by severity, and what takes it.
WAYS: dict[Corruption, tuple[tuple[float, ...], Spoil]] = {
    Corruption.gaussian_noise: ((0.04, 0.06, 0.08, 0.09, 0.10), gaussian_noise),
    Corruption.shot_noise: ((500, 250, 100, 75, 50), shot_noise),
    Corruption.impulse_noise: ((0.01, 0.02, 0.03, 0.05, 0.07), impulse_noise),
    Corruption.speckle_noise: ((0.06, 0.10, 0.13, 0.17, 0.22), speckle_noise),
    Corruption.gaussian_blur: ((0.4, 0.6, 0.75, 0.9, 1.1), gaussian_blur),
    Corruption.defocus_blur: ((0.6, 0.8, 1.0, 1.3, 1.6), defocus_blur),
    Corruption.motion_blur: ((2.0, 3.0, 4.0, 5.0, 6.5), motion_blur),
    Corruption.zoom_blur: ((1.06, 1.11, 1.16, 1.22, 1.30), zoom_blur),
    Corruption.fog: ((0.2, 0.5, 0.8, 1.2, 1.8), fog),
    Corruption.brightness: ((0.06, 0.12, 0.18, 0.25, 0.33), brightness),
    Corruption.contrast: ((0.75, 0.5, 0.4, 0.3, 0.15), contrast),
    Corruption.saturation: ((1.5, 2.0, 3.0, 5.0, 8.0), saturation),
    Corruption.pixelation: ((0.95, 0.9, 0.85, 0.75, 0.65), pixelation),
    Corruption.jpeg: ((80, 65, 58, 50, 40), jpeg),
    Corruption.elastic: ((0.015, 0.022, 0.03, 0.038, 0.05), elastic),
}
