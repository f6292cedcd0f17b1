"""Votes, folds, planted flips, and what they tell of the noise."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.suspicion import Suspicion, auroc, folds_of, plant, planted_rate, poll


def test_look_alikes_share_a_fold_and_classes_are_spread():
    label = np.repeat([0, 1], 50)
    group = np.arange(100) // 2 * 2
    pool = np.arange(100) % 10 > 1
    fold = folds_of(label, group, pool, folds=5, seed=0)
    assert (fold[~pool] == -1).all()
    assert (fold[pool][::2] == fold[pool][1::2]).all()
    for own in (0, 1):
        counts = np.bincount(fold[pool & (label == own)], minlength=5)
        assert counts.max() - counts.min() <= 2


def test_neighbours_vote_by_their_cosines_and_strangers_not_at_all():
    said = np.array([[1, 1, 2, 0], [0, 0, 0, 3]])
    cosine = np.array([[0.5, 0.3, 0.7, 0.5], [1, 1, 1, -2]])
    votes, voted = poll(said, cosine, np.array([0, 0]))
    np.testing.assert_allclose(votes, [(0.8 - 0.5) / 2, -1])
    assert voted.tolist() == [1, 0]


@given(st.integers(0, 1000), st.sampled_from([0.01, 0.02, 0.2]))
def test_planted_flips_fall_on_other_classes_of_the_pool(seed, share):
    rng = np.random.default_rng(seed)
    label, pool = rng.integers(0, 5, 400) * 3, rng.random(400) < 0.8
    planted, where = plant(label, pool, share=share, seed=seed)
    assert (planted[where] != label[where]).all()
    assert (planted[~where] == label[~where]).all()
    assert np.isin(planted, label).all()
    assert not where[~pool].any()
    assert where.sum() >= 25


def test_auroc_is_the_chance_to_rank_a_positive_higher():
    score = np.array([0.1, 0.4, 0.4, 0.9])
    assert auroc(score, np.array([False, False, True, True])) == 0.875


def test_the_noise_rate_is_read_from_how_planted_flips_score():
    rng = np.random.default_rng(0)
    for rate in (0.0, 0.1, 0.3):
        wrong = rng.random(20_000) < rate
        planted = np.arange(20_000) < 400
        score = rng.normal(size=20_000) + 5 * (wrong | planted)
        assert abs(planted_rate(score, planted) - rate) < 0.05


def test_held_out_rows_are_ranked_apart_and_missing_dynamics_left_out():
    pool = np.array([True, True, True, False, False])
    found = Suspicion(
        probs=np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.6, 0.4], [0.4, 0.6]]),
        votes=np.array([-1.0, 1, 0, -0.5, 0.5]),
        voted=np.array([1, 1, 1, 1, 1]),
        aum=np.array([5.0, -5, np.nan, np.nan, np.nan]),
        labels=np.zeros(5, int),
        pool=pool,
    )
    np.testing.assert_allclose(found.score, [4 / 18 + 0.5 / 3, 1, 2 / 3, 0.5, 1], 0.2)
    assert found.score[1] == 1
    assert found.score[4] == 1
    assert found.agreed.tolist() == [False, True, False, False, True]
