"""Whether "would more images help?" tells the truth: half the images foretell all.

    export SIGHTLINE_HOME=/tmp/more
    python benchmarks/more_data.py --data cifar10 --images 8000 --epochs 24
    python benchmarks/more_data.py --data grocery --size 48 --epochs 60

Trains `small` on an eighth, a quarter, a half and all of the labelled training images,
as many views each, and asks at a half what twice as many would bring: by heads on its
features, as the report does, and by a power law through the three networks. The truth
is the network of all images. Judged on validation images throughout. What is there
already under SIGHTLINE_HOME is not done again. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from transfer import DATA, thinned  # noqa: E402  (a benchmark beside this one)

SHARES = (0.125, 0.25, 0.5, 1.0)


def source_of(given: Any, home: Path, share: float) -> tuple[str, dict[str, Any]]:
    """Return the images with a share of those to train on, and how to list them."""
    if given.data == "grocery":
        place = thinned(home / f"grocery-{share}.csv", share=share)
        return str(place), {"root": str(DATA / "grocery")}
    import pyarrow.parquet as pq

    folder = home / f"cifar-{share}"
    folder.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(DATA / "cifar10" / "train.parquet")
    parts = {
        "train": table.slice(0, round(share * given.images)),
        "val": table.slice(given.images, given.judges),
        "test": table.slice(given.images + given.judges, 500),
    }
    for split, part in parts.items():
        if not (folder / f"{split}.parquet").exists():
            pq.write_table(part, folder / f"{split}.parquet")
    return str(folder), {}


def trained_on(given: Any, home: Path, *, share: float, seed: int) -> Any:
    """Return the snapshot and the run of one share."""
    from flows import workspace
    from flows.result import Clock
    from flows.stages import StageSettings, prepare
    from tasks.decode import DecodeSettings
    from tasks.listing import SourceSettings
    from tasks.train import train_model
    from tasks.train_settings import TrainSettings

    place, listing = source_of(given, home, share)
    name = f"{given.data}-{share}"
    datasets, _ = prepare(
        place,
        StageSettings(
            source=SourceSettings(**listing),
            decode=DecodeSettings(image_size=given.size),
        ),
        uri=workspace.dataset_uri(name),
        clock=Clock(),
    )
    settings = TrainSettings(epochs=round(given.epochs / share), seed=seed, patience=0)
    runs = str(workspace.runs_root())
    return datasets["split"], train_model(
        datasets["split"], settings, name=name, runs=runs
    )


def missed(source: Any, trained: Any) -> tuple[Any, Any, Any]:
    """Return which validation images a run misses, their groups, and its images."""
    from data_contracts.store import Dataset
    from tasks.inference import Predictor, predict_rows
    from tasks.lessons import class_of_rows, labels_to_learn, pick_rows
    from tasks.split import VAL

    dataset = Dataset(source)
    names = dataset.names("label_names")
    ids = [names.index(name) for name in trained.classes]
    classes = class_of_rows(dataset, ids, labels_to_learn(dataset))
    rows = np.flatnonzero((dataset.column("use") == VAL) & (classes >= 0))
    predictor = Predictor.load(trained.model)
    probs = np.concatenate([p for _, p in predict_rows(predictor, dataset, rows)])
    train = pick_rows(dataset, replay=None, seed=0)
    return probs.argmax(1) != classes[rows], (dataset, classes, rows, train), predictor


def told(given: Any, home: Path, *, seed: int) -> dict[str, Any]:
    """Return what was foretold at a half, and what came."""
    from tasks.fit_words import LEVEL
    from tasks.learning_curve import gain_of_more
    from tasks.summary_fit import more_images

    wrong, sizes, heads = {}, [], None
    for share in SHARES:
        source, trained = trained_on(given, home, share=share, seed=seed)
        wrong[share], (dataset, classes, val, train), predictor = missed(
            source, trained
        )
        sizes.append(len(train))
        error = wrong[share].mean()
        print(f"seed {seed} share {share}: error {error:.3f}", file=sys.stderr)
        if share == 0.5:
            heads = more_images(predictor, dataset, train, val, classes=classes)
            groups = dataset.column("group")[val].astype(np.int64)
    curve = np.stack([wrong[share] for share in SHARES[:3]])[:, None].astype(float)
    network = gain_of_more(
        sizes[:3], curve, groups=groups, times=2.0, level=LEVEL, seed=0
    )
    truth = wrong[0.5].astype(float) - wrong[1.0]
    half = 1.96 * truth.std() / np.sqrt(len(truth))
    mean = truth.mean()
    return {
        "seed": seed,
        "training_images": sizes,
        "error": [round(float(wrong[share].mean()), 4) for share in SHARES],
        "gain_true": [round(float(v), 4) for v in (mean, mean - half, mean + half)],
        "gain_by_heads": [round(v, 4) for v in (heads.value, heads.low, heads.high)],
        "gain_by_networks": [round(float(v), 4) for v in network],
    }


def main() -> None:
    """Train what is missing and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", choices=("cifar10", "grocery"), default="cifar10")
    parser.add_argument("--images", type=int, default=8_000, help="of cifar10")
    parser.add_argument("--judges", type=int, default=2_000, help="of cifar10")
    parser.add_argument("--epochs", type=int, default=24, help="on all images")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    logging.getLogger("sightline").setLevel(logging.WARNING)
    home = Path(os.environ["SIGHTLINE_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    found = [told(given, home, seed=seed) for seed in range(given.seeds)]
    print(json.dumps({"benchmark": "more_data", **vars(given), "runs": found}))


if __name__ == "__main__":
    main()
