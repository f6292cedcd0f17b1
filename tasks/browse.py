"""Look into a dataset: its stages, its counts, its table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from data_contracts.errors import UsageError
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset, find_snapshots, storage_errors
from tasks.table import table_of


def find_snapshot(uri: str, stage: str | None) -> DatasetRef:
    """Return the newest snapshot, of all or of one stage, or the one a tag names.

    Raises:
        UsageError: There is none such.
    """
    refs = sorted(find_snapshots(uri), key=_made)
    found = [
        ref for ref in refs if stage in (None, ref.stage, f"{ref.stage}-{ref.digest}")
    ]
    if not found:
        there = ", ".join(f"{ref.stage}-{ref.digest}" for ref in refs) or "none"
        raise UsageError(f"{uri} has no snapshot {stage!r}; there are: {there}.")
    return found[-1]


def _made(ref: DatasetRef) -> tuple[str, int]:
    lineage = Dataset(ref).attributes["lineage"]
    return lineage[-1]["when"], len(lineage)


def describe_dataset(uri: str, stage: str | None) -> dict[str, Any]:
    """Return counts, names and stages of a snapshot."""
    ref = find_snapshot(uri, stage)
    dataset = Dataset(ref)
    return {
        **ref.model_dump(),
        "counts": _counts(dataset),
        "label_names": dataset.names("label_names"),
        "sources": dataset.attributes["sources"],
        "columns": sorted(dataset.group),
        "snapshots": [
            {**other.model_dump(), **Dataset(other).attributes["lineage"][-1]}
            for other in sorted(find_snapshots(uri), key=_made)
        ],
    }


def _counts(dataset: Dataset) -> dict[str, Any]:
    columns = dataset.columns("ok", "label", "era")
    side = dataset.image_size
    counts: dict[str, Any] = {
        "images": dataset.n,
        "pixels": f"{side} x {side}",
        "unreadable": int((~columns["ok"]).sum()),
        "labels": len(dataset.names("label_names")),
        "unlabelled": int((columns["label"] < 0).sum()),
        "eras": int(columns["era"].max(initial=-1)) + 1,
    }
    if dataset.has("keep"):
        counts["kept"] = int(dataset.column("keep").sum())
    if dataset.has("use"):
        use = dataset.column("use")
        counts |= {
            name: int((use == code).sum())
            for code, name in enumerate(("train", "val", "test"))
        }
    return counts


def export_table(uri: str, stage: str | None, *, out: str) -> int:
    """Write the table of a snapshot to Parquet or CSV; return its number of rows.

    Raises:
        UsageError: `out` has another ending.
    """
    target = Path(out)
    if target.suffix not in {".parquet", ".csv"}:
        raise UsageError(f"out={out!r} must end in .parquet or .csv.")
    frame = table_of(Dataset(find_snapshot(uri, stage)))
    aside = target.with_name(f".{uuid4().hex}{target.suffix}")
    with storage_errors(out):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if target.suffix == ".csv":
                frame.to_csv(aside, index=False)
            else:
                frame.to_parquet(aside, index=False)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    return len(frame)
