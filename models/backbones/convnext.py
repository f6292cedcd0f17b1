"""ConvNeXt: Liu et al. 2022, arXiv 2201.03545; V2: Woo et al. 2023, arXiv 2301.00808.

Widths and depths below tiny are those of V2's paper, table 9. V2 normalises the
response of a channel over the map (GRN) where V1 scales the block's output.

| preset | parameters without head, M | multiply-adds at 224 px, G | embedding |
|---|---|---|---|
| convnext_atto, convnextv2_atto | 3.37, 3.39 | 0.55 | 320 |
| convnext_femto, convnextv2_femto | 4.83, 4.85 | 0.78 | 384 |
| convnext_pico, convnextv2_pico | 8.53, 8.55 | 1.37 | 512 |
| convnext_nano, convnextv2_nano | 14.95, 14.98 | 2.44 | 640 |
| convnext_tiny, convnextv2_tiny | 27.82, 27.87 | 4.45 | 768 |
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from models.backbones.attention import QueryPool, make_gate, pooled
from models.backbones.parts import (
    draw_paths,
    gelu,
    layer_norm,
    linear,
    make_head,
    patches,
    skipped,
    still,
)
from models.backbones.pyramid import Pyramid, joined
from models.conv import convolve
from models.design import PLAIN, Design

STEM = 4  # pixels of a side that the stem makes one place of the map
WIDEN = 4
SCALE = 1e-6  # of a fresh block's output in V1


@dataclasses.dataclass(frozen=True)
class Shape:
    """What distinguishes one ConvNeXt from another.

    Attributes:
        widths: Channels of each stage; each stage but the first halves the map.
        depths: Blocks of each stage.
        version: 1, or 2 for global response normalisation.
        design: Choices beside these.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    version: int = 1
    design: Design = PLAIN


_SIZES = {
    "atto": ((40, 80, 160, 320), (2, 2, 6, 2)),
    "femto": ((48, 96, 192, 384), (2, 2, 6, 2)),
    "pico": ((64, 128, 256, 512), (2, 2, 6, 2)),
    "nano": ((80, 160, 320, 640), (2, 2, 8, 2)),
    "tiny": ((96, 192, 384, 768), (3, 3, 9, 3)),
}
SHAPES = {
    f"convnext{name}_{size}": Shape(widths, depths, version)
    for version, name in ((1, ""), (2, "v2"))
    for size, (widths, depths) in _SIZES.items()
}


class ResponseNorm(nnx.Module):
    """Global response normalisation (arXiv 2301.00808, section 4)."""

    def __init__(self, features: int) -> None:
        self.scale = nnx.Param(jnp.zeros(features))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return maps (n h w c) with each channel weighed by its share of the norm."""
        squares = jnp.square(x.astype(jnp.float32)).sum((1, 2), keepdims=True)
        # An empty channel has no gradient through its root without the floor.
        norm = jnp.sqrt(jnp.maximum(squares, 1e-24))
        share = norm / (norm.mean(-1, keepdims=True) + 1e-6)
        return x + self.bias[...] + self.scale[...] * (x * share.astype(x.dtype))


class Block(nnx.Module):
    """A 7x7 depthwise convolution, then a narrow-wide-narrow pair of dense layers."""

    def __init__(
        self, features: int, *, version: int, attention: str, rngs: nnx.Rngs
    ) -> None:
        self.conv = nnx.Conv(
            features,
            features,
            (7, 7),
            padding=((3, 3), (3, 3)),
            feature_group_count=features,
            kernel_init=nnx.initializers.truncated_normal(0.02),
            conv_general_dilated=convolve,
            rngs=rngs,
        )
        self.norm = layer_norm(features, rngs=rngs)
        self.first = linear(features, WIDEN * features, rngs=rngs)
        self.response = nnx.data(
            ResponseNorm(WIDEN * features) if version == 2 else None
        )
        self.second = linear(WIDEN * features, features, rngs=rngs)
        self.scale = nnx.data(
            nnx.Param(jnp.full(features, SCALE)) if version == 1 else None
        )
        self.gate = nnx.data(make_gate(attention, features, rngs=rngs))

    def __call__(self, x: jax.Array, *, keep: jax.Array | None = None) -> jax.Array:
        """Return the block's output for maps `x` (n h w c); `keep` as in `skipped`."""
        y = gelu(self.first(self.norm(self.conv(x))))
        if self.response is not None:
            y = self.response(y)
        y = self.second(y)
        y = y if self.gate is None else self.gate(y)
        y = y if self.scale is None else self.scale[...] * y
        return x + skipped(y, keep)


