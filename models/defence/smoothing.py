"""Count a network's answers under Gaussian noise (Cohen et al. 2019, arXiv 1902.02918)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# (weights, pixels) to logits (n k).
Ask = Callable[[Any, jax.Array], jax.Array]


def make_counts(ask: Ask) -> Callable[..., jax.Array]:
    """Compile counts(weights, pixels, keys, sigma, draws): answers by class (n k).

    Noise is not clipped to 0..1: the guarantee is about plain Gaussian noise. It is
    drawn and added in float32, and a sum of floats is not exactly Gaussian: an enemy of
    the certificate itself could use that (arXiv 2207.07519); images from files, on 256
    levels, cannot. Answers that are no numbers are counted in no class.
    """

    @functools.partial(jax.jit, static_argnames="draws")
    def some(
        weights: Any,
        pixels: jax.Array,
        keys: jax.Array,
        sigma: jax.Array,
        *,
        draws: int,
    ) -> jax.Array:
        shape = (draws, *pixels.shape[1:])
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        noisy = pixels[:, None] + sigma * noise
        logits = ask(weights, noisy.reshape(-1, *pixels.shape[1:]))
        finite = jnp.isfinite(logits).all(-1)
        answers = jnp.where(finite, logits.argmax(-1), -1)
        hits = jax.nn.one_hot(answers, logits.shape[-1], dtype=jnp.int32)
        return hits.reshape(len(pixels), draws, -1).sum(1)

    def counts(
        weights: Any,
        pixels: jax.Array,
        keys: jax.Array,
        *,
        sigma: float,
        draws: int,
        together: int,
    ) -> jax.Array:
        """Return answers by class, `together` draws of each image at a time.

        Draws are rounded up to whole parts, so that one shape is compiled.
        """
        total = jnp.zeros((), jnp.int32)
        for part in range(-(-draws // together)):
            own = jax.vmap(lambda key, part=part: jax.random.fold_in(key, part))(keys)
            total = total + some(
                weights, pixels, own, jnp.float32(sigma), draws=together
            )
        return total

    return counts
