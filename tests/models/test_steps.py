"""Training steps: the same on one device and several, repeatable, and learning."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from models import steps
from models.backbones import ResNet, Shape
from models.design import Design
from models.losses import cross_entropy
from models.objective import area_under_margin, make_objective, memory_of
from models.optim import adamw, decayed_weights, muon
from models.recipe import NONE, Augment, Loss
from models.schedules import warmup_cosine

ROOT = Path(__file__).parents[2]
VIEW = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
DEFAULTS = {
    "augment": NONE,
    "ema": 0.9,
    "objective": make_objective(smoothing=0.1),
    "seed": 0,
}
N = 8


def tiny():
    shape = Shape((4, 8), (1, 1), "half", design=Design(dropout=0.2))
    return ResNet(shape, num_classes=3, rngs=nnx.Rngs(0))


class Linear(nnx.Module):
    """A network without batch norm: an example's gradient is its own."""

    def __init__(self):
        self.head = nnx.Linear(8 * 8 * 3, 3, rngs=nnx.Rngs(0))

    def __call__(self, x, *, train, rngs=None):
        return self.head(x.reshape(len(x), -1))


def batch(n=N, seed=0):
    """Noise with one channel brighter: the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n).astype(np.int32)
    images = random.integers(0, 100, (n, 8, 8, 3)).astype(np.uint8)
    images[np.arange(n), :, :, labels] += 100
    return images, labels, np.ones(n, np.float32), np.arange(n, dtype=np.int32)


ELR = Loss(kind="early_learning")
MEMORY = memory_of(ELR, rows=N + 2, num_classes=3)


def build(model, tx=None, *, memory=None, **settings):
    tx = tx or optax.sgd(0.1)
    graphdef, state = steps.create_state(model, tx, memory=memory)
    return (
        graphdef,
        state,
        steps.make_train_step(graphdef, tx, **VIEW, **DEFAULTS | settings),
    )


def run(model, count, **settings):
    _, state, step = build(model, **settings)
    for index in range(count):
        state, metrics = step(state, *batch(seed=index))
    return state, metrics


def digest(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_two_runs_from_one_state_give_the_same_bits():
    one, again = (run(tiny(), 4, augment=Augment())[0] for _ in range(2))
    assert digest(one) == digest(again)


def test_another_seed_gives_another_run():
    one, other = (run(tiny(), 2, augment=Augment(), seed=s)[0] for s in (0, 1))
    assert digest(one.params) != digest(other.params)


def test_a_network_learns_and_its_average_predicts():
    graphdef, state, step = build(tiny(), adamw(1e-2), augment=Augment())
    losses = []
    for index in range(60):
        state, metrics = step(state, *batch(32, seed=index))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    predict = steps.make_predict(graphdef, **VIEW)
    images, labels, *_ = batch(32, seed=99)
    logits = predict(*steps.eval_params(state), images)
    assert logits.dtype == jnp.float32
    assert (logits.argmax(-1) == labels).mean() > 0.9


def test_the_loss_and_step_are_those_of_plain_gradient_descent():
    _, state, step = build(Linear())
    start = jax.device_get(state.params)
    images, labels, weights, places = batch()
    x = (images / 255.0 - np.array(VIEW["mean"])) / np.array(VIEW["std"])

    def loss(params):
        kernel, bias = params["head"]["kernel"], params["head"]["bias"]
        logits = jnp.asarray(x.reshape(N, -1), jnp.float32) @ kernel + bias
        return cross_entropy(logits, labels, smoothing=0.1).mean()

    value, grads = jax.value_and_grad(loss)(start)
    state, metrics = step(state, images, labels, weights, places)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics["grad_norm"]) == pytest.approx(
        float(optax.tree.norm(grads)), rel=1e-4
    )
    kernel = start["head"]["kernel"] - 0.1 * grads["head"]["kernel"]
    np.testing.assert_allclose(state.params["head"]["kernel"], kernel, atol=1e-6)


def test_rows_of_weight_zero_do_not_count():
    images, labels, weights, places = batch(6)
    padded = [np.concatenate([a, a[:2]]) for a in (images, labels, weights, places)]
    padded[2][6:] = 0
    _, state, step = build(Linear())
    short, metrics = step(state, images, labels, weights, places)
    _, state, step = build(Linear())
    long, padded_metrics = step(state, *padded)
    np.testing.assert_allclose(
        long.params["head"]["kernel"], short.params["head"]["kernel"], atol=1e-6
    )
    for name in metrics:
        assert float(metrics[name]) == pytest.approx(float(padded_metrics[name]), 1e-5)


def test_the_state_is_given_away():
    _, state, step = build(Linear())
    step(state, *batch())
    assert jax.tree.leaves(state.params)[0].is_deleted()


def test_the_average_follows_weights_and_statistics():
    state, _ = run(tiny(), 3)
    params, stats = steps.eval_params(state)
    assert jax.tree.structure(params) == jax.tree.structure(state.params)
    assert jax.tree.structure(stats) == jax.tree.structure(state.stats)
    assert digest(params) != digest(state.params)
    assert digest(stats) != digest(state.stats)


def test_mixing_trains_on_both_labels():
    mixed = dataclasses.replace(NONE, mixup=1.0)
    _, metrics = run(tiny(), 3, augment=mixed)
    _, plain = run(tiny(), 3)
    assert np.isfinite(float(metrics["loss"]))
    assert float(metrics["loss"]) != float(plain["loss"])


def test_smoothed_cross_entropy_is_that_of_the_smoothed_target():
    logits = jnp.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
    target = 0.9 * jnp.eye(3)[jnp.array([0, 1])] + 0.1 / 3
    np.testing.assert_allclose(
        cross_entropy(logits, jnp.array([0, 1]), smoothing=0.1),
        optax.softmax_cross_entropy(logits, target),
        rtol=1e-6,
    )


def test_the_learning_rate_rises_then_falls_to_nothing():
    rates = np.array([warmup_cosine(1.0, 100, warmup=0.1)(s) for s in range(101)])
    assert rates.argmax() == 10
    assert rates.max() == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0, abs=1e-6)
    assert (np.diff(rates[:10]) > 0).all()
    assert (np.diff(rates[11:]) < 0).all()


def test_muon_steps_are_orthogonal_for_inner_convolutions_and_adam_s_elsewhere():
    model = ResNet(Shape((8, 8), (1, 1), "half"), num_classes=3, rngs=nnx.Rngs(0))
    tx = muon(0.5, weight_decay=0, clip=1e9, iterations=5, speed=2)
    _, state = steps.create_state(model, tx)
    grads = jax.tree.map(
        lambda a: jax.random.normal(jax.random.key(a.size), a.shape), state.params
    )
    updates, _ = tx.update(grads, state.opt, state.params)
    inner = updates["blocks"][0]["first"]["conv"]["kernel"].reshape(-1, 8)
    singular = np.linalg.svd(inner, compute_uv=False)
    assert singular.min() > 0.5
    assert singular.max() < 1.5
    # Adam's first step is a sign, here with Nesterov's factor of 1.47.
    for adam in (updates["stem"]["conv"]["kernel"], updates["head"]["bias"]):
        np.testing.assert_allclose(np.abs(adam), 0.5 * 1.4737, rtol=1e-3)


def test_vectors_do_not_decay():
    _, state = steps.create_state(tiny(), optax.sgd(0.1))
    for path, decays in jax.tree_util.tree_leaves_with_path(
        decayed_weights(state.params)
    ):
        assert decays == ("kernel" in jax.tree_util.keystr(path))


def check_memory(memory, images, labels, logits):
    """Rows 0 to 6 were seen once with these answers, the others never."""
    logits, labels = np.asarray(logits)[:7], np.asarray(labels)[:7]
    own = logits[np.arange(7), labels]
    other = np.where(np.eye(3, dtype=bool)[labels], -np.inf, logits).max(1)
    aum = area_under_margin(np.asarray(memory["margin"]))
    np.testing.assert_allclose(aum[:7], own - other, atol=1e-4)
    assert np.isnan(aum[7:]).all()
    np.testing.assert_allclose(
        np.asarray(memory["targets"])[:7], 0.3 * jax.nn.softmax(logits), atol=1e-4
    )
    assert not np.asarray(memory["targets"])[7:].any()


def test_mixed_views_are_not_remembered():
    views = dataclasses.replace(NONE, mixup=1.0)
    _, state, step = build(Linear(), memory=MEMORY, augment=views)
    state, _ = step(state, *batch())
    assert not np.asarray(state.memory["margin"]).any()
    assert not np.asarray(state.memory["targets"]).any()


def test_early_learning_keeps_the_answers_from_before_the_labels_are_learnt():
    """The pull is towards what was remembered: a wrong label is learnt less."""
    images, labels, weights, places = batch(32)
    wrong = labels.copy()
    wrong[:6] = (labels[:6] + 1) % 3
    sure = {}
    for kind in ("cross_entropy", "early_learning"):
        loss = Loss(kind=kind)
        graphdef, state, step = build(
            Linear(),
            optax.sgd(0.05),
            objective=make_objective(loss),
            memory=memory_of(loss, rows=32, num_classes=3),
            decay=loss.memory,
        )
        for _ in range(150):
            state, _ = step(state, images, wrong, weights, places)
        predict = steps.make_predict(graphdef, **VIEW)
        probs = jax.nn.softmax(predict(state.params, state.stats, images))
        sure[kind] = float(probs[np.arange(6), wrong[:6]].mean())
    assert sure["early_learning"] < sure["cross_entropy"] - 0.1


SPLIT = """
import json, sys
sys.path.insert(0, {root!r})
from models import steps
jax = steps.jax
jax.config.update("jax_num_cpu_devices", 2)
from tests.models import test_steps as t
import numpy as np
mesh = steps.cpu_mesh()
images, labels, weights, places = t.batch(7)
images, labels, weights, places = (
    np.r_[a, a[:1]] for a in (images, labels, weights, places)
)
weights[7:] = 0
found = []
for where in (mesh, None):
    graphdef, state, step = t.build(t.Linear(), mesh=where, memory=t.MEMORY, decay=0.7)
    places[7:] = 99
    predict = steps.make_predict(graphdef, **t.VIEW, mesh=where)
    logits = predict(state.params, state.stats, images)
    state, metrics = step(state, images, labels, weights, places)
    t.check_memory(state.memory, images, labels, logits)
    found.append([np.asarray(state.params["head"]["kernel"]).tolist(),
        np.asarray(logits).tolist(), {{k: float(v) for k, v in metrics.items()}}])
runs = []
for _ in range(2):
    state, _ = t.run(t.tiny(), 3, augment=t.Augment(), mesh=mesh)
    runs.append(t.digest(state))
print(json.dumps([mesh.size, found, runs[0] == runs[1]]))
"""


def test_a_batch_split_over_devices_gives_the_same_step():
    # A process of its own, since the device count is fixed once JAX has started.
    environ = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    output = subprocess.run(
        [sys.executable, "-c", SPLIT.format(root=str(ROOT))],
        env=environ,
        check=True,
        capture_output=True,
        cwd=ROOT,
    ).stdout
    devices, (split, whole), repeatable = json.loads(output)
    assert devices == 2
    assert repeatable
    np.testing.assert_allclose(split[0], whole[0], atol=1e-6)
    np.testing.assert_allclose(split[1], whole[1], atol=1e-5)
    assert split[2] == pytest.approx(whole[2], rel=1e-5)
