"""Corrections for unequal classes: priors, weights, margins, quotas, samples."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.imbalance import effective_weights, log_prior, margins, quotas, resample
from models.objective import make_objective
from models.recipe import Balance

COUNTS = np.array([100, 10, 1])
LOGITS = jnp.array([[1.0, 0.5, -1.0], [0.1, 0.2, 0.3]])
LABELS = jnp.array([0, 2])


def loss(kind, counts=COUNTS, *, step=0, **more):
    made = make_objective(balance=Balance(kind=kind, **more), counts=counts, steps=10)
    return np.asarray(made(LOGITS, LABELS, step=jnp.asarray(step)))


def test_weights_are_near_inverse_frequencies_and_one_on_average_over_images():
    weights = effective_weights(COUNTS, beta=0.9999)
    assert (weights @ COUNTS) / COUNTS.sum() == pytest.approx(1, rel=1e-5)
    assert weights[2] / weights[0] == pytest.approx(100, rel=0.01)
    even = effective_weights(np.array([7, 7]), beta=0.99)
    np.testing.assert_allclose(even, 1, rtol=1e-6)


def test_margins_fall_with_the_fourth_root():
    found = margins(np.array([16, 1]), largest=0.5)
    np.testing.assert_allclose(found, [0.25, 0.5])


def test_an_equal_prior_changes_no_loss():
    even = np.array([5, 5, 5])
    plain = make_objective()(LOGITS, LABELS, step=0)
    for kind in ("logit_adjusted", "effective"):
        np.testing.assert_allclose(loss(kind, even), plain, rtol=1e-5)


def test_logit_adjustment_costs_rare_classes_more_than_their_logits_say():
    plain = np.asarray(make_objective()(LOGITS, LABELS, step=0))
    adjusted = loss("logit_adjusted")
    assert adjusted[0] < plain[0]
    assert adjusted[1] > plain[1]
    assert np.isfinite(log_prior(np.array([5, 0]))).all()


def test_deferred_weights_set_in_late():
    early, late = (loss("ldam_deferred", step=s, deferred=0.8) for s in (7, 8))
    np.testing.assert_allclose(early, loss("ldam"), rtol=1e-6)
    weights = effective_weights(COUNTS, beta=0.9999)[np.asarray(LABELS)]
    np.testing.assert_allclose(late, early * weights, rtol=1e-5)


some = st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any)


@given(counts=some, sampling=st.sampled_from(["class", "root"]))
def test_sampling_shows_as_many_images_as_there_are(counts, sampling):
    counts = np.array(counts)
    quota = quotas(counts, sampling=sampling)
    assert quota.sum() == counts.sum()
    assert (quota[counts == 0] == 0).all()
    if sampling == "class":
        assert np.ptp(quota[counts > 0]) <= 1


@given(counts=some, sampling=st.sampled_from(["class", "root", "over", "under"]))
def test_images_of_a_class_come_equally_often_and_in_full_quota(counts, sampling):
    counts = np.array(counts)
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(labels)) * 3
    found = resample(rows, labels, sampling=sampling, seed=1, epoch=0)
    times = np.bincount(np.searchsorted(rows, found), minlength=len(rows))
    assert (np.diff(found) >= 0).all()
    shown = np.bincount(labels, weights=times, minlength=len(counts))
    np.testing.assert_array_equal(shown, quotas(counts, sampling=sampling))
    for c in np.flatnonzero(counts):
        assert np.ptp(times[labels == c]) <= 1


def test_every_epoch_draws_anew_and_the_same_way_again():
    labels = np.repeat([0, 1], [90, 10])
    rows = np.arange(100)
    drawn = [
        resample(rows, labels, sampling="under", seed=0, epoch=e) for e in (0, 1, 0)
    ]
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert len(drawn[0]) == 20


def test_an_unknown_sampling_is_refused():
    with pytest.raises(ValueError, match="class, root"):
        quotas(COUNTS, sampling="some")
