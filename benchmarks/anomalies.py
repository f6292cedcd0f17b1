"""Finding foreign images among groceries, against rivals on the same embeddings.

    python benchmarks/anomalies.py --images 1200 --foreign 60 --seeds 3

Photos of the training split, and among them microscope pictures, playing cards, noise
and gradients under random labels. The encoder is that of a first run, so it has learnt
from the foreign ones too. Rivals: cleanlab's OutOfDistribution (mean cosine
distance to 10 neighbours), scikit-learn's IsolationForest and LocalOutlierFactor, if
they are installed. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DATA = ROOT.parent / "shared" / "data"


def plant(folder: Path, *, images: int, foreign: int, seed: int) -> set[str]:
    """Write a manifest of groceries and foreign pictures; return the latter's paths."""
    rng = np.random.default_rng(seed)
    with (DATA / "grocery" / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    rows = [rows[i] for i in rng.permutation(len(rows))[:images]]
    listed = [(f"{i:05}.jpg", row["coarse_label"]) for i, row in enumerate(rows)]
    for (name, _), row in zip(listed, rows, strict=True):
        shutil.copy(DATA / "grocery" / row["path"], folder / name)
    names = sorted({label for _, label in listed})
    strange = []
    for i in range(foreign):
        path = folder / f"foreign-{i:03}.png"
        cv2.imwrite(str(path), picture(i, rng))
        strange.append((path.name, str(rng.choice(names))))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows(listed + strange)
    return {path for path, _ in strange}


def picture(i: int, rng: np.random.Generator) -> Any:
    """Return a microscope picture, a card, coarse noise or a gradient, by turns."""
    kind = i % 4
    if kind < 2:
        place = ("bccd/JPEGImages", "cards/train")[kind]
        files = sorted((DATA / place).glob("*.jpg"))
        return cv2.imread(str(files[int(rng.integers(len(files)))]))
    if kind == 2:
        coarse = rng.integers(0, 256, (32, 32, 3), np.uint8)
        return cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)
    ends = rng.integers(0, 256, (2, 2, 3), np.uint8)
    smooth = cv2.resize(ends, (256, 256), interpolation=cv2.INTER_LINEAR)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def embedded(folder: Path, *, encoder: str, epochs: int | None, seed: int) -> Any:
    """Return the dataset after every stage up to `embed`."""
    from data_contracts.store import Dataset
    from tasks.clean import CleanSettings, clean_dataset
    from tasks.denoise import DenoiseSettings, denoise_dataset
    from tasks.embed import EmbedSettings, Encoder, embed_dataset
    from tasks.ingest import IngestSettings, ingest_dataset
    from tasks.split import SplitSettings, split_dataset

    source = ingest_dataset(
        str(folder / "manifest.csv"), IngestSettings(), uri=str(folder / "set")
    )
    loose = CleanSettings(min_sharpness=0, min_std=0, near_distance=0)
    source = denoise_dataset(clean_dataset(source, loose), DenoiseSettings())
    return Dataset(
        embed_dataset(
            split_dataset(source, SplitSettings()),
            EmbedSettings(
                encoder=Encoder(encoder), encoder_epochs=epochs, encoder_seed=seed
            ),
            name="planted",
            runs=str(folder / "runs"),
            champion=None,
        )
    )


def ours(dataset: Any, judged: Any) -> dict[str, Any]:
    """Return our score, its two parts, and the seconds it took."""
    from tasks.anomaly import NEEDED, AnomalySettings, choose, judge

    columns, settings = dataset.columns(*NEEDED), AnomalySettings()
    judge(dataset, columns, judged, settings)  # compile
    start = time.perf_counter()
    score, _ = judge(dataset, columns, judged, settings)
    seconds = time.perf_counter() - start
    flagged = choose(score, np.ones(len(score), bool), settings)
    return {"score": score, "seconds": seconds, "flagged": flagged}


