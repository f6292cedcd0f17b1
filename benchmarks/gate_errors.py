"""How often the gate errs, beside a gate that compares point values.

    python benchmarks/gate_errors.py [sims=200] [out=gate_errors.jsonl]

Two simulated models of about 90 % top-1 whose answers differ on about 6 % of images
meet on test sets of 1,000 and 10,000 images, in four regions of 40, 30, 20 and 10 % of
them. The candidate is truly equal (A/A), worse everywhere by the points given, or worse
in the smallest region alone. The gate makes all its usual checks; every gate sees the
same draws. Finished arms are kept in `out` and not run again. Prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
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
REGIONS = (0.4, 0.3, 0.2, 0.1)
LOST = 0.15  # of the smallest region's top-1, where it alone is worse


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


def regions_of(n: int, *, seed: int) -> np.ndarray:
    """Return the region of each image, by name."""
    rng = np.random.default_rng([seed, n, 1])
    return np.array(list("abcd"), object)[rng.choice(4, n, p=REGIONS)]


def simulate(
    n: int, *, change: float, lost: float, sims: int, top1: float
) -> dict[str, Any]:
    """Return the shares of verdicts over `sims` pairs of models.

    Args:
        n: Images.
        change: True change of top-1 everywhere.
        lost: Share of the smallest region that the candidate gets wrong on top.
        sims: Pairs.
        top1: Top-1 of the champion.
    """
    verdicts, moved, differ, sliced, dropped = [], [], [], [], []
    for seed in range(sims):
        labels, candidate, champion = rivals(n, change=change, seed=seed, top1=top1)
        region = regions_of(n, seed=seed)
        luck = np.random.default_rng([seed, n, 2]).random(n)
        rows = np.flatnonzero((region == "d") & (luck < lost))
        candidate[rows] = np.roll(candidate[rows], 1, axis=1)
        arena = Arena("test", labels, candidate, champion, slices={"region": region})
        report = decide([arena], SETTINGS, name="m", champion=1)
        verdicts.append(report.verdict)
        slices = [c for c in report.checks if c.check == "test: slices"]
        sliced.append(any(c.verdict == Verdict.FAIL for c in slices))
        hits = [(probs.argmax(axis=1) == labels) for probs in (candidate, champion)]
        gain = hits[0].astype(float) - hits[1]
        moved.append(gain.mean())
        differ.append((gain != 0).mean())
        dropped.append(min(gain[region == name].mean() for name in "abcd"))
    found, worst = np.array(moved), np.array(dropped)
    return {
        "n": n,
        "change": change,
        "lost_in_a_tenth": lost,
        "mean_change": round(float(found.mean()), 4),
        "differ": round(float(np.mean(differ)), 4),
        **{str(verdict): verdicts.count(verdict) / sims for verdict in DECISIONS},
        "point_gate_blocks": float((found < 0).mean()),
        "slices_fail": float(np.mean(sliced)),
        "point_gate_with_margin_blocks": float((found < -SETTINGS.margin).mean()),
        "point_gate_of_slices_blocks": float((worst < -SETTINGS.margin).mean()),
    }


def arms(sims: int) -> list[dict[str, Any]]:
    """Return what is simulated, in order."""
    drops = [(change, 0.0) for change in CHANGES] + [(0.0, LOST)]
    return [
        {"n": n, "change": change, "lost": lost, "sims": sims}
        for n in SIZES
        for change, lost in drops
    ]


def main() -> None:
    """Simulate and print one JSON line."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    out = Path(given.get("out", "gate_errors.jsonl"))
    kept = [json.loads(line) for line in out.open()] if out.exists() else []
    done = {json.dumps(line["arm"], sort_keys=True): line["row"] for line in kept}
    labels, one, _ = rivals(100_000, change=0.0, seed=12345)
    top1 = float((one.argmax(axis=1) == labels).mean())
    start, rows = time.perf_counter(), []
    for arm in arms(int(given.get("sims", 200))):
        key = json.dumps(arm, sort_keys=True)
        if key not in done:
            done[key] = simulate(**arm, top1=top1)
            with out.open("a") as file:
                file.write(json.dumps({"arm": arm, "row": done[key]}) + "\n")
        print(done[key], file=sys.stderr)
        rows.append(done[key])
    print(
        json.dumps(
            {
                "benchmark": "gate_errors",
                "top1": round(top1, 4),
                "rows": rows,
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
