"""Whether a candidate may replace the champion, decided on intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field
from scipy import sparse

from data_contracts.config import Settings
from data_contracts.references import CheckResult, GateReport, Verdict
from tasks.arena import Arena, Match, meet
from tasks.intervals import (
    Floats,
    centred_interval,
    grouped_bootstrap,
    paired_change,
    two_sided,
    z_score,
)
from tasks.scores import contributions, figures, shares

POWER = 0.8  # chance to pass that the advised number of images gives an equal model


class GateSettings(Settings):
    """Settings of `decide`."""

    floor_top1: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Top-1 that every version must surely exceed; none: that of always "
        "guessing the most common class of the test images.",
    )
    margin: float = Field(
        0.01, gt=0, lt=1, description="Loss of top-1 against the champion to tolerate."
    )
    margin_macro_f1: float = Field(
        0.02, gt=0, lt=1, description="Loss of macro-F1 to tolerate."
    )
    margin_brier: float = Field(
        0.02, gt=0, lt=2, description="Rise of the Brier score (0..2) to tolerate."
    )
    level: float = Field(
        0.95, gt=0.5, lt=1, description="One-sided confidence behind each verdict."
    )
    min_images: int = Field(
        30, ge=1, description="Test images below which nothing can pass."
    )
    min_images_era: int = Field(
        300,
        ge=1,
        description="Images below which a further arena (an era's test images) blocks "
        "only when it fails.",
    )
    draws: int = Field(2_000, ge=100, le=100_000, description="Bootstrap resamples.")
    seed: int = Field(0, ge=0, description="Seed of the resamples.")
    max_flips: int = Field(200, ge=0, description="Flipped images to name, each way.")


def decide(
    arenas: Sequence[Arena],
    settings: GateSettings | None = None,
    *,
    name: str,
    version: int | None = None,
    champion: int | None = None,
) -> GateReport:
    """Decide whether a candidate may be promoted.

    Every check asks that an interval clears its limit, so all must pass and none needs
    a correction for their number (an intersection-union test, Berger 1982).

    Args:
        arenas: The test images; the first is the one that floors are held against.
        settings: Limits.
        name: Model name.
        version: The candidate's version, if it has one yet.
        champion: The champion's version; None for a first version.

    Returns:
        The verdict: fail if a blocking check failed, else inconclusive if one was,
        else pass; not_run if nothing could be checked.
    """
    settings = settings or GateSettings()
    matches = [meet(arena, first=i == 0) for i, arena in enumerate(arenas)]
    checks = [check for match in matches for check in _checks(match, settings)]
    if champion is not None and matches and matches[0].champion is None:
        checks.append(_unmet(champion))
    return GateReport(
        name=name,
        version=version,
        champion=champion,
        verdict=overall(checks),
        checks=checks,
        flips=_flips(matches, settings),
        evidence={
            "settings": settings.model_dump(mode="json"),
            "arenas": {match.name: match.counts for match in matches},
        },
    )


def overall(checks: Sequence[CheckResult]) -> Verdict:
    """Return the worst verdict of the blocking checks; not_run without any."""
    verdicts = {check.verdict for check in checks if check.blocking}
    ran = verdicts - {Verdict.NOT_RUN}
    if not ran:
        return Verdict.NOT_RUN
    if ran & {Verdict.FAIL, Verdict.ERROR}:
        return Verdict.FAIL
    return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


def against(low: float, high: float, *, limit: float) -> Verdict:
    """Return pass if the interval lies above `limit`, fail if below, else neither."""
    if low > limit:
        return Verdict.PASS
    return Verdict.FAIL if high < limit else Verdict.INCONCLUSIVE


def _checks(match: Match, settings: GateSettings) -> list[CheckResult]:
    """Return every check on one arena."""
    if match.n == 0:
        return [
            CheckResult(
                check=f"{match.name}: images",
                verdict=Verdict.NOT_RUN,
                blocking=match.first,
                detail=f"No test image in {match.name} has a label that was trained.",
            )
        ]
    checks = [_answers(match)]
    if checks[0].verdict == Verdict.FAIL:
        return checks
    if match.first or settings.floor_top1 is not None:
        checks.append(_floor(match, settings))
    if match.champion is not None:
        checks.append(_top1(match, settings))
        checks.extend(_bootstrapped(match, settings))
    return [_weighed(check, match, settings) for check in checks]


def _unmet(champion: int) -> CheckResult:
    """Say that the champion was not compared with, which never passes."""
    return CheckResult(
        check="champion",
        verdict=Verdict.NOT_RUN,
        detail=f"Version {champion} is the champion but was not run on the test "
        "images, so nothing says that the candidate is not worse.",
    )


def _weighed(check: CheckResult, match: Match, settings: GateSettings) -> CheckResult:
    """Keep a small arena from passing, and a small further one from blocking."""
    if match.first and match.n < settings.min_images:
        if check.verdict != Verdict.PASS:
            return check
        few = f" Too few: {match.n} of at least {settings.min_images} images."
        return check.model_copy(
            update={"verdict": Verdict.INCONCLUSIVE, "detail": check.detail + few}
        )
    if not match.first and match.n < settings.min_images_era:
        return check.model_copy(update={"blocking": check.verdict == Verdict.FAIL})
    return check


def _answers(match: Match) -> CheckResult:
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


def _floor(match: Match, settings: GateSettings) -> CheckResult:
    """Check that top-1 surely exceeds the floor."""
    limit = settings.floor_top1
    if limit is None:
        limit = float(np.bincount(match.candidate.label).max() / match.n)
    found = shares(
        match.candidate.correct,
        groups=match.groups,
        level=two_sided(settings.level),
    )[0]
    what = (
        "floor" if settings.floor_top1 is not None else "share of the commonest class"
    )
    detail = (
        f"Top-1 is {found.value:.1%} ({_side(settings)} lower bound {found.low:.1%}), "
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


def _top1(match: Match, settings: GateSettings) -> CheckResult:
    """Check that top-1 is surely not worse than the champion's by the margin."""
    found = paired_change(
        match.change, groups=match.groups, level=two_sided(settings.level)
    )
    verdict = against(found.low, found.high, limit=-settings.margin)
    detail = (
        f"Top-1 changed by {_points(found.value)} points ({_side(settings)} lower "
        f"bound {_points(found.low)}), may not fall below "
        f"{_points(-settings.margin)}; {match.counts['fixed']:,} images fixed, "
        f"{match.counts['broken']:,} broken."
    )
    if unknown := match.counts["unknown_to_champion"]:
        detail += f" The champion does not know the class of {unknown:,} of them."
    if verdict == Verdict.INCONCLUSIVE:
        detail += _advice(found.value, found.high - found.low, match, settings)
    return CheckResult(
        check=f"{match.name}: top-1",
        verdict=verdict,
        value=found.value,
        low=found.low,
        high=found.high,
        limit=-settings.margin,
        n=match.n,
        detail=detail,
    )


