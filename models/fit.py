"""Train a network by epochs: resumable, validated, with early stopping."""

from __future__ import annotations

import contextlib
import dataclasses
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
from jax.sharding import Mesh
from numpy.typing import NDArray

from data_contracts.errors import (
    SchemaError,
    SightlineError,
    UsageError,
)
from models import stopping
from models.checkpoint import (
    restore_epoch,
    restore_latest,
    save_checkpoint,
)
from models.durable import locked, machine_errors, write_over
from models.feed import (
    Batch,
    BatchSource,
    check_source,
    place,
    train_batches,
    val_batches,
)
from models.identity import run_identity
from models.objective import area_under_margin, make_objective, memory_of
from models.optim import optimizer_for, warmup_cosine
from models.order import batch_sizes, steps_per_epoch
from models.recipe import Recipe
from models.steps import (
    Channels,
    Step,
    TrainState,
    create_state,
    eval_params,
    make_predict,
    make_train_step,
)
from models.warm_start import warm_start

Record = dict[str, Any]
OnProgress = Callable[[int, int, float, str], None]
Validate = Callable[[TrainState], tuple[float | None, float | None]]


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """How the loop runs, whatever the recipe.

    Attributes:
        seed: Start of the order of images and of all augmentation.
        patience: Epochs without a better validation before stopping; 0 never stops.
        max_minutes: No epoch starts after this much training; None has no limit.
        group: Stored chunks mixed with one another; a streaming run holds about three
            such groups, so choose group * chunk * bytes of an image by memory.
        eval_batch_size: Most images in one validation step.
    """

    seed: int = 0
    patience: int = 0
    max_minutes: float | None = None
    group: int = 16
    eval_batch_size: int = 256


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
        aum: Area under the margin (n,) of each training row, NaN where it was never
            seen unmixed; up to the epoch that params come from.
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
    aum: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class _Run:
    """What every epoch of one run needs."""

    folder: Path
    identity: str
    source: BatchSource
    recipe: Recipe
    settings: FitSettings
    mesh: Mesh | None
    step: Step
    learning_rate: Callable[[Any], Any]
    report: OnProgress

    @property
    def val_weights(self) -> NDArray[np.float64]:
        """How much each validation image counts: a balance counts classes alike."""
        labels = self.source.labels[self.source.val_rows]
        plain = self.recipe.balance.kind == "none"
        return np.ones(len(labels)) if plain else stopping.alike(labels)

    def stop_reason(self, history: list[Record]) -> str:
        return stopping.stop_reason(
            history,
            epochs=self.recipe.epochs,
            patience=self.settings.patience,
            max_minutes=self.settings.max_minutes,
        )


