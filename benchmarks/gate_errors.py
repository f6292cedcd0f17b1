"""How often the gate errs, beside a gate that compares point values.

    python benchmarks/gate_errors.py [sims=200]

Two simulated models of about 90 % top-1 whose answers differ on about 6 % of images
meet on test sets of 1,000 and 10,000 images. The candidate is truly equal (A/A), or
worse by the points given. Every gate sees the same draws; prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from data_contracts.references import Verdict
from tasks.arena import Arena
from tasks.gate import GateSettings, decide

CLASSES = 10
SIZES = (1_000, 10_000)
DECISIONS = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL)
SETTINGS = GateSettings(draws=500)  # of 2,000, to simulate more pairs
CHANGES = (0.0, -0.01, -0.03)  # of top-1, candidate less champion


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return class probabilities."""
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def rivals(
    n: int, *, change: float, seed: int, top1: float = 0.9
) -> tuple[np.ndarray, ...]:
    """Return labels and the probs of a candidate and a champion.

    Args:
        n: Images.
        change: True top-1 of the candidate less that of the champion.
        seed: Seed.
        top1: Top-1 of the champion, from which `change` is made up.
    """
    rng = np.random.default_rng([seed, n])
    labels = rng.integers(0, CLASSES, n)
    rows = np.arange(n)
    shared = rng.normal(size=(n, CLASSES))
    shared[rows, labels] += 3.1
    one, two = (shared + 0.33 * rng.normal(size=(n, CLASSES)) for _ in range(2))
    right = one.argmax(axis=1) == labels
    # Of the images it could lose (or gain), as many as make the change on average.
    able = right if change < 0 else ~right
    share = abs(change) / (top1 if change < 0 else 1 - top1)
    moved = rows[able & (rng.random(n) < share)]
    target = (labels + 1) % CLASSES if change < 0 else labels
    one[moved, target[moved]] = one[moved].max(axis=1) + 0.3
    return labels, softmax(2 * one), softmax(2 * two)


def simulate(n: int, *, change: float, sims: int, top1: float) -> dict[str, Any]:
    """Return the shares of verdicts over `sims` pairs of models."""
    verdicts, moved, differ = [], [], []
    for seed in range(sims):
        labels, candidate, champion = rivals(n, change=change, seed=seed, top1=top1)
        arena = Arena("test", labels, candidate, champion)
        report = decide([arena], SETTINGS, name="m", champion=1)
        verdicts.append(report.verdict)
        hits = [(probs.argmax(axis=1) == labels) for probs in (candidate, champion)]
        moved.append(hits[0].mean() - hits[1].mean())
        differ.append((hits[0] != hits[1]).mean())
    found = np.array(moved)
    return {
        "n": n,
        "change": change,
        "mean_change": round(float(found.mean()), 4),
        "differ": round(float(np.mean(differ)), 4),
        **{str(verdict): verdicts.count(verdict) / sims for verdict in DECISIONS},
        "point_gate_blocks": float((found < 0).mean()),
        "point_gate_with_margin_blocks": float((found < -SETTINGS.margin).mean()),
    }


def main() -> None:
    """Simulate and print one JSON line."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    sims = int(given.get("sims", 200))
    labels, one, _ = rivals(100_000, change=0.0, seed=12345)
    top1 = float((one.argmax(axis=1) == labels).mean())
    start = time.perf_counter()
    rows = [
        simulate(n, change=change, sims=sims, top1=top1)
        for n in SIZES
        for change in CHANGES
    ]
    print(
        json.dumps(
            {
                "benchmark": "gate_errors",
                "sims": sims,
                "top1": round(top1, 4),
                "rows": rows,
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
