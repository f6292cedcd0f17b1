"""The page of an audit, and its raw arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_contracts.dataset import Array
from data_contracts.references import ContractReport, ModelRef, Verdict
from data_contracts.store import storage_errors
from models.durable import write_over
from tasks.audit import Audited
from tasks.audit_attacks import LEVELS
from tasks.audit_outcome import Fragile, ResilienceReport
from tasks.audit_words import DETECTORS
from tasks.figures import lines
from tasks.pages import render_page
from tasks.stage import stage_task
from tasks.wording import broken_rules, estimate


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A fragile image (h, w, 3), its attacked copy, and the change made visible."""

    of: Fragile
    image: Array
    copy: Array
    change: Array
    times: int


@stage_task()
def report_audit(audited: Audited, contracts: list[ContractReport]) -> str:
    """Write the page and the arrays beside the audit, and return the page's path."""
    folder = Path(audited.folder)
    with storage_errors(str(folder)):
        path = folder / "report.html"
        pictures = shown(audited.report, folder)
        write_over(path, render(audited.report, pictures, contracts))
    return str(path)


def shown(report: ResilienceReport, folder: Path) -> list[Shown]:
    """Return the fragile images; their pixels were kept with the audit's parts."""
    if not report.fragile:
        return []
    with np.load(folder / "parts" / "fragile.npz") as file:
        pairs = zip(report.fragile, file["image"], file["attacked"], strict=True)
    found = []
    for one, image, copy in pairs:
        apart = copy.astype(np.int16) - image
        times = max(1, int(127 // max(int(np.abs(apart).max()), 1)))
        change = np.clip(128 + times * apart, 0, LEVELS).astype(np.uint8)
        found.append(Shown(of=one, image=image, copy=copy, change=change, times=times))
    return found


def render(
    report: ResilienceReport, pictures: list[Shown], contracts: list[ContractReport]
) -> str:
    """Return the page as one HTML file that loads nothing else."""
    model: ModelRef = report.model
    return render_page(
        "audit.html",
        filters={"estimate": estimate},
        r=report,
        title=f"{model.name} version {model.version}",
        pictures=pictures,
        contracts=broken_rules(contracts),
        curve=curve_of(report),
        certified=certified_of(report),
        words=WORDS,
        detectors=DETECTORS,
        evidence=[row for row in report.detectors if row.is_evidence],
        others=[row for row in report.detectors if not row.is_evidence],
        total=sum(report.seconds.values()),
    )


WORDS = {
    Verdict.PASS: "not seen",
    Verdict.FAIL: "seen",
    Verdict.NOT_RUN: "not run",
}


def curve_of(report: ResilienceReport) -> str:
    """Draw accuracy against the size of the change, as SVG."""

    def along(end: str) -> list[tuple[float, float]]:
        return [(point.levels, getattr(point.accuracy, end)) for point in report.curve]

    chance = [(levels, report.chance) for levels, _ in along("value")]
    return lines(
        {
            "accuracy": along("value"),
            "low": along("low"),
            "high": along("high"),
            "chance": chance,
        },
        strong=("accuracy",),
        title="Accuracy under PGD",
        across="Largest change of a sample, of 255 levels",
        percent=True,
        log=True,
    )


def certified_of(report: ResilienceReport) -> str:
    """Draw certified accuracy against the radius, as SVG."""
    if report.smoothed is None:
        return ""
    points = [(p.radius, p.accuracy.value) for p in report.smoothed.points]
    return lines(
        {"certified": points},
        strong=("certified",),
        title="Certified accuracy",
        across="Radius (L2, pixels in 0 to 1)",
        percent=True,
    )
