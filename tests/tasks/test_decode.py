from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.decode import Decoded, DecodeSettings, Fit, Problem, decode_image
from tests.tasks.pictures import encoded, exif, photo

KINDS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
SEEDS = [encoded(photo(20, 30), kind) for kind in KINDS]
TURNS = {
    2: Image.FLIP_LEFT_RIGHT,
    3: Image.ROTATE_180,
    4: Image.FLIP_TOP_BOTTOM,
    5: Image.TRANSPOSE,
    6: Image.ROTATE_90,
    7: Image.TRANSVERSE,
    8: Image.ROTATE_270,
}


def decoded(data: bytes, **options: object) -> Decoded:
    found = decode_image(data, DecodeSettings(**{"image_size": 16, **options}))
    assert isinstance(found, Decoded), found
    assert found.image.dtype == np.uint8
    assert found.image.shape == (options.get("image_size", 16),) * 2 + (3,)
    return found


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def test_red_stays_red() -> None:
    red = np.zeros((20, 20, 3), np.uint8) + np.uint8([255, 0, 0])
    for kind in KINDS:
        assert np.abs(decoded(encoded(red, kind)).image[8, 8] - [255.0, 0, 0]).max() < 4


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_picture_of_the_wanted_size_is_kept_bit_by_bit(kind: str) -> None:
    image = photo(16, 16)
    assert np.array_equal(decoded(encoded(image, kind)).image, image)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(kind: str, orientation: int) -> None:
    upright = Image.fromarray(photo(41, 70))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    stored = upright.transpose(TURNS[orientation])
    turned = decoded(encoded(stored, kind, exif=exif(orientation), **options))
    assert (turned.width, turned.height, turned.notes) == (70, 41, ("exif",))
    assert np.array_equal(turned.image, decoded(encoded(upright, "PNG")).image)


def test_orientation_of_a_scaled_jpeg_is_applied() -> None:
    upright = Image.fromarray(photo(400, 200))
    data = encoded(upright.transpose(Image.ROTATE_90), "JPEG", exif=exif(6), quality=95)
    turned = decoded(data, fit=Fit.LETTERBOX)
    assert (turned.width, turned.height, turned.orientation) == (200, 400, 6)
    straight = decoded(encoded(upright, "PNG"), fit=Fit.LETTERBOX)
    assert psnr(turned.image, straight.image) > 30


@pytest.mark.parametrize("m", [1, 2, 4, 8])
def test_scaled_jpeg_decoding_looks_like_a_full_decode(m: int) -> None:
    image = photo(16 * m, 24 * m)
    scaled = decoded(encoded(image, "JPEG", quality=98, subsampling=0))
    assert psnr(scaled.image, decoded(encoded(image, "PNG")).image) > 28


def test_shrinking_does_not_alias() -> None:
    specks = np.random.default_rng(0).integers(0, 2, (256, 256, 1), np.uint8) * 255
    specks = specks.repeat(3, 2)
    # The mean of 16 x 16 specks spreads by 127 / 16, of 2 x 2 by 127 / 2.
    assert decoded(encoded(specks, "PNG")).image.std() < 10
    assert decoded(encoded(specks[:12], "PNG"), fit=Fit.STRETCH).image.std() < 40


def test_crop_keeps_the_centre() -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    assert (decoded(encoded(image, "PNG")).image == 200).all()


def test_letterbox_pads_with_grey_and_keeps_everything() -> None:
    image = np.full((20, 60, 3), 200, np.uint8)
    boxed = decoded(encoded(image, "PNG"), fit=Fit.LETTERBOX).image
    assert (boxed[0] == 114).all()
    assert (boxed[-1] == 114).all()
    assert (boxed[8] == 200).all()


