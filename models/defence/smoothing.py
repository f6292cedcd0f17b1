"""Count answers under Gaussian noise (Cohen et al. 2019, arXiv 1902.02918)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# (weights, pixels) to logits (n k).
Ask = Callable[[Any, jax.Array], jax.Array]


def make_counts(ask: Ask, *, draws: int) -> Callable[..., jax.Array]:
    """Return counts(weights, sigma, part, pixels, keys): answers by class (n k).

    Noise is not clipped to 0..1: the guarantee is about plain Gaussian noise. It is
    drawn and added in float32, and a sum of floats is not exactly Gaussian: an enemy of
    the certificate itself could use that (arXiv 2207.07519); images from files, on 256
    levels, hardly can. Answers that are no numbers are counted in no class.

    Args:
        ask: The network.
        draws: Of each image, all at a time; `part` tells one lot of draws from others.
    """

    def counts(
        weights: Any,
        sigma: jax.Array,
        part: jax.Array,
        pixels: jax.Array,
        keys: jax.Array,
    ) -> jax.Array:
        shape = (draws, *pixels.shape[1:])

        def noise_of(key: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, part), shape)

        noisy = pixels[:, None] + sigma * jax.vmap(noise_of)(keys)
        logits = ask(weights, noisy.reshape(-1, *pixels.shape[1:]))
        finite = jnp.isfinite(logits).all(-1)
        answers = jnp.where(finite, logits.argmax(-1), -1)
        hits = jax.nn.one_hot(answers, logits.shape[-1], dtype=jnp.int32)
        return hits.reshape(len(pixels), draws, -1).sum(1)

    return counts
