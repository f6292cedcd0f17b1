"""Measure how a training fits: plain training images beside those of validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.dataset import Array
from data_contracts.references import Estimate
from data_contracts.store import Dataset
from models.durable import write_over
from tasks.ensemble_settings import Combine
from tasks.fit_words import (
    LEAST_VAL,
    LEVEL,
    FitReport,
    FitVerdict,
    judge_fit,
    share_of,
)
from tasks.inference import Predictor
from tasks.intervals import effective_n
from tasks.learning_curve import SHARES, gain_of_more, nested_shares
from tasks.lessons import class_of_rows, labels_to_learn, pick_rows
from tasks.split import VAL
from tasks.train import Trained
from tasks.train_settings import TrainSettings

# Training images that are measured, and the most that heads are fitted on.
SAMPLE, MOST = 2_000, 6_000
DRAWS = 3
FOLDS = (
    "Cannot tell whether it over- or underfits: of several folds, every validation"
    " image has taught some network."
)


def fit_of(dataset: Dataset, trained: Trained, settings: TrainSettings) -> FitReport:
    """Return how the kept model fits, measured now or earlier.

    With too few validation images nothing is measured, since nothing would follow.
    """
    path = Path(trained.folder) / "fit.json"
    if path.exists():
        return FitReport.model_validate_json(path.read_text())
    if settings.ensemble.combine == Combine.folds:
        return FitReport(verdict=FitVerdict.unknown, sentences=[FOLDS])
    names = dataset.names("label_names")
    ids = [names.index(name) for name in trained.classes if name in names]
    classes = class_of_rows(dataset, ids, labels_to_learn(dataset))
    val = np.flatnonzero((dataset.column("use") == VAL) & (classes >= 0))
    if len(val) < LEAST_VAL:
        known = share_of(0.0, len(val))
        return judge_fit(trained.history, train=None, val=known)
    rows = pick_rows(dataset, replay=settings.replay, seed=settings.seed)
    if dataset.has("view"):
        rows = rows[dataset.column("view")[rows] == 0]
    report = _measure(dataset, trained, classes, rows, val)
    write_over(path, report.model_dump_json(indent=1))
    return report


def _measure(
    dataset: Dataset, trained: Trained, classes: Array, rows: Array, val: Array
) -> FitReport:
    predictor = Predictor.load(trained.model)
    random = np.random.default_rng(79)
    sample = np.sort(random.permutation(rows)[:SAMPLE])
    group = dataset.column("group").astype(np.int64)
    figures = [
        _top1(predictor, dataset, part, classes, group) for part in (sample, val)
    ]
    more = None
    if len(rows) <= MOST:
        more = more_images(predictor, dataset, rows, val, classes=classes)
    return judge_fit(trained.history, train=figures[0], val=figures[1], more=more)


def _top1(
    predictor: Predictor, dataset: Dataset, rows: Array, classes: Array, group: Array
) -> Estimate:
    probs = _by_chunk(predictor, dataset, rows)
    hit = (probs.argmax(axis=1) == classes[rows]).astype(np.float64)
    worth = effective_n(hit, groups=group[rows])
    return share_of(float(hit.mean()), worth)


def _by_chunk(work: Any, dataset: Dataset, rows: Array) -> Array:
    step = max(dataset.chunk, 256)
    parts = [
        work(dataset.take(rows[start : start + step]))
        for start in range(0, len(rows), step)
    ]
    return np.concatenate(parts)


def more_images(
    predictor: Predictor, dataset: Dataset, rows: Array, val: Array, *, classes: Array
) -> Estimate:
    """Return what twice as many training images would bring to a head.

    Args:
        predictor: The kept model.
        dataset: The images.
        rows: Those that it was trained on.
        val: Those that judge.
        classes: Class of every row of the dataset.
    """
    both = np.concatenate([rows, val])
    x = _by_chunk(predictor.embed, dataset, both)
    groups = dataset.column("group").astype(np.int64)
    missed, sizes = missed_by_heads(
        x, classes[both], n=len(rows), groups=groups[rows], seed=0
    )
    gain = gain_of_more(
        sizes, missed, groups=groups[val], times=2.0, level=LEVEL, seed=0
    )
    return Estimate(value=gain.value, low=gain.low, high=gain.high, n=len(val))


def missed_by_heads(
    x: Array, labels: Array, *, n: int, groups: Array, seed: int
) -> tuple[Array, Array]:
    """Return whether heads fitted on shares of the first `n` rows miss the others.

    Args:
        x: Embeddings (n + v, d).
        labels: Classes (n + v,).
        n: Rows to learn from; the other v judge.
        groups: Duplicate group of each row to learn from (n,).
        seed: Of the draws.

    Returns:
        Missed (s, draws, v), and the mean number of rows behind each share (s,).
    """
    from models.probe import held_out_logits

    k = int(labels.max()) + 1
    missed, sizes = [], []
    for draw in range(DRAWS):
        taken = nested_shares(
            labels[:n].astype(np.int64), groups, shares=SHARES, seed=seed + draw
        )
        for chosen in taken:
            # Rows that judge are a fold of their own: the head of that fold is fitted
            # on the chosen rows alone. Rows left out belong to no fold, so that every
            # share has the same shapes and compiles once.
            fold = np.concatenate([np.where(chosen, 0, -1), np.ones(len(x) - n, int)])
            logits = held_out_logits(x, labels, fold, num_classes=k)[n:]
            missed.append(logits.argmax(axis=1) != labels[n:])
            sizes.append(chosen.sum())
    shape = DRAWS, len(SHARES)
    stacked = np.stack(missed).reshape(*shape, -1).swapaxes(0, 1)
    return stacked.astype(np.float64), np.array(sizes).reshape(shape).mean(0)
