"""Gradients of a batch: taken in parts, and at the worst weights nearby."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from models.remat import late


def in_parts(
    gradient: Any, params: Any, *, stats: Any, key: Any, examples: Any, parts: int
) -> Any:
    """Return the sum of `gradient` over `parts` equal parts of the examples."""
    if parts == 1:
        return gradient(params, stats, key, examples)
    cut = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), examples)
    # In a loop, XLA's CPU backend takes 100 times as long for the gradient of a kernel;
    # in a line, the program grows with the parts.
    in_line = jax.default_backend() == "cpu"

    def add(before: Any, given: Any) -> Any:
        index, (pixels, *rest) = given
        sums, stats = before
        if in_line:  # or parts overlap, and take the memory of the whole
            pixels = late(pixels, sums)
        part = pixels, *rest
        (value, (top1, stats, logits)), grads = gradient(
            params, stats, jax.random.fold_in(key, index), part
        )
        return (jax.tree.map(jnp.add, sums, (value, top1, grads)), stats), logits

    nothing = jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    (sums, stats), logits = jax.lax.scan(
        add,
        (nothing, stats),
        (jnp.arange(parts), cut),
        unroll=in_line,
    )
    value, top1, grads = sums
    return (value, (top1, stats, logits.reshape(-1, logits.shape[-1]))), grads


def uphill(params: Any, grads: Any, radius: float) -> Any:
    """Return the weights at distance `radius` of `params`, along the gradient."""
    by = radius / jnp.maximum(optax.tree.norm(grads), 1e-12)
    return jax.tree.map(lambda weight, grad: weight + by * grad, params, grads)
