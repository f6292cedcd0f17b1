"""An attack that knows the detector: fool the network and stay below the threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from models.defence.recode import eight_bit

# (weights, pixels) to logits (n k) and to the score (n,).
Judge = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]

ENOUGH = 0.5  # logits by which a wrong class leads; from there on only the score counts


class Passed(NamedTuple):
    """What the attack came to.

    Attributes:
        pixels: Attacked images (n h w c).
        fooled: Whether the answer is wrong (n,).
        score: The detector's (n,).
    """

    pixels: NDArray[np.float32]
    fooled: NDArray[np.bool_]
    score: NDArray[np.float32]


def make_step(judge: Judge, *, epsilon: float) -> Callable[..., Any]:
    """Return one step of the attack, L-infinity within `epsilon` of the original.

    The objective is the lead of the wrong class, as far as `ENOUGH`, less `worth` times
    what the score is above its threshold, in units of the score's spread on clean
    images. What was best so far is kept: fooled and unseen before fooled, before not.
    Network and detector see pixels on 8 bits, as a file holds them.

    Returns:
        step(weights, (threshold, spread, worth, rate), state, clean, labels) to the
        next state, of (pixels, best pixels, best rank, best score); to be compiled.
    """

    def objective(
        pixels: jax.Array, weights: Any, labels: jax.Array, limits: Any
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        threshold, spread, worth, _ = limits
        logits, score = judge(weights, eight_bit(pixels))
        lead = lead_of(logits, labels)
        above = jnp.maximum((score - threshold) / spread, -1)
        value = jnp.minimum(lead, ENOUGH) - worth * above
        return jnp.nan_to_num(value).sum(), (lead, score)

    def step(
        weights: Any, limits: Any, state: Any, clean: jax.Array, labels: jax.Array
    ) -> Any:
        pixels, best, rank, kept = state
        slope, (lead, score) = jax.grad(objective, has_aux=True)(
            pixels, weights, labels, limits
        )
        fooled = lead > 0
        now = fooled * (1.0 + (score <= limits[0]))
        better = now > rank
        best = jnp.where(better[:, None, None, None], pixels, best)
        after = pixels + limits[3] * epsilon * jnp.sign(slope)
        after = jnp.clip(after, clean - epsilon, clean + epsilon)
        rank, kept = jnp.maximum(rank, now), jnp.where(better, score, kept)
        return jnp.clip(after, 0, 1), best, rank, kept

    return step


def evade(
    step: Callable[..., Any],
    weights: Any,
    clean: NDArray[Any],
    labels: NDArray[Any],
    *,
    starts: list[NDArray[Any]],
    limits: tuple[float, float],
    steps: int,
    worths: tuple[float, ...] = (1.0, 10.0),
) -> Passed:
    """Attack from every start with every worth of the score; keep the best of all.

    Args:
        step: From `make_step`, compiled.
        weights: Of the network and detector, as `judge` takes them.
        clean: Originals (n h w c) in 0..1.
        labels: Their classes (n,).
        starts: Where to begin, such as the original and an ordinary attack's image.
        limits: The detector's threshold, and its spread on clean images.
        steps: Of each attack.
        worths: What the score counts against the answer.
    """
    n = len(clean)
    best, rank = jnp.asarray(clean), jnp.full(n, -1.0)
    score = jnp.full(n, jnp.nan)
    for start in starts:
        for worth in worths:
            pixels = jnp.asarray(start)
            for place in range(steps + 1):  # the last one only looks
                rate = 2.5 / steps * (1 - place / (steps + 1))
                given = tuple(jnp.float32(x) for x in (*limits, worth, rate))
                state = pixels, best, rank, score
                pixels, best, rank, score = step(weights, given, state, clean, labels)
    return Passed(np.asarray(best), np.asarray(rank) > 0, np.asarray(score))


def lead_of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return by how much the best wrong class leads (n,)."""
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    right = jnp.where(own, logits, 0).sum(-1)
    return jnp.where(own, -jnp.inf, logits).max(-1) - right
