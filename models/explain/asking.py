"""Maps from answers alone: hide a part of the image, and ask again."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from models.explain import coalitions
from models.explain.gradients import TINY, Found
from models.explain.how import Method
from models.explain.segments import segment
from models.explain.subject import Case

CHANCE = 0.5  # that RISE shows a cell
STRIDE = 2  # windows of `occlusion` overlap by all but one of so many parts


def occlusion(case: Case) -> Found:
    """How much the logit falls where a window hides the image (arXiv 1311.2901, 4.2).

    Each pixel is the mean over the windows that hide it.
    """
    h, w = case.side
    size = [max(1, round(case.how.window * side)) for side in (h, w)]
    starts = [_starts(side, own) for side, own in zip((h, w), size, strict=True)]
    whole = case.score(case.pixels)

    def window(i: jax.Array) -> jax.Array:
        row, column = starts[0][i // len(starts[1])], starts[1][i % len(starts[1])]
        inside = [
            (jnp.arange(side) >= start) & (jnp.arange(side) < start + own)
            for side, start, own in zip((h, w), (row, column), size, strict=True)
        ]
        return (inside[0][:, None] & inside[1][None]).astype(jnp.float32)

    def step(total: tuple[jax.Array, ...], i: jax.Array) -> tuple:
        hides = window(i)
        fallen = whole - _asked(case, 1 - hides)
        return (total[0] + fallen[:, None, None] * hides, total[1] + hides), None

    empty = jnp.zeros(case.pixels.shape[:3]), jnp.zeros((h, w))
    count = jnp.arange(len(starts[0]) * len(starts[1]))
    (fallen, times), _ = jax.lax.scan(step, empty, count)
    return fallen / jnp.maximum(times, 1), {}


def _starts(side: int, own: int) -> jax.Array:
    """Return where windows begin: evenly, from one edge to the other."""
    steps = -(-(side - own) * STRIDE // own) + 1
    return jnp.round(jnp.linspace(0, side - own, max(steps, 1))).astype(jnp.int32)


def rise(case: Case) -> Found:
    """Which pixels shown go with a high logit (Petsiuk et al. 2018, arXiv 1806.07421).

    The covariance of mask and answer over the mask's variance, rather than the paper's
    mean (equation 6): the same in expectation but for a constant, with less noise.
    """
    n, count = len(case.pixels), case.how.samples

    def step(total: tuple[jax.Array, ...], i: jax.Array) -> tuple:
        mask = _random_mask(case, i)
        found = _asked(case, mask) - start
        seen = found[:, None, None] * mask, found, mask, mask**2
        return jax.tree.map(jnp.add, total, seen), None

    start = case.score(case.pixels)  # so that sums stay small
    size = case.side
    empty = jnp.zeros((n, *size)), jnp.zeros(n), jnp.zeros(size), jnp.zeros(size)
    total, _ = jax.lax.scan(step, empty, jnp.arange(count))
    both, answer, mask, square = jax.tree.map(lambda x: x / count, total)
    spread = jnp.maximum(square - mask**2, TINY)
    return (both - answer[:, None, None] * mask) / spread, {}


def _random_mask(case: Case, i: jax.Array) -> jax.Array:
    """Return a mask (h w), a random grid enlarged and moved (section 3.2)."""
    cells, (h, w) = case.how.cells, case.side
    toss, move = jax.random.split(jax.random.fold_in(jax.random.key(case.how.seed), i))
    small = jax.random.bernoulli(toss, CHANCE, (cells + 1, cells + 1))
    step = -(-h // cells), -(-w // cells)
    large = jax.image.resize(
        small.astype(jnp.float32), [(cells + 1) * s for s in step], "linear"
    )
    corner = jax.random.randint(move, (2,), 0, jnp.array(step))
    return jax.lax.dynamic_slice(large, tuple(corner), (h, w))


def lime(case: Case) -> Found:
    """Values of segments by LIME; `fit` is its share of variance explained."""
    design = coalitions.lime(
        case.how.cells**2, samples=case.how.samples, seed=case.how.seed
    )
    own, answers, values = _valued(case, design)
    weights, shown = (jnp.asarray(x, jnp.float32) for x in (design.weights, design[0]))
    rest = answers - values @ shown.T
    rest = rest - (rest @ weights)[:, None]
    spread = ((answers - (answers @ weights)[:, None]) ** 2) @ weights
    fit = 1 - (rest**2) @ weights / jnp.maximum(spread, TINY)
    return _painted(values, own), {"fit": fit}


def kernel_shap(case: Case) -> Found:
    """Shapley values of segments, which sum to the change from nothing to the image."""
    design = coalitions.kernel_shap(
        case.how.cells**2, samples=case.how.samples, seed=case.how.seed
    )
    own, _, values = _valued(case, design)
    return _painted(values, own), {}


def _valued(
    case: Case, design: coalitions.Design
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return segments (n h w), answers (n m) over nothing's, and values (n k)."""
    own = segment(case.pixels, cells=case.how.cells, kind=case.how.segments)
    shown = jnp.asarray(design.shown, jnp.float32)
    nothing = case.score(case.nothing)

    def step(_: None, row: jax.Array) -> tuple[None, jax.Array]:
        return None, _asked(case, row[own]) - nothing

    _, answers = jax.lax.scan(step, None, shown)
    change = case.score(case.pixels) - nothing
    values = answers.T @ jnp.asarray(design.values.T, jnp.float32)
    values = values + change[:, None] * jnp.asarray(design.change, jnp.float32)
    return own, answers.T, values


def _painted(values: jax.Array, own: jax.Array) -> jax.Array:
    """Return the value (n h w) of each pixel's segment."""
    return jax.vmap(lambda value, own: value[own])(values, own)


def _asked(case: Case, mask: jax.Array) -> jax.Array:
    """Return the scores (n,) of the images under a mask (h w) or masks (n h w)."""
    nothing = case.nothing
    return case.score(nothing + mask[..., None] * (case.pixels - nothing))


METHODS: dict[Method, Callable[[Case], Found]] = {
    Method.occlusion: occlusion,
    Method.rise: rise,
    Method.lime: lime,
    Method.kernel_shap: kernel_shap,
}
