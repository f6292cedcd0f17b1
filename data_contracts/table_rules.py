"""Rules over a whole per-image table, as plain functions on a data frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from data_contracts.arrays import SHOWN
from data_contracts.drift import (
    FLOORS,
    Baseline,
    Statistic,
    compare,
    count_cells,
)

if TYPE_CHECKING:
    import pandas as pd

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Bounds = tuple[float | None, float | None]


class Finding(NamedTuple):
    """Whether a rule holds, what was seen, and the positions of the first offenders."""

    ok: bool
    observed: str
    rows: list[int]
    n: int
    value: float | None = None
    limit: float | None = None
    not_run: bool = False


def select(frame: pd.DataFrame, where: Mapping[str, Any]) -> Mask:
    """Return a mask of the rows whose columns all hold a wanted value.

    Args:
        frame: The table.
        where: Wanted value, or list of them, by column; empty selects every row.

    Raises:
        KeyError: A column is missing.
    """
    mask = np.ones(len(frame), bool)
    _need(frame, *where)
    for column, wanted in where.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        mask &= frame[column].isin(values).to_numpy(dtype=bool)
    return mask


def matching_rows(
    frame: pd.DataFrame,
    *,
    rows: Mapping[str, Any],
    among: Mapping[str, Any],
    count: Bounds,
    share: Bounds,
) -> Finding:
    """Check how many of the rows in `among` match `rows`.

    Offenders are the matching rows if there are too many, and the others if the share
    is too small; a count that is too small is no row's fault.
    """
    base = select(frame, among)
    hits = base & select(frame, rows)
    n, total = int(hits.sum()), int(base.sum())
    part = n / total if total else 0.0
    scarce = _below(part, share[0])
    few = scarce or _below(n, count[0])
    many = _below(count[1], n) or _below(share[1], part)
    observed = f"{n:,} of {total:,} rows ({part:.1%})"
    blamed = hits & many | base & ~hits & scarce
    return _finding(not (few or many), observed, blamed, value=part)


def each_class_has_rows(
    frame: pd.DataFrame,
    column: str,
    *,
    rows: Mapping[str, Any],
    among: Mapping[str, Any],
    min_count: int,
) -> Finding:
    """Check that each class seen in `rows` has `min_count` rows in `among`.

    Offenders are the rows of the classes that fall short.
    """
    _need(frame, column)
    base = select(frame, rows) & frame[column].notna().to_numpy()
    classes = frame.loc[base, column].unique()
    counts = frame.loc[select(frame, among), column].value_counts()
    short = {name: int(counts.get(name, 0)) for name in classes}
    short = {name: n for name, n in short.items() if n < min_count}
    named = ", ".join(f"{name} ({n})" for name, n in list(short.items())[:SHOWN])
    more = f" and {len(short) - SHOWN} more" if len(short) > SHOWN else ""
    observed = f"{len(classes):,} classes"
    if short:
        observed = f"{len(short):,} of {observed} have too few: {named}{more}"
    bad = base & frame[column].isin(list(short)).to_numpy(dtype=bool)
    return _finding(not short, observed, bad, value=len(short))


def each_class_loses_few(
    frame: pd.DataFrame,
    column: str,
    *,
    rows: Mapping[str, Any],
    among: Mapping[str, Any],
    max_share: float,
) -> Finding:
    """Check that `rows` take at most `max_share` of each class in `among`.

    Offenders are those rows of the classes that lose more.
    """
    _need(frame, column)
    base = select(frame, among) & frame[column].notna().to_numpy()
    hits = base & select(frame, rows)
    size = frame.loc[base, column].value_counts()
    share = (frame.loc[hits, column].value_counts() / size).fillna(0.0)
    over = share[share > max_share + 1e-9].sort_values(ascending=False)
    named = ", ".join(f"{name} ({part:.1%})" for name, part in over[:SHOWN].items())
    more = f" and {len(over) - SHOWN} more" if len(over) > SHOWN else ""
    observed = f"{len(size):,} classes"
    if len(over):
        observed = f"{len(over):,} of {observed} lose too much: {named}{more}"
    bad = hits & frame[column].isin(list(over.index)).to_numpy(dtype=bool)
    return _finding(
        not len(over), observed, bad, value=float(share.max() if len(share) else 0)
    )


def one_value_per_group(
    frame: pd.DataFrame,
    column: str,
    *,
    group: str,
    rows: Mapping[str, Any],
    among: Mapping[str, Any],
) -> Finding:
    """Check that groups with several values of `column` have no row in `among`.

    The values are counted over `rows`; missing groups and values do not count.
    """
    _need(frame, column, group)
    pairs = frame.loc[select(frame, rows), [group, column]].dropna().drop_duplicates()
    mixed = pairs.loc[pairs[group].duplicated(), group].unique()
    bad = select(frame, rows) & select(frame, among)
    bad &= frame[group].isin(mixed).to_numpy(dtype=bool)
    groups = int(frame.loc[bad, group].nunique())
    observed = f"groups of images that differ in `{column}`: {groups:,}"
    return _finding(not groups, observed, bad, value=groups)


def kept_distribution(
    frame: pd.DataFrame,
    column: str,
    *,
    baseline: Baseline | None,
    statistics: Sequence[Statistic],
    floor: float | None,
    false_alarm: float,
    seed: int,
) -> Finding:
    """Check that `column` lies no further from `baseline` than chance or `floor` allow.

    Several statistics share the false alarms; the first that alarms gives the figure.
    No row is an offender: a distribution is the doing of all.
    """
    _need(frame, column)
    if baseline is None:
        return Finding(True, "there is nothing to compare with", [], 0, not_run=True)
    counts = count_cells(baseline, frame[column].to_numpy())
    found = [
        compare(
            baseline,
            counts,
            statistic=statistic,
            floor=FLOORS[statistic] if floor is None else floor,
            false_alarm=false_alarm / len(statistics),
            seed=seed,
        )
        for statistic in statistics
    ]
    told = "; ".join(
        f"{statistic} distance {drift.value:.4f}, alarm above {drift.limit:.4f} (chance"
        f" reaches {drift.chance:.4f})"
        for statistic, drift in zip(statistics, found, strict=True)
    )
    first = next((drift for drift in found if drift.alarm), found[0])
    observed = f"{first.moved}; {first.n:,} rows against {baseline.n:,}: {told}"
    return Finding(not first.alarm, observed, [], 0, first.value, first.limit)


def _need(frame: pd.DataFrame, *columns: str) -> None:
    for column in columns:
        if column not in frame:
            raise KeyError(f"column `{column}` is missing")


def _below(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value < limit


def _finding(ok: bool, observed: str, bad: Mask, *, value: float) -> Finding:
    if ok:
        return Finding(ok, observed, [], 0, value)
    positions = np.flatnonzero(bad)
    return Finding(ok, observed, positions[:SHOWN].tolist(), len(positions), value)
