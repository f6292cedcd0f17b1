"""How many predictions a second a tally adds up, and how much memory that takes.

    python benchmarks/tally.py [n=10000000] [classes=100] [out=tally.json]

Random predictions of `classes` classes come in batches of 8,192, as from a store; then
every figure is made, and the tally is made again in two halves that are merged, a
twentieth as long, which must come to the same bits. Prints one JSON line.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tasks.tallied import measure
from tasks.tally import Tally

BATCH = 8_192


def batches(n: int, k: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield probs, labels and group keys; each group holds four images."""
    for start in range(0, n, BATCH):
        rng = np.random.default_rng(start)
        m = min(BATCH, n - start)
        labels = rng.integers(0, k, m)
        logits = rng.normal(size=(m, k)).astype(np.float32)
        logits[np.arange(m), labels] += 3
        grown = np.exp(logits)
        probs = grown / grown.sum(axis=1, keepdims=True)
        yield probs, labels, (start + np.arange(m)) // 4


def peak() -> float:
    """Return the most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Add up, measure, compare halves, print one JSON line."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    n, k = int(given.get("n", 10_000_000)), int(given.get("classes", 100))
    before, spent = peak(), 0.0
    tally = Tally(k)
    for i, (probs, labels, groups) in enumerate(batches(n, k)):
        start = time.perf_counter()
        tally.update(probs, labels, groups=groups)
        spent += time.perf_counter() - start
        if i % 100 == 0:
            print(f"{tally.n:,} predictions, {peak():.0f} MB", file=sys.stderr)
    start = time.perf_counter()
    names = [str(i) for i in range(k)]
    found = measure(tally, names=names)
    seconds = time.perf_counter() - start
    whole, halves = Tally(k), [Tally(k), Tally(k)]
    for i, (probs, labels, groups) in enumerate(batches(n // 20, k)):
        whole.update(probs, labels, groups=groups)
        halves[i % 2].update(probs, labels, groups=groups)
    merged = halves[1].merge(halves[0])
    same = measure(merged, names=names) == measure(whole, names=names)
    line = {
        "benchmark": "tally",
        "n": n,
        "classes": k,
        "predictions_per_second": round(n / spent),
        "seconds_of_figures": round(seconds, 1),
        "peak_mb": round(peak()),
        "mb_before": round(before),
        "rank_error": found.rank_error,
        "halves_merge_to_the_same_bits": same,
    }
    Path(given.get("out", "tally.json")).write_text(json.dumps(line))
    print(json.dumps(line))


if __name__ == "__main__":
    main()
