"""Networks that turn images into embeddings and logits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from data_contracts.errors import UsageError
from models.conv import convolve

PRESETS = ("small", "resnet18")


@dataclasses.dataclass(frozen=True)
class Shape:
    """What distinguishes one residual network from another.

    Attributes:
        widths: Channels of each stage; each stage but the first halves the map.
        depths: Blocks of each stage.
        stem: "patch" (2x2 patches, then 3x3), "cifar" (3x3), "imagenet" (7x7, pool).
        dropout: Share of the embedding dropped in training.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stem: str
    dropout: float = 0.0


def create_model(
    preset: str, *, num_classes: int, image_size: int, seed: int
) -> "ResNet":
    """Build the network `preset` with fresh weights.

    Raises:
        UsageError: `preset` is not one of `PRESETS`.
    """
    if preset == "small":
        shape = Shape((32, 64, 128, 256), (1, 1, 1, 1), "patch")
    elif preset == "resnet18":
        stem = "cifar" if image_size <= 64 else "imagenet"
        shape = Shape((64, 128, 256, 512), (2, 2, 2, 2), stem)
    else:
        raise UsageError(
            f"A backbone is one of {', '.join(PRESETS)}; came {preset!r}. Pick one."
        )
    return ResNet(shape, num_classes=num_classes, rngs=nnx.Rngs(seed))


class ConvNorm(nnx.Module):
    """A convolution without bias and its batch norm."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int,
        stride: int = 1,
        padding: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        half = size // 2
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            padding=((half, half), (half, half)) if padding is None else padding,
            use_bias=False,
            kernel_init=nnx.initializers.variance_scaling(2, "fan_out", "normal"),
            conv_general_dilated=convolve,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.norm(self.conv(x), use_running_average=not train)


class Block(nnx.Module):
    """Two 3x3 convolutions around a shortcut (arXiv 1512.03385)."""

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs
    ) -> None:
        self.stride = stride
        self.first = ConvNorm(inputs, outputs, size=3, stride=stride, rngs=rngs)
        self.second = ConvNorm(outputs, outputs, size=3, rngs=rngs)
        self.second.norm.scale.set_value(jnp.zeros(outputs))
        changes = stride != 1 or inputs != outputs
        self.shortcut = (
            ConvNorm(inputs, outputs, size=1, rngs=rngs) if changes else None
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.second(jax.nn.relu(self.first(x, train=train)), train=train)
        if self.shortcut is not None:
            # Pooling before the 1x1 keeps what a strided 1x1 drops (arXiv 1812.01187).
            x = self.shortcut(_pool(x) if self.stride == 2 else x, train=train)
        return jax.nn.relu(x + y)


def _pool(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    return x.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2, c).mean((2, 4))


class ResNet(nnx.Module):
    """Stem, stages of residual blocks, mean over the map, linear head."""

    def __init__(self, shape: Shape, *, num_classes: int, rngs: nnx.Rngs) -> None:
        width = shape.widths[0]
        self.pool = shape.stem == "imagenet"
        if shape.stem == "patch":
            self.stem = nnx.List(
                [
                    ConvNorm(
                        3, width, size=4, stride=2, rngs=rngs, padding=((1, 1), (1, 1))
                    ),
                ]
            )
        elif shape.stem == "cifar":
            self.stem = nnx.List([ConvNorm(3, width, size=3, rngs=rngs)])
        else:
            self.stem = nnx.List([ConvNorm(3, width, size=7, stride=2, rngs=rngs)])
        blocks, inputs = [], width
        for stage, (outputs, depth) in enumerate(
            zip(shape.widths, shape.depths, strict=True)
        ):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(Block(inputs, outputs, stride=stride, rngs=rngs))
                inputs = outputs
        self.blocks = nnx.List(blocks)
        self.dropout = nnx.Dropout(shape.dropout)
        self.head = nnx.Linear(inputs, num_classes, rngs=rngs)

    def embed(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Return the mean of the last map, (n d), for images (n h w c)."""
        for layer in self.stem:
            x = jax.nn.relu(layer(x, train=train))
        if self.pool:
            x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x, train=train)
        return x.mean((1, 2))

    def __call__(
        self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        x = self.embed(x, train=train)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        return self.head(x)
