"""Batches on the devices, from a store that streams or from memory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from data_contracts.errors import SchemaError, UsageError
from models.imbalance import quotas, resample
from models.order import (
    Read,
    Rows,
    batch_sizes,
    cut_batches,
    epoch_groups,
    epoch_order,
    gather_batches,
    groups_after,
    read_ahead,
)
from models.processes import own_share, put, spans

Batch = tuple[Any, Any, Any, Any]


@dataclasses.dataclass(frozen=True)
class BatchSource:
    """Images to learn from, by row of a store.

    Attributes:
        labels: Class of every row of the store; read at the rows below only.
        train_rows: Sorted rows to train on.
        val_rows: Sorted rows to validate on; may be empty.
        read: Returns the uint8 images (n h w c) of sorted rows; called from a thread.
        chunk: Rows in one chunk of the store.
        resident: Read everything once and keep it, rather than stream each epoch.
        weights: How much every row of the store counts; None is all alike.
        sampling: How an epoch is sampled, see `imbalance.resample`; None shows every
            image once.
        num_classes: Classes of the model, should rows of the last be missing.
    """

    labels: NDArray[np.integer[Any]]
    train_rows: Rows
    val_rows: Rows
    read: Read
    chunk: int
    resident: bool = True
    weights: NDArray[np.float32] | None = None
    sampling: str | None = None
    num_classes: int = 0

    @property
    def counts(self) -> NDArray[np.int64]:
        """Training images of each class."""
        return np.bincount(self.labels[self.train_rows], minlength=self.num_classes)

    @property
    def epoch_size(self) -> int:
        """Images that an epoch shows."""
        if self.sampling is None:
            return len(self.train_rows)
        return int(quotas(self.counts, sampling=self.sampling).sum())

    def epoch_rows(self, *, seed: int, epoch: int) -> Rows:
        """Return the sorted rows of one epoch (from 0)."""
        if self.sampling is None:
            return self.train_rows
        labels = self.labels[self.train_rows]
        return resample(
            self.train_rows, labels, sampling=self.sampling, seed=seed, epoch=epoch
        )


def check_source(source: BatchSource) -> None:
    """Raise UsageError unless `source` can be trained on."""
    if not len(source.train_rows):
        raise UsageError("Training needs images; the train split has no row. Add some.")
    for name, rows in (("train", source.train_rows), ("val", source.val_rows)):
        if len(rows) > 1 and int(np.diff(rows).min()) < 1:
            raise UsageError(f"The rows of {name} must be sorted and distinct.")
        if len(rows) and int(source.labels[rows].min()) < 0:
            raise UsageError(f"The {name} split has rows without a label. Drop them.")
    if source.weights is not None:
        weights = source.weights[source.train_rows]
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise UsageError(
                "Weights of training images must be numbers from 0, and not all 0."
            )


def train_batches(
    source: BatchSource,
    *,
    epochs: range,
    batch_size: int,
    group: int,
    seed: int,
    mesh: Mesh | None,
    parts: int = 1,
    first: int = 0,
) -> Generator[Batch, None, None]:
    """Yield images, labels, weights and places of every batch of `epochs`, placed.

    Epochs count from 0, and the first of them begins at its batch `first`. A batch is
    filled up so that every device's share can be cut into `parts`. Places are positions
    in `source.train_rows`; what fills a batch up has one beyond the end. The order is
    the same whether `source` is resident or streams. Of several processes, each reads
    and places its own share of a batch.
    """
    rows, settings = source.train_rows, {"group": group, "chunk": source.chunk}

    def plan(some: range) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
        for epoch in some:
            shown = source.epoch_rows(seed=seed, epoch=epoch)
            order = epoch_order(shown, seed=seed, epoch=epoch, **settings)
            cut = cut_batches(order, batch_size, multiple=parts * devices(mesh))
            skipped = first if epoch == epochs.start else 0
            own = own_share(cut[0].shape[1], mesh)
            yield from zip(*(part[skipped:, own] for part in cut), strict=True)

    def groups() -> Iterator[Rows]:
        for epoch in epochs:
            shown = source.epoch_rows(seed=seed, epoch=epoch)
            found = epoch_groups(shown, seed=seed, epoch=epoch, **settings)
            skipped = first if epoch == epochs.start else 0
            sizes = batch_sizes(len(shown), batch_size)
            left = groups_after(found, int(sizes[:skipped].sum()))
            yield from _needed(left, plan(range(epoch, epoch + 1)), mesh)

    if source.resident:
        keep = _resident(rows, source, mesh)
        images = (keep(batch) for batch, _ in plan(epochs))
    else:
        images = _streamed((batch for batch, _ in plan(epochs)), groups(), source)
    with contextlib.closing(images):
        for pixels, (batch, weights) in zip(images, plan(epochs), strict=True):
            labels = source.labels[batch].astype(np.int32)
            at = np.searchsorted(rows, batch)
            places = np.where(weights > 0, at, len(rows)).astype(np.int32)
            if source.weights is not None:
                weights = weights * source.weights[batch].astype(np.float32)
            yield place((pixels, labels, weights, places), mesh, split=True)


def val_batches(
    source: BatchSource, *, batch_size: int, mesh: Mesh | None
) -> tuple[Callable[[], Iterator[Any]], NDArray[np.bool_]]:
    """Return a function that yields the validation images, in order and placed.

    Also returns which of all yielded rows (steps * width,) count; the others fill up.
    """
    rows = source.val_rows
    batches, weights = cut_batches(rows, batch_size, multiple=devices(mesh))
    batches = batches[:, own_share(batches.shape[1], mesh)]
    own = np.unique(batches)
    keep = _resident(own, source, mesh) if source.resident else None

    def images() -> Iterator[Any]:
        if keep:
            pictures = (keep(batch) for batch in batches)
        else:
            chunks = np.split(own, np.flatnonzero(np.diff(own // source.chunk)) + 1)
            pictures = _streamed(iter(batches), iter(chunks), source)
        with contextlib.closing(pictures):
            for pixels in pictures:
                yield place(pixels, mesh, split=True)

    return images, weights.ravel() > 0


def devices(mesh: Mesh | None) -> int:
    """Return how many devices a batch is split over."""
    return 1 if mesh is None else mesh.size


def place(tree: Any, mesh: Mesh | None, *, split: bool) -> Any:
    """Put arrays on the devices, split along the first axis or copied to each."""
    sharding = _sharding(mesh, split=split)
    if spans(mesh):
        return put(tree, sharding, split=split)
    return jax.device_put(tree, sharding)


def _needed(
    groups: list[Rows], batches: Iterator[tuple[Rows, Any]], mesh: Mesh | None
) -> list[Rows]:
    """Return `groups` with the rows alone that this process's batches show."""
    if not spans(mesh):
        return groups
    own = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in batches)])
    left = [group[np.isin(group, own)] for group in groups]
    return [group for group in left if len(group)]


