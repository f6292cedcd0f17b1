"""Scores that rise where an image was made to fool the network; none learns attacks.

Every score can be differentiated, so that an attack may avoid it: Carlini & Wagner 2017
(arXiv 1705.07263) passed ten detectors that way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from models.defence.recode import rounded

Floats = NDArray[np.float32]
# Logits (n k) and embeddings (n d) of pixels (n h w c) in 0..1.
Ask = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

BITS = 5
NEIGHBOURS = 10
POOL = 4_096  # training embeddings that neighbours are looked for among


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reference:
    """What detectors know of clean training images.

    Attributes:
        means: Of each class's embeddings (k d).
        there: Whether the class has any (k,).
        precision: Inverse of the covariance that classes share (d d).
        pool: Embeddings of unit length (m d).
    """

    means: Any
    there: Any
    precision: Any
    pool: Any

    @classmethod
    def of(cls, embeddings: Floats, labels: NDArray[Any], classes: int) -> Reference:
        """Fit to embeddings (m d) of clean images and their labels (m,).

        The covariance is drawn towards a sphere by d / (m + d): fewer images than
        dimensions still have an inverse.
        """
        m, d = embeddings.shape
        wide = embeddings.astype(np.float64)
        counts = np.bincount(labels, minlength=classes)
        sums = np.zeros((classes, d))
        np.add.at(sums, labels, wide)
        means = sums / np.maximum(counts, 1)[:, None]
        rest = wide - means[labels]
        spread, shrink = rest.T @ rest / m, d / (m + d)
        round_ = max(float(np.trace(spread)) / d, 1e-12)
        spread = (1 - shrink) * spread + shrink * round_ * np.eye(d)
        pick = np.linspace(0, m - 1, min(m, POOL)).astype(np.int64)
        return cls(
            means=means.astype(np.float32),
            there=counts > 0,
            precision=np.linalg.inv(spread).astype(np.float32),
            pool=np.asarray(_unit(jnp.asarray(embeddings[pick]))),
        )


def squeezing(ask: Ask, pixels: jax.Array, known: Reference) -> jax.Array:
    """Return how far probabilities move when the image is squeezed, 0 to 2.

    Feature squeezing (Xu et al. 2018, arXiv 1704.01155): the larger L1 distance of
    two, to fewer levels (`BITS` bits) and to the median of 3 x 3 pixels.
    """
    del known
    before = jax.nn.softmax(ask(pixels)[0])
    moved = [
        jnp.abs(before - jax.nn.softmax(ask(squeezed)[0])).sum(-1)
        for squeezed in (fewer_levels(pixels), median(pixels))
    ]
    return jnp.maximum(*moved)


def mahalanobis(ask: Ask, pixels: jax.Array, known: Reference) -> jax.Array:
    """Return the squared distance to the nearest class (Lee et al., 1807.03888)."""
    apart = ask(pixels)[1][:, None] - known.means
    squares = jnp.einsum("nkd,de,nke->nk", apart, known.precision, apart)
    return jnp.where(known.there, squares, jnp.inf).min(-1)


def energy(ask: Ask, pixels: jax.Array, known: Reference) -> jax.Array:
    """Return the free energy of the logits (Liu et al. 2020, arXiv 2010.03759)."""
    del known
    return -jax.nn.logsumexp(ask(pixels)[0], axis=-1)


def neighbours(ask: Ask, pixels: jax.Array, known: Reference) -> jax.Array:
    """Return the distance to the k-th nearest (Sun et al. 2022, arXiv 2204.06507)."""
    cosine = _unit(ask(pixels)[1]) @ known.pool.T
    nearest = jax.lax.top_k(cosine, min(NEIGHBOURS, cosine.shape[1]))[0]
    return jnp.sqrt(jnp.maximum(2 - 2 * nearest[:, -1], 1e-12))


Score = Callable[[Ask, jax.Array, Reference], jax.Array]
SCORES: dict[str, Score] = {
    "squeezing": squeezing,
    "mahalanobis": mahalanobis,
    "energy": energy,
    "neighbours": neighbours,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blend:
    """A weighted sum of standardised scores.

    Attributes:
        centre: Median of each score on clean images (s,).
        scale: Its interquartile range (s,).
        weights: (s,).
        most: Ranges from the median beyond which a score counts no further: one wild
            score must not drown the others.
    """

    centre: Any
    scale: Any
    weights: Any
    most: Any

    @classmethod
    def alone(cls, place: int, of: int) -> Blend:
        """Return one of `of` scores as it is."""
        zeros, ones = np.zeros(of, np.float32), np.ones(of, np.float32)
        weights = np.eye(of, dtype=np.float32)[place]
        return cls(zeros, ones, weights, np.float32(np.inf))

    @classmethod
    def fit(cls, clean: Floats, attacked: Floats, *, penalty: float = 1.0) -> Blend:
        """Fit to one known attack by logistic regression, as Lee et al. 2018 do.

        Args:
            clean: Scores of clean images (n s).
            attacked: Scores of attacked ones (m s).
            penalty: Of the squared weights, in images.
        """
        low, centre, high = np.quantile(clean, (0.25, 0.5, 0.75), axis=0)
        scale = np.maximum(high - low, 1e-6)
        x = np.clip((np.concatenate([clean, attacked]) - centre) / scale, -CLIP, CLIP)
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        y = np.arange(len(x)) >= len(clean)
        worth = np.where(y, 1 / max(len(attacked), 1), 1 / len(clean)) * len(clean)
        weights = np.zeros(x.shape[1])
        for _ in range(25):  # Newton's steps; convex, a few would do
            chance = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
            curve = x.T @ (x * (worth * chance * (1 - chance))[:, None])
            slope = x.T @ (worth * (chance - y)) + penalty * weights
            weights -= np.linalg.solve(curve + penalty * np.eye(len(weights)), slope)
        as_floats = [np.asarray(a, np.float32) for a in (centre, scale, weights[:-1])]
        return cls(*as_floats, np.float32(CLIP))

    def __call__(self, scores: Any) -> jax.Array:
        """Return the blend (n,) of scores (n s)."""
        apart = jnp.clip((scores - self.centre) / self.scale, -self.most, self.most)
        # One by one: what does not count may be infinite.
        counted = jnp.where(self.weights == 0, 0, apart * self.weights)
        return jnp.asarray(counted.sum(-1))


CLIP = 50.0


def scores_of(
    ask: Ask,
    pixels: jax.Array,
    known: Reference,
    *,
    names: tuple[str, ...] = tuple(SCORES),
) -> jax.Array:
    """Return the scores of those names (n s)."""
    found = [SCORES[name](ask, pixels, known) for name in names]
    return jnp.stack(found, axis=-1)


def fewer_levels(pixels: jax.Array, bits: int = BITS) -> jax.Array:
    """Return pixels on 2 ** `bits` levels."""
    top = 2**bits - 1
    return rounded(pixels * top) / top


# Comparisons that leave the median of nine in place 4 (Paeth 1990, Graphics Gems).
# Sorting nine takes XLA's CPU backend far longer, and its gradient more.
EXCHANGES = (
    *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3)),
    *((5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)),
)


@jax.jit
def median(pixels: jax.Array) -> jax.Array:
    """Return the median of the 3 x 3 pixels around each, by channel."""
    h, w = pixels.shape[1:3]
    padded = jnp.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    around = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    for low, high in EXCHANGES:
        pair = around[low], around[high]
        around[low], around[high] = jnp.minimum(*pair), jnp.maximum(*pair)
    return around[4]


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
