"""Blocks that are computed twice, so that a gradient remembers less of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from data_contracts.errors import UsageError


def recompute(model: nnx.Module) -> None:
    """Let the blocks of `model` keep only their inputs for the gradient, in place.

    Blocks are the items of its `nnx.List`s, of the inner ones where lists are nested.
    The gradient runs each block forward once more (Chen et al. 2016, arXiv 1604.06174).

    Raises:
        UsageError: The network has no `nnx.List` of modules.
    """
    lists = {
        path: module
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.List)
    }
    blocks = [
        block
        for path, items in lists.items()
        if not any(inner[: len(path)] == path != inner for inner in lists)
        for block in items
        if isinstance(block, nnx.Module) and callable(block)
    ]
    for block in blocks:
        object.__setattr__(block, "__class__", _recomputed(type(block)))
    if not blocks:
        raise UsageError(
            "remat recomputes the blocks of a network, the items of its nnx.List;"
            f" {type(model).__name__} has none. Set remat=no."
        )


@functools.cache
def _recomputed(kind: type) -> type:
    """Return a block like `kind` whose call is recomputed."""
    whole: Callable[..., Any] = kind.__call__  # type: ignore[operator]

    def call(block: Any, *given: Any, **options: Any) -> Any:
        named = {str(place): value for place, value in enumerate(given)} | options
        arrays = _of_type(named, jax.Array)
        parts = {"": block} | _of_type(named, nnx.Pytree)
        # Flags such as `train` choose the program, so they may not become arrays.
        flags = {k: named[k] for k in named.keys() - arrays.keys() - parts.keys()}
        graphdef, state = nnx.split(parts)

        def pure(state: Any, arrays: Any) -> Any:
            inner = nnx.merge(graphdef, state)
            every = arrays | inner | flags
            own = every.pop("")
            places = [every.pop(str(place)) for place in range(len(given))]
            out = whole(own, *places, **every)
            return out, nnx.state(inner, nnx.Not(nnx.Param))

        out, after = _keep_inputs(pure)(state, arrays)
        nnx.update(parts, after)
        return out

    return type(kind.__name__, (kind,), {"__call__": call})


def _of_type(named: dict[Any, Any], kind: Any) -> dict[Any, Any]:
    return {name: value for name, value in named.items() if isinstance(value, kind)}


def _keep_inputs(pure: Callable[..., Any]) -> Callable[..., Any]:
    """Return `pure`, computed once more for the gradient of its first result.

    XLA's CPU backend drops the barriers of `jax.checkpoint` and then merges the two
    passes into one that remembers all. There, the second pass gets inputs that hang on
    the gradient; in the branch of a condition, convolutions would take the slow path.
    """
    if jax.default_backend() != "cpu":
        return jax.checkpoint(pure)

    def run(*inputs: Any) -> Any:
        leaves, tree = jax.tree.flatten(inputs)
        moves = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

        def of(moving: list[Any], still: list[Any]) -> Any:
            pools = iter(still), iter(moving)
            return pure(*tree.unflatten([next(pools[own]) for own in moves]))

        def forward(moving: list[Any], still: list[Any]) -> Any:
            return of(moving, still), (moving, still)

        def backward(saved: Any, grads: Any) -> Any:
            moving, still = saved
            grad = grads[0]  # none comes for statistics: the loss does not see them
            again = jax.vjp(lambda m: of(m, still)[0], late(moving, grad))[1]
            return again(grad)[0], None

        once = jax.custom_vjp(of)
        once.defvjp(forward, backward)
        return once(
            [leaf for leaf, own in zip(leaves, moves, strict=True) if own],
            [leaf for leaf, own in zip(leaves, moves, strict=True) if not own],
        )

    return run


def late(leaves: Any, before: Any) -> Any:
    """Return the floating-point `leaves` as values that can only follow `before`.

    A compiler may neither take them for the ones it knows nor compute with them
    earlier. An infinity or NaN first in a leaf of `before` makes them all NaN.
    """
    nothing = sum(0 * leaf.ravel()[0] for leaf in jax.tree.leaves(before))
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(nothing, leaf.dtype), leaves)
