"""Rectangles erased from a view."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from models.grain import noise_like
from models.recipe import Augment


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Holes:
    """Rectangles of n images.

    Attributes:
        centre: (n k 2) as (y, x), shares of the view's side.
        half: Half of their sides, (n k 2) or (n k 1), shares.
        seed: Of their noise, (n,) uint32.
        fill: "grey", "mean" (of the view) or "noise".
    """

    centre: jax.Array
    half: jax.Array
    seed: jax.Array | None
    fill: str = dataclasses.field(metadata={"static": True})

    @property
    def needed(self) -> jax.Array:
        """Whether each image has a hole."""
        return self.half.max((1, 2)) > 0


def draw_holes(key: jax.Array, n: int, settings: Augment) -> Holes | None:
    """Draw the holes of `n` views; None where nothing is erased.

    One grey square is Cutout (arXiv 1708.04552); noise and other shapes are Random
    Erasing (arXiv 1708.04896).
    """
    if not settings.erase:
        return None
    where, side = jax.random.split(key)
    k = settings.erase_holes
    half = jax.random.uniform(side, (n, k), maxval=settings.erase / 2)[..., None]
    centre = jax.random.uniform(where, (n, 2 * k)).reshape(n, k, 2)
    if settings.erase_stretch:
        most = settings.erase_stretch / 2
        longer = jax.random.fold_in(key, 101)
        factor = 2 ** jax.random.uniform(longer, (n, k), minval=-most, maxval=most)
        half = half * jnp.stack([factor, 1 / factor], -1)
    if settings.erase_chance < 1:
        pick = jax.random.uniform(jax.random.fold_in(key, 102), (n, 1, 1))
        half = jnp.where(pick < settings.erase_chance, half, 0.0)
    start = jax.random.fold_in(key, 103)
    noisy = settings.erase_fill == "noise"
    seed = jax.random.bits(start, (n,), jnp.uint32) if noisy else None
    return Holes(centre, half, seed, settings.erase_fill)


def erase(planes: jax.Array, holes: Holes) -> jax.Array:
    """Fill the holes of `planes` (3 n h w) in 0..1."""
    n, size = planes.shape[1:3]
    centre, half = holes.centre * size, holes.half * size
    gone = jnp.zeros((n, size, size), bool)
    for i in range(holes.centre.shape[1]):
        near = jnp.abs(jnp.arange(size) - centre[:, i, :, None]) < half[:, i, :, None]
        gone |= near[:, 0, :, None] & near[:, 1, None, :]
    if holes.fill == "noise":
        assert holes.seed is not None
        return jnp.where(gone, noise_like(planes, holes.seed), planes)
    mean = holes.fill == "mean"
    filler = planes.mean((2, 3), keepdims=True) if mean else 0.5
    return jnp.where(gone, filler, planes)
