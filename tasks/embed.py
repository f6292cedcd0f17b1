"""Give every image an embedding: by the champion, by patches, or by a quick fit."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data_contracts.config import Settings
from data_contracts.dataset import Array
from data_contracts.errors import UsageError
from data_contracts.references import DatasetRef, ModelRef
from data_contracts.store import Dataset
from models.recipe import GENTLE
from tasks.augment_settings import AugmentSettings
from tasks.inference import Predictor, devices, fitted
from tasks.split import TRAIN
from tasks.stage import run_stage, stage_task
from tasks.train import run_of, train_model
from tasks.train_settings import TrainSettings
from tasks.write_embeddings import Embedder, embed_images

VERSION = 2
# Training images that the dictionary of patches and its axes are learnt from.
SAMPLE = 4_096
# The quick fit sees this many images, within these bounds of epochs.
VIEWS = 40_000
LEAST_EPOCHS, MOST_EPOCHS = 6, 24


class Encoder(StrEnum):
    """Which network makes the embeddings."""

    auto = "auto"
    champion = "champion"
    patches = "patches"
    fit = "fit"


class EmbedSettings(Settings):
    """Settings of the stage `embed`."""

    encoder: Encoder = Field(
        Encoder.auto,
        description="champion, patches (a dictionary without labels), fit (a short"
        " training), or auto: champion in an update, else patches.",
    )
    encoder_epochs: int | None = Field(
        None,
        ge=1,
        le=1_000,
        description=f"Of the quick fit; none: those that show {VIEWS:,} images,"
        f" {LEAST_EPOCHS} to {MOST_EPOCHS}.",
    )
    encoder_seed: int = Field(0, ge=0, description="Seed of patches or fit.")


def quick_settings(settings: EmbedSettings, *, n: int) -> TrainSettings:
    """Return how to train an encoder on `n` images in a short time."""
    epochs = min(max(VIEWS // max(n, 1), LEAST_EPOCHS), MOST_EPOCHS)
    return TrainSettings(
        epochs=settings.encoder_epochs or epochs,
        seed=settings.encoder_seed,
        patience=0,
        augment=AugmentSettings.model_validate(vars(GENTLE)),
    )


class OnPatches:
    """An encoder that was learnt from the patches of training images."""

    def __init__(self, dataset: Dataset, *, seed: int) -> None:
        devices()
        from models.patches import SIDE, learn_patches

        self._side = SIDE
        train = np.flatnonzero(dataset.column("use") == TRAIN)
        rows = np.random.default_rng((seed, 37)).permutation(train)[:SAMPLE]
        images = fitted(dataset.take(np.sort(rows)), size=SIDE)
        self._encoder = learn_patches(images, seed=seed)
        self.width = self._encoder.width

    def embed(self, images: Array) -> NDArray[np.float32]:
        """Return the embeddings (n, width) of images (n, h, w, 3), uint8."""
        return self._encoder.embed(fitted(images, size=self._side))


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
    encoder, run = encoder_of(source, settings, name=name, runs=runs, champion=champion)
    return run_stage(
        "embed",
        lambda build: embed_images(build, encoder, run=run),
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
) -> tuple[Callable[[], Embedder], str]:
    """Return what makes the encoder, and the run that trained it, '' for none.

    Args: as for `embed_dataset`.
    """
    by_default = settings.encoder == Encoder.auto and champion is None
    if settings.encoder == Encoder.patches or by_default:
        return lambda: OnPatches(Dataset(source), seed=settings.encoder_seed), ""
    weights, run = network_of(source, settings, name=name, runs=runs, champion=champion)
    return lambda: Predictor.load(weights), run


def network_of(
    source: DatasetRef,
    settings: EmbedSettings,
    *,
    name: str,
    runs: str,
    champion: ModelRef | None,
) -> tuple[Path, str]:
    """Return the folder of the weights of the champion, or of a quick fit, and its run.

    Args: as for `embed_dataset`.
    """
    if settings.encoder == Encoder.champion and champion is None:
        raise UsageError(
            f"Model {name!r} has no champion to take embeddings from. Set"
            " embed.encoder to auto, patches or fit."
        )
    if champion is not None and settings.encoder != Encoder.fit:
        return Path(champion.uri) / "model", run_of(champion)
    use = Dataset(source).column("use")
    quick = quick_settings(settings, n=int((use == TRAIN).sum()))
    trained = train_model(source, quick, name=f"{name}-encoder", runs=runs)
    return trained.model, trained.run
