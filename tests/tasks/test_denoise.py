import cv2
import numpy as np

from data_contracts.store import Dataset
from tasks.denoise import DenoiseSettings, denoise, denoise_dataset, route
from tests.datasets import make_dataset

SETTINGS = DenoiseSettings()


def picture(seed=0, size=64):
    rough = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(rough, (size, size), interpolation=cv2.INTER_CUBIC)


def error(a, b):
    return np.abs(a.astype(float) - b).mean()


def test_noise_is_routed_by_its_kind():
    sigma, impulse = np.array([1.0, 20.0, 20.0, 1.0]), np.array([0.0, 0.0, 0.1, 0.1])
    kinds = route(sigma, impulse, size=64, settings=SETTINGS)
    assert list(kinds) == ["none", "gaussian", "impulse", "impulse"]


def test_small_images_may_carry_more_texture():
    sigma, impulse = np.array([13.0]), np.zeros(1)
    assert route(sigma, impulse, size=64, settings=SETTINGS)[0] == "gaussian"
    assert route(sigma, impulse, size=32, settings=SETTINGS)[0] == "none"


def test_filters_bring_a_noisy_picture_nearer_to_the_clean_one():
    rng, clean = np.random.default_rng(1), picture()
    gaussian = np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    impulse = clean.copy()
    impulse[rng.random((64, 64)) < 0.1] = 255
    out = denoise(
        np.stack([clean, gaussian, impulse]), np.array(["none", "gaussian", "impulse"])
    )
    np.testing.assert_array_equal(out[0], clean)
    assert error(out[1], clean) < 0.6 * error(gaussian, clean)
    assert error(out[2], clean) < 0.3 * error(impulse, clean)


def test_only_noisy_images_are_rewritten(tmp_path):
    n = 300
    images = np.stack([picture(i, 16) for i in range(n)])
    sigma = np.ones(n)
    sigma[[3, 290]] = 30
    source = make_dataset(
        tmp_path, n, images=images, sigma=sigma, keep=np.ones(n, bool)
    )
    ref = denoise_dataset(source, SETTINGS)
    after = Dataset(ref).images[:]
    changed = np.flatnonzero((after != images).any(axis=(1, 2, 3)))
    assert set(changed) <= {3, 290}
    assert len(changed) == 2
    assert list(np.flatnonzero(Dataset(ref).column("treated"))) == [3, 290]
    np.testing.assert_array_equal(Dataset(source).images[:], images)


def test_marking_alone_changes_no_pixel(tmp_path):
    source = make_dataset(tmp_path, sigma=np.full(12, 30.0), keep=np.ones(12, bool))
    ref = denoise_dataset(source, DenoiseSettings(treat=False))
    np.testing.assert_array_equal(Dataset(ref).images[:], Dataset(source).images[:])
    assert (Dataset(ref).column("noise") == "gaussian").all()
