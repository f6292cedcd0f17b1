"""What a source lists: one row per item, its settings, and how its bytes are read."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from data_contracts.config import Settings
from tasks.boxes import Box, BoxFrame, BoxUnit, fractions
from tasks.readers import Reader

SPLITS = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "eval": "test",
}


class SourceSettings(Settings):
    """How a source is listed."""

    columns: dict[str, str] = Field(
        {},
        description="Our column name to the manifest's: path, label, split, "
        "coarse_label, domain, text, tags, boxes, image.",
    )
    numeric: tuple[str, ...] = Field(
        (), description="Columns of the manifest to keep as numbers, such as price."
    )
    root: str | None = Field(
        None, description="Folder that manifest paths start from; default: its own."
    )
    limit: int | None = Field(
        None, ge=1, description="Rows to keep, stratified by label and split."
    )
    seed: int = Field(0, description="Chooses the rows that `limit` keeps.")
    box_frame: BoxFrame = Field(
        BoxFrame.AUTO,
        description="Boxes lie in the upright picture or the one stored; auto: stored"
        " if the size annotated lies as it does, else upright.",
    )
    outside_links: bool = Field(
        False, description="Whether links may lead out of the source's folder."
    )
    cache_dir: str | None = Field(
        None,
        description="Where compressed tars are unpacked to; none: the workspace.",
    )
    max_bytes: int = Field(64 << 20, ge=1, description="Largest image file, in bytes.")
    max_archive_bytes: int = Field(
        256 << 30, ge=1, description="Most bytes that an archive may unpack to."
    )
    max_ratio: int = Field(
        1000, ge=1, description="Most times that an archive may grow unpacked."
    )


class Row(NamedTuple):
    """One source item; `where` is what its reader needs."""

    path: str
    where: str = ""
    label: str | None = None
    coarse: str | None = None
    split: str | None = None
    domain: str | None = None
    text: str | None = None
    tags: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    numbers: tuple[float, ...] = ()
    size: tuple[int, int] | None = None
    stamp: str = ""
    problem: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Listing:
    """The rows of one source, column by column.

    Attributes:
        path: Below `root`, '/'-separated, printable and unique; see `printable`.
        label: Class name, or None.
        split: train, val, test, other, or None.
        boxes: Corners (x0, y0, x1, y1) and name per box, in `box_unit`.
        sizes: (width, height) that the boxes refer to, where the annotation says so.
        stamp: Changes when the item's bytes change ("size-mtime_ns" for a file).
        problem: Code of what is wrong with the row, "" when nothing is known.
        label_names: Every label; the position is its id.
        number_names: Names of the numbers that rows carry; NaN is missing.
        notes: Sentences about what was met and how it was treated.
    """

    root: str
    kind: str
    path: list[str]
    label: list[str | None]
    coarse: list[str | None]
    split: list[str | None]
    domain: list[str | None]
    text: list[str | None]
    tags: list[tuple[str, ...]]
    boxes: list[tuple[Box, ...]]
    sizes: list[tuple[int, int] | None]
    stamp: list[str]
    problem: list[str]
    detail: list[str]
    where: list[str]
    reader: Reader
    label_names: list[str]
    box_unit: BoxUnit = BoxUnit.PIXEL
    box_frame: BoxFrame = BoxFrame.AUTO
    number_names: tuple[str, ...] = ()
    numbers: list[tuple[float, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.path)

    def read(self, index: int) -> bytes:
        """Return the bytes of one item; safe from any thread or process.

        Raises:
            OSError: It is a row with a problem, or it cannot be read (any more).
        """
        if self.problem[index]:
            raise OSError(f"{self.path[index]}: {self.detail[index]}")
        return self.reader.read(self.where[index])

    def box_fractions(
        self, index: int, *, width: int, height: int, orientation: int = 1
    ) -> tuple[npt.NDArray[np.float32], list[str]]:
        """Return the boxes of one image as fractions of it upright, and their names.

        Corners are clipped to the picture; boxes without area are left out.

        Args:
            index: Row.
            width: Of the upright picture; used when the annotation gives no size.
            height: As `width`.
            orientation: EXIF orientation of the file, 1 to 8.

        Returns:
            (m, 4) x0, y0, x1, y1 in 0..1, and m names.
        """
        return fractions(
            self.boxes[index],
            said=self.sizes[index],
            size=(width, height),
            orientation=orientation,
            unit=self.box_unit,
            frame=self.box_frame,
        )


def build(
    rows: Iterable[Row],
    *,
    root: str,
    kind: str,
    reader: Reader,
    settings: SourceSettings,
    notes: Sequence[str] = (),
    label_names: Sequence[str] | None = None,
    box_unit: BoxUnit = BoxUnit.PIXEL,
) -> Listing:
    """Make a listing of rows: one row a path, limited, with its notes.

    Args:
        rows: In source order; a path met again is merged into its first row.
        root: Folder or archive that paths are below.
        kind: Short name of the layout.
        reader: Reads what `Row.where` says.
        settings: Limit and seed.
        notes: What is known so far.
        label_names: Names in id order; default: sorted.
        box_unit: Unit of the boxes' corners.
    """
    said = list(notes)
    kept = _merged(rows, said)
    names = list(label_names or _sorted_names(row.label for row in kept))
    if settings.limit is not None and settings.limit < len(kept):
        said.append(
            f"limit={settings.limit}: {len(kept) - settings.limit:,} rows left out"
        )
        kept = limited(kept, limit=settings.limit, seed=settings.seed)
    said += _gaps(kept)
    return Listing(
        root=root,
        kind=kind,
        path=[row.path for row in kept],
        label=[row.label for row in kept],
        coarse=[row.coarse for row in kept],
        split=[row.split for row in kept],
        domain=[row.domain for row in kept],
        text=[row.text for row in kept],
        tags=[row.tags for row in kept],
        boxes=[row.boxes for row in kept],
        sizes=[row.size for row in kept],
        stamp=[row.stamp for row in kept],
        problem=[row.problem for row in kept],
        detail=[row.detail for row in kept],
        where=[row.where for row in kept],
        reader=reader,
        label_names=names,
        box_unit=box_unit,
        box_frame=settings.box_frame,
        number_names=settings.numeric,
        numbers=[row.numbers for row in kept],
        notes=said,
    )


def _merged(rows: Iterable[Row], notes: list[str]) -> list[Row]:
    """Keep the first row of each path; rows that disagree on the label are bad."""
    first = dict[str, Row]()
    repeats = conflicts = 0
    for row in rows:
        known = first.setdefault(row.path, row)
        if known is row:
            continue
        repeats += 1
        if known.label != row.label and not known.problem:
            conflicts += 1
            detail = f"listed twice, with labels {known.label!r} and {row.label!r}"
            first[row.path] = known._replace(problem="conflicting-rows", detail=detail)
    if repeats:
        notes.append(
            f"{repeats:,} rows repeat a path and were left out; "
            f"{conflicts:,} of them give another label"
        )
    return list(first.values())


def _sorted_names(labels: Iterable[str | None]) -> list[str]:
    names = {label for label in labels if label is not None}
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _gaps(rows: Sequence[Row]) -> list[str]:
    counts = Counter(row.problem for row in rows if row.problem)
    notes = [f"{n:,} rows with problem {code}" for code, n in sorted(counts.items())]
    missing = sum(row.label is None for row in rows)
    if 0 < missing < len(rows):
        notes.append(f"missing labels: {missing:,} of {len(rows):,} rows")
    unsplit = sum(row.split is None for row in rows)
    if 0 < unsplit < len(rows):
        notes.append(f"missing splits: {unsplit:,} of {len(rows):,} rows")
    return notes


def limited(rows: Sequence[Row], *, limit: int, seed: int) -> list[Row]:
    """Keep `limit` rows, each label and split in its share, in the given order.

    Rows are ranked by a hash of their path: a grown source keeps nearly the same ones.
    """
    strata = dict[tuple[str, str], list[int]]()
    for i, row in enumerate(rows):
        strata.setdefault((row.label or "", row.split or ""), []).append(i)
    groups = [strata[key] for key in sorted(strata)]
    counts = _shares([len(group) for group in groups], limit=limit)
    chosen = set[int]()
    for group, count in zip(groups, counts, strict=True):
        ranked = sorted(group, key=lambda i: _rank(rows[i].path, seed))
        chosen.update(ranked[:count])
    return [row for i, row in enumerate(rows) if i in chosen]


def _shares(sizes: Sequence[int], *, limit: int) -> list[int]:
    """Split `limit` by size: one each while it lasts, the rest by largest remainder."""
    sizes_ = np.asarray(sizes)
    if limit <= len(sizes):
        largest = np.argsort(-sizes_, kind="stable")[:limit]
        return [int(i in set(largest.tolist())) for i in range(len(sizes))]
    ideal = sizes_ * limit / sizes_.sum()
    counts = np.maximum(np.floor(ideal).astype(int), 1)
    while counts.sum() > limit:
        counts[np.argmax(counts)] -= 1
    for i in itertools.cycle(np.argsort(counts - ideal, kind="stable")):
        if counts.sum() == limit:
            break
        counts[i] += counts[i] < sizes_[i]
    return [int(count) for count in counts]


def _rank(path: str, seed: int) -> bytes:
    key = f"{seed}:{path}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=8).digest()


def split_name(given: str | None) -> str | None:
    """Return train, val, test, other, or None for a split as people write it."""
    text = (given or "").strip().lower()
    return SPLITS.get(text, "other") if text else None


def file_split(name: str) -> str | None:
    """Return the split that a file's name tells, as in instances_val2017.json."""
    words = re.split(r"[^a-z]+", name.rsplit("/", 1)[-1].lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2})")


def printable(name: str) -> str:
    r"""Return a file name as text that any terminal and file format can hold.

    Control characters and bytes that are not UTF-8 become \xNN, a backslash becomes
    two; `filename` undoes it.
    """

    def escape(match: re.Match[str]) -> str:
        character = match.group()
        return "\\\\" if character == "\\" else f"\\x{ord(character) & 0xFF:02x}"

    return _UNPRINTABLE.sub(escape, name)


def filename(text: str) -> str:
    """Return the file name that `printable` made into `text`."""

    def restore(match: re.Match[str]) -> str:
        code = match.group(1)
        if code == "\\":
            return code
        return bytes([int(code[1:], 16)]).decode("utf-8", "surrogateescape")

    return _ESCAPED.sub(restore, text)
