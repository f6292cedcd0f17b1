"""What policies of random views do to accuracy: groceries, validation top-1.

    SIGHTLINE_HOME=/tmp/policies python benchmarks/policies.py --epochs 60

Trains on the official split at 64 px, alike but for the views: those by default,
RandAugment, TrivialAugment, and the default ones with blur, noise and JPEG's blocks.
Crop, mirror, CutMix and mixup are the same in all. Looks at the 296 validation photos
only. What is there already under SIGHTLINE_HOME is not done again. Prints one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
GROCERY = ROOT.parent / "shared" / "data" / "grocery" / "manifest.csv"
ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "rand": {"policy": "rand"},
    "trivial": {"policy": "trivial"},
    "grain": {"blur": 0.2, "noise_gaussian": 0.1, "noise_shot": 0.1, "jpeg": 0.2},
}


def main() -> None:
    """Train the arms, one seed after the other, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=GROCERY)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="*", default=[*ARMS], choices=[*ARMS])
    options = parser.parse_args()
    found = {
        arm: [top1(arm, options, seed=seed) for seed in range(options.seeds)]
        for arm in options.arms
    }
    print(json.dumps({"epochs": options.epochs, "val_top1": found}))


def top1(arm: str, options: Any, *, seed: int) -> float:
    """Return the validation top-1 of the epoch that is kept."""
    from flows import workspace
    from flows.result import Clock
    from flows.stages import StageSettings, prepare
    from models.recipe import views_for
    from tasks.augment_settings import DRAWN, AugmentSettings
    from tasks.train import train_model
    from tasks.train_settings import TrainSettings

    workspace.prepare()
    uri = workspace.dataset_uri("grocery")
    datasets, _ = prepare(str(options.data), StageSettings(), uri=uri, clock=Clock())
    views = dict(vars(views_for(options.epochs))) | ARMS[arm]
    if views["policy"] != "none":
        views |= dict.fromkeys(DRAWN, 0.0)
    settings = TrainSettings(
        epochs=options.epochs, seed=seed, augment=AugmentSettings(**views)
    )
    runs = str(workspace.runs_root())
    trained = train_model(datasets["split"], settings, name=arm, runs=runs)
    return float(trained.history[trained.best_epoch - 1]["val_top1"])


if __name__ == "__main__":
    main()
