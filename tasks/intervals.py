"""Intervals for shares, paired changes and any statistic of a test set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHUNK = 4_000_000  # weights held at once: 32 MB


class Paired(NamedTuple):
    """A paired change of a share, candidate minus champion, with its interval."""

    value: float
    low: float
    high: float


def z_score(level: float) -> float:
    """Return the normal quantile of a two-sided interval of coverage `level`."""
    return float(special.ndtri(0.5 + level / 2))


def two_sided(level: float) -> float:
    """Return the two-sided level whose ends are one-sided bounds at `level`."""
    return 2 * level - 1


def holm(chances: Floats, *, level: float) -> NDArray[np.bool_]:
    """Return which of several chances (m,) are small enough (Holm 1979).

    From the smallest on, until one is not: where all of them are luck, the chance to
    find any is 1 - `level` at most.
    """
    order = np.argsort(chances)
    share = (1 - level) / (len(chances) - np.arange(len(chances)))
    found = np.zeros(len(chances), bool)
    found[order] = np.cumprod(chances[order] < share).astype(bool)
    return found


def wilson(hits: ArrayLike, n: ArrayLike, *, level: float) -> tuple[Floats, Floats]:
    """Return Wilson's score interval of a share, element by element.

    Args:
        hits: Successes; need not be whole (see `effective_n`).
        n: Trials; 0 gives the whole range 0..1.
        level: Two-sided coverage.
    """
    trials = np.asarray(n, np.float64)
    z = z_score(level)
    safe = np.where(trials > 0, trials, 1.0)
    share = np.asarray(hits, np.float64) / safe
    centre = (share + z**2 / (2 * safe)) / (1 + z**2 / safe)
    spread = share * (1 - share) / safe + z**2 / (4 * safe**2)
    half = z * np.sqrt(np.maximum(spread, 0.0)) / (1 + z**2 / safe)
    known = trials > 0
    low = np.where(known, np.clip(centre - half, 0.0, share), 0.0)
    high = np.where(known, np.clip(centre + half, share, 1.0), 1.0)
    return low, high


def agresti_min(fixed: float, broken: float, n: float, *, level: float) -> Paired:
    """Return the change of a share between two models on the same `n` images.

    Half a pair is added to each cell of the two-by-two table before the Wald interval
    (Agresti & Min 2005), so that the interval has width even when nothing changed.

    Args:
        fixed: Images that only the candidate gets right.
        broken: Images that only the champion gets right.
        n: Images; need not be whole (see `effective_n`).
        level: Two-sided coverage.

    Returns:
        The plain change (fixed - broken) / n, and the ends of the adjusted interval.
    """
    total = n + 2
    change = (fixed - broken) / total
    variance = ((fixed + broken + 1) / total - change**2) / total
    half = z_score(level) * float(np.sqrt(variance))
    low, high = max(change - half, -1.0), min(change + half, 1.0)
    return Paired((fixed - broken) / n if n else 0.0, low, high)


def paired_change(values: ArrayLike, *, groups: Ints, level: float) -> Paired:
    """Return `agresti_min` for images that come in duplicate groups.

    The counts are divided by the design effect of the groups (Rao & Scott 1992), so
    ten copies of an image weigh like as many images as they inform like. With one
    image a group it is plain `agresti_min`.

    Args:
        values: (n,) 1 where only the candidate is right, -1 where only the champion
            is, else 0.
        groups: (n,) duplicate group of each image.
        level: Two-sided coverage.
    """
    change = np.asarray(values, np.float64)
    if not len(change):
        return Paired(0.0, -1.0, 1.0)
    scale = effective_n(change, groups=groups) / len(change)
    fixed = scale * float((change > 0).sum())
    broken = scale * float((change < 0).sum())
    return agresti_min(fixed, broken, scale * len(change), level=level)


def effective_n(values: Floats, *, groups: Ints) -> float:
    """Return how many independent images the mean of `values` is worth.

    The variance of independent images over the variance between group totals
    (linearised, as in Rao & Scott 1992), kept between the number of groups (Kish,
    full agreement within a group) and the number of images.

    Args:
        values: (n,) what is averaged.
        groups: (n,) duplicate group of each image.

    Returns:
        The effective number; 0 of no images.
    """
    n = len(values)
    if not n:
        return 0.0
    _, member = np.unique(groups, return_inverse=True)
    sizes = np.bincount(member.ravel())
    residual = values - values.mean()
    clustered = float((np.bincount(member.ravel(), residual) ** 2).sum())
    floor = float(n**2 / (sizes.astype(np.float64) ** 2).sum())
    if clustered <= 1e-12:
        return floor
    correction = (1 - 1 / len(sizes)) / max(1 - 1 / n, 1e-12)
    informed = correction * n * float((residual**2).sum()) / clustered
    return float(np.clip(informed, floor, max(n, floor)))


def grouped_bootstrap(
    columns: Any,
    statistic: Callable[[Floats], Floats],
    *,
    groups: Ints,
    strata: Ints,
    draws: int,
    seed: int,
) -> Floats:
    """Return bootstrap draws of a statistic of column sums.

    Whole duplicate groups are drawn with replacement within strata: one fewer than a
    stratum has, scaled up (the rescaled bootstrap of Rao & Wu 1988), which keeps the
    variance right in small classes. Strata of a single group are drawn from together.

    Args:
        columns: (n, s) per-image contributions, dense or scipy sparse.
        statistic: Maps (draws, s) weighted column sums to (draws, m) figures.
        groups: (n,) duplicate group of each image.
        strata: (n,) stratum of each image, the class; a group that spans strata
            belongs to that of its first image.
        draws: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        (draws, m) figures.
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    n, member = len(groups), member.ravel()
    stratum = _merged_strata(strata[first])
    order = np.argsort(stratum, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    ones = np.ones(n)
    join = sparse.csr_matrix((ones, (rank[member], np.arange(n))), (len(order), n))
    sums = (join @ sparse.csr_matrix(columns)).T.tocsr()
    sizes = np.bincount(stratum)
    parts = [
        statistic(np.ascontiguousarray((sums @ weights.T).T))
        for weights in _resamples(sizes, draws=draws, seed=seed)
    ]
    return np.concatenate(parts)


def centred_interval(
    value: Floats, draws: Floats, *, level: float
) -> tuple[Floats, Floats]:
    """Return percentile intervals of `draws`, moved to be centred on `value`.

    The draws' own bias (macro-F1 and ECE have one in small classes and bins) would
    otherwise push the interval off the figure that it belongs to.
    """
    ends = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    shift = value - draws.mean(axis=0)
    return np.minimum(ends[0] + shift, value), np.maximum(ends[1] + shift, value)


def _merged_strata(strata: Ints) -> Ints:
    """Number strata from 0, joining those of a single group."""
    _, index, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    index = index.ravel()
    lone = np.flatnonzero(sizes == 1)
    if len(lone) == 1 and len(sizes) > 1:
        others = np.where(sizes == 1, sizes.max() + 1, sizes)
        lone = np.append(lone, np.argmin(others))
    index = np.where(np.isin(index, lone), len(sizes), index)
    return np.unique(index, return_inverse=True)[1].ravel().astype(np.int64)


def _resamples(sizes: Ints, *, draws: int, seed: int) -> Iterator[Floats]:
    """Yield (d, groups) weights of resampled groups, sorted by stratum."""
    rng = np.random.default_rng(seed)
    n_groups = int(sizes.sum())
    taken = np.maximum(sizes - 1, 1)
    offset = np.repeat(np.cumsum(sizes) - sizes, taken)
    span = np.repeat(sizes, taken).astype(np.float64)
    scale = np.repeat(sizes / taken, sizes)
    for start in range(0, draws, step := max(1, CHUNK // n_groups)):
        d = min(step, draws - start)
        picked = (rng.random((d, len(span))) * span).astype(np.int64)
        picked += offset + n_groups * np.arange(d)[:, None]
        counts = np.bincount(picked.ravel(), minlength=d * n_groups)
        yield counts.reshape(d, n_groups) * scale
