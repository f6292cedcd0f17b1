"""Explain: show why a version answers what it answers."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from data_contracts.config import Settings, digest
from data_contracts.references import Reference
from flows import workspace
from flows.as_flow import as_flow, run_flow
from tasks.explain import Explained, explain_version
from tasks.explain_settings import ExplainSettings
from tasks.listing import SourceSettings
from tasks.register import datasets_of
from tasks.versions import find_version, named_version


class ExplainConfig(Settings):
    """Settings of `sightline explain`."""

    name: str = Field(description="Name of the model; NAME@V is version V.")
    version: int | None = Field(
        None, ge=1, description="Version; none is the champion."
    )
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
    source: SourceSettings = Field(SourceSettings(), description="What to list.")


class Explanation(Reference):
    """A finished explanation."""

    found: Explained
    exit_code: int = 0

    def text(self) -> str:
        """Return the result for a person."""
        found = self.found
        name = f"{found.model.name} version {found.model.version}"
        return (
            f"Explained {found.images:,} answers of {name}, {found.mistakes:,} of them"
            f" mistakes; {found.changed:,} change once what counts most is hidden\n\n"
            f"  {found.page}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return self.found.model_dump(mode="json") | {"page": str(self.found.page)}


def run_stages(config: ExplainConfig) -> Explanation:
    """Map what answers rest on, and measure what changes them; write a page."""
    workspace.prepare()
    models = str(workspace.models_root())
    model = find_version(models, *named_version(config.name, config.version))
    mark = digest(config.explain, config.source, config.data, config.limit)[:8]
    folder = f"{model.name}-{model.version}-{config.explain.method}-{mark}"
    found = explain_version(
        config.data,
        config.source,
        config.explain,
        model=model,
        datasets=datasets_of(model, models),
        out=config.out or str(workspace.home() / "explanations" / folder),
        limit=config.limit,
    )
    return Explanation(found=found)


explain = as_flow(run_stages, name="explain")


def run(config: ExplainConfig) -> Explanation:
    """Explain as a Prefect flow if a server is named, else in plain Python."""
    return run_flow(explain, run_stages, config)
