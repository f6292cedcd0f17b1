"""MobileNetV3, for the edge: Howard et al. 2019, arXiv 1905.02244, tables 1 and 2.

| preset | parameters without head, M | multiply-adds at 224 px, G | embedding |
|---|---|---|---|
| mobilenetv3_small | 1.52 | 0.06 | 1024 |
| mobilenetv3_large | 4.20 | 0.22 | 1280 |
"""

import dataclasses

import jax
from flax import nnx

from models.backbones.attention import QueryPool, pooled
from models.backbones.parts import ConvNorm, linear, make_head, staged, still
from models.backbones.pyramid import Pyramid, joined
from models.design import PLAIN, Design

# Torchvision's, whose weights these are meant for.
NORM = {"momentum": 0.99, "epsilon": 1e-3}
STEM = 16


@dataclasses.dataclass(frozen=True)
class Row:
    """One inverted residual block.

    Attributes:
        size: Side of the depthwise kernel.
        inner: Channels of the depthwise convolution.
        outputs: Channels of the block.
        squeeze: Whether channels are weighed by their mean (arXiv 1709.01507).
        hard_swish: Activation; relu otherwise.
        stride: Of the depthwise convolution.
    """

    size: int
    inner: int
    outputs: int
    squeeze: bool
    hard_swish: bool
    stride: int


@dataclasses.dataclass(frozen=True)
class Shape:
    """What distinguishes one MobileNetV3 from another.

    Attributes:
        rows: The blocks.
        hidden: Width of the embedding.
        design: Choices beside these.
    """

    rows: tuple[Row, ...]
    hidden: int
    design: Design = PLAIN

    @property
    def ends(self) -> tuple[int, ...]:
        """Index of each stage's last block: before a stride of 2, and the last."""
        last = len(self.rows) - 1
        return tuple(
            i for i in range(len(self.rows)) if i == last or self.rows[i + 1].stride > 1
        )

    def stage_of(self, block: int) -> int:
        """Return the stage, from 0, of a block."""
        return next(stage for stage, end in enumerate(self.ends) if block <= end)


SHAPES = {
    "mobilenetv3_small": Shape(
        rows=(
            Row(3, 16, 16, True, False, 2),
            Row(3, 72, 24, False, False, 2),
            Row(3, 88, 24, False, False, 1),
            Row(5, 96, 40, True, True, 2),
            Row(5, 240, 40, True, True, 1),
            Row(5, 240, 40, True, True, 1),
            Row(5, 120, 48, True, True, 1),
            Row(5, 144, 48, True, True, 1),
            Row(5, 288, 96, True, True, 2),
            Row(5, 576, 96, True, True, 1),
            Row(5, 576, 96, True, True, 1),
        ),
        hidden=1024,
    ),
    "mobilenetv3_large": Shape(
        rows=(
            Row(3, 16, 16, False, False, 1),
            Row(3, 64, 24, False, False, 2),
            Row(3, 72, 24, False, False, 1),
            Row(5, 72, 40, True, False, 2),
            Row(5, 120, 40, True, False, 1),
            Row(5, 120, 40, True, False, 1),
            Row(3, 240, 80, False, True, 2),
            Row(3, 200, 80, False, True, 1),
            Row(3, 184, 80, False, True, 1),
            Row(3, 184, 80, False, True, 1),
            Row(3, 480, 112, True, True, 1),
            Row(3, 672, 112, True, True, 1),
            Row(5, 672, 160, True, True, 2),
            Row(5, 960, 160, True, True, 1),
            Row(5, 960, 160, True, True, 1),
        ),
        hidden=1280,
    ),
}


class Squeeze(nnx.Module):
    """Weigh channels by what their means say (arXiv 1709.01507)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        inner = _multiple_of_8(features / 4)
        self.first = linear(features, inner, rngs=rngs)
        self.second = linear(inner, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the weighed maps (n h w c)."""
        mean = jax.nn.relu(self.first(x.mean((1, 2), keepdims=True)))
        return x * jax.nn.hard_sigmoid(self.second(mean))


