"""Train a network that finds what covers an image, and judge it family by family."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from data_contracts.config import Settings, digest
from data_contracts.dataset import Array
from data_contracts.errors import ContractError
from data_contracts.references import DatasetRef, Estimate, Reference
from data_contracts.store import Dataset, storage_errors
from models.durable import write_over
from models.recipe import OCCLUDERS
from tasks.augment_settings import Occluder
from tasks.detector import (
    KIND,
    Detector,
    DetectorRef,
    keep_detector,
    load_detector,
)
from tasks.inference import devices
from tasks.intervals import centred_interval, grouped_bootstrap
from tasks.lessons import channel_statistics
from tasks.progress import Progress
from tasks.split import TEST, TRAIN, VAL
from tasks.stage import stage_task

log = logging.getLogger("sightline")

VERSION = 1
# Chances of cover are counted in bins, so that figures need no list of all pixels.
BINS = 1000
DRAWS = 400
BLOCK = 256
# Occluders to judge by are drawn by another seed than those to learn from.
JUDGING = 1_000_003


class OcclusionSettings(Settings):
    """How a network learns to find what covers an image."""

    held_out: Occluder | None = Field(
        Occluder.texture,
        description="Occluder that it never sees in training, to judge what it makes of"
        " the unknown; none trains on all.",
    )
    most: float = Field(
        0.5, gt=0, le=0.9, description="Largest covered share of an image."
    )
    bare: float = Field(
        0.2, ge=0, lt=1, description="Share of images that nothing covers."
    )
    epochs: int = Field(40, ge=1, le=10_000, description="Passes over the images.")
    batch_size: int = Field(32, ge=2, description="Images in a step.")
    learning_rate: float = Field(
        4e-3, gt=0, le=1, description="Peak of warm-up and cosine."
    )
    judged: int = Field(
        1_000, ge=1, description="Most images to judge it on, of test or else of val."
    )
    seed: int = Field(0, ge=0, description="Of weights, order and occluders.")

    @property
    def families(self) -> tuple[Occluder, ...]:
        """Occluders to learn from."""
        return tuple(name for name in Occluder if name != self.held_out)


class FamilyFigures(Reference):
    """How well the pixels under one kind of occluder are found."""

    family: str
    held_out: bool
    auroc: Estimate = Field(description="Covered pixels ranked above others.")
    iou: Estimate = Field(description="Found and covered, over found or covered.")


class Occlusion(Reference):
    """A finished training of a network that finds occlusion."""

    detector: DetectorRef
    figures: list[FamilyFigures]
    alarms: Estimate = Field(description="Share of pixels found in bare images.")
    split: str = Field(description="Split that it was judged on.")
    images: int
    history: list[dict[str, Any]]
    seed: int


@stage_task(limit="gpu")
def train_detector(
    source: DatasetRef,
    settings: OcclusionSettings,
    *,
    name: str,
    runs: str,
    detectors: str,
) -> Occlusion:
    """Train on the pictures of `source`, or go on with the run that was interrupted.

    Args:
        source: A dataset after the stage `split`.
        settings: How to train.
        name: Name by which the stage `inpaint` will know the network.
        runs: Folder of all runs.
        detectors: Folder of what is known by name.

    Raises:
        ContractError: There is no image to train on, or none to judge by.
    """
    learning = settings.model_copy(update={"judged": 1})  # judging changes no weights
    run = f"{name}-occlusion-{digest(source.digest, learning, VERSION)[:12]}"
    folder = Path(runs) / run
    finished = folder / f"occlusion-{settings.judged}.json"
    with storage_errors(str(folder)):
        if finished.exists():
            log.info("occlusion already done (%s)", run)
            found = Occlusion.model_validate_json(finished.read_text("utf-8"))
            uri = str(folder / "model")
            moved = found.detector.model_copy(update={"uri": uri, "name": name})
            found = found.model_copy(update={"detector": moved})
        else:
            folder.mkdir(parents=True, exist_ok=True)
            found = _train(Dataset(source), settings, name, folder)
            write_over(finished, found.model_dump_json(indent=1))
        keep_detector(Path(detectors), found.detector)
    return found


def judged_rows(dataset: Dataset, settings: OcclusionSettings) -> tuple[Array, str]:
    """Return sorted rows to judge by, and the split they are of: test, else val."""
    use = dataset.column("use")
    split = TEST if (use == TEST).any() else VAL
    rows = np.flatnonzero(use == split)
    drawn = np.random.default_rng(settings.seed).permutation(rows)[: settings.judged]
    return np.sort(drawn), ("test" if split == TEST else "val")


def _train(
    dataset: Dataset, settings: OcclusionSettings, name: str, folder: Path
) -> Occlusion:
    devices()
    from models.checkpoint import save_model
    from models.feed import BatchSource
    from models.segment_fit import SegmentSettings, fit_segment
    from models.steps import device_mesh

    rows = np.flatnonzero(dataset.column("use") == TRAIN)
    judged, split = judged_rows(dataset, settings)
    if not len(rows) or not len(judged):
        raise ContractError(
            f"A network that finds occlusion needs images to learn from and others to"
            f" be judged by; {dataset.ref.uri} has {len(rows):,} and {len(judged):,}."
        )
    mean, std = channel_statistics(dataset, rows)
    log.info("occlusion %s images, %s", f"{len(rows):,}", folder.name)
    with Progress("occlusion", total=settings.epochs * len(rows), unit="images") as bar:
        params, stats, history = fit_segment(
            BatchSource(
                labels=np.arange(dataset.n),
                train_rows=rows,
                val_rows=rows[:0],
                read=dataset.take,
                chunk=dataset.chunk,
                resident=False,
            ),
            settings=SegmentSettings(
                families=tuple(map(str, settings.families)),
                most=settings.most,
                bare=settings.bare,
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                seed=settings.seed,
            ),
            mean=mean,
            std=std,
            run_dir=folder,
            mesh=device_mesh(settings.batch_size),
            on_progress=bar.reach,
        )
    meta = {"kind": KIND, "image_size": dataset.image_size, "mean": mean, "std": std}
    save_model(folder / "model", params, stats, meta=meta)
    detector = load_detector(folder / "model")
    memory = json.loads((folder / "model" / "memory.json").read_text("utf-8"))
    return Occlusion(
        detector=DetectorRef(
            name=name,
            run=folder.name,
            uri=str(folder / "model"),
            sha256=memory["sha256"],
            image_size=dataset.image_size,
        ),
        figures=[
            judge_family(detector, dataset, judged, str(family), settings)
            for family in Occluder
        ],
        alarms=judge_bare(detector, dataset, judged),
        split=split,
        images=len(judged),
        history=history,
        seed=settings.seed,
    )


def covered_rows(
    dataset: Dataset, rows: Array, family: str, settings: OcclusionSettings
) -> tuple[Array, Array, Array]:
    """Cover the images of `rows` by occluders of one family.

    Returns:
        The images as stored and covered, uint8 (n, h, w, 3), and the masks (n, h, w).
    """
    from models.occlude import occlude_rows

    images = dataset.take(rows)
    share = np.random.default_rng((settings.seed, JUDGING)).random(dataset.n)
    fraction = 0.05 + share[rows] * (settings.most - 0.05)
    seen, masks = occlude_rows(
        images,
        # Neighbours are often of one class; the other half seldom is.
        np.roll(images, len(images) // 2, axis=0),
        rows,
        fraction.astype(np.float32),
        np.full(len(rows), OCCLUDERS.index(family)),
        (settings.seed + JUDGING) % (1 << 31),
    )
    return images, np.asarray(seen), np.asarray(masks)


def judge_family(
    detector: Detector,
    dataset: Dataset,
    rows: Array,
    family: str,
    settings: OcclusionSettings,
) -> FamilyFigures:
    """Return how well covered pixels are found, with 95 % intervals over images."""
    counts, overlap = [], []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        _, seen, masks = covered_rows(dataset, block, family, settings)
        chance = detector(seen)
        counts.append(pixel_counts(chance, masks))
        found = chance >= 0.5
        both, either = found & masks, found | masks
        overlap.append(np.stack([both.sum((1, 2)), either.sum((1, 2))], axis=1))
    groups = dataset.column("group")[rows]
    return FamilyFigures(
        family=family,
        held_out=family == settings.held_out,
        auroc=_estimate(np.concatenate(counts), _auroc, groups),
        iou=_estimate(np.concatenate(overlap), _share, groups),
    )


def judge_bare(detector: Detector, dataset: Dataset, rows: Array) -> Estimate:
    """Return the share of pixels found covered in images that nothing covers."""
    parts = []
    for start in range(0, len(rows), BLOCK):
        found = detector(dataset.take(rows[start : start + BLOCK])) >= 0.5
        sums = found.sum((1, 2))
        parts.append(np.stack([sums, np.full_like(sums, found[0].size)], axis=1))
    return _estimate(np.concatenate(parts), _share, dataset.column("group")[rows])


def pixel_counts(chance: Array, masks: Array) -> Array:
    """Count each image's pixels by chance of cover, bare ones before covered ones.

    Returns:
        Counts (n, 2 * BINS).
    """
    n = len(chance)
    place = np.minimum((chance * BINS).astype(np.int64), BINS - 1) + BINS * masks
    place += 2 * BINS * np.arange(n)[:, None, None]
    return np.bincount(place.ravel(), minlength=n * 2 * BINS).reshape(n, 2 * BINS)


def _auroc(sums: Array) -> Array:
    """Return the area under the ROC curve of (m, 2 * BINS) counts, ties half."""
    bare, covered = sums[:, :BINS], sums[:, BINS:]
    below = np.cumsum(bare, axis=1) - bare / 2
    pairs = bare.sum(axis=1) * covered.sum(axis=1)
    area = (below * covered).sum(axis=1) / np.maximum(pairs, 1)
    return np.asarray(area[:, None])


def _share(sums: Array) -> Array:
    return np.asarray((sums[:, 0] / np.maximum(sums[:, 1], 1))[:, None])


def _estimate(columns: Array, statistic: Any, groups: Array) -> Estimate:
    value = statistic(columns.sum(axis=0, keepdims=True).astype(np.float64))[0]
    draws = grouped_bootstrap(
        columns.astype(np.float64),
        statistic,
        groups=groups,
        strata=np.zeros(len(groups), np.int64),
        draws=DRAWS,
        seed=0,
    )
    low, high = centred_interval(value, draws, level=0.95)
    return Estimate(
        value=float(value[0]),
        low=float(np.clip(low[0], 0, 1)),
        high=float(np.clip(high[0], 0, 1)),
        n=len(groups),
    )
