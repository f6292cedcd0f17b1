"""Bagged and boosted heads on a trained network's embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from data_contracts.dataset import Array
from data_contracts.store import Dataset
from tasks.loss_settings import HeadKind
from tasks.train_settings import TrainSettings

if TYPE_CHECKING:
    from models.boosting import Lessons


def lessons_of(
    dataset: Dataset,
    rows: Array,
    classes: Array,
    embeddings: Array,
    weights: Array | None = None,
) -> Lessons:
    """Return what a head learns from `rows`, or is judged on.

    Args:
        dataset: Where the duplicate groups are.
        rows: Of the dataset (n,).
        classes: Class of every row of the dataset.
        embeddings: Of `rows` (n d).
        weights: Of `rows` (n,); None is all alike.
    """
    from models.boosting import Lessons

    return Lessons(
        embeddings=embeddings,
        labels=classes[rows].astype(np.int64),
        groups=dataset.column("group")[rows].astype(np.int64),
        weights=np.ones(len(rows), np.float32)
        if weights is None
        else weights.astype(np.float32),
    )


def with_ensemble_head(
    params: Any, learnt: Lessons, judged: Lessons, settings: TrainSettings
) -> tuple[Any, list[str]]:
    """Return the weights with a bagged or boosted head, and notes.

    Args:
        params: Weights of the network.
        learnt: What to learn from.
        judged: Validation images.
        settings: How to train.
    """
    from models.boosting import bagged_head, boosted_units
    from models.heads import HeadRecipe

    head = dict(params["head"].items())
    start = np.asarray(head["kernel"]), np.asarray(head["bias"])
    if settings.head == HeadKind.bagged:
        members = settings.balance_details.members
        kernel, bias = bagged_head(
            learnt, start, recipe=HeadRecipe(), seed=settings.seed, members=members
        )
        own: dict[str, Any] = {"kernel": kernel, "bias": bias}
        said = f"The head is the mean of {members} on bootstrap samples."
    else:
        own, kept = boosted_units(
            learnt,
            judged,
            start,
            recipe=HeadRecipe(steps=100, learning_rate=3e-3),
            seed=settings.seed,
        )
        said = f"The head was boosted by {kept} stages, the best on validation."
    return {**params, "head": {**head, **own}}, [said]
