"""Check array rules chunk by chunk, and only the chunks that nobody checked before."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import zarr

from data_contracts.arrays import ArrayFinding, check_arrays, merge
from data_contracts.changes import changes_between
from data_contracts.contracts import Contract
from data_contracts.dataset import COLUMNS, Array
from data_contracts.references import Reference
from data_contracts.store import Dataset, open_repository
from tasks.kept import keep, recall_nearest
from tasks.parallel import Span, map_spans, spans


class Checked(Reference):
    """What the array rules of a contract found in one chunk of pixels."""

    span: Span
    columns: str
    findings: list[ArrayFinding]


class Sweep(Reference):
    """What they found in all chunks of one snapshot."""

    snapshot: str
    chunks: list[Checked]


def check_chunks(contract: Contract, dataset: Dataset) -> list[ArrayFinding]:
    """Check the array rules chunk by chunk, pixels included.

    A chunk whose pixels and columns are as when the same contract was last checked is
    not read again: the store's record says which pixels were written since, and a
    digest of the columns that the rules read says whether they changed.
    """
    if not contract.arrays:
        return []
    present = {"images", *(name for name in COLUMNS if dataset.has(name))}
    needed = {rule.array for rule in contract.arrays}
    needed |= {key for rule in contract.arrays for key in rule.where}
    columns = {name: dataset.column(name) for name in needed & present - {"images"}}
    names, held = dataset.column("path"), dataset.column("present")
    cuts = spans(0, dataset.n, size=dataset.chunk)
    marks = {span: _mark(span, columns, names, held) for span in cuts}
    known = _known(contract, dataset, marks)

    def work(group: zarr.Group, span: Span) -> list[ArrayFinding]:
        rows = slice(*span)
        arrays = {name: values[rows][held[rows]] for name, values in columns.items()}
        if "images" in needed:
            pixels: Any = group["images"]
            arrays["images"] = np.asarray(pixels[rows])[held[rows]]
        return check_arrays(contract.arrays, arrays, list(names[rows][held[rows]]))

    fresh = [span for span in cuts if span not in known]
    repository = open_repository(dataset.ref.uri)
    found = map_spans(
        work,
        fresh,
        session=repository.readonly_session(snapshot_id=dataset.ref.snapshot),
        label="validate",
    )
    known |= dict(zip(fresh, found, strict=True))
    done = [Checked(span=s, columns=marks[s], findings=known[s]) for s in cuts]
    sweep = Sweep(snapshot=dataset.ref.snapshot, chunks=done)
    ref = dataset.ref
    keep(ref.uri, _kind(contract), ref.snapshot, sweep.model_dump_json())
    return merge(known[span] for span in cuts)


def _known(
    contract: Contract, dataset: Dataset, marks: dict[Span, str]
) -> dict[Span, list[ArrayFinding]]:
    """Return the findings that still hold from the nearest snapshot with any."""
    ref = dataset.ref
    text = recall_nearest(ref.uri, _kind(contract), ref.snapshot)
    try:
        before = Sweep.model_validate_json(text or "")
    except ValueError:
        return {}
    changes = changes_between(ref.uri, before.snapshot, ref.snapshot)
    return {
        chunk.span: chunk.findings
        for chunk in before.chunks
        if marks.get(chunk.span) == chunk.columns
        and not changes.touched("images", chunk.span[0] // dataset.chunk)
    }


def _kind(contract: Contract) -> str:
    return f"sweep-{contract.sha256[:16]}"


def _mark(span: Span, columns: dict[str, Array], names: Array, held: Array) -> str:
    """Return a digest of what stands beside the pixels of a chunk."""
    rows, seen = slice(*span), hashlib.sha256()
    for name, values in sorted((columns | {"path": names, "present": held}).items()):
        part = values[rows]
        seen.update(f"{name} {part.dtype} {part.shape} ".encode())
        if part.dtype == object:
            text = "\0".join(map(str, part.tolist()))
            seen.update(text.encode("utf-8", "surrogateescape"))
        else:
            seen.update(np.ascontiguousarray(part).tobytes())
    return seen.hexdigest()[:32]
