"""Nearest images by embedding, and what they vote for."""

from __future__ import annotations

import numpy as np

from data_contracts.dataset import Array

# Similarities that are in memory at once: 64 MB.
CELLS = 1 << 24


def nearest(queries: Array, gallery: Array, *, k: int) -> tuple[Array, Array]:
    """Return the nearest `k` of `gallery` to each query by cosine, the nearest first.

    Of equally near ones the first of the gallery comes first.

    Args:
        queries: Embeddings (n, d).
        gallery: Embeddings (m, d), m at least 1.
        k: How many; fewer where the gallery is smaller.

    Returns:
        Positions in the gallery (n, k), and cosines (n, k), float32.
    """
    k = min(k, len(gallery))
    places = np.empty((len(queries), k), np.int64)
    cosines = np.empty((len(queries), k), np.float32)
    known = _unit(gallery).T
    step = max(1, CELLS // len(gallery))
    for start in range(0, len(queries), step):
        near = _unit(queries[start : start + step]) @ known
        best = np.argpartition(-near, k - 1, axis=1)[:, :k]
        value = np.take_along_axis(near, best, axis=1)
        order = np.lexsort((best, -value))
        here = slice(start, start + len(near))
        places[here] = np.take_along_axis(best, order, axis=1)
        cosines[here] = np.take_along_axis(value, order, axis=1)
    return places, cosines


def _unit(rows: Array) -> Array:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)


def vote(codes: Array, cosines: Array, *, count: int) -> tuple[Array, Array]:
    """Return what the neighbours of each image agree on, and how far.

    Args:
        codes: What each neighbour says, 0 to `count` - 1, (n, k).
        cosines: How near it is, (n, k); its vote weighs that much.
        count: How many answers there are.

    Returns:
        The answer with most weight, (n,), and its share of all weight, (n,).
    """
    weight = np.maximum(cosines, 1e-6).astype(np.float64)
    answer, share = np.empty(len(codes), np.int64), np.empty(len(codes))
    step = max(1, CELLS // count)
    for start in range(0, len(codes), step):
        here = slice(start, start + step)
        votes = np.zeros((len(codes[here]), count))
        np.add.at(votes, (np.arange(len(votes))[:, None], codes[here]), weight[here])
        answer[here] = votes.argmax(1)
        share[here] = votes.max(1) / weight[here].sum(1)
    return answer, share
