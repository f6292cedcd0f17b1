"""Checks image by image: who was fixed and broken, where, and what must stay right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from data_contracts.references import CheckResult, Verdict
from tasks.arena import Match
from tasks.gate_settings import (
    Blocks,
    GateSettings,
    MustStayRight,
    NegativeFlips,
    Slices,
    Superior,
    pinned_names,
)
from tasks.gate_words import against, points, side
from tasks.intervals import Paired, holm, paired_change, two_sided, z_score
from tasks.scores import share_of

SHOWN = 5


def superior(check: Superior, match: Match, settings: GateSettings) -> CheckResult:
    """Check that top-1 surely rose: McNemar's exact test, a duplicate group a coin."""
    _, group = np.unique(match.groups, return_inverse=True)
    change = np.sign(np.bincount(group.ravel(), match.change))
    up, down = int((change > 0).sum()), int((change < 0).sum())
    # At least as many up, were each as likely up as down.
    chance = float(special.bdtrc(up - 1, up + down, 0.5)) if up else 1.0
    worse = float(special.bdtrc(down - 1, up + down, 0.5)) if down else 1.0
    verdict = Verdict.INCONCLUSIVE
    if chance < 1 - settings.level:
        verdict = Verdict.PASS
    elif worse < 1 - settings.level:
        verdict = Verdict.FAIL
    return CheckResult(
        check=f"{match.name}: superior",
        verdict=verdict,
        value=chance,
        limit=1 - settings.level,
        n=match.n,
        detail=f"{up:,} groups of images fixed, {down:,} broken: were the versions"
        f" equal, as many fixed would come by luck in {chance:.1%} of cases, must be"
        f" under {1 - settings.level:.0%}.",
    )


def slices(check: Slices, match: Match, settings: GateSettings) -> list[CheckResult]:
    """Check each slice; Holm's correction keeps the chance of any false failure.

    A slice passes as a whole test set does; all must, so none is corrected for passing.
    """
    rows, small = [], 0
    for name, values in (match.slices or {}).items():
        if check.by and name not in check.by:
            continue
        text = np.asarray(values).astype(str)
        for value in np.unique(text[text != ""]):
            inside = text == value
            if inside.sum() < check.min_images:
                small += 1
                continue
            found = paired_change(
                match.change[inside],
                groups=match.groups[inside],
                level=two_sided(settings.level),
            )
            rows.append((f"{name} {value}", found, int(inside.sum())))
    if not rows:
        if check.blocks == Blocks.failing:
            return []
        return [
            CheckResult(
                check=f"{match.name}: slices",
                verdict=Verdict.NOT_RUN,
                detail=_no_slice(check, match),
            )
        ]
    return [_slices_result(check, rows, small, match, settings)]


def _no_slice(check: Slices, match: Match) -> str:
    if absent := _absent(check, match):
        return (
            f"These images are not sliced by {', '.join(absent)}, but by"
            f" {', '.join(match.slices or {}) or 'nothing'}."
        )
    return f"No slice has {check.min_images:,} images."


def _absent(check: Slices, match: Match) -> list[str]:
    return [name for name in check.by if name not in (match.slices or {})]


def _slices_result(
    check: Slices,
    rows: list[tuple[str, Paired, int]],
    small: int,
    match: Match,
    settings: GateSettings,
) -> CheckResult:
    z = z_score(two_sided(settings.level))
    error = np.array([(f.high - f.low) / (2 * z) for _, f, _ in rows])
    middle = np.array([(f.high + f.low) / 2 for _, f, _ in rows])
    chance = special.ndtr((middle + check.margin) / np.maximum(error, 1e-12))
    order = np.argsort(chance)
    fails = order[holm(chance, level=settings.level)[order]]
    passes = all(found.low > -check.margin for _, found, _ in rows)
    verdict = Verdict.PASS if passes else Verdict.INCONCLUSIVE
    worst = int(np.argmin([found.value for _, found, _ in rows]))
    detail = (
        f"{len(rows):,} slices of {check.min_images:,} images or more, none may lose"
        f" more than {100 * check.margin:.1f} points of top-1; the lowest is"
        f" {rows[worst][0]}, {points(rows[worst][1].value)} points."
    )
    if len(fails):
        verdict = Verdict.FAIL
        named = [f"{rows[i][0]} ({points(rows[i][1].value)})" for i in fails[:SHOWN]]
        detail += f" Surely below: {', '.join(named)}."
    if small:
        detail += f" {small:,} smaller ones are not judged."
    if absent := _absent(check, match):
        detail += f" These images are not sliced by {', '.join(absent)}."
    return CheckResult(
        check=f"{match.name}: slices",
        verdict=verdict,
        value=rows[worst][1].value,
        low=rows[worst][1].low,
        high=rows[worst][1].high,
        limit=-check.margin,
        n=rows[worst][2],
        detail=detail,
    )


def negative_flips(
    check: NegativeFlips, match: Match, settings: GateSettings
) -> CheckResult:
    """Check that few images went from right to wrong."""
    assert match.champion is not None
    found = share_of(
        (match.change < 0).astype(np.float64),
        groups=match.groups,
        level=two_sided(settings.level),
    )
    was, now = match.champion.correct.mean(), match.candidate.correct.mean()
    return CheckResult(
        check=f"{match.name}: negative flips",
        verdict=against(-found.high, -found.low, limit=-check.limit),
        value=found.value,
        low=found.low,
        high=found.high,
        limit=check.limit,
        n=match.n,
        detail=f"{match.counts['broken']:,} images, {found.value:.1%}, went from right"
        f" to wrong ({side(settings)} upper bound {found.high:.1%}), must stay under"
        f" {check.limit:.1%}; were errors independent, {was * (1 - now):.1%} would.",
    )


def must_stay_right(check: MustStayRight, matches: Sequence[Match]) -> CheckResult:
    """Check that every pinned image is among the test images, and right."""
    names = pinned_names(check)
    right: dict[str, bool] = {}
    for match in matches:
        for known in (match.paths, match.digests or ()):
            for name, hit in zip(known, match.candidate.correct > 0, strict=True):
                right[name] = right.get(name, True) and bool(hit)
    absent = [name for name in names if name not in right]
    wrong = [name for name in names if not right.get(name, True)]
    detail = f"{len(names) - len(absent) - len(wrong):,} of {len(names):,} are right."
    verdict = Verdict.PASS
    if absent:
        verdict = Verdict.INCONCLUSIVE
        detail += f" Not among the test images: {_first(absent)}."
    if wrong:
        verdict = Verdict.FAIL
        detail += f" Wrong: {_first(wrong)}."
    return CheckResult(
        check="must stay right",
        verdict=verdict,
        n=len(names),
        detail=detail,
    )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
