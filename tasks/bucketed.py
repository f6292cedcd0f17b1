"""Intervals from sums by bucket, where whole duplicate groups lie in one bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_contracts.references import Estimate
from tasks.intervals import Floats, wilson

HELD = 4_000_000  # numbers held at once while resampling: 32 MB
Sums = NDArray[Any]


def bootstrap(
    columns: Floats, statistic: Callable[[Floats], Floats], *, draws: int, seed: int
) -> Floats:
    """Return (draws, m) figures of column sums over resampled buckets.

    One bucket fewer than there are is drawn, scaled up (Rao and Wu 1988).

    Args:
        columns: (buckets, s) sums.
        statistic: Maps (d, s) sums to (d, m) figures.
        draws: Number of resamples.
        seed: Seed of the resamples.
    """
    rng = np.random.default_rng(seed)
    many, width = columns.shape
    step = max(1, HELD // max(width, many))
    found = []
    for start in range(0, draws, step):
        d = min(step, draws - start)
        weights = rng.multinomial(many - 1, np.full(many, 1 / many), size=d)
        found.append(statistic((weights * (many / (many - 1))) @ columns))
    return np.concatenate(found)


def shares_by_bucket(hits: Sums, n: Sums, level: float) -> list[Estimate]:
    """Return the share of hits in each column, by Wilson on the effective number.

    Args:
        hits: (buckets,) or (buckets, m) hits.
        n: Images, alike.
        level: Two-sided coverage.
    """
    hits, n = hits.reshape(len(n), -1), n.reshape(len(n), -1)
    total = n.sum(0)
    share = hits.sum(0) / np.maximum(total, 1)
    worth = total / design_effect(hits, n, share * (1 - share) * total)
    low, high = wilson(share * worth, worth, level=level)
    return [
        Estimate(value=v, low=lo, high=hi, n=int(c))
        for v, lo, hi, c in zip(share, low, high, total, strict=True)
    ]


def design_effect(values: Sums, n: Sums, spread: Floats) -> Floats:
    """Return how many images each independent one stands for, (m,).

    The variance between buckets over that of independent images (Rao and Scott 1992),
    kept between 1 and what groups of wholly alike images would make (Kish).

    Args:
        values: (buckets, m) sums of what is averaged.
        n: (buckets, m) images.
        spread: (m,) squared deviations of single images from their mean.
    """
    many, total = len(n), np.maximum(n.sum(0), 1)
    scale = many / (many - 1)
    between = scale * ((values - values.sum(0) / total * n) ** 2).sum(0)
    alike = scale * ((n - total / many) ** 2).sum(0) / total
    effect = np.divide(between, spread, out=alike.copy(), where=spread > 1e-9)
    return np.asarray(np.clip(effect, 1, np.maximum(alike, 1)), np.float64)


def spanning(value: float, low: float, high: float, *, n: int) -> Estimate:
    """Return a figure with an interval that holds it."""
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=n)


def clipped(
    value: float, low: float, high: float, *, n: int, top: float = 1.0
) -> Estimate:
    """Return a figure with an interval that holds it, within 0 and `top`."""
    return spanning(
        float(value), max(float(low), 0.0), min(float(high), float(top)), n=n
    )
