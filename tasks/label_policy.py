"""What becomes of doubtful labels: flagged, weighed less, relabelled or dropped."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from data_contracts.dataset import Array


class WrongLabels(StrEnum):
    """What to do about labels that the audit doubts."""

    off = "off"
    flag = "flag"
    weight = "weight"
    relabel = "relabel"
    drop = "drop"


class Verdict(StrEnum):
    """What was decided about the label of an image; none: it was not judged."""

    none = ""
    fine = "fine"
    flagged = "flagged"
    weighted = "weighted"
    relabelled = "relabelled"
    dropped = "dropped"
    confirmed = "confirmed"
    corrected = "corrected"
    excluded = "excluded"


ACTS = {
    WrongLabels.weight: Verdict.weighted,
    WrongLabels.relabel: Verdict.relabelled,
    WrongLabels.drop: Verdict.dropped,
}
BY_PERSON = (Verdict.confirmed, Verdict.corrected, Verdict.excluded)


def suspects(score: Array, doubted: Array, *, share: float) -> Array:
    """Return the most suspicious rows that some view doubts, bool (n,).

    Args:
        score: Suspicion (n,).
        doubted: Rows that may be suspects at all (n,).
        share: Largest share of all rows.
    """
    chosen = np.zeros(len(score), bool)
    rows = np.flatnonzero(doubted)
    most = int(share * len(score))
    chosen[rows[np.argsort(-score[rows], kind="stable")[:most]]] = True
    return chosen


def within_budget(
    score: Array, labels: Array, chosen: Array, *, class_factor: float
) -> Array:
    """Return the chosen rows less those that one class has too many of, bool (n,).

    A class loses at most `class_factor` times the share chosen in all, and never its
    last image: what is rare looks wrong, and must survive.
    """
    share = chosen.mean() if len(chosen) else 0.0
    size = np.bincount(labels)
    most = np.minimum((class_factor * share * size).astype(np.int64), size - 1)
    order = np.lexsort((-score, labels))
    order = order[chosen[order]]
    of_class = labels[order]
    _, start, count = np.unique(of_class, return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(start, count)
    kept = np.zeros(len(chosen), bool)
    kept[order[place < most[of_class]]] = True
    return kept


def act(
    policy: WrongLabels,
    score: Array,
    labels: Array,
    *,
    suspect: Array,
    agreed: Array,
    train: Array,
    relabel_above: float,
    class_factor: float,
) -> Array:
    """Return the verdict on each judged row, (n,).

    Suspects are flagged; in training, those that the policy and the budget allow are
    acted on. Validation and test images are only ever flagged.

    Args:
        policy: What to do.
        score: Suspicion (n,).
        labels: Given classes (n,).
        suspect: Rows that are doubted (n,).
        agreed: Rows where head and neighbours name the same other class (n,).
        train: Training rows (n,).
        relabel_above: Least suspicion to relabel.
        class_factor: Largest share of a class, as a multiple of that in all.
    """
    verdict = np.where(suspect, Verdict.flagged.value, Verdict.fine.value)
    verdict = verdict.astype(object)
    if policy not in ACTS:
        return verdict
    rows = np.flatnonzero(train)
    chosen = suspect[rows]
    if policy == WrongLabels.relabel:
        chosen = chosen & agreed[rows] & (score[rows] >= relabel_above)
    chosen = within_budget(score[rows], labels[rows], chosen, class_factor=class_factor)
    verdict[rows[chosen]] = ACTS[policy].value
    return verdict