def _multiple_of_8(channels: float) -> int:
    """Round to a multiple of 8, down by no more than a tenth."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8


class Block(nnx.Module):
    """Widen, convolve each channel, narrow; a shortcut where shapes allow it."""

    def __init__(self, inputs: int, row: Row, *, rngs: nnx.Rngs) -> None:
        inner = row.inner
        self.hard_swish = row.hard_swish
        self.stride = row.stride
        self.residual = row.stride == 1 and inputs == row.outputs
        self.widen = nnx.data(
            ConvNorm(inputs, inner, size=1, rngs=rngs, **NORM)
            if inner != inputs
            else None
        )
        self.depthwise = ConvNorm(
            inner,
            inner,
            size=row.size,
            stride=row.stride,
            groups=inner,
            rngs=rngs,
            **NORM,
        )
        self.squeeze = nnx.data(Squeeze(inner, rngs=rngs) if row.squeeze else None)
        self.narrow = ConvNorm(inner, row.outputs, size=1, rngs=rngs, **NORM)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Return the block's output for maps `x` (n h w c)."""
        bend = jax.nn.hard_swish if self.hard_swish else jax.nn.relu
        y = x if self.widen is None else bend(self.widen(x, train=train))
        y = bend(self.depthwise(y, train=train))
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.narrow(y, train=train)
        return x + y if self.residual else y


class MobileNet(nnx.Module):
    """Stem, inverted residual blocks, wide 1x1, mean over the map, hidden layer, head.

    Attributes:
        stages: How many parts `freeze` counts, besides the stem.
        frozen: Leading parts (stem, stages, last) that keep their batch statistics.
    """

    def __init__(
        self, shape: Shape, *, num_classes: int, rngs: nnx.Rngs, head: str = "linear"
    ) -> None:
        self.shape, self.stages, self.frozen = shape, len(shape.ends), 0
        self.stem = ConvNorm(3, STEM, size=3, stride=2, rngs=rngs, **NORM)
        before = (STEM, *(row.outputs for row in shape.rows))
        self.blocks = nnx.List(
            Block(inputs, row, rngs=rngs)
            for inputs, row in zip(before, shape.rows, strict=False)
        )
        wide = 6 * before[-1]
        self.last = ConvNorm(before[-1], wide, size=1, rngs=rngs, **NORM)
        self.hidden = linear(wide, shape.hidden, rngs=rngs)
        design, widths = shape.design, [shape.rows[end].outputs for end in shape.ends]
        self.query = nnx.data(QueryPool(wide) if design.pool == "attention" else None)
        self.pyramid = nnx.data(Pyramid(widths, rngs=rngs) if design.pyramid else None)
        self.dropout = nnx.Dropout(design.dropout)
        width = shape.hidden + (self.pyramid.outputs if self.pyramid else 0)
        self.head = make_head(head, width, num_classes, rngs=rngs)

    def part_of(self, path: tuple[str | int, ...]) -> int:
        """Return where a parameter is: 0 stem, 1.. stages, what is last, the head."""
        last = ("last", "query", "hidden", "pyramid")
        after = {"stem": 0, **dict.fromkeys(last, self.stages + 1)}
        if path[0] == "blocks":
            return 1 + self.shape.stage_of(int(path[1]))
        return after.get(str(path[0]), self.stages + 2)

    def features(
        self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> dict[int, jax.Array]:
        """Return the last map (n h w c) of each stage, by its stride."""
        del rngs  # these blocks are not skipped
        x = jax.nn.hard_swish(self.stem(x, train=train and not self.frozen))
        return staged(
            x,
            self.blocks,
            [1 + self.shape.stage_of(index) for index in range(len(self.blocks))],
            stride=2,
            frozen=self.frozen,
            train=train,
        )

    def embed(
        self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return what the head sees (n d) of normalised images (n h w c)."""
        maps = [*self.features(x, train=train, rngs=rngs).values()]
        live = train and self.stages + 1 >= self.frozen
        wide = jax.nn.hard_swish(self.last(maps[-1], train=live))
        out = jax.nn.hard_swish(self.hidden(pooled(wide, self.query)))
        out = joined(out, self.pyramid, maps)
        return still(out, self.stages + 1 < self.frozen)

    def __call__(
        self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return logits (n classes); `rngs` feeds dropout in training."""
        x = self.embed(x, train=train, rngs=rngs)
        return self.head(self.dropout(x, deterministic=not train, rngs=rngs))
