"""What denoising and training on noise do for groceries with planted noise.

    python benchmarks/noise_arms.py --folder /tmp/arms --seeds 2

Every photo is reduced to `--side` pixels; on 40 % of the training, validation and test
photos sensor noise is planted, half Gaussian (sigma 25 to 40), half salt and pepper (5
to 10 %), and all are written as JPEG of quality 92. The four arms share everything
else: nothing, denoise (the stage), train (noise among the random views), both. An arm
whose answers lie in the folder is not run again, so `--arms` may split the work.
Differences are paired over the test images, by bootstrap. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
GROCERY = ROOT.parent / "shared" / "data" / "grocery"
ARMS = ("nothing", "denoise", "train", "both")
QUALITY = 92


def plant(folder: Path, *, side: int, share: float) -> None:
    """Write all photos, a share of them noisy, and their manifest."""
    if (folder / "manifest.csv").exists():
        return
    with (GROCERY / "manifest.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["split"] in {"train", "test"}]
    lines = []
    for i, row in enumerate(rows):
        rng = np.random.default_rng(i)
        image = cv2.imread(str(GROCERY / row["path"]))
        scale = side / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=3)
        draw = rng.random()
        kind = "gaussian" if draw < share / 2 else "impulse" if draw < share else "none"
        path = f"{kind}/{row['split']}-{i:05}.jpg"
        (folder / kind).mkdir(parents=True, exist_ok=True)
        noisy = spoiled(image, kind, rng)
        cv2.imwrite(str(folder / path), noisy, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        lines.append([path, row["label"], row["split"]])
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        writer.writerows(lines)


def spoiled(image: Any, kind: str, rng: np.random.Generator) -> Any:
    """Return the photo with one kind of noise."""
    if kind == "gaussian":
        noise = rng.normal(0, rng.uniform(25, 40), image.shape)
        return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    out = image.copy()
    if kind == "impulse":
        share, hit = rng.uniform(0.05, 0.10), rng.random(image.shape[:2])
        out[hit < share / 2], out[hit > 1 - share / 2] = 0, 255
    return out


def answers(
    folder: Path, arm: str, *, seed: int, size: int, epochs: int
) -> dict[str, Any]:
    """Train one arm and return which test photos it gets right, and their kind."""
    kept = folder / f"{arm}-{size}-{epochs}-{seed}.npz"
    if not kept.exists():
        np.savez(kept, **trained(folder, arm, seed=seed, size=size, epochs=epochs))
    return dict(np.load(kept))


def trained(
    folder: Path, arm: str, *, seed: int, size: int, epochs: int
) -> dict[str, Any]:
    """Run the stages of one arm."""
    from data_contracts.store import Dataset
    from models.recipe import GENTLE
    from tasks.augment_settings import AugmentSettings
    from tasks.clean import CleanSettings, clean_dataset
    from tasks.decode import DecodeSettings
    from tasks.denoise import DenoiseSettings, denoise_dataset
    from tasks.inference import Predictor, predict_rows
    from tasks.ingest import IngestSettings, ingest_dataset
    from tasks.split import TEST, SplitSettings, split_dataset
    from tasks.train import train_model
    from tasks.train_settings import TrainSettings

    source = ingest_dataset(
        str(folder / "manifest.csv"),
        IngestSettings(decode=DecodeSettings(image_size=size)),
        uri=str(folder / f"set-{size}"),
    )
    source = clean_dataset(source, CleanSettings())
    source = denoise_dataset(source, DenoiseSettings(treat=arm in {"denoise", "both"}))
    source = split_dataset(source, SplitSettings())
    noise = {"noise_gaussian": 0.25, "noise_impulse": 0.25, "noise_severity": 5.0}
    views = vars(GENTLE) | (noise if arm in {"train", "both"} else {})
    settings = TrainSettings(
        epochs=epochs,
        seed=seed,
        patience=0,
        augment=AugmentSettings.model_validate(views),
    )
    start = time.perf_counter()
    model = train_model(source, settings, name=arm, runs=str(folder / "runs"))
    seconds = time.perf_counter() - start
    dataset = Dataset(source)
    columns = dataset.columns("use", "label", "path", "noise")
    rows = np.flatnonzero(columns["use"] == TEST)
    predictor = Predictor.load(model.model)
    probs = np.concatenate([p for _, p in predict_rows(predictor, dataset, rows)])
    names = np.array(dataset.names("label_names"), object)[columns["label"][rows]]
    said = np.array(predictor.classes, object)[probs.argmax(1)]
    kinds = [path.split("/")[0] for path in columns["path"][rows]]
    return {
        "right": said == names,
        "kind": np.array(kinds),
        "found": columns["noise"][rows].astype(str),
        "path": columns["path"][rows].astype(str),
        "seconds": seconds,
    }


def summary(runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    """Return top-1 by kind of noise, and the gain over `base` with its interval."""
    kind = runs[0]["kind"]
    right = np.mean([run["right"] for run in runs], axis=0)
    gain = right - np.mean([run["right"] for run in base], axis=0)
    rng = np.random.default_rng(0)
    draws = gain[rng.integers(0, len(gain), (2_000, len(gain)))].mean(1)
    parts = {name: round(float(right[kind == name].mean()), 4) for name in set(kind)}
    return {
        "top1": round(float(right.mean()), 4),
        "by_seed": [round(float(run["right"].mean()), 4) for run in runs],
        **dict(sorted(parts.items())),
        "gain": round(float(gain.mean()), 4),
        "gain_interval": [
            round(float(q), 4) for q in np.quantile(draws, (0.025, 0.975))
        ],
        "seconds": [round(float(run["seconds"])) for run in runs],
    }


def main() -> None:
    """Run the arms that are missing and print one JSON line of those there are."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True, help="is kept")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.4)
    given = parser.parse_args()
    folder = given.folder / f"side-{given.side}-share-{given.share:g}"
    plant(folder, side=given.side, share=given.share)
    runs = {
        arm: [
            answers(folder, arm, seed=seed, size=given.size, epochs=given.epochs)
            for seed in range(given.seeds)
        ]
        for arm in given.arms.split(",")
    }
    base = runs[given.arms.split(",")[0]]
    arms = {arm: summary(found, base) for arm, found in runs.items()}
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items()}
    print(json.dumps({"benchmark": "noise_arms", **settings, "arms": arms}))


if __name__ == "__main__":
    main()
