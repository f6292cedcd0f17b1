"""Confident learning on numbers that can be checked by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.confident import (
    confident_joint,
    margins,
    noise_rate,
    prune_by_noise_rate,
    ranks,
    thresholds,
)

PROBS = np.array(
    [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.95, 0.05]]
)
LABELS = np.array([0, 0, 0, 1, 1, 1])


def test_a_margin_is_the_best_other_less_the_given():
    np.testing.assert_allclose(margins(PROBS, LABELS)[[0, 2, 5]], [-0.8, 0.8, 0.9])


def test_a_threshold_is_the_mean_probability_of_a_class_on_its_rows():
    np.testing.assert_allclose(thresholds(PROBS, LABELS), [0.6, 1.55 / 3])


def test_the_joint_counts_rows_by_given_and_confident_class():
    joint = confident_joint(PROBS, LABELS)
    np.testing.assert_allclose(joint, [[2, 1], [1, 2]])
    assert np.isclose(noise_rate(joint), 1 / 3)


def test_pruning_doubts_as_many_as_the_joint_and_the_worst_of_them():
    joint = confident_joint(PROBS, LABELS)
    doubtful = prune_by_noise_rate(PROBS, LABELS, joint)
    assert doubtful.tolist() == [False, False, True, False, False, True]


def test_a_class_that_no_row_carries_is_no_trouble():
    probs = np.array([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]])
    joint = confident_joint(probs, np.array([0, 1]))
    assert joint.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_ties_share_their_rank():
    np.testing.assert_allclose(ranks(np.array([3.0, 1, 1, 9])), [0.75, 0.375, 0.375, 1])


@given(
    arrays(float, (20, 4), elements=st.floats(0.01, 1)),
    arrays(int, 20, elements=st.integers(0, 3)),
)
def test_the_joint_holds_every_row_once(scores, labels):
    probs = scores / scores.sum(1, keepdims=True)
    joint = confident_joint(probs, labels)
    np.testing.assert_allclose(joint.sum(1), np.bincount(labels, minlength=4))
    doubtful = prune_by_noise_rate(probs, labels, joint)
    assert doubtful.sum() <= np.rint(joint).sum() - np.trace(np.rint(joint)) + 1
