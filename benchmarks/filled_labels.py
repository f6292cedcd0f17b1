"""How well hidden labels of groceries are filled, and what a linear head makes of it.

    python benchmarks/filled_labels.py --hide 0.3,0.6 --seeds 5

Embeds the training and validation photos once, without labels, hides a share of the
training labels, and fills them: by our neighbours' vote, by scikit-learn's
LabelSpreading and k-nearest neighbours on the same embeddings, and by self-training of
a linear head. Says how many are filled, how many of these are right, and how well the
head (scikit-learn's logistic regression) does on validation with given and filled
labels: a quarter of the training photos and the given ones. Training a network on them
is `benchmarks/missing_labels.py`. Needs scikit-learn. Prints one JSON line.
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
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.semi_supervised import LabelSpreading

from benchmarks.missing_labels import GROCERY, VALIDATE
from data_contracts.store import Dataset
from flows.result import Clock
from flows.stages import StageSettings, prepare
from tasks.embed import EmbedSettings, embed_dataset
from tasks.impute import vote_labels
from tasks.split import TRAIN, VAL

THEIRS = 5  # neighbours; of 5, 10 and 20 the best for them
Answers = tuple[np.ndarray, np.ndarray]


def embedded(data: Path, place: Path, *, limit: int | None) -> Dataset:
    """Ingest the photos of train and val, and embed them."""
    manifest, home = place / "manifest.csv", place / "workspace"
    os.environ["SIGHTLINE_HOME"] = str(home)
    with data.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] in ("train", "val")]
    # The stages want a test split: a hundredth of train, which is not looked at.
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    settings = StageSettings.model_validate(
        {
            "source": {"root": str(data.parent), "limit": limit},
            "split": {"test": 0.01},
        }
    )
    uri = str(home / "datasets" / "filled")
    datasets, _ = prepare(str(manifest), settings, uri=uri, clock=Clock())
    ref = embed_dataset(
        datasets["split"], EmbedSettings(), name="filled", runs="", champion=None
    )
    return Dataset(ref)


def head(x: np.ndarray, label: np.ndarray, rows: np.ndarray) -> Any:
    """Return a linear head fitted on `rows`."""
    return LogisticRegression(C=0.1, max_iter=60).fit(x[rows], label[rows])


def answers(
    dataset: Dataset,
    x: np.ndarray,
    unit: np.ndarray,
    label: np.ndarray,
    known: np.ndarray,
    hidden: np.ndarray,
    *,
    voters: int,
) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Return each method's labels of the hidden rows, how sure, and its seconds."""

    def timed(work: Any) -> tuple[np.ndarray, np.ndarray, float]:
        start = time.perf_counter()
        found, sure = work()
        return found, sure, round(time.perf_counter() - start, 3)

    def best(model: Any, probs: np.ndarray) -> Answers:
        probs = np.nan_to_num(probs)
        return model.classes_[probs.argmax(1)], probs.max(1)

    def ours() -> Answers:
        return vote_labels(dataset, hidden, known, label=label, k=voters)

    def spread() -> Answers:
        both = np.concatenate([known, hidden])
        masked = np.concatenate([label[known], np.full(len(hidden), -1)])
        model = LabelSpreading(kernel="knn", n_neighbors=THEIRS)
        model.fit(unit[both], masked)
        return best(model, model.label_distributions_[len(known) :])

    def near() -> Answers:
        model = KNeighborsClassifier(THEIRS, weights="distance")
        model.fit(unit[known], label[known])
        return best(model, model.predict_proba(unit[hidden]))

    def own() -> Answers:
        model = head(x, label, known)
        return best(model, model.predict_proba(x[hidden]))

    methods = {"neighbours": ours, "spreading": spread, "sklearn": near, "head": own}
    return {name: timed(work) for name, work in methods.items()}


def trial(
    dataset: Dataset, *, share: float, seed: int, voters: int, thresholds: list[float]
) -> dict[str, Any]:
    """Hide labels, fill them by each method, and judge a head on validation."""
    use, label = dataset.column("use"), dataset.column("label")
    order = np.random.default_rng(7).permutation(np.flatnonzero(use == TRAIN))
    part = round(VALIDATE * len(order))
    val = np.concatenate([order[:part], np.flatnonzero(use == VAL)])
    rest = np.random.default_rng(seed).permutation(order[part:])
    hidden = np.sort(rest[: round(share * len(rest))])
    known = np.sort(rest[round(share * len(rest)) :])
    raw: Any = dataset.embeddings[:]
    x = (raw - raw[known].mean(0)) / (raw[known].std(0) + 1e-6)
    unit = raw / np.maximum(np.linalg.norm(raw, axis=1), 1e-12)[:, None]

    def judged(rows: np.ndarray, labels: np.ndarray) -> float:
        found = head(x, labels, rows).predict(x[val])
        return round(float((found == label[val]).mean()), 4)

    arms: dict[str, Any] = {
        "drop": {"val_top1": judged(known, label)},
        "all": {"val_top1": judged(np.concatenate([known, hidden]), label)},
    }
    given = answers(dataset, x, unit, label, known, hidden, voters=voters)
    for name, (found, sure, seconds) in given.items():
        arms[name] = {
            "right_of_all": round(float((found == label[hidden]).mean()), 4),
            "seconds": seconds,
        }
        for least in thresholds if name != "sklearn" else ():
            here = sure >= least
            filled = label.copy()
            filled[hidden] = found
            rows = np.concatenate([known, hidden[here]])
            arms[f"{name} from {least:g}"] = {
                "share": round(float(here.mean()), 3),
                "right": round(float((found == label[hidden])[here].mean()), 3)
                if here.any()
                else None,
                "val_top1": judged(rows, filled),
            }
    return {"hide": share, "seed": seed, "val_images": len(val), "arms": arms}


def main() -> None:
    """Run and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=GROCERY)
    parser.add_argument("--hide", default="0.3,0.6")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--voters", type=int, default=20)
    parser.add_argument("--from", dest="least", default="0.6")
    parser.add_argument("--limit", type=int, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        dataset = embedded(given.data, Path(place), limit=given.limit)
        runs = [
            trial(
                dataset,
                share=share,
                seed=seed,
                voters=given.voters,
                thresholds=[float(word) for word in given.least.split(",")],
            )
            for share in map(float, given.hide.split(","))
            for seed in range(given.seeds)
        ]
    print(json.dumps({"benchmark": "filled_labels", "runs": runs}))


if __name__ == "__main__":
    main()
