"""How an epoch is judged, when a run stops, and which epoch is kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = dict[str, Any]


def score(
    logits: NDArray[Any], labels: NDArray[Any], *, weights: NDArray[Any] | None = None
) -> tuple[float, float]:
    """Return the mean negative log-likelihood and the top-1 of `logits` (n c).

    Args:
        logits: (n c).
        labels: (n,).
        weights: How much each image counts (n,); None is all alike.
    """
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    picked = np.take_along_axis(wide, labels[:, None].astype(np.int64), axis=1)[:, 0]
    loss = np.log(np.exp(wide).sum(axis=1)) - picked
    right = logits.argmax(axis=1) == labels
    return (
        float(np.average(loss, weights=weights)),
        float(np.average(right, weights=weights)),
    )


def alike(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the weights (n,) by which every class counts the same."""
    _, place, count = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / count[place]


def effective_size(weights: NDArray[Any]) -> float:
    """Return how many images of one weight would be as sure (Kish 1965)."""
    return float(weights.sum() ** 2 / max(np.square(weights).sum(), 1e-12))


def mean_of_steps(
    metrics: list[dict[str, Any]], sizes: NDArray[np.int64]
) -> dict[str, float]:
    """Average each metric of the steps, weighted by their images."""
    return {
        key: float(np.dot([float(line[key]) for line in metrics], sizes) / sizes.sum())
        for key in ("loss", "top1", "grad_norm")
    }


def best_epoch(history: list[Record]) -> int:
    """Return the epoch (from 1) to keep: the latest about as good as the best.

    The highest of many noisy figures is mostly luck, and under a falling learning rate
    later weights are better settled, so an epoch that cannot be told from the best so
    far replaces the one kept (the one-standard-error rule of Breiman et al. 1984,
    section 3.4.3). Top-1 is what the gate judges; networks go on gaining it while
    their likelihood already overfits (arXiv 1706.04599). Adversarial training is judged
    by top-1 under attack, see `watch`. Without validation it is the last epoch.
    """
    if not history or history[-1]["val_top1"] is None:
        return len(history)
    kept, best = 1, 0.0
    for epoch, line in enumerate(history, 1):
        top1, images = judged(line)
        best = max(best, top1)
        error = math.sqrt(best * (1 - best) / images)
        if top1 >= best - error:
            kept = epoch
    return kept


def judged(line: Record) -> tuple[float, float]:
    """Return the top-1 that an epoch is judged by, and of how many images it is."""
    if "val_robust" in line:
        return line["val_robust"], line["robust_images"]
    return line["val_top1"], line["val_images"]


def collapsed(history: list[Record]) -> bool:
    """Say whether top-1 under attack fell to under half of its best, and not by chance.

    So ends a network that learnt to answer single steps alone (catastrophic
    overfitting: Wong et al. 2020, arXiv 2001.03994, section 5.4).
    """
    if not history or "val_robust" not in history[-1]:
        return False
    best = max(line["val_robust"] for line in history)
    now, images = judged(history[-1])
    error = math.sqrt(best * (1 - best) / images)
    return bool(now < best / 2 and now < best - 4 * error)


def stop_reason(
    history: list[Record], *, epochs: int, patience: int, max_minutes: float | None
) -> str:
    """Return why no further epoch runs: done, collapse, early, budget, or '' to go on.

    A stop is early when neither top-1 nor loss got better for `patience` epochs (0
    never stops), where epochs are judged by top-1 under attack when that did not; at
    least one epoch runs within any budget.
    """
    if len(history) >= epochs:
        return "done"
    if collapsed(history):
        return "collapse"
    if history and patience and history[-1]["val_top1"] is not None:
        top1 = [judged(line)[0] for line in history]
        newest = top1.index(max(top1)) + 1
        if "val_robust" not in history[-1]:
            loss = [line["val_loss"] for line in history]
            newest = max(newest, loss.index(min(loss)) + 1)
        if len(history) - newest >= patience:
            return "early"
    minutes = sum(line["seconds"] for line in history) / 60
    if history and max_minutes is not None and minutes >= max_minutes:
        return "budget"
    return ""
