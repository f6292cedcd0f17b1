"""The blocks that a strong JPEG compression leaves."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from models.recipe import Augment

SIDE = 8
# Quantisation of brightness and of colour, from annex K of the standard (ITU-T T.81).
BRIGHTNESS = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
COLOUR = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)
# Red, green and blue to brightness and two colour differences.
TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks:
    """JPEG quality of n images, 1 to 100; above 100 an image stays as it is, (n,)."""

    quality: jax.Array

    @property
    def needed(self) -> jax.Array:
        """Whether each image is compressed."""
        return self.quality <= 100


def draw_blocks(key: jax.Array, n: int, settings: Augment) -> Blocks | None:
    """Draw the quality of `n` images; None where no image is compressed."""
    if not settings.jpeg:
        return None
    pick, grade = jax.random.split(key)
    low = settings.jpeg_quality
    quality = jax.random.uniform(grade, (n,), minval=low, maxval=max(low, 90))
    hit = jax.random.uniform(pick, (n,)) < settings.jpeg
    return Blocks(jnp.where(hit, quality, 101.0))


def compress(planes: jax.Array, blocks: Blocks) -> jax.Array:
    """Quantise the frequencies of 8 x 8 blocks of `planes` (3 n h w) in 0..1."""
    _, n, h, w = planes.shape
    ycc = jnp.tensordot(jnp.asarray(TO_YCC, jnp.float32), planes * 255 - 128, 1)
    high, wide = -(-h // SIDE), -(-w // SIDE)
    edges = ((0, 0), (0, 0), (0, high * SIDE - h), (0, wide * SIDE - w))
    tiles = jnp.pad(ycc, edges, mode="edge").reshape(3, n, high, SIDE, wide, SIDE)
    tiles = tiles.transpose(0, 1, 2, 4, 3, 5).reshape(3, n, high * wide, SIDE**2)
    steps = _steps(blocks.quality)[:, :, None]
    waves = jnp.asarray(_waves())
    kept = jnp.round(tiles @ waves.T / steps) * steps @ waves
    back = kept.reshape(3, n, high, wide, SIDE, SIDE).transpose(0, 1, 2, 4, 3, 5)
    back = back.reshape(3, n, high * SIDE, wide * SIDE)[:, :, :h, :w]
    from_ycc = jnp.asarray(np.linalg.inv(TO_YCC), jnp.float32)
    rgb = jnp.clip((jnp.tensordot(from_ycc, back, 1) + 128) / 255, 0, 1)
    return jnp.where(blocks.needed[:, None, None], rgb, planes)


def _steps(quality: jax.Array) -> jax.Array:
    """Return the distance of the levels of each frequency, (3 n 64)."""
    scale = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    tables = jnp.array([BRIGHTNESS, COLOUR, COLOUR], jnp.float32)
    return jnp.clip(tables[:, None] * scale[:, None], 1, 255)


@functools.cache
def _waves() -> np.ndarray:
    """Return the cosine transform of an 8 x 8 block, (64 64), orthonormal."""
    k = np.arange(SIDE)
    one = np.cos(np.pi * k[:, None] * (2 * k + 1) / (2 * SIDE)) * 0.5
    one[0] /= np.sqrt(2)
    return np.kron(one, one).astype(np.float32)
