"""Statistics of batch norms, measured anew: averaged weights have none of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from models.forward import forward
from models.members import Channels, Weights
from models.steps import AXIS, mean_over, normalise

# statistics(params, stats, images uint8 (n h w c)) -> stats of these images
Statistics = Callable[[Any, Any, Any], Any]


def has_batch_norm(model: nnx.Module) -> bool:
    """Whether `model` remembers statistics of its batches."""
    return any(isinstance(part, nnx.BatchNorm) for _, part in nnx.iter_modules(model))


def make_statistics(
    model: nnx.Module, *, mean: Channels, std: Channels, mesh: Mesh
) -> Statistics:
    """Compile statistics(params, stats, images): those of the batch alone.

    Each device normalises by its own images, as in training, and the result is the
    mean over devices. Frozen parts of `model` keep the statistics that they are given.

    Args:
        model: The network, which drops and skips nothing; its batch norms will
            remember the last batch alone.
        mean: Channel means of 0..1 pixels.
        std: Channel standard deviations of 0..1 pixels.
        mesh: Devices to split each batch over.
    """
    for _, part in nnx.iter_modules(model):
        if isinstance(part, nnx.BatchNorm):
            part.momentum = 0.0
    graphdef, *_ = nnx.split(model, nnx.Param, ...)

    def local(params: Any, stats: Any, images: jax.Array) -> Any:
        pixels = normalise(images.astype(jnp.float32) / 255, mean, std)
        found = forward(graphdef, (params, stats), pixels, key=jax.random.key(0))[1]
        return mean_over(found, mesh)

    whole, part = PartitionSpec(), PartitionSpec(AXIS)
    split = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, whole, part),
        out_specs=whole,
        check_vma=False,
    )
    return jax.jit(split)


def remeasured(
    statistics: Statistics, weights: Weights, batches: Iterable[Any]
) -> Weights:
    """Return a network with the mean of its statistics over `batches`, on the host.

    One more pass over training images, as weights that were averaged need it: Izmailov
    et al. 2018, arXiv 1803.05407, section 3.1.

    Args:
        statistics: From `make_statistics`.
        weights: The network.
        batches: Images uint8 (n h w c), placed; at least one batch.
    """
    total, count = None, 0
    for images in batches:
        found = statistics(*weights, images)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
        count += 1
    params, _ = weights
    return params, jax.device_get(jax.tree.map(lambda leaf: leaf / count, total))
