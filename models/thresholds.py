"""Offsets of the logits, one a class, tuned for macro-F1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


def macro_f1(answers: Ints, labels: Ints, *, num_classes: int) -> float:
    """Return the mean F1 over the classes that `labels` (n,) hold."""
    hits = np.bincount(labels[answers == labels], minlength=num_classes)
    given = np.bincount(labels, minlength=num_classes)
    both = given + np.bincount(answers, minlength=num_classes)
    return float((2 * hits / np.maximum(both, 1))[given > 0].mean())


def tune_offsets(logits: Floats, labels: Ints, *, rounds: int = 3) -> Floats:
    """Return the offsets (k,) that raise macro-F1 most, by coordinate ascent.

    Each class in turn takes the offset at which the mean F1 is highest; between two
    neighbouring images nothing changes, so their midpoints are all there is to try.

    Args:
        logits: (n k).
        labels: (n,).
        rounds: Passes over the classes at most.
    """
    k = logits.shape[1]
    offsets = np.zeros(k)
    best = macro_f1(logits.argmax(1), labels, num_classes=k)
    for _ in range(rounds):
        before = best
        for c in np.unique(labels):
            move, reached = _best_move(logits + offsets, labels, int(c))
            if reached > best + 1e-12:
                offsets[c] += move
                best = reached
        if best <= before:
            break
    return offsets


def _best_move(logits: Floats, labels: Ints, c: int) -> tuple[float, float]:
    """Return the move of class `c` with the highest macro-F1, and that figure."""
    n, k = logits.shape
    others = logits.copy()
    others[:, c] = -np.inf
    rival = others.argmax(1)
    # Image i is given to c once its logit moves up by more than `need[i]`.
    need = others[np.arange(n), rival] - logits[:, c]
    order = np.argsort(need, kind="stable")
    given = np.bincount(labels, minlength=k)
    # Counts when no image is given to c; then one more with every step.
    answers = np.bincount(rival, minlength=k).astype(np.float64)
    hits = np.bincount(labels[rival == labels], minlength=k).astype(np.float64)
    f1 = 2 * hits / np.maximum(given + answers, 1)
    lost = rival[order]
    drop_answers = _running(lost, np.ones(n), k)
    drop_hits = _running(lost, (labels[order] == lost).astype(float), k)
    # Only the rival that loses the image and class c itself change at each step.
    after = (
        2
        * (hits[lost] - drop_hits)
        / np.maximum(given[lost] + answers[lost] - drop_answers, 1)
    )
    at = np.arange(n)
    previous = np.where(
        drop_answers > 1,
        2
        * (hits[lost] - drop_hits + (labels[order] == lost))
        / np.maximum(given[lost] + answers[lost] - drop_answers + 1, 1),
        f1[lost],
    )
    counted = given > 0
    change = np.cumsum((after - previous) * counted[lost])
    own_hits = np.cumsum(labels[order] == c)
    own = 2 * own_hits / (given[c] + at + 1)
    total = f1[counted].sum() - f1[c] * counted[c]
    means = (total + change + own * counted[c]) / counted.sum()
    step = int(means.argmax())
    sorted_need = need[order]
    if step + 1 < n and sorted_need[step + 1] > sorted_need[step]:
        move = (sorted_need[step] + sorted_need[step + 1]) / 2
    else:
        move = sorted_need[step] + 1e-6
    reached = logits.copy()
    reached[:, c] += move
    return float(move), macro_f1(reached.argmax(1), labels, num_classes=k)


def _running(keys: Ints, values: Floats, k: int) -> Floats:
    """Return at each place the sum of `values` so far with the same key."""
    order = np.argsort(keys, kind="stable")
    sums = np.cumsum(values[order])
    sizes = np.bincount(keys, minlength=k)
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    out = np.empty(len(keys))
    out[order] = sums - (sums[start] - values[order][start])
    return out


# Images of a class from which its offset is tuned, and the share of such classes.
LEAST, COVERED = 4, 0.9
# Ways to halve the images; draws of the bootstrap, and its quantile that must lie above
# nothing: a gain beyond its standard error.
HALVINGS, DRAWS, LEVEL = 4, 400, 0.16


def worthwhile_offsets(
    logits: Floats, labels: Ints, *, seed: int
) -> tuple[Floats, float]:
    """Return offsets and what they bring on images that they were not tuned on.

    Each half of the images tunes for the other (nested), because a few images a class
    are soon learnt by heart. Where that brings no more than its standard error, the
    offsets are zero. Classes with hardly an image stay where they are, and the mean of
    the others' offsets is zero: no image speaks for the former when the latter would
    take theirs. Where there are many of them, nothing moves and the gain is nan.
    """
    n, k = logits.shape
    if np.mean(np.bincount(labels, minlength=k) >= LEAST) < COVERED:
        return np.zeros(k), float("nan")
    random = np.random.default_rng(seed)
    plain = logits.argmax(1)
    moved = [plain.copy() for _ in range(HALVINGS)]
    for answers in moved:
        halves = random.permutation(n) % 2
        for half in (0, 1):
            held = halves == half
            offsets = _centred_offsets(logits[~held], labels[~held], least=LEAST // 2)
            answers[held] = (logits[held] + offsets).argmax(1)

    def gain(rows: Ints) -> float:
        scores = [
            macro_f1(answers[rows], labels[rows], num_classes=k)
            for answers in (plain, *moved)
        ]
        return float(np.mean(scores[1:]) - scores[0])

    found = gain(np.arange(n))
    draws = [gain(random.integers(0, n, n)) for _ in range(DRAWS)]
    if np.quantile(draws, LEVEL) <= 0:
        return np.zeros(k), found
    return _centred_offsets(logits, labels, least=LEAST), found


def _centred_offsets(logits: Floats, labels: Ints, *, least: int) -> Floats:
    """Tune the classes that have `least` images, among themselves; the others get 0."""
    offsets = np.zeros(logits.shape[1])
    classes = np.flatnonzero(np.bincount(labels, minlength=len(offsets)) >= least)
    if len(classes) > 1:
        rows = np.isin(labels, classes)
        places = np.searchsorted(classes, labels[rows])
        found = tune_offsets(logits[rows][:, classes], places)
        offsets[classes] = found - found.mean()
    return offsets
