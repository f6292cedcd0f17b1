"""A teacher, whose answers to the very same views a network learns from."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.members import Member, Weights, answers_of, columns


@dataclasses.dataclass(frozen=True)
class Teacher:
    """One or several finished networks that answer while another learns.

    It sees what the learner sees, mixed and cut alike (consistent teaching: Beyer et
    al. 2022, arXiv 2106.05237, section 3).

    Attributes:
        graphdef: Structure of its networks.
        weights: (params, stats), stacked.
        members: What each network has for itself.
        order: Its class for each class of the learner (c,).
        temperature: That softens its answers.
        scale: Side of its images, as a share of the learner's.
    """

    graphdef: nnx.GraphDef
    weights: Weights
    members: tuple[Member, ...]
    order: tuple[int, ...]
    temperature: float = 1.0
    scale: float = 1.0

    def answers(self, weights: Weights, pixels: jax.Array) -> jax.Array:
        """Return the softened probabilities (n c) of the learner's classes.

        Args:
            weights: Its own, where the caller keeps them.
            pixels: float32 (n h w 3), 0..1.
        """
        if self.scale != 1:
            n, height, width, channels = pixels.shape
            sides = round(height * self.scale), round(width * self.scale)
            pixels = jax.image.resize(pixels, (n, *sides, channels), "linear")
        every = answers_of(self.graphdef, weights, self.members, pixels)
        return jax.nn.softmax(every[:, jnp.array(self.order)] / self.temperature)

    @property
    def content(self) -> Any:
        """What tells it from another teacher, as a tree of arrays."""
        return self.weights, columns(self.members), np.array(self.order)


class Given:
    """A step, also lowered or compiled, that is given the same trees at every batch."""

    def __init__(self, step: Any, given: tuple[Any, ...]) -> None:
        self._step, self._given = step, given

    def __call__(self, state: Any, *batch: Any) -> Any:
        """Take the step."""
        return self._step(state, *batch, *self._given)

    def lower(self, state: Any, *batch: Any) -> Any:
        """Trace the step for arguments of such shapes."""
        return Given(self._step.lower(state, *batch, *self._given), self._given)

    def compile(self) -> Any:
        """Compile what was traced."""
        return Given(self._step.compile(), self._given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)
