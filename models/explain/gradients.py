"""Maps from gradients of the answer by the pixels.

Steps stand beside the images in one batch: in a loop, XLA's CPU backend takes a
gradient ten times as long.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.explain.subject import Case

Found = tuple[jax.Array, dict[str, jax.Array]]
TINY = 1e-6


def saliency(case: Case) -> Found:
    """Size of the gradient, its largest channel (Simonyan 2013, arXiv 1312.6034)."""
    gradient = case.gradient(case.pixels)
    return jnp.abs(gradient).max(-1), {"slope": _slope(gradient)}


def smoothgrad(case: Case) -> Found:
    """Saliency of the mean gradient under noise (Smilkov 2017, arXiv 1706.03825)."""
    spread = jnp.ptp(case.pixels, axis=(1, 2, 3), keepdims=True) * case.how.noise
    shape = (case.how.steps, 1, *case.pixels.shape[1:])
    noise = jax.random.normal(jax.random.key(case.how.seed), shape)
    gradient = case.gradient(case.pixels + spread * noise).mean(0)
    return jnp.abs(gradient).max(-1), {"slope": _slope(gradient)}


def integrated_gradients(case: Case) -> Found:
    """Gradients along the line from nothing (Sundararajan 2017, arXiv 1703.01365).

    Equation 3 by the midpoint rule. `completeness` is how far the sum over the map is
    from the change of the logit that it should be, as a share of that.
    """
    start = case.nothing
    along = (jnp.arange(case.how.steps) + 0.5) / case.how.steps
    away = case.pixels - start
    gradient = case.gradient(start + along.reshape(-1, 1, 1, 1, 1) * away).mean(0)
    maps = (away * gradient).sum(-1)
    change = case.score(case.pixels) - case.score(start)
    return maps, {"slope": _slope(gradient), "completeness": _missed(maps, change)}


def expected_gradients(case: Case) -> Found:
    """Integrated gradients from usual images (Erion 2021, arXiv 1906.10670).

    Equation 3: each step starts at another image of the background, and stands at a
    random place of its line. `completeness` is against the mean logit of these.
    """
    steps, pool = case.how.steps, case.background
    place, order, pick = jax.random.split(jax.random.key(case.how.seed), 3)
    # One place in each of as many even parts of the line, in random order.
    along = jax.random.permutation(order, steps) + jax.random.uniform(place, (steps,))
    # Of more images than steps an even draw; of fewer, each about as often.
    drawn = jax.random.permutation(pick, len(pool))[jnp.arange(steps) % len(pool)]
    start = pool[drawn][:, None]
    away = case.pixels - start
    gradient = case.gradient(start + along.reshape(-1, 1, 1, 1, 1) / steps * away)
    maps = (away * gradient).sum(-1).mean(0)
    starts = jnp.broadcast_to(start, (steps, *case.pixels.shape))
    change = case.score(case.pixels) - case.score(starts).mean(0)
    slope = _slope(jnp.abs(gradient).mean(0))
    return maps, {"slope": slope, "completeness": _missed(maps, change)}


def _slope(gradient: jax.Array) -> jax.Array:
    """Return how much gradient there is at all (n,): 0 says that none came through."""
    return jnp.abs(gradient).sum((1, 2, 3))


def _missed(maps: jax.Array, change: jax.Array) -> jax.Array:
    total = maps.sum((1, 2))
    return jnp.abs(total - change) / jnp.maximum(jnp.abs(change), TINY)
