"""Embeddings without labels or training: what whitened patches an image is made of.

A dictionary of patches by k-means on whitened patches, soft-thresholded answers,
averaged over the quarters of the image (Coates, Ng and Lee 2011, AISTATS), then their
strongest axes. No label is looked at, so that a wrong one cannot bend it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Images = NDArray[np.uint8]

SIDE = 32  # images are brought to this size
PATCH = 6
FILTERS = 256
PATCHES = 20_000  # that the dictionary is learnt from
ROUNDS = 10
WIDTH = 256
PER_AXIS = 8  # images that an axis needs
BATCH = 256
# Of contrasts in 0..1, of variances of patches of contrast 1, of answers: the usual.
CONTRAST, WHITE, DULL = 10 / 255**2, 0.1, 0.5


@dataclasses.dataclass(frozen=True)
class PatchEncoder:
    """A dictionary of patches and the axes of its answers.

    Attributes:
        kernel: Filters on patches of contrast 1 (p p 3 f).
        offset: Added to their answers (f,).
        mean: Of the features (4 f,).
        turn: From centred features to embeddings (4 f, d).
    """

    kernel: Floats
    offset: Floats
    mean: Floats
    turn: Floats

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self.turn.shape[1]

    def embed(self, images: Images) -> Floats:
        """Return the embeddings (n, width) of images (n, 32, 32, 3), uint8."""
        found = features(images, self.kernel, self.offset)
        return (found - self.mean) @ self.turn


def learn_patches(images: Images, *, seed: int) -> PatchEncoder:
    """Return an encoder of images like these (n, 32, 32, 3), uint8."""
    kernel, offset = _dictionary(_patches(images, seed=seed), seed=seed)
    found = features(images, kernel, offset)
    mean, scale = found.mean(0), found.std(0) + 1e-6
    centred = (found - mean) / scale
    # With fewer images than features the others' axes are empty.
    values, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    # The last axes of few images are noise, which heads would take for signal.
    most = min(WIDTH, max(len(images) // PER_AXIS, 1))
    kept = min(most, int((values > 1e-5 * values[-1]).sum()))
    turn = axes[:, ::-1][:, :kept] / scale[:, None]
    return PatchEncoder(kernel, offset, mean, turn.astype(np.float32))


def features(images: Images, kernel: Floats, offset: Floats) -> Floats:
    """Return the root of the mean answer of each filter in each quarter (n, 4 f)."""
    out = np.empty((len(images), 4 * kernel.shape[-1]), np.float32)
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        padded = batch[np.resize(np.arange(len(batch)), BATCH)]
        out[start : start + BATCH] = np.asarray(_answers(padded, kernel, offset))[
            : len(batch)
        ]
    return out


@jax.jit
def _answers(images: jax.Array, kernel: jax.Array, offset: jax.Array) -> jax.Array:
    x = images.astype(jnp.float32) / 255
    box = jnp.full((*kernel.shape[:3], 1), 1 / np.prod(kernel.shape[:3]))
    mean = _slide(x, box)
    deviation = jnp.sqrt(jnp.maximum(_slide(x * x, box) - mean**2, 0) + CONTRAST)
    answer = (_slide(x, kernel) - mean * kernel.sum((0, 1, 2))) / deviation + offset
    answer = jax.nn.relu(answer - DULL)
    half = answer.shape[1] // 2
    quarters = [
        answer[:, rows, columns].mean((1, 2))
        for rows in (slice(half), slice(half, None))
        for columns in (slice(half), slice(half, None))
    ]
    return jnp.sqrt(jnp.concatenate(quarters, -1))


def _slide(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _patches(images: Images, *, seed: int) -> Floats:
    """Return random patches of mean 0 and contrast about 1, (m, p * p * 3)."""
    rng = np.random.default_rng((seed, 29))
    last = images.shape[1] - PATCH + 1
    image = rng.integers(0, len(images), PATCHES)
    top, left = rng.integers(0, last, (2, PATCHES))
    windows = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), (1, 2))
    # (n, rows, columns, channel, p, p) to the order of a kernel
    found = windows[image, top, left].transpose(0, 2, 3, 1).reshape(PATCHES, -1)
    found = found.astype(np.float32) / 255
    found -= found.mean(1, keepdims=True)
    return found / np.sqrt(found.var(1, keepdims=True) + CONTRAST)


def _dictionary(patches: Floats, *, seed: int) -> tuple[Floats, Floats]:
    """Return filters (p p 3 f) and offsets (f,) that answer to whitened patches."""
    mean = patches.mean(0)
    values, axes = np.linalg.eigh(np.cov((patches - mean).T))
    whiten = ((axes / np.sqrt(np.maximum(values, 0) + WHITE)) @ axes.T).astype("f4")
    white = (patches - mean) @ whiten
    rows = np.random.default_rng((seed, 31)).permutation(len(white))[:FILTERS]
    words = _unit(white[rows])
    for _ in range(ROUNDS):
        words = _moved(words, white)
    kernel = whiten @ words.T
    return kernel.reshape(PATCH, PATCH, 3, FILTERS), -(mean @ kernel)


def _moved(words: Floats, white: Floats) -> Floats:
    """Move each word to the mean of the patches nearest to it; idle ones stay."""
    near = white @ words.T
    own = near.argmax(1)
    order = np.argsort(own, kind="stable")
    pulled = (white * near.max(1, keepdims=True))[order]
    used, start = np.unique(own[order], return_index=True)
    moved = words.copy()
    moved[used] = _unit(np.add.reduceat(pulled, start, axis=0))
    return moved


def _unit(x: Floats) -> Floats:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return (x / np.maximum(norm, 1e-12)).astype(np.float32)
