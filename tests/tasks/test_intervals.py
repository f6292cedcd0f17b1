"""Intervals cover what they claim, and know duplicate groups."""

import numpy as np
import pytest
from scipy import stats

from tasks.intervals import (
    agresti_min,
    centred_interval,
    effective_n,
    grouped_bootstrap,
    paired_change,
    two_sided,
    wilson,
)


def mean(sums):
    """Return the mean of column 1, where column 0 counts."""
    return sums[:, 1:] / sums[:, :1]


def column(values):
    return np.stack([np.ones(len(values)), values], axis=1)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (7, 10), (10, 10), (431, 1000)])
def test_wilson_agrees_with_scipy(hits, n):
    low, high = wilson(hits, n, level=0.95)
    oracle = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_wilson_of_nothing_is_everything():
    assert wilson(0, 0, level=0.95) == (0.0, 1.0)


def test_two_sided_ends_are_one_sided_bounds():
    low, _ = wilson(90, 100, level=two_sided(0.95))
    share, z = 0.9, stats.norm.ppf(0.95)
    assert (share - low) / np.sqrt(low * (1 - low) / 100) == pytest.approx(z)


def test_agresti_min_adds_half_a_pair_to_each_cell():
    b, c, n = 12.5, 5.5, 102
    half = 1.959963985 * np.sqrt(((b + c) - (b - c) ** 2 / n) / n**2)
    found = agresti_min(12, 5, 100, level=0.95)
    assert found.value == pytest.approx(0.07)
    assert found[1:] == pytest.approx(((b - c) / n - half, (b - c) / n + half))


def test_no_change_still_has_an_interval():
    found = agresti_min(0, 0, 50, level=0.95)
    assert found.low < -0.03 < 0.03 < found.high


@pytest.mark.parametrize(
    ("n", "fixed", "broken"), [(100, 0.04, 0.04), (400, 0.06, 0.02)]
)
def test_agresti_min_covers_the_true_change(n, fixed, broken):
    rng = np.random.default_rng(0)
    draws = rng.multinomial(n, [fixed, broken, 1 - fixed - broken], size=4_000)
    found = np.array([agresti_min(b, c, n, level=0.9)[1:] for b, c, _ in draws])
    inside = (found[:, 0] <= fixed - broken) & (fixed - broken <= found[:, 1])
    assert 0.88 < inside.mean() < 0.96


def test_images_on_their_own_are_worth_one_each():
    rng = np.random.default_rng(0)
    values = (rng.random(500) < 0.7).astype(float)
    assert effective_n(values, groups=np.arange(500)) == pytest.approx(500)


def test_copies_are_worth_one_image():
    rng = np.random.default_rng(0)
    values = np.repeat((rng.random(100) < 0.7).astype(float), 10)
    found = effective_n(values, groups=np.repeat(np.arange(100), 10))
    assert found == pytest.approx(100)


def test_without_a_mistake_a_group_is_worth_one_image():
    found = effective_n(np.ones(60), groups=np.repeat(np.arange(20), 3))
    assert found == pytest.approx(20)


def test_paired_change_with_each_image_its_own_group_is_agresti_min():
    change = np.repeat([1, -1, 0], [9, 4, 187])
    found = paired_change(change, groups=np.arange(200), level=0.9)
    assert found == pytest.approx(agresti_min(9, 4, 200, level=0.9))


def test_paired_change_covers_when_images_are_copies():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(100), 4)
    hits = {"groups": 0, "none": 0}
    for _ in range(400):
        change = np.repeat(rng.choice([1, -1, 0], 100, p=[0.1, 0.1, 0.8]), 4)
        for key, of in (("groups", groups), ("none", np.arange(400))):
            found = paired_change(change, groups=of, level=0.9)
            hits[key] += found.low <= 0 <= found.high
    assert hits["groups"] / 400 > 0.86
    assert hits["none"] / 400 < 0.7


def test_bootstrap_spread_is_the_standard_error_even_in_small_strata():
    rng = np.random.default_rng(2)
    strata = np.repeat(np.arange(200), 2)
    values = rng.normal(size=400)
    draws = grouped_bootstrap(
        column(values),
        mean,
        groups=np.arange(400),
        strata=strata,
        draws=4_000,
        seed=0,
    )
    pairs = values.reshape(200, 2)
    truth = np.sqrt((pairs.var(axis=1, ddof=1) / 2).sum()) / 200
    assert draws.std() == pytest.approx(truth, rel=0.05)
    assert draws.mean() == pytest.approx(values.mean(), abs=3 * truth / 60)


def test_bootstrap_draws_groups_whole():
    rng = np.random.default_rng(3)
    values = rng.normal(size=80)
    copies = np.repeat(values, 5)
    kwargs = {"draws": 2_000, "seed": 0}
    once = grouped_bootstrap(
        column(values), mean, groups=np.arange(80), strata=np.zeros(80, int), **kwargs
    )
    fivefold = grouped_bootstrap(
        column(copies),
        mean,
        groups=np.repeat(np.arange(80), 5),
        strata=np.zeros(400, int),
        **kwargs,
    )
    assert fivefold == pytest.approx(once)


def test_bootstrap_keeps_the_number_of_each_class():
    strata = np.repeat([0, 1, 2], [5, 20, 100])
    per_class = np.eye(3)[strata]
    draws = grouped_bootstrap(
        per_class, lambda s: s, groups=np.arange(125), strata=strata, draws=200, seed=0
    )
    assert draws == pytest.approx(np.tile([5.0, 20, 100], (200, 1)))


def test_bootstrap_repeats_under_a_seed_and_differs_under_another():
    def draw(seed):
        return grouped_bootstrap(
            column(np.arange(50.0)),
            mean,
            groups=np.arange(50),
            strata=np.arange(50) % 3,
            draws=100,
            seed=seed,
        )

    assert np.array_equal(draw(0), draw(0))
    assert not np.array_equal(draw(0), draw(1))


@pytest.mark.parametrize("classes", [1, 2, 3, 30])
def test_classes_of_one_image_vary_together(classes):
    values = np.arange(classes, dtype=float)
    draws = grouped_bootstrap(
        column(values),
        mean,
        groups=np.arange(classes),
        strata=np.arange(classes),
        draws=300,
        seed=0,
    )
    assert np.isfinite(draws).all()
    assert (draws.std() > 0) == (classes > 1)


def test_a_single_image_class_joins_the_smallest_other():
    strata = np.repeat([0, 1, 2], [1, 3, 50])
    kept = grouped_bootstrap(
        np.eye(3)[strata],
        lambda s: s,
        groups=np.arange(54),
        strata=strata,
        draws=300,
        seed=0,
    )
    assert kept[:, 0].std() > 0
    assert kept[:, 2] == pytest.approx(50)


def test_centred_interval_surrounds_its_value():
    draws = np.random.default_rng(0).normal(5, 1, size=(4_000, 1))
    low, high = centred_interval(np.array([0.0]), draws, level=0.95)
    assert (low[0], high[0]) == pytest.approx((-1.96, 1.96), abs=0.15)
