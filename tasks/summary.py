"""Gather what a run's report shows: figures of its files, pictures of its snapshots."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from data_contracts.dataset import USES, Array
from data_contracts.references import ContractReport, DatasetRef, Estimate
from data_contracts.store import Dataset
from models.registry import attach
from tasks.evaluate import Evaluated
from tasks.explain_mistakes import class_maps
from tasks.figures import Bin
from tasks.gallery import Cleaned, Flip, Mistake, Quarantined
from tasks.lessons import count_taught, labels_to_learn
from tasks.measured import Measured
from tasks.register import Registered, commit, versions_of_code
from tasks.report import write_report
from tasks.report_content import ClassRow, Provenance, ReportContent, SliceRow
from tasks.split import TEST, TRAIN, VAL
from tasks.stage import stage_task
from tasks.summary_contracts import past_checks
from tasks.summary_fit import fit_of
from tasks.summary_inpaint import count_inpainted, inpainted_images
from tasks.summary_labels import label_audit
from tasks.summary_missing import count_filled, filled_labels, missing_words
from tasks.summary_pixels import count_odd, denoised_images, odd_images, spoiled_rows
from tasks.summary_views import seen_in_training
from tasks.train import Trained
from tasks.train_settings import TrainSettings

SHOWN = 12
HEADLINE = (
    "top1 top5 coarse_top1 macro_precision balanced_accuracy macro_f1 brier nll ece"
).split()


@stage_task()
def report_run(
    source: DatasetRef,
    trained: Trained,
    evaluated: Evaluated,
    registered: Registered,
    *,
    datasets: dict[str, DatasetRef],
    settings: TrainSettings,
    contracts: list[ContractReport],
    seconds: dict[str, float],
    config: dict[str, Any],
    commands: dict[str, str],
) -> str:
    """Write the run's report beside it and return its path."""
    dataset, denoised = Dataset(source), Dataset(datasets["denoise"])
    # Stored views repeat what is known of their images.
    own = Dataset([ref for stage, ref in datasets.items() if stage != "views"][-1])
    found, rival = evaluated.measured, evaluated.champion_measured
    augmented, views = seen_in_training(dataset, settings)
    gate = registered.gate
    content = ReportContent(
        name=registered.model.name,
        version=registered.model.version,
        gate=gate,
        run_id=trained.run,
        date=datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        promoted=registered.promoted,
        metrics=_headline(found),
        champion_metrics=_headline(rival) if rival is not None else {},
        notes=notes_of(dataset, trained, found.notes),
        history=trained.history,
        best_epoch=trained.best_epoch,
        fit=fit_of(dataset, trained, settings),
        label_names=trained.classes,
        confusion=_confusion(found),
        classes=_classes(dataset, trained, evaluated),
        slices=[
            SliceRow(slice=kind, value=row.name, top1=row.top1)
            for kind, rows in found.slices.items()
            for row in rows
        ],
        bins=[
            Bin(
                low=b.low,
                high=b.high,
                confidence=b.confidence,
                accuracy=b.accuracy.value,
                n=b.accuracy.n,
            )
            for b in found.reliability
        ],
        mistakes=_mistakes(dataset, trained, evaluated),
        flips=_flips(dataset, trained, evaluated),
        n_images=dataset.n,
        splits=count_uses(dataset),
        missing=missing_words(dataset),
        filled=filled_labels(own),
        n_filled=count_filled(own),
        labels=label_audit(datasets),
        augmented=augmented,
        views=views,
        cleaned=_cleaned(dataset),
        reason_counts=count_dropped(dataset),
        denoised=denoised_images(denoised, Dataset(datasets["clean"])),
        noise_counts=_counts(denoised.column("noise")),
        odd=odd_images(own),
        n_odd=count_odd(own),
        robustness=evaluated.robustness,
        spoiled=spoiled_rows(dataset, evaluated),
        inpainted=inpainted_images(datasets),
        n_inpainted=count_inpainted(own),
        quarantine=_quarantined(dataset),
        quarantine_counts=quarantine_counts(dataset),
        contracts=contracts,
        checks=past_checks(dataset.ref.uri),
        provenance=Provenance(
            source=", ".join(entry["root"] for entry in dataset.attributes["sources"]),
            dataset_uri=dataset.ref.uri,
            snapshot=dataset.ref.snapshot,
            digests={stage: ref.digest for stage, ref in datasets.items()},
            code_version=versions_of_code()["sightline"],
            commit=commit(),
            seed=settings.seed,
            device=trained.device,
            versions=versions_of_code(),
            settings=config,
        ),
        stage_seconds=seconds,
        commands=commands,
    )
    path = write_report(content, Path(trained.folder) / "report.html")
    # The run's page is of its last judgement; each version keeps its own.
    attach(registered.model, filename="report.html", text=path.read_text("utf-8"))
    _publish(content)
    return str(path)


