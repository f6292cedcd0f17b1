"""Whether confidence means what it says."""

from __future__ import annotations

import numpy as np

from tasks.evaluation import Binning, EvaluateSettings, ReliabilityBin
from tasks.intervals import Floats, Ints
from tasks.scores import Scores, one_hot, shares


def reliability_bins(confidence: Floats, settings: EvaluateSettings) -> Ints:
    """Return (n,) the bin of each confidence, numbered without gaps."""
    if settings.binning == Binning.WIDTH:
        edges = np.linspace(0, 1, settings.bins + 1)[1:-1]
    else:
        edges = np.quantile(confidence, np.linspace(0, 1, settings.bins + 1)[1:-1])
    found = np.searchsorted(edges, confidence, side="left")
    return np.unique(found, return_inverse=True)[1].ravel().astype(np.int64)


def null_ece(
    confidence: Floats, bins: Ints, *, groups: Ints, settings: EvaluateSettings
) -> Floats:
    """Return draws of the ECE of a model whose confidences are exactly right.

    Each draw decides anew which answers are right, with the stated probability, the
    images of a duplicate group together: what is left of ECE is the noise of `n`.
    """
    rng = np.random.default_rng([settings.seed, 1])
    n, width = len(confidence), int(bins.max()) + 1
    into = one_hot(bins, np.full(n, 1 / n), width)
    ends = int(groups.max()) + 1
    found = []
    for start in range(0, settings.draws, step := max(1, 2_000_000 // n)):
        luck = rng.random((min(step, settings.draws - start), ends))
        gap = confidence - (luck[:, groups] < confidence)
        found.append(np.abs(gap @ into).sum(1))
    return np.concatenate(found)


def reliability(
    answers: Scores, bins: Ints, *, group: Ints, settings: EvaluateSettings
) -> list[ReliabilityBin]:
    """Return confidence and accuracy of each bin."""
    width = int(bins.max()) + 1
    accuracy = shares(
        answers.correct,
        groups=group,
        cells=bins,
        n_cells=width,
        level=settings.level,
    )
    mean = np.bincount(bins, answers.confidence) / np.bincount(bins)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    np.minimum.at(low, bins, answers.confidence)
    np.maximum.at(high, bins, answers.confidence)
    return [
        ReliabilityBin(low=low[i], high=high[i], confidence=mean[i], accuracy=row)
        for i, row in enumerate(accuracy)
    ]
