"""Corrections for classes of unequal size: priors, margins, weights. Free of JAX."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]


def log_prior(counts: Counts) -> Floats:
    """Return the log share (k,) of each class; an empty class counts as half an image.

    Added to the logits in training, or taken away afterwards, it is the logit
    adjustment of Menon et al. 2021 (arXiv 2007.07314, equations 9 and 10).
    """
    filled = np.maximum(counts.astype(np.float64), 0.5)
    return np.log(filled / filled.sum()).astype(np.float32)


def effective_weights(counts: Counts, *, beta: float) -> Floats:
    """Return class weights (k,) by effective numbers, 1 on average over the images.

    (1 - beta) / (1 - beta^n): Cui et al. 2019, arXiv 1901.05555, equation 2. Their
    weights sum to k; ours keep the scale of the loss, and so the learning rate.
    """
    filled = np.maximum(counts.astype(np.float64), 1)
    weights = (1 - beta) / -np.expm1(filled * np.log(beta))
    return np.asarray(weights * counts.sum() / (weights @ counts), np.float32)


def margins(counts: Counts, *, largest: float) -> Floats:
    """Return the margin (k,) of each class: `largest` for the rarest, n^-1/4 else.

    Cao et al. 2019, arXiv 1906.07413, equation 13.
    """
    filled = np.maximum(counts.astype(np.float64), 1)
    return np.asarray(largest * (filled / filled.min()) ** -0.25, np.float32)


def quotas(counts: Counts, *, sampling: str) -> Counts:
    """Return how many images (k,) of each class an epoch shows.

    "class" gives every class the same share and "root" one by the square root of its
    size, both of as many images as there are; "over" repeats every class up to the
    largest, "under" cuts each to the smallest.

    Raises:
        ValueError: The way of sampling is unknown.
    """
    there = counts > 0
    if sampling == "over":
        return np.where(there, counts.max(), 0)
    if sampling == "under":
        return np.where(there, counts[there].min(), 0)
    powers = {"class": 0.0, "root": 0.5}
    if sampling not in powers:
        raise ValueError(f"sampling is class, root, over or under, not {sampling!r}")
    shares = np.where(there, counts.astype(np.float64) ** powers[sampling], 0)
    exact = counts.sum() * shares / shares.sum()
    whole = np.floor(exact).astype(np.int64)
    # The largest remainders take what is left; the lowest class wins a tie.
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: counts.sum() - whole.sum()]] += 1
    return whole


def resample(
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    sampling: str,
    seed: int,
    epoch: int,
) -> NDArray[np.int64]:
    """Return sorted `rows` of one epoch, some more than once, others left out.

    Every image of a class comes as often as any other of it, give or take one.

    Args:
        rows: Distinct rows (n,).
        labels: Their classes (n,), not negative.
        sampling: As for `quotas`.
        seed: Start of the choice, the same in every epoch.
        epoch: Counted from zero.
    """
    counts = np.bincount(labels)
    quota = quotas(counts, sampling=sampling)
    shuffled = np.random.default_rng((seed, epoch, 7)).permutation(len(rows))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    place = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
    own = labels[order]
    copies = quota[own] // counts[own] + (place < quota[own] % counts[own])
    return np.sort(np.repeat(rows[order], copies))
