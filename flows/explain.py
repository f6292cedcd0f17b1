"""Explain: show why a version answers what it answers."""

from __future__ import annotations

import os
from typing import Any

from prefect import flow
from pydantic import Field

from data_contracts.config import Settings, digest
from data_contracts.errors import UsageError
from data_contracts.references import ModelRef, Reference
from flows import workspace
from tasks.explain import Explained, explain_version
from tasks.explain_settings import ExplainSettings
from tasks.listing import SourceSettings
from tasks.register import datasets_of
from tasks.versions import find_version


class ExplainConfig(Settings):
    """Settings of `sightline explain`."""

    name: str = Field(description="Name of the model: its champion, or NAME@VERSION.")
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


@flow(name="explain")
def explain(
    name: str,
    data: str | None = None,
    limit: int = 24,
    out: str | None = None,
    explain: ExplainSettings = ExplainSettings(),
    source: SourceSettings = SourceSettings(),
) -> Explanation:
    """Map what answers rest on, and measure what changes them; write a page.

    Args:
        name: Name of the model: its champion, or NAME@VERSION.
        data: Images; none takes the version's test images.
        limit: Most images to explain.
        out: Folder to write to; none: explanations/ in the workspace.
        explain: How to explain.
        source: What to list.
    """
    return run_stages(
        ExplainConfig(
            name=name, data=data, limit=limit, out=out, explain=explain, source=source
        )
    )


def run_stages(config: ExplainConfig) -> Explanation:
    """Explain the images; inside a flow run this is a Prefect task."""
    workspace.prepare()
    models = str(workspace.models_root())
    model = version_of(models, config.name)
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


def version_of(models: str, text: str) -> ModelRef:
    """Return the version that NAME or NAME@VERSION names.

    Raises:
        UsageError: There is none such.
    """
    name, _, version = text.partition("@")
    if version and not version.isdecimal():
        raise UsageError(
            f"name={text!r} should read NAME or NAME@VERSION, with a whole number"
        )
    number = int(version) if version else None
    return find_version(models, workspace.checked(name), number)


def run(config: ExplainConfig) -> Explanation:
    """Explain as a Prefect flow if a server is named, else in plain Python."""
    if not os.environ.get("PREFECT_API_URL"):
        return run_stages(config)
    sections = {name: getattr(config, name) for name in ExplainConfig.model_fields}
    result: Explanation = explain(**sections)
    return result
