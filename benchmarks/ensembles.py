"""What averaging, ensembles and distillation bring: groceries and a part of CIFAR-10.

    SIGHTLINE_HOME=/tmp/ensembles python benchmarks/ensembles.py --data grocery

`grocery` has the official split (at --size 48), `cifar10` 10,000 images to learn from
and 2,000 to test on (at --size 32). Every network trains --epochs epochs with the
default views for that many; the rival sees as many images as the ensembles do: one
network for epochs x networks. Snapshots and soup are of one such training. Each arm is
measured on validation and test: top-1, log loss and ECE with intervals, and the paired
difference of top-1 and log loss to the plain network. Networks of `folds` have learnt
from validation images, so that arm has no figures there. Minutes are of training, all
networks and the teacher's included. What is there already under SIGHTLINE_HOME is not
done again. Prints one JSON line.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DATA = Path(os.environ.get("SIGHTLINE_TEST_DATA", ROOT.parent / "shared" / "data"))
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bagged": {"head": "bagged"},
    "boosted": {"head": "boosted"},
    "seeds": {"combine": "seeds"},
    "distilled": {"combine": "seeds", "distil": True},
    "soup": {"combine": "soup"},
    "snapshots": {"combine": "snapshots"},
    "folds": {"combine": "folds"},
    "longer": {"longer": True},
}
SIZES = {"grocery": 48, "cifar10": 32}
LEVEL = 0.95


def main() -> None:
    """Run the arms that are missing and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", choices=list(SIZES), default="grocery")
    parser.add_argument("--size", type=int, help="48 for grocery, 32 for cifar10")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--images", type=int, default=10_000, help="of cifar10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    given = parser.parse_args()
    given.size = given.size or SIZES[given.data]
    logging.getLogger("sightline").setLevel(logging.WARNING)
    source = prepared(given)
    found: dict[str, Any] = {}
    lines = []
    for arm in ["plain", *(a for a in given.arms if a != "plain")]:
        lines.append(measured(arm, source, given, found))
        print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"benchmark": "ensembles", **vars(given), "lines": lines}))


def prepared(given: argparse.Namespace) -> Any:
    """Return the dataset after `split`."""
    from flows import workspace
    from flows.result import Clock
    from flows.stages import StageSettings, prepare
    from tasks.decode import DecodeSettings

    place = DATA / "grocery"
    if given.data == "cifar10":
        place = cut(Path(os.environ["SIGHTLINE_HOME"]) / "cifar", given.images)
    datasets, _ = prepare(
        str(place),
        StageSettings(decode=DecodeSettings(image_size=given.size)),
        uri=workspace.dataset_uri(f"{given.data}-{given.size}"),
        clock=Clock(),
    )
    return datasets["split"]


def cut(folder: Path, images: int) -> Path:
    """Write the first images of CIFAR-10, and 2,000 of its test images."""
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", images), ("test", 2_000)):
        out = folder / f"{split}.parquet"
        if not out.exists():
            table = pq.read_table(DATA / "cifar10" / f"{split}.parquet")
            pq.write_table(table.slice(0, n), out)
    return folder


def measured(
    arm: str, source: Any, given: argparse.Namespace, found: dict[str, Any]
) -> dict[str, Any]:
    """Train one arm; return its figures. `found` keeps answers of all arms so far."""
    from flows import workspace
    from flows.ensembles import train_networks
    from tasks.ensemble_settings import EnsembleSettings
    from tasks.inference import Predictor
    from tasks.train_settings import TrainSettings

    asked = dict(ARMS[arm])
    longer = given.networks if asked.pop("longer", False) else 1
    head = asked.pop("head", "trained")
    settings = TrainSettings(
        epochs=given.epochs * longer,
        optimizer=given.optimizer,
        patience=0,
        seed=given.seed,
        head=head,
        ensemble=EnsembleSettings(networks=given.networks, **asked),
    )
    runs = Path(workspace.runs_root())
    trained = train_networks(source, settings, name=given.data, runs=str(runs))
    predictor = Predictor.load(trained.model)
    line: dict[str, Any] = {"arm": arm, "run": trained.run, "notes": trained.notes[:1]}
    line["minutes"] = round(minutes_of(runs, source, settings, given.data), 2)
    for split in ("val", "test"):
        if (arm, split) == ("folds", "val"):
            continue
        line[split] = figures(predictor, source, split, arm, found)
    line["images_per_second"] = round(speed(predictor, given.size), 1)
    return line


