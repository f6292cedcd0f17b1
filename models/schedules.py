"""Courses of the learning rate."""

import functools
from collections.abc import Callable

import optax

from models.recipe import SCHEDULE_FREE, Recipe, cycle_ends


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


def one_cycle(peak: float, total_steps: int, *, warmup: float = 0.15) -> optax.Schedule:
    """Rise linearly to `peak`, then fall linearly to 0 (arXiv 1708.07120, section 3).

    Args:
        peak: Highest learning rate.
        total_steps: Steps from the first to the end of the fall.
        warmup: Share of the steps spent rising.
    """
    rise = max(1, round(total_steps * warmup))
    fall = optax.linear_schedule(peak, 0.0, max(1, total_steps - rise))
    return optax.join_schedules(
        [optax.linear_schedule(peak / 25, peak, rise), fall], [rise]
    )


def constant(peak: float, total_steps: int, *, warmup: float = 0.15) -> optax.Schedule:
    """Rise linearly to `peak` and stay there.

    Args:
        peak: Highest learning rate.
        total_steps: Steps in all.
        warmup: Share of the steps spent rising.
    """
    rise = max(1, round(total_steps * warmup))
    return optax.linear_schedule(peak / 25, peak, rise)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "cosine": warmup_cosine,
    "one_cycle": one_cycle,
    "constant": constant,
    # The averaging of `schedule_free` stands for the fall.
    SCHEDULE_FREE: constant,
}


def course_of(recipe: Recipe, total_steps: int) -> optax.Schedule:
    """Return the schedule of `recipe`, run `cycles` times if that is asked for.

    Snapshot ensembles: Huang et al. 2017, arXiv 1704.00109, equation 2. Cycles end
    with an epoch.
    """
    course = functools.partial(
        SCHEDULES[recipe.schedule], recipe.learning_rate, warmup=recipe.warmup
    )
    if recipe.cycles == 1:
        return course(total_steps)
    steps = total_steps // recipe.epochs
    ends = [steps * epoch for epoch in cycle_ends(recipe.epochs, recipe.cycles)]
    starts = [0, *ends[:-1]]
    return optax.join_schedules(
        [course(end - start) for start, end in zip(starts, ends, strict=True)],
        ends[:-1],
    )
