"""Noise of sensors and lines: Gaussian, shot, speckle and impulse."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from models.recipe import Augment

# Severities 1 to 5 as in the corruption benchmarks at 32 pixels (arXiv 1903.12261), and
# 0 for none. Shot noise is given by photons at full brightness.
GAUSSIAN = (0.0, 0.04, 0.06, 0.08, 0.09, 0.10)
SPECKLE = (0.0, 0.06, 0.10, 0.12, 0.16, 0.20)
SHOT = (0.0, 1 / 500, 1 / 250, 1 / 100, 1 / 75, 1 / 50)
IMPULSE = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grain:
    """Noise of n images, each (n,); None is a kind that is not asked for.

    Attributes:
        seed: Start of an image's own noise, uint32.
        gaussian: Standard deviation, as a share of the range.
        shot: Variance at full brightness; it grows with the brightness.
        speckle: Standard deviation at full brightness; grows with the brightness.
        impulse: Share of values that turn black or white.
    """

    seed: jax.Array
    gaussian: jax.Array | None = None
    shot: jax.Array | None = None
    speckle: jax.Array | None = None
    impulse: jax.Array | None = None

    @property
    def needed(self) -> jax.Array:
        """Whether each image gets noise."""
        kinds = (self.gaussian, self.shot, self.speckle, self.impulse)
        amounts = [kind for kind in kinds if kind is not None]
        return jnp.stack(amounts).max(0) > 0


def draw_grain(key: jax.Array, n: int, settings: Augment) -> Grain | None:
    """Draw the noise of `n` images, one kind at most for each; None without any."""
    chances = {
        "gaussian": (settings.noise_gaussian, GAUSSIAN),
        "shot": (settings.noise_shot, SHOT),
        "speckle": (settings.noise_speckle, SPECKLE),
        "impulse": (settings.noise_impulse, IMPULSE),
    }
    if not any(chance for chance, _ in chances.values()):
        return None
    kind, level, start = jax.random.split(key, 3)
    pick = jax.random.uniform(kind, (n,))
    severity = jax.random.uniform(level, (n,), maxval=settings.noise_severity)
    found: dict[str, jax.Array] = {}
    before = 0.0
    for name, (chance, table) in chances.items():
        if chance:
            amount = jnp.interp(severity, jnp.arange(6.0), jnp.array(table))
            here = (pick >= before) & (pick < before + chance)
            found[name] = jnp.where(here, amount, 0.0)
            before += chance
    return Grain(jax.random.bits(start, (n,), jnp.uint32), **found)


def add_grain(planes: jax.Array, grain: Grain) -> jax.Array:
    """Add noise to `planes` (3 n h w) in 0..1."""
    if (grain.gaussian, grain.shot, grain.speckle) != (None, None, None):
        variance = jnp.zeros(())
        if grain.gaussian is not None:
            variance = variance + _wide(grain.gaussian) ** 2
        if grain.speckle is not None:
            variance = variance + (_wide(grain.speckle) * planes) ** 2
        if grain.shot is not None:
            variance = variance + _wide(grain.shot) * planes
        normal = _normal(_random(planes.shape, grain.seed))
        planes = jnp.clip(planes + jnp.sqrt(variance) * normal, 0, 1)
    if grain.impulse is None:
        return planes
    fate = _uniform(_random(planes.shape, grain.seed ^ jnp.uint32(0x5BD1E995)))
    share = _wide(grain.impulse)
    planes = jnp.where(fate < share / 2, 0.0, planes)
    return jnp.where(fate > 1 - share / 2, 1.0, planes)


def noise_like(planes: jax.Array, seed: jax.Array) -> jax.Array:
    """Return uniform noise in 0..1 of the shape of `planes` (3 n h w)."""
    return _uniform(_random(planes.shape, seed))


def _wide(values: jax.Array) -> jax.Array:
    return values[:, None, None]


def _random(shape: tuple[int, ...], seed: jax.Array) -> jax.Array:
    """Return random bits (3 n h w), uint32, by each image's `seed` and the place.

    A hash (MurmurHash3's finaliser): JAX's own generator takes ten times as long.
    """
    c, _, h, w = shape
    one = jnp.arange(c * h * w, dtype=jnp.uint32).reshape(c, 1, h, w)
    bits = one * jnp.uint32(0x9E3779B1) + seed[:, None, None]
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


def _uniform(bits: jax.Array) -> jax.Array:
    return (bits >> 8).astype(jnp.float32) / (1 << 24)


def _normal(bits: jax.Array) -> jax.Array:
    """Return nearly normal numbers: sums of four bytes, at most 3.45 from 0."""
    total = sum((bits >> shift) & 255 for shift in (0, 8, 16, 24))
    return (total.astype(jnp.float32) - 510) / 147.8  # (4 * (256**2 - 1) / 12) ** 0.5
