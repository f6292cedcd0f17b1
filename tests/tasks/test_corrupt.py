"""Fifteen ways to spoil an image: seeded by image, harder by severity."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.corrupt import WAYS, Corruption, corrupt
from tests.tasks.pictures import photo

KEYS = np.array([3, 2**63 + 5, 3], np.uint64)


def batch(side: int = 32) -> np.ndarray:
    two = [photo(side, side, seed=i, detail=max(6, side // 4)) for i in range(2)]
    return np.stack([*two, two[0]])


def error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("corruption", Corruption)
def test_a_corruption_depends_on_the_image_alone(corruption: Corruption):
    images = batch()
    found = corrupt(images, corruption, severity=3, keys=KEYS)
    assert found.shape == images.shape
    assert found.dtype == np.uint8
    assert np.array_equal(found[0], found[2])
    for i in range(3):
        alone = corrupt(images[i : i + 1], corruption, severity=3, keys=KEYS[i : i + 1])
        assert np.array_equal(alone[0], found[i])


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize("corruption", Corruption)
def test_each_severity_is_harder_than_the_one_before(corruption: Corruption, side: int):
    images = np.stack([photo(side, side, seed=i, detail=side // 4) for i in range(12)])
    errors = [
        error(corrupt(images, corruption, severity=s, keys=range(12)), images)
        for s in range(1, 6)
    ]
    assert errors[0] > 0
    assert errors == sorted(errors)
    assert errors[-1] < 80


def test_chance_differs_between_images_ways_and_severities():
    grey = np.full((2, 32, 32, 3), 128, np.uint8)
    noise = corrupt(grey, Corruption.gaussian_noise, severity=1, keys=[1, 2])
    assert not np.array_equal(noise[0], noise[1])
    more = corrupt(grey, Corruption.gaussian_noise, severity=2, keys=[1, 2])
    unit = [(x.astype(float) - 128) / x.std() for x in (noise[0], more[0])]
    assert np.abs(np.corrcoef(unit[0].ravel(), unit[1].ravel())[0, 1]) < 0.1


def test_an_unknown_severity_is_an_error():
    with pytest.raises(ValueError, match="severity"):
        corrupt(batch(), Corruption.fog, severity=6, keys=KEYS)


def test_every_corruption_has_its_severities():
    assert set(WAYS) == set(Corruption)
    assert {len(strengths) for strengths, _ in WAYS.values()} == {5}


def test_no_images_stay_no_images():
    none = np.zeros((0, 32, 32, 3), np.uint8)
    assert corrupt(none, Corruption.jpeg, severity=1, keys=[]).shape == none.shape
