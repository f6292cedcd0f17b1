"""Exact nearest neighbours by cosine, block by block."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# Similarities held at once, 64 MB of float32; and columns whose best stands for them.
HELD = 1 << 24
COLUMNS = 32
APART = -2.0
# Power of its deviation that an axis is divided by; measured in docs/data-quality.md.
WHITENING = 0.75


class Whitening(NamedTuple):
    """Mean (d,) and axes (d, d) that embeddings are turned to."""

    mean: Floats
    axes: Floats

    def __call__(self, x: Floats) -> Floats:
        """Return `x` (n, d) along the axes."""
        return ((x - self.mean) @ self.axes).astype(np.float32)


def partial_whitening(pool: Floats, *, power: float = WHITENING) -> Whitening:
    """Return the axes of `pool`, less spread where it spreads.

    Cosines then hear more than the few strongest axes, without the last ones' noise.

    Args:
        pool: Embeddings (n, d).
        power: Of the deviation that an axis is divided by; 0 leaves all as they are.
    """
    d = pool.shape[1]
    if len(pool) < 2:  # nothing is known of how they spread
        return Whitening(np.zeros(d, np.float32), np.eye(d, dtype=np.float32))
    mean = pool.mean(0)
    spread = np.atleast_2d(np.cov((pool - mean).T)).astype(np.float64)
    values, axes = np.linalg.eigh(spread)
    values = np.maximum(values, 1e-9 * max(float(values[-1]), 1e-12))
    return Whitening(mean, (axes / values ** (power / 2)).astype(np.float32))


def nearest(
    queries: Floats, pool: Floats, *, apart: tuple[Ints, Ints], k: int
) -> tuple[Ints, Floats]:
    """Return the `k` rows of `pool` most like each query, and their cosines.

    Args:
        queries: Vectors (n, d).
        pool: Vectors (m, d), m at least k.
        apart: Group of each query (n,) and of each pool row (m,); rows of one group
            are not neighbours. Where too few others are left, the cosine is -2.
        k: How many.

    Returns:
        Positions in `pool` (n, k) and cosines (n, k), in no order.
    """
    m = len(pool)
    wide = -(-m // COLUMNS) * COLUMNS
    kept = _unit(np.pad(pool, ((0, wide - m), (0, 0))))
    own = np.pad(_codes(apart[1]), (0, wide - m), constant_values=-1)
    table, groups = jnp.asarray(kept), jnp.asarray(own)
    block = max(8, min(HELD // wide, len(queries)))
    index = np.empty((len(queries), k), np.int64)
    cosine = np.empty((len(queries), k), np.float32)
    unit, codes = _unit(queries), _codes(apart[0])
    for start in range(0, len(queries), block):
        stop = min(start + block, len(queries))
        rows = np.minimum(np.arange(start, start + block), stop - 1)
        found = _block(unit[rows], codes[rows], table, groups, k)
        index[start:stop], cosine[start:stop] = (
            np.asarray(part)[: stop - start] for part in found
        )
    return np.minimum(index, m - 1), cosine  # what fills the last columns is nobody


def _codes(groups: Ints) -> NDArray[np.int32]:
    return groups.astype(np.int32)


def _unit(x: Floats) -> Floats:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return (x / np.maximum(norm, 1e-12)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=4)
def _block(
    queries: jax.Array, codes: jax.Array, pool: jax.Array, groups: jax.Array, k: int
) -> Any:
    near = queries @ pool.T
    other = (codes[:, None] != groups) & (groups >= 0)
    near = jnp.where(other, near, APART)
    # The k best lie in the k column sets with the best maxima: far less to sort.
    sets = near.reshape(len(near), -1, COLUMNS)
    if sets.shape[1] > k:
        _, best = jax.lax.top_k(sets.max(-1), k)
        few = jnp.take_along_axis(sets, best[:, :, None], 1).reshape(len(near), -1)
        columns = (best[:, :, None] * COLUMNS + jnp.arange(COLUMNS)).reshape(
            len(near), -1
        )
    else:
        few, columns = near, jnp.broadcast_to(jnp.arange(near.shape[1]), near.shape)
    cosine, place = jax.lax.top_k(few, k)
    return jnp.take_along_axis(columns, place, 1), cosine
