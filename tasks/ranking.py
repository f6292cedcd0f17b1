"""Figures of the order of probabilities: ROC AUC, average precision, risk-coverage."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from tasks.intervals import Floats, Ints


class Ranked(NamedTuple):
    """ROC AUC and average precision, NaN where they are not defined."""

    auc: Floats
    precision: Floats


def ranked(positive: Floats | Ints, every: Floats | Ints) -> Ranked:
    """Return ROC AUC and average precision of counts by rising score.

    Images of one step have equal scores: half of their pairs are in order for the AUC
    (Mann and Whitney), and they enter together for average precision, which sums
    precision times the rise of recall and does not interpolate.

    Args:
        positive: (..., t) images of the class at each step.
        every: (..., t) all images at each step.
    """
    positive, every = positive.astype(np.float64), every.astype(np.float64)
    others = every - positive
    below = np.cumsum(others, axis=-1) - others
    mass, rest = positive.sum(-1), others.sum(-1)
    wins = (positive * (below + others / 2)).sum(-1)
    found = np.cumsum(positive[..., ::-1], axis=-1)
    seen = np.cumsum(every[..., ::-1], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        auc = wins / (mass * rest)
        share = np.where(seen > 0, found / seen, 0.0)
        precision = (positive[..., ::-1] * share).sum(-1) / mass
    there = (mass > 1e-9) & (rest > 1e-9)
    return Ranked(np.where(there, auc, np.nan), np.where(there, precision, np.nan))


def slack(positive: Ints, every: Ints) -> Ranked:
    """Return how far `ranked` may be from the unrounded scores, at most.

    Within a step the images of the class may in truth come all first or all last.

    Args:
        positive: (..., t) images of the class at each step.
        every: (..., t) all images at each step.
    """
    p, all_ = positive.astype(np.float64), every.astype(np.float64)
    others = all_ - p
    mass, rest = p.sum(-1), others.sum(-1)
    # What lies above a step: images of the class, and all.
    up = np.cumsum(p[..., ::-1], axis=-1)[..., ::-1] - p
    over = np.cumsum(all_[..., ::-1], axis=-1)[..., ::-1] - all_

    def gained(before: Floats) -> Floats:
        """Sum (up + i) / (before + i) over i = 1 to p."""
        steps = digamma(before + p + 1) - digamma(before + 1)
        return np.asarray(p + (up - before) * steps, np.float64)

    with np.errstate(divide="ignore", invalid="ignore"):
        auc = (p * others).sum(-1) / 2 / (mass * rest)
        precision = (gained(over) - gained(over + others)).sum(-1) / mass
    return Ranked(np.nan_to_num(auc), np.nan_to_num(precision))


def risk_area(n: Floats, right: Floats) -> Floats:
    """Return the area under the risk-coverage curve (Geifman and El-Yaniv 2017).

    It is the mean, over how many of the surest images are answered, of the share of
    wrong answers among them; images of one step come in any order, on average.

    Args:
        n: (..., t) images by rising confidence.
        right: (..., t) right answers among them.
    """
    n, wrong = n[..., ::-1].astype(np.float64), (n - right)[..., ::-1]
    before = np.cumsum(n, axis=-1) - n
    errors = np.cumsum(wrong, axis=-1) - wrong
    # Sum of (errors + share i) / (before + i) over i = 1 to n.
    share = np.divide(wrong, n, out=np.zeros_like(n), where=n > 0)
    step = digamma(before + n + 1) - digamma(before + 1)
    area = wrong + (errors - share * before) * step
    return np.asarray(area.sum(-1) / n.sum(-1), np.float64)


def parted(scores: Floats, own: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Return images of a class and all images by rising score, as `ranked` wants them.

    Others between two scores of the class are one step: their order changes nothing.

    Args:
        scores: (n,) scores.
        own: (n,) whether each is of the class.
    """
    mine, every = np.sort(scores[own]), np.sort(scores)
    at = np.unique(mine)
    counts = []
    for among in (mine, every):
        ends = [np.searchsorted(among, at, side) for side in ("left", "right")]
        cuts = np.stack(ends, axis=1).ravel()
        counts.append(np.diff(cuts, prepend=0, append=len(among)))
    return counts[0], counts[1]
