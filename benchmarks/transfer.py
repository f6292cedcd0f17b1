"""What a start brings to groceries: from CIFAR-10, or from photos without labels.

    SIGHTLINE_HOME=/tmp/transfer python benchmarks/transfer.py --epochs 20 --size 48

Trains `small` on 20,000 images of CIFAR-10 and registers it; and on all 2,640 training
photos of groceries without their labels. Then learns groceries (the official split)
from all, a quarter and a tenth of the labelled training photos of each class: from
scratch, from either weights whole, by a head alone, and with the head fitted first.
Arms of one share see the same photos and as many views, probes aside; fewer photos get
more epochs. What is there already under SIGHTLINE_HOME is not done again.
Prints one JSON line.
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
DATA = ROOT.parent / "shared" / "data"
SHARES = (1.0, 0.25, 0.1)
UNLABELLED = "run:"
ARMS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "fine-tuned": {"init": "cifar@1"},
    "fine-tuned, .21 of the rate": {"init": "cifar@1", "learning_rate": 6e-4},
    "head alone": {"init": "cifar@1", "freeze": "backbone"},
    "probe": {"init": "cifar@1", "probe": "only"},
    "probe first": {"init": "cifar@1", "probe": "first"},
    "probe first, unfrozen in .3": {
        "init": "cifar@1",
        "probe": "first",
        "unfreeze": 0.3,
    },
    "no labels, probe": {"init": UNLABELLED, "probe": "only"},
    "no labels, fine-tuned": {"init": UNLABELLED},
}


def pretrain(folder: Path, *, images: int, epochs: int, size: int) -> None:
    """Register `cifar@1`."""
    import pyarrow.parquet as pq

    from flows.train import TrainConfig, run
    from tasks.decode import DecodeSettings
    from tasks.train_settings import TrainSettings

    folder.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", images), ("test", 2_000)):
        out = folder / f"{split}.parquet"
        if not out.exists():
            table = pq.read_table(DATA / "cifar10" / f"{split}.parquet")
            pq.write_table(table.slice(0, n), out)
    run(
        TrainConfig(
            data=str(folder),
            name="cifar",
            decode=DecodeSettings(image_size=size),
            train=TrainSettings(epochs=epochs, patience=0),
        )
    )


def thinned(out: Path, *, share: float) -> Path:
    """Write the manifest with a share of each class's training photos, one at least."""
    if out.exists():
        return out
    with (DATA / "grocery" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = np.random.default_rng(0).permutation(len(rows))
    size: dict[str, int] = {}
    for row in rows:
        if row["split"] == "train":
            size[row["label"]] = size.get(row["label"], 0) + 1
    left = {label: max(1, round(share * n)) for label, n in size.items()}
    kept = []
    for i in order:
        row = rows[i]
        if row["split"] == "train":
            left[row["label"]] -= 1
            if left[row["label"]] < 0:
                continue
        kept.append(i)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[i] for i in sorted(kept))
    return out


def dataset_of(home: Path, *, share: float, size: int) -> Any:
    """Return the photos with a share of the training labels, divided."""
    from flows import workspace
    from flows.result import Clock
    from flows.stages import StageSettings, prepare
    from tasks.decode import DecodeSettings
    from tasks.listing import SourceSettings

    name = f"grocery-{round(100 * share)}"
    datasets, _ = prepare(
        str(thinned(home / f"{name}.csv", share=share)),
        StageSettings(
            source=SourceSettings(root=str(DATA / "grocery")),
            decode=DecodeSettings(image_size=size),
        ),
        uri=workspace.dataset_uri(name),
        clock=Clock(),
    )
    return datasets["split"]


def figures(
    arm: str, home: Path, *, share: float, given: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Train one arm on one share and evaluate it on the official test photos."""
    from flows import workspace
    from tasks.evaluate import evaluate_model
    from tasks.evaluation import EvaluateSettings
    from tasks.pretrain import PretrainSettings, pretrain_model
    from tasks.train import train_model
    from tasks.train_settings import TrainSettings

    runs, asked = str(workspace.runs_root()), dict(ARMS[arm])
    if asked.get("init") == UNLABELLED:
        every = dataset_of(home, share=1.0, size=given.size)
        alone = PretrainSettings(epochs=given.unlabelled_epochs, seed=seed)
        asked["init"] += pretrain_model(every, alone, name="grocery", runs=runs).run
    if asked.get("probe") != "only":
        asked |= {"epochs": round(given.epochs * min(1 / share, 4)), "patience": 0}
    settings = TrainSettings(seed=seed, **asked)
    source = dataset_of(home, share=share, size=given.size)
    name = f"grocery-{round(100 * share)}"
    found = train_model(source, settings, name=name, runs=runs)
    evaluated = evaluate_model(source, found, EvaluateSettings(), champion=None)
    top1 = evaluated.measured.figures["top1"]
    line = {"share": share, "arm": arm, "seed": seed, "epochs": settings.epochs}
    line["val_top1"] = round(found.history[found.best_epoch - 1]["val_top1"], 4)
    line["top1"] = [round(v, 4) for v in (top1.value, top1.low, top1.high)]
    print(json.dumps(line), file=sys.stderr, flush=True)
    return line


def main() -> None:
    """Run the arms that are missing and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20, help="on all photos")
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pretrain-images", type=int, default=20_000)
    parser.add_argument("--pretrain-epochs", type=int, default=10)
    parser.add_argument("--unlabelled-epochs", type=int, default=100)
    parser.add_argument("--only", nargs="*", choices=ARMS, help="some arms")
    given = parser.parse_args()
    logging.getLogger("sightline").setLevel(logging.WARNING)
    home = Path(os.environ["SIGHTLINE_HOME"])
    pretrain(
        home / "cifar",
        images=given.pretrain_images,
        epochs=given.pretrain_epochs,
        size=given.size,
    )
    lines = [
        figures(arm, home, share=share, given=given, seed=seed)
        for seed in range(given.seeds)
        for share in SHARES
        for arm in given.only or ARMS
    ]
    print(json.dumps({"benchmark": "transfer", **vars(given), "arms": lines}))


if __name__ == "__main__":
    main()
