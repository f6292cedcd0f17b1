"""Would more images help: a power law through the errors of heads on fewer of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.intervals import Paired

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHARES = (0.125, 0.25, 0.5, 1.0)
# Exponents that are tried; measured ones lie about .1 to 1 (arXiv 1712.00409).
EXPONENTS = np.geomspace(0.05, 2, 120)
RESAMPLES = 400


def fit_power(sizes: Any, errors: Floats) -> tuple[Floats, Floats, Floats]:
    """Return a, b >= 0 and c of error = a + b (n / n_last)^-c, by least squares.

    For a given c the rest is linear, so every c of a grid is tried.

    Args:
        sizes: Images (s,) behind each error.
        errors: (m, s), one curve a row.

    Returns:
        Three arrays (m,).
    """
    sizes = np.asarray(sizes, np.float64)
    x = (sizes / sizes[-1])[None] ** -EXPONENTS[:, None]  # c, s
    y = errors[:, None]  # m, 1, s
    dx, dy = x - x.mean(1, keepdims=True), y - y.mean(2, keepdims=True)
    slope = (dx * dy).sum(2) / (dx**2).sum(1)
    level = y.mean(2) - slope * x.mean(1)
    through = (x * y).sum(2) / (x**2).sum(1)  # without a floor: a = 0
    slope, level = (
        np.where(level < 0, through, slope),
        np.where(level < 0, 0.0, level),
    )
    level = np.where(slope < 0, y.mean(2), level)  # a curve that never falls
    slope = np.maximum(slope, 0.0)
    missed = ((y - level[..., None] - slope[..., None] * x) ** 2).sum(2)
    best = missed.argmin(1)
    row = np.arange(len(errors))
    return level[row, best], slope[row, best], EXPONENTS[best]


def error_at(fit: tuple[Floats, Floats, Floats], times: float) -> Floats:
    """Return the error (m,) with `times` as many images as the last size."""
    floor, scale, exponent = fit
    return floor + scale * times**-exponent


def gain_of_more(
    sizes: Any,
    missed: Floats,
    *,
    groups: Ints,
    times: float,
    level: float,
    seed: int,
    draws: int = RESAMPLES,
) -> Paired:
    """Return how far the error falls with `times` as many images, and its interval.

    Args:
        sizes: Images (s,) that heads were fitted on, rising.
        missed: Whether an image was wrong (s, d, n), by size and draw of the images.
        groups: Duplicate group of each image (n,).
        times: How many times as many images.
        level: Two-sided coverage, over images to judge by and draws to learn from.
        seed: Of the resamples.
        draws: Resamples.
    """
    random = np.random.default_rng((seed, 71))
    _, place = np.unique(groups, return_inverse=True)
    parts, of_draws = int(place.max()) + 1, missed.shape[1]
    by_group = random.multinomial(parts, np.full(parts, 1 / parts), draws)
    weight = by_group[:, place.ravel()].astype(np.float64)
    picks = random.multinomial(of_draws, np.full(of_draws, 1 / of_draws), draws)
    errors = np.einsum("bd,bn,sdn->bs", picks / of_draws, weight, missed)
    errors /= weight.sum(1, keepdims=True)
    whole = missed.mean((1, 2))[None]

    def gain(curves: Floats) -> Floats:
        fit = fit_power(sizes, curves)
        return error_at(fit, 1.0) - error_at(fit, times)

    low, high = np.quantile(gain(errors), [(1 - level) / 2, (1 + level) / 2])
    value = float(gain(whole)[0])
    return Paired(value, min(float(low), value), max(float(high), value))


def nested_shares(
    labels: Ints, groups: Ints, *, shares: Any, seed: int
) -> NDArray[np.bool_]:
    """Return which images (s, n) each share takes: the same part of every class.

    A smaller share lies within a larger one, groups of duplicates stay whole, and
    every class keeps one group at least.

    Args:
        labels: Class of each image (n,).
        groups: Duplicate group of each image (n,).
        shares: Shares to take (s,).
        seed: Of the order.
    """
    known, first, place = np.unique(groups, return_index=True, return_inverse=True)
    place = place.ravel()
    size, owner = np.bincount(place), labels[first]
    order = np.random.default_rng((seed, 73)).permutation(len(known))
    order = order[np.argsort(owner[order], kind="stable")]
    total = np.bincount(owner, size, int(labels.max()) + 1)
    before = np.cumsum(size[order]) - size[order]
    start = np.cumsum(total) - total
    reached = np.empty(len(known))
    # A group belongs to the class of its first image.
    reached[order] = (before - start[owner[order]]) / total[owner[order]]
    return np.asarray(reached[place] < np.asarray(shares)[:, None] - 1e-9)
