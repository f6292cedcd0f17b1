"""Time and accuracy of the default job on photos of groceries, from scratch.

    python benchmarks/grocery.py --seeds 3 --epochs 15,30,60

Every run starts in an empty workspace: ingest, cleaning, training at 64 px on the
official split, and evaluation on `test` all count. The seeds use the defaults; the
other budgets use the first seed. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GROCERY = ROOT.parent / "shared" / "data" / "grocery" / "manifest.csv"
# Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom.
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
# The data's README: ResNet of 0.7 M weights, AdamW one-cycle, 30 epochs, one seed.
PYTORCH = {"epochs": 30, "top1": 0.585, "images_per_second": 220}


def job(data: Path, *, seed: int, epochs: int | None) -> dict[str, Any]:
    """Run the command in an empty workspace."""
    with tempfile.TemporaryDirectory() as place:
        words = [f"data={data}", "name=grocery", f"train.seed={seed}", "--json"]
        if epochs:
            words.append(f"train.epochs={epochs}")
        environment = os.environ | {"SIGHTLINE_HOME": f"{place}/workspace"}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "flows", "train", *words],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - start
        answer = json.loads(done.stdout)
        folder = Path(answer["report"]).parent
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    top1 = answer["metrics"]["top1"]
    return {
        "seed": seed,
        "epochs": len(history),
        "minutes": round(seconds / 60, 2),
        "train_minutes": round(sum(line["seconds"] for line in history) / 60, 2),
        "test_top1": round(top1["value"], 4),
        "test_interval": [round(top1["low"], 4), round(top1["high"], 4)],
        "best_val_top1": round(max(line["val_top1"] for line in history), 4),
        "curve": curve(history),
    }


def curve(history: list[dict[str, Any]], *, points: int = 12) -> list[list[float]]:
    """Return minutes of training and validation top-1 at evenly spaced epochs."""
    spent, seen = 0.0, []
    for line in history:
        spent += line["seconds"] / 60
        seen.append([round(spent, 2), round(line["val_top1"], 4)])
    step = max(1, len(seen) // points)
    return seen[step - 1 :: step]


def main() -> None:
    """Run and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=GROCERY)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", default="15,30,60", help="may be empty")
    given = parser.parse_args()
    runs = [job(given.data, seed=seed, epochs=None) for seed in range(given.seeds)]
    budgets = [int(word) for word in given.epochs.split(",") if word]
    shorter = [job(given.data, seed=0, epochs=epochs) for epochs in budgets]
    found = [run["test_top1"] for run in runs]
    half = (
        T95[len(found) - 2] * statistics.stdev(found) / math.sqrt(len(found))
        if len(found) > 1
        else float("nan")
    )
    print(
        json.dumps(
            {
                "benchmark": "grocery",
                "test_top1": round(statistics.mean(found), 4),
                "interval_over_seeds": [
                    round(statistics.mean(found) - half, 4),
                    round(statistics.mean(found) + half, 4),
                ],
                "minutes": round(statistics.median(r["minutes"] for r in runs), 2),
                "runs": runs,
                "shorter": shorter,
                "pytorch": PYTORCH,
            }
        )
    )


if __name__ == "__main__":
    main()
