"""How far two sets of images lie apart, and how far chance alone would put them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from data_contracts.config import Settings
from data_contracts.dataset import Array
from data_contracts.sketch import (
    RATIO,
    Figures,
    Values,
    buckets,
    centres,
    measure_values,
)

Statistic = Literal["js", "psi", "ks", "linf"]
MISSING = "no value"
# Twentieths, and the outer hundredths: foreign pictures lie in the tails.
CUTS = (0.01, *(step / 20 for step in range(1, 20)), 0.99)
# Distances below which a difference does not matter, unless a rule says otherwise:
# each is about what a shift by a fifth of a standard deviation makes (a twentieth of
# the images, for names).
FLOORS: dict[Statistic, float] = {"js": 0.01, "psi": 0.05, "ks": 0.08, "linf": 0.05}
# What a rule measures unless it says otherwise. For figures ks finds shifts, and js
# another spread and foreign pictures (benchmarks/drift.py).
FIGURES: tuple[Statistic, ...] = ("ks", "js")
NAMES: tuple[Statistic, ...] = ("js",)
DRAWS = 2_000
MOST = 10**9  # rows that NumPy's hypergeometric draws take


class Baseline(Settings):
    """What later images are held against: rows by bin of a figure, or by name."""

    edges: list[float] | None = Field(
        None, description="Upper ends of all bins of a figure but the last."
    )
    counts: list[int] | None = Field(None, description="Rows in each bin.")
    values: dict[str, int] | None = Field(None, description="Rows by name.")
    missing: int = Field(0, ge=0, description="Rows without a value.")

    @model_validator(mode="after")
    def _one_kind(self) -> Baseline:
        figures = self.edges is not None and self.counts is not None
        if figures == (self.values is not None):
            raise ValueError("give `edges` and `counts`, or `values`")
        if self.values is None:
            edges, counts = self.edges or [], self.counts or []
            if len(counts) != len(edges) + 1 or sorted(set(edges)) != edges:
                raise ValueError("`edges` must rise, with one more of `counts`")
        if self.n < 1 or min(self.cells.values()) < 0:
            raise ValueError("no rows, or fewer than none")
        return self

    @property
    def cells(self) -> dict[str, int]:
        """Rows by cell: each bin or name, and those without a value."""
        if self.values is not None:
            return {**self.values, MISSING: self.missing}
        rows = [*(self.counts or []), self.missing]
        return dict(zip(self._ranges(), rows, strict=True))

    @property
    def n(self) -> int:
        """Rows in all."""
        return sum(self.values.values() if self.values else self.counts or []) + (
            self.missing
        )

    def _ranges(self) -> list[str]:
        ends = [
            f"{edge:,.0f}" if abs(edge) >= 1_000 else f"{edge:.4g}"
            for edge in self.edges or []
        ]
        inner = [f"{a} to {b}" for a, b in pairwise(ends)]
        return [f"up to {ends[0]}", *inner, f"over {ends[-1]}", MISSING]


class Drift(NamedTuple):
    """What came of a comparison; an alarm is a value above its limit."""

    value: float
    chance: float
    limit: float
    n: int
    moved: str

    @property
    def alarm(self) -> bool:
        """Whether the distance is more than chance and more than the floor."""
        return self.value > self.limit


def baseline_of(state: Figures | Values) -> Baseline | None:
    """Return a column's state as bins between its quantiles, or as names.

    None where there is nothing to hold others against: no value, or too many names.
    """
    if isinstance(state, Values):
        if not state.counts:
            return None
        return Baseline(values=state.counts, missing=state.missing)
    if not state.count:
        return None
    keys = np.array(sorted(state.buckets))
    rows = np.array([state.buckets[int(key)] for key in keys])
    reached = np.cumsum(rows)
    ends = np.searchsorted(reached, np.array(CUTS) * state.count)
    cuts = np.unique(keys[ends])
    cuts = cuts[cuts < keys[-1]]
    if len(cuts) < 2:  # nearly all one value: other values need bins of their own
        most = keys[rows.argmax()]
        cuts = np.array([most - 1, most])
    counts = np.bincount(np.searchsorted(cuts, keys), rows, minlength=len(cuts) + 1)
    return Baseline(
        edges=[float(f"{edge:.6g}") for edge in _upper(cuts)],
        counts=[int(n) for n in counts],
        missing=state.missing,
    )


def _upper(keys: Array) -> Array:
    """Return the upper end of each bucket."""
    middle = centres(keys)
    return np.where(keys == 0, 1e-9, middle * (1 + np.sign(keys) * (RATIO - 1) / 2))


def count_cells(baseline: Baseline, values: Array) -> dict[str, int]:
    """Return the rows of `values` (n,) by the cells of `baseline`, new names added."""
    if baseline.values is not None:
        state = measure_values(values)
        seen = dict.fromkeys(baseline.values, 0) | (state.counts or {})
        return {**seen, MISSING: state.missing}
    numbers = np.asarray(values, np.float64)
    there = numbers[np.isfinite(numbers)]
    edges = np.array(baseline.edges)
    # By the middle of its bucket a value falls on the side that the baseline chose.
    found = np.searchsorted(edges, centres(buckets(there)))
    counts = np.bincount(found, minlength=len(edges) + 1).tolist()
    return dict(zip(baseline.cells, [*counts, len(numbers) - len(there)], strict=True))


def compare(
    baseline: Baseline,
    counts: Mapping[str, int],
    *,
    statistic: Statistic,
    floor: float,
    false_alarm: float,
    seed: int,
) -> Drift:
    """Hold counts by cell against a baseline.

    Args:
        baseline: What was usual.
        counts: Rows by cell, from `count_cells`.
        statistic: js (Jensen-Shannon, bits), psi, ks or linf.
        floor: Distance below which a difference does not matter.
        false_alarm: Share of comparisons of equals that may exceed chance.
        seed: Of the simulated comparisons.
    """
    names = [*dict.fromkeys([*baseline.cells, *counts])]
    usual = np.array([baseline.cells.get(name, 0) for name in names])
    now = np.array([counts.get(name, 0) for name in names])
    value = float(distance(statistic, usual, now))
    chance = chance_limit(statistic, usual, now, false_alarm=false_alarm, seed=seed)
    shift = now / max(now.sum(), 1) - usual / usual.sum()
    most = int(np.abs(shift).argmax())
    moved = (
        f"{names[most]}: {usual[most] / usual.sum():.1%} before, "
        f"{now[most] / max(now.sum(), 1):.1%} now"
    )
    return Drift(value, chance, max(floor, chance), int(now.sum()), moved)


def distance(statistic: Statistic, usual: Array, now: Array) -> Array:
    """Return how far apart two sets of counts (..., cells) are as shares."""
    if statistic == "psi":
        # Half a row in each cell, as an empty one would make it infinite.
        usual, now = usual + 0.5, now + 0.5
    p = usual / np.maximum(usual.sum(axis=-1, keepdims=True), 1)
    q = now / np.maximum(now.sum(axis=-1, keepdims=True), 1)
    if statistic == "psi":
        return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1))
    if statistic == "ks":
        return np.asarray(np.abs(np.cumsum(q - p, axis=-1)).max(axis=-1))
    if statistic == "linf":
        return np.asarray(np.abs(q - p).max(axis=-1))
    middle = (p + q) / 2
    return np.asarray((_relative(p, middle) + _relative(q, middle)) / 2)


def _relative(p: Array, q: Array) -> Array:
    """Return the Kullback-Leibler divergence in bits; empty cells add nothing."""
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return np.asarray((p * np.log2(ratio)).sum(axis=-1))


def chance_limit(
    statistic: Statistic, usual: Array, now: Array, *, false_alarm: float, seed: int
) -> float:
    """Return the distance that sets of these sizes exceed by chance only that often.

    Were both drawn from the same images, which rows fell to which set would be a
    shuffle: given the pooled counts, the newer ones are hypergeometric. That holds at
    any size, and for names seen once, where asymptotic limits do not.
    """
    pooled, n = usual + now, int(now.sum())
    if n == 0 or n == pooled.sum():
        return math.inf
    if pooled.sum() >= MOST:
        part = (MOST - len(pooled)) / pooled.sum()
        pooled, n = (pooled * part).astype(np.int64), int(n * part)
    rng = np.random.default_rng(seed)
    draws = max(DRAWS, math.ceil(20 / false_alarm))
    drawn: Any = rng.multivariate_hypergeometric(pooled, n, draws, method="marginals")
    found = distance(statistic, pooled - drawn, drawn)
    return float(np.quantile(found, 1 - false_alarm, method="higher"))
