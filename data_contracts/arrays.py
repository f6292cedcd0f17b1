"""Array rules: dtype, shape, range, finiteness, checked chunk by chunk and merged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from data_contracts.config import Settings
from data_contracts.references import Reference, RuleResult, Verdict

Severity = Literal["critical", "warning"]
Scalar = bool | int | float | str | None
Rows = dict[str, Scalar | list[Scalar]]
SHOWN = 20  # offenders named; the rest are counted
FIX = "To do: "


class ArrayRule(Settings):
    """What one array must look like; rows are images."""

    name: str = Field(min_length=1, description="What must hold, in words.")
    array: str = Field(min_length=1)
    where: Rows = Field(default_factory=dict, description="Rows that the rule reads.")
    dtype: str | list[str] | None = Field(
        None, description="NumPy name, or several; `str` is any text."
    )
    tail: list[int | None] | None = Field(
        None, description="Shape after the first axis; null is any length."
    )
    min: float | None = None
    max: float | None = None
    finite: bool = False
    varies: bool = Field(False, description="No row holds one value throughout.")
    sums_to: float | None = Field(None, description="Sum over the last axis.")
    tolerance: float = Field(1e-3, gt=0, description="Of `sums_to`.")
    severity: Severity
    why: str = Field(min_length=1)
    fix: str = Field(min_length=1)

    @model_validator(mode="after")
    def _asks_something(self) -> ArrayRule:
        asked = (self.dtype, self.tail, self.min, self.max, self.sums_to)
        if all(value is None for value in asked) and not (self.finite or self.varies):
            raise ValueError("the rule asks nothing: give dtype, tail, min, max, ...")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class ArrayFinding(Reference):
    """What one array rule found in some chunks; findings of two chunks add up."""

    rule: str
    n_rows: int = 0
    n_offenders: int = 0
    faults: dict[str, int] = Field(default_factory=dict, description="Rows by fault.")
    offenders: list[str] = Field(default_factory=list, description="First images.")
    broken: str = Field(default="", description="Why the rule could not be applied.")


def check_arrays(
    rules: Sequence[ArrayRule],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    names: Sequence[str],
) -> list[ArrayFinding]:
    """Check one chunk of arrays against every rule.

    Args:
        rules: Rules of a contract (`contract.arrays`).
        arrays: The chunk's arrays by name, with the columns that `where` reads.
        names: Path of each row of the chunk.
    """
    return [_check(rule, arrays, names) for rule in rules]


def merge(findings: Iterable[Sequence[ArrayFinding]]) -> list[ArrayFinding]:
    """Add up the findings of all chunks, in the order of the chunks."""
    by_rule: dict[str, list[ArrayFinding]] = {}
    for finding in (finding for chunk in findings for finding in chunk):
        by_rule.setdefault(finding.rule, []).append(finding)
    return [reduce(_add, parts) for parts in by_rule.values()]


def judge(rule: ArrayRule, finding: ArrayFinding | None) -> RuleResult:
    """Return the verdict of one array rule over all that was checked."""
    if finding is None:
        verdict, observed = Verdict.NOT_RUN, "the arrays were not checked"
    elif finding.broken:
        verdict, observed = Verdict.ERROR, finding.broken
    elif finding.n_rows == 0:
        verdict, observed = Verdict.NOT_RUN, "no such rows"
    elif finding.n_offenders == 0:
        verdict, observed = Verdict.PASS, f"{finding.n_rows:,} rows"
    else:
        verdict = Verdict.FAIL if rule.severity == "critical" else Verdict.WARN
        counts = ", ".join(f"{n:,} {fault}" for fault, n in finding.faults.items())
        observed = f"{finding.n_offenders:,} of {finding.n_rows:,} rows: {counts}"
    return RuleResult(
        rule=rule.name,
        verdict=verdict,
        severity=rule.severity,
        why=f"{rule.why} {FIX}{rule.fix}",
        observed=observed,
        offenders=finding.offenders if finding else [],
        n_offenders=finding.n_offenders if finding else 0,
        value=finding.n_offenders / finding.n_rows
        if finding and finding.n_rows
        else None,
    )


def printable(name: object) -> str:
    """Return `name` as text that any file or JSON can hold (no lone surrogates)."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _add(a: ArrayFinding, b: ArrayFinding) -> ArrayFinding:
    return ArrayFinding(
        rule=a.rule,
        n_rows=a.n_rows + b.n_rows,
        n_offenders=a.n_offenders + b.n_offenders,
        faults=dict(Counter(a.faults) + Counter(b.faults)),
        offenders=(a.offenders + b.offenders)[:SHOWN],
        broken=a.broken or b.broken,
    )


