"""What JPEG, PNG, GIF, WebP, BMP and TIFF files say of themselves, without decoding."""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

# Chunks, segments or blocks read per file: a file of millions of empty parts is no
# picture, and walking it would hold a worker for seconds.
MAX_PARTS = 500_000


class Header(NamedTuple):
    """Facts of one image file; width and height are as stored, before orientation.

    `step` is the mean of a JPEG file's luminance quantisation table.
    """

    kind: str
    width: int
    height: int
    orientation: int = 1
    channels: int = 3
    depth: int = 8
    frames: int = 1
    trailing: int = 0
    alpha: bool = False
    cmyk: bool = False
    icc: bool = False
    complete: bool = True
    upright: bool = False
    premultiplied: bool = False
    step: float = 1.0

    @property
    def animated(self) -> bool:
        """Whether there is more than the one frame that is used."""
        return self.frames > 1


class Refused(Exception):
    """Raised by a parser with the code and detail of a `Problem`."""


PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
# Files in use have about 10; each costs a pass over all pixels.
MAX_SCANS = 64
TIFF_LISTS = frozenset((273, 279, 324, 325))
TIFF_TAGS = TIFF_LISTS | {
    254,
    256,
    257,
    258,
    262,
    274,
    277,
    284,
    338,
    339,
    34675,
    50706,
}


def jpeg(data: bytes) -> Header:
    """Read a JPEG file."""
    at, found, progressive = 2, dict[str, Any](), False
    for _ in range(MAX_PARTS):
        marker = data[at + 1]
        if data[at] != 0xFF:
            raise Refused("undecodable", f"no JPEG marker at byte {at}")
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        body = at + 4
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            depth, height, width, channels = struct.unpack_from(">BHHB", data, body)
            found |= {"width": width, "height": height, "channels": channels}
            found |= {"depth": depth, "cmyk": channels == 4}
            progressive = marker in PROGRESSIVE
        elif marker == 0xDB and data[body] == 0:  # table 0 in bytes: luminance
            found["step"] = sum(data[body + 1 : body + 65]) / 64
        elif marker == 0xE1 and data[body : body + 6] == b"Exif\0\0":
            found["orientation"] = _orientation(data[body + 6 : at + 2 + length])
        elif marker == 0xE2 and data[body : body + 11] == b"ICC_PROFILE":
            found["icc"] = True
        elif marker == 0xDA:
            break
        at += 2 + max(length, 2)
    if "width" not in found:
        raise Refused("undecodable", "a JPEG file without a frame header")
    if progressive and data.count(b"\xff\xda", at) > MAX_SCANS:
        raise Refused("undecodable", f"a JPEG file of more than {MAX_SCANS} scans")
    # Inside a scan FF is always followed by 00 or a restart mark, so an FFD9 there is
    # the end; a thumbnail's own lies before. Looking from the back costs 5 % of what a
    # forward search does, and leaves out a second picture appended by a phone.
    end = data.rfind(b"\xff\xd9", at)
    if end >= 0:
        found["trailing"] = _payload(data, end + 2)
    return Header(kind="jpeg", complete=end >= 0, **found)


def _payload(data: bytes, end: int) -> int:
    """Count the bytes after the end mark, zero padding aside."""
    return len(data[end:].strip(b"\0")) if len(data) > end else 0


