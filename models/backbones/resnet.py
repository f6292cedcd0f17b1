"""Residual networks: He et al. 2016, arXiv 1512.03385.

`small` and `resnet18` shorten maps by an average pool in the shortcut, as ResNet-D
(He et al. 2019, arXiv 1812.01187). Those whose names end in `_tv` are torchvision's:
strided 1x1 shortcuts, and in bottlenecks the stride on the 3x3 (version 1.5).

| preset | parameters without head, M | multiply-adds at 224 px, G | embedding |
|---|---|---|---|
| small | 1.23 | 0.79 | 256 |
| resnet18 | 11.18 | 1.81 | 512 |
| resnet18_tv | 11.18 | 1.81 | 512 |
| resnet34_tv | 21.28 | 3.66 | 512 |
| resnet50_tv | 23.51 | 4.09 | 2048 |
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from models.backbones.attention import QueryPool, make_gate, pooled
from models.backbones.parts import (
    ConvNorm,
    draw_paths,
    halve,
    make_head,
    skipped,
    staged,
    still,
)
from models.backbones.pyramid import Pyramid, joined
from models.backbones.spatial import HeadsNorm, ParallelNorm
from models.design import PLAIN, Design

WIDEN = 4  # outputs of a bottleneck, as a multiple of its inner channels


@dataclasses.dataclass(frozen=True)
class Shape:
    """What distinguishes one residual network from another.

    Attributes:
        widths: Channels of each stage; each stage but the first halves the map. In a
            bottleneck the inner ones.
        depths: Blocks of each stage.
        stem: "half" (4x4 by 2), "cifar" (3x3 by 1) or "imagenet" (7x7 by 2, max-pool).
        bottleneck: Whether blocks are 1x1, 3x3, 1x1 instead of two 3x3.
        shortcut: "pooled" or "strided", where a block halves the map.
        design: Choices beside these.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stem: str
    bottleneck: bool = False
    shortcut: str = "pooled"
    design: Design = PLAIN

    def stage_of(self, block: int) -> int:
        """Return the stage, from 0, of a block counted through all stages."""
        ends = [sum(self.depths[: k + 1]) for k in range(len(self.depths))]
        return next(stage for stage, end in enumerate(ends) if block < end)


WIDTHS = (64, 128, 256, 512)
SHAPES = {
    "small": Shape((32, 64, 128, 256), (1, 1, 1, 1), "half"),
    "resnet18": Shape(WIDTHS, (2, 2, 2, 2), "imagenet"),
    "resnet18_tv": Shape(WIDTHS, (2, 2, 2, 2), "imagenet", shortcut="strided"),
    "resnet34_tv": Shape(WIDTHS, (3, 4, 6, 3), "imagenet", shortcut="strided"),
    "resnet50_tv": Shape(
        WIDTHS, (3, 4, 6, 3), "imagenet", bottleneck=True, shortcut="strided"
    ),
}


def shape_of(preset: str, *, image_size: int) -> Shape:
    """Return the layers of `preset`; `resnet18` spares small images the large stem."""
    shape = SHAPES[preset]
    if preset == "resnet18" and image_size <= 64:
        return dataclasses.replace(shape, stem="cifar")
    return shape


class Block(nnx.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        rngs: nnx.Rngs,
        shortcut: str = "pooled",
        design: Design = PLAIN,
        last: bool = False,
    ) -> None:
        self.stride = stride
        self.pooled = shortcut == "pooled"
        self.first = ConvNorm(inputs, outputs, size=3, stride=stride, rngs=rngs)
        self.second = _spatial(outputs, 1, design, last=last, rngs=rngs)
        # Each block starts as its shortcut (arXiv 1706.02677, section 5.1).
        self.second.norm.scale.set_value(jnp.zeros(outputs))
        self.shortcut = nnx.data(
            _shortcut(inputs, outputs, stride, pooled=self.pooled, rngs=rngs)
        )
        self.gate = nnx.data(make_gate(design.attention, outputs, rngs=rngs))

    def __call__(
        self, x: jax.Array, *, train: bool, keep: jax.Array | None = None
    ) -> jax.Array:
        """Return the block's output for maps `x` (n h w c); `keep` as in `skipped`."""
        y = self.second(jax.nn.relu(self.first(x, train=train)), train=train)
        return _closed(self, x, y, train=train, keep=keep)


class Bottleneck(nnx.Module):
    """A 3x3 convolution between two 1x1, around a shortcut; the last one widens."""

    def __init__(
        self,
        inputs: int,
        inner: int,
        *,
        stride: int,
        rngs: nnx.Rngs,
        shortcut: str = "pooled",
        design: Design = PLAIN,
        last: bool = False,
    ) -> None:
        outputs = WIDEN * inner
        self.stride = stride
        self.pooled = shortcut == "pooled"
        self.first = ConvNorm(inputs, inner, size=1, rngs=rngs)
        self.second = _spatial(inner, stride, design, last=last, rngs=rngs)
        self.third = ConvNorm(inner, outputs, size=1, rngs=rngs)
        self.third.norm.scale.set_value(jnp.zeros(outputs))
        self.shortcut = nnx.data(
            _shortcut(inputs, outputs, stride, pooled=self.pooled, rngs=rngs)
        )
        self.gate = nnx.data(make_gate(design.attention, outputs, rngs=rngs))

    def __call__(
        self, x: jax.Array, *, train: bool, keep: jax.Array | None = None
    ) -> jax.Array:
        """Return the block's output for maps `x` (n h w c); `keep` as in `skipped`."""
        y = jax.nn.relu(self.first(x, train=train))
        y = jax.nn.relu(self.second(y, train=train))
        y = self.third(y, train=train)
        return _closed(self, x, y, train=train, keep=keep)


