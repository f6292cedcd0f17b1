"""Learning without labels: two views of an image should come to the same place."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from models.augment import augment as augmented
from models.backbones import Backbone
from models.forward import forward
from models.recipe import Augment, Recipe
from models.shards import compiled, compiled_apart, one_after
from models.steps import (
    Channels,
    Step,
    TrainState,
    mean_over,
    normalise,
    sum_over,
    updated,
)

METHODS = ("vicreg", "simsiam")
# Weights of sameness, spread and decorrelation (arXiv 2105.04906, section 4.2).
SAME, SPREAD, APART = 25.0, 25.0, 1.0


class Paired(nnx.Module):
    """A backbone under a projector, and for SimSiam a predictor on top.

    Both are of dense layers with batch norms between them, as in the papers; the
    backbone's own head is left out.
    """

    def __init__(
        self, backbone: Backbone, *, method: str, width: int, rngs: nnx.Rngs
    ) -> None:
        self.backbone = backbone
        inputs = backbone.head.in_features
        self.projector = nnx.List(
            [
                nnx.Linear(inputs, width, rngs=rngs),
                nnx.BatchNorm(width, momentum=0.9, rngs=rngs),
                nnx.Linear(width, width, rngs=rngs),
                nnx.BatchNorm(width, momentum=0.9, rngs=rngs),
                nnx.Linear(width, width, rngs=rngs),
            ]
        )
        self.method = method
        if method == "simsiam":
            self.last = nnx.BatchNorm(
                width, use_scale=False, use_bias=False, momentum=0.9, rngs=rngs
            )
            self.predictor = nnx.List(
                [
                    nnx.Linear(width, width // 4, rngs=rngs),
                    nnx.BatchNorm(width // 4, momentum=0.9, rngs=rngs),
                    nnx.Linear(width // 4, width, rngs=rngs),
                ]
            )

    def __call__(
        self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return projections (n width), for SimSiam beside predictions (n 2 width)."""
        del rngs
        z = _dense(self.projector, self.backbone.embed(x, train=train), train=train)
        if self.method != "simsiam":
            return z
        z = self.last(z, use_running_average=not train)
        return jnp.concatenate([z, _dense(self.predictor, z, train=train)], -1)


def _dense(layers: Any, x: jax.Array, *, train: bool) -> jax.Array:
    for layer in layers:
        if isinstance(layer, nnx.BatchNorm):
            x = jax.nn.relu(layer(x, use_running_average=not train))
        else:
            x = layer(x)
    return x


def vicreg(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    """Return the loss of two views (n d): sameness, spread and decorrelation.

    Bardes et al. 2022, arXiv 2105.04906, section 4.1; sameness is a mean over columns
    and spread one over the two views, as in the authors' program.

    Args:
        first: Projections of one view of each image.
        second: Projections of the other.
        share: How much each image counts (n,), summing to 1.
    """
    same = share @ jnp.square(first - second).mean(-1)
    loss = SAME * same
    for z in (first, second):
        centred = z - share @ z
        cov = (centred * share[:, None]).T @ centred
        spread = jnp.sqrt(jnp.diagonal(cov) + 1e-4)
        crossed = jnp.square(cov).sum() - jnp.square(jnp.diagonal(cov)).sum()
        loss += SPREAD / 2 * jax.nn.relu(1 - spread).mean()
        loss += APART * crossed / z.shape[-1]
    return loss


def simsiam(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    """Return the loss of two views (n 2d), each its projection and its prediction.

    Each prediction should point where the other projection does, which stands still
    (Chen and He 2021, arXiv 2011.10566, equations 1 to 4).

    Args:
        first: Of one view of each image.
        second: Of the other.
        share: How much each image counts (n,), summing to 1.
    """
    (z1, p1), (z2, p2) = (jnp.split(of, 2, axis=-1) for of in (first, second))
    agree = _cosine(p1, jax.lax.stop_gradient(z2))
    return -share @ (agree + _cosine(p2, jax.lax.stop_gradient(z1))) / 2


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(_unit(a) * _unit(b), -1)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def found_again(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    """Return whether (n,) the nearest second view of each image is its own.

    Args:
        first: Of one view of each image, (n d).
        second: Of the other.
        share: How much each image counts (n,); one of 0 is no rival.
    """
    a, b = (_unit(z - share @ z) for z in (first, second))
    near = jnp.where(share > 0, a @ b.T, -jnp.inf)
    return near.argmax(-1) == jnp.arange(len(a))


def pair_step_of(
    recipe: Recipe,
    network: tuple[Any, Any],
    *,
    method: str,
    seed: int,
    mean: Channels,
    std: Channels,
    mesh: Mesh | None,
    layout: Any = None,
    **_: Any,
) -> Step:
    """Compile the step of `method`, in the place of `epoch.step_of`.

    Every device judges its own images by themselves. "top1" is the share of images
    whose two views find each other among those.

    Args:
        recipe: Views, average of weights, and precision.
        network: The structure of a `Paired`, and the optimiser.
        method: One of `METHODS`.
        seed: Start of the random stream.
        mean: Channel means of 0..1 pixels.
        std: Channel standard deviations of 0..1 pixels.
        mesh: Devices to split the batch over.
        layout: Of a state that is split over them, see `shards`.
    """
    graphdef, tx = network
    run = functools.partial(forward, graphdef, precision=recipe.precision)
    loss_of = {"vicreg": vicreg, "simsiam": simsiam}[method]

    def learn(
        state: TrainState, images: Any, labels: Any, weights: Any, places: Any
    ) -> Any:
        del labels, places
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if mesh is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(mesh.axis_names[0]))
        pixels = two_views(images, key, recipe.augment)
        total = jnp.sum(weights)
        part = total / jnp.maximum(sum_over(total, mesh), 1e-12)
        share = weights / jnp.maximum(total, 1e-12)

        def loss(params: Any) -> Any:
            normal = normalise(pixels, mean, std)
            out, stats = run((params, state.stats), normal, key=key)
            first, second = jnp.split(out, 2)
            hits = share @ found_again(first, second, share).astype(jnp.float32)
            return part * loss_of(first, second, share), (part * hits, stats)

        (value, (top1, stats)), grads = jax.value_and_grad(loss, has_aux=True)(
            state.params
        )
        value, top1, grads = sum_over((value, top1, grads), mesh)
        stats = mean_over(stats, mesh)
        return grads, stats, state.memory, {"loss": value, "top1": top1}

    update = functools.partial(updated, tx=tx, ema=recipe.ema)
    if layout is not None:
        return compiled_apart(learn, update, layout)
    return compiled(one_after(learn, update), mesh)


def two_views(images: jax.Array, key: jax.Array, settings: Augment) -> jax.Array:
    """Return one view of each image (n h w c, uint8), then another, (2n h w c)."""
    return jnp.concatenate(
        [augmented(images, jax.random.fold_in(key, k), settings) for k in (4, 5)]
    )
