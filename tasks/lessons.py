"""What a dataset teaches: which rows, under which labels, with which weight."""

from __future__ import annotations

import numpy as np

from data_contracts.dataset import Array
from data_contracts.store import Dataset
from tasks.split import TRAIN
from tasks.transfer import triple


def pick_rows(dataset: Dataset, *, replay: float | None, seed: int) -> Array:
    """Return the rows to train on, sorted: all new ones, and old ones by `replay`.

    Old images are picked in rounds over the classes, so that rare classes stay whole.
    """
    columns = dataset.columns("use", "era")
    columns["label"], weight = labels_to_learn(dataset), weights_of(dataset)
    wanted = (columns["use"] == TRAIN) & (columns["label"] >= 0) & (weight > 0)
    train = np.flatnonzero(wanted)
    new = columns["era"][train] == columns["era"].max()
    if replay is None or new.all():
        return train
    old = train[~new]
    shuffled = np.random.default_rng((seed, 11)).permutation(old)
    order = np.argsort(columns["label"][shuffled], kind="stable")
    label = columns["label"][shuffled][order]
    _, start, size = np.unique(label, return_index=True, return_counts=True)
    turn = np.arange(len(label)) - np.repeat(start, size)
    chosen = order[np.argsort(turn, kind="stable")[: round(replay * new.sum())]]
    return np.sort(np.concatenate([train[new], shuffled[chosen]]))


def class_ids(dataset: Dataset, rows: Array, *, known: list[str]) -> list[int]:
    """Return the label ids of the classes: those of the start model, then new ones."""
    names = dataset.names("label_names")
    taught = [int(label) for label in np.unique(labels_to_learn(dataset)[rows])]
    old = [names.index(name) for name in known if name in names]
    return [*old, *(label for label in taught if label not in old)]


def labels_to_learn(dataset: Dataset) -> Array:
    """Return the label id to learn for every row: corrected where it was judged."""
    return dataset.column("target" if dataset.has("target") else "label")


def count_taught(dataset: Dataset) -> Array:
    """Return how many training images each label has to learn from, (labels,)."""
    rows = pick_rows(dataset, replay=None, seed=0)
    names = dataset.names("label_names")
    return np.bincount(labels_to_learn(dataset)[rows], minlength=len(names))


def weights_of(dataset: Dataset) -> Array:
    """Return how much every row counts in training."""
    if dataset.has("weight"):
        return dataset.column("weight")
    return np.ones(dataset.n, np.float32)


def class_of_rows(dataset: Dataset, ids: list[int], labels: Array) -> Array:
    """Return the class of every row, -1 for labels that are no class, int32 (n,).

    Args:
        dataset: Where the label names are.
        ids: Label id of each class.
        labels: Label id of every row, -1 where it is missing.
    """
    table = np.full(len(dataset.names("label_names")) + 1, -1, np.int32)
    table[ids] = np.arange(len(ids))
    return table[labels]


def channel_statistics(
    dataset: Dataset, rows: Array
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of each channel of `rows`, in 0..1."""
    total, squares, count = np.zeros(3), np.zeros(3), 0
    for start in range(0, len(rows), dataset.chunk):
        pixels = dataset.take(rows[start : start + dataset.chunk]).reshape(-1, 3)
        for channel in range(3):
            levels = np.bincount(pixels[:, channel], minlength=256)
            total[channel] += levels @ np.arange(256)
            squares[channel] += levels @ np.arange(256) ** 2
        count += len(pixels)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1.0))
    return triple(mean / 255), triple(std / 255)
