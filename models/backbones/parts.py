"""What networks of several families are made of: heads, convolutions, norms."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from models.conv import convolve
from models.recipe import COSINE_SCALE, STAGES, UNITS

Activation = Callable[[jax.Array], jax.Array]
# As the transformers and ConvNeXt were trained (timm, DINOv2, SigLIP).
NORM_EPSILON = 1e-6


class CosineHead(nnx.Module):
    """Logits by the angle between embedding and class (arXiv 1906.07413, section 3)."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.in_features = inputs
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the scaled cosines (n outputs) of embeddings (n inputs)."""
        x = x.astype(self.kernel[...].dtype)  # which mixed precision leaves float32
        return COSINE_SCALE * (_unit(x, axis=-1) @ _unit(self.kernel[...], axis=0))


def _unit(x: jax.Array, *, axis: int) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis, keepdims=True) + 1e-12)


class BoostedHead(nnx.Linear):
    """A linear head, and beside it the hidden units that `boosting` adds."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(inputs, outputs, rngs=rngs)
        self.hidden = nnx.Param(jnp.zeros((inputs, STAGES * UNITS)))
        self.offset = nnx.Param(jnp.zeros(STAGES * UNITS))
        self.out = nnx.Param(jnp.zeros((STAGES * UNITS, outputs)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits (n outputs) of embeddings (n inputs)."""
        x = x.astype(jnp.float32)
        seen = jax.nn.relu(x @ self.hidden[...] + self.offset[...])
        return super().__call__(x) + seen @ self.out[...]


HEADS = {"linear": nnx.Linear, "cosine": CosineHead, "boosted": BoostedHead}


def make_head(
    kind: str, inputs: int, outputs: int, *, rngs: nnx.Rngs
) -> nnx.Linear | CosineHead:
    """Build a "linear", "cosine" or "boosted" head from embeddings to logits."""
    return HEADS[kind](inputs, outputs, rngs=rngs)


def conv(
    inputs: int,
    outputs: int,
    *,
    size: int,
    rngs: nnx.Rngs,
    stride: int = 1,
    groups: int = 1,
) -> nnx.Conv:
    """Build a convolution without bias, whose norm follows."""
    # Torch's padding, for torch weights to fit; SAME differs at stride 2.
    edge = (size - 1) // 2
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=((edge, edge), (edge, edge)),
        feature_group_count=groups,
        use_bias=False,
        kernel_init=nnx.initializers.variance_scaling(2, "fan_out", "normal"),
        conv_general_dilated=convolve,
        rngs=rngs,
    )


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
        groups: int = 1,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
    ) -> None:
        self.conv = conv(
            inputs, outputs, size=size, stride=stride, groups=groups, rngs=rngs
        )
        self.norm = nnx.BatchNorm(
            outputs, momentum=momentum, epsilon=epsilon, rngs=rngs
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Convolve and normalise; `train` uses and updates this batch's statistics."""
        return self.norm(self.conv(x), use_running_average=not train)


def layer_norm(features: int, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Build a layer norm that does not lose digits where the mean is large."""
    return nnx.LayerNorm(
        features, epsilon=NORM_EPSILON, use_fast_variance=False, rngs=rngs
    )


def linear(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """Build a dense layer with the small random weights of transformers."""
    init = nnx.initializers.truncated_normal(0.02)
    return nnx.Linear(inputs, outputs, kernel_init=init, rngs=rngs)


def patches(inputs: int, outputs: int, *, size: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Build a convolution whose windows tile the map; what does not fill one is cut."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=size,
        padding="VALID",
        kernel_init=nnx.initializers.truncated_normal(0.02),
        conv_general_dilated=convolve,
        rngs=rngs,
    )


class Mlp(nnx.Module):
    """Two dense layers around an activation."""

    def __init__(
        self, features: int, hidden: int, *, activation: Activation, rngs: nnx.Rngs
    ) -> None:
        self.activation = activation
        self.first = linear(features, hidden, rngs=rngs)
        self.second = linear(hidden, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return (... features) for (... features)."""
        return self.second(self.activation(self.first(x)))


def gelu(x: jax.Array) -> jax.Array:
    """Return GELU by the error function (arXiv 1606.08415), PyTorch's default."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """Return GELU by its approximation with tanh, which SigLIP was trained with."""
    return jax.nn.gelu(x, approximate=True)


def still(x: jax.Array, hold: bool) -> jax.Array:
    """Return `x`, without gradients to what made it where `hold`."""
    return jax.lax.stop_gradient(x) if hold else x


def halve(x: jax.Array) -> jax.Array:
    """Average 2x2 neighbours; odd edges repeat."""
    n, h, w, c = x.shape
    if h % 2 or w % 2:
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    return x.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2, c).mean((2, 4))


def draw_paths(
    rate: float, x: jax.Array, depth: int, *, train: bool, rngs: nnx.Rngs | None
) -> list[jax.Array | None]:
    """Draw which images skip which blocks (Huang et al. 2016, arXiv 1603.09382).

    Args:
        rate: Chance to skip the last block; that of block k of `depth` is k / depth
            of it (equation 4).
        x: Images (n ...).
        depth: Blocks.
        train: Whether any are skipped.
        rngs: Whose `dropout` draws.

    Returns:
        What multiplies each block's branch (n,): 0, or 1 over the chance to stay, so
        that the mean is kept; None where nothing is skipped.
    """
    if not (train and rate):
        return [None] * depth
    if rngs is None:
        raise ValueError("Skipping blocks at random needs rngs.")
    stay = 1 - rate * jnp.arange(1, depth + 1)[:, None] / depth
    kept = jax.random.bernoulli(rngs.dropout(), stay, (depth, len(x)))
    return list((kept / stay).astype(x.dtype))


def skipped(y: jax.Array, keep: jax.Array | None) -> jax.Array:
    """Return a branch (n ...) times what `draw_paths` gave (n,)."""
    return y if keep is None else y * keep.reshape(-1, *[1] * (y.ndim - 1))


def staged(
    x: jax.Array,
    blocks: Sequence[Any],
    parts: Sequence[int],
    *,
    stride: int,
    frozen: int,
    train: bool,
    paths: Sequence[jax.Array | None] = (),
) -> dict[int, jax.Array]:
    """Run residual blocks and return the last map (n h w c) at each stride.

    Args:
        x: Map after the stem (n h w c).
        blocks: Called with a map and `train`; each has a `stride`.
        parts: Which part of the network each block belongs to.
        stride: Of `x`.
        frozen: Leading parts that stand still, batch statistics included.
        train: Whether the others use and update the batch's statistics.
        paths: Of each block, from `draw_paths`.
    """
    maps = {}
    for index, (block, part) in enumerate(zip(blocks, parts, strict=True)):
        stride *= block.stride
        live = part >= frozen
        skips = {"keep": paths[index]} if live and paths else {}
        x = still(block(x, train=train and live, **skips), not live)
        maps[stride] = x
    return maps
