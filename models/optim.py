"""Optimisers and their learning-rate schedule."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers


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


def muon(
    learning_rate: float | optax.Schedule,
    *,
    weight_decay: float = 0.1,
    clip: float = 1.0,
    iterations: int = 3,
    speed: float = 5.0,
) -> optax.GradientTransformation:
    """Build Muon (Jordan et al. 2024, arXiv 2502.16982) on clipped gradients.

    The convolutions after the stem take orthogonal steps and decay; the stem, the
    head, norms and biases take Adam's steps.

    Args:
        learning_rate: Adam's, or a schedule of it.
        weight_decay: Decay of the convolutions.
        clip: Largest global norm of the gradients.
        iterations: Newton-Schulz iterations. Every device does them all: at 128 images
            of 48 px on two cores, 5 took a quarter of the step.
        speed: Learning rate of the orthogonal steps, as a multiple of Adam's.
    """

    def faster(step: Any) -> Any:
        rate = learning_rate(step) if callable(learning_rate) else learning_rate
        return speed * rate

    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.contrib.muon(
            faster,
            ns_steps=iterations,
            weight_decay=weight_decay,
            adam_learning_rate=learning_rate,
            muon_weight_dimension_numbers=inner_convolutions,
        ),
    )


OPTIMIZERS = {"adamw": adamw, "muon": muon}


def inner_convolutions(params: Any) -> Any:
    """Give the axes that Muon contracts in each leaf; None leaves it to Adam."""
    axes = MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)

    def of(leaf: Any) -> MuonDimensionNumbers | None:
        return axes if jnp.ndim(leaf) == 4 and jnp.shape(leaf)[2] > 3 else None

    return jax.tree.map(of, params)


def decayed_weights(params: Any) -> Any:
    """Mark the leaves of `params` that weight decay applies to."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)
