"""A feature pyramid for classification: Lin et al. 2017, arXiv 1612.03144."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from models.backbones.parts import layer_norm, linear

SHARE, LEAST = 8, 16  # of the last map's channels, and no fewer than so many


class Pyramid(nnx.Module):
    """Maps of all stages at one width, each with the coarser ones added, pooled.

    The paper's 3x3 convolutions after the sums smooth what detectors read place by
    place. Here every map ends as its mean, so a norm and a relu do.

    Attributes:
        width: Channels of every level.
        outputs: Length of what it returns.
    """

    def __init__(self, widths: Sequence[int], *, rngs: nnx.Rngs) -> None:
        self.width = max(LEAST, widths[-1] // SHARE)
        self.outputs = self.width * len(widths)
        self.levels = nnx.List(
            linear(channels, self.width, rngs=rngs) for channels in widths
        )
        self.norms = nnx.List(layer_norm(self.width, rngs=rngs) for _ in widths)

    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        """Return the pooled levels (n outputs) of maps (n h w c), the finest first."""
        below, pooled = None, []
        for level, norm, x in reversed(
            list(zip(self.levels, self.norms, maps, strict=True))
        ):
            own = level(x)
            below = own if below is None else own + _enlarged(below, own.shape)
            pooled.append(jax.nn.relu(norm(below)).mean((1, 2)))
        return jnp.concatenate(pooled[::-1], axis=-1)


def joined(
    embedding: jax.Array, pyramid: Pyramid | None, maps: Sequence[jax.Array]
) -> jax.Array:
    """Return an embedding (n d), with what a pyramid makes of all maps behind it."""
    if pyramid is None:
        return embedding
    return jnp.concatenate([embedding, pyramid(maps)], axis=-1)


def _enlarged(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Repeat places of `x` to twice the side, cut or filled to the map of `shape`."""
    x = x.repeat(2, 1).repeat(2, 2)[:, : shape[1], : shape[2]]
    short = [
        (0, side - own) for side, own in zip(shape[1:3], x.shape[1:3], strict=True)
    ]
    return jnp.pad(x, ((0, 0), *short, (0, 0)), mode="edge")
