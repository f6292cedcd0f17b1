"""Fill what is missing: labels, texts, domains, tags and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.dataset import Array
from data_contracts.errors import UsageError
from data_contracts.references import DatasetRef, ModelRef
from data_contracts.store import Dataset
from tasks.clean import UNLABELLED
from tasks.embed import EmbedSettings, network_of
from tasks.fill import (
    fill_domain,
    fill_numbers,
    fill_tags,
    fill_text,
    nearest_rows,
    vote,
)
from tasks.impute_settings import FillLabels, ImputeSettings
from tasks.inference import Predictor, predict_rows
from tasks.lessons import labels_to_learn, weights_of
from tasks.split import TRAIN
from tasks.stage import Build, run_stage, stage_task

VERSION = 1
FILLS = {
    "text": fill_text,
    "domain": fill_domain,
    "tags": fill_tags,
    "numbers": fill_numbers,
}


def open_rows(columns: dict[str, Array]) -> Array:
    """Return the rows whose label may be filled, in order.

    They are sound training images, or of no split, that look like no labelled image:
    a look-alike of one teaches nothing new, or belongs to a test.
    """
    sound = (columns["reason"] == UNLABELLED) & np.isin(columns["split"], [-1, TRAIN])
    labelled = np.unique(columns["group"][columns["label"] >= 0])
    own = columns["group"] == np.arange(len(sound))
    return np.flatnonzero(sound & own & ~np.isin(columns["group"], labelled))


def vote_labels(
    dataset: Dataset, rows: Array, known: Array, *, label: Array, k: int
) -> tuple[Array, Array]:
    """Return the label that the neighbours of each row agree on, and how far.

    Args:
        dataset: Holds embeddings.
        rows: Rows to ask for, in order, (n,).
        known: Rows that vote.
        label: Label of every row of the dataset.
        k: Neighbours that vote.

    Raises:
        UsageError: Nobody votes.
    """
    if not len(known):
        raise UsageError(
            "impute.labels=neighbours fills labels from labelled training images, and"
            " there is none. Label some, or leave the setting out."
        )
    asked = np.isin(np.arange(dataset.n), rows)
    near, cosines = nearest_rows(dataset, asked, known, k=k)
    return vote(label[near], cosines, count=int(label[known].max()) + 1)


def predict_labels(
    dataset: Dataset, rows: Array, predictor: Predictor
) -> tuple[Array, Array]:
    """Return the label that the network gives each row, and its probability."""
    names = dataset.names("label_names")
    ids = np.array([names.index(name) for name in predictor.classes])
    found = [(np.empty(0, np.int64), np.empty(0))]
    for _, probs in predict_rows(predictor, dataset, rows):
        found.append((ids[probs.argmax(1)], probs.max(1)))
    labels, sure = (np.concatenate(part) for part in zip(*found, strict=True))
    return labels, sure


def fill_labels(
    dataset: Dataset, settings: ImputeSettings, model: Path | None
) -> dict[str, Array]:
    """Return the columns that change where labels are filled; `label` stays as given.

    Args:
        dataset: After `split`, and `embed` for neighbours.
        settings: How to fill.
        model: Folder of the network that self-training asks.
    """
    columns = dataset.columns(*"keep reason remark use split group label path".split())
    target, weight = labels_to_learn(dataset), weights_of(dataset)
    rows = open_rows(columns)
    if settings.labels == FillLabels.neighbours:
        known = np.flatnonzero((columns["use"] == TRAIN) & (target >= 0))
        labels, sure = vote_labels(
            dataset, rows, known, label=target, k=settings.voters
        )
        least, how = settings.min_agreement, "neighbours"
    else:
        assert model is not None
        labels, sure = predict_labels(dataset, rows, Predictor.load(model))
        least, how = settings.min_confidence, "self-training"
    filled, label = rows[sure >= least], labels[sure >= least]
    imputed, imputed_sure = np.full(dataset.n, "", object), np.zeros(dataset.n, "f4")
    imputed_sure[rows] = np.clip(sure, 0, 1)
    imputed[filled], target[filled] = how, label
    weight[filled] = settings.filled_weight
    use, keep = columns["use"], columns["keep"]
    reason, remark = columns["reason"], columns["remark"]
    use[filled], keep[filled], reason[filled], remark[filled] = TRAIN, True, "", ""
    return {
        "use": use,
        "keep": keep,
        "reason": reason,
        "remark": remark,
        "target": target,
        "weight": weight,
        "imputed": imputed,
        "imputed_sure": imputed_sure,
    }


def impute(
    build: Build,
    settings: ImputeSettings,
    *,
    model: Path | None,
    start: dict[str, Any],
) -> None:
    """Write the columns that are filled, and in the attribute `impute` with what.

    Args:
        build: On a dataset after `split`.
        settings: What to fill.
        model: Folder of the network that self-training asks.
        start: The attribute `impute` of the version to start from, or nothing.
    """
    assert build.parent is not None
    dataset = build.parent
    columns: dict[str, Array] = {}
    if settings.labels != FillLabels.drop:
        columns |= fill_labels(dataset, settings, model)
    values: dict[str, Any] = {}
    names: dict[str, list[str]] = {}
    for kind, fill in FILLS.items():
        filled = fill(dataset, settings, start.get(kind))
        columns |= filled.columns
        names |= filled.names
        if filled.value is not None:
            values[kind] = filled.value
    build.writer.write(**columns)
    build.writer.annotate(impute=values, **names)


@stage_task(retries=1)
def impute_dataset(
    source: DatasetRef,
    settings: ImputeSettings,
    *,
    encoder: EmbedSettings,
    split: DatasetRef,
    name: str,
    runs: str,
    champion: ModelRef | None,
    start: DatasetRef | None = None,
) -> DatasetRef:
    """Fill what is missing in `source`.

    Args:
        source: A dataset after the stage `split`; with embeddings where they are used.
        settings: What to fill, and how.
        encoder: Which network answers for self-training.
        split: The snapshot that it was fitted on.
        name: Name of the model that is being made.
        runs: Folder of all runs.
        champion: The version that an update starts from.
        start: What was filled for that version; its figures stay.

    Raises:
        UsageError: There is nothing to fill from.
    """
    model, run = None, ""
    if settings.labels == FillLabels.keep:
        model, run = network_of(split, encoder, name=name, runs=runs, champion=champion)
    before = Dataset(start).attributes.get("impute", {}) if start else {}
    return run_stage(
        "impute",
        lambda build: impute(build, settings, model=model, start=before),
        uri=source.uri,
        parent=source,
        version=VERSION,
        settings=settings,
        inputs=f"{run}{sorted(before.items())}",
    )
