from pathlib import Path

import cv2
import numpy as np
import pytest

from data_contracts.errors import SightlineError
from data_contracts.store import Dataset
from tasks.clean import CleanSettings, clean_dataset
from tasks.decode import DecodeSettings
from tasks.denoise import (
    DenoiseSettings,
    GaussianFilter,
    bilateral,
    denoise,
    denoise_dataset,
    filter_of,
    nlm,
    route,
)
from tasks.ingest import IngestSettings, ingest_dataset
from tests.datasets import make_dataset

SETTINGS = DenoiseSettings()


def picture(seed=0, size=64):
    rough = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(rough, (size, size), interpolation=cv2.INTER_CUBIC)


def error(a, b):
    return np.abs(a.astype(float) - b).mean()


def figures(**given):
    """Figures of clean images, but for `given`."""
    n = len(next(iter(given.values())))
    clean = {
        "sensor_sigma": 1.0,
        "sensor_impulse": 0.0,
        "left_sigma": 1.0,
        "blockiness": 1.0,
        "sharpness": 900.0,
        "std": 40.0,
    }
    return {name: np.full(n, value) for name, value in clean.items()} | {
        name: np.array(values) for name, values in given.items()
    }


def test_noise_is_routed_by_its_kind():
    found = figures(
        sensor_sigma=[1, 20, 20, 1, 1, 1],
        sensor_impulse=[0, 0, 0.1, 0.1, 0, 0],
        blockiness=[1, 1, 1, 1, 3, 1],
        sharpness=[900, 900, 900, 900, 900, 20],
    )
    kinds = route(found, size=64, settings=SETTINGS)
    wanted = ["none", "gaussian", "impulse", "impulse", "jpeg", "blur"]
    assert list(kinds) == wanted


def test_filters_bring_a_noisy_picture_nearer_to_the_clean_one():
    rng, clean = np.random.default_rng(1), picture()
    gaussian = np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    kinds = np.array(["none", "gaussian", "impulse", "gaussian"], object)
    images = np.stack([clean, gaussian, gaussian, gaussian])
    mended = np.stack([gaussian, gaussian, clean, clean])
    left = np.array([20.0, 20.0, 20.0, 1.0])
    for name in ("auto", "nlm"):
        settings = DenoiseSettings(gaussian=name)
        out = denoise(images, mended, kinds, left, settings=settings)
        assert np.array_equal(out[0], clean)
        assert error(out[1], clean) < 0.7 * error(gaussian, clean)
        assert np.array_equal(out[2], clean)
        assert np.array_equal(out[3], gaussian), "little noise is left alone"


def test_the_automatic_filter_follows_the_size():
    auto = [filter_of(GaussianFilter.auto, size=size) for size in (64, 96, 224)]
    assert auto == [bilateral, bilateral, nlm]
    assert filter_of(GaussianFilter.nlm, size=64) is nlm
    assert filter_of(GaussianFilter.bilateral, size=224) is bilateral


def test_only_noisy_images_are_rewritten(tmp_path):
    n = 300
    images = np.stack([picture(i, 16) for i in range(n)])
    sigma = np.ones(n)
    sigma[[3, 290]] = 30
    source = make_dataset(
        tmp_path,
        n,
        images=images,
        sensor_sigma=sigma,
        left_sigma=sigma,
        keep=np.ones(n, bool),
    )
    ref = denoise_dataset(source, SETTINGS)
    after = Dataset(ref).images[:]
    changed = np.flatnonzero((after != images).any(axis=(1, 2, 3)))
    assert set(changed) <= {3, 290}
    assert len(changed) == 2
    assert list(np.flatnonzero(Dataset(ref).column("treated"))) == [3, 290]
    np.testing.assert_array_equal(Dataset(source).images[:], images)


def test_marking_alone_changes_no_pixel(tmp_path):
    noisy = np.full(12, 30.0)
    source = make_dataset(
        tmp_path, sensor_sigma=noisy, left_sigma=noisy, keep=np.ones(12, bool)
    )
    ref = denoise_dataset(source, DenoiseSettings(treat=False))
    np.testing.assert_array_equal(Dataset(ref).images[:], Dataset(source).images[:])
    assert (Dataset(ref).column("noise") == "gaussian").all()
    assert not Dataset(ref).column("treated").any()


def test_salt_and_pepper_is_mended_before_the_resize(tmp_path: Path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "in" / "a"
    folder.mkdir(parents=True)
    for i in range(12):
        clean = picture(i, 96)
        if i == 5:
            clean[rng.random((96, 96)) < 0.06] = 255
        cv2.imwrite(str(folder / f"{i:02}.png"), clean)
    settings = IngestSettings(decode=DecodeSettings(image_size=32))
    source = ingest_dataset(str(tmp_path / "in"), settings, uri=str(tmp_path / "set"))
    kept = clean_dataset(source, CleanSettings(min_sharpness=0, near_distance=0))
    after = Dataset(denoise_dataset(kept, SETTINGS))
    assert list(np.flatnonzero(after.column("noise") == "impulse")) == [5]
    small = cv2.resize(picture(5, 96), (32, 32), interpolation=cv2.INTER_AREA)
    assert error(after.images[5], small[..., ::-1]) < 1
    assert error(Dataset(source).images[5], small[..., ::-1]) > 5
    assert np.array_equal(after.images[6], Dataset(source).images[6])


def test_a_limit_below_what_is_mended_is_refused():
    with pytest.raises((SightlineError, ValueError), match="impulse"):
        DenoiseSettings(impulse=0.001)