def fit(
    model: nnx.Module,
    source: BatchSource,
    *,
    recipe: Recipe,
    settings: FitSettings,
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
        model: Network with fresh weights; `recipe.preset` is not looked at.
        source: Images and labels.
        recipe: Optimiser, schedule and augmentation; freezing, of a backbone only.
        settings: How the loop runs.
        mean: Channel means of 0..1 pixels.
        std: Channel standard deviations of 0..1 pixels.
        run_dir: Folder of `metrics.jsonl` and `checkpoints`; made if missing.
        mesh: Devices to split each batch over.
        init: Weights (params, stats) of an earlier model to start from; it may know
            fewer classes, see `warm_start`.
        on_progress: Called with images done, images in all, images per second and a
            note, a few times a second.

    Raises:
        UsageError: No training rows, rows without a label, or `run_dir` holds a run
            with other settings.
        WorkspaceError: Another run uses `run_dir`, or it cannot be written.
        SightlineError: The loss is no longer a number.
    """
    check_source(source)
    steps = steps_per_epoch(source.epoch_size, recipe.batch_size)
    counts = source.counts
    learning_rate = warmup_cosine(
        recipe.learning_rate, recipe.epochs * steps, warmup=recipe.warmup
    )
    tx = optimizer_for(recipe, model, learning_rate)
    memory = memory_of(
        recipe.loss, rows=len(source.train_rows), num_classes=len(counts)
    )
    graphdef, state = create_state(model, tx, memory=memory)
    if init is not None:
        params, stats = warm_start((state.params, state.stats), init)
        state = dataclasses.replace(
            state, params=params, stats=stats, opt=tx.init(params), ema=(params, stats)
        )
    views: dict[str, Any] = {"mean": mean, "std": std, "mesh": mesh}
    step = make_train_step(
        graphdef,
        tx,
        augment=recipe.augment,
        ema=recipe.ema,
        objective=make_objective(
            recipe.loss,
            recipe.balance,
            smoothing=recipe.label_smoothing,
            counts=counts,
            steps=recipe.epochs * steps,
        ),
        seed=settings.seed,
        decay=recipe.loss.memory,
        **views,
    )
    run = _Run(
        folder=run_dir,
        identity=run_identity(source, (recipe, settings, mean, std), state, init),
        source=source,
        recipe=recipe,
        settings=settings,
        mesh=mesh,
        step=step,
        learning_rate=learning_rate,
        report=on_progress or (lambda done, total, rate, note: None),
    )
    with machine_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    with locked(run_dir, patience=0):
        return _resume(run, state, make_predict(graphdef, **views))


def _resume(run: _Run, state: Any, predict: Any) -> FitResult:
    found = restore_latest(run.folder, state)
    notes, history = list(found.notes), found.memory.get("history", [])
    if found.epoch:
        state = found.state
        if found.memory["identity"] != run.identity:
            raise UsageError(
                f"{run.folder} holds a run with other settings, images or network. "
                "Give another run folder, or remove this one to start over."
            )
    resumed_from = len(history)
    # A line may be ahead of its checkpoint: the epoch it tells of runs again.
    _write_metrics(run, history)
    if not run.stop_reason(history):
        state, history = _train(run, state, history, predict)
    return _result(run, state, history, notes, resumed_from)


def _train(
    run: _Run, state: Any, history: list[Record], predict: Any
) -> tuple[TrainState, list[Record]]:
    # Copies, since the step gives the buffers of the state away.
    state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
    state = place(state, run.mesh, split=False)
    batches = train_batches(
        run.source,
        epochs=range(len(history), run.recipe.epochs),
        batch_size=run.recipe.batch_size,
        group=run.settings.group,
        seed=run.settings.seed,
        mesh=run.mesh,
    )
    with contextlib.closing(batches):
        validate = _validator(run, predict)
        while not run.stop_reason(history):
            state, line = _epoch(run, state, batches, len(history) + 1, validate)
            before, history = stopping.best_epoch(history), [*history, line]
            _write_metrics(run, history)
            best = stopping.best_epoch(history)
            save_checkpoint(
                run.folder,
                state,
                epoch=len(history),
                memory={
                    "identity": run.identity,
                    "best_epoch": best,
                    "history": history,
                },
                # Should the last be damaged, the one before it needs its own best.
                keep={len(history) - 1, best, before},
            )
    return state, history


def _epoch(
    run: _Run,
    state: TrainState,
    batches: Iterator[Batch],
    epoch: int,
    validate: Validate,
) -> tuple[TrainState, Record]:
    """Train one epoch and validate it; `epoch` counts from 1."""
    n, of = run.source.epoch_size, f"epoch {epoch}/{run.recipe.epochs}"
    sizes = batch_sizes(n, run.recipe.batch_size)
    steps = len(sizes)
    start, told, waited = time.perf_counter(), 0.0, 0.0
    metrics: list[dict[str, Any]] = []
    for k in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        state, seen = run.step(state, *batch)
        metrics.append(seen)
        if k > 1:  # two steps may be under way; more would pile up batches
            jax.block_until_ready(metrics[k - 2]["loss"])  # type: ignore[no-untyped-call]
        now = time.perf_counter()
        if now - told > 0.25:
            told, done = now, int(sizes[: k + 1].sum())
            _tell(run, (epoch - 1) * n + done, done / (now - start), of)
    means = stopping.mean_of_steps(jax.device_get(metrics), sizes)
    trained = time.perf_counter() - start
    if not math.isfinite(means["loss"]):
        raise SightlineError(
            f"The training loss became {means['loss']} in {of}. Lower learning_rate "
            f"(now {run.recipe.learning_rate}) and run again."
        )
    loss, top1 = validate(state)
    line = {
        "epoch": epoch,
        "step": epoch * steps,
        "train_loss": means["loss"],
        "train_top1": means["top1"],
        "val_loss": loss,
        "val_top1": top1,
        "val_images": stopping.effective_size(run.val_weights),
        "grad_norm": means["grad_norm"],
        "learning_rate": float(run.learning_rate(epoch * steps - 1)),
        "images_per_second": round(n / trained, 1),
        "seconds": round(time.perf_counter() - start, 3),
        "data_stall": round(waited / trained, 4),
    }
    note = f"{of}, loss {means['loss']:.3f}"
    if top1 is not None:
        note += f", val top-1 {top1:.3f}"
    _tell(run, epoch * n, n / trained, note)
    return state, line


def _tell(run: _Run, done: int, rate: float, note: str) -> None:
    run.report(done, run.recipe.epochs * run.source.epoch_size, rate, note)


def _validator(run: _Run, predict: Any) -> Validate:
    """Return a function giving the loss and top-1 of a state on the val rows."""
    labels = run.source.labels[run.source.val_rows]
    if not len(labels):
        return lambda state: (None, None)
    size = run.settings.eval_batch_size
    images, counts = val_batches(run.source, batch_size=size, mesh=run.mesh)

    def validate(state: TrainState) -> tuple[float, float]:
        weights = eval_params(state)
        logits = [np.asarray(predict(*weights, batch)) for batch in images()]
        found = np.concatenate(logits)[counts]
        return stopping.score(found, labels, weights=run.val_weights)

    return validate


def _result(
    run: _Run, state: Any, history: list[Record], notes: list[str], resumed_from: int
) -> FitResult:
    best, reason = stopping.best_epoch(history), run.stop_reason(history)
    if history[-1]["val_top1"] is None:
        notes.append("no validation images: no early stop, weights of the last epoch")
    elif run.recipe.balance.kind != "none":
        notes.append("validation figures count every class alike, as the balance asks")
    if reason == "budget":
        notes.append(f"max_minutes is spent: stopped after {len(history)} epochs")
    if best != len(history):
        try:
            state = restore_epoch(run.folder, state, epoch=best).state
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
        images_per_second=float(np.median([h["images_per_second"] for h in history])),
        resumed_from=resumed_from,
        notes=tuple(notes),
        aum=area_under_margin(jax.device_get(state.memory["margin"])),
    )


def _write_metrics(run: _Run, history: list[Record]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in history)
    write_over(run.folder / "metrics.jsonl", text)