def minutes_of(runs: Path, source: Any, settings: Any, name: str) -> float:
    """Return the minutes of training behind a model, by the clocks of its runs."""
    from tasks.ensemble import member_settings, plain, student_settings
    from tasks.folds import fold_datasets
    from tasks.members import Role
    from tasks.train import train_model

    own, total = settings.ensemble, 0.0
    plans = member_settings(settings, started=False)
    if own.combine == "none":
        plans = [(plain(settings), Role())]
    parts = [source] * len(plans)
    if own.combine == "folds":
        parts = fold_datasets(source, of=own.networks, seed=settings.seed)
    trained = [
        train_model(part, plan, name=name, runs=str(runs), role=role)
        for part, (plan, role) in zip(parts, plans, strict=True)
    ]
    if own.distil:
        from tasks.ensemble import combine_networks, pupil_of

        whole = combine_networks(source, trained, own, parts=parts)
        role = pupil_of(whole, runs=str(runs))
        student = student_settings(settings)
        trained.append(
            train_model(source, student, name=name, runs=str(runs), role=role)
        )
    for each in trained:
        total += sum(line["seconds"] for line in each.history)
    return total / 60


def figures(
    predictor: Any, source: Any, split: str, arm: str, found: dict[str, Any]
) -> dict[str, Any]:
    """Return top-1, log loss, ECE, and the differences to the plain network."""
    from data_contracts.store import Dataset
    from tasks.evaluate import tally_of
    from tasks.evaluation import MeasureSettings
    from tasks.inference import predict_rows
    from tasks.intervals import grouped_bootstrap
    from tasks.lessons import class_of_rows, labels_to_learn
    from tasks.robustness import group_keys
    from tasks.split import TEST, VAL
    from tasks.tallied import measure

    dataset = Dataset(source)
    names = dataset.names("label_names")
    ids = [names.index(name) for name in predictor.classes]
    classes = class_of_rows(dataset, ids, labels_to_learn(dataset))
    use = dataset.column("use")
    rows = np.flatnonzero((use == (VAL if split == "val" else TEST)) & (classes >= 0))
    labels, groups = classes[rows].astype(np.int64), dataset.column("group")[rows]
    probs = np.concatenate([p for _, p in predict_rows(predictor, dataset, rows)])
    tally = tally_of(probs, labels, group_keys(dataset, rows))
    settings = MeasureSettings(level=LEVEL)
    seen = measure(tally, names=predictor.classes, settings=settings).figures
    line: dict[str, Any] = {
        name: [round(v, 4) for v in (seen[name].value, seen[name].low, seen[name].high)]
        for name in ("top1", "nll", "ece")
    }
    own = np.maximum(probs[np.arange(len(rows)), labels].astype(float), 1e-12)
    each = np.stack([probs.argmax(1) == labels, -np.log(own)], 1)
    change = each - found.setdefault(split, each)
    if arm == "plain":
        return line
    group = np.unique(groups, return_inverse=True)[1].ravel()
    draws = grouped_bootstrap(
        change / len(rows),
        lambda sums: sums,
        groups=group,
        strata=labels,
        draws=2_000,
        seed=0,
    )
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    for k, name in enumerate(("top1_change", "nll_change")):
        line[name] = [
            round(float(v), 4) for v in (change[:, k].mean(), low[k], high[k])
        ]
    return line


def speed(predictor: Any, size: int) -> float:
    """Return the images that a model answers in a second, the best of five rounds."""
    images = np.random.default_rng(0).integers(0, 256, (512, size, size, 3), np.uint8)
    predictor(images)
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        predictor(images)
        spent.append(time.perf_counter() - start)
    return len(images) / min(spent)


if __name__ == "__main__":
    main()
