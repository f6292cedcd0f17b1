"""Audit the labels: say which look wrong, and act on them in an overlay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from data_contracts.config import Settings, digest
from data_contracts.dataset import NONE, Array
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.inference import devices
from tasks.label_policy import Verdict, WrongLabels, act, suspects
from tasks.label_review import Review, apply_reviews, read_reviews, reviews_of
from tasks.lessons import labels_to_learn, weights_of
from tasks.split import TEST, TRAIN, UNUSED
from tasks.stage import Build, run_stage, stage_task
from tasks.suspicion import (
    Views,
    auroc,
    judge,
    look,
    plant,
    planted_rate,
)

VERSION = 2


class AuditSettings(Settings):
    """Settings of the stage `audit`."""

    wrong_labels: WrongLabels = Field(
        WrongLabels.flag,
        description="What to do with doubtful training labels; validation and test"
        " images are only flagged.",
    )
    max_doubted: float = Field(
        0.2, ge=0, le=0.5, description="Largest share of labels to doubt."
    )
    class_factor: float = Field(
        2.0,
        ge=1,
        description="Largest share of one class to act on, as a multiple of the share"
        " in all.",
    )
    relabel_above: float = Field(
        0.8, ge=0, le=1, description="Least suspicion to relabel."
    )
    doubt_weight: float = Field(
        0.2, gt=0, lt=1, description="Weight in training of a doubtful label."
    )
    folds: int = Field(5, ge=2, le=20, description="Heads; none judges what it saw.")
    jury: int = Field(50, ge=1, le=500, description="Nearest neighbours that vote.")
    canary: float = Field(
        0.02,
        gt=0,
        le=0.2,
        description="Share of training labels to flip on a copy, to measure the audit.",
    )
    canary_floor: float = Field(
        0.75, ge=0.5, le=1, description="Least AUROC of finding those; else a warning."
    )
    audit_seed: int = Field(0, ge=0, description="Seed of folds and canaries.")
    review: str | None = Field(
        None, description="CSV of `sightline data review`, edited by a person."
    )


def asks_for_audit(settings: AuditSettings) -> bool:
    """Whether there is anything for the stage to do."""
    return settings.wrong_labels != WrongLabels.off or settings.review is not None


NEEDED = "path sha256 label use group".split()


@stage_task(retries=1)
def audit_dataset(
    source: DatasetRef,
    settings: AuditSettings,
    *,
    runs: str,
    before: DatasetRef | None = None,
) -> DatasetRef:
    """Judge the labels of `source` by its embeddings, and apply a person's decisions.

    Args:
        source: A dataset after `embed`; after `split` where the policy is off.
        settings: What to do.
        runs: Folder of all runs, where training dynamics may be.
        before: An audited snapshot whose decisions by persons go on to hold.

    Raises:
        UsageError: The review cannot be read, or does not fit the dataset.
    """
    reviews = [*(reviews_of(before) if before else []), *read_reviews(settings.review)]
    return run_stage(
        "audit",
        lambda build: audit(build, settings, runs=runs, reviews=reviews),
        uri=source.uri,
        parent=source,
        version=VERSION,
        settings=settings.model_copy(update={"review": None}),
        inputs=digest(*(review[:3] for review in reviews)),
    )


def audit(
    build: Build,
    settings: AuditSettings,
    *,
    runs: str,
    reviews: list[Review],
) -> None:
    """Write the overlay: suspicion, suggestion, verdict, target, weight and use."""
    assert build.parent is not None
    dataset = build.parent
    columns = dataset.columns(*NEEDED)
    overlay: dict[str, Array] = {
        "suspicion": np.zeros(dataset.n, np.float32),
        "suggested": np.full(dataset.n, NONE, np.int32),
        "verdict": np.full(dataset.n, Verdict.none.value, object),
    }
    facts: dict[str, Any] = {"policy": settings.wrong_labels.value}
    if settings.wrong_labels != WrongLabels.off:
        facts |= judge_labels(dataset, columns, overlay, settings, runs=runs)
    columns |= {"target": labels_to_learn(dataset), "weight": weights_of(dataset)}
    overlay |= consequences(columns, overlay, settings)
    decided = apply_reviews(
        reviews, columns, overlay, names=dataset.names("label_names")
    )
    notes = [
        *dataset.attributes.get("notes", []),
        *notes_of(facts, columns, overlay, settings),
    ]
    build.writer.write(**overlay)
    build.writer.annotate(audit=facts, reviews=decided, notes=notes)


def judge_labels(
    dataset: Dataset,
    columns: dict[str, Array],
    overlay: dict[str, Array],
    settings: AuditSettings,
    *,
    runs: str,
) -> dict[str, Any]:
    """Fill the overlay for all used images; return the audit's own figures."""
    devices()  # before anything else touches JAX
    train = (columns["use"] == TRAIN) & (columns["label"] >= 0)
    taught = np.unique(columns["label"][train])
    rows = np.flatnonzero((columns["use"] >= 0) & np.isin(columns["label"], taught))
    if len(taught) < 2:
        return {}
    labels, pool = np.searchsorted(taught, columns["label"][rows]), train[rows]
    views = look(
        np.asarray(dataset.embeddings[:])[rows],
        labels=labels,
        group=columns["group"][rows],
        pool=pool,
        folds=settings.folds,
        neighbours=settings.jury,
        seed=settings.audit_seed,
    )
    aum = dynamics(dataset, runs=runs)
    found = judge(
        views,
        labels,
        num_classes=len(taught),
        aum=None if aum is None else aum[rows],
    )
    facts = measure(views, labels, settings, k=len(taught))
    share = min(facts["noise_rate"], settings.max_doubted)
    suspect = np.zeros(len(rows), bool)
    for side in (pool, ~pool):
        suspect[side] = suspects(found.score[side], found.doubted[side], share=share)
    overlay["suspicion"][rows] = found.score
    overlay["suggested"][rows] = taught[found.guessed]
    overlay["verdict"][rows] = act(
        settings.wrong_labels,
        found.score,
        labels,
        suspect=suspect,
        agreed=found.agreed,
        train=pool,
        relabel_above=settings.relabel_above,
        class_factor=settings.class_factor,
    )
    rate, doubtful = found.confident
    return facts | {
        "class_limit": min(settings.class_factor * float(suspect[pool].mean()), 1.0),
        "views": list(found.parts),
        "confident_rate": round(rate, 4),
        "confident_count": int(doubtful.sum()),
        "judged": len(rows),
    }


