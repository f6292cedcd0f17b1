"""Optimisers and schedules, each against its own words."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from data_contracts.errors import UsageError
from models import steps
from models.backbones import ResNet, Shape
from models.optim import (
    OPTIMIZERS,
    evaluation_weights,
    free_adamw,
    lion,
    make_optimizer,
    sgd,
)
from models.recipe import RATES, Recipe
from models.schedules import SCHEDULES, one_cycle
from tests.models.test_steps import (
    VIEW,
    Linear,
    N,
    batch,
    build,
    digest,
)

TOTAL = 100


def blocks():
    """Two residual blocks and batch norm; no dropout."""
    return ResNet(Shape((4, 8), (1, 1), "half"), num_classes=3, rngs=nnx.Rngs(0))


def stepped(model, *, count=1, images=N, tx=None, **settings):
    _, state, step = build(model, tx, **settings)
    for index in range(count):
        state, metrics = step(state, *batch(images, seed=index))
    return state, metrics


def close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


# Schedules


def test_one_cycle_rises_and_falls_in_straight_lines():
    rates = np.array([one_cycle(1.0, 100, warmup=0.2)(s) for s in range(101)])
    assert rates.argmax() == 20
    assert rates[20] == pytest.approx(1)
    assert rates[100] == 0
    np.testing.assert_allclose(np.diff(rates[:21]), 0.96 / 20, rtol=1e-3)
    np.testing.assert_allclose(np.diff(rates[20:]), -1 / 80, rtol=1e-3)


@pytest.mark.parametrize("name", ["constant", "schedule_free"])
def test_a_constant_rate_stays_where_it_rose_to(name):
    rates = np.array([SCHEDULES[name](2.0, 100, warmup=0.1)(s) for s in range(300)])
    assert (np.diff(rates[:11]) > 0).all()
    assert (rates[10:] == 2).all()


# Optimisers, against their papers' formulas on one weight matrix and one vector


PARAMS = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}
GRADS = [
    {"kernel": jnp.array([[0.3, 0.1]]), "bias": jnp.array([-0.2])},
    {"kernel": jnp.array([[-0.2, 0.4]]), "bias": jnp.array([0.1])},
]


def walk(tx, params=PARAMS):
    state = tx.init(params)
    for grads in GRADS:
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_sgd_is_nesterov_s_with_decay_of_matrices_alone():
    found, _ = walk(sgd(0.1, weight_decay=0.01, clip=1e9))
    for name, decay in (("kernel", 0.01), ("bias", 0.0)):
        weight, trace = PARAMS[name], 0.0
        for grads in GRADS:
            grad = grads[name] + decay * weight
            trace = grad + 0.9 * trace
            weight = weight - 0.1 * (grad + 0.9 * trace)
        np.testing.assert_allclose(found[name], weight, rtol=1e-6)


def test_lion_steps_by_signs_with_decay_of_matrices_alone():
    found, _ = walk(lion(0.01, weight_decay=0.5, clip=1e9))
    for name, decay in (("kernel", 0.5), ("bias", 0.0)):
        weight, mean = PARAMS[name], 0.0
        for grads in GRADS:
            sign = jnp.sign(0.9 * mean + 0.1 * grads[name])
            weight = weight - 0.01 * (sign + decay * weight)
            mean = 0.99 * mean + 0.01 * grads[name]
        np.testing.assert_allclose(found[name], weight, rtol=1e-6)


def test_schedule_free_adamw_is_evaluated_at_the_mean_of_its_steps():
    """Algorithm 1 of the paper: y between z and x, x the running mean of z."""
    params, state = walk(free_adamw(0.1, weight_decay=0.5, clip=1e9))
    for name, decay in (("kernel", 0.5), ("bias", 0.0)):
        x = z = y = PARAMS[name]
        second = 0.0
        for t, grads in enumerate(GRADS, 1):
            second = 0.999 * second + 0.001 * grads[name] ** 2
            scaled = grads[name] / (jnp.sqrt(second / (1 - 0.999**t)) + 1e-8)
            z = z - 0.1 * (scaled + decay * y)
            x = x + (z - x) / t
            y = 0.1 * z + 0.9 * x
        np.testing.assert_allclose(params[name], y, rtol=1e-5)
        found = evaluation_weights(state, params)[name]
        np.testing.assert_allclose(found, x, rtol=1e-5)


def test_gradients_are_clipped_before_any_optimizer():
    for name, make in OPTIMIZERS.items():
        one, _ = walk(make(0.1, clip=1e-3))
        other, _ = walk(make(0.1, clip=1e9))
        if name == "sgd":
            assert not np.allclose(one["kernel"], other["kernel"])
        state = make(0.1).init(PARAMS)
        wild = jax.tree.map(lambda g: 1e30 * g, GRADS[0])
        updates, _ = make(0.1).update(wild, state, PARAMS)
        assert all(np.isfinite(u).all() for u in jax.tree.leaves(updates))


COURSES = [
    *((name, "cosine") for name in OPTIMIZERS),
    ("adamw", "one_cycle"),
    ("adamw", "constant"),
    ("adamw", "schedule_free"),
    ("sgd", "schedule_free"),
]


@pytest.mark.parametrize(("optimizer", "schedule"), COURSES)
def test_every_optimizer_learns_at_its_own_rate(optimizer, schedule):
    """What is evaluated learns: the average of weights, or the schedule-free one."""
    rate, decay = RATES[optimizer]
    recipe = Recipe(
        optimizer=optimizer, schedule=schedule, learning_rate=rate, weight_decay=decay
    )
    tx, _ = make_optimizer(recipe, 60)
    graphdef, state, step = build(blocks(), tx)
    for index in range(60):
        state, _ = step(state, *batch(32, seed=index))
    images, labels, *_ = batch(64, seed=99)
    logits = steps.make_predict(graphdef, **VIEW)(*steps.eval_params(state), images)
    assert (np.asarray(logits).argmax(-1) == labels).mean() > 0.9


def test_a_schedule_free_run_keeps_the_optimizer_s_own_average():
    state, _ = stepped(Linear(), count=3, tx=free_adamw(0.1))
    own = evaluation_weights(state.opt, state.params)
    close(steps.eval_params(state)[0], own, rtol=1e-6)
    assert digest(own) != digest(state.params)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": "sdg"}, "one of muon, adamw, sgd, lion; came 'sdg'"),
        ({"schedule": "step"}, "one of cosine, one_cycle, constant, schedule_free"),
        ({"schedule": "schedule_free"}, "adamw or sgd; came optimizer=muon"),
    ],
)
def test_an_unknown_optimizer_or_pair_is_refused(change, said):
    with pytest.raises(UsageError, match=said):
        make_optimizer(dataclasses.replace(Recipe(), **change), TOTAL)


# Sharpness-aware steps
