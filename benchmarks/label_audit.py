"""Finding wrong labels: the audit against cleanlab, given the same embeddings.

    python benchmarks/label_audit.py --seeds 3

10,000 training images of `cifar10` a seed; 20 % of the labels are flipped, to the next
class (pairwise) or where the image invites it (instance). The embeddings are those of
the stage `embed` without a champion. cleanlab gets out-of-fold probabilities of
scikit-learn's logistic regression on them, as its guides have it, and each of its
scores; both sides start from embeddings and labels, and end in a ranking. Needs
cleanlab 2.9 and scikit-learn beside this project. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CIFAR = ROOT.parent / "shared" / "data" / "cifar10" / "train.parquet"
N, RATE, FOLDS = 10_000, 0.2, 5
SCORES = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
Ints = NDArray[np.int64]
Images = NDArray[np.uint8]


def load(path: Path, *, seed: int) -> tuple[Images, Ints]:
    """Return `N` images (n, 32, 32, 3) and their labels."""
    import cv2
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    rows = np.sort(np.random.default_rng(seed).permutation(table.num_rows)[:N])
    table = table.take(rows)
    images = [
        cv2.imdecode(np.frombuffer(cell["bytes"], np.uint8), cv2.IMREAD_COLOR)[
            ..., ::-1
        ]
        for cell in table["img"].to_pylist()
    ]
    return np.stack(images), np.array(table["label"].to_pylist())


def pairwise(images: Images, labels: Ints, rng: np.random.Generator) -> Ints:
    """Move a share of the labels to the next class."""
    noisy = labels.copy()
    rows = rng.permutation(len(labels))[: round(RATE * len(labels))]
    noisy[rows] = (labels[rows] + 1) % (labels.max() + 1)
    return noisy


def instance(images: Images, labels: Ints, rng: np.random.Generator) -> Ints:
    """Flip labels by what the image looks like.

    The rate of an image is normal around the mean rate, within 0..1; the other class is
    drawn from a softmax of random projections of the pixels, one set a true class (Xia
    et al. 2020, arXiv 2006.07836). It is never the true one.
    """
    n, k = len(labels), int(labels.max()) + 1
    x = images.reshape(n, -1).astype(np.float32)
    x -= x.mean(0)
    x *= np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    rate = rng.normal(RATE, 0.1, 4 * n)
    rate = rate[(rate > 0) & (rate < 1)][:n]
    noisy = labels.copy()
    for label in range(k):
        rows = np.flatnonzero(labels == label)
        weights = rng.normal(size=(x.shape[1], k)).astype(np.float32)
        logits = 4 * x[rows] @ weights / np.sqrt(x.shape[1])
        logits[:, label] = -np.inf
        # The largest of logits with Gumbel noise is a draw from their softmax.
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(1)
        flipped = rng.random(len(rows)) < rate[rows]
        noisy[rows[flipped]] = drawn[flipped]
    return noisy


NOISES: dict[str, Callable[[Images, Ints, np.random.Generator], Ints]] = {
    "pairwise": pairwise,
    "instance": instance,
}


def embed(images: Images, *, seed: int) -> NDArray[np.float32]:
    """Return the embeddings that the stage `embed` makes of `images`."""
    from models.patches import learn_patches
    from tasks.embed import SAMPLE

    rows = np.random.default_rng((seed, 37)).permutation(len(images))[:SAMPLE]
    return learn_patches(images[np.sort(rows)], seed=seed).embed(images)


def ours(x: NDArray[np.float32], noisy: Ints, *, seed: int) -> dict[str, Any]:
    """Return our score and its parts, and what they rest on."""
    from tasks.suspicion import judge, look

    n, k = len(noisy), int(noisy.max()) + 1
    start = time.perf_counter()
    views = look(
        x,
        labels=noisy,
        group=np.arange(n),
        pool=np.ones(n, bool),
        folds=FOLDS,
        neighbours=50,
        seed=seed,
    )
    found = judge(views, noisy, num_classes=k)
    score = found.score
    seconds = time.perf_counter() - start
    parts = {"fused": score, **found.parts}
    return {"scores": parts, "found": found, "views": views, "seconds": seconds}


def cleanlab(
    x: NDArray[np.float32], noisy: Ints, *, scaled: bool = False
) -> dict[str, Any]:
    """Return cleanlab's scores, the larger the more suspicious.

    Its guides give embeddings to the regression as they are; `scaled` standardises
    them first.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    start = time.perf_counter()
    head = LogisticRegression(max_iter=400)
    model = make_pipeline(StandardScaler(), head) if scaled else head
    probs = cross_val_predict(model, x, noisy, cv=FOLDS, method="predict_proba")
    scores = quality(noisy, probs)
    return {"scores": scores, "seconds": time.perf_counter() - start}


