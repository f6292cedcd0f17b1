"""What a model gets right on a test set, each figure with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from data_contracts.errors import UsageError
from data_contracts.references import Estimate
from tasks.calibration import null_ece, reliability, reliability_bins
from tasks.evaluation import (
    ClassRow,
    ConfusedPair,
    EvaluateSettings,
    Evaluation,
    SliceRow,
)
from tasks.intervals import Floats, Ints, centred_interval, grouped_bootstrap
from tasks.scores import (
    Scores,
    confusion_matrix,
    contributions,
    figures,
    one_hot,
    score,
    shares,
)

__all__ = ["EvaluateSettings", "Evaluation", "evaluate"]


def evaluate(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    slices: Mapping[str, ArrayLike] | None = None,
    names: Sequence[str] | None = None,
    settings: EvaluateSettings | None = None,
) -> Evaluation:
    """Evaluate `probs` on a test set.

    Args:
        probs: (n, k) class probabilities.
        labels: (n,) classes; those below 0 or from k on are left out and counted.
        groups: (n,) duplicate group of each image; None, each its own.
        weights: (n,) weight of each image in every average; None, 1.
        slices: Name to (n,) slice of each image; '' and negative numbers are none.
        names: Class names.
        settings: Intervals, bins and seed.

    Raises:
        UsageError: No image has a label that can be scored.
    """
    settings = settings or EvaluateSettings()
    p, y = np.asarray(probs, np.float64), np.asarray(labels, np.int64)
    if p.ndim != 2 or y.shape != p.shape[:1]:
        raise ValueError(f"probs (n, k) and labels (n,) came as {p.shape}, {y.shape}")
    k = p.shape[1]
    keep = (y >= 0) & (y < k)
    if not keep.any():
        raise UsageError(
            f"none of {len(y)} test images has one of the {k} trained classes as its "
            "label; nothing can be evaluated. Give test images of trained classes."
        )
    group = np.arange(len(y)) if groups is None else np.asarray(groups, np.int64)
    group = np.unique(group[keep], return_inverse=True)[1].ravel()
    weight = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    weight = weight[keep]
    named = list(names) if names is not None else [str(i) for i in range(k)]
    answers = score(p[keep], y[keep])
    support = np.bincount(answers.label, minlength=k)
    confusion = confusion_matrix(answers, k)
    bins = reliability_bins(answers.confidence, settings)
    expected = null_ece(answers.confidence, bins, groups=group, settings=settings)
    excluded, unanswered = int((~keep).sum()), int((~answers.answered).sum())
    return Evaluation(
        n=len(answers.label),
        n_groups=int(group.max()) + 1,
        excluded=excluded,
        unanswered=unanswered,
        num_classes=k,
        classes_present=int((support > 0).sum()),
        majority=float(np.bincount(answers.label, weight).max() / weight.sum()),
        top_k=min(5, k),
        **_headline(answers, bins, group=group, weight=weight, settings=settings),
        ece_null=float(expected.mean()),
        ece_null_high=float(np.quantile(expected, settings.level)),
        per_class=_per_class(
            answers, confusion, group=group, named=named, settings=settings
        ),
        slices={
            name: _slice_rows(
                np.asarray(values)[keep],
                answers.correct,
                group=group,
                weight=weight,
                settings=settings,
            )
            for name, values in (slices or {}).items()
        },
        confusion=confusion.tolist(),
        confused=_confused(confusion, named=named, top=settings.top_pairs),
        reliability=reliability(answers, bins, group=group, settings=settings),
        notes=_notes(
            settings, excluded=excluded, unanswered=unanswered, present=support > 0
        ),
    )


def _headline(
    answers: Scores,
    bins: Ints,
    *,
    group: Ints,
    weight: Floats,
    settings: EvaluateSettings,
) -> dict[str, Estimate]:
    """Return the headline figures: shares by Wilson, the others by bootstrap."""
    n, width = len(answers.label), int(bins.max()) + 1
    gap = weight * (answers.confidence - answers.correct)
    columns = contributions(answers, weight)
    wide = sparse.hstack([columns, one_hot(bins, gap, width)], format="csr")

    def everything(sums: Floats) -> Floats:
        ece = np.abs(sums[:, -width:]).sum(1) / sums[:, 0]
        return np.column_stack([figures(sums[:, :-width]), ece])

    draws = grouped_bootstrap(
        wide,
        everything,
        groups=group,
        strata=answers.label,
        draws=settings.draws,
        seed=settings.seed,
    )
    value = everything(np.asarray(wide.sum(axis=0)).reshape(1, -1))[0]
    low, high = centred_interval(value, draws, level=settings.level)
    top = np.array([1, 1, 1, 2, np.inf, 1])
    low, high = np.maximum(low, 0), np.minimum(high, top)
    order = ("macro_precision", "macro_recall", "macro_f1", "brier", "nll", "ece")
    found = {
        name: Estimate(value=v, low=lo, high=hi, n=n)
        for name, v, lo, hi in zip(order, value, low, high, strict=True)
    }
    found["balanced_accuracy"] = found["macro_recall"]
    for name, hits in (("top1", answers.correct), ("top5", answers.top5)):
        found[name] = shares(hits, groups=group, weights=weight, level=settings.level)[
            0
        ]
    return found


def _per_class(
    answers: Scores,
    confusion: Ints,
    *,
    group: Ints,
    named: list[str],
    settings: EvaluateSettings,
) -> list[ClassRow]:
    """Return one row for each class of the model."""
    k = len(confusion)
    recall = shares(
        answers.correct,
        groups=group,
        cells=answers.label,
        n_cells=k,
        level=settings.level,
    )
    support, given = np.bincount(answers.label, minlength=k), confusion.sum(0)
    right = confusion.diagonal()
    f1 = 2 * right / np.maximum(support + given, 1)
    precision = right / np.maximum(given, 1)
    return [
        ClassRow(
            label=i,
            name=named[i],
            support=support[i],
            predicted=given[i],
            precision=precision[i] if given[i] else None,
            recall=recall[i] if support[i] else None,
            f1=f1[i] if support[i] else None,
        )
        for i in range(k)
    ]


def _slice_rows(
    values: NDArray[Any],
    correct: Floats,
    *,
    group: Ints,
    weight: Floats,
    settings: EvaluateSettings,
) -> list[SliceRow]:
    """Return top-1 of each slice that `values` names, in their order."""
    numeric = np.issubdtype(values.dtype, np.number)
    inside = values >= 0 if numeric else values.astype(str) != ""
    found, cell = np.unique(values[inside], return_inverse=True)
    estimates = shares(
        correct[inside],
        groups=group[inside],
        cells=cell.ravel().astype(np.int64),
        n_cells=len(found),
        weights=weight[inside],
        level=settings.level,
    )
    return [
        SliceRow(name=str(name), top1=estimate)
        for name, estimate in zip(found, estimates, strict=True)
    ]


def _confused(confusion: Ints, *, named: list[str], top: int) -> list[ConfusedPair]:
    """Return the most frequent mistakes, the most frequent first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:top]
    rows, columns = np.unravel_index(order, wrong.shape)
    support = np.maximum(confusion.sum(1), 1)
    return [
        ConfusedPair(
            label=i,
            predicted=j,
            label_name=named[i],
            predicted_name=named[j],
            count=wrong[i, j],
            share=wrong[i, j] / support[i],
        )
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        if wrong[i, j]
    ]


def _notes(
    settings: EvaluateSettings,
    *,
    excluded: int,
    unanswered: int,
    present: NDArray[np.bool_],
) -> list[str]:
    """Return what a reader of the figures must know."""
    notes = [
        f"Intervals cover {settings.level:.0%}. Shares (top-1, top-5, recall, slices) "
        "use Wilson's interval on the number of images that the duplicate groups are "
        f"worth; the other figures {settings.draws:,} bootstrap draws of duplicate "
        f"groups, stratified by class, seed {settings.seed}.",
        f"Macro figures average over the {int(present.sum())} classes that have test "
        "images; a class that is never predicted has precision 0.",
        "Brier sums over classes: 0 is best, 2 worst.",
    ]
    if excluded:
        notes.append(
            f"{excluded:,} images left out: no label, or one that was never trained."
        )
    if unanswered:
        notes.append(
            f"{unanswered:,} images got no usable probabilities; they count as wrong."
        )
    return notes
