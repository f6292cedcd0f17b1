"""The layout of a dataset: which columns an image has, and what may stand in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data_contracts.errors import SchemaError

SCHEMA_VERSION = 1

COLUMN_CHUNK = 16_384

SPLITS = ("train", "val", "test", "other")
USES = ("train", "val", "test")
NONE = -1

Axis = Literal["image", "box", "offset", "tag"]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Column:
    """What one array of a dataset may hold."""

    dtype: str
    meaning: str
    tail: tuple[int | None, ...] = ()  # None is any length
    low: float | None = None
    high: float | None = None
    axis: Axis = "image"
    fill: Any = 0
    gaps: bool = False  # whether NaN may stand for what is missing


def _text(meaning: str) -> Column:
    return Column("str", meaning, fill="")


def _code(meaning: str) -> Column:
    return Column("int32", meaning, low=NONE, fill=NONE)


def _figure(meaning: str, *, high: float | None = None) -> Column:
    return Column("float32", meaning, low=0, high=high)


COLUMNS: dict[str, Column] = {
    # ingest: identity
    "path": _text("Path inside its source, '/' between parts."),
    "source": Column("int16", "Position in the attribute `sources`.", low=0),
    "era": Column("int16", "Update that brought the image; 0 is the first.", low=0),
    "stamp": _text("Size and modification time when it was read."),
    "present": Column("bool", "Whether the source still holds it.", fill=True),
    "sha256": _text("SHA-256 of the encoded file, in hexadecimal."),
    # ingest: decoding
    "ok": Column("bool", "Whether pixels could be read."),
    "problem": _text("Why not: a short code, empty if they could."),
    "detail": _text("Why not, in words."),
    "kind": _text("File kind by its first bytes."),
    "notes": _text("What decoding had to do, comma between."),
    "width": Column("int32", "Width of the upright original, pixels.", low=0),
    "height": Column("int32", "Height of the upright original, pixels.", low=0),
    "orientation": Column(
        "int8", "EXIF orientation that was undone.", (), 1, 8, fill=1
    ),
    "bytes": Column("int64", "Size of the file.", low=0),
    # ingest: annotation
    "label": _code("Given label, position in `label_names`; -1 is missing."),
    "coarse": _code("Coarse label, position in `coarse_names`; -1 is missing."),
    "domain": _code("Domain, position in `domain_names`; -1 is missing."),
    "split": Column("int8", "Given split, position in SPLITS.", (), -1, 3, fill=NONE),
    "text": _text("Description; empty is missing."),
    "boxes": Column(
        "float32", "x0, y0, x1, y1 as fractions of the original.", (4,), 0, 1, "box"
    ),
    "box_label": Column("int32", "Position in `box_names`.", (), 0, None, "box"),
    "box_offsets": Column(
        "int64", "Row i has boxes [i] to [i + 1].", (), 0, None, "offset"
    ),
    "tag_ids": Column("int32", "Positions in `tag_names`.", (), 0, None, "tag"),
    "tag_offsets": Column(
        "int64", "Row i has tags [i] to [i + 1].", (), 0, None, "offset"
    ),
    "numbers": Column(
        "float32",
        "Numeric side columns, in the order of `number_names`; NaN is missing.",
        (None,),
        fill=np.nan,
        gaps=True,
    ),
    # ingest: figures of the stored pixels
    "phash": Column("uint64", "64-bit perceptual hash (DCT)."),
    "mean": _figure("Mean grey level.", high=255),
    "std": _figure("Standard deviation of the grey level.", high=255),
    "sharpness": _figure("Variance of the Laplacian of the grey level."),
    "saturation": _figure("Mean of max minus min over the channels.", high=255),
    "sigma": _figure("Estimated standard deviation of Gaussian noise."),
    "impulse": _figure("Share of salt-and-pepper pixels.", high=1),
    "settled": Column(
        "int8", "Use in the champion's training; -1 is none.", (), -1, 2, fill=NONE
    ),
    # ingest: noise of the original, before its resize
    "sensor_sigma": _figure("Estimated standard deviation of Gaussian noise."),
    "sensor_impulse": _figure("Share of lone bright or dark points.", high=1),
    "blockiness": _figure("Steps across JPEG block edges over those beside."),
    "left_sigma": _figure("Gaussian noise left in the stored pixels."),
    # clean
    "keep": Column("bool", "Whether later stages use the image.", fill=True),
    "reason": _text("What cleaning found; empty if nothing."),
    "remark": _text("What cleaning found, in words."),
    "group": Column("int64", "Near-duplicate group: its first row.", low=0),
    "canonical": Column("int64", "The row that stands for this one.", low=0),
    # denoise
    "noise": _text("Damage found: none, impulse, gaussian, blur or jpeg."),
    "treated": Column("bool", "Whether the pixels were denoised."),
    # inpaint
    "occluded": _figure("Share of the pixels found covered.", high=1),
    "inpainted": Column("bool", "Whether what covers it was painted over."),
    # split
    "use": Column(
        "int8", "Split in use, position in USES; -1 is unused.", (), -1, 2, fill=NONE
    ),
    # impute: what was filled, and how
    "imputed": _text("Where `target` was filled: neighbours or self-training."),
    "imputed_sure": _figure("How sure the label found was, filled or not.", high=1),
    "text_imputed": Column("bool", "Whether `text` was filled."),
    "domain_imputed": Column("bool", "Whether `domain` was filled."),
    "tags_imputed": Column("bool", "Whether the tags were filled."),
    "numbers_imputed": Column("bool", "Which of `numbers` were filled.", (None,)),
    # audit of the labels
    "suspicion": _figure("How much speaks against the given label.", high=1),
    "suggested": _code("Likeliest other label, position in `label_names`; -1: none."),
    "verdict": _text("What the audit decided about the label; empty: not judged."),
    "reviewer": _text("Who looked at the label; empty: nobody."),
    "reviewed": _text("When."),
    # anomaly
    "oddness": _figure("Robust deviations from usual images; 0 is usual."),
    "odd": _text("Why it does not belong: far or strange; empty if it does."),
    # what judging labels leaves to learn from; the given label stays
    "target": _code("Label to learn, position in `label_names`; -1 is missing."),
    "weight": _figure("How much the image counts in training; 1 is the rule."),
    # views: stored ones of training images
    "origin": Column("int64", "Row of the image that this is a view of.", low=0),
    "view": Column("int16", "Number of the view; 0 is the image itself.", low=0),
}


def chunk_rows(size: int) -> int:
    """Return the rows of pixels in one Zarr chunk, for images of side `size`.

    256 where that stays under 8 MB, else the power of two that does: large enough to
    read at memory speed (docs/storage.md), small enough to hold a few per core; at
    least 8 rows.
    """
    fit = (8 << 20) // (size * size * 3)
    return int(min(256, 1 << max(fit.bit_length() - 1, 3)))


NAME_LISTS = (
    *("label_names", "coarse_names", "domain_names", "tag_names", "box_names"),
    "number_names",
)


def check_column(name: str, values: Array, *, length: int | None = None) -> Array:
    """Return `values` as the layout wants them.

    Args:
        name: Name of the column.
        values: Array whose first axis is the column's.
        length: Rows that are expected, if known.

    Raises:
        SchemaError: The name is unknown, or dtype, shape or range do not fit.
    """
    if name not in COLUMNS:
        known = ", ".join(COLUMNS)
        raise SchemaError(f"A dataset has no column {name!r}; known: {known}.")
    column = COLUMNS[name]
    if not _fits(values.shape[1:], column.tail):
        raise SchemaError(
            f"Column {name!r} wants shape (n, *{column.tail}), got {values.shape}."
        )
    if length is not None and len(values) != length:
        raise SchemaError(
            f"Column {name!r} wants {length:,} rows, got {len(values):,}."
        )
    if column.dtype == "str":
        if values.dtype.kind not in "OUT":
            raise SchemaError(f"Column {name!r} wants text, got {values.dtype}.")
        return values.astype(object)
    if not np.can_cast(values.dtype, column.dtype, casting="same_kind"):
        raise SchemaError(f"Column {name!r} wants {column.dtype}, got {values.dtype}.")
    _check_range(name, values, column)
    return values.astype(column.dtype, copy=False)


def _fits(shape: tuple[int, ...], tail: tuple[int | None, ...]) -> bool:
    pairs = zip(shape, tail, strict=False)
    return len(shape) == len(tail) and all(t in (None, side) for side, t in pairs)


def _check_range(name: str, values: Array, column: Column) -> None:
    if not len(values):
        return
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    if column.dtype.startswith("float"):
        bad = ~np.isfinite(values) | (values < low) | (values > high)
        if column.gaps:
            bad &= ~np.isnan(values)
    elif column.low is None and column.high is None:
        return
    else:
        bad = (values < low) | (values > high)
    if bad.any():
        row = int(np.flatnonzero(bad.reshape(len(values), -1).any(axis=1))[0])
        raise SchemaError(
            f"Column {name!r} wants values from {low} to {high}; row {row} has"
            f" {values[row]} ({int(bad.sum()):,} such values)."
        )


def check_images(images: Array, *, size: int | None = None) -> Array:
    """Return `images` if they are uint8 RGB of shape (n, h, w, 3).

    Raises:
        SchemaError: dtype or shape do not fit.
    """
    fits = images.ndim == 4 and images.shape[3] == 3 and images.dtype == np.uint8
    if not fits or (size is not None and images.shape[1:3] != (size, size)):
        side = size or "h"
        raise SchemaError(
            f"Images want uint8 of shape (n, {side}, {side}, 3), got {images.dtype}"
            f" {images.shape}."
        )
    return images
