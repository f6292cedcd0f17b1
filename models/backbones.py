"""Networks that turn images into embeddings and logits.

Residual networks (He et al. 2016, arXiv 1512.03385) with the pooled shortcut of
ResNet-D (He et al. 2019, arXiv 1812.01187).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from data_contracts.errors import UsageError
from models.conv import convolve
from models.recipe import COSINE_SCALE

PRESETS = ("small", "resnet18")


@dataclasses.dataclass(frozen=True)
class Shape:
    """What distinguishes one residual network from another.

    Attributes:
        widths: Channels of each stage; each stage but the first halves the map.
        depths: Blocks of each stage.
        stem: "half" (4x4 by 2), "cifar" (3x3 by 1) or "imagenet" (7x7 by 2, max-pool).
        dropout: Share of the embedding dropped in training.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stem: str
    dropout: float = 0.0


def shape_of(preset: str, *, image_size: int) -> Shape:
    """Return the layers of `preset` for square images of `image_size`.

    Raises:
        UsageError: `preset` is not one of `PRESETS`.
    """
    if preset == "small":
        return Shape((32, 64, 128, 256), (1, 1, 1, 1), "half")
    if preset == "resnet18":
        stem = "cifar" if image_size <= 64 else "imagenet"
        return Shape((64, 128, 256, 512), (2, 2, 2, 2), stem)
    raise UsageError(
        f"A backbone is one of {', '.join(PRESETS)}; came {preset!r}. Pick one."
    )


def create_model(
    preset: str, *, num_classes: int, image_size: int, seed: int, head: str = "linear"
) -> "ResNet":
    """Build the network `preset` with fresh weights.

    Args:
        preset: One of `PRESETS`.
        num_classes: Width of the head.
        image_size: Side of the images, pixels.
        seed: Of the weights.
        head: "linear", or "cosine" for logits without regard to lengths.

    Raises:
        UsageError: `preset` is not one of `PRESETS`.
    """
    shape = shape_of(preset, image_size=image_size)
    return ResNet(shape, num_classes=num_classes, rngs=nnx.Rngs(seed), head=head)


class CosineHead(nnx.Module):
    """Logits by the angle between embedding and class (arXiv 1906.07413, section 3)."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.in_features = inputs
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the scaled cosines (n outputs) of embeddings (n inputs)."""
        return COSINE_SCALE * (_unit(x, axis=-1) @ _unit(self.kernel[...], axis=0))


def _unit(x: jax.Array, *, axis: int) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis, keepdims=True) + 1e-12)


class ConvNorm(nnx.Module):
    """A convolution without bias and its batch norm."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int,
        rngs: nnx.Rngs,
        stride: int = 1,
    ) -> None:
        # Torch's padding, for torch weights to fit; SAME differs at stride 2.
        edge = (size - 1) // 2
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            padding=((edge, edge), (edge, edge)),
            use_bias=False,
            kernel_init=nnx.initializers.variance_scaling(2, "fan_out", "normal"),
            conv_general_dilated=convolve,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Convolve and normalise; `train` uses and updates this batch's statistics."""
        return self.norm(self.conv(x), use_running_average=not train)


class Block(nnx.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs
    ) -> None:
        self.stride = stride
        self.first = ConvNorm(inputs, outputs, size=3, stride=stride, rngs=rngs)
        self.second = ConvNorm(outputs, outputs, size=3, rngs=rngs)
        # Each block starts as its shortcut (arXiv 1706.02677, section 5.1).
        self.second.norm.scale.set_value(jnp.zeros(outputs))
        plain = stride == 1 and inputs == outputs
        self.shortcut = nnx.data(
            None if plain else ConvNorm(inputs, outputs, size=1, rngs=rngs)
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Return the block's output for maps `x` (n h w c)."""
        y = self.second(jax.nn.relu(self.first(x, train=train)), train=train)
        if self.shortcut is not None:
            x = self.shortcut(_halve(x) if self.stride == 2 else x, train=train)
        return jax.nn.relu(x + y)


def _halve(x: jax.Array) -> jax.Array:
    """Average 2x2 neighbours; odd edges repeat."""
    n, h, w, c = x.shape
    if h % 2 or w % 2:
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    return x.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2, c).mean((2, 4))


class ResNet(nnx.Module):
    """Stem, stages of residual blocks, mean over the map, head."""

    def __init__(
        self, shape: Shape, *, num_classes: int, rngs: nnx.Rngs, head: str = "linear"
    ) -> None:
        size, stride = {"half": (4, 2), "cifar": (3, 1), "imagenet": (7, 2)}[shape.stem]
        inputs = shape.widths[0]
        self.pool = shape.stem == "imagenet"
        self.stem = ConvNorm(3, inputs, size=size, stride=stride, rngs=rngs)
        blocks = []
        for stage, (outputs, depth) in enumerate(
            zip(shape.widths, shape.depths, strict=True)
        ):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(Block(inputs, outputs, stride=stride, rngs=rngs))
                inputs = outputs
        self.blocks = nnx.List(blocks)
        self.dropout = nnx.Dropout(shape.dropout)
        kind = {"linear": nnx.Linear, "cosine": CosineHead}[head]
        self.head = kind(inputs, num_classes, rngs=rngs)

    def embed(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Return the mean of the last map (n d) for normalised images (n h w c)."""
        x = jax.nn.relu(self.stem(x, train=train))
        if self.pool:
            x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x, train=train)
        return x.mean((1, 2))

    def __call__(
        self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return logits (n classes); `rngs` feeds dropout in training."""
        x = self.embed(x, train=train)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        return self.head(x)
