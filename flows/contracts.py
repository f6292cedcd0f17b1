"""`sightline contracts`: draft, accept and check a contract, and see past verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from data_contracts.config import Settings
from data_contracts.errors import UsageError
from data_contracts.references import Verdict
from flows import workspace
from flows.reply import Reply, columns
from tasks import accept as accepting


class SuggestConfig(Settings):
    """Settings of `sightline contracts suggest`."""

    uri: str = Field(description="Folder of the dataset that is taken to be right.")
    stage: str | None = Field(
        None, description="Stage or tag; none is split, or the newest without one."
    )
    out: str | None = Field(
        None, description="File to write; none: DATASET-STAGE.draft.yaml here."
    )


class AcceptConfig(Settings):
    """Settings of `sightline contracts accept`."""

    file: str = Field(description="The draft, as you changed it.")
    owner: str = Field(min_length=1, description="Who answers for it.")
    out: str | None = Field(
        None, description="File to write; none: the draft's name without `.draft`."
    )


class CheckConfig(Settings):
    """Settings of `sightline contracts check`."""

    file: str = Field(description="A contract, accepted or still a draft.")
    uri: str = Field(description="Folder of a dataset.")
    stage: str | None = Field(
        None, description="Stage or tag; none is the stage that the contract is for."
    )


class HistoryConfig(Settings):
    """Settings of `sightline contracts history`."""

    name: str | None = Field(None, description="Name of the model and its dataset.")
    uri: str | None = Field(None, description="Or the folder of the dataset.")
    contract: str | None = Field(None, description="Name of a contract; none is all.")
    rule: str | None = Field(None, description="Name of a rule, to see its figures.")
    limit: int = Field(30, ge=1, description="Newest checks to show.")


def suggest(config: SuggestConfig) -> Reply:
    """Draft a contract from a snapshot; nothing uses it until a person accepts it."""
    source = accepting.find_reference(config.uri, config.stage)
    name = f"{Path(config.uri).name}-{source.stage}"
    out = Path(config.out or f"{name}.draft.yaml")
    made = accepting.write_draft(source, out, name=name)
    words = (
        f"Wrote {out}: {made.rules} rules from {source.n:,} images at"
        f" {source.stage}-{source.digest}.\n\nNo run uses a draft. Read it, change what"
        f" is wrong, then:\n\n  sightline contracts accept file={out} owner=NAME"
    )
    values = {"out": str(out), "rules": made.rules, "snapshot": source.snapshot}
    return Reply(words=words, values=values)


def accept(config: AcceptConfig) -> Reply:
    """Turn a draft into a contract, under the name of a person."""
    out = Path(config.out or accepting.accepted_name(config.file))
    made = accepting.accept_draft(Path(config.file), out, owner=config.owner)
    words = (
        f"Accepted by {config.owner}: {out}, {made.rules} rules, checked after"
        f" {made.after}.\n\n  sightline train data=PATH name=NAME contracts.extra={out}"
    )
    values = {"out": str(out), "rules": made.rules, "owner": config.owner}
    return Reply(words=words, values=values)


def check(config: CheckConfig) -> Reply:
    """Hold a snapshot against a contract, without recording the verdict."""
    report, words = accepting.try_contract(
        Path(config.file), config.uri, stage=config.stage
    )
    broken = report.verdict in (Verdict.FAIL, Verdict.ERROR)
    values = report.model_dump(mode="json")
    return Reply(words=words, values=values, exit_code=3 if broken else 0)


def history(config: HistoryConfig) -> Reply:
    """List the verdicts of a dataset, or the figures of one rule, newest last."""
    if (config.name is None) == (config.uri is None):
        raise UsageError("Give name=NAME of a model, or uri=FOLDER of its dataset.")
    uri = config.uri or workspace.dataset_uri(str(config.name))
    rows = accepting.history_rows(uri, contract=config.contract, rule=config.rule)
    shown = rows[-config.limit :]
    names = ["when", "contract", "version", "verdict", "rows", "stage", "snapshot"]
    names += ["value", "limit"] if config.rule else ["broken"]
    lines = [row | {key: _brief(row.get(key)) for key in names[-2:]} for row in shown]
    words = columns(lines, names) if shown else f"No contract was checked on {uri} yet."
    return Reply(words=words, values={"checks": shown})


def _brief(value: Any) -> str:
    """Return a figure with four digits, or the first of several names."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        more = f" and {len(value) - 2} more" if len(value) > 2 else ""
        return ", ".join(value[:2]) + more
    return "" if value is None else str(value)
