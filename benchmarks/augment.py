"""Random views a second, beside Albumentations and torchvision.

    python benchmarks/augment.py --side 64 --cores 1
    python benchmarks/augment.py --side 224 --batch 32 --cores 2

The same policy on the same images in memory: crop, mirror, turn, colour with hue, and
for half of the images each a blur, Gaussian noise and two holes. Ours is one compiled
call for a batch, on as many devices as cores; a rival runs image by image in as many
processes, which hand nothing back. Rounds alternate, since a shared machine drifts.
Needs albumentations 2.0.8 (MIT), and torchvision where `--torchvision` is given. Prints
one line of JSON; a ratio above 1 says that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

BLUR = (0.003, 0.02)  # shares of the side
Images = Any


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--torchvision", action="store_true")
    parser.add_argument("--policy", default="set", choices=["set", "rand", "trivial"])
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    shape = (options.batch, options.side, options.side, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    makers = {"torchvision": torchvision_view} if options.torchvision else {}
    if options.policy == "set":
        makers["albumentations"] = albumentations_view
    # Rivals fork before JAX starts its threads.
    runs = {name: Rival(make, images, options) for name, make in makers.items()}
    runs["ours"] = ours(images, options)
    print(json.dumps(vars(options) | compare(runs, options)))
    for run in runs.values():
        getattr(run, "close", lambda: None)()


def compare(runs: dict[str, Callable[[], None]], options: Any) -> dict[str, Any]:
    """Alternate rounds; the first of each compiles and does not count."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    busy: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds + 1):
        for name, run in runs.items():
            start, begun = time.perf_counter(), time.process_time()
            run()
            spent[name].append(time.perf_counter() - start)
            busy[name].append(time.process_time() - begun)
    result: dict[str, Any] = {}
    for name, times in spent.items():
        result[f"{name}_images_per_second"] = round(options.batch / min(times[1:]))
    for name in runs:
        if name != "ours":
            if options.cores == 1:  # the time of other processes is not seen
                result[f"ratio_{name}_cpu_seconds"] = round(
                    min(busy[name][1:]) / min(busy["ours"][1:]), 2
                )
            pairs = zip(spent[name][1:], spent["ours"][1:], strict=True)
            result[f"ratio_{name}"] = round(
                result["ours_images_per_second"] / result[f"{name}_images_per_second"],
                2,
            )
            result[f"ratio_{name}_median_of_rounds"] = round(
                statistics.median(theirs / own for theirs, own in pairs), 2
            )
    return result


def ours(images: Images, options: Any) -> Callable[[], None]:
    """Return a function that makes one batch of views, as the training step does."""
    import jax
    from jax.sharding import PartitionSpec

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.cores)
    from models.augment import augment
    from models.recipe import NONE, Augment
    from models.steps import AXIS, cpu_mesh

    crop: dict[str, Any] = {"zoom": (0.4, 1.0), "stretch": 0.3, "flip": 0.5}
    changes: dict[str, Any] = {
        "rotate": 15.0,
        "brightness": 0.2,
        "contrast": 0.5,
        "saturation": 0.5,
        "hue": 18.0,
        "blur": 0.5,
        "blur_size": BLUR,
        "noise_gaussian": 0.5,
        "erase": 0.4,
        "erase_holes": 2,
        "erase_chance": 0.5,
    }
    given = changes if options.policy == "set" else {"policy": options.policy}
    settings = Augment(**(vars(NONE) | crop | given))
    part, whole = PartitionSpec(AXIS), PartitionSpec()

    def local(images: Any, key: Any) -> Any:
        own = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        return augment(images, own, settings)

    split = jax.shard_map(
        local,
        mesh=cpu_mesh(),
        in_specs=(part, whole),
        out_specs=part,
        check_vma=False,
    )
    compiled, count = jax.jit(split), iter(range(1 << 30))

    def run() -> None:
        compiled(images, jax.random.key(next(count))).block_until_ready()

    return run


class Rival:
    """Makes one batch of views image by image, in as many processes as cores."""

    def __init__(self, make: Callable[..., Any], images: Images, options: Any) -> None:
        self.parts = np.array_split(np.arange(len(images)), options.cores)
        self.pool = None
        if options.cores > 1:
            context = multiprocessing.get_context("fork")
            start = (make, images, options.side, options.policy)
            self.pool = context.Pool(options.cores, _begin, start)
        else:
            _begin(make, images, options.side, options.policy)

    def __call__(self) -> None:
        """Make one batch."""
        if self.pool:
            self.pool.map(_view_part, self.parts, chunksize=1)
        else:
            _view_part(self.parts[0])

    def close(self) -> None:
        """Stop the processes."""
        if self.pool:
            self.pool.terminate()


STATE: dict[str, Any] = {}


def _begin(make: Callable[..., Any], images: Images, side: int, policy: str) -> None:
    import cv2

    cv2.setNumThreads(1)
    view, form = make(side, policy)
    STATE.update(view=view, images=[form(image) for image in images])


def _view_part(rows: Any) -> None:
    view, images = STATE["view"], STATE["images"]
    for row in rows:
        view(images[row])


def albumentations_view(side: int, policy: str) -> tuple[Any, Any]:
    """Return a function of one image, and what makes an image ready for it."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A
    import cv2

    whole = A.Compose(
        [
            A.RandomResizedCrop((side, side), scale=(0.16, 1), p=1),
            A.HorizontalFlip(p=0.5),
            A.Rotate(15, p=1, border_mode=cv2.BORDER_REFLECT_101),
            A.ColorJitter(0.2, 0.4, 0.4, 0.05, p=1),
            A.GaussianBlur(
                blur_limit=0, sigma_limit=(BLUR[0] * side, BLUR[1] * side), p=0.5
            ),
            A.GaussNoise(std_range=(0.0, 0.1), p=0.5),
            A.CoarseDropout(num_holes_range=(2, 2), p=0.5),
        ]
    )
    return lambda image: whole(image=image), lambda image: image


def torchvision_view(side: int, policy: str) -> tuple[Any, Any]:
    """Return a function of one image, and what makes an image ready for it."""
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    crop = [
        v2.RandomResizedCrop(side, scale=(0.16, 1), antialias=False),
        v2.RandomHorizontalFlip(),
    ]
    float_ = v2.ToDtype(torch.float32, scale=True)
    if policy != "set":
        auto = v2.RandAugment() if policy == "rand" else v2.TrivialAugmentWide()
        steps = [*crop, auto, float_]
    else:
        reach = max(1, round(2.5 * BLUR[1] * side))
        blur = v2.GaussianBlur(2 * reach + 1, (BLUR[0] * side, BLUR[1] * side))
        steps = [
            *crop,
            v2.RandomRotation(15, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(0.2, 0.4, 0.4, 0.05),
            v2.RandomApply([blur], 0.5),
            float_,
            v2.RandomApply([v2.GaussianNoise(sigma=0.05)], 0.5),
            v2.RandomErasing(0.5),
        ]
    whole = v2.Compose(steps)
    return whole, lambda image: torch.from_numpy(image).permute(2, 0, 1).contiguous()


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
