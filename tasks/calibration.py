"""Whether confidence means what it says."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from tasks.evaluation import Binning, MeasureSettings
from tasks.intervals import Floats, Ints
from tasks.scores import one_hot


def fit_temperature(probs: Floats, labels: Ints) -> float:
    """Return the temperature of the best likelihood (Guo et al. 2017, section 4.2).

    Targets are a little less than sure (Platt 1999), so that images which are all
    right do not call for boundless confidence.

    Args:
        probs: (n, k) probabilities at temperature 1, n >= 1.
        labels: (n,) classes.

    Returns:
        What to divide the logits by, 0.1 to 10.
    """
    n, k = probs.shape
    logits = np.log(np.maximum(probs.astype(np.float64), 1e-30))
    doubt = 1 / (n + 2)
    target = np.full((n, k), doubt / k)
    target[np.arange(n), labels] += 1 - doubt

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((logsumexp(scaled, axis=1) - (target * scaled).sum(1)).mean())

    best = minimize_scalar(loss, bounds=(np.log(0.1), np.log(10)), method="bounded")
    return float(np.exp(best.x))


def reliability_bins(confidence: Floats, settings: MeasureSettings) -> Ints:
    """Return (n,) the bin of each confidence, numbered without gaps."""
    if settings.binning == Binning.WIDTH:
        edges = np.linspace(0, 1, settings.bins + 1)[1:-1]
    else:
        edges = np.quantile(confidence, np.linspace(0, 1, settings.bins + 1)[1:-1])
    found = np.searchsorted(edges, confidence, side="left")
    return np.unique(found, return_inverse=True)[1].ravel().astype(np.int64)


def null_ece(
    confidence: Floats, bins: Ints, *, groups: Ints, settings: MeasureSettings
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
