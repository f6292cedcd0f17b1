"""False and missed alarms of drift rules, beside fixed limits on PSI.

    python benchmarks/drift.py [sims=600]

A reference and a later set of n images each are drawn from the same normal figure
(A/A), or the later one is changed as named. `ks alone` and `js alone` alarm above
chance at this n; `ours` by either, at half the false alarms each; `rule` also asks for
the smallest distance that matters, as contracts do. PSI over ten reference deciles
with limits 0.1 and 0.2 is the usual rule of thumb. A second part does the same for 50
classes of unequal size. Prints one JSON line of alarm rates.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from data_contracts.drift import (
    FIGURES,
    FLOORS,
    baseline_of,
    compare,
    count_cells,
    distance,
)
from data_contracts.sketch import measure_figures, measure_values

SIZES = (200, 1_000, 5_000, 50_000)
CLASSES = 50
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def foreign(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the figures with 5 % of them far outside, as black pictures are."""
    return np.where(rng.random(len(values)) < 0.05, 5.0, values)


CHANGES: dict[str, Change] = {
    "none": lambda values, rng: values,
    "shift 0.1 sigma": lambda values, rng: values + 2,
    "shift 0.2 sigma": lambda values, rng: values + 4,
    "shift 0.5 sigma": lambda values, rng: values + 10,
    "spread x 1.2": lambda values, rng: 128 + 1.2 * (values - 128),
    "5 % foreign": foreign,
}


def psi_of_deciles(usual: np.ndarray, now: np.ndarray) -> float:
    """Return PSI over ten bins between the deciles of the reference."""
    edges = np.quantile(usual, np.arange(1, 10) / 10)
    counts = [
        np.bincount(np.searchsorted(edges, v), minlength=10) for v in (usual, now)
    ]
    return float(distance("psi", *counts))


def figures(n: int, change: Change, *, sims: int) -> dict[str, float]:
    """Return how often each rule alarms on a figure."""
    alarms: dict[str, int] = {}
    for sim in range(sims):
        rng = np.random.default_rng([n, sim])
        usual = rng.normal(128, 20, n)
        now = change(rng.normal(128, 20, n), rng)
        baseline = baseline_of(measure_figures(usual))
        assert baseline is not None
        counts = count_cells(baseline, now)
        alone, either, ruled = {"floor": 0.0, "seed": sim}, False, False
        for statistic in FIGURES:
            whole = compare(
                baseline, counts, statistic=statistic, false_alarm=0.01, **alone
            )
            half = compare(
                baseline, counts, statistic=statistic, false_alarm=0.005, **alone
            )
            either |= half.alarm
            ruled |= half.alarm and half.value > FLOORS[statistic]
            _count(alarms, f"{statistic} alone", whole.alarm)
        _count(alarms, "ours", either)
        _count(alarms, "rule", ruled)
        psi = psi_of_deciles(usual, now)
        _count(alarms, "psi 0.1", psi > 0.1)
        _count(alarms, "psi 0.2", psi > 0.2)
    return {rule: round(n_alarms / sims, 4) for rule, n_alarms in alarms.items()}


def names(n: int, *, moved: bool, sims: int) -> dict[str, float]:
    """Return how often each rule alarms on classes, a fifth of them halved or not."""
    share = 1 / np.arange(1, CLASSES + 1)
    later = share * np.where(np.arange(CLASSES) % 5 == 0, 0.5 if moved else 1, 1)
    alarms: dict[str, int] = {}
    for sim in range(sims):
        rng = np.random.default_rng([n, sim, 1])
        sets = [
            rng.choice(CLASSES, n, p=weights / weights.sum()).astype(str)
            for weights in (share, later)
        ]
        baseline = baseline_of(measure_values(sets[0]))
        assert baseline is not None
        counts = count_cells(baseline, sets[1])
        found = compare(
            baseline, counts, statistic="js", floor=0, false_alarm=0.01, seed=sim
        )
        cells = sorted({*baseline.cells, *counts})
        usual = np.array([baseline.cells.get(cell, 0) for cell in cells])
        psi = distance("psi", usual, np.array([counts.get(cell, 0) for cell in cells]))
        _count(alarms, "ours", found.alarm)
        _count(alarms, "rule", found.alarm and found.value > FLOORS["js"])
        _count(alarms, "psi 0.1", psi > 0.1)
        _count(alarms, "psi 0.2", psi > 0.2)
    return {rule: round(n_alarms / sims, 4) for rule, n_alarms in alarms.items()}


def _count(alarms: dict[str, int], rule: str, alarm: Any) -> None:
    alarms[rule] = alarms.get(rule, 0) + bool(alarm)


def main(words: list[str]) -> None:
    """Simulate every size and change; print the rates."""
    sims = int(dict(word.split("=") for word in words).get("sims", "600"))
    start, rates = time.monotonic(), {}
    for n in SIZES:
        for name, change in CHANGES.items():
            runs = sims if name == "none" else max(sims // 6, 1)
            rates[f"{n} figures, {name}"] = figures(n, change, sims=runs)
        rates[f"{n} classes, none"] = names(n, moved=False, sims=sims // 2)
        rates[f"{n} classes, a fifth halved"] = names(n, moved=True, sims=sims // 6)
    seconds = round(time.monotonic() - start, 1)
    print(json.dumps({"sims": sims, "seconds": seconds, "alarms": rates}))


if __name__ == "__main__":
    main(sys.argv[1:])
