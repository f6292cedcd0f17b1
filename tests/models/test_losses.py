"""Losses: their formulas, their limits, and finite slopes whatever the logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import losses

LABELS = jnp.array([0, 2, 1])
LOGITS = jnp.array([[2.0, -1.0, 0.5], [0.3, 0.2, -2.0], [0.0, 5.0, 1.0]])
P = np.asarray(jax.nn.softmax(LOGITS))[np.arange(3), LABELS]
CE = functools.partial(losses.cross_entropy)
EVERY = {
    "cross_entropy": CE,
    "smoothed": functools.partial(losses.cross_entropy, smoothing=0.1),
    "generalised": functools.partial(losses.generalised_cross_entropy, q=0.7),
    "absolute": functools.partial(losses.generalised_cross_entropy, q=1.0),
    "symmetric": functools.partial(
        losses.symmetric_cross_entropy, alpha=0.1, beta=1.0, floor=-4.0
    ),
    "bootstrap": functools.partial(losses.bootstrapped_cross_entropy, trust=0.8),
    "focal": functools.partial(losses.focal, gamma=2.0),
    "focal of a root": functools.partial(losses.focal, gamma=0.5),
    "early_learning": lambda logits, labels: losses.early_learning(
        logits, labels, targets=jax.nn.one_hot(labels, logits.shape[1]), strength=3.0
    ),
}
extreme = st.lists(
    st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([-1e4, 0.0, 1e4]),
    min_size=4,
    max_size=4,
)


@pytest.mark.parametrize("name", EVERY)
@given(logits=extreme, label=st.integers(0, 3))
def test_value_and_slope_are_finite_at_extreme_logits(name, logits, label):
    value, slope = COMPILED[name](jnp.array([logits], jnp.float32), jnp.array([label]))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


COMPILED = {
    name: jax.jit(jax.value_and_grad(lambda x, y, f=loss: f(x, y).sum()))
    for name, loss in EVERY.items()
}


@pytest.mark.parametrize("name", EVERY)
def test_half_precision_logits_give_a_float32_loss(name):
    found = EVERY[name](LOGITS.astype(jnp.bfloat16), LABELS)
    assert found.dtype == jnp.float32
    assert found.shape == (3,)


def test_formulas_are_those_of_the_papers():
    found = {name: np.asarray(loss(LOGITS, LABELS)) for name, loss in EVERY.items()}
    every = np.asarray(jax.nn.log_softmax(LOGITS))
    belief = np.exp(every)
    expected = {
        "cross_entropy": -np.log(P),
        "smoothed": -0.9 * np.log(P) - 0.1 * every.mean(1),
        "generalised": (1 - P**0.7) / 0.7,
        "absolute": 1 - P,
        "symmetric": -0.1 * np.log(P) + 4 * (1 - P),
        "bootstrap": -0.8 * np.log(P) - 0.2 * (belief * every).sum(1),
        "focal": -((1 - P) ** 2) * np.log(P),
        "focal of a root": -np.sqrt(1 - P) * np.log(P),
        "early_learning": -np.log(P) + 3 * np.log(1 - P),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)


def test_limits_are_cross_entropy():
    plain = CE(LOGITS, LABELS)
    for loss in (
        functools.partial(losses.generalised_cross_entropy, q=1e-4),
        functools.partial(losses.focal, gamma=0.0),
        functools.partial(losses.bootstrapped_cross_entropy, trust=1.0),
        functools.partial(
            losses.symmetric_cross_entropy, alpha=1.0, beta=0.0, floor=-4.0
        ),
        functools.partial(
            losses.early_learning, targets=jnp.zeros((3, 3)), strength=3.0
        ),
    ):
        np.testing.assert_allclose(loss(LOGITS, LABELS), plain, rtol=1e-3)


def test_a_surely_wrong_label_pulls_less_under_a_robust_loss():
    wrong = jnp.array([[12.0, 0.0, 0.0]])

    def pull(loss):
        return float(
            jnp.abs(jax.grad(lambda x: loss(x, jnp.array([1])).sum())(wrong)).sum()
        )

    assert pull(EVERY["generalised"]) < 0.01 * pull(CE)
    assert pull(EVERY["symmetric"]) < 0.2 * pull(CE)


def test_memory_moves_towards_the_answers_without_a_slope():
    start = jnp.full((3, 3), 1 / 3)
    moved = losses.remembered(start, LOGITS, decay=0.7)
    expected = 0.7 / 3 + 0.3 * jax.nn.softmax(LOGITS)
    np.testing.assert_allclose(moved, expected, rtol=1e-5)
    slope = jax.grad(lambda x: losses.remembered(start, x, decay=0.7)[0, 0])(LOGITS)
    assert not slope.any()
