"""Decoding one image file to a square of pixels, guarded and always the same way.

Training and serving share this path, so that both see the same pixels.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from data_contracts.config import Settings
from tasks.header import Header, Problem, inspect
from tasks.sensor import MEND_FROM, SILENT, Sensor, has_room, mend, middle, read_sensor

__all__ = ["DecodeSettings", "Decoded", "Fit", "Problem", "decode_image"]

Pixels = npt.NDArray[np.uint8]

# Work is parallel over chunks already; OpenCV's own threads would fight them. Its log
# would repeat, to standard error, what ends up in the quarantine table.
cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

LETTERBOX_GREY = 114
STRIP = 256  # rows blended at a time
# JPEG decodes at 1/m by dropping frequencies: measured 2x faster than a full decode.
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class Fit(StrEnum):
    """How a picture becomes square: docs/preprocessing.md shows all four."""

    CROP = "crop"
    FIT = "fit"
    LETTERBOX = "letterbox"
    STRETCH = "stretch"


# Fits that show the whole picture, and how the rest of the square is filled. Mirrored
# pixels, unlike a bar, do not tell the network how long the picture was.
WHOLE = {Fit.FIT: cv2.BORDER_REFLECT, Fit.LETTERBOX: cv2.BORDER_CONSTANT}

Level = Annotated[int, Field(ge=0, le=255)]


class DecodeSettings(Settings):
    """How image files become pixels."""

    image_size: int = Field(64, ge=8, le=1024, description="Side in pixels.")
    fit: Fit = Field(
        Fit.CROP,
        description="crop the centre, fit whole with mirrored borders, letterbox whole"
        " on grey, or stretch.",
    )
    background: tuple[Level, Level, Level] = Field(
        (255, 255, 255), description="RGB colour put behind transparent pixels."
    )
    max_bytes: int = Field(64 << 20, ge=1, description="Largest file, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1, description="Most pixels of a picture.")
    max_side: int = Field(20_000, ge=1, description="Longest side, in pixels.")
    min_side: int = Field(8, ge=1, description="Shortest side, in pixels.")


# An area resize to the share x of a side leaves about this times x of Gaussian noise
# (measured: sigma 12 to 40, 30 photos); a growing one leaves all of it.
LEFT = 1.2
# Columns that say what noise a picture carries.
SENSED = ("sensor_sigma", "sensor_impulse", "blockiness", "left_sigma")


class Decoded(NamedTuple):
    """Pixels of one image, and the size of the upright original.

    Attributes:
        sensor: Noise at the size of the original.
        left: What Gaussian noise is left in the pixels if there is any, grey levels.
        mended: The pixels without salt and pepper; None where there is none.
    """

    image: Pixels
    width: int
    height: int
    kind: str
    notes: tuple[str, ...]
    orientation: int = 1
    sensor: Sensor = SILENT
    left: float = 0.0
    mended: Pixels | None = None

    @property
    def sensed(self) -> dict[str, float]:
        """The noise by name of its column."""
        sensor = self.sensor
        values = (sensor.sigma, sensor.impulse, sensor.blockiness, self.left)
        return dict(zip(SENSED, values, strict=True))


class _Undecodable(Exception):
    """Raised when OpenCV gives no picture, or another one than the header says."""


def decode_image(data: bytes, settings: DecodeSettings) -> Decoded | Problem:
    """Decode one file to (size, size, 3) RGB, or say why that cannot be done.

    Whatever the bytes are, this returns: a bad file is a `Problem`, never an exception.

    Args:
        data: The whole file.
        settings: Size, fit, background and limits.
    """
    header = inspect(
        data,
        max_bytes=settings.max_bytes,
        max_side=settings.max_side,
        max_pixels=settings.max_pixels,
    )
    if isinstance(header, Problem):
        return header
    width, height = header.width, header.height
    if min(width, height) < settings.min_side:
        detail = f"{width} x {height} pixels; sides must reach {settings.min_side}"
        return Problem("too-small", detail)
    try:
        stored = _read(data, header, _shrink(header, settings))
        image, blended = _square(stored, header, settings)
        sensor, mended = _judge(data, stored, header, settings)
    except _Undecodable as error:
        return Problem("undecodable", str(error))
    except (cv2.error, MemoryError, SystemError) as error:
        return Problem("undecodable", f"the decoder refused the file: {error}"[:300])
    if header.orientation > 4:
        width, height = height, width
    return Decoded(
        image,
        width,
        height,
        header.kind,
        _notes(header, blended=blended),
        header.orientation,
        sensor,
        sensor.rough * min(1.0, LEFT * settings.image_size / _side(header, settings)),
        mended,
    )


def _judge(
    data: bytes,
    stored: npt.NDArray[np.generic],
    header: Header,
    settings: DecodeSettings,
) -> tuple[Sensor, Pixels | None]:
    """Return the noise of the original, and the square without salt and pepper."""
    whole = (header.height, header.width)
    if stored.shape[:2] not in (whole, whole[::-1]):
        # Decoding at a fraction hides noise; few files have room for any.
        if not has_room(len(data), header.width * header.height, header.step):
            return SILENT, None
        stored = _read(data, header, 1)
    sensor = read_sensor(_blend(middle(stored), header, settings.background)[0])
    if sensor.impulse < MEND_FROM:
        return sensor, None
    colour, _ = _blend(stored, header, settings.background)
    return sensor, _square(mend(colour), header, settings)[0]


def _square(
    stored: npt.NDArray[np.generic], header: Header, settings: DecodeSettings
) -> tuple[Pixels, bool]:
    """Return the finished square, and whether transparency was blended away."""
    upright = stored
    if header.orientation > 1 and not header.upright:
        upright = np.ascontiguousarray(_turn(stored, header.orientation))
    if settings.fit is Fit.CROP:
        upright = _centre(upright)
    colour, blended = _blend(upright, header, settings.background)
    size = settings.image_size
    if settings.fit in WHOLE:
        small = _whole(colour, size, border=WHOLE[settings.fit])
    else:
        small = _resize(colour, width=size, height=size)
    return cv2.cvtColor(small, cv2.COLOR_BGR2RGB).view(np.uint8), blended


def _shrink(header: Header, settings: DecodeSettings) -> int:
    """Return the largest JPEG scale that still covers the wanted size."""
    if header.kind != "jpeg":
        return 1
    side = _side(header, settings)
    return max(m for m in REDUCED if m == 1 or side // m >= settings.image_size)


def _side(header: Header, settings: DecodeSettings) -> int:
    """Return the side of the original that becomes the side of the square."""
    sides = (header.width, header.height)
    return max(sides) if settings.fit in WHOLE else min(sides)


def _read(data: bytes, header: Header, m: int) -> npt.NDArray[np.generic]:
    flags = REDUCED[m]
    if header.alpha:
        flags = cv2.IMREAD_UNCHANGED
    elif header.depth == 16:
        flags |= cv2.IMREAD_ANYDEPTH
    if flags >= 0:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if stored is None:
        raise _Undecodable(f"the {header.kind} file is damaged")
    want = (-(-header.height // m), -(-header.width // m))
    got = (stored.shape[0], stored.shape[1])
    if got != want and not (header.upright and got == want[::-1]):
        raise _Undecodable(
            f"the header says {want}, the decoder gave {got} (rows, columns)"
        )
    if stored.dtype == np.uint16:
        stored = cv2.convertScaleAbs(stored, alpha=1 / 257)
    if stored.dtype != np.uint8:
        raise _Undecodable(f"samples of type {stored.dtype} are not pictures")
    return stored


def _turn(image: npt.NDArray[np.generic], orientation: int) -> npt.NDArray[np.generic]:
    """Apply an EXIF orientation as a view (EXIF 2.32, tag 0x0112)."""
    if orientation > 4:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _centre(image: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _blend(
    image: npt.NDArray[np.generic], header: Header, background: tuple[int, int, int]
) -> tuple[Pixels, bool]:
    """Put transparent pixels over the background; grey and colour pass through."""
    plain = image.view(np.uint8)
    if plain.ndim == 2:
        return np.dstack([plain] * 3), False
    if plain.shape[2] == 3:
        return plain, False
    out = np.empty((*plain.shape[:2], 3), np.uint8)
    for top in range(0, len(plain), STRIP):  # wide sums of a whole picture are large
        strip = plain[top : top + STRIP].astype(np.uint16)
        alpha, colour = strip[..., 3:], strip[..., :3]
        behind = np.array(background[::-1], np.uint16) * (255 - alpha)
        colour *= 255 if header.premultiplied else alpha
        total = np.minimum(colour + behind, 255 * 255)
        out[top : top + STRIP] = (total + 127) // 255
    return out, bool((plain[..., 3] < 255).any())


def _resize(image: Pixels, *, width: int, height: int) -> Pixels:
    """Resize by area where a side shrinks, then by cubic where one grows."""
    rows, columns = image.shape[:2]
    shrunk = (min(width, columns), min(height, rows))
    if shrunk != (columns, rows):
        image = _scaled(image, shrunk, cv2.INTER_AREA)
    if shrunk != (width, height):
        image = _scaled(image, (width, height), cv2.INTER_CUBIC)
    return image


def _scaled(image: Pixels, size: tuple[int, int], how: int) -> Pixels:
    return cv2.resize(image, size, interpolation=how).view(np.uint8)


def _whole(image: Pixels, size: int, *, border: int) -> Pixels:
    """Shrink or grow the whole picture into the middle of a square, and fill the rest.

    Args:
        image: (h, w, 3).
        size: Side of the square.
        border: How OpenCV fills: a constant grey, or the picture mirrored at its edge.
    """
    rows, columns = image.shape[:2]
    scale = size / max(rows, columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    top, left = (size - height) // 2, (size - width) // 2
    small = _resize(image, width=width, height=height)
    sides = (top, size - height - top, left, size - width - left)
    grey = (LETTERBOX_GREY,) * 3
    return cv2.copyMakeBorder(small, *sides, border, value=grey).view(np.uint8)


def _notes(header: Header, *, blended: bool) -> tuple[str, ...]:
    said = {
        "exif": header.orientation != 1,
        "cmyk": header.cmyk,
        "16bit": header.depth == 16,
        "alpha": blended,
        "animated": header.animated,
        "gray": header.channels < 3,
        "icc": header.icc,
        "trailing": header.trailing > 0,
    }
    return tuple(name for name, holds in said.items() if holds)
