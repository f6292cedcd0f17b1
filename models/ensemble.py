"""Several networks served as one, and the soup of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from models.design import PLAIN, Design
from models.members import Member, Weights, answers_of, columns
from models.scales import answer
from models.steps import Predict, on_devices

Score = tuple[float, float]  # loss and top-1, as `stopping.score` gives them


def make_predict_members(
    graphdef: nnx.GraphDef,
    members: Sequence[Member],
    *,
    mesh: Mesh | None = None,
    embed: bool = False,
    design: Design = PLAIN,
) -> Predict:
    """Compile predict(params, stats, images) of stacked networks, see `make_predict`.

    Logits are those of `answers_of`: their softmax is the mean of the members'
    probabilities. Embeddings (n, members * d) stand side by side, since axes of
    different networks have nothing in common that could be averaged.
    """

    def logits(weights: Any, images: jax.Array) -> jax.Array:
        pixels = images.astype(jnp.float32) / 255
        return answers_of(graphdef, weights, members, pixels, design)

    def embeddings(weights: Any, images: jax.Array) -> jax.Array:
        pixels = images.astype(jnp.float32) / 255

        def one(given: Any) -> jax.Array:
            weights, mean, std, _ = given
            model = nnx.merge(graphdef, *weights, copy=True)
            return answer(model.embed, (pixels - mean) / std, design).astype(
                jnp.float32
            )

        every = jax.lax.map(one, (weights, *columns(members)))
        return jnp.moveaxis(every, 0, 1).reshape(len(images), -1)

    return on_devices(embeddings if embed else logits, mesh)


def greedy_soup(
    ingredients: Sequence[Weights],
    judge: Callable[[Weights], Score],
    *,
    settle: Callable[[Weights], Weights] = lambda weights: weights,
) -> tuple[Weights, list[int]]:
    """Average the networks that do not lower validation top-1, the best one first.

    Wortsman et al. 2022, arXiv 2203.05482, recipe 1.

    Args:
        ingredients: Networks whose weights lie close together: of one start or run.
        judge: Returns loss and top-1 of a network on validation images.
        settle: Returns an average as it is judged and kept: with statistics of its
            own, see `batch_norms`; unless given they are averaged with the weights.

    Returns:
        The soup, and the places of what is in it, in the order in which it went in.
    """
    alone = [judge(weights) for weights in ingredients]
    first, *others = sorted(
        range(len(ingredients)), key=lambda i: (-alone[i][1], alone[i][0], -i)
    )
    soup, chosen, best = ingredients[first], [first], alone[first][1]
    for place in others:
        tried = settle(averaged([ingredients[i] for i in (*chosen, place)]))
        if (top1 := judge(tried)[1]) >= best:
            soup, best = tried, top1
            chosen.append(place)
    return soup, chosen


def averaged(networks: Sequence[Weights]) -> Weights:
    """Return the mean of the networks' weights and statistics, in their own types."""

    def mean(*leaves: Any) -> Any:
        if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
            return leaves[0]
        return np.mean(leaves, axis=0, dtype=np.float64).astype(leaves[0].dtype)

    params, stats = jax.tree.map(mean, *networks)
    return params, stats
