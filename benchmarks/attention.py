"""What attention, several scales and skipped blocks cost and bring: an ablation.

    SIGHTLINE_HOME=/tmp/attention python benchmarks/attention.py --seeds 1

`small` learns groceries (48 px, official split) and 10,000 images of CIFAR-10 (32 px;
the next 2,000 of the training file validate, the first 2,000 of the test file test),
once for each choice of `train.network` alone, all for the same epochs. Views at test
time are asked of the plain network. The mix has every choice whose validation top-1
beats the plain network's, and the best attention of those that do. Nothing is chosen by
test images.

Sizes of objects: every test image is shown whole, and at .71 and .5 of its side on a
canvas of itself, blurred beyond recognition. Mirrored edges would show the object
again.

Intervals are of 95 % over test images, by bootstrap; differences are paired with the
plain network, and hits are means over seeds. Steps and predictions are timed at 48 px
in rounds that alternate, the fastest counts. Arms that are done are kept under
SIGHTLINE_HOME. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.pictures import Pictures, cifar, grocery  # noqa: E402

GATES = ("se", "eca", "cbam", "heads")
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    **{kind: {"attention": kind} for kind in GATES},
    "pool": {"pool": "attention"},
    "pyramid": {"pyramid": True},
    "parallel": {"kernels": "parallel"},
    "drop_path": {"drop_path": 0.1},
}
VIEWS: dict[str, dict[str, Any]] = {
    "test_scales": {"test_scales": (0.75, 1.0, 1.25)},
    "test_flip": {"test_flip": True},
}
SIZES = (1.0, 0.71, 0.5)
RESAMPLES = 4_000
BATCH, ASKED = 128, 256


def shown_at(images: Any, share: float) -> Any:
    """Return images (n h w c) at `share` of their side, on their own blur."""
    import cv2

    if share == 1:
        return images
    side = images.shape[1]
    inner = round(side * share)
    first = (side - inner) // 2
    out = np.stack([cv2.GaussianBlur(one, (0, 0), side / 6) for one in images])
    for canvas, one in zip(out, images, strict=True):
        small = cv2.resize(one, (inner, inner), interpolation=cv2.INTER_AREA)
        canvas[first : first + inner, first : first + inner] = small
    return out


def network(data: Pictures, choices: dict[str, Any], *, seed: int) -> Any:
    """Return `small` with a design, and the design."""
    from models.backbones import create_model
    from models.design import Design

    design = Design(**choices)
    model = create_model(
        "small",
        num_classes=int(data.labels.max()) + 1,
        image_size=data.images.shape[1],
        seed=seed,
        design=design,
    )
    return model, design


def recipe_for(data: Pictures, *, epochs: int) -> Any:
    """Return the default recipe for so many images and epochs."""
    from models.recipe import Recipe, batch_for, views_for

    return Recipe(
        epochs=epochs,
        batch_size=batch_for(len(data.train)),
        augment=views_for(epochs),
    )


def hits(
    data: Pictures, weights: Any, choices: dict[str, Any], *, seed: int
) -> dict[str, Any]:
    """Return which validation and test images a network gets right, by size shown."""
    from flax import nnx

    from models.feed import place
    from models.steps import device_mesh, make_predict

    model, design = network(data, choices, seed=seed)
    graphdef, *_ = nnx.split(model, nnx.Param, ...)
    mesh = device_mesh(ASKED)
    ask = make_predict(graphdef, **data.scales, mesh=mesh, design=design)
    held = place(weights, mesh, split=False)

    def right(images: Any, labels: Any) -> Any:
        found = []
        for start in range(0, len(images), ASKED):
            batch = images[start : start + ASKED]
            padded = batch[np.resize(np.arange(len(batch)), ASKED)]
            found.append(np.asarray(ask(*held, padded)).argmax(1)[: len(batch)])
        return np.concatenate(found) == labels

    test = data.images[data.test]
    out = {
        f"test {s:g}": right(shown_at(test, s), data.labels[data.test]) for s in SIZES
    }
    return out | {"val": right(data.images[data.val], data.labels[data.val])}


def trained(
    data: Pictures, name: str, choices: dict[str, Any], *, home: Path, **given: Any
) -> dict[str, dict[str, Any]]:
    """Train one arm, or take what is kept of it; return its hits, and by views.

    Args:
        data: Images.
        name: Of the arm.
        choices: Its design; views are asked besides, one at a time.
        home: Where it is kept.
        given: `epochs` and `seed`.
    """
    from models.feed import BatchSource
    from models.fit import FitSettings, fit
    from models.steps import device_mesh

    seed, epochs = given["seed"], given["epochs"]
    kept = home / f"{data.name}-{name}-{epochs}-{len(data.train)}-{seed}.npz"
    if not kept.exists():
        start = time.perf_counter()
        recipe = recipe_for(data, epochs=epochs)
        source = BatchSource(
            labels=data.labels,
            train_rows=data.train,
            val_rows=data.val,
            read=lambda rows: data.images[rows],
            chunk=256,
            num_classes=int(data.labels.max()) + 1,
        )
        layers = {k: v for k, v in choices.items() if not k.startswith("test_")}
        model, design = network(data, layers, seed=seed)
        result = fit(
            model,
            source,
            recipe=dataclasses.replace(recipe, network=design),
            settings=FitSettings(seed=seed),
            **data.scales,
            run_dir=kept.with_suffix(""),
            mesh=device_mesh(recipe.batch_size),
        )
        asked = {"": choices} | (VIEWS if name == "plain" else {})
        found = {
            f"{arm}|{key}": value
            for arm, extra in asked.items()
            for key, value in hits(
                data, (result.params, result.stats), layers | extra, seed=seed
            ).items()
        }
        aside = kept.with_suffix(".part.npz")
        np.savez(aside, **found)
        aside.replace(kept)
        shutil.rmtree(kept.with_suffix(""))  # its checkpoints
        spent = time.perf_counter() - start
        top1 = float(found["|val"].mean())
        line = {
            "data": data.name,
            "arm": name,
            "seed": seed,
            "val_top1": round(top1, 4),
        }
        print(json.dumps(line | {"seconds": round(spent)}), file=sys.stderr, flush=True)
    out: dict[str, dict[str, Any]] = {}
    with np.load(kept) as file:
        for key in file:
            arm, split = key.split("|")
            out.setdefault(arm or name, {})[split] = file[key].astype(np.float64)
    return out


def mixed(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the choices that validation likes better than the plain network."""
    top1 = {arm: float(split["val"].mean()) for arm, split in found.items()}
    liked = [arm for arm in (*ARMS, *VIEWS) if top1[arm] > top1["plain"]]
    gate = max((arm for arm in GATES if arm in liked), key=top1.__getitem__, default="")
    choices: dict[str, Any] = {}
    for arm in liked:
        if arm not in GATES or arm == gate:
            choices |= (ARMS | VIEWS)[arm]
    return choices


