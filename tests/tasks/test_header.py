from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.header import Header, Problem, inspect
from tests.tasks.pictures import encoded, exif, photo

KINDS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
FRAMES = [Image.fromarray(photo(seed=i)) for i in range(3)]


def png_header(width: int, height: int) -> bytes:
    body = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82"


@pytest.mark.parametrize("kind", KINDS)
def test_kind_and_size_are_read_from_the_bytes(kind: str) -> None:
    header = inspect(encoded(photo(48, 70), kind))
    assert isinstance(header, Header)
    assert header[:4] == (kind.lower(), 70, 48, 1)
    assert header.trailing == 0
    assert not header.animated


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read_from_every_kind_that_has_one(
    kind: str, orientation: int
) -> None:
    header = inspect(encoded(photo(), kind, exif=exif(orientation)))
    assert isinstance(header, Header)
    assert header.orientation == orientation


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_frames_are_counted(kind: str) -> None:
    data = encoded(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:])
    header = inspect(data)
    assert isinstance(header, Header)
    assert header.frames == 3
    assert header.animated


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_bytes_after_the_end_are_counted_but_padding_is_not(kind: str) -> None:
    data = encoded(photo(), kind)
    more, padded = inspect(data + b"PK\x03\x04payload"), inspect(data + bytes(9))
    assert isinstance(more, Header)
    assert isinstance(padded, Header)
    assert (more.trailing, padded.trailing) == (11, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_of_a_file_is_a_problem(kind: str) -> None:
    data = encoded(photo(12, 12), kind)
    whole = inspect(data)
    assert isinstance(whole, Header)
    for end in range(0, len(data) - (1 if kind == "TIFF" else 2), 7):
        found = inspect(data[:end])
        # The last bytes of a TIFF may be tags that we do not need.
        assert isinstance(found, Problem) or kind == "TIFF", end
    assert inspect(data[: len(data) // 2])[0] == "truncated"


def test_colour_facts_are_read() -> None:
    rgba = Image.fromarray(photo()).convert("RGBA")
    rgba.putalpha(128)
    cmyk = inspect(encoded(rgba.convert("CMYK"), "JPEG"))
    assert isinstance(cmyk, Header)
    assert cmyk.cmyk
    assert cmyk.channels == 4
    for kind in ("PNG", "WEBP", "TIFF"):
        header = inspect(encoded(rgba, kind))
        assert isinstance(header, Header)
        assert header.alpha, kind
    deep = inspect(encoded(Image.fromarray(np.zeros((9, 9), np.uint16)), "PNG"))
    assert isinstance(deep, Header)
    assert (deep.depth, deep.channels) == (16, 1)
    profiled = inspect(encoded(photo(), "JPEG", icc_profile=b"profile" * 30))
    assert isinstance(profiled, Header)
    assert profiled.icc


def test_no_bytes_are_empty() -> None:
    assert inspect(b"")[0] == "empty"


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(40), "unsupported", "HEIC"),
        (b'<?xml version="1.0"?><svg xmlns="x">', "unsupported", "SVG"),
        (b"%PDF-1.7", "unsupported", "PDF"),
        (b"\n<!DOCTYPE html><html>", "not-an-image", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "not-an-image", "LFS"),
        (b"hello, world", "not-an-image", "hello"),
    ],
)
def test_other_files_are_named(data: bytes, code: str, word: str) -> None:
    found = inspect(data)
    assert isinstance(found, Problem)
    assert found.code == code
    assert word in found.detail


def test_bombs_are_refused_by_what_the_header_declares() -> None:
    assert inspect(png_header(60_000, 60_000))[0] == "too-large"
    assert inspect(png_header(30_000, 1))[0] == "too-large"
    assert inspect(png_header(0, 9))[0] == "zero-sized"
    assert inspect(png_header(99, 99), max_pixels=99 * 99 - 1)[0] == "too-large"
    assert isinstance(inspect(png_header(99, 99), max_pixels=99 * 99), Header)


def test_more_bytes_than_allowed_are_refused() -> None:
    data = encoded(photo(), "PNG")
    assert inspect(data, max_bytes=len(data) - 1)[0] == "too-many-bytes"
    assert isinstance(inspect(data, max_bytes=len(data)), Header)


def test_a_flipped_bit_in_a_png_fails_its_checksum() -> None:
    data = bytearray(encoded(photo(), "PNG"))
    data[60] ^= 1
    assert inspect(bytes(data))[0] == "undecodable"


def test_a_gif_of_endless_blocks_ends() -> None:
    head = encoded(photo(9, 9), "GIF")[:13].replace(b"\xf7", b"\x77")
    head = head[:10] + b"\0" + head[11:]
    assert isinstance(inspect(head + b"\x21\xfe\x00" * 600_000), Problem)


def test_tiff_directories_in_a_circle_end() -> None:
    data = b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 8)
    assert isinstance(inspect(data), Problem)


@given(st.binary(max_size=300), st.sampled_from(KINDS))
def test_any_bytes_after_a_magic_are_answered(tail: bytes, kind: str) -> None:
    data = encoded(photo(9, 9), kind)
    assert isinstance(inspect(data[:16] + tail), (Header, Problem))
    assert isinstance(inspect(tail), (Header, Problem))


def test_an_end_mark_that_asks_for_room_is_refused() -> None:
    whole = encoded(photo(), "PNG")
    end = whole.index(b"IEND") - 4
    claims = whole[:end] + struct.pack(">I", 0x7FFFFF00) + whole[end + 4 :]
    assert inspect(claims)[0] == "undecodable"


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    whole = encoded(photo(), "JPEG", progressive=True)
    assert isinstance(inspect(whole), Header)
    last = whole.rindex(b"\xff\xda")
    again = whole[:-2] + whole[last:-2] * 100 + whole[-2:]
    assert inspect(again) == Problem("undecodable", "a JPEG file of more than 64 scans")


def test_long_tags_of_a_tiff_are_not_read() -> None:
    whole = bytearray(encoded(photo(), "TIFF"))
    (start,) = struct.unpack_from("<I", whole, 4)
    (count,) = struct.unpack_from("<H", whole, start)
    own = whole[start + 2 : start + 2 + 12 * count]
    more = b"".join(
        struct.pack("<HHII", 60_000 + i, 1, 400_000, 8) for i in range(5_000)
    )
    whole[4:8] = struct.pack("<I", len(whole))
    whole += struct.pack("<H", count + 5_000) + own + more + bytes(400_000)
    tracemalloc.start()
    header = inspect(bytes(whole))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(header, Header)
    assert (header.width, header.height) == (70, 48)
    assert peak < 8 << 20


@pytest.mark.parametrize("tag", [(284, 2), (262, 0)])
def test_16_bit_tiffs_that_would_come_out_wrong_are_refused(tag) -> None:
    entries = {256: 8, 257: 8, 258: 16, 277: 3, 262: 2, 284: 1} | dict([tag])
    body = b"".join(
        struct.pack("<HHII", k, 4, 1, v) for k, v in sorted(entries.items())
    )
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)
    assert inspect(data)[0] == "unsupported"
