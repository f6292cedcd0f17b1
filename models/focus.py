"""Blurred and sharpened images."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from models.geometry import Amounts
from models.passes import apart
from models.recipe import Augment

REACH = 2.5  # standard deviations that a kernel reaches from its centre


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Focus:
    """How sharp n images become.

    Attributes:
        sigma: Standard deviation of the blur, as a share of the side, (n,).
        strength: 1 is blurred, 0 as it was, below 0 sharpened, (n,).
        largest: Of `sigma`.
    """

    sigma: jax.Array
    strength: jax.Array
    largest: float = dataclasses.field(metadata={"static": True})

    @property
    def needed(self) -> jax.Array:
        """Whether each image changes."""
        return self.strength != 0


def draw_focus(
    key: jax.Array, n: int, settings: Augment, amounts: Amounts | None = None
) -> Focus | None:
    """Draw how sharp `n` images become; None where nothing changes.

    Args:
        key: Randomness.
        n: Number of images.
        settings: How strong.
        amounts: What a policy sets: "sharpness", 1 leaves an image as it is, (n,).
    """
    if not (settings.blur or amounts):
        return None
    pick, size = jax.random.split(key)
    low, high = settings.blur_size
    sigma = jax.random.uniform(size, (n,), minval=low, maxval=high)
    blurred = jax.random.uniform(pick, (n,)) < settings.blur
    if not amounts:
        return Focus(sigma, blurred.astype(jnp.float32), high)
    # A policy's sharpness is a change by the mean of 3 x 3 pixels, about 1 / 80 wide.
    rest = 1 - amounts["sharpness"]
    sigma, high = jnp.where(blurred, sigma, SOFT), max(high, SOFT)
    return Focus(sigma, jnp.where(blurred, 1.0, rest), high)


SOFT = 1 / 80


def refocus(planes: jax.Array, focus: Focus) -> jax.Array:
    """Blur or sharpen `planes` (3 n h w) in 0..1."""
    side = planes.shape[2]
    reach = max(1, math.ceil(REACH * focus.largest * side))
    offsets = jnp.arange(-reach, reach + 1)
    sigma = jnp.maximum(focus.sigma * side, 0.1)[:, None]
    taps = jnp.exp(-0.5 * (offsets / sigma) ** 2)
    taps = taps / taps.sum(1, keepdims=True)
    soft = apart(lambda x: _along(x, taps, 2), planes)
    soft = apart(lambda x: _along(x, taps, 3), soft)
    strength = focus.strength[:, None, None]
    return jnp.clip(planes + strength * (soft - planes), 0, 1)


def _along(planes: jax.Array, taps: jax.Array, axis: int) -> jax.Array:
    """Return the weighted mean of neighbours along one axis; edges repeat."""
    reach, side = taps.shape[1] // 2, planes.shape[axis]
    edges = [(reach, reach) if i == axis else (0, 0) for i in range(4)]
    wide = jnp.pad(planes, edges, mode="edge")
    parts = (
        taps[:, i, None, None] * jax.lax.slice_in_dim(wide, i, i + side, axis=axis)
        for i in range(taps.shape[1])
    )
    total = next(parts)
    for part in parts:
        total = total + part
    return total
