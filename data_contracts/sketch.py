"""Statistics of a column that add up: of a chunk, of an era, of everything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, Field

from data_contracts.dataset import Array
from data_contracts.references import Reference

# Buckets are a fixed grid of ratio RATIO, so that counts of two chunks add up exactly
# and a quantile is off by a quarter of a percent at most (Masson et al., DDSketch,
# VLDB 2019). Magnitudes below TINY count as zero.
RATIO, TINY = 1.005, 1e-9
MOST_VALUES = 4_096  # different values counted one by one; beyond, estimated
MARKS = 256  # smallest hashes kept for the estimate: off by 6 % or so


class Figures(Reference):
    """What a column of numbers holds; missing and infinite ones are only counted."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    kind: Literal["figures"] = "figures"
    count: int = 0
    missing: int = 0
    total: float = 0.0
    m2: float = Field(0.0, description="Sum of squared distances from the mean.")
    low: float = math.inf
    high: float = -math.inf
    buckets: dict[int, int] = Field(default_factory=dict, description="Rows by bucket.")

    @property
    def mean(self) -> float:
        """Arithmetic mean; NaN without values."""
        return self.total / self.count if self.count else math.nan

    @property
    def std(self) -> float:
        """Standard deviation of the population; NaN without values."""
        return math.sqrt(self.m2 / self.count) if self.count else math.nan


class Values(Reference):
    """What a column of names holds."""

    kind: Literal["values"] = "values"
    count: int = 0
    missing: int = 0
    counts: dict[str, int] | None = Field(
        default_factory=dict, description="Rows by value; none: too many values."
    )
    marks: list[int] = Field(default_factory=list, description="Smallest hashes.")

    @property
    def distinct(self) -> int:
        """How many values differ: exact where they were counted, else an estimate."""
        if self.counts is not None:
            return len(self.counts)
        return round((len(self.marks) - 1) * 2.0**64 / self.marks[-1])


S = TypeVar("S", Figures, Values)
State = Annotated[Figures | Values, Field(discriminator="kind")]


def measure_figures(values: Array) -> Figures:
    """Summarise numbers (n,)."""
    numbers = np.asarray(values, np.float64)
    here = numbers[np.isfinite(numbers)]
    if not len(here):
        return Figures(missing=len(numbers))
    mean = float(here.mean())
    keys, counts = np.unique(buckets(here), return_counts=True)
    return Figures(
        count=len(here),
        missing=len(numbers) - len(here),
        total=float(here.sum()),
        m2=float(((here - mean) ** 2).sum()),
        low=float(here.min()),
        high=float(here.max()),
        buckets=dict(zip(keys.tolist(), counts.tolist(), strict=True)),
    )


def measure_values(values: Iterable[Any]) -> Values:
    """Summarise names; None, NaN and empty text are missing."""
    import pandas as pd

    column = pd.Series(list(values), dtype=object)
    there = column[column.notna() & (column != "")].astype(str)
    counts = {str(key): int(n) for key, n in there.value_counts().items()}
    missing = len(column) - len(there)
    if len(counts) <= MOST_VALUES:
        ordered = dict(sorted(counts.items()))
        return Values(count=len(there), missing=missing, counts=ordered)
    marks = _marks(counts)
    return Values(count=len(there), missing=missing, counts=None, marks=marks)


def add(a: S, b: S) -> S:
    """Return the state of the rows of `a` and `b` together, in whatever order."""
    if isinstance(a, Figures) and isinstance(b, Figures):
        return _add_figures(a, b)
    if isinstance(a, Values) and isinstance(b, Values):
        return _add_values(a, b)
    raise TypeError("a column holds figures in one chunk and names in another")


def total(states: Sequence[S]) -> S:
    """Return the state of all rows together; there must be one state at least."""
    return reduce(add, states)


def quantile(state: Figures, share: float) -> float:
    """Return the value below which `share` of the numbers lie; NaN without values."""
    if not state.count:
        return math.nan
    keys = sorted(state.buckets)
    reached = np.cumsum([state.buckets[key] for key in keys])
    at = int(np.searchsorted(reached, share * state.count, side="left"))
    value = float(centres(np.array([keys[min(at, len(keys) - 1)]]))[0])
    return min(max(value, state.low), state.high)


def buckets(values: Array) -> Array:
    """Return the bucket of each finite number: ordered as they are, 0 for zero."""
    size = np.maximum(np.abs(values), TINY)
    steps = np.ceil(np.log(size / TINY) / math.log(RATIO)).astype(np.int64)
    return (np.sign(values) * steps).astype(np.int64)


def centres(keys: Array) -> Array:
    """Return the number that stands for each bucket."""
    size = TINY * RATIO ** np.abs(keys.astype(np.float64)) * 2 / (1 + RATIO)
    return np.where(keys == 0, 0.0, np.sign(keys) * size)


def _add_figures(a: Figures, b: Figures) -> Figures:
    if not a.count or not b.count:
        full = a if a.count else b
        return full.model_copy(update={"missing": a.missing + b.missing})
    count = a.count + b.count
    # Chan, Golub and LeVeque 1983: no squares of large sums, so nothing cancels.
    apart = (a.mean - b.mean) ** 2 * (a.count * b.count / count)
    return Figures(
        count=count,
        missing=a.missing + b.missing,
        total=a.total + b.total,
        m2=a.m2 + b.m2 + apart,
        low=min(a.low, b.low),
        high=max(a.high, b.high),
        buckets=dict(sorted((Counter(a.buckets) + Counter(b.buckets)).items())),
    )


def _add_values(a: Values, b: Values) -> Values:
    both = {"count": a.count + b.count, "missing": a.missing + b.missing}
    if a.counts is not None and b.counts is not None:
        counts = Counter(a.counts) + Counter(b.counts)
        if len(counts) <= MOST_VALUES:
            return Values(**both, counts=dict(sorted(counts.items())))
        return Values(**both, counts=None, marks=_marks(counts))
    seen = {mark for state in (a, b) for mark in state.marks or _marks(state.counts)}
    return Values(**both, counts=None, marks=sorted(seen)[:MARKS])


def _marks(names: Iterable[str] | None) -> list[int]:
    """Return the smallest hashes of different names, a sample of them all."""
    from pandas.util import hash_array

    hashes = hash_array(np.array(list(names or ()), object), categorize=False)
    return [int(mark) for mark in np.unique(hashes)[:MARKS]]
