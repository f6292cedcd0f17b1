"""Measure models on test images that are spoiled on purpose."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_contracts.dataset import Array
from data_contracts.references import Estimate
from data_contracts.store import Dataset
from models.machine import cores
from tasks.arena import Rights, write_rights
from tasks.corrupt import Corruption, corrupt
from tasks.evaluation import CorruptionRow, EvaluateSettings, Robustness
from tasks.inference import BATCH, Predictor
from tasks.progress import Progress
from tasks.scores import share_of

CLEAN = (None, 0)
Way = tuple[Corruption | None, int]


def keys_of(sha256: Array) -> Array:
    """Return a number for each file, the start of its digest (n,)."""
    return np.array([int(text[:15] or "0", 16) for text in sha256], np.int64)


def group_keys(dataset: Dataset, rows: Array) -> Array:
    """Return the key of each row's duplicate group: its first file's, wherever (n,)."""
    return keys_of(dataset.column("sha256")[dataset.column("group")[rows]])


def evenly(places: Array, most: int) -> Array:
    """Return at most so many of `places`, spread over all of them."""
    if len(places) <= most:
        return places
    return places[np.linspace(0, len(places) - 1, most).astype(np.int64)]


def spoil(images: Array, way: Way, keys: Array) -> Array:
    """Return `images` spoiled in one way, over all cores; None leaves them clean."""
    corruption, severity = way
    if corruption is None:
        return images

    def part(rows: Array) -> Array:
        return corrupt(images[rows], corruption, severity=severity, keys=keys[rows])

    with ThreadPoolExecutor(cores()) as pool:
        parts = np.array_split(np.arange(len(images)), cores())
        return np.concatenate([*pool.map(part, parts)])


def measure_robustness(
    dataset: Dataset,
    rows: Array,
    labels: Array,
    groups: Array,
    models: tuple[Predictor, Predictor | None],
    settings: EvaluateSettings,
    kept: Path | None = None,
) -> Robustness:
    """Return top-1 of candidate and champion in every way to spoil an image.

    What happens to an image depends on its file's digest, the corruption and the
    severity. Pixels are spoiled as the model sees them, after every other stage.

    Args:
        dataset: Where the images are.
        rows: Test images (n,).
        labels: Class of each in the candidate's order, -1 where there is none.
        groups: Duplicate group of each.
        models: Candidate and champion.
        settings: Which corruptions and severities, on how many images.
        kept: File for how often both are right on each image, for the gate.
    """
    known = np.flatnonzero(labels >= 0)
    some = evenly(known, settings.spoiled)
    names = np.array(models[0].classes, object)[labels[some]]
    group = np.unique(groups[some], return_inverse=True)[1].ravel()
    ways: list[Way] = [CLEAN]
    ways += [(c, s) for c in settings.corruptions for s in settings.severities]
    keys = keys_of(dataset.column("sha256")[rows[some]])
    hits = _hits(dataset, rows[some], keys, names, models, ways)

    if kept is not None and models[1] is not None and len(some):
        own, its = hits[:, 1:].mean(axis=1)
        write_rights(kept, Rights(own, its, group))

    def top1(model: int, way: int) -> Estimate | None:
        if models[model] is None:
            return None
        right = hits[model, way].astype(np.float64)
        return share_of(right, groups=group, level=settings.level)

    found = [[top1(model, way) for way in range(len(ways))] for model in (0, 1)]
    return Robustness(
        n=len(some),
        clean=found[0][0],
        champion_clean=found[1][0],
        rows=[
            CorruptionRow(corruption=way[0], severity=way[1], top1=own, champion=its)
            for way, own, its in zip(ways[1:], found[0][1:], found[1][1:], strict=True)
        ],
    )


def _hits(
    dataset: Dataset,
    rows: Array,
    keys: Array,
    names: Array,
    models: tuple[Predictor, Predictor | None],
    ways: list[Way],
) -> Array:
    """Return which answers are right, (2, ways, n), reading each chunk once."""
    hits = np.zeros((2, len(ways), len(rows)), bool)
    step = max(BATCH, dataset.chunk)
    with Progress("robustness", total=len(rows), unit="images") as progress:
        for start in range(0, len(rows), step):
            here = slice(start, min(start + step, len(rows)))
            images = dataset.take(rows[here])
            for i, way in enumerate(ways):
                spoiled = spoil(images, way, keys[here])
                for k, model in enumerate(models):
                    if model is not None:
                        answer = model(spoiled).argmax(axis=1)
                        said = np.array(model.classes, object)[answer]
                        hits[k, i, here] = said == names[here]
            progress.advance(len(images))
    return hits