def summarise(
    ref: DatasetRef, trained: Trained, evaluated: Evaluated
) -> dict[str, Any]:
    """Return the counts, figures and notes of a run's result."""
    source, found = Dataset(ref), evaluated.measured
    return {
        "images": {"in all": source.n, **count_uses(source)},
        "dropped": count_dropped(source),
        "quarantine": quarantine_counts(source),
        "metrics": _headline(found),
        "notes": notes_of(source, trained, found.notes) + missing_words(source),
    }


def _headline(found: Measured) -> dict[str, Estimate]:
    return {name: found.figures[name] for name in HEADLINE if name in found.figures}


def _confusion(found: Measured) -> Array:
    """Return (k, k) counts of [label][predicted]; unanswered images are in none."""
    matrix = np.zeros((found.num_classes, found.num_classes), np.int64)
    label, predicted, count = np.array(found.confusion, np.int64).reshape(-1, 3).T
    matrix[label, predicted] = count
    return matrix


def _publish(content: ReportContent) -> None:
    """Show the summary as Prefect artifacts, inside a flow run."""
    from tasks.report import gate_table, summary_markdown
    from tasks.stage import in_flow_run

    if not in_flow_run():
        return
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    key = "".join(c if c.isalnum() else "-" for c in content.name.lower())
    create_markdown_artifact(summary_markdown(content), key=f"{key}-summary")
    create_table_artifact(gate_table(content), key=f"{key}-gate")


def notes_of(source: Dataset, trained: Trained, more: Sequence[str]) -> list[str]:
    """Return what was handled, in sentences."""
    attributes = source.attributes
    found = [str(note) for note in attributes.get("notes", [])]
    untaught: dict[str, int] = attributes.get("untaught", {})
    found += [
        f"Class {name} has no training image: its {count:,} images are left out."
        for name, count in untaught.items()
    ]
    leaking = attributes.get("leaking_groups", 0)
    if leaking:
        found.append(
            f"{leaking:,} groups of look-alikes stand in more than one given split."
        )
    return [*found, *trained.notes, *more]


def count_uses(source: Dataset) -> dict[str, int]:
    """Return the images in each split, and those not used."""
    use = source.column("use")[source.column("present")]
    counts = {name: int((use == code).sum()) for code, name in enumerate(USES)}
    return counts | {"unused": int((use < 0).sum())}


def _counts(values: Array) -> dict[str, int]:
    names, counts = np.unique(values.astype(str), return_counts=True)
    return {str(name): int(n) for name, n in zip(names, counts, strict=True)}


def count_dropped(source: Dataset) -> dict[str, int]:
    """Return the images that cleaning dropped, by reason, without unreadable files."""
    columns = source.columns("keep", "reason", "ok")
    return _counts(columns["reason"][~columns["keep"] & columns["ok"]])


def quarantine_counts(source: Dataset) -> dict[str, int]:
    """Return the files that could not be read, by reason."""
    columns = source.columns("ok", "problem", "present")
    return _counts(columns["problem"][~columns["ok"] & columns["present"]])


