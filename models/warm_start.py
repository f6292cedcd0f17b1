"""Start a network from the weights of an earlier one with fewer classes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from data_contracts.errors import UsageError


def warm_start(fresh: Any, trained: Any) -> Any:
    """Return `fresh` with the values of `trained` wherever the two overlap.

    A leaf that has grown along its last axis, as a head does by new classes, keeps
    its fresh values in the new part only.

    Args:
        fresh: Tree of arrays of the new model.
        trained: Tree with the same names from an earlier model.

    Raises:
        UsageError: The trees differ in another way.
    """
    (new, structure), old = _named(fresh), dict(_named(trained)[0])
    differ = sorted({name for name, _ in new} ^ set(old))
    if differ:
        raise UsageError(
            f"A warm start needs the same network: {', '.join(differ[:3])} is in one "
            "of the two only. Use the earlier model's preset, and its balance where "
            "one of the two is ldam, which has a head of its own."
        )
    return structure.unflatten([_overlay(name, leaf, old[name]) for name, leaf in new])


def _overlay(name: str, new: Any, old: Any) -> Any:
    shape = np.shape(new)
    new, old = np.atleast_1d(np.array(new)), np.atleast_1d(np.asarray(old))
    if new.shape[:-1] != old.shape[:-1] or old.shape[-1] > new.shape[-1]:
        raise UsageError(
            f"A warm start may only add classes: {name} is {old.shape} in the earlier "
            f"model and {new.shape} in this one. Keep its classes and preset."
        )
    new[..., : old.shape[-1]] = old
    return new.reshape(shape)


def _named(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    """Return the leaves with their names, spelt alike for NNX states and dicts."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [
        ("/".join(str(getattr(e, "key", getattr(e, "idx", e))) for e in path), leaf)
        for path, leaf in leaves
    ], structure
