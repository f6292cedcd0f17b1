"""Temperatures make confidences mean what they say."""

import numpy as np
import pytest

from tasks.calibration import fit_temperature


def soft(logits):
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
def test_the_temperature_that_bent_the_probabilities_is_found(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert fit_temperature(soft(logits * true), labels) == pytest.approx(true, rel=0.05)


def test_images_that_are_all_right_leave_doubt():
    labels = np.arange(40) % 4
    found = fit_temperature(soft(np.eye(4)[labels]), labels)
    confidence = soft(np.eye(4)[labels] / found).max(axis=1)
    assert 0.95 < confidence.min() < 0.999
