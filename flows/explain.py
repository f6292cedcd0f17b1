"""Explain: show why a version answers what it answers."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from data_contracts.references import Reference
from flows import workspace
from flows.as_flow import as_flow, run_flow
from flows.asked import AskedSettings
from flows.result import Clock
from tasks.explain import Explained, explain_version
from tasks.explain_settings import ExplainSettings
from tasks.versions import folder_of


class ExplainConfig(AskedSettings):
    """Settings of `sightline explain`."""

    data: str | None = Field(
        None,
        description="Folder, file, manifest or archive of images; none: the test images"
        " that the version was judged on.",
    )
    limit: int = Field(24, ge=1, le=1_000, description="Most images to explain.")
    out: str | None = Field(
        None, description="Folder to write to; none: explanations/ in the workspace."
    )
    explain: ExplainSettings = Field(ExplainSettings(), description="How to explain.")


class Explanation(Reference):
    """A finished explanation."""

    found: Explained
    seconds: dict[str, float] = Field(description="Wall time by stage.")
    report: str = Field(description="Path of the page.")
    exit_code: int = 0

    def text(self) -> str:
        """Return the result for a person."""
        found = self.found
        name = f"{found.model.name} version {found.model.version}"
        return (
            f"Explained {found.images:,} answers of {name}, {found.mistakes:,} of them"
            f" mistakes; {found.changed:,} change once what counts most is hidden\n\n"
            f"  {'report':<9} {self.report}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return self.model_dump(mode="json")


def run_stages(config: ExplainConfig) -> Explanation:
    """Map what answers rest on, and measure what changes them; write a page."""
    workspace.prepare()
    model, clock = config.model, Clock()
    parts = config.explain, config.source, config.data, config.limit
    with clock.stage("explain"):
        found = explain_version(
            config.data,
            config.source,
            config.explain,
            model=model,
            out=config.out
            or folder_of(str(workspace.explanations_root()), model, *parts),
            limit=config.limit,
        )
    return Explanation(found=found, seconds=clock.seconds, report=found.report)


explain = as_flow(run_stages, name="explain")


def run(config: ExplainConfig) -> Explanation:
    """Explain as a Prefect flow if a server is named, else in plain Python."""
    return run_flow(explain, run_stages, config)
