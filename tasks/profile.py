"""What the columns of a snapshot hold, added up from chunks that are read once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from pydantic import Field

from data_contracts.changes import changes_between
from data_contracts.dataset import COLUMNS, Array
from data_contracts.references import DatasetRef, Reference
from data_contracts.sketch import (
    Figures,
    State,
    Values,
    measure_figures,
    measure_values,
    total,
)
from data_contracts.store import Dataset, open_repository
from tasks.kept import keep, recall, recall_nearest
from tasks.parallel import Span, map_spans, spans
from tasks.table import FIXED, NAMED

VERSION = 1
# Columns that name a row, or stand for a whole sentence: nothing to sum up.
UNTOLD = {
    "path",
    "sha256",
    "stamp",
    "detail",
    "remark",
    "phash",
    "group",
    "canonical",
    "source",
    "era",
}
UNTOLD |= {"present", "settled"}
# These say why a file has no figures; all others are of readable images.
OF_ALL_FILES = {"ok", "problem"}
# Code -1 is missing; text and figures say so themselves.
CODED = {*NAMED, *FIXED}
# What decides which rows count, and to which era.
ROWS = ("present", "ok", "era")
KIND = "profile"


class Part(Reference):
    """What the rows of one era hold within one chunk of the columns."""

    chunk: int
    era: int
    rows: int
    columns: dict[str, State]


class Profile(Reference):
    """What a snapshot holds, by chunk and era; codes are still codes."""

    version: int = VERSION
    snapshot: str
    n: int
    step: int = Field(description="Rows in one chunk.")
    parts: list[Part]

    def columns(self, eras: Iterable[int] | None = None) -> dict[str, Figures | Values]:
        """Return the state of each column over some eras, or all."""
        wanted = None if eras is None else set(eras)
        found: dict[str, list[Any]] = {}
        for part in self.parts:
            if wanted is None or part.era in wanted:
                for name, state in part.columns.items():
                    found.setdefault(name, []).append(state)
        return {name: total(states) for name, states in found.items()}

    def start_of(self, era: int) -> int:
        """Return a row before which no row is of `era`."""
        return min(part.chunk for part in self.parts if part.era == era) * self.step

    @property
    def eras(self) -> list[int]:
        """The eras that have rows."""
        return sorted({part.era for part in self.parts if part.rows})


def profile_dataset(source: DatasetRef) -> Profile:
    """Return the profile of `source`, reading only chunks that no earlier one read.

    A profile lies beside the dataset. The store's own record says which chunks were
    written since; the states of all others still hold.
    """
    if (done := _load(recall(source.uri, KIND, source.snapshot))) is not None:
        return done
    dataset = Dataset(source)
    names = [name for name in COLUMNS if name not in UNTOLD and _is_read(dataset, name)]
    step = int(_array(dataset.group, "present").chunks[0])
    cuts = spans(0, dataset.n, size=step)
    known = _known(source, names, step=step, n=dataset.n)
    asked = {
        span: [name for name in names if (span[0] // step, name) not in known]
        for span in cuts
    }

    def work(group: zarr.Group, span: Span) -> list[Part]:
        return measure_chunk(group, span, names=asked[span], step=step)

    repository = open_repository(source.uri)
    fresh = map_spans(
        work,
        [span for span in cuts if asked[span]],
        session=repository.readonly_session(snapshot_id=source.snapshot),
        label="profile",
    )
    profile = Profile(
        snapshot=source.snapshot,
        n=dataset.n,
        step=step,
        parts=_joined([part for parts in fresh for part in parts], known),
    )
    keep(source.uri, KIND, source.snapshot, profile.model_dump_json())
    return profile


def measure_chunk(
    group: zarr.Group, span: Span, *, names: Sequence[str], step: int
) -> list[Part]:
    """Sum up the columns `names` over the rows of one chunk, era by era."""
    rows = slice(*span)
    present, ok, era = (np.asarray(_array(group, name)[rows]) for name in ROWS)
    columns = {name: np.asarray(_array(group, name)[rows]) for name in names}
    parts = []
    for number in np.unique(era):
        held = present & (era == number)
        states = {
            name: _state(name, values[held if name in OF_ALL_FILES else held & ok])
            for name, values in columns.items()
        }
        part = Part(
            chunk=span[0] // step, era=int(number), rows=int(held.sum()), columns=states
        )
        parts.append(part)
    return parts


def _state(name: str, values: Array) -> Figures | Values:
    if name in CODED:
        return measure_values(np.where(values < 0, "", values.astype(str)))
    if COLUMNS[name].dtype in ("str", "bool"):
        return measure_values(values)
    return measure_figures(values)


def _is_read(dataset: Dataset, name: str) -> bool:
    column = COLUMNS[name]
    return column.axis == "image" and not column.tail and dataset.has(name)


def _array(group: zarr.Group, name: str) -> Any:
    return group[name]


Known = Mapping[tuple[int, str], list[Part]]


def _known(source: DatasetRef, names: Sequence[str], *, step: int, n: int) -> Known:
    """Return the parts of an earlier profile that still hold, by chunk and column."""
    before = _load(recall_nearest(source.uri, KIND, source.snapshot))
    if before is None or before.step != step:
        return {}
    changes = changes_between(source.uri, before.snapshot, source.snapshot)
    found: dict[tuple[int, str], list[Part]] = {}
    for part in before.parts:
        last = (part.chunk + 1) * step
        if last > before.n and before.n != n:
            continue  # it grew
        for name in names:
            stale = any(changes.touched(key, part.chunk) for key in (*ROWS, name))
            if name in part.columns and not stale:
                found.setdefault((part.chunk, name), []).append(part)
    return found


def _joined(fresh: Sequence[Part], known: Known) -> list[Part]:
    """Return one part for each chunk and era, from columns read now and before."""
    rows: dict[tuple[int, int], int] = {}
    columns: dict[tuple[int, int], dict[str, State]] = {}
    for part in fresh:
        rows[part.chunk, part.era] = part.rows
        columns.setdefault((part.chunk, part.era), {}).update(part.columns)
    for (chunk, name), parts in known.items():
        for part in parts:
            rows.setdefault((chunk, part.era), part.rows)
            columns.setdefault((chunk, part.era), {})[name] = part.columns[name]
    return [
        Part(chunk=chunk, era=era, rows=rows[chunk, era], columns=columns[chunk, era])
        for chunk, era in sorted(columns)
    ]


def _load(text: str | None) -> Profile | None:
    """Return a profile that this version wrote, if the text is one."""
    try:
        profile = Profile.model_validate_json(text or "")
    except ValueError:
        return None
    return profile if profile.version == VERSION else None
