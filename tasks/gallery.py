"""Pictures of a report: what is shown with each, and small JPEGs inside the page."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

PER_REASON = 12
REASONS = {
    "undecodable": "Could not be read as an image.",
    "blank": "One flat colour: nothing to learn from.",
    "dark": "Too dark to make anything out.",
    "blurred": "Too blurred to tell what it shows.",
    "odd-sized": "Too small, or far too long for its width.",
    "exact-duplicate": "The same file, byte for byte, is already in the dataset.",
    "near-duplicate": "Almost the same picture is already in the dataset.",
    "conflicting-label": "Copies of one picture that carry different labels.",
    "no-label": "No label was given.",
    "anomaly": "Foreign or broken: far from all others, or like no other.",
    "removed": "The source no longer holds it.",
}


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A test image that the candidate got wrong while being sure.

    Attributes:
        why: Its map (h, w, 3): what speaks for the class predicted.
    """

    image: Pixels
    path: str
    label: str
    predicted: str
    probability: float
    why: Pixels | None = None


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A test image on which the candidate and the champion disagree."""

    image: Pixels
    path: str
    label: str
    champion: str
    candidate: str
    probability: float | None = None

    @property
    def fixed(self) -> bool:
        """Whether the candidate is the one that is right."""
        return self.candidate == self.label


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A file that could not enter the dataset."""

    path: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """An image left out by cleaning, and the one kept in its place if there is one."""

    image: Pixels
    path: str
    reason: str
    detail: str = ""
    kept: Pixels | None = None
    kept_path: str = ""


@dataclass(frozen=True, kw_only=True)
class Denoised:
    """An image before and after the filter that its noise called for."""

    before: Pixels
    after: Pixels
    path: str
    noise: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A training image that came without a label, and the label found for it."""

    image: Pixels
    path: str
    label: str
    how: str
    sure: float


@dataclass(frozen=True, kw_only=True)
class Inpainted:
    """An image before and after what covers a share of it was painted over."""

    before: Pixels
    after: Pixels
    path: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Odd:
    """An image that does not belong, in robust deviations, and what says so."""

    image: Pixels
    path: str
    label: str
    oddness: float
    why: str
    left_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Spoiled:
    """One corruption: a test image under it, and top-1 by severity."""

    image: Pixels
    name: str
    top1: tuple[float, ...]
    champion: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """One training image (h, w, 3) and views of it (v, h, w, 3) as trained on.

    Attributes:
        words: What was done to each view, of what not every view meets.
    """

    seen: Pixels
    original: Pixels | None = None
    label: str = ""
    words: Sequence[str] = ()


def data_uri(image: Pixels, *, side: int = 96, quality: int = 85) -> str:
    """Return `image` as a JPEG in a data URI, its longer side at most `side` pixels.

    Args:
        image: uint8 RGB of shape (h, w, 3).
        side: longest side; smaller images keep their size.
        quality: JPEG quality, 1 to 100.

    Raises:
        ValueError: the array is not an RGB uint8 picture.
    """
    rgb = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    if not rgb or image.size == 0:
        raise ValueError(
            "report pictures must be uint8 of shape (h, w, 3), "
            f"received {image.dtype} of shape {image.shape}"
        )
    height, width = image.shape[:2]
    scale = side / max(height, width)
    pixels = np.ascontiguousarray(image[..., ::-1])
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        pixels = np.asarray(small, np.uint8)
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    text = base64.b64encode(encoded.tobytes()).decode("ascii")
    return f"data:image/jpeg;base64,{text}"


def by_reason(
    items: Sequence[Cleaned], counts: Mapping[str, int]
) -> list[tuple[str, int, list[Cleaned]]]:
    """Group `items` into (reason, total, first pictures), the largest total first.

    Args:
        items: pictures at hand, which may be fewer than were left out.
        counts: how many images each reason took; missing reasons count from `items`.
    """
    totals = Counter(item.reason for item in items) | Counter(counts)
    return [
        (reason, total, [item for item in items if item.reason == reason][:PER_REASON])
        for reason, total in totals.most_common()
    ]
