"""A linear head on embeddings, fitted once per fold so that no row judges itself."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# Logits of all heads held at once, 32 MB of float32.
HELD = 1 << 23


def held_out_logits(
    x: Floats,
    labels: NDArray[Any],
    fold: NDArray[Any],
    *,
    num_classes: int,
    l2: float = 1.0,
    steps: int = 15,
) -> Floats:
    """Return logits (n, k) of rows by heads that were not fitted on them.

    Multinomial logistic regression on standardised columns. A row of fold f is judged
    by the head fitted on all other folds; a row of fold -1 is fitted by none and judged
    by their mean. All heads take the same accelerated steps at once, preconditioned by
    the bound on their Hessians (Boehning 1992), in which no rate is left to choose.

    Args:
        x: Embeddings (n, d).
        labels: Classes (n,); those of fold -1 are not looked at.
        fold: Fold of each row (n,), from 0; -1 is held out of all.
        num_classes: How many classes, k.
        l2: Weight of half the squared norm against the mean loss; a strong one, since
            some labels are wrong (measured in docs/data-quality.md).
        steps: Steps of each head.
    """
    folds = int(fold.max()) + 1
    n, seen = len(x), x[fold >= 0]
    mean, scale = seen.mean(0), np.maximum(seen.std(0), 1e-6)
    z = np.concatenate([(x - mean) / scale, np.ones((n, 1))], 1, dtype=np.float32)
    blocks = _blocks(z, labels, fold, held=HELD // (folds * num_classes))
    return np.asarray(_fit_and_judge(*blocks, folds, num_classes, l2, steps))[:n]


def _blocks(z: Floats, labels: Any, fold: Any, *, held: int) -> tuple[jax.Array, ...]:
    """Cut rows into blocks of one size; what fills the last belongs to no fold."""
    n = len(z)
    count = -(-n // max(held, 1))
    rows = -(-n // count)
    pad = rows * count - n
    z = np.pad(z, ((0, pad), (0, 0))).reshape(count, rows, -1)
    labels = np.pad(labels.astype(np.int32), (0, pad)).reshape(count, rows)
    fold = np.pad(fold.astype(np.int32), (0, pad), constant_values=-1)
    return jnp.asarray(z), jnp.asarray(labels), jnp.asarray(fold.reshape(count, rows))


@functools.partial(jax.jit, static_argnums=(3, 4, 6))
def _fit_and_judge(
    z: jax.Array,
    labels: jax.Array,
    fold: jax.Array,
    folds: int,
    k: int,
    l2: float,
    steps: int,
) -> jax.Array:
    d = z.shape[-1]
    size, moments = _moments(z, fold, folds)
    bound = moments / 2 + l2 * jnp.eye(d)
    inverse = jnp.linalg.inv(bound)

    def gradient(w: jax.Array) -> jax.Array:
        def block(total: jax.Array, part: Any) -> tuple[jax.Array, None]:
            rows, own, at = part
            logits = _by_head(rows, w)
            error = jax.nn.softmax(logits) - jax.nn.one_hot(own, k)[:, None]
            error = error * _fitted_by(at, folds)[:, :, None]
            return total + _by_row(rows, error), None

        total, _ = jax.lax.scan(block, jnp.zeros_like(w), (z, labels, fold))
        return total / size[:, None, None] + l2 * w

    def step(state: Any, _: Any) -> tuple[Any, None]:
        w, ahead, t = state
        new = ahead - inverse @ gradient(ahead)
        later = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        return (new, new + (t - 1) / later * (new - w), later), None

    start = jnp.zeros((folds, d, k))
    (w, _, _), _ = jax.lax.scan(step, (start, start, jnp.ones(())), None, steps)

    def judged(part: Any) -> jax.Array:
        rows, at = part
        logits = _by_head(rows, w)
        share = 1 - _fitted_by(at, folds)
        return (logits * (share / share.sum(1, keepdims=True))[:, :, None]).sum(1)

    return jax.lax.map(judged, (z, fold)).reshape(-1, k)


def _by_head(rows: jax.Array, w: jax.Array) -> jax.Array:
    """Return the logits (n, f, k) of rows (n, d) by each head (f, d, k)."""
    folds, d, k = w.shape
    return (rows @ w.transpose(1, 0, 2).reshape(d, -1)).reshape(-1, folds, k)


def _by_row(rows: jax.Array, error: jax.Array) -> jax.Array:
    """Return the gradients (f, d, k) of errors (n, f, k) on rows (n, d)."""
    _, folds, k = error.shape
    flat = rows.T @ error.reshape(len(rows), -1)
    return flat.reshape(-1, folds, k).transpose(1, 0, 2)


def _fitted_by(fold: jax.Array, folds: int) -> jax.Array:
    """Return 1 where a head (f) is fitted on a row (n), else 0, (n, f)."""
    return ((fold[:, None] != jnp.arange(folds)) & (fold[:, None] >= 0)).astype("f4")


def _moments(z: jax.Array, fold: jax.Array, folds: int) -> tuple[jax.Array, jax.Array]:
    """Return how many rows each head is fitted on, and their second moments."""
    d = z.shape[-1]

    def products(total: jax.Array, part: Any) -> tuple[jax.Array, None]:
        rows, at = part
        own = jax.nn.one_hot(at, folds, axis=0)
        return total + jnp.einsum("fn,nd,ne->fde", own, rows, rows), None

    of_fold, _ = jax.lax.scan(products, jnp.zeros((folds, d, d)), (z, fold))
    size = jax.nn.one_hot(fold.reshape(-1), folds).sum(0)
    others = size.sum() - size
    return others, (of_fold.sum(0) - of_fold) / others[:, None, None]
