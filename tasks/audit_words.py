"""What an audit found, in sentences."""

from __future__ import annotations

from data_contracts.references import Estimate, Verdict
from tasks.audit_outcome import ResilienceReport
from tasks.wording import estimate, number

ABOUT = {
    "clean": "the images as they are",
    "fgsm": "one step along the gradient",
    "pgd": "{steps} steps along the gradient, from a random start",
    "pgd_l2": "the same, with a bound on the change as a whole instead of each sample",
    "apgd": "{steps} steps of adapted length, on two losses and towards other classes",
    "square": "random squares, by answers alone: {queries} of them",
    "standard": "the worst of apgd and of {queries} random squares (black box)",
}


def findings(report: ResilienceReport) -> list[str]:
    """Return what a reader should take away, the gravest first."""
    said = [*_flattering(report), _worst(report), *_curve(report)]
    said += [*_detectors(report), *_hardening(report), *_smoothed(report)]
    return [sentence for sentence in said if sentence]


def _flattering(report: ResilienceReport) -> list[str]:
    raised = [a for a in report.alarms if a.verdict == Verdict.FAIL]
    said = [
        "Do not trust the figures under attacks along gradients, they flatter:"
        f" {alarm.alarm}. {alarm.detail}"
        for alarm in raised
    ]
    if report.unanswered:
        said.append(
            f"{report.unanswered:,} of {report.images:,} images are answered by no"
            " numbers; they count as wrong."
        )
    return said


def _worst(report: ResilienceReport) -> str:
    clean = report.accuracy("clean")
    worst = report.accuracy("standard") or report.accuracy("square")
    if clean is None or worst is None:
        return ""
    kind = "the worst attack" if report.accuracy("standard") else "Square alone"
    said = (
        f"Of {report.images:,} images {estimate(clean)} are right; changed by"
        f" {report.epsilon:g} of 255 levels at most, {estimate(worst)} stay right under"
        f" {kind}."
    )
    if worst.high < report.chance:
        return f"{said} Guessing gets {number(report.chance)}: nothing withstands."
    return said


def _curve(report: ResilienceReport) -> list[str]:
    clean = report.accuracy("clean")
    if clean is None or not report.curve:
        return []
    half = [p for p in report.curve if p.accuracy.value <= clean.value / 2]
    if not half:
        last = max(p.levels for p in report.curve)
        return [f"Even {last:g} levels leave more than half of the right answers."]
    least = min(half, key=lambda point: point.levels)
    return [f"A change of {least.levels:g} levels takes half of the right answers."]


def _detectors(report: ResilienceReport) -> list[str]:
    rows = [row for row in report.detectors if row.is_evidence]
    shown = [(row, row.adaptive) for row in rows]
    best = max(
        ((row, own) for row, own in shown if own is not None and own.n),
        key=lambda item: item[1].value,
        default=None,
    )
    if best is None:
        return []
    row, own = best
    known = next(iter(row.noticed.values()), None)
    said = (
        f"Of the detectors, {row.detector} holds best against an attack that knows it:"
        f" it notices {estimate(own)}"
    )
    if known is not None and known.n:
        said += f", and {estimate(known)} of one that does not"
    return [f"{said}, at 5 % false alarms."]


def _hardening(report: ResilienceReport) -> list[str]:
    tried = [row for row in report.hardening if row.adaptive is not None]
    none = next((row for row in report.hardening if row.adaptive is None), None)
    if not tried or none is None:
        return []
    gains = [(row, row.adaptive) for row in tried if row.adaptive is not None]
    row, own = max(gains, key=lambda item: item[1].value)
    if _above(own, none.attacked):
        return [
            f"{row.defence} brings accuracy under PGD from"
            f" {number(none.attacked.value)} to {number(own.value)}, also where the"
            " attack goes through it, and costs"
            f" {number(none.clean.value - row.clean.value, 'points')} clean."
        ]
    return [
        "No defence at serving holds against an attack that goes through it; what they"
        " gain against one that does not is gone as soon as it is known."
    ]


def _above(one: Estimate, other: Estimate) -> bool:
    return one.low > other.high


def _smoothed(report: ResilienceReport) -> list[str]:
    found = report.smoothed
    if found is None:
        return []
    first = found.points[0].accuracy
    said = (
        f"Under noise of {found.sigma:g}, {estimate(first)} of {found.images:,} images"
        f" are right for sure, {number(found.abstained.value)} abstain."
    )
    clean = report.accuracy("clean")
    if clean is not None and first.value < clean.value / 2:
        said += " The network never learnt under such noise; smoothing needs that."
    return [said]
