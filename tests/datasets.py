"""Small datasets for tests, written by the real store."""

from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.config import Settings
from data_contracts.dataset import COLUMNS
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.decode import DecodeSettings
from tasks.ingest import IngestSettings
from tasks.stage import Build, run_stage

INGESTED = list(COLUMNS)[: list(COLUMNS).index("keep")]


class NoSettings(Settings):
    """A stage without settings."""


class Given(Settings):
    """What tells one made stage from another."""

    mark: str = ""


def make_dataset(
    root: Path, n: int = 12, *, size: int = 16, names: str = "ab", **given: Any
) -> DatasetRef:
    """Write a dataset of `n` noisy images as `ingest` would, with `given` columns."""
    rng = np.random.default_rng(0)
    images = given.pop("images", rng.integers(0, 256, (n, size, size, 3), np.uint8))
    columns: dict[str, Any] = {}
    for name in INGESTED:
        column = COLUMNS[name]
        if None in column.tail:
            continue
        if column.axis == "offset":
            columns[name] = np.zeros(n + 1, np.int64)
        elif column.axis != "image":
            columns[name] = np.zeros((0, *column.tail), column.dtype)
        else:
            dtype = object if column.dtype == "str" else column.dtype
            columns[name] = np.full(n, column.fill, dtype)
    columns |= {
        "path": np.array([f"{i:03}.png" for i in range(n)], object),
        "sha256": np.array([f"{i:064x}" for i in range(n)], object),
        "phash": rng.integers(0, 2**63, n).astype(np.uint64),
        "ok": np.ones(n, bool),
        "label": np.arange(n) % len(names),
        "width": np.full(n, 64),
        "height": np.full(n, 64),
        "mean": np.full(n, 128.0),
        "std": np.full(n, 50.0),
        "sharpness": np.full(n, 5000.0),
    }
    columns |= {name: np.asarray(values) for name, values in given.items()}

    def build(build: Build) -> None:
        build.writer.allocate(n, size=images.shape[1])
        build.writer.write_images(0, images)
        build.writer.write(**columns)
        build.writer.annotate(
            label_names=list(names),
            sources=[{"path": "here"}],
            ingest=IngestSettings(decode=DecodeSettings(image_size=size)).model_dump(
                mode="json"
            ),
        )

    return run_stage(
        "ingest",
        build,
        uri=str(root / "set"),
        parent=None,
        version=1,
        settings=NoSettings(),
    )


def make_era(source: DatasetRef, more: int, **given: Any) -> DatasetRef:
    """Append `more` images as the next era, every column written whole as by ingest."""
    before, n = Dataset(source), source.n + more
    columns: dict[str, Any] = {}
    for name in INGESTED:
        if COLUMNS[name].axis == "image" and before.has(name):
            old = before.column(name)
            fresh = np.resize(old, (more, *old.shape[1:]))
            columns[name] = np.concatenate([old, given.get(name, fresh)])
    columns["era"][source.n :] = before.column("era").max() + 1

    def build(build: Build) -> None:
        build.writer.allocate(n, size=before.image_size)
        build.writer.write_images(
            source.n, np.resize(before.images[:], (more, *before.images.shape[1:]))
        )
        build.writer.write(**columns)

    return run_stage(
        "ingest",
        build,
        uri=source.uri,
        parent=source,
        version=1,
        settings=Given(mark=str(n)),
    )


def rewrite(source: DatasetRef, stage: str, **columns: Any) -> DatasetRef:
    """Write some columns of `source` as a stage would."""
    return run_stage(
        stage,
        lambda build: build.writer.write(**columns),
        uri=source.uri,
        parent=source,
        version=1,
        settings=Given(mark=",".join(columns)),
    )
