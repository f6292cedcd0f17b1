"""Run a network in training: in which precision, and what the gradient recomputes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from data_contracts.errors import UsageError

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
        remat: Recompute each block for the gradient, see `recompute`.

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


def recompute(model: nnx.Module) -> None:
    """Let the blocks of `model` keep only their inputs for the gradient, in place.

    Blocks are the items of its `nnx.List`s; those within another block go with it. The
    gradient runs each block forward once more (Chen et al. 2016, arXiv 1604.06174).

    Raises:
        UsageError: The network has no `nnx.List` of modules.
    """
    lists = [
        (path, module)
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.List)
    ]
    taken: list[tuple[Any, ...]] = []
    for path, items in sorted(lists, key=lambda found: len(found[0])):
        if any(path[: len(outer)] == outer for outer in taken):
            continue
        for index, block in enumerate(items):
            if isinstance(block, nnx.Module) and callable(block):
                object.__setattr__(block, "__class__", _recomputed(type(block)))
                taken.append((*path, index))
    if not taken:
        raise UsageError(
            "remat recomputes the blocks of a network, the items of its nnx.List;"
            f" {type(model).__name__} has none. Set remat=no."
        )


@functools.cache
def _recomputed(kind: type) -> type:
    """Return a block like `kind` whose call is recomputed."""
    whole: Callable[..., Any] = kind.__call__  # type: ignore[operator]

    def call(block: Any, *given: Any, **options: Any) -> Any:
        # Flags such as `train` choose the program, so they may not become arrays.
        traced = {
            name: value
            for name, value in options.items()
            if isinstance(value, (jax.Array, nnx.Rngs))
        }
        flags = {name: options[name] for name in options.keys() - traced.keys()}

        def run(block: Any, given: Any, traced: Any) -> Any:
            return whole(block, *given, **traced, **flags)

        return nnx.remat(run)(block, given, traced)

    return type(kind.__name__, (kind,), {"__call__": call})
