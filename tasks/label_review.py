"""Suspect labels out to a person in a CSV, and the person's decisions back in."""

from __future__ import annotations

import csv
import datetime
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from data_contracts.dataset import NONE, USES, Array
from data_contracts.errors import UsageError
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset, storage_errors
from tasks.label_policy import BY_PERSON, Verdict
from tasks.split import UNUSED

HEADER = "path sha256 split given suggested score verdict label who when note".split()
NEEDED = ("path", "sha256", "label")
# What a person writes for an image that shows none of the classes.
NOTHING = "-"


class Review(NamedTuple):
    """One decision of a person: what the image of these bytes shows."""

    path: str
    sha256: str
    label: str
    who: str
    when: str
    note: str
    where: str = ""  # file and line; not a part of the decision


def write_suspects(source: DatasetRef, *, out: str) -> int:
    """Write the doubted and the reviewed images to a CSV, the most suspicious first.

    The columns label, who, when and note are a person's: label takes the name of a
    class, or `-` for an image that shows none of them. An empty one decides nothing.

    Returns:
        Rows written.

    Raises:
        UsageError: `out` does not end in .csv.
    """
    target = Path(out)
    if target.suffix.lower() != ".csv":
        raise UsageError(f"out={out!r} must end in .csv.")
    lines = list(_lines(Dataset(source)))
    aside = target.with_name(f".{uuid4().hex}.csv")
    with storage_errors(out):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(HEADER)
                writer.writerows(lines)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    return len(lines)


def _lines(dataset: Dataset) -> Iterator[list[str]]:
    c = dataset.columns(
        *"path sha256 use label suggested suspicion verdict target".split(),
        *"reviewer reviewed".split(),
    )
    names = np.array([*dataset.names("label_names"), ""], object)
    notes = {(r.path, r.sha256): r.note for r in reviews_in(dataset)}
    shown = ~np.isin(c["verdict"], [Verdict.none, Verdict.fine])
    order = np.argsort(-c["suspicion"], kind="stable")
    for row in order[shown[order]]:
        by_person = c["verdict"][row] in BY_PERSON
        yield [
            c["path"][row],
            c["sha256"][row],
            [*USES, "unused"][c["use"][row]],
            names[c["label"][row]],
            names[c["suggested"][row]],
            f"{c['suspicion'][row]:.4f}",
            c["verdict"][row],
            (names[c["target"][row]] or NOTHING) if by_person else "",
            c["reviewer"][row],
            c["reviewed"][row],
            notes.get((c["path"][row], c["sha256"][row]), ""),
        ]


def reviews_in(dataset: Dataset) -> list[Review]:
    """Return the decisions that a snapshot holds."""
    return [Review(**entry) for entry in dataset.attributes.get("reviews", [])]


def reviews_of(source: DatasetRef) -> list[Review]:
    """Return the decisions that a snapshot holds, for the next one."""
    return reviews_in(Dataset(source))


def read_reviews(path: str | None) -> list[Review]:
    """Return the decisions in an edited CSV; none without a path.

    Raises:
        UsageError: It is no such CSV, or decides one image in two ways.
    """
    if path is None:
        return []
    try:
        text = Path(path).read_text("utf-8-sig")
        changed = Path(path).stat().st_mtime
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"Review {path!r} cannot be read: {reason}.") from error
    first = text.partition("\n")[0]
    separator = ";" if first.count(";") > first.count(",") else ","
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True
    )
    missing = [name for name in NEEDED if name not in (reader.fieldnames or [])]
    if missing:
        raise UsageError(
            f"Review {path!r} has no column {' or '.join(missing)}; write it by"
            " `sightline data review` and edit only label, who, when and note."
        )
    usual = {"who": _user(), "when": _written(changed)}
    found: dict[tuple[str, str], Review] = {}
    try:
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            review = _review(cells, where=where, usual=usual)
            if review is not None:
                _once(found, review)
    except csv.Error as error:
        raise UsageError(
            f"{path}, line {reader.line_num}: not a CSV ({error})."
        ) from error
    return list(found.values())


