"""Train a network on images alone: no label is looked at."""

from __future__ import annotations

import dataclasses
import functools
import logging
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from data_contracts.config import Settings, digest
from data_contracts.dataset import Array
from data_contracts.errors import ContractError, SightlineError
from data_contracts.references import DatasetRef, Reference
from data_contracts.store import Dataset, storage_errors
from models.durable import write_over
from models.recipe import Augment, Recipe
from tasks.augment_settings import AugmentSettings
from tasks.impute import open_rows
from tasks.inference import Predictor, devices
from tasks.lessons import channel_statistics, count_taught
from tasks.progress import Progress
from tasks.split import TEST, TRAIN
from tasks.stage import stage_task
from tasks.step_settings import Feed, Optimizer, Precision
from tasks.train import fits_memory
from tasks.train_settings import Preset

log = logging.getLogger("sightline")

VERSION = 1
# Fewer images than this have no others to be told apart from.
LEAST = 16
# The mean deviation of an embedding, against its mean size, of a network that has
# come to the same answer for all images.
COLLAPSED = 1e-3
# Views of one image must look at different parts, or colour alone tells them apart.
VIEWS = Augment(
    rotate=10.0,
    zoom=(0.3, 1.0),
    brightness=0.3,
    contrast=0.8,
    saturation=0.8,
    hue=20.0,
    grey=0.1,
    mixup=0.0,
    cutmix=0.0,
)


class Method(StrEnum):
    """Ways to learn without labels, see `models/pairs.py`."""

    vicreg = "vicreg"
    simsiam = "simsiam"


class PretrainSettings(Settings):
    """How a network learns from images alone."""

    preset: Preset = Field(Preset.small, description="The network.")
    method: Method = Field(
        Method.vicreg, description="What draws two views of an image together."
    )
    epochs: int = Field(100, ge=1, le=10_000, description="Passes over the images.")
    batch_size: int = Field(
        128, ge=8, description="Images in a step; two views of each."
    )
    width: int = Field(
        512, ge=8, le=8192, description="Of the projections that are compared."
    )
    # On groceries a probe on features by adamw reached .253 on validation, by muon .209
    # (40 epochs at 32 px); on those of fresh weights .172.
    optimizer: Optimizer = Field(
        Optimizer.adamw, description="How weights are stepped."
    )
    learning_rate: float = Field(2e-3, gt=0, le=10, description="Peak.")
    weight_decay: float = Field(0.1, ge=0, le=10, description="Of kernels.")
    precision: Precision = Field(
        Precision.float32, description="What the network computes in."
    )
    max_minutes: float | None = Field(
        None, gt=0, description="Start no epoch after this; none has no limit."
    )
    seed: int = Field(0, ge=0, description="Of weights, order and views.")
    augment: AugmentSettings = Field(
        AugmentSettings.model_validate(dataclasses.asdict(VIEWS)),
        description="Random views.",
    )

    @model_validator(mode="after")
    def _views_of_one_image(self) -> Self:
        if self.augment.mixup or self.augment.cutmix:
            raise ValueError(
                "pretraining compares views of one image, and mixup and cutmix make one"
                f" of two; came mixup={self.augment.mixup:g}"
                f" cutmix={self.augment.cutmix:g}. Set both to 0"
            )
        return self


class Pretrained(Reference):
    """A finished training on images alone."""

    run: str
    folder: str
    images: int = Field(description="Images that it saw.")
    unlabelled: int = Field(description="Those of them without a label.")
    epochs_run: int
    loss: float
    found_again: float = Field(description="Views whose nearest other is their own.")
    images_per_second: float


@stage_task(limit="gpu")
def pretrain_model(
    source: DatasetRef, settings: PretrainSettings, *, name: str, runs: str
) -> Pretrained:
    """Train on the images of `source`, or go on with the run that was interrupted.

    Args:
        source: A dataset after the stage `split`.
        settings: How to train.
        name: Name of the model; the run's name starts with it.
        runs: Folder of all runs.

    Raises:
        ContractError: There are too few images.
        SightlineError: The network came to one answer for all images.
    """
    run = f"{name}-pretrain-{digest(source.digest, settings, VERSION)[:12]}"
    folder = Path(runs) / run
    finished = folder / "pretrained.json"
    with storage_errors(str(folder)):
        if finished.exists():
            log.info("pretrain  already done (%s)", run)
            found = Pretrained.model_validate_json(finished.read_text("utf-8"))
            return found.model_copy(update={"folder": str(folder)})
        folder.mkdir(parents=True, exist_ok=True)
        found = _pretrain(Dataset(source), settings, folder)
        write_over(finished, found.model_dump_json(indent=1))
    return found


