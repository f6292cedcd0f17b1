"""Steps along the gradient: FGSM and PGD."""

from __future__ import annotations

from typing import Any

import jax

from models.attacks.balls import (
    Budget,
    anywhere,
    check_norm,
    folded,
    steepest,
    within,
)
from models.attacks.kept import LogitsOf, Seen, climb, look, worst
from models.attacks.losses import Loss, cross_entropy


def fgsm(
    logits_of: LogitsOf,
    images: jax.Array,
    labels: jax.Array,
    *,
    eps: Budget,
    norm: str = "linf",
    keys: jax.Array,
    random_start: bool = False,
    loss: Loss = cross_entropy,
) -> jax.Array:
    """Take one step to the edge of the budget (Goodfellow et al., arXiv 1412.6572).

    From a random start it is 1.25 times as long and ends within the budget (Wong et
    al. 2020, arXiv 2001.03994, algorithm 3).
    """
    return pgd(
        logits_of,
        images,
        labels,
        eps=eps,
        norm=norm,
        keys=keys,
        steps=1,
        step_size=1.25 if random_start else 1.0,
        random_start=random_start,
        loss=loss,
        keep=False,
    )


def pgd(
    logits_of: LogitsOf,
    images: jax.Array,
    labels: jax.Array,
    *,
    eps: Budget,
    norm: str = "linf",
    keys: jax.Array,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    loss: Loss = cross_entropy,
    keep: bool = True,
) -> jax.Array:
    """Follow the slope within the budget (Madry et al. 2018, arXiv 1706.06083).

    Args:
        logits_of: See the package.
        images: (n h w c), 0..1.
        labels: (n,).
        eps: Largest change.
        norm: "linf" or "l2".
        keys: One an image, (n,).
        steps: Of each attempt.
        step_size: Share of `eps`; None is 2.5 / steps.
        restarts: Attempts from other starts.
        random_start: Whether an attempt starts anywhere in the budget.
        loss: What to make larger.
        keep: Return the most harmful version that was seen, the original included;
            else the last one of a single attempt, which is what training learns from.
    """
    check_norm(norm)
    far = eps * (2.5 / steps if step_size is None else step_size)

    def start(attempt: jax.Array | int) -> jax.Array:
        if not random_start:
            return images
        return anywhere(images, eps, norm, folded(keys, attempt))

    def ascend(pixels: jax.Array, slopes: jax.Array) -> jax.Array:
        return within(pixels + far * steepest(slopes, norm), images, eps, norm)

    if not keep:

        def step(_: jax.Array, pixels: jax.Array) -> jax.Array:
            return ascend(pixels, climb(logits_of, pixels, labels, loss)[1])

        last: jax.Array = _repeat(steps, step, start(0))
        return last

    def kept_step(
        _: jax.Array, state: tuple[jax.Array, Seen]
    ) -> tuple[jax.Array, Seen]:
        pixels, kept = state
        seen, slopes = climb(logits_of, pixels, labels, loss)
        return ascend(pixels, slopes), worst(kept, seen)

    def attempt(index: jax.Array, kept: Seen) -> Seen:
        pixels, kept = _repeat(steps, kept_step, (start(index), kept))
        return worst(kept, look(logits_of, pixels, labels, loss))

    original = look(logits_of, images, labels, loss)
    return jax.lax.fori_loop(0, restarts, attempt, original).pixels


def _repeat(steps: int, step: Any, state: Any) -> Any:
    """Return the state after `steps` steps; a single one needs no loop."""
    if steps == 1:
        return step(0, state)
    return jax.lax.fori_loop(0, steps, step, state)
