"""Boxes as annotations give them, and as fractions of the upright picture."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float, str]
Corners = npt.NDArray[np.float32]


class BoxUnit(StrEnum):
    """What the corners of boxes are measured in."""

    PIXEL = "pixel"
    FRACTION = "fraction"


class BoxFrame(StrEnum):
    """Which picture the corners of boxes lie in, where EXIF turns it."""

    AUTO = "auto"
    UPRIGHT = "upright"
    STORED = "stored"


def fractions(
    boxes: Sequence[Box],
    *,
    said: tuple[int, int] | None,
    size: tuple[int, int],
    orientation: int,
    unit: BoxUnit,
    frame: BoxFrame,
) -> tuple[Corners, list[str]]:
    """Return the boxes of one image as fractions of it upright, and their names.

    Corners are clipped to the picture; boxes without area are left out.

    Args:
        boxes: Corners and name of each.
        said: Width and height that the annotation gives, if any.
        size: Width and height of the upright picture.
        orientation: EXIF orientation of the file, 1 to 8.
        unit: Unit of the corners.
        frame: Picture that they lie in.

    Returns:
        (m, 4) x0, y0, x1, y1 in 0..1, and m names.
    """
    corners = np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4)
    stored = lies_as_stored(said, size, orientation=orientation, frame=frame)
    if unit is BoxUnit.PIXEL:
        w, h = said or (size[::-1] if stored and orientation > 4 else size)
        corners /= np.array([w, h, w, h], np.float32)
    corners = np.clip(corners, 0, 1).astype(np.float32)
    if stored:
        corners = turn_boxes(corners, orientation)
    real = (corners[:, 2:] > corners[:, :2]).all(1)
    return corners[real], [boxes[int(i)][4] for i in np.flatnonzero(real)]


def lies_as_stored(
    said: tuple[int, int] | None,
    size: tuple[int, int],
    *,
    orientation: int,
    frame: BoxFrame,
) -> bool:
    """Whether boxes lie in the stored picture, which EXIF turns.

    Labelling tools show the upright picture, so that boxes mostly lie in it; a size
    that lies on its side shows a tool that read the stored pixels.
    """
    if frame is not BoxFrame.AUTO:
        return frame is BoxFrame.STORED
    if said is None or orientation <= 4:
        return False
    return (said[0] - said[1]) * (size[0] - size[1]) < 0


def turn_boxes(corners: Corners, orientation: int) -> Corners:
    """Turn boxes (m, 4), fractions of a stored picture, as EXIF turns the picture."""
    x, y = corners[:, 0::2], corners[:, 1::2]
    if orientation > 4:
        x, y = y, x
    if orientation in (2, 3, 6, 7):
        x = 1 - x[:, ::-1]
    if orientation in (3, 4, 7, 8):
        y = 1 - y[:, ::-1]
    return np.stack([x, y], axis=2).reshape(-1, 4).astype(np.float32)
