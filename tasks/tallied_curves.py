"""Whether the confidences of a tally mean what they say, and what the surest score."""

from __future__ import annotations

import numpy as np

from tasks.bucketed import design_effect, shares_by_bucket
from tasks.evaluation import Binning, MeasureSettings, ReliabilityBin
from tasks.intervals import Floats, Ints
from tasks.measured import CoveragePoint
from tasks.tally import REACH, STEPS, from_fixed

COVERAGES = np.linspace(0.05, 1, 20)


def bins_of(s: dict[str, Ints], settings: MeasureSettings) -> Ints:
    """Return the reliability bin of each step of confidence, numbered without gaps."""
    n = s["step_n"].sum(0).astype(np.float64)
    if settings.binning == Binning.MASS:
        middle = (np.cumsum(n) - n / 2) / n.sum()
    else:
        sure = from_fixed(s["step_sure"].sum(0))
        middle = np.divide(sure, n, out=np.zeros_like(n), where=n > 0)
    found = np.minimum((middle * settings.bins).astype(np.int64), settings.bins - 1)
    used = np.unique(found[n > 0])
    return np.asarray(np.searchsorted(used, found).clip(max=len(used) - 1), np.int64)


def binned(values: Floats, bins: Ints) -> Floats:
    """Return sums by step (buckets, STEPS) as sums by bin (buckets, b)."""
    member = np.zeros((STEPS, int(bins.max()) + 1))
    member[np.arange(STEPS), bins] = 1
    return np.asarray(values @ member, np.float64)


def null_ece(s: dict[str, Ints], bins: Ints, settings: MeasureSettings) -> Floats:
    """Return draws of the ECE of a model whose confidences are exactly right.

    Right answers of a bin are then a sum of coins of known chances, near enough normal;
    the coins of a duplicate group fall alike.
    """
    n, sure = s["step_n"].sum(0), from_fixed(s["step_sure"].sum(0))
    chance = np.divide(sure, n, out=np.zeros(len(n)), where=n > 0)
    spread = binned((n * chance * (1 - chance))[None], bins)[0]
    total = s["n"].sum()
    alike = design_effect(s["n"][:, None], s["n"][:, None], np.zeros(1))
    sd = np.sqrt(np.maximum(spread, 0) * alike[0])
    luck = np.random.default_rng([settings.seed, 1]).normal(
        size=(settings.draws, len(sd))
    )
    return np.asarray(np.abs(luck * sd).sum(1) / total, np.float64)


def coverage(s: dict[str, Ints], settings: MeasureSettings) -> list[CoveragePoint]:
    """Return top-1 of the surest images, at rising shares of them."""
    n = np.cumsum(s["step_n"][:, ::-1], axis=1)
    right = np.cumsum(s["step_right"][:, ::-1], axis=1)
    share = n.sum(0) / n[:, -1].sum()
    places = np.unique(np.searchsorted(share, COVERAGES - 1e-12).clip(max=STEPS - 1))
    rows = shares_by_bucket(right[:, places], n[:, places], settings.level)
    edge = (STEPS - 2 - places) * (2 * REACH / (STEPS - 2)) - REACH
    least = np.where(places == STEPS - 1, 0.0, 1 / (1 + np.exp(-edge)))
    return [
        CoveragePoint(coverage=share[place], confidence=from_, top1=row)
        for place, from_, row in zip(places, least, rows, strict=True)
    ]


def reliability(
    s: dict[str, Ints], bins: Ints, settings: MeasureSettings
) -> list[ReliabilityBin]:
    """Return confidence and accuracy of each bin."""
    n = binned(s["step_n"].astype(np.float64), bins)
    right = binned(s["step_right"].astype(np.float64), bins)
    sure = binned(from_fixed(s["step_sure"]), bins).sum(0) / n.sum(0)
    rows = shares_by_bucket(right, n, settings.level)
    total, steps = s["step_n"].sum(0), np.arange(STEPS)
    edges = 1 / (1 + np.exp(REACH - (steps - 1) * (2 * REACH / (STEPS - 2))))
    found = []
    for b, row in enumerate(rows):
        inside = steps[(bins == b) & (total > 0)]
        low = 0.0 if inside[0] == 0 else float(edges[inside[0]])
        high = 1.0 if inside[-1] == STEPS - 1 else float(edges[inside[-1] + 1])
        found.append(
            ReliabilityBin(low=low, high=high, confidence=sure[b], accuracy=row)
        )
    return found
