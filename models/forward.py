"""Run a network in training, in float32 or partly in bfloat16."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from models.remat import recompute

# Logits and what averages over a batch stay in float32, whatever the precision.
HEAD = "head"
NORMS = (
    nnx.BatchNorm,
    nnx.GroupNorm,
    nnx.InstanceNorm,
    nnx.LayerNorm,
    nnx.RMSNorm,
)
LOW = jnp.bfloat16


def forward(
    graphdef: nnx.GraphDef,
    weights: tuple[Any, Any],
    pixels: jax.Array,
    *,
    key: jax.Array,
    precision: str = "float32",
    remat: bool = False,
) -> tuple[jax.Array, Any]:
    """Return float32 logits (n c) in training, and the new statistics.

    Args:
        graphdef: The network's structure.
        weights: (params, stats), float32.
        pixels: Normalised images (n h w c), float32.
        key: Of dropout.
        precision: "bfloat16" computes in it, see `lower`; weights stay as they are.
        remat: Recompute each block for the gradient, see `remat`.

    Raises:
        UsageError: `remat`, and the network has no blocks.
    """
    model = nnx.merge(graphdef, *weights, copy=True)
    if precision == "bfloat16":
        lower(model)
        pixels = pixels.astype(LOW)
    if remat:
        recompute(model)
    logits = model(pixels, train=True, rngs=nnx.Rngs(dropout=key))
    return logits.astype(jnp.float32), nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param)))


def look_at(
    graphdef: nnx.GraphDef,
    weights: tuple[Any, Any],
    pixels: jax.Array,
    *,
    precision: str = "float32",
    remat: bool = False,
) -> jax.Array:
    """Return float32 logits (n c) at running statistics, in training's precision.

    Args:
        graphdef: The network's structure.
        weights: (params, stats), float32.
        pixels: Normalised images (n h w c), float32.
        precision: As for `forward`.
        remat: As for `forward`.
    """
    model = nnx.merge(graphdef, *weights, copy=True)
    if precision == "bfloat16":
        lower(model)
        pixels = pixels.astype(LOW)
    if remat:
        recompute(model)
    return model(pixels, train=False).astype(jnp.float32)


def lower(model: nnx.Module) -> None:
    """Let `model` compute in bfloat16, in place (mixed precision, arXiv 1710.03740).

    bfloat16 has float32's range, so the loss needs no scale. Statistics of norms, their
    scales and offsets, and all of `head` stay float32; a norm that is not Flax's has
    to see to its own reductions. Gradients flow back to float32 weights.
    """
    kept = [(HEAD,)]
    for path, module in nnx.iter_modules(model):
        if isinstance(module, NORMS) and path[:1] != (HEAD,):
            module.dtype, module.promote_dtype = LOW, _only_inputs
            kept.append(path)

    def cast(path: Any, leaf: Any) -> Any:
        own = any(path[: len(of)] == of for of in kept)
        return leaf if own else leaf.replace(leaf[...].astype(LOW))

    nnx.update(model, nnx.map_state(cast, nnx.state(model, nnx.Param)))


def _only_inputs(values: Any, /, *, dtype: Any, **_: Any) -> Any:
    """Cast what a norm is given, but not what it remembers and learns."""
    return (values[0].astype(dtype), *values[1:])
