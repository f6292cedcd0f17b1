"""Whether a candidate may replace the champion, decided on intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.references import CheckResult, GateReport, Verdict
from tasks import gate_images, gate_machine, gate_quality
from tasks.arena import Arena, Match, Rights, meet
from tasks.gate_settings import (
    Adversarial,
    Blocks,
    Calibration,
    Corruptions,
    Floor,
    GateSettings,
    Infrastructure,
    Latency,
    Metric,
    MustStayRight,
    NegativeFlips,
    NonInferior,
    Size,
    Slices,
    Superior,
    planned,
)
from tasks.gate_words import against

__all__ = ["Exhibits", "GateSettings", "against", "decide", "overall"]


@dataclass(frozen=True)
class Exhibits:
    """What checks look at beside the answers on clean images.

    Attributes:
        candidate: Folder of the candidate's weights.
        champion: Folder of the champion's.
        corrupted: Answers on spoiled images.
        attacked: Answers under each attack, by its name.
        spared: Why there are none, by the name of the attack.
    """

    candidate: Path | None = None
    champion: Path | None = None
    corrupted: Rights | None = None
    attacked: Mapping[str, Rights] = field(default_factory=dict)
    spared: Mapping[str, str] = field(default_factory=dict)


def decide(
    arenas: Sequence[Arena],
    settings: GateSettings | None = None,
    *,
    name: str,
    version: int | None = None,
    champion: int | None = None,
    exhibits: Exhibits | None = None,
) -> GateReport:
    """Decide whether a candidate may be promoted.

    Every check asks that an interval clears its limit, so all must pass and none needs
    a correction for their number (an intersection-union test, Berger 1982).

    Args:
        arenas: The test images; the first is the one that floors are held against.
        settings: Limits and checks.
        name: Model name.
        version: The candidate's version, if it has one yet.
        champion: The champion's version; None for a first version.
        exhibits: What checks look at beside the arenas.

    Returns:
        The verdict: fail if a blocking check failed, else inconclusive if one was,
        else pass; not_run if nothing could be checked.

    Raises:
        UsageError: A file of pinned images cannot be read.
    """
    settings = settings or GateSettings()
    matches = [meet(arena, first=i == 0) for i, arena in enumerate(arenas)]
    plan = planned(settings)
    checks = [check for match in matches for check in _checks(match, plan, settings)]
    if champion is not None and matches and matches[0].champion is None:
        checks.append(_unmet(champion))
    if any(match.n for match in matches):
        found = exhibits or Exhibits()
        checks += _further(plan, matches, found, settings, first=champion is None)
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


def _checks(
    match: Match, plan: Sequence[Any], settings: GateSettings
) -> list[CheckResult]:
    """Return every check on the answers in one arena."""
    if match.n == 0:
        return [
            CheckResult(
                check=f"{match.name}: images",
                verdict=Verdict.NOT_RUN,
                blocking=match.first,
                detail=f"No test image in {match.name} has a label that was trained.",
            )
        ]
    checks = [gate_quality.answers(match)]
    if checks[0].verdict == Verdict.FAIL:
        return checks
    shared = [
        check
        for check in plan
        if isinstance(check, NonInferior) and check.metric != Metric.top1
    ]
    compared = match.champion is not None
    drawn = gate_quality.bootstrapped(shared, match, settings) if compared else []
    by_metric = dict(zip([id(check) for check in shared], drawn, strict=False))
    for check in plan:
        found = by_metric.get(id(check)) or _one(check, match, settings)
        listed = found if isinstance(found, list) else [found]
        checks += [_blocking(row, check.blocks) for row in listed if row is not None]
    return [_weighed(check, match, settings) for check in checks]


def _one(check: Any, match: Match, settings: GateSettings) -> Any:
    """Return what one check finds in an arena, None or nothing if it is not of it."""
    match check:
        case Floor():
            if match.first or check.limit is not None:
                return gate_quality.floor(check, match, settings)
        case Calibration():
            return gate_quality.calibration(check, match, settings)
    if match.champion is None:
        return None
    match check:
        case NonInferior(metric=Metric.top1):
            return gate_quality.top1(check, match, settings)
        case Superior():
            return gate_images.superior(check, match, settings)
        case Slices():
            return gate_images.slices(check, match, settings)
        case NegativeFlips():
            return gate_images.negative_flips(check, match, settings)
    return None


def _further(
    plan: Sequence[Any],
    matches: Sequence[Match],
    exhibits: Exhibits,
    settings: GateSettings,
    *,
    first: bool,
) -> list[CheckResult]:
    """Return the checks that are not of one arena; a first version meets no other."""
    rows: list[CheckResult] = []
    for check in plan:
        found: CheckResult | list[CheckResult]
        if isinstance(check, MustStayRight):
            found = gate_images.must_stay_right(check, matches)
        elif isinstance(check, Infrastructure):
            found = gate_machine.infrastructure(exhibits.candidate)
        elif first:
            continue
        elif isinstance(check, Corruptions):
            found = gate_quality.withstands(
                "corruptions",
                exhibits.corrupted,
                margin=check.margin,
                why="No spoiled images were answered; set evaluate.robustness=yes.",
                settings=settings,
            )
        elif isinstance(check, Adversarial):
            found = gate_quality.withstands(
                f"adversarial: {check.attack}",
                exhibits.attacked.get(check.attack),
                margin=check.margin,
                why=exhibits.spared.get(
                    check.attack,
                    f"No images attacked by {check.attack} were answered by both.",
                ),
                settings=settings,
            )
        elif isinstance(check, Latency):
            found = gate_machine.latency(
                check, exhibits.candidate, exhibits.champion, level=settings.level
            )
        elif isinstance(check, Size):
            found = gate_machine.size(check, exhibits.candidate, exhibits.champion)
        else:
            continue
        listed = found if isinstance(found, list) else [found]
        rows += [_blocking(row, check.blocks) for row in listed]
    return rows


def _blocking(result: CheckResult, blocks: Blocks) -> CheckResult:
    """Return a check that blocks only when it is said to."""
    stops = blocks == Blocks.yes or (
        blocks == Blocks.failing and result.verdict == Verdict.FAIL
    )
    return result.model_copy(update={"blocking": stops})


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
        stops = check.blocking and check.verdict == Verdict.FAIL
        return check.model_copy(update={"blocking": stops})
    return check


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
