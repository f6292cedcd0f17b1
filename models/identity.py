"""Tell whether a run that was interrupted is the one that is asked for."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np

from models.checkpoint import tree_digest
from models.feed import BatchSource
from models.steps import Channels


def run_identity(
    source: BatchSource,
    choices: tuple[Any, Any, Channels, Channels],
    state: Any,
    init: tuple[Any, Any] | None,
) -> str:
    """Digest what may not change between a run and its resumption.

    The budget, the devices, and whether images stream may change.

    Args:
        source: Images and labels.
        choices: Recipe, settings of the loop, channel means and deviations.
        state: The state to start from; its shapes count.
        init: Weights to start from.
    """
    recipe, settings, *views = choices
    settings = dataclasses.replace(settings, max_minutes=None)
    shapes = [f"{leaf.dtype}{leaf.shape}" for leaf in jax.tree.leaves(state)]
    seen = hashlib.sha256(repr((recipe, settings, views, shapes)).encode())
    seen.update(str(source.chunk).encode())
    for rows in (source.train_rows, source.val_rows):
        seen.update(rows.astype(np.int64).tobytes())
        seen.update(source.labels[rows].astype(np.int64).tobytes())
    seen.update(repr(source.sampling).encode())
    if source.weights is not None:
        seen.update(source.weights[source.train_rows].astype(np.float32).tobytes())
    if init is not None:
        seen.update(tree_digest(init).encode())
    return seen.hexdigest()
