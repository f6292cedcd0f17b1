"""Accuracy against minutes of training on a CPU, beside PyTorch.

    SIGHTLINE_HOME=FOLDER python benchmarks/curve.py --minutes .5,1,2

Arms: our default recipe; PyTorch with the same network, and with torchvision's
ResNet-18, both by AdamW and one-cycle (the better of three peaks on validation at the
least budget) with weight average, smoothed labels, and torchvision's random crops,
mirrors and colours in two loader processes. Every budget is a training of its own, with
the schedule of that length: as many epochs as the speed, measured first, allows.
Images wait in memory; compilation and evaluation do not count, and are stated. Needs
the dependency groups `bench` and torchvision. Data: `grocery` (official split) and
10,000 images of `cifar10`, the next 2,000 validate, 2,000 of its test file test.
Prints one JSON line; finished arms are kept in SIGHTLINE_HOME.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.pictures import Pictures, cifar, grocery  # noqa: E402

PEAKS = (1e-3, 2e-3, 4e-3)
BATCH = 128


def main() -> None:
    """Run the arms that are missing and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", default=".5,1,2")
    parser.add_argument("--data", default="grocery,cifar10")
    parser.add_argument("--size", type=int, default=48, help="side of grocery's photos")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", default="ours,torch_small,torch_resnet18")
    given = parser.parse_args()
    from models.steps import use_all_cores

    use_all_cores()
    minutes = [float(word) for word in given.minutes.split(",")]
    home = Path(os.environ["SIGHTLINE_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    lines = []
    for name in given.data.split(","):
        grocer = name == "grocery"
        pictures = grocery(size=given.size) if grocer else cifar(10_000)
        for arm in given.arms.split(","):
            kept = home / f"curve-{name}-{arm}-{given.size}-{given.seed}.json"
            if not kept.exists():
                found = curve(arm, pictures, minutes, seed=given.seed)
                kept.write_text(json.dumps({"data": name, "arm": arm, **found}))
            lines.append(json.loads(kept.read_text()))
            print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"benchmark": "curve", **vars(given), "arms": lines}))


def curve(
    arm: str, pictures: Pictures, minutes: list[float], *, seed: int
) -> dict[str, Any]:
    """Train one arm at each budget."""
    train = {"ours": ours, "torch_small": theirs, "torch_resnet18": theirs}[arm]
    kind = arm.removeprefix("torch_")
    n = len(pictures.train)
    probe = functools.partial(train, kind, pictures, epochs=4, seed=seed, judge=False)
    # Twice: what is slow once, at the start, is no speed.
    speed = max(probe(peak=PEAKS[1])[0] for _ in range(2))

    def at(budget: float, peak: float) -> dict[str, Any]:
        epochs = max(2, round(budget * 60 * speed / n))
        rate, spent, val, test = train(
            kind, pictures, epochs=epochs, peak=peak, seed=seed
        )
        return {
            "epochs": epochs,
            "minutes": round(spent, 3),
            "images_per_second": round(rate),
            "val": round(val, 4),
            "test": round(test, 4),
        }

    peak, first = PEAKS[1], []
    if arm != "ours":
        tried = {one: at(minutes[0], one) for one in PEAKS}
        peak = max(PEAKS, key=lambda one: tried[one]["val"])
        first = [tried[peak]]
    rest = [at(budget, peak) for budget in minutes[len(first) :]]
    return {"peak": None if arm == "ours" else peak, "points": [*first, *rest]}


