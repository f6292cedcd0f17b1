"""A training state split over the devices, and a step that leaves it so.

At rest, each device holds its part of every large array of weights, optimiser and
average, and steps that part alone (Xu et al. 2020, arXiv 2004.13336; ZeRO: Rajbhandari
et al. 2020, arXiv 1910.02054). Within a step, each gathers the weights, computes the
gradient of its images, and keeps its part of the sum. The compiler cuts up the update,
so that what looks at several weights at once (norms, Muon) sees all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.distil import Given

LARGE = 1 << 16  # bytes of an array that is worth cutting


def layout_of(state: Any, mesh: Mesh) -> Any:
    """Return how each array of a training state lies on the devices.

    Those of weights, optimiser and average are cut along their longest axis that the
    devices divide; small ones, and the rest of the state, are whole on each.

    Args:
        state: A `TrainState`, or its shapes.
        mesh: The devices.
    """

    def of(leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, _spec(leaf, mesh))

    whole = NamedSharding(mesh, PartitionSpec())
    layout = jax.tree.map(lambda _: whole, state)
    return dataclasses.replace(
        layout,
        params=jax.tree.map(of, state.params),
        opt=jax.tree.map(of, state.opt),
        ema=(jax.tree.map(of, state.ema[0]), layout.ema[1]),
    )


def _spec(leaf: Any, mesh: Mesh) -> PartitionSpec:
    sides = [side if side % mesh.size == 0 else 0 for side in leaf.shape]
    if not any(sides) or math.prod(leaf.shape) * leaf.dtype.itemsize < LARGE:
        return PartitionSpec()
    longest = sides.index(max(sides))
    return PartitionSpec(*[None] * longest, mesh.axis_names[0])


def held(tree: Any, layout: Any = None) -> int:
    """Return the bytes of `tree` on a device, whole or as `layout` says."""
    leaves = jax.tree.leaves(tree)
    shapes = [leaf.shape for leaf in leaves]
    if layout is not None:
        ways = jax.tree.leaves(layout)
        shapes = [way.shard_shape(at) for way, at in zip(ways, shapes, strict=True)]
    return sum(
        math.prod(shape) * leaf.dtype.itemsize
        for shape, leaf in zip(shapes, leaves, strict=True)
    )


def on_host() -> contextlib.AbstractContextManager[Any]:
    """Let arrays be made in the machine's memory, where JAX may use its CPU."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def placed(state: Any, layout: Any) -> Any:
    """Return copies of a state's arrays on the devices; one at a time is whole."""
    return jax.tree.map(
        lambda leaf, to: jax.device_put(jnp.array(leaf, copy=True), to), state, layout
    )


def one_after(learn: Callable[..., Any], update: Callable[..., Any]) -> Any:
    """Return the step that learns from a batch, then updates the state."""

    def local(state: Any, *batch: Any) -> Any:
        return update(state, learn(state, *batch))

    return local


def compiled(local: Callable[..., Any], mesh: Mesh | None, *given: Any) -> Any:
    """Compile a step that sums over the devices by hand; the state is donated.

    Args:
        local: Of a state, a device's share of a batch, and `given`.
        mesh: The devices.
        given: Trees of arrays on all of them, which stay what they are.
    """
    if mesh is None:
        step = jax.jit(local, donate_argnums=0)
    else:
        everywhere = NamedSharding(mesh, PartitionSpec())
        step = _jitted(_on_each(local, mesh, given), everywhere, mesh, given)
    return Given(step, given) if given else step


def compiled_apart(
    learn: Callable[..., Any], update: Callable[..., Any], layout: Any, *given: Any
) -> Any:
    """Compile a step of a state that is split; the state is donated.

    Args:
        learn: Of a state without optimiser and average, a device's share of a batch,
            and `given`: the gradient, and what else `update` needs, summed over the
            devices by hand.
        update: Of a state and what was learnt, the next state and metrics.
        layout: From `layout_of`.
        given: Trees of arrays on all devices, which stay what they are.
    """
    mesh = layout.step.mesh
    each = _on_each(learn, mesh, given)

    def split(state: Any, *batch: Any) -> Any:
        grads, *rest = each(dataclasses.replace(state, opt=None, ema=None), *batch)
        grads = jax.lax.with_sharding_constraint(grads, layout.params)
        return update(state, (grads, *rest))

    step = _jitted(split, layout, mesh, given)
    return Given(step, given) if given else step


def _on_each(local: Callable[..., Any], mesh: Mesh, given: tuple[Any, ...]) -> Any:
    whole, part = PartitionSpec(), PartitionSpec(mesh.axis_names)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, part, part, part, part, *[whole] * len(given)),
        out_specs=whole,
        check_vma=False,
    )


def _jitted(
    step: Callable[..., Any], layout: Any, mesh: Mesh, given: tuple[Any, ...]
) -> Any:
    everywhere = NamedSharding(mesh, PartitionSpec())
    shares = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    others = [everywhere] * len(given)
    return jax.jit(
        step,
        in_shardings=(layout, shares, shares, shares, shares, *others),
        out_shardings=(layout, everywhere),
        donate_argnums=0,
    )
