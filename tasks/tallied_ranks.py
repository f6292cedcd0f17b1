"""ROC AUC and average precision of a tally, by class, with intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from data_contracts.references import Estimate
from tasks.bucketed import clipped, design_effect
from tasks.evaluation import MeasureSettings
from tasks.intervals import Floats, Ints, wilson, z_score
from tasks.ranking import Ranked, parted, ranked, slack
from tasks.tally import STEPS, Tally


class Ranks(NamedTuple):
    """Ranked figures: their means over classes, each class's, and how exact."""

    macro: dict[str, Estimate]
    auc: list[Estimate | None]
    precision: list[Estimate | None]
    error: dict[str, float]
    exact: bool


def measure_ranks(tally: Tally, settings: MeasureSettings) -> Ranks:
    """Return ROC AUC and average precision of each class, and their means."""
    positive, every = tally.sums["ranks"]
    exact = tally.kept is not None
    value = _exact_ranks(tally) if exact else ranked(positive.sum(0), every.sum(0))
    known = np.flatnonzero(~np.isnan(value.auc))
    without, parts = _without_each(positive, every)
    held = np.array([every[:, 0].any(axis=1).sum()])
    macro, rows = {}, []
    for i, most in enumerate(_most_worth(tally)):
        own, left, most_ = value[i][known], without[i][:, known], most[known]
        found = _intervals(own, left, most_, parts[known], settings.level)
        row: list[Estimate | None] = [None] * tally.k
        for c, ends in zip(known.tolist(), found, strict=True):
            row[c] = clipped(*ends, n=tally.n)
        rows.append(row)
        mean, left = own.mean(keepdims=True), _known_mean(left, axis=1)[:, None]
        most_ = np.array([len(known) ** 2 / (1 / most_).sum()])
        (ends,) = _intervals(mean, left, most_, held, settings.level)
        macro[("roc_auc", "average_precision")[i]] = clipped(*ends, n=tally.n)
    off = (
        Ranked(*np.zeros((2, tally.k)))
        if exact
        else slack(positive.sum(0), every.sum(0))
    )
    error = {
        "roc_auc": float(off.auc[known].mean()),
        "average_precision": float(off.precision[known].mean()),
    }
    return Ranks(macro, rows[0], rows[1], error, exact)


def _without_each(positive: Ints, every: Ints) -> tuple[Floats, Ints]:
    """Return both figures (2, buckets, k) without each bucket, and what they rest on.

    That is the number of buckets (k,) with images of the class, or with others if
    those are fewer.
    """
    many, k = positive.shape[:2]
    figures, parts = np.full((2, many, k), np.nan), np.zeros(k, np.int64)
    for c in range(k):
        at = np.flatnonzero(positive[:, c].any(axis=0))
        cuts = np.unique([0, *at, *(at + 1)])
        # Steps between those of the class count as one, which changes neither figure.
        own, all_ = (
            np.add.reduceat(part[:, c], cuts[cuts < STEPS], axis=1, dtype=np.int64)
            for part in (positive, every)
        )
        figures[:, :, c] = ranked(own.sum(0) - own, all_.sum(0) - all_)
        parts[c] = min((x.sum(1) > 0).sum() for x in (own, all_ - own))
    return figures, parts


def _most_worth(tally: Tally) -> tuple[Floats, Floats]:
    """Return how many images AUC and precision of each class are worth at most (k,).

    A perfect order shows no variance, and says no more than so many images: for the
    AUC what Newcombe's method 5 (2006) gives near 1, for precision those of the class.
    """
    own = tally.sums["images"]
    sides = own, tally.sums["n"][:, None] - own
    nothing = np.zeros(tally.k)
    mine, others = (side.sum(0) / design_effect(side, side, nothing) for side in sides)
    return 4 * mine * others / np.maximum(mine + others, 1), mine


def _intervals(
    value: Floats, without: Floats, most: Floats, parts: Ints, level: float
) -> list[tuple[float, float, float]]:
    """Return values with Wilson's intervals on the number of images they are worth.

    That number is what a share of such a variance would rest on; the variance is the
    jackknife's, with Student's t (random groups, Wolter 2007, chapter 4).

    Args:
        value: (m,) figures.
        without: (buckets, m) figures without each bucket, NaN where there are none.
        most: (m,) the most that each is worth.
        parts: (m,) buckets that each rests on.
        level: Two-sided coverage.
    """
    many = len(without)
    middle = _known_mean(without, axis=0)
    variance = (many - 1) / many * np.nansum((without - middle) ** 2, axis=0)
    t = stdtrit(np.maximum(parts - 1, 1), 0.5 + level / 2)
    worth, varies = most.copy(), variance > 0
    spread = (variance * (t / z_score(level)) ** 2)[varies]
    worth[varies] = np.minimum((middle * (1 - middle))[varies] / spread, most[varies])
    return list(zip(value, *wilson(value * worth, worth, level=level), strict=True))


def _known_mean(values: Floats, *, axis: int) -> Floats:
    """Return the mean of what is not NaN, NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    found = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.asarray(found, np.float64)


def _exact_ranks(tally: Tally) -> Ranked:
    """Return the figures of the probabilities as they came, which are kept."""
    assert tally.kept is not None
    labels = np.concatenate([y for y, _ in tally.kept])
    probs = np.concatenate([p for _, p in tally.kept])
    pairs = [ranked(*parted(probs[:, c], labels == c)) for c in range(tally.k)]
    return Ranked(*np.array(pairs).T)
