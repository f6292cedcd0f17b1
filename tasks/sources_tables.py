"""Manifests: tables (CSV or Parquet) with a row per image and a column of paths."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from data_contracts.errors import SourceError
from tasks.boxes import Box, BoxUnit
from tasks.listing import (
    Listing,
    Row,
    SourceSettings,
    build,
    printable,
    split_name,
)
from tasks.tree import Archive, Entry, Tree

IMAGES = ("image_path", "img_path", "image", "img")
# Our columns, and other names under which they are found; the first is the usual one.
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", *IMAGES),
    "label": ("label", "class", "class_name", "label_name", "category"),
    "split": ("split", "subset"),
    "coarse_label": ("coarse_label", "coarse", "superclass", "supercategory"),
    "domain": ("domain",),
    "text": ("text", "description", "caption"),
    "tags": ("tags", "attributes"),
    "boxes": ("boxes",),
}
MISSING = frozenset(("", "nan", "NaN", "<NA>", "null", "NULL", "None"))
DELIMITERS = ",;\t|"
MAX_NUMBER = 3e38  # what float32 holds


class Table(NamedTuple):
    """Cells by column, and the line that each row came from."""

    columns: dict[str, list[Any]]
    broken: dict[int, str]


def list_manifest(
    tree: Tree, table: Table, *, name: str, settings: SourceSettings, notes: list[str]
) -> Listing:
    """List the images that a manifest names.

    Args:
        tree: Where its paths start.
        table: The manifest's cells.
        name: The manifest's own path, for messages.
        settings: Column names, limit and seed.
        notes: Added to.

    Raises:
        SourceError: There is no column of paths, or no path leads to a file.
    """
    chosen = match_columns(
        list(table.columns), settings.columns, name=name, notes=notes
    )
    n = len(next(iter(table.columns.values()), []))
    if not n:
        raise SourceError(
            f"manifest {name!r} has a header and no rows. Nothing to ingest."
        )
    cells = {ours: table.columns[theirs] for ours, theirs in chosen.items()}
    need_columns(settings.numeric, list(table.columns), name=name)
    numbers = read_numbers([table.columns[column] for column in settings.numeric])
    rows = [
        _row(tree, {key: column[i] for key, column in cells.items()}, i, table.broken)
        for i in range(n)
    ]
    rows = with_numbers(rows, numbers)
    rows = _integer_labels(rows, notes)
    _require_some(rows, tree.root, name=name)
    others = Counter(
        str(given)
        for given, row in zip(cells.get("split", []), rows, strict=False)
        if row.split == "other"
    )
    if others:
        what = ", ".join(f"{split} {k:,}" for split, k in others.most_common(5))
        notes.append(f"splits other than train, val, test: {what}: split 'other'")
    unit = _box_unit(rows, notes)
    return build(
        rows,
        root=tree.root,
        kind="manifest",
        reader=tree.reader,
        settings=settings,
        notes=notes + tree.notes,
        box_unit=unit,
    )


def _box_unit(rows: Sequence[Row], notes: list[str]) -> BoxUnit:
    """Tell fractions from pixels; rounding carries some corners past 1."""
    corners = (abs(v) for row in rows for box in row.boxes for v in box[:4])
    largest = max((v for v in corners if v < math.inf), default=None)
    unit = BoxUnit.PIXEL if largest is None or largest > 1.5 else BoxUnit.FRACTION
    if largest is not None:
        notes.append(f"corners of boxes read as {unit}s")
    return unit


def match_columns(
    found: Sequence[str], wanted: Mapping[str, str], *, name: str, notes: list[str]
) -> dict[str, str]:
    """Return which of a table's columns holds which of ours; the path must be there.

    Raises:
        SourceError: Naming what lacks, what is there, and the closest names.
    """
    unknown = sorted(set(wanted) - set(COLUMNS) - {"image"})
    if unknown:
        close = difflib.get_close_matches(unknown[0], COLUMNS, n=2)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise SourceError(
            f"columns.{unknown[0]} is no column of ours: those are "
            f"{', '.join(COLUMNS)}.{hint}"
        )
    by_name = {column.strip().lower(): column for column in reversed(found)}
    chosen = dict[str, str]()
    for ours, names in COLUMNS.items():
        if ours in wanted:
            if wanted[ours] not in found:
                raise _no_column(wanted[ours], found, name=name)
            chosen[ours] = wanted[ours]
            continue
        theirs = next((by_name[other] for other in names if other in by_name), None)
        if theirs is not None:
            chosen[ours] = theirs
            if theirs.strip().lower() != ours:
                notes.append(f"column {theirs!r} read as {ours}")
    if "path" not in chosen:
        raise _no_path(found, name=name)
    return chosen


def _no_column(missing: str, found: Sequence[str], *, name: str) -> SourceError:
    close = difflib.get_close_matches(missing, found, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return SourceError(
        f"manifest {name!r} has no column {missing!r}; it has {', '.join(found)}.{hint}"
    )


def _no_path(found: Sequence[str], *, name: str) -> SourceError:
    names = [column.strip().lower() for column in found]
    close = [
        column
        for column, lower in zip(found, names, strict=True)
        if difflib.get_close_matches(lower, COLUMNS["path"], n=1, cutoff=0.7)
    ]
    hint = f" {close[0]!r} looks close: columns.path={close[0]}." if close else ""
    return SourceError(
        f"manifest {name!r} lacks the column 'path' (an image file a row). Its columns "
        f"are: {', '.join(found) or 'none'}. Expected are path, and any of "
        f"{', '.join(list(COLUMNS)[1:])}.{hint} If the paths have another name, say "
        "columns.path=THAT_NAME."
    )


def _row(
    tree: Tree, cells: Mapping[str, Any], i: int, broken: Mapping[int, str]
) -> Row:
    given = text_of(cells["path"])
    problem = detail = ""
    entry = Entry("")
    if given is None:
        problem, detail = "bad-name", f"row {i + 1} of the manifest has no path"
    elif i in broken:
        problem, detail = "bad-row", broken[i]
    else:
        given, entry = _locate(tree, given)
        problem, detail = entry.problem, entry.detail
    boxes: tuple[Box, ...] = ()
    try:
        boxes = _boxes(cells.get("boxes"))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        problem, detail = problem or "bad-annotation", detail or f"boxes: {error}"
    return Row(
        path=given or f"(row {i + 1})",
        where=entry.where,
        label=text_of(cells.get("label")),
        coarse=text_of(cells.get("coarse_label")),
        split=split_name(text_of(cells.get("split"))),
        domain=text_of(cells.get("domain")),
        text=text_of(cells.get("text")),
        tags=_tags(cells.get("tags")),
        boxes=boxes,
        stamp=entry.stamp,
        problem=problem,
        detail=detail,
    )


def need_columns(wanted: Sequence[str], found: Sequence[str], *, name: str) -> None:
    """Raise a SourceError if a table lacks a column that was asked for."""
    for column in wanted:
        if column not in found:
            raise _no_column(column, found, name=name)


def read_numbers(columns: Sequence[Sequence[Any]]) -> list[tuple[float | str, ...]]:
    """Return the cells of columns of one length, row by row, as numbers.

    A cell that holds nothing is NaN; one that is no number stays text.
    """
    read = [[_number(cell) for cell in column] for column in columns]
    return list(zip(*read, strict=True))


def _number(cell: Any) -> float | str:
    text = text_of(cell)
    if text is None:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) and abs(value) <= MAX_NUMBER else text


def with_numbers(
    rows: list[Row], numbers: Sequence[Sequence[float | str]]
) -> list[Row]:
    """Return `rows` with their numbers, if there are any."""
    if not numbers:
        return rows
    return [_with(row, values) for row, values in zip(rows, numbers, strict=True)]


def _with(row: Row, values: Sequence[float | str]) -> Row:
    """Return `row` with its numbers; one that is none is a problem of the row."""
    wrong = next((value for value in values if isinstance(value, str)), None)
    if wrong is None:
        return row._replace(numbers=tuple(map(float, values)))
    return row._replace(
        problem=row.problem or "bad-annotation",
        detail=row.detail or f"{wrong[:50]!r} stands where a number should",
        numbers=(math.nan,) * len(values),
    )


def _locate(tree: Tree, given: str) -> tuple[str, Entry]:
    """Find a path of a manifest, as written, with escapes, or with backslashes."""
    path = printable(given)
    spellings = [path, given, given.replace("\\", "/")] if "\\" in given else [path]
    for name in spellings:
        entry = tree.find(name)
        if entry.problem != "missing-file":
            break
    if entry.problem in ("missing-file", "escapes-root"):
        return path, entry
    if isinstance(tree, Archive):
        return os.path.normpath(name), entry
    return printable(entry.where), entry


def text_of(cell: Any) -> str | None:
    """Return a cell as stripped text, or None where it holds nothing."""
    if cell is None or (isinstance(cell, float) and cell != cell):
        return None
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    text = str(cell).strip()
    return None if text in MISSING else text


def _tags(cell: Any) -> tuple[str, ...]:
    if isinstance(cell, (list, tuple)):
        parts: Iterable[Any] = cell
    else:
        text = text_of(cell)
        if text is None:
            return ()
        if text.startswith("["):
            try:
                parts = json.loads(text.replace("'", '"'))
            except (ValueError, RecursionError):
                parts = text.strip("[]").split(",")
        else:
            parts = re.split(r"[|;]" if re.search(r"[|;]", text) else ",", text)
    names = (str(part).strip() for part in parts)
    return tuple(dict.fromkeys(name for name in names if name))


def _boxes(cell: Any) -> tuple[Box, ...]:
    """Read boxes: a list of [x0, y0, x1, y1, name] or of objects with those keys."""
    if isinstance(cell, str):
        cell = json.loads(cell) if cell.strip() else None
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ()
    boxes = []
    for box in cell:
        if isinstance(box, Mapping):
            name = box.get("name", box.get("label", ""))
            box = [box["x0"], box["y0"], box["x1"], box["y1"], name]
        x0, y0, x1, y1, *name_ = box
        corners = float(x0), float(y0), float(x1), float(y1)
        boxes.append((*corners, str(name_[0]) if name_ else ""))
    return tuple(boxes)


def _integer_labels(rows: list[Row], notes: list[str]) -> list[Row]:
    """Turn 3.0 back into 3: how tables write whole numbers beside missing ones."""
    labels = {row.label for row in rows if row.label is not None}
    if not labels or not all(re.fullmatch(r"-?\d+\.0", label) for label in labels):
        return rows
    notes.append("labels like 3.0 read as 3")
    return [row._replace(label=row.label and row.label[:-2]) for row in rows]


def _require_some(rows: Sequence[Row], root: str, *, name: str) -> None:
    lost = [row for row in rows if row.problem == "missing-file"]
    if lost and len(lost) == len(rows):
        raise SourceError(
            f"manifest {name!r}: none of its {len(rows):,} paths leads to a file. The "
            f"first is {lost[0].path!r}, looked for below {root!r}. Say root=FOLDER if "
            "they start elsewhere."
        )


def read_csv(raw: bytes, *, name: str, notes: list[str]) -> Table:
    """Read a CSV of any usual encoding and delimiter, all cells as text.

    Raises:
        SourceError: It is not text, or no table.
    """
    text = _decoded(raw, name=name, notes=notes)
    delimiter = _delimiter(text)
    if delimiter != ",":
        notes.append(f"delimiter {delimiter!r}")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(reader)]
        lines = [(reader.line_num, line) for line in reader if any(line)]
    except StopIteration:
        raise SourceError(
            f"manifest {name!r} is empty. It needs a header row."
        ) from None
    except csv.Error as error:
        raise SourceError(
            f"manifest {name!r} line {reader.line_num}: {error}. Save it as plain CSV."
        ) from error
    repeated = [column for column, k in Counter(header).items() if k > 1 and column]
    if repeated:
        raise SourceError(f"manifest {name!r} has the column {repeated[0]!r} twice.")
    broken = {
        i: f"line {number} has {len(line)} cells, the header {len(header)}"
        for i, (number, line) in enumerate(lines)
        if len(line) > len(header)
    }
    width = len(header)
    full = [line[:width] + [""] * (width - len(line)) for _, line in lines]
    columns = {column: [line[i] for line in full] for i, column in enumerate(header)}
    return Table(columns, broken)


def _decoded(raw: bytes, *, name: str, notes: list[str]) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        notes.append("encoding UTF-16")
        return raw.decode("utf-16", "replace")
    if b"\0" in raw[:65_536]:
        raise SourceError(
            f"manifest {name!r} is no text: it holds NUL bytes. Save it as CSV."
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        notes.append(f"not UTF-8 at byte {error.start:,}: read as Latin-1")
        return raw.decode("latin-1")


def _delimiter(text: str) -> str:
    """Return the delimiter that splits the first line into most cells."""
    head = text[: text.find("\n") if "\n" in text else len(text)]
    head = re.sub(r'"[^"]*"', "", head)
    return max(DELIMITERS, key=lambda mark: (head.count(mark), -DELIMITERS.index(mark)))


def manifest_name(tree: Tree) -> str | None:
    """Return the name of the manifest at the root of a tree, if there is one."""
    for name in ("manifest.csv", "manifest.parquet"):
        if tree.find(name).there:
            return name
    return None
