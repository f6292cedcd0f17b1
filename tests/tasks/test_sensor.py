"""Noise of originals: found at their own size, whatever the file."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tasks import decode
from tasks.decode import DecodeSettings, Problem, decode_image
from tasks.denoise import DenoiseSettings
from tasks.sensor import has_room, mend, read_sensor
from tests.tasks.pictures import encoded, photo

RNG = np.random.default_rng


def calm(side: int = 96, seed: int = 0) -> np.ndarray:
    """Return a smooth picture that is far from black and white."""
    return (photo(side, side, seed=seed) * 0.6 + 50).astype(np.uint8)


def grainy(image: np.ndarray, sigma: float) -> np.ndarray:
    noise = RNG(0).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def salted(image: np.ndarray, share: float) -> np.ndarray:
    out, hit = image.copy(), RNG(0).random(image.shape[:2])
    out[hit < share / 2], out[hit > 1 - share / 2] = 0, 255
    return out


@pytest.mark.parametrize("sigma", [8, 15, 25, 40])
def test_gaussian_noise_is_measured_and_is_not_taken_for_impulses(sigma: int):
    found = read_sensor(grainy(calm(), sigma))
    assert found.sigma == pytest.approx(sigma, rel=0.2)
    assert found.rough == pytest.approx(sigma, rel=0.15)
    assert found.impulse < 0.003


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("quality", [None, 80])
def test_salt_and_pepper_is_seen_even_through_jpeg(share: float, quality: int | None):
    noisy = salted(calm(), share)
    if quality:
        noisy = cv2.imdecode(cv2.imencode(".jpg", noisy, [1, quality])[1], 1)
    assert read_sensor(noisy).impulse >= 0.01


@pytest.mark.parametrize("side", [3, 8, 9, 20, 96, 300])
def test_clean_pictures_of_any_size_are_clean(side: int):
    found = read_sensor(calm(side))
    assert found.impulse == 0
    assert found.sigma < 5


def test_texture_is_not_noise():
    ticks = np.arange(96)
    weave = 128 + 50 * np.sin(ticks[:, None] * 1.2) * np.sin(ticks * 1.1)
    cloth = np.repeat(weave.astype(np.uint8)[..., None], 3, axis=2)
    carpet = cv2.GaussianBlur(RNG(1).normal(0, 60, (96, 96, 3)), (0, 0), 0.8) + 128
    for image in (cloth, np.clip(carpet, 0, 255).astype(np.uint8)):
        found = read_sensor(image)
        assert found.sigma < DenoiseSettings().sigma
        assert found.sigma < 0.8 * found.rough


def test_coarse_jpeg_shows_its_blocks():
    image = calm(96) + photo(96, 96, seed=3, detail=40) // 8
    coarse = cv2.imdecode(cv2.imencode(".jpg", image, [1, 8])[1], 1)
    assert read_sensor(image).blockiness < 1.3
    assert read_sensor(coarse).blockiness > 2


def test_mending_changes_impulses_alone():
    image = calm()
    assert np.array_equal(mend(image), image)
    noisy = salted(image, 0.05)
    mended, hit = mend(noisy), (noisy != image).any(2)
    assert np.array_equal(mended[~hit], image[~hit])
    assert np.abs(mended.astype(int) - image)[hit].mean() < 4


def test_a_jpeg_with_noise_needs_room_for_it():
    image = photo(256, 256, detail=30)
    step = 23.0  # quality 80
    sizes = [len(encoded(x, "JPEG", quality=80)) for x in (image, grainy(image, 25.0))]
    assert [has_room(size, 256 * 256, step) for size in sizes] == [False, True]


def test_noise_is_found_where_the_decoder_would_hide_it(monkeypatch):
    image, reads = calm(256), []
    read = decode._read
    monkeypatch.setattr(
        decode, "_read", lambda data, h, m: (reads.append(m), read(data, h, m))[1]
    )
    settings = DecodeSettings(image_size=64)
    found = [
        decode_image(encoded(x, "JPEG", quality=90), settings)
        for x in (image, grainy(image, 25), salted(image, 0.05))
    ]
    assert not any(isinstance(one, Problem) for one in found)
    assert reads == [4, 4, 1, 4, 1], "clean files are not decoded twice"
    clean, gaussian, impulse = found
    assert clean.left == 0
    assert 12 < gaussian.sensor.sigma < 26
    assert gaussian.left == pytest.approx(gaussian.sensor.rough * 1.2 / 4)
    assert clean.mended is None
    assert gaussian.mended is None
    wanted = clean.image.astype(int)
    before, after = (
        np.abs(x.astype(int) - wanted).mean() for x in (impulse.image, impulse.mended)
    )
    assert after < before / 3


def test_noise_behind_transparency_does_not_count():
    rough = RNG(0).integers(0, 256, (80, 80, 3), np.uint8)
    hidden = np.dstack([rough, np.zeros((80, 80), np.uint8)])
    found = decode_image(encoded(hidden, "PNG"), DecodeSettings(image_size=32))
    assert found.sensor.sigma == 0
    assert found.mended is None


def test_mended_pixels_are_turned_as_the_picture_is():
    from tests.tasks.pictures import exif

    image = salted(photo(90, 160, seed=4), 0.05)
    settings = DecodeSettings(image_size=64)
    for way in range(1, 9):
        found = decode_image(
            encoded(image, "JPEG", quality=95, exif=exif(way)), settings
        )
        near = np.abs(found.mended.astype(int) - found.image).mean()
        for turns in range(1, 4):
            turned = np.rot90(found.mended, turns).astype(int)
            assert near < np.abs(turned - found.image).mean()
