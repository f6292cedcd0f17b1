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

from models.backbones.parts import ConvNorm, make_head, staged

WIDEN = 4  # outputs of a bottleneck, as a multiple of its inner channels


@dataclasses.dataclass(frozen=True)
class Shape:
    """What distinguishes one residual network from another.

    Attributes:
        widths: Channels of each stage; each stage but the first halves the map. In a
            bottleneck the inner ones.
        depths: Blocks of each stage.
        stem: "half" (4x4 by 2), "cifar" (3x3 by 1) or "imagenet" (7x7 by 2, max-pool).
        dropout: Share of the embedding dropped in training.
        bottleneck: Whether blocks are 1x1, 3x3, 1x1 instead of two 3x3.
        shortcut: "pooled" or "strided", where a block halves the map.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stem: str
    dropout: float = 0.0
    bottleneck: bool = False
    shortcut: str = "pooled"

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
    ) -> None:
        self.stride = stride
        self.pooled = shortcut == "pooled"
        self.first = ConvNorm(inputs, outputs, size=3, stride=stride, rngs=rngs)
        self.second = ConvNorm(outputs, outputs, size=3, rngs=rngs)
        # Each block starts as its shortcut (arXiv 1706.02677, section 5.1).
        self.second.norm.scale.set_value(jnp.zeros(outputs))
        self.shortcut = nnx.data(
            _shortcut(inputs, outputs, stride, pooled=self.pooled, rngs=rngs)
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Return the block's output for maps `x` (n h w c)."""
        y = self.second(jax.nn.relu(self.first(x, train=train)), train=train)
        return jax.nn.relu(_around(self, x, train=train) + y)


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
    ) -> None:
        outputs = WIDEN * inner
        self.stride = stride
        self.pooled = shortcut == "pooled"
        self.first = ConvNorm(inputs, inner, size=1, rngs=rngs)
        self.second = ConvNorm(inner, inner, size=3, stride=stride, rngs=rngs)
        self.third = ConvNorm(inner, outputs, size=1, rngs=rngs)
        self.third.norm.scale.set_value(jnp.zeros(outputs))
        self.shortcut = nnx.data(
            _shortcut(inputs, outputs, stride, pooled=self.pooled, rngs=rngs)
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Return the block's output for maps `x` (n h w c)."""
        y = jax.nn.relu(self.first(x, train=train))
        y = jax.nn.relu(self.second(y, train=train))
        y = self.third(y, train=train)
        return jax.nn.relu(_around(self, x, train=train) + y)


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
    halved = _halve(x) if block.pooled and block.stride == 2 else x
    return block.shortcut(halved, train=train)


def _halve(x: jax.Array) -> jax.Array:
    """Average 2x2 neighbours; odd edges repeat."""
    n, h, w, c = x.shape
    if h % 2 or w % 2:
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    return x.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2, c).mean((2, 4))


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
        inputs = shape.widths[0]
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
                    )
                )
                inputs = widen * width
        self.blocks = nnx.List(blocks)
        self.dropout = nnx.Dropout(shape.dropout)
        self.head = make_head(head, inputs, num_classes, rngs=rngs)

    def part_of(self, path: tuple[str | int, ...]) -> int:
        """Return where a parameter is: 0 stem, 1.. stages, then the head."""
        if path[0] == "blocks":
            return 1 + self.shape.stage_of(int(path[1]))
        return 0 if path[0] == "stem" else 2 + self.stages

    def features(self, x: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """Return the last map (n h w c) of each stage, by its stride."""
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
        )

    def embed(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Return the mean of the last map (n d) for normalised images (n h w c)."""
        *_, last = self.features(x, train=train).values()
        return last.mean((1, 2))

    def __call__(
        self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return logits (n classes); `rngs` feeds dropout in training."""
        x = self.embed(x, train=train)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        return self.head(x)
