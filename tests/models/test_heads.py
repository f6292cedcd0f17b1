"""Heads trained anew: balanced batches, blends within a class, averaged members."""

import numpy as np
import pytest

from models.heads import HeadRecipe, Pool, same_class_neighbours, train_head
from models.thresholds import (
    _centred_offsets,
    macro_f1,
    tune_offsets,
    worthwhile_offsets,
)

RECIPE = HeadRecipe(steps=200, batch_size=64, learning_rate=3e-2)


def clouds(counts, seed=0):
    """Two overlapping clouds of embeddings, of unequal size."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = 1.2 * np.eye(len(counts), 4)
    return (centres[labels] + random.normal(size=(len(labels), 4))).astype("f4"), labels


def recall(head, embeddings, labels):
    answers = (embeddings @ head[0] + head[1]).argmax(1)
    return [(answers[labels == c] == c).mean() for c in np.unique(labels)]


@pytest.mark.parametrize(
    "more", [{}, {"neighbours": 5}, {"members": 4}], ids=["plain", "smote", "members"]
)
def test_a_head_trained_on_balanced_batches_knows_the_rare_class(more):
    pool = Pool.of(*clouds([400, 20]), neighbours=more.pop("neighbours", 0))
    start = np.zeros((4, 2), "f4"), np.array([3.0, -3.0], "f4")  # always the first
    head = train_head(pool, start, recipe=RECIPE, seed=0, **more)
    test = clouds([500, 500], seed=1)
    assert recall(start, *test) == [1, 0]
    assert min(recall(head, *test)) > 0.6
    again = train_head(pool, start, recipe=RECIPE, seed=0, **more)
    np.testing.assert_array_equal(head[0], again[0])


def test_neighbours_are_the_nearest_of_the_same_class():
    embeddings, labels = clouds([30, 4, 1])
    found = same_class_neighbours(embeddings, labels, k=3)
    assert (labels[found] == labels[:, None]).all()
    far = np.linalg.norm(embeddings[:30, None] - embeddings[None, :30], axis=-1)
    np.fill_diagonal(far, np.inf)
    expected = np.sort(np.argsort(far, axis=1)[:, :3], axis=1)
    np.testing.assert_array_equal(np.sort(found[:30], axis=1), expected)
    assert (found[30:34] != np.arange(30, 34)[:, None]).all()
    assert (found[34] == 34).all()  # alone in its class


def test_offsets_raise_macro_f1_as_far_as_single_moves_can():
    embeddings, labels = clouds([200, 20, 20])
    logits = embeddings[:, :3] * 2 + np.array([3.0, 0, 0])
    offsets = tune_offsets(logits, labels)
    before = macro_f1(logits.argmax(1), labels, num_classes=3)
    after = macro_f1((logits + offsets).argmax(1), labels, num_classes=3)
    assert after > before + 0.1
    # No single class does better at any other offset.
    for c in range(3):
        for move in np.linspace(-6, 6, 241):
            moved = logits + offsets
            moved[:, c] += move
            assert macro_f1(moved.argmax(1), labels, num_classes=3) <= after + 1e-9


def test_offsets_of_noise_are_not_kept():
    random, n, k = np.random.default_rng(0), 200, 20
    found = [
        worthwhile_offsets(
            random.normal(size=(n, k)) * 3 + 6 * np.eye(k)[labels], labels, seed=0
        )
        for labels in (random.permutation(n) % k for _ in range(8))
    ]
    assert sum(offsets.any() for offsets, _ in found) <= 2
    assert np.mean([gain for _, gain in found]) < 0.005


def test_one_validation_image_moves_nothing():
    offsets, gain = worthwhile_offsets(np.zeros((1, 3)), np.array([1]), seed=0)
    assert not offsets.any()
    assert np.isnan(gain)


def test_what_weighs_nothing_is_not_learnt():
    embeddings, labels = clouds([200, 200])
    wrong = np.arange(len(labels)) % 2 == 0
    told = np.where(wrong, 1 - labels, labels)
    start = np.zeros((4, 2), "f4"), np.zeros(2, "f4")
    test = clouds([500, 500], seed=1)
    heads = [
        train_head(pool, start, recipe=RECIPE, seed=0)
        for pool in (
            Pool.of(embeddings, told),
            Pool.of(embeddings, told, weights=np.where(wrong, 0.01, 1).astype("f4")),
        )
    ]
    assert min(recall(heads[0], *test)) < 0.65
    assert min(recall(heads[1], *test)) > 0.7


def biased(counts):
    """Logits that favour the first class, and labels, with so many images of each."""
    embeddings, labels = clouds([200] * len(counts), seed=2)
    kept = np.concatenate(
        [np.flatnonzero(labels == c)[:n] for c, n in enumerate(counts)]
    )
    bias = np.linspace(2, -2, len(counts))
    return 2 * embeddings[kept] @ np.eye(4, len(counts)) + bias, labels[kept]


def test_classes_without_validation_images_are_not_robbed():
    """As their images are never seen, taking them away would seem to cost nothing."""
    logits, labels = biased([200, 200, 200, 0])
    offsets, gain = worthwhile_offsets(logits, labels, seed=0)
    assert not offsets.any()
    assert np.isnan(gain)
    offsets = _centred_offsets(logits, labels, least=4)
    assert offsets[3] == 0
    assert abs(offsets.mean()) < 1e-9
    assert offsets[:3].any()


def test_offsets_that_even_out_a_biased_head_are_kept():
    logits, labels = biased([200] * 4)
    offsets, gain = worthwhile_offsets(logits, labels, seed=0)
    assert gain > 0.05
    assert np.abs(offsets + np.linspace(2, -2, 4)).max() < 1
