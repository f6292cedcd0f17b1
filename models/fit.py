"""Train a network by epochs: resumable, validated, with early stopping."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from data_contracts.errors import (
    SchemaError,
    SightlineError,
    UsageError,
    WorkspaceError,
)
from models.augment import Augment
from models.checkpoint import (
    restore_epoch,
    restore_latest,
    save_checkpoint,
    tree_digest,
    write_text,
)
from models.optim import adamw, warmup_cosine
from models.order import (
    Images,
    Rows,
    cut_batches,
    epoch_groups,
    epoch_order,
    gather_batches,
    read_ahead,
    steps_per_epoch,
)
from models.steps import (
    Channels,
    Predict,
    Step,
    TrainState,
    create_state,
    eval_params,
    make_predict,
    make_train_step,
)

Record = dict[str, Any]
OnProgress = Callable[[int, int, float, str], None]
Batch = tuple[Any, Any, Any]
TIMINGS = ("images_per_second", "seconds", "data_stall")


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """Settings of `fit`.

    Attributes:
        epochs: Passes over the training rows.
        batch_size: Most images in one step.
        learning_rate: Peak of the warm-up and cosine schedule.
        weight_decay: AdamW's decay of matrices and kernels.
        warmup: Share of the steps spent rising to the peak.
        ema: Decay of the average of the weights.
        label_smoothing: Share of the target spread over all classes.
        patience: Epochs without a better validation before stopping; 0 never stops.
        max_minutes: No epoch starts after this much training; None has no limit.
        seed: Start of the order of images and of all augmentation.
        group: Stored chunks mixed with one another; a streaming run holds about three
            such groups, so choose group * chunk * bytes of an image by memory.
        eval_batch_size: Images in one validation step.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.15
    ema: float = 0.999
    label_smoothing: float = 0.1
    patience: int = 0
    max_minutes: float | None = None
    seed: int = 0
    group: int = 16
    eval_batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class BatchSource:
    """Images to learn from, by row of a store.

    Attributes:
        labels: Class of every row of the store; read at the rows below only.
        train_rows: Sorted rows to train on.
        val_rows: Sorted rows to validate on; may be empty.
        read: Returns the uint8 images (n h w c) of sorted rows.
        chunk: Rows in one chunk of the store.
        resident: Read everything once and keep it, rather than stream each epoch.
    """

    labels: NDArray[np.integer[Any]]
    train_rows: Rows
    val_rows: Rows
    read: Callable[[Rows], Images]
    chunk: int
    resident: bool = True


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a finished run hands back.

    Attributes:
        params: Averaged weights of the best epoch, on the host.
        stats: Averaged batch statistics of the best epoch, on the host.
        history: The lines of `metrics.jsonl`.
        best_epoch: Epoch (from 1) that params and stats come from.
        stopped_early: Whether validation stopped getting better.
        epochs_run: Epochs finished, those before a resume included.
        images_per_second: Median over epochs of training speed.
        resumed_from: Epochs found finished at the start; 0 for a fresh run.
        notes: What a person should know: no validation, budget spent, a checkpoint
            skipped.
    """

    params: Any
    stats: Any
    history: tuple[Record, ...]
    best_epoch: int
    stopped_early: bool
    epochs_run: int
    images_per_second: float
    resumed_from: int
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Loop:
    """What every epoch of one run needs."""

    source: BatchSource
    settings: FitSettings
    mesh: Mesh | None
    step: Step
    predict: Predict
    schedule: Callable[[Any], Any]
    report: OnProgress


def fit(
    model: nnx.Module,
    source: BatchSource,
    *,
    settings: FitSettings,
    augment: Augment,
    mean: Channels,
    std: Channels,
    run_dir: Path,
    mesh: Mesh | None = None,
    init: tuple[Any, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> FitResult:
    """Train `model`, or go on with the run that `run_dir` holds.

    A run that was killed goes on after its last finished epoch and, on the same
    number of CPU devices, ends in the same bits as one that was not; a finished run
    returns at once.

    Args:
        model: Network with fresh weights.
        source: Images and labels.
        settings: How to train.
        augment: Random views, made inside the training step.
        mean: Channel means of 0..1 pixels.
        std: Channel standard deviations of 0..1 pixels.
        run_dir: Folder of `metrics.jsonl` and `checkpoints`; made if missing.
        mesh: Devices to split each batch over.
        init: Weights (params, stats) of an earlier model to start from; see
            `warm_start`.
        on_progress: Called with images done, images in all, images per second and a
            note, a few times a second.

    Raises:
        UsageError: No training rows, labels out of range, or `run_dir` holds a run
            with other settings.
        WorkspaceError: Another run uses `run_dir`, or it cannot be written.
        SightlineError: The loss is no longer a number.
    """
    check_source(source, settings)
    run_dir.mkdir(parents=True, exist_ok=True)
    total = settings.epochs * steps_per_epoch(
        len(source.train_rows), settings.batch_size
    )
    schedule = warmup_cosine(settings.learning_rate, total, warmup=settings.warmup)
    tx = adamw(schedule, weight_decay=settings.weight_decay)
    graphdef, state = create_state(model, tx)
    if init is not None:
        params, stats = warm_start((state.params, state.stats), init)
        state = dataclasses.replace(
            state, params=params, stats=stats, ema=(params, stats), opt=tx.init(params)
        )
    views = {"mean": mean, "std": std}
    step = make_train_step(
        graphdef,
        tx,
        augment=augment,
        ema=settings.ema,
        label_smoothing=settings.label_smoothing,
        seed=settings.seed,
        mesh=mesh,
        **views,
    )
    predict = make_predict(graphdef, mesh=mesh, **views)
    report = on_progress or (lambda done, total, rate, note: None)
    loop = _Loop(source, settings, mesh, step, predict, schedule, report)
    identity = _fingerprint(settings, source, (augment, mean, std), state, init)
    with _only_run(run_dir):
        return _resume_and_run(loop, state, run_dir, identity)


def warm_start(fresh: Any, trained: Any) -> Any:
    """Return `fresh` with the values of `trained` wherever the two overlap.

    A leaf that has grown along one axis, as a head does by new classes, keeps its
    fresh values in the new part only.

    Args:
        fresh: Tree of arrays of the new model.
        trained: Tree of the same structure from an earlier model.

    Raises:
        UsageError: The trees differ otherwise.
    """

    def overlay(path: Any, new: Any, old: Any) -> Any:
        new, old = np.asarray(new), np.asarray(old)
        grown = [n != o for n, o in zip(new.shape, old.shape, strict=False)]
        if new.ndim != old.ndim or sum(grown) > 1 or (old.shape > new.shape):
            name = jax.tree_util.keystr(path)
            raise UsageError(
                f"A warm start may only add classes: {name} is {old.shape} in the "
                f"earlier model and {new.shape} in this one. Use the same preset."
            )
        merged = new.copy()
        merged[tuple(slice(size) for size in old.shape)] = old
        return merged

    trained = jax.tree.unflatten(jax.tree.structure(fresh), _matching(fresh, trained))
    return jax.tree_util.tree_map_with_path(overlay, fresh, trained)


def _matching(fresh: Any, trained: Any) -> list[Any]:
    """Return the leaves of `trained`, checked to have the names of `fresh`."""
    (new, _), (old, _) = map(
        jax.tree_util.tree_flatten_with_path, (_plain(fresh), _plain(trained))
    )
    differ = {jax.tree_util.keystr(path) for path, _ in new} ^ {
        jax.tree_util.keystr(path) for path, _ in old
    }
    if differ:
        raise UsageError(
            f"A warm start needs the same network: {sorted(differ)[:3]} are in one of "
            "the two only. Use the same preset."
        )
    return [leaf for _, leaf in old]


def _plain(tree: Any) -> Any:
    return jax.tree.map(
        lambda part: nnx.to_pure_dict(part) if isinstance(part, nnx.State) else part,
        tree,
        is_leaf=lambda part: isinstance(part, nnx.State),
    )


def check_source(source: BatchSource, settings: FitSettings) -> None:
    """Raise UsageError unless `source` can be trained on."""
    if not len(source.train_rows):
        raise UsageError("Training needs images; the train split has no row. Add some.")
    for name, rows in (("train", source.train_rows), ("val", source.val_rows)):
        if len(rows) and int(source.labels[rows].min()) < 0:
            raise UsageError(f"The {name} split has rows without a label. Drop them.")
    if settings.epochs < 1 or settings.batch_size < 1 or settings.group < 1:
        raise UsageError("epochs, batch_size and group must be at least 1.")


def best_epoch(history: list[Record]) -> int:
    """Return the epoch (from 1) to keep: best top-1, ties by lower loss, then earlier.

    Top-1 is what the gate judges; networks go on gaining it while their likelihood
    already overfits (arXiv 1706.04599), and temperature can mend the latter later.
    Without validation it is the last epoch.
    """
    if not history or history[-1]["val_top1"] is None:
        return len(history)
    scores = [(line["val_top1"], -line["val_loss"]) for line in history]
    return scores.index(max(scores)) + 1


def stop_reason(history: list[Record], settings: FitSettings) -> str:
    """Return why no further epoch runs: done, early, budget, or '' to go on.

    A stop is early when neither top-1 nor loss got better for `patience` epochs.
    """
    if len(history) >= settings.epochs:
        return "done"
    if history and settings.patience and history[-1]["val_top1"] is not None:
        top1 = [line["val_top1"] for line in history]
        loss = [line["val_loss"] for line in history]
        newest = max(top1.index(max(top1)), loss.index(min(loss))) + 1
        if len(history) - newest >= settings.patience:
            return "early"
    minutes = sum(line["seconds"] for line in history) / 60
    if settings.max_minutes is not None and history and minutes >= settings.max_minutes:
        return "budget"
    return ""


def _resume_and_run(
    loop: _Loop, state: TrainState, run_dir: Path, identity: str
) -> FitResult:
    settings, notes = loop.settings, []
    found = restore_latest(run_dir, state)
    history: list[Record] = []
    if found is not None:
        notes.extend(found.notes)
        if found.epoch:
            _check_identity(found.memory, identity, run_dir)
            state, history = found.state, found.memory["history"]
    resumed_from = len(history)
    _write_metrics(run_dir, history)
    if not stop_reason(history, settings):
        state = _placed(state, loop.mesh)
        with contextlib.closing(_train_batches(loop, resumed_from)) as batches:
            validate = _validator(loop)
            while not stop_reason(history, settings):
                state, line = _run_epoch(loop, state, batches, len(history), validate)
                before, history = best_epoch(history), [*history, line]
                _write_metrics(run_dir, history)
                save_checkpoint(
                    run_dir,
                    state,
                    epoch=len(history),
                    memory={
                        "identity": identity,
                        "best_epoch": best_epoch(history),
                        "history": history,
                    },
                    # The last but one may have to stand in, with its own best.
                    keep={len(history) - 1, best_epoch(history), before},
                )
    return _result(run_dir, state, history, settings, resumed_from, notes)


def _result(
    run_dir: Path,
    state: Any,
    history: list[Record],
    settings: FitSettings,
    resumed_from: int,
    notes: list[str],
) -> FitResult:
    best, reason = best_epoch(history), stop_reason(history, settings)
    if history[-1]["val_top1"] is None:
        notes.append("no validation images: no early stop, weights of the last epoch")
    if reason == "budget":
        notes.append(f"stopped after {len(history)} epochs: max_minutes is spent")
    if best != len(history):
        try:
            state = restore_epoch(run_dir, state, epoch=best).state
        except SchemaError as error:
            notes.append(f"weights of the last epoch, not of the best: {error}")
            best = len(history)
    params, stats = jax.device_get(eval_params(state))
    return FitResult(
        params=params,
        stats=stats,
        history=tuple(history),
        best_epoch=best,
        stopped_early=reason == "early",
        epochs_run=len(history),
        images_per_second=float(
            np.median([line["images_per_second"] for line in history])
        ),
        resumed_from=resumed_from,
        notes=tuple(notes),
    )


def _run_epoch(
    loop: _Loop,
    state: TrainState,
    batches: Iterator[Batch],
    epoch: int,
    validate: Callable[[TrainState], tuple[float, float] | None],
) -> tuple[TrainState, Record]:
    n, settings = len(loop.source.train_rows), loop.settings
    steps = steps_per_epoch(n, settings.batch_size)
    sizes = np.array([len(part) for part in np.array_split(np.empty(n), steps)])
    metrics: list[dict[str, Any]] = []
    start, waited, told = time.perf_counter(), 0.0, 0.0
    for k in range(steps):
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        state, seen = loop.step(state, *batch)
        metrics.append(seen)
        if k > 1:  # lets two steps run ahead, and no more batches pile up
            jax.block_until_ready(metrics[k - 2])
        now = time.perf_counter()
        if now - told > 0.25:
            done, told = int(sizes[: k + 1].sum()), now
            note = f"epoch {epoch + 1}/{settings.epochs}"
            rate = done / (now - start)
            loop.report(epoch * n + done, settings.epochs * n, rate, note)
    seen = jax.device_get(metrics)
    trained = time.perf_counter() - start
    means = {
        key: float(np.dot([float(line[key]) for line in seen], sizes) / n)
        for key in ("loss", "top1", "grad_norm")
    }
    if not math.isfinite(means["loss"]):
        raise SightlineError(
            f"The training loss became {means['loss']} in epoch {epoch + 1}. "
            f"Lower learning_rate (now {settings.learning_rate}) and run again."
        )
    judged = validate(state)
    loss, top1 = judged if judged else (None, None)
    line = {
        "epoch": epoch + 1,
        "step": (epoch + 1) * steps,
        "train_loss": means["loss"],
        "train_top1": means["top1"],
        "val_loss": loss,
        "val_top1": top1,
        "grad_norm": means["grad_norm"],
        "learning_rate": float(loop.schedule((epoch + 1) * steps - 1)),
        "images_per_second": round(n / trained, 1),
        "seconds": round(time.perf_counter() - start, 3),
        "data_stall": round(waited / trained, 4),
    }
    note = f"epoch {epoch + 1}/{settings.epochs} loss {means['loss']:.3f}" + (
        f" val top-1 {top1:.3f}" if top1 is not None else ""
    )
    loop.report((epoch + 1) * n, settings.epochs * n, n / trained, note)
    return state, line


def _train_batches(loop: _Loop, first: int) -> Iterator[Batch]:
    """Yield the batches of epoch `first` (from 0) and all after it, on the devices."""
    source, settings = loop.source, loop.settings
    order = {"chunk": source.chunk, "group": settings.group, "seed": settings.seed}
    epochs = range(first, settings.epochs)

    def plan() -> Iterator[tuple[Rows, NDArray[np.float32]]]:
        for epoch in epochs:
            rows = epoch_order(source.train_rows, epoch=epoch, **order)
            width = _devices(loop.mesh)
            yield from zip(
                *cut_batches(rows, settings.batch_size, multiple=width), strict=True
            )

    if source.resident:
        keep = _resident(source.train_rows, source, loop.mesh)
        pictures = (keep(rows) for rows, _ in plan())
    else:
        groups = (
            group
            for epoch in epochs
            for group in epoch_groups(source.train_rows, epoch=epoch, **order)
        )
        parts = read_ahead(_checked(source.read), groups)
        pictures = gather_batches((rows for rows, _ in plan()), parts)
    with contextlib.closing(pictures):
        for images, (rows, weights) in zip(pictures, plan(), strict=True):
            labels = source.labels[rows].astype(np.int32)
            yield _on_devices((images, labels, weights), loop.mesh)


def _resident(
    rows: Rows, source: BatchSource, mesh: Mesh | None
) -> Callable[[Rows], Any]:
    """Read `rows` once; return a function that gives the images of some of them.

    The gather is not part of the training step, so that this path and streaming run
    the same program and agree to the bit.
    """
    images = _checked(source.read)(rows)
    if jax.default_backend() == "cpu":
        return lambda wanted: images[np.searchsorted(rows, wanted)]
    on_device = jax.device_put(images, _sharding(mesh, split=False))
    gather = jax.jit(
        lambda stored, at: stored[at], out_shardings=_sharding(mesh, split=True)
    )
    return lambda wanted: gather(on_device, np.searchsorted(rows, wanted))


def _validator(loop: _Loop) -> Callable[[TrainState], tuple[float, float] | None]:
    """Return a function giving mean loss and top-1 of a state, None without images."""
    source, rows = loop.source, loop.source.val_rows
    if not len(rows):
        return lambda state: None
    width = _devices(loop.mesh)
    batches, weights = cut_batches(rows, loop.settings.eval_batch_size, multiple=width)
    kept = _resident(rows, source, loop.mesh) if source.resident else None

    def pictures() -> Iterator[Any]:
        if kept:
            return (kept(batch) for batch in batches)
        spans = np.split(rows, np.flatnonzero(np.diff(rows // source.chunk)) + 1)
        parts = read_ahead(_checked(source.read), spans)
        return gather_batches(batches, parts)

    def validate(state: TrainState) -> tuple[float, float]:
        params, stats = eval_params(state)
        logits = [
            np.asarray(loop.predict(params, stats, _on_devices(images, loop.mesh)))
            for images in pictures()
        ]
        counted = np.concatenate(logits)[weights.ravel() > 0]
        return score(counted, source.labels[rows])

    return validate


def score(logits: NDArray[Any], labels: NDArray[Any]) -> tuple[float, float]:
    """Return the mean negative log-likelihood and the top-1 of `logits` (n c)."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    picked = np.take_along_axis(wide, labels[:, None].astype(np.int64), axis=1)[:, 0]
    loss = np.log(np.exp(wide).sum(axis=1)) - picked
    return float(loss.mean()), float((logits.argmax(axis=1) == labels).mean())