def can_be_judged(source: DatasetRef) -> bool:
    """Whether a head on the features can learn from labels, and be tested."""
    dataset = Dataset(source)
    tested = bool((dataset.column("use") == TEST).any())
    return tested and int((count_taught(dataset) > 0).sum()) >= 2


def rows_to_see(dataset: Dataset) -> Array:
    """Return the sorted rows to learn from: of the training split, or unlabelled.

    Unlabelled look-alikes of labelled images stay out: they may be of the test.
    """
    free = open_rows(dataset.columns("reason", "split", "group", "label"))
    return np.union1d(np.flatnonzero(dataset.column("use") == TRAIN), free)


def _pretrain(dataset: Dataset, settings: PretrainSettings, folder: Path) -> Pretrained:
    devices()
    from flax import nnx

    from models.backbones import create_model
    from models.checkpoint import save_model
    from models.feed import BatchSource
    from models.fit import FitSettings, fit
    from models.pairs import Paired, pair_step_of
    from models.steps import device_mesh

    rows = rows_to_see(dataset)
    if len(rows) < LEAST:
        raise ContractError(
            f"Learning from images alone needs {LEAST} of them at least;"
            f" {dataset.ref.uri} has {len(rows)} outside validation and test."
        )
    mean, std = channel_statistics(dataset, rows)
    backbone = create_model(
        settings.preset,
        num_classes=1,
        image_size=dataset.image_size,
        seed=settings.seed,
    )
    network = Paired(
        backbone,
        method=settings.method,
        width=settings.width,
        rngs=nnx.Rngs(settings.seed + 1),
    )
    recipe = Recipe(
        preset=settings.preset,
        optimizer=settings.optimizer,
        epochs=settings.epochs,
        batch_size=min(settings.batch_size, len(rows)),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        precision=settings.precision,
        augment=Augment(**settings.augment.model_dump()),
    )
    log.info("pretrain  %s images, %s", f"{len(rows):,}", folder.name)
    with Progress("pretrain", total=settings.epochs * len(rows), unit="images") as bar:
        result = fit(
            network,
            BatchSource(
                labels=np.zeros(dataset.n, np.int64),
                train_rows=rows,
                val_rows=rows[:0],
                read=dataset.take,
                chunk=dataset.chunk,
                resident=fits_memory(len(rows), dataset.image_size, Feed.auto),
                num_classes=1,
            ),
            recipe=recipe,
            settings=FitSettings(seed=settings.seed, max_minutes=settings.max_minutes),
            mean=mean,
            std=std,
            run_dir=folder,
            mesh=device_mesh(recipe.batch_size),
            on_progress=bar.reach,
            make_step=functools.partial(pair_step_of, method=settings.method),
        )
    last = result.history[-1]
    unlabelled = int((dataset.column("label")[rows] < 0).sum())
    seen = f" ({unlabelled:,} of them without a label)" if unlabelled else ""
    meta = {
        "preset": str(settings.preset),
        "classes": [],
        "image_size": dataset.image_size,
        "temperature": 1.0,
        "mean": mean,
        "std": std,
        "about": [
            f"Its features were learnt without labels by {settings.method}, from"
            f" {len(rows):,} images{seen} in {result.epochs_run} epochs."
        ],
    }
    params, stats = result.params["backbone"], result.stats["backbone"]
    refuse_collapse(
        Predictor(params, stats, meta | {"classes": [""]}).embed(
            dataset.take(rows[:: max(1, len(rows) // 512)])
        )
    )
    save_model(folder / "model", params, stats, meta=meta)
    return Pretrained(
        run=folder.name,
        folder=str(folder),
        images=len(rows),
        unlabelled=unlabelled,
        epochs_run=result.epochs_run,
        loss=last["train_loss"],
        found_again=last["train_top1"],
        images_per_second=result.images_per_second,
    )


def refuse_collapse(embeddings: Any) -> None:
    """Refuse a network whose embeddings (n d) are the same for all images.

    Raises:
        SightlineError: They are, or are no numbers.
    """
    spread = embeddings.std(0).mean() / max(np.abs(embeddings).mean(), 1e-12)
    if not spread > COLLAPSED:
        raise SightlineError(
            "The network came to one answer for all images (its embeddings deviate by"
            f" {spread:.1e} of their size), so nothing was learnt. Lower"
            " learning_rate, raise batch_size, or take the other method."
        )
