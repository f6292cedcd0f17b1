"""Networks of one kind whose answers are averaged, stacked along a leading axis."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.design import PLAIN, Design
from models.scales import answer

Channels = tuple[float, float, float]
Weights = tuple[Any, Any]  # params and stats


@dataclasses.dataclass(frozen=True)
class Member:
    """What one network of an ensemble has for itself, besides its weights.

    Attributes:
        mean: Channel means of 0..1 pixels.
        std: Channel standard deviations of 0..1 pixels.
        temperature: What its logits are divided by before answers are averaged.
    """

    mean: Channels
    std: Channels
    temperature: float = 1.0

    @classmethod
    def of(cls, meta: dict[str, Any]) -> Member:
        """Read what `save_model` kept of a network."""
        mean, std = (tuple(map(float, meta[name])) for name in ("mean", "std"))
        return cls(mean, std, float(meta["temperature"]))


def stacked(networks: Sequence[Weights]) -> Weights:
    """Return the weights of all networks, member by member along a leading axis."""
    params, stats = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
    return params, stats


def member_of(weights: Weights, index: int) -> Weights:
    """Return one network of stacked weights."""
    params, stats = jax.tree.map(lambda leaf: leaf[index], weights)
    return params, stats


def answers_of(
    graphdef: nnx.GraphDef,
    weights: Weights,
    members: Sequence[Member],
    pixels: Any,
    design: Design = PLAIN,
) -> jax.Array:
    """Return the log of the mean probabilities (n c) of stacked networks.

    One network after the other: on a CPU that takes the memory of one and a third of
    the time of networks side by side, whose convolutions then are grouped ones.

    Args:
        graphdef: The networks' structure.
        weights: Stacked (params, stats).
        members: What each network has for itself.
        pixels: float32 (n h w c), 0..1.
        design: Names the views of an image.
    """

    def one(given: Any) -> jax.Array:
        weights, mean, std, temperature = given
        model = nnx.merge(graphdef, *weights, copy=True)
        ask = functools.partial(model, train=False)
        logits = answer(ask, (pixels - mean) / std, design).astype(jnp.float32)
        return jax.nn.log_softmax(logits / temperature)

    every = jax.lax.map(one, (weights, *columns(members)))
    return jax.nn.logsumexp(every, axis=0) - jnp.log(len(members))


def columns(members: Sequence[Member]) -> tuple[jax.Array, ...]:
    """Return the members' means (k 3), deviations (k 3) and temperatures (k)."""
    names = ("mean", "std", "temperature")
    return tuple(jnp.array([getattr(m, name) for m in members]) for name in names)
