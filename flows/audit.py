"""Audit: attack a registered version, try defences, and write what was found."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from data_contracts.references import ContractReport, DatasetRef, Reference
from flows import workspace
from flows.as_flow import as_flow, run_flow
from flows.asked import AskedSettings, asked_images
from flows.result import Clock
from tasks.audit import Audited, audit_version
from tasks.audit_outcome import ResilienceReport
from tasks.audit_report import report_audit
from tasks.audit_settings import ResilienceSettings
from tasks.wording import estimate


class AuditConfig(AskedSettings):
    """Settings of `sightline audit`."""

    data: str | None = Field(
        None, description="Labelled images to attack; none is its own test split."
    )
    limit: int = Field(
        500, ge=1, le=10_000, description="Most images to attack; an even pick of them."
    )
    audit: ResilienceSettings = Field(
        ResilienceSettings(), description="How hard, and which defences."
    )


class Audit(Reference):
    """A finished audit, and where its page lies."""

    found: ResilienceReport
    folder: str = Field(description="JSON, raw arrays and the page.")
    contracts: list[ContractReport]
    seconds: dict[str, float] = Field(description="Wall time by stage.")
    report: str = Field(description="Path of the HTML page.")
    exit_code: int = 0

    def text(self) -> str:
        """Return the result for a person."""
        found = self.found
        lines = [f"Audited: {found.model.name} version {found.model.version}", ""]
        for row in found.attacks:
            said = estimate(row.accuracy) if row.accuracy else row.detail
            lines.append(f"  {row.attack:<10} {said}")
        lines += ["", *[f"  {sentence}" for sentence in found.findings], ""]
        lines += [
            f"  {'seconds':<9} {sum(self.seconds.values()):.0f}",
            f"  {'report':<9} {self.report}",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return self.model_dump(mode="json")


def run_stages(config: AuditConfig) -> Audit:
    """Attack a version, try detectors and defences, and write one page of it."""
    workspace.prepare()
    model, clock = config.model, Clock()
    given: DatasetRef | None = None
    contracts: list[ContractReport] = []
    if config.data is not None:
        given, contracts = asked_images(config.data, config.source, model, clock=clock)
    with clock.stage("audit"):
        found: Audited = audit_version(
            model,
            config.audit,
            audits=str(workspace.audits_root()),
            given=given,
            limit=config.limit,
        )
    with clock.stage("report"):
        report = report_audit(found, contracts)
    return Audit(
        found=found.report,
        folder=found.folder,
        contracts=contracts,
        seconds=clock.seconds,
        report=report,
    )


audit = as_flow(run_stages, name="audit")


def run(config: AuditConfig) -> Audit:
    """Audit as a Prefect flow if a server is named, else in plain Python."""
    return run_flow(audit, run_stages, config)
