"""Adversarial training: learn from views that are attacked as training goes on.

    fgsm    one step from a random start          Wong et al. 2020, arXiv 2001.03994
    pgd     several steps                         Madry et al. 2018, arXiv 1706.06083
    trades  the answer to the plain view, and     Zhang et al. 2019, arXiv 1901.08573
            how far PGD moves it
    free    several updates on the same views,    Shafahi et al. 2019, arXiv 1904.12843
            whose change takes the slope that
            the update computes anyway

A view is attacked in pixels of 0..1, after augmentation and mixing, by the network at
its present weights and running statistics; the change counts towards no statistics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from models.attacks.balls import anywhere, keys_of, steepest, within
from models.attacks.losses import cross_entropy
from models.attacks.pgd import pgd
from models.augment import side_of
from models.forward import look_at
from models.recipe import Adversarial, Augment

Channels = tuple[float, float, float]
# Where a state's memory has the change of the views of free training, within a step.
CHANGE = "change"
FAST_STEP = 1.25  # of FGSM from a random start, as a share of the budget


@dataclasses.dataclass(frozen=True)
class Adversary:
    """Who attacks the views of a step.

    Attributes:
        settings: How.
        graphdef: The network's structure.
        mean: Channel means of 0..1 pixels.
        std: Channel standard deviations.
        precision: What the network computes in.
        remat: Whether blocks are recomputed.
        parts: Parts that the views are attacked in, to save memory.
    """

    settings: Adversarial
    graphdef: nnx.GraphDef
    mean: Channels
    std: Channels
    precision: str = "float32"
    remat: bool = False
    parts: int = 1

    def __call__(
        self,
        weights: Any,
        pixels: jax.Array,
        own: jax.Array,
        labels: jax.Array,
        *,
        key: jax.Array,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Return the views to answer, and changed ones to answer alike (or None).

        Args:
            weights: (params, stats).
            pixels: Views (n h w c), 0..1.
            own: Share (n,) of the image's own label; the rest is that of its partner,
                the image as far from the other end of the batch.
            labels: (n,).
            key: Of random starts.
        """
        method = self.settings.method
        if method not in ("fgsm", "pgd", "trades"):
            return pixels, None
        keys = keys_of(jax.random.fold_in(key, 3), jnp.arange(len(pixels)))
        given = pixels, own, labels, labels[::-1], keys
        if self.parts > 1:
            cut = jax.tree.map(
                lambda leaf: leaf.reshape(self.parts, -1, *leaf.shape[1:]), given
            )
            found = jax.lax.map(lambda part: self._move(weights, *part), cut)
            found = found.reshape(pixels.shape)
        else:
            found = self._move(weights, *given)
        found = jax.lax.stop_gradient(found)
        return (pixels, found) if method == "trades" else (found, None)

    def _move(
        self,
        weights: Any,
        pixels: jax.Array,
        own: jax.Array,
        first: jax.Array,
        second: jax.Array,
        keys: jax.Array,
    ) -> jax.Array:
        """Return the views (n h w c) where the loss is higher."""

        def logits_of(pixels: jax.Array) -> jax.Array:
            normal = (pixels - jnp.array(self.mean)) / jnp.array(self.std)
            return look_at(
                self.graphdef,
                weights,
                normal,
                precision=self.precision,
                remat=self.remat,
            )

        def mixed(logits: jax.Array, _: jax.Array) -> jax.Array:
            of = cross_entropy(logits, first), cross_entropy(logits, second)
            return own * of[0] + (1 - own) * of[1]

        loss = mixed
        if self.settings.method == "trades":
            before = logits_of(pixels)

            def loss(logits: jax.Array, _: jax.Array) -> jax.Array:
                return divergence(before, logits)

        fast = self.settings.method == "fgsm"
        return pgd(
            logits_of,
            pixels,
            first,
            eps=self.settings.eps,
            norm=self.settings.norm,
            keys=keys,
            steps=1 if fast else self.settings.steps,
            step_size=FAST_STEP if fast else None,
            loss=loss,
            keep=False,
        )

    def pushed(
        self, change: jax.Array, slopes: jax.Array, pixels: jax.Array
    ) -> jax.Array:
        """Return the change of `pixels` after a step along `slopes` (n h w c)."""
        eps, norm = self.settings.eps, self.settings.norm
        moved = pixels + change + eps * steepest(slopes, norm)
        return within(moved, pixels, eps, norm) - pixels


def divergence(plain: jax.Array, other: jax.Array) -> jax.Array:
    """Return how far answers (n,) to other views are from plain ones, KL of logits."""
    plain, other = jax.nn.log_softmax(plain), jax.nn.log_softmax(other)
    return (jnp.exp(plain) * (plain - other)).sum(-1)


def replayed(
    once: Callable[..., Any],
    settings: Adversarial,
    augment: Augment,
    *,
    seed: int,
    mesh: Mesh | None,
) -> Callable[..., Any]:
    """Return a step of free training: `once` for each of several updates of a batch.

    The change of the views starts anywhere in the budget and goes from update to
    update; the paper hands it on to the next batch, whose images are others.
    """

    def local(state: Any, images: jax.Array, *rest: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        key = jax.random.fold_in(key, 4)
        if mesh is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(mesh.axis_names[0]))
        side = side_of(augment, images.shape[1])
        grey = jnp.full((len(images), side, side, images.shape[-1]), 0.5)
        keys = keys_of(key, jnp.arange(len(images)))
        start = anywhere(grey, settings.eps, settings.norm, keys) - grey
        memory = state.memory | {CHANGE: start}
        state, every = dataclasses.replace(state, memory=memory), []
        for _ in range(settings.replays):
            state, seen = once(state, images, *rest)
            every.append(seen)
        memory = {name: kept for name, kept in state.memory.items() if name != CHANGE}
        means = jax.tree.map(lambda *each: sum(each) / len(each), *every)
        return dataclasses.replace(state, memory=memory), means

    return local
