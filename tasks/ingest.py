"""Read image files of any source into a dataset, one row an item, bad files too."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic import Field

from data_contracts.config import Settings, digest
from data_contracts.dataset import COLUMNS, SPLITS, Array, chunk_rows
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.decode import DecodeSettings, Problem, decode_image
from tasks.parallel import Span, map_spans, spans
from tasks.pixels import noise, perceptual_hash, statistics
from tasks.listing import Listing, SourceSettings
from tasks.sources import list_source
from tasks.stage import (
    Build,
    find_head,
    run_stage,
    set_head,
    stage_task,
)

log = logging.getLogger("sightline")

VERSION = 1
# Columns that come with the listing; the others are measured on the file's bytes.
ANNOTATION = ("label", "coarse", "domain", "split", "text", "stamp")
MEASURED = (
    "ok problem detail kind notes width height bytes sha256 phash"
    " mean std sharpness saturation sigma impulse"
).split()


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
    rows = [
        _read_item(listing, int(item), decode, images[row])
        for row, item in enumerate(items[span[0] - first : span[1] - first])
    ]
    pixels: Any = group["images"]
    pixels[span[0] : span[1]] = images
    columns: dict[str, Array] = {
        name: np.array([row[name] for row in rows], _dtype(name)) for name in rows[0]
    }
    sigma, impulse = noise(images)
    figures: dict[str, Array] = {
        **statistics(images),
        "phash": perceptual_hash(images),
        "sigma": sigma,
        "impulse": impulse,
    }
    bad = ~columns["ok"]
    for values in figures.values():
        values[bad] = 0
    return columns | figures


def _read_item(
    listing: Listing, item: int, decode: DecodeSettings, out: Array
) -> dict[str, Any]:
    """Decode one item into `out`; return its row."""
    row: dict[str, Any] = {
        "ok": False,
        "problem": listing.problem[item],
        "detail": listing.detail[item],
        **dict.fromkeys(("kind", "notes", "sha256"), ""),
        **dict.fromkeys(("width", "height", "bytes"), 0),
    }
    if row["problem"]:
        return row
    try:
        content = listing.read(item)
    except OSError as error:
        return row | {"problem": "unreadable", "detail": error.strerror or str(error)}
    row |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    found = decode_image(content, decode)
    if isinstance(found, Problem):
        return row | {"problem": found.code, "detail": found.detail}
    out[:] = found.image
    return row | {
        "ok": True,
        "width": found.width,
        "height": found.height,
        "kind": found.kind,
        "notes": ",".join(found.notes),
    }


def _dtype(name: str) -> Any:
    dtype = COLUMNS[name].dtype
    return object if dtype == "str" else dtype


def extend_names(names: Sequence[str], more: Sequence[str]) -> list[str]:
    """Append the names that are new; the ids of the others stay."""
    known = set(names)
    return [*names, *(name for name in dict.fromkeys(more) if name not in known)]


def encode(values: Sequence[str | None], names: Sequence[str]) -> Array:
    """Return the position of each value in `names`, -1 for None."""
    position = {name: index for index, name in enumerate(names)}
    return np.array(
        [-1 if value is None else position[value] for value in values], np.int32
    )


def ragged(rows: Array, *values: Array, n: int) -> tuple[Array, ...]:
    """Order `values` by their row; return them and the n + 1 offsets."""
    order = np.argsort(rows, kind="stable")
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=n), out=offsets[1:])
    return (*(value[order] for value in values), offsets)


@dataclass(frozen=True)
class Plan:
    """Which rows exist, which are new, and which the source no longer holds."""

    row_of: Array  # row of each listed item
    new: Array  # positions in the listing that need decoding, in row order
    gone: Array  # rows of this source that are not listed any more
    source: int  # position in the attribute `sources`
    first: int  # the first new row


def plan_rows(listing: Listing, before: Dataset | None, *, source: int) -> Plan:
    """Match the listing with the rows of an earlier snapshot by path and stamp."""
    n, known = (before.n, _known(before, source)) if before else (0, {})
    keys = list(zip(listing.path, listing.stamp, strict=True))
    row_of = np.array([known.get(key, -1) for key in keys], np.int64)
    new = np.flatnonzero(row_of < 0)
    row_of[new] = n + np.arange(len(new))
    gone = np.setdiff1d(np.array(list(known.values()), np.int64), row_of)
    return Plan(row_of, new, gone, source, n)


def _known(before: Dataset, source: int) -> dict[tuple[str, str], int]:
    columns = before.columns("path", "stamp", "source")
    rows = np.flatnonzero(columns["source"] == source)
    return {(columns["path"][r], columns["stamp"][r]): int(r) for r in rows}


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
    names = _names(listing, attributes)
    columns = _measured(parts, before) | _annotation(listing, plan, before, names, n)
    columns |= {
        "path": _appended("path", np.array(listing.path, object)[plan.new], before),
        "source": _appended("source", np.full(len(plan.new), source), before),
        "era": _appended("era", np.full(len(plan.new), era), before),
        "present": _present(plan, before, n),
        "settled": _settled(settled, n),
    }
    columns |= _boxes(listing, plan, before, names, columns, n)
    columns |= _tags(listing, plan, before, names, n)
    build.writer.write(**columns)
    entry = {"root": root, "kind": listing.kind, "fingerprint": fingerprint}
    build.writer.annotate(
        **names,
        sources=[*sources[:source], entry, *sources[source + 1 :]],
        notes=list(listing.notes),
        new_rows=len(plan.new),
        ingest=settings.model_dump(mode="json"),
    )


def _names(listing: Listing, attributes: dict[str, Any]) -> dict[str, list[str]]:
    """Return the lists of names, grown by what the listing brings."""

    def grown(kind: str, values: Sequence[str]) -> list[str]:
        return extend_names(attributes.get(kind, []), values)

    def seen(values: Sequence[str | None]) -> list[str]:
        return sorted({value for value in values if value is not None})

    return {
        "label_names": grown("label_names", listing.label_names),
        "coarse_names": grown("coarse_names", seen(listing.coarse)),
        "domain_names": grown("domain_names", seen(listing.domain)),
        "tag_names": grown(
            "tag_names", sorted({t for tags in listing.tags for t in tags})
        ),
        "box_names": grown(
            "box_names", sorted({box[4] for boxes in listing.boxes for box in boxes})
        ),
    }


def _appended(name: str, values: Array, before: Dataset | None) -> Array:
    values = values.astype(_dtype(name))
    return np.concatenate([before.column(name), values]) if before else values


def _measured(
    parts: list[dict[str, Array]], before: Dataset | None
) -> dict[str, Array]:
    empty = {name: [np.empty(0, _dtype(name))] for name in MEASURED}
    return {
        name: _appended(
            name,
            np.concatenate([*empty[name], *(part[name] for part in parts)]),
            before,
        )
        for name in MEASURED
    }


def _annotation(
    listing: Listing,
    plan: Plan,
    before: Dataset | None,
    names: dict[str, list[str]],
    n: int,
) -> dict[str, Array]:
    """Return the columns that the listing says, for all rows."""
    given = {
        "label": encode(listing.label, names["label_names"]),
        "coarse": encode(listing.coarse, names["coarse_names"]),
        "domain": encode(listing.domain, names["domain_names"]),
        "split": encode(listing.split, SPLITS),
        "text": np.array([text or "" for text in listing.text], object),
        "stamp": np.array(listing.stamp, object),
    }
    columns = {}
    for name, values in given.items():
        column = np.full(n, COLUMNS[name].fill, _dtype(name))
        if before:
            column[: plan.first] = before.column(name)
        column[plan.row_of] = values
        columns[name] = column
    return columns


def _present(plan: Plan, before: Dataset | None, n: int) -> Array:
    present = np.ones(n, bool)
    if before:
        present[: plan.first] = before.column("present")
        present[plan.row_of] = True
    present[plan.gone] = False
    return present


def _settled(settled: DatasetRef | None, n: int) -> Array:
    use = np.full(n, -1, np.int8)
    if settled:
        champion = Dataset(settled).column("use")[:n]
        use[: len(champion)] = champion
    return use


def _kept_rows(before: Dataset, offsets: str, plan: Plan) -> tuple[Array, Array]:
    """Return which ragged values of other sources stay, and the row of each."""
    rows = np.repeat(np.arange(before.n), np.diff(before.column(offsets)))
    stays = ~np.isin(rows, plan.row_of)
    return stays, rows[stays]


def _boxes(
    listing: Listing,
    plan: Plan,
    before: Dataset | None,
    names: dict[str, list[str]],
    columns: dict[str, Array],
    n: int,
) -> dict[str, Array]:
    """Return the boxes of all rows, as fractions of the upright original."""
    found = [
        (
            int(plan.row_of[item]),
            *listing.box_fractions(
                item,
                width=max(1, int(columns["width"][plan.row_of[item]])),
                height=max(1, int(columns["height"][plan.row_of[item]])),
            ),
        )
        for item, boxes in enumerate(listing.boxes)
        if boxes
    ]
    rows = np.repeat([row for row, _, _ in found], [len(c) for _, c, _ in found])
    rows = rows.astype(np.int64)
    corners = np.concatenate([np.empty((0, 4), np.float32), *(c for _, c, _ in found)])
    label = encode(
        [name for _, _, given in found for name in given], names["box_names"]
    )
    if before:
        stays, kept = _kept_rows(before, "box_offsets", plan)
        rows = np.concatenate([kept, rows])
        corners = np.concatenate([before.column("boxes")[stays], corners])
        label = np.concatenate([before.column("box_label")[stays], label])
    corners, label, offsets = ragged(rows, corners, label, n=n)
    return {"boxes": corners, "box_label": label, "box_offsets": offsets}


def _tags(
    listing: Listing,
    plan: Plan,
    before: Dataset | None,
    names: dict[str, list[str]],
    n: int,
) -> dict[str, Array]:
    pairs = [
        (row, tag)
        for row, tags in zip(plan.row_of, listing.tags, strict=True)
        for tag in tags
    ]
    rows = np.array([row for row, _ in pairs], np.int64)
    ids = encode([tag for _, tag in pairs], names["tag_names"])
    if before:
        stays, kept = _kept_rows(before, "tag_offsets", plan)
        rows = np.concatenate([kept, rows])
        ids = np.concatenate([before.column("tag_ids")[stays], ids])
    ids, offsets = ragged(rows, ids, n=n)
    return {"tag_ids": ids, "tag_offsets": offsets}


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
    key = digest(root, settings, parent.digest if parent else "")
    head = find_head(uri, key)
    base = head or parent
    if base is not None and _ingested_as(base, root) == fingerprint:
        log.info("ingest    %s images, nothing new", f"{base.n:,}")
        return base
    if settled is not None and not (base and _aligned(settled, base)):
        settled = None
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
    lines = [
        [
            entry["digest"]
            for entry in Dataset(ref).attributes["lineage"]
            if entry["stage"] == "ingest"
        ]
        for ref in (one, other)
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
    ):
        seen.update(repr(list(column)).encode("utf-8", "surrogateescape"))
    return seen.hexdigest()[:32]
