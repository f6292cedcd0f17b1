"""Square: random search over squares, by answers alone.

Andriushchenko et al. 2020, arXiv 1912.00049, algorithms 1 to 3. It needs no gradient,
so that it also breaks networks which only hide theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.attacks.balls import TINY, Budget, check_norm, folded, lengths
from models.attacks.kept import LogitsOf, Seen, first, look
from models.attacks.losses import margin

# Share of the image that a square covers at first, halved after so many of 10,000.
SHARE = 0.8
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
GRID = 5  # tiles along a side that an L2 attack starts from
LEAST = 3  # side of its smallest square


class Square(NamedTuple):
    """A square in each image: top row and left column (n,), and the side ()."""

    top: jax.Array
    left: jax.Array
    side: jax.Array

    def places(self, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """Return rows (n h 1 1) and columns (n 1 w 1) counted from its corner."""
        rows = jnp.arange(shape[1])[None, :, None, None]
        columns = jnp.arange(shape[2])[None, None, :, None]
        return rows - _tall(self.top), columns - _tall(self.left)

    def covers(self, shape: tuple[int, ...]) -> jax.Array:
        """Return which pixels (n h w 1) are in it."""
        inside = [(at >= 0) & (at < self.side) for at in self.places(shape)]
        return inside[0] & inside[1]


def square(
    logits_of: LogitsOf,
    images: jax.Array,
    labels: jax.Array,
    *,
    eps: Budget,
    norm: str = "linf",
    keys: jax.Array,
    queries: int = 500,
) -> jax.Array:
    """Return what broke each image first, else the version of the least margin.

    Args:
        logits_of: See the package; needs no gradient.
        images: (n h w c), 0..1.
        labels: (n,).
        eps: Largest change.
        norm: "linf" or "l2".
        keys: One an image, (n,).
        queries: Answers asked for; fewer where all images are broken.
    """
    check_norm(norm)
    begin, propose = (_stripes, _patch) if norm == "linf" else (_tiles, _bump)
    sides = jnp.asarray(sides_of(queries, images.shape, norm))

    def goes_on(state: tuple[jax.Array, Seen]) -> jax.Array:
        index, kept = state
        return (index < queries) & ~kept.broken.all()

    def ask(state: tuple[jax.Array, Seen]) -> tuple[jax.Array, Seen]:
        index, kept = state
        change = propose(
            images, kept.pixels - images, eps, sides[index], folded(keys, index)
        )
        pixels = jnp.clip(images + change, 0, 1)
        return index + 1, first(kept, look(logits_of, pixels, labels, margin))

    original = look(logits_of, images, labels, margin)
    pixels = jnp.clip(images + begin(images, eps, folded(keys, queries)), 0, 1)
    begun = look(logits_of, pixels, labels, margin)
    # The start replaces the original even where it does less harm: squares change it.
    kept = Seen(
        jnp.where(_tall(original.broken), images, pixels),
        jnp.where(original.broken, original.loss, begun.loss),
        original.broken | begun.broken,
    )
    found = jax.lax.while_loop(goes_on, ask, (jnp.ones((), jnp.int32), kept))[1]
    return found.pixels


def sides_of(queries: int, shape: tuple[int, ...], norm: str) -> np.ndarray:
    """Return the side of the square of each query, (queries,)."""
    _, height, width, _ = shape
    asked = np.arange(queries) * 10_000 / queries
    share = SHARE / 2.0 ** np.searchsorted(HALVINGS, asked, side="left")
    sides = np.round(np.sqrt(share * height * width)).astype(np.int32)
    most = min(height, width)
    if norm == "linf":
        return np.clip(sides, 1, most)
    most -= 1 - most % 2
    return np.minimum(np.maximum(sides, LEAST) // 2 * 2 + 1, most)


def _stripes(images: jax.Array, eps: Budget, keys: jax.Array) -> jax.Array:
    """Return vertical stripes of a pixel's width, each channel up or down by eps."""
    _, _, width, channels = images.shape
    return eps * _signs(keys, (1, width, channels)) * jnp.ones(images.shape)


def _patch(
    images: jax.Array, change: jax.Array, eps: Budget, side: jax.Array, keys: jax.Array
) -> jax.Array:
    """Return the change with a square of one colour in it."""
    where, colours = _halves(keys)
    covered = _anywhere(where, images.shape, side).covers(images.shape)
    colour = eps * _signs(colours, (1, 1, images.shape[-1]))
    return jnp.where(covered, colour, change)