class Stage(nnx.Module):
    """A norm and 2x2 patches that halve the map, except at first, and blocks."""

    def __init__(
        self,
        inputs: int | None,
        outputs: int,
        *,
        depth: int,
        version: int,
        attention: str,
        rngs: nnx.Rngs,
    ) -> None:
        self.norm = nnx.data(layer_norm(inputs, rngs=rngs) if inputs else None)
        self.down = nnx.data(
            patches(inputs, outputs, size=2, rngs=rngs) if inputs else None
        )
        self.blocks = nnx.List(
            Block(outputs, version=version, attention=attention, rngs=rngs)
            for _ in range(depth)
        )

    def __call__(self, x: jax.Array, paths: Sequence[jax.Array | None]) -> jax.Array:
        """Return the stage's map for the map `x` (n h w c) before it.

        Args:
            x: Map.
            paths: Of each block, from `draw_paths`.
        """
        if self.norm is not None and self.down is not None:
            x = self.down(_filled(self.norm(x), least=2))
        for block, keep in zip(self.blocks, paths, strict=True):
            x = block(x, keep=keep)
        return x


def _filled(x: jax.Array, *, least: int) -> jax.Array:
    """Repeat the edge of maps narrower than one patch, which would leave no map."""
    short = [max(0, least - side) for side in x.shape[1:3]]
    if not any(short):
        return x
    return jnp.pad(x, ((0, 0), (0, short[0]), (0, short[1]), (0, 0)), mode="edge")


class ConvNeXt(nnx.Module):
    """4x4 patches, four stages, mean over the map, norm, head.

    Attributes:
        stages: How many parts `freeze` counts, besides the stem.
        frozen: Leading parts that are not trained; there are no statistics to keep.
    """

    def __init__(
        self, shape: Shape, *, num_classes: int, rngs: nnx.Rngs, head: str = "linear"
    ) -> None:
        widths, design = shape.widths, shape.design
        self.shape, self.frozen = shape, 0
        self.stages = len(widths)
        self.stem = patches(3, widths[0], size=STEM, rngs=rngs)
        self.stem_norm = layer_norm(widths[0], rngs=rngs)
        self.parts = nnx.List(
            Stage(
                inputs,
                outputs,
                depth=depth,
                version=shape.version,
                attention=design.attention,
                rngs=rngs,
            )
            for inputs, outputs, depth in zip(
                (None, *widths), widths, shape.depths, strict=False
            )
        )
        self.norm = layer_norm(widths[-1], rngs=rngs)
        own = design.pool == "own"
        self.query = nnx.data(None if own else QueryPool(widths[-1]))
        self.pyramid = nnx.data(Pyramid(widths, rngs=rngs) if design.pyramid else None)
        self.dropout = nnx.Dropout(design.dropout)
        width = widths[-1] + (self.pyramid.outputs if self.pyramid else 0)
        self.head = make_head(head, width, num_classes, rngs=rngs)

    def part_of(self, path: tuple[str | int, ...]) -> int:
        """Return where a parameter is: 0 stem, 1.. stages, norm and pools, the head."""
        last = self.stages + 1
        after = {"stem": 0, "stem_norm": 0, "norm": last, "query": last}
        if path[0] == "parts":
            return 1 + int(path[1])
        return (after | {"pyramid": last}).get(str(path[0]), last + 1)

    def features(
        self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> dict[int, jax.Array]:
        """Return the last map (n h w c) of each stage, by its stride."""
        depths, rate = self.shape.depths, self.shape.design.drop_path
        paths = draw_paths(rate, x, sum(depths), train=train, rngs=rngs)
        x = self.stem_norm(self.stem(_filled(x, least=STEM)))
        maps = {}
        for index, (stage, depth) in enumerate(zip(self.parts, depths, strict=True)):
            frozen, own = index + 1 < self.frozen, paths[:depth]
            paths = paths[depth:]
            x = still(stage(x, [None] * depth if frozen else own), frozen)
            maps[STEM << index] = x
        return maps

    def embed(
        self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return the normed pool of the last map (n d) for images (n h w c)."""
        maps = [*self.features(x, train=train, rngs=rngs).values()]
        out = self.norm(pooled(maps[-1], self.query))
        out = joined(out, self.pyramid, maps)
        return still(out, self.stages + 1 < self.frozen)

    def __call__(
        self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return logits (n classes); `rngs` feeds dropout and skips in training."""
        x = self.embed(x, train=train, rngs=rngs)
        return self.head(self.dropout(x, deterministic=not train, rngs=rngs))
