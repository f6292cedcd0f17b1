"""Heads on features that stand still."""

import numpy as np
import pytest

from models.linear_probe import PENALTIES, USUAL, Features, fit_probe


def drawn(n: int, seed: int, *, classes: int = 3, width: int = 6) -> Features:
    centres = 2 * np.random.default_rng(0).normal(size=(classes, width))
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    x = 40 + 7 * (centres[labels] + random.normal(size=(n, width)))
    return Features(x.astype(np.float32), labels)


def test_the_head_is_where_the_penalised_likelihood_has_no_slope():
    train = drawn(200, 1)
    found = fit_probe(train, None, num_classes=3)
    assert [trial.penalty for trial in found.trials] == [USUAL]
    scale = train.x.std(0)
    logits = train.x @ found.kernel + found.bias
    chances = np.exp(logits - logits.max(1, keepdims=True))
    error = chances / chances.sum(1, keepdims=True) - np.eye(3)[train.labels]
    z = (train.x - train.x.mean(0)) / scale
    slope = z.T @ error / len(z) + USUAL * found.kernel * scale[:, None]
    assert np.abs(slope).max() < 1e-4


def test_validation_chooses_the_penalty():
    found = fit_probe(drawn(60, 1), drawn(100, 2), num_classes=3)
    assert [trial.penalty for trial in found.trials] == list(PENALTIES)
    assert found.chosen.val_loss == min(trial.val_loss for trial in found.trials)
    assert found.trials[0].train_loss > found.trials[-1].train_loss


def test_a_row_that_weighs_twice_is_a_row_seen_twice():
    train = drawn(60, 3)
    weights = 1 + (np.arange(60) < 20)
    rows = np.repeat(np.arange(60), weights)
    twice = Features(train.x[rows], train.labels[rows])
    heavy = Features(train.x, train.labels, weights)
    one, other = (fit_probe(f, None, num_classes=3) for f in (twice, heavy))
    np.testing.assert_allclose(one.kernel, other.kernel, atol=2e-4)


def test_a_column_that_never_changes_does_no_harm():
    train = drawn(60, 4)
    flat = Features(np.pad(train.x, ((0, 0), (0, 1)), constant_values=5), train.labels)
    found = fit_probe(flat, None, num_classes=3)
    assert np.isfinite(found.kernel).all()
    assert found.chosen.train_top1 > 0.8
    assert found.kernel[-1] == pytest.approx(0, abs=1e-3)
