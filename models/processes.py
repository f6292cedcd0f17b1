"""Several processes that train one model together, each with devices of its own.

All of them call `fit` alike, on a run folder that all can read. A batch is split over
all devices as if one process had them; each process reads the images of its own share,
and the first writes checkpoints and metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from models.remat import late


def join(address: str, *, count: int, index: int) -> None:
    """Meet the other processes, before anything computes.

    Args:
        address: HOST:PORT of the first process, which listens there.
        count: Processes in all.
        index: Of this one, from 0.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Programs that overlap on a CPU mix up their messages.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.distributed.initialize(address, count, index)


def leads() -> bool:
    """Whether this process is the one that writes."""
    return bool(jax.process_index() == 0)


def spans(mesh: Mesh | None) -> bool:
    """Whether `mesh` has devices of other processes."""
    return mesh is not None and bool(mesh.is_multi_process)


def own_share(width: int, mesh: Mesh | None) -> slice:
    """Return which of `width` places in a batch this process's devices hold."""
    if mesh is None or not spans(mesh):
        return slice(None)
    each, own = width // mesh.size, jax.process_index()
    places = [i for i, d in enumerate(mesh.devices.flat) if d.process_index == own]
    return slice(each * places[0], each * (places[-1] + 1))


def put(tree: Any, sharding: Any, *, split: bool) -> Any:
    """Make global arrays of this process's shares, or of what all processes hold."""

    def one(leaf: Any) -> Any:
        host = np.asarray(leaf)
        if split:
            return jax.make_array_from_process_local_data(sharding, host)
        return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])

    return jax.tree.map(one, tree)


def in_turn(tree: Any, before: Any, mesh: Mesh | None) -> Any:
    """Return `tree` as values that follow `before`, where processes talk by turns.

    Gloo, between the CPUs of several processes, takes messages by their order, which
    XLA leaves open where nothing depends on it.
    """
    return late(tree, before) if spans(mesh) else tree


def by_turns(collective: Callable[[Any], Any], tree: Any, mesh: Mesh) -> Any:
    """Return `collective` of `tree`, leaf after leaf between processes."""
    if not spans(mesh):
        return collective(tree)
    leaves, structure = jax.tree.flatten(tree)
    found: list[Any] = []
    for leaf in leaves:
        found.append(collective(late(leaf, found[-1:])))
    return jax.tree.unflatten(structure, found)


def whole(array: Any) -> NDArray[Any]:
    """Return an array that is split over processes, on the host of each."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(array, tiled=True))


def agree(value: float) -> float:
    """Return the first process's `value`, to rounding, on all of them."""
    if jax.process_count() == 1:
        return value
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return float(broadcast_one_to_all(np.float32(value)))


def meet(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(name)
