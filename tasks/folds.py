"""Datasets that differ in what validates: every image of train and val once."""

from __future__ import annotations

import functools

import numpy as np
from pydantic import Field

from data_contracts.config import Settings
from data_contracts.dataset import Array
from data_contracts.errors import ContractError
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.lessons import count_taught, labels_to_learn
from tasks.split import TRAIN, UNUSED, VAL
from tasks.stage import Build, run_stage, stage_task

VERSION = 1


class FoldSettings(Settings):
    """Settings of one fold."""

    fold: int = Field(ge=0, description="Which one validates.")
    of: int = Field(ge=2, description="How many there are.")
    seed: int = Field(0, ge=0, description="Of the folds.")


def fold_of(label: Array, group: Array, free: Array, *, of: int, seed: int) -> Array:
    """Return the fold of every row (n,), -1 for one that always trains.

    Duplicate groups stay whole and classes are spread evenly, by the label of a group's
    first row. A class of one group, and a row that is not free, always train.

    Args:
        label: Class of every row (n,).
        group: Duplicate group of every row (n,).
        free: Rows of train and val with a label of their own (n,).
        of: Folds.
        seed: Of the order of groups.
    """
    groups, first, member = np.unique(
        group[free], return_index=True, return_inverse=True
    )
    of_group = label[free][first]
    shuffled = np.random.default_rng((seed, 41)).permutation(len(groups))
    order = shuffled[np.argsort(of_group[shuffled], kind="stable")]
    _, start, size = np.unique(of_group[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(start, size)
    # Small classes begin at different folds, so that folds are of one size.
    fold = (place + np.repeat(np.arange(len(start)), size)) % of
    fold[np.repeat(size, size) == 1] = -1
    found = np.empty(len(groups), np.int64)
    found[order] = fold
    out = np.full(len(label), -1)
    out[free] = found[member]
    return out


def fold_uses(columns: dict[str, Array], settings: FoldSettings) -> Array:
    """Return the use of every row (n,) where one fold validates; test stays.

    Stored views and images whose label was filled or changed never validate: nothing
    is judged by a machine's opinion. A view of an image that validates is left out.

    Args:
        columns: use, group, label and target; imputed and view, where there are.
        settings: Which fold.
    """
    use, group = columns["use"], columns["group"]
    learnt = (use == TRAIN) | (use == VAL)
    filled = columns.get("imputed", np.full(len(use), "", object)) != ""
    view = columns.get("view", np.zeros(len(use), np.int16)) > 0
    own = (columns["target"] >= 0) & (columns["target"] == columns["label"])
    free = learnt & ~filled & ~view & own
    fold = fold_of(columns["target"], group, free, of=settings.of, seed=settings.seed)
    judges = fold == settings.fold
    out = np.where(judges, VAL, np.where(learnt, TRAIN, use))
    hidden = learnt & ~judges & np.isin(group, group[judges])
    return np.where(hidden, UNUSED, out).astype(np.int8)


def write_fold(build: Build, settings: FoldSettings) -> None:
    """Write `use` as of one fold."""
    parent = build.parent
    assert parent is not None
    names = [n for n in ("imputed", "view") if parent.has(n)]
    columns = parent.columns("use", "group", "label", *names)
    columns["target"] = labels_to_learn(parent)
    build.writer.write(use=fold_uses(columns, settings))


@stage_task(retries=2)
def fold_datasets(source: DatasetRef, *, of: int, seed: int) -> list[DatasetRef]:
    """Return `source` once for each fold that may validate.

    Args:
        source: What to train on.
        of: Folds.
        seed: Of the folds.

    Raises:
        ContractError: A fold would leave a class without an image to learn from.
    """
    found = [
        run_stage(
            "fold",
            functools.partial(write_fold, settings=own),
            uri=source.uri,
            parent=source,
            version=VERSION,
            settings=own,
        )
        for own in (FoldSettings(fold=fold, of=of, seed=seed) for fold in range(of))
    ]
    every = set(_taught(source))
    for fold, part in enumerate(map(_taught, found), 1):
        if lost := sorted(every - set(part)):
            names = Dataset(source).names("label_names")
            raise ContractError(
                f"Every network of combine=folds must learn every class; fold {fold} of"
                f" {of} leaves no image of {names[lost[0]]!r}. Add images of it, take"
                " fewer networks, or set combine=seeds."
            )
    return found


def _taught(source: DatasetRef) -> list[int]:
    """Return the label ids that a dataset teaches."""
    return np.flatnonzero(count_taught(Dataset(source))).tolist()
