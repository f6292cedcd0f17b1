"""What is explained: one network or several, as the methods ask it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx

from models.backbones import kept_model
from models.design import PLAIN, Design
from models.explain.how import Hide, How
from models.members import Member, Weights, answers_of, columns, stacked
from models.scales import answer

Scale = Callable[[jax.Array], jax.Array]
BLUR = 8  # a blurred image keeps so many places along a side


@dataclasses.dataclass(frozen=True)
class Subject:
    """The structure of one network, or of several that are served as one.

    Attributes:
        graphdef: Of each network.
        members: What each has for itself.
        kind: Of network: a class of `backbones`.
        design: Names the views that answers are averaged over.
    """

    graphdef: nnx.GraphDef
    members: tuple[Member, ...]
    kind: type
    design: Design = PLAIN

    @classmethod
    def of(
        cls, model: nnx.Module, members: Sequence[Member], design: Design = PLAIN
    ) -> tuple[Self, Weights]:
        """Return a network as a subject, and its weights, stacked for one member."""
        graphdef, params, stats = nnx.split(model, nnx.Param, ...)
        weights = stacked([(nnx.as_pure(params), nnx.as_pure(stats))])
        return cls(graphdef, tuple(members), type(model), design), weights

    def over(self, weights: Weights, ask: Callable[[Any, Scale], Any]) -> Any:
        """Return the mean over the networks of what `ask` makes of each.

        Args:
            weights: Stacked, as by `members.stacked`.
            ask: Takes a network, and what normalises pixels of 0..1 for it.
        """

        def one(given: Any) -> Any:
            weights, mean, std, _ = given
            model = nnx.merge(self.graphdef, *weights, copy=True)
            return ask(model, lambda pixels: (pixels - mean) / std)

        every = weights, *columns(self.members)
        if len(self.members) == 1:
            return one(jax.tree.map(lambda leaf: leaf[0], every))
        return jax.tree.map(lambda leaf: leaf.mean(0), jax.lax.map(one, every))

    def logits(self, weights: Weights, pixels: jax.Array) -> jax.Array:
        """Return logits (n k) of images (n h w c), 0..1, all views of them counted.

        Those of several networks are the mean of theirs.
        """

        def ask(model: Any, scale: Scale) -> jax.Array:
            seen = functools.partial(model, train=False)
            return answer(seen, scale(pixels), self.design).astype(jnp.float32)

        return self.over(weights, ask)

    def log_probs(self, weights: Weights, pixels: jax.Array) -> jax.Array:
        """Return the log of the probabilities (n k) that are served, calibrated."""
        return answers_of(self.graphdef, weights, self.members, pixels, self.design)

    @property
    def mean(self) -> jax.Array:
        """The mean colour of the training images (3,), 0..1."""
        return columns(self.members)[0].mean(0)


def subject_of(params: Any, stats: Any, meta: dict[str, Any]) -> tuple[Subject, Any]:
    """Return what `save_model` kept as a subject, and its stacked weights.

    Args:
        params: Trained parameters, stacked where there are several networks.
        stats: Statistics of norms, likewise.
        meta: Preset, classes, image size, design.
    """
    several = meta.get("members", [])
    members = [Member.of(each) for each in several or [meta]]
    subject, _ = Subject.of(kept_model(meta), members, Design.of(meta.get("network")))
    return subject, (params, stats) if several else stacked([(params, stats)])


@dataclasses.dataclass(frozen=True)
class Case:
    """Images to explain, and whom to ask about them.

    Attributes:
        subject: The network.
        weights: Its stacked weights.
        pixels: Images (n h w c), float32, 0..1.
        targets: The class that is explained, of each (n,).
        background: Images (m h w c), 0..1, that stand for usual ones.
        how: The method and its budget.
    """

    subject: Subject
    weights: Any
    pixels: jax.Array
    targets: jax.Array
    background: jax.Array
    how: How

    @property
    def side(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def score(self, pixels: jax.Array) -> jax.Array:
        """Return the logits (... n) of the targets, of images (... n h w c)."""
        logits = self.subject.logits(
            self.weights, pixels.reshape(-1, *pixels.shape[-3:])
        )
        logits = logits.reshape(*pixels.shape[:-3], -1)
        return (logits * jax.nn.one_hot(self.targets, logits.shape[-1])).sum(-1)

    def gradient(self, pixels: jax.Array) -> jax.Array:
        """Return the gradient (... n h w c) of the scores of images (... n h w c)."""
        return jax.grad(lambda x: self.score(x).sum())(pixels)

    @property
    def nothing(self) -> jax.Array:
        """What stands where pixels are hidden, (n h w c)."""
        return hidden(self.pixels, self.how.hide, self.subject.mean)


def hidden(pixels: jax.Array, hide: Hide, mean: jax.Array) -> jax.Array:
    """Return images (n h w c) of which nothing is left to recognise.

    Args:
        pixels: Images, 0..1.
        hide: The training images' mean colour, the image blurred, or black.
        mean: Of the training images (3,).
    """
    if hide == Hide.mean:
        return jnp.broadcast_to(mean.astype(pixels.dtype), pixels.shape)
    if hide == Hide.black:
        return jnp.zeros_like(pixels)
    n, h, w, c = pixels.shape
    small = jax.image.resize(pixels, (n, min(h, BLUR), min(w, BLUR), c), "linear")
    return jax.image.resize(small, pixels.shape, "linear")