def measure(
    views: Views, labels: Array, settings: AuditSettings, *, k: int
) -> dict[str, Any]:
    """Flip some training labels on a copy, and say how well they are found.

    The encoder has seen the labels as they were, not these flips, and they fall on any
    class alike: real errors are harder to find.
    """
    planted, where = plant(
        labels, views.pool, share=settings.canary, seed=settings.audit_seed
    )
    found = judge(views, planted, num_classes=k)
    score, doubted, where = (
        part[views.pool] for part in (found.score, found.doubted, where)
    )
    rate = planted_rate(score, where)
    share = min(rate + where.mean(), settings.max_doubted)
    caught = suspects(score, doubted, share=share)
    return {
        "noise_rate": round(rate, 4),
        "canary_planted": int(where.sum()),
        "canary_auroc": round(auroc(score, where), 4),
        "canary_floor": settings.canary_floor,
        "canary_found": round(float(caught[where].mean()), 4),
    }


def dynamics(dataset: Dataset, *, runs: str) -> Array | None:
    """Return the mean margin of each row in its encoder's training, nan where unknown.

    A margin tells of the label that was learnt; for another one it says nothing. None
    where the encoder's run left no record (Pleiss et al. 2020, arXiv 2001.10528).
    """
    run = dataset.attributes.get("encoder", "")
    path = Path(runs) / run / "dynamics.npz"
    if not run or not path.exists():
        return None
    out = np.full(dataset.n, np.nan)
    with np.load(path) as record:
        known = np.flatnonzero(record["rows"] < dataset.n)
        rows, aum = record["rows"][known], record["aum"][known]
        same = record["labels"][known] == dataset.column("label")[rows]
        out[rows[same]] = aum[same]
    return out


def consequences(
    columns: dict[str, Array], overlay: dict[str, Array], settings: AuditSettings
) -> dict[str, Array]:
    """Return what training reads: target, weight and use, by the verdicts.

    A dropped image is unused, so that no reader has to know of weights.
    """
    verdict, target = overlay["verdict"], columns["target"]
    dropped = verdict == Verdict.dropped
    doubt = np.where(verdict == Verdict.weighted, settings.doubt_weight, 1.0)
    weight = doubt * columns["weight"]
    return {
        "target": np.where(verdict == Verdict.relabelled, overlay["suggested"], target),
        "weight": np.where(dropped, 0.0, weight).astype(np.float32),
        "use": np.where(dropped, UNUSED, columns["use"]).astype(np.int8),
    }


def audit_limits(source: DatasetRef, settings: AuditSettings) -> dict[str, float]:
    """Return the limits that the contract `audited` holds a snapshot to."""
    facts = Dataset(source).attributes["audit"]
    return {
        "max_doubted": settings.max_doubted,
        "class_limit": facts.get("class_limit", 0.0),
    }


def notes_of(
    facts: dict[str, Any],
    columns: dict[str, Array],
    overlay: dict[str, Array],
    settings: AuditSettings,
) -> list[str]:
    """Say what a reader of the run must know of the audit."""
    notes = []
    found = facts.get("canary_auroc", 1.0)
    if found < settings.canary_floor:
        notes.append(
            f"The label audit finds planted flips with an AUROC of {found:.2f} only,"
            f" under its floor of {settings.canary_floor:.2f}: do not rely on it."
        )
    changed = (overlay["verdict"] == Verdict.corrected) & (columns["use"] == TEST)
    if changed.any():
        notes.append(
            f"A person corrected {int(changed.sum()):,} labels of test images."
        )
    return notes
