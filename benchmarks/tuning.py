"""What `sightline tune` finds, beside the defaults and as much random search.

    export SIGHTLINE_HOME=/tmp/tuning
    python benchmarks/tuning.py --data grocery --epochs 24
    python benchmarks/tuning.py --data cifar10 --epochs 8 --trials 6

Searches on a quarter of the groceries (48 px) or 5,000 images of CIFAR-10 (32 px).
Random search draws from the same space and spends as many epochs of search on whole
trainings; both then choose by the same figure on the same validation images. At the
end, what `tune` names (the defaults, where they stand), its best finalist, and random
search's best are trained with the same further seeds as the defaults and evaluated on
test, once. What is there already under SIGHTLINE_HOME is not done again. Prints one
JSON line.
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

IMAGES, JUDGES, SIZE = 5_000, 1_000, {"grocery": 48, "cifar10": 32}


def images_of(data: str, home: Path) -> tuple[str, dict[str, Any]]:
    """Return the place of the images, and how to list them."""
    if data == "grocery":
        place = thinned(home / "grocery.csv", share=0.25)
        return str(place), {"root": str(DATA / "grocery")}
    import pyarrow.parquet as pq

    folder = home / "cifar"
    folder.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(DATA / "cifar10" / "train.parquet")
    parts = {
        "train": table.slice(0, IMAGES),
        "val": table.slice(IMAGES, JUDGES),
        "test": pq.read_table(DATA / "cifar10" / "test.parquet").slice(0, 5_000),
    }
    for split, part in parts.items():
        if not (folder / f"{split}.parquet").exists():
            pq.write_table(part, folder / f"{split}.parquet")
    return str(folder), {}


def random_search(config: Any, search: Any, *, epochs: int, runs: str) -> int:
    """Train trials in full until the epochs of the search are spent; return the best.

    Args:
        config: Of the search.
        search: The search of `tune`, whose trials and images these are.
        epochs: Of all trainings of the search, those of the finals not among them.
        runs: Folder of all runs.
    """
    from tasks.halving import Step
    from tasks.train import train_model
    from tasks.tune import judge_trial

    whole = search.plan.rungs[-1]
    rival = search.model_copy(update={"folder": f"{search.folder}-random"})
    (Path(rival.folder) / "answers").mkdir(parents=True, exist_ok=True)
    done = {line.trial: line for line in rival.tried}
    for trial in range(1, min(max(epochs // whole, 2), len(search.trials))):
        if trial not in done:
            step = Step(trial, whole, 0)
            settings = search.settings_of(step)
            made = train_model(search.source, settings, name=config.name, runs=runs)
            done[trial] = judge_trial(rival, step, made)
    return min(done, key=lambda trial: done[trial].score)


def tested(config: Any, search: Any, trial: int, *, runs: str) -> dict[str, Any]:
    """Return validation and test top-1 of a trial's further seeds."""
    from tasks.evaluate import evaluate_model
    from tasks.halving import Step
    from tasks.search_space import words_of
    from tasks.train import train_model

    val, test = [], []
    for seed in range(1, search.plan.seeds + 1):
        settings = search.settings_of(Step(trial, search.plan.rungs[-1], seed))
        made = train_model(search.source, settings, name=config.name, runs=runs)
        val.append(made.history[made.best_epoch - 1]["val_top1"])
        found = evaluate_model(search.source, made, config.evaluate, champion=None)
        test.append(found.measured.figures["top1"].value)
        line = {"trial": trial, "seed": seed, "val": val[-1], "test": test[-1]}
        print(json.dumps(line), file=sys.stderr, flush=True)
    return {
        "trial": trial,
        "changes": words_of(search.trials[trial]),
        "val_top1": [round(float(value), 4) for value in val],
        "test_top1": [round(float(value), 4) for value in test],
        "test_mean": round(float(np.mean(test)), 4),
    }


def main() -> None:
    """Search, search at random, test once, and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", choices=[*SIZE], default="grocery")
    parser.add_argument("--epochs", type=int, default=24, help="of a whole training")
    parser.add_argument("--trials", type=int, default=9)
    parser.add_argument("--finalists", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--measure", default="log_loss", choices=("log_loss", "top1"))
    given = parser.parse_args()
    from flows import workspace
    from flows.result import Clock
    from flows.stages import TrainSettings
    from flows.tune import TuneConfig, search_on, source_of
    from tasks.decode import DecodeSettings
    from tasks.listing import SourceSettings
    from tasks.tune_outcome import settle
    from tasks.tune_report import verdict_of
    from tasks.tune_settings import TuneSettings

    home = Path(os.environ["SIGHTLINE_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    place, listing = images_of(given.data, home)
    config = TuneConfig(
        data=place,
        name=given.data,
        source=SourceSettings(**listing),
        decode=DecodeSettings(image_size=SIZE[given.data]),
        audit={"wrong_labels": "off"},
        anomaly={"anomalies": "off"},
        train=TrainSettings(epochs=given.epochs),
        tune=TuneSettings(
            trials=given.trials,
            finalists=given.finalists,
            final_seeds=given.seeds,
            measure=given.measure,
        ),
    )
    workspace.prepare()
    logging.getLogger("sightline").setLevel(logging.WARNING)
    source, runs = source_of(config, clock=Clock()), str(workspace.runs_root())
    search = search_on(source, config, runs=runs)
    outcome = settle(search)
    print(verdict_of(outcome), file=sys.stderr, flush=True)
    spent = sum(line.epochs for line in outcome.tried if not line.seed)
    at_random = random_search(config, search, epochs=spent, runs=runs)
    best = max(outcome.finals, key=lambda final: final.gain, default=None)
    arms = {"defaults": 0, "tune": outcome.winner, "random search": at_random}
    if best is not None:
        arms["best finalist"] = best.trial
    tests = {
        trial: tested(config, search, trial, runs=runs) for trial in {*arms.values()}
    }
    answer = {
        "benchmark": "tuning",
        **vars(given),
        "verdict": verdict_of(outcome),
        "minutes_of_search": round(sum(t.seconds for t in outcome.tried) / 60, 1),
        "search_epochs": spent,
        "finals": [final.model_dump() for final in outcome.finals],
        "arms": {arm: tests[trial] for arm, trial in arms.items()},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
