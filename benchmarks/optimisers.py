"""What each training option costs a step, and which learning rates suit: CIFAR-10.

    python benchmarks/optimisers.py                  # milliseconds and memory of a step
    python benchmarks/optimisers.py --rates          # top-1 by optimiser and rate

Steps are those of `sightline train` at 32 px with the default views, timed in rounds
that alternate, since a shared machine drifts. Memory is what XLA plans for a step
beside its inputs and results. Rates are tried on a part of the training file, the next
2,000 images validate. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DATA = Path(os.environ.get("SIGHTLINE_TEST_DATA", ROOT.parent / "shared" / "data"))
VIEW = {"mean": (0.491, 0.482, 0.447), "std": (0.247, 0.243, 0.262)}
VAL = 2_000
ARMS: dict[str, dict[str, Any]] = {
    "muon": {},
    "adamw": {"optimizer": "adamw"},
    "sgd": {"optimizer": "sgd"},
    "lion": {"optimizer": "lion"},
    "adamw, schedule_free": {"optimizer": "adamw", "schedule": "schedule_free"},
    "adamw, sam_radius .05": {"optimizer": "adamw", "sam_radius": 0.05},
    "adamw, bfloat16": {"optimizer": "adamw", "precision": "bfloat16"},
    "adamw, accumulate 2": {"optimizer": "adamw", "accumulate": 2},
    "adamw, accumulate 4": {"optimizer": "adamw", "accumulate": 4},
    "adamw, remat": {"optimizer": "adamw", "remat": True},
    "adamw, remat, accumulate 4": {
        "optimizer": "adamw",
        "remat": True,
        "accumulate": 4,
    },
}
RATES: dict[str, tuple[float, ...]] = {
    "adamw": (2e-3, 4e-3, 8e-3),
    "sgd": (0.03, 0.1, 0.3),
    "lion": (1e-4, 4e-4, 1e-3),
    "adamw schedule_free": (4e-3, 1e-2),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rates", action="store_true")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=5_000, help="of --rates")
    parser.add_argument("--epochs", type=int, default=5, help="of --rates")
    given = parser.parse_args()
    from models.steps import use_all_cores

    use_all_cores()
    found = rates(given) if given.rates else costs(given)
    print(json.dumps({"benchmark": "optimisers", **vars(given), "arms": found}))


def pictures(n: int) -> tuple[Any, Any]:
    """Return the first images (n 32 32 3) and labels (n,) of the training file."""
    import cv2
    import pyarrow.parquet as pq

    table = pq.read_table(DATA / "cifar10" / "train.parquet").slice(0, n)
    packed = (np.frombuffer(row["bytes"], np.uint8) for row in table["img"].to_pylist())
    images = np.stack([cv2.imdecode(one, cv2.IMREAD_COLOR_RGB) for one in packed])
    return images, np.asarray(table["label"]).astype(np.int32)


def costs(given: argparse.Namespace) -> dict[str, Any]:
    """Return the milliseconds and MiB of a step of every arm."""
    images, labels = pictures(given.batch_size)
    arms, spent = {}, {name: [] for name in ARMS}
    for name, change in ARMS.items():
        arms[name] = compiled(images, labels, change)
    for _ in range(given.rounds):
        for name, (run, _) in arms.items():
            start = time.perf_counter()
            run(given.steps)
            spent[name].append((time.perf_counter() - start) / given.steps * 1000)
    return {
        name: {
            "ms": round(min(spent[name]), 1),
            "ms_median": round(float(np.median(spent[name])), 1),
            "MiB": round(memory / 2**20, 1),
        }
        for name, (_, memory) in arms.items()
    }


def compiled(images: Any, labels: Any, change: dict[str, Any]) -> Any:
    """Return a function that takes some steps, and the bytes that a step needs."""
    import jax

    from models import steps
    from models.backbones import create_model
    from models.feed import place
    from models.objective import make_objective
    from models.optim import make_optimizer
    from models.recipe import Recipe

    recipe = Recipe(**change)
    mesh = steps.device_mesh(len(images))
    model = create_model("small", num_classes=10, image_size=32, seed=0)
    tx, _ = make_optimizer(recipe, 1000)
    graphdef, state = steps.create_state(model, tx, mesh=mesh)
    step = steps.make_train_step(
        graphdef,
        tx,
        augment=recipe.augment,
        **VIEW,
        ema=recipe.ema,
        objective=make_objective(smoothing=recipe.label_smoothing),
        seed=0,
        mesh=mesh,
        sam_radius=recipe.sam_radius,
        accumulate=recipe.accumulate,
        precision=recipe.precision,
        remat=recipe.remat,
    )
    weights = np.ones(len(labels), np.float32)
    places = np.arange(len(labels), dtype=np.int32)
    batch = place((images, labels, weights, places), mesh, split=True)
    program = step.lower(state, *batch).compile()
    holder = [program(state, *batch)[0]]

    def run(count: int) -> None:
        for _ in range(count):
            holder[0], _ = program(holder[0], *batch)
        jax.block_until_ready(holder[0])

    return run, program.memory_analysis().temp_size_in_bytes


def rates(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return validation top-1 of each optimiser and rate after a short training."""
    from models.backbones import create_model
    from models.feed import BatchSource
    from models.fit import FitSettings, fit
    from models.recipe import GENTLE, Recipe
    from models.recipe import RATES as OWN
    from models.steps import device_mesh

    images, labels = pictures(given.images + VAL)
    source = BatchSource(
        labels=labels,
        train_rows=np.arange(given.images),
        val_rows=np.arange(given.images, given.images + VAL),
        read=lambda rows: images[rows],
        chunk=256,
    )
    lines = []
    for arm, tried in RATES.items():
        optimizer, *schedule = arm.split()
        recipe = Recipe(
            optimizer=optimizer,
            schedule=schedule[0] if schedule else "cosine",
            weight_decay=OWN[optimizer][1],
            epochs=given.epochs,
            batch_size=given.batch_size,
            augment=GENTLE,
            ema=0.95,
        )
        for rate in tried:
            with tempfile.TemporaryDirectory() as folder:
                result = fit(
                    create_model("small", num_classes=10, image_size=32, seed=0),
                    source,
                    recipe=dataclasses.replace(recipe, learning_rate=rate),
                    settings=FitSettings(),
                    **VIEW,
                    run_dir=Path(folder),
                    mesh=device_mesh(given.batch_size),
                )
            top1 = [round(line["val_top1"], 3) for line in result.history]
            lines.append({"arm": arm, "rate": rate, "val_top1": top1})
            print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
    return lines


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
