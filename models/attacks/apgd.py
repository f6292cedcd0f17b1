"""Auto-PGD: steps along the gradient whose size needs no tuning.

Croce and Hein 2020, arXiv 2003.01690, algorithm 1: momentum, and at checkpoints that
come ever more often, steps are halved, and begin at the best image so far, where the
loss rose too seldom or did not get better.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.attacks.balls import (
    Budget,
    anywhere,
    check_norm,
    folded,
    steepest,
    within,
)
from models.attacks.kept import LogitsOf, Seen, climb, first, look, where
from models.attacks.losses import Loss, cross_entropy, dlr_towards

MOMENTUM = 0.75  # share of a step that follows the slope, alpha
RISES = 0.75  # share of steps that have to raise the loss, rho


class Climb(NamedTuple):
    """An attempt under way; all arrays have one entry an image.

    Attributes:
        index: Steps taken, ().
        now: Where it stands.
        slopes: Of the loss there.
        before: Pixels of the step before.
        best: The largest loss so far.
        best_slopes: Of the loss there.
        size: Of the next step.
        rises: Steps since the last checkpoint that raised the loss.
        halved: Whether that checkpoint halved the step.
        mark: The largest loss at that checkpoint.
        kept: What broke an image first, else its largest loss.
    """

    index: jax.Array
    now: Seen
    slopes: jax.Array
    before: jax.Array
    best: Seen
    best_slopes: jax.Array
    size: jax.Array
    rises: jax.Array
    halved: jax.Array
    mark: jax.Array
    kept: Seen


def checkpoints(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which steps end a stretch (steps,), and how long the stretch was."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    ends = sorted({math.ceil(share * steps) for share in shares if share <= 1})
    is_end, since = np.zeros(steps, bool), np.zeros(steps, np.int32)
    for begin, end in itertools.pairwise(ends):
        is_end[end - 1], since[end - 1] = True, end - begin
    return is_end, since


def apgd(
    logits_of: LogitsOf,
    images: jax.Array,
    labels: jax.Array,
    *,
    eps: Budget,
    norm: str = "linf",
    keys: jax.Array,
    steps: int = 20,
    restarts: int = 1,
    loss: Loss = cross_entropy,
) -> jax.Array:
    """Return what broke each image first, else the version of the largest loss.

    Args:
        logits_of: See the package.
        images: (n h w c), 0..1.
        labels: (n,).
        eps: Largest change.
        norm: "linf" or "l2".
        keys: One an image, (n,).
        steps: Of each attempt; it ends before them where all images are broken.
        restarts: Attempts from other random starts.
        loss: What to make larger: `cross_entropy`, or `dlr`.
    """
    check_norm(norm)

    def attempt(index: jax.Array, kept: Seen) -> Seen:
        at = anywhere(images, eps, norm, folded(keys, index), edge=True)
        return _attempt(logits_of, images, labels, at, kept, (eps, norm, steps, loss))

    original = look(logits_of, images, labels, loss)
    return jax.lax.fori_loop(0, restarts, attempt, original).pixels


def apgd_targeted(
    logits_of: LogitsOf,
    images: jax.Array,
    labels: jax.Array,
    *,
    eps: Budget,
    norm: str = "linf",
    keys: jax.Array,
    steps: int = 20,
    targets: int = 9,
) -> jax.Array:
    """Aim at other classes one after the other, by the difference-of-logits ratio.

    Args:
        logits_of: See the package.
        images: (n h w c), 0..1.
        labels: (n,).
        eps: Largest change.
        norm: "linf" or "l2".
        keys: One an image, (n,).
        steps: For each class.
        targets: How many classes, the likeliest first.
    """
    check_norm(norm)
    logits = logits_of(images)
    others = jnp.where(jax.nn.one_hot(labels, logits.shape[-1]), -jnp.inf, logits)
    ranked = jnp.argsort(-others, axis=-1).T[: min(targets, logits.shape[-1] - 1)]

    def attempt(index: jax.Array, kept: Seen) -> Seen:
        loss = dlr_towards(ranked[index])
        at = anywhere(images, eps, norm, folded(keys, index), edge=True)
        # Losses towards different classes cannot be compared, wrong answers can.
        kept = kept._replace(loss=jnp.full_like(kept.loss, -jnp.inf))
        return _attempt(logits_of, images, labels, at, kept, (eps, norm, steps, loss))

    original = look(logits_of, images, labels, dlr_towards(ranked[0]))
    return jax.lax.fori_loop(0, len(ranked), attempt, original).pixels


def _attempt(
    logits_of: LogitsOf,
    images: jax.Array,
    labels: jax.Array,
    start: jax.Array,
    kept: Seen,
    how: tuple[Budget, str, int, Loss],
) -> Seen:
    """Return `kept`, or what one attempt from `start` found beyond it."""
    eps, norm, steps, loss = how
    ends, since = (jnp.asarray(each) for each in checkpoints(steps))
    now, slopes = climb(logits_of, start, labels, loss)
    nothing = jnp.zeros(len(images), jnp.int32)

    def goes_on(state: Climb) -> jax.Array:
        return (state.index < steps) & ~state.kept.broken.all()

    def step(state: Climb) -> Climb:
        at = state.now.pixels
        share = jnp.where(state.index > 0, MOMENTUM, 1.0)
        size = state.size[:, None, None, None]
        ahead = within(at + size * steepest(state.slopes, norm), images, eps, norm)
        moved = at + share * (ahead - at) + (1 - share) * (at - state.before)
        new, slopes = climb(logits_of, within(moved, images, eps, norm), labels, loss)
        up = new.loss > state.best.loss
        state = state._replace(
            index=state.index + 1,
            now=new,
            slopes=slopes,
            before=at,
            best=where(up, new, state.best),
            best_slopes=where(up, slopes, state.best_slopes),
            rises=state.rises + (new.loss > state.now.loss),
            kept=first(state.kept, new),
        )
        taken = state.index - 1
        return jax.lax.cond(
            ends[taken], lambda s: _check(s, since[taken]), lambda s: s, state
        )

    begun = Climb(
        index=jnp.zeros((), jnp.int32),
        now=now,
        slopes=slopes,
        before=start,
        best=now,
        best_slopes=slopes,
        size=jnp.full(len(images), 2 * eps, images.dtype),
        rises=nothing,
        halved=jnp.ones(len(images), bool),
        mark=now.loss,
        kept=first(kept, now),
    )
    return jax.lax.while_loop(goes_on, step, begun).kept


def _check(state: Climb, since: jax.Array) -> Climb:
    """Halve the steps of images whose loss rose too seldom, or is no better."""
    seldom = state.rises <= RISES * since
    stuck = ~state.halved & (state.best.loss <= state.mark)
    halve = seldom | stuck
    return state._replace(
        now=where(halve, state.best, state.now),
        slopes=where(halve, state.best_slopes, state.slopes),
        size=jnp.where(halve, state.size / 2, state.size),
        rises=jnp.zeros_like(state.rises),
        halved=halve,
        mark=state.best.loss,
    )
