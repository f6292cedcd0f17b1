"""Whether a finalist is better than the defaults, beyond images and seeds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tasks.intervals import Paired

Floats = NDArray[np.float64]


def paired_losses(
    losses: Mapping[int, Floats], *, groups: NDArray[np.int64], level: float
) -> dict[int, Paired]:
    """Return how much lower each finalist's loss is than that of the defaults.

    Images and seeds are both a sample. The images' part of the variance is that of
    the difference on each, averaged over seeds and summed over groups of duplicates;
    the seeds' part comes from the spread of the runs' means, pooled over finalists.
    Both hold the rest of one run on one image, which errs to the wide side. Degrees of
    freedom after Satterthwaite (1946); the level is Bonferroni's over the finalists.

    Args:
        losses: Losses (s, n) of each trial's seeds on n images; 0 is the defaults.
        groups: Duplicate group of each image (n,).
        level: Two-sided coverage of all intervals together.
    """
    rivals = [trial for trial in losses if trial]
    alpha = (1 - level) / max(len(rivals), 1)
    means = [loss.mean(axis=1) for loss in losses.values()]
    free = sum(len(mean) - 1 for mean in means)
    spread = sum(float(((mean - mean.mean()) ** 2).sum()) for mean in means)
    found = {}
    for trial in rivals:
        base, own = losses[0], losses[trial]
        gain = base.mean(axis=0) - own.mean(axis=0)
        of_images, parts = _variance(gain, groups)
        of_seeds = spread / free * (1 / len(base) + 1 / len(own)) if free else np.inf
        total = of_images + of_seeds
        if not 0 < total < np.inf:
            half = np.inf if total else 0.0
        else:
            squares = of_images**2 / (parts - 1) + of_seeds**2 / free
            half = stats.t.ppf(1 - alpha / 2, total**2 / squares) * np.sqrt(total)
        value = float(gain.mean())
        found[trial] = Paired(value, value - float(half), value + float(half))
    return found


def _variance(values: Floats, groups: NDArray[np.int64]) -> tuple[float, int]:
    """Return the variance of a mean over images in groups, and how many groups."""
    _, place = np.unique(groups, return_inverse=True)
    sums = np.bincount(place.ravel(), values - values.mean())
    parts = len(sums)
    if parts < 2:
        return np.inf, parts
    return float((sums**2).sum() / len(values) ** 2 * parts / (parts - 1)), parts


def winner_of(found: Mapping[int, Paired]) -> int:
    """Return the finalist that is surely and most better, 0 if the defaults stand."""
    sure = [trial for trial, gain in found.items() if gain.low > 0]
    return max(sure, key=lambda trial: found[trial].value, default=0)
