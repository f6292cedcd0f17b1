"""Train a classifier on a split dataset, from scratch or from a champion."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.config import digest
from data_contracts.dataset import Array
from data_contracts.errors import ContractError
from data_contracts.references import DatasetRef, ModelRef, Reference
from data_contracts.store import Dataset, storage_errors
from models.durable import write_over
from models.machine import memory
from models.recipe import Augment, Recipe, batch_for, epochs_for, views_for
from tasks.calibration import fit_temperature
from tasks.frozen import Taught, fit_head
from tasks.inference import Predictor, devices, predict_rows
from tasks.inpaint import keep_beside
from tasks.labels import hierarchy_of
from tasks.lessons import (
    channel_statistics,
    class_ids,
    class_of_rows,
    labels_to_learn,
    pick_rows,
    weights_of,
)
from tasks.members import Role, kept_epochs, save_kept, teacher_of
from tasks.progress import Progress
from tasks.split import VAL
from tasks.stage import stage_task
from tasks.step_account import STEPS, tell_account
from tasks.step_settings import Feed, Probe
from tasks.train_settings import TrainSettings
from tasks.transfer import begin_from, content_of, from_champion

log = logging.getLogger("sightline")

VERSION = 7
# Share of the memory that images may take before they stream from disk instead.
MEMORY_SHARE = 0.25


class Trained(Reference):
    """A finished training run."""

    run: str
    folder: str
    classes: list[str]
    best_epoch: int
    epochs_run: int
    stopped_early: bool
    images_per_second: float
    device: str
    notes: list[str]

    @property
    def model(self) -> Path:
        """Folder of the weights."""
        return Path(self.folder) / "model"

    @property
    def history(self) -> list[dict[str, Any]]:
        """One record an epoch."""
        text = (Path(self.folder) / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@stage_task(limit="gpu")
def train_model(
    source: DatasetRef,
    settings: TrainSettings,
    *,
    name: str,
    runs: str,
    start: ModelRef | None = None,
    role: Role = Role(),
) -> Trained:
    """Train on `source`, or go on with the run that was interrupted.

    Args:
        source: A dataset after the stage `split`.
        settings: How to train.
        name: Name of the model; the run's name starts with it.
        runs: Folder of all runs.
        start: Version to start from; its classes stay the first.
        role: Which of several networks this is, and who teaches it.

    Raises:
        ContractError: There are not two classes with training images.
    """
    home = Path(runs).parent
    run = f"{name}-{_run_digest(source, settings, start, role, home=home)}"
    return run_once(
        Path(runs) / run, lambda folder: _train(source, settings, folder, start, role)
    )


def run_once(folder: Path, work: Callable[[Path], Trained]) -> Trained:
    """Return what `work` made in `folder`, now or in an earlier run."""
    finished = folder / "trained.json"
    if finished.exists():
        log.info("train     already done (%s)", folder.name)
        before = Trained.model_validate_json(finished.read_text())
        return before.model_copy(update={"folder": str(folder)})
    with storage_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        trained = work(folder)
        write_over(finished, trained.model_dump_json(indent=1))
    return trained


def _run_digest(
    source: DatasetRef,
    settings: TrainSettings,
    start: ModelRef | None,
    role: Role,
    *,
    home: Path,
) -> str:
    begin: Any = run_of(start) if start else None
    if settings.init is not None:
        begin = content_of(settings.init, home=home)
    elif start and role.of > 1:  # a champion of several hands one to each
        begin = [begin, role.number]
    if role.teacher:
        begin = [begin, role.taught_by]
    return digest(source.digest, settings.identity(), VERSION, begin)[:12]


def run_of(model: ModelRef) -> str:
    """Return the name of the run that made a registered version."""
    manifest = json.loads((Path(model.uri) / "manifest.json").read_text())
    return str(manifest["run"])


def _train(
    source: DatasetRef,
    settings: TrainSettings,
    folder: Path,
    start: ModelRef | None,
    role: Role,
) -> Trained:
    devices()
    import jax

    from models.backbones import create_model
    from models.checkpoint import save_model
    from models.feed import BatchSource
    from models.fit import FitSettings, fit, write_history
    from models.steps import device_mesh

    dataset = Dataset(source)
    begin = from_champion(start, member=role.number) if start else None
    rows = pick_rows(
        dataset, replay=settings.replay if start else None, seed=settings.seed
    )
    ids = class_ids(dataset, rows, known=list(begin.classes) if begin else [])
    if len(ids) < 2:
        raise ContractError(
            f"Training needs images of at least two classes; {source.uri} has"
            f" {len(ids)} after cleaning and splitting."
        )
    classes = class_of_rows(dataset, ids, labels_to_learn(dataset))
    val = np.flatnonzero((dataset.column("use") == VAL) & (classes >= 0))
    size, names = dataset.image_size, dataset.names("label_names")
    recipe = recipe_of(settings.of_the_network(), n=len(rows))
    model = create_model(
        settings.preset,
        num_classes=len(ids),
        image_size=size,
        seed=settings.seed,
        head=recipe.balance.head,
        design=recipe.network,
    )
    if settings.init is not None:
        begin = begin_from(
            settings.init,
            settings.preset,
            model,
            classes=[names[label] for label in ids],
            home=folder.parent.parent,
            head=recipe.balance.head,
        )
    mean, std = (begin.mean, begin.std) if begin else channel_statistics(dataset, rows)
    shown = f"{len(rows):,} images, {len(ids)} classes"
    log.info("%-9s %s, %s", role.label, shown, folder.name)
    feed = BatchSource(
        labels=classes,
        train_rows=rows,
        val_rows=val,
        read=dataset.take,
        chunk=dataset.chunk,
        resident=fits_memory(len(rows) + len(val), size, settings.feed),
        weights=weights_of(dataset) if dataset.has("weight") else None,
        sampling=recipe.balance.sampling,
        num_classes=len(ids),
    )
    meta = {
        "preset": str(settings.preset),
        "head": recipe.balance.head,
        "network": dataclasses.asdict(recipe.network),
        "classes": [names[label] for label in ids],
        "image_size": size,
        "temperature": 1.0,
        "mean": mean,
        "std": std,
        "ingest": dataset.attributes["ingest"],
        "denoise": _settings_of(dataset, "denoise"),
        "impute": dataset.attributes.get("impute", {}),
        "hierarchy": hierarchy_of(dataset, ids),
        "inpaint": _settings_of(dataset, "inpaint"),
    }
    if begin is not None and settings.probe != Probe.none:
        begin, result = fit_head(
            source,
            begin,
            meta,
            Taught(rows, val, classes, weights_of(dataset)),
            content=content_of(str(settings.init), home=folder.parent.parent),
        )
        write_history(folder, result.history)
    if settings.probe != Probe.only:
        total = recipe.epochs * feed.epoch_size
        with Progress(role.label, total=total, unit="images") as bar:
            result = fit(
                model,
                feed,
                recipe=recipe,
                settings=FitSettings(
                    seed=settings.seed,
                    patience=settings.patience if recipe.cycles == 1 else 0,
                    max_minutes=settings.max_minutes,
                    checkpoint_minutes=settings.checkpoint_minutes,
                    profile=STEPS * settings.profile,
                    shard=str(settings.shard),
                ),
                mean=mean,
                std=std,
                run_dir=folder,
                mesh=device_mesh(recipe.batch_size // recipe.accumulate),
                init=(begin.params, begin.stats) if begin else None,
                on_progress=bar.reach,
                keep=kept_epochs(settings.ensemble, epochs=recipe.epochs),
                teacher=teacher_of(role, recipe.distil, meta),
            )
        if settings.profile:
            tell_account(folder)
    meta["temperature"] = temperature_of(
        result.params, result.stats, meta, dataset, val, classes[val]
    )
    save_model(folder / "model", result.params, result.stats, meta=meta)
    save_kept(folder, result.kept, meta=meta)
    keep_beside(folder / "model", dataset, runs=folder.parent)
    of_images = dataset.column("view")[rows] == 0 if dataset.has("view") else True
    np.savez(
        folder / "dynamics.npz",
        rows=rows,
        labels=labels_to_learn(dataset)[rows],
        aum=np.where(of_images, result.aum, np.nan),
    )
    return Trained(
        run=folder.name,
        folder=str(folder),
        classes=meta["classes"],
        best_epoch=result.best_epoch,
        epochs_run=result.epochs_run,
        stopped_early=result.stopped_early,
        images_per_second=result.images_per_second,
        device=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        notes=[*(begin.notes if begin else ()), *result.notes],
    )


def temperature_of(
    params: Any,
    stats: Any,
    meta: dict[str, Any],
    dataset: Dataset,
    rows: Array,
    classes: Array,
) -> float:
    """Return the temperature that suits `classes` of the validation `rows` best."""
    if not len(rows):
        return 1.0
    predictor = Predictor(params, stats, meta | {"temperature": 1.0})
    probs = np.concatenate([p for _, p in predict_rows(predictor, dataset, rows)])
    return fit_temperature(probs, classes.astype(np.int64))


def recipe_of(settings: TrainSettings, *, n: int) -> Recipe:
    """Return the recipe that the settings ask for with `n` training images."""
    known = {field.name for field in dataclasses.fields(Recipe)}
    values = {name: getattr(settings, name) for name in known}
    values["label_smoothing"] = settings.smoothing
    values["learning_rate"] = settings.rate
    values["weight_decay"] = settings.decay
    values["loss"] = settings.loss_details.loss(settings.loss)
    values["balance"] = settings.balance_details.balance(settings.balance)
    values["adversarial"] = settings.adversarial.recipe
    values["epochs"] = settings.epochs or epochs_for(n)
    given = settings.augment
    values["augment"] = (
        Augment(**given.model_dump()) if given else views_for(values["epochs"])
    )
    values["network"] = settings.network.design
    values["batch_size"] = settings.batch_size or batch_for(n)
    return Recipe(**values)


def _settings_of(dataset: Dataset, stage: str) -> dict[str, Any] | None:
    lineage = dataset.attributes["lineage"]
    found = [entry["settings"] for entry in lineage if entry["stage"] == stage]
    return found[-1] if found else None


def fits_memory(n: int, size: int, feed: Feed) -> bool:
    """Whether `n` images of side `size` wait in memory, of the device if it has any."""
    if feed != Feed.auto:
        return feed == Feed.memory
    import jax

    own = jax.local_devices()[0].memory_stats() or {}
    room = min(memory(), own.get("bytes_limit", math.inf))
    return bool(n * size * size * 3 < MEMORY_SHARE * room)
