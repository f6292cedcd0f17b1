"""Losses, one value per example."""

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, smoothing: float = 0.0
) -> jax.Array:
    """Return the cross-entropy (n,) of `logits` (n c) against `labels` (n,).

    Args:
        logits: Scores before softmax.
        labels: Class ids.
        smoothing: Share of the target spread evenly over all classes (Szegedy et al.
            2016, arXiv 1512.00567, section 7).
    """
    log_probs = jax.nn.log_softmax(logits)
    hit = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    return -(1 - smoothing) * hit - smoothing * log_probs.mean(-1)
