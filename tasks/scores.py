"""What each answer scores, and the sums that figures are made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from data_contracts.references import Estimate
from tasks.intervals import Floats, Ints, effective_n, wilson

FLOOR = 1e-12  # smallest probability that NLL takes the logarithm of


class Scores(NamedTuple):
    """What is known of each image's answer; every field has length n."""

    label: Ints
    predicted: Ints
    correct: Floats
    top5: Floats
    brier: Floats
    nll: Floats
    confidence: Floats
    answered: NDArray[np.bool_]


def score(probs: ArrayLike, labels: ArrayLike) -> Scores:
    """Score each image's probs against its label.

    A row that is not finite or does not sum to 1 is no answer: wrong, with uniform
    probs. A label beyond the columns is a class that the model does not know: wrong,
    with no probability on it. Brier sums over classes (0 best, 2 worst).

    Args:
        probs: (n, k) class probabilities.
        labels: (n,) classes, none negative.
    """
    p, y = np.asarray(probs, np.float64), np.asarray(labels, np.int64)
    n, k = p.shape
    with np.errstate(invalid="ignore"):
        answered = np.isfinite(p).all(1) & (p >= -1e-6).all(1)
        answered &= np.abs(p.sum(1) - 1) < 1e-2
    p = np.where(answered[:, None], np.maximum(p, 0), 1 / k)
    known = y < k
    at = np.where(known, y, 0)
    mine = np.where(known, p[np.arange(n), at], 0.0)
    ahead = (p > mine[:, None]).sum(1)
    ahead += ((p == mine[:, None]) & (np.arange(k) < at[:, None])).sum(1)
    usable = known & answered
    return Scores(
        label=y,
        predicted=np.where(answered, p.argmax(1), -1),
        correct=(usable & (ahead == 0)).astype(np.float64),
        top5=(usable & (ahead < 5)).astype(np.float64),
        brier=(p**2).sum(1) - 2 * mine + 1,
        nll=-np.log(np.maximum(mine, FLOOR)),
        confidence=p.max(1),
        answered=answered,
    )


def contributions(answers: Scores) -> Any:
    """Return the (n, 3 + 3c) sparse columns whose sums make the figures of `figures`.

    Columns: 1, Brier, NLL, then for each of the c classes with images its right
    answers, its predictions and its images.
    """
    present, label = np.unique(answers.label, return_inverse=True)
    c, label, ones = len(present), label.ravel(), np.ones(len(label))
    slot = np.searchsorted(present, answers.predicted).clip(max=c - 1)
    hit = present[slot] == answers.predicted
    blocks = [
        np.stack([ones, answers.brier, answers.nll], 1),
        one_hot(label, answers.correct, c),
        one_hot(slot, hit.astype(np.float64), c),
        one_hot(label, ones, c),
    ]
    return sparse.hstack([sparse.csr_matrix(block) for block in blocks], format="csr")


def figures(sums: Floats) -> Floats:
    """Return (d, 5) macro precision, recall and F1, Brier, NLL from column sums.

    Macro figures average over the classes with images; a class that is never
    predicted has precision 0.
    """
    mass, brier, nll = sums[:, 0], sums[:, 1], sums[:, 2]
    right, given, images = np.split(sums[:, 3:], 3, axis=1)
    there = images > 1e-9
    count = np.maximum(there.sum(1), 1)
    scale = [np.where(there, x, 0.0) for x in (given, images, (given + images) / 2)]
    with np.errstate(divide="ignore", invalid="ignore"):
        macro = [np.where(x > 1e-9, right / x, 0.0).sum(1) / count for x in scale]
    return np.stack([*macro, brier / mass, nll / mass], axis=1)


def share_of(hits: Floats, *, groups: Ints, level: float) -> Estimate:
    """Return the share of hits, by Wilson on the effective number.

    Args:
        hits: (n,) 0 or 1; of no images the share is 0, from 0 to 1.
        groups: (n,) duplicate group of each image.
        level: Two-sided coverage.
    """
    n = len(hits)
    worth = effective_n(hits, groups=groups)
    value = float(hits.mean()) if n else 0.0
    low, high = wilson(value * worth, worth, level=level)
    return Estimate(value=value, low=float(low), high=float(high), n=n)


def one_hot(index: Ints, values: Floats, width: int) -> Any:
    """Return the (n, width) sparse matrix with `values` at column `index`."""
    n = len(index)
    return sparse.csr_matrix((values, (np.arange(n), index)), (n, width))
