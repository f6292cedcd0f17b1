"""Passes over the pixels of a batch: kept apart, and in cache, on a CPU.

XLA's CPU compiler fuses a gather into whatever uses it and then computes it again for
each use, element by element; on large arrays the pages of fresh memory cost as much.
Measured on one core, warping to 224 px: 2,470 us an image fused, 240 us in passes of
50,000 pixels each. Accelerators want neither, and get neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

CACHED = 1 << 16  # pixels of a pass whose planes stay in a core's own cache


def apart(function: Callable[..., Any], *inputs: Any) -> Any:
    """Return `function(*inputs)`, not fused with what uses it.

    Args:
        function: Of arrays to arrays.
        inputs: Arrays; the first is of floats.
    """
    if not _on_cpu():
        return function(*inputs)
    # A branch is computed by itself. Only a NaN differs from itself, which the compiler
    # cannot rule out.
    probe = jnp.ravel(jax.tree.leaves(inputs)[0])[0]
    like = jax.eval_shape(function, *inputs)
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    return jax.lax.cond(probe == probe, function, lambda *_: none, *inputs)


def where_needed(
    needed: jax.Array,
    function: Callable[..., jax.Array],
    planes: jax.Array,
    *rest: Any,
) -> jax.Array:
    """Return `function(planes, *rest)`, or `planes` where no image needs it.

    Args:
        needed: Whether each image does, (n,).
        function: Leaves the images that do not need it as they are.
        planes: Pixels.
        rest: What else it takes.
    """
    if not _on_cpu():
        return function(planes, *rest)
    # Of large images a chunk holds one, so that a chance of a half is half the cost.
    return jax.lax.cond(needed.any(), function, lambda same, *_: same, planes, *rest)


def by_chunk(function: Callable[[Any], jax.Array], batch: Any, *, each: int) -> Any:
    """Return `function(batch)`, some images at a time on a CPU.

    Args:
        function: Takes a tree of arrays (n, ...), gives an array (n, ...).
        batch: Tree of arrays (n, ...).
        each: Pixels of one image.
    """
    n = len(jax.tree.leaves(batch)[0])
    most = max(1, CACHED // max(each, 1))
    if not _on_cpu() or n <= most:
        return function(batch)
    step = max(k for k in range(1, most + 1) if n % k == 0)
    cut = jax.tree.map(lambda a: a.reshape(n // step, step, *a.shape[1:]), batch)
    done = jax.lax.map(function, cut)
    return done.reshape(n, *done.shape[2:])


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
