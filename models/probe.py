"""A linear head on embeddings, fitted once per fold so that no row judges itself."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# Rows whose logits are held at once.
BLOCK = 8_192


def held_out_logits(
    x: Floats,
    labels: NDArray[Any],
    fold: NDArray[Any],
    *,
    num_classes: int,
    l2: float = 0.3,
    steps: int = 40,
) -> Floats:
    """Return logits (n, k) of rows by heads that were not fitted on them.

    Multinomial logistic regression on standardised columns. A row of fold f is judged
    by the head fitted on all other folds; a row of fold -1 is fitted by none and judged
    by their mean. Each head is a fixed number of accelerated steps, preconditioned by
    the bound on its Hessian (Boehning 1992), in which no rate is left to choose.

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
    x, labels, fold, n = _blocks(x, labels, fold)
    out = np.zeros((n, num_classes), np.float32)
    for held in range(folds):
        weights, offset = _fit(
            x, labels, (fold >= 0) & (fold != held), num_classes, l2, steps
        )
        logits = np.asarray(_apply(x, weights, offset))[:n]
        flat = np.asarray(fold).reshape(-1)[:n]
        out[flat == held] = logits[flat == held]
        out[flat == -1] += logits[flat == -1] / folds
    return out


def _blocks(x: Floats, labels: Any, fold: Any) -> Any:
    """Cut rows into blocks of one size; what fills the last belongs to no fold."""
    n = len(x)
    rows = -(-n // -(-n // BLOCK))
    count = -(-n // rows)
    pad = rows * count - n
    x = np.pad(x, ((0, pad), (0, 0))).reshape(count, rows, -1)
    labels = np.pad(labels.astype(np.int32), (0, pad)).reshape(count, rows)
    fold = np.pad(fold.astype(np.int32), (0, pad), constant_values=-1)
    return (
        jnp.asarray(x),
        jnp.asarray(labels),
        jnp.asarray(fold.reshape(count, rows)),
        n,
    )


@jax.jit
def _apply(x: jax.Array, weights: jax.Array, offset: jax.Array) -> jax.Array:
    logits = jax.lax.map(lambda block: block @ weights + offset, x)
    return logits.reshape(-1, weights.shape[1])


@functools.partial(jax.jit, static_argnums=(3, 5))
def _fit(
    x: jax.Array, labels: jax.Array, used: jax.Array, k: int, l2: float, steps: int
) -> tuple[jax.Array, jax.Array]:
    mean, scale, hessian, m = _moments(x, used)
    d = x.shape[-1]
    solve = jax.scipy.linalg.cho_factor(hessian / 2 + l2 * jnp.eye(d + 1))

    def gradient(w: jax.Array) -> jax.Array:
        def block(total: jax.Array, part: Any) -> tuple[jax.Array, None]:
            rows, own, on = part
            z = jnp.concatenate([(rows - mean) / scale, jnp.ones((len(rows), 1))], 1)
            error = jax.nn.softmax(z @ w) - jax.nn.one_hot(own, k)
            return total + z.T @ (error * on[:, None]), None

        total, _ = jax.lax.scan(block, jnp.zeros_like(w), (x, labels, used))
        return total / m + l2 * w

    def step(state: Any, _: Any) -> tuple[Any, None]:
        w, ahead, t = state
        new = ahead - jax.scipy.linalg.cho_solve(solve, gradient(ahead))
        later = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        return (new, new + (t - 1) / later * (new - w), later), None

    start = jnp.zeros((d + 1, k))
    (w, _, _), _ = jax.lax.scan(step, (start, start, jnp.ones(())), None, steps)
    weights = w[:-1] / scale[:, None]
    return weights, w[-1] - mean @ weights


def _moments(x: jax.Array, used: jax.Array) -> Any:
    """Return mean, deviation and second moments of the used rows, bias included."""
    m = used.sum()

    def sums(total: Any, part: Any) -> tuple[Any, None]:
        rows, on = part
        return total + (rows * on[:, None]).sum(0), None

    mean = jax.lax.scan(sums, jnp.zeros(x.shape[-1]), (x, used))[0] / m

    def products(total: Any, part: Any) -> tuple[Any, None]:
        rows, on = part
        z = (rows - mean) * on[:, None]
        return total + z.T @ z, None

    d = x.shape[-1]
    cov = jax.lax.scan(products, jnp.zeros((d, d)), (x, used))[0] / m
    scale = jnp.sqrt(jnp.maximum(jnp.diag(cov), 1e-12))
    moments = jnp.zeros((d + 1, d + 1)).at[:d, :d].set(cov / scale / scale[:, None])
    return mean, scale, moments.at[d, d].set(1.0), m
