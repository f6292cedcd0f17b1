"""Budgets: which changes of an image are allowed, and the steepest of them."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from data_contracts.errors import UsageError
from models.attacks.settings import NORMS

Budget = float | jax.Array
TINY = 1e-12


def keys_of(key: jax.Array, places: jax.Array) -> jax.Array:
    """Return a key for each of `places` (n,), whatever the batch that it is in."""
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(places)


def folded(keys: jax.Array, step: jax.Array | int) -> jax.Array:
    """Return other keys (n,), those of a step."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, step)


def check_norm(norm: str) -> None:
    """Raise UsageError unless `norm` is known."""
    if norm not in NORMS:
        raise UsageError(
            f"An attack's norm is one of {', '.join(NORMS)}; came {norm!r}. Pick one."
        )


def lengths(changes: jax.Array) -> jax.Array:
    """Return the Euclidean length of each change, (n 1 1 1)."""
    return jnp.sqrt(jnp.square(changes).sum((1, 2, 3), keepdims=True))


def steepest(slopes: jax.Array, norm: str) -> jax.Array:
    """Return the change of size 1 along which each image's loss rises fastest."""
    if norm == "linf":
        return jnp.sign(slopes)
    return slopes / jnp.maximum(lengths(slopes), TINY)


def within(pixels: jax.Array, images: jax.Array, eps: Budget, norm: str) -> jax.Array:
    """Return the allowed images nearest to `pixels`.

    Clipping to 0..1 comes last: it moves every pixel towards its original.
    """
    change = pixels - images
    if norm == "linf":
        change = jnp.clip(change, -eps, eps)
    else:
        change *= jnp.minimum(1, eps / jnp.maximum(lengths(change), TINY))
    return jnp.clip(images + change, 0, 1)


def anywhere(
    images: jax.Array, eps: Budget, norm: str, keys: jax.Array, *, edge: bool = False
) -> jax.Array:
    """Return an image drawn evenly from each budget, or from its edge."""
    shape = images.shape[1:]

    def box(key: jax.Array) -> jax.Array:
        change = jax.random.uniform(key, shape, minval=-1, maxval=1)
        return change / jnp.maximum(jnp.abs(change).max(), TINY) if edge else change

    def ball(key: jax.Array) -> jax.Array:
        direction, radius = jax.random.split(key)
        change = jax.random.normal(direction, shape)
        change /= jnp.maximum(jnp.sqrt(jnp.square(change).sum()), TINY)
        far = jax.random.uniform(radius) ** (1 / math.prod(shape))
        return change if edge else change * far

    changes = jax.vmap(box if norm == "linf" else ball)(keys)
    return within(images + eps * changes, images, eps, norm)
