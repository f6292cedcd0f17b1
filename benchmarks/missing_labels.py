"""Validation accuracy on groceries with hidden labels: dropped, self-trained, voted.

    python benchmarks/missing_labels.py --hide 0.3,0.6 --epochs 30 --size 32

Moves a quarter of the training images to validation, which holds only 296, hides a
share of the other training labels and runs the stages up to training: `drop` leaves
those images out, `keep` learns what the encoder is sure of, `neighbours` what the
nearest embeddings agree on, and `all` has all labels. The test split is not looked at.
`filled` holds the share of hidden labels that were filled, and how many of these are
right; `answers` what each method would answer at other thresholds. With scikit-learn
in the path, its LabelSpreading and k-nearest neighbours answer from the same
embeddings. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.store import Dataset
from flows.result import Clock
from flows.stages import StageSettings, curate, last, prepare
from tasks.anomaly import AnomalySettings
from tasks.decode import DecodeSettings
from tasks.embed import network_of
from tasks.impute import open_rows, predict_labels, vote_labels
from tasks.impute_settings import ImputeSettings
from tasks.inference import Predictor, predict_rows
from tasks.label_audit import AuditSettings
from tasks.listing import SourceSettings
from tasks.split import TRAIN, VAL
from tasks.train import train_model
from tasks.train_settings import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
VALIDATE = 0.25
THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
GROCERY = ROOT.parent / "shared" / "data" / "grocery" / "manifest.csv"


def hide(manifest: Path, *, share: float, seed: int, out: Path) -> dict[str, str]:
    """Write the manifest with labels of `share` of train left blank; return all."""
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    truth = {row["path"]: row["label"] for row in rows}
    train = [i for i, row in enumerate(rows) if row["split"] == "train"]
    # The same images for every share and seed, so that figures can be compared.
    order = np.random.default_rng(7).permutation(train)
    part = round(VALIDATE * len(order))
    for i in order[:part]:
        rows[i]["split"] = "val"
    rest = np.random.default_rng(seed).permutation(order[part:])
    for i in rest[: round(share * len(rest))]:
        rows[i] |= {"label": "", "coarse_label": ""}
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return truth


def arm(
    manifest: Path,
    impute: ImputeSettings,
    truth: dict[str, str],
    *,
    root: Path,
    epochs: int,
    size: int,
    seed: int,
    name: str,
) -> dict[str, Any]:
    """Run one arm; return its figures."""
    home, clock = Path(os.environ["SIGHTLINE_HOME"]), Clock()
    settings = StageSettings(
        source=SourceSettings(root=str(root)),
        decode=DecodeSettings(image_size=size),
        impute=impute,
        anomaly=AnomalySettings(anomalies="off"),
        audit=AuditSettings(wrong_labels="off"),
        train=TrainSettings(epochs=epochs, seed=seed, patience=0),
    )
    datasets, _ = prepare(
        str(manifest), settings, uri=str(home / "datasets" / name), clock=clock
    )
    datasets = curate(datasets, settings, name=name, clock=clock)
    source = last(datasets)
    start = time.monotonic()
    trained = train_model(source, settings.train, name=name, runs=str(home / "runs"))
    seconds = time.monotonic() - start
    dataset = Dataset(source)
    val = np.flatnonzero(dataset.column("use") == VAL)
    predictor = Predictor.load(trained.model)
    answer = np.concatenate([p for _, p in predict_rows(predictor, dataset, val)])
    names = np.array(predictor.classes, object)[answer.argmax(1)]
    given = np.array(dataset.names("label_names"), object)[dataset.column("label")[val]]
    found = {
        "val_top1": round(float((names == given).mean()), 4),
        "train_images": int((dataset.column("use") == TRAIN).sum()),
        "train_seconds": round(seconds, 1),
    }
    if dataset.has("imputed"):
        found["filled"] = filled(dataset, truth)
    if "embed" in datasets:
        encoder, _ = network_of(
            datasets["split"],
            settings.embed,
            name=name,
            runs=str(home / "runs"),
            champion=None,
        )
        found["answers"] = rivals(Dataset(datasets["embed"]), truth, impute, encoder)
    return found


def filled(dataset: Dataset, truth: dict[str, str]) -> dict[str, float]:
    """Return the share of the askable labels that were filled, and of those right."""
    rows = np.flatnonzero(dataset.column("imputed") != "")
    asked = int((dataset.column("imputed_sure") > 0).sum())
    names = np.array(dataset.names("label_names"), object)
    right = names[dataset.column("target")[rows]] == known(dataset, rows, truth)
    return {
        "asked": asked,
        "share": round(len(rows) / max(asked, 1), 4),
        "right": round(float(right.mean()), 4) if len(rows) else float("nan"),
    }


def known(dataset: Dataset, rows: np.ndarray, truth: dict[str, str]) -> np.ndarray:
    """Return the true label of each row."""
    return np.array([truth[path] for path in dataset.column("path")[rows]], object)


def rivals(
    dataset: Dataset, truth: dict[str, str], impute: ImputeSettings, encoder: Path
) -> dict[str, Any]:
    """Return accuracy of all answers, and of the surest half, of ours and theirs.

    `from` holds share and accuracy of the answers from a threshold on.
    """
    columns = dataset.columns(*"reason split group label use".split())
    rows, label = open_rows(columns), columns["label"]
    train = np.flatnonzero((columns["use"] == TRAIN) & (label >= 0))
    names = np.array(dataset.names("label_names"), object)
    wanted = known(dataset, rows, truth)

    def scored(answer: np.ndarray, sure: np.ndarray, start: float) -> dict[str, float]:
        right = names[answer] == wanted
        half = np.argsort(-sure, kind="stable")[: len(right) // 2]
        return {
            "all": round(float(right.mean()), 4),
            "surest_half": round(float(right[half].mean()), 4),
            "seconds": round(time.perf_counter() - start, 3),
            "from": {
                str(least): [
                    round(float((sure >= least).mean()), 3),
                    round(float(right[sure >= least].mean()), 3),
                ]
                for least in THRESHOLDS
                if (sure >= least).any()
            },
        }

    start = time.perf_counter()
    ours = vote_labels(dataset, rows, train, label=label, k=impute.voters)
    found = {"neighbours": scored(*ours, start)}
    start = time.perf_counter()
    ours = predict_labels(dataset, rows, Predictor.load(encoder))
    found["self-training"] = scored(*ours, start)
    try:
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.semi_supervised import LabelSpreading
    except ImportError:
        return found
    everything: Any = dataset.embeddings[:]
    unit = everything / np.maximum(np.linalg.norm(everything, axis=1), 1e-12)[:, None]
    both = np.concatenate([train, rows])
    masked = np.concatenate([label[train], np.full(len(rows), -1)])
    for name, model, at, given in (
        (
            "sklearn_spreading",
            LabelSpreading(kernel="knn", n_neighbors=impute.voters),
            both,
            masked,
        ),
        (
            "sklearn_neighbours",
            KNeighborsClassifier(impute.voters, weights="distance"),
            train,
            label[train],
        ),
    ):
        start = time.perf_counter()
        probs = model.fit(unit[at], given).predict_proba(unit[rows])
        probs = np.nan_to_num(probs)
        found[name] = scored(model.classes_[probs.argmax(1)], probs.max(1), start)
    return found


def arms(given: argparse.Namespace) -> dict[str, ImputeSettings]:
    """Return the settings of the arms asked for."""
    made = {
        "all": ImputeSettings(),
        "drop": ImputeSettings(),
        "keep": ImputeSettings(
            labels="keep",
            min_confidence=given.confidence,
            filled_weight=given.weight,
        ),
        "neighbours": ImputeSettings(
            labels="neighbours",
            min_agreement=given.agreement,
            filled_weight=given.weight,
        ),
    }
    return {name: made[name] for name in given.arms.split(",")}


def main() -> None:
    """Run and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=GROCERY)
    parser.add_argument("--hide", default="0.3,0.6")
    parser.add_argument("--arms", default="all,drop,keep,neighbours")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--agreement", type=float, default=0.6)
    parser.add_argument("--weight", type=float, default=1.0)
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as place:
        os.environ.setdefault("SIGHTLINE_HOME", f"{place}/workspace")
        for seed in range(given.seeds):
            for share in map(float, given.hide.split(",")):
                for name, impute in arms(given).items():
                    part = 0.0 if name == "all" else share
                    manifest = Path(place) / f"hidden-{part}-{seed}.csv"
                    truth = hide(given.data, share=part, seed=seed, out=manifest)
                    figures = arm(
                        manifest,
                        impute,
                        truth,
                        root=given.data.parent,
                        epochs=given.epochs,
                        size=given.size,
                        seed=seed,
                        name=f"hidden-{round(100 * part)}-{seed}",
                    )
                    found.append({"hide": part, "seed": seed, "arm": name} | figures)
    settings = {"epochs": given.epochs, "size": given.size}
    settings |= {"confidence": given.confidence}
    settings |= {"agreement": given.agreement, "weight": given.weight}
    print(json.dumps({"benchmark": "missing_labels", **settings, "runs": found}))


if __name__ == "__main__":
    main()
