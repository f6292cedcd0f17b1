"""What may stand in place of a 3x3 convolution and its norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.backbones.attention import Heads
from models.backbones.parts import ConvNorm, conv, halve


class ParallelNorm(nnx.Module):
    """1x1, 3x3 and 5x5 kernels beside each other, and a batch norm.

    Szegedy et al. 2015, arXiv 1409.4842: a quarter of the channels from 1x1, half from
    3x3, a quarter from 5x5, which are two 3x3 in a row (arXiv 1512.00567, section 3.1).
    Between equal widths it takes .84 of the multiply-adds of one 3x3.
    """

    def __init__(
        self, inputs: int, outputs: int, *, rngs: nnx.Rngs, stride: int = 1
    ) -> None:
        quarter = outputs // 4
        self.one = conv(inputs, quarter, size=1, stride=stride, rngs=rngs)
        self.three = conv(
            inputs, outputs - 2 * quarter, size=3, stride=stride, rngs=rngs
        )
        self.five = ConvNorm(inputs, quarter, size=3, stride=stride, rngs=rngs)
        self.last = conv(quarter, quarter, size=3, rngs=rngs)
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Convolve and normalise maps (n h w c)."""
        five = self.last(jax.nn.relu(self.five(x, train=train)))
        found = jnp.concatenate([self.one(x), self.three(x), five], axis=-1)
        return self.norm(found, use_running_average=not train)


class HeadsNorm(nnx.Module):
    """Self-attention of places (arXiv 2101.11605), and a batch norm.

    A stride of 2 is the mean of 2x2 places afterwards, as in the paper.
    """

    def __init__(
        self, features: int, *, positions: str, rngs: nnx.Rngs, stride: int = 1
    ) -> None:
        self.stride = stride
        self.heads = Heads(features, positions=positions, rngs=rngs)
        self.norm = nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Attend and normalise maps (n h w c)."""
        x = self.heads(x)
        x = halve(x) if self.stride == 2 else x
        return self.norm(x, use_running_average=not train)
