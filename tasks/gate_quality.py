"""Checks on answers: the candidate's alone, and beside the champion's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from data_contracts.references import CheckResult, Verdict
from tasks.arena import Match, Rights
from tasks.calibration import null_ece, reliability_bins
from tasks.evaluation import MeasureSettings
from tasks.gate_settings import (
    Calibration,
    Floor,
    GateSettings,
    Metric,
    NonInferior,
)
from tasks.gate_words import against, points, side
from tasks.intervals import (
    Floats,
    Paired,
    centred_interval,
    effective_n,
    grouped_bootstrap,
    paired_change,
    two_sided,
    z_score,
)
from tasks.scores import Scores, contributions, figures, one_hot, share_of

POWER = 0.8  # chance to pass that the advised number of images gives an equal model
# Places of the bootstrapped metrics in `tasks.scores.figures`.
PLACES = {
    Metric.macro_precision: 0,
    Metric.macro_recall: 1,
    Metric.macro_f1: 2,
    Metric.brier: 3,
    Metric.nll: 4,
}


def answers(match: Match) -> CheckResult:
    """Check that the candidate answers every image with probs."""
    n, missing = match.n, match.counts["unanswered"]
    return CheckResult(
        check=f"{match.name}: answers",
        verdict=Verdict.FAIL if missing else Verdict.PASS,
        value=1 - missing / n,
        limit=1.0,
        n=n,
        detail=f"{n - missing:,} of {n:,} images got probabilities that are finite and "
        "sum to 1; all must.",
    )


def floor(check: Floor, match: Match, settings: GateSettings) -> CheckResult:
    """Check that a figure is surely good enough."""
    if check.metric != Metric.top1:
        return _floor_of(check, match, settings)
    limit = check.limit
    if limit is None:
        limit = float(np.bincount(match.candidate.label).max() / match.n)
    found = share_of(
        match.candidate.correct,
        groups=match.groups,
        level=two_sided(settings.level),
    )
    what = "floor" if check.limit is not None else "share of the commonest class"
    detail = (
        f"Top-1 is {found.value:.1%} ({side(settings)} lower bound {found.low:.1%}), "
        f"must exceed the {what}, {limit:.1%}."
    )
    verdict = against(found.low, found.high, limit=limit)
    if limit == 1:
        verdict = Verdict.INCONCLUSIVE
        detail = "The test images hold a single class: guessing it is always right."
    return CheckResult(
        check=f"{match.name}: top-1 floor",
        verdict=verdict,
        value=found.value,
        low=found.low,
        high=found.high,
        limit=limit,
        n=match.n,
        detail=detail,
    )


def _floor_of(check: Floor, match: Match, settings: GateSettings) -> CheckResult:
    """Check a bootstrapped figure against its limit."""
    assert check.limit is not None
    place, sign = PLACES[check.metric], 1 if check.metric.rises else -1
    found = _interval(
        contributions(match.candidate),
        lambda sums: sign * figures(sums)[:, [place]],
        match,
        settings,
    )[0]
    value, low, high = (sign * end for end in found)
    word, bound = ("exceed", "lower") if sign > 0 else ("stay under", "upper")
    name = check.metric.words
    return CheckResult(
        check=f"{match.name}: {name} floor",
        verdict=against(found.low, found.high, limit=sign * check.limit),
        value=value,
        low=min(low, high),
        high=max(low, high),
        limit=check.limit,
        n=match.n,
        detail=f"{name[:1].upper()}{name[1:]} is {value:.4f} ({side(settings)} {bound}"
        f" bound {low:.4f}), must {word} {check.limit:g}.",
    )


def top1(check: NonInferior, match: Match, settings: GateSettings) -> CheckResult:
    """Check that top-1 is surely not worse than the champion's by the margin."""
    found = paired_change(
        match.change, groups=match.groups, level=two_sided(settings.level)
    )
    verdict = against(found.low, found.high, limit=-check.margin)
    detail = (
        f"Top-1 changed by {points(found.value)} points ({side(settings)} lower "
        f"bound {points(found.low)}), may not fall below "
        f"{points(-check.margin)}; {match.counts['fixed']:,} images fixed, "
        f"{match.counts['broken']:,} broken."
    )
    if unknown := match.counts["unknown_to_champion"]:
        detail += f" The champion does not know the class of {unknown:,} of them."
    if verdict == Verdict.INCONCLUSIVE:
        width = found.high - found.low
        detail += _advice(found.value, width, match, settings, margin=check.margin)
    return CheckResult(
        check=f"{match.name}: top-1",
        verdict=verdict,
        value=found.value,
        low=found.low,
        high=found.high,
        limit=-check.margin,
        n=match.n,
        detail=detail,
    )


def bootstrapped(
    checks: Sequence[NonInferior], match: Match, settings: GateSettings
) -> list[CheckResult]:
    """Check figures against the champion's, all on the same resamples."""
    if not checks:
        return []
    assert match.champion is not None
    pair = [contributions(who) for who in (match.candidate, match.champion)]
    half = pair[0].shape[1]
    places = [PLACES[check.metric] for check in checks]
    signs = np.array([1.0 if check.metric.rises else -1.0 for check in checks])

    def gain(sums: Floats) -> Floats:
        """Return (d, m) how much better each figure is, better upwards."""
        found = figures(sums[:, :half]) - figures(sums[:, half:])
        return np.asarray(signs * found[:, places])

    columns = sparse.hstack(pair, format="csr")
    rows = _interval(columns, gain, match, settings)
    return [
        _compared(check, found, match, settings)
        for check, found in zip(checks, rows, strict=True)
    ]