def rivals(x: Any, shown: Any, *, seed: int) -> dict[str, dict[str, Any]]:
    """Return the scores of the rivals that are installed, higher being odder.

    Args:
        x: Embeddings.
        shown: Figures of the pixels, as our score has them.
        seed: Of the forest.
    """
    found: dict[str, dict[str, Any]] = {}
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)

    def timed(name: str, run: Any) -> None:
        start = time.perf_counter()
        try:
            score = run()
        except ImportError as error:
            found[name] = {"missing": str(error)}
            return
        found[name] = {"score": score, "seconds": time.perf_counter() - start}

    def cleanlab() -> Any:
        from cleanlab.outlier import OutOfDistribution

        return -OutOfDistribution({"k": 10}).fit_score(features=x, verbose=False)

    def forest(values: Any) -> Any:
        from sklearn.ensemble import IsolationForest

        return -IsolationForest(random_state=seed).fit(values).score_samples(values)

    def local() -> Any:
        from sklearn.neighbors import LocalOutlierFactor

        return -LocalOutlierFactor(n_neighbors=20).fit(unit).negative_outlier_factor_

    timed("cleanlab", cleanlab)
    timed("isolation_forest", lambda: forest(x))
    timed("isolation_forest_of_both", lambda: forest(np.hstack([x, shown])))
    timed("isolation_forest_of_figures", lambda: forest(shown))
    timed("local_outlier_factor", local)
    return found


def figures(score: Any, truth: Any) -> dict[str, float]:
    """Return AUROC and average precision of a score."""
    order = np.argsort(-score, kind="stable")
    hit = truth[order]
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    ranks = np.empty(len(score))
    ranks[np.argsort(score, kind="stable")] = np.arange(1, len(score) + 1)
    n, m = truth.sum(), (~truth).sum()
    return {
        "auroc": round(float((ranks[truth].sum() - n * (n + 1) / 2) / (n * m)), 4),
        "auprc": round(float(precision[hit].mean()), 4),
    }


def measured(settings: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Plant, embed and score once."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = plant(
            folder, images=settings.images, foreign=settings.foreign, seed=seed
        )
        dataset = embedded(
            folder, encoder=settings.encoder, epochs=settings.epochs, seed=seed
        )
        judged = dataset.column("use") >= 0
        truth = np.array(
            [Path(path).name in names for path in dataset.column("path")[judged]]
        )
        x = np.asarray(dataset.embeddings[:])[judged]
        shown = dataset.columns("mean", "std", "saturation", "sharpness", "sigma")
        table = np.stack([*shown.values()], axis=1)[judged]
        scores = {"ours": ours(dataset, judged)} | rivals(x, table, seed=seed)
        if settings.keep:
            columns = dataset.columns(
                *("use", "label", "group", "mean", "std", "saturation"),
                *("sharpness", "sigma", "impulse"),
            )
            part = {name: values[judged] for name, values in columns.items()}
            np.savez(settings.keep, x=x, truth=truth, **part)
    flagged = scores["ours"].pop("flagged")
    print(
        f"flagged {flagged.sum()}, of which foreign {(flagged & truth).sum()} of"
        f" {truth.sum()}",
        file=sys.stderr,
    )
    return {
        name: figures(found["score"], truth) | {"seconds": round(found["seconds"], 2)}
        if "score" in found
        else found
        for name, found in scores.items()
    }


def main() -> None:
    """Measure for each seed and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1_200)
    parser.add_argument("--foreign", type=int, default=60)
    parser.add_argument("--encoder", choices=["auto", "fit"], default="auto")
    parser.add_argument("--epochs", type=int, help="of the fit")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--keep", help="where to keep embeddings and figures (.npz)")
    settings = parser.parse_args()
    runs = [measured(settings, seed) for seed in range(settings.seeds)]
    print(json.dumps({"benchmark": "anomalies", **vars(settings), "runs": runs}))


if __name__ == "__main__":
    main()