def _quarantined(source: Dataset) -> list[Quarantined]:
    columns = source.columns("ok", "problem", "present", "path", "detail")
    rows = np.flatnonzero(~columns["ok"] & columns["present"])
    return [
        Quarantined(
            path=columns["path"][row],
            reason=columns["problem"][row],
            detail=columns["detail"][row],
        )
        for row in rows
    ]


def _cleaned(source: Dataset) -> list[Cleaned]:
    columns = source.columns("keep", "reason", "remark", "ok", "path", "canonical")
    dropped = np.flatnonzero(~columns["keep"] & columns["ok"])
    reason = columns["reason"][dropped]
    rows = np.concatenate(
        [
            np.empty(0, np.int64),
            *(dropped[reason == r][:SHOWN] for r in sorted(set(reason))),
        ]
    )
    images = source.take(rows)
    stand_in = columns["canonical"][rows]
    kept = source.take(stand_in)
    return [
        Cleaned(
            image=images[i],
            path=columns["path"][row],
            reason=columns["reason"][row],
            detail=columns["remark"][row],
            kept=kept[i] if stand_in[i] != row else None,
            kept_path=columns["path"][stand_in[i]] if stand_in[i] != row else "",
        )
        for i, row in enumerate(rows)
    ]


def _classes(source: Dataset, trained: Trained, evaluated: Evaluated) -> list[ClassRow]:
    columns = {"use": source.column("use"), "label": labels_to_learn(source)}
    names = source.names("label_names")
    given = {
        use: np.bincount(columns["label"][columns["use"] == use], minlength=len(names))
        for use in (VAL, TEST)
    }
    counts = given | {TRAIN: count_taught(source)}
    return [
        ClassRow(
            name=row.name,
            train=int(counts[TRAIN][names.index(row.name)]),
            val=int(counts[VAL][names.index(row.name)]),
            test=int(counts[TEST][names.index(row.name)]),
            precision=row.precision.value if row.precision else None,
            recall=row.recall,
            f1=row.f1.value if row.f1 else None,
        )
        for row in evaluated.measured.per_class
    ]


def _answers(evaluated: Evaluated) -> dict[str, Array]:
    store: Any = zarr.open_group(evaluated.predictions, mode="r")
    return {name: np.asarray(store[name]) for name in store.array_keys()}


def _mistakes(source: Dataset, trained: Trained, evaluated: Evaluated) -> list[Mistake]:
    """Return the wrong answers that the candidate was surest of."""
    found = _answers(evaluated)
    answer, sure = found["probs"].argmax(axis=1), found["probs"].max(axis=1)
    wrong = np.flatnonzero((found["labels"] >= 0) & (answer != found["labels"]))
    worst = wrong[np.argsort(-sure[wrong], kind="stable")[: 2 * SHOWN]]
    images, paths = source.take(found["rows"][worst]), source.column("path")
    maps = class_maps(trained.model, images, answer[worst])
    return [
        Mistake(
            image=images[i],
            why=maps[i],
            path=paths[found["rows"][k]],
            label=trained.classes[found["labels"][k]],
            predicted=trained.classes[answer[k]],
            probability=float(sure[k]),
        )
        for i, k in enumerate(worst)
    ]


def _flips(source: Dataset, trained: Trained, evaluated: Evaluated) -> list[Flip]:
    """Return test images that the candidate broke or fixed, broken ones first."""
    found = _answers(evaluated)
    if "champion" not in found:
        return []
    labels, answer = found["labels"], found["probs"].argmax(axis=1)
    before = found["champion"].argmax(axis=1)
    broken = np.flatnonzero((before == labels) & (answer != labels))[:SHOWN]
    fixed = np.flatnonzero((before != labels) & (answer == labels))[:SHOWN]
    chosen = np.concatenate([broken, fixed])
    images, paths = source.take(found["rows"][chosen]), source.column("path")
    return [
        Flip(
            image=images[i],
            path=paths[found["rows"][k]],
            label=trained.classes[labels[k]],
            champion=trained.classes[before[k]],
            candidate=trained.classes[answer[k]],
            probability=float(found["probs"][k].max()),
        )
        for i, k in enumerate(chosen)
    ]
