"""Time our training step against the same network in PyTorch, on CPU.

    python benchmarks/train_step.py --preset small --image-size 64 --batch-size 128

Both train on the same images in memory, without augmentation, in float32, with AdamW,
weight average and label smoothing. Rounds alternate, since a shared machine drifts.
Needs torch (the dependency group `bench`). Prints one line of JSON; a ratio above 1
says that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

CLASSES = 81
VIEW = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.25, 0.25)}
Rounds = Callable[[int], None]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="small", choices=["small", "resnet18"])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    shape = (options.batch_size, options.image_size, options.image_size, 3)
    images = random.integers(0, 256, shape).astype(np.uint8)
    labels = random.integers(0, CLASSES, options.batch_size).astype(np.int32)
    ours, count = jax_rounds(images, labels, options)
    theirs, torch_count = torch_rounds(images, labels, options)
    if count != torch_count:
        raise SystemExit(f"not the same network: {count} and {torch_count} weights")
    print(json.dumps(compare(ours, theirs, options) | {"weights": count}))


def compare(ours: Rounds, theirs: Rounds, options: Any) -> dict[str, Any]:
    """Alternate rounds of both; the first of each compiles and does not count."""
    spent: dict[str, list[tuple[float, float]]] = {"jax": [], "torch": []}
    for _ in range(options.rounds + 1):
        for name, run in (("jax", ours), ("torch", theirs)):
            wall, cpu = time.perf_counter(), time.process_time()
            run(options.steps)
            spent[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    images = options.steps * options.batch_size
    result: dict[str, Any] = vars(options).copy()
    pairs = list(zip(spent["jax"][1:], spent["torch"][1:], strict=True))
    for name, times in spent.items():
        result[f"{name}_images_per_second"] = round(
            images / min(wall for wall, _ in times[1:]), 1
        )
        result[f"{name}_images_per_cpu_second"] = round(
            images / min(cpu for _, cpu in times[1:]), 1
        )
    result["ratio"] = round(
        result["jax_images_per_second"] / result["torch_images_per_second"], 3
    )
    result["ratio_median_of_rounds"] = round(
        statistics.median(torch[0] / jax[0] for jax, torch in pairs), 3
    )
    result["ratio_cpu_seconds"] = round(
        result["jax_images_per_cpu_second"] / result["torch_images_per_cpu_second"], 3
    )
    return result


def jax_rounds(images: Any, labels: Any, options: Any) -> tuple[Rounds, int]:
    """Return a function that takes some of our steps, and the number of weights."""
    import jax

    from models import steps
    from models.backbones import create_model
    from models.objective import make_objective
    from models.optim import adamw
    from models.recipe import NONE

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.threads)
    mesh = steps.cpu_mesh()
    model = create_model(
        options.preset, num_classes=CLASSES, image_size=options.image_size, seed=0
    )
    tx = adamw(1e-3)
    graphdef, state = steps.create_state(model, tx, mesh=mesh)
    step = steps.make_train_step(
        graphdef,
        tx,
        augment=NONE,
        **VIEW,
        ema=0.99,
        objective=make_objective(smoothing=0.1),
        seed=0,
        mesh=mesh,
    )
    weights = np.ones(len(labels), np.float32)
    places = np.arange(len(labels), dtype=np.int32)
    holder = [state]

    def run(count: int) -> None:
        for _ in range(count):
            holder[0], _ = step(holder[0], images, labels, weights, places)
        jax.block_until_ready(holder[0])

    return run, sum(leaf.size for leaf in jax.tree.leaves(state.params))


def torch_rounds(images: Any, labels: Any, options: Any) -> tuple[Rounds, int]:
    """Return a function that takes some steps in PyTorch, and the number of weights."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    net = torch_resnet(options.preset, options.image_size)
    net = net.to(memory_format=torch.channels_last).train()
    average = [p.detach().clone() for p in net.state_dict().values()]
    decays = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decays}, {"params": rest, "weight_decay": 0}],
        lr=1e-3,
        weight_decay=0.05,
        foreach=True,
    )
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    pixels, target = torch.from_numpy(images), torch.from_numpy(labels).long()
    mean, std = (torch.tensor(VIEW[k])[:, None, None] for k in ("mean", "std"))

    def run(count: int) -> None:
        for _ in range(count):
            x = pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
            optimizer.zero_grad(set_to_none=True)
            loss_of(net(x), target).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                for old, new in zip(average, net.state_dict().values(), strict=True):
                    if old.is_floating_point():
                        old.lerp_(new, 0.01)

    return run, sum(p.numel() for p in net.parameters())


def torch_resnet(preset: str, image_size: int) -> Any:
    """Build the network of `models.backbones` in PyTorch."""
    from torch import nn

    def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> list[Any]:
        edge = (size - 1) // 2
        return [
            nn.Conv2d(inputs, outputs, size, stride, edge, bias=False),
            nn.BatchNorm2d(outputs),
        ]

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                *convolution(inputs, outputs, 3, stride),
                nn.ReLU(inplace=True),
                *convolution(outputs, outputs, 3),
            )
            pool = [nn.AvgPool2d(2, ceil_mode=True)] if stride == 2 else []
            same = stride == 1 and inputs == outputs
            self.shortcut = nn.Sequential(
                *([] if same else [*pool, *convolution(inputs, outputs, 1)])
            )
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.shortcut(x))

    from models.backbones import shape_of

    shape = shape_of(preset, image_size=image_size)
    size, stride = {"half": (4, 2), "cifar": (3, 1), "imagenet": (7, 2)}[shape.stem]
    inputs = shape.widths[0]
    layers = [*convolution(3, inputs, size, stride), nn.ReLU(inplace=True)]
    if shape.stem == "imagenet":
        layers.append(nn.MaxPool2d(3, 2, 1))
    for stage, (outputs, depth) in enumerate(
        zip(shape.widths, shape.depths, strict=True)
    ):
        for index in range(depth):
            layers.append(Block(inputs, outputs, 2 if stage and not index else 1))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)]
    return nn.Sequential(*layers)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
