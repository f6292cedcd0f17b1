"""Read image files of any source into a dataset, one row an item, bad files too."""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic import Field

from data_contracts.config import Settings, digest
from data_contracts.dataset import Array, chunk_rows
from data_contracts.errors import SchemaError
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.annotate import (
    Plan,
    annotation_columns,
    box_columns,
    column_dtype,
    earlier,
    grow_names,
    number_columns,
    plan_rows,
    tag_columns,
)
from tasks.decode import SENSED, Decoded, DecodeSettings, Problem, decode_image
from tasks.listing import Listing, SourceSettings
from tasks.parallel import Span, map_spans, spans
from tasks.pixels import noise, perceptual_hash, statistics
from tasks.sources import list_source
from tasks.stage import (
    Build,
    find_head,
    run_stage,
    set_head,
    stage_task,
)

log = logging.getLogger("sightline")

VERSION = 4
# The machine's moments, not the file's faults: the stage is tried again.
PASSING = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# Columns that come with the listing; the others are measured on the file's bytes.
ANNOTATION = ("label", "coarse", "domain", "split", "text", "stamp")
MEASURED = (
    *("ok", "problem", "detail", "kind", "notes", "bytes", "sha256", "phash"),
    *("width", "height", "orientation"),
    *("mean", "std", "sharpness", "saturation", "sigma", "impulse"),
    *SENSED,
)


class IngestSettings(Settings):
    """What decides which rows and pixels an ingest writes."""

    source: SourceSettings = Field(SourceSettings(), description="What to list.")
    decode: DecodeSettings = Field(DecodeSettings(), description="How to decode.")


def ingest_files(
    group: zarr.Group,
    span: Span,
    *,
    listing: Listing,
    items: Array,
    first: int,
    decode: DecodeSettings,
) -> dict[str, Array]:
    """Decode the items of one span of rows, write their pixels, return their figures.

    Args:
        group: The dataset that is being built.
        span: Rows to fill.
        listing: Where the files are.
        items: Position in `listing` of each new row.
        first: The first new row.
        decode: How to decode.
    """
    n, size = span[1] - span[0], decode.image_size
    images = np.zeros((n, size, size, 3), np.uint8)
    mended: dict[int, Array] = {}
    rows = []
    for place, item in enumerate(items[span[0] - first : span[1] - first]):
        values, found = _read_item(listing, int(item), decode)
        rows.append(values)
        if found:
            images[place] = found.image
            if found.mended is not None:
                mended[place] = found.mended
    pixels: Any = group["images"]
    pixels[span[0] : span[1]] = images
    if mended:
        without = np.zeros_like(images)
        without[list(mended)] = np.stack(list(mended.values()))
        pixels = group["mended"]
        pixels[span[0] : span[1]] = without
    columns: dict[str, Array] = {
        name: np.array([row[name] for row in rows], column_dtype(name))
        for name in rows[0]
    }
    sigma, impulse = noise(images)
    figures: dict[str, Array] = {
        **statistics(images),
        "phash": perceptual_hash(images),
        "sigma": sigma,
        "impulse": impulse,
    }
    bad = ~columns["ok"]
    for figure in figures.values():
        figure[bad] = 0
    return columns | figures


def _read_item(
    listing: Listing, item: int, decode: DecodeSettings
) -> tuple[dict[str, Any], Decoded | None]:
    """Decode one item; return its row, and its pixels if there are any."""
    row: dict[str, Any] = {
        "ok": False,
        "problem": listing.problem[item],
        "detail": listing.detail[item],
        **dict.fromkeys(("kind", "notes", "sha256"), ""),
        **dict.fromkeys(("width", "height", "bytes"), 0),
        "orientation": 1,
        **dict.fromkeys(SENSED, 0.0),
    }
    if row["problem"]:
        return row, None
    try:
        content = listing.read(item)
    except OSError as error:
        if error.errno in PASSING:
            raise
        why = error.strerror or str(error)
        return row | {"problem": "unreadable", "detail": why}, None
    row |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    found = decode_image(content, decode)
    if isinstance(found, Problem):
        return row | {"problem": found.code, "detail": found.detail}, None
    row |= {
        "ok": True,
        "width": found.width,
        "height": found.height,
        "orientation": found.orientation,
        "kind": found.kind,
        "notes": ",".join(found.notes),
    }
    return row | found.sensed, found


