"""Answer by several views of an image: other sizes of it, and its mirror image."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from models.design import PLAIN, Design

Ask = Callable[[jax.Array], jax.Array]


def answer(ask: Ask, pixels: jax.Array, design: Design = PLAIN) -> jax.Array:
    """Return the mean of what `ask` makes of each view of an image.

    Logits are averaged rather than probabilities: a head that is linear then answers
    the mean of the embeddings, so that corrections of the head, thresholds and
    temperature mean the same as with one view.

    Args:
        ask: Gives embeddings or logits (n d) of normalised images (n h w c).
        pixels: Normalised images (n h w c).
        design: Its `test_scales` and `test_flip` name the views.
    """
    found = [
        _with_mirror(ask, resized(pixels, scale), flip=design.test_flip)
        for scale in design.test_scales
    ]
    return found[0] if len(found) == 1 else jnp.stack(found).mean(0)


def _with_mirror(ask: Ask, pixels: jax.Array, *, flip: bool) -> jax.Array:
    if not flip:
        return ask(pixels)
    # One batch of both, since a second copy of the network would compile twice.
    both = ask(jnp.concatenate([pixels, pixels[:, :, ::-1]]))
    return both.reshape(2, len(pixels), -1).mean(0)


def resized(pixels: jax.Array, scale: float) -> jax.Array:
    """Return images (n h w c) at so much of their side, smoothed where they shrink."""
    n, h, w, c = pixels.shape
    if scale == 1:
        return pixels
    sides = round(h * scale), round(w * scale)
    return jax.image.resize(pixels, (n, *sides, c), "bilinear")
