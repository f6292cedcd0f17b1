"""Compile a function so that each device takes a share of the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from models.steps import AXIS


def over_devices(
    function: Callable[..., Any], *, whole: int, mesh: Mesh
) -> Callable[..., Any]:
    """Compile `function`; devices need not talk to each other.

    Args:
        function: Of arguments without images, then of trees of arrays with an entry an
            image, a multiple of the devices; it returns such a tree.
        whole: How many of the former it takes.
        mesh: The devices.
    """
    everywhere, share = PartitionSpec(), PartitionSpec(AXIS)

    def call(*args: Any) -> Any:
        split = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(*[everywhere] * whole, *[share] * (len(args) - whole)),
            out_specs=share,
            check_vma=False,
        )
        return split(*args)

    return jax.jit(call)
