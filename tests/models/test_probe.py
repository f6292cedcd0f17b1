"""Held-out heads: never fitted on the row they judge, and right where it is easy."""

import numpy as np

from models.probe import held_out_logits


def clusters(n: int = 300, k: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    x[:, :k] += 4 * np.eye(k)[label]
    return x, label, rng.integers(0, 4, n)


def test_a_head_names_the_cluster_of_rows_that_it_did_not_see():
    x, label, fold = clusters()
    logits = held_out_logits(x, label, fold, num_classes=3)
    assert logits.shape == (300, 3)
    assert (logits.argmax(1) == label).mean() > 0.95


def test_the_label_of_a_row_does_not_touch_its_own_logits():
    x, label, fold = clusters()
    other = label.copy()
    other[7] = (label[7] + 1) % 3
    before = held_out_logits(x, label, fold, num_classes=3)
    after = held_out_logits(x, other, fold, num_classes=3)
    assert np.array_equal(before[7], after[7])
    assert not np.array_equal(before[fold != fold[7]], after[fold != fold[7]])


def test_rows_of_no_fold_are_judged_by_the_mean_head_and_teach_nothing():
    x, label, fold = clusters()
    fold[:50] = -1
    other = label.copy()
    other[:50] = 0
    before = held_out_logits(x, label, fold, num_classes=3)
    assert np.array_equal(before, held_out_logits(x, other, fold, num_classes=3))
    assert (before[:50].argmax(1) == label[:50]).mean() > 0.95


def test_it_comes_to_the_minimum_of_the_loss():
    x, label, fold = clusters(n=200)
    fold = np.zeros(200, int)
    fold[:100] = -1  # one fold: its head is fitted on nothing but fold -1 is ignored
    fold[100:] = np.arange(100) % 2
    few = held_out_logits(x, label, fold, num_classes=3, steps=40)
    many = held_out_logits(x, label, fold, num_classes=3, steps=400)
    assert np.abs(few - many).max() < 1e-2
