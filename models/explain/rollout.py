"""Attention rollout: what the answer gathers of the patches, over all layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.attention_maps import attention_weights
from models.backbones.vit import VisionTransformer
from models.explain.gradients import Found
from models.explain.subject import Case, Scale


def rollout(case: Case) -> Found:
    """Multiply attention through the blocks (Abnar & Zuidema 2020, arXiv 2005.00928).

    Heads are averaged, and half of what a token gathers is itself (section 3). It tells
    where the network looks, whatever the class.
    """

    def ask(model: VisionTransformer, scale: Scale) -> jax.Array:
        return _rolled(model, scale(case.pixels))

    maps = case.subject.over(case.weights, ask)
    return jax.image.resize(maps, (len(maps), *case.side), "linear"), {}


def _rolled(model: VisionTransformer, images: jax.Array) -> jax.Array:
    """Return the map (n h w) of patches that reach the answer."""
    grid = jax.eval_shape(model.features, images)[model.shape.patch].shape[1:3]
    weights = attention_weights(model, images)
    paths: jax.Array | None = None
    for index in range(len(model.blocks)):
        share = weights[f"blocks.{index}.attention"].mean(1)
        own = (share + jnp.eye(share.shape[-1])) / 2
        paths = own if paths is None else own @ paths
    assert paths is not None
    n, first = len(images), int(model.token is not None)
    if "query" in weights:  # a mean of the patches, weighed
        asked = weights["query"].reshape(n, 1, -1)
        reached = (asked @ paths[:, first:])[:, 0]
    elif "pool" in weights:
        reached = (weights["pool"].mean(1) @ paths)[:, 0]
    else:
        reached = paths[:, 0]
    return reached[:, first:].reshape(n, *grid)
