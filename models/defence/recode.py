"""Views that a server may answer in an image's place: re-encoded, or random cuts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

BLOCK = 8
# Quantisation tables of brightness and colour, ITU-T T.81 annex K.
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
TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]],
    np.float32,
)
FROM_YCC = np.linalg.inv(TO_YCC).astype(np.float32)


def rounded(x: jax.Array) -> jax.Array:
    """Round, with the gradient of not rounding (BPDA, arXiv 1802.00420)."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


def eight_bit(pixels: jax.Array) -> jax.Array:
    """Return pixels in 0..1 on the 256 levels that an image file has."""
    return rounded(jnp.clip(pixels, 0, 1) * 255) / 255


def reencode(pixels: jax.Array, *, quality: int) -> jax.Array:
    """Return images as they come back from a JPEG file with colour at half the side.

    All that loses anything: colour is averaged over 2 x 2 pixels, waves of 8 x 8 blocks
    are rounded (libjpeg's tables by `quality`), and colour is spread out again by its
    triangle filter. Rounding passes gradients on.

    Args:
        pixels: (n h w 3) in 0..1.
        quality: 1 to 100.
    """
    n, h, w, _ = pixels.shape
    tall, wide = -h % (2 * BLOCK), -w % (2 * BLOCK)
    full = jnp.pad(pixels, ((0, 0), (0, tall), (0, wide), (0, 0)), "edge") * 255
    planes = rounded(jnp.einsum("nhwc,kc->knhw", full, jnp.asarray(TO_YCC)))
    halves = planes[1:].reshape(2, n, (h + tall) // 2, 2, (w + wide) // 2, 2)
    bright = _quantised(planes[0] - 128, _table(BRIGHTNESS, quality)) + 128
    colour = _quantised(rounded(halves.mean((3, 5))), _table(COLOUR, quality))
    colour = _doubled(_doubled(colour, 2), 3)
    image = jnp.einsum(
        "knhw,ck->nhwc",
        jnp.concatenate([bright[None], colour]),
        jnp.asarray(FROM_YCC),
    )
    return eight_bit(image[:, :h, :w] / 255)


def random_views(
    pixels: jax.Array, keys: jax.Array, *, views: int, smallest: float
) -> jax.Array:
    """Return `views` random cuts of each image, (views n h w c), at the image's size.

    After the random resizing of Xie et al. 2018 (arXiv 1711.01991): a square of at
    least `smallest` of the side, anywhere, enlarged to the whole.

    Args:
        pixels: (n h w c) in 0..1.
        keys: A key an image (n,).
        views: Cuts of each.
        smallest: Side of the smallest cut, as a share.
    """

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        size, place = jax.random.split(key)
        side = jax.random.uniform(size, minval=smallest, maxval=1.0)
        shape = jnp.array(image.shape[:2])
        start = jax.random.uniform(place, (2,)) * (1 - side) * shape
        return jax.image.scale_and_translate(
            image,
            image.shape,
            (0, 1),
            jnp.full(2, 1 / side),
            -start / side,
            "linear",
            antialias=False,
        )

    def several(key: jax.Array, image: jax.Array) -> jax.Array:
        return jax.vmap(one, (0, None))(jax.random.split(key, views), image)

    return jax.vmap(several, out_axes=1)(keys, pixels)


def keys_by_content(pixels: jax.Array, seed: int | jax.Array) -> jax.Array:
    """Return a key an image (n,), by `seed` and the image's own 8-bit pixels alone."""
    levels = jnp.round(jax.lax.stop_gradient(pixels) * 255).astype(jnp.uint32)
    flat = levels.reshape(len(pixels), -1)
    weights = (jnp.arange(flat.shape[1], dtype=jnp.uint32) * 2 + 1) * jnp.uint32(
        2654435761
    )
    mixed = jnp.sum(flat * weights, axis=1, dtype=jnp.uint32)
    key = jax.random.key(seed)
    return jax.vmap(lambda own: jax.random.fold_in(key, own))(mixed)


def _table(base: tuple[int, ...], quality: int) -> NDArray[np.float32]:
    """Return the (8, 8) steps of a quality from 1 to 100, as libjpeg scales them."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = np.clip((np.array(base) * scale + 50) // 100, 1, 255)
    return steps.reshape(BLOCK, BLOCK).astype(np.float32)


def _waves() -> NDArray[np.float32]:
    """Return the orthonormal DCT-II matrix (8, 8)."""
    k, x = np.arange(BLOCK)[:, None], np.arange(BLOCK)
    waves = np.cos(np.pi * k * (2 * x + 1) / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    waves[0] /= np.sqrt(2)
    return np.asarray(waves, np.float32)


def _quantised(planes: jax.Array, steps: NDArray[np.float32]) -> jax.Array:
    """Round the waves of every 8 x 8 block of (... h w) to multiples of `steps`."""
    *lead, h, w = planes.shape
    blocks = planes.reshape(*lead, h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    waves = jnp.asarray(_waves())
    found = jnp.einsum("ki,...aibj,lj->...akbl", waves, blocks, waves)
    table = jnp.asarray(steps)[:, None, :]
    kept = rounded(found / table) * table
    back = jnp.einsum("ki,...akbl,lj->...aibj", waves, kept, waves)
    return rounded(jnp.clip(back.reshape(planes.shape), -128, 127))


def _doubled(planes: jax.Array, axis: int) -> jax.Array:
    """Double the side `axis`: three parts of the nearest sample, one of the next."""
    n, places = planes.shape[axis], jnp.arange(planes.shape[axis])
    before = jnp.take(planes, jnp.maximum(places - 1, 0), axis)
    after = jnp.take(planes, jnp.minimum(places + 1, n - 1), axis)
    pair = jnp.stack([3 * planes + before, 3 * planes + after], axis + 1) / 4
    return pair.reshape(*planes.shape[:axis], 2 * n, *planes.shape[axis + 1 :])
