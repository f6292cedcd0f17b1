"""Where a network looks: the weights that its attention gives places of an image."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from models.backbones import Backbone

Maps = dict[str, jax.Array]


def attention_weights(model: Backbone, images: jax.Array) -> Maps:
    """Return what every attention over places gave, by the module's path.

    Gates of CBAM, 0 to 1, and the weights of a learnt query, which sum to 1, are
    (n h w). Heads, whose keys sum to 1, are (n heads q k): places of the last stage row
    by row, or a transformer's tokens, the class token first where there is one.

    Args:
        model: The network; it stays as it is.
        images: Normalised images (n h w c).
    """
    return {name: weights for name, (weights, _) in _seen(model, images).items()}


def attention_maps(model: Backbone, images: jax.Array) -> Maps:
    """Return a map (n h w) of every attention over places, by the module's path.

    Heads are averaged: over what all places of the last stage gather, and in a
    transformer over what the class token gathers of the patches, or all tokens where
    there is no class token. What the class token gathers of itself is left out, so
    that its maps sum to a little less than 1.

    Args:
        model: The network; it stays as it is.
        images: Normalised images (n h w c).
    """
    *_, last = jax.eval_shape(model.features, images).values()
    token = getattr(model, "token", None) is not None
    maps = {}
    for name, (weights, given) in _seen(model, images).items():
        if weights.ndim == 4:  # heads
            of_tokens = len(given) == 3
            grid = last.shape[1:3] if of_tokens else given[1:3]
            own = weights[:, :, :1, 1:] if of_tokens and token else weights
            weights = own.mean((1, 2)).reshape(len(own), *grid)
        maps[name] = weights
    return maps


def _seen(model: Backbone, images: jax.Array) -> dict[str, tuple[Any, Any]]:
    """Run the network; return each attention's weights and its input's shape."""
    model = nnx.clone(model)
    found: dict[str, tuple[Any, Any]] = {}
    for path, module in list(nnx.iter_modules(model)):
        if hasattr(module, "weights"):
            kind = _noting(type(module), ".".join(map(str, path)), found)
            object.__setattr__(module, "__class__", kind)
    model.embed(images)
    return found


def _noting(kind: type, name: str, found: dict[str, tuple[Any, Any]]) -> type:
    """Return a module like `kind` that writes down where it looks when called."""

    def call(module: Any, x: jax.Array) -> jax.Array:
        found[name] = module.weights(x), x.shape
        return kind.__call__(module, x)  # type: ignore[operator]

    return type(kind.__name__, (kind,), {"__call__": call})
