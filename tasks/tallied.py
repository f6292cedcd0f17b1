"""Make every figure, with its interval, of the sums of a tally."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_contracts.errors import UsageError
from data_contracts.references import Estimate
from tasks.bucketed import (
    bootstrap,
    clipped,
    design_effect,
    shares_by_bucket,
    spanning,
)
from tasks.evaluation import (
    ConfusedPair,
    MeasureSettings,
    SliceRow,
)
from tasks.intervals import Floats, Ints, agresti_min, centred_interval
from tasks.measured import Agreement, ClassFigures, Measured
from tasks.ranking import risk_area
from tasks.tallied_curves import (
    binned,
    bins_of,
    coverage,
    null_ece,
    reliability,
)
from tasks.tallied_ranks import Ranks, measure_ranks
from tasks.tally import RANKED, Tally, from_fixed

FEW = 30  # images under which intervals say little
# Of the figures that `_averages` makes, in its order.
AVERAGES = (
    *("macro_precision", "macro_recall", "macro_f1"),
    *("weighted_precision", "weighted_f1", "micro_f1"),
    *("brier", "nll", "ece", "risk_area"),
)
TOPS = {"brier": 2.0, "nll": np.inf}


class Columns(NamedTuple):
    """Sums by bucket side by side (buckets, s), and where each begins and ends."""

    values: Floats
    at: dict[str, slice]


def measure(
    tally: Tally,
    *,
    names: Sequence[str],
    settings: MeasureSettings | None = None,
    champion: int | None = None,
) -> Measured:
    """Return every figure of what `tally` added up.

    Args:
        tally: The sums.
        names: Class names.
        settings: Intervals, bins and seed.
        champion: Version of the champion that the tally met, if it met one.

    Raises:
        UsageError: No image could be scored.
    """
    settings = settings or MeasureSettings()
    s, n = tally.sums, tally.n
    _must_hold_images(tally)
    present = np.flatnonzero(s["images"].sum(0))
    bins = bins_of(s, settings)
    figures = _sum_figures(tally, _columns(tally, present, bins), settings)
    not_run = _not_run(tally, present)
    ranks = None if not_run else measure_ranks(tally, settings)
    if ranks is not None:
        figures |= ranks.macro
    null = null_ece(s, bins, settings)
    unanswered = n - int(s["answered"].sum())
    return Measured(
        n=n,
        excluded=int(s["excluded"][0]),
        unanswered=unanswered,
        num_classes=tally.k,
        classes_present=len(present),
        top_k=min(5, tally.k),
        figures=figures,
        ece_null=float(null.mean()),
        ece_null_high=float(np.quantile(null, settings.level)),
        rank_error=ranks.error if ranks else {},
        per_class=_per_class(tally, names, ranks, settings),
        slices=_slices(tally, settings),
        coverage=coverage(s, settings),
        reliability=reliability(s, bins, settings),
        confused=_confused(tally, names, top=settings.top_pairs),
        confusion=_pairs(tally.confusion),
        agreement=_agreement(s, champion, settings) if champion is not None else None,
        not_run=not_run,
        notes=_notes(tally, settings, unanswered=unanswered, ranks=ranks),
    )


def _sum_figures(
    tally: Tally, columns: Columns, settings: MeasureSettings
) -> dict[str, Estimate]:
    """Return the figures that sums make."""
    s, n = tally.sums, tally.n
    rows = zip(*_resampled(columns, settings), strict=True)
    figures = {
        "top1": shares_by_bucket(s["correct"], s["n"], settings.level)[0],
        "top5": shares_by_bucket(s["top5"], s["n"], settings.level)[0],
    }
    figures |= {
        name: clipped(*row, n=n, top=TOPS.get(name, 1.0))
        for name, row in zip(AVERAGES, rows, strict=True)
    }
    figures["balanced_accuracy"] = figures["macro_recall"]
    if s["answered"].sum() == n:  # the same figure by another name
        figures["micro_f1"] = figures["top1"]
    return figures


def _must_hold_images(tally: Tally) -> None:
    if not tally.n:
        raise UsageError(
            f"none of {int(tally.sums['excluded'][0]):,} images has one of the"
            f" {tally.k} trained classes as its label; nothing can be evaluated. Give"
            " images of trained classes."
        )


def must_answer(tally: Tally) -> None:
    """Stop where a model answers nothing, before its figures are taken for real.

    Raises:
        UsageError: No image got probabilities.
    """
    if not tally.sums["answered"].any():
        raise UsageError(
            f"none of {tally.n:,} images got probabilities that are finite and sum to"
            " 1; nothing can be evaluated. Look at the model: its weights may not be"
            " finite."
        )


def _columns(tally: Tally, present: Ints, bins: Ints) -> Columns:
    """Return the sums that averages are made of."""
    s = tally.sums
    held = s["step_n"].any(0)  # empty steps cost time and say nothing
    parts = {
        "n": s["n"][:, None],
        "answered": s["answered"][:, None],
        "correct": s["correct"][:, None],
        "brier": from_fixed(s["brier"])[:, None],
        "nll": from_fixed(s["nll"])[:, None],
        **{name: s[name][:, present] for name in ("right", "given", "images")},
        "gap": binned(from_fixed(s["step_sure"]) - s["step_right"], bins),
        "step_n": s["step_n"][:, held],
        "step_right": s["step_right"][:, held],
    }
    widths = np.cumsum([0, *(part.shape[1] for part in parts.values())])
    at = {
        name: slice(int(a), int(b))
        for name, a, b in zip(parts, widths[:-1], widths[1:], strict=True)
    }
    return Columns(np.concatenate([*parts.values()], axis=1, dtype=np.float64), at)


def _averages(sums: Floats, at: dict[str, slice]) -> Floats:
    """Return (d, figures) of weighted column sums (d, s).

    Macro and weighted figures run over the classes with images; a class that is never
    predicted has precision 0.
    """
    part = {name: sums[:, where] for name, where in at.items()}
    n, right, given, images = (part[k] for k in ("n", "right", "given", "images"))
    there = images > 1e-9
    count = there.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall, f1 = (
            np.where(there & (under > 1e-9), right / under, 0.0)
            for under in (given, images, (given + images) / 2)
        )
        figures = [x.sum(1) / count for x in (precision, recall, f1)]
        figures += [(x * images).sum(1) / images.sum(1) for x in (precision, f1)]
        figures += [(2 * part["correct"] / (n + part["answered"]))[:, 0]]
        figures += [(part[name] / n)[:, 0] for name in ("brier", "nll")]
        figures += [np.abs(part["gap"]).sum(1) / n[:, 0]]
        figures += [risk_area(part["step_n"], part["step_right"])]
    return np.column_stack(figures)


def _resampled(
    columns: Columns, settings: MeasureSettings
) -> tuple[Floats, Floats, Floats]:
    """Return values and intervals of `_averages`, buckets drawn with replacement."""
    value = _averages(columns.values.sum(0)[None], columns.at)[0]
    draws = bootstrap(
        columns.values,
        lambda sums: _averages(sums, columns.at),
        draws=settings.draws,
        seed=settings.seed,
    )
    draws = np.where(np.isnan(draws), value, draws)
    low, high = centred_interval(value, draws, level=settings.level)
    return value, low, high


def _not_run(tally: Tally, present: Ints) -> dict[str, str]:
    why = ""
    if len(present) < 2:
        why = "only one class has images, and it takes images of others to compare with"
    elif not tally.ranked:
        why = f"it is made for up to {RANKED:,} classes, and there are {tally.k:,}"
    return dict.fromkeys(("roc_auc", "average_precision"), why) if why else {}


def _per_class(
    tally: Tally,
    names: Sequence[str],
    ranks: Ranks | None,
    settings: MeasureSettings,
) -> list[ClassFigures]:
    s, level = tally.sums, settings.level
    recall = shares_by_bucket(s["right"], s["images"], level)
    precision = shares_by_bucket(s["right"], s["given"], level)
    either = s["given"] + s["images"] - s["right"]
    f1 = [_f1(row) for row in shares_by_bucket(s["right"], either, level)]
    support, given = s["images"].sum(0), s["given"].sum(0)
    return [
        ClassFigures(
            label=c,
            name=names[c],
            support=int(support[c]),
            predicted=int(given[c]),
            precision=precision[c] if given[c] else None,
            recall=recall[c] if support[c] else None,
            f1=f1[c] if support[c] else None,
            average_precision=ranks.precision[c] if ranks else None,
            roc_auc=ranks.auc[c] if ranks else None,
        )
        for c in range(tally.k)
    ]


def _f1(both: Estimate) -> Estimate:
    """Return F1 from the share of right answers among images of or given a class."""
    value, low, high = (2 * x / (1 + x) for x in (both.value, both.low, both.high))
    return Estimate(value=value, low=low, high=high, n=both.n)


def _slices(tally: Tally, settings: MeasureSettings) -> dict[str, list[SliceRow]]:
    found = {}
    for name, values in tally.slices.items():
        n, right = tally.sums[f"slice {name}"]
        rows = shares_by_bucket(right, n, settings.level)
        found[name] = [
            SliceRow(name=value, top1=row)
            for value, row in zip(values, rows, strict=True)
            if row.n
        ]
    return found


def _pairs(confusion: Any) -> list[tuple[int, int, int]]:
    cells = confusion.tocoo()
    return sorted(
        zip(cells.row.tolist(), cells.col.tolist(), cells.data.tolist(), strict=True)
    )


def _confused(tally: Tally, names: Sequence[str], *, top: int) -> list[ConfusedPair]:
    """Return the most frequent mistakes, the most frequent first."""
    support = tally.sums["images"].sum(0)
    wrong = [cell for cell in _pairs(tally.confusion) if cell[0] != cell[1]]
    wrong.sort(key=lambda cell: -cell[2])
    return [
        ConfusedPair(
            label=i,
            predicted=j,
            label_name=names[i],
            predicted_name=names[j],
            count=count,
            share=count / support[i],
        )
        for i, j, count in wrong[:top]
    ]


def _agreement(
    s: dict[str, Ints], version: int, settings: MeasureSettings
) -> Agreement:
    same, fixed, broken, right = s["rival"]
    n, level = int(s["n"].sum()), settings.level
    gained, lost = int(fixed.sum()), int(broken.sum())
    change = (fixed - broken)[:, None]
    spread = np.array([gained + lost - (gained - lost) ** 2 / n], np.float64)
    scale = 1 / float(design_effect(change, s["n"][:, None], spread)[0])
    found = agresti_min(scale * gained, scale * lost, scale * n, level=level)

    def share(hits: Ints) -> Estimate:
        return shares_by_bucket(hits, s["n"], level)[0]

    return Agreement(
        version=version,
        champion_top1=share(right),
        same=share(same),
        fixed=share(fixed),
        broken=share(broken),
        change=spanning(found.value, found.low, found.high, n=n),
    )


def _notes(
    tally: Tally,
    settings: MeasureSettings,
    *,
    unanswered: int,
    ranks: Ranks | None,
) -> list[str]:
    s = tally.sums
    never = int(((s["images"].sum(0) > 0) & (s["given"].sum(0) == 0)).sum())
    notes = [
        "Brackets hold where each figure would lie on endless images like these, with"
        f" {settings.level:.0%} confidence. Images that are copies of one another, or"
        " nearly, count as the one that they show. docs/evaluation.md says how.",
        "Averages over classes run over those with images. Micro precision, micro"
        " recall and weighted recall are not listed: with one label an image they are"
        " top-1.",
    ]
    if never:
        notes.append(
            f"Never predicted, though there are images: {never:,} of the classes; their"
            " precision counts as 0 in averages."
        )
    if excluded := int(s["excluded"][0]):
        notes.append(
            f"{excluded:,} images left out: no label, or one that was never trained."
        )
    if unanswered:
        notes.append(
            f"{unanswered:,} images got no usable probabilities; they count as wrong."
        )
    if ranks and not ranks.exact:
        notes.append(
            "There are too many images to keep every confidence, so that ROC AUC and"
            " average precision are made of rounded ones: they are off by"
            f" {ranks.error['roc_auc']:.4f} and"
            f" {ranks.error['average_precision']:.4f} at most."
        )
    n = s["n"][:, None]
    worth = tally.n / float(design_effect(n, n, np.zeros(1))[0])
    if tally.n < FEW:
        notes.append(f"Only {tally.n} images: intervals say little.")
    elif worth < FEW / 2:
        notes.append(
            f"So many of the {tally.n:,} images are copies of one another that they say"
            f" as much as {worth:.0f}: intervals say little."
        )
    return notes
