"""Cut images into segments that LIME and KernelSHAP hide whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.explain.how import Segments

ROUNDS = 10
# How much a place counts against a colour: larger makes segments rounder.
COMPACT = 0.5


def segment(pixels: jax.Array, *, cells: int, kind: Segments) -> jax.Array:
    """Return the segment of every pixel (n h w), of `cells` x `cells` in each image.

    Args:
        pixels: Images (n h w c), 0..1.
        cells: Rows and columns of the grid that segments are, or start from.
        kind: The grid itself, or clusters of colour and place around its cells.
    """
    _, h, w, _ = pixels.shape
    rows, columns = (jnp.arange(side) * cells // side for side in (h, w))
    grid = rows[:, None] * cells + columns[None]
    if kind == Segments.grid:
        return jnp.broadcast_to(grid, pixels.shape[:3])
    return jax.vmap(lambda image: _clusters(image, grid, cells=cells))(pixels)


def _clusters(image: jax.Array, grid: jax.Array, *, cells: int) -> jax.Array:
    """Return k-means of colour and place, started from a grid.

    The objective is that of SLIC (Achanta et al. 2012, doi 10.1109/TPAMI.2012.120,
    equation 3) over all centres rather than those nearby, so that it compiles; pieces
    of a segment need not touch.
    """
    h, w, c = image.shape
    places = jnp.stack(
        jnp.meshgrid(jnp.arange(h) / h, jnp.arange(w) / w, indexing="ij"), -1
    )
    # Distances of a cell's side weigh COMPACT of a full step of colour.
    points = jnp.concatenate([image, places * (COMPACT * cells)], -1).reshape(-1, c + 2)

    def centres(own: jax.Array) -> jax.Array:
        one = jax.nn.one_hot(own, cells * cells)
        return one.T @ points / jnp.maximum(one.sum(0)[:, None], 1e-6)

    def better(own: jax.Array, _: None) -> tuple[jax.Array, None]:
        middle = centres(own)
        far = (middle**2).sum(-1) - 2 * points @ middle.T
        empty = jax.nn.one_hot(own, cells * cells).sum(0) == 0
        return jnp.where(empty, jnp.inf, far).argmin(-1), None

    own, _ = jax.lax.scan(better, grid.reshape(-1), None, length=ROUNDS)
    return own.reshape(h, w)
