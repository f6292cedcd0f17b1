"""The page of an evaluation: every figure of one version on one set of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_contracts.references import ContractReport, Estimate
from models.durable import write_over
from tasks.evaluation import SliceRow
from tasks.figures import Bin, lines, reliability
from tasks.measure import MeasuredVersion
from tasks.measured import ClassFigures, Measured
from tasks.pages import render_page
from tasks.stage import stage_task
from tasks.wording import broken_rules, estimate

# Name of each figure, what it means, and its unit, in the order shown.
FIGURES = {
    "top1": ("Top-1", "the best guess is right", "%"),
    "top5": ("Top-5", "the right class is among five guesses", "%"),
    "balanced_accuracy": ("Balanced accuracy", "recall, classes alike", "%"),
    "macro_precision": ("Macro precision", "classes alike", "%"),
    "macro_f1": ("Macro F1", "precision and recall, classes alike", "%"),
    "weighted_precision": ("Weighted precision", "classes by their images", "%"),
    "weighted_f1": ("Weighted F1", "classes by their images", "%"),
    "micro_f1": ("Micro F1", "images alike", "%"),
    "average_precision": (
        "Average precision",
        "are a class's images the surest of it; one class against the rest, classes"
        " alike",
        "%",
    ),
    "roc_auc": (
        "ROC AUC",
        "chance that an image of a class is surer of it than another; half is luck",
        "%",
    ),
    "nll": ("Log loss", "surprise at the right class; lower is better", ""),
    "brier": (
        "Brier",
        "squared error of the probabilities, 0 to 2; lower is better",
        "",
    ),
    "ece": ("ECE", "how far confidence is from accuracy; lower is better", ""),
    "risk_area": (
        "Risk-coverage area",
        "share wrong if only the surest are answered, averaged over how many are;"
        " lower is better",
        "",
    ),
}
WORST = 40
MANY = 12  # slices of a column shown


@stage_task()
def write_measure_page(
    measured: MeasuredVersion, contracts: list[ContractReport], *, folder: str
) -> str:
    """Write report.html beside evaluation.json and return its path."""
    path = Path(folder) / "report.html"
    write_over(path, render(measured, contracts))
    return str(path)


def render(measured: MeasuredVersion, contracts: list[ContractReport]) -> str:
    """Return the page as one HTML file that loads nothing else."""
    found = measured.found
    ranked = sorted(found.per_class, key=_worst_first)
    return render_page(
        "measure.html",
        filters={"estimate": estimate},
        m=measured,
        found=found,
        headline=headline(measured),
        figures=[
            (title, meaning, unit, found.figures.get(key), found.not_run.get(key, ""))
            for key, (title, meaning, unit) in _named(found).items()
        ],
        calibrated=calibration_words(found),
        coverage=lines(
            {"top-1": [(100 * p.coverage, p.top1.value) for p in found.coverage]},
            strong=["top-1"],
            title="Top-1 of the surest images",
            across="share of images answered, %",
            percent=True,
        ),
        curve=coverage_rows(found),
        reliability=reliability(
            [
                Bin(
                    low=row.low,
                    high=row.high,
                    confidence=row.confidence,
                    accuracy=row.accuracy.value,
                    n=row.accuracy.n,
                )
                for row in found.reliability
            ]
        ),
        slices={name: _shown(rows) for name, rows in found.slices.items()},
        classes=ranked[:WORST],
        hidden=max(len(ranked) - WORST, 0),
        contracts=broken_rules(contracts),
    )


def _named(found: Measured) -> dict[str, tuple[str, str, str]]:
    named = dict(FIGURES)
    named["top5"] = (f"Top-{found.top_k}", named["top5"][1], "%")
    if found.top_k < 5:
        named["top5"] = (f"Top-{found.top_k}", "right among as many guesses", "%")
    return named


def headline(measured: MeasuredVersion) -> str:
    """Say in a sentence what came out."""
    top1 = measured.found.figures["top1"]
    said = f"It is right on {estimate(top1)} of {measured.found.n:,} images."
    agreement = measured.found.agreement
    if agreement is None:
        return said
    change, other = agreement.change, f"version {agreement.version}"
    if change.low > 0:
        return f"{said} That is surely better than {other}: {_points(change)}."
    if change.high < 0:
        return f"{said} That is surely worse than {other}: {_points(change)}."
    return f"{said} Whether that differs from {other} is open: {_points(change)}."


def _points(change: Estimate) -> str:
    return estimate(change, "points")


def calibration_words(found: Measured) -> str:
    """Say whether the confidences mean what they say."""
    ece, usual = found.figures["ece"], found.ece_null_high
    if ece.value <= usual:
        return (
            f"The ECE of {ece.value:.3f} is no larger than luck makes it with so many"
            f" images ({usual:.3f}): nothing speaks against the confidences."
        )
    mean = sum(row.confidence * row.accuracy.n for row in found.reliability) / found.n
    side = "surer" if mean > found.figures["top1"].value else "less sure"
    return (
        f"The ECE of {ece.value:.3f} is larger than luck makes it with so many images"
        f" ({usual:.3f}): the model is {side} than it is right."
    )


def coverage_rows(found: Measured) -> list[tuple[float, float, Estimate]]:
    """Return coverage, confidence and top-1 at a few shares of images answered."""
    picked = []
    for share in (0.5, 0.8, 0.9, 1.0):
        point = next((p for p in found.coverage if p.coverage >= share - 1e-9), None)
        if point is not None and point not in picked:
            picked.append(point)
    return [(p.coverage, p.confidence, p.top1) for p in picked]


def _shown(rows: Sequence[SliceRow]) -> tuple[list[SliceRow], int]:
    """Return the slices of a column to show and how many more there are.

    Many come with the lowest top-1 first; few stay in their order.
    """
    if len(rows) <= MANY:
        return list(rows), 0
    lowest = sorted(rows, key=lambda row: row.top1.value)
    return lowest[:MANY], len(rows) - MANY


def _worst_first(row: ClassFigures) -> tuple[bool, float, str]:
    return (row.f1 is None, row.f1.value if row.f1 else 0.0, row.name)
