"""What each loss makes of wrong labels: CIFAR-10, 10,000 images, 40 % of them flipped.

    python benchmarks/robust_losses.py --epochs 20

Labels of the training file are flipped to another class, each as likely; a tenth of
the images, flips included, validate; the 10,000 test images keep their labels. Settings
of the losses are the papers'; none was tuned. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from imbalance import DATA, figures_of  # a benchmark beside this one

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
N, CLASSES = 10_000, 10
ARMS: dict[str, dict[str, Any]] = {
    "cross_entropy, smoothing .1": {},
    "cross_entropy": {"label_smoothing": 0.0},
    "generalised": {"loss": "generalised"},
    "symmetric": {"loss": "symmetric"},
    "bootstrap": {"loss": "bootstrap"},
    "focal": {"loss": "focal"},
    "early_learning": {"loss": "early_learning"},
}


def flipped(folder: Path, rate: float) -> Path:
    """Write the first images of CIFAR-10 with a share of flipped labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        table = pq.read_table(DATA / "cifar10" / f"{split}.parquet")
        if split == "train":
            table = table.slice(0, N)
            random = np.random.default_rng(0)
            label = np.asarray(table["label"])
            other = (label + random.integers(1, CLASSES, N)) % CLASSES
            label = np.where(random.random(N) < rate, other, label)
            place = table.schema.get_field_index("label")
            kind = table.schema.field("label")
            table = table.set_column(place, kind, pa.array(label, kind.type))
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


def main() -> None:
    """Train with every loss and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--home", type=Path, default=Path("/tmp/robust"))
    given = parser.parse_args()
    os.environ["SIGHTLINE_HOME"] = str(given.home)
    logging.getLogger("sightline").setLevel(logging.WARNING)
    from flows import workspace
    from flows.result import Clock
    from flows.stages import StageSettings, prepare
    from tasks.decode import DecodeSettings
    from tasks.train import train_model
    from tasks.train_settings import TrainSettings

    workspace.prepare()
    datasets, _ = prepare(
        str(flipped(given.home / f"noise{given.rate}", given.rate)),
        StageSettings(decode=DecodeSettings(image_size=32)),
        uri=workspace.dataset_uri(f"cifar{given.rate}"),
        clock=Clock(),
    )
    lines = []
    for seed in range(given.seeds):
        for arm, settings in ARMS.items():
            start = time.perf_counter()
            trained = train_model(
                datasets["split"],
                TrainSettings(epochs=given.epochs, seed=seed, **settings),
                name="cifar",
                runs=str(workspace.runs_root()),
            )
            figures = figures_of(datasets["split"], trained)
            kept = {name: figures[name] for name in ("top1", "ece")}
            seconds = round(time.perf_counter() - start, 1)
            last = trained.history[-1]["val_top1"]
            lines.append(
                {"arm": arm, "seed": seed, "seconds": seconds}
                | {"epoch": trained.best_epoch, "noisy_val_top1": last}
                | kept
            )
            print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
    answer = {"benchmark": "robust_losses", "rate": given.rate, "epochs": given.epochs}
    print(json.dumps(answer | {"arms": lines}))


if __name__ == "__main__":
    main()
