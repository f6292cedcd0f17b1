"""Vision transformers, and the variants of DINOv2 and SigLIP.

ViT: Dosovitskiy et al. 2021, arXiv 2010.11929; sizes below base: Touvron et al. 2021,
arXiv 2012.12877. DINOv2, without registers: Oquab et al. 2023, arXiv 2304.07193.
SigLIP, image tower: Zhai et al. 2023, arXiv 2303.15343.

| preset | patch | parameters without head, M | multiply-adds at 224 px, G | embedding |
|---|---|---|---|---|
| vit_tiny | 16 | 5.52 | 1.25 | 192 |
| vit_small | 16 | 21.67 | 4.60 | 384 |
| vit_base | 16 | 85.80 | 17.56 | 768 |
| dinov2_small | 14 | 22.06 | 6.14 | 384 |
| dinov2_base | 14 | 86.58 | 23.19 | 768 |
| siglip_base | 16 | 92.88 | 17.71 | 768 |
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from models.backbones.attention import QueryPool
from models.backbones.parts import (
    Activation,
    Mlp,
    draw_paths,
    gelu,
    gelu_tanh,
    layer_norm,
    linear,
    make_head,
    patches,
    skipped,
    still,
)
from models.design import PLAIN, Design

LEAST = 2  # patches along a side
WIDEN = 4


@dataclasses.dataclass(frozen=True)
class Shape:
    """What distinguishes one vision transformer from another.

    Attributes:
        width: Of a token.
        depth: Blocks.
        heads: Of attention.
        patch: Side of the pixels of a token.
        grid: Tokens along a side that positions are learnt for; others interpolate.
        pool: "token" (of the class), or "map" (attention with a learnt query).
        scale: Of a fresh block's output (LayerScale); None has none.
        tanh: Whether GELU goes by its approximation.
        design: Choices beside these.
    """

    width: int
    depth: int
    heads: int
    patch: int = 16
    grid: int = 14
    pool: str = "token"
    scale: float | None = None
    tanh: bool = False
    design: Design = PLAIN

    @property
    def activation(self) -> Activation:
        """What bends the dense layers."""
        return gelu_tanh if self.tanh else gelu


SHAPES = {
    "vit_tiny": Shape(192, 12, 3),
    "vit_small": Shape(384, 12, 6),
    "vit_base": Shape(768, 12, 12),
    "dinov2_small": Shape(384, 12, 6, patch=14, grid=37, scale=1e-5),
    "dinov2_base": Shape(768, 12, 12, patch=14, grid=37, scale=1e-5),
    "siglip_base": Shape(768, 12, 12, pool="map", tanh=True),
}


class Attention(nnx.Module):
    """Self-attention of several heads; query, key and value in one kernel."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.qkv = linear(width, 3 * width, rngs=rngs)
        self.out = linear(width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return what each token (n t d) gathers from all."""
        y = jax.nn.dot_product_attention(*self._parts(x))
        return self.out(y.reshape(x.shape))

    def weights(self, x: jax.Array) -> jax.Array:
        """Return how much each token gathers of each (n heads q k), for (n t d)."""
        query, key, _ = self._parts(x)
        return shares(query, key)

    def _parts(self, x: jax.Array) -> tuple[jax.Array, ...]:
        n, t, d = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads)
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]


def shares(query: jax.Array, key: jax.Array) -> jax.Array:
    """Return attention (n heads q k) of queries (n q heads d) over keys."""
    logits = jnp.einsum("nqhd,nkhd->nhqk", query, key) * query.shape[-1] ** -0.5
    return jax.nn.softmax(logits.astype(jnp.float32))


class Block(nnx.Module):
    """Attention and dense layers, each behind a norm and beside a shortcut."""

    def __init__(self, shape: Shape, *, rngs: nnx.Rngs) -> None:
        d = shape.width
        self.norm1 = layer_norm(d, rngs=rngs)
        self.attention = Attention(d, shape.heads, rngs=rngs)
        self.scale1 = nnx.data(_scale(shape))
        self.norm2 = layer_norm(d, rngs=rngs)
        self.mlp = Mlp(d, WIDEN * d, activation=shape.activation, rngs=rngs)
        self.scale2 = nnx.data(_scale(shape))

    def __call__(self, x: jax.Array, *, keep: jax.Array | None = None) -> jax.Array:
        """Return the tokens (n t d) after the block; `keep` as in `skipped`."""
        y = self.attention(self.norm1(x))
        y = y if self.scale1 is None else self.scale1[...] * y
        x = x + skipped(y, keep)
        y = self.mlp(self.norm2(x))
        y = y if self.scale2 is None else self.scale2[...] * y
        return x + skipped(y, keep)


def _scale(shape: Shape) -> nnx.Param | None:
    if shape.scale is None:
        return None
    return nnx.Param(jnp.full(shape.width, shape.scale))


class AttentionPool(nnx.Module):
    """One token of all, by a learnt query (arXiv 1810.00825, section 3.2)."""

    def __init__(self, shape: Shape, *, rngs: nnx.Rngs) -> None:
        d = shape.width
        self.heads = shape.heads
        init = nnx.initializers.truncated_normal(d**-0.5)
        self.probe = nnx.Param(init(rngs.params(), (d,)))
        self.qkv = linear(d, 3 * d, rngs=rngs)
        self.out = linear(d, d, rngs=rngs)
        self.norm = layer_norm(d, rngs=rngs)
        self.mlp = Mlp(d, WIDEN * d, activation=shape.activation, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the pooled token (n d) of tokens (n t d)."""
        y = jax.nn.dot_product_attention(*self._parts(x))
        y = self.out(y.reshape(len(x), -1))
        return y + self.mlp(self.norm(y))

    def weights(self, x: jax.Array) -> jax.Array:
        """Return how much each token counts (n heads 1 t), for tokens (n t d)."""
        query, key, _ = self._parts(x)
        return shares(query, key)

    def _parts(self, x: jax.Array) -> tuple[jax.Array, ...]:
        n, t, d = x.shape
        kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]
        query = self.probe[...] @ kernel[:, :d] + bias[:d]
        pairs = (x @ kernel[:, d:] + bias[d:]).reshape(n, t, 2, self.heads, -1)
        query = jnp.broadcast_to(
            query.reshape(1, self.heads, -1), (n, 1, *pairs.shape[3:])
        )
        return query, pairs[:, :, 0], pairs[:, :, 1]


