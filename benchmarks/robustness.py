"""What adversarial training brings: CIFAR-10 at 32 px, by method, under attack.

    SIGHTLINE_HOME=/tmp/robustness python benchmarks/robustness.py --images 5000 \
        --epochs 30 --attacked 500

Each arm trains on the first images of the training file, keeps its epoch by the next
2,000 (validation), and is judged on test images by FGSM, PGD of 20 steps, and
`standard` (APGD on cross-entropy, targeted APGD, Square on the survivors), all at
`--epsilon` of 255 levels. Choose by figures of `--split val`; those of `test` are to
report. `free` gets a `--replays`-th of the epochs, so as many updates. What is there
already under SIGHTLINE_HOME is not trained again. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
METHODS = ("none", "fgsm", "pgd", "trades", "free")
ATTACKS = ("fgsm", "pgd", "standard")


def trained(pictures: Any, method: str, given: argparse.Namespace, folder: Path) -> Any:
    """Train one arm, or return what was trained before."""
    from models.backbones import create_model
    from models.feed import BatchSource
    from models.fit import FitSettings, fit
    from models.recipe import Adversarial, Augment, Recipe
    from models.steps import device_mesh

    own = Adversarial(
        method,
        eps=given.epsilon / 255,
        steps=given.steps,
        beta=given.beta,
        replays=given.replays,
        watch=given.watch,
    )
    # The crops and mirrors of published recipes: strong views and mixing bring less
    # to networks that already fit too little.
    views = Augment(
        rotate=0.0,
        zoom=(0.8, 1.0),
        stretch=0.0,
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        mixup=0.0,
        cutmix=0.0,
        resolution=1.0,
    )
    recipe = Recipe(
        preset=given.preset,
        epochs=max(given.epochs // own.updates, 1),
        batch_size=given.batch,
        augment=views,
        adversarial=own,
        label_smoothing=0.0,
    )
    source = BatchSource(
        labels=pictures.labels,
        train_rows=pictures.train,
        val_rows=pictures.val,
        read=lambda rows: pictures.images[rows],
        chunk=256,
        num_classes=pictures.classes,
    )
    model = create_model(given.preset, num_classes=10, image_size=32, seed=given.seed)
    return fit(
        model,
        source,
        recipe=recipe,
        settings=FitSettings(seed=given.seed),
        run_dir=folder,
        mesh=device_mesh(given.batch),
        on_progress=lambda done, total, rate, note: None,
        **pictures.scales,
    )


def stands(pictures: Any, result: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Return top-1 plain and under each attack, with intervals of 95 %."""
    from flax import nnx

    from models.attacks.run import Attacker
    from models.attacks.settings import Attack
    from models.backbones import create_model
    from models.forward import look_at
    from models.steps import device_mesh, normalise
    from tasks.intervals import wilson

    model = create_model(given.preset, num_classes=10, image_size=32, seed=0)
    graphdef, *_ = nnx.split(model, nnx.Param, ...)

    def logits_of(weights: Any, pixels: Any) -> Any:
        return look_at(graphdef, weights, normalise(pixels, **pictures.scales))

    rows = (pictures.val if given.split == "val" else pictures.test)[: given.attacked]
    images, labels = pictures.images[rows], pictures.labels[rows]
    found: dict[str, Any] = {}
    for method in ATTACKS:
        spend = Attack(method, eps=given.epsilon / 255, queries=given.queries)
        run = Attacker(logits_of, spend, batch_size=64, mesh=device_mesh(64))
        start = time.perf_counter()
        out = run((result.params, result.stats), images, labels)
        if method == ATTACKS[0]:
            found["clean"] = share(out.stage != -2, wilson)
        found[method] = share(~out.broken, wilson)
        found[f"{method} seconds"] = round(time.perf_counter() - start, 1)
        if method == "standard":
            found["broken by stage"] = [int((out.stage == k).sum()) for k in range(3)]
    return found


def share(right: Any, wilson: Any) -> list[float]:
    """Return a share and its interval."""
    low, high = wilson(right.sum(), len(right), level=0.95)
    return [round(float(value), 4) for value in (right.mean(), low, high)]


def arm(pictures: Any, method: str, given: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one arm."""
    home = Path(os.environ.get("SIGHTLINE_HOME", "workspace")) / "robustness"
    asked = {k: v for k, v in vars(given).items() if k != "methods"}
    name = "-".join(
        f"{v:g}" if isinstance(v, float) else str(v) for v in asked.values()
    )
    kept = home / f"{method}-{name}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    # The split that is judged, and by how much, changes no training.
    judged = ("split", "attacked", "queries")
    run = "-".join(str(v) for k, v in asked.items() if k not in judged)
    result = trained(pictures, method, given, home / f"run-{method}-{run}")
    best = result.history[result.best_epoch - 1]
    line = {
        "method": method,
        "minutes": round(sum(each["seconds"] for each in result.history) / 60, 2),
        "epoch": f"{result.best_epoch} of {result.epochs_run}",
        "val_top1": round(best["val_top1"], 4),
        "val_robust": best.get("val_robust"),
        "notes": list(result.notes),
        **stands(pictures, result, given),
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(line))
    print(json.dumps(line), file=sys.stderr, flush=True)
    return line


def main() -> None:
    """Run the arms that are missing and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--epsilon", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--beta", type=float, default=4.0)
    parser.add_argument("--replays", type=int, default=4)
    parser.add_argument("--watch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attacked", type=int, default=500)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    given = parser.parse_args()
    from models.steps import use_all_cores

    use_all_cores()
    from pictures import cifar

    pictures = cifar(given.images)
    lines = [arm(pictures, method, given) for method in given.methods.split(",")]
    print(json.dumps({"benchmark": "robustness", **vars(given), "arms": lines}))


if __name__ == "__main__":
    main()
