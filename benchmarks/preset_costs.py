"""Memory and time of every network, a step and a prediction, as a table.

    python benchmarks/preset_costs.py

Memory is what XLA plans for a training step of the defaults (Muon, float32, views of
full size), a device's weights, optimiser and batch included; nothing runs for it.
Times are those of the faster of two training steps and of two predictions of `--timed`
images. Each cell runs by itself, ends after `--patience` seconds, and is kept under
`--out`, so that a rerun goes on; what is missing when `--minutes` are over shows a
dash. Prints the table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
VIEW = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
BATCHES = {64: 32, 224: 8}


def measured(preset: str, *, side: int, batch: int, timed: int) -> dict[str, Any]:
    """Return the planned bytes of a step, and seconds of a step and a prediction."""
    import jax

    from models.room import planned
    from models.steps import make_predict

    step, state, graphdef = built(preset, side=side, batch=batch)
    start = time.perf_counter()
    program = step.lower(state, *examples(batch, side)).compile()
    line: dict[str, Any] = {
        "preset": preset,
        "side": side,
        "batch": batch,
        "plan_mib": round(planned(program) / 2**20, 1),
        "compile": round(time.perf_counter() - start, 1),
    }
    weights = jax.tree.map(lambda leaf: leaf.copy(), state.ema)
    predict = make_predict(graphdef, **VIEW)
    images = examples(timed, side)[0]
    line["predict_ms"] = round(1000 * fastest(predict, *weights, images), 1)
    spent = []
    for _ in range(2):
        start = time.perf_counter()
        state, seen = program(state, *examples(batch, side))
        jax.block_until_ready((state, seen))
        spent.append(time.perf_counter() - start)
        if spent[-1] > 20:
            break
    return line | {"step_ms": round(1000 * min(spent), 1)}


def built(preset: str, *, side: int, batch: int) -> tuple[Any, Any, Any]:
    """Return the step of the defaults, a state to begin from, and the structure."""
    import numpy as np

    from models.backbones import create_model
    from models.epoch import step_of
    from models.optim import by_parts, make_optimizer
    from models.recipe import Augment, Recipe
    from models.steps import create_state

    recipe = Recipe(preset=preset, batch_size=batch, augment=Augment(resolution=1))
    model = create_model(preset, num_classes=100, image_size=side, seed=0)
    tx, _ = make_optimizer(recipe, 100)
    tx = by_parts(tx, recipe, model, steps=100)
    graphdef, state = create_state(model, tx)
    step = step_of(
        recipe,
        (graphdef, tx),
        counts=np.ones(100, np.int64),
        steps=100,
        seed=0,
        **VIEW,
    )
    return step, state, graphdef


def examples(n: int, side: int) -> tuple[Any, ...]:
    """Return a batch of noise: images, labels, weights, places."""
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (n, side, side, 3))
    zeros = np.zeros(n, np.int32)
    return images.astype(np.uint8), zeros, np.ones(n, np.float32), zeros


def fastest(function: Any, *given: Any) -> float:
    """Return the seconds of the faster of two calls after one to compile."""
    import jax

    jax.block_until_ready(function(*given))
    spent = []
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(function(*given))
        spent.append(time.perf_counter() - start)
    return min(spent)


def cell(preset: str, side: int, given: argparse.Namespace) -> dict[str, Any] | None:
    """Return a cell that was measured before or is now; None where it failed."""
    path = Path(given.out) / f"{preset}-{side}.json"
    if not path.exists():
        words = [preset, str(side), str(BATCHES[side]), str(given.timed)]
        try:
            done = subprocess.run(
                [sys.executable, __file__, "--cell", ",".join(words)],
                stdout=subprocess.PIPE,
                text=True,
                timeout=given.patience,
                check=True,
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            print(f"{preset} at {side} px: {error}", file=sys.stderr, flush=True)
            return None
        path.write_text(done.stdout.splitlines()[-1])
        print(path.read_text(), file=sys.stderr, flush=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="/tmp/preset_costs")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--patience", type=float, default=90, help="seconds a cell")
    parser.add_argument("--timed", type=int, default=8, help="images of a prediction")
    parser.add_argument("--sides", default="64,224")
    parser.add_argument("--presets", default="", help="all")
    parser.add_argument("--cell", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cell:
        preset, *numbers = given.cell.split(",")
        side, batch, timed = map(int, numbers)
        print(json.dumps(measured(preset, side=side, batch=batch, timed=timed)))
        return
    from models.presets import PRESETS

    Path(given.out).mkdir(parents=True, exist_ok=True)
    end, lines = time.monotonic() + 60 * given.minutes, []
    sides = [int(side) for side in given.sides.split(",")]
    names = given.presets.split(",") if given.presets else list(PRESETS)
    for side in sides:
        for preset in names:
            kept = (Path(given.out) / f"{preset}-{side}.json").exists()
            if kept or time.monotonic() < end:
                lines.append(cell(preset, side, given))
    print(table(names, sides, [line for line in lines if line]))
    print(json.dumps({"benchmark": "preset_costs", "cells": lines}))


def table(names: list[str], sides: list[int], lines: list[dict[str, Any]]) -> str:
    """Return the cells as a Markdown table, a row a network."""
    found = {(line["preset"], line["side"]): line for line in lines}
    heads = [
        f"{what}, {side} px, {BATCHES[side]} images"
        for side in sides
        for what in ("MiB of a step", "s a step")
    ]
    heads += [f"ms to predict, {side} px" for side in sides]
    rows = [f"| preset | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in names:
        each = [found.get((name, side)) for side in sides]
        cells = [name]
        for line in each:
            cells += (
                [f"{line['plan_mib']:,.0f}", f"{line['step_ms'] / 1000:.2f}"]
                if line
                else ["–", "–"]
            )
        cells += [f"{line['predict_ms']:.0f}" if line else "–" for line in each]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
