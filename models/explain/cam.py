"""Class activation maps: the last map of a network, weighed by the answer's gradient.

Of a transformer whose class token answers, the last tokens' gradient is zero; the map
is then what its last block is given.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from models.backbones import Backbone
from models.backbones.vit import VisionTransformer
from models.explain.gradients import Found
from models.explain.subject import Case, Scale


def gradcam(case: Case) -> Found:
    """Channels weighed by their mean gradient (Selvaraju 2017, arXiv 1610.02391).

    Equations 1 and 2, of the image itself where a model averages several views.
    """
    return _cam(case, lambda seen, gradient: gradient.mean((1, 2), keepdims=True))


def gradcam_pp(case: Case) -> Found:
    """Grad-CAM with gradients weighed by place (Chattopadhyay 2018, arXiv 1710.11063).

    Equation 19, of the exponential of the logit, over the squared gradient.
    """

    def weigh(seen: jax.Array, gradient: jax.Array) -> jax.Array:
        under = 2 + seen.sum((1, 2), keepdims=True) * gradient
        share = 1 / jnp.where(under == 0, 1.0, under)
        return (share * jax.nn.relu(gradient)).sum((1, 2), keepdims=True)

    return _cam(case, weigh)


def _cam(case: Case, weigh: Any) -> Found:
    def ask(model: Backbone, scale: Scale) -> tuple[jax.Array, jax.Array]:
        seen, gradient = last_map(model, scale(case.pixels), case.targets)
        maps = jax.nn.relu((weigh(seen, gradient) * seen).sum(-1))
        return maps, jnp.abs(gradient).sum((1, 2, 3))

    maps, slope = case.subject.over(case.weights, ask)
    shape = (len(maps), *case.side)
    return jax.image.resize(maps, shape, "linear"), {"slope": slope}


def last_map(
    model: Backbone, images: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the last map (n h w c), and the gradient of the targets' logits by it.

    Args:
        model: A fresh copy; it does not stay as it is.
        images: Normalised images (n h w c).
        targets: Class of each (n,).
    """
    seen: list[jax.Array] = []
    moved: list[jax.Array] = []  # what is added to the map; none at first
    tap = _tap_tokens if isinstance(model, VisionTransformer) else _tap_stage
    tap(model, seen, moved)

    def score(move: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        seen.clear()
        moved[:] = [] if move is None else [move]
        logits = model(images, train=False).astype(jnp.float32)
        found = jnp.take_along_axis(logits, targets[:, None], 1).sum()
        return found, seen[0]

    shape = jax.eval_shape(lambda: score(None)[1])
    gradient, last = jax.grad(score, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    if isinstance(model, VisionTransformer):
        grid = jax.eval_shape(model.features, images)[model.shape.patch].shape[1:3]
        own = int(model.token is not None)
        last, gradient = (
            x[:, own:].reshape(len(x), *grid, -1) for x in (last, gradient)
        )
    return last, gradient


def _tap_stage(model: Any, seen: list[jax.Array], moved: list[jax.Array]) -> None:
    """Note the map of the last stage and add to it."""
    kind = type(model)

    def features(self: Any, x: jax.Array, **options: Any) -> dict[int, jax.Array]:
        maps = kind.features(self, x, **options)
        stride = list(maps)[-1]
        seen.append(maps[stride])
        return maps | {stride: sum(moved, start=maps[stride])}

    _become(model, {"features": features})


def _tap_tokens(model: Any, seen: list[jax.Array], moved: list[jax.Array]) -> None:
    """Note what the last block is given and add to it."""
    block = model.blocks[-1]
    kind = type(block)

    def call(self: Any, x: jax.Array, **options: Any) -> jax.Array:
        seen.append(x)
        return kind.__call__(self, sum(moved, start=x), **options)

    _become(block, {"__call__": call})


def _become(module: Any, methods: dict[str, Any]) -> None:
    kind = type(module)
    object.__setattr__(module, "__class__", type(kind.__name__, (kind,), methods))