def png(data: bytes) -> Header:
    """Read a PNG file."""
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR":
        raise Refused("undecodable", "a PNG file that does not begin with IHDR")
    found: dict[str, Any] = {"alpha": colour in (4, 6), "complete": False}
    at = 8
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"IEND":
            if length:  # a decoder would make room for as much as it says
                raise Refused("undecodable", "the PNG end mark is not empty")
            found |= {"complete": True, "trailing": _payload(data, at + 12)}
            break
        if name == b"acTL":
            found["frames"] = max(1, struct.unpack_from(">I", data, at + 8)[0])
        elif name == b"tRNS":
            found["alpha"] = True
        elif name == b"iCCP":
            found["icc"] = True
        elif name == b"eXIf":
            found["orientation"] = _orientation(data[at + 8 : at + 8 + length])
        # Critical chunks only (upper case): a decoder drops the others when damaged.
        end = at + 8 + length
        if name[0] < 0x60 and zlib.crc32(data[at + 4 : end]) != _big(data, end):
            detail = f"PNG chunk {name.decode('latin-1')!r} fails its checksum"
            raise Refused("truncated" if end + 4 > len(data) else "undecodable", detail)
        at = end + 4
    channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour, 0)
    if not channels:
        raise Refused("undecodable", f"PNG colour type {colour} does not exist")
    return Header("png", width, height, channels=channels, depth=depth, **found)