def quality(noisy: Ints, probs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return each of cleanlab's scores on given probabilities."""
    from cleanlab.rank import get_label_quality_scores

    return {
        name: -get_label_quality_scores(noisy, np.asarray(probs, float), method=name)
        for name in SCORES
    }


def auprc(score: NDArray[Any], wrong: NDArray[np.bool_]) -> float:
    """Return the average precision of ranking wrong labels first."""
    from sklearn.metrics import average_precision_score

    return round(float(average_precision_score(wrong, score)), 4)


def trials(path: Path, *, seed: int) -> Iterator[dict[str, Any]]:
    """Plant each kind of noise and let both look for it."""
    from tasks.suspicion import judge, plant, planted_rate

    images, labels = load(path, seed=seed)
    start = time.perf_counter()
    x = embed(images, seed=seed)
    embedding = time.perf_counter() - start
    for kind, flip in NOISES.items():
        noisy = flip(images, labels, np.random.default_rng((seed, 5)))
        wrong = noisy != labels
        mine, theirs = ours(x, noisy, seed=seed), cleanlab(x, noisy)
        scaled = cleanlab(x, noisy, scaled=True)
        views = mine["views"]
        planted, where = plant(noisy, views.pool, share=0.02, seed=seed)
        told = judge(views, planted, num_classes=int(noisy.max()) + 1).score
        rivals = {
            "cleanlab": theirs["scores"],
            "cleanlab_scaled": scaled["scores"],
            "cleanlab_on_our_heads": quality(noisy, mine["found"].probs),
        }
        yield {
            "noise": kind,
            "seed": seed,
            "realised": round(float(wrong.mean()), 4),
            "estimated": round(planted_rate(told, where), 4),
            "confident": round(mine["found"].confident[0], 4),
            "embed_seconds": round(embedding, 2),
            "ours": {name: auprc(part, wrong) for name, part in mine["scores"].items()},
            **{
                rival: {name: auprc(score, wrong) for name, score in scores.items()}
                for rival, scores in rivals.items()
            },
            "seconds": round(mine["seconds"], 2),
            "cleanlab_seconds": round(theirs["seconds"], 2),
            "cleanlab_scaled_seconds": round(scaled["seconds"], 2),
        }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds, cleanlab by the best of its scores."""
    best = [
        max(*run["cleanlab"].values(), *run["cleanlab_scaled"].values()) for run in runs
    ]
    return {
        "ours": round(statistics.mean(run["ours"]["fused"] for run in runs), 4),
        "cleanlab_best": round(statistics.mean(best), 4),
        "least_lead": round(
            min(run["ours"]["fused"] - b for run, b in zip(runs, best, strict=True)), 4
        ),
        "seconds": statistics.median(run["seconds"] for run in runs),
        "cleanlab_seconds": statistics.median(r["cleanlab_seconds"] for r in runs),
        "cleanlab_scaled_seconds": statistics.median(
            run["cleanlab_scaled_seconds"] for run in runs
        ),
    }


def main() -> None:
    """Run and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=CIFAR)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    given = parser.parse_args()
    runs = []
    for seed in range(given.first, given.first + given.seeds):
        for run in trials(given.data, seed=seed):
            runs.append(run)
            print(run, file=sys.stderr, flush=True)
    found = {
        kind: summary([run for run in runs if run["noise"] == kind]) for kind in NOISES
    }
    print(json.dumps({"benchmark": "label_audit", **found, "runs": runs}))


if __name__ == "__main__":
    main()
