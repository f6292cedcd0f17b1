"""Parquet: manifests, and shards that hold the images themselves as hubs write them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import IO, Any

from data_contracts.errors import SourceError
from tasks.listing import Listing, Row, SourceSettings, build, file_split
from tasks.readers import ParquetReader
from tasks.sources_folders import one_split
from tasks.sources_tables import (
    COLUMNS,
    Table,
    need_columns,
    read_numbers,
    text_of,
    with_numbers,
)

IMAGE_COLUMNS = ("image", "img", "jpg", "picture")


def open_parquet(where: str | IO[bytes], *, name: str | None = None) -> Any:
    """Return the Parquet file at a path, or in an open file.

    Raises:
        SourceError: It is damaged, or no Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(where)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(name or str(where), error) from error


def _damaged(name: str, error: Exception) -> SourceError:
    return SourceError(
        f"Parquet file {name!r} cannot be read: {error}. Fetch or write it again."
    )


def _cells(file: Any, names: Sequence[str], *, name: str) -> dict[str, list[Any]]:
    """Return whole columns of a Parquet file as lists."""
    try:
        table = file.read(columns=list(names))
    except (ValueError, OSError) as error:  # Arrow's errors are ValueErrors
        raise _damaged(name, error) from error
    return {column: table[column].to_pylist() for column in names}


def image_column(schema: Any, settings: SourceSettings) -> str | None:
    """Return the column that holds image bytes, if there is one."""
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    fitting = [field.name for field in schema if holds_bytes(field.type)]
    wanted = settings.columns.get("image")
    if wanted is not None:
        return wanted if wanted in fitting else None
    usual = [name for name in IMAGE_COLUMNS if name in fitting]
    return (usual or fitting or [None])[0]


def read_parquet(file: Any, *, name: str) -> Table:
    """Return the cells of a Parquet manifest."""
    return Table(_cells(file, file.schema_arrow.names, name=name), {})


def list_hub(root: str, shards: Sequence[str], settings: SourceSettings) -> Listing:
    """List the rows of Parquet shards; their bytes stay where they are.

    Args:
        root: Folder of the shards.
        shards: Their paths below it; names such as train-00000 tell the split.
        settings: Column names, limit and seed.
    """
    notes, rows = list[str](), list[Row]()
    column, label_names = "", list[str]()
    for shard in shards:
        file = open_parquet(os.path.join(root, shard))
        found = image_column(file.schema_arrow, settings)
        if found is None or (column and found != column):
            raise SourceError(
                f"Parquet shard {shard!r} has no image column "
                f"{column or settings.columns.get('image') or 'with bytes'!r}; it has "
                f"{', '.join(file.schema_arrow.names)}. Say columns.image=NAME."
            )
        column = found
        rows += _shard_rows(root, shard, file, settings, label_names)
    return build(
        one_split(rows, notes),
        root=root,
        kind="parquet",
        reader=ParquetReader(root, column),
        settings=settings,
        notes=notes,
        label_names=label_names or None,
    )


def _shard_rows(
    root: str, shard: str, file: Any, settings: SourceSettings, label_names: list[str]
) -> list[Row]:
    columns = _columns(file.schema_arrow.names, settings)
    wanted = [name for name in columns.values() if name is not None]
    need_columns(settings.numeric, file.schema_arrow.names, name=shard)
    found = _cells(file, list({*wanted, *settings.numeric}), name=shard)
    cells = {
        ours: _named(found[theirs], _names(file, theirs))
        for ours, theirs in columns.items()
        if theirs is not None
    }
    if columns["label"] is not None:
        new = [n for n in _names(file, columns["label"]) if n not in label_names]
        label_names += new
    facts = os.stat(os.path.join(root, shard))
    split, n = file_split(shard), file.metadata.num_rows
    empty: list[str | None] = [None] * n
    label, coarse = cells.get("label", empty), cells.get("coarse_label", empty)
    text, domain = cells.get("text", empty), cells.get("domain", empty)
    rows = [
        Row(
            path=f"{shard}/{i:07d}",
            where=f"{shard}:{i}",
            label=label[i],
            coarse=coarse[i],
            text=text[i],
            domain=domain[i],
            split=split,
            stamp=f"{facts.st_size}-{facts.st_mtime_ns}:{i}",
        )
        for i in range(n)
    ]
    return with_numbers(rows, read_numbers([found[c] for c in settings.numeric]))


def _columns(names: Sequence[str], settings: SourceSettings) -> dict[str, str | None]:
    """Return which column holds label, coarse label, text and domain."""
    others = {
        "label": (*COLUMNS["label"], "labels", "fine_label"),
        "coarse_label": COLUMNS["coarse_label"],
        "text": COLUMNS["text"],
        "domain": COLUMNS["domain"],
    }
    chosen = dict[str, str | None]()
    for ours, usual in others.items():
        wanted = settings.columns.get(ours)
        if wanted is not None and wanted not in names:
            raise SourceError(
                f"columns.{ours}={wanted}: no such column; there are {', '.join(names)}"
            )
        chosen[ours] = wanted or next((name for name in usual if name in names), None)
    return chosen


def _names(file: Any, column: str) -> list[str]:
    """Return the class names that the schema metadata gives a column, in id order."""
    metadata = file.schema_arrow.metadata or {}
    try:
        info = json.loads(metadata.get(b"huggingface", b"{}"))
        names = info["info"]["features"][column]["names"]
        return [str(name) for name in names]
    except (ValueError, KeyError, TypeError):
        return []


def _named(values: Sequence[Any], names: Sequence[str]) -> list[str | None]:
    """Turn class ids to names; ids without a name stay numbers, -1 is missing."""
    if not names:
        return [text_of(value) for value in values]
    known: dict[Any, str | None] = dict(enumerate(names))
    known |= {-1: None, None: None}
    return [known[v] if v in known else str(v) for v in values]