def _bootstrapped(match: Match, settings: GateSettings) -> list[CheckResult]:
    """Check macro-F1 and Brier against the champion's on the same resamples."""
    assert match.champion is not None
    ones = np.ones(match.n)
    pair = [contributions(who, ones) for who in (match.candidate, match.champion)]
    columns = sparse.hstack(pair, format="csr")
    half = pair[0].shape[1]

    def change(sums: Floats) -> Floats:
        """Return (d, 2) how much better macro-F1 and Brier are, better upwards."""
        gain = figures(sums[:, :half]) - figures(sums[:, half:])
        return np.stack([gain[:, 2], -gain[:, 3]], axis=1)

    draws = grouped_bootstrap(
        columns,
        change,
        groups=match.groups,
        strata=match.candidate.label,
        draws=settings.draws,
        seed=settings.seed,
    )
    value = change(np.asarray(columns.sum(axis=0)).reshape(1, -1))[0]
    low, high = centred_interval(value, draws, level=two_sided(settings.level))
    f1 = CheckResult(
        check=f"{match.name}: macro-F1",
        verdict=against(low[0], high[0], limit=-settings.margin_macro_f1),
        value=value[0],
        low=low[0],
        high=high[0],
        limit=-settings.margin_macro_f1,
        n=match.n,
        detail=f"Macro-F1 changed by {_points(value[0])} points ({_side(settings)} "
        f"lower bound {_points(low[0])}), may not fall below "
        f"{_points(-settings.margin_macro_f1)}.",
    )
    brier = CheckResult(
        check=f"{match.name}: Brier",
        verdict=against(low[1], high[1], limit=-settings.margin_brier),
        value=-value[1],
        low=-high[1],
        high=-low[1],
        limit=settings.margin_brier,
        n=match.n,
        detail=f"Brier changed by {-value[1]:+.4f} ({_side(settings)} upper bound "
        f"{-low[1]:+.4f}), may not rise above {settings.margin_brier:+.4f}.",
    )
    return [f1, brier]


def _flips(matches: Sequence[Match], settings: GateSettings) -> dict[str, list[str]]:
    """Return the images fixed and broken, those the models are surest of first."""
    found: dict[str, list[str]] = {"fixed": [], "broken": []}
    for match in matches:
        if match.champion is None:
            continue
        for way, sign in (("fixed", 1), ("broken", -1)):
            rows = np.flatnonzero(match.change == sign)
            order = np.argsort(-match.candidate.confidence[rows], kind="stable")
            found[way].extend(match.paths[i] for i in rows[order])
    return {way: names[: settings.max_flips] for way, names in found.items() if names}


def _advice(value: float, width: float, match: Match, settings: GateSettings) -> str:
    """Say how many images would let a candidate as good as this one pass."""
    room = settings.margin + min(value, 0.0)
    if room <= settings.margin / 10:
        return ""
    z = z_score(two_sided(settings.level))
    reach = z + z_score(two_sided(POWER))
    needed = match.n * (reach * width / (2 * z * room)) ** 2
    rounded = int(np.ceil(needed / 100) * 100)
    return f" About {rounded:,} such images would be needed to tell."


def _points(share: float) -> str:
    """Write a change of a share in points, with its sign."""
    return f"{100 * share:+.1f}"


def _side(settings: GateSettings) -> str:
    """Write the confidence of a one-sided bound."""
    return f"{settings.level:.0%}"