def ablation(
    data: Pictures, *, home: Path, epochs: int, seeds: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the figures of all arms, and what the mix is made of."""
    found = over_seeds(ARMS, data, home=home, epochs=epochs, seeds=seeds)
    mix = mixed(found)
    if not mix:
        return {arm: figures(found[arm], found["plain"]) for arm in found}, mix
    named = "mix-" + "-".join(f"{k}={v}" for k, v in mix.items()).replace(" ", "")
    last = over_seeds({named: mix}, data, home=home, epochs=epochs, seeds=seeds)
    found["mix"] = last[named]
    return {arm: figures(found[arm], found["plain"]) for arm in found}, mix


def over_seeds(
    arms: dict[str, dict[str, Any]], data: Pictures, *, seeds: int, **given: Any
) -> dict[str, dict[str, Any]]:
    """Return the hits of each arm, as means over seeds."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        for arm, choices in arms.items():
            for name, hit in trained(data, arm, choices, seed=seed, **given).items():
                runs.setdefault(name, []).append(hit)
    return {
        name: {split: np.mean([hit[split] for hit in each], 0) for split in each[0]}
        for name, each in runs.items()
    }


def figures(own: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """Return top-1 by split, and what it is more than the plain network's."""
    out = {}
    for split, hit in own.items():
        out[split] = {"top1": interval(hit), "more": interval(hit - plain[split])}
    return out


def interval(values: Any) -> list[float]:
    """Return the mean of values (n,), and its bootstrap interval over images."""
    random = np.random.default_rng(0)
    n = len(values)
    drawn = random.integers(0, n, (RESAMPLES, n), np.int32)
    low, high = np.quantile(values[drawn].mean(1), (0.025, 0.975))
    return [round(float(v), 4) for v in (values.mean(), low, high)]


def costs(data: Pictures, mix: dict[str, Any], *, rounds: int) -> dict[str, Any]:
    """Return parameters, and milliseconds of a step and a prediction, by arm."""
    arms = {**ARMS, **VIEWS, "mix": mix}
    ready = {arm: compiled(data, choices) for arm, choices in arms.items()}
    spent: dict[str, list[list[float]]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm, (_, *programs) in ready.items():
            spent[arm].append([timed(program) for program in programs])
    out = {}
    for arm, (size, *_) in ready.items():
        step, predict = np.min(spent[arm], 0)
        out[arm] = {
            "parameters": size,
            "step_ms": round(float(step), 1),
            "predict_ms": round(float(predict), 1),
        }
    return out


def timed(program: Callable[[], None], *, times: int = 2) -> float:
    """Return the milliseconds of one call."""
    start = time.perf_counter()
    for _ in range(times):
        program()
    return (time.perf_counter() - start) / times * 1000


def compiled(
    data: Pictures, choices: dict[str, Any]
) -> tuple[int, Callable[[], None], Callable[[], None]]:
    """Return parameters, a function that takes a step, and one that predicts."""
    import jax

    from models import steps
    from models.feed import place
    from models.objective import make_objective
    from models.optim import make_optimizer

    recipe = dataclasses.replace(recipe_for(data, epochs=20), batch_size=BATCH)
    mesh = steps.device_mesh(BATCH)
    model, design = network(data, choices, seed=0)
    tx, _ = make_optimizer(recipe, 400)
    graphdef, state = steps.create_state(model, tx, mesh=mesh)
    step = steps.make_train_step(
        graphdef,
        tx,
        augment=recipe.augment,
        **data.scales,
        ema=recipe.ema,
        objective=make_objective(smoothing=recipe.label_smoothing),
        seed=0,
        mesh=mesh,
    )
    rows = np.arange(BATCH, dtype=np.int32)
    given = data.images[rows], data.labels[rows], np.ones(BATCH, np.float32), rows
    batch = place(given, mesh, split=True)
    ask = steps.make_predict(graphdef, **data.scales, mesh=mesh, design=design)
    many = place(data.images[np.resize(rows, ASKED)], mesh, split=True)
    weights = jax.tree.map(lambda leaf: leaf.copy(), steps.eval_params(state))
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    holder = [step(state, *batch)[0]]

    def train() -> None:
        holder[0], _ = step(holder[0], *batch)
        jax.block_until_ready(holder[0])

    def predict() -> None:
        jax.block_until_ready(ask(*weights, many))

    predict()
    return size, train, predict


def main() -> None:
    """Train the arms that are missing, time all, and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grocery-epochs", type=int, default=20)
    parser.add_argument("--cifar-epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=10_000, help="of CIFAR-10")
    parser.add_argument("--size", type=int, default=48, help="of the groceries, px")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    given = parser.parse_args()
    logging.getLogger("sightline").setLevel(logging.WARNING)
    home = Path(os.environ["SIGHTLINE_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home / "xla"))
    from models.steps import use_all_cores

    use_all_cores()
    photos = grocery(size=given.size)
    jobs = [(photos, given.grocery_epochs), (cifar(given.images), given.cifar_epochs)]
    results: dict[str, Any] = {}
    for data, epochs in jobs:
        arms, mix = ablation(data, home=home, epochs=epochs, seeds=given.seeds)
        results[data.name] = {"mix": mix, "arms": arms}
    spent = costs(photos, results["grocery"]["mix"], rounds=given.rounds)
    line = {"benchmark": "attention", **vars(given), "costs": spent, **results}
    print(json.dumps(line))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