def _tiles(images: jax.Array, eps: Budget, keys: jax.Array) -> jax.Array:
    """Return a grid of bumps whose length is eps, each channel up or down."""
    _, height, width, channels = images.shape
    side = max(min(height, width) // GRID, 1)
    rows, columns = jnp.arange(height) // side, jnp.arange(width) // side
    one = jnp.zeros(1, jnp.int32)
    bump = bump_of(Square(one, one, jnp.asarray(side)), (1, side, side, 1))[0]
    full = bump[jnp.arange(height) % side][:, jnp.arange(width) % side]
    signs = _signs(keys, (height, width, channels))[:, rows * side][
        :, :, columns * side
    ]
    return eps * _unit(full * signs)


def _bump(
    images: jax.Array, change: jax.Array, eps: Budget, side: jax.Array, keys: jax.Array
) -> jax.Array:
    """Return the change with the length of two squares put into a bump in one.

    What clipping left of the budget goes there too (algorithm 3, where the length is
    shared by the channels).
    """
    first, rest = _halves(keys)
    second, rest = _halves(rest)
    signs, turns = _halves(rest)
    shape = images.shape
    here, there = (_anywhere(key, shape, side) for key in (first, second))
    inside, outside = here.covers(shape), there.covers(shape)
    spare = jnp.maximum(eps**2 - jnp.square(change).sum((1, 2, 3), keepdims=True), 0)
    own = jnp.sqrt(
        jnp.where(inside | outside, jnp.square(change), 0).sum((1, 2), keepdims=True)
        + spare / shape[-1]
    )
    old = jnp.where(inside, change, 0)
    old /= jnp.maximum(jnp.sqrt(jnp.square(old).sum((1, 2), keepdims=True)), TINY)
    bump = bump_of(here, shape)
    turned = bump_of(here, shape, across=True)
    across = jax.vmap(jax.random.bernoulli)(turns)[:, None, None, None]
    bump = jnp.where(across, turned, bump)
    bump /= jnp.maximum(jnp.sqrt(jnp.square(bump).sum((1, 2), keepdims=True)), TINY)
    new = bump * _signs(signs, (1, 1, shape[-1])) + old
    new /= jnp.maximum(jnp.sqrt(jnp.square(new).sum((1, 2), keepdims=True)), TINY)
    after = jnp.where(inside, own * new, jnp.where(outside, 0, change))
    return eps * _unit(after)


def bump_of(at: Square, shape: tuple[int, ...], *, across: bool = False) -> jax.Array:
    """Return a hill beside a valley in each square (n h w 1), 0 outside.

    Equation 2 there: heights are sums of 1/k^2 over the square rings around the middle
    of each half.
    """
    rows, columns = at.places(shape)
    if across:
        rows, columns = columns, rows
    half, most = jnp.maximum(at.side // 2, 1), max(shape[1:3])
    heights = jnp.where(
        rows < half,
        _hill(rows, columns, half, at.side, most),
        -_hill(rows - half, columns, at.side - half, at.side, most),
    )
    return jnp.where(at.covers(shape), heights, 0)


def _hill(
    rows: jax.Array, columns: jax.Array, height: jax.Array, width: jax.Array, most: int
) -> jax.Array:
    """Return the hill (n h w 1) of a rectangle, whose corner is row 0, column 0.

    It is as wide as high or wider, and no wider than `most`.
    """
    sums = jnp.cumsum(1 / jnp.square(jnp.arange(1.0, most + 2)))
    sums = jnp.concatenate([jnp.zeros(1), sums])  # of 1/k^2 for k up to the place
    outermost = width // 2 + 1
    away = jnp.maximum(jnp.abs(rows - height // 2), jnp.abs(columns - width // 2))
    return sums[outermost] - sums[jnp.minimum(away, outermost)]


def _anywhere(keys: jax.Array, shape: tuple[int, ...], side: jax.Array) -> Square:
    """Return a square of that side somewhere in each image."""

    def one(key: jax.Array) -> jax.Array:
        room = jnp.array(shape[1:3]) - side + 1
        return jax.random.randint(key, (2,), 0, room)

    top, left = jax.vmap(one)(keys).T
    return Square(top, left, side)


def _signs(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.vmap(lambda key: jax.random.rademacher(key, shape, jnp.float32))(keys)


def _unit(changes: jax.Array) -> jax.Array:
    return changes / jnp.maximum(lengths(changes), TINY)


def _halves(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def _tall(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]