def _user() -> str:
    from tasks.register import who

    return who()


def _written(stamp: float) -> str:
    when = datetime.datetime.fromtimestamp(stamp, datetime.UTC)
    return when.isoformat(timespec="seconds")


def _review(
    cells: dict[str, Any], *, where: str, usual: dict[str, str]
) -> Review | None:
    if None in cells or None in cells.values():
        raise UsageError(
            f"{where}: another number of cells than the header. Put text that holds the"
            " separator in double quotes."
        )
    label = cells["label"].strip()
    if not label:
        return None
    if not cells["path"] or not cells["sha256"]:
        raise UsageError(f"{where}: path or sha256 is empty; leave them as written.")
    return Review(
        path=cells["path"],
        sha256=cells["sha256"],
        label=label,
        who=cells.get("who", "").strip() or usual["who"],
        when=cells.get("when", "").strip() or usual["when"],
        note=cells.get("note", "").strip(),
        where=where,
    )


def _once(found: dict[tuple[str, str], Review], review: Review) -> None:
    key = (review.path, review.sha256)
    other = found.setdefault(key, review)
    if other.label != review.label:
        raise UsageError(
            f"{review.where}: {review.path} is {review.label!r} here and"
            f" {other.label!r} in {other.where}. Keep one."
        )


def apply_reviews(
    reviews: list[Review],
    columns: dict[str, Array],
    overlay: dict[str, Array],
    *,
    names: list[str],
) -> list[dict[str, str]]:
    """Write a person's decisions over the overlay, the last on an image in force.

    They hold for every split: the given label stays in its column, and `target` becomes
    what the person says. An image of no class becomes unused.

    Args:
        reviews: Decisions, earlier ones first.
        columns: The dataset's own, not changed.
        overlay: What the audit wrote so far; changed in place.
        names: The label names.

    Returns:
        The decisions in force, for the record.

    Raises:
        UsageError: A label, an image or its bytes are unknown.
    """
    n = len(columns["path"])
    overlay["reviewer"] = np.full(n, "", object)
    overlay["reviewed"] = np.full(n, "", object)
    rows_of: dict[str, list[int]] = {}
    for row, path in enumerate(columns["path"] if reviews else ()):
        rows_of.setdefault(path, []).append(row)
    kept: dict[tuple[str, str], dict[str, str]] = {}
    for review in reviews:
        label = _label_of(review, names)
        for row in _rows_of(review, rows_of, columns["sha256"]):
            _decide(row, label, review, columns, overlay)
        entry = review._replace(where="")._asdict()
        kept[review.path, review.sha256] = entry
    return list(kept.values())


def _label_of(review: Review, names: list[str]) -> int:
    if review.label in names:
        return names.index(review.label)
    if review.label == NOTHING:
        return NONE
    known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise UsageError(
        f"{review.where}: {review.label!r} is no class of this dataset. Known: {known};"
        f" {NOTHING} leaves the image out."
    )


def _rows_of(review: Review, rows_of: dict[str, list[int]], sha256: Array) -> list[int]:
    rows = rows_of.get(review.path, [])
    same = [row for row in rows if sha256[row] == review.sha256]
    # What an earlier snapshot knew of an image ends with the image.
    if same or not review.where:
        return same
    what = "changed since the review" if rows else "is not in this dataset"
    raise UsageError(
        f"{review.where}: image {review.path!r} {what}. Write the review anew, or"
        " remove the line."
    )


def _decide(
    row: int,
    label: int,
    review: Review,
    columns: dict[str, Array],
    overlay: dict[str, Array],
) -> None:
    given = columns["label"][row]
    overlay["target"][row] = label
    overlay["weight"][row] = 0.0 if label == NONE else 1.0
    overlay["use"][row] = UNUSED if label == NONE else columns["use"][row]
    overlay["verdict"][row] = (
        Verdict.excluded.value
        if label == NONE
        else Verdict.confirmed.value
        if label == given
        else Verdict.corrected.value
    )
    overlay["reviewer"][row], overlay["reviewed"][row] = review.who, review.when
