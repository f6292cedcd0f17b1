from __future__ import annotations

import cv2
import numpy as np
import pytest

from tasks.pixels import noise, perceptual_hash, statistics
from tests.tasks.pictures import photo


def batch(n: int = 6, side: int = 64, detail: int = 6) -> np.ndarray:
    return np.stack([photo(side, side, seed=i, detail=detail) for i in range(n)])


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.bitwise_count(a ^ b)


@pytest.mark.parametrize("side", [33, 64])
def test_statistics_match_opencv_image_by_image(side: int) -> None:
    images = batch(5, side)
    found = statistics(images)
    for i, image in enumerate(images):
        mean, std = cv2.meanStdDev(image)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        inner = cv2.Laplacian(grey, cv2.CV_64F)[1:-1, 1:-1]
        value = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[::2, :, 1].mean()
        assert found["mean"][i] == pytest.approx(mean.mean(), rel=1e-4)
        assert found["std"][i] == pytest.approx(np.sqrt((std**2).mean()), rel=1e-4)
        assert found["sharpness"][i] == pytest.approx(inner.var(), rel=1e-3)
        assert found["saturation"][i] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (1, 2, 3)])
def test_a_flat_colour_has_no_spread(colour: tuple[int, ...]) -> None:
    flat = np.zeros((2, 64, 64, 3), np.uint8) + np.uint8(colour)
    found = statistics(flat)
    assert found["std"].max() < 1e-3
    assert found["sharpness"].max() < 1e-3
    assert perceptual_hash(flat).tolist() == [0, 0]
    assert noise(flat)[0].max() == 0


def test_an_image_is_measured_alone_whatever_its_batch() -> None:
    images = np.concatenate([batch(30), np.full((30, 64, 64, 3), 255, np.uint8)])
    order = np.random.default_rng(0).permutation(60)
    for measure in (perceptual_hash, lambda x: noise(x)[0], lambda x: noise(x)[1]):
        assert np.array_equal(measure(images)[order], measure(images[order]))
    whole, mixed = statistics(images), statistics(images[order])
    for name, values in whole.items():
        np.testing.assert_allclose(values[order], mixed[name], rtol=1e-4, atol=1e-3)


def test_an_empty_batch_gives_empty_columns() -> None:
    none = np.zeros((0, 64, 64, 3), np.uint8)
    assert len(statistics(none)["mean"]) == 0
    assert perceptual_hash(none).dtype == np.uint64
    assert len(noise(none)[0]) == 0


def test_results_have_the_types_of_their_columns() -> None:
    images = batch(2)
    assert all(v.dtype == np.float32 for v in statistics(images).values())
    assert all(v.dtype == np.float32 for v in noise(images))
    assert perceptual_hash(images).dtype == np.uint64


def test_near_duplicates_hash_alike_and_others_do_not() -> None:
    images = batch(40, detail=12)
    hashes = perceptual_hash(images)
    small = np.stack(
        [cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA) for image in images]
    )
    bright = np.clip(images * 0.9 + 12, 0, 255).astype(np.uint8)
    jpeg = np.stack(
        [cv2.imdecode(cv2.imencode(".jpg", x, [1, 60])[1], 1) for x in images]
    )
    for copies in (small, bright, jpeg):
        assert np.quantile(distance(hashes, perceptual_hash(copies)), 0.9) <= 3
    pairs = distance(hashes[:, None], hashes[None])[np.triu_indices(40, 1)]
    assert pairs.min() > 8


def test_the_hash_matches_opencvs_cosine_transform() -> None:
    image = batch(1, detail=20)
    grey = cv2.cvtColor(image[0], cv2.COLOR_RGB2GRAY).astype(np.float32)
    waves = cv2.dct(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA))[:8, :8]
    bits = (waves.ravel() > np.median(waves.ravel()[1:]))[1:]
    value = int(perceptual_hash(image)[0])
    assert [value >> (62 - i) & 1 for i in range(63)] == bits.astype(int).tolist()


@pytest.mark.parametrize("side", [64, 224])
@pytest.mark.parametrize("sigma", [8, 15, 25])
def test_gaussian_noise_is_measured(sigma: int, side: int) -> None:
    rng = np.random.default_rng(0)
    clean = batch(8, side) * 0.6 + 50
    noisy = np.clip(clean + rng.normal(0, sigma, clean.shape), 0, 255).astype(np.uint8)
    found, impulse = noise(noisy)
    assert found == pytest.approx(sigma, rel=0.15)
    assert impulse.max() < 0.01
    assert noise(clean.astype(np.uint8))[0].max() < 3


@pytest.mark.parametrize("share", [0.03, 0.1])
def test_salt_and_pepper_is_measured(share: float) -> None:
    rng = np.random.default_rng(0)
    images = (batch(8) * 0.6 + 50).astype(np.uint8)
    hit = rng.random((8, 64, 64, 1))
    noisy = np.where(hit < share / 2, 0, np.where(hit < share, 255, images))
    assert noise(noisy.astype(np.uint8))[1] == pytest.approx(share, rel=0.25)
    assert noise(images)[1].max() == 0