def _checked(read: Callable[[Rows], Images]) -> Callable[[Rows], Images]:
    def checked(rows: Rows) -> Images:
        images = read(rows)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(rows):
            raise SchemaError(
                f"read() must give uint8 images (n h w c) for {len(rows)} rows; came "
                f"{images.dtype} {images.shape}."
            )
        return images

    return checked


def _devices(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.size


def _sharding(mesh: Mesh | None, *, split: bool) -> Any:
    if mesh is None:
        return None
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names if split else None))


def _on_devices(batch: Any, mesh: Mesh | None) -> Any:
    return jax.device_put(batch, _sharding(mesh, split=True))


def _placed(state: Any, mesh: Mesh | None) -> Any:
    """Copy a state to the devices; copies, since the step gives its buffers away."""
    copied = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
    return jax.device_put(copied, _sharding(mesh, split=False))


def _fingerprint(
    settings: FitSettings,
    source: BatchSource,
    views: tuple[Any, ...],
    state: TrainState,
    init: tuple[Any, Any] | None,
) -> str:
    """Digest all that must not change between a run and its resumption.

    Not among it: the budget, the devices, and whether images stream.
    """
    seen = hashlib.sha256()
    seen.update(repr(dataclasses.replace(settings, max_minutes=None)).encode())
    seen.update(repr((views, source.chunk)).encode())
    for rows in (source.train_rows, source.val_rows):
        seen.update(rows.astype(np.int64).tobytes())
        seen.update(source.labels[rows].astype(np.int64).tobytes())
    shapes = [f"{leaf.dtype}{leaf.shape}" for leaf in jax.tree.leaves(state)]
    seen.update(repr(shapes).encode())
    seen.update(tree_digest(init).encode() if init is not None else b"")
    return seen.hexdigest()


def _check_identity(memory: Record, identity: str, run_dir: Path) -> None:
    if memory.get("identity") != identity:
        raise UsageError(
            f"{run_dir} holds a run with other settings, images or network. "
            "Give another run folder, or remove this one to start over."
        )


def _write_metrics(run_dir: Path, history: list[Record]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in history)
    write_text(run_dir / "metrics.jsonl", text)


@contextlib.contextmanager
def _only_run(run_dir: Path) -> Iterator[None]:
    """Hold the run folder's lock; the system frees it however this process ends."""
    with (run_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkspaceError(
                f"{run_dir} is in use by another run. Wait for it, or stop it."
            ) from None
        yield