SHAPES = [(16, 16), (9, 400), (400, 9), (8, 8), (17, 31), (63, 64), (250, 8)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fit", [Fit.FIT, Fit.LETTERBOX])
def test_odd_shapes_fit_whole_into_the_middle(fit: Fit, shape: tuple[int, int]) -> None:
    height, width = shape
    image = np.full((height, width, 3), 200, np.uint8)
    found = decoded(encoded(image, "PNG"), fit=fit).image
    picture = (found == 200).all(2)
    rows, columns = (
        max(1, round(16 * side / max(shape))) if fit is Fit.LETTERBOX else 16
        for side in shape
    )
    assert picture.any(1).sum() == rows
    assert picture.any(0).sum() == columns
    above, below = picture.any(1).argmax(), picture.any(1)[::-1].argmax()
    assert abs(above - below) <= 1


def test_fit_mirrors_the_picture_at_its_edges() -> None:
    image = photo(16, 8)
    found = decoded(encoded(image, "PNG"), fit=Fit.FIT).image
    assert np.array_equal(found[:, 4:12], image)
    assert np.array_equal(found[:, :4], image[:, 3::-1])
    assert np.array_equal(found[:, 12:], image[:, :3:-1])


def test_fit_and_letterbox_show_the_same_picture() -> None:
    data = encoded(photo(40, 100), "PNG")
    fit, boxed = (decoded(data, fit=fit).image for fit in (Fit.FIT, Fit.LETTERBOX))
    inside = slice(5, 11)  # 40 / 100 of 16 rows
    assert np.array_equal(fit[inside], boxed[inside])
    assert not np.array_equal(fit, boxed)


@pytest.mark.parametrize("fit", Fit)
def test_a_square_picture_is_the_same_in_every_fit(fit: Fit) -> None:
    data = encoded(photo(40, 40), "PNG")
    assert np.array_equal(decoded(data, fit=fit).image, decoded(data).image)


def test_stretch_uses_the_whole_picture() -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 30:] = 200
    stretched = decoded(encoded(image, "PNG"), fit=Fit.STRETCH).image
    assert (stretched[:, :7] == 0).all()
    assert (stretched[:, 9:] == 200).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_show_the_background(kind: str) -> None:
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:, :8] = [200, 100, 50, 128]
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = decoded(encoded(rgba, kind, **options), background=(0, 255, 0))
    assert np.abs(found.image[8, 2] - [100.0, 177, 25]).max() <= 1
    assert found.image[8, 12].tolist() == [0, 255, 0]
    assert "alpha" in found.notes


def test_a_transparent_palette_shows_the_background() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    image.paste(0, (0, 0, 8, 16))
    for kind in ("GIF", "PNG"):
        found = decoded(encoded(image, kind, transparency=0))
        assert found.image[8, 2].tolist() == [255, 255, 255]
        assert found.image[8, 12].tolist() == [200, 100, 50]


def test_opaque_alpha_is_no_note() -> None:
    assert decoded(encoded(Image.fromarray(photo()).convert("RGBA"), "PNG")).notes == ()


def test_cmyk_is_converted() -> None:
    red = Image.new("RGB", (32, 32), (220, 20, 30)).convert("CMYK")
    found = decoded(encoded(red, "JPEG"))
    assert np.abs(found.image[8, 8] - [220.0, 20, 30]).max() < 6
    assert found.notes == ("cmyk",)


@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_sixteen_bits_are_scaled(ending: str) -> None:
    deep = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    found = decoded(cv2.imencode(ending, deep)[1].tobytes())
    assert np.abs(found.image[..., 0] - np.arange(256.0).reshape(16, 16)).max() <= 1
    assert found.notes == ("16bit", "gray")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_used(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), (v, v, v)) for v in (40, 140, 240)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    found = decoded(data)
    assert np.abs(found.image.astype(int) - 40).max() < 4
    assert "animated" in found.notes


def test_grey_becomes_three_channels() -> None:
    grey = Image.fromarray(photo()).convert("L")
    for kind in ("JPEG", "PNG", "TIFF"):
        found = decoded(encoded(grey, kind))
        assert (found.image == found.image[..., :1]).all()
        assert found.notes == ("gray",)


def test_float_pictures_are_unsupported() -> None:
    data = encoded(Image.fromarray(np.zeros((16, 16), np.float32)), "TIFF")
    assert decode_image(data, DecodeSettings())[0] == "unsupported"


def test_tiny_pictures_are_a_problem() -> None:
    data = encoded(photo(4, 60), "PNG")
    assert decode_image(data, DecodeSettings())[0] == "too-small"
    assert isinstance(decode_image(data, DecodeSettings(min_side=4)), Decoded)


def test_a_jpeg_without_its_end_is_refused() -> None:
    data = encoded(photo(200, 200), "JPEG")
    assert decode_image(data[:-2], DecodeSettings())[0] == "truncated"
    assert decode_image(data[: len(data) // 2], DecodeSettings())[0] == "truncated"


def test_a_payload_behind_a_picture_is_noted_and_ignored() -> None:
    data = encoded(photo(), "PNG")
    found = decoded(data + b"PK\x03\x04" + bytes(range(200)))
    assert found.notes == ("trailing",)
    assert np.array_equal(found.image, decoded(data).image)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise(data: bytes) -> None:
    assert isinstance(decode_image(data, DecodeSettings()), Problem)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_never_raise(draw: st.DataObject) -> None:
    data = bytearray(draw.draw(st.sampled_from(SEEDS)))
    for _ in range(draw.draw(st.integers(0, 5))):
        # Headers are where lies hurt most.
        at = draw.draw(st.integers(0, min(len(data) - 1, 200)))
        data[at] = draw.draw(st.integers(0, 255))
    end = draw.draw(st.integers(0, len(data)))
    options = DecodeSettings(image_size=16, fit=draw.draw(st.sampled_from(Fit)))
    found = decode_image(bytes(data[:end]), options)
    if isinstance(found, Decoded):
        assert found.image.shape == (16, 16, 3)
        assert found.image.dtype == np.uint8
