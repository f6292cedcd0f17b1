"""Train a linear head anew on embeddings, every class alike."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Weights = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class HeadRecipe:
    """How a head is trained; figures chosen on validation, see docs/data-quality.md.

    Attributes:
        steps: Steps of gradient descent.
        batch_size: Embeddings in a step, drawn class by class.
        learning_rate: Peak; falls to 0 as a half cosine.
        weight_decay: Of AdamW.
    """

    steps: int = 1_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.1


@dataclasses.dataclass(frozen=True)
class Pool:
    """Embeddings to draw from, those of a class side by side.

    Attributes:
        embeddings: float32 (n d).
        labels: Class of each, ascending, (n,).
        weights: Of each one's loss, float32 (n,).
        partners: Rows (n k) to blend each one with; None draws them as they are.
    """

    embeddings: Floats
    labels: Ints
    weights: Floats
    partners: Ints | None = None

    @classmethod
    def of(
        cls,
        embeddings: Floats,
        labels: Ints,
        *,
        weights: Floats | None = None,
        neighbours: int = 0,
    ) -> Pool:
        """Order embeddings by class, and find same-class neighbours to blend with."""
        if weights is None:
            weights = np.ones(len(labels), np.float32)
        order = np.argsort(labels, kind="stable")
        pool = cls(embeddings[order], labels[order], weights[order])
        if not neighbours:
            return pool
        partners = same_class_neighbours(pool.embeddings, pool.labels, k=neighbours)
        return dataclasses.replace(pool, partners=partners)


def same_class_neighbours(embeddings: Floats, labels: Ints, *, k: int) -> Ints:
    """Return `k` nearest rows (n k) of the same class by Euclidean distance.

    An image that is alone in its class is its own neighbour; one with fewer than `k`
    others has some of them repeated.

    Args:
        embeddings: float32 (n d), those of a class side by side.
        labels: Ascending (n,).
        k: Neighbours of each.
    """
    out = np.empty((len(labels), k), np.int64)
    _, starts, sizes = np.unique(labels, return_index=True, return_counts=True)
    for start, size in zip(starts, sizes, strict=True):
        own = embeddings[start : start + size]
        most = min(k, size - 1)
        if not most:
            out[start] = start
            continue
        square = np.vecdot(own, own)
        for first in range(0, size, 1024):
            block = slice(first, min(first + 1024, size))
            far = square - 2 * own[block] @ own.T
            far[np.arange(len(far)), np.arange(*block.indices(size))] = np.inf
            near = np.argpartition(far, most - 1, axis=1)[:, :most]
            rows = np.arange(start + block.start, start + block.stop)
            out[rows] = start + np.resize(near.T, (k, len(near))).T
    return out


def train_head(
    pool: Pool,
    start: tuple[Floats, Floats],
    *,
    recipe: HeadRecipe,
    seed: int,
    members: int = 1,
) -> tuple[Floats, Floats]:
    """Return the kernel (d k) and bias (k,) of a head trained on balanced batches.

    Classifier re-training: Kang et al. 2020, arXiv 1910.09217, section 4.1. With
    partners, each embedding is drawn from the line to one of them (SMOTE: Chawla et
    al. 2002, doi 10.1613/jair.953). Several `members` each see a balanced subset only,
    as in EasyEnsemble (Liu et al. 2009, doi 10.1109/TSMCB.2008.2007853); the mean of
    linear heads gives the mean of their logits.

    Args:
        pool: What to learn from.
        start: Kernel and bias to start from.
        recipe: How to train.
        seed: Start of all draws.
        members: Heads to train and average.
    """
    classes, first, size = np.unique(pool.labels, return_index=True, return_counts=True)
    subset = max(size.min(), LEAST_SUBSET) if members > 1 else None
    tables = _Tables(
        jnp.asarray(pool.embeddings),
        jnp.asarray(pool.weights),
        jnp.asarray(classes),
        jnp.asarray(first),
        jnp.asarray(size),
        None if pool.partners is None else jnp.asarray(pool.partners),
    )
    keys = jax.random.split(jax.random.key(seed), members)
    begin = jnp.asarray(start[0]), jnp.asarray(start[1])
    kernel, bias = jax.vmap(
        lambda key: _train_one(tables, begin, key, recipe=recipe, subset=subset)
    )(keys)
    return np.asarray(kernel.mean(0)), np.asarray(bias.mean(0))


# Images of each class that a member of an ensemble sees at least, if there are as many.
LEAST_SUBSET = 20


class _Tables(NamedTuple):
    """A pool on the device: rows of class c are first[c] to first[c] + size[c]."""

    embeddings: jax.Array
    weights: jax.Array
    classes: jax.Array
    first: jax.Array
    size: jax.Array
    partners: jax.Array | None


def _train_one(
    tables: _Tables,
    start: Weights,
    key: jax.Array,
    *,
    recipe: HeadRecipe,
    subset: int | None,
) -> Weights:
    rate = optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps)
    tx = optax.adamw(rate, weight_decay=recipe.weight_decay)
    own, draws = jax.random.split(key)
    # A member's subset of a class is a span of it, from a place of its own.
    offset = jax.random.uniform(own, (len(tables.classes),))

    def step(carry: tuple[Weights, optax.OptState], key: jax.Array) -> tuple:
        weights, state = carry
        x, y, share = _draw(
            tables, key, recipe.batch_size, subset=subset, offset=offset
        )

        def loss(weights: Weights) -> jax.Array:
            logits = x @ weights[0] + weights[1]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return (losses * share).sum()

        updates, state = tx.update(jax.grad(loss)(weights), state, weights)
        return (optax.apply_updates(weights, updates), state), None

    keys = jax.random.split(draws, recipe.steps)
    (weights, _), _ = jax.lax.scan(step, (start, tx.init(start)), keys)
    return weights


def _draw(
    tables: _Tables,
    key: jax.Array,
    count: int,
    *,
    subset: int | None,
    offset: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draw `count` embeddings, every class as likely, with their share of the loss."""
    embeddings, weights, classes, first, size, partners = tables
    one, two, three, four = jax.random.split(key, 4)
    drawn = jax.random.randint(one, (count,), 0, len(classes))
    most = size if subset is None else jnp.minimum(size, subset)
    place = jax.random.randint(two, (count,), 0, most[drawn])
    if subset is not None:
        place = (place + (offset[drawn] * size[drawn]).astype(int)) % size[drawn]
    rows = first[drawn] + place
    x = embeddings[rows]
    if partners is not None:
        which = jax.random.randint(three, (count,), 0, partners.shape[1])
        other = embeddings[partners[rows, which]]
        x = x + jax.random.uniform(four, (count, 1)) * (other - x)
    weight = weights[rows]
    return x, classes[drawn], weight / jnp.maximum(weight.sum(), 1e-12)
