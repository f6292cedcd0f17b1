"""Header guard: what an image file says of itself, read without decoding it.

Kinds are told by magic bytes, never by a file's name. Problem codes: empty,
not-an-image, unsupported, too-many-bytes, zero-sized, too-large, truncated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from tasks.image_formats import Header, Refused, bmp, gif, jpeg, png, tiff, webp

__all__ = ["Header", "Problem", "inspect"]

# First bytes of files that people do mix in among images: (offset, magic, name).
FOREIGN = (
    (4, b"ftypheic", "a HEIC photo"),
    (4, b"ftypheix", "a HEIC photo"),
    (4, b"ftypmif1", "a HEIF photo"),
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"ftypavis", "an animated AVIF picture"),
    (4, b"ftyp", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (0, b"\x00\x00\x00\x0cjP", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"\x00\x00\x00\x0cJXL", "a JPEG XL picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"II+\x00", "a BigTIFF picture"),
    (0, b"MM\x00+", "a BigTIFF picture"),
)


class Problem(NamedTuple):
    """Why an image cannot be used: a short code, and a sentence for a person."""

    code: str
    detail: str


def inspect(
    data: bytes,
    *,
    max_bytes: int = 64 << 20,
    max_side: int = 20_000,
    max_pixels: int = 50_000_000,
) -> Header | Problem:
    """Return the header of an image file, or why it must not be decoded.

    Args:
        data: The whole file.
        max_bytes: Longest file allowed.
        max_side: Longest side allowed, in pixels of the stored picture.
        max_pixels: Most pixels allowed, as the header declares them.
    """
    if not data:
        return Problem("empty", "the file has no bytes")
    parse = _parser(data)
    if isinstance(parse, Problem):
        return parse
    if len(data) > max_bytes:
        return Problem("too-many-bytes", f"{len(data):,} bytes, allowed {max_bytes:,}")
    try:
        header = parse(data)
    except Refused as error:
        return Problem(*error.args)
    except (struct.error, IndexError):
        return Problem("truncated", "the file ends inside its header")
    return _within(header, max_side=max_side, max_pixels=max_pixels)


def _within(header: Header, *, max_side: int, max_pixels: int) -> Header | Problem:
    width, height = header.width, header.height
    if width < 1 or height < 1:
        return Problem("zero-sized", f"the header says {width} x {height} pixels")
    if max(width, height) > max_side or width * height > max_pixels:
        detail = (
            f"the header says {width} x {height} pixels; allowed are sides up to "
            f"{max_side:,} and {max_pixels:,} pixels"
        )
        return Problem("too-large", detail)
    if not header.complete:
        return Problem("truncated", f"the {header.kind} file stops before its end mark")
    return header


def _parser(data: bytes) -> Callable[[bytes], Header] | Problem:
    if data.startswith(b"\xff\xd8\xff"):
        return jpeg
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return png
    if data.startswith((b"GIF87a", b"GIF89a")):
        return gif
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return webp
    if data.startswith((b"II*\x00", b"MM\x00*")):
        return tiff
    if (
        data.startswith(b"BM")
        and len(data) > 18
        and data[14] in (12, 40, 52, 56, 108, 124)
    ):
        return bmp
    return _foreign(data)


def _foreign(data: bytes) -> Problem:
    for offset, magic, name in FOREIGN:
        if data[offset : offset + len(magic)] == magic:
            return Problem("unsupported", f"this is {name}; convert it to JPEG or PNG")
    text = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        return Problem("unsupported", "this is an SVG drawing; convert it to PNG")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return Problem("not-an-image", "this is a web page, often a failed download")
    if text.startswith(b"version https://git-lfs"):
        return Problem("not-an-image", "this is a Git LFS pointer: fetch the real file")
    return Problem("not-an-image", f"no known image begins with {data[:8]!r}")
