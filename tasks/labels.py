"""Encode labels: coarse classes over fine ones, and several tags an image.

Names of labels, coarse labels and tags stand in lists that only grow (tasks.annotate),
so that an id means the same for ever. A model keeps its own order of classes: those of
the version it started from, then new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_contracts.dataset import NONE, Array
from data_contracts.store import Dataset
from tasks.annotate import extend_names
from tasks.split import TRAIN


def hierarchy_of(dataset: Dataset, ids: Sequence[int]) -> dict[str, Any] | None:
    """Return which coarse class each class belongs to, None where there are none.

    It is the coarse label that most training images of the class carry.

    Args:
        dataset: After the stage `split`.
        ids: Label id of each class, in the model's order.

    Returns:
        `names` of the coarse classes, and `of`: a position in them for each class, or
        -1 where no image says.
    """
    names, labels = dataset.names("coarse_names"), dataset.names("label_names")
    columns = dataset.columns("use", "label", "coarse")
    said = (
        (columns["use"] == TRAIN) & (columns["label"] >= 0) & (columns["coarse"] >= 0)
    )
    if not said.any():
        return None
    counts = np.zeros((len(labels), len(names)), np.int64)
    np.add.at(counts, (columns["label"][said], columns["coarse"][said]), 1)
    of = np.where(counts.any(axis=1), counts.argmax(axis=1), NONE)
    return {"names": names, "of": of[list(ids)].tolist()}


def roll_up(probs: Array, hierarchy: dict[str, Any]) -> Array:
    """Return the probabilities of the coarse classes: sums over their classes.

    Args:
        probs: Of the classes, (n, k).
        hierarchy: From `hierarchy_of`; classes of no coarse class are left out.
    """
    of = np.asarray(hierarchy["of"])
    member = np.zeros((len(of), len(hierarchy["names"])), probs.dtype)
    inside = np.flatnonzero(of >= 0)
    member[inside, of[inside]] = 1
    return np.asarray(probs @ member)


def tag_classes(
    dataset: Dataset, rows: Array, *, known: Sequence[str] = (), min_count: int = 1
) -> list[str]:
    """Return the tags that a model of these rows tells apart, in a lasting order.

    Args:
        dataset: Holds tags.
        rows: Rows to learn from.
        known: Tags of the model to start from; they stay first, however rare.
        min_count: Rows that must carry a new tag.
    """
    names = dataset.names("tag_names")
    _, ids = tags_of(rows, dataset.column("tag_ids"), dataset.column("tag_offsets"))
    counts = np.bincount(ids, minlength=len(names))
    often = [names[tag] for tag in np.flatnonzero(counts >= max(min_count, 1))]
    return extend_names(known, often)


def multi_hot(
    dataset: Dataset, rows: Array, names: Sequence[str]
) -> tuple[Array, Array]:
    """Return which of the tags `names` each row carries.

    Returns:
        Whether row i carries tag j, bool (n, k); and how many other tags it carries,
        int64 (n,).
    """
    place = {name: i for i, name in enumerate(names)}
    column = np.array(
        [place.get(name, NONE) for name in dataset.names("tag_names")], np.int64
    )
    row, ids = tags_of(rows, dataset.column("tag_ids"), dataset.column("tag_offsets"))
    known = column[ids] >= 0 if len(ids) else np.zeros(0, bool)
    hot = np.zeros((len(rows), len(names)), bool)
    hot[row[known], column[ids[known]]] = True
    return hot, np.bincount(row[~known], minlength=len(rows))


def tags_of(rows: Array, ids: Array, offsets: Array) -> tuple[Array, Array]:
    """Return (place in `rows`, tag id) of every tag of `rows`.

    Args:
        rows: Rows, in any order, also repeated.
        ids: The column `tag_ids`.
        offsets: The column `tag_offsets`.
    """
    sizes = offsets[rows + 1] - offsets[rows]
    first = np.repeat(offsets[rows] - np.cumsum(sizes) + sizes, sizes)
    place = np.repeat(np.arange(len(rows)), sizes)
    return place, ids[first + np.arange(sizes.sum())]
