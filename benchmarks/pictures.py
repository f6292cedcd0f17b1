"""Images that several benchmarks learn from, in memory: groceries and CIFAR-10."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SIGHTLINE_TEST_DATA", ROOT.parent / "shared" / "data"))


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images (n h w c), uint8, classes (n,), and rows of each split."""

    name: str
    images: Any
    labels: Any
    train: Any
    val: Any
    test: Any

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.labels.max()) + 1

    @functools.cached_property
    def scales(self) -> dict[str, tuple[float, ...]]:
        """Mean and deviation of the training pixels."""
        pixels = self.images[self.train].reshape(-1, 3) / 255
        mean, std = pixels.mean(0).tolist(), pixels.std(0).tolist()
        return {"mean": tuple(mean), "std": tuple(std)}


def grocery(*, size: int) -> Pictures:
    """Return the groceries as the pipeline decodes and divides them."""
    from data_contracts.store import Dataset
    from flows import workspace
    from flows.result import Clock
    from flows.stages import StageSettings, prepare
    from tasks.decode import DecodeSettings

    found, _ = prepare(
        str(DATA / "grocery" / "manifest.csv"),
        StageSettings(decode=DecodeSettings(image_size=size)),
        uri=workspace.dataset_uri("grocery"),
        clock=Clock(),
    )
    dataset = Dataset(found["split"])
    use = dataset.column("use")
    train, val, test = (np.flatnonzero(use == split) for split in splits())
    images = dataset.take(np.arange(dataset.n))
    labels = dataset.column("label").astype(np.int32)
    return Pictures("grocery", images, labels, train, val, test)


def splits() -> tuple[int, int, int]:
    """Return how the pipeline marks training, validation and test rows."""
    from tasks.split import TEST, TRAIN, VAL

    return TRAIN, VAL, TEST


def cifar(n: int, held_out: int = 2_000) -> Pictures:
    """Return CIFAR-10's first `n` training images and held-out ones."""
    import cv2
    import pyarrow.parquet as pq

    images, labels = [], []
    for split, count in (("train", n + held_out), ("test", held_out)):
        table = pq.read_table(DATA / "cifar10" / f"{split}.parquet").slice(0, count)
        packed = (np.frombuffer(r["bytes"], np.uint8) for r in table["img"].to_pylist())
        images += [cv2.imdecode(one, cv2.IMREAD_COLOR_RGB) for one in packed]
        labels += table["label"].to_pylist()
    rows = np.split(np.arange(len(images)), [n, n + held_out])
    return Pictures("cifar10", np.stack(images), np.array(labels, np.int32), *rows)
