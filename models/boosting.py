"""Ensembles of heads on embeddings: bagged linear ones, and boosted hidden units."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.heads import Floats, HeadRecipe, Ints
from models.recipe import STAGES, UNITS


@dataclasses.dataclass(frozen=True)
class Lessons:
    """Embeddings and what to learn of them.

    Attributes:
        embeddings: float32 (n d).
        labels: Class of each (n,).
        groups: Images of one group are drawn together (n,).
        weights: How much each counts (n,).
    """

    embeddings: Floats
    labels: Ints
    groups: Ints
    weights: Floats


def bootstrap(lessons: Lessons, *, members: int, seed: int) -> Floats:
    """Return how much each row counts (members n) where groups are drawn with return.

    Args:
        lessons: What to draw from.
        members: Draws.
        seed: Of the draws.
    """
    groups, member = np.unique(lessons.groups, return_inverse=True)
    rng, n = np.random.default_rng((seed, 43)), len(groups)
    counts = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(members)]
    return np.stack(counts)[:, member.ravel()].astype(np.float32) * lessons.weights


def bagged_head(
    lessons: Lessons,
    start: tuple[Floats, Floats],
    *,
    recipe: HeadRecipe,
    seed: int,
    members: int,
) -> tuple[Floats, Floats]:
    """Return the mean kernel (d k) and bias (k,) of heads on bootstrap samples.

    Bagging: Breiman 1996, doi 10.1007/BF00058655; the mean of linear heads is one
    linear head, that of their mean logits.

    Args:
        lessons: What to learn from.
        start: Kernel and bias to start from.
        recipe: How each is trained.
        seed: Start of all draws.
        members: Heads.
    """
    begin = tuple(jnp.asarray(part) for part in start)
    given = jnp.asarray(lessons.embeddings), jnp.asarray(lessons.labels)

    def one(weights: jax.Array, key: jax.Array) -> Any:
        return _descend(begin, _linear, (*given, jnp.zeros(()), weights), key, recipe)

    weights = jnp.asarray(bootstrap(lessons, members=members, seed=seed))
    keys = jax.random.split(jax.random.key(seed), members)
    kernel, bias = jax.vmap(one)(weights, keys)
    return np.asarray(kernel.mean(0)), np.asarray(bias.mean(0))


def boosted_units(
    lessons: Lessons,
    judges: Lessons,
    start: tuple[Floats, Floats],
    *,
    recipe: HeadRecipe,
    seed: int,
    rate: float = 0.3,
) -> tuple[dict[str, Floats], int]:
    """Return hidden units to put beside a linear head, and how many stages they are.

    Each stage is a small perceptron that lowers the loss of the sum so far, which
    stays as it is, on a random half of the groups; a share `rate` of it is added.
    Additive models by stages: Friedman 2001, doi 10.1214/aos/1013203451, algorithm 1;
    halves: Friedman 2002, doi 10.1016/S0167-9473(01)00065-2. The sum of perceptrons is
    one that is wider. Stages after the least loss of `judges` are left out.

    Args:
        lessons: What to learn from.
        judges: Validation embeddings; none keeps all stages.
        start: The linear head (d k), (k,), which stays.
        recipe: How each stage is trained.
        seed: Start of all draws.
        rate: Share of a stage that is added.

    Returns:
        hidden (d h), offset (h,) and out (h k), zero beyond the stages kept.
    """
    scale = np.maximum(lessons.embeddings.std(0), 1e-6)
    x, y = jnp.asarray(lessons.embeddings / scale), jnp.asarray(lessons.labels)
    total = jnp.asarray(lessons.embeddings @ start[0] + start[1])
    judged = judges.embeddings @ start[0] + start[1]
    width, classes = x.shape[1], total.shape[1]
    train = jax.jit(
        lambda begin, total, weights, key: _descend(
            begin, _perceptron, (x, y, total, weights), key, recipe
        )
    )
    groups, member = np.unique(lessons.groups, return_inverse=True)
    rng = np.random.default_rng((seed, 47))
    losses, parts = [_loss(judged, judges)], []
    for key in jax.random.split(jax.random.key(seed), STAGES):
        half = (rng.random(len(groups)) < 0.5)[member.ravel()]
        begin = (
            jnp.asarray(rng.normal(0, width**-0.5, (width, UNITS)), jnp.float32),
            jnp.zeros(UNITS),
            jnp.zeros((UNITS, classes)),
        )
        stage = train(begin, total, jnp.asarray(half * lessons.weights), key)
        total = total + rate * _perceptron(stage, x)
        part = np.asarray(stage[0]) / scale[:, None], *map(np.asarray, stage[1:])
        judged = judged + rate * np.asarray(_perceptron(part, judges.embeddings))
        losses.append(_loss(judged, judges))
        parts.append(part)
    kept = int(np.argmin(losses)) if len(judges.labels) else STAGES
    hidden, offset, out = (np.concatenate(p, axis=-1) for p in _columns(parts))
    out = out.reshape(classes, -1).T * rate
    out[kept * UNITS :] = 0
    units = {"hidden": hidden, "offset": offset, "out": out}
    return {k: np.asarray(v, np.float32) for k, v in units.items()}, kept


def _columns(parts: list[Any]) -> Any:
    hidden, offset, out = zip(*parts, strict=True)
    return hidden, offset, [kernel.T for kernel in out]


def _linear(weights: Any, x: Any) -> Any:
    return x @ weights[0] + weights[1]


def _perceptron(weights: Any, x: Any) -> Any:
    return jax.nn.relu(x @ weights[0] + weights[1]) @ weights[2]


def _loss(logits: Floats, judges: Lessons) -> float:
    if not len(judges.labels):
        return 0.0
    found = optax.softmax_cross_entropy_with_integer_labels(logits, judges.labels)
    return float(found.mean())


def _descend(
    begin: Any, answer: Any, given: Any, key: jax.Array, recipe: HeadRecipe
) -> Any:
    """Return the weights of `answer` that lower the loss of the sum with `total`.

    Args:
        begin: Weights to start from.
        answer: answer(weights, x) gives logits.
        given: Embeddings, labels, logits so far (or 0), weights of the loss.
        key: Of the batches.
        recipe: How to train.
    """
    x, y, total, weights = given
    tx = optax.adamw(
        optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps),
        weight_decay=recipe.weight_decay,
    )

    def step(carry: Any, key: jax.Array) -> Any:
        own, state = carry
        rows = jax.random.randint(key, (recipe.batch_size,), 0, len(y))
        share = weights[rows] / jnp.maximum(weights[rows].sum(), 1e-12)
        before = total[rows] if total.ndim else total

        def loss(own: Any) -> jax.Array:
            logits = before + answer(own, x[rows])
            each = optax.softmax_cross_entropy_with_integer_labels(logits, y[rows])
            return (each * share).sum()

        updates, state = tx.update(jax.grad(loss)(own), state, own)
        return (optax.apply_updates(own, updates), state), None

    keys = jax.random.split(key, recipe.steps)
    (own, _), _ = jax.lax.scan(step, (begin, tx.init(begin)), keys)
    return own
