"""Certify classes by randomised smoothing (Cohen et al. 2019, arXiv 1902.02918)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ABSTAIN = -1


class Certified(NamedTuple):
    """What smoothing says of each image.

    Attributes:
        answer: Class (n,), `ABSTAIN` where none is sure.
        radius: L2 distance within which the answer stays (n,), 0 where it abstains.
    """

    answer: Ints
    radius: Floats


def lower_bound(hits: ArrayLike, n: ArrayLike, *, alpha: float) -> Floats:
    """Return the one-sided lower bound of a share by Clopper and Pearson (1934).

    The share lies below it with a chance of `alpha` at most, whatever it is.
    """
    k, trials = np.asarray(hits, np.float64), np.asarray(n, np.float64)
    with np.errstate(invalid="ignore"):
        found = special.betaincinv(k, trials - k + 1, alpha)
    return np.where(k > 0, found, 0.0)


def certify(
    chosen: Ints, counted: Ints, *, draws: int, sigma: float, alpha: float
) -> Certified:
    """Return class and radius of each image (Cohen et al., algorithm CERTIFY).

    The class comes from draws of its own, so that the bound is about one class named
    beforehand. The radius is sigma times the normal quantile of the bound, and holds
    with a chance of 1 - alpha for each image by itself.

    Args:
        chosen: Answers by class among the draws that choose (n k).
        counted: Answers by class among the draws that certify (n k).
        draws: How many certify. Answers that are no numbers are in no class, and count
            against every class.
        sigma: Standard deviation of the noise.
        alpha: Chance that the radius is too large.
    """
    top = chosen.argmax(1)
    hits = counted[np.arange(len(top)), top]
    bound = lower_bound(hits, draws, alpha=alpha)
    sure = bound > 0.5
    radius = np.where(sure, sigma * special.ndtri(np.maximum(bound, 0.5)), 0.0)
    return Certified(np.where(sure, top, ABSTAIN), radius)


def within(certified: Certified, labels: Ints, radius: float) -> Floats:
    """Return 1 for images that are right and certified to `radius`, else 0 (n,).

    To abstain is to be wrong.
    """
    right = certified.answer == labels
    return np.asarray(right & (certified.radius >= radius), np.float64)
