"""ROC AUC and average precision of a tally, by class, with intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from data_contracts.references import Estimate
from tasks.bucketed import bootstrap, clipped
from tasks.evaluation import MeasureSettings
from tasks.intervals import Floats
from tasks.ranking import Ranked, by_value, ranked, slack
from tasks.tally import Tally

RANK_DRAWS = 200


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
    off = slack(positive.sum(0), every.sum(0))
    value = _exact_ranks(tally) or ranked(positive.sum(0), every.sum(0))
    exact = tally.kept is not None
    draws = min(settings.draws, RANK_DRAWS)
    found = np.empty((2, draws, tally.k))
    for c in range(tally.k):
        held = every[:, c].any(0)  # empty steps cost time and say nothing
        both = [part[:, c, held] for part in (positive, every)]
        found[:, :, c] = bootstrap(
            np.concatenate(both, axis=1).astype(np.float64),
            lambda sums: np.stack(ranked(*np.split(sums, 2, axis=1)), axis=1),
            draws=draws,
            seed=settings.seed,
        ).T
    reach = float(stdtrit(tally.rank_buckets - 1, 0.5 + settings.level / 2))
    n = tally.n

    def around(v: float, drawn: Floats) -> Estimate | None:
        known = drawn[~np.isnan(drawn)]
        if np.isnan(v):
            return None
        half = reach * float(known.std()) if len(known) > 1 else 1.0
        return clipped(v, v - half, v + half, n=n)

    rows = [
        [around(float(v[c]), found[i, :, c]) for c in range(tally.k)]
        for i, v in enumerate(value)
    ]
    macro = {}
    for i, name in enumerate(("roc_auc", "average_precision")):
        known = np.flatnonzero(~np.isnan(value[i]))
        drawn = found[i][:, known]
        mean = np.divide(
            np.nansum(drawn, axis=1), (~np.isnan(drawn)).sum(1).clip(min=1)
        )
        estimate = around(float(value[i][known].mean()), mean)
        assert estimate is not None
        macro[name] = estimate
    known = ~np.isnan(value.auc)
    error = {
        "roc_auc": 0.0 if exact else float(off.auc[known].mean()),
        "average_precision": 0.0 if exact else float(off.precision[known].mean()),
    }
    return Ranks(macro, rows[0], rows[1], error, exact)


def _exact_ranks(tally: Tally) -> Ranked | None:
    """Return the figures of the probabilities as they came, while they are kept."""
    if tally.kept is None:
        return None
    labels = np.concatenate([y for y, _ in tally.kept])
    probs = np.concatenate([p for _, p in tally.kept])
    pairs = []
    for c in range(tally.k):
        every, positive = by_value(probs[:, c], (labels == c).astype(np.float64))
        pairs.append(ranked(positive, every))
    auc, precision = zip(*pairs, strict=True)
    return Ranked(np.array(auc), np.array(precision))
