"""The training images nearest to an image, by what the network makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_contracts.dataset import Array
from data_contracts.store import Dataset
from tasks.explain_settings import ExplainSettings
from tasks.inference import Predictor, fitted
from tasks.lessons import labels_to_learn
from tasks.progress import Progress
from tasks.split import TRAIN

# Training images that are looked through; of more, an even draw.
LOOKED = 20_000


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A training image (h w 3), its label, and how alike it is, as a cosine."""

    image: Array
    path: str
    label: str
    cosine: float


def nearest_taught(
    predictor: Predictor,
    images: Array,
    taught: Dataset | None,
    settings: ExplainSettings,
) -> list[list[Neighbour]]:
    """Return the nearest training images of each image, the nearest first.

    They are the ones whose embeddings, less the mean, point the same way.

    Args:
        predictor: Embeds.
        images: uint8 (n h w 3).
        taught: Where the training images are; None finds nothing.
        settings: How many.
    """
    from models.neighbours import nearest

    if taught is None or not settings.neighbours:
        return []
    rows = np.flatnonzero(taught.column("use") == TRAIN)
    if len(rows) > LOOKED:
        drawn = np.random.default_rng((settings.seed, 2)).permutation(rows)
        rows = np.sort(drawn[:LOOKED])
    if not len(rows):
        return []
    pool = np.empty((len(rows), predictor.width), np.float32)
    with Progress("embed", total=len(rows), unit="images") as progress:
        step = max(taught.chunk, 256)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            pool[start : start + step] = predictor.embed(taught.take(part))
            progress.advance(len(part))
    mean = pool.mean(0)
    near, alike = nearest(
        predictor.embed(images) - mean,
        pool - mean,
        apart=(np.full(len(images), -1), np.arange(len(pool))),
        k=min(settings.neighbours, len(rows)),
    )
    order = np.argsort(-alike, axis=1)
    found = np.take_along_axis(near, order, 1)
    cosine = np.take_along_axis(alike, order, 1)
    flat = rows[found.ravel()]
    size = int(predictor.meta["image_size"])
    seen = fitted(taught.take(flat), size=size).reshape(*found.shape, size, size, 3)
    paths, labels = taught.column("path"), labels_to_learn(taught)
    names = [*taught.names("label_names"), "no label"]
    return [
        [
            Neighbour(
                image=seen[i, j],
                path=str(paths[row]),
                label=names[int(labels[row])],
                cosine=float(cosine[i, j]),
            )
            for j, row in enumerate(rows[found[i]].tolist())
        ]
        for i in range(len(images))
    ]
