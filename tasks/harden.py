"""Answer an image by a re-encoded copy, or by a vote over random cuts."""

from __future__ import annotations

import copy
import functools
from typing import Any, Self

import numpy as np

from data_contracts.dataset import Array
from tasks.audit_settings import HardenSettings
from tasks.inference import BATCH, Floats, Predictor, fitted


class Hardened:
    """A model that answers other views of the images that it is given.

    The cuts of an image depend on `secret` and its own pixels: the same question has
    the same answer, whatever else is asked with it.

    Attributes:
        meta: The model's.
    """

    def __init__(self, predictor: Predictor, settings: HardenSettings) -> None:
        import jax

        self.predictor, self.settings = predictor, settings
        self.meta = predictor.meta
        self._together = max(1, BATCH // max(settings.views, 1))
        self._views = jax.jit(functools.partial(_seen, settings=settings))

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the probabilities."""
        return self.predictor.classes

    def for_batch(self, n: int) -> Self:
        """Return the same model, made for batches of `n` images at most."""
        other = copy.copy(self)
        other._together = min(n, self._together)
        views = max(self.settings.views, 1)
        other.predictor = self.predictor.for_batch(other._together * views)
        return other

    def __call__(self, images: Array) -> Floats:
        """Return the probabilities (n, k) of images (n, h, w, 3), uint8."""
        images = fitted(images, size=int(self.meta["image_size"]))
        together = self._together
        out = np.empty((len(images), len(self.classes)), np.float32)
        for start in range(0, len(images), together):
            batch = images[start : start + together]
            rows = np.resize(np.arange(len(batch)), together)
            views = np.asarray(self._views(batch[rows]))
            probs = self.predictor(views.reshape(-1, *batch.shape[1:]))
            mean = probs.reshape(len(views), together, -1).mean(0)
            out[start : start + together] = mean[: len(batch)]
        return out


def hardened(predictor: Predictor, settings: HardenSettings) -> Predictor | Hardened:
    """Return the model as `settings` ask for it: itself where they ask nothing."""
    return Hardened(predictor, settings) if settings.asked else predictor


def views_of(pixels: Any, settings: HardenSettings) -> Any:
    """Return what the model is asked in place of pixels (n h w 3), (views n h w 3).

    A function of JAX that passes gradients on, so that an attack may go through it.
    """
    from models.defence.recode import (
        eight_bit,
        keys_by_content,
        random_views,
        reencode,
    )

    if settings.reencode:
        pixels = reencode(pixels, quality=settings.reencode)
    if not settings.views:
        return pixels[None]
    found = random_views(
        pixels,
        keys_by_content(pixels, settings.secret),
        views=settings.views,
        smallest=settings.smallest,
    )
    return eight_bit(found)


def _seen(images: Any, settings: HardenSettings) -> Any:
    import jax.numpy as jnp

    views = views_of(images.astype(jnp.float32) / 255, settings)
    return jnp.rint(views * 255).astype(jnp.uint8)