def _big(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def gif(data: bytes) -> Header:
    """Read a GIF file."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames, alpha = 0, False
    for _ in range(MAX_PARTS):
        block = data[at]
        if block == 0x3B:
            trailing = _payload(data, at + 1)
            return Header(
                "gif", width, height, frames=frames, trailing=trailing, alpha=alpha
            )
        if block == 0x21:
            if data[at + 1] == 0xF9 and not frames:
                alpha = bool(data[at + 3] & 1)
            at = _skip_blocks(data, at + 2)
        elif block == 0x2C:
            frames += 1
            table = data[at + 9]
            at += 10 + (3 << (table & 7) + 1 if table & 0x80 else 0)
            at = _skip_blocks(data, at + 1)
        else:
            raise Refused("undecodable", f"unknown GIF block {block:#x} at byte {at}")
    raise Refused("undecodable", f"a GIF file of more than {MAX_PARTS:,} blocks")


def _skip_blocks(data: bytes, at: int) -> int:
    for _ in range(MAX_PARTS):
        size = data[at]
        at += size + 1
        if not size:
            return at
    raise Refused("undecodable", f"a GIF file of more than {MAX_PARTS:,} blocks")


def webp(data: bytes) -> Header:
    """Read a WebP file."""
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    found: dict[str, Any] = {"complete": end <= len(data)}
    found["trailing"] = _payload(data, end) if end <= len(data) else 0
    at, frames = 12, 0
    for _ in range(MAX_PARTS):
        if at + 8 > min(end, len(data)):
            break
        name, size = struct.unpack_from("<4sI", data, at)
        body = at + 8
        if name == b"VP8X":
            found["alpha"] = bool(data[body] & 0x10)
            sides = (data[body + i : body + i + 3] for i in (4, 7))
            width, height = (int.from_bytes(side, "little") + 1 for side in sides)
            found |= {"width": width, "height": height}
        elif name == b"VP8 " and "width" not in found:
            width, height = struct.unpack_from("<HH", data, body + 6)
            found |= {"width": width & 0x3FFF, "height": height & 0x3FFF}
        elif name == b"VP8L" and "width" not in found:
            (bits,) = struct.unpack_from("<I", data, body + 1)
            found |= {"width": (bits & 0x3FFF) + 1, "alpha": bool(bits >> 28 & 1)}
            found["height"] = (bits >> 14 & 0x3FFF) + 1
        elif name == b"ANMF":
            frames += 1
        elif name == b"ICCP":
            found["icc"] = True
        elif name == b"EXIF":
            block = data[body : body + size].removeprefix(b"Exif\0\0")
            found["orientation"] = _orientation(block)
        at = body + size + (size & 1)
    if "width" not in found:
        raise Refused("truncated", "the webp file stops before its picture")
    return Header("webp", frames=max(1, frames), **found)


def bmp(data: bytes) -> Header:
    """Read a BMP file."""
    start, size = struct.unpack_from("<II", data, 10)
    layout = "<HHHH" if size == 12 else "<iiHH"
    width, height, _, bits = struct.unpack_from(layout, data, 18)
    height, packing = abs(height), 0 if size == 12 else data[30]
    row = (width * bits + 31) // 32 * 4
    complete = packing not in (0, 3) or start + row * height <= len(data)
    channels = 1 if bits == 1 else 3
    return Header("bmp", width, height, channels=channels, complete=complete)


def tiff(data: bytes) -> Header:
    """Read a TIFF file."""
    order = "<" if data[:2] == b"II" else ">"
    tags, after = _directory(data, struct.unpack_from(order + "I", data, 4)[0], order)
    if 50706 in tags or tags.get(254, (0,))[0] & 1:
        raise Refused("unsupported", "this is a camera raw file; convert it to JPEG")
    frames = 1
    seen = set[int]()
    while after and after not in seen and frames < 1000:
        seen.add(after)
        after = _directory(data, after, order)[1]
        frames += 1
    if 256 not in tags or 257 not in tags:
        raise Refused("undecodable", "a TIFF file whose first page has no size")
    depth, samples = tags.get(258, (1,))[0], tags.get(277, (1,))[0]
    if depth > 16 or tags.get(339, (1,))[0] == 3:
        raise Refused(
            "unsupported", f"TIFF samples of {depth} bits; 8 or 16 can be read"
        )
    planar, light = tags.get(284, (1,))[0] == 2, tags.get(262, (1,))[0]
    if depth == 16 and ((planar and samples > 1) or light in (0, 5)):
        # OpenCV mixes up the planes and does not invert.
        raise Refused("unsupported", "16-bit TIFF, planar, inverted or CMYK; save RGB")
    starts = tags.get(273, tags.get(324, ()))
    sizes = tags.get(279, tags.get(325, ()))
    last = max((a + b for a, b in zip(starts, sizes, strict=False)), default=0)
    extra = tags.get(338, (0,))[0]
    return Header(
        "tiff",
        tags[256][0],
        tags[257][0],
        orientation=_valid(tags.get(274, (1,))[0]),
        channels=samples,
        depth=depth,
        frames=frames,
        alpha=extra in (1, 2) and samples == 4,
        cmyk=tags.get(262, (0,))[0] == 5,
        icc=34675 in tags,
        complete=last <= len(data),
        upright=True,
        premultiplied=depth == 8 or extra == 1,
    )


def _directory(
    data: bytes, at: int, order: str
) -> tuple[dict[int, tuple[int, ...]], int]:
    """Read one TIFF directory: integer values by tag, and where the next one lies."""
    (count,) = struct.unpack_from(order + "H", data, at)
    values = dict[int, tuple[int, ...]]()
    for i in range(count):
        entry = at + 2 + 12 * i
        tag, kind, n = struct.unpack_from(order + "HHI", data, entry)
        code = {1: "B", 3: "H", 4: "I"}.get(kind)
        if tag not in TIFF_TAGS:
            continue
        if code is None or n > MAX_PARTS:
            values[tag] = (0,)
            continue
        wide = struct.calcsize(code) * n
        where = entry + 8
        if wide > 4:
            (where,) = struct.unpack_from(order + "I", data, entry + 8)
        n = n if tag in TIFF_LISTS else min(n, 1)
        values[tag] = struct.unpack_from(f"{order}{n}{code}", data, where) or (0,)
    (after,) = struct.unpack_from(order + "I", data, at + 2 + 12 * count)
    return values, after


def _orientation(block: bytes) -> int:
    """Return the EXIF orientation in a TIFF block, 1 when it cannot be read."""
    try:
        order = {b"II": "<", b"MM": ">"}[block[:2]]
        start = struct.unpack_from(order + "I", block, 4)[0]
        (count,) = struct.unpack_from(order + "H", block, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", block, at)
            if tag == 0x0112 and kind == 3:
                return _valid(struct.unpack_from(order + "H", block, at + 8)[0])
    except (struct.error, KeyError):
        pass
    return 1


def _valid(orientation: int) -> int:
    return orientation if 1 <= orientation <= 8 else 1
