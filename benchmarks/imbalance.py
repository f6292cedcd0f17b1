"""What each correction for unequal classes brings, on groceries and a cut CIFAR-10.

    python benchmarks/imbalance.py --data cifar10 --epochs 16 --seeds 1
    python benchmarks/imbalance.py --data grocery --epochs 30 --seeds 1

`cifar10` is cut to an imbalance of 100 (5,000 images of the first class to 50 of the
last, 12,406 in all, a tenth of them for validation) and tested on its 10,000 test
images, where every class is alike; `grocery` is a long tail as it comes. Arms before
training train a network each; those of the head share the plain network. Training
runs are kept in the workspace (`--home`), so that a benchmark cut short goes on.
Rival: imbalanced-learn's SMOTE and RandomOverSampler with scikit-learn's logistic
regression on the plain network's embeddings, when both can be imported. Prints one
JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DATA = ROOT.parent / "shared" / "data"
FACTOR, MOST = 100, 5_000
BEFORE = (
    "none class_sampling root_sampling oversampling undersampling effective"
    " logit_adjusted ldam ldam_deferred"
).split()
AFTER = ("post_hoc", "retrained", "smote", "ensemble")
FIGURES = ("top1", "balanced_accuracy", "macro_f1", "ece")


def cut_cifar(folder: Path) -> Path:
    """Write CIFAR-10 with n_max * factor^(-i / (k - 1)) images of class i."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        out = folder / f"{split}.parquet"
        if out.exists():
            continue
        files = sorted((DATA / "cifar10").glob(f"**/{split}*.parquet"))
        table = pa.concat_tables([pq.read_table(file) for file in files])
        if split == "train":
            label = np.asarray(table["label"])
            quota = np.floor(MOST * FACTOR ** (-np.arange(10) / 9)).astype(int)
            order = np.random.default_rng(0).permutation(len(label))
            order = order[np.argsort(label[order], kind="stable")]
            first = np.searchsorted(label[order], np.arange(10))
            rows = [order[f : f + q] for f, q in zip(first, quota, strict=True)]
            table = table.take(np.sort(np.concatenate(rows)))
        pq.write_table(table, out)
    return folder


def figures_of(source: Any, trained: Any) -> dict[str, Any]:
    """Evaluate a run on its test images."""
    from tasks.evaluate import evaluate_model
    from tasks.evaluation import EvaluateSettings

    found = evaluate_model(source, trained, EvaluateSettings(), champion=None).measured
    line: dict[str, Any] = {}
    for name in FIGURES:
        figure = found.figures[name]
        line[name] = [round(v, 4) for v in (figure.value, figure.low, figure.high)]
    for row in found.slices.get("training images", []):
        line[row.name.split(":")[0]] = [round(row.top1.value, 4), row.top1.n]
    return line


def rivals(source: Any, trained: Any) -> dict[str, Any]:
    """Resample the plain network's embeddings with imbalanced-learn."""
    try:
        from imblearn.over_sampling import SMOTE, RandomOverSampler
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import balanced_accuracy_score, f1_score
    except ImportError:
        return {}
    from data_contracts.store import Dataset
    from tasks.inference import Predictor

    dataset, predictor = Dataset(source), Predictor.load(trained.model)
    columns = dataset.columns("use", "label")
    parts = {}
    for use in (0, 2):
        rows = np.flatnonzero(columns["use"] == use)
        x = np.concatenate(
            [
                predictor.embed(dataset.take(rows[i : i + 1024]))
                for i in range(0, len(rows), 1024)
            ]
        )
        parts[use] = x, columns["label"][rows]
    mean, std = parts[0][0].mean(0), parts[0][0].std(0) + 1e-6
    x, y = (parts[0][0] - mean) / std, parts[0][1]
    found = {}
    makers = {
        "plain logistic regression": None,
        "RandomOverSampler": RandomOverSampler(random_state=0),
        "SMOTE": SMOTE(random_state=0, k_neighbors=min(5, np.bincount(y).min() - 1)),
    }
    for name, maker in makers.items():
        start = time.perf_counter()
        xs, ys = maker.fit_resample(x, y) if maker else (x, y)
        model = LogisticRegression(max_iter=300, C=0.01).fit(xs, ys)
        answers = model.predict((parts[2][0] - mean) / std)
        truth = parts[2][1]
        found[name] = {
            "top1": round(float((answers == truth).mean()), 4),
            "balanced_accuracy": round(balanced_accuracy_score(truth, answers), 4),
            "macro_f1": round(f1_score(truth, answers, average="macro"), 4),
            "seconds": round(time.perf_counter() - start, 1),
        }
    return found


def main() -> None:
    """Run the arms and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", choices=["cifar10", "grocery"], default="cifar10")
    parser.add_argument("--epochs", type=int, default=None, help="none: the default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", default=",".join(BEFORE))
    parser.add_argument("--home", type=Path, default=Path("/tmp/imbalance"))
    given = parser.parse_args()
    os.environ["SIGHTLINE_HOME"] = str(given.home)
    import logging

    logging.getLogger("sightline").setLevel(logging.WARNING)
    from flows import workspace
    from flows.result import Clock
    from flows.stages import StageSettings, prepare
    from tasks.decode import DecodeSettings
    from tasks.rebalance import rebalance_model
    from tasks.train import train_model
    from tasks.train_settings import TrainSettings

    cifar = given.data == "cifar10"
    place = cut_cifar(given.home / "cut") if cifar else DATA / "grocery/manifest.csv"
    size = {"decode": DecodeSettings(image_size=32)} if cifar else {}
    workspace.prepare()
    datasets, _ = prepare(
        str(place),
        StageSettings(**size),
        uri=workspace.dataset_uri(given.data),
        clock=Clock(),
    )
    source, runs = datasets["split"], str(workspace.runs_root())
    lines: list[dict[str, Any]] = []
    other: dict[str, Any] = {}

    def tell(seed: int, arm: str, trained: Any, seconds: float) -> None:
        figures = figures_of(source, trained)
        line = {"seed": seed, "arm": arm, "seconds": round(seconds, 1), **figures}
        lines.append(line)
        print(json.dumps(line), file=sys.stderr, flush=True)

    for seed in range(given.seeds):
        for arm in given.arms.split(","):
            settings = TrainSettings(balance=arm, epochs=given.epochs, seed=seed)
            start = time.perf_counter()
            trained = train_model(source, settings, name=given.data, runs=runs)
            tell(seed, arm, trained, time.perf_counter() - start)
            if arm != "none":
                continue
            for head in AFTER:
                start = time.perf_counter()
                changed = settings.model_copy(update={"head": head})
                moved = rebalance_model(source, trained, changed)
                tell(seed, f"head {head}", moved, time.perf_counter() - start)
            changed = settings.model_copy(update={"thresholds": True})
            start = time.perf_counter()
            moved = rebalance_model(source, trained, changed)
            tell(seed, "thresholds", moved, time.perf_counter() - start)
            other[str(seed)] = rivals(source, trained)
    answer = {"benchmark": "imbalance", "data": given.data, "epochs": given.epochs}
    print(json.dumps(answer | {"arms": lines, "rivals": other}))


if __name__ == "__main__":
    main()