def _sharding(mesh: Mesh | None, *, split: bool) -> Any:
    if mesh is None:
        return None
    spec = PartitionSpec(mesh.axis_names) if split else PartitionSpec()
    return NamedSharding(mesh, spec)


def _resident(
    rows: Rows, source: BatchSource, mesh: Mesh | None
) -> Callable[[Rows], Any]:
    """Read `rows` once; return a function that gives the images of some of them.

    The gather is not part of the training step, so that this path and streaming run
    the same program and agree to the bit.
    """
    images = _checked(source.read)(rows)
    if jax.default_backend() == "cpu" or spans(mesh):
        return lambda wanted: images[np.searchsorted(rows, wanted)]
    on_device = place(images, mesh, split=False)
    gather = jax.jit(
        lambda stored, at: stored[at], out_shardings=_sharding(mesh, split=True)
    )
    return lambda wanted: gather(on_device, np.searchsorted(rows, wanted))


def _streamed(
    batches: Iterator[Rows], groups: Iterator[Rows], source: BatchSource
) -> Generator[Any, None, None]:
    with contextlib.closing(read_ahead(_checked(source.read), groups)) as parts:
        yield from gather_batches(batches, parts)


def _checked(read: Read) -> Read:
    def checked(rows: Rows) -> Any:
        images = read(rows)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(rows):
            raise SchemaError(
                f"read() must give uint8 images (n h w c) for {len(rows)} rows; came "
                f"{images.dtype} {images.shape}."
            )
        return images

    return checked