def _check(
    rule: ArrayRule,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    names: Sequence[str],
) -> ArrayFinding:
    missing = [key for key in (rule.array, *rule.where) if key not in arrays]
    if missing:
        return ArrayFinding(rule=rule.name, broken=f"array `{missing[0]}` is missing")
    array = np.asarray(arrays[rule.array])
    for key in (rule.array, *rule.where):
        if (length := len(np.atleast_1d(arrays[key]))) != len(names):
            text = f"array `{key}` has {length:,} rows for {len(names):,} images"
            return ArrayFinding(rule=rule.name, broken=text)
    at = np.flatnonzero(_selected(arrays, rule.where, n=len(names)))
    array = array if len(at) == len(names) else array[at]
    masks = _faults(rule, array)
    bad = np.zeros(len(at), bool)
    for mask in masks.values():
        bad |= mask
    return ArrayFinding(
        rule=rule.name,
        n_rows=len(at),
        n_offenders=int(bad.sum()),
        faults={fault: int(mask.sum()) for fault, mask in masks.items() if mask.any()},
        offenders=[printable(names[i]) for i in at[bad][:SHOWN]],
    )


def _selected(
    arrays: Mapping[str, np.ndarray[Any, Any]], where: Rows, *, n: int
) -> np.ndarray[Any, Any]:
    mask = np.ones(n, bool)
    for key, wanted in where.items():
        values: list[Any] = wanted if isinstance(wanted, list) else [wanted]
        mask &= np.isin(np.asarray(arrays[key]), values)
    return mask


def _faults(rule: ArrayRule, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return a mask over rows for each fault; a wrong dtype or shape is every row's."""
    every = np.ones(len(array), bool)
    wanted = [rule.dtype] if isinstance(rule.dtype, str) else rule.dtype
    kind = "str" if array.dtype.kind in "UTO" else array.dtype.name
    if wanted and kind not in wanted:
        return {f"of type {kind}, not {' or '.join(wanted)}": every}
    tail = array.shape[1:]
    if rule.tail is not None and not _fits(tail, rule.tail):
        shape = " x ".join("any" if side is None else str(side) for side in rule.tail)
        got = " x ".join(map(str, tail))
        return {f"of shape ({got}) a row, not ({shape})": every}
    return _value_faults(rule, array)


def _fits(tail: tuple[int, ...], wanted: Sequence[int | None]) -> bool:
    sides = zip(tail, wanted, strict=False)
    return len(tail) == len(wanted) and all(w in (None, got) for got, w in sides)


def _value_faults(rule: ArrayRule, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return masks over rows for the rules on values.

    Lowest and highest of each row answer every question but the sum: NaN and infinity
    show in them, so no mask the size of the images is made.
    """
    masks: dict[str, Any] = {}
    flat = array.reshape(len(array), math.prod(array.shape[1:]))
    bounded = rule.min is not None or rule.max is not None
    if flat.size and (rule.finite or rule.varies or bounded):
        low, high = flat.min(axis=1), flat.max(axis=1)
        if rule.finite:
            masks["not finite"] = ~(np.isfinite(low) & np.isfinite(high))
        if rule.min is not None:
            masks[f"below {rule.min:g}"] = ~(low >= rule.min)
        if rule.max is not None:
            masks[f"above {rule.max:g}"] = ~(high <= rule.max)
        if rule.varies:
            masks["of one value throughout"] = low == high
    if rule.sums_to is not None:
        sums = array.sum(axis=-1, dtype=np.float64)
        off = ~(np.abs(sums - rule.sums_to) <= rule.tolerance)
        fault = f"not summing to {rule.sums_to:g}"
        masks[fault] = off.any(axis=tuple(range(1, off.ndim)))
    return masks
