"""Certified radii against a network whose radius is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tasks.smoothing import ABSTAIN, certify, lower_bound, within


def test_the_bound_is_that_of_clopper_and_pearson():
    hits, n = np.array([0, 1, 50, 99, 100]), 100
    wanted = [
        stats.binomtest(int(k), n, alternative="greater")
        .proportion_ci(0.999, method="exact")
        .low
        for k in hits
    ]
    assert lower_bound(hits, n, alpha=0.001) == pytest.approx(wanted, abs=1e-9)


def test_the_radius_of_a_linear_network_is_its_distance_and_hardly_ever_more():
    sigma, far, draws = 0.25, 0.3, 1_000
    rng = np.random.default_rng(0)
    share = stats.norm.cdf(far / sigma)
    hits = rng.binomial(draws, share, 2_000)
    counted = np.stack([hits, draws - hits], 1)
    found = certify(counted, counted, draws=draws, sigma=sigma, alpha=0.05)
    assert (found.answer == 0).all()
    assert np.mean(found.radius > far) < 0.06
    assert found.radius.mean() == pytest.approx(far, rel=0.1)


def test_to_abstain_is_to_be_wrong_and_numbers_that_are_none_count_against():
    chosen = np.array([[9, 1], [9, 1], [1, 9]])
    counted = np.array([[55, 45], [40, 0], [0, 100]])
    found = certify(chosen, counted, draws=100, sigma=1.0, alpha=0.01)
    assert found.answer.tolist() == [ABSTAIN, ABSTAIN, 1]
    assert found.radius[:2].tolist() == [0, 0]
    labels = np.array([0, 0, 1])
    assert within(found, labels, 0).tolist() == [0, 0, 1]
    assert within(found, labels, 9).tolist() == [0, 0, 0]
