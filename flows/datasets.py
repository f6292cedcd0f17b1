"""`sightline data`: show a dataset, export its table."""

from __future__ import annotations

from pydantic import Field

from data_contracts.config import Settings
from flows.reply import Reply, columns
from tasks.augment_settings import AugmentSettings
from tasks.browse import describe_dataset, export_table, find_snapshot
from tasks.label_review import write_suspects
from tasks.validate import validate_dataset
from tasks.views import STILL_DEFAULT, StoredViews, store_views


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


class ReviewConfig(Settings):
    """Settings of `sightline data review`."""

    uri: str = Field(description="Folder of the dataset.")
    stage: str = Field(
        "audit", description="Stage or tag, such as audit-0f3a...; audit is the newest."
    )
    out: str = Field("suspects.csv", description="Ends in .csv.")


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


def review(config: ReviewConfig) -> Reply:
    """Write the images whose labels the audit doubts to a CSV for a person."""
    n = write_suspects(find_snapshot(config.uri, config.stage), out=config.out)
    words = (
        f"Wrote {n:,} images to {config.out}. Give the column label the right class, or"
        " - for none of them; leave it empty where you cannot say. Then:"
        f" sightline train ... review={config.out}"
    )
    return Reply(words=words, values={"rows": n, "out": config.out})


class MaterialiseConfig(StoredViews):
    """Settings of `sightline data materialise`."""

    uri: str = Field(description="Folder of the dataset.")
    stage: str | None = Field(
        "split", description="Stage or tag to make views of; none is newest."
    )
    views: int = Field(4, ge=1, le=100, description="Views of each training image.")
    augment: AugmentSettings = Field(
        STILL_DEFAULT, description="How they are made; no mixing, no other size."
    )


def materialise(config: MaterialiseConfig) -> Reply:
    """Store views of the training images as rows of the dataset."""
    source = find_snapshot(config.uri, config.stage)
    wanted = StoredViews(views=config.views, seed=config.seed, augment=config.augment)
    made = store_views(source, wanted)
    validate_dataset(made, "views")
    tag = f"{made.stage}-{made.digest}"
    words = (
        f"{made.n - source.n:,} views stored as {tag}; list them by\n"
        f"  sightline data export uri={config.uri} stage={tag}"
    )
    return Reply(words=words, values=made.model_dump() | {"tag": tag})
