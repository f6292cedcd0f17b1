"""The rule that names a winner: it knows a real gain, and rarely one that is none."""

import numpy as np

from tasks.intervals import Paired
from tasks.winner import paired_losses, winner_of

SEEDS, IMAGES = 3, 150


def simulated(rng, *, gain=0.0, finalists=2, seed_noise=0.03, of_groups=1):
    """Losses of trials that share images; seeds move whole runs and each answer."""
    image = rng.normal(1.5, 1.0, IMAGES // of_groups).repeat(of_groups)
    found = {}
    for trial in range(finalists + 1):
        # How a recipe does on an image whatever the seed.
        own = rng.normal(0, 0.2, IMAGES // of_groups).repeat(of_groups)
        runs = image + own + rng.normal(0, 0.4, (SEEDS, IMAGES))
        runs += rng.normal(0, seed_noise, (SEEDS, 1)) - (gain if trial == 1 else 0)
        found[trial] = runs
    return found, np.repeat(np.arange(IMAGES // of_groups), of_groups)


def share_named(rng, repeats=400, **how):
    named = [
        winner_of(paired_losses(losses, groups=groups, level=0.95))
        for losses, groups in (simulated(rng, **how) for _ in range(repeats))
    ]
    return np.mean(np.array(named) > 0), np.mean(np.array(named) == 1)


def test_equal_recipes_are_rarely_told_apart():
    """A one-sided mistake at 95 % two-sided for both: 2.5 % at most, and less here."""
    assert share_named(np.random.default_rng(0))[0] <= 0.035
    noisy = share_named(np.random.default_rng(1), seed_noise=0.2)[0]
    assert noisy <= 0.035


def test_duplicates_do_not_count_as_images():
    named = share_named(np.random.default_rng(2), of_groups=10)[0]
    assert named <= 0.035


def test_a_real_gain_is_named():
    assert share_named(np.random.default_rng(3), gain=0.25, repeats=100)[1] > 0.95


def test_the_gain_is_the_defaults_loss_less_the_finalist_s():
    losses = {0: np.full((2, 6), 2.0), 4: np.full((2, 6), 1.5)}
    losses[0][0] += np.arange(6) / 10
    found = paired_losses(losses, groups=np.arange(6), level=0.95)[4]
    assert found.value == np.mean(losses[0] - losses[4])
    assert found.low < found.value < found.high


def test_the_surely_best_wins_and_no_one_else():
    assert winner_of({}) == 0
    assert winner_of({3: Paired(0.5, -0.1, 1.1)}) == 0
    sure = {3: Paired(0.2, 0.1, 0.3), 5: Paired(0.4, 0.1, 0.7), 6: Paired(2, -1, 5)}
    assert winner_of(sure) == 5


def test_one_group_of_images_decides_nothing():
    losses = {0: np.ones((2, 4)), 1: np.repeat([[0.0], [0.1]], 4, axis=1)}
    found = paired_losses(losses, groups=np.zeros(4, int), level=0.95)
    assert winner_of(found) == 0
