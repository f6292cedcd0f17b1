"""Find the noise of each image, and treat only what is noisy.

Salt and pepper is judged and mended where a file is decoded, before a resize smears it;
here the mended pixels take their place. Gaussian noise, which a resize averages away in
part, is filtered in the stored pixels, as strongly as what is left of it asks for.
Blur and JPEG blocks are only marked: no filter tried brings them back
(docs/data-quality.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import numpy as np
import zarr
from pydantic import Field

from data_contracts.config import Settings
from data_contracts.dataset import Array
from data_contracts.references import DatasetRef
from tasks.parallel import Span, map_spans, spans
from tasks.sensor import MEND_FROM
from tasks.stage import Build, run_stage, stage_task

VERSION = 4
# Less Gaussian noise than this costs fewer decibels than a filter's own damage.
LEAST_LEFT = 3.0
# Non-local means are 1.0 dB better at 224 pixels, 1.7 worse at 96, and 30 times slower.
NLM_FROM = 192
# Blur: detail falls with the size to this power, on clean photos of 32 to 224 pixels.
DETAIL_POWER = 1.2
FLAT = 25.0  # a variance that JPEG alone gives a flat picture

FIGURES = ("sensor_sigma sensor_impulse left_sigma blockiness sharpness std").split()


class GaussianFilter(StrEnum):
    """Filters against Gaussian noise."""

    auto = "auto"
    bilateral = "bilateral"
    nlm = "nlm"


class DenoiseSettings(Settings):
    """Settings of the stage `denoise`."""

    treat: bool = Field(True, description="Filter noisy images; else only mark them.")
    impulse: float = Field(
        0.01,
        ge=MEND_FROM,
        le=1,
        description="Salt and pepper: share of lone bright or dark points from which.",
    )
    sigma: float = Field(
        7.0,
        ge=0,
        description="Gaussian: estimated standard deviation from which, in the"
        " original.",
    )
    gaussian: GaussianFilter = Field(
        GaussianFilter.auto,
        description="Filter against Gaussian noise; auto is bilateral, and nlm from"
        f" {NLM_FROM} pixels.",
    )
    min_detail: float = Field(
        0.08,
        ge=0,
        description="Blur: variance of the Laplacian over that of the picture below"
        " which, at 64 pixels.",
    )
    blocking: float = Field(
        2.0,
        ge=1,
        description="JPEG: steps across the edges of blocks over those beside, from"
        " which.",
    )


def route(
    figures: Mapping[str, Array], *, size: int, settings: DenoiseSettings
) -> Array:
    """Return the noise of each image: none, impulse, gaussian, blur or jpeg.

    Args:
        figures: Columns of FIGURES.
        size: Side of the stored images.
        settings: Limits.
    """
    detail = figures["sharpness"] / (figures["std"] ** 2 + FLAT)
    found = {
        "impulse": figures["sensor_impulse"] >= settings.impulse,
        "gaussian": figures["sensor_sigma"] >= settings.sigma,
        "jpeg": figures["blockiness"] >= settings.blocking,
        "blur": detail < settings.min_detail * (64 / size) ** DETAIL_POWER,
    }
    return np.select(list(found.values()), list(found), "none").astype(object)


def treatable(noise: Array, left: Array, settings: DenoiseSettings) -> Array:
    """Return which images a filter makes better (b,).

    Args:
        noise: Noise of each image.
        left: Gaussian noise left in its stored pixels.
        settings: Whether to treat at all.
    """
    gaussian = (noise == "gaussian") & (left >= LEAST_LEFT)
    return np.asarray(settings.treat & ((noise == "impulse") | gaussian))


def denoise(
    images: Array,
    mended: Array,
    noise: Array,
    left: Array,
    *,
    settings: DenoiseSettings,
) -> Array:
    """Return images with noise taken out, all others untouched.

    Args:
        images: uint8 (b, h, w, 3).
        mended: The same without salt and pepper, where there was any.
        noise: Noise of each image (b,).
        left: Gaussian noise left in each, grey levels (b,).
        settings: Which filter.
    """
    out, treated = images.copy(), treatable(noise, left, settings)
    impulse = treated & (noise == "impulse")
    out[impulse] = mended[impulse]
    smooth = filter_of(settings.gaussian, size=images.shape[1])
    for row in np.flatnonzero(treated & (noise == "gaussian")):
        out[row] = smooth(images[row], float(left[row]))
    return out


def filter_of(name: GaussianFilter, *, size: int) -> Callable[[Array, float], Array]:
    """Return the filter of this name for images of side `size`."""
    if name == GaussianFilter.auto:
        return nlm if size >= NLM_FROM else bilateral
    return nlm if name == GaussianFilter.nlm else bilateral


def bilateral(image: Array, sigma: float) -> Array:
    """Filter one image (h, w, 3) of Gaussian noise of `sigma` grey levels."""
    import cv2

    # Four sigma: OpenCV sums the differences of the three channels.
    return np.asarray(cv2.bilateralFilter(image, 5, 4 * sigma, 3))


def nlm(image: Array, sigma: float) -> Array:
    """As `bilateral`, by non-local means (Buades 2005) with patches of 3 in 9."""
    import cv2

    return np.asarray(cv2.fastNlMeansDenoising(image, None, 0.8 * sigma, 3, 9))


def denoise_dataset_images(build: Build, settings: DenoiseSettings) -> None:
    """Write `noise` and `treated`, and the pixels of treated images."""
    assert build.parent is not None
    columns = build.parent.columns(*FIGURES, "keep", "label")
    noise = route(columns, size=build.parent.image_size, settings=settings)
    # Images without a label may get one later.
    noise[~columns["keep"] & (columns["label"] >= 0)] = "none"
    left = columns["left_sigma"]
    treated = treatable(noise, left, settings)
    touched = [
        span
        for span in spans(0, len(noise), size=build.parent.chunk)
        if treated[span[0] : span[1]].any()
    ]

    def work(group: zarr.Group, span: Span) -> None:
        pixels: Any = group["images"]
        mended: Any = group["mended"]
        rows = slice(*span)
        pixels[rows] = denoise(
            np.asarray(pixels[rows]),
            np.asarray(mended[rows]),
            noise[rows],
            left[rows],
            settings=settings,
        )

    map_spans(work, touched, session=build.session, label="denoise")
    build.writer.write(noise=noise, treated=treated)


@stage_task(retries=2)
def denoise_dataset(source: DatasetRef, settings: DenoiseSettings) -> DatasetRef:
    """Denoise the noisy images of `source`, and only those."""
    return run_stage(
        "denoise",
        lambda build: denoise_dataset_images(build, settings),
        uri=source.uri,
        parent=source,
        version=VERSION,
        settings=settings,
    )