def _spatial(
    features: int, stride: int, design: Design, *, last: bool, rngs: nnx.Rngs
) -> ConvNorm | HeadsNorm | ParallelNorm:
    """Build what looks beyond a place; `last` is whether in the last stage."""
    if last and design.attention == "heads":
        return HeadsNorm(features, positions=design.positions, stride=stride, rngs=rngs)
    if design.kernels == "parallel":
        return ParallelNorm(features, features, stride=stride, rngs=rngs)
    return ConvNorm(features, features, size=3, stride=stride, rngs=rngs)


def _closed(
    block: Block | Bottleneck,
    x: jax.Array,
    y: jax.Array,
    *,
    train: bool,
    keep: jax.Array | None,
) -> jax.Array:
    """Return the sum of a block's branch `y`, gated, and its shortcut of `x`."""
    y = skipped(y if block.gate is None else block.gate(y), keep)
    return jax.nn.relu(_around(block, x, train=train) + y)


def _shortcut(
    inputs: int, outputs: int, stride: int, *, pooled: bool, rngs: nnx.Rngs
) -> ConvNorm | None:
    if stride == 1 and inputs == outputs:
        return None
    step = 1 if pooled else stride
    return ConvNorm(inputs, outputs, size=1, stride=step, rngs=rngs)


def _around(block: Block | Bottleneck, x: jax.Array, *, train: bool) -> jax.Array:
    if block.shortcut is None:
        return x
    halved = halve(x) if block.pooled and block.stride == 2 else x
    return block.shortcut(halved, train=train)


class ResNet(nnx.Module):
    """Stem, stages of residual blocks, mean over the map, head.

    Attributes:
        stages: How many parts `freeze` counts, besides the stem.
        frozen: Leading parts (stem, stages) that keep their batch statistics.
    """

    def __init__(
        self, shape: Shape, *, num_classes: int, rngs: nnx.Rngs, head: str = "linear"
    ) -> None:
        size, stride = {"half": (4, 2), "cifar": (3, 1), "imagenet": (7, 2)}[shape.stem]
        inputs, design = shape.widths[0], shape.design
        self.shape, self.stages, self.frozen = shape, len(shape.widths), 0
        self.pool = shape.stem == "imagenet"
        self.stride = 2 * stride if self.pool else stride
        self.stem = ConvNorm(3, inputs, size=size, stride=stride, rngs=rngs)
        build, widen = (Bottleneck, WIDEN) if shape.bottleneck else (Block, 1)
        blocks = []
        for stage, (width, depth) in enumerate(
            zip(shape.widths, shape.depths, strict=True)
        ):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(
                    build(
                        inputs,
                        width,
                        stride=stride,
                        rngs=rngs,
                        shortcut=shape.shortcut,
                        design=design,
                        last=stage == self.stages - 1,
                    )
                )
                inputs = widen * width
        self.blocks = nnx.List(blocks)
        widths = [widen * width for width in shape.widths]
        self.query = nnx.data(QueryPool(inputs) if design.pool == "attention" else None)
        self.pyramid = nnx.data(Pyramid(widths, rngs=rngs) if design.pyramid else None)
        self.dropout = nnx.Dropout(design.dropout)
        width = inputs + (self.pyramid.outputs if self.pyramid else 0)
        self.head = make_head(head, width, num_classes, rngs=rngs)

    def part_of(self, path: tuple[str | int, ...]) -> int:
        """Return where a parameter is: 0 stem, 1.. stages, what pools, the head."""
        last = self.stages + 1
        after = {"stem": 0, "query": last, "pyramid": last}
        if path[0] == "blocks":
            return 1 + self.shape.stage_of(int(path[1]))
        return after.get(str(path[0]), last + 1)

    def features(
        self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> dict[int, jax.Array]:
        """Return the last map (n h w c) of each stage, by its stride."""
        depth, rate = len(self.blocks), self.shape.design.drop_path
        x = jax.nn.relu(self.stem(x, train=train and not self.frozen))
        if self.pool:
            x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return staged(
            x,
            self.blocks,
            [1 + self.shape.stage_of(index) for index in range(len(self.blocks))],
            stride=self.stride,
            frozen=self.frozen,
            train=train,
            paths=draw_paths(rate, x, depth, train=train, rngs=rngs),
        )

    def embed(
        self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return the pooled maps (n d) of normalised images (n h w c)."""
        maps = [*self.features(x, train=train, rngs=rngs).values()]
        out = joined(pooled(maps[-1], self.query), self.pyramid, maps)
        return still(out, self.stages + 1 < self.frozen)

    def __call__(
        self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return logits (n classes); `rngs` feeds dropout and skips in training."""
        x = self.embed(x, train=train, rngs=rngs)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        return self.head(x)
