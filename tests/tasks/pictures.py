"""Small image files that tests write and read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def photo(
    height: int = 48, width: int = 70, *, seed: int = 0, detail: int = 6
) -> np.ndarray:
    """Return a smooth random RGB picture, with `detail` spots a side."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (detail, detail, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))


def encoded(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture as the bytes of a file of this kind."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    """Return EXIF that holds an orientation only."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def write(path: Path, *, seed: int = 0, side: int = 16) -> Path:
    """Write a small PNG, different for each seed, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(photo(side, side, seed=seed), "PNG"))
    return path


def write_folders(root: Path, **counts: int) -> Path:
    """Write so many small PNGs into a folder of each name, and return `root`."""
    seed = 0
    for name, count in counts.items():
        for _ in range(count):
            write(root / name / f"{seed}.png", seed=seed)
            seed += 1
    return root
