"""Attention for convolutional networks: which channels count, and which places.

Channel and spatial gates stand last in a residual branch. The branch starts at or
near zero, so that a fresh block is its shortcut whatever the gate says. Modules with
`weights(x)` tell where they look; `attention_maps` collects that.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.backbones.parts import linear
from models.conv import convolve

REDUCE, LEAST = 16, 8  # the papers' share of hidden channels, and no fewer than so many
HEADS = 4
SPAN = 7  # places apart that relative positions tell apart; further ones count alike
GRID = 7  # absolute positions are learnt for so many rows and columns


class SqueezeExcite(nnx.Module):
    """Weigh channels by what all their means say (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        hidden = max(LEAST, features // REDUCE)
        self.first = linear(features, hidden, rngs=rngs)
        self.second = linear(hidden, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the weighed maps (n h w c)."""
        gate = self.second(jax.nn.relu(self.first(x.mean((1, 2)))))
        return x * jax.nn.sigmoid(gate)[:, None, None]


class EfficientChannel(nnx.Module):
    """Weigh channels by their means and their neighbours' (arXiv 1910.03151).

    Wang et al. 2020: one short kernel for all channels, its length by equation 12.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        size = int(abs(math.log2(features) / 2 + 0.5))
        size += 1 - size % 2
        init = nnx.initializers.normal(size**-0.5)
        # A vector, which takes Adam's steps and does not decay.
        self.taps = nnx.Param(init(rngs.params(), (size,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the weighed maps (n h w c)."""
        taps = self.taps[...]
        edge, c = len(taps) // 2, x.shape[-1]
        means = jnp.pad(x.mean((1, 2)), ((0, 0), (edge, edge)))
        gate = sum(means[:, i : i + c] * taps[i] for i in range(len(taps)))
        return x * jax.nn.sigmoid(gate)[:, None, None]


class BlockAttention(nnx.Module):
    """Weigh channels, then places, by their means and maxima (arXiv 1807.06521).

    Woo et al. 2018 (CBAM), equations 2 and 3.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        hidden = max(LEAST, features // REDUCE)
        self.first = linear(features, hidden, rngs=rngs)
        self.second = linear(hidden, features, rngs=rngs)
        self.conv = nnx.Conv(
            2, 1, (7, 7), conv_general_dilated=convolve, use_bias=False, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the weighed maps (n h w c)."""
        x = self._by_channel(x)
        return x * self._by_place(x)[..., None]

    def weights(self, x: jax.Array) -> jax.Array:
        """Return what each place counts (n h w), 0 to 1, for maps (n h w c)."""
        return self._by_place(self._by_channel(x))

    def _by_channel(self, x: jax.Array) -> jax.Array:
        def said(pooled: jax.Array) -> jax.Array:
            return self.second(jax.nn.relu(self.first(pooled)))

        gate = jax.nn.sigmoid(said(x.mean((1, 2))) + said(x.max((1, 2))))
        return x * gate[:, None, None]

    def _by_place(self, x: jax.Array) -> jax.Array:
        seen = jnp.stack([x.mean(-1), x.max(-1)], axis=-1)
        return jax.nn.sigmoid(self.conv(seen))[..., 0]


GATES = {"se": SqueezeExcite, "eca": EfficientChannel, "cbam": BlockAttention}


def make_gate(kind: str, features: int, *, rngs: nnx.Rngs) -> nnx.Module | None:
    """Build the gate of a residual branch; None where `kind` is none, or heads."""
    return GATES[kind](features, rngs=rngs) if kind in GATES else None


class Heads(nnx.Module):
    """Self-attention of places (Srinivas et al. 2021, arXiv 2101.11605, figure 4).

    Keys carry the place, relative to the query's or absolute, as a sum over rows and
    columns. Positions start at zero. Relative ones go by places apart, which are the
    same pixels at every size of image; absolute ones are resampled.
    """

    def __init__(self, features: int, *, positions: str, rngs: nnx.Rngs) -> None:
        self.heads = HEADS if features % HEADS == 0 else 1
        self.relative = positions == "relative"
        self.qkv = linear(features, 3 * features, rngs=rngs)
        rows = 2 * SPAN + 1 if self.relative else GRID
        shape = (rows, features // self.heads)
        self.rows = nnx.Param(jnp.zeros(shape))
        self.columns = nnx.Param(jnp.zeros(shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return what each place gathers from all, (n h w c)."""
        n, h, w, c = x.shape
        query, key, value = self._parts(x)
        share = self._shares(query, key, (h, w)).astype(x.dtype)
        return jnp.einsum("nhqk,nkhd->nqhd", share, value).reshape(n, h, w, c)

    def weights(self, x: jax.Array) -> jax.Array:
        """Return what each place gathers (n heads q k) for maps (n h w c)."""
        query, key, _ = self._parts(x)
        return self._shares(query, key, x.shape[1:3])

    def _parts(self, x: jax.Array) -> tuple[jax.Array, ...]:
        n, h, w, c = x.shape
        qkv = self.qkv(x).reshape(n, h * w, 3, self.heads, c // self.heads)
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]

    def _shares(
        self, query: jax.Array, key: jax.Array, grid: tuple[int, int]
    ) -> jax.Array:
        query = query * query.shape[-1] ** -0.5
        logits = jnp.einsum("nqhd,nkhd->nhqk", query, key)
        place = self._relative if self.relative else self._absolute
        logits = logits + place(query, grid).reshape(logits.shape)
        return jax.nn.softmax(logits.astype(jnp.float32))

    def _relative(self, query: jax.Array, grid: tuple[int, int]) -> jax.Array:
        n, _, heads, d = query.shape
        h, w = grid
        query = query.reshape(n, h, w, heads, d)
        rows = self.rows[...][_apart(h)]  # (query's row, key's row, d)
        columns = self.columns[...][_apart(w)]
        by_row = jnp.einsum("nyxhd,ykd->nhyxk", query, rows)
        by_column = jnp.einsum("nyxhd,xkd->nhyxk", query, columns)
        return by_row[..., :, None] + by_column[..., None, :]

    def _absolute(self, query: jax.Array, grid: tuple[int, int]) -> jax.Array:
        rows, columns = (
            jax.image.resize(table[...], (side, table.shape[1]), "linear")
            for table, side in zip((self.rows, self.columns), grid, strict=True)
        )
        places = (rows[:, None] + columns[None]).reshape(-1, rows.shape[-1])
        return jnp.einsum("nqhd,kd->nhqk", query, places)


def _apart(side: int) -> np.ndarray:
    """Return which relative position (query, key) stands between places of a side."""
    place = np.arange(side)
    return np.clip(place[None] - place[:, None], -SPAN, SPAN) + SPAN


class QueryPool(nnx.Module):
    """The mean of places, weighed by a learnt query (cf. arXiv 1810.00825, 3.2).

    A lighter form: places are their own keys and values. The query starts at zero,
    which is the plain mean.
    """

    def __init__(self, features: int) -> None:
        self.query = nnx.Param(jnp.zeros(features))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the embedding (n c) of maps (n h w c)."""
        share = self.weights(x).astype(x.dtype)
        return jnp.einsum("nhw,nhwc->nc", share, x)

    def weights(self, x: jax.Array) -> jax.Array:
        """Return what each place counts, (n h w), summing to 1."""
        n, h, w, c = x.shape
        logits = (x @ self.query[...]).astype(jnp.float32) * c**-0.5
        return jax.nn.softmax(logits.reshape(n, h * w)).reshape(n, h, w)


def pooled(x: jax.Array, query: QueryPool | None) -> jax.Array:
    """Return the mean of places (n c) of maps (n h w c), a query's if there is one."""
    return x.mean((1, 2)) if query is None else query(x)