class VisionTransformer(nnx.Module):
    """Patches and their positions, blocks, norm, one token for the head.

    Images whose side is no multiple of the patch are resized to the nearest one, of
    two patches at least; positions follow by cubic interpolation.

    Attributes:
        stages: How many parts `freeze` counts, besides the stem: the blocks.
        frozen: Leading parts that are not trained; there are no statistics to keep.
    """

    def __init__(
        self, shape: Shape, *, num_classes: int, rngs: nnx.Rngs, head: str = "linear"
    ) -> None:
        d = shape.width
        self.shape, self.stages, self.frozen = shape, shape.depth, 0
        init = nnx.initializers.truncated_normal(0.02)
        own = shape.pool == "token"
        self.stem = patches(3, d, size=shape.patch, rngs=rngs)
        self.token = nnx.data(nnx.Param(init(rngs.params(), (d,))) if own else None)
        self.positions = nnx.Param(init(rngs.params(), (shape.grid**2 + own, d)))
        self.blocks = nnx.List(Block(shape, rngs=rngs) for _ in range(shape.depth))
        self.norm = layer_norm(d, rngs=rngs)
        self.pool = nnx.data(None if own else AttentionPool(shape, rngs=rngs))
        light = shape.design.pool == "attention"
        self.query = nnx.data(QueryPool(d) if light else None)
        self.dropout = nnx.Dropout(shape.design.dropout)
        self.head = make_head(head, d, num_classes, rngs=rngs)

    def part_of(self, path: tuple[str | int, ...]) -> int:
        """Return where a parameter is: 0 stem, 1.. blocks, norm and pools, the head."""
        last = self.stages + 1
        after = {"stem": 0, "token": 0, "positions": 0}
        after |= {"norm": last, "pool": last, "query": last}
        if path[0] == "blocks":
            return 1 + int(path[1])
        return after.get(str(path[0]), last + 1)

    def tokens(
        self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, tuple[int, int]]:
        """Return the normed tokens (n t d) of images (n h w c), and their grid."""
        rate, depth = self.shape.design.drop_path, len(self.blocks)
        paths = draw_paths(rate, x, depth, train=train, rngs=rngs)
        x = self.stem(_to_patches(x, patch=self.shape.patch))
        n, h, w, d = x.shape
        x = x.reshape(n, h * w, d)
        if self.token is not None:
            first = jnp.broadcast_to(self.token[...], (n, 1, d))
            x = jnp.concatenate([first, x], axis=1)
        x = x + resampled(
            self.positions[...], grid=(h, w), extra=int(self.token is not None)
        )
        for index, (block, keep) in enumerate(zip(self.blocks, paths, strict=True)):
            frozen = index + 1 < self.frozen
            x = still(block(x, keep=None if frozen else keep), frozen)
        return self.norm(x), (h, w)

    def features(
        self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> dict[int, jax.Array]:
        """Return the map of tokens (n h w d) of images (n h w c), by the patch."""
        x, grid = self.tokens(x, train=train, rngs=rngs)
        return {self.shape.patch: self._map(x, grid)}

    def _map(self, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        x = x[:, int(self.token is not None) :]
        return x.reshape(len(x), *grid, -1)

    def embed(
        self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return the pooled token (n d) of normalised images (n h w c)."""
        x, grid = self.tokens(x, train=train, rngs=rngs)
        if self.query is not None:
            out = self.query(self._map(x, grid))
        else:
            out = x[:, 0] if self.pool is None else self.pool(x)
        return still(out, self.stages + 1 < self.frozen)

    def __call__(
        self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return logits (n classes); `rngs` feeds dropout and skips in training."""
        x = self.embed(x, train=train, rngs=rngs)
        return self.head(self.dropout(x, deterministic=not train, rngs=rngs))


def _to_patches(x: jax.Array, *, patch: int) -> jax.Array:
    """Resize images (n h w c) to sides that patches tile."""
    h, w = (patch * max(LEAST, round(side / patch)) for side in x.shape[1:3])
    if (h, w) == x.shape[1:3]:
        return x
    return jax.image.resize(x, (len(x), h, w, x.shape[3]), "bilinear")


def resampled(table: jax.Array, *, grid: tuple[int, int], extra: int) -> jax.Array:
    """Return positions (extra + h w, d) for another `grid` (h, w) than learnt for.

    Args:
        table: Positions (extra + side side, d) of a square grid.
        grid: Rows and columns wanted.
        extra: Leading rows that are no places, which stay as they are.
    """
    side, d = round((len(table) - extra) ** 0.5), table.shape[1]
    if grid == (side, side):
        return table
    places = table[extra:].reshape(side, side, d)
    places = jax.image.resize(places, (*grid, d), "cubic").reshape(-1, d)
    return jnp.concatenate([table[:extra], places])
