"""Correct a trained network's head for classes of unequal size."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.config import digest
from data_contracts.dataset import Array
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from models.imbalance import log_prior
from models.thresholds import LEAST, worthwhile_offsets
from tasks.head_ensembles import lessons_of, with_ensemble_head
from tasks.inference import Predictor, devices, predict_rows
from tasks.inpaint import keep_beside
from tasks.lessons import class_of_rows, labels_to_learn, weights_of
from tasks.loss_settings import HeadKind
from tasks.split import VAL
from tasks.stage import stage_task
from tasks.train import Trained, run_once, temperature_of
from tasks.train_settings import TrainSettings

VERSION = 4
# Most embeddings that a head is trained on; they wait in memory.
MOST_ROWS = 200_000


@stage_task(limit="gpu")
def rebalance_model(
    source: DatasetRef, trained: Trained, settings: TrainSettings
) -> Trained:
    """Return `trained` with the head and views that the settings ask for.

    That is a run of its own. The network stays as it is, so that several heads cost one
    training.

    Args:
        source: The dataset that it was trained on.
        trained: A finished run of `train_model`.
        settings: How to train.
    """
    views = settings.network.design.views
    if settings.head == HeadKind.trained and not settings.thresholds and not views:
        return trained
    given = [settings.head, settings.thresholds, settings.balance_details]
    # Runs that knew of no views keep their names.
    name = digest(*given, settings.seed, VERSION, *([views] if views else []))
    before = Path(trained.folder)
    return run_once(
        before.with_name(f"{before.name}-{settings.head}-{name[:6]}"),
        lambda folder: _rebalance(source, trained, settings, folder),
    )


def _rebalance(
    source: DatasetRef, trained: Trained, settings: TrainSettings, folder: Path
) -> Trained:
    devices()  # before anything else touches JAX
    from models.checkpoint import load_model, save_model

    dataset, before = Dataset(source), Path(trained.folder)
    params, stats, meta = load_model(trained.model)
    meta["network"] = dataclasses.asdict(settings.network.design)
    names = dataset.names("label_names")
    ids = [names.index(name) for name in trained.classes]
    classes = class_of_rows(dataset, ids, labels_to_learn(dataset))
    val = np.flatnonzero((dataset.column("use") == VAL) & (classes >= 0))
    train = np.load(before / "dynamics.npz")["rows"]
    params, notes = with_balanced_head(
        params,
        stats,
        meta,
        dataset=dataset,
        classes=classes,
        train=train,
        val=val,
        settings=settings,
    )
    if settings.head == HeadKind.boosted:
        meta = meta | {"head": "boosted"}
    temperature = temperature_of(params, stats, meta, dataset, val, classes[val])
    save_model(
        folder / "model", params, stats, meta=meta | {"temperature": temperature}
    )
    keep_beside(folder / "model", dataset, runs=folder.parent)
    for file in ("metrics.jsonl", "dynamics.npz"):
        shutil.copy(before / file, folder / file)
    return trained.model_copy(
        update={
            "run": folder.name,
            "folder": str(folder),
            "notes": [*trained.notes, *notes],
        }
    )


def with_balanced_head(
    params: Any,
    stats: Any,
    meta: dict[str, Any],
    *,
    dataset: Dataset,
    classes: Array,
    train: Array,
    val: Array,
    settings: TrainSettings,
) -> tuple[Any, list[str]]:
    """Return the weights with the head that the settings ask for, and notes.

    Args:
        params: Weights of the network.
        stats: Batch statistics.
        meta: As for `Predictor`.
        dataset: Where the pixels are.
        classes: Class of every row.
        train: Rows of the training split.
        val: Rows of the validation split.
        settings: How to train.
    """
    counts = np.bincount(classes[train], minlength=len(meta["classes"]))
    notes: list[str] = []
    if settings.head == HeadKind.post_hoc:
        # Smoothed labels leave logits too small; the prior is of calibrated ones.
        scale = settings.balance_details.tau * meta["temperature"]
        prior = scale * log_prior(counts)
        params = _shifted(params, -prior)
    elif settings.head != HeadKind.trained:
        predictor = Predictor(params, stats, meta)
        rows = capped(train, classes[train], most=MOST_ROWS, seed=settings.seed)
        embeddings = _embedded(predictor, dataset, rows)
        weights = weights_of(dataset)[rows]
        if settings.head in (HeadKind.bagged, HeadKind.boosted):
            learnt = lessons_of(dataset, rows, classes, embeddings, weights)
            judged = lessons_of(
                dataset, val, classes, _embedded(predictor, dataset, val)
            )
            params, said = with_ensemble_head(params, learnt, judged, settings)
            notes += said
        else:
            params = _retrained(params, embeddings, classes[rows], weights, settings)
    if settings.head == HeadKind.boosted:
        meta = meta | {"head": "boosted"}
    if settings.thresholds and len(val):
        predictor = Predictor(params, stats, meta)
        probs = np.concatenate([p for _, p in predict_rows(predictor, dataset, val)])
        logits = np.log(np.maximum(probs, 1e-30)) * meta["temperature"]
        offsets, gain = worthwhile_offsets(logits, classes[val], seed=settings.seed)
        params = _shifted(params, offsets.astype(np.float32))
        notes.append(_said(offsets, gain))
    return params, notes


def _said(offsets: Array, gain: float) -> str:
    if offsets.any():
        return (
            f"Thresholds of {int((offsets != 0).sum())} classes moved: macro-F1 rose by"
            f" {100 * gain:.1f} points on validation images they were not tuned on."
        )
    if np.isnan(gain):
        return (
            f"Thresholds stay: too many classes have under {LEAST} validation images to"
            " tune them on."
        )
    return (
        "Thresholds stay: on validation images that they were not tuned on, moved ones"
        f" changed macro-F1 by {100 * gain:+.1f} points, which may be chance."
    )


def capped(rows: Array, classes: Array, *, most: int, seed: int) -> Array:
    """Return sorted `rows`, at most `most` of them, the largest classes cut first."""
    if len(rows) <= most:
        return rows
    shuffled = np.random.default_rng((seed, 13)).permutation(len(rows))
    order = shuffled[np.argsort(classes[shuffled], kind="stable")]
    _, start, size = np.unique(classes[order], return_index=True, return_counts=True)
    turn = np.arange(len(order)) - np.repeat(start, size)
    return np.sort(rows[order[np.argsort(turn, kind="stable")[:most]]])


def _embedded(predictor: Predictor, dataset: Dataset, rows: Array) -> Array:
    step = dataset.chunk
    parts = [np.empty((0, predictor.width), np.float32)]
    parts += [
        predictor.embed(dataset.take(rows[start : start + step]))
        for start in range(0, len(rows), step)
    ]
    return np.concatenate(parts)


def _retrained(
    params: Any,
    embeddings: Array,
    labels: Array,
    weights: Array,
    settings: TrainSettings,
) -> Any:
    from models.heads import HeadRecipe, Pool, train_head

    details, kind = settings.balance_details, settings.head
    smote = details.neighbours if kind == HeadKind.smote else 0
    kernel, bias = train_head(
        Pool.of(
            embeddings,
            labels.astype(np.int64),
            weights=weights.astype(np.float32),
            neighbours=smote,
        ),
        (params["head"]["kernel"], params["head"]["bias"]),
        recipe=HeadRecipe(),
        seed=settings.seed,
        members=details.members if kind == HeadKind.ensemble else 1,
    )
    return _with_head(params, kernel=kernel, bias=bias)


def _shifted(params: Any, offsets: Array) -> Any:
    """Add `offsets` (k,) to the logits."""
    head = params["head"]
    return _with_head(params, kernel=head["kernel"], bias=head["bias"] + offsets)


def _with_head(params: Any, *, kernel: Any, bias: Any) -> Any:
    return {**params, "head": {**params["head"], "kernel": kernel, "bias": bias}}
