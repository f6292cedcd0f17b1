"""What an audit found, in sentences."""

from __future__ import annotations

from data_contracts.references import Verdict
from tasks.audit_outcome import ResilienceReport
from tasks.wording import estimate, interval, number

ABOUT = {
    "clean": "the images as they are",
    "fgsm": "one step along the gradient",
    "pgd": "{steps} steps along the gradient, from a random start",
    "pgd_l2": "the same, but the change as a whole is bounded, as a vector of pixels in"
    " 0 to 1: by a length of {length:.2g}",
    "apgd": "{steps} steps of adapted length, on two losses and towards other classes",
    "square": "random squares, by answers alone: {queries} of them",
    "worst": "no attack above turned the answer, pgd_l2 aside",
    "standard": "the worst of apgd and of {queries} random squares (black box)",
}
DETECTORS = {
    "squeezing": "how far the answer moves where the image has fewer levels, or is"
    " smoothed",
    "mahalanobis": "how far its features lie from those of every class",
    "energy": "how small all logits are together",
    "neighbours": "how far its features lie from those of training images",
    "blend": "the four weighed; learnt from PGD on validation images",
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
    worst = report.accuracy("worst") or report.accuracy("square")
    if clean is None or worst is None:
        return ""
    kind = "the worst attack" if report.accuracy("worst") else "Square alone"
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
        return [f"A change of {last:g} of 255 leaves over half of the right answers."]
    least = min(half, key=lambda point: point.levels)
    return [f"A change of {least.levels:g} of 255 takes half of the right answers."]


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
    false = row.false_alarms.value if row.false_alarms is not None else None
    holds = (
        f"Of the detectors, {row.detector} holds best against an attack that knows it"
    )
    if own.value <= (false or 0):
        holds = "No detector holds against an attack that knows it"
    said = (
        f"{holds}: {row.detector} notices {estimate(own)} of {own.n:,} images that fool"
    )
    if known is not None and known.n:
        said += f", and {estimate(known)} of PGD that does not know it"
    return [f"{said}; it takes {number(false)} of clean test images for attacks."]


def _hardening(report: ResilienceReport) -> list[str]:
    tried = [(row, row.gain) for row in report.hardening if row.gain is not None]
    if not tried:
        return []
    none = next(row for row in report.hardening if row.gain is None)
    row, gain = max(tried, key=lambda item: item[1].value)
    if gain.low > 0:
        change = interval(gain.low, gain.high, "points")
        plain, own = number(none.clean.value), number(row.clean.value)
        slower = max(row.milliseconds - none.milliseconds, 0)
        return [
            f"Of the defences at serving, {row.defence} gains most under PGD that goes"
            f" through it: {number(gain.value, 'points')} {change} on {gain.n:,}"
            f" images; clean accuracy goes from {plain} to {own}, and an image takes"
            f" {slower:.1f} ms more."
        ]
    return [
        "No defence at serving gains for sure against an attack that goes through it;"
        " what it gains against one that does not is gone as soon as it is known."
    ]


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
