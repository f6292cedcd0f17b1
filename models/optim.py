"""Optimisers, and which weights they step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import (
    MuonDimensionNumbers,
    ScheduleFreeState,
    schedule_free_eval_params,
)

from data_contracts.errors import UsageError
from models.recipe import SCHEDULE_FREE, Recipe
from models.schedules import SCHEDULES, course_of

Rate = float | optax.Schedule


def make_optimizer(
    recipe: Recipe, total_steps: int, *, rate: optax.Schedule | None = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Return the optimiser of `recipe` and its learning rate by step.

    Args:
        recipe: Optimiser, schedule and their figures.
        total_steps: Steps in all.
        rate: Another course of the learning rate.

    Raises:
        UsageError: The optimiser or schedule is unknown, or the two do not go together.
    """
    for kind, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        if getattr(recipe, kind) not in known:
            raise UsageError(
                f"The {kind} is one of {', '.join(known)}; came"
                f" {getattr(recipe, kind)!r}. Pick one."
            )
    if rate is None:
        rate = course_of(recipe, total_steps)
    build = OPTIMIZERS[recipe.optimizer]
    if recipe.schedule == SCHEDULE_FREE:
        if recipe.optimizer not in FREE:
            raise UsageError(
                f"schedule={SCHEDULE_FREE} averages the steps of {' or '.join(FREE)};"
                f" came optimizer={recipe.optimizer}. Set optimizer={next(iter(FREE))}."
            )
        build = FREE[recipe.optimizer]
    return build(rate, weight_decay=recipe.weight_decay, clip=recipe.clip), rate


def adamw(
    learning_rate: Rate,
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


def sgd(
    learning_rate: Rate,
    *,
    weight_decay: float = 5e-4,
    clip: float = 1.0,
    momentum: float = 0.9,
) -> optax.GradientTransformation:
    """Build SGD with Nesterov's momentum (Sutskever et al. 2013) on clipped gradients.

    The decay is part of the gradient, as in most published recipes for SGD; vectors do
    not decay.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.add_decayed_weights(weight_decay, mask=decayed_weights),
        optax.sgd(learning_rate, momentum=momentum, nesterov=True),
    )


def lion(
    learning_rate: Rate,
    *,
    weight_decay: float = 1.0,
    clip: float = 1.0,
) -> optax.GradientTransformation:
    """Build Lion (arXiv 2302.06675, algorithm 2) on gradients clipped to a global norm.

    Every step is a sign, so that its rate is a third to a tenth of AdamW's and its
    decay that much higher (section 5 of the paper). Vectors do not decay.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.lion(learning_rate, weight_decay=weight_decay, mask=decayed_weights),
    )


