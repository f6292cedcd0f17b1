"""Optimisers and their learning-rate schedule."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from models.recipe import Recipe


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


def optimizer_for(
    recipe: Recipe, model: Any, learning_rate: float | optax.Schedule
) -> optax.GradientTransformation:
    """Build the optimiser of a recipe; `model` is told which of its parts stand still.

    Args:
        recipe: Freezing and `layer_decay` need a network of `backbones`.
        model: The network; `frozen` is set.
        learning_rate: Peak, or a schedule.
    """
    tx = OPTIMIZERS[recipe.optimizer](
        learning_rate, weight_decay=recipe.weight_decay, clip=recipe.clip
    )
    if recipe.freeze is None and recipe.layer_decay == 1:
        return tx
    model.frozen = frozen_parts(recipe.freeze, stages=model.stages)
    return by_depth(
        tx,
        model.part_of,
        frozen=model.frozen,
        decay=recipe.layer_decay,
        parts=model.stages + 3,
    )


def frozen_parts(freeze: str | None, *, stages: int) -> int:
    """Return how many leading parts of a network stand still, the stem first.

    Args:
        freeze: None, "backbone", or the number of stages after the stem.
        stages: Of the network; the last norm comes after them, then the head.
    """
    if freeze is None:
        return 0
    return stages + 2 if freeze == "backbone" else 1 + int(freeze)


def by_depth(
    tx: optax.GradientTransformation,
    part_of: Callable[[tuple[str | int, ...]], int],
    *,
    frozen: int,
    decay: float,
    parts: int,
) -> optax.GradientTransformation:
    """Slow an optimiser down towards the stem, and leave the frozen parts alone.

    Layer-wise decay: Clark et al. 2020, arXiv 2003.10555; Bao et al. 2022,
    arXiv 2106.08254.

    Args:
        tx: The optimiser.
        part_of: Says which part, from 0, the parameter at a path belongs to.
        frozen: Leading parts that get no updates, not even decay of weights.
        decay: Learning rate of a part, as a share of the next one's.
        parts: Parts in all; the last one learns at full rate.
    """

    def part(path: Any) -> int:
        return part_of(tuple(getattr(e, "key", getattr(e, "idx", e)) for e in path))

    def slower(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * decay ** (parts - 1 - part(path)), updates
        )

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "still" if part(path) < frozen else "live", params
        )

    if decay < 1:
        tx = optax.chain(tx, optax.stateless(slower))
    if not frozen:
        return tx
    return optax.partition({"live": tx, "still": optax.set_to_zero()}, labels)