def ours(
    kind: str,
    pictures: Pictures,
    *,
    epochs: int,
    peak: float,
    seed: int,
    judge: bool = True,
) -> Any:
    """Return images/s, minutes, and top-1 on val and test of our default recipe."""
    from flax import nnx

    from models.backbones import create_model
    from models.feed import BatchSource
    from models.fit import FitSettings, fit
    from models.recipe import Recipe, batch_for, views_for
    from models.steps import device_mesh, make_predict

    images, labels = pictures.images[pictures.train], pictures.labels[pictures.train]
    model = create_model(
        "small", num_classes=pictures.classes, image_size=images.shape[1], seed=seed
    )
    source = BatchSource(
        labels=labels,
        train_rows=np.arange(len(images)),
        val_rows=np.arange(0),
        read=lambda rows: images[rows],
        chunk=256,
        num_classes=pictures.classes,
    )
    recipe = Recipe(
        epochs=epochs, batch_size=batch_for(len(images)), augment=views_for(epochs)
    )
    graphdef, *_ = nnx.split(model, nnx.Param, ...)
    mesh = device_mesh()
    with tempfile.TemporaryDirectory() as folder:
        found = fit(
            model,
            source,
            recipe=recipe,
            settings=FitSettings(seed=seed),
            **pictures.scales,
            run_dir=Path(folder),
            mesh=mesh,
        )
    # The first epoch compiles; the others say how long it would have taken.
    rate = float(np.median([line["images_per_second"] for line in found.history[1:]]))
    spent = len(images) * epochs / rate / 60
    if not judge:
        return rate, spent, 0.0, 0.0
    predict = make_predict(graphdef, **pictures.scales, mesh=mesh)
    right = []
    for rows in (pictures.val, pictures.test):
        judged, answers = pictures.images[rows], pictures.labels[rows]
        full = np.resize(np.arange(len(judged)), -(-len(judged) // 256) * 256)
        parts = np.split(full, len(full) // 256)
        logits = [predict(found.params, found.stats, judged[part]) for part in parts]
        answer = np.concatenate(logits)[: len(judged)].argmax(1)
        right.append(float((answer == answers).mean()))
    return rate, spent, *right


def theirs(
    kind: str,
    pictures: Pictures,
    *,
    epochs: int,
    peak: float,
    seed: int,
    judge: bool = True,
) -> Any:
    """Return the same of PyTorch, of our small network or torchvision's ResNet-18."""
    import torch
    import torchvision
    from torchvision.transforms import v2

    from benchmarks.train_step import torch_resnet

    torch.manual_seed(seed)
    torch.set_num_threads(2)
    images, labels = pictures.images[pictures.train], pictures.labels[pictures.train]
    side, classes = images.shape[1], pictures.classes
    if kind == "small":
        net = torch_resnet("small", side)
        net[-1] = torch.nn.Linear(net[-1].in_features, classes)
    else:
        net = torchvision.models.resnet18(num_classes=classes)
    net = net.to(memory_format=torch.channels_last)

    def warmed(averages: Any, current: Any, count: Any) -> None:
        """Move the average as ours does, early steps by more."""
        decay = min(0.995, (1 + float(count)) / (10 + float(count)))
        torch.optim.swa_utils.get_ema_multi_avg_fn(decay)(averages, current, count)

    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=warmed, use_buffers=True
    )
    scale = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(**pictures.scales),
        ]
    )
    views = v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=(0.25, 1), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.2, 0.3, 0.3),
            scale,
        ]
    )
    stored = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    class Views(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(stored)

        def __getitem__(self, at: int) -> Any:
            return views(stored[at]), int(labels[at])

    loader = torch.utils.data.DataLoader(
        Views(),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
    )
    decays = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decays}, {"params": others, "weight_decay": 0}],
        lr=peak,
        weight_decay=0.1,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=epochs * len(loader), pct_start=0.15
    )
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    iter(loader)  # the loader's processes start before the clock does
    net.train()
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        for x, y in loader:
            optimizer.zero_grad(set_to_none=True)
            loss_of(net(x.contiguous(memory_format=torch.channels_last)), y).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
        seconds.append(time.perf_counter() - start)
    # As for ours: the first epoch warms up, the others say how long it takes.
    rate = len(loader) * BATCH / float(np.median(seconds[1:]))
    spent = epochs * len(loader) * BATCH / rate / 60
    if not judge:
        return rate, spent, 0.0, 0.0
    right = []
    average.eval()
    with torch.no_grad():
        for rows in (pictures.val, pictures.test):
            judged, answers = pictures.images[rows], pictures.labels[rows]
            x = scale(torch.from_numpy(judged).permute(0, 3, 1, 2))
            logits = torch.cat([average(part) for part in x.split(256)])
            right.append(float((logits.argmax(1).numpy() == answers).mean()))
    return rate, spent, *right


if __name__ == "__main__":
    main()
