"""Store augmented views of training images beside them, and where each came from."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import zarr
from pydantic import Field, model_validator

from data_contracts.config import Settings
from data_contracts.dataset import COLUMNS, Array
from data_contracts.errors import ContractError, UsageError
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from models.recipe import NONE, Augment
from tasks.augment_settings import AugmentSettings
from tasks.inference import devices
from tasks.parallel import Span, map_spans, spans
from tasks.pixels import noise, perceptual_hash, statistics
from tasks.split import TRAIN
from tasks.stage import Build, run_stage, stage_task
from tasks.train import recipe_of
from tasks.train_settings import TrainSettings

VERSION = 1
# What needs a batch, or the label of another image, stays in the training step.
LIVE = "mixup cutmix occlude occlude_most occluders resolution size".split()


class MaterialiseSettings(Settings):
    """Settings of the stage `views`."""

    views: int = Field(
        0, ge=0, le=100, description="Stored views of each training image; 0 is off."
    )
    live: bool = Field(
        False, description="Change stored images and views anew in each step, too."
    )
    seed: int = Field(0, ge=0, description="Seed of the stored views.")


class StoredViews(Settings):
    """What decides which views are stored."""

    views: int = Field(ge=1, le=100, description="Views of each training image.")
    seed: int = Field(0, ge=0, description="Seed of the views.")
    augment: AugmentSettings = Field(description="How they are made.")

    @model_validator(mode="after")
    def _of_one_image(self) -> Self:
        """Refuse what a stored view cannot carry."""
        for name in LIVE:
            value = getattr(self.augment, name)
            if value != getattr(STILL, name):
                raise ValueError(
                    "a stored view has one image, one label and the image's size:"
                    f" {name}={value} belongs to training. Leave it out here"
                )
        return self


def still(augment: AugmentSettings) -> AugmentSettings:
    """Return the part of `augment` that changes one image at its own size."""
    return augment.model_copy(update={name: getattr(STILL, name) for name in LIVE})


def live(augment: AugmentSettings) -> AugmentSettings:
    """Return the part of `augment` that stored views leave to the training step."""
    return STILL.model_copy(update={name: getattr(augment, name) for name in LIVE})


STILL = AugmentSettings.model_validate(dataclasses.asdict(NONE))
# What `sightline data materialise` makes unless told otherwise.
STILL_DEFAULT = still(AugmentSettings())


def view_images(
    images: Array, rows: Array, numbers: Array, *, seed: int, augment: Augment
) -> Array:
    """Return views of `images` (b, h, w, 3), uint8, at the same size.

    Each depends on the seed, the image's row and the view's number, and on nothing
    else of the batch.

    Args:
        images: uint8 (b, h, w, 3).
        rows: Their rows, (b,).
        numbers: Of the views, from 1, (b,).
        seed: Of all views.
        augment: How they are made.
    """
    import jax

    from models.augment import draw_each, render

    side = images.shape[1]

    def key(row: Any, view: Any) -> Any:
        return jax.random.fold_in(jax.random.fold_in(start, row), view)

    start, each = jax.random.key(seed), jax.vmap(key)
    draws = draw_each(each(rows, numbers), augment, side=side)
    seen = np.rint(np.asarray(render(images, draws, size=side)) * 255)
    return np.asarray(seen, np.uint8)


def write_views(build: Build, settings: StoredViews) -> None:
    """Append the views of every training image as rows, and say what they are of.

    Raises:
        ContractError: There is no training image, or the dataset has views already.
    """
    parent = build.parent
    assert parent is not None
    if parent.has("view"):
        raise ContractError(
            f"{parent.ref.uri} at stage {parent.ref.stage!r} holds views already. Give"
            " an earlier stage, such as stage=split."
        )
    train = np.flatnonzero(parent.column("use") == TRAIN)
    if not len(train):
        raise ContractError(f"{parent.ref.uri} has no training image to make views of.")
    origin = np.repeat(train, settings.views)
    number = np.tile(np.arange(1, settings.views + 1), len(train))
    first, chunk, size = parent.n, parent.chunk, parent.image_size
    n = first + len(origin)
    augment = Augment(**settings.augment.model_dump())
    devices()
    build.writer.allocate(n, size=size)
    build.settle()

    def work(group: zarr.Group, span: Span) -> dict[str, Array]:
        here = slice(span[0] - first, span[1] - first)
        pixels: Any = group["images"]
        # Filled up to a whole chunk: one compiled program makes all views.
        fill = np.resize(np.arange(span[1] - span[0]), chunk)
        rows, numbers = origin[here][fill], number[here][fill]
        ours, place = np.unique(rows, return_inverse=True)
        images = np.asarray(pixels.oindex[ours, :, :, :])[place]
        seen = view_images(images, rows, numbers, seed=settings.seed, augment=augment)
        seen = seen[: span[1] - span[0]]
        pixels[span[0] : span[1]] = seen
        return figures(seen)

    parts = map_spans(
        work, spans(first, n, size=chunk), session=build.session, label="views"
    )
    measured = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    build.writer.write(**_columns(parent, origin, number, measured))
    build.writer.annotate(
        views={"of": len(train), "each": settings.views},
        notes=[
            *parent.attributes.get("notes", []),
            f"{len(origin):,} stored views of {len(train):,} training images are"
            " trained on as well.",
        ],
    )


def figures(images: Array) -> dict[str, Array]:
    """Return what ingest measures on pixels, of `images` (b, h, w, 3)."""
    sigma, impulse = noise(images)
    return {
        **statistics(images),
        "phash": perceptual_hash(images),
        "sigma": sigma,
        "impulse": impulse,
    }


def _columns(
    parent: Dataset, origin: Array, number: Array, measured: dict[str, Array]
) -> dict[str, Array]:
    """Return all columns: a view's are its image's, but for what it shows."""
    found: dict[str, Array] = {}
    for name, column in COLUMNS.items():
        if not parent.has(name):
            continue
        values = parent.column(name)
        if column.axis == "image":
            own = measured.get(name, values[origin])
            found[name] = np.concatenate([values, own.astype(values.dtype)])
        elif column.axis == "offset":
            # Boxes and tags are given for images; a view has none of its own.
            found[name] = np.append(values, np.full(len(origin), values[-1]))
    path = found["path"][: parent.n]
    marks = [f"{path[row]}#view{k}" for row, k in zip(origin, number, strict=True)]
    found["path"] = np.concatenate([path, np.array(marks, object)])
    found["origin"] = np.concatenate([np.arange(parent.n), origin])
    found["view"] = np.concatenate([np.zeros(parent.n, np.int16), number])
    return found


@stage_task(retries=1)
def store_views(source: DatasetRef, settings: StoredViews) -> DatasetRef:
    """Add stored views of the training images to `source`."""
    if not Dataset(source).has("use"):
        raise UsageError(
            f"{source.uri} at stage {source.stage!r} is not divided yet: views are made"
            " of training images only. Give a later stage, such as stage=split."
        )
    return run_stage(
        "views",
        lambda build: write_views(build, settings),
        uri=source.uri,
        parent=source,
        version=VERSION,
        settings=settings,
    )


def stored_views(
    source: DatasetRef, settings: MaterialiseSettings, train: TrainSettings
) -> tuple[StoredViews, TrainSettings]:
    """Return which views `train` asks to store, and how to train on them.

    Unless `live`, what is stored is not changed again: mixing and occlusion, which need
    other images of the batch, and the resolution are left to the step.
    """
    n = int((Dataset(source).column("use") == TRAIN).sum())
    augment = AugmentSettings.model_validate(vars(recipe_of(train, n=n).augment))
    stored = StoredViews(
        views=settings.views, seed=settings.seed, augment=still(augment)
    )
    if settings.live:
        return stored, train
    return stored, train.model_copy(update={"augment": live(augment)})
