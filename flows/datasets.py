"""`sightline data`: show a dataset, export its table."""

from __future__ import annotations

from pydantic import Field

from data_contracts.config import Settings
from flows.reply import Reply, columns
from tasks.browse import describe_dataset, export_table


class ShowConfig(Settings):
    """Settings of `sightline data show`."""

    uri: str = Field(description="Folder of the dataset.")
    stage: str | None = Field(
        None,
        description="Stage or tag, such as clean or split-0f3a...; none is newest.",
    )


class ExportConfig(ShowConfig):
    """Settings of `sightline data export`."""

    out: str = Field("table.parquet", description="Ends in .parquet or .csv.")


def show(config: ShowConfig) -> Reply:
    """Describe a snapshot of a dataset: counts, columns, stages."""
    found = describe_dataset(config.uri, config.stage)
    counts = "\n".join(f"  {key:<14} {value}" for key, value in found["counts"].items())
    stages = columns(found["snapshots"], ["stage", "digest", "n", "when", "seconds"])
    words = (
        f"{found['uri']} at {found['stage']}-{found['digest']}\n\n{counts}\n\n{stages}"
    )
    return Reply(words=words, values=found)


def export(config: ExportConfig) -> Reply:
    """Write the per-image table of a snapshot to Parquet or CSV."""
    n = export_table(config.uri, config.stage, out=config.out)
    words = f"Wrote {n:,} rows to {config.out}"
    return Reply(words=words, values={"rows": n, "out": config.out})
