"""What each guard against overfitting brings: a tenth of the groceries.

    SIGHTLINE_HOME=/tmp/overfitting python benchmarks/overfitting.py --seeds 3

Trains `small` on a tenth of each class's training photos (the official split, 48 px):
with no guard at all, with each alone, and with the default mix. Weights are those of
the last epoch, but for early stopping, soup and default mix, which keep what `train`
keeps. Says top-1 on plain training photos,
on validation and on test; settings are the defaults or the papers', none was tuned. A
guard that this version does not have is left out, with a note. What is there already
under SIGHTLINE_HOME is not done again. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from grocery import T95  # noqa: E402  (benchmarks beside this one)
from transfer import DATA, thinned  # noqa: E402

# No view but the whole image, which is then 48 px as at evaluation.
BARE_VIEW = {
    **dict.fromkeys("flip rotate stretch shift brightness contrast".split(), 0.0),
    **dict.fromkeys("saturation mixup cutmix".split(), 0.0),
    "zoom": (1.0, 1.0),
    "resolution": 1.0,
}
NONE: dict[str, Any] = {
    "augment": BARE_VIEW,
    "weight_decay": 0.0,
    "label_smoothing": 0.0,
    "ema": 0.0,
    "patience": 0,
}
DRAWN = {"mixup": 0.0, "cutmix": 0.0, "resolution": 1.0}
# The default views without mixing, at full size.
VIEWS = {**DRAWN, "zoom": (0.4, 1.0)}
ARMS: dict[str, dict[str, Any]] = {
    "none": {},
    "weight decay .1": {"weight_decay": 0.1},
    "dropout .3": {"network": {"dropout": 0.3}},
    "stochastic depth .2": {"network": {"drop_path": 0.2}},
    "label smoothing .1": {"label_smoothing": 0.1},
    "mixup": {"augment": BARE_VIEW | {"mixup": 0.5}},
    "CutMix": {"augment": BARE_VIEW | {"cutmix": 0.5}},
    "views": {"augment": VIEWS},
    # Its run ends early; which epoch is kept is the guard.
    "early stopping": {"patience": 15},
    "average of weights": {"ema": 0.995},
    "soup of checkpoints": {"ensemble": {"combine": "soup"}},
    "default mix": {},
}


def settings_of(arm: str, *, epochs: int, seed: int) -> Any:
    """Return how to train one arm, or None where this version has no such setting."""
    from pydantic import ValidationError

    from tasks.train_settings import TrainSettings

    base = {"patience": 0} if arm == "default mix" else NONE
    given = base | ARMS[arm] | {"epochs": epochs, "seed": seed}
    try:
        return TrainSettings.model_validate(given)
    except ValidationError as error:
        missing = [d for d in error.errors() if d["type"] == "extra_forbidden"]
        if not missing:
            raise
        where = ".".join(str(part) for part in missing[0]["loc"])
        print(f"left out: {arm}; there is no train.{where}", file=sys.stderr)
        return None


def run_of(arm: str, source: Any, name: str, *, epochs: int, seed: int) -> Any:
    """Return the figures of one arm and seed, or None if it is left out."""
    from flows import workspace
    from flows.ensembles import train_networks
    from tasks.inference import Predictor

    settings = settings_of(arm, epochs=epochs, seed=seed)
    if settings is None:
        return None
    runs = str(workspace.runs_root())
    trained = train_networks(source, settings, name=name, runs=runs, start=None)
    kept = Path(trained.folder) / f"{arm}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    choosing = arm in ("early stopping", "soup of checkpoints", "default mix")
    predictor = Predictor.load(trained.model) if choosing else last_of(trained)
    line = {
        "arm": arm,
        "seed": seed,
        "epochs_run": trained.epochs_run,
        "kept_epoch": trained.best_epoch if choosing else trained.epochs_run,
        **top1s(predictor, trained, source),
    }
    kept.write_text(json.dumps(line))
    print(json.dumps(line), file=sys.stderr, flush=True)
    return line


def last_of(trained: Any) -> Any:
    """Return the network of the last epoch, whatever validation says of it."""
    import orbax.checkpoint as ocp
    from flax import nnx

    from models.checkpoint import _numbered, load_model
    from tasks.inference import Predictor, devices

    devices()
    folder = Path(trained.folder)
    checkpoint = folder / "checkpoints" / str(trained.epochs_run)
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(checkpoint.absolute() / "arrays")
    params, stats = (nnx.State(_numbered(part)) for part in tree["ema"])
    return Predictor(params, stats, load_model(folder / "model")[2])


def top1s(predictor: Any, trained: Any, source: Any) -> dict[str, float]:
    """Return top-1 on plain training, validation and test photos."""
    from data_contracts.store import Dataset
    from tasks.inference import predict_rows
    from tasks.lessons import class_of_rows, labels_to_learn
    from tasks.split import TEST, TRAIN, VAL

    dataset = Dataset(source)
    names = dataset.names("label_names")
    ids = [names.index(name) for name in trained.classes]
    classes = class_of_rows(dataset, ids, labels_to_learn(dataset))
    use = dataset.column("use")
    found = {}
    for split, code in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        rows = np.flatnonzero((use == code) & (labels_to_learn(dataset) >= 0))
        probs = np.concatenate([p for _, p in predict_rows(predictor, dataset, rows)])
        found[split] = round(float((probs.argmax(1) == classes[rows]).mean()), 4)
        found[f"{split}_images"] = len(rows)
    return found


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of each figure over seeds, and its interval."""
    found: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        values = [line[split] for line in lines]
        mean = statistics.mean(values)
        found[split] = [round(mean, 4)]
        if len(values) > 1:
            error = statistics.stdev(values) / len(values) ** 0.5
            half = T95[len(values) - 2] * error
            found[split] += [round(mean - half, 4), round(mean + half, 4)]
    return found


def main() -> None:
    """Run the arms that are missing and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="*", default=[*ARMS], choices=[*ARMS])
    given = parser.parse_args()
    logging.getLogger("sightline").setLevel(logging.WARNING)
    from flows import workspace
    from flows.result import Clock
    from flows.stages import StageSettings, prepare
    from tasks.decode import DecodeSettings
    from tasks.listing import SourceSettings

    home = Path(os.environ["SIGHTLINE_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    name = f"grocery-{round(100 * given.share)}"
    datasets, _ = prepare(
        str(thinned(home / f"{name}.csv", share=given.share)),
        StageSettings(
            source=SourceSettings(root=str(DATA / "grocery")),
            decode=DecodeSettings(image_size=given.size),
        ),
        uri=workspace.dataset_uri(name),
        clock=Clock(),
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(given.seeds):
        for arm in given.arms:
            line = run_of(arm, datasets["split"], name, epochs=given.epochs, seed=seed)
            if line is not None:
                found.setdefault(arm, []).append(line)
    arms = {arm: summary(lines) | {"runs": lines} for arm, lines in found.items()}
    print(json.dumps({"benchmark": "overfitting", **vars(given), "arms": arms}))


if __name__ == "__main__":
    main()
