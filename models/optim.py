"""The optimiser and its learning-rate schedule."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def warmup_cosine(
    peak: float, total_steps: int, *, warmup: float = 0.15, final: float = 0.0
) -> optax.Schedule:
    """Rise linearly to `peak`, then fall as a half cosine.

    Args:
        peak: Highest learning rate.
        total_steps: Steps from the first to the end of the fall.
        warmup: Share of the steps spent rising.
        final: Last learning rate, as a share of `peak`.
    """
    rise = max(1, round(total_steps * warmup))
    fall = max(1, total_steps - rise)
    return optax.join_schedules(
        [
            optax.linear_schedule(peak / 25, peak, rise),
            optax.cosine_decay_schedule(peak, fall, alpha=final),
        ],
        [rise],
    )


def adamw(
    learning_rate: float | optax.Schedule,
    *,
    weight_decay: float = 0.05,
    clip: float = 1.0,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """Build AdamW (arXiv 1711.05101) on gradients clipped to a global norm.

    Norm scales and biases, which are the vectors, do not decay.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(
            learning_rate, b2=b2, weight_decay=weight_decay, mask=decayed_weights
        ),
    )


def decayed_weights(params: Any) -> Any:
    """Mark the leaves of `params` that weight decay applies to."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)