def ingest(
    build: Build,
    listing: Listing,
    settings: IngestSettings,
    *,
    root: str,
    era: int,
    settled: DatasetRef | None,
    fingerprint: str,
) -> None:
    """Write the rows that are new, and refresh the annotation of those that are not."""
    before = build.parent
    attributes = before.attributes if before else {}
    sources: list[dict[str, Any]] = attributes.get("sources", [])
    roots = [entry["root"] for entry in sources]
    source = roots.index(root) if root in roots else len(sources)
    plan = plan_rows(listing, before, source=source)
    n, size = plan.first + len(plan.new), settings.decode.image_size
    build.writer.allocate(n, size=size)
    build.settle()
    work = functools.partial(
        ingest_files,
        listing=listing,
        items=plan.new,
        first=plan.first,
        decode=settings.decode,
    )
    parts = map_spans(
        work,
        spans(plan.first, n, size=chunk_rows(size)),
        session=build.session,
        label="ingest",
    )
    names = grow_names(listing, attributes)
    columns = _measured(parts, before) | annotation_columns(
        listing, plan, before, names, n
    )
    columns |= {
        "path": _appended("path", np.array(listing.path, object)[plan.new], before),
        "source": _appended("source", np.full(len(plan.new), source), before),
        "era": _appended("era", np.full(len(plan.new), era), before),
        "present": _present(plan, before, n),
        "settled": _settled(settled, before, n),
    }
    columns |= box_columns(listing, plan, before, names, columns, n)
    columns |= tag_columns(listing, plan, before, names, n)
    columns |= number_columns(listing, plan, before, names["number_names"], n)
    build.writer.write(**columns)
    entry = {"root": root, "kind": listing.kind, "fingerprint": fingerprint}
    build.writer.annotate(
        **names,
        sources=[*sources[:source], entry, *sources[source + 1 :]],
        notes=list(listing.notes),
        new_rows=len(plan.new),
        ingest=settings.model_dump(mode="json"),
    )


def _appended(name: str, values: Array, before: Dataset | None) -> Array:
    values = values.astype(column_dtype(name))
    return np.concatenate([earlier(before, name), values]) if before else values


def _measured(
    parts: list[dict[str, Array]], before: Dataset | None
) -> dict[str, Array]:
    empty = {name: [np.empty(0, column_dtype(name))] for name in MEASURED}
    return {
        name: _appended(
            name,
            np.concatenate([*empty[name], *(part[name] for part in parts)]),
            before,
        )
        for name in MEASURED
    }


def _present(plan: Plan, before: Dataset | None, n: int) -> Array:
    present = np.ones(n, bool)
    if before:
        present[: plan.first] = before.column("present")
        present[plan.row_of] = True
    present[plan.gone] = False
    return present


def _settled(settled: DatasetRef | None, before: Dataset | None, n: int) -> Array:
    """Return the use that a champion made of the rows that both have."""
    use = np.full(n, -1, np.int8)
    if settled and before:
        common = min(before.n, settled.n)
        use[:common] = Dataset(settled).column("use")[:common]
    return use


@stage_task(retries=2)
def ingest_dataset(
    place: str,
    settings: IngestSettings,
    *,
    uri: str,
    parent: DatasetRef | None = None,
    settled: DatasetRef | None = None,
) -> DatasetRef:
    """Read the images at `place` into the dataset at `uri`.

    What an earlier ingest of the same place and settings read is not read again.

    Args:
        place: Folder, manifest, archive or other source.
        settings: What to list and how to decode it.
        uri: Folder of the dataset.
        parent: Snapshot to append to as a new era; None goes on with this place's own.
        settled: A champion's split snapshot; what it used for what stays.

    Raises:
        SourceError: There is no such source, or it cannot be read.
    """
    listing, root = (
        list_source(place, settings=settings.source),
        str(Path(place).resolve()),
    )
    fingerprint = _fingerprint(listing)
    key = digest(root, settings, parent.digest if parent else "", VERSION)
    head = find_head(uri, key)
    base = head or parent
    if base is not None and _ingested_as(base, root) == fingerprint:
        log.info("ingest    %s images, nothing new", f"{base.n:,}")
        return base
    if settled is not None and not (base and _aligned(settled, base)):
        settled = None  # its rows are other images
    era = int(Dataset(base).column("era").max()) if base else 0
    if parent is not None and head is None:
        era += 1
    inputs = digest(fingerprint, settled.digest if settled else "", era)
    ref = run_stage(
        "ingest",
        lambda build: ingest(
            build,
            listing,
            settings,
            root=root,
            era=era,
            settled=settled,
            fingerprint=fingerprint,
        ),
        uri=uri,
        parent=base,
        version=VERSION,
        settings=settings,
        inputs=inputs,
    )
    set_head(ref, key)
    return ref


def _ingested_as(ref: DatasetRef, root: str) -> str | None:
    """Return the fingerprint with which `ref` last read the source at `root`."""
    sources = Dataset(ref).attributes["sources"]
    return next((s["fingerprint"] for s in sources if s["root"] == root), None)


def _aligned(one: DatasetRef, other: DatasetRef) -> bool:
    """Whether the first rows of two snapshots are the same images."""
    try:
        datasets = [Dataset(ref) for ref in (one, other)]
    except SchemaError as error:
        log.warning("ingest    the champion's splits are lost: %s", error)
        return False
    lines = [
        [
            entry["digest"]
            for entry in dataset.attributes["lineage"]
            if entry["stage"] == "ingest"
        ]
        for dataset in datasets
    ]
    return all(a == b for a, b in zip(*lines, strict=False))


def _fingerprint(listing: Listing) -> str:
    """Digest all that the listing says, so that any change of the source shows."""
    seen = hashlib.sha256()
    for column in (
        listing.path,
        listing.stamp,
        listing.problem,
        listing.label,
        listing.coarse,
        listing.split,
        listing.domain,
        listing.text,
        listing.tags,
        listing.boxes,
        listing.label_names,
        listing.sizes,
        [str(listing.box_unit)],
        listing.numbers,
    ):
        seen.update(repr(list(column)).encode("utf-8", "surrogateescape"))
    return seen.hexdigest()[:32]