def _compared(
    check: NonInferior, found: Paired, match: Match, settings: GateSettings
) -> CheckResult:
    """Return what a gain, better upwards, means for a metric."""
    name, sure = check.metric.words, side(settings)
    verdict = against(found.low, found.high, limit=-check.margin)
    shown = name[:1].upper() + name[1:]
    if check.metric.rises:
        return CheckResult(
            check=f"{match.name}: {name}",
            verdict=verdict,
            value=found.value,
            low=found.low,
            high=found.high,
            limit=-check.margin,
            n=match.n,
            detail=f"{shown} changed by {points(found.value)} points ({sure} "
            f"lower bound {points(found.low)}), may not fall below "
            f"{points(-check.margin)}.",
        )
    return CheckResult(
        check=f"{match.name}: {name}",
        verdict=verdict,
        value=-found.value,
        low=-found.high,
        high=-found.low,
        limit=check.margin,
        n=match.n,
        detail=f"{shown} changed by {-found.value:+.4f} ({sure} upper bound "
        f"{-found.low:+.4f}), may not rise above {check.margin:+.4f}.",
    )


def _interval(
    columns: Any, statistic: Any, match: Match, settings: GateSettings
) -> list[Paired]:
    """Return each figure of column sums with its bootstrap interval."""
    draws = grouped_bootstrap(
        columns,
        statistic,
        groups=match.groups,
        strata=match.candidate.label,
        draws=settings.draws,
        seed=settings.seed,
    )
    value = statistic(np.asarray(columns.sum(axis=0)).reshape(1, -1))[0]
    low, high = centred_interval(value, draws, level=two_sided(settings.level))
    return [
        Paired(float(v), float(lo), float(hi))
        for v, lo, hi in zip(value, low, high, strict=True)
    ]


def calibration(
    check: Calibration, match: Match, settings: GateSettings
) -> CheckResult:
    """Check ECE against what luck makes of confidences that are exactly right."""
    how = MeasureSettings(
        level=settings.level, draws=settings.draws, seed=settings.seed
    )
    mine: Scores = match.candidate
    bins = reliability_bins(mine.confidence, how)
    width = int(bins.max()) + 1
    group = np.unique(match.groups, return_inverse=True)[1].ravel()
    usual = float(
        np.quantile(
            null_ece(mine.confidence, bins, groups=group, settings=how), settings.level
        )
    )
    gap = one_hot(bins, mine.confidence - mine.correct, width)
    found = _interval(
        gap, lambda sums: -np.abs(sums).sum(1)[:, None] / match.n, match, settings
    )[0]
    limit = usual + check.margin
    return CheckResult(
        check=f"{match.name}: calibration",
        verdict=against(found.low, found.high, limit=-limit),
        value=-found.value,
        low=max(-found.high, 0.0),
        high=-found.low,
        limit=limit,
        n=match.n,
        detail=f"ECE is {-found.value:.3f} ({side(settings)} upper bound"
        f" {-found.low:.3f}), must stay under {limit:.3f}: {usual:.3f}, which luck may"
        f" make of {match.n:,} images, and a margin of {check.margin:g}.",
    )


def withstands(
    name: str, rights: Rights | None, *, margin: float, why: str, settings: GateSettings
) -> CheckResult:
    """Check top-1 on spoiled or attacked images against the champion's.

    Half a pair is added to each side, as for clean images (Agresti & Min 2005).

    Args:
        name: Name of the check.
        rights: Share of right answers of both on each image.
        margin: Loss to tolerate.
        why: Why there are none, if there are none.
        settings: Level.
    """
    if rights is None:
        return CheckResult(check=name, verdict=Verdict.NOT_RUN, detail=why)
    change = rights.candidate - rights.champion
    n = len(change)
    worth = effective_n(change, groups=rights.groups)
    scale = worth / n
    total = worth + 2
    middle = scale * float(change.sum()) / total
    spread = (scale * float((change**2).sum()) + 1) / total - middle**2
    half = z_score(two_sided(settings.level)) * float(np.sqrt(spread / total))
    value, low, high = float(change.mean()), middle - half, middle + half
    return CheckResult(
        check=name,
        verdict=against(low, high, limit=-margin),
        value=value,
        low=min(low, value),
        high=max(high, value),
        limit=-margin,
        n=n,
        detail=f"Top-1 there is {rights.candidate.mean():.1%}, the champion's"
        f" {rights.champion.mean():.1%}: {points(value)} points ({side(settings)}"
        f" lower bound {points(low)}), may not fall below {points(-margin)}."
        + (f" {rights.note}" if rights.note else ""),
    )


def _advice(
    value: float, width: float, match: Match, settings: GateSettings, *, margin: float
) -> str:
    """Say how many images would let a candidate as good as this one pass."""
    room = margin + min(value, 0.0)
    if room <= margin / 10:
        return ""
    z = z_score(two_sided(settings.level))
    reach = z + z_score(two_sided(POWER))
    needed = match.n * (reach * width / (2 * z * room)) ** 2
    rounded = int(np.ceil(needed / 100) * 100)
    return f" About {rounded:,} such images would be needed to tell."
