"""Which segments LIME and KernelSHAP show, and what answers to that are worth.

Both are least squares whose design does not depend on the image: what turns answers
into values of segments is one matrix, made once in float64.
"""

from __future__ import annotations

import itertools
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_contracts.errors import UsageError

Floats = NDArray[np.float64]
LIME_WIDTH = 0.25  # of the kernel, in cosine distance, as the authors' code has it
LIME_RIDGE = 1.0


class Design(NamedTuple):
    """Which segments are shown in each question, and how answers become values.

    Attributes:
        shown: (m, k), 1 where a segment is shown.
        values: (k, m), what each answer counts for each segment.
        change: (k,), what the change from nothing to the whole image counts.
        weights: (m,), how much each answer counts in the fit.
    """

    shown: Floats
    values: Floats
    change: Floats
    weights: Floats


def kernel_shap(segments: int, *, samples: int, seed: int) -> Design:
    """Return the design of KernelSHAP (Lundberg & Lee 2017, arXiv 1705.07874).

    Shapley values as weighted least squares (theorem 2) under the constraint that they
    sum to the change from nothing to the image, solved as in Covert & Lee 2021 (arXiv
    2012.01536, equation 7), every coalition with its complement (section 3.3). All
    coalitions are asked where there are no more than `samples`: values are then exact.

    Raises:
        UsageError: There are too few samples for so many segments.
    """
    if segments < 2:
        shown = np.ones((1, segments))
        return Design(shown, np.zeros((segments, 1)), np.ones(segments), np.ones(1))
    if segments < 31 and 2**segments - 2 <= samples:
        shown, weights = _all_coalitions(segments)
    else:
        check_samples(segments, samples)
        shown = _paired_coalitions(segments, samples // 2, seed)
        weights = np.ones(len(shown))
    weights = weights / weights.sum()
    inverse = np.linalg.pinv(shown.T @ (weights[:, None] * shown), hermitian=True)
    total = inverse.sum(1)
    free = inverse @ (shown.T * weights)
    share = total / total.sum()
    return Design(shown, free - np.outer(share, free.sum(0)), share, weights)


def lime(segments: int, *, samples: int, seed: int) -> Design:
    """Return the design of LIME (Ribeiro et al. 2016, arXiv 1602.04938, equation 2).

    Each segment is hidden by the toss of a coin; the first question is the image
    itself. Ridge regression with an intercept, near questions counting more.

    Raises:
        UsageError: There are too few samples for so many segments.
    """
    check_samples(segments, samples)
    rng = np.random.default_rng((seed, 5))
    shown = rng.integers(0, 2, (samples, segments)).astype(np.float64)
    shown[0] = 1
    cosine = np.sqrt(shown.sum(1) / segments)
    weights = np.exp(-((1 - cosine) ** 2) / LIME_WIDTH**2 / 2)
    weights /= weights.sum()
    centred = shown - weights @ shown
    # The ridge is against weights that do not sum to 1, as in the authors' code.
    scale = np.exp(-((1 - cosine) ** 2) / LIME_WIDTH**2 / 2).sum()
    gram = centred.T @ (weights[:, None] * centred)
    gram += LIME_RIDGE / scale * np.eye(segments)
    values = np.linalg.solve(gram, centred.T * weights)
    return Design(shown, values, np.zeros(segments), weights)


def check_samples(segments: int, samples: int) -> None:
    """Refuse fewer questions than a fit of so many segments needs.

    Raises:
        UsageError: There are not two samples for each segment.
    """
    if samples < 2 * segments:
        raise UsageError(
            f"{segments} segments need {2 * segments} samples at least; came"
            f" {samples}. Raise samples, or lower cells."
        )


def _all_coalitions(k: int) -> tuple[Floats, Floats]:
    every = np.array(list(itertools.product((0.0, 1.0), repeat=k)))[1:-1]
    sizes = every.sum(1).astype(int)
    weights = np.array([(k - 1) / (comb(k, s) * s * (k - s)) for s in sizes])
    return every, weights


def _paired_coalitions(k: int, pairs: int, seed: int) -> Floats:
    """Draw sizes by the kernel, coalitions of a size alike; add complements."""
    rng = np.random.default_rng((seed, 6))
    sizes = np.arange(1, k)
    chance = 1 / (sizes * (k - sizes))
    drawn = rng.choice(sizes, pairs, p=chance / chance.sum())
    order = rng.random((pairs, k)).argsort(1).argsort(1)
    shown = (order < drawn[:, None]).astype(np.float64)
    return np.concatenate([shown, 1 - shown])
