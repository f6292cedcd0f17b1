"""Turn what a listing says of its items into the columns of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_contracts.dataset import COLUMNS, SPLITS, Array
from data_contracts.store import Dataset
from tasks.listing import Listing

# Problems that decoding finds; they last as long as the file does.
IN_THE_BYTES = (
    "empty",
    "not-an-image",
    "unsupported",
    "too-many-bytes",
    "zero-sized",
    "too-large",
    "too-small",
    "truncated",
    "undecodable",
)


@dataclass(frozen=True)
class Plan:
    """Which rows exist, which are new, and which the source no longer holds."""

    row_of: Array  # row of each listed item
    new: Array  # positions in the listing that need decoding, in row order
    gone: Array  # rows of this source that are not listed any more
    source: int  # position in the attribute `sources`
    first: int  # the first new row


def plan_rows(listing: Listing, before: Dataset | None, *, source: int) -> Plan:
    """Match the listing with the rows of an earlier snapshot by path and stamp.

    An item that could not be read, or whose problem in the listing changed, is new.
    """
    n, known = (before.n, _known(before, source)) if before else (0, {})
    problem = ["" if p in IN_THE_BYTES else p for p in listing.problem]
    keys = list(zip(listing.path, listing.stamp, problem, strict=True))
    row_of = np.array([known.get(key, -1) for key in keys], np.int64)
    new = np.flatnonzero(row_of < 0)
    row_of[new] = n + np.arange(len(new))
    gone = np.setdiff1d(np.array(list(known.values()), np.int64), row_of)
    return Plan(row_of, new, gone, source, n)


def _known(before: Dataset, source: int) -> dict[tuple[str, str, str], int]:
    columns = before.columns("path", "stamp", "problem", "source")
    rows = np.flatnonzero(columns["source"] == source)
    # What is wrong with a file's bytes stays wrong; the listing says the rest.
    own = np.isin(columns["problem"], IN_THE_BYTES)
    problem = np.where(own, "", columns["problem"])
    return {(columns["path"][r], columns["stamp"][r], problem[r]): int(r) for r in rows}


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


def grow_names(listing: Listing, attributes: dict[str, Any]) -> dict[str, list[str]]:
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
        "number_names": grown("number_names", listing.number_names),
    }


def annotation_columns(
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
        column = np.full(n, COLUMNS[name].fill, column_dtype(name))
        if before:
            column[: plan.first] = before.column(name)
        column[plan.row_of] = values
        columns[name] = column
    return columns


def _kept_rows(before: Dataset, offsets: str, plan: Plan) -> tuple[Array, Array]:
    """Return which ragged values of other sources stay, and the row of each."""
    rows = np.repeat(np.arange(before.n), np.diff(before.column(offsets)))
    stays = ~np.isin(rows, plan.row_of)
    return stays, rows[stays]


def box_columns(
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
                orientation=int(columns["orientation"][plan.row_of[item]]),
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


def tag_columns(
    listing: Listing,
    plan: Plan,
    before: Dataset | None,
    names: dict[str, list[str]],
    n: int,
) -> dict[str, Array]:
    """Return the tags of all rows."""
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


def number_columns(
    listing: Listing, plan: Plan, before: Dataset | None, names: list[str], n: int
) -> dict[str, Array]:
    """Return the numeric side columns of all rows, (n, m), if a source gives any."""
    if not names:
        return {}
    numbers = np.full((n, len(names)), np.nan, np.float32)
    if before and before.has("numbers"):
        known = before.column("numbers")
        numbers[: len(known), : known.shape[1]] = known
    numbers[plan.row_of] = np.nan
    at = [names.index(name) for name in listing.number_names]
    given = np.array(listing.numbers, np.float32).reshape(len(listing), len(at))
    numbers[plan.row_of[:, None], at] = given
    return {"numbers": numbers}


def earlier(before: Dataset, name: str) -> Array:
    """Return a column of an earlier snapshot; unknown where that knew none."""
    if before.has(name):
        return before.column(name)
    return np.full(before.n, COLUMNS[name].fill, column_dtype(name))


def column_dtype(name: str) -> Any:
    """Return the NumPy type in which a column is put together."""
    dtype = COLUMNS[name].dtype
    return object if dtype == "str" else dtype
