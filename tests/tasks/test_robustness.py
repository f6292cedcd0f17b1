"""Top-1 on spoiled test images, of candidate and champion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from data_contracts.store import Dataset
from tasks.corrupt import Corruption
from tasks.evaluation import EvaluateSettings
from tasks.robustness import keys_of, measure_robustness, spoil
from tests.datasets import make_dataset

SETTINGS = EvaluateSettings(
    corruptions=(Corruption.brightness, Corruption.gaussian_noise),
    severities=(1, 5),
)


class Shade:
    """A model that tells light from dark images, whatever the order of its classes."""

    def __init__(self, classes: list[str], limit: float) -> None:
        self.classes, self.limit = classes, limit

    def __call__(self, images: np.ndarray) -> np.ndarray:
        light = images.mean((1, 2, 3)) > self.limit
        yes = self.classes.index("light")
        return np.stack([light == (k == yes) for k in range(2)], 1).astype(np.float32)


def measured(tmp_path: Path, settings: EvaluateSettings = SETTINGS):
    n = 300
    light = np.arange(n) % 2
    images = np.broadcast_to(
        np.where(light, 190, 60).astype(np.uint8)[:, None, None, None], (n, 16, 16, 3)
    )
    dataset = Dataset(make_dataset(tmp_path, n, images=images))
    labels = light.copy()
    labels[:4] = -1
    models = (Shade(["dark", "light"], 125), Shade(["light", "dark"], 100))
    return measure_robustness(
        dataset, np.arange(n), labels, np.arange(n), models, settings
    )


def test_each_corruption_and_severity_has_its_top1(tmp_path: Path):
    found = measured(tmp_path)
    assert found.n == 296
    assert found.clean.value == found.champion_clean.value == 1
    tops = {(r.corruption.value, r.severity): r.top1.value for r in found.rows}
    assert tops == {
        ("brightness", 1): 1,
        ("brightness", 5): 0.5,
        ("gaussian_noise", 1): 1,
        ("gaussian_noise", 5): 1,
    }
    assert found.mean() == pytest.approx(3.5 / 4)
    assert found.mean(champion=True) == pytest.approx(3.5 / 4)


def test_few_images_are_an_even_pick(tmp_path: Path):
    few = SETTINGS.model_copy(update={"spoiled": 10})
    found = measured(tmp_path, few)
    assert found.n == 10
    assert all(row.top1.n == 10 for row in found.rows)


def test_spoiling_in_parallel_comes_to_the_same():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 16, 16, 3), np.uint8)
    keys = keys_of(np.array([f"{i:064x}"[::-1] for i in range(7)], object))
    assert len(set(keys.tolist())) == 7
    whole = spoil(images, (Corruption.shot_noise, 3), keys)
    for i in range(7):
        alone = spoil(images[i : i + 1], (Corruption.shot_noise, 3), keys[i : i + 1])
        assert np.array_equal(alone[0], whole[i])


def test_a_severity_given_twice_is_refused():
    with pytest.raises(ValidationError, match="once"):
        EvaluateSettings(severities=(1, 1))
    with pytest.raises(ValidationError):
        EvaluateSettings(severities=(6,))
