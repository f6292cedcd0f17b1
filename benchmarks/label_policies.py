"""What each policy for wrong labels does to accuracy: groceries, 20 % of them wrong.

    SIGHTLINE_HOME=/tmp/policies python benchmarks/label_policies.py --seeds 2

A share of the training and validation labels is changed to the next class (pairwise);
the test labels stay. Arms: all labels right, nothing done (`flag`), the policies
`weight`, `relabel` and `drop`, and the generalised loss without an audit. The encoder
behind the audit is the quick fit of `embed`, as in a first run. What is there already
under SIGHTLINE_HOME is not done again. Differences are paired over test images and
taken over seeds, by bootstrap. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
GROCERY = ROOT.parent / "shared" / "data" / "grocery" / "manifest.csv"
ARMS: dict[str, dict[str, Any]] = {
    "all right": {"policy": "off"},
    "flag": {},
    "weight": {},
    "relabel": {},
    "drop": {},
    "generalised": {"policy": "off", "loss": "generalised"},
}


def spoil(out: Path, *, rate: float) -> None:
    """Write the manifest with a share of training and validation labels wrong."""
    with GROCERY.open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = sorted({row["label"] for row in rows})
    kind = {row["label"]: row["coarse_label"] for row in rows}
    draws = np.random.default_rng(0).random(len(rows))
    for row, draw in zip(rows, draws, strict=True):
        if draw < rate and row["split"] in {"train", "val"}:
            row["label"] = labels[(labels.index(row["label"]) + 1) % len(labels)]
            row["coarse_label"] = kind[row["label"]]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def answers(arm: str, *, home: Path, size: int, epochs: int, seed: int) -> Any:
    """Train one arm; return which test images it gets right."""
    kept = home / f"{arm}-{size}-{epochs}-{seed}.npy"
    if not kept.exists():
        np.save(kept, trained(arm, home=home, size=size, epochs=epochs, seed=seed))
    return np.load(kept)


def trained(arm: str, *, home: Path, size: int, epochs: int, seed: int) -> Any:
    """Run the stages of one arm."""
    from data_contracts.store import Dataset
    from flows.result import Clock
    from flows.stages import StageSettings, curate, last, prepare
    from tasks.decode import DecodeSettings
    from tasks.inference import Predictor, predict_rows
    from tasks.label_audit import AuditSettings
    from tasks.listing import SourceSettings
    from tasks.split import TEST
    from tasks.train import train_model
    from tasks.train_settings import TrainSettings

    given = dict(ARMS[arm])
    settings = StageSettings(
        source=SourceSettings(root=str(GROCERY.parent)),
        decode=DecodeSettings(image_size=size),
        audit=AuditSettings(wrong_labels=given.pop("policy", arm)),
        train=TrainSettings(epochs=epochs, seed=seed, patience=0, **given),
    )
    name = "right" if arm == "all right" else "wrong"
    manifest, clock = home / f"{name}.csv", Clock()
    uri = str(home / "datasets" / name)
    datasets, _ = prepare(str(manifest), settings, uri=uri, clock=clock)
    source = last(curate(datasets, settings, name=name, clock=clock))
    found = train_model(source, settings.train, name=name, runs=str(home / "runs"))
    dataset = Dataset(source)
    columns = dataset.columns("use", "label")
    rows = np.flatnonzero(columns["use"] == TEST)
    predictor = Predictor.load(found.model)
    probs = np.concatenate([p for _, p in predict_rows(predictor, dataset, rows)])
    names = np.array(dataset.names("label_names"), object)[columns["label"][rows]]
    return np.array(predictor.classes, object)[probs.argmax(1)] == names


def gain(right: Any, base: Any) -> dict[str, Any]:
    """Return top-1, and the gain over `base` with its interval; both (seeds, n)."""
    rng = np.random.default_rng(0)
    other = (right - base).mean(0)
    n = len(other)
    draws = other[rng.integers(0, n, (2_000, n))].mean(1)
    return {
        "top1": round(float(right.mean()), 4),
        "by_seed": [round(float(r.mean()), 4) for r in right],
        "gain": round(float(other.mean()), 4),
        "interval": [round(float(q), 4) for q in np.quantile(draws, (0.025, 0.975))],
    }


def main() -> None:
    """Run the arms that are missing and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    logging.getLogger("sightline").setLevel(logging.WARNING)
    home = Path(os.environ["SIGHTLINE_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    spoil(home / "right.csv", rate=0.0)
    spoil(home / "wrong.csv", rate=given.rate)
    options = {"home": home, "size": given.size, "epochs": given.epochs}
    right = {
        arm: np.stack([answers(arm, **options, seed=s) for s in range(given.seeds)])
        * 1.0
        for arm in ARMS
    }
    arms = {arm: gain(found, right["flag"]) for arm, found in right.items()}
    print(json.dumps({"benchmark": "label_policies", **vars(given), "arms": arms}))


if __name__ == "__main__":
    main()
