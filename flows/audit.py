"""Audit: attack a registered version, try defences, and write what was found."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from data_contracts.config import Settings
from data_contracts.references import DatasetRef, ModelRef, Reference
from flows import workspace
from flows.as_flow import as_flow, run_flow
from flows.result import Clock
from tasks.audit import Audited, audit_version
from tasks.audit_outcome import ResilienceReport
from tasks.audit_report import report_audit
from tasks.audit_settings import ResilienceSettings
from tasks.clean import CleanSettings, clean_dataset
from tasks.decode import DecodeSettings
from tasks.denoise import DenoiseSettings, denoise_dataset
from tasks.ingest import IngestSettings, ingest_dataset
from tasks.listing import SourceSettings
from tasks.versions import find_version, named_version, trained_with
from tasks.wording import estimate


class AuditConfig(Settings):
    """Settings of `sightline audit`."""

    name: str = Field(description="Model, as NAME or NAME@VERSION; else the champion.")
    data: str | None = Field(
        None, description="Labelled images to attack; none is its own test split."
    )
    limit: int = Field(
        500, ge=1, le=10_000, description="Most images to attack; an even pick of them."
    )
    source: SourceSettings = Field(SourceSettings(), description="What to list.")
    audit: ResilienceSettings = Field(
        ResilienceSettings(), description="How hard, and which defences."
    )


class Audit(Reference):
    """A finished audit, and where its page lies."""

    found: ResilienceReport
    folder: str = Field(description="JSON, raw arrays and the page.")
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
            f"  {'seconds':<10} {sum(self.seconds.values()):.0f}",
            f"  {'report':<10} {self.report}",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return self.model_dump(mode="json")


def run_stages(config: AuditConfig) -> Audit:
    """Attack a version, try detectors and defences, and write one page of it."""
    workspace.prepare()
    clock, models = Clock(), str(workspace.models_root())
    name, version = named_version(config.name, None)
    model = find_version(models, workspace.checked(name), version)
    given = None
    if config.data is not None:
        with clock.stage("images"):
            given = _prepared(config.data, config.source, model)
    with clock.stage("audit"):
        found: Audited = audit_version(
            model,
            config.audit,
            models=models,
            audits=str(workspace.audits_root()),
            given=given,
            limit=config.limit,
        )
    with clock.stage("report"):
        report = report_audit(found)
    return Audit(
        found=found.report, folder=found.folder, seconds=clock.seconds, report=report
    )


def _prepared(data: str, source: SourceSettings, model: ModelRef) -> DatasetRef:
    """Treat images as those that the version learnt from, up to the painting over."""
    ingest, noise = trained_with(model)
    settings = IngestSettings(
        source=source, decode=DecodeSettings.model_validate(ingest["decode"])
    )
    uri = workspace.dataset_uri(f"{model.name}-audit"[:64])
    cleaned = clean_dataset(ingest_dataset(data, settings, uri=uri), CleanSettings())
    if not noise:
        return cleaned
    return denoise_dataset(cleaned, DenoiseSettings.model_validate(noise))


audit = as_flow(run_stages, name="audit")


def run(config: AuditConfig) -> Audit:
    """Audit as a Prefect flow if a server is named, else in plain Python."""
    return run_flow(audit, run_stages, config)