def free_adamw(
    learning_rate: Rate,
    *,
    weight_decay: float = 0.05,
    clip: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """Build schedule-free AdamW (arXiv 2405.15682, algorithm 1) on clipped gradients.

    Evaluate at `evaluation_weights`. Vectors do not decay.
    """
    steps = optax.chain(
        optax.scale_by_rms(decay=b2, eps=1e-8, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(weight_decay, mask=decayed_weights),
        optax.scale_by_learning_rate(learning_rate),
    )
    free = optax.contrib.schedule_free(steps, learning_rate, b1=b1)
    return optax.chain(optax.clip_by_global_norm(clip), free)


def free_sgd(
    learning_rate: Rate,
    *,
    weight_decay: float = 5e-4,
    clip: float = 1.0,
    b1: float = 0.9,
) -> optax.GradientTransformation:
    """Build schedule-free SGD (arXiv 2405.15682, equations 3 to 5), clipped.

    Evaluate at `evaluation_weights`. Vectors do not decay.
    """
    steps = optax.chain(
        optax.add_decayed_weights(weight_decay, mask=decayed_weights),
        optax.scale_by_learning_rate(learning_rate),
    )
    free = optax.contrib.schedule_free(steps, learning_rate, b1=b1)
    return optax.chain(optax.clip_by_global_norm(clip), free)


def evaluation_weights(opt: Any, params: Any) -> Any:
    """Return the weights that a schedule-free optimiser evaluates at; None of others.

    Args:
        opt: The optimiser's state.
        params: Weights that gradients are taken at.
    """
    states = jax.tree.leaves(opt, is_leaf=lambda x: isinstance(x, ScheduleFreeState))
    for state in states:
        if isinstance(state, ScheduleFreeState):
            return schedule_free_eval_params(state, params)
    return None


def muon(
    learning_rate: Rate,
    *,
    weight_decay: float = 0.1,
    clip: float = 1.0,
    iterations: int = 3,
    speed: float = 5.0,
) -> optax.GradientTransformation:
    """Build Muon (Jordan et al. 2024, arXiv 2502.16982) on clipped gradients.

    Kernels after the stem take orthogonal steps and decay; the stem, the head,
    depthwise kernels, norms and biases take Adam's steps.

    Args:
        learning_rate: Adam's, or a schedule of it.
        weight_decay: Of those kernels.
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


Build = Callable[..., optax.GradientTransformation]
OPTIMIZERS: dict[str, Build] = {"muon": muon, "adamw": adamw, "sgd": sgd, "lion": lion}
FREE: dict[str, Build] = {"adamw": free_adamw, "sgd": free_sgd}


def inner_convolutions(params: Any) -> Any:
    """Give the axes that Muon contracts in each leaf; None leaves it to Adam.

    Those are kernels of convolutions and dense layers, but for the stem's, depthwise
    ones and the head's.
    """
    convolution = MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    dense = MuonDimensionNumbers(reduction_axis=(0,), output_axis=1)

    def of(path: Any, leaf: Any) -> MuonDimensionNumbers | None:
        names = names_of(path)
        if names[-1] != "kernel" or names[0] == "head":
            return None
        if jnp.ndim(leaf) == 2:
            return dense
        return convolution if jnp.ndim(leaf) == 4 and leaf.shape[2] > 3 else None

    return jax.tree_util.tree_map_with_path(of, params)


def names_of(path: Any) -> tuple[str | int, ...]:
    """Return the names and places on the way to a leaf of a tree."""
    return tuple(getattr(entry, "key", getattr(entry, "idx", entry)) for entry in path)


def decayed_weights(params: Any) -> Any:
    """Mark the leaves of `params` that weight decay applies to."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def by_parts(
    tx: optax.GradientTransformation, recipe: Recipe, model: Any, *, steps: int
) -> optax.GradientTransformation:
    """Hold parts of a network still, for good or at first, and slow others down.

    Args:
        tx: Optimiser of the rest.
        recipe: Freezing, `layer_decay` and `unfreeze` need a network of `backbones`.
        model: The network; `frozen` is set.
        steps: Steps in all.

    Raises:
        UsageError: The schedule averages weights by itself.
    """
    if recipe.freeze is None and recipe.layer_decay == 1 and not recipe.unfreeze:
        if hasattr(model, "frozen"):
            model.frozen = 0  # of an earlier training
        return tx
    if recipe.schedule == SCHEDULE_FREE:
        raise UsageError(
            f"schedule={SCHEDULE_FREE} keeps an average of all weights alike, and"
            " freeze, layer_decay and unfreeze set parts apart. Take another schedule."
        )
    model.frozen = frozen_parts(recipe.freeze, stages=model.stages)
    return by_depth(
        tx,
        model.part_of,
        frozen=model.frozen,
        decay=recipe.layer_decay,
        parts=model.stages + 3,
        waking=recipe.unfreeze * steps,
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
    waking: float = 0.0,
) -> optax.GradientTransformation:
    """Slow an optimiser down towards the stem, and leave the frozen parts alone.

    Layer-wise decay: Clark et al. 2020, arXiv 2003.10555; Bao et al. 2022,
    arXiv 2106.08254. Gradual unfreezing: Howard and Ruder 2018, arXiv 1801.06146,
    section 3.3; a part that waits has its moments and batch statistics followed, so
    that its first step is no blind one.

    Args:
        tx: The optimiser.
        part_of: Says which part, from 0, the parameter at a path belongs to.
        frozen: Leading parts that get no updates, not even decay of weights.
        decay: Learning rate of a part, as a share of the next one's.
        parts: Parts in all; the last one learns at full rate.
        waking: Steps until the first live part learns too; those between it and the
            last one join at equal distances.
    """

    def part(path: Any) -> int:
        return part_of(names_of(path))

    def slower(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * decay ** (parts - 1 - part(path)), updates
        )

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "still" if part(path) < frozen else "live", params
        )

    def awake(step: jax.Array, updates: Any) -> Any:
        wait = waking / max(parts - 1 - frozen, 1)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * (step >= wait * (parts - 1 - part(path))), updates
        )

    if decay < 1:
        tx = optax.chain(tx, optax.stateless(slower))
    if waking:
        tx = optax.chain(tx, by_step(awake))
    if not frozen:
        return tx
    return optax.partition({"live": tx, "still": optax.set_to_zero()}, labels)


def by_step(change: Callable[[jax.Array, Any], Any]) -> optax.GradientTransformation:
    """Change updates by a function of the steps taken and of them."""

    def update(updates: Any, taken: jax.Array, params: Any = None) -> Any:
        del params
        return change(taken, updates), taken + 1

    return optax.GradientTransformation(lambda _: jnp.zeros((), jnp.int32), update)
