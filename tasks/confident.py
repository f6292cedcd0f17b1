"""Confident learning: which labels the probabilities of a held-out model contradict.

Northcutt, Jiang and Chuang 2021 (arXiv 1911.00068).
"""

from __future__ import annotations

import numpy as np

from data_contracts.dataset import Array


def margins(scores: Array, labels: Array) -> Array:
    """Return how far the best other class is above the given one, (n,).

    Args:
        scores: Probabilities, votes or logits (n, k).
        labels: Given classes (n,).
    """
    rows = np.arange(len(labels))
    others = scores.copy()
    others[rows, labels] = -np.inf
    return np.asarray(others.max(axis=1) - scores[rows, labels])


def thresholds(probs: Array, labels: Array) -> Array:
    """Return for each class its mean probability on the rows that carry it, (k,)."""
    k = probs.shape[1]
    own = probs[np.arange(len(labels)), labels]
    size = np.bincount(labels, minlength=k)
    total = np.bincount(labels, weights=own, minlength=k)
    # Nobody is confident of a class that no row carries.
    return np.divide(total, size, out=np.full(k, np.inf), where=size > 0)


def confident_joint(probs: Array, labels: Array) -> Array:
    """Return how many rows of each given class truly are of each class, (k, k).

    A row counts for the likeliest of the classes that it is confident of; each row of
    the result is scaled to the size of its given class.
    """
    k = probs.shape[1]
    sure = probs >= thresholds(probs, labels)
    guess = np.where(sure, probs, -np.inf).argmax(axis=1)
    any_sure = sure.any(axis=1)
    pairs = labels[any_sure] * k + guess[any_sure]
    counts = np.bincount(pairs, minlength=k * k).reshape(k, k).astype(np.float64)
    size = np.bincount(labels, minlength=k)
    total = counts.sum(axis=1)
    empty = total == 0
    counts[empty, empty] = 1
    total[empty] = 1
    return np.asarray(counts * (size / total)[:, None])


def noise_rate(joint: Array) -> float:
    """Return the share of rows off the diagonal of a confident joint."""
    total = joint.sum()
    return float(1 - np.trace(joint) / total) if total else 0.0


def prune_by_noise_rate(probs: Array, labels: Array, joint: Array) -> Array:
    """Return which rows to doubt, bool (n,).

    For each pair of given class i and other class j, the rows of i with the largest
    p[j] - p[i], as many as the joint counts.
    """
    doubtful = np.zeros(len(labels), bool)
    counts = np.rint(joint).astype(np.int64)
    np.fill_diagonal(counts, 0)
    for label in np.flatnonzero(counts.sum(axis=1)):
        rows = np.flatnonzero(labels == label)
        others = np.flatnonzero(counts[label])
        gap = probs[rows][:, others] - probs[rows, label][:, None]
        place = np.argsort(np.argsort(-gap, axis=0, kind="stable"), axis=0)
        doubtful[rows] |= (place < counts[label, others]).any(axis=1)
    return doubtful


def ranks(scores: Array) -> Array:
    """Return the rank of each score as a share of all, ties shared, in 0..1."""
    if len(scores) == 0:
        return np.zeros(0)
    _, place, size = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    return np.asarray((last - (size - 1) / 2) / len(scores))[place]
