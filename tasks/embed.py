"""Give every image an embedding: by the champion, or by a quick fit without one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import numpy as np
from pydantic import Field

from data_contracts.config import Settings
from data_contracts.errors import UsageError
from data_contracts.references import DatasetRef, ModelRef
from data_contracts.store import Dataset
from models.recipe import GENTLE
from tasks.augment_settings import AugmentSettings
from tasks.inference import Predictor
from tasks.progress import Progress
from tasks.split import TRAIN
from tasks.stage import Build, run_stage, stage_task
from tasks.train import run_of, train_model
from tasks.train_settings import TrainSettings

VERSION = 1
# The quick fit sees this many images, within these bounds of epochs.
VIEWS = 40_000
LEAST_EPOCHS, MOST_EPOCHS = 6, 24


class Encoder(StrEnum):
    """Which network makes the embeddings."""

    auto = "auto"
    champion = "champion"
    fit = "fit"


class EmbedSettings(Settings):
    """Settings of the stage `embed`."""

    encoder: Encoder = Field(
        Encoder.auto,
        description="champion, fit (a short training), or auto: champion in an"
        " update, else fit.",
    )
    encoder_epochs: int | None = Field(
        None,
        ge=1,
        le=1_000,
        description=f"Of the quick fit; none: those that show {VIEWS:,} images,"
        f" {LEAST_EPOCHS} to {MOST_EPOCHS}.",
    )
    encoder_seed: int = Field(0, ge=0, description="Seed of the quick fit.")


def quick_settings(settings: EmbedSettings, *, n: int) -> TrainSettings:
    """Return how to train an encoder on `n` images in a short time."""
    epochs = min(max(VIEWS // max(n, 1), LEAST_EPOCHS), MOST_EPOCHS)
    return TrainSettings(
        epochs=settings.encoder_epochs or epochs,
        seed=settings.encoder_seed,
        patience=0,
        augment=AugmentSettings.model_validate(vars(GENTLE)),
    )


def embed_images(build: Build, model: Path) -> None:
    """Write the embeddings of all readable images, chunk by chunk."""
    assert build.parent is not None
    predictor, dataset = Predictor.load(model), build.parent
    out = build.writer.allocate_embeddings(dataset.n, width=predictor.width)
    readable = dataset.column("ok")
    step = out.chunks[0]
    with Progress("embed", total=dataset.n, unit="images") as progress:
        for first in range(0, dataset.n, step):
            block = np.zeros((min(step, dataset.n - first), predictor.width), "f4")
            for start in range(first, first + len(block), dataset.chunk):
                stop = min(start + dataset.chunk, first + len(block))
                images = np.asarray(dataset.images[start:stop])
                block[start - first : stop - first] = predictor.embed(images)
                progress.advance(stop - start)
            block[~readable[first : first + len(block)]] = 0
            out[first : first + len(block)] = block


@stage_task(retries=1)
def embed_dataset(
    source: DatasetRef,
    settings: EmbedSettings,
    *,
    name: str,
    runs: str,
    champion: ModelRef | None,
) -> DatasetRef:
    """Add the embeddings of all images to `source`.

    Args:
        source: A dataset after the stage `split`.
        settings: Which encoder.
        name: Name of the model that is being made.
        runs: Folder of all runs; the quick fit is one of them.
        champion: The version that `auto` takes: none where a repetition must come to
            the same.

    Raises:
        UsageError: The champion is asked for, and there is none.
    """
    model, run = encoder_of(source, settings, name=name, runs=runs, champion=champion)
    return run_stage(
        "embed",
        lambda build: embed_images(build, model),
        uri=source.uri,
        parent=source,
        version=VERSION,
        settings=settings,
        inputs=run,
    )


def encoder_of(
    source: DatasetRef,
    settings: EmbedSettings,
    *,
    name: str,
    runs: str,
    champion: ModelRef | None,
) -> tuple[Path, str]:
    """Return the folder of the encoder's weights, and the run that made them.

    Args: as for `embed_dataset`.
    """
    if settings.encoder == Encoder.champion and champion is None:
        raise UsageError(
            f"Model {name!r} has no champion to take embeddings from. Set"
            " embed.encoder to auto or fit."
        )
    if champion is not None and settings.encoder != Encoder.fit:
        return Path(champion.uri) / "model", run_of(champion)
    use = Dataset(source).column("use")
    quick = quick_settings(settings, n=int((use == TRAIN).sum()))
    trained = train_model(source, quick, name=f"{name}-encoder", runs=runs)
    return trained.model, trained.run
