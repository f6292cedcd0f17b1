"""The loss of images and its slope, and what an attack keeps of what it tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.attacks.losses import Loss, cross_entropy, margin

LogitsOf = Callable[[jax.Array], jax.Array]


class Seen(NamedTuple):
    """Some images (n h w c), their losses (n,), and whether their answers are wrong."""

    pixels: jax.Array
    loss: jax.Array
    broken: jax.Array


def wrong(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return which answers are wrong (n,); logits that are no numbers are no answer."""
    return (logits.argmax(-1) != labels) | ~jnp.isfinite(logits).all(-1)


def look(logits_of: LogitsOf, pixels: jax.Array, labels: jax.Array, loss: Loss) -> Seen:
    """Return the loss of each image."""
    logits = logits_of(pixels)
    return Seen(pixels, loss(logits, labels), wrong(logits, labels))


def climb(
    logits_of: LogitsOf, pixels: jax.Array, labels: jax.Array, loss: Loss
) -> tuple[Seen, jax.Array]:
    """Return the loss of each image and its slope; where that is no number, 0."""

    def total(pixels: jax.Array) -> tuple[jax.Array, Seen]:
        seen = look(logits_of, pixels, labels, loss)
        return seen.loss.sum(), seen

    slopes, seen = jax.grad(total, has_aux=True)(pixels)
    return seen, jnp.where(jnp.isfinite(slopes), slopes, 0)


def worst(kept: Seen, new: Seen) -> Seen:
    """Return the more harmful of two versions of each image: wrong, then by loss."""
    alike = (kept.broken == new.broken) & (new.loss > kept.loss)
    found: Seen = where((new.broken & ~kept.broken) | alike, new, kept)
    return found


def first(kept: Seen, new: Seen) -> Seen:
    """Return what broke an image first, else the version of the larger loss."""
    better = new.broken | (new.loss > kept.loss)
    found: Seen = where(~kept.broken & better, new, kept)
    return found


def where(which: jax.Array, new: Any, old: Any) -> Any:
    """Return the entries of the tree `new` where `which` (n,), else those of `old`."""

    def one(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(which.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(one, new, old)


def silent(
    logits_of: LogitsOf, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return which images (n,) have no slope to follow, and which one of no numbers.

    Attacks along gradients say nothing of such images: gradients are masked (Athalye
    et al. 2018, arXiv 1802.00420). A slope counts as none where both cross-entropy and
    the difference of logits are flat; the first alone is flat where a network is sure.
    """

    def slopes_of(loss: Loss) -> jax.Array:
        return jax.grad(lambda pixels: loss(logits_of(pixels), labels).sum())(images)

    every = jnp.stack([slopes_of(loss) for loss in (cross_entropy, margin)])
    return (every == 0).all((0, 2, 3, 4)), ~jnp.isfinite(every).all((0, 2, 3, 4))
