"""Features of a network that stands still: computed once, kept, and a head on them."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_contracts.config import Settings
from data_contracts.dataset import Array
from data_contracts.errors import SchemaError
from data_contracts.references import DatasetRef
from data_contracts.store import Dataset
from tasks.inference import Predictor
from tasks.stage import run_stage
from tasks.transfer import Begin
from tasks.write_embeddings import embed_images

log = logging.getLogger("sightline")

VERSION = 1
# Most images that a head learns from; their features wait in memory.
MOST_ROWS = 200_000


class FeatureSettings(Settings):
    """What the features of a dataset depend on besides the weights."""

    preset: str
    image_size: int


def features_of(
    source: DatasetRef, begin: Begin, meta: dict[str, Any], *, content: str
) -> DatasetRef:
    """Return `source` with the features that the weights of `begin` give its images.

    They are a snapshot of the dataset, in Zarr, so that every later head on the same
    weights finds them.

    Args:
        source: The dataset that training learns from.
        begin: The weights.
        meta: As for `Predictor`.
        content: What tells these weights from others.
    """

    def build(build: Any) -> None:
        embed_images(
            build, lambda: Predictor(begin.params, begin.stats, meta), run=content
        )

    return run_stage(
        "features",
        build,
        uri=source.uri,
        parent=source,
        version=VERSION,
        settings=FeatureSettings(
            preset=str(meta["preset"]), image_size=int(meta["image_size"])
        ),
        inputs=content,
    )


@dataclasses.dataclass(frozen=True)
class Taught:
    """Rows that a head learns from and is chosen by, and their classes.

    Attributes:
        train: Sorted rows to learn from.
        val: Sorted rows to choose the penalty by; may be empty.
        classes: Class of every row of the dataset.
        weights: How much every row of the dataset counts.
    """

    train: Array
    val: Array
    classes: Array
    weights: Array


def fit_head(
    source: DatasetRef,
    begin: Begin,
    meta: dict[str, Any],
    taught: Taught,
    *,
    content: str,
) -> tuple[Begin, Any]:
    """Return `begin` with the head that suits its features best, and that as a result.

    Args:
        source: The dataset that training learns from.
        begin: The weights.
        meta: As for `Predictor`.
        taught: What the head learns from.
        content: What tells these weights from others.

    Returns:
        What training goes on from, and a `models.fit.FitResult` for where it does not.

    Raises:
        SchemaError: The weights give features that are no numbers.
    """
    start = time.perf_counter()
    features = features_of(source, begin, meta, content=content)
    probe = _probe(features, taught, num_classes=len(meta["classes"]))
    log.info("probe     %s", told(probe))
    begin = with_head(begin, probe)
    return begin, probed(begin, probe, taught, seconds=time.perf_counter() - start)


def _probe(features: DatasetRef, taught: Taught, *, num_classes: int) -> Any:
    from models.linear_probe import Features, fit_probe
    from tasks.rebalance import capped

    dataset = Dataset(features)
    rows = capped(taught.train, taught.classes[taught.train], most=MOST_ROWS, seed=0)
    x = _picked(dataset, rows)
    if not np.isfinite(x).all():
        raise SchemaError(
            "The weights to start from give features that are no numbers, so that no"
            " head can learn from them. Check where the weights came from."
        )
    val = taught.val
    return fit_probe(
        Features(x, taught.classes[rows], taught.weights[rows]),
        Features(_picked(dataset, val), taught.classes[val]) if len(val) else None,
        num_classes=num_classes,
    )


def _picked(dataset: Dataset, rows: Array) -> NDArray[np.float32]:
    """Return the features of sorted `rows`."""
    return np.asarray(dataset.embeddings.oindex[rows], np.float32)


def with_head(begin: Begin, probe: Any) -> Begin:
    """Return `begin` with the head of a probe."""
    head = {**begin.params["head"], "kernel": probe.kernel, "bias": probe.bias}
    return dataclasses.replace(
        begin, params={**begin.params, "head": head}, notes=(*begin.notes, told(probe))
    )


def told(probe: Any) -> str:
    """Say what a probe came to."""
    found = probe.chosen
    if found.val_top1 is None:
        return (
            "The head was first fitted to frozen features, with the usual penalty of"
            f" {found.penalty:g} for want of validation images."
        )
    return (
        f"The head was first fitted to frozen features: top-1 {found.val_top1:.3f} on"
        f" validation with a penalty of {found.penalty:g}, the best of"
        f" {len(probe.trials)}."
    )


def probed(begin: Begin, probe: Any, taught: Taught, *, seconds: float) -> Any:
    """Return the head alone as a finished training, a `models.fit.FitResult`."""
    from models.fit import FitResult

    found, n = probe.chosen, len(taught.train)
    line = {
        "epoch": 1,
        "step": 1,
        "train_loss": found.train_loss,
        "train_top1": found.train_top1,
        "val_loss": found.val_loss,
        "val_top1": found.val_top1,
        "val_images": len(taught.val),
        "grad_norm": 0.0,
        "learning_rate": 0.0,
        "images_per_second": round(n / seconds, 1),
        "seconds": round(seconds, 3),
        "data_stall": 0.0,
    }
    return FitResult(
        params=begin.params,
        stats=begin.stats,
        history=(line,),
        best_epoch=1,
        stopped_early=False,
        epochs_run=1,
        images_per_second=line["images_per_second"],
        resumed_from=0,
        notes=(),
        aum=np.full(n, np.nan, np.float32),
    )
