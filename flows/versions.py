"""`sightline models`: list, show, promote, waive, roll back."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from data_contracts.config import Settings
from flows import workspace
from flows.reply import Reply, columns
from tasks import versions


class ListConfig(Settings):
    """Settings of `sightline models list`."""

    name: str | None = Field(None, description="Name of the model; none lists all.")


class ShowConfig(Settings):
    """Settings of `sightline models show`."""

    name: str = Field(description="Name of the model.")
    version: int | None = Field(
        None, ge=1, description="Version; none is the champion."
    )


class PromoteConfig(Settings):
    """Settings of `sightline models promote`."""

    name: str = Field(description="Name of the model.")
    version: int = Field(ge=1, description="A version that the gate has blessed.")
    force: bool = Field(
        False, description="Even if the gate met another champion than today's."
    )
    why: str = Field("by hand", description="Reason, for the record.")


class WaiveConfig(Settings):
    """Settings of `sightline models waive`."""

    name: str = Field(description="Name of the model.")
    version: int = Field(
        ge=1, description="A version that the gate found inconclusive."
    )
    who: str = Field(description="The person who answers for it.")
    why: str = Field(description="Reason, for the record.")


class RollbackConfig(Settings):
    """Settings of `sightline models rollback`."""

    name: str = Field(description="Name of the model.")
    version: int | None = Field(
        None, ge=1, description="A former champion; none is the last."
    )
    why: str = Field("by hand", description="Reason, for the record.")


def list_versions(config: ListConfig) -> Reply:
    """List the versions of one model, or of all."""
    rows = versions.list_versions(_models(), config.name)
    for row in rows:
        row["champion"] = "champion" if row["champion"] else ""
    names = ["name", "version", "status", "champion", "registered", "top1"]
    words = columns(rows, names) if rows else "No model is registered yet."
    return Reply(words=words, values={"versions": rows})


def show(config: ShowConfig) -> Reply:
    """Show what is recorded of a version."""
    workspace.prepare()
    found = versions.show_version(_models(), config.name, config.version)
    return Reply(words=_described(found), values=found)


def promote(config: PromoteConfig) -> Reply:
    """Make a blessed version the champion."""
    ref = versions.promote_version(
        _models(),
        config.name,
        version=config.version,
        why=config.why,
        force=config.force,
    )
    words = f"Promoted: {ref.name} version {ref.version}"
    return Reply(words=words, values=ref.model_dump())


def waive(config: WaiveConfig) -> Reply:
    """Bless an inconclusive version on a person's word; promoting is a step more."""
    versions.waive(
        _models(),
        config.name,
        version=config.version,
        person=config.who,
        why=config.why,
    )
    words = (
        f"Blessed: {config.name} version {config.version}, waived by {config.who}\n\n"
        f"  sightline models promote name={config.name} version={config.version}"
    )
    return Reply(words=words, values=config.model_dump())


def roll_back(config: RollbackConfig) -> Reply:
    """Put a former champion back, after it has loaded and answered."""
    workspace.prepare()
    ref = versions.roll_back(
        _models(), config.name, version=config.version, why=config.why
    )
    words = f"Rolled back: {ref.name} version {ref.version} is champion again"
    return Reply(words=words, values=ref.model_dump())


def _models() -> str:
    return str(workspace.models_root())


def _described(found: dict[str, Any]) -> str:
    manifest, gate = found["manifest"], found["gate"] or {}
    star = ", champion" if found["champion"] else ""
    lines = [f"{found['name']} version {found['version']}: {found['status']}{star}", ""]
    lines += [f"  {key:<18} {value:.4f}" for key, value in manifest["metrics"].items()]
    lines += [""]
    lines += [
        f"  {check['verdict']:<13} {check['detail']}"
        for check in gate.get("checks", [])
    ]
    lines += ["", f"  {len(manifest['classes'])} classes, run {manifest['run']}"]
    *_, learnt = manifest["datasets"].values()
    lines += [f"  dataset {learnt['uri']}, snapshot {learnt['snapshot']}"]
    lines += [f"  files   {found['uri']}", ""]
    for event in found["events"]:
        lines += [
            f"  {event['when']}  {event['event']} by {event['who']}: {event['why']}"
        ]
    return "\n".join(lines)
